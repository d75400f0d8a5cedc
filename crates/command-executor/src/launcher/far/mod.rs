//! How a command gets to a place: the *far protocol*, and the shell text that speaks it there.
//!
//! What stands in the argv of ssh, sudo or docker is a constant, [`READ`]: a shell that reads one line and evaluates
//! it. Everything else, program, arguments, environment, folder, is in that line, which comes through standard input,
//! and so does what the program reads. Places nest: each hop but the last gets a line that executes the next hop's
//! client, which finds its own line next in the same input. The last shell starts the program and stays with it.
//!
//! ```text
//! here                                                                  there
//! ssh a ──stdin──► line 1: exec sudo … ; line 2: run.sh ; frames ──► sh ──► sudo ──► sh ──┬──► program
//!    ◄──stdout────── noise … MARK; what the program writes ◄───────────────────────────────┤
//!    ◄──stderr────── noise … MARKhop; MARKhop; MARKpid 7; … MARKexit 0; ◄───────────────────┘
//! ```
//!
//! Frames to there are lines: `D n` and n bytes (input), `E` (its end), `S TERM` (a signal). The end of everything
//! means that the near end is gone: the program's group is ended. From there come markers between what the program
//! writes to stderr, each MARK, one of `hop`, `pid N`, `ack N`, `fail WHAT`, `exit CODE [s]`, and a semicolon; MARK
//! is made of random digits for each run, so that no program can write one by chance.
//!
//! This module makes the text; [`crate::process`] is the near end.

use super::LaunchError;
use crate::command::{Command, Stdin, UserIds, quote};
use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

mod names;
use names::refuse_name;

/// What shells on the way are given: no single quotes, no line breaks, nothing that a login shell of any kind sees more
/// in once it stands in single quotes.
const READ: &str = r#"IFS= read -r _hs && eval "$_hs""#;
/// The same where lines may come first that were meant for sudo.
const READ_MARKED: &str =
    r#"while IFS= read -r _hs; do case $_hs in ": harness;"*) eval "$_hs"; exit;; esac; done; exit 1"#;
/// What [`READ_MARKED`] waits for.
pub(super) const LINE_MARK: &str = ": harness;";
/// Bytes of input that may be on their way with no process between that buffers.
const WINDOW: usize = 30 * 1024;
/// How many buffers long inputs get.
const BUFFERS: usize = 3;
/// How long a place may take until the program runs there.
const START_WITHIN: Duration = Duration::from_secs(60);

/// What kind of place a hop leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopKind {
    /// Another machine.
    Ssh,
    /// Another user.
    Sudo,
    /// A container.
    Docker,
}

/// A step on the way from here to the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) kind: HopKind,
    /// As people know it: `ssh web-1`.
    pub(crate) label: String,
    /// Whether a shell of ours runs behind it and says so.
    pub(crate) tells: bool,
    /// Whether it goes over a connection that is there, and nowhere else.
    pub(crate) shared: bool,
}

impl Hop {
    /// A hop with a shell of ours behind it.
    pub(crate) fn new(kind: HopKind, label: String) -> Self {
        Self { kind, label, tells: true, shared: false }
    }
}

/// What a command carries that was rewritten for a place.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Far {
    /// What every marker begins with.
    pub(crate) mark: String,
    /// The lines for the shells on the way.
    pub(crate) lines: Vec<u8>,
    /// The way, from here.
    pub(crate) hops: Vec<Hop>,
    /// The program that runs in the end.
    pub(crate) program: OsString,
    /// Bytes of input that may be under way; 0 where it reads nothing.
    pub(crate) window: usize,
    /// How long it may take until the program runs.
    pub(crate) start_within: Duration,
}

impl Far {
    /// The way of a program that nobody stays with to tell of it.
    pub(crate) fn unspoken(hops: Vec<Hop>, program: OsString) -> Self {
        let (mark, lines) = (String::new(), Vec::new());
        Self { mark, lines, hops, program, window: 0, start_within: START_WITHIN }
    }
}

impl fmt::Debug for Far {
    /// The lines hold values of the environment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Far")
            .field("hops", &self.hops)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

/// How a client is told what to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// As one text for the login shell there, like ssh.
    Text,
    /// As an argv, like docker and sudo.
    Argv,
    /// The same, where lines may come first that were meant for the client.
    ArgvMarked,
}

