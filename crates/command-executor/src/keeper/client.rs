//! The daemon's side: starts runs, hears reports, passes on wishes.

use super::{
    orphans::Orphans,
    record::{Exit, RecordError, RunState},
    report::{Control, MAX_DATAGRAM, PROTOCOL, Report, StopRequest, decode, encode_as},
    scan::{self, EndedRun, FoundRun},
    socket::{
        self, DAEMON, Frame, Hello, MAX_FRAME, Request, control_name, first_frame, stdin_name, zygote_name,
    },
    spec::{RunId, RunSpec, is_instance_name},
    zygote::{self, Head},
    zygote_spawn::spawn_zygote,
};
use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt, future};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    fs::{DirBuilder, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::DirBuilderExt,
            net::{UnixDatagram, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::Child,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use thiserror::Error;

/// How long a keeper or the zygote may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where and as what keepers are started.
#[derive(Clone, Debug)]
pub struct KeeperOptions {
    /// The state folder; `instances/` and `run/` are made in it.
    pub state: PathBuf,
    /// The host program, which calls [`super::zygote_main`] first in its `main`; `None` is this program.
    pub program: Option<PathBuf>,
    /// This build: a short name (`[A-Za-z0-9_.-]`, at most 32) that changes with the program. Each build has a zygote of
    /// its own.
    pub build: String,
    /// The soft limit of open files that services get unless they ask for another; `None` leaves this process's.
    pub soft_open_files: Option<u64>,
}

/// Why something about keepers didn't work.
#[derive(Debug, Error)]
pub enum KeeperError {
    /// This program can't be a zygote.
    #[error("this program doesn't call zygote_main() first in main, so it can't have keepers")]
    NoZygoteMain,
    /// The build's name can't be part of a file name.
    #[error("`{0}` can't be the name of a build")]
    InvalidBuild(String),
    /// The instance's name can't be the name of a folder.
    #[error("`{0}` can't be the name of an instance")]
    InvalidInstance(String),
    /// There is no program to run.
    #[error("instance {0} has no program to run")]
    NoProgram(String),
    /// The specification is too long.
    #[error("the arguments and environment of {0} are longer than {MAX_FRAME} bytes")]
    TooLong(String),
    /// The state folder can't be made or opened.
    #[error("cannot use the state folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket in the state folder can't be made.
    #[error("cannot make the socket {name}")]
    Socket {
        /// Its name in the folder.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The zygote can't be started.
    #[error("cannot start a zygote from {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Talking to the zygote failed; what was asked may or may not have happened.
    #[error("lost the zygote")]
    Zygote(#[source] io::Error),
    /// The keeper isn't there any more: the run is over, or its keeper was killed. Its record knows.
    #[error("run {run} of {instance} has no keeper any more")]
    KeeperGone {
        /// The instance.
        instance: String,
        /// The run.
        run: RunId,
    },
    /// The keeper doesn't answer.
    #[error("the keeper of {instance} doesn't take messages")]
    KeeperBusy {
        /// The instance.
        instance: String,
    },
    /// Sending to the keeper failed.
    #[error("cannot talk to the keeper of {instance}")]
    Control {
        /// The instance.
        instance: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its standard input can't be written to.
    #[error("cannot write to the standard input of {instance}")]
    Stdin {
        /// The instance.
        instance: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Receiving reports failed.
    #[error("cannot receive reports")]
    Reports(#[source] io::Error),
    /// Looking through processes or records failed.
    #[error("cannot look through {what}")]
    Scan {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record can't be read.
    #[error("cannot tell what became of a run")]
    Record(#[source] RecordError),
    /// Processes of the run can't be ended.
    #[error("processes of {instance} can't be ended: {pids:?}")]
    Left {
        /// The instance.
        instance: String,
        /// The processes.
        pids: Vec<i32>,
    },
}

/// The connection to the zygote, and the child to wait for if we made it.
struct Link {
    stream: Async<UnixStream>,
    child: Mutex<Option<Child>>,
}

#[derive(Default)]
struct LinkState {
    link: Option<Arc<Link>>,
    /// Connections that broke, not yet reported.
    lost: usize,
    /// Zygotes of ours that have ended, or are about to; one that lives on belongs to init when we end.
    ended: Vec<Child>,
}

struct Shared {
    options: KeeperOptions,
    run_folder: OwnedFd,
    reports: Async<UnixDatagram>,
    sender: OwnedFd,
    /// Held while frames are written, and while a zygote is made.
    starting: async_lock::Mutex<()>,
    link: Mutex<LinkState>,
    /// Says that `link` has become another.
    changed: (async_channel::Sender<()>, async_channel::Receiver<()>),
    orphans: Orphans,
    /// Runs whose keepers speak an older protocol, and which.
    older: Mutex<BTreeMap<RunId, u32>>,
}

/// The keepers of one state folder. Cheap to clone; one process at a time may hold it open.
#[derive(Clone)]
pub struct Keepers(Arc<Shared>);

impl std::fmt::Debug for Keepers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keepers").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Keepers {
    /// Makes the folders and the socket that keepers report to. From now on they are heard: look at what exists
    /// ([`Self::adopt`]) after this, so that nothing falls between.
    pub fn open(options: KeeperOptions) -> Result<Self, KeeperError> {
        if options.program.is_none() && !zygote::was_called() {
            return Err(KeeperError::NoZygoteMain);
        }
        let build = &options.build;
        if build.len() > 32 || !is_instance_name(build) {
            return Err(KeeperError::InvalidBuild(build.clone()));
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| KeeperError::Folder { path, source }
        };
        let make =
            |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path));
        make(&options.state)?;
        let state = options.state.canonicalize().map_err(failed(&options.state))?;
        let run = state.join("run");
        make(&run)?;
        make(&state.join("instances"))?;
        let run_folder = socket::open_folder(&run).map_err(|error| failed(&run)(error.into()))?;
        let reports = socket::bound(run_folder.as_fd(), DAEMON, false)
            .map_err(io::Error::from)
            .and_then(|socket| Async::new_nonblocking(UnixDatagram::from(socket)))
            .map_err(|source| KeeperError::Socket { name: DAEMON.into(), source })?;
        let sender = socket::datagram()
            .map_err(|source| KeeperError::Socket { name: "for control".into(), source: source.into() })?;
        Ok(Self(Arc::new(Shared {
            options: KeeperOptions { state, ..options },
            run_folder,
            reports,
            sender,
            starting: async_lock::Mutex::new(()),
            link: Mutex::default(),
            changed: async_channel::bounded(1),
            orphans: Orphans::default(),
            older: Mutex::default(),
        })))
    }

    /// The state folder, canonical.
    pub fn state(&self) -> &Path {
        &self.0.options.state
    }

    /// Hands a run to the zygote, which is started if there is none. Whether it runs is reported later, by
    /// [`Report::Started`] or [`Report::StartFailed`]; if [`Report::ZygoteLost`] comes before that, it may or may not.
    pub async fn start(&self, spec: &RunSpec) -> Result<(), KeeperError> {
        self.start_many(std::slice::from_ref(spec)).await
    }

    /// Like [`Self::start`], for many at once: one message, all of them or (if one is invalid) none.
    pub async fn start_many(&self, specs: &[RunSpec]) -> Result<(), KeeperError> {
        if specs.is_empty() {
            return Ok(());
        }
        let mut frames = Vec::new();
        for spec in specs {
            self.push_start(&mut frames, spec)?;
        }
        let _one_at_a_time = self.0.starting.lock().await;
        for attempt in 0..2 {
            let link = self.linked().await?;
            match write_all(&link.stream, &frames).await {
                Ok(()) => return Ok(()),
                // A zygote that was gone before the first byte: nothing of this was seen by anybody.
                Err((0, _)) if attempt == 0 => self.unlink(&link),
                Err((_, source)) => return Err(KeeperError::Zygote(source)),
            }
        }
        Err(KeeperError::Zygote(io::ErrorKind::ConnectionReset.into()))
    }

    fn push_start(&self, frames: &mut Vec<u8>, spec: &RunSpec) -> Result<(), KeeperError> {
        if !is_instance_name(&spec.instance) {
            return Err(KeeperError::InvalidInstance(spec.instance.clone()));
        }
        if spec.argv.is_empty() {
            return Err(KeeperError::NoProgram(spec.instance.clone()));
        }
        let request = Request::Start {
            instance: spec.instance.clone(),
            run: spec.run,
            soft_open_files: self.0.options.soft_open_files,
        };
        let encoded = serde_json::to_vec(&Head { v: PROTOCOL, request })
            .and_then(|head| Ok((head, serde_json::to_vec(spec)?)))
            .map_err(io::Error::from);
        encoded
            .and_then(|(head, body)| socket::push_frame(frames, &head, &body))
            .map_err(|_| KeeperError::TooLong(spec.instance.clone()))
    }

    /// The next thing that became true. Reports come at least once: one that repeats what is known means nothing.
    pub async fn next_report(&self) -> Result<Report, KeeperError> {
        self.next_datagram().or(self.zygote_ends()).or(self.orphan_ends()).await
    }

    async fn next_datagram(&self) -> Result<Report, KeeperError> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let read = self.0.reports.recv(&mut buffer).await.map_err(KeeperError::Reports)?;
            // What isn't understood isn't from keepers that we can have: nobody else can write here.
            if let Some(report) = buffer.get(..read).and_then(decode) {
                // What a keeper tells by itself needs nobody who watches it.
                if let Report::Exited { run, .. } | Report::StartFailed { run, .. } = &report {
                    self.0.orphans.forget(*run);
                }
                return Ok(report);
            }
        }
    }

    /// Ends when a keeper that no zygote watches was killed, and what it left has been ended.
    async fn orphan_ends(&self) -> Result<Report, KeeperError> {
        let orphan = self.0.orphans.next().await;
        let state = self.0.options.state.clone();
        let (instance, run) = (orphan.instance.clone(), orphan.run);
        let found = blocking::unblock(move || scan::record(&state, &instance, run)).await?;
        // Recorded by the keeper, which reported it by itself; or by us, and this was dropped before it could report.
        if let Some(report) = found.and_then(|record| end_of(&orphan.instance, run, record.state)) {
            self.0.orphans.forget(run);
            return Ok(report);
        }
        // If that fails, it stays on the list and is tried again.
        let ended = self.ensure_gone(&orphan.instance, run).await?;
        self.0.orphans.forget(run);
        let (instance, state) = (&orphan.instance, ended.record.map(|record| record.state));
        let lost = Report::KeeperLost { instance: instance.clone(), run };
        Ok(state.and_then(|state| end_of(instance, run, state)).unwrap_or(lost))
    }

    /// Ends when a zygote that was there is gone.
    async fn zygote_ends(&self) -> Result<Report, KeeperError> {
        loop {
            if self.link().lost > 0 {
                let state = self.0.options.state.clone();
                let found = blocking::unblock(move || scan::scan(&state)).await?;
                self.0.orphans.watch(&found);
                // Only now: this may have been dropped at the await.
                let mut state = self.link();
                state.lost = state.lost.saturating_sub(1);
                return Ok(Report::ZygoteLost);
            }
            let link = self.link().link.clone();
            let changed = async {
                let _ = self.0.changed.1.recv().await;
            };
            let gone = async {
                let Some(link) = &link else { return future::pending().await };
                // It never says anything here by itself.
                let mut byte = [0];
                let _ = (&link.stream).read(&mut byte).await;
                self.unlink(link);
            };
            gone.or(changed).await;
        }
    }

    fn link(&self) -> MutexGuard<'_, LinkState> {
        self.0.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a connection that broke.
    fn unlink(&self, broken: &Arc<Link>) {
        let mut state = self.link();
        if state.link.as_ref().is_some_and(|link| Arc::ptr_eq(link, broken)) {
            state.link = None;
            state.lost += 1;
            let child = broken.child.lock().unwrap_or_else(PoisonError::into_inner).take();
            state.ended.extend(child);
            drop(state);
            let _ = self.0.changed.0.try_send(());
        }
    }

    /// The connection to the zygote; made, and the zygote with it, where there is none.
    async fn linked(&self) -> Result<Arc<Link>, KeeperError> {
        if let Some(link) = &self.link().link {
            return Ok(link.clone());
        }
        // The connection ends a moment before the process does, so its status is taken later.
        self.link().ended.retain_mut(|zygote| matches!(zygote.try_wait(), Ok(None)));
        let (stream, child) = match self.connect() {
            Some(stream) => (stream, None),
            None => self.spawn()?,
        };
        let stream = Async::new_nonblocking(UnixStream::from(stream)).map_err(KeeperError::Zygote)?;
        let link = Arc::new(Link { stream, child: Mutex::new(child) });
        self.link().link = Some(link.clone());
        let _ = self.0.changed.0.try_send(());
        Ok(link)
    }

    fn connect(&self) -> Option<OwnedFd> {
        socket::connected(self.0.run_folder.as_fd(), &zygote_name(&self.0.options.build)).ok()
    }

    fn spawn(&self) -> Result<(OwnedFd, Option<Child>), KeeperError> {
        let KeeperOptions { state, program, build, .. } = &self.0.options;
        let name = zygote_name(build);
        let failed = |source: Errno| KeeperError::Socket { name: name.clone(), source: source.into() };
        // Listening before it exists: what is written now, it reads when it is there.
        let listener = socket::bound(self.0.run_folder.as_fd(), &name, true).map_err(failed)?;
        let stream = socket::connected(self.0.run_folder.as_fd(), &name).map_err(failed)?;
        let program = program.as_deref().unwrap_or(Path::new("/proc/self/exe"));
        let child = spawn_zygote(program, state, build, listener)
            .map_err(|source| KeeperError::Spawn { program: program.to_owned(), source })?;
        Ok((stream, Some(child)))
    }

    /// What exists, for a daemon that has just come: the newest run of each instance and older ones still alive, with
    /// the runs that a living zygote (of this build or of another) was asked for and that have written nothing yet.
    pub async fn adopt(&self) -> Result<Vec<FoundRun>, KeeperError> {
        let own = zygote_name(&self.0.options.build);
        let (mut handed, mut cared_for) = (Vec::new(), Vec::new());
        for name in socket::zygote_names(self.0.run_folder.as_fd()).map_err(KeeperError::Zygote)? {
            let keepers = self.ask_keepers(&name).await.map_err(KeeperError::Zygote)?;
            if name == own {
                cared_for.extend(keepers.iter().map(|(_, run, _)| *run));
            }
            handed.extend(keepers);
        }
        let state = self.0.options.state.clone();
        let mut found = blocking::unblock(move || scan::scan(&state)).await?;
        for (instance, run, keeper) in handed {
            if !found.iter().any(|found| found.record.run == run) {
                found.extend(scan::unwritten(instance, run, keeper)?);
            }
        }
        // A zygote of another build cares too, but if it were killed nobody would tell: we hold no connection to it.
        self.0.orphans.watch(found.iter().filter(|found| !cared_for.contains(&found.record.run)));
        let mut older = self.older();
        for FoundRun { record, .. } in found.iter().filter(|found| found.record.protocol < PROTOCOL) {
            older.insert(record.run, record.protocol);
        }
        drop(older);
        Ok(found)
    }

    /// The keepers of the zygote with that socket; none if it isn't there any more.
    async fn ask_keepers(&self, name: &str) -> io::Result<Vec<(String, RunId, i32)>> {
        // One of an older build hangs up on what it doesn't understand.
        for version in [PROTOCOL, PROTOCOL.saturating_sub(1)] {
            let Ok(stream) = socket::connected(self.0.run_folder.as_fd(), name) else { break };
            match ask_hello(stream, version).or(timed_out()).await {
                Ok(hello) => return Ok(hello.keepers),
                Err(error) if is_hang_up(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Vec::new())
    }

    fn older(&self) -> MutexGuard<'_, BTreeMap<RunId, u32>> {
        self.0.older.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What exists, without being its daemon. See [`FoundRun`].
    pub fn scan(state: &Path) -> Result<Vec<FoundRun>, KeeperError> {
        scan::scan(state)
    }

    /// Makes sure that nothing of a run is alive, before its instance is started again: ends what is, also processes
    /// that left the tree (found by their marker), waits until they are gone (at most some ten seconds), and records
    /// the end if nobody had.
    pub async fn ensure_gone(&self, instance: &str, run: RunId) -> Result<EndedRun, KeeperError> {
        if !is_instance_name(instance) {
            return Err(KeeperError::InvalidInstance(instance.to_owned()));
        }
        let keepers = self.clone();
        let instance = instance.to_owned();
        blocking::unblock(move || {
            let ask = || keepers.try_send(&instance, run, Control::Kill).is_ok();
            scan::ensure_gone(&keepers.0.options.state, &instance, run, ask)
        })
        .await
    }

    /// Asks for the end of a run: its main process gets the signal, and the whole tree is killed after the time-out (or
    /// at once). [`Report::Exited`] says when all of it is gone.
    pub async fn stop(&self, instance: &str, run: RunId, stop: StopRequest) -> Result<(), KeeperError> {
        self.send(instance, run, stop.into()).await
    }

    /// Sends a signal to the main process.
    pub async fn signal(&self, instance: &str, run: RunId, number: i32) -> Result<(), KeeperError> {
        self.send(instance, run, Control::Signal { number }).await
    }

    /// Writes to the standard input of a run that has one, at the pace at which it is read.
    pub async fn write_stdin(&self, instance: &str, run: RunId, bytes: &[u8]) -> Result<(), KeeperError> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.0.run_folder, stdin_name(run), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // Nobody reads, or no such run.
            Err(Errno::NXIO | Errno::NOENT) => {
                return Err(KeeperError::KeeperGone { instance: instance.to_owned(), run });
            }
            Err(error) => {
                return Err(KeeperError::Stdin { instance: instance.to_owned(), source: error.into() });
            }
        };
        let failed = |source| KeeperError::Stdin { instance: instance.to_owned(), source };
        let mut pipe = Async::new_nonblocking(file).map_err(failed)?;
        pipe.write_all(bytes).await.map_err(failed)
    }

    /// Closes the standard input of a run: it reads the end of file.
    pub async fn close_stdin(&self, instance: &str, run: RunId) -> Result<(), KeeperError> {
        self.send(instance, run, Control::CloseStdin).await
    }

    async fn send(&self, instance: &str, run: RunId, control: Control) -> Result<(), KeeperError> {
        let begun = Instant::now();
        loop {
            match self.try_send(instance, run, control) {
                Err(KeeperError::KeeperBusy { .. }) if begun.elapsed() < PATIENCE => {
                    Timer::after(Duration::from_millis(2)).await;
                }
                done => return done,
            }
        }
    }

    fn try_send(&self, instance: &str, run: RunId, control: Control) -> Result<(), KeeperError> {
        let instance = || instance.to_owned();
        let version = self.older().get(&run).copied().unwrap_or(PROTOCOL);
        let message = encode_as(version, &control);
        match socket::send(&self.0.sender, self.0.run_folder.as_fd(), &control_name(run), &message) {
            Ok(()) => Ok(()),
            Err(Errno::CONNREFUSED | Errno::NOENT) => {
                Err(KeeperError::KeeperGone { instance: instance(), run })
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => {
                Err(KeeperError::KeeperBusy { instance: instance() })
            }
            Err(error) => Err(KeeperError::Control { instance: instance(), source: error.into() }),
        }
    }
}

/// What is reported of a run that its record says is over; `None` if it doesn't.
fn end_of(instance: &str, run: RunId, state: RunState) -> Option<Report> {
    let instance = instance.to_owned();
    match state {
        RunState::Exited { exit: Exit::Unknown(_), .. } => Some(Report::KeeperLost { instance, run }),
        RunState::Exited { exit, ended_at, left, .. } => {
            Some(Report::Exited { instance, run, exit, ended_at, left })
        }
        RunState::FailedToStart { stage, errno, message, .. } => {
            Some(Report::StartFailed { instance, run, stage, errno, message })
        }
        RunState::Starting | RunState::Running { .. } => None,
    }
}

/// Writes all, or says how much was.
async fn write_all(stream: &Async<UnixStream>, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        // Unlike write(2), this raises no SIGPIPE in hosts that don't ignore it.
        let send = |stream: &UnixStream| {
            rustix::net::send(stream, rest, rustix::net::SendFlags::NOSIGNAL).map_err(io::Error::from)
        };
        done += stream.write_with(send).await.map_err(|error| (done, error))?;
    }
    Ok(())
}

async fn timed_out<T>() -> io::Result<T> {
    Timer::after(PATIENCE).await;
    Err(io::ErrorKind::TimedOut.into())
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe)
}

async fn ask_hello(stream: OwnedFd, version: u32) -> io::Result<Hello> {
    let mut stream = Async::new_nonblocking(UnixStream::from(stream))?;
    let mut frame = Vec::new();
    let head = serde_json::to_vec(&Head { v: version, request: Request::Hello })?;
    socket::push_frame(&mut frame, &head, &[])?;
    write_all(&stream, &frame).await.map_err(|(_, error)| error)?;
    let mut answer = Vec::new();
    loop {
        match first_frame(&answer) {
            Frame::Whole { body, .. } => return Ok(serde_json::from_slice(body)?),
            Frame::Partial => {}
            Frame::Broken => return Err(io::ErrorKind::InvalidData.into()),
        }
        let mut buffer = [0; 8192];
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
}
