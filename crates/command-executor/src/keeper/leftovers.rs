//! What commands of a daemon itself (its health checks) have left: such a command dies with its daemon, but not what it
//! has started. Each carries a marker, by which the next daemon finds it.

use super::{identity, spec::RunId, tree};
use rustix::process::{Signal, pidfd_send_signal};
use std::{io, path::Path};

/// The variable that marks what a daemon's own commands start: `STATE_FOLDER#DAEMON`.
const MARKER: &str = "HARNESS_COMMAND_OF";

/// How often it is looked again for what was started meanwhile.
const ROUNDS: usize = 100;

/// One daemon's marker.
#[derive(Clone, Debug)]
pub(super) struct Marker {
    /// With the sign that ends it.
    folder: String,
    value: String,
}

impl Marker {
    /// A new one, for the daemon of this state folder.
    pub(super) fn new(state: &Path) -> Self {
        let folder = format!("{}#", state.display());
        let value = format!("{folder}{}", RunId::generate());
        Self { folder, value }
    }

    /// Name and value.
    pub(super) fn pair(&self) -> (&'static str, &str) {
        (MARKER, &self.value)
    }

    /// Whether a process was started by a command of an earlier daemon of the same folder.
    fn is_left(&self, pid: i32) -> io::Result<bool> {
        let value = tree::variable(pid, MARKER)?.unwrap_or_default();
        Ok(value.starts_with(self.folder.as_bytes()) && value != self.value.as_bytes())
    }

    /// Kills what earlier daemons' commands have left, until there is nothing more; how many that were.
    pub(super) fn end_left(&self) -> io::Result<usize> {
        let mut ended = 0;
        for _ in 0..ROUNDS {
            let mut left = 0;
            for pid in tree::processes()? {
                // Looked at again after the descriptor was opened, so that it is that process's own environment.
                if self.is_left(pid)?
                    && let Ok(process) = identity::open(pid)
                    && self.is_left(pid)?
                    && identity::Stat::read(pid).is_ok_and(|stat| stat.is_alive())
                    && pidfd_send_signal(&process, Signal::KILL).is_ok()
                {
                    left += 1;
                }
            }
            if left == 0 {
                break;
            }
            ended += left;
        }
        Ok(ended)
    }
}
