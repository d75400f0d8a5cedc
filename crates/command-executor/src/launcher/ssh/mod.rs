//! Another machine, by ssh.

mod connections;
mod host;

pub use connections::{ConnectionError, Connections};
pub use host::{HostKeys, SshHost, SshJump};

use super::far::{self, Hop, HopKind, Style};
use super::{LaunchError, Launcher, PlaceError, Ready};
use crate::command::{Command, quote};
use crate::process::{ByteStream, ProcessEvents, ProcessHandle};
use connections::Session;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Runs commands on a host that the inner place reaches by ssh.
///
/// Without [`Connections`], each command makes a connection of its own, unless the user's ssh_config shares one.
#[derive(Clone, Debug)]
pub struct SshLauncher<L> {
    inner: L,
    host: SshHost,
    connections: Option<Arc<Connections>>,
}

impl<L: Launcher> SshLauncher<L> {
    /// That host, as that place reaches it.
    pub fn new(inner: L, host: SshHost) -> Self {
        Self { inner, host, connections: None }
    }

    /// Shares connections. Their folder must be on the machine of the inner place, and belong to the user that ssh runs as
    /// there: for hosts that are reached from here.
    ///
    /// A connection is made by [`Launcher::prepare`], which an [`Executor`](crate::executor::Executor) calls;
    /// [`Launcher::launch`] uses what is there.
    #[must_use]
    pub fn with_connections(mut self, connections: Arc<Connections>) -> Self {
        self.connections = Some(connections);
        self
    }

    /// The place that ssh runs in.
    pub fn inner(&self) -> &L {
        &self.inner
    }

    /// Ends the shared connections to that host, with what runs over them.
    ///
    /// # Errors
    /// ssh can't be run.
    pub async fn close(&self) -> Result<(), LaunchError> {
        match &self.connections {
            Some(connections) => connections.close(&self.host, &self.inner).await,
            None => Ok(()),
        }
    }

    /// ssh with this command, over a shared connection if there is one.
    fn wrap(&self, command: Command, session: Option<&Session>) -> Result<Command, LaunchError> {
        far::refuse_user(&command, "ssh")?;
        if let Some(problem) = self.host.problem() {
            return Err(far::refuse(&command, problem));
        }
        let mut client = self.client(session);
        client.push("-T".into());
        client.extend(self.host.destination());
        far::wrap(command, self.hop(session.is_some()), client, Style::Text)
    }

    /// Program and options, over a shared connection if there is one.
    fn client(&self, session: Option<&Session>) -> Vec<OsString> {
        match (session, &self.connections) {
            (Some(session), _) => session.client(&self.host),
            (None, Some(_)) => {
                let mut client = self.host.client();
                client.extend(["-o", "ControlMaster=no", "-o", "ControlPath=none"].map(OsString::from));
                client
            }
            (None, None) => self.host.client(),
        }
    }

