//! Logs of files and logs of others, as one: to their end, or followed.

use super::elsewhere::{self, Elsewhere, Part};
use super::{Output, Query};
use crate::connect::{self, Changes};
use crate::error::CommandError;
use crate::project::Project;
use async_io::Timer;
use command_executor::log::{self, Follower, LogLine, LogQuery};
use futures_lite::future;
use futures_util::future::select_all;
use jiff::Timestamp;
use orchestrator::node::{HostedRecord, LogSource};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

/// How long somebody who keeps a log may be silent in the middle of it.
const SILENCE: Duration = Duration::from_secs(20);
/// The pause before a log that broke off is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Everything that is there now, merged by time. The answer: what couldn't be read, if something couldn't.
pub(super) fn read(
    project: &Project,
    query: &Query,
    output: &mut Output<'_>,
) -> Result<Option<CommandError>, CommandError> {
    let Query { instances, tail, since, until, clocks } = query;
    let part = Part { follow: false, tail: *tail, since: *since, until: *until, seen: None };
    let mut others = Vec::new();
    let mut failed = None;
    for instance in instances {
        for record in elsewhere::records(project, instance) {
            match Elsewhere::open(project, &record, &part, clocks) {
                Ok(logs) => others.extend(logs),
                Err(error) => failed = Some(error),
            }
        }
    }
    let mut lines = log::read(&project.state_dir, &query.of(instances, *tail))?;
    if others.is_empty() {
        for line in lines {
            match line {
                Ok(line) => output.line(&line)?,
                Err(error) => failed = Some(error.into()),
            }
        }
        return Ok(failed);
    }
    let mut last = tail.as_ref().map(Last::new);
    async_io::block_on(async {
        let mut heads: Vec<VecDeque<LogLine>> = Vec::new();
        for log in &mut others {
            heads.push(log.next_within(SILENCE).await.into());
        }
        let mut head = next_of_files(&mut lines, &mut failed);
        loop {
            let earliest =
                heads.iter().enumerate().filter_map(|(index, head)| Some((head.front()?.time, index))).min();
            let from_files = head.as_ref().map(|line| line.time);
            let line = match (from_files, earliest) {
                (None, None) => break,
                (Some(time), other) if other.is_none_or(|(earliest, _)| time <= earliest) => {
                    std::mem::replace(&mut head, next_of_files(&mut lines, &mut failed))
                }
                (_, Some((_, index))) => {
                    let line = heads.get_mut(index).and_then(VecDeque::pop_front);
                    if let (Some(queue), Some(log)) = (heads.get_mut(index), others.get_mut(index))
                        && queue.is_empty()
                    {
                        queue.extend(log.next_within(SILENCE).await);
                    }
                    line
                }
                (Some(_), None) => break,
            };
            match (line, &mut last) {
                (Some(line), Some(last)) => last.push(line),
                (Some(line), None) => output.line(&line)?,
                (None, _) => {}
            }
        }
        Ok::<(), CommandError>(())
    })?;
    for line in last.into_iter().flat_map(Last::lines) {
        output.line(&line)?;
    }
    for log in &others {
        let Some(why) = log.failure() else { continue };
        // It ended while we asked: what it had said was saved, and then it was removed.
        if log.is_saved(project) {
            let query = query.of(std::slice::from_ref(&log.instance), *tail);
            for line in log::read(&project.state_dir, &query)? {
                match line {
                    Ok(line) if *line.run == *log.run => output.line(&line)?,
                    Ok(_) => {}
                    Err(error) => failed = Some(error.into()),
                }
            }
        } else {
            failed = Some(CommandError::new(
                crate::exit::Exit::GENERAL,
                format!("the log of {} can't be read to its end: {why}", log.instance),
            ));
        }
    }
    Ok(failed)
}

fn next_of_files(lines: &mut log::Lines, failed: &mut Option<CommandError>) -> Option<LogLine> {
    loop {
        match lines.next()? {
            Ok(line) => return Some(line),
            Err(error) => *failed = Some(error.into()),
        }
    }
}

/// The last lines of each instance.
struct Last {
    most: usize,
    kept: BTreeMap<String, VecDeque<LogLine>>,
}

impl Last {
    fn new(most: &usize) -> Self {
        Self { most: *most, kept: BTreeMap::new() }
    }

    fn push(&mut self, line: LogLine) {
        let kept = self.kept.entry(line.instance.to_string()).or_default();
        kept.push_back(line);
        kept.drain(..kept.len().saturating_sub(self.most));
    }

    fn lines(self) -> Vec<LogLine> {
        let mut lines: Vec<LogLine> = self.kept.into_values().flatten().collect();
        lines.sort_by_key(|line| line.time);
        lines
    }
}

/// Everything of the query, and then what is written from now on.
pub(super) fn follow(project: &Project, query: &Query, output: &mut Output<'_>) -> Result<(), CommandError> {
    connect::block_on(async |executor| {
        let daemon = connect::existing(executor, project).await?;
        let mut changes = match &daemon {
            Some(daemon) => Some(daemon.watch().await?),
            None => None,
        };
        let mut following = Following::new(project, query)?;
        loop {
            let woken = following.wait(changes.as_mut()).await?;
            match woken {
                Woken::Lines(lines) if lines.is_empty() => return Ok(()),
                Woken::Lines(lines) => {
                    for line in following.unseen(lines) {
                        output.line(&line)?;
                    }
                    output.flush()?;
                }
                // The daemon has ended: what is written on is followed all the same.
                Woken::Deaf => changes = None,
                Woken::Look => following.open()?,
            }
        }
    })
}

