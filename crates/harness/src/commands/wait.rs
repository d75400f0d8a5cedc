//! Watches the registry until something is settled, with live progress.

use super::Context;
use super::verdict::{Expect, Verdict, judge, settled};
use crate::api::StopResult;
use crate::connect::{CallError, Change, Changes, Daemon};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::ui::describe::{self, Labels};
use crate::ui::progress::{Item, Painter, Phase, Screen, frame};
use crate::ui::time::short;
use crate::ui::{Ui, style};
use async_io::Timer;
use async_signal::{Signal, Signals};
use futures_lite::{FutureExt, StreamExt, future};
use service_registry::model::{Entry, Execution, Location, ReasonCode, State};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Time between two frames.
const FRAME: Duration = Duration::from_millis(80);
/// Where nothing can be redrawn: after this much silence it is said what is being waited for.
const SILENCE: Duration = Duration::from_secs(2);
/// What the registry said before the start is taken as its last word after this time: the daemon had nothing to add.
const GRACE: Duration = Duration::from_secs(3);
/// A service without a health check is called ready once it has run this long: one that exits at once never was.
const STEADY: Duration = Duration::from_millis(30);
/// The same for one that somebody else keeps: its end has to be asked for.
const STEADY_HOSTED: Duration = Duration::from_millis(250);
/// The same for one that has died since the start: it must do better than before.
const STEADY_AGAIN: Duration = Duration::from_secs(1);

/// Daemons that may end under a wait, one after the other: more are no accident.
const RESUMES: usize = 20;

/// Everything that the registry has said.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// By instance.
    pub(super) entries: HashMap<String, Entry>,
}

impl Board {
    fn take(&mut self, change: Change) {
        match change {
            Change::Snapshot(entries) => {
                self.entries =
                    entries.iter().map(|entry| (entry.instance.clone(), Entry::clone(entry))).collect();
            }
            Change::Event(event) => match &event.entry {
                Some(entry) => {
                    self.entries.insert(event.instance.clone(), Entry::clone(entry));
                }
                None => {
                    self.entries.remove(&event.instance);
                }
            },
        }
    }
}

/// Why the waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing is left to wait for.
    Settled,
    /// `--timeout`.
    TimedOut,
    /// Ctrl-C.
    Interrupted,
}

enum Wake {
    Change(Result<Change, CallError>),
    Tick,
    Deadline,
    Interrupt,
}

/// Waits on one subscription.
pub(super) struct Waiter<'a> {
    ui: &'a Ui,
    changes: Changes,
    signals: Signals,
    pub(super) board: Board,
    pub(super) begin: Instant,
    /// When this daemon began to tell.
    since: Instant,
    deadline: Option<Instant>,
    painter: Option<Painter>,
    tick: usize,
    /// What was said of each instance, and when it was settled.
    told: HashMap<String, (String, Option<Instant>)>,
    /// The run of each service without a health check, and when it was first seen to be up.
    ran: HashMap<String, (String, Instant)>,
    /// Since when each has been ready without a break.
    ready_since: HashMap<String, Instant>,
    /// Those that were ready for [`STEADY_AGAIN`].
    lasted: HashSet<String>,
    spoke: Instant,
    silence: Duration,
}

impl<'a> Waiter<'a> {
    /// Subscribes: a snapshot comes first.
    pub(super) async fn new(
        context: &'a Context,
        daemon: &Daemon,
        begin: Instant,
    ) -> Result<Self, CommandError> {
        let signals = Signals::new([Signal::Int])
            .map_err(|error| CommandError::io("can't listen for Ctrl-C", &error))?;
        let live = context.ui.stderr_terminal && !context.ui.quiet;
        let mut changes = daemon.watch().await?;
        // The snapshot: before it, everything would look as if it were gone.
        let mut board = Board::default();
        board.take(changes.next().await?);
        Ok(Self {
            ui: &context.ui,
            changes,
            signals,
            board,
            begin,
            since: begin,
            deadline: context.global.timeout.and_then(|timeout| begin.checked_add(timeout)),
            painter: live.then(|| Painter::new(Screen::Stderr)),
            tick: 0,
            told: HashMap::new(),
            ran: HashMap::new(),
            ready_since: HashMap::new(),
            lasted: HashSet::new(),
            spoke: Instant::now(),
            silence: SILENCE,
        })
    }

