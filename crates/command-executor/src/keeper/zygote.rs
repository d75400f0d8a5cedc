//! The zygote: a tiny process of which keepers are forked, so that a hundred of them share their pages.
//!
//! It is the host program, executed again and caught by [`zygote_main`] before anything of the host exists in it. It
//! outlives the daemon, parents the keepers, and cleans up after one that was killed.

use super::{
    identity,
    keep::{Handed, keeper_main},
    outbox::Outbox,
    record::{Exit, Gap, RunRecord, RunState, Writing, read_record_at, write_record},
    region::Region,
    report::{Report, StartStage, is_understood},
    runs,
    socket::{self, Frame, Hello, MAX_FRAME, Request, control_name, first_frame, stdin_name},
    spec::RunId,
    sys,
    tree::{self, Reaped},
};
use jiff::Timestamp;
use rustix::{fs::AtFlags, io::Errno, net::SocketFlags};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// The first word of a zygote's command line.
pub(super) const ZYGOTE: &str = "keeper-zygote";

/// A zygote without keepers and without a daemon ends after this.
const IDLE_EXIT: Duration = Duration::from_millis(200);

/// What a killed keeper left and SIGKILL doesn't end within this is given up.
const GIVE_UP: Duration = Duration::from_secs(5);

/// How often what a killed keeper left is looked at.
const ROUND: Duration = Duration::from_millis(10);

/// More connections than this at once are turned away.
const MAX_CLIENTS: usize = 16;

/// Fixed descriptors, which keepers keep.
const RUN_FOLDER: RawFd = 3;
const INSTANCES: RawFd = 4;
const FIRST_OTHER: u32 = 5;
const OWN_FDS: RawFd = 10;

static CALLED: AtomicBool = AtomicBool::new(false);

/// Whether this program has called [`zygote_main`].
pub(super) fn was_called() -> bool {
    CALLED.load(Ordering::Relaxed)
}

/// Turns this process into a zygote if it was started as one; else returns at once.
///
/// A host program calls this first in `main`: before it starts a thread or a runtime, opens anything or prints. A
/// program that never calls it can't have keepers ([`super::Keepers::open`] says so): its children end with it.
pub fn zygote_main() {
    CALLED.store(true, Ordering::Relaxed);
    let mut arguments = std::env::args_os();
    if arguments.next().as_deref() != Some(OsStr::new(ZYGOTE)) {
        return;
    }
    let (Some(state), Some(build)) = (arguments.next(), arguments.next()) else { sys::exit(2) };
    let code = match Zygote::prepare(&state, &build) {
        Ok(mut zygote) => zygote.serve(),
        Err(_) => 1,
    };
    sys::exit(code)
}

/// The head of a frame.
#[derive(Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) v: u32,
    pub(super) request: Request,
}

struct Client {
    stream: OwnedFd,
    buffer: Region,
    len: usize,
    broken: bool,
}

struct Zygote {
    listener: OwnedFd,
    socket_name: String,
    signals: OwnedFd,
    clients: Vec<Client>,
    keepers: BTreeMap<i32, (String, RunId)>,
    lost: Vec<(String, RunId)>,
    lost_since: Option<Instant>,
    idle_since: Option<Instant>,
    outbox: Outbox,
    boot_id: String,
}

