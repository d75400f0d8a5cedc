//! The daemon's side: starts runs, hears reports, passes on wishes.

use super::{
    error::KeeperError,
    identity::ProcessIdentity,
    leftovers::Marker,
    link::{Link, Links},
    orphans::Orphans,
    record::{Exit, RunRecord, RunState},
    report::{Control, MAX_DATAGRAM, PROTOCOL, Report, StopRequest, decode, encode_as},
    scan::{self, EndedRun, FoundRun},
    socket::{self, DAEMON, Frame, Hello, Request, control_name, first_frame, stdin_name, zygote_name},
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

/// How often something is looked at again that couldn't be for want of descriptors, and for how long.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const WANT: Duration = Duration::from_secs(60);
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

struct Shared {
    options: KeeperOptions,
    run_folder: OwnedFd,
    reports: Async<UnixDatagram>,
    sender: OwnedFd,
    /// Held while frames are written, and while a zygote is made.
    starting: async_lock::Mutex<()>,
    links: Mutex<Links>,
    /// Says that `link` has become another.
    changed: (async_channel::Sender<()>, async_channel::Receiver<()>),
    orphans: Orphans,
    /// Runs whose keepers speak an older protocol, and which.
    older: Mutex<BTreeMap<RunId, u32>>,
    /// The newest run that is known, by its name.
    newest: Mutex<Option<RunId>>,
    /// Marks what this program's own commands start.
    marker: Marker,
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
            marker: Marker::new(&state),
            options: KeeperOptions { state, ..options },
            run_folder,
            reports,
            sender,
            starting: async_lock::Mutex::new(()),
            links: Mutex::default(),
            changed: async_channel::bounded(1),
            orphans: Orphans::default(),
            older: Mutex::default(),
            newest: Mutex::default(),
        })))
    }

    /// A variable for the environment of commands that this program runs by itself: by it, what they leave is found should
    /// this program be killed.
    pub fn command_marker(&self) -> (&'static str, &str) {
        self.0.marker.pair()
    }

    /// Kills what commands of earlier programs with this state folder have left, which carry their
    /// [`Self::command_marker`]. The answer: how many processes that were.
    pub async fn end_leftovers(&self) -> Result<usize, KeeperError> {
        let marker = self.0.marker.clone();
        let ended = blocking::unblock(move || marker.end_left()).await;
        ended.map_err(|source| KeeperError::Scan { what: "/proc".into(), source })
    }

    /// The state folder, canonical.
    pub fn state(&self) -> &Path {
        &self.0.options.state
    }

    /// Hands a run to the zygote, which is started if there is none. Whether it runs is reported later, by
    /// [`Report::Started`] or [`Report::StartFailed`]; if [`Report::ZygoteLost`] comes before that, it may be among those
    /// of [`Self::take_unheard_of`].
    pub async fn start(&self, spec: &RunSpec) -> Result<(), KeeperError> {
        self.start_many(std::slice::from_ref(spec)).await
    }

    /// Like [`Self::start`], for many at once: one message, all of them or (if one is invalid) none.
    pub async fn start_many(&self, specs: &[RunSpec]) -> Result<(), KeeperError> {
        if specs.is_empty() {
            return Ok(());
        }
        let mut specs: Vec<&RunSpec> = specs.iter().collect();
        let mut frames = Vec::new();
        for spec in &specs {
            self.push_start(&mut frames, spec)?;
        }
        let _one_at_a_time = self.0.starting.lock().await;
        for attempt in 0..2 {
            let link = self.linked().await?;
            let runs = specs.iter().map(|spec| (spec.run, spec.instance.clone()));
            if !self.links().hand(&link, runs) {
                continue;
            }
            let Err((written, source)) = write_all(&link.stream, &frames).await else { return Ok(()) };
            if written > 0 {
                // What was in the part that it read may exist: that it is lost says so of each.
                self.unlink(&link);
                return Ok(());
            }
            // A zygote that was gone before the first byte: nothing of this was seen by anybody. What was said to be
            // lost already stays so, and is started again by whoever heard it.
            let back = self.links().take_back(specs.iter().map(|spec| spec.run));
            self.unlink(&link);
            specs.retain(|spec| back.contains(&spec.run));
            if attempt > 0 || specs.is_empty() {
                return if specs.is_empty() { Ok(()) } else { Err(KeeperError::Zygote(source)) };
            }
            frames.clear();
            for spec in &specs {
                self.push_start(&mut frames, spec)?;
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
                self.links().heard_of(report.run());
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
            if self.links().lost > 0 {
                // Its connection ends a moment before it does. Once it has ended, what it forked has either written a
                // record or starts nothing any more.
                let begun = Instant::now();
                while !self.links().have_ended() && begun.elapsed() < PATIENCE {
                    Timer::after(Duration::from_millis(1)).await;
                }
                let state = self.0.options.state.clone();
                let scan = blocking::unblock(move || scan::scan(&state)).await?;
                self.0.orphans.watch(&scan.found);
                // Only now: this may have been dropped at the await.
                let mut links = self.links();
                links.lost = links.lost.saturating_sub(1);
                return Ok(Report::ZygoteLost);
            }
            let link = self.links().link.clone();
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

    /// The runs that were handed to zygotes that are lost, and that nothing was heard of: each may or may not exist. To
    /// be asked for after [`Report::ZygoteLost`], and each once: whoever takes them makes sure that they are gone
    /// ([`Self::ensure_gone`]) before their instances are started again. Runs that were handed to another zygote since
    /// aren't among them.
    pub fn take_unheard_of(&self) -> Vec<(String, RunId)> {
        let lost = std::mem::take(&mut self.links().handed_to_lost);
        lost.into_iter().map(|(run, instance)| (instance, run)).collect()
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a connection that broke.
    fn unlink(&self, broken: &Arc<Link>) {
        if self.links().unlink(broken) {
            let _ = self.0.changed.0.try_send(());
        }
    }

    /// The connection to the zygote; made, and the zygote with it, where there is none.
    async fn linked(&self) -> Result<Arc<Link>, KeeperError> {
        if let Some(link) = &self.links().link {
            return Ok(link.clone());
        }
        // The connection ends a moment before the process does, so its status is taken later.
        self.links().reap();
        let (stream, child) = match self.connect() {
            Some(stream) => (stream, None),
            None => self.spawn()?,
        };
        self.link_to(stream, child)
    }

    fn link_to(&self, stream: OwnedFd, child: Option<Child>) -> Result<Arc<Link>, KeeperError> {
        let stream = Async::new_nonblocking(UnixStream::from(stream)).map_err(KeeperError::Zygote)?;
        let link = Arc::new(Link::new(stream, child));
        self.links().link = Some(link.clone());
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
        // Before it is asked: if it dies after it has answered, this tells.
        if self.links().link.is_none()
            && let Some(stream) = self.connect()
        {
            self.link_to(stream, None)?;
        }
        let (mut handed, mut cared_for) = (Vec::new(), Vec::new());
        for name in socket::zygote_names(self.0.run_folder.as_fd()).map_err(KeeperError::Zygote)? {
            let keepers = self.ask_keepers(&name).await.map_err(KeeperError::Zygote)?;
            if name == own {
                cared_for.extend(keepers.iter().map(|(_, run, _)| *run));
            }
            handed.extend(keepers);
        }
        let state = self.0.options.state.clone();
        let scan::Scan { mut found, torn } = blocking::unblock(move || scan::scan(&state)).await?;
        for (instance, run) in torn {
            // Of what no zygote knows, nobody is about to write the record.
            if !handed.iter().any(|(_, known, _)| *known == run) {
                self.ensure_gone(&instance, run).await?;
            }
        }
        for (instance, run, keeper) in handed {
            if !found.iter().any(|found| found.record.run == run) {
                let mut links = self.links();
                if let Some(link) = links.link.clone().filter(|_| cared_for.contains(&run)) {
                    links.hand(&link, [(run, instance.clone())].into_iter());
                }
                drop(links);
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
        let mut newest = self.0.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = found.iter().map(|found| found.record.run).max().max(*newest);
        drop(newest);
        Ok(found)
    }

    /// A name for a new run. It sorts after those of all runs that were adopted or named here, whatever the clock says:
    /// else the newest run of an instance would be taken for an old one after the clock was set back.
    pub fn name_run(&self) -> RunId {
        let mut newest = self.0.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let run = RunId::after(*newest);
        *newest = Some(run);
        run
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
        Ok(scan::scan(state)?.found)
    }

    /// Makes sure that nothing of a run is alive, before its instance is started again: ends what is, also processes
    /// that left the tree (found by their marker), waits until they are gone (at most some ten seconds), and records
    /// the end if nobody had.
    pub async fn ensure_gone(&self, instance: &str, run: RunId) -> Result<EndedRun, KeeperError> {
        self.end(instance, run, None, Control::Kill).await
    }

    /// Like [`Self::ensure_gone`] for a run that was found, but what runs is asked to end first. Its time-out should be
    /// some seconds at most: after seven it is killed in any case.
    pub async fn ensure_ended(&self, found: &FoundRun, stop: StopRequest) -> Result<EndedRun, KeeperError> {
        let RunRecord { instance, run, keeper, .. } = &found.record;
        self.end(instance, *run, *keeper, stop.into()).await
    }

    async fn end(
        &self,
        instance: &str,
        run: RunId,
        keeper: Option<ProcessIdentity>,
        control: Control,
    ) -> Result<EndedRun, KeeperError> {
        if !is_instance_name(instance) {
            return Err(KeeperError::InvalidInstance(instance.to_owned()));
        }
        let begun = Instant::now();
        loop {
            let (keepers, instance) = (self.clone(), instance.to_owned());
            let ended = blocking::unblock(move || {
                let ask = || keepers.try_send(&instance, run, control).is_ok();
                scan::ensure_gone(&keepers.0.options.state, &instance, run, keeper, ask)
            });
            match ended.await {
                // Nothing can be said now of what is alive; whoever asks has nothing better to do than to wait for that.
                Err(error) if error.is_want() && begun.elapsed() < WANT => Timer::after(LOOK_AGAIN).await,
                done => return done,
            };
        }
    }

    /// Asks for the end of a run: its main process gets the signal, and the whole tree is killed after the time-out (or
    /// at once). [`Report::Exited`] says when all of it is gone.
    pub async fn stop(&self, instance: &str, run: RunId, stop: StopRequest) -> Result<(), KeeperError> {
        self.send(instance, run, stop.into()).await
    }

    /// Renews the lease of a run that has one ([`RunSpec::lease_until`]): `until` is time since boot, sleep included.
    ///
    /// # Errors
    /// [`KeeperError::KeeperGone`] if there is no such run any more.
    pub async fn renew(&self, instance: &str, run: RunId, until: Duration) -> Result<(), KeeperError> {
        let until_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.send(instance, run, Control::Lease { until_ms }).await
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