    /// Waits until each of `wanted` is settled, and says how it goes.
    pub(super) async fn ready(&mut self, wanted: &[Expect]) -> Result<(End, Vec<Verdict>), CommandError> {
        let mut wanted = wanted.to_vec();
        let mut graced = false;
        loop {
            let mut verdicts = judge(&wanted, &self.board.entries);
            let steady = self.doubt(&wanted, &mut verdicts);
            self.remember(&wanted, &mut verdicts);
            let items = self.ready_items(&wanted, &verdicts);
            if settled(&verdicts) {
                self.finish(items);
                return Ok((End::Settled, verdicts));
            }
            self.show(items);
            match self.wake(steady).await {
                Wake::Change(change) => self.take(change?).await?,
                Wake::Tick => {
                    if !graced && self.since.elapsed() > GRACE {
                        graced = true;
                        wanted.iter_mut().for_each(|expect| expect.after = 0);
                    }
                }
                Wake::Deadline => return Ok((self.leave(End::TimedOut), verdicts)),
                Wake::Interrupt => return Ok((self.leave(End::Interrupted), verdicts)),
            }
        }
    }

    /// Like [`Self::ready`], also where the daemon ends meanwhile: what was acknowledged, the one that `next` gives goes on
    /// with.
    pub(super) async fn ready_whoever_tells(
        &mut self,
        wanted: &[Expect],
        next: impl AsyncFn() -> Result<Daemon, CommandError>,
    ) -> Result<(End, Vec<Verdict>), CommandError> {
        let mut outcome = self.ready(wanted).await;
        for _ in 0..RESUMES {
            match &outcome {
                Err(error) if error.exit == Exit::UNREACHABLE => {}
                _ => break,
            }
            outcome = match self.resume(&next).await {
                Ok(()) => self.ready(wanted).await,
                Err(error) => Err(error),
            };
        }
        outcome
    }

    async fn resume(
        &mut self,
        next: &impl AsyncFn() -> Result<Daemon, CommandError>,
    ) -> Result<(), CommandError> {
        let mut changes = next().await?.watch().await?;
        self.board.take(changes.next().await?);
        self.changes = changes;
        self.since = Instant::now();
        Ok(())
    }

    /// Waits until none of what is `stopping` runs any more, and says how it goes.
    pub(super) async fn stopped(&mut self, stopping: &StopResult) -> Result<End, CommandError> {
        let names: Vec<String> = stopping.stopping.iter().map(ToString::to_string).collect();
        loop {
            let again = self.started_again(stopping);
            let gone: Vec<bool> = names.iter().map(|name| is_gone(self.board.entries.get(name))).collect();
            let items = self.stop_items(&names, &gone, &again);
            if names.iter().zip(&gone).all(|(name, gone)| *gone || again.contains(name)) {
                self.finish(items);
                return Ok(End::Settled);
            }
            self.show(items);
            match self.wake(None).await {
                Wake::Change(change) => self.take(change?).await?,
                Wake::Tick => {}
                Wake::Deadline => return Ok(self.leave(End::TimedOut)),
                Wake::Interrupt => return Ok(self.leave(End::Interrupted)),
            }
        }
    }

    /// Those of what was stopping that have a new run: someone else has started them.
    pub(super) fn started_again(&self, stopping: &StopResult) -> Vec<String> {
        let again = stopping.stopping.iter().filter(|name| {
            let run = self.board.entries.get(&name.to_string()).and_then(|entry| entry.execution.run());
            is_another(run, stopping.runs.get(*name))
        });
        again.map(ToString::to_string).collect()
    }

