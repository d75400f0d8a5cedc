//! Running the agent's own program on a node: for what is read there, or run beside a service there.

use super::reach::{self, NoWay};
use command_executor::command::Command;
use command_executor::launcher::{Launcher, LocalLauncher, SshLauncher, Sudo, SudoLauncher};
use indexmap::IndexMap;
use orchestrator::model::Node;
use std::ffi::OsString;

/// The newest program of the agent of project $1, with the arguments after it. As in `agent/bring.sh`, which puts it there.
const RUN: &str = r#"case $XDG_STATE_HOME in /*) ;; *) XDG_STATE_HOME=$HOME/.local/state;; esac; dir=$XDG_STATE_HOME/harness/agents/$1; shift; bin=$(ls -t "$dir"/bin/harness-* 2>/dev/null | head -n 1); [ -n "$bin" ] || { echo "harness: no agent of this project is there" >&2; exit 127; }; exec "$bin" --state-dir "$dir" "$@""#;
/// The same for an agent that runs as root.
const RUN_AS_ROOT: &str = "HOME=~root; unset XDG_STATE_HOME; ";

/// A node's agent, as a place to run its program in.
pub(crate) struct There {
    pub(crate) launcher: Box<dyn Launcher>,
    project_id: String,
    root: bool,
}

impl There {
    /// The agent of the project `project_id` on the node `name`.
    pub(crate) fn of(nodes: &IndexMap<String, Node>, name: &str, project_id: &str) -> Result<Self, NoWay> {
        let host = reach::host_of(nodes, name, crate::elsewhere::ssh_config())?;
        let root = nodes.get(name).is_some_and(|node| node.sudo);
        let ssh = SshLauncher::new(LocalLauncher::new(), host);
        let launcher: Box<dyn Launcher> =
            if root { Box::new(SudoLauncher::new(ssh, Sudo::new())) } else { Box::new(ssh) };
        Ok(Self { launcher, project_id: project_id.to_owned(), root })
    }

    /// `harness ARGUMENTS` there, of the agent's own build and for its services.
    pub(crate) fn harness(&self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Command {
        let script = if self.root { format!("{RUN_AS_ROOT}{RUN}") } else { RUN.to_owned() };
        Command::new("sh").args(["-c", &script, "sh", &self.project_id]).args(arguments)
    }
}
