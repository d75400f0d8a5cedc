//! Why docker didn't do it, and what to do about it.

use super::classify::{known, without_noise};
use crate::executor::Finished;
use crate::process::Exit;
use crate::target::text::shorten;

/// Why docker didn't do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DockerError {
    /// There is no such container.
    #[error("there is no container {name}")]
    NoSuchContainer {
        /// Its name or id.
        name: String,
    },
    /// The image isn't on the engine's machine.
    #[error("there is no image {image} on this machine")]
    NoSuchImage {
        /// The image.
        image: String,
    },
    /// There is no such network.
    #[error("there is no network {network}")]
    NoSuchNetwork {
        /// Its name.
        network: String,
    },
    /// There is no such volume.
    #[error("there is no volume {volume}")]
    NoSuchVolume {
        /// Its name.
        volume: String,
    },
    /// Another container has the name.
    #[error("the container name {name} is taken by container {by}")]
    NameInUse {
        /// The name.
        name: String,
        /// The id of the container that has it.
        by: String,
    },
    /// Another network has the name.
    #[error("there is a network {network} already")]
    NetworkExists {
        /// Its name.
        network: String,
    },
    /// Another network has its addresses.
    #[error("the network's addresses overlap with those of another")]
    AddressOverlap,
    /// The network still has containers in it.
    #[error("the network {network} is still in use")]
    NetworkInUse {
        /// Its name.
        network: String,
    },
    /// Something listens on the port already.
    #[error("{address} is in use")]
    PortInUse {
        /// Address and port as docker says them.
        address: String,
    },
    /// The user may not talk to the engine.
    #[error("no permission to talk to docker at {socket}")]
    PermissionDenied {
        /// The engine's socket.
        socket: String,
    },
    /// Nobody answers for the engine.
    #[error("docker can't be reached at {endpoint}: {why}")]
    NotReachable {
        /// The engine's address.
        endpoint: String,
        /// What docker says.
        why: String,
    },
    /// The client is set to a context that isn't there.
    #[error("docker has no context {context}")]
    NoSuchContext {
        /// Its name.
        context: String,
    },
    /// Client and engine have no protocol in common.
    #[error("docker's client and engine don't fit together: {why}")]
    VersionMismatch {
        /// What docker says.
        why: String,
    },
    /// The image can't be fetched.
    #[error("can't pull {image}: {why}")]
    PullFailed {
        /// The image, where docker names it.
        image: String,
        /// The kind of reason.
        reason: PullFailure,
        /// What docker says.
        why: String,
    },
    /// The text can't be an image.
    #[error("not an image: {why}")]
    InvalidReference {
        /// What docker says.
        why: String,
    },
    /// A volume can't be mounted.
    #[error("can't mount: {why}")]
    BadMount {
        /// What docker says.
        why: String,
    },
    /// A value that docker refuses, or an option that this docker doesn't know.
    #[error("docker refuses: {why}")]
    BadOption {
        /// What docker says.
        why: String,
    },
    /// The user isn't one of the container's.
    #[error("the container has no user or group {user}")]
    NoSuchUser {
        /// The user or group.
        user: String,
    },
    /// The program isn't in the container.
    #[error("the container has no program {program}")]
    ProgramNotFound {
        /// The program.
        program: String,
    },
    /// The program is in the container and can't be executed.
    #[error("the container can't execute {program}")]
    ProgramNotExecutable {
        /// The program.
        program: String,
    },
    /// The folder isn't in the container.
    #[error("the container has no folder {folder}")]
    NoSuchFolder {
        /// The folder.
        folder: String,
    },
    /// The container doesn't run.
    #[error("container {name} doesn't run")]
    NotRunning {
        /// Its name or id.
        name: String,
    },
    /// The container is frozen.
    #[error("container {name} is paused")]
    Paused {
        /// Its name or id.
        name: String,
    },
    /// The container runs and would have to be stopped first.
    #[error("container {name} runs")]
    Running {
        /// Its name or id.
        name: String,
    },
    /// The container is being removed by somebody else.
    #[error("container {name} is being removed already")]
    BeingRemoved {
        /// Its name or id.
        name: String,
    },
    /// The engine's disk is full.
    #[error("no space left on the engine's machine: {why}")]
    NoSpace {
        /// What docker says.
        why: String,
    },
    /// Something else.
    #[error("docker failed ({exit}): {text}")]
    Other {
        /// How the client ended.
        exit: Exit,
        /// What it wrote, shortened.
        text: String,
    },
    /// Docker's answer isn't what it should be.
    #[error("docker's answer isn't {what}")]
    Answer {
        /// What it should be.
        what: &'static str,
        /// Why it can't be read, if it isn't JSON.
        source: Option<serde_json::Error>,
    },
}

