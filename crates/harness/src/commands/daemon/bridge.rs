//! `harness daemon bridge`: what runs on a node, at the far end of an ssh connection.
//!
//! It makes sure that the daemon of a state folder runs and is of this build, then copies its own input and output from and
//! to the daemon's socket. One line tells whoever brought it up how that went; see `node/agent`.

use super::restart;
use crate::api::{self, DaemonInfo};
use crate::connect::{self, ConnectError, SOCKET};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::node::agent::word;
use crate::project::Project;
use async_executor::LocalExecutor;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes that are copied at once.
const BLOCK: usize = 64 * 1024;
/// How long the daemon may take to read what is written to it: it reads always, unless it hangs.
const READS: Duration = Duration::from_secs(60);

/// Connect standard input and output with the daemon of a state folder, which is started if none runs
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The state folder; made if it isn't there
    #[arg(long, value_name = "FOLDER")]
    state_dir: PathBuf,
    /// What the line begins with that tells how it went
    #[arg(long, default_value = "harness", hide_default_value = true)]
    mark: String,
}

pub(super) fn run(args: Args) -> Result<Exit, CommandError> {
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(no_end)?);
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(no_end)?);
    let project = Project::at(args.state_dir);
    let say = |text: &str| (&stdout).write_all(word::line(&args.mark, text).as_bytes()).map_err(no_end);
    let ready = connect::block_on(async |executor| ready(executor, &project).await)
        .and_then(|info| Ok((info, socket(&project.state_dir.join(SOCKET)).map_err(no_socket)?)));
    match ready {
        Ok((info, socket)) => {
            let up = word::Up { build: info.build, version: info.version, pid: info.pid };
            let up = serde_json::to_string(&up).map_err(|error| no_end(error.into()))?;
            say(&format!("{} {up}", word::READY))?;
            copy(stdin, stdout, socket);
            Ok(Exit::OK)
        }
        Err(error) => {
            say(&format!("{} start {}", word::FAIL, error.in_a_line()))?;
            Err(error)
        }
    }
}

fn no_end(error: io::Error) -> CommandError {
    CommandError::io("can't use standard input and output", &error)
}

fn no_socket(error: io::Error) -> CommandError {
    CommandError::io("can't connect to the daemon that was just there", &error).exit(Exit::UNREACHABLE)
}

/// The daemon that runs; one of another build is exchanged, and its services go on.
async fn ready(executor: &LocalExecutor<'static>, project: &Project) -> Result<DaemonInfo, CommandError> {
    project.create_state_dir()?;
    match connect::or_start(executor, project).await {
        Ok(daemon) => {
            // One of another version may say it in a way that isn't understood.
            let info = daemon.call::<DaemonInfo>(api::DAEMON_STATUS, &serde_json::json!({})).await;
            if let Some(info) = info.ok().filter(|info| info.build == crate::daemon::build_id()) {
                return Ok(info);
            }
        }
        Err(ConnectError::Version { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    restart::exchange(executor, project).await.map(|(_, info)| info)
}

/// A connection to the socket, whose path may be longer than an address holds.
fn socket(path: &Path) -> io::Result<UnixStream> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
}

/// Copies in both directions until either end is closed.
fn copy(stdin: File, stdout: File, socket: UnixStream) {
    let _ = socket.set_write_timeout(Some(READS));
    if let Ok(there) = socket.try_clone() {
        // It ends with the program.
        std::thread::spawn(move || {
            blocks(&stdin, &there);
            // So the loop below ends too.
            let _ = there.shutdown(Shutdown::Both);
        });
        blocks(&socket, &stdout);
    }
}

/// Copies blocks as they come. An end that is closed or broken is the end.
fn blocks(mut from: impl Read, mut to: impl Write) {
    let mut block = vec![0; BLOCK];
    loop {
        match from.read(&mut block) {
            Ok(0) => return,
            Ok(count) => {
                if to.write_all(block.get(..count).unwrap_or_default()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
