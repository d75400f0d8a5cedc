//! Logs that somebody else keeps: the container engine, the journal, a command of the user's own.
//!
//! Which those are, the records of the runs say ([`HostedRecord`]), so that no daemon is needed.

use super::clocks::{Ahead, Clocks};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::node::There;
use crate::project::Project;
use async_io::Timer;
use command_executor::command::Command;
use command_executor::executor::Executor;
use command_executor::launcher::{Launcher, LocalLauncher};
use command_executor::log::{CommandLog, LineForm, LineJoiner, LogLine};
use command_executor::target::docker::{self, ContainerRow, Docker, LogOptions};
use command_executor::target::systemd::{JournalOptions, JournalRange, SystemdService};
use futures_lite::future;
use jiff::Timestamp;
use orchestrator::model::InstanceName;
use orchestrator::node::{HostedRecord, LogSource};
use std::collections::VecDeque;
use std::time::Duration;

/// Which part of a log.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    pub(super) follow: bool,
    pub(super) tail: Option<usize>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    /// So many lines of this time were there before: an agent begins with them anew.
    pub(super) seen: Option<(Timestamp, usize)>,
}

/// The runs of an instance whose log isn't in a file of ours, oldest first.
pub(super) fn records(project: &Project, instance: &str) -> Vec<HostedRecord> {
    let Ok(name) = instance.parse::<InstanceName>() else { return Vec::new() };
    let mut records = HostedRecord::of_instance(&project.state_dir, &name);
    // A user's command prints one log, whatever run it is asked for.
    let newest = records.last().map(|record| record.run.clone());
    records.retain(|record| match record.log {
        LogSource::File | LogSource::Nowhere { .. } => false,
        // An agent has one log of an instance, whichever of our runs its own were for.
        LogSource::Command { .. } | LogSource::Node { .. } => Some(&record.run) == newest.as_ref(),
        _ => true,
    });
    records
}

/// Whether whoever keeps the log of a run ends it with the run.
pub(super) fn ends_by_itself(record: &HostedRecord) -> bool {
    !matches!(record.log, LogSource::Journal { .. } | LogSource::Node { .. })
}

/// Whether the agent of another node keeps the log of an instance.
pub(super) fn is_on_a_node(project: &Project, instance: &str) -> bool {
    records(project, instance).iter().any(|record| matches!(record.log, LogSource::Node { .. }))
}

/// Why an instance has no log at all, if that is known.
pub(super) fn nowhere(project: &Project, instance: &str) -> Option<String> {
    let records = HostedRecord::of_instance(&project.state_dir, &instance.parse().ok()?);
    match &records.last()?.log {
        LogSource::Nowhere { why } => Some(why.clone()),
        _ => None,
    }
}

/// The log of a run, or of a part of it, as it comes.
pub(super) struct Elsewhere {
    log: CommandLog,
    joiner: LineJoiner,
    /// What stands before each line: which of several it is from.
    prefix: String,
    ready: VecDeque<LogLine>,
    until: Option<Timestamp>,
    seen: Option<(Timestamp, usize)>,
    /// The clock by which its lines have their times.
    ahead: Ahead,
    pub(super) instance: String,
    pub(super) run: String,
    ended: bool,
    silent: bool,
}

impl Elsewhere {
    /// Asks whoever keeps it. A Compose file as a whole has a log for each container.
    pub(super) fn open(
        project: &Project,
        record: &HostedRecord,
        part: &Part,
        clocks: &Clocks,
    ) -> Result<Vec<Self>, CommandError> {
        if let LogSource::Node { node, way } = &record.log {
            let ahead = clocks.of_node(node);
            let there = There::of(way, node, &project.id)
                .map_err(|error| CommandError::from_error(Exit::UNREACHABLE, &error))?;
            let command = there.harness(part.of_agent(&record.instance, ahead));
            let (form, none) = (LineForm::Records, String::new());
            let log = Self::start(record, part, &*there.launcher, &command, form, none)?;
            return Ok(vec![Self { ahead, ..log }]);
        }
        if let LogSource::Compose { project } = &record.log {
            let logs = compose_containers(project)?.into_iter().map(|(id, service)| {
                let command = Docker::new().container(id).logs(&part.of_container());
                let form = LineForm::Container;
                Self::start(record, part, &LocalLauncher::new(), &command, form, format!("{service} | "))
            });
            return logs.collect();
        }
        let (command, form) = command(record, part)?;
        Ok(vec![Self::start(record, part, &LocalLauncher::new(), &command, form, String::new())?])
    }

