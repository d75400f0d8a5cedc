//! The keeper: one process that owns one service, from its fork off the zygote to the exit record.
//!
//! ```text
//! starting ──► running (──► asking) ──► stopping ──► killing ─┐
//!    │            └───────────────────────────────────────────┴──► ending ──► over
//!    └──► failed                  (the main process has ended, the rest is being ended)
//! ```
//!
//! One loop around `poll`, without time-outs while nothing is pending. It never blocks on the disk being full nor on
//! a daemon that doesn't read: the service must not notice either.

use super::{
    child::{self, Prepared, StartFailure},
    farewell::{Asking, Farewell, complaint},
    identity::ProcessIdentity,
    outbox::Outbox,
    record::{Exit, RECORD_VERSION, RunRecord, RunState, Writing, write_record},
    report::{Control, PROTOCOL, Report, StartStage, decode},
    runs,
    socket::{self, control_name, stdin_name},
    spec::{RunId, RunSpec},
    sys,
    tree::{self, Reaped},
    writer::{BLOCK, LineBuffer, Log, Stream},
};
use jiff::Timestamp;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
    pipe::PipeFlags,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// What remains of a tree when its main process has ended gets SIGTERM, and SIGKILL after at most this.
const ENDING: Duration = Duration::from_secs(2);

/// Processes that SIGKILL doesn't end within this (someone else's, or stuck in the kernel) are given up and recorded.
const GIVE_UP: Duration = Duration::from_secs(5);

/// How often the tree is looked at while it is being ended: a process that comes to us when its own parent ends
/// announces itself by nothing.
const ROUND: Duration = Duration::from_millis(10);

/// After a burst of output and this much silence, its buffers are given back.
const QUIET: Duration = Duration::from_secs(1);

/// A service that writes line by line would wake its keeper for each: when reads are this small and follow each other
/// closely, the keeper lets some gather.
const SMALL: usize = 4 << 10;
const CLOSELY: Duration = Duration::from_millis(1);
const GATHER: Duration = Duration::from_micros(200);

/// The size a pipe is grown to when its reader finds it full.
const WIDE_PIPE: usize = 1 << 20;

/// What the zygote hands to the keeper it forks.
pub(super) struct Handed<'a> {
    /// The folder of the sockets.
    pub(super) run_folder: BorrowedFd<'static>,
    /// The folder of the instances' folders.
    pub(super) instances: BorrowedFd<'static>,
    pub(super) instance: &'a str,
    pub(super) run: RunId,
    pub(super) soft_open_files: Option<u64>,
    pub(super) boot_id: &'a str,
    /// The zygote, if it has a pid here.
    pub(super) zygote: Option<rustix::process::Pid>,
}

/// One output of the service.
struct Output {
    pipe: Option<OwnedFd>,
    lines: LineBuffer,
    wide: bool,
}

/// Where the end of a run stands.
#[derive(Clone, Copy)]
enum Phase {
    /// Nobody asked for an end.
    Running,
    /// The stop command runs. At the first moment the signal follows though it hasn't ended, at the second everything is killed.
    Asking(Instant, Instant),
    /// The main process was asked; at that moment everything is killed.
    Stopping(Instant),
    /// Everything is killed, since that moment.
    Killing(Instant),
    /// The main process is gone; the rest is killed at that moment.
    Ending(Instant),
}

struct Keeper {
    folder: OwnedFd,
    record: RunRecord,
    outbox: Outbox,
    control: OwnedFd,
    signals: OwnedFd,
    stdin: Option<OwnedFd>,
    outputs: [Output; 2],
    log: Log,
    main: i32,
    process: ProcessIdentity,
    ended: Option<(Exit, Timestamp)>,
    phase: Phase,
    asked: Vec<i32>,
    stop_signal: i32,
    stop_timeout: Duration,
    /// Until the end is asked for.
    farewell: Option<Box<Farewell>>,
    asking: Option<Asking>,
    cgroup: Option<std::path::PathBuf>,
    /// When the last output came, if its buffers are still held.
    busy: Option<Instant>,
    /// Rings when the lease is over, where it runs on one.
    lease: Option<OwnedFd>,
}