    /// Waits until the other end of the connection is gone, at most `limit`.
    pub(super) async fn closed(&mut self, limit: Duration) -> bool {
        let closed = async {
            while self.changes.next().await.is_ok() {}
            true
        };
        let late = async {
            Timer::after(limit).await;
            false
        };
        closed.or(late).await
    }

    /// Takes a change and all that came with it, so that a burst is one frame.
    async fn take(&mut self, change: Change) -> Result<(), CommandError> {
        self.board.take(change);
        while let Some(change) = future::poll_once(self.changes.next()).await {
            self.board.take(change?);
        }
        Ok(())
    }

    /// Doubts that what has just come up stays up, where nothing else than its process says so. The answer: when the
    /// next of them is believed.
    fn doubt(&mut self, wanted: &[Expect], verdicts: &mut [Verdict]) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for (expect, verdict) in wanted.iter().zip(verdicts) {
            let Some(entry) = self.board.entries.get(&expect.instance) else { continue };
            if *verdict != Verdict::Ready || !expect.fresh || entry.health.is_some() {
                continue;
            }
            let Some(run) = entry.execution.run() else { continue };
            let ran = self.ran.entry(expect.instance.clone()).or_insert_with(|| (run.to_owned(), now));
            if ran.0 != run {
                *ran = (run.to_owned(), now);
            }
            let pid = match &entry.execution {
                Execution::Process { pid, .. } => *pid,
                _ => None,
            };
            let died = entry.deaths > expect.deaths_before;
            let steady = match &entry.execution {
                _ if died => STEADY_AGAIN,
                Execution::Process { .. } => STEADY,
                _ => STEADY_HOSTED,
            };
            let believed = ran.1 + steady;
            // Its end is told only once that is durable; that it has ended can be seen before.
            let gone =
                entry.location == Location::Local && pid.is_some_and(has_ended) && now < believed + GRACE;
            if believed > now || gone {
                *verdict = Verdict::Pending;
                let again = if gone { now + FRAME } else { believed };
                next = Some(next.map_or(again, |next| next.min(again)));
            }
        }
        next
    }

    /// What was ready for a while has been started, and isn't waited for once more while it is started again: else a start
    /// of many that die now and then would never see all of them up at once.
    fn remember(&mut self, wanted: &[Expect], verdicts: &mut [Verdict]) {
        let now = Instant::now();
        for (Expect { instance, .. }, verdict) in wanted.iter().zip(verdicts) {
            if *verdict != Verdict::Ready {
                self.ready_since.remove(instance);
                if *verdict == Verdict::Pending && self.lasted.contains(instance) {
                    *verdict = Verdict::Ready;
                }
            } else if now - *self.ready_since.entry(instance.clone()).or_insert(now) >= STEADY_AGAIN {
                self.lasted.insert(instance.clone());
            }
        }
    }

    async fn wake(&mut self, at: Option<Instant>) -> Wake {
        let Self { changes, signals, deadline, .. } = self;
        let change = async { Wake::Change(changes.next().await) };
        let frame = Instant::now() + FRAME;
        let tick = async {
            Timer::at(at.map_or(frame, |at| at.min(frame))).await;
            Wake::Tick
        };
        let interrupt = async {
            signals.next().await;
            Wake::Interrupt
        };
        let deadline = async {
            match deadline {
                Some(deadline) => Timer::at(*deadline).await,
                None => future::pending().await,
            };
            Wake::Deadline
        };
        interrupt.or(deadline).or(change).or(tick).await
    }

    fn ready_items(&mut self, wanted: &[Expect], verdicts: &[Verdict]) -> Vec<Item> {
        let labels = Labels::new(wanted.iter().map(|expect| service_of(&expect.instance)));
        let states = wanted.iter().zip(verdicts).map(|(expect, verdict)| {
            let entry = self.board.entries.get(&expect.instance);
            let (phase, text) = word(*verdict, entry);
            (expect.instance.clone(), phase, text)
        });
        let states: Vec<_> = states.collect();
        self.timed(states, &labels)
    }

    fn stop_items(&mut self, names: &[String], gone: &[bool], again: &[String]) -> Vec<Item> {
        let labels = Labels::new(names.iter().map(|name| service_of(name)));
        let states = names.iter().zip(gone).map(|(name, gone)| {
            let (phase, text) = match self.board.entries.get(name) {
                _ if again.contains(name) => (Phase::Failed, "started again meanwhile".to_owned()),
                _ if *gone => (Phase::Done, "stopped".to_owned()),
                Some(entry) if entry.status.state == State::Stopping => (Phase::Busy, "stopping".to_owned()),
                _ => (Phase::Waiting, "waiting for what needs it to stop".to_owned()),
            };
            (name.clone(), phase, text)
        });
        let states: Vec<_> = states.collect();
        self.timed(states, &labels)
    }

    fn timed(&mut self, states: Vec<(String, Phase, String)>, labels: &Labels) -> Vec<Item> {
        let now = Instant::now();
        let items = states.into_iter().map(|(instance, phase, text)| {
            let done = matches!(phase, Phase::Done | Phase::Failed);
            let told = self.told.entry(instance.clone()).or_default();
            if !done {
                told.1 = None;
            }
            let end = if done { *told.1.get_or_insert(now) } else { now };
            let name = labels.of(service_of(&instance), &instance).to_owned();
            if self.painter.is_none() && told.0 != text {
                if !told.0.is_empty() || done {
                    let time = short(end.saturating_duration_since(self.begin));
                    let time =
                        if done { style::paint(style::DIM, format_args!("  {time}")) } else { String::new() };
                    self.ui.say(format_args!("{} {name}: {text}{time}", symbol(phase)));
                    self.spoke = now;
                }
                told.0.clone_from(&text);
            }
            Item { name, phase, text, time: end.saturating_duration_since(self.begin) }
        });
        items.collect()
    }

    fn show(&mut self, items: Vec<Item>) {
        self.tick += 1;
        if let Some(painter) = &mut self.painter {
            let (width, height) = self.ui.stderr_size();
            let lines = frame(&items, self.tick, width, height);
            // Without a terminal to draw on, the summary will do.
            let _ = painter.draw(lines);
        } else if self.spoke.elapsed() > self.silence {
            let rest: Vec<&Item> =
                items.iter().filter(|item| !matches!(item.phase, Phase::Done | Phase::Failed)).collect();
            let first = rest.iter().take(3).map(|item| format!("{}: {}", item.name, item.text));
            let more = rest.len().saturating_sub(3);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let first: Vec<String> = first.collect();
            self.ui.say(format_args!("● {}{more}, {}", first.join("; "), short(self.begin.elapsed())));
            self.spoke = Instant::now();
            self.silence = (self.silence * 2).min(Duration::from_secs(30));
        }
    }

    fn finish(&mut self, items: Vec<Item>) {
        self.show(items);
        if let Some(painter) = &mut self.painter {
            painter.leave();
        }
    }

    fn leave(&mut self, end: End) -> End {
        if let Some(painter) = &mut self.painter {
            painter.leave();
        }
        end
    }
}

