//! Connections that are shared: masters of ssh, several for a host, each with its socket.
//!
//! A login costs forty times what a session costs over a connection that is there. So commands go through masters: ssh
//! processes in the background (ControlMaster) that end by themselves some time after their last session. A server
//! allows so many sessions on a connection (10 unless configured) and so few logins at once; both are counted here.
//!
//! A client that finds its master gone would make a connection of its own without a word. Ours are given a way to the
//! host that only says so (`ProxyCommand`), so that nothing runs where it wasn't meant to, and the next try makes a new
//! master.

use super::host::SshHost;
use crate::command::Command;
use crate::executor::{ExecuteError, Executor};
use crate::launcher::error::{NO_MASTER, login_failed};
use crate::launcher::far;
use crate::launcher::{LaunchError, Launcher, PlaceErrorKind};
use crate::process::{ProcessEvents, ProcessHandle};
use async_lock::{Mutex as AsyncMutex, Semaphore};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Sessions on one connection: below sshd's MaxSessions of 10, which others may use too.
const SESSIONS: usize = 8;
/// Logins at a host at once: below the 10 of sshd's MaxStartups.
const LOGINS: usize = 8;
/// How long a connection lives on with no session.
const IDLE: Duration = Duration::from_secs(60);
/// How long a session is kept for somebody who asked for it.
const PROMISE: Duration = Duration::from_secs(5);
/// How long a session may wait for its command; the shell there gives up after 20 s.
const WAITING: Duration = Duration::from_secs(15);
/// How soon a command must follow another for a third to be expected.
const CLOSELY: Duration = Duration::from_secs(5);
/// Longest path of a folder: ssh needs room for a name behind it, and for a longer one while it makes the socket.
const LONGEST: usize = 70;

/// Why connections can't be shared.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The folder can't be made or looked at.
    #[error("can't use the folder {} for shared connections", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may enter the folder: they could use the connections.
    #[error("the folder {} for shared connections must be yours alone (mode 0700)", .folder.display())]
    NotPrivate {
        /// The folder.
        folder: PathBuf,
    },
    /// A socket in the folder would have too long a path.
    #[error("the folder {} for shared connections has too long a path: at most {LONGEST} bytes", .folder.display())]
    TooLong {
        /// The folder.
        folder: PathBuf,
    },
}

/// Shared connections, for any number of launchers. They end by themselves a minute after their last use;
/// [`SshLauncher::close`](super::SshLauncher::close) ends them at once.
pub struct Connections {
    folder: PathBuf,
    /// Nobody else's names.
    prefix: String,
    idle: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hosts: HashMap<SshHost, Arc<Masters>>,
    made: usize,
}

/// The connections to one host.
struct Masters {
    logins: Semaphore,
    state: Mutex<MastersState>,
}

struct MastersState {
    slots: Vec<Arc<Slot>>,
    promised: Vec<(Instant, Session)>,
    /// A session that waits for its command, and since when.
    waiting: Option<Waiting>,
    /// When the last command began.
    begun: Option<Instant>,
    limit: usize,
}

/// A session that was made before its command.
struct Waiting {
    since: Instant,
    path: PathBuf,
    handle: ProcessHandle,
    events: ProcessEvents,
}

/// A connection, or a place for one.
struct Slot {
    path: PathBuf,
    sessions: Mutex<usize>,
    master: AsyncMutex<Master>,
}

enum Master {
    Down,
    Up,
    Failed(LaunchError),
}