/// The whole life of a keeper, in the process just forked; the exit code is 0 if the run's end is recorded.
pub(super) fn keeper_main(handed: &Handed<'_>, spec: Option<RunSpec>) -> i32 {
    let mut outbox = match Outbox::new(handed.run_folder) {
        Ok(outbox) => outbox,
        Err(_) => return 1,
    };
    let name: Vec<u8> = handed.instance.bytes().chain([0]).collect();
    let _ = std::ffi::CStr::from_bytes_with_nul(&name).map(rustix::thread::set_name);
    let _ = rustix::process::setsid();
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let (instance, run) = (handed.instance.to_owned(), handed.run);
    let code = match Keeper::start(handed, spec, &mut outbox) {
        Ok(keeper) => {
            sys::trim_heap();
            keeper.keep()
        }
        Err(StartFailure { stage, errno, message }) => {
            outbox.push(&Report::StartFailed { instance, run, stage, errno, message });
            outbox.finish();
            0
        }
    };
    let _ = rustix::fs::unlinkat(handed.run_folder, control_name(run), AtFlags::empty());
    let _ = rustix::fs::unlinkat(handed.run_folder, stdin_name(run), AtFlags::empty());
    code
}

impl Keeper {
    fn start(handed: &Handed<'_>, spec: Option<RunSpec>, outbox: &mut Outbox) -> Result<Self, StartFailure> {
        let failed = |stage, what: &str, error: io::Error| StartFailure::new(stage, what, &error);
        let folder = runs::instance_folder(handed.instances, handed.instance)
            .map_err(|error| failed(StartStage::Record, "instance folder", error))?;
        let me = ProcessIdentity::of(rustix::process::getpid().as_raw_nonzero().get());
        let program = spec.as_ref().and_then(|spec| spec.argv.first());
        let mut record = RunRecord {
            version: RECORD_VERSION,
            protocol: PROTOCOL,
            instance: handed.instance.to_owned(),
            run: handed.run,
            boot_id: handed.boot_id.to_owned(),
            keeper: me.ok(),
            started_at: Timestamp::now(),
            program: program.map(|program| program.to_string_lossy().into_owned()).unwrap_or_default(),
            state: RunState::Starting,
            gaps: Vec::new(),
        };
        write_record(folder.as_fd(), &record, Writing::First).map_err(|error| {
            // On a full disk there is a name and nothing in it: no record is better than one that can't be read.
            let name = format!("{}.json", handed.run);
            let _ = rustix::fs::unlinkat(folder.as_fd(), name, AtFlags::empty());
            failed(StartStage::Record, "run record", error)
        })?;
        let started = match spec {
            // A daemon that hears of the zygote's death looks for records: one that wasn't there yet is taken for a run
            // that never was, and its instance is started again.
            _ if rustix::process::getppid() != handed.zygote => {
                Err(failed(StartStage::Fork, "keeper", io::Error::other("the zygote was killed meanwhile")))
            }
            Some(spec) => Self::launch(handed, &spec, folder.as_fd(), &mut record, outbox),
            None => Err(failed(StartStage::Request, "run", io::ErrorKind::InvalidData.into())),
        };
        if let Err(StartFailure { stage, errno, message }) = &started {
            let (stage, errno, message) = (*stage, *errno, message.clone());
            record.state = RunState::FailedToStart { stage, errno, message, at: Timestamp::now() };
            let _ = write_record(folder.as_fd(), &record, Writing::Durable);
        }
        started
    }