/// Whether a process of this machine is gone, or a zombie (proc_pid_stat(5)).
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn symbol(phase: Phase) -> String {
    match phase {
        Phase::Done => style::paint(style::GOOD, "✓"),
        Phase::Failed => style::paint(style::ERROR, "✗"),
        Phase::Late => style::paint(style::WARNING, "●"),
        Phase::Busy | Phase::Waiting => style::paint(style::BUSY, "●"),
    }
}

/// The service of an instance's name.
pub(super) fn service_of(instance: &str) -> &str {
    instance.rsplit_once('-').map_or(instance, |(service, _)| service)
}

/// Whether the run that there is now is another than the one that was stopped. A daemon of an older build doesn't name
/// that one: then it can't be said.
fn is_another(now: Option<&str>, stopped: Option<&String>) -> bool {
    now.zip(stopped).is_some_and(|(now, stopped)| now != stopped)
}

fn is_gone(entry: Option<&Entry>) -> bool {
    let Some(entry) = entry else { return true };
    let code = entry.status.reason.as_ref().map(|reason| reason.code);
    match entry.status.state {
        State::Registered => code != Some(ReasonCode::Waiting),
        State::Stopped | State::Failed => !matches!(code, Some(ReasonCode::Backoff | ReasonCode::Replaced)),
        State::Starting | State::Running | State::Stopping => false,
    }
}