    fn start(
        record: &HostedRecord,
        part: &Part,
        launcher: &dyn Launcher,
        command: &Command,
        form: LineForm,
        prefix: String,
    ) -> Result<Self, CommandError> {
        let log = CommandLog::start(&launcher, command, form)
            .map_err(|error| CommandError::from_error(Exit::GENERAL, &error))?;
        let instance = record.instance.to_string();
        Ok(Self {
            log,
            joiner: LineJoiner::new(instance.as_str(), record.run.as_str()),
            prefix,
            ready: VecDeque::new(),
            until: part.until,
            seen: part.seen,
            ahead: Ahead::default(),
            instance,
            run: record.run.clone(),
            ended: false,
            silent: false,
        })
    }

    /// The next lines, at least one; none at all is the end. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Vec<LogLine> {
        while self.ready.is_empty() && !self.ended {
            match self.log.next().await {
                Ok(records) if !records.is_empty() => {
                    for record in &records {
                        self.ready.extend(self.joiner.push(record));
                    }
                }
                // What can't be read on has ended too: the lines so far are what there is.
                _ => {
                    self.ready.extend(self.joiner.finish());
                    self.ended = true;
                }
            }
            let Self { until, seen, ahead, .. } = self;
            self.ready.iter_mut().for_each(|line| line.time = ahead.here(line.time));
            self.ready.retain(|line| until.is_none_or(|until| line.time <= until) && !was_seen(seen, line));
        }
        let prefix = &self.prefix;
        let prefixed = |mut line: LogLine| {
            line.text.splice(0..0, prefix.bytes());
            line
        };
        self.ready.drain(..).map(prefixed).collect()
    }

    /// The same, but whoever is silent for so long has nothing more to tell.
    pub(super) async fn next_within(&mut self, silence: Duration) -> Vec<LogLine> {
        let late = async {
            Timer::after(silence).await;
            None
        };
        let next = async { Some(self.next().await) };
        match future::or(next, late).await {
            Some(lines) => lines,
            None => {
                self.silent = true;
                Vec::new()
            }
        }
    }

    /// Why it broke off, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        if self.silent {
            return Some("whoever keeps it doesn't answer".into());
        }
        let exit = self.log.exit().filter(|exit| !exit.is_success())?;
        let said = self.log.said();
        Some(if said.is_empty() { exit.to_string() } else { said })
    }

    /// Whether its run has ended and been saved meanwhile: its log is that of a file now.
    pub(super) fn is_saved(&self, project: &Project) -> bool {
        let instance = self.instance.parse::<InstanceName>().ok();
        let record = instance.and_then(|name| HostedRecord::read(&project.state_dir, &name, &self.run));
        record.is_some_and(|record| record.log == LogSource::File)
    }
}

/// Whether a line is one of those that were there before.
fn was_seen(seen: &mut Option<(Timestamp, usize)>, line: &LogLine) -> bool {
    match seen {
        Some((time, left)) if line.time == *time && *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    }
}

impl Part {
    /// The arguments that make a harness print it as it is kept.
    fn of_agent(&self, instance: &InstanceName, clock: Ahead) -> Vec<String> {
        let Self { follow, tail, since, until, .. } = self;
        let mut words = vec!["logs".to_owned(), "--records".to_owned(), instance.to_string()];
        words.extend(follow.then(|| "--follow".to_owned()));
        words.extend(tail.map(|tail| format!("--tail={tail}")));
        words.extend(since.map(|since| format!("--since={}", clock.there(since))));
        words.extend(until.map(|until| format!("--until={}", clock.there(until))));
        words
    }

    fn of_container(&self) -> LogOptions {
        let Self { follow, tail, since, until, .. } = *self;
        LogOptions { follow, since, until, tail, timestamps: true }
    }
}