    fn launch(
        handed: &Handed<'_>,
        spec: &RunSpec,
        folder: BorrowedFd<'_>,
        record: &mut RunRecord,
        outbox: &mut Outbox,
    ) -> Result<Self, StartFailure> {
        let failed = |stage, what: &str, error: io::Error| StartFailure::new(stage, what, &error);
        let socket_failed = |error: Errno| failed(StartStage::Socket, "sockets and pipes", error.into());
        runs::prune(folder, handed.run, spec.logs.keep_runs, handed.boot_id);
        let prepared = Prepared::new(spec, handed.soft_open_files)?;
        let lease =
            open_lease(spec.lease_until).map_err(|error| failed(StartStage::Socket, "lease", error))?;
        let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        let log = own(folder)
            .and_then(|folder| Log::create(folder, handed.run, spec.logs))
            .map_err(|error| failed(StartStage::Log, "log", error))?;
        let signals = sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM])
            .map_err(|error| failed(StartStage::Socket, "signals", error))?;
        let control =
            socket::bound(handed.run_folder, &control_name(handed.run), false).map_err(socket_failed)?;
        let (input, stdin) = open_stdin(handed, spec.stdin).map_err(socket_failed)?;
        let (stdout, out) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(socket_failed)?;
        let (stderr, err) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(socket_failed)?;
        let output = |stream, pipe: OwnedFd| {
            rustix::io::ioctl_fionbio(&pipe, true)?;
            Ok(Output { pipe: Some(pipe), lines: LineBuffer::new(stream)?, wide: false })
        };
        let outputs = [output(Stream::Stdout, stdout), output(Stream::Stderr, stderr)];
        let [stdout, stderr] = outputs.map(|made: io::Result<Output>| {
            made.map_err(|error| failed(StartStage::Socket, "sockets and pipes", error))
        });
        let (outputs, folder) = (
            [stdout?, stderr?],
            own(folder).map_err(|error| failed(StartStage::Record, "instance folder", error))?,
        );
        let main = child::spawn(&prepared, [input.as_fd(), out.as_fd(), err.as_fd()])?;
        // Not waited for, so it is still this one, even if it has ended.
        let process =
            ProcessIdentity::of(main).unwrap_or(ProcessIdentity { pid: main, start: 0, inode: None });
        record.state = RunState::Running { process };
        // If this fails (a full disk), the record of the start stands, and the marker finds what it doesn't name.
        let _ = write_record(folder.as_fd(), record, Writing::Over);
        outbox.push(&Report::Started { instance: record.instance.clone(), run: handed.run, pid: main });
        Ok(Self {
            folder,
            record: record.clone(),
            outbox: std::mem::take(outbox),
            control,
            signals,
            stdin,
            outputs,
            log,
            main,
            process,
            ended: None,
            phase: Phase::Running,
            asked: Vec::new(),
            stop_signal: spec.stop_signal,
            stop_timeout: spec.stop_timeout,
            farewell: Farewell::of(spec, handed.soft_open_files),
            asking: None,
            cgroup: spec.cgroup.clone(),
            busy: None,
            lease,
        })
    }

    fn keep(mut self) -> i32 {
        loop {
            let ready = self.wait();
            if ready.signals && sys::drain_signals(self.signals.as_fd(), libc::SIGTERM) {
                self.stop(self.stop_signal, self.stop_timeout);
            }
            if ready.control {
                self.take_controls();
            }
            // After the controls: one that renews it may have come in time.
            if ready.lease && self.lease.as_ref().is_some_and(|lease| is_over(lease.as_fd())) {
                self.kill();
            }
            for (at, ready) in ready.outputs.into_iter().enumerate() {
                if ready {
                    self.copy(at);
                }
            }
            self.note_gaps(false);
            self.outbox.flush();
            // Looked at in every round: cheap, and right also if a signal was merged with another.
            let alone = (ready.signals || ready.timer) && self.reap();
            if self.ended.is_some() && (alone || self.is_given_up()) {
                return self.finish();
            }
            if !matches!(self.phase, Phase::Running) {
                self.press();
            }
        }
    }

    /// Waits for the next thing to do.
    fn wait(&mut self) -> Ready {
        let entry = |fd: Option<BorrowedFd<'_>>| libc::pollfd {
            fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
            events: libc::POLLIN,
            revents: 0,
        };
        let [stdout, stderr] = &self.outputs;
        let mut fds = [
            entry(Some(self.signals.as_fd())),
            entry(Some(self.control.as_fd())),
            entry(stdout.pipe.as_ref().map(AsFd::as_fd)),
            entry(stderr.pipe.as_ref().map(AsFd::as_fd)),
            entry(self.lease.as_ref().map(AsFd::as_fd)),
        ];
        let timeout = self.timeout();
        if sys::poll(&mut fds, timeout).is_err() {
            // Only for lack of memory; a pause instead of a spin.
            std::thread::sleep(ROUND);
        }
        let [signals, control, stdout, stderr, lease] = fds.map(|fd| fd.revents != 0);
        if !stdout && !stderr && self.busy.is_some_and(|at| at.elapsed() >= QUIET) {
            self.busy = None;
            self.outputs.iter_mut().for_each(|output| output.lines.release());
            self.log.release();
        }
        Ready { signals, control, outputs: [stdout, stderr], lease, timer: timeout >= 0 }
    }

    /// How long there is nothing to do by itself, in milliseconds; -1 for ever.
    fn timeout(&self) -> i32 {
        let now = Instant::now();
        let stopping = match self.phase {
            Phase::Running => None,
            Phase::Asking(at, _) | Phase::Stopping(at) => Some(at.saturating_duration_since(now)),
            Phase::Killing(_) | Phase::Ending(_) => Some(ROUND),
        };
        let quiet = self.busy.map(|at| (at + QUIET).saturating_duration_since(now));
        let soonest = [stopping, quiet, self.outbox.delay()].into_iter().flatten().min();
        // Rounded up, so that the moment has come when poll returns.
        soonest.map_or(-1, |wait| i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX))
    }

    fn take_controls(&mut self) {
        let mut buffer = [0; 512];
        while let Ok(read) = rustix::io::read(&self.control, &mut buffer) {
            match buffer.get(..read).and_then(decode::<Control>) {
                Some(Control::Stop { signal, timeout_ms }) => {
                    self.stop(signal, Duration::from_millis(timeout_ms))
                }
                Some(Control::Kill) => self.kill(),
                Some(Control::Signal { number }) if self.ended.is_none() => {
                    let _ = sys::kill_child(self.main, number);
                }
                Some(Control::CloseStdin) => self.stdin = None,
                Some(Control::Lease { until_ms }) => {
                    if let Some(lease) = &self.lease {
                        // One that can't be set stays as it was, which is the safe side.
                        let _ = set_lease(lease.as_fd(), Duration::from_millis(until_ms));
                    }
                }
                Some(Control::Signal { .. }) | None => {}
            }
        }
    }

    /// Asks the main process to end, with its stop command first where it has one. Asked again, it is told again, and an earlier
    /// deadline counts.
    fn stop(&mut self, signal: i32, timeout: Duration) {
        let until = deadline(timeout);
        if matches!(self.phase, Phase::Running) && self.ended.is_none() && self.ask(signal) {
            self.phase = Phase::Asking(deadline(timeout / 2), until);
            return;
        }
        if let Phase::Asking(patience, at) = self.phase {
            self.phase = Phase::Asking(patience.min(deadline(timeout / 2)), at.min(until));
            return;
        }
        self.signal(signal, until);
    }

    /// Starts the stop command; whether there is one and it runs.
    fn ask(&mut self, signal: i32) -> bool {
        let Some(farewell) = self.farewell.take() else { return false };
        let [out, err] = &self.outputs;
        let pipes = [out, err].map(|output| output.pipe.as_ref().map(AsFd::as_fd));
        match farewell.start(self.main, pipes) {
            Ok(pid) => {
                self.asking = Some(Asking { pid, signal });
                true
            }
            Err(failure) => {
                self.complain(&Err(failure));
                false
            }
        }
    }

    /// The stop command has ended, or has had its time: the signal follows, unless it isn't needed any more.
    fn follow(&mut self) {
        let Phase::Asking(_, until) = self.phase else { return };
        match (&self.ended, self.asking) {
            (None, Some(Asking { signal, .. })) => self.signal(signal, until),
            _ => self.phase = Phase::Ending(until.min(deadline(ENDING))),
        }
    }

    fn complain(&mut self, outcome: &Result<Exit, StartFailure>) {
        if let (Some(text), [_, err]) = (complaint(outcome), &mut self.outputs) {
            err.lines.say(&text, now(), &mut self.log);
        }
    }

    fn signal(&mut self, signal: i32, deadline: Instant) {
        if self.ended.is_none() {
            tree::signal_child(self.main, signal);
        }
        self.phase = match self.phase {
            Phase::Running | Phase::Asking(..) => Phase::Stopping(deadline),
            Phase::Stopping(at) => Phase::Stopping(at.min(deadline)),
            Phase::Ending(at) => Phase::Ending(at.min(deadline)),
            Phase::Killing(since) => Phase::Killing(since),
        };
    }

    fn kill(&mut self) {
        if !matches!(self.phase, Phase::Killing(_)) {
            self.phase = Phase::Killing(Instant::now());
        }
    }

    /// Takes the statuses of all that have ended; whether no child is left.
    fn reap(&mut self) -> bool {
        loop {
            match tree::reap() {
                Reaped::Child { pid, exit } if pid == self.main && self.ended.is_none() => {
                    self.ended = Some((exit, Timestamp::now()));
                    self.phase = match self.phase {
                        Phase::Running => Phase::Ending(deadline(self.stop_timeout.min(ENDING))),
                        Phase::Stopping(at) => Phase::Ending(at.min(deadline(ENDING))),
                        phase => phase,
                    };
                }
                Reaped::Child { pid, exit } if self.asking.is_some_and(|asking| asking.pid == pid) => {
                    if matches!(self.phase, Phase::Asking(..)) {
                        self.complain(&Ok(exit));
                    }
                    self.follow();
                    self.asking = None;
                }
                Reaped::Child { pid, .. } => self.asked.retain(|asked| *asked != pid),
                Reaped::NoneEnded => return false,
                Reaped::NoChildren => return true,
            }
        }
    }

    /// Does to the tree what the phase asks for.
    fn press(&mut self) {
        let now = Instant::now();
        match self.phase {
            Phase::Stopping(at) | Phase::Ending(at) | Phase::Asking(_, at) if now >= at => {
                self.phase = Phase::Killing(now);
            }
            Phase::Asking(at, _) if now >= at => self.follow(),
            _ => {}
        }
        let children = || tree::children().unwrap_or_default();
        match self.phase {
            Phase::Running | Phase::Asking(..) | Phase::Stopping(_) => {}
            Phase::Ending(_) => {
                for pid in children() {
                    if !self.asked.contains(&pid) {
                        tree::signal_child(pid, libc::SIGTERM);
                        self.asked.push(pid);
                    }
                }
            }
            Phase::Killing(_) => {
                if let Some(folder) = &self.cgroup {
                    let kill = File::options().write(true).open(folder.join("cgroup.kill"));
                    let _ = kill.and_then(|mut kill| kill.write_all(b"1"));
                }
                for pid in children() {
                    tree::signal_child(pid, libc::SIGKILL);
                }
            }
        }
    }

    fn is_given_up(&self) -> bool {
        matches!(self.phase, Phase::Killing(since) if since.elapsed() >= GIVE_UP)
    }

    /// Copies one block of an output to the log.
    fn copy(&mut self, at: usize) {
        let Some(output) = self.outputs.get_mut(at) else { return };
        let Some(pipe) = &output.pipe else { return };
        let space = output.lines.space();
        let room = space.len();
        match rustix::io::read(pipe, space) {
            Ok(0) => {
                output.lines.finish(now(), &mut self.log);
                output.pipe = None;
            }
            Ok(read) => {
                if read == room && room > BLOCK / 2 && !output.wide {
                    // Refused when this user's pipes are many already; then it stays as it is.
                    let _ = rustix::pipe::fcntl_setpipe_size(pipe, WIDE_PIPE);
                    output.wide = true;
                }
                output.lines.take(read, now(), &mut self.log);
                let calm = self.busy.is_none_or(|at| at.elapsed() > CLOSELY);
                if read < SMALL && !calm && matches!(self.phase, Phase::Running) {
                    std::thread::sleep(GATHER);
                }
                self.busy = Some(Instant::now());
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => output.pipe = None,
        }
    }

    /// Puts the gaps of the log that came to an end (`all`: also one that hasn't) into the record.
    fn note_gaps(&mut self, all: bool) {
        let gaps = self.log.take_gaps(all);
        if !gaps.is_empty() {
            gaps.into_iter().for_each(|gap| self.record.add_gap(gap));
            if !all {
                // If there is no room for it, the next one or the exit's record has it.
                let _ = write_record(self.folder.as_fd(), &self.record, Writing::Replace);
            }
        }
    }

    /// All processes are gone: the last output, the record, the report, in this order.
    fn finish(mut self) -> i32 {
        for at in 0..self.outputs.len() {
            self.drain(at);
        }
        self.note_gaps(true);
        let left = tree::children().unwrap_or_default();
        let (exit, ended_at) =
            self.ended.take().unwrap_or_else(|| (Exit::Unknown("not seen".into()), Timestamp::now()));
        let Self { record, process, .. } = &mut self;
        let process = Some(*process);
        record.state = RunState::Exited { exit: exit.clone(), ended_at, process, left: left.clone() };
        let recorded = write_record(self.folder.as_fd(), &self.record, Writing::Durable);
        let instance = self.record.instance.clone();
        self.outbox.push(&Report::Exited { instance, run: self.record.run, exit, ended_at, left });
        self.outbox.finish();
        i32::from(recorded.is_err())
    }

    /// Copies what is in the pipe. Nobody of the tree can write to it any more; who else got hold of it isn't waited for.
    fn drain(&mut self, at: usize) {
        // A pipe's content is bounded; what keeps coming comes from a stranger.
        for _ in 0..=(2 * WIDE_PIPE / 1024) {
            let Some(output) = self.outputs.get(at) else { return };
            let Some(pipe) = &output.pipe else { return };
            match rustix::io::ioctl_fionread(pipe) {
                Ok(waiting) if waiting > 0 => self.copy(at),
                _ => break,
            }
        }
        if let Some(output) = self.outputs.get_mut(at) {
            output.lines.finish(now(), &mut self.log);
            output.pipe = None;
        }
    }
}

