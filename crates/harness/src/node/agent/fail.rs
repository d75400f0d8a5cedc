//! What went wrong, for people: the node, the step, and what to do about it.

use super::super::reach::NoWay;
use super::bring::{Step, Stop};
use super::program::{self, ProgramError};
use crate::error::chain;
use crate::ui::meter::bytes;
use crate::ui::time::short;
use command_executor::launcher::{HopKind, LaunchError, PlaceError, PlaceErrorKind};
use command_executor::process::ByteStream;
use orchestrator::node::ConnectFailed;
use std::time::Duration;

/// How long ssh may take to end and to say why.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a program is made that runs anywhere of its kind.
const BUILD: &str = "cargo xtask agent --target";

pub(super) fn no_way(node: &str, error: &NoWay) -> ConnectFailed {
    failed(node, Step::Login, error.to_string(), "correct `jump:` in the file")
}

pub(super) fn no_program(node: &str, error: &ProgramError) -> ConnectFailed {
    failed(node, Step::Copy, chain(error), "check HARNESS_AGENT_DIR and its files")
}

/// ssh can't be run here.
pub(super) fn no_client(node: &str, error: &LaunchError) -> ConnectFailed {
    let hint = match error {
        LaunchError::NotFound { .. } => "install ssh here: `sudo apt-get install openssh-client`",
        LaunchError::Carry { .. } => "correct the node in the file",
        _ => "see what the system says",
    };
    let passing = matches!(error, LaunchError::Spawn { .. });
    ConnectFailed { passing, ..failed(node, Step::Login, chain(error), hint) }
}

/// Why it went no further.
pub(super) struct Failed {
    pub(super) error: ConnectFailed,
    /// Whether the host had too many logins at that moment, and nothing ran there.
    pub(super) crowded: bool,
}

/// It went no further. Where the stream ended without a word, ssh says why.
pub(super) async fn of_stop(node: &str, stop: Stop, (stream, noise): (ByteStream, String)) -> Failed {
    let error = match stop {
        Stop::Ended { step } => {
            let error = stream.explain(false, LAST_WORDS).await;
            let crowded = step == Step::Login && error.kind == PlaceErrorKind::Reset;
            return Failed { error: ended(node, step, error, &noise), crowded };
        }
        Stop::Late { step: Step::Login, after } => {
            let error = stream.explain(false, Duration::ZERO).await;
            let said = [error.detail.as_str(), &noise].into_iter().find(|said| !said.is_empty());
            let said = said.map(|said| format!(" ({said})")).unwrap_or_default();
            let message = format!("nothing was heard of it within {}{said}", short(after));
            ConnectFailed { passing: true, ..failed(node, Step::Login, message, error.hint()) }
        }
        Stop::Late { step, after } => {
            let message = format!("it came to a halt for {}", short(after));
            let hint = "see whether the machine or the network to it is overloaded";
            ConnectFailed { passing: true, ..failed(node, step, message, hint) }
        }
        Stop::Said { step, kind, text } => said(node, step, &kind, &text),
        Stop::Odd { step, line } => {
            let message = format!("it says what isn't understood: {line}");
            failed(node, step, message, "let this harness and the one there be of the same version")
        }
        Stop::NoRoom { free, needed } => {
            let message = format!("{} are free there, the agent needs {}", bytes(free), bytes(needed));
            failed(
                node,
                Step::Copy,
                message,
                "make room there, or set XDG_STATE_HOME there to a roomier folder",
            )
        }
        Stop::Program(error) => no_program(node, &error),
    };
    Failed { error, crowded: false }
}

