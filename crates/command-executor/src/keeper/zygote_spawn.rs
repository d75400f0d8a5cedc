//! The one place that starts a zygote.

use super::zygote::ZYGOTE;
use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Executes the host program as a zygote, with nothing of ours but the listener: no environment, no standard streams.
pub(super) fn spawn_zygote(
    program: &Path,
    state: &Path,
    build: &str,
    listener: OwnedFd,
) -> io::Result<Child> {
    Command::new(program)
        .arg0(ZYGOTE)
        .arg(state)
        .arg(build)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