fn word(verdict: Verdict, entry: Option<&Entry>) -> (Phase, String) {
    let Some(entry) = entry else { return (Phase::Waiting, "waiting".into()) };
    let reason = describe::reason(entry);
    match verdict {
        Verdict::Ready => (Phase::Done, "ready".into()),
        Verdict::Completed => (Phase::Done, "completed".into()),
        Verdict::Failed if reason.is_empty() => (Phase::Failed, "failed".into()),
        Verdict::Failed => (Phase::Failed, format!("failed: {reason}")),
        Verdict::Ended if reason.is_empty() => (Phase::Failed, "ended by itself".into()),
        Verdict::Ended => (Phase::Failed, format!("ended: {reason}")),
        Verdict::Blocked if reason.is_empty() => (Phase::Failed, "blocked".into()),
        Verdict::Blocked | Verdict::Unreachable => (Phase::Failed, reason),
        Verdict::Overdue if reason.is_empty() => (Phase::Late, "not ready in time".into()),
        Verdict::Overdue => (Phase::Late, reason),
        Verdict::Pending => {
            let code = entry.status.reason.as_ref().map(|reason| reason.code);
            match (entry.status.state, code) {
                (_, Some(ReasonCode::Waiting)) => (Phase::Waiting, reason),
                (_, Some(ReasonCode::Backoff)) => (Phase::Busy, reason),
                (State::Starting, _) if !reason.is_empty() => (Phase::Busy, reason),
                (State::Running, _) if entry.health.is_some() => {
                    (Phase::Busy, "waiting for its health check".into())
                }
                (State::Starting | State::Running, _) => (Phase::Busy, "starting".into()),
                (State::Stopping, _) => (Phase::Busy, "stopping".into()),
                (State::Failed, _) if !reason.is_empty() => (Phase::Busy, reason),
                _ => (Phase::Waiting, "waiting".into()),
            }
        }
    }
}

/// The exit code of an interrupted wait.
pub(super) fn interrupted() -> Exit {
    Exit::INTERRUPTED
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_registry::model::Reason;

    #[test]
    fn what_is_gone_and_what_is_not() {
        use State::{Failed, Registered, Running, Starting, Stopped, Stopping};
        for (state, code, gone) in [
            (Registered, None, true),
            (Registered, Some(ReasonCode::Waiting), false),
            (Starting, None, false),
            (Running, None, false),
            (Stopping, None, false),
            (Stopped, Some(ReasonCode::StopRequested), true),
            (Failed, Some(ReasonCode::GaveUp), true),
            (Failed, Some(ReasonCode::Backoff), false),
            (Stopped, Some(ReasonCode::Replaced), false),
        ] {
            let mut entry = Entry::new("web", "web-1", jiff::Timestamp::UNIX_EPOCH);
            entry.status.state = state;
            entry.status.reason = code.map(|code| Reason::new(code, ""));
            assert_eq!(is_gone(Some(&entry)), gone, "{state} {code:?}");
        }
        assert!(is_gone(None));
    }

    #[test]
    fn a_run_is_another_one_only_where_the_stopped_one_is_named() {
        let one = "run-1".to_owned();
        for (now, stopped, another) in [
            (Some("run-1"), Some(&one), false),
            (Some("run-2"), Some(&one), true),
            (None, Some(&one), false),
            (Some("run-1"), None, false),
        ] {
            assert_eq!(is_another(now, stopped), another, "{now:?} {stopped:?}");
        }
    }
}
