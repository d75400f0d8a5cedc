//! What goes wrong on the way to a place, or there.

use super::far::{Far, Hop, HopKind};
use crate::process::Exit;
use std::ffi::OsString;
use std::fmt;

/// How much of what a client said is kept, in bytes.
const DETAIL: usize = 600;
/// What the client of a shared connection says when that is gone; see [`super::ssh`].
pub(super) const NO_MASTER: &str = "harness: the shared connection is gone";

/// Why a program didn't run in a place, or wasn't seen to its end there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct PlaceError {
    /// Where it went wrong: the way from here, as far as it was gone, with arrows.
    pub place: String,
    /// What should have run.
    pub program: OsString,
    /// What went wrong.
    pub kind: PlaceErrorKind,
    /// What the client that failed said, shortened; may be empty.
    pub detail: String,
    /// The kind of place whose client failed; `None` behind the last one.
    pub hop: Option<HopKind>,
}

/// What goes wrong in places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlaceErrorKind {
    /// No address is known by that name.
    UnknownHost,
    /// There is no way to the host.
    Unreachable,
    /// The host refuses connections: no sshd listens there.
    Refused,
    /// The host doesn't answer.
    TimedOut,
    /// The host closed the connection before the login, as it does with too many logins at once.
    Reset,
    /// No key or method was accepted.
    AuthDenied,
    /// The host's key isn't known.
    HostKeyUnknown,
    /// The host has another key than the one that is known.
    HostKeyChanged,
    /// The shared connection is gone; nothing ran.
    SharedConnectionGone,
    /// The host opens no further session on that connection; nothing ran.
    SessionRefused,
    /// sudo wants a password.
    SudoPasswordNeeded,
    /// sudo refused the password.
    SudoPasswordWrong,
    /// sudo doesn't let this user do it.
    SudoNotAllowed,
    /// There is no such user or group there.
    UnknownUser,
    /// The client (ssh, sudo, docker) isn't installed there.
    ClientMissing,
    /// This user may not speak to the engine.
    EngineDenied,
    /// The engine doesn't answer.
    EngineUnreachable,
    /// There is no such container.
    NoSuchContainer,
    /// The container doesn't run, or is paused.
    ContainerNotRunning,
    /// The container has no shell.
    NoShell,
    /// A tool that carries input isn't there.
    NoTools,
    /// The folder isn't there.
    FolderMissing,
    /// The folder is none.
    FolderIsNone,
    /// The folder can't be entered.
    FolderDenied,
    /// The program isn't there.
    ProgramMissing,
    /// The program can't be executed.
    ProgramDenied,
    /// The program didn't start in time.
    StartTimedOut,
    /// The connection was lost while the program ran: what became of it is unknown.
    Lost,
    /// Something else; the detail tells.
    Other,
}

impl PlaceErrorKind {
    /// Whether it is certain that nothing ran and trying again may help.
    pub fn is_worth_a_retry(self) -> bool {
        matches!(self, Self::Reset | Self::SharedConnectionGone | Self::SessionRefused)
    }

    /// Whether the program may have run.
    pub fn may_have_run(self) -> bool {
        matches!(self, Self::Lost | Self::Other)
    }

    /// What to do about it, for people.
    pub fn hint(self) -> &'static str {
        match self {
            Self::UnknownHost => "check the host's name, and whether it stands in ssh_config or DNS",
            Self::Unreachable => "check the network between here and there",
            Self::Refused => "check that sshd runs there, and its port",
            Self::TimedOut => "check that the host is up and that no firewall drops its port",
            Self::Reset => {
                "try again; if it stays, look into the host's sshd log (MaxStartups, denied addresses)"
            }
            Self::AuthDenied => "check user and key: `ssh -v` shows which keys are offered",
            Self::HostKeyUnknown => {
                "add the host's key to known_hosts after checking it, or allow it to be learned on first use \
                 (accept-new)"
            }
            Self::HostKeyChanged => {
                "find out why the key changed before you trust it; then replace it in known_hosts \
                 (`ssh-keygen -R HOST`)"
            }
            Self::SharedConnectionGone => "try again: a new connection is made",
            Self::SessionRefused => "the host's MaxSessions is reached: run less at once there, or raise it",
            Self::SudoPasswordNeeded => "give the password, or allow it without one (NOPASSWD in sudoers)",
            Self::SudoPasswordWrong => "check the password; it was tried once",
            Self::SudoNotAllowed => "allow it in sudoers, or use another user",
            Self::UnknownUser => "check the user's name there",
            Self::ClientMissing => "install it there, or name its path",
            Self::EngineDenied => "add the user to the docker group, or go through sudo",
            Self::EngineUnreachable => "start the engine, or name its address",
            Self::NoSuchContainer => "check the container's name: `docker ps -a`",
            Self::ContainerNotRunning => "start or unpause the container",
            Self::NoShell => "use the place without a shell",
            Self::NoTools => "install coreutils or busybox there: dd is needed to carry input",
            Self::FolderMissing | Self::FolderIsNone => "check the folder, or make it there",
            Self::FolderDenied => "check the folder's permissions there",
            Self::ProgramMissing => "check its name and the PATH there",
            Self::ProgramDenied => "check its permissions there",
            Self::StartTimedOut => "check whether the host is overloaded, or its login hangs",
            Self::Lost => "see there what became of it before it is run again",
            Self::Other => "see what was said",
        }
    }
}