/// Puts a place around a command: `client` with what it needs to run a shell there, as `hop` says.
///
/// # Errors
/// [`LaunchError::Carry`].
pub(super) fn wrap(
    command: Command,
    hop: Hop,
    client: Vec<OsString>,
    style: Style,
) -> Result<Command, LaunchError> {
    let clear = command.is_env_clear();
    let (functions, line, mut far) = match &command.far {
        None => first(&command)?,
        Some(far) => ("", onward(&command, far)?, far.as_ref().clone()),
    };
    // A shell reads its line byte by byte, so what is always the same stands in the argv, unless it would be in the way
    // there: sudo logs all of it, docker tells it in events.
    let (before, in_line) = if style == Style::Text { (functions, "") } else { ("", functions) };
    let mut lines = Vec::with_capacity(in_line.len() + line.len() + far.lines.len() + 16);
    if style == Style::ArgvMarked {
        lines.extend_from_slice(LINE_MARK.as_bytes());
    }
    lines.extend_from_slice(in_line.as_bytes());
    lines.extend_from_slice(&line);
    lines.push(b'\n');
    lines.append(&mut far.lines);
    far.lines = lines;
    far.hops.insert(0, hop);
    let wrapped = of_argv(client);
    let wrapped = match style {
        Style::Text => {
            let env = if clear { "env -i " } else { "" };
            wrapped.arg(format!("exec {env}sh -c '{before}{READ}'"))
        }
        Style::Argv | Style::ArgvMarked => {
            let read = if style == Style::Argv { READ } else { READ_MARKED };
            if clear {
                wrapped.args(["env", "-i", "sh", "-c", read])
            } else {
                wrapped.args(["sh", "-c", read])
            }
        }
    };
    Ok(carried(wrapped, &command, far))
}

/// A session that waits for its command: everything of it that takes time is done before there is one.
pub(super) fn waiting(hop: Hop, client: Vec<OsString>) -> Command {
    static TEXT: OnceLock<String> = OnceLock::new();
    let files =
        [include_str!("run.sh"), include_str!("null.sh"), include_str!("input.sh"), include_str!("wait.sh")];
    let text = TEXT.get_or_init(|| one_line(&files));
    let mut command = of_argv(client).arg(format!("exec sh -c '{text}'")).stdin(Stdin::Piped);
    command.far = Some(Box::new(Far {
        mark: new_mark(),
        lines: Vec::new(),
        hops: vec![hop],
        program: OsString::from("sh"),
        window: 0,
        start_within: START_WITHIN,
    }));
    command
}

/// What a waiting session is given.
///
/// # Errors
/// [`LaunchError::Carry`].
pub(super) fn begin(command: &Command, hop: Hop) -> Result<Far, LaunchError> {
    let (line, mut far) = match &command.far {
        None => {
            let (_, line, far) = first(command)?;
            (line, far)
        }
        Some(far) => (onward(command, far)?, far.as_ref().clone()),
    };
    far.hops.insert(0, hop);
    let mut lines = line;
    lines.push(b'\n');
    lines.append(&mut far.lines);
    far.lines = lines;
    Ok(far)
}

fn new_mark() -> String {
    format!("\u{1e}{:016x}", fastrand::u64(..))
}

/// The argv of a shell that reads one line and evaluates it.
pub(super) fn reader() -> [&'static str; 3] {
    ["sh", "-c", READ]
}

/// Puts a client around a command that needs no shell there: it is already on its way, and has nothing besides its
/// argv.
pub(super) fn pass(command: Command, mut hop: Hop, client: Vec<OsString>) -> Command {
    let Some(mut far) = command.far.clone() else { return command };
    hop.tells = false;
    far.hops.insert(0, hop);
    let passed = of_argv(client).args(command.argv().map(OsStr::to_owned));
    carried(passed, &command, *far)
}

/// Whether [`pass`] will do.
pub(super) fn is_bare(command: &Command) -> bool {
    command.far.is_some()
        && !command.is_env_clear()
        && command.get_envs().next().is_none()
        && command.get_current_dir().is_none()
        && command.get_user().is_none()
}

/// Puts a line before all others.
pub(super) fn prepend(command: &mut Command, line: &[u8]) {
    if let Some(far) = &mut command.far {
        let mut lines = Vec::with_capacity(line.len() + 1 + far.lines.len());
        lines.extend_from_slice(line);
        lines.push(b'\n');
        lines.append(&mut far.lines);
        far.lines = lines;
    }
}

/// What a command keeps on its way.
fn carried(mut wrapped: Command, of: &Command, far: Far) -> Command {
    wrapped = wrapped.stdin(of.get_stdin().clone());
    if let Some(timeout) = of.get_timeout() {
        wrapped = wrapped.timeout(timeout);
    }
    wrapped.far = Some(Box::new(far));
    wrapped
}

/// The refusal of something that has no way.
pub(super) fn refuse(command: &Command, what: impl Into<String>) -> LaunchError {
    let program = match &command.far {
        Some(far) => far.program.clone(),
        None => command.get_program().to_owned(),
    };
    LaunchError::Carry { program, what: what.into() }
}