/// ssh, sudo or the shell there ended.
fn ended(node: &str, step: Step, error: PlaceError, noise: &str) -> ConnectFailed {
    use PlaceErrorKind as Kind;
    // Where ssh has nothing to complain about, what was printed instead of our words may tell.
    let noise = if error.kind == Kind::Other { noise } else { "" };
    let said =
        [noise, &error.detail].into_iter().filter(|said| !said.is_empty()).collect::<Vec<_>>().join("; ");
    let detail = if said.is_empty() { String::new() } else { format!(": {said}") };
    if error.kind == Kind::Other && step != Step::Login {
        let message = format!("what ran there ended{detail}");
        return failed(node, step, message, "see what was said, and daemon.log in the agent's folder there");
    }
    let passing = matches!(
        error.kind,
        Kind::Unreachable
            | Kind::Refused
            | Kind::TimedOut
            | Kind::Reset
            | Kind::Lost
            | Kind::SharedConnectionGone
            | Kind::SessionRefused
            | Kind::StartTimedOut
    );
    let step = match (error.hop, step) {
        (Some(HopKind::Sudo), Step::Login) => "become root",
        _ => step.text(),
    };
    let message = match error.kind {
        Kind::Lost => format!("the connection was lost{detail}"),
        Kind::Other => format!("the login ended{detail}"),
        kind => format!("{kind}{detail}"),
    };
    let hint = match error.kind {
        Kind::Lost => "try again; what was begun there is taken up, not done twice".to_owned(),
        Kind::Other => "check that `sh` runs there for this user: `ssh HOST sh -c true`".to_owned(),
        Kind::SudoPasswordNeeded | Kind::SudoNotAllowed => {
            "`USER ALL=(ALL) NOPASSWD: ALL` in /etc/sudoers.d/harness there, or no `sudo: true` for the node"
                .to_owned()
        }
        _ => error.hint().to_owned(),
    };
    ConnectFailed { node: node.to_owned(), step, message, hint, passing }
}

/// The script there said what it was.
fn said(node: &str, step: Step, kind: &str, text: &str) -> ConnectFailed {
    let lower = text.to_lowercase();
    let full = ["no space left", "quota exceeded"].iter().any(|words| lower.contains(words));
    let (message, hint) = match kind {
        "arch" => (
            format!(
                "the machine is {text}, and there is no agent for that; this harness is {}",
                program::own_arch()
            ),
            format!(
                "build one: `{BUILD} {text}-unknown-linux-musl`, and name its folder in HARNESS_AGENT_DIR"
            ),
        ),
        "session" => (
            "sessions there take their processes with them when they end (KillUserProcesses)".into(),
            format!("`sudo loginctl enable-linger {text}` there, and the agent gets a scope of its own"),
        ),
        "home" => (text.to_owned(), "give the user a home folder there, or set XDG_STATE_HOME there".into()),
        "folder" | "copy" if full => (
            format!("there is no room: {text}"),
            "make room there, or set XDG_STATE_HOME there to a roomier folder".into(),
        ),
        "folder" if step == Step::Remove => (
            format!("everything there has stopped, but its folder stays: {text}"),
            "remove it there by hand".into(),
        ),
        "folder" => (
            format!("can't write there: {text}"),
            "let the user write to that folder there, or set XDG_STATE_HOME there".into(),
        ),
        "noexec" => (
            format!("no program can be run from {text} (noexec)"),
            "mount it without noexec there, or set XDG_STATE_HOME there to a folder elsewhere".into(),
        ),
        "tools" => (format!("there is no {text} there"), "install coreutils or busybox there".into()),
        "copy" => (format!("the copy failed: {text}"), "try again; see what was said".into()),
        "hash" => (
            "what came there isn't what was sent".into(),
            "try again: the program may just have been built anew".into(),
        ),
        "run" => (
            format!("the agent doesn't run there: {text}"),
            format!(
                "build one that needs nothing of that machine: `{BUILD} {}-unknown-linux-musl`, and name its folder in \
                 HARNESS_AGENT_DIR",
                program::own_arch()
            ),
        ),
        "stop" => (
            format!("what runs there can't be stopped: {text}"),
            "see what was said; what runs there runs on".into(),
        ),
        "start" => {
            (text.to_owned(), "the daemon's own words are in daemon.log in the agent's folder there".into())
        }
        other => {
            (format!("{other} {text}"), "let this harness and the one there be of the same version".into())
        }
    };
    let step = match kind {
        "copy" | "hash" | "run" => Step::Copy,
        _ => step,
    };
    let passing = kind == "hash" || (kind == "copy" && !full);
    ConnectFailed { passing, ..failed(node, step, message, hint) }
}

fn failed(node: &str, step: Step, message: impl Into<String>, hint: impl Into<String>) -> ConnectFailed {
    let (message, hint) = (message.into(), hint.into());
    ConnectFailed { node: node.to_owned(), step: step.text(), message, hint, passing: false }
}
