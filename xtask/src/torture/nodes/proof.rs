//! The end: everything converges, everyone reaches everyone, and what was written on all machines is held against the truth.

use super::super::check::{self, Circumstances};
use super::super::drive::Called;
use super::super::evidence;
use super::super::failed;
use super::super::final_proof::{is_coming_back, states, word};
use super::super::line::Truth;
use super::super::project::Project;
use super::super::report::Report;
use super::super::talk::{self, ANSWERS, Asked, BEATS, Life, Outcome};
use super::broken;
use super::drive::{self, Deeds, folders};
use super::stack::{self, FOLDER, HOSTS, Place, ROAM, Role, Service};
use crate::shell::Failure;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use test_hosts::{Docker, OwnHost};

/// How long all may take to run, and everyone to reach everyone, after the last fault.
const SETTLING: Duration = Duration::from_secs(90);

/// How long what is told to end may take to be gone.
const ENDING: Duration = Duration::from_secs(20);

/// Rotated files that services keep, as in services.yaml.
const KEEP_FILES: u32 = 40;

/// Proves all of it, in the order in which it can be proven.
pub(crate) fn prove(
    project: &Project,
    services: &[Service],
    hosts: &[OwnHost],
    deeds: &Deeds,
    called: &[Called],
    report: &mut Report,
) -> Result<(), Failure> {
    judge(project, called, report)?;
    converge(project, services, report)?;
    reached(project, services, hosts, report)?;
    let names: Vec<String> = services.iter().map(|service| service.name.clone()).collect();
    let others = [stack::BOX, stack::PAIR, stack::PACKAGE, ROAM].map(str::to_owned);
    let words = ["stop".to_owned(), "-y".to_owned()].into_iter().chain(names).chain(others);
    expect(project, &words.collect::<Vec<_>>(), report)?;
    let places = places(project, hosts)?;
    disk(services, &places, deeds, report)?;
    shown(project, services, &places, report)?;
    lives(&places, report)?;
    answers(&places, report)?;
    expect(project, &["stop".to_owned(), "-y".to_owned()], report)?;
    left(project, hosts, report)
}

/// Runs a command that must succeed.
fn expect(project: &Project, words: &[String], report: &mut Report) -> Result<(), Failure> {
    let done = project.run(words).map_err(failed("a command"))?;
    if done.code != Some(0) {
        let verb = words.first().map_or("", String::as_str);
        report.violation(format!(
            "the last `{verb}` ended with {:?}: {}{}",
            done.code, done.stdout, done.stderr
        ));
    }
    Ok(())
}

/// Commands end, and never by a panic; while machines are away they may say so.
fn judge(project: &Project, called: &[Called], report: &mut Report) -> Result<(), Failure> {
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    let mut all = String::new();
    for command in called {
        let Called { text, done, .. } = command;
        let said = command.describe();
        all.push_str(&said);
        all.push('\n');
        let code = done.code.map_or_else(|| "stuck".into(), |code| code.to_string());
        *codes.entry(code).or_default() += 1;
        let opposite = done.stderr.contains("by another command");
        match done.code {
            None => report.violation(format!("stuck or killed: {said}")),
            _ if said.contains("panicked") => report.violation(format!("a panic: {said}")),
            Some(0 | 3 | 4 | 5) => {}
            // What is sent to a machine breaks off with its power; two that want opposite things: one hears that.
            Some(1) if opposite || text.starts_with("deploy") => {}
            // The daemon was killed while it answered.
            Some(1) if lost_its_daemon(&done.stderr) => {}
            Some(_) => report.violation(format!("refused for no reason: {said}")),
        }
    }
    report.codes = codes.into_iter().collect();
    fs::write(project.folder.join("commands"), all).map_err(failed("the list of commands"))
}

/// Whether a command says that its daemon went away.
fn lost_its_daemon(said: &str) -> bool {
    ["connection", "daemon"].iter().any(|word| said.contains(word))
}