/// Refuses a user, where the place decides that.
pub(super) fn refuse_user(command: &Command, place: &str) -> Result<(), LaunchError> {
    match command.get_user() {
        None => Ok(()),
        Some(UserIds { uid, gid }) => Err(refuse(
            command,
            format!("{place} can't run it as user {uid} and group {gid}; name the user in the place"),
        )),
    }
}

/// Refuses variables, where nothing can carry them.
pub(super) fn refuse_environment(command: &Command, place: &str) -> Result<(), LaunchError> {
    if command.is_env_clear() || command.get_envs().next().is_some() {
        return Err(refuse(command, format!("{place} can't carry variables to a terminal")));
    }
    Ok(())
}

/// A command from its words.
pub(super) fn of_argv(argv: Vec<OsString>) -> Command {
    let mut words = argv.into_iter();
    Command::new(words.next().unwrap_or_default()).args(words)
}

/// What the shell needs that starts the program and stays with it: functions, and the line that uses them.
fn first(command: &Command) -> Result<(&'static str, Vec<u8>, Far), LaunchError> {
    let mark = new_mark();
    let (window, buffers) = match command.get_stdin() {
        Stdin::Null => (0, 0),
        Stdin::Bytes(bytes) if bytes.is_empty() => (0, 0),
        Stdin::Bytes(bytes) if bytes.len() <= WINDOW => (WINDOW, 0),
        Stdin::Piped => (WINDOW * 2, 1),
        Stdin::Bytes(bytes) => {
            let buffers = (bytes.len() / WINDOW).min(BUFFERS);
            (WINDOW * (buffers + 1), buffers)
        }
        Stdin::Inherit => return Err(refuse(command, "what this program reads can't be handed on as it is")),
    };
    let enter = [enter(command, "${_hj}")?, exports(command)?].concat();
    let (program, argv) = (text(command, [command.get_program()])?, text(command, command.argv())?);
    let mut line = Vec::with_capacity(256 + enter.len() + program.len() + argv.len());
    let mut add = |parts: &[&[u8]]| parts.iter().for_each(|part| line.extend_from_slice(part));
    add(&[b"_hj=", mark.as_bytes(), b"; _hv=", &program]);
    if command.leaves_group {
        add(&[b"; _hf=y"]);
    }
    if has_newline(command) {
        add(&[b"; ", NEWLINE]);
    }
    add(&[b"; _h_enter() { ", &enter, b" :; }; _h_exec() { exec $_ht ", &argv, b"; }; "]);
    if window == 0 {
        add(&[b"_h_run"]);
    } else {
        add(&[b"_h_begin; command -v dd >/dev/null || { _h_tell \"fail tools\"; exit 127; }; trap \"\" TERM HUP INT; _h_pump | "]);
        add(&vec![&b"_h_buffer | "[..]; buffers]);
        add(&[b"_h_feed | _h_end"]);
    }
    let functions = if window == 0 { null_functions() } else { input_functions() };
    let program = command.get_program().to_owned();
    let far = Far { mark, lines: Vec::new(), hops: Vec::new(), program, window, start_within: START_WITHIN };
    Ok((functions, line, far))
}

/// The line for a shell that only executes the next client.
fn onward(command: &Command, far: &Far) -> Result<Vec<u8>, LaunchError> {
    let mut line = format!("printf '{}hop;' >&2; ", far.mark).into_bytes();
    if has_newline(command) {
        line.extend_from_slice(NEWLINE);
        line.extend_from_slice(b"; ");
    }
    line.extend_from_slice(&enter(command, &far.mark)?);
    line.extend_from_slice(&exports(command)?);
    line.extend_from_slice(b" exec ");
    line.extend_from_slice(&text(command, command.argv())?);
    Ok(line)
}

/// A line break without one.
const NEWLINE: &[u8] = b"_hn=${IFS#??}";

fn has_newline(command: &Command) -> bool {
    let is_in = |text: &OsStr| memchr::memchr(b'\n', text.as_bytes()).is_some();
    command.argv().any(is_in)
        || command.get_envs().any(|(_, value)| value.is_some_and(is_in))
        || command.get_current_dir().is_some_and(|folder| is_in(folder.as_os_str()))
}

/// Words as text without line breaks: `$_hn` is one there.
fn text<'a>(command: &Command, words: impl IntoIterator<Item = &'a OsStr>) -> Result<Vec<u8>, LaunchError> {
    let quoted = quote::sh(words).map_err(|error| refuse(command, error.to_string()))?.into_vec();
    if memchr::memchr(b'\n', &quoted).is_none() {
        return Ok(quoted);
    }
    let mut line = Vec::with_capacity(quoted.len() + 16);
    for byte in quoted {
        match byte {
            // It stands in single quotes: ends them, and begins them again.
            b'\n' => line.extend_from_slice(b"'\"$_hn\"'"),
            byte => line.push(byte),
        }
    }
    Ok(line)
}

