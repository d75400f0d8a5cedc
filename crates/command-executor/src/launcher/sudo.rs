//! Another user, by sudo.

use super::far::{self, Hop, HopKind, Style};
use super::{LaunchError, Launcher, PlaceError, Ready};
use crate::command::{Command, quote};
use crate::process::{ByteStream, ProcessEvents, ProcessHandle};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;

/// Options that make sudo read a password from its input, also if it believes to know us, and say nothing.
const ASKING: [&str; 4] = ["-S", "-k", "-p", ""];

/// A password. It shows itself nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    /// Takes its bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Whom sudo makes of us, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sudo {
    user: Option<String>,
    password: Option<Password>,
    program: OsString,
}

impl Default for Sudo {
    fn default() -> Self {
        Self::new()
    }
}

impl Sudo {
    /// Root, without a password.
    pub fn new() -> Self {
        Self { user: None, password: None, program: "sudo".into() }
    }

    /// Another user than root: a name, or `#` and a number.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The password of the user who calls sudo. It travels through standard inputs only. sudo tries a wrong one once.
    #[must_use]
    pub fn password(mut self, password: Password) -> Self {
        self.password = Some(password);
        self
    }

    /// Another program than `sudo`, for example its path.
    #[must_use]
    pub fn program(mut self, program: impl Into<OsString>) -> Self {
        self.program = program.into();
        self
    }

    fn label(&self) -> String {
        self.user.as_ref().map_or_else(|| "sudo".to_owned(), |user| format!("sudo -u {user}"))
    }

    fn client(&self, options: &[&str]) -> Vec<OsString> {
        let mut client = vec![self.program.clone()];
        client.extend(options.iter().map(OsString::from));
        if let Some(user) = &self.user {
            client.extend(["-u".into(), user.into()]);
        }
        client.push("--".into());
        client
    }
}

/// Runs commands as another user of the inner place. The environment is the one that sudo makes (root's or that user's),
/// with the command's variables on top.
#[derive(Clone, Debug)]
pub struct SudoLauncher<L> {
    inner: L,
    sudo: Sudo,
}

impl<L: Launcher> SudoLauncher<L> {
    /// That user, in that place.
    pub fn new(inner: L, sudo: Sudo) -> Self {
        Self { inner, sudo }
    }

    /// The place that sudo is called in.
    pub fn inner(&self) -> &L {
        &self.inner
    }

    fn wrap(&self, command: Command) -> Result<Command, LaunchError> {
        far::refuse_user(&command, "sudo")?;
        let hop = Hop::new(HopKind::Sudo, self.sudo.label());
        let Some(password) = &self.sudo.password else {
            let client = self.sudo.client(&["-n"]);
            if far::is_bare(&command) {
                return Ok(far::pass(command, hop, client));
            }
            return far::wrap(command, hop, client, Style::Argv);
        };
        let Password(password) = password;
        if password.iter().any(|byte| matches!(byte, b'\n' | b'\0'))
            || password.starts_with(far::LINE_MARK.as_bytes())
        {
            return Err(far::refuse(&command, "the password has a line break or a NUL byte in it"));
        }
        let client = self.sudo.client(&ASKING);
        let inside = far::wrap(command, hop, client, Style::ArgvMarked)?;
        self.check_first(inside, password)
    }

    /// sudo's own way: nothing is carried but argv and folder.
    fn bare(&self, command: &Command, tty: bool) -> Result<Command, LaunchError> {
        far::refuse_user(command, "sudo")?;
        far::refuse_environment(command, "sudo")?;
        let mut client = vec![self.sudo.program.clone()];
        if !tty {
            // There is nobody to ask.
            client.push("-n".into());
        }
        if let Some(user) = &self.sudo.user {
            client.extend(["-u".into(), user.into()]);
        }
        client.push("--".into());
        if let Some(folder) = command.get_current_dir() {
            let go = r#"cd -- "$0" && exec "$@""#;
            client.extend(["sh".into(), "-c".into(), go.into(), folder.as_os_str().to_owned()]);
        }
        client.extend(command.argv().map(std::borrow::ToOwned::to_owned));
        Ok(far::of_argv(client))
    }

    /// sudo asks three times, and each wrong answer counts where accounts are locked; and where it asks for none, what
    /// was meant for it would be read by the program. So a shell checks the password first, with nothing else to read, and
    /// what runs behind sudo skips everything that isn't meant for it. (Where pam_faillock counts, it takes the second
    /// question, which gets no answer, for a failure too: nothing but the end of its input ends sudo there.)
    fn check_first(&self, inside: Command, password: &[u8]) -> Result<Command, LaunchError> {
        let Some(far) = inside.far.as_deref() else { return Ok(inside) };
        let quoted = |words: &mut dyn Iterator<Item = OsString>| {
            let words = quote::sh(words).map_err(|error| far::refuse(&inside, error.to_string()));
            words.map(OsString::into_vec)
        };
        let check = self.sudo.client(&ASKING).into_iter().chain(["sh", "-c", ":"].map(OsString::from));
        let line = [
            &br#"IFS= read -r _hq; printf "%s\n" "$_hq" | LC_ALL=C "#[..],
            &quoted(&mut { check })?,
            format!(" >/dev/null || {{ printf '{}fail sudo;' >&2; exit 1; }}; _hq=; exec ", far.mark)
                .as_bytes(),
            &quoted(&mut inside.argv().map(ToOwned::to_owned))?,
        ]
        .concat();
        let mut outside =
            far::of_argv(far::reader().map(OsString::from).to_vec()).stdin(inside.get_stdin().clone());
        if let Some(timeout) = inside.get_timeout() {
            outside = outside.timeout(timeout);
        }
        outside.far = inside.far;
        for line in [password, password, &line] {
            far::prepend(&mut outside, line);
        }
        Ok(outside)
    }
}

impl<L: Launcher> Launcher for SudoLauncher<L> {
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError> {
        self.inner.rewrite(self.wrap(command)?)
    }

    fn rewrite_to_replace(&self, command: Command, tty: bool) -> Result<Command, LaunchError> {
        self.inner.rewrite_to_replace(self.bare(&command, tty)?, tty)
    }

    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        self.inner.launch(&self.wrap(command.clone())?)
    }

    fn pipe(&self, command: &Command) -> Result<ByteStream, LaunchError> {
        if self.sudo.password.is_some() {
            return Err(far::refuse(
                command,
                "sudo would read the password from what is meant for the program",
            ));
        }
        let stream = self.inner.pipe(&self.bare(command, false)?)?;
        let hop = Hop::new(HopKind::Sudo, self.sudo.label());
        Ok(stream.behind(hop, command.get_program().to_owned()))
    }

    fn prepare(&self) -> Ready<'_> {
        self.inner.prepare()
    }

    fn recover(&self, error: &PlaceError) -> bool {
        self.inner.recover(error)
    }
}