impl fmt::Display for PlaceErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownHost => "the host's name is unknown",
            Self::Unreachable => "the host can't be reached",
            Self::Refused => "the host refuses the connection",
            Self::TimedOut => "the host doesn't answer",
            Self::Reset => "the host closed the connection before the login",
            Self::AuthDenied => "the host refuses the login",
            Self::HostKeyUnknown => "the host's key isn't known",
            Self::HostKeyChanged => "the host's key has changed",
            Self::SharedConnectionGone => "the shared connection is gone",
            Self::SessionRefused => "the host opens no more sessions",
            Self::SudoPasswordNeeded => "sudo wants a password",
            Self::SudoPasswordWrong => "sudo refuses the password",
            Self::SudoNotAllowed => "sudo doesn't allow it",
            Self::UnknownUser => "there is no such user",
            Self::ClientMissing => "the client isn't installed",
            Self::EngineDenied => "permission denied on the engine's socket",
            Self::EngineUnreachable => "the engine doesn't answer",
            Self::NoSuchContainer => "there is no such container",
            Self::ContainerNotRunning => "the container doesn't run",
            Self::NoShell => "the container has no shell",
            Self::NoTools => "there is no dd to carry its input",
            Self::FolderMissing => "its folder isn't there",
            Self::FolderIsNone => "its folder is none",
            Self::FolderDenied => "its folder can't be entered",
            Self::ProgramMissing => "it isn't there",
            Self::ProgramDenied => "it can't be executed",
            Self::StartTimedOut => "it didn't start in time",
            Self::Lost => "the connection was lost while it ran",
            Self::Other => "it failed",
        })
    }
}

impl PlaceError {
    /// What to do about it, for people.
    pub fn hint(&self) -> &'static str {
        self.kind.hint()
    }

    fn text(&self) -> String {
        let mut text = format!("can't run {} in {}: {}", self.program.display(), self.place, self.kind);
        if self.kind == PlaceErrorKind::Lost {
            text = format!("lost {} in {}: {}", self.program.display(), self.place, self.kind);
        }
        if !self.detail.is_empty() {
            text.push_str(" (");
            text.push_str(&self.detail);
            text.push(')');
        }
        text
    }
}

/// What is known when a client ended without the program's exit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    /// How many shells on the way said that they run.
    pub(crate) told: usize,
    /// Whether the program ran.
    pub(crate) started: bool,
    /// What the last shell said went wrong.
    pub(crate) fail: Option<&'a str>,
    /// How the client here ended; `None` if it was given up.
    pub(crate) near: Option<Exit>,
    /// What was said before the program ran, and what came instead of its exit.
    pub(crate) said: &'a [u8],
}

/// Finds out what went wrong and where.
pub(crate) fn explain(far: &Far, evidence: Evidence<'_>) -> PlaceError {
    let said = String::from_utf8_lossy(evidence.said).to_lowercase();
    let hops = &far.hops;
    // The hops behind the last shell that told of itself, up to the next that would have.
    let telling: Vec<usize> =
        hops.iter().enumerate().filter(|(_, hop)| hop.tells).map(|(index, _)| index).collect();
    let begin = match evidence.told.checked_sub(1) {
        None => 0,
        Some(last) => telling.get(last).map_or(hops.len(), |index| index + 1),
    };
    let end = telling.get(evidence.told).map_or(hops.len(), |index| index + 1);
    let suspects = hops.get(begin..end).unwrap_or_default();
    let (kind, culprit) = match evidence.fail {
        Some("sudo") => judge_sudo(&said, suspects.len()),
        Some(fail) => (of_fail(fail), None),
        None if evidence.started || suspects.is_empty() => (PlaceErrorKind::Lost, None),
        None => judge(suspects, evidence, &said),
    };
    let reached = match culprit {
        Some(index) => begin + index + 1,
        None => hops.len(),
    };
    let hop = culprit.and_then(|index| suspects.get(index));
    let way: Vec<&str> = hops.iter().take(reached).map(|hop| hop.label.as_str()).collect();
    let mut detail =
        shorten(&if evidence.started { clients_lines(evidence.said) } else { evidence.said.to_vec() });
    if let (true, Some(near)) = (detail.is_empty(), evidence.near) {
        detail = format!("the client here ended with {near}, without a word");
    }
    PlaceError {
        place: way.join(" → "),
        program: far.program.clone(),
        kind,
        detail,
        hop: hop.map(|hop| hop.kind),
    }
}

