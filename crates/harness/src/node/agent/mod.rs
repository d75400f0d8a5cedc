//! The agent of a project on a node: brought up over ssh, and connected to.
//!
//! ```text
//! here                                              there
//! ssh … sh ──line: mark, id, programs, bring.sh──►  agents/ID/bin/harness-HASH there?
//!   ◄── link …  have ─────────────────────────────  yes
//!   ◄── link …  need ARCH KIB gzip ───────────────  no: room, rights, tools were looked at
//!       N gzip, N bytes ──────────────────────────► bin/new-PID; hash, a trial run, then renamed
//!   ◄── copied ───────────────────────────────────
//!   ◄── ready {build, version, pid} ──────────────  exec harness daemon bridge: starts or exchanges the daemon
//!   ◄══════════ the daemon's socket ═══════════════►
//! ```
//!
//! All of it is one ssh session. Until the program is renamed into place nothing there is changed that the script doesn't
//! take back when it fails, and a copy that was cut off is swept away by the next.

mod bring;
mod fail;
mod program;
pub(crate) mod word;

#[cfg(test)]
mod tests;

pub(crate) use word::Up;

use super::reach;
use async_io::Timer;
use async_lock::Semaphore;
use bring::{Script, Talk};
use command_executor::command::Command;
use command_executor::launcher::{Launcher, LocalLauncher, SshHost, SshLauncher, Sudo, SudoLauncher};
use command_executor::process::ByteStream;
use futures_util::future::BoxFuture;
use indexmap::IndexMap;
use orchestrator::model::Node;
use orchestrator::node::{ConnectFailed, Connection, Connector};
use program::{Program, ProgramError, Programs};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The folder of agents' programs for machines that aren't as this one: `harness-x86_64`, `harness-aarch64`.
const AGENT_DIR: &str = "HARNESS_AGENT_DIR";

/// Logins at once, which may all go to one host or through it: below the 10 of sshd's MaxStartups.
const LOGINS: usize = 8;
/// How often a host is asked that has too many logins.
const ATTEMPTS: u32 = 6;
/// How long the second try waits, about; each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// A shell that evaluates the line that comes first. The rest of its input is the script's.
const READ: &str = r#"IFS= read -r _hs && eval "$_hs""#;

/// Who hears how it goes on.
pub(crate) type Progress<'a> = &'a (dyn Fn(String) + Send + Sync);

/// Brings up the agents of a project and connects to them.
pub(crate) struct Agents {
    project_id: String,
    ssh_config: Option<OsString>,
    programs: Programs,
    logins: Semaphore,
}

/// An agent that was brought up.
pub(crate) struct Brought {
    /// The way to it.
    pub(crate) connection: Connection,
    /// What it is.
    pub(crate) up: Up,
    /// Bytes that its program took on the way; `None` where it was there already.
    pub(crate) copied: Option<u64>,
}

impl Agents {
    /// The agents of the project with that id. Programs for other machines, and the file that ssh is configured by, are
    /// where the environment says.
    pub(crate) fn of(project_id: impl Into<String>) -> Self {
        let folder = std::env::var_os(AGENT_DIR).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        Self {
            project_id: project_id.into(),
            ssh_config: crate::elsewhere::ssh_config(),
            programs: Programs::new(folder),
            logins: Semaphore::new(LOGINS),
        }
    }

    /// The programs that can be sent: for which kind of machine, and the 16 digits that they are named by there.
    pub(crate) async fn programs(&self) -> Result<Vec<(String, String)>, ProgramError> {
        let short = |program: Program| (program.arch, program.hash.chars().take(16).collect());
        Ok(self.programs.known().await?.into_iter().map(short).collect())
    }

    /// Brings up the agent of a node and connects to it.
    pub(crate) async fn bring(
        &self,
        nodes: &IndexMap<String, Node>,
        name: &str,
        progress: Progress<'_>,
    ) -> Result<Brought, ConnectFailed> {
        let known = self.programs.known().await.map_err(|error| fail::no_program(name, &error))?;
        let Way { mut talk, link, host } = self.enter(Script::Bring, nodes, name, &known).await?;
        match talk.bring(&known, &self.programs, progress).await {
            Ok(bring::Done { up, copied }) => {
                let direct = reach::is_direct(&host).await;
                let (near, far) = if direct { addresses(&link) } else { (None, None) };
                let connection = Connection { stream: Box::new(talk.into_stream()), near, far };
                Ok(Brought { connection, up, copied })
            }
            Err(stop) => Err(fail::of_stop(name, stop, talk.into_parts()).await.error),
        }
    }

    /// Stops all that runs under the agent of a node, ends it and removes what is there of it. The answer: what was said
    /// about that; `None` if there is none.
    pub(crate) async fn remove(
        &self,
        nodes: &IndexMap<String, Node>,
        name: &str,
    ) -> Result<Option<String>, ConnectFailed> {
        let Way { mut talk, .. } = self.enter(Script::Remove, nodes, name, &[]).await?;
        match talk.remove().await {
            Ok(said) => Ok(said),
            Err(stop) => Err(fail::of_stop(name, stop, talk.into_parts()).await.error),
        }
    }

    /// Logs in, as the agent's user, and has a script begun there. A host that has too many logins just now is asked again,
    /// a few times.
    async fn enter(
        &self,
        script: Script,
        nodes: &IndexMap<String, Node>,
        name: &str,
        known: &[Program],
    ) -> Result<Way, ConnectFailed> {
        let host = reach::host_of(nodes, name, self.ssh_config.clone())
            .map_err(|error| fail::no_way(name, &error))?;
        let root = nodes.get(name).is_some_and(|node| node.sudo);
        let ssh = SshLauncher::new(LocalLauncher::new(), host.clone());
        let place: Box<dyn Launcher> =
            if root { Box::new(SudoLauncher::new(ssh, Sudo::new())) } else { Box::new(ssh) };
        let shell = Command::new("sh").args(["-c", READ]);
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let permit = self.logins.acquire().await;
            let stream = place.pipe(&shell).map_err(|error| fail::no_client(name, &error))?;
            let mut talk = Talk::new(stream);
            let stop = match talk.begin(script, &self.project_id, known, root).await {
                Ok(link) => return Ok(Way { talk, link, host }),
                Err(stop) => stop,
            };
            let failed = fail::of_stop(name, stop, talk.into_parts()).await;
            drop(permit);
            if !failed.crowded || attempt == ATTEMPTS {
                return Err(failed.error);
            }
            // Not all of them at the same time.
            let jitter =
                Duration::from_millis(uuid::Uuid::new_v4().as_bytes().first().copied().unwrap_or(0).into());
            Timer::after(pause + jitter).await;
            pause *= 2;
            attempt += 1;
        }
    }
}

/// A shell on a node.
struct Way {
    talk: Talk<ByteStream>,
    /// What sshd says of the connection.
    link: String,
    host: SshHost,
}

impl Connector for Agents {
    fn connect<'a>(
        &'a self,
        nodes: &'a IndexMap<String, Node>,
        name: &'a str,
        progress: Progress<'a>,
    ) -> BoxFuture<'a, Result<Connection, ConnectFailed>> {
        Box::pin(async move { self.bring(nodes, name, progress).await.map(|brought| brought.connection) })
    }
}

/// The addresses of this machine and of that one in `SSH_CONNECTION`: client, its port, server, its port.
fn addresses(link: &str) -> (Option<IpAddr>, Option<IpAddr>) {
    let words: Vec<&str> = link.split(' ').collect();
    let address = |at: usize| words.get(at)?.parse().ok().map(|address: IpAddr| address.to_canonical());
    (address(0), address(2))
}
