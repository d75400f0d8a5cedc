//! Places as data: what configuration says, and the launcher that it means.

use super::Launcher;
use super::docker::{DockerExec, DockerExecLauncher};
use super::ssh::{Connections, SshHost, SshLauncher};
use super::sudo::{Sudo, SudoLauncher};
use std::sync::Arc;

/// A step from one place to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To another machine.
    Ssh(SshHost),
    /// To another user.
    Sudo(Sudo),
    /// Into a container.
    Docker(DockerExec),
}

/// The place at the end of a way that begins at `here`: `[Ssh(a), Sudo(root), Docker(c)]` is the container c of machine a,
/// reached as root there.
///
/// The first machine's connections are shared if `connections` are given. Where ssh runs on another machine or as another
/// user than here, the user's ssh_config there decides.
pub fn launcher_for(
    here: impl Launcher + 'static,
    way: &[Place],
    connections: Option<&Arc<Connections>>,
) -> Box<dyn Launcher> {
    let mut launcher: Box<dyn Launcher> = Box::new(here);
    for (step, place) in way.iter().enumerate() {
        launcher = match place {
            Place::Ssh(host) => {
                let ssh = SshLauncher::new(launcher, host.clone());
                Box::new(match connections {
                    Some(connections) if step == 0 => ssh.with_connections(Arc::clone(connections)),
                    _ => ssh,
                })
            }
            Place::Sudo(sudo) => Box::new(SudoLauncher::new(launcher, sudo.clone())),
            Place::Docker(exec) => Box::new(DockerExecLauncher::new(launcher, exec.clone())),
        };
    }
    launcher
}