/// The containers of a Compose project with the services that they are of.
fn compose_containers(project: &str) -> Result<Vec<(String, String)>, CommandError> {
    let docker = Docker::new();
    let label = format!("com.docker.compose.project={project}");
    let executor = Executor::new(LocalLauncher::new());
    let finished = async_io::block_on(executor.run(&docker.list([label.as_str()])))
        .map_err(|error| CommandError::from_error(Exit::GENERAL, &error))?;
    docker::check(&finished).map_err(|error| CommandError::from_error(Exit::GENERAL, &error))?;
    let rows = ContainerRow::parse(&finished.stdout.bytes);
    let rows = rows.map_err(|error| CommandError::from_error(Exit::GENERAL, &error))?;
    let service = |row: &ContainerRow| row.labels.get("com.docker.compose.service").cloned();
    Ok(rows.into_iter().map(|row| (row.id.clone(), service(&row).unwrap_or(row.name))).collect())
}

/// The command that prints it.
fn command(record: &HostedRecord, part: &Part) -> Result<(Command, LineForm), CommandError> {
    let Part { follow, tail, since, until, .. } = *part;
    Ok(match &record.log {
        LogSource::Container { id } => {
            (Docker::new().container(id).logs(&part.of_container()), LineForm::Container)
        }
        LogSource::Command { argv, folder } => {
            let mut words = argv.iter();
            let program = words.next().cloned().unwrap_or_default();
            (Command::new(program).args(words.cloned()).current_dir(folder), LineForm::Plain)
        }
        // Not by systemd's own id of a run: it may have started the unit anew within ours.
        LogSource::Journal { unit, .. } => {
            let service =
                SystemdService::new(unit).map_err(|error| CommandError::from_error(Exit::GENERAL, &error))?;
            let begin = record.started_at;
            let end = record.ended.as_ref().map(|ended| ended.at);
            let options = JournalOptions {
                follow,
                from: JournalRange::Since(since.map_or(begin, |since| since.max(begin))),
                until: until.into_iter().chain(end).min(),
                tail,
                invocation: None,
            };
            (service.logs(&options), LineForm::Journal)
        }
        LogSource::Compose { .. } | LogSource::File | LogSource::Node { .. } | LogSource::Nowhere { .. } => {
            let text = format!("{} has no log of one piece", record.instance);
            return Err(CommandError::new(Exit::GENERAL, text));
        }
    })
}

/// How long the last lines of a run may be asked for.
const LAST: Duration = Duration::from_secs(5);

/// The last lines of an instance's latest run, where somebody else keeps them; `None` where a file of ours has them.
pub(in crate::commands) fn last_lines(
    project: &Project,
    instance: &str,
    lines: usize,
) -> Option<Vec<LogLine>> {
    let name = instance.parse::<InstanceName>().ok()?;
    let record = HostedRecord::of_instance(&project.state_dir, &name).pop()?;
    if matches!(record.log, LogSource::File | LogSource::Nowhere { .. }) {
        return None;
    }
    let logs =
        Elsewhere::open(project, &record, &Part { tail: Some(lines), ..Part::default() }, &Clocks::default())
            .ok()?;
    let mut last: Vec<LogLine> = Vec::new();
    for mut log in logs {
        let mut of_this: VecDeque<LogLine> = VecDeque::new();
        async_io::block_on(async {
            let reading = async {
                loop {
                    let more = log.next().await;
                    if more.is_empty() {
                        return;
                    }
                    of_this.extend(more);
                    of_this.drain(..of_this.len().saturating_sub(lines));
                }
            };
            let late = async {
                Timer::after(LAST).await;
            };
            future::or(reading, late).await;
        });
        last.extend(of_this);
    }
    last.sort_by_key(|line| line.time);
    last.drain(..last.len().saturating_sub(lines));
    Some(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::node::NodeInfo;

    #[test]
    fn an_agent_is_asked_by_its_own_clock() {
        let node: NodeInfo = serde_json::from_value(serde_json::json!({
            "name": "fast", "state": "up", "clock_ahead_ms": 3_600_000, "clock_uncertain_ms": 5, "instances": [],
        }))
        .unwrap();
        let ahead = Clocks::from_nodes(&[node]).of_node("fast");
        let moment = |text: &str| Some(text.parse().unwrap());
        let (since, until) = (moment("2026-12-01T12:00:00Z"), moment("2026-12-01T12:30:00Z"));
        let part = Part { follow: true, tail: Some(3), since, until, seen: None };
        let words = part.of_agent(&"web-1".parse().unwrap(), ahead).join(" ");
        let expected = "--follow --tail=3 --since=2026-12-01T13:00:00Z --until=2026-12-01T13:30:00Z";
        assert_eq!(words, format!("logs --records web-1 {expected}"));
    }
}
