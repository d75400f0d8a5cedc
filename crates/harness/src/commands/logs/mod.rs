//! `harness logs`: reads what keepers wrote and asks others for what they keep, so it needs no daemon.

mod clocks;
mod elsewhere;
mod merge;

pub(super) use elsewhere::last_lines;

use super::{Context, examples, load, offline, outcome};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::Project;
use crate::ui::Format;
use crate::ui::describe::Labels;
use crate::ui::logs::{Record, Shape};
use crate::ui::table::visible;
use crate::ui::time::parse_moment;
use clocks::Clocks;
use command_executor::log::{LogLine, format};
use jiff::Timestamp;
use orchestrator::model::InstanceName;
use regex_lite::Regex;

/// Bytes that are gathered before they are written.
const BATCH: usize = 64 * 1024;

/// Bytes of the longest record: a reader of lines takes it as one.
const RECORD: usize = 32 * 1024;

/// Show what services said, merged by time; also of those that have stopped
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness logs                      Everything there is"
    "harness logs -f web db            Follow two services"
    "harness logs -n 100 --since 10m   The last 100 lines of each, of the last ten minutes"
    "harness logs --grep 'error|panic' --no-prefix web"
])]
pub(crate) struct Args {
    /// Services or instances; without any, all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines of each instance
    #[arg(short = 'n', long = "tail", value_name = "NUMBER")]
    tail: Option<usize>,
    /// Only lines younger than this: 10m, or later than 2026-11-23T10:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only lines older than this
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only lines that match this regular expression
    #[arg(long, value_name = "REGEX")]
    grep: Option<String>,
    /// Lines as they are, without name
    #[arg(long)]
    no_prefix: bool,
    /// The time in front of each line
    #[arg(short, long)]
    timestamps: bool,
    /// Records as they are kept, for another harness to read
    #[arg(long, hide = true)]
    records: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let instances = instances(context, &project, args)?;
    if instances.is_empty() && !args.follow {
        context.ui.say("There are no logs yet. `harness start` starts the services of services.yaml.");
        return Ok(Exit::OK);
    }
    let now = Timestamp::now();
    let moment = |flag: &str, text: &Option<String>| {
        let moment = text.as_deref().map(|text| parse_moment(text, now)).transpose();
        moment.map_err(|message| CommandError::usage(format!("{flag}: {message}")))
    };
    let elsewhere = instances.iter().any(|name| elsewhere::is_on_a_node(&project, name));
    let query = Query {
        clocks: if elsewhere { Clocks::of(&project) } else { Clocks::default() },
        instances: instances.clone(),
        tail: args.tail,
        since: moment("--since", &args.since)?,
        until: moment("--until", &args.until)?,
    };
    let grep = args.grep.as_deref().map(Regex::new).transpose();
    let grep = grep.map_err(|error| CommandError::usage(format!("--grep: {error}")))?;
    let labels = Labels::new(instances.iter().map(|name| super::wait::service_of(name)));
    let names = instances.iter().map(|name| visible(labels.of(super::wait::service_of(name), name))).max();
    let shape = outcome::log_shape(context, names.unwrap_or(0), !args.no_prefix, args.timestamps);
    let mut output = Output { context, shape, labels, grep, records: args.records, buffer: Vec::new() };
    for name in &args.names {
        for instance in instances.iter().filter(|instance| means(name, instance)) {
            if let Some(why) = elsewhere::nowhere(&project, instance) {
                context.ui.say(format_args!("{instance} has no log: {why}"));
            }
        }
    }
    if args.follow {
        if !project.state_dir.is_dir() {
            return Err(CommandError::new(Exit::GENERAL, "nothing was ever started in this project")
                .hint("`harness start` starts the services of services.yaml"));
        }
        merge::follow(&project, &query, &mut output)?;
        return Ok(Exit::OK);
    }
    let failed = merge::read(&project, &query, &mut output)?;
    output.flush()?;
    failed.map_or(Ok(Exit::OK), Err)
}

/// Which lines of which instances.
struct Query {
    instances: Vec<String>,
    tail: Option<usize>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// One measure for all that is read or followed, so that a log that goes on does so where it broke off.
    clocks: Clocks,
}

/// Whether a name from the command line means this instance.
fn means(name: &str, instance: &str) -> bool {
    instance == name || super::wait::service_of(instance) == name
}

/// The instances that names mean: those that left something, and those of the file that will when they are followed.
fn instances(context: &Context, project: &Project, args: &Args) -> Result<Vec<String>, CommandError> {
    let logged = offline::logged_instances(project)?;
    let unheard = |name: &String| !logged.iter().any(|instance| means(name, instance));
    let mut known = logged.clone();
    if args.follow || args.names.iter().any(unheard) {
        let declared = declared(context, project);
        known.extend(declared.into_iter().filter(|instance| !logged.contains(instance)));
    }
    let mut chosen: Vec<String> = Vec::new();
    for name in &args.names {
        if !known.iter().any(|instance| means(name, instance)) {
            let mut services: Vec<String> =
                known.iter().map(|instance| super::wait::service_of(instance).to_owned()).collect();
            services.dedup();
            return Err(CommandError::unknown_name(name, &services));
        }
        let found = known.iter().filter(|instance| means(name, instance) && !chosen.contains(instance));
        let found: Vec<String> = found.cloned().collect();
        chosen.extend(found);
    }
    if args.names.is_empty() {
        chosen = known;
    }
    if !args.follow {
        chosen.retain(|instance| logged.contains(instance));
    }
    Ok(chosen)
}

/// The instances of the file as it is now. None if it can't be read: logs are there also when it has errors.
fn declared(context: &Context, project: &Project) -> Vec<String> {
    if project.deleted {
        return Vec::new();
    }
    let stack = load::read(context, project, false).stack;
    let services = stack.iter().flat_map(|stack| stack.services.values());
    services
        .flat_map(|service| {
            (1..=service.replicas).map(|number| InstanceName::new(service.name.clone(), number).to_string())
        })
        .collect()
}

struct Output<'a> {
    context: &'a Context,
    shape: Shape,
    labels: Labels,
    grep: Option<Regex>,
    records: bool,
    buffer: Vec<u8>,
}

impl Output<'_> {
    fn line(&mut self, line: &LogLine) -> Result<(), CommandError> {
        if let Some(grep) = &self.grep
            && !grep.is_match(&String::from_utf8_lossy(&line.text))
        {
            return Ok(());
        }
        if self.records {
            let mut parts = line.text.chunks(RECORD).peekable();
            if parts.peek().is_none() {
                format::write(&mut self.buffer, line.time, line.stream, false, b"");
            }
            while let Some(part) = parts.next() {
                format::write(&mut self.buffer, line.time, line.stream, parts.peek().is_some(), part);
            }
        } else if self.context.ui.format == Format::Table {
            let name = self.labels.of(super::wait::service_of(&line.instance), &line.instance);
            self.shape.write(name, line, &mut self.buffer);
        } else {
            let text = serde_json::to_string(&Record::new(line))
                .map_err(|error| CommandError::new(Exit::GENERAL, error.to_string()))?;
            self.buffer.extend_from_slice(text.as_bytes());
            self.buffer.push(b'\n');
        }
        if self.buffer.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), CommandError> {
        if !self.buffer.is_empty() {
            self.context.ui.out_bytes(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}