/// What [`Keeper::wait`] found.
struct Ready {
    signals: bool,
    control: bool,
    outputs: [bool; 2],
    lease: bool,
    /// Something was to be done by itself.
    timer: bool,
}

/// The service's standard input, and the end that keeps it open.
fn open_stdin(handed: &Handed<'_>, wanted: bool) -> rustix::io::Result<(OwnedFd, Option<OwnedFd>)> {
    if !wanted {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        return Ok((null, None));
    }
    // A pipe with a name: whoever may write to it does so directly, with the pipe's own flow control.
    let name = stdin_name(handed.run);
    let folder = handed.run_folder;
    rustix::fs::mknodat(folder, &name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let ours = rustix::fs::openat(folder, &name, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let input = rustix::fs::openat(folder, &name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // Only a writer: with a reader left here, writers would never learn that the service closed its input.
    let writer = rustix::fs::openat(folder, &name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    drop(ours);
    Ok((input, Some(writer)))
}

/// A timer that rings when the lease is over; sleep counts, so that a machine that wakes up doesn't go on with what others have
/// taken over meanwhile.
fn open_lease(until: Option<Duration>) -> io::Result<Option<OwnedFd>> {
    let Some(until) = until else { return Ok(None) };
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
    set_lease(timer.as_fd(), until)?;
    if is_over(timer.as_fd()) {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it is over already"));
    }
    Ok(Some(timer))
}

fn set_lease(timer: BorrowedFd<'_>, until: Duration) -> io::Result<()> {
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Zero would disarm it.
    let until = until.max(Duration::from_nanos(1));
    let it_value = Timespec::try_from(until).map_err(|_| io::ErrorKind::InvalidInput)?;
    let setting = Itimerspec { it_interval: none, it_value };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &setting)?;
    Ok(())
}

/// Whether it has rung. Setting it anew takes that back.
fn is_over(timer: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 8];
    rustix::io::read(timer, &mut buffer).is_ok()
}

fn deadline(timeout: Duration) -> Instant {
    // A century for a time-out without end.
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400))
}

/// Nanoseconds since 1970.
fn now() -> i128 {
    Timestamp::now().as_nanosecond()
}
