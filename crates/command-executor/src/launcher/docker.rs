//! A container that runs, by `docker exec`.

use super::far::{self, Hop, HopKind, Style};
use super::{LaunchError, Launcher, PlaceError, Ready};
use crate::command::{Command, Stdin, UserIds};
use crate::process::{ByteStream, ProcessEvents, ProcessHandle};
use crate::target::docker::changes_the_client;
use std::ffi::{OsStr, OsString};

/// A container that runs, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerExec {
    container: String,
    user: Option<String>,
    shell: bool,
    client: Vec<OsString>,
}

impl DockerExec {
    /// The container of that name or id.
    pub fn new(container: impl Into<String>) -> Self {
        Self { container: container.into(), user: None, shell: true, client: vec!["docker".into()] }
    }

    /// Another user than the container's: a name, a number, or either with a group, as `docker exec --user`.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Another client than `docker`, with options for all its commands: `["podman"]`,
    /// `["docker", "--context", "far"]`.
    #[must_use]
    pub fn client<A: Into<OsString>>(mut self, argv: impl IntoIterator<Item = A>) -> Self {
        self.client = argv.into_iter().map(Into::into).collect();
        self
    }

    /// For a container that has no shell, like one from scratch.
    ///
    /// Then much less is known and done: the program isn't ended when this end dies, signals reach the client only, no
    /// process id is known, no variable can be taken away, and none can be set that the client itself looks at (PATH,
    /// HOME, DOCKER_…).
    #[must_use]
    pub fn without_shell(mut self) -> Self {
        self.shell = false;
        self
    }

    fn label(&self) -> String {
        format!("docker exec {}", self.container)
    }

    fn client_for(&self, command: &Command, options: &[&str]) -> Result<Vec<OsString>, LaunchError> {
        if self.container.is_empty() || self.container.starts_with('-') {
            return Err(far::refuse(command, format!("{:?} is no container's name", self.container)));
        }
        let mut client = self.client.clone();
        client.push("exec".into());
        client.extend(options.iter().map(OsString::from));
        let own = command.get_user().map(|UserIds { uid, gid }| format!("{uid}:{gid}"));
        match (&self.user, own) {
            (Some(user), Some(own)) if *user != own => {
                let what = format!("{} runs it as {user}, and it wants to be {own}", self.label());
                return Err(far::refuse(command, what));
            }
            (Some(user), _) => client.extend(["--user".into(), user.into()]),
            (None, Some(own)) => client.extend(["--user".into(), own.into()]),
            (None, None) => {}
        }
        Ok(client)
    }

    /// The container's own way: variables by name, with the values in the client's environment.
    fn lower(&self, command: &Command, options: &[&str]) -> Result<Command, LaunchError> {
        let mut client = self.client_for(command, options)?;
        if command.is_env_clear() {
            return Err(far::refuse(command, "docker exec can't clear the environment without a shell"));
        }
        let mut values = Vec::new();
        for (name, value) in command.get_envs() {
            let Some(value) = value else {
                let what = format!("docker exec can't take {} away without a shell", name.display());
                return Err(far::refuse(command, what));
            };
            if is_the_clients(name) {
                let what = format!("{} would change the docker client itself", name.display());
                return Err(far::refuse(command, what));
            }
            client.extend(["--env".into(), name.to_owned()]);
            values.push((name.to_owned(), value.to_owned()));
        }
        if let Some(folder) = command.get_current_dir() {
            client.extend(["--workdir".into(), folder.as_os_str().to_owned()]);
        }
        client.push(self.container.clone().into());
        client.extend(command.argv().map(OsStr::to_owned));
        Ok(far::of_argv(client).envs(values))
    }
}

/// Whether the docker client, or what loads it, looks at the variable.
fn is_the_clients(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return true };
    name.is_empty() || name.contains('=') || changes_the_client(name)
}

/// Runs commands in a container that runs in the inner place.
#[derive(Clone, Debug)]
pub struct DockerExecLauncher<L> {
    inner: L,
    exec: DockerExec,
}

impl<L: Launcher> DockerExecLauncher<L> {
    /// That container, in that place.
    pub fn new(inner: L, exec: DockerExec) -> Self {
        Self { inner, exec }
    }

    /// The place that the container's client runs in.
    pub fn inner(&self) -> &L {
        &self.inner
    }

    fn wrap(&self, command: Command) -> Result<Command, LaunchError> {
        let hop = Hop::new(HopKind::Docker, self.exec.label());
        if self.exec.shell {
            let mut client = self.exec.client_for(&command, &["-i"])?;
            client.push(self.exec.container.clone().into());
            return far::wrap(command, hop, client, Style::Argv);
        }
        if far::is_bare(&command) {
            let mut client = self.exec.client_for(&command, &["-i"])?;
            client.push(self.exec.container.clone().into());
            return Ok(far::pass(command, hop, client));
        }
        if command.far.is_some() {
            return Err(far::refuse(&command, "a container without a shell can only pass it on as it is"));
        }
        let reads = *command.get_stdin() != Stdin::Null;
        let lowered = self.exec.lower(&command, if reads { &["-i"] } else { &[] })?;
        let lowered = lowered.stdin(command.get_stdin().clone());
        Ok(match command.get_timeout() {
            Some(timeout) => lowered.timeout(timeout),
            None => lowered,
        })
    }
}

impl<L: Launcher> Launcher for DockerExecLauncher<L> {
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError> {
        self.inner.rewrite(self.wrap(command)?)
    }

    fn rewrite_to_replace(&self, command: Command, tty: bool) -> Result<Command, LaunchError> {
        let options: &[&str] = if tty { &["-i", "-t"] } else { &["-i"] };
        self.inner.rewrite_to_replace(self.exec.lower(&command, options)?, tty)
    }

    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        self.inner.launch(&self.wrap(command.clone())?)
    }

    fn pipe(&self, command: &Command) -> Result<ByteStream, LaunchError> {
        let stream = self.inner.pipe(&self.exec.lower(command, &["-i"])?)?;
        let hop = Hop::new(HopKind::Docker, self.exec.label());
        Ok(stream.behind(hop, command.get_program().to_owned()))
    }

    fn prepare(&self) -> Ready<'_> {
        self.inner.prepare()
    }

    fn recover(&self, error: &PlaceError) -> bool {
        self.inner.recover(error)
    }
}