impl Zygote {
    /// The listener comes as standard input; there is nothing else to inherit.
    fn prepare(state: &OsStr, build: &OsString) -> io::Result<Self> {
        sys::close_from(3);
        sys::reset_signals();
        let raise = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, OWN_FDS);
        let listener = raise(rustix::stdio::stdin())?;
        let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
        for number in 0..3 {
            sys::dup_to_standard(null.as_fd(), number)?;
        }
        drop(null);
        for (name, number) in [("run", RUN_FOLDER), ("instances", INSTANCES)] {
            let folder = raise(socket::open_folder(&Path::new(state).join(name))?.as_fd())?;
            sys::dup_to(folder.as_fd(), number)?;
        }
        // It may have been made by a shell's job, whose terminal and group must mean nothing here.
        let _ = rustix::process::setsid();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        rustix::process::chdir("/")?;
        rustix::thread::set_name(c"keeper-zygote")?;
        let signals = raise(sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM])?.as_fd())?;
        Ok(Self {
            listener,
            socket_name: socket::zygote_name(&String::from_utf8_lossy(build.as_bytes())),
            signals,
            clients: Vec::new(),
            keepers: BTreeMap::new(),
            lost: Vec::new(),
            lost_since: None,
            idle_since: None,
            outbox: Outbox::new(sys::fixed(RUN_FOLDER))?,
            boot_id: identity::boot_id()?,
        })
    }

    /// The loop; returns when there is nothing left to live for.
    fn serve(&mut self) -> i32 {
        loop {
            let (signals, listener, ready) = self.wait();
            if signals && sys::drain_signals(self.signals.as_fd(), libc::SIGTERM) && self.keepers.is_empty() {
                break;
            }
            if listener {
                self.accept();
            }
            for at in ready {
                self.read(at);
            }
            self.clients.retain(|client| !client.broken);
            self.reap();
            self.end_what_lost_keepers_left();
            self.outbox.flush();
            if self.is_over() {
                break;
            }
        }
        0
    }

    /// Signals pending, somebody at the door, and the clients with something to read.
    fn wait(&mut self) -> (bool, bool, Vec<usize>) {
        let entry =
            |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut fds = vec![entry(self.signals.as_fd()), entry(self.listener.as_fd())];
        fds.extend(self.clients.iter().map(|client| entry(client.stream.as_fd())));
        let idle = self.idle_since.map(|since| (since + IDLE_EXIT).saturating_duration_since(Instant::now()));
        let round = self.lost_since.map(|_| ROUND);
        let soonest = [idle, round, self.outbox.delay()].into_iter().flatten().min();
        let timeout =
            soonest.map_or(-1, |wait| i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
        if sys::poll(&mut fds, timeout).is_err() {
            std::thread::sleep(ROUND);
        }
        let mut ready = fds.iter().map(|fd| fd.revents != 0);
        let (signals, listener) = (ready.next().unwrap_or(false), ready.next().unwrap_or(false));
        (signals, listener, ready.enumerate().filter_map(|(at, ready)| ready.then_some(at)).collect())
    }

    /// Whether it is time to end. The name goes first: who finds it finds a zygote that stays.
    fn is_over(&mut self) -> bool {
        if !self.keepers.is_empty() || !self.clients.is_empty() || !self.lost.is_empty() {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() < IDLE_EXIT {
            return false;
        }
        let _ = rustix::fs::unlinkat(sys::fixed(RUN_FOLDER), &self.socket_name, AtFlags::empty());
        self.accept();
        self.clients.is_empty()
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(stream) = rustix::net::accept_with(&self.listener, flags) {
            let own = rustix::process::geteuid();
            let peer = rustix::net::sockopt::socket_peercred(&stream);
            let trusted = peer.is_ok_and(|peer| peer.uid == own || peer.uid.is_root());
            if !trusted || self.clients.len() >= MAX_CLIENTS {
                continue;
            }
            // Memory that isn't touched costs nothing.
            if let Ok(buffer) = Region::new(MAX_FRAME + (64 << 10)) {
                self.clients.push(Client { stream, buffer, len: 0, broken: false });
            }
        }
    }

    /// Takes all that a client has sent, until it has nothing more.
    fn read(&mut self, at: usize) {
        loop {
            let Some(client) = self.clients.get_mut(at).filter(|client| !client.broken) else { return };
            let end = (client.len + (64 << 10)).min(client.buffer.len());
            let Some(space) = client.buffer.get_mut(client.len..end) else { return };
            match rustix::io::read(&client.stream, space) {
                Ok(read) if read > 0 => client.len += read,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Ok(_) | Err(_) => {
                    client.broken = true;
                    return;
                }
            }
            self.take_frames(at);
        }
    }

    fn take_frames(&mut self, at: usize) {
        let mut from = 0;
        loop {
            let Some(client) = self.clients.get_mut(at) else { return };
            let Some(bytes) = client.buffer.get(from..client.len) else { return };
            let Frame::Whole { head, body, len } = first_frame(bytes) else {
                client.broken |= first_frame(bytes) == Frame::Broken;
                break;
            };
            let body = from + (len - body.len())..from + len;
            from += len;
            match serde_json::from_slice::<Head>(head) {
                Ok(Head { v, request: Request::Start { instance, run, soft_open_files } })
                    if is_understood(v) && super::spec::is_instance_name(&instance) =>
                {
                    self.start(at, instance, run, soft_open_files, body);
                }
                Ok(Head { v, request: Request::Hello }) if is_understood(v) => self.answer_hello(at),
                // Nothing that a daemon of the same build says; it learns by the end of the connection.
                _ => {
                    client.broken = true;
                    break;
                }
            }
        }
        if let Some(client) = self.clients.get_mut(at) {
            let len = client.len;
            client.buffer.copy_within(from..len, 0);
            client.len -= from;
            if client.len == 0 && from > 0 {
                client.buffer.release();
            }
        }
    }

    fn start(
        &mut self,
        at: usize,
        instance: String,
        run: RunId,
        soft_open_files: Option<u64>,
        body: std::ops::Range<usize>,
    ) {
        let zygote = rustix::process::getpid();
        match sys::fork() {
            Ok(Some(pid)) => {
                self.keepers.insert(pid, (instance, run));
            }
            Ok(None) => {
                let code = catch_unwind(AssertUnwindSafe(|| {
                    self.become_keeper(at, zygote, &instance, run, soft_open_files, body)
                }));
                sys::exit(code.unwrap_or(101))
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
                let (stage, message) = (StartStage::Fork, format!("keeper: {error}"));
                let state =
                    RunState::FailedToStart { stage, errno, message: message.clone(), at: Timestamp::now() };
                let _ = self.record(&instance, run, state, None);
                self.outbox.push(&Report::StartFailed { instance, run, stage, errno, message });
            }
        }
    }

    /// In the forked process: nothing of the zygote is used any more.
    fn become_keeper(
        &mut self,
        at: usize,
        zygote: rustix::process::Pid,
        instance: &str,
        run: RunId,
        soft_open_files: Option<u64>,
        body: std::ops::Range<usize>,
    ) -> i32 {
        sys::close_from(FIRST_OTHER);
        let mut spec = None;
        if let Some(client) = self.clients.get_mut(at) {
            spec = client.buffer.get(body).and_then(|body| serde_json::from_slice(body).ok());
            client.buffer.release();
        }
        let handed = Handed {
            run_folder: sys::fixed(RUN_FOLDER),
            instances: sys::fixed(INSTANCES),
            instance,
            run,
            soft_open_files,
            boot_id: &self.boot_id,
            zygote: Some(zygote),
        };
        keeper_main(&handed, spec)
    }

    /// Answers once everything is done that others had sent before: a daemon that died may have left requests here.
    fn answer_hello(&mut self, at: usize) {
        for other in (0..self.clients.len()).filter(|other| *other != at) {
            self.read(other);
        }
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let keepers =
            self.keepers.iter().map(|(pid, (instance, run))| (instance.clone(), *run, *pid)).collect();
        let body = serde_json::to_vec(&Hello { pid, keepers }).unwrap_or_default();
        let mut answer = Vec::with_capacity(body.len() + 8);
        let framed = socket::push_frame(&mut answer, b"{}", &body);
        let Some(client) = self.clients.get_mut(at) else { return };
        let mut rest = answer.as_slice();
        while framed.is_ok() && !rest.is_empty() {
            match rustix::net::send(&client.stream, rest, rustix::net::SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // One that asks and doesn't read.
                Err(_) => break,
            }
        }
        client.broken |= !rest.is_empty();
    }

    fn reap(&mut self) {
        while let Reaped::Child { pid, exit } = tree::reap() {
            if let Some(run) = self.keepers.remove(&pid)
                && exit != Exit::Code(0)
            {
                self.lost.push(run);
                self.lost_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Everything among our children that isn't a keeper was left by one that was killed. Once it is gone, the runs are
    /// over.
    fn end_what_lost_keepers_left(&mut self) {
        let Some(since) = self.lost_since else { return };
        let children = tree::children().unwrap_or_default();
        let left: Vec<i32> = children.into_iter().filter(|pid| !self.keepers.contains_key(pid)).collect();
        for pid in &left {
            tree::signal_child(*pid, libc::SIGKILL);
        }
        if !left.is_empty() && since.elapsed() < GIVE_UP {
            return;
        }
        self.lost_since = None;
        for (instance, run) in std::mem::take(&mut self.lost) {
            let report = self.conclude(&instance, run, &left);
            self.outbox.push(&report);
            for name in [control_name(run), stdin_name(run)] {
                let _ = rustix::fs::unlinkat(sys::fixed(RUN_FOLDER), name, AtFlags::empty());
            }
        }
    }

    /// Records a lost run's end, unless its keeper had done so.
    fn conclude(&self, instance: &str, run: RunId, left: &[i32]) -> Report {
        let folder = runs::instance_folder(sys::fixed(INSTANCES), instance);
        let found = folder.ok().and_then(|folder| read_record_at(folder.as_fd(), run).ok());
        let owned = instance.to_owned();
        match found.as_ref().map(|record| &record.state) {
            Some(RunState::Exited { exit, ended_at, left, .. }) => {
                return Report::Exited {
                    instance: owned,
                    run,
                    exit: exit.clone(),
                    ended_at: *ended_at,
                    left: left.clone(),
                };
            }
            Some(RunState::FailedToStart { stage, errno, message, .. }) => {
                let (stage, errno, message) = (*stage, *errno, message.clone());
                return Report::StartFailed { instance: owned, run, stage, errno, message };
            }
            _ => {}
        }
        let process = found.as_ref().and_then(RunRecord::process);
        let _ = self.record(instance, run, lost_state(process, left.to_vec()), found);
        Report::KeeperLost { instance: owned, run }
    }

    /// Writes the last record of a run that has no keeper.
    fn record(
        &self,
        instance: &str,
        run: RunId,
        state: RunState,
        found: Option<RunRecord>,
    ) -> io::Result<()> {
        let folder = runs::instance_folder(sys::fixed(INSTANCES), instance)?;
        let mut record = found
            .unwrap_or_else(|| RunRecord::unwritten(instance.to_owned(), run, self.boot_id.clone(), None));
        if matches!(state, RunState::Exited { .. }) {
            record.add_gap(lost_gap());
        }
        record.state = state;
        write_record(folder.as_fd(), &record, Writing::Durable)
    }
}

/// The end of a run whose keeper was killed.
pub(super) fn lost_state(process: Option<identity::ProcessIdentity>, left: Vec<i32>) -> RunState {
    RunState::Exited {
        exit: Exit::Unknown("keeper killed".into()),
        ended_at: Timestamp::now(),
        process,
        left,
    }
}

/// What of its output may be missing: what was in its pipes and its buffers.
pub(super) fn lost_gap() -> Gap {
    Gap { at: Timestamp::now(), stream: None, reason: "keeper killed".into(), bytes: None, lines: None }
}
