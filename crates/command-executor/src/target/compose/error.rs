//! What Compose's standard error means, of both generations.

use crate::executor::Finished;
use crate::process::Exit;
use crate::target::docker::DockerError;
use crate::target::text::{after, between, contains, shorten};

/// Why Compose didn't do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComposeError {
    /// There is no Compose of that kind.
    #[error("Compose isn't installed")]
    NotInstalled,
    /// The file isn't there.
    #[error("there is no Compose file {path}")]
    NoFile {
        /// Its path as Compose says it.
        path: String,
    },
    /// A file with values isn't there.
    #[error("there is no env file {path}")]
    NoEnvFile {
        /// Its path as Compose says it.
        path: String,
    },
    /// The file isn't one of services.
    #[error("the Compose file is wrong: {why}")]
    InvalidFile {
        /// What Compose says.
        why: String,
    },
    /// The file has no such service.
    #[error("the Compose file has no service {service}")]
    NoSuchService {
        /// Its name.
        service: String,
    },
    /// The name can't be a project's.
    #[error("not a project's name: {why}")]
    InvalidName {
        /// What Compose says.
        why: String,
    },
    /// Docker didn't do what Compose asked of it.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// Compose's answer isn't what it should be.
    #[error("Compose's answer isn't {what}")]
    Answer {
        /// What it should be.
        what: &'static str,
    },
}

/// Whether the command that ended did what it should.
///
/// # Errors
/// Why not, from what it wrote to its standard error.
pub fn check(finished: &Finished) -> Result<(), ComposeError> {
    if finished.exit.is_success() {
        return Ok(());
    }
    Err(ComposeError::classify(finished.exit, &finished.stderr.to_text()))
}

impl ComposeError {
    /// What a Compose that ended like that meant by this text.
    pub fn classify(exit: Exit, stderr: &str) -> Self {
        let text = without_progress(stderr);
        let text = text.trim();
        // Without the plugin, docker takes Compose's first option for its own.
        let missing = [
            "is not a docker command",
            "unknown command: docker compose",
            "unknown flag: --file",
            "unknown flag: --short",
        ];
        if contains(text, &missing) {
            return Self::NotInstalled;
        }
        // Version 1 ends in Python's words, with all that led to them.
        if let Some(why) = after(text, "Error while fetching server API version: ") {
            let endpoint = between(why, "host='", "'").unwrap_or("its address").to_owned();
            let permission = contains(why, &["PermissionError", "Permission denied"]);
            return Self::Docker(if permission {
                DockerError::PermissionDenied { socket: "its socket".to_owned() }
            } else {
                DockerError::NotReachable { endpoint, why: "nobody answers there".to_owned() }
            });
        }
        let path = |path: &str| path.trim_matches('\'').to_owned();
        if let Some(service) = after(text, "o such service: ") {
            return Self::NoSuchService { service: service.trim().to_owned() };
        }
        if let Some(file) =
            after(text, "Couldn't find env file: ").or_else(|| between(text, "env file ", " not found"))
        {
            return Self::NoEnvFile { path: path(file) };
        }
        if let Some(file) = between(text, "open ", ": no such file or directory")
            .or_else(|| after(text, "FileNotFoundError: [Errno 2] No such file or directory: "))
        {
            return Self::NoFile { path: path(file) };
        }
        if text.contains("no configuration file provided") {
            return Self::NoFile { path: "at all".to_owned() };
        }
        if contains(text, &["invalid project name"]) {
            return Self::InvalidName { why: shorten(text) };
        }
        if contains(text, &INVALID) {
            return Self::InvalidFile { why: shorten(text) };
        }
        Self::Docker(DockerError::classify(exit, text))
    }

    /// What to do about it, where there is something to say that can be done.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotInstalled => {
                "install it: docker-compose-plugin of Docker's packages, or the system's docker-compose"
                    .into()
            }
            Self::InvalidFile { .. } => "docker compose config shows where".into(),
            Self::NoSuchService { .. } => "docker compose config --services lists them".into(),
            Self::InvalidName { .. } => "use lower-case letters, digits, _ and -".into(),
            Self::Docker(error) => return error.hint(),
            _ => return None,
        })
    }

    /// Whether the same command may succeed later without anybody changing it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Docker(error) if error.is_transient())
    }
}

/// What both generations say of a wrong file.
const INVALID: [&str; 17] = [
    "is invalid because",
    "validating ",
    "yaml: ",
    "yaml.parser.",
    "yaml.scanner.",
    "yaml.composer.",
    "error while interpolating",
    "invalid interpolation format",
    "Invalid interpolation format",
    "Missing mandatory value",
    "undefined service",
    "which is undefined",
    "invalid compose project",
    "refers to undefined",
    "Top level object",
    "Additional property",
    "top-level object must be a mapping",
];

/// Without warnings and the steps that went well.
fn without_progress(text: &str) -> String {
    let is_progress = |line: &str| {
        // Version 2 begins its steps with one blank.
        let is_step = line.starts_with(' ') && !line.starts_with("  ");
        let steps = ["Creating ", "Pulling ", "Recreating ", "Starting ", "Stopping ", "Removing "];
        is_step
            || line.starts_with("time=\"")
            || steps.iter().any(|step| line.starts_with(step))
            || line.trim().is_empty()
            || line.starts_with("Encountered errors while")
    };
    let lines: Vec<&str> = text.lines().filter(|line| !is_progress(line)).collect();
    lines.join("\n")
}