/// Goes into the folder, or says why not.
fn enter(command: &Command, mark: &str) -> Result<Vec<u8>, LaunchError> {
    let Some(folder) = command.get_current_dir() else { return Ok(Vec::new()) };
    // Without it, a name could be looked up in CDPATH, and `-` means the last folder.
    let folder =
        if folder.is_absolute() { Cow::Borrowed(folder) } else { Cow::Owned(Path::new(".").join(folder)) };
    let folder = text(command, [folder.as_os_str()])?;
    let mut line = b"cd -- ".to_vec();
    line.extend_from_slice(&folder);
    line.extend_from_slice(b" 2>/dev/null || { _he=folder-missing; [ -e ");
    line.extend_from_slice(&folder);
    line.extend_from_slice(b" ] && _he=folder-denied; [ -e ");
    line.extend_from_slice(&folder);
    line.extend_from_slice(b" ] && [ ! -d ");
    line.extend_from_slice(&folder);
    line.extend_from_slice(
        format!(" ] && _he=folder-none; printf \"{mark}fail %s;\" \"$_he\" >&2; exit 126; }};").as_bytes(),
    );
    Ok(line)
}

/// Sets and takes away variables.
fn exports(command: &Command) -> Result<Vec<u8>, LaunchError> {
    let mut line = Vec::new();
    if command.is_env_clear() {
        // Those that shells set by themselves.
        line.extend_from_slice(b"unset PWD OLDPWD SHLVL;");
    }
    let mut locale = false;
    for (name, value) in command.get_envs() {
        refuse_name(command, name)?;
        let name = name.as_bytes();
        locale |= name.starts_with(b"LC_") || name == b"LANG";
        match value {
            Some(value) => {
                line.extend_from_slice(b"export ");
                line.extend_from_slice(name);
                line.push(b'=');
                line.extend_from_slice(&text(command, [value])?);
            }
            None => {
                line.extend_from_slice(b"unset ");
                line.extend_from_slice(name);
            }
        }
        line.push(b';');
    }
    if locale {
        // Some shells complain on the program's stderr about a locale that isn't there.
        line.splice(0..0, *b"exec 6>&2 2>/dev/null;");
        line.extend_from_slice(b"exec 2>&6 6>&-;");
    }
    Ok(line)
}

fn null_functions() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| one_line(&[include_str!("run.sh"), include_str!("null.sh")]))
}

fn input_functions() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| one_line(&[include_str!("run.sh"), include_str!("input.sh")]))
}

/// Without comments, in one line, with a space behind.
fn one_line(parts: &[&str]) -> String {
    let lines = parts.iter().flat_map(|part| part.lines());
    lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).fold(
        String::new(),
        |mut text, line| {
            text.push_str(line);
            text.push(' ');
            text
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_accepts_the_text_and_it_is_one_line() {
        for stdin in [Stdin::Null, Stdin::Piped, Stdin::Bytes(vec![0; 100_000])] {
            let command = Command::new("a\nb").arg("it's\n").env("A", "\n").current_dir("/x\ny").stdin(stdin);
            let (functions, line, _) = first(&command).unwrap();
            assert!(!line.contains(&b'\n'));
            let text = OsString::from_vec([functions.as_bytes(), &line].concat());
            let status = std::process::Command::new("sh").args(["-n", "-c"]).arg(&text).status().unwrap();
            assert!(status.success(), "{}", text.display());
        }
    }

    #[test]
    fn what_a_login_shell_sees_has_nothing_it_could_take_apart() {
        let waiting = one_line(&[include_str!("wait.sh")]);
        for text in [READ, READ_MARKED, null_functions(), input_functions(), &waiting] {
            assert!(!text.contains(['\'', '\n']), "{text}");
            // Before a space it is itself, also to csh.
            assert!(!text.replace("! ", "").contains('!'), "{text}");
            assert!(!text.contains(r"\\") && !text.contains(r"\ "), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_carried_is_refused() {
        let refused = |command: Command| match first(&command).map(|_| ()) {
            Err(LaunchError::Carry { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        refused(Command::new("x").stdin(Stdin::Inherit));
        refused(Command::new("x").arg("a\0b"));
        refused(Command::new("x").env("A", "a\0b"));
        refused(Command::new("x").env("A-B", "1"));
        refused(Command::new("x").env("UID", "1"));
        refused(Command::new("x").env_remove("1A"));
        refused(Command::new("x").env("_hs", "1"));
    }
}