/// Whether whoever keeps it tells all lines of a moment again when it is asked from that moment on, in the same order.
fn is_whole(record: &HostedRecord) -> bool {
    matches!(record.log, LogSource::Node { .. })
}

/// From where a log is asked for that was heard up to `last`.
fn from(record: &HostedRecord, last: Timestamp) -> Timestamp {
    if is_whole(record) { last } else { last + Duration::from_micros(1) }
}

enum Woken {
    /// Lines; none at all when the time asked for is over.
    Lines(Vec<LogLine>),
    /// Something has changed: there may be new runs.
    Look,
    /// Nobody tells of changes any more.
    Deaf,
}

struct Following<'a> {
    project: &'a Project,
    query: &'a Query,
    files: Follower,
    others: Vec<Elsewhere>,
    /// Runs that are or were followed with whoever keeps them: the time of the last line that they had, and how many lines
    /// had it.
    seen: HashMap<String, (Timestamp, usize)>,
    begun: bool,
}

impl<'a> Following<'a> {
    fn new(project: &'a Project, query: &'a Query) -> Result<Self, CommandError> {
        let files = Follower::new(&project.state_dir, &query.of(&query.instances, query.tail))?;
        let mut following =
            Self { project, query, files, others: Vec::new(), seen: HashMap::new(), begun: false };
        following.open()?;
        following.begun = true;
        Ok(following)
    }

    /// Follows the runs that aren't followed yet.
    fn open(&mut self) -> Result<(), CommandError> {
        let open: BTreeSet<String> = self.others.iter().map(|log| log.run.clone()).collect();
        for instance in &self.query.instances {
            for record in elsewhere::records(self.project, instance) {
                let known = self.seen.get(&record.run).copied();
                let ended = record.ended.is_some();
                if open.contains(&record.run) && ended && !elsewhere::ends_by_itself(&record) {
                    // The journal goes on with the unit's next run: of this one the rest is asked for once more.
                    self.others.retain(|log| log.run != record.run);
                } else if open.contains(&record.run) || (known.is_some() && ended) {
                    continue;
                }
                // A command of the user's prints everything each time: once is enough.
                if known.is_some() && matches!(record.log, LogSource::Command { .. }) {
                    continue;
                }
                let part = Part {
                    follow: record.ended.is_none(),
                    // What began after we did is wanted whole.
                    tail: self.query.tail.filter(|_| !self.begun),
                    since: known.map(|(last, _)| from(&record, last)).or(self.query.since),
                    until: self.query.until,
                    seen: known.filter(|_| is_whole(&record)),
                };
                self.seen.entry(record.run.clone()).or_insert((Timestamp::UNIX_EPOCH, 0));
                self.others.extend(Elsewhere::open(self.project, &record, &part, &self.query.clocks)?);
            }
        }
        Ok(())
    }

    async fn wait(&mut self, changes: Option<&mut Changes>) -> Result<Woken, CommandError> {
        let Self { files, others, .. } = self;
        let from_files = async { Ok(Woken::Lines(files.next().await?)) };
        let changed = async {
            match changes {
                Some(changes) => Ok(if changes.next().await.is_ok() { Woken::Look } else { Woken::Deaf }),
                None => future::pending().await,
            }
        };
        let from_others = async {
            if others.is_empty() {
                return future::pending().await;
            }
            let waiting = others.iter_mut().map(|log| Box::pin(log.next()));
            let (lines, index, _) = select_all(waiting).await;
            (lines, index)
        };
        let ended = {
            let others = async {
                let (lines, index) = from_others.await;
                if lines.is_empty() { Err(index) } else { Ok(Ok(Woken::Lines(lines))) }
            };
            let rest = async { Ok(future::or(from_files, changed).await) };
            match future::or(others, rest).await {
                Ok(woken) => return woken,
                Err(index) => index,
            }
        };
        self.others.swap_remove(ended);
        // It has ended with its run, or broke off: in a moment the record says which.
        Timer::after(AGAIN).await;
        Ok(Woken::Look)
    }

    /// The lines that haven't been there yet: a run that was followed with its keeper comes again as a file at its end.
    fn unseen(&mut self, lines: Vec<LogLine>) -> Vec<LogLine> {
        let live: BTreeSet<&str> = self.others.iter().map(|log| log.run.as_str()).collect();
        let mut fresh = Vec::new();
        for line in lines {
            let run: &str = &line.run;
            match self.seen.get_mut(run) {
                Some((last, count)) if live.contains(run) => match line.time.cmp(last) {
                    Ordering::Greater => (*last, *count) = (line.time, 1),
                    Ordering::Equal => *count += 1,
                    Ordering::Less => {}
                },
                Some((last, _)) if line.time <= *last => continue,
                _ => {}
            }
            fresh.push(line);
        }
        fresh
    }
}

impl Query {
    /// The same for files.
    fn of(&self, instances: &[String], tail: Option<usize>) -> LogQuery {
        LogQuery { instances: instances.to_vec(), tail, since: self.since, until: self.until }
    }
}
