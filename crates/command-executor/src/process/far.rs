//! The near end of the far protocol (see `launcher/far`): what goes there, and what is known from there.

use super::Exit;
use super::markers::{Markers, Part};
use crate::launcher::{Evidence, Far, PlaceError, explain};
use async_process::ChildStdin;
use futures_lite::AsyncWrite;
use rustix::io::Errno;
use rustix::process::Signal;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Bytes of input in one frame.
const FRAME: usize = 30 * 1024;
/// Bytes that are kept of what is said before the program runs.
const SAID: usize = 16 * 1024;

/// One run in a place.
pub(super) struct FarRun {
    far: Box<Far>,
    pipe: Option<ChildStdin>,
    out: Frames,
    source: Option<(Vec<u8>, usize)>,
    credit: usize,
    input_ended: bool,
    errors: Markers,
    output: Option<Markers>,
    told: usize,
    fail: Option<String>,
    pid: Option<u32>,
    exit: Option<Exit>,
    said: Vec<u8>,
    sent: Vec<i32>,
    given_up: bool,
    deadline: Instant,
    pump: Option<Waker>,
    writer: Option<Waker>,
}

impl FarRun {
    pub(super) fn new(mut far: Box<Far>, pipe: Option<ChildStdin>, source: Option<Vec<u8>>) -> Self {
        let mut run = Self {
            pipe,
            out: Frames::new(std::mem::take(&mut far.lines)),
            source: source.filter(|bytes| !bytes.is_empty()).map(|bytes| (bytes, 0)),
            credit: far.window,
            input_ended: far.window == 0,
            errors: Markers::new(&far.mark),
            output: Some(Markers::new(&far.mark)),
            told: 0,
            fail: None,
            pid: None,
            exit: None,
            said: Vec::new(),
            sent: Vec::new(),
            given_up: false,
            deadline: Instant::now() + far.start_within,
            pump: None,
            writer: None,
            far,
        };
        run.write_now();
        run
    }

    /// Gives a session that waits its command.
    pub(super) fn begin(&mut self, far: Box<Far>, source: Option<Vec<u8>>) {
        let pipe = self.pipe.take();
        *self = Self::new(far, pipe, source);
    }

