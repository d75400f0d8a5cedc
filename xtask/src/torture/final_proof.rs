//! The end: what was ordered holds, everything starts and stops once more, and what is on disk is held against the truth.

use super::check::{self, Circumstances};
use super::drive::{self, Calls, Deeds};
use super::evidence;
use super::failed;
use super::orders::{self, Goal, Order};
use super::process;
use super::project::Project;
use super::report::Report;
use super::rng::Rng;
use super::stack::{self, Service, Temper};
use crate::shell::Failure;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// Orders after which the daemon is killed.
const KEPT_ORDERS: usize = 12;

/// How long things may take to become as they were ordered.
const SETTLING: Duration = Duration::from_secs(30);

/// How long keepers, daemon and zygote may take to end after everything has stopped: the zygote waits five seconds.
const ENDING: Duration = Duration::from_secs(12);

/// A daemon's resident memory may grow to this much, in KiB, above one and a half times what it was at first.
const MEMORY_MARGIN: u64 = 16 << 10;

/// It may have this many descriptors more than at first, apart from one for each keeper whose zygote was killed.
const OPEN_MARGIN: u64 = 24;

/// Proves all of it, in the order in which it can be proven.
pub(crate) fn prove(
    project: &Project,
    services: &[Service],
    deeds: &Deeds,
    calls: &mut Calls,
    report: &mut Report,
) -> Result<(), Failure> {
    judge_calls(calls, deeds, report);
    let said: String = calls.called.iter().map(|called| called.describe() + "\n").collect();
    fs::write(project.folder.join("commands"), said).map_err(failed("the list of commands"))?;
    acknowledged_and_killed(project, services, calls, report)?;
    for _ in 0..3 {
        report.adoptions_50.push(project.daemon_again().map_err(failed("a new daemon"))?);
    }
    standing_orders(project, services, calls, report);
    converge(project, services, report)?;
    report.last_footprint = project.daemon().and_then(process::footprint);
    footprints(deeds, services.len() as u64, report);
    stop(project, report)?;
    disk(project, services, deeds, report)?;
    merged(project, services, report)?;
    store(project, services, report)?;
    let violations = fs::read_to_string(project.folder.join("violations")).unwrap_or_default();
    report.copies = violations.lines().count();
    report.violations.extend(violations.lines().map(|line| format!("two copies: {line}")));
    Ok(())
}

/// Orders one by one, the daemon killed as soon as each is acknowledged: what was answered must be kept all the same.
fn acknowledged_and_killed(
    project: &Project,
    services: &[Service],
    calls: &mut Calls,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut rng = Rng::new(report.seed);
    // After everything else, also what may come late.
    let mut at = calls.orders.iter().map(|order| order.ended).max().unwrap_or(0) + 10_000;
    for number in 0..KEPT_ORDERS {
        let chosen = rng.below(services.len());
        let name = services.get(chosen).map(|service| service.name.as_str()).unwrap_or_default();
        let (args, about, goal) = if number % 3 == 2 {
            (vec!["start", "--no-wait", name], stack::with_needs(services, &[chosen]), Goal::Up)
        } else {
            (vec!["stop", name, "-y"], stack::with_dependents(services, &[chosen]), Goal::Down)
        };
        let done = project.run(&args).map_err(failed("an order"))?;
        project.signal_daemon(Signal::KILL);
        if done.code != Some(0) {
            report.violation(format!("`{}` ended with {:?}: {}", args.join(" "), done.code, done.stderr));
        }
        calls.orders.push(Order {
            text: args.join(" "),
            services: about,
            goal,
            began: at,
            ended: at + 1,
            acknowledged: done.code == Some(0),
            alive: Vec::new(),
        });
        at += 2;
    }
    Ok(())
}

fn judge_calls(calls: &Calls, deeds: &Deeds, report: &mut Report) {
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for called in &calls.called {
        let code = called.done.code;
        *codes.entry(code.map_or_else(|| "stuck".into(), |code| code.to_string())).or_default() += 1;
        let disturbed = deeds
            .outages
            .iter()
            .any(|(from, to)| *from <= called.ended && called.began.saturating_sub(200) <= *to);
        let said = called.describe();
        match code {
            None => report.violation(format!("stuck or killed: {said}")),
            _ if called.done.stderr.contains("panicked") => report.violation(format!("a panic: {said}")),
            Some(0 | 3) => {}
            Some(_) if disturbed => {}
            // Two that want opposite things at the same time: one hears that.
            Some(1) if called.done.stderr.contains("by another command") => {}
            Some(_) => report.violation(format!("refused for no reason: {said}")),
        }
    }
    report.codes = codes.into_iter().collect();
    report.violations.extend(orders::broken_stops(&calls.orders));
}

