//! Containers, through the `docker` command line.
//!
//! The command line nests through ssh and sudo and honours the user's contexts and credentials; podman's is the
//! same. Nothing here runs anything: a verb lowers to a [`Command`], and what it printed is read back by a parser.
//!
//! ```text
//! DockerContainer ── pull, create, run ──► Command ──► Executor ──► Finished ──► check ──► DockerError
//! Container ── start, stop, inspect, … ──►                              └──────► parsers ─► ContainerState, …
//! Docker ── events ──► Command ──► one stream of lines for an engine ──► ContainerEvent
//! ```
//!
//! After every command: [`check`] turns a bad exit into a [`DockerError`], then the parser reads standard output.
//! Commands that answer at once carry a timeout; those that last ([`Docker::events`], [`Container::wait`],
//! [`Container::logs`], [`Container::exec`]) or load from afar ([`Docker::pull`]) don't: their bound is the caller's.
//!
//! Values of a container's environment never stand in an argv.

mod environment;
mod volume;

mod definition;
mod verbs;

mod json;
mod state;

mod event;
mod list;
mod network;
mod pull;

mod classify;
mod error;
mod log;

pub(crate) use definition::whole_seconds;

pub use definition::{ContainerNetwork, DockerContainer};
pub use environment::ContainerSpecError;
pub(crate) use environment::changes_the_client;
pub use error::{DockerError, PullFailure, check, check_pull};
pub use event::{ContainerAction, ContainerEvent};
pub use list::{ContainerRow, DockerVersion, ImageState};
pub use log::{ContainerLog, ContainerLogLine};
pub use network::{NetworkAttachment, NetworkDefinition, NetworkJoin, NetworkState};
pub use pull::PullProgress;
pub use state::{ContainerHealth, ContainerState, ContainerStatus, HealthStatus, NetworkEndpoint};
pub use verbs::{Container, ContainerExec, LogOptions, RemoveOptions};
pub use volume::{PortBinding, Protocol, Volume, VolumeSource};

use crate::command::{Command, Stdin};
use jiff::Timestamp;
use std::ffi::OsString;
use std::time::Duration;

/// How long a question may take.
pub(crate) const QUERY: Duration = Duration::from_secs(30);
/// How long a change may take: the engine unpacks, mounts, and sets up networks.
pub(crate) const CHANGE: Duration = Duration::from_secs(120);

/// A docker command line, and the engine that it talks to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Docker {
    program: OsString,
    context: Option<OsString>,
    host: Option<OsString>,
}

impl Default for Docker {
    fn default() -> Self {
        Self::new()
    }
}

impl Docker {
    /// `docker`, with the engine that its environment and its current context name.
    pub fn new() -> Self {
        Self { program: "docker".into(), context: None, host: None }
    }

    /// Another program with the same command line, for example `podman`.
    #[must_use]
    pub fn with_program(mut self, program: impl Into<OsString>) -> Self {
        self.program = program.into();
        self
    }

    /// The engine of one of docker's contexts.
    #[must_use]
    pub fn with_context(mut self, context: impl Into<OsString>) -> Self {
        self.context = Some(context.into());
        self
    }

    /// The engine at an address such as `unix:///run/docker.sock`.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<OsString>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// A verb with its options.
    pub(crate) fn command<A: Into<OsString>>(&self, words: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(self.program.clone());
        for (option, value) in [("--context", &self.context), ("--host", &self.host)] {
            if let Some(value) = value {
                command = command.args([OsString::from(option), value.clone()]);
            }
        }
        command.args(words)
    }

    /// Another program that talks to the same engine as docker's environment tells it.
    pub(crate) fn environment(&self, mut command: Command) -> Command {
        for (name, value) in [("DOCKER_CONTEXT", &self.context), ("DOCKER_HOST", &self.host)] {
            if let Some(value) = value {
                command = command.env(name, value.clone());
            }
        }
        command
    }

    /// The verbs of one container, by its name or id.
    pub fn container(&self, name: impl Into<String>) -> Container {
        Container::new(self.clone(), name.into())
    }

    /// Tells the versions of client and engine: [`DockerVersion::parse`].
    pub fn version(&self) -> Command {
        self.command(["version", "--format", "{{json .}}"]).timeout(QUERY)
    }

    /// All containers that have all these labels (`name` or `name=value`), running or not: [`ContainerRow::parse`].
    pub fn list<'a>(&self, labels: impl IntoIterator<Item = &'a str>) -> Command {
        let filters = labels.into_iter().flat_map(|label| ["--filter".to_owned(), format!("label={label}")]);
        self.command(["ps", "--all", "--no-trunc"])
            .args(filters)
            .args(["--format", "{{json .}}"])
            .timeout(QUERY)
    }

    /// Looks at several containers at once: [`ContainerState::parse`]. Those that aren't there are left out, with a bad
    /// exit. One takes about 10 KiB of output: mind what the executor captures.
    pub fn inspect<'a>(&self, containers: impl IntoIterator<Item = &'a str>) -> Command {
        self.command(["container", "inspect", "--"]).args(containers).timeout(QUERY)
    }

    /// Tells what happens to containers that have all these labels, a line each, until it is ended:
    /// [`ContainerEvent::parse`]. One such stream is enough for an engine.
    ///
    /// Without `since` it begins when it is connected, which nothing tells. So begin a moment before a
    /// [list](Self::list): what happened in between is told then, if the engine's clock is the one `since` was taken from.
    pub fn events<'a>(&self, labels: impl IntoIterator<Item = &'a str>, since: Option<Timestamp>) -> Command {
        let filters = labels.into_iter().flat_map(|label| ["--filter".to_owned(), format!("label={label}")]);
        let since = since.into_iter().flat_map(|since| ["--since".to_owned(), since.to_string()]);
        self.command(["events", "--filter", "type=container"])
            .args(filters)
            .args(since)
            .args(["--format", "{{json .}}"])
    }

    /// Fetches an image; what it prints tells how far it is: [`PullProgress`].
    pub fn pull(&self, image: &str) -> Command {
        self.command(["pull", "--", image])
    }

    /// Looks at an image that is there: [`ImageState::parse`]; else it fails with [`DockerError::NoSuchImage`].
    pub fn image(&self, image: &str) -> Command {
        self.command(["image", "inspect", "--", image]).timeout(QUERY)
    }

    /// Makes an image with nothing in it.
    pub fn empty_image(&self, name: &str) -> Command {
        // The end of an archive, with no file before it.
        let nothing = vec![0; 1024];
        self.command(["import", "-", name]).stdin(Stdin::Bytes(nothing)).timeout(CHANGE)
    }

    /// Removes an image that no container is made of.
    pub fn image_remove(&self, image: &str) -> Command {
        self.command(["image", "rm", "--", image]).timeout(CHANGE)
    }

    /// Makes a network; prints its id.
    pub fn network_create(&self, network: &NetworkDefinition) -> Command {
        self.command(["network", "create"]).args(network.options()).timeout(CHANGE)
    }

    /// Looks at a network: [`NetworkState::parse`].
    pub fn network_inspect(&self, network: &str) -> Command {
        self.command(["network", "inspect", "--", network]).timeout(QUERY)
    }

    /// Removes a network that no container is in.
    pub fn network_remove(&self, network: &str) -> Command {
        self.command(["network", "rm", "--", network]).timeout(CHANGE)
    }

    /// Puts a container into a further network.
    pub fn network_join(&self, join: &NetworkJoin, container: &str) -> Command {
        self.command(["network", "connect"]).args(join.options()).arg(container).timeout(CHANGE)
    }
}

#[cfg(test)]
mod tests;