    /// Starts a session that waits for its command.
    fn wait(&self, session: &Session) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        let mut client = session.client(&self.host);
        client.push("-T".into());
        client.extend(self.host.destination());
        let waiting = far::waiting(self.hop(true), client);
        // Only where ssh is spawned here: shells on the way would have marks of their own.
        match &self.inner.rewrite(waiting.clone())?.far {
            Some(far) if far.hops.len() == 1 => self.inner.launch(&waiting),
            _ => Err(far::refuse(&waiting, "there is more on the way than this host")),
        }
    }

    /// Gives the command to a session that waits.
    fn launch_waiting(
        &self,
        command: &Command,
    ) -> Result<Option<(ProcessHandle, ProcessEvents)>, LaunchError> {
        far::refuse_user(command, "ssh")?;
        let Some(connections) = &self.connections else { return Ok(None) };
        if command.is_env_clear() {
            return Ok(None);
        }
        let far = far::begin(command, self.hop(true))?;
        let Some((mut handle, mut events)) = connections.waiting(&self.host) else { return Ok(None) };
        handle.begin(&mut events, far, command.get_stdin());
        Ok(Some((handle, events)))
    }

    /// ssh's own way: nothing is carried but argv and folder. `client` is the program with its options.
    fn bare(
        &self,
        command: &Command,
        mut client: Vec<OsString>,
        terminal: &str,
    ) -> Result<Command, LaunchError> {
        far::refuse_user(command, "ssh")?;
        far::refuse_environment(command, "ssh")?;
        if let Some(problem) = self.host.problem() {
            return Err(far::refuse(command, problem));
        }
        let mut text = OsString::new();
        if let Some(folder) = command.get_current_dir() {
            text.push("cd ");
            text.push(login_text(command, [folder.as_os_str()])?);
            text.push(" && ");
        }
        text.push("exec ");
        text.push(login_text(command, command.argv())?);
        client.push(terminal.into());
        client.extend(self.host.destination());
        client.push(text);
        Ok(far::of_argv(client))
    }

    fn hop(&self, shared: bool) -> Hop {
        Hop { shared, ..Hop::new(HopKind::Ssh, self.host.label()) }
    }

    fn session(&self) -> Option<Session> {
        self.connections.as_ref()?.session(&self.host)
    }
}

impl<L: Launcher> Launcher for SshLauncher<L> {
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError> {
        let session = self.session();
        self.inner.rewrite(self.wrap(command, session.as_ref())?)
    }

    fn rewrite_to_replace(&self, command: Command, tty: bool) -> Result<Command, LaunchError> {
        let client = self.host.client();
        self.inner.rewrite_to_replace(self.bare(&command, client, if tty { "-t" } else { "-T" })?, tty)
    }

    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        let launched = match self.launch_waiting(command)? {
            Some(launched) => launched,
            None => {
                let session = self.session();
                let launched = self.inner.launch(&self.wrap(command.clone(), session.as_ref())?)?;
                launched.0.hold(session);
                launched
            }
        };
        if let Some(connections) = &self.connections {
            connections.begun(&self.host, |session| self.wait(session));
        }
        Ok(launched)
    }

    fn pipe(&self, command: &Command) -> Result<ByteStream, LaunchError> {
        let session = self.session();
        let client = self.client(session.as_ref());
        let stream = self.inner.pipe(&self.bare(command, client, "-T")?)?;
        let stream = stream.behind(self.hop(session.is_some()), command.get_program().to_owned());
        stream.hold(session);
        Ok(stream)
    }

    fn prepare(&self) -> Ready<'_> {
        Box::pin(async move {
            self.inner.prepare().await?;
            match &self.connections {
                Some(connections) => connections.prepare(&self.host, &self.inner).await,
                None => Ok(()),
            }
        })
    }

    fn recover(&self, error: &PlaceError) -> bool {
        let inner = self.inner.recover(error);
        let own = error.hop == Some(HopKind::Ssh) && error.kind.is_worth_a_retry();
        if own && let Some(connections) = &self.connections {
            connections.doubt(&self.host, error.kind);
        }
        inner || own
    }
}

/// Words for a login shell of any kind; some see more in single quotes than POSIX does.
fn login_text<'a>(
    command: &Command,
    words: impl IntoIterator<Item = &'a OsStr>,
) -> Result<OsString, LaunchError> {
    let words: Vec<&OsStr> = words.into_iter().collect();
    let risky = |word: &&OsStr| {
        let bytes = word.as_bytes();
        bytes.iter().any(|byte| matches!(byte, b'\n' | b'!'))
            || bytes.ends_with(br"\")
            || bytes.windows(2).any(|pair| pair == br"\\" || pair == br"\'")
    };
    if let Some(word) = words.iter().find(|word| risky(word)) {
        let what =
            format!("not every login shell would take {:?} as it is; use a script there", word.display());
        return Err(far::refuse(command, what));
    }
    quote::sh(words).map_err(|error| far::refuse(command, error.to_string()))
}