/// Everything is started, and runs.
fn converge(project: &Project, services: &[Service], report: &mut Report) -> Result<(), Failure> {
    let (begin, mut down) = (Instant::now(), Vec::new());
    let crashing: BTreeSet<String> =
        services.iter().filter(|service| service.ends_by_itself()).map(Service::instance).collect();
    while begin.elapsed() < SETTLING {
        let done = project.run(&["start", "--apply"]).map_err(failed("start"))?;
        let states = states(project)?;
        down = stack::instances(services)
            .into_iter()
            .filter(|instance| {
                let row = states.get(instance);
                word(row, "state") != "running" && !(crashing.contains(instance) && is_coming_back(row))
            })
            .map(|instance| format!("{instance}: {}", states.get(&instance).cloned().unwrap_or_default()))
            .collect();
        if down.is_empty() && done.code == Some(0) {
            report.notes.push(format!("all ran {:.1} s after the last fault", begin.elapsed().as_secs_f64()));
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    report.violations.extend(down.into_iter().map(|what| format!("it never comes to run: {what}")));
    Ok(())
}

/// Everyone who asks gets an answer of everyone, asked from now on.
fn reached(
    project: &Project,
    services: &[Service],
    hosts: &[OwnHost],
    report: &mut Report,
) -> Result<(), Failure> {
    let (begin, from) = (Instant::now(), talk::now());
    let mut missing: BTreeSet<(String, String)> = BTreeSet::new();
    for asker in services.iter().filter(|service| service.role == Role::Asks) {
        missing.extend(stack::answering(services).into_iter().map(|whom| (asker.instance(), whom)));
    }
    while !missing.is_empty() && begin.elapsed() < SETTLING {
        for asker in services.iter().filter(|service| service.role == Role::Asks) {
            let instance = asker.instance();
            let lines = match asker.place {
                Place::Here => {
                    fs::read_to_string(project.folder.join(ANSWERS).join(&instance)).unwrap_or_default()
                }
                Place::Host(at) => match hosts.get(at) {
                    Some(host) => {
                        host.sh(&format!("tail -n 300 {FOLDER}/{ANSWERS}/{instance}")).unwrap_or_default()
                    }
                    None => String::new(),
                },
            };
            for asked in lines.lines().filter_map(Asked::read) {
                if asked.at >= from && asked.outcome == Outcome::Right {
                    missing.remove(&(instance.clone(), asked.whom));
                }
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    report.notes.push(format!("everyone reached everyone {:.1} s later", begin.elapsed().as_secs_f64()));
    let never = missing.into_iter().map(|(who, whom)| format!("{who} doesn't reach {whom}"));
    report.violations.extend(never);
    Ok(())
}

/// What a place left: its name, its state folder, and its folder of truth.
struct Left {
    place: Place,
    name: &'static str,
    state: PathBuf,
    truth: PathBuf,
}

/// What all places left, of hosts as copies.
fn places(project: &Project, hosts: &[OwnHost]) -> Result<Vec<Left>, Failure> {
    let state = project.state_dir().ok_or_else(|| Failure::new("the state folder is gone"))?;
    let mut all = vec![Left { place: Place::Here, name: "here", state, truth: project.folder.clone() }];
    for (at, (host, (_, name))) in hosts.iter().zip(HOSTS).enumerate() {
        let to = project.folder.join("hosts").join(name);
        fs::create_dir_all(&to).map_err(failed("a host's folder"))?;
        drive::collect(host, &to).map_err(broken)?;
        let agents = folders(&to.join("agents"));
        let [state] = agents.as_slice() else {
            return Err(Failure::new(format!("{name} has {} agents, not one", agents.len())));
        };
        all.push(Left { place: Place::Host(at), name, state: state.clone(), truth: to.join("torture") });
    }
    Ok(all)
}

/// Every line and every exit of the services that number their lines, on all machines.
fn disk(services: &[Service], places: &[Left], deeds: &Deeds, report: &mut Report) -> Result<(), Failure> {
    for (service, left) in numbered(services, places) {
        let (instance, truth) = (service.instance(), left.truth.join("truth"));
        for run in evidence::runs(&left.state, &truth, &instance).map_err(failed("listing runs"))? {
            let found =
                evidence::read(&left.state, &truth, &instance, &run).map_err(failed("reading a run"))?;
            let crashed = matches!(left.place, Place::Host(at) if deeds.crashed.contains(&at));
            let around = Circumstances {
                keeper_killed: deeds.killed.contains(&run),
                keep_files: KEEP_FILES,
                zygotes_killed: crashed,
                ..Circumstances::default()
            };
            report.findings.add(check::check(&found, around));
        }
    }
    report.violations.append(&mut report.findings.violations);
    for left in places {
        let log = fs::read_to_string(left.state.join("daemon.log")).unwrap_or_default();
        let panics = log.lines().filter(|line| line.contains("panicked"));
        report.violations.extend(panics.map(|line| format!("the daemon's log of {}: {line}", left.name)));
        let copies = fs::read_to_string(left.truth.join("violations")).unwrap_or_default();
        report.copies += copies.lines().count();
        report.violations.extend(copies.lines().map(|line| format!("two copies on {}: {line}", left.name)));
    }
    Ok(())
}

/// The services that number their lines, with where they ran.
fn numbered<'a>(
    services: &'a [Service],
    places: &'a [Left],
) -> impl Iterator<Item = (&'a Service, &'a Left)> {
    services.iter().filter(|service| matches!(service.role, Role::Lines(_))).filter_map(|service| {
        places.iter().find(|left| left.place == service.place).map(|left| (service, left))
    })
}

/// `logs` shows each line of every machine once, in the order of its file.
fn shown(
    project: &Project,
    services: &[Service],
    places: &[Left],
    report: &mut Report,
) -> Result<(), Failure> {
    for (service, left) in numbered(services, places) {
        let done = project.run(&["logs", "-o", "json", &service.name]).map_err(failed("logs"))?;
        if done.code != Some(0) {
            report.violation(format!("logs {} ended with {:?}: {}", service.name, done.code, done.stderr));
            continue;
        }
        let rows = done.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let shown: Vec<check::Line> = rows
            .map(|row| {
                // The run is the daemon's name for what it ordered; the agent has names of its own.
                let text = |key: &str| word(Some(&row), key).to_owned();
                (String::new(), text("stream"), text("text"))
            })
            .filter(|(_, _, text)| check::is_whole(text))
            .collect();
        let (instance, truth) = (service.instance(), left.truth.join("truth"));
        let mut lines = Vec::new();
        for run in evidence::runs(&left.state, &truth, &instance).map_err(failed("listing runs"))? {
            let run =
                evidence::read(&left.state, &truth, &instance, &run).map_err(failed("reading a run"))?;
            let whole = check::whole_lines(&run).into_iter();
            lines.extend(whole.map(|(_, stream, text)| (String::new(), stream, text)));
        }
        report.merged += lines.len();
        if let Some(difference) = check::difference(&lines, &shown) {
            report.violation(format!("logs of {}: {difference}", service.name));
        }
    }
    Ok(())
}

/// What may live once never lived twice, on whatever machines.
fn lives(places: &[Left], report: &mut Report) -> Result<(), Failure> {
    let mut lives = Vec::new();
    for left in places {
        for path in files(&left.truth.join(BEATS)) {
            let beats = Truth::read(&fs::read(&path).map_err(failed("a beat"))?);
            let whose = format!("{} on {}", path.file_name().unwrap_or_default().display(), left.name);
            if beats.written > 0 {
                lives.push(Life { from: beats.attempted, to: beats.written, whose });
            }
        }
    }
    let machines: BTreeSet<&str> = lives.iter().filter_map(|life| life.whose.rsplit(' ').next()).collect();
    report.notes.push(format!("`{ROAM}` lived {} times, on {} machines", lives.len(), machines.len()));
    for (first, second) in talk::overlaps(lives) {
        report.copies += 1;
        report.violation(format!("two copies at once: {first:?} and {second:?}"));
    }
    Ok(())
}

/// Nobody was answered by somebody else.
fn answers(places: &[Left], report: &mut Report) -> Result<(), Failure> {
    let (mut right, mut nobody, mut gaps) = (0_u64, 0_u64, Vec::new());
    for left in places {
        for path in files(&left.truth.join(ANSWERS)) {
            let who = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).map_err(failed("answers"))?;
            let mut latest: BTreeMap<String, u64> = BTreeMap::new();
            for asked in text.lines().filter_map(Asked::read) {
                match asked.outcome {
                    Outcome::Right => {
                        right += 1;
                        if let Some(before) = latest.insert(asked.whom.clone(), asked.until) {
                            gaps.push((asked.until - before, format!("{who} to {}", asked.whom)));
                        }
                    }
                    Outcome::Nobody(_) => nobody += 1,
                    Outcome::Wrong(said) => {
                        report.violation(format!(
                            "{who} asked {} at {} and heard {said:?}",
                            asked.whom, asked.at
                        ));
                    }
                }
            }
        }
    }
    if right == 0 {
        report.violation("nobody was ever answered");
    }
    gaps.sort();
    let longest: Vec<String> = gaps
        .iter()
        .rev()
        .take(3)
        .map(|(gap, whose)| format!("{:.1} s ({whose})", *gap as f64 / 1000.0))
        .collect();
    report.notes.push(format!(
        "{right} answers, all by who was asked; {nobody} questions without one; longest without: {}",
        longest.join(", ")
    ));
    Ok(())
}

fn files(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// Nothing is left: no process, container, network or folder of agents.
fn left(project: &Project, hosts: &[OwnHost], report: &mut Report) -> Result<(), Failure> {
    let nodes = HOSTS.map(|(_, name)| name.to_owned());
    let words = ["node", "remove", "-y"].map(str::to_owned).into_iter().chain(nodes);
    expect(project, &words.collect::<Vec<_>>(), report)?;
    let end = Instant::now() + ENDING;
    let mut left;
    loop {
        left = leftovers(project, hosts)?;
        if left.is_empty() || Instant::now() >= end {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    report.orphans = left.len();
    report.violations.extend(left.into_iter().map(|what| format!("left: {what}")));
    Ok(())
}

fn leftovers(project: &Project, hosts: &[OwnHost]) -> Result<Vec<String>, Failure> {
    let family = project.family.all().into_iter();
    let mut left: Vec<String> =
        family.map(|it| format!("here {} pid {} `{}`", it.name, it.pid, it.command.join(" "))).collect();
    for host in hosts {
        let script = "find /home -name 'harness*' -not -path '*/torture/*'; for it in /proc/[0-9]*; do \
                      tr '\\0' ' ' <$it/cmdline 2>/dev/null | grep -E 'harness/[a]gents|[t]emper'; done; true";
        let said = host.sh(script).map_err(broken)?;
        left.extend(said.lines().map(|line| format!("on {}: {line}", host.name())));
    }
    if let Some(id) = project.state_dir().as_deref().and_then(Path::file_name) {
        let docker = Docker::here().map_err(broken)?;
        let filter = format!("label=harness.project={}", id.display());
        for what in ["container", "network", "volume"] {
            let all: &[&str] = if what == "container" { &["--all"] } else { &[] };
            let words = [&[what, "ls", "--quiet", "--filter", filter.as_str()], all].concat();
            let said = docker.output(&words).map_err(broken)?;
            left.extend(said.lines().map(|line| format!("{what} {line}")));
        }
    }
    Ok(left)
}