    /// The program's process id there, once it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// How it ended there.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// When it is too late to start, as long as it hasn't.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.pid.is_none() && self.exit.is_none() && !self.given_up).then_some(self.deadline)
    }

    /// Asks for a signal; `false` if it has ended. It is delivered as soon as the program runs.
    pub(super) fn signal(&mut self, signal: Signal) -> bool {
        if self.exit.is_some() || self.pipe.is_none() {
            return false;
        }
        self.sent.push(signal.as_raw());
        self.out.overtake(format!("S {}\n", name_of(signal)).into_bytes());
        self.write_now();
        wake(&mut self.pump);
        true
    }

    /// Ends what goes there, which ends the program.
    pub(super) fn hang_up(&mut self) {
        self.pipe = None;
        self.source = None;
        self.out.clear();
        wake(&mut self.writer);
        wake(&mut self.pump);
    }

    /// It isn't waited for any longer.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
        self.hang_up();
    }

    /// Moves what can be moved; keeps the waker for when more can.
    pub(super) fn poll_pump(&mut self, cx: &mut Context<'_>) {
        self.pump = Some(cx.waker().clone());
        loop {
            self.fill();
            let Some(pipe) = &mut self.pipe else { return };
            let Some(front) = self.out.front() else { return };
            match Pin::new(pipe).poll_write(cx, front) {
                Poll::Pending => return,
                Poll::Ready(Ok(count)) => self.out.written(count),
                Poll::Ready(Err(_)) => return self.hang_up(),
            }
        }
    }

    /// Writes what can be written without waiting, whoever asks. The rest goes when the events are read.
    fn write_now(&mut self) {
        self.fill();
        while let Some(pipe) = &self.pipe {
            let Some(front) = self.out.front() else { return };
            match rustix::io::write(pipe.as_fd(), front) {
                Ok(count) => self.out.written(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.hang_up(),
            }
        }
    }

    /// Makes frames of the input that may go.
    fn fill(&mut self) {
        while let Some((bytes, from)) = &mut self.source {
            let left = bytes.get(*from..).unwrap_or_default();
            let count = left.len().min(self.credit).min(FRAME);
            if count == 0 {
                return;
            }
            self.out.push(frame(left.get(..count).unwrap_or_default()));
            self.credit -= count;
            *from += count;
            if *from == bytes.len() {
                self.source = None;
                self.end_input();
            }
        }
    }

    fn end_input(&mut self) {
        if !self.input_ended {
            self.input_ended = true;
            self.out.push(b"E\n".to_vec());
        }
    }

    /// Takes bytes of the client's stdout; gives what the program wrote.
    pub(super) fn take_output(&mut self, bytes: &[u8], line: &mut dyn FnMut(&[u8])) {
        let Some(markers) = &mut self.output else { return line(bytes) };
        let mut found = false;
        let (said, mut after) = (&mut self.said, Vec::new());
        markers.push(bytes, |part| match part {
            Part::Marker(_) => found = true,
            Part::Bytes(bytes) if found => after.extend_from_slice(bytes),
            Part::Bytes(noise) => keep(said, noise),
        });
        if found {
            after.extend(markers.finish());
            self.output = None;
            line(&after);
        }
    }

    /// Takes bytes of the client's stderr; gives what the program wrote.
    pub(super) fn take_errors(&mut self, bytes: &[u8], line: &mut dyn FnMut(&[u8])) {
        let mut markers = std::mem::replace(&mut self.errors, Markers::new("-"));
        markers.push(bytes, |part| match part {
            Part::Marker(text) => self.hear(text),
            Part::Bytes(bytes) => self.sort(bytes, line),
        });
        self.errors = markers;
    }

    /// At the end of stderr: what looked like a marker.
    pub(super) fn finish_errors(&mut self, line: &mut dyn FnMut(&[u8])) {
        let rest = self.errors.finish();
        self.sort(&rest, line);
    }

    /// Before the program runs the clients speak, after its end too; and in between nobody can tell.
    fn sort(&mut self, bytes: &[u8], line: &mut dyn FnMut(&[u8])) {
        match (self.pid, self.exit) {
            (Some(_), None) => {
                keep(&mut self.said, bytes);
                line(bytes);
            }
            _ => keep(&mut self.said, bytes),
        }
    }

    fn hear(&mut self, text: &str) {
        let mut words = text.split(' ');
        let verb = words.next().unwrap_or_default();
        let first = words.next().unwrap_or_default();
        match verb {
            "hop" => self.told += 1,
            "pid" => {
                self.pid = first.parse().ok();
                self.said.clear();
            }
            "ack" => {
                self.credit += first.parse().unwrap_or(0);
                wake(&mut self.writer);
                wake(&mut self.pump);
            }
            "fail" => self.fail = Some(first.to_owned()),
            "exit" => {
                let code = first.parse().unwrap_or(-1);
                self.exit = Some(self.meaning(code, words.next() == Some("s")));
                self.hang_up();
            }
            _ => {}
        }
    }

    /// The shell there says by which signal a program died, except for two, which are ours if we sent them.
    fn meaning(&self, code: i32, by_signal: bool) -> Exit {
        let signal = code - 128;
        let quiet = [Signal::INT.as_raw(), Signal::PIPE.as_raw()];
        let is_signal = by_signal || (quiet.contains(&signal) && self.sent.contains(&signal));
        if signal > 0 && is_signal { Exit::Signal(signal) } else { Exit::Code(code) }
    }

    /// What became of it, once the client here ended (`None`: was given up).
    pub(super) fn outcome(&self, near: Option<Exit>) -> Result<Exit, Box<PlaceError>> {
        if self.fail.is_none() {
            if let Some(exit) = self.exit {
                return Ok(exit);
            }
            if self.given_up && near.is_some() {
                return Ok(Exit::Signal(Signal::KILL.as_raw()));
            }
        }
        let evidence = Evidence {
            told: self.told,
            started: self.pid.is_some(),
            fail: self.fail.as_deref(),
            near,
            said: &self.said,
        };
        Err(Box::new(explain(&self.far, evidence)))
    }

    /// Whether the program there has ended or never began, for whoever writes to it.
    fn reads_no_more(&self) -> bool {
        self.pipe.is_none() || self.exit.is_some()
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.reads_no_more() || self.input_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(self.credit).min(FRAME);
        if count == 0 && !bytes.is_empty() {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if count > 0 {
            self.out.push(frame(bytes.get(..count).unwrap_or_default()));
            self.credit -= count;
            self.write_now();
            wake(&mut self.pump);
        }
        Poll::Ready(Ok(count))
    }

    pub(super) fn close_input(&mut self) {
        if !self.reads_no_more() {
            self.end_input();
            self.write_now();
            wake(&mut self.pump);
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut frame = format!("D {}\n", bytes.len()).into_bytes();
    frame.extend_from_slice(bytes);
    frame
}

/// What goes there, in order, except that signals overtake input.
struct Frames {
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first one that are gone.
    written: usize,
    /// Frames at the front that nothing overtakes: what the shells read first, and signals.
    firm: usize,
}

impl Frames {
    fn new(lines: Vec<u8>) -> Self {
        Self { queue: VecDeque::from([lines]), written: 0, firm: 1 }
    }

    fn push(&mut self, frame: Vec<u8>) {
        self.queue.push_back(frame);
    }

    fn overtake(&mut self, frame: Vec<u8>) {
        let begun = usize::from(self.written > 0);
        let at = self.firm.max(begun).min(self.queue.len());
        self.queue.insert(at, frame);
        self.firm = at + 1;
    }

    fn front(&self) -> Option<&[u8]> {
        self.queue.front()?.get(self.written..)
    }

    fn written(&mut self, count: usize) {
        self.written += count;
        if self.queue.front().is_some_and(|frame| frame.len() <= self.written) {
            self.queue.pop_front();
            self.written = 0;
            self.firm = self.firm.saturating_sub(1);
        }
    }

    fn clear(&mut self) {
        self.queue.clear();
        (self.written, self.firm) = (0, 0);
    }
}

/// Keeps the last bytes.
fn keep(said: &mut Vec<u8>, bytes: &[u8]) {
    said.extend_from_slice(bytes);
    if said.len() > 2 * SAID {
        said.drain(..said.len() - SAID);
    }
}

/// As `kill` there knows it: numbers differ between machines.
fn name_of(signal: Signal) -> String {
    let names = [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::ABORT, "ABRT"),
        (Signal::KILL, "KILL"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::PIPE, "PIPE"),
        (Signal::ALARM, "ALRM"),
        (Signal::TERM, "TERM"),
        (Signal::CHILD, "CHLD"),
        (Signal::CONT, "CONT"),
        (Signal::STOP, "STOP"),
        (Signal::TSTP, "TSTP"),
        (Signal::TTIN, "TTIN"),
        (Signal::TTOU, "TTOU"),
        (Signal::URG, "URG"),
        (Signal::WINCH, "WINCH"),
    ];
    match names.iter().find(|(known, _)| *known == signal) {
        Some((_, name)) => (*name).to_owned(),
        None => signal.as_raw().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_overtake_input_that_was_not_begun_and_nothing_else() {
        let mut frames = Frames::new(b"line".to_vec());
        frames.push(b"D1".to_vec());
        frames.push(b"D2".to_vec());
        frames.overtake(b"S1".to_vec());
        frames.overtake(b"S2".to_vec());
        let mut sent = Vec::new();
        while let Some(front) = frames.front() {
            sent.extend_from_slice(&front[..1]);
            frames.written(1);
            if sent.ends_with(b"D") {
                frames.overtake(b"T".to_vec());
            }
        }
        assert_eq!(sent, b"lineS1S2D1TD2T");
    }
}