/// What `status` says of each instance.
pub(super) fn states(project: &Project) -> Result<BTreeMap<String, Value>, Failure> {
    let status = project.status().map_err(failed("status"))?;
    let instances = status.get("instances").and_then(Value::as_array).cloned().unwrap_or_default();
    let named = instances.into_iter().filter_map(|row| {
        let name = row.get("instance")?.as_str()?.to_owned();
        Some((name, row))
    });
    Ok(named.collect())
}

pub(super) fn word<'a>(row: Option<&'a Value>, key: &str) -> &'a str {
    row.and_then(|row| row.get(key)).and_then(Value::as_str).unwrap_or_default()
}

fn standing_orders(project: &Project, services: &[Service], calls: &Calls, report: &mut Report) {
    let standing = orders::standing(&calls.orders);
    let end = Instant::now() + SETTLING;
    loop {
        let broken = broken(project, services, &standing);
        match broken {
            Ok(broken) if broken.is_empty() => break,
            Ok(broken) if Instant::now() >= end => {
                report.violations.extend(broken);
                break;
            }
            Err(failure) if Instant::now() >= end => {
                report.violation(format!("status fails: {failure}"));
                break;
            }
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    report.orders = standing.len();
}

/// Orders that don't hold now.
fn broken(
    project: &Project,
    services: &[Service],
    standing: &BTreeMap<usize, (Goal, &orders::Order)>,
) -> Result<Vec<String>, Failure> {
    let states = states(project)?;
    let mut broken = Vec::new();
    for (position, (goal, order)) in standing {
        let Some(service) = services.get(*position) else { continue };
        let row = states.get(&service.instance());
        let state = word(row, "state");
        let what = match goal {
            Goal::Down => {
                let living = drive::living(project, services, &[*position]);
                (!living.is_empty()).then(|| format!("{state}, and there lives {}", living.join(", ")))
            }
            Goal::Up => {
                // What it needs may have been stopped by force, and then holds it.
                let needs = stack::with_needs(services, &[*position]);
                let sure = needs.iter().all(|need| matches!(standing.get(need), Some((Goal::Up, _))));
                let up = state == "running" || (service.ends_by_itself() && is_coming_back(row));
                (sure && !up).then(|| format!("{state}: {}", row.cloned().unwrap_or_default()))
            }
        };
        if let Some(what) = what {
            broken.push(format!(
                "`{}` ({} to {} ms) was acknowledged, and {} is {what}",
                order.text, order.began, order.ended, service.name
            ));
        }
    }
    Ok(broken)
}

/// Whether it ended and will be started again.
pub(super) fn is_coming_back(row: Option<&Value>) -> bool {
    let reason = row.and_then(|row| row.pointer("/reason/code")).and_then(Value::as_str).unwrap_or_default();
    word(row, "state") == "starting" || reason == "backoff"
}

/// Everything is started, and runs.
fn converge(project: &Project, services: &[Service], report: &mut Report) -> Result<(), Failure> {
    let done = project.run(&["start", "--apply"]).map_err(failed("start"))?;
    if !matches!(done.code, Some(0 | 3)) {
        report
            .violation(format!("the last start ended with {:?}: {}{}", done.code, done.stdout, done.stderr));
    }
    let end = Instant::now() + SETTLING;
    loop {
        let states = states(project)?;
        let down: Vec<String> = services
            .iter()
            .filter(|service| {
                let row = states.get(&service.instance());
                word(row, "state") != "running" && !(service.ends_by_itself() && is_coming_back(row))
            })
            .map(|service| {
                format!("{}: {}", service.name, states.get(&service.instance()).cloned().unwrap_or_default())
            })
            .collect();
        if down.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            report.violations.extend(down.into_iter().map(|what| format!("it never comes to run: {what}")));
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// KiB and descriptors.
type Footprint = (u64, u64);

/// Milliseconds, KiB, descriptors.
type Sample = (u64, u64, u64);

/// Milliseconds from the first sample to the last.
fn life(samples: &[Sample]) -> u64 {
    samples.last().map_or(0, |last| last.0) - samples.first().map_or(0, |first| first.0)
}

/// Milliseconds that a daemon must have lived to be judged by itself. The commands of the schedule come without pause: one
/// that lives two seconds holds the connections of a burst from its first moment to its last.
const JUDGED: u64 = 10_000;

/// No daemon has grown, neither from the first to the last nor any while it lived.
fn footprints(deeds: &Deeds, services: u64, report: &mut Report) {
    let mut lives: BTreeMap<(i32, u64), Vec<Sample>> = BTreeMap::new();
    for (daemon, at, memory, open) in &deeds.footprints {
        lives.entry(*daemon).or_default().push((*at, *memory, *open));
    }
    // A zygote's death costs a descriptor for each of its keepers.
    let keepers = if deeds.counts.contains_key("zygote killed") { services + 2 } else { 0 };
    let mut pairs: Vec<(String, Footprint, Footprint)> = Vec::new();
    for ((pid, _), samples) in lives.iter().filter(|(_, samples)| life(samples) >= JUDGED) {
        // What is held for a moment, under a burst of commands, isn't held for good: the least of the last third counts.
        let third = samples.get(samples.len() * 2 / 3..).unwrap_or_default();
        let least = |of: fn(&Sample) -> u64| third.iter().map(of).min();
        if let (Some(first), Some(memory), Some(open)) =
            (samples.first(), least(|sample| sample.1), least(|sample| sample.2))
        {
            let life = life(samples) / 1000;
            pairs.push((format!("daemon {pid}, {life} s"), (first.1, first.2), (memory, open)));
        }
    }
    if let Some((first, last)) = report.first_footprint.zip(report.last_footprint) {
        pairs.push(("first and last daemon".into(), first, last));
    }
    for (what, first, last) in pairs {
        if last.0 > first.0 * 3 / 2 + MEMORY_MARGIN || last.1 > first.1 + keepers + OPEN_MARGIN {
            report.violation(format!(
                "{what}: grew from {} KiB and {} descriptors to {} KiB and {}",
                first.0, first.1, last.0, last.1
            ));
        }
    }
    if let Some(samples) = lives.values().max_by_key(|samples| life(samples)) {
        // Over its life, so that it can be told whether it grows or has grown.
        let at = |tenth: usize| samples.get((samples.len().saturating_sub(1)) * tenth / 10);
        let over =
            (0..=10).filter_map(at).map(|(_, memory, open)| format!("{:.1}/{open}", *memory as f64 / 1024.0));
        report.notes.push(format!(
            "the daemon that lived longest ({} s), MiB/descriptors over its life: {}",
            life(samples) / 1000,
            over.collect::<Vec<_>>().join(", ")
        ));
    }
}

/// `stop` leaves nothing.
fn stop(project: &Project, report: &mut Report) -> Result<(), Failure> {
    let done = project.run(&["stop", "-y"]).map_err(failed("stop"))?;
    if done.code != Some(0) {
        report.violation(format!("the last stop ended with {:?}: {}{}", done.code, done.stdout, done.stderr));
    }
    let runs = |project: &Project| -> Vec<String> {
        let all = project.family.all().into_iter();
        // Keepers carry no run of their own.
        let services = all.filter(|process| process.run.is_some() || process.instance.is_some());
        services
            .map(|process| {
                let instance = process.instance.unwrap_or_default();
                format!("{instance} pid {} `{}`", process.pid, process.command.join(" "))
            })
            .collect()
    };
    let left = runs(project);
    report.orphans = left.len();
    report.violations.extend(left.into_iter().map(|what| format!("an orphan after stop: {what}")));
    let end = Instant::now() + ENDING;
    while Instant::now() < end && !project.family.all().is_empty() {
        std::thread::sleep(Duration::from_millis(50));
    }
    for process in project.family.all().into_iter().filter(|process| process.run.is_none()) {
        let what = format!("{} pid {} `{}`", process.name, process.pid, process.command.join(" "));
        report.violation(format!("it doesn't end after stop: {what}"));
    }
    Ok(())
}

/// Everything that is on disk.
fn disk(project: &Project, services: &[Service], deeds: &Deeds, report: &mut Report) -> Result<(), Failure> {
    let Some(state) = project.state_dir() else { return Err(Failure::new("the state folder is gone")) };
    let truth = project.folder.join("truth");
    let extra = Service {
        name: stack::EXTRA.into(),
        temper: Temper::Stable,
        needs: Vec::new(),
        logs: stack::Logs { max_size: 10 << 10, keep_files: 5, keep_runs: 5 },
    };
    for (position, service) in services.iter().chain([&extra]).enumerate() {
        let instance = service.instance();
        let runs = evidence::runs(&state, &truth, &instance).map_err(failed("listing runs"))?;
        let mut newer = runs.len();
        for run in &runs {
            newer -= 1;
            let found = evidence::read(&state, &truth, &instance, run).map_err(failed("reading a run"))?;
            let around = Circumstances {
                keeper_killed: deeds.killed_keepers.contains(run),
                disk_full: deeds.filled.contains(&position),
                keep_files: service.logs.keep_files,
                zygotes_killed: deeds.counts.contains_key("zygote killed"),
                starved: deeds.starved,
                forgotten: newer >= service.logs.keep_runs,
            };
            report.findings.add(check::check(&found, around));
        }
    }
    report.violations.append(&mut report.findings.violations);
    let log = fs::read_to_string(state.join("daemon.log")).unwrap_or_default();
    let panics = log.lines().filter(|line| line.contains("panicked"));
    report.violations.extend(panics.map(|line| format!("the daemon's log: {line}")));
    Ok(())
}

/// Services whose logs are merged: the first of each of these tempers.
const MERGED: &[Temper] = &[Temper::Stable, Temper::Crashing, Temper::Forking, Temper::Slow, Temper::Probed];

/// `logs` of several services together has the lines of each in the order of its runs and files, whatever the clock was
/// set to while they were written.
fn merged(project: &Project, services: &[Service], report: &mut Report) -> Result<(), Failure> {
    let Some(state) = project.state_dir() else { return Err(Failure::new("the state folder is gone")) };
    let chosen: Vec<&Service> = MERGED
        .iter()
        .filter_map(|temper| services.iter().find(|service| service.temper == *temper))
        .collect();
    let mut args = vec!["logs", "-o", "json"];
    args.extend(chosen.iter().map(|service| service.name.as_str()));
    let done = project.run(&args).map_err(failed("logs"))?;
    if done.code != Some(0) {
        report.violation(format!("`{}` ended with {:?}: {}", args.join(" "), done.code, done.stderr));
    }
    let mut shown: BTreeMap<String, Vec<check::Line>> = BTreeMap::new();
    for line in done.stdout.lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            report.violation(format!("`logs -o json` has a line that is no JSON: {line:?}"));
            continue;
        };
        let text = |key: &str| word(Some(&value), key).to_owned();
        if check::is_whole(word(Some(&value), "text")) {
            shown.entry(text("instance")).or_default().push((text("run"), text("stream"), text("text")));
        }
    }
    for service in chosen {
        let (instance, truth) = (service.instance(), project.folder.join("truth"));
        let mut lines = Vec::new();
        for run in evidence::runs(&state, &truth, &instance).map_err(failed("listing runs"))? {
            let run = evidence::read(&state, &truth, &instance, &run).map_err(failed("reading a run"))?;
            lines.extend(check::whole_lines(&run));
        }
        report.merged += lines.len();
        let shown = shown.remove(&instance).unwrap_or_default();
        if let Some(difference) = check::difference(&lines, &shown) {
            report.violation(format!("merged logs of {instance}: {difference}"));
        }
    }
    Ok(())
}

/// The store opens, knows all instances, and starts nothing by itself.
fn store(project: &Project, services: &[Service], report: &mut Report) -> Result<(), Failure> {
    project.daemon_again().map_err(failed("a daemon after all was stopped"))?;
    let states = states(project)?;
    for service in services {
        match states.get(&service.instance()) {
            None => report.violation(format!("the registry has forgotten {}", service.name)),
            Some(row) if !matches!(word(Some(row), "state"), "stopped" | "failed") => {
                report.violation(format!("after stop, {} is {row}", service.name));
            }
            Some(_) => {}
        }
    }
    let all: Vec<usize> = (0..services.len()).collect();
    let living = drive::living(project, services, &all);
    report.violations.extend(living.into_iter().map(|what| format!("started by nobody: {what}")));
    let done = project.run(&["daemon", "stop"]).map_err(failed("daemon stop"))?;
    if done.code != Some(0) {
        report.violation(format!("`daemon stop` ended with {:?}: {}", done.code, done.stderr));
    }
    Ok(())
}