/// A session's place on a connection, given back when it is dropped.
pub(super) struct Session {
    slot: Arc<Slot>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut sessions = lock(&self.slot.sessions);
        *sessions = sessions.saturating_sub(1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Connections {
    /// Connections whose sockets lie in that folder. It is made if it isn't there (but not what it lies in), must belong
    /// to this user alone, and its path is at most 70 bytes long.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    pub fn new(folder: impl Into<PathBuf>) -> Result<Self, ConnectionError> {
        let folder = folder.into();
        if folder.as_os_str().len() > LONGEST {
            return Err(ConnectionError::TooLong { folder });
        }
        let made = match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        let found = match made.and_then(|()| fs::symlink_metadata(&folder)) {
            Ok(found) => found,
            Err(source) => return Err(ConnectionError::Folder { folder, source }),
        };
        let is_ours = found.uid() == rustix::process::geteuid().as_raw();
        if !found.is_dir() || !is_ours || found.mode() & 0o077 != 0 {
            return Err(ConnectionError::NotPrivate { folder });
        }
        let prefix = format!("{:08x}", fastrand::u32(..));
        Ok(Self { folder, prefix, idle: IDLE, state: Mutex::new(State::default()) })
    }

    /// How long a connection lives on with no session, in whole seconds of at least one; a minute unless told otherwise.
    #[must_use]
    pub fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    fn masters(&self, host: &SshHost) -> Arc<Masters> {
        let mut state = lock(&self.state);
        if let Some(masters) = state.hosts.get(host) {
            return Arc::clone(masters);
        }
        let masters = Arc::new(Masters {
            logins: Semaphore::new(LOGINS),
            state: Mutex::new(MastersState {
                slots: Vec::new(),
                promised: Vec::new(),
                waiting: None,
                begun: None,
                limit: SESSIONS,
            }),
        });
        state.hosts.insert(host.clone(), Arc::clone(&masters));
        masters
    }

    fn next_path(&self) -> PathBuf {
        let mut state = lock(&self.state);
        state.made += 1;
        self.folder.join(format!("{}-{}", self.prefix, state.made))
    }

    /// A session on a connection that is up: one that was asked for, or any.
    pub(super) fn session(&self, host: &SshHost) -> Option<Session> {
        let masters = self.masters(host);
        let mut state = lock(&masters.state);
        state.forget_old_promises();
        while let Some((_, session)) = state.promised.pop() {
            if answers(&session.slot.path) {
                return Some(session);
            }
        }
        drop(state);
        self.free(&masters)
    }

    /// A session on any connection that is up and has room.
    fn free(&self, masters: &Masters) -> Option<Session> {
        let state = lock(&masters.state);
        let limit = state.limit;
        let is_up = |slot: &Slot| slot.master.try_lock().is_some_and(|master| matches!(*master, Master::Up));
        state
            .slots
            .iter()
            .filter(|slot| is_up(slot) && answers(&slot.path))
            .find_map(|slot| slot.reserve(limit))
    }

    /// A session that waits for its command, if one does. It can't be given back.
    pub(super) fn waiting(&self, host: &SshHost) -> Option<(ProcessHandle, ProcessEvents)> {
        let masters = self.masters(host);
        let mut state = lock(&masters.state);
        let Waiting { since, path, handle, events } = state.waiting.take()?;
        if since.elapsed() > WAITING || handle.has_ended() || !answers(&path) {
            return None;
        }
        // What was promised isn't needed.
        state.promised.pop();
        Some((handle, events))
    }

    /// Says that a command begins. Where they follow each other closely, the next one finds a session that waits.
    pub(super) fn begun(
        &self,
        host: &SshHost,
        start: impl FnOnce(&Session) -> Result<(ProcessHandle, ProcessEvents), LaunchError>,
    ) {
        let masters = self.masters(host);
        let soon = {
            let mut state = lock(&masters.state);
            let last = state.begun.replace(Instant::now());
            let fresh = state.waiting.as_ref().is_some_and(|waiting| waiting.since.elapsed() < WAITING);
            last.is_some_and(|last| last.elapsed() < CLOSELY) && !fresh
        };
        // That it can't be had now is no loss.
        let Some(session) = soon.then(|| self.free(&masters)).flatten() else { return };
        if let Ok((handle, events)) = start(&session) {
            let path = session.slot.path.clone();
            handle.hold(session);
            lock(&masters.state).waiting = Some(Waiting { since: Instant::now(), path, handle, events });
        }
    }

    /// Makes sure that a session can be had at once: makes a connection if those that are there are full.
    pub(super) async fn prepare<L: Launcher>(&self, host: &SshHost, inner: &L) -> Result<(), LaunchError> {
        let masters = self.masters(host);
        let session = self.reserve(&masters);
        let slot = Arc::clone(&session.slot);
        let mut master = slot.master.lock().await;
        // Whoever waited for the lock gets what the one who held it got.
        let failed = match &*master {
            Master::Up if answers(&slot.path) => None,
            Master::Failed(error) => Some(error.shared()),
            Master::Up | Master::Down => {
                // Left by one that was killed; ssh would refuse to use the name.
                let _ = fs::remove_file(&slot.path);
                let _permit = masters.logins.acquire().await;
                match self.log_in(host, &slot.path, inner).await {
                    Ok(()) => {
                        *master = Master::Up;
                        None
                    }
                    Err(error) => {
                        let told = error.shared();
                        *master = Master::Failed(error);
                        lock(&masters.state).slots.retain(|other| !Arc::ptr_eq(other, &slot));
                        Some(told)
                    }
                }
            }
        };
        if let Some(error) = failed {
            return Err(error);
        }
        lock(&masters.state).promised.push((Instant::now(), session));
        Ok(())
    }

    /// A place on any connection, also one that is being made; the place for a new one if all are full.
    fn reserve(&self, masters: &Masters) -> Session {
        let mut state = lock(&masters.state);
        state.forget_old_promises();
        let limit = state.limit;
        if let Some(session) = state.slots.iter().find_map(|slot| slot.reserve(limit)) {
            return session;
        }
        let slot = Arc::new(Slot {
            path: self.next_path(),
            sessions: Mutex::new(1),
            master: AsyncMutex::new(Master::Down),
        });
        state.slots.push(Arc::clone(&slot));
        Session { slot }
    }

    /// Makes a connection that stays in the background.
    async fn log_in<L: Launcher>(&self, host: &SshHost, path: &Path, inner: &L) -> Result<(), LaunchError> {
        let mut argv = host.client();
        argv.extend(["-f", "-N", "-T", "-o", "ControlMaster=yes", "-o"].map(OsString::from));
        argv.push(format!("ControlPersist={}", self.idle.as_secs().max(1)).into());
        argv.extend(["-S".into(), path.as_os_str().to_owned()]);
        argv.extend(host.destination());
        let hosts = u32::try_from(host.jumps.len() + 1).unwrap_or(u32::MAX);
        let patience = host.connect_timeout.saturating_mul(hosts) + Duration::from_secs(30);
        let mut command = far::of_argv(argv).timeout(patience);
        // The master leaves it, but not the client that leads to a jump host.
        command.leaves_group = true;
        let (exit, said) = match Executor::new(inner).run(&command).await {
            Ok(done) if done.exit.is_success() => return Ok(()),
            Ok(done) => (Some(done.exit), done.stderr.bytes),
            Err(ExecuteError::TimedOut { stderr, .. }) => (None, stderr.bytes),
            Err(ExecuteError::Launch(error)) => return Err(error),
            Err(error) => (None, error.to_string().into_bytes()),
        };
        Err(LaunchError::Place(Box::new(login_failed(&host.label(), host.program.clone(), exit, &said))))
    }

    /// Learns from what went wrong.
    pub(super) fn doubt(&self, host: &SshHost, kind: PlaceErrorKind) {
        let masters = self.masters(host);
        let mut state = lock(&masters.state);
        if kind == PlaceErrorKind::SessionRefused {
            let most = state.slots.iter().map(|slot| *lock(&slot.sessions)).max().unwrap_or(1);
            state.limit = state.limit.min(most.max(1));
        }
        state.promised.retain(|(_, session)| answers(&session.slot.path));
    }

    /// Ends the connections to a host; what runs over them is lost.
    pub(super) async fn close<L: Launcher>(&self, host: &SshHost, inner: &L) -> Result<(), LaunchError> {
        let Some(masters) = lock(&self.state).hosts.remove(host) else { return Ok(()) };
        let slots = {
            let mut state = lock(&masters.state);
            state.promised.clear();
            state.waiting = None;
            std::mem::take(&mut state.slots)
        };
        for slot in slots {
            let _master = slot.master.lock().await;
            if !answers(&slot.path) {
                let _ = fs::remove_file(&slot.path);
                continue;
            }
            let mut argv = client(&slot.path, host);
            argv.extend(["-O", "exit"].map(OsString::from));
            argv.extend(host.destination());
            let command: Command = far::of_argv(argv).timeout(host.connect_timeout);
            // One that doesn't answer any more is given up by its keep-alives.
            if let Err(ExecuteError::Launch(error)) = Executor::new(inner).run(&command).await {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl MastersState {
    fn forget_old_promises(&mut self) {
        self.promised.retain(|(since, _)| since.elapsed() < PROMISE);
    }
}

impl Slot {
    fn reserve(self: &Arc<Self>, limit: usize) -> Option<Session> {
        let mut sessions = lock(&self.sessions);
        if *sessions >= limit {
            return None;
        }
        *sessions += 1;
        Some(Session { slot: Arc::clone(self) })
    }
}

impl Session {
    /// Program and options for a session.
    pub(super) fn client(&self, host: &SshHost) -> Vec<OsString> {
        client(&self.slot.path, host)
    }
}

/// Program and options for whatever uses a connection and makes none.
fn client(path: &Path, host: &SshHost) -> Vec<OsString> {
    let mut argv = host.options();
    argv.extend(["-o", "ControlMaster=no", "-o"].map(OsString::from));
    argv.push(format!("ProxyCommand=echo {NO_MASTER} >&2").into());
    argv.extend(["-S".into(), path.as_os_str().to_owned()]);
    argv
}

/// Whether somebody listens there.
fn answers(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else { return true };
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    match connect(&socket, &address) {
        // A queue that is full belongs to somebody.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_folder_is_made_for_its_owner_alone_and_refused_otherwise() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("c");
        Connections::new(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        Connections::new(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(Connections::new(&folder), Err(ConnectionError::NotPrivate { .. })));
        let long = base.path().join("x".repeat(80));
        assert!(matches!(Connections::new(long), Err(ConnectionError::TooLong { .. })));
        let nowhere = base.path().join("a/b");
        assert!(matches!(Connections::new(nowhere), Err(ConnectionError::Folder { .. })));
    }

    #[test]
    fn a_full_connection_gets_another_beside_it_and_a_session_that_ends_makes_room() {
        let base = tempfile::tempdir().unwrap();
        let connections = Connections::new(base.path().join("c")).unwrap();
        let masters = connections.masters(&SshHost::new("h"));
        let sessions: Vec<Session> = (0..SESSIONS * 2 + 1).map(|_| connections.reserve(&masters)).collect();
        assert_eq!(lock(&masters.state).slots.len(), 3);
        drop(sessions);
        assert!(lock(&masters.state).slots.iter().all(|slot| *lock(&slot.sessions) == 0));
        let _session = connections.reserve(&masters);
        assert_eq!(lock(&masters.state).slots.len(), 3);
    }
}
