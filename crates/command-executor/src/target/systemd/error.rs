//! What systemctl's standard error means, from systemd 247 to 257.

use crate::executor::Finished;
use crate::process::Exit;
use crate::target::text::{between, contains, shorten, word_before};

/// Why systemd didn't do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemdError {
    /// There is no such unit.
    #[error("there is no unit {unit}")]
    NoSuchUnit {
        /// Its name.
        unit: String,
    },
    /// Somebody forbade to start it.
    #[error("unit {unit} is masked")]
    Masked {
        /// Its name.
        unit: String,
    },
    /// Its file has a mistake.
    #[error("the file of unit {unit} has a mistake")]
    BadUnitFile {
        /// Its name.
        unit: String,
    },
    /// The user may not do that.
    #[error("no permission to do that with systemd's units")]
    PermissionDenied,
    /// This machine's first process isn't systemd.
    #[error("this machine wasn't booted with systemd")]
    NotBooted,
    /// The manager doesn't answer.
    #[error("systemd can't be reached: {why}")]
    NotReachable {
        /// What systemctl says.
        why: String,
    },
    /// The user has no manager, or it can't be found without `XDG_RUNTIME_DIR`.
    #[error("the user's own systemd can't be reached: {why}")]
    NoUserManager {
        /// What systemctl says.
        why: String,
    },
    /// It was tried, and the unit failed.
    #[error("unit {unit} failed: {why}")]
    JobFailed {
        /// Its name.
        unit: String,
        /// What systemctl says: `the control process exited with error code`.
        why: String,
    },
    /// It was started too often in a short time.
    #[error("unit {unit} was started too often")]
    StartLimit {
        /// Its name.
        unit: String,
    },
    /// A unit that it needs failed.
    #[error("a unit that {unit} needs failed")]
    DependencyFailed {
        /// Its name.
        unit: String,
    },
    /// Another job took its place: somebody else stopped or started it.
    #[error("the job for unit {unit} was cancelled by another")]
    Cancelled {
        /// Its name.
        unit: String,
    },
    /// Something else.
    #[error("systemctl failed ({exit}): {text}")]
    Other {
        /// How it ended.
        exit: Exit,
        /// What it wrote, shortened.
        text: String,
    },
    /// The answer isn't what it should be.
    #[error("systemd's answer isn't {what}")]
    Answer {
        /// What it should be.
        what: &'static str,
    },
}

/// Whether the command that ended did what it should.
///
/// # Errors
/// Why not, from what it wrote to its standard error.
pub fn check(finished: &Finished) -> Result<(), SystemdError> {
    if finished.exit.is_success() {
        return Ok(());
    }
    Err(SystemdError::classify(finished.exit, &finished.stderr.to_text()))
}

impl SystemdError {
    /// What a systemctl that ended like that meant by this text.
    pub fn classify(exit: Exit, stderr: &str) -> Self {
        let text = stderr.trim();
        manager(text)
            .or_else(|| unit(text))
            .or_else(|| job(text))
            .unwrap_or_else(|| Self::Other { exit, text: shorten(&without_noise(text)) })
    }

    /// What to do about it, where there is something to say that can be done.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoSuchUnit { .. } => {
                "systemctl list-unit-files lists what there is; systemctl daemon-reload finds new files"
                    .into()
            }
            Self::Masked { unit } => format!("allow it: systemctl unmask {unit}"),
            Self::BadUnitFile { unit } => format!("systemd-analyze verify {unit} shows where"),
            Self::PermissionDenied => {
                "use sudo, a polkit rule for the user, or a unit of the user's own manager".into()
            }
            Self::NotBooted => "run it as a process or container there".into(),
            Self::NoUserManager { .. } => "let it run without a login: loginctl enable-linger USER".into(),
            Self::JobFailed { unit, .. } | Self::DependencyFailed { unit } => {
                format!("systemctl status {unit} and journalctl -xeu {unit} show why")
            }
            Self::StartLimit { unit } => {
                format!("see why it ends (journalctl -u {unit}), then systemctl reset-failed {unit}")
            }
            _ => return None,
        })
    }
}

fn manager(text: &str) -> Option<SystemdError> {
    if text.contains("System has not been booted with systemd") {
        return Some(SystemdError::NotBooted);
    }
    let is_user = contains(text, &["user scope bus", "$XDG_RUNTIME_DIR not defined", "No medium found"]);
    if is_user {
        return Some(SystemdError::NoUserManager { why: shorten(&without_noise(text)) });
    }
    contains(
        text,
        &[
            "Failed to connect to bus",
            "Failed to connect to system scope bus",
            "Transport endpoint is not connected",
        ],
    )
    .then(|| SystemdError::NotReachable { why: shorten(&without_noise(text)) })
}

fn unit(text: &str) -> Option<SystemdError> {
    let denied = [
        "Access denied",
        "Interactive authentication required",
        "authentication required",
        "Permission denied",
        "Operation not permitted",
    ];
    if contains(text, &denied) {
        return Some(SystemdError::PermissionDenied);
    }
    let named = |behind: &str| word_before(text, behind).map(str::to_owned);
    if let Some(unit) = named(" not found.").or_else(|| named(" not loaded.")) {
        return Some(SystemdError::NoSuchUnit { unit });
    }
    if let Some(unit) = named(" is masked.") {
        return Some(SystemdError::Masked { unit });
    }
    named(" has a bad unit file setting.").map(|unit| SystemdError::BadUnitFile { unit })
}

fn job(text: &str) -> Option<SystemdError> {
    if let Some(unit) = between(text, "A dependency job for ", " failed") {
        return Some(SystemdError::DependencyFailed { unit: unit.to_owned() });
    }
    if let Some(unit) = between(text, "Job for ", " canceled") {
        return Some(SystemdError::Cancelled { unit: unit.to_owned() });
    }
    let unit = between(text, "Job for ", " ")?.to_owned();
    if contains(
        text,
        &["start of the service was attempted too often", "start-limit-hit", "attempted too often"],
    ) {
        return Some(SystemdError::StartLimit { unit });
    }
    let why = between(text, " failed because ", ".").unwrap_or("see its status").to_owned();
    Some(SystemdError::JobFailed { unit, why })
}

/// Without the lines that say where to look.
fn without_noise(text: &str) -> String {
    let is_noise = |line: &&str| line.starts_with("See ") || line.starts_with("Warning: The unit file");
    let lines: Vec<&str> = text.lines().filter(|line| !is_noise(line)).collect();
    lines.join("\n")
}