/// Why a connection to a host wasn't made.
pub(super) fn login_failed(label: &str, program: OsString, near: Option<Exit>, said: &[u8]) -> PlaceError {
    let hop = Hop::new(HopKind::Ssh, label.to_owned());
    let text = String::from_utf8_lossy(said).to_lowercase();
    let evidence = Evidence { told: 0, started: false, fail: None, near, said };
    let (kind, _) = judge(std::slice::from_ref(&hop), evidence, &text);
    PlaceError { place: hop.label, program, kind, detail: shorten(said), hop: Some(HopKind::Ssh) }
}

fn of_fail(fail: &str) -> PlaceErrorKind {
    match fail {
        "missing" => PlaceErrorKind::ProgramMissing,
        "denied" => PlaceErrorKind::ProgramDenied,
        "folder-missing" => PlaceErrorKind::FolderMissing,
        "folder-none" => PlaceErrorKind::FolderIsNone,
        "folder-denied" => PlaceErrorKind::FolderDenied,
        "tools" => PlaceErrorKind::NoTools,
        _ => PlaceErrorKind::Other,
    }
}

fn judge_sudo(said: &str, suspects: usize) -> (PlaceErrorKind, Option<usize>) {
    (of_sudo(said).unwrap_or(PlaceErrorKind::Other), suspects.checked_sub(1).map(|_| 0))
}

/// Which hop it was: the one whose words these are, the last one otherwise.
fn judge(suspects: &[Hop], evidence: Evidence<'_>, said: &str) -> (PlaceErrorKind, Option<usize>) {
    for (index, hop) in suspects.iter().enumerate() {
        let kind = match hop.kind {
            HopKind::Ssh if hop.shared => of_shared_ssh(said),
            HopKind::Ssh => of_ssh(said),
            HopKind::Sudo => of_sudo(said),
            HopKind::Docker => of_docker(said),
        };
        if let Some(kind) = kind {
            return (kind, Some(index));
        }
        if hop.shared && matches!(evidence.near, Some(Exit::Code(255))) {
            // The connection broke under it, without a word.
            return (PlaceErrorKind::Lost, Some(index));
        }
    }
    let last = suspects.len().checked_sub(1);
    let kind = match evidence.near {
        None => PlaceErrorKind::StartTimedOut,
        Some(Exit::Code(127)) => PlaceErrorKind::ClientMissing,
        Some(Exit::Code(_) | Exit::Signal(_)) => PlaceErrorKind::Other,
    };
    (kind, last)
}

fn has(said: &str, texts: &[&str]) -> bool {
    texts.iter().any(|text| said.contains(text))
}

/// A client that may only use a connection that is there speaks to nobody else: it failed before anything ran, unless
/// the connection broke under it.
fn of_shared_ssh(said: &str) -> Option<PlaceErrorKind> {
    let no_session = ["session open refused", "session request failed", "open failed: administratively"];
    let gone = [
        "control socket connect",
        "hello exchange failed",
        "kex_exchange_identification",
        "connection closed by",
        NO_MASTER,
    ];
    if has(said, &no_session) {
        Some(PlaceErrorKind::SessionRefused)
    } else if has(said, &gone) {
        Some(PlaceErrorKind::SharedConnectionGone)
    } else {
        of_ssh(said)
    }
}