/// Why an image can't be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PullFailure {
    /// The registry has no such image, or doesn't show it without a login: registries answer the same to both.
    NotFound,
    /// The registry wants a login, or another one.
    Unauthorized,
    /// Too many pulls from this address or account.
    RateLimited,
    /// The registry can't be reached: name, route, or nobody answers.
    Unreachable,
    /// The registry's certificate isn't trusted, or it speaks no TLS.
    Certificate,
    /// There is none for this machine's architecture.
    Platform,
    /// Something else.
    Other,
}

/// Whether the command that ended did what it should.
///
/// # Errors
/// Why not, from what it wrote to its standard error.
pub fn check(finished: &Finished) -> Result<(), DockerError> {
    if finished.exit.is_success() {
        return Ok(());
    }
    Err(DockerError::classify(finished.exit, &finished.stderr.to_text()))
}

/// As [`check`], for a [pull](super::Docker::pull): docker often doesn't say which image it means.
///
/// # Errors
/// Mostly [`DockerError::PullFailed`].
pub fn check_pull(finished: &Finished, image: &str) -> Result<(), DockerError> {
    check(finished).map_err(|error| match error {
        DockerError::PullFailed { reason, why, .. } => {
            DockerError::PullFailed { image: image.to_owned(), reason, why }
        }
        error => error,
    })
}

impl DockerError {
    /// What a client that ended like that meant by this text.
    pub fn classify(exit: Exit, stderr: &str) -> Self {
        // Help with all options, certificates and registries among them, follows a wrong one.
        let text = stderr.split("\nUsage:").next().unwrap_or_default().trim();
        known(text).unwrap_or_else(|| Self::Other { exit, text: shorten(without_noise(text).trim()) })
    }

    pub(super) fn unexpected(what: &'static str) -> Self {
        Self::Answer { what, source: None }
    }

    /// What to do about it, where there is something to say that can be done.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoSuchImage { image } => format!("pull it first: docker pull {image}"),
            Self::NoSuchNetwork { network } => format!("make it first: docker network create {network}"),
            Self::NoSuchVolume { volume } => format!("make it first: docker volume create {volume}"),
            Self::NameInUse { name, .. } => {
                format!("choose another name, or remove that container: docker rm -f {name}")
            }
            Self::AddressOverlap => "give the network another subnet: docker network ls lists the others".into(),
            Self::NetworkInUse { network } => {
                format!("docker network inspect {network} lists the containers in it")
            }
            Self::PortInUse { address } => {
                let port = address.rsplit(':').next().unwrap_or(address);
                format!("find who listens (ss -ltnp 'sport = :{port}'; docker ps), or choose another port")
            }
            Self::PermissionDenied { .. } => {
                "let the user into the docker group (sudo usermod -aG docker USER, then log in again), or use sudo".into()
            }
            Self::NotReachable { .. } => {
                "is it started (sudo systemctl start docker)? is DOCKER_HOST or the context right (docker context ls)?"
                    .into()
            }
            Self::NoSuchContext { .. } => "docker context ls lists them; DOCKER_CONTEXT chooses one".into(),
            Self::VersionMismatch { .. } => {
                "update the older of the two, or set DOCKER_API_VERSION to what the engine speaks".into()
            }
            Self::PullFailed { reason, .. } => reason.hint()?.into(),
            Self::InvalidReference { .. } => {
                "an image is written [registry/]name[:tag], its name in lower case".into()
            }
            Self::NoSuchUser { .. } => "use a number, or a user that the image's /etc/passwd has".into(),
            Self::ProgramNotFound { .. } => {
                "see what the image has: docker run --rm --entrypoint ls IMAGE /bin".into()
            }
            Self::Paused { name } => format!("docker unpause {name}"),
            Self::Running { name } => format!("stop it first: docker stop {name}"),
            Self::NoSpace { .. } => "docker system df shows what takes it; docker system prune removes what nothing uses".into(),
            _ => return None,
        })
    }

    /// Whether the same command may succeed later without anybody changing it: the engine or the registry can't be
    /// reached now, or somebody else is about to remove the container.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotReachable { .. } | Self::BeingRemoved { .. } => true,
            Self::PullFailed { reason, .. } => {
                matches!(reason, PullFailure::Unreachable | PullFailure::RateLimited)
            }
            _ => false,
        }
    }
}

impl PullFailure {
    fn hint(self) -> Option<&'static str> {
        match self {
            Self::NotFound => {
                Some("check registry, name and tag; for a private image log in first: docker login REGISTRY")
            }
            Self::Unauthorized => Some("log in first: docker login REGISTRY"),
            Self::RateLimited => Some("log in (docker login), or wait; registries count pulls by address"),
            Self::Unreachable => {
                Some("is the registry's name right, and is there a network or a proxy to it?")
            }
            Self::Certificate => {
                Some("trust its certificate in /etc/docker/certs.d, or list it as an insecure registry")
            }
            Self::Platform => Some("choose a tag that is built for this machine"),
            Self::Other => None,
        }
    }
}