fn of_ssh(said: &str) -> Option<PlaceErrorKind> {
    let table: [(&[&str], PlaceErrorKind); 11] = [
        (&["host identification has changed"], PlaceErrorKind::HostKeyChanged),
        (&["host key is known for", "host key verification failed"], PlaceErrorKind::HostKeyUnknown),
        (&["could not resolve hostname"], PlaceErrorKind::UnknownHost),
        (&["connection refused"], PlaceErrorKind::Refused),
        (&["timed out"], PlaceErrorKind::TimedOut),
        (&["no route to host", "network is unreachable"], PlaceErrorKind::Unreachable),
        (&["permission denied (", "too many authentication failures"], PlaceErrorKind::AuthDenied),
        (
            &[
                "kex_exchange_identification",
                "banner exchange",
                "exceeded maxstartups",
                "not allowed at this time",
            ],
            PlaceErrorKind::Reset,
        ),
        (&["connection reset by", "connection closed by"], PlaceErrorKind::Reset),
        (
            &["closed by remote host", "client_loop", "read from remote host", "read header failed"],
            PlaceErrorKind::Lost,
        ),
        (&["ssh: not found", "ssh: command not found"], PlaceErrorKind::ClientMissing),
    ];
    table.into_iter().find(|(texts, _)| has(said, texts)).map(|(_, kind)| kind)
}

fn of_sudo(said: &str) -> Option<PlaceErrorKind> {
    let table: [(&[&str], PlaceErrorKind); 5] = [
        (
            &["incorrect password", "sorry, try again", "incorrect authentication"],
            PlaceErrorKind::SudoPasswordWrong,
        ),
        (
            &[
                "a password is required",
                "a terminal is required",
                "no password was provided",
                "no tty present",
            ],
            PlaceErrorKind::SudoPasswordNeeded,
        ),
        (
            &[
                "not in the sudoers",
                "is not allowed to",
                "may not run sudo",
                "not allowed to execute",
                "no new privileges",
            ],
            PlaceErrorKind::SudoNotAllowed,
        ),
        (&["sudo: unknown user", "sudo: unknown group", "sudo: unknown uid"], PlaceErrorKind::UnknownUser),
        (&["sudo: not found", "sudo: command not found"], PlaceErrorKind::ClientMissing),
    ];
    table.into_iter().find(|(texts, _)| has(said, texts)).map(|(_, kind)| kind)
}

fn of_docker(said: &str) -> Option<PlaceErrorKind> {
    let table: [(&[&str], PlaceErrorKind); 8] = [
        (
            &["permission denied while trying to connect", "connect: permission denied"],
            PlaceErrorKind::EngineDenied,
        ),
        (
            &[
                "cannot connect to the docker daemon",
                "is the docker daemon running",
                "error during connect",
                "cannot connect to podman",
            ],
            PlaceErrorKind::EngineUnreachable,
        ),
        (
            &["no such container", "no container with name or id", "no such exec instance"],
            PlaceErrorKind::NoSuchContainer,
        ),
        (
            &[
                "is not running",
                "is paused",
                "is restarting",
                "container state improper",
                "exec sessions on running containers",
            ],
            PlaceErrorKind::ContainerNotRunning,
        ),
        (
            &[
                "exec: \"sh\"",
                "exec: \"env\"",
                "executable file `sh` not found",
                "executable file `env` not found",
            ],
            PlaceErrorKind::NoShell,
        ),
        (
            &["unable to find user", "no matching entries in passwd", "unable to find group"],
            PlaceErrorKind::UnknownUser,
        ),
        (
            &["docker: not found", "docker: command not found", "podman: not found"],
            PlaceErrorKind::ClientMissing,
        ),
        (&["no such file or directory: oci runtime"], PlaceErrorKind::NoShell),
    ];
    table.into_iter().find(|(texts, _)| has(said, texts)).map(|(_, kind)| kind)
}

/// The lines that a client said, of what it and the program said: what a program says is its own.
fn clients_lines(said: &[u8]) -> Vec<u8> {
    const CLIENTS: [&str; 7] = [
        "closed by remote host",
        "connection reset by",
        "broken pipe",
        "not responding",
        "read from remote host",
        "client_loop",
        "error response from daemon",
    ];
    let lines = said.split(|byte| *byte == b'\n');
    let is_clients = |line: &&[u8]| has(&String::from_utf8_lossy(line).to_lowercase(), &CLIENTS);
    lines.filter(is_clients).collect::<Vec<_>>().join(&b'\n')
}

/// The last lines that fit, in one, without what would paint.
fn shorten(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut kept = Vec::new();
    let mut length = 0;
    for line in lines.into_iter().rev() {
        length += line.len() + 1;
        if length > DETAIL && !kept.is_empty() {
            kept.push("…".to_owned());
            break;
        }
        kept.push(line.chars().filter(|letter| !letter.is_control()).take(DETAIL).collect());
    }
    kept.reverse();
    kept.join("; ")
}
