//! Carries out the schedule, and remembers what was really done.

use super::super::drive::Called;
use super::super::evidence::{self, Identity};
use super::super::project::{Done, Project};
use super::schedule::{Action, Call, Fault};
use super::stack::{self, PACKAGE, Place, Service};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use test_hosts::{BB, Error, OwnHost};

/// Where agents have their folders.
const AGENTS: &str = "/home/app/.local/state/harness/agents";

/// Commands that run at the same time; the schedule's further ones are left out.
const AT_ONCE: usize = 6;

/// The two versions of the package.
pub(crate) const VERSIONS: [&str; 2] = ["1.0.0", "2.0.0"];

/// What was done, for the proof.
#[derive(Default)]
pub(crate) struct Deeds {
    /// How often each thing was done, by its name.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Runs whose keeper was killed, by itself or with its machine.
    pub(crate) killed: BTreeSet<String>,
    /// Hosts that lost their power: their zygotes were killed.
    pub(crate) crashed: BTreeSet<usize>,
}

/// How a host is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Condition {
    #[default]
    Well,
    /// It can be looked into, but something is wrong with its network.
    Disturbed,
    /// Nothing can be done in it.
    Out,
}

/// Something to take back.
enum Undo {
    Heal,
    Hear(Ipv4Addr),
    /// Rules of iptables that were added: chain and rule.
    Rules(Vec<String>),
    FullSpeed,
    Unpause,
    Boot,
}

/// The one who does it.
pub(crate) struct Driver<'a> {
    project: Arc<Project>,
    services: &'a [Service],
    hosts: &'a [OwnHost],
    conditions: Vec<Condition>,
    began: Instant,
    journal: Arc<Mutex<File>>,
    deeds: Deeds,
    called: Arc<Mutex<Vec<Called>>>,
    threads: Vec<JoinHandle<()>>,
    undos: Vec<(Instant, usize, Undo)>,
    deployments: usize,
}

impl<'a> Driver<'a> {
    /// Ready to begin.
    pub(crate) fn new(
        project: Arc<Project>,
        services: &'a [Service],
        hosts: &'a [OwnHost],
    ) -> io::Result<Self> {
        let journal = Arc::new(Mutex::new(File::create(project.folder.join("journal"))?));
        Ok(Self {
            project,
            services,
            hosts,
            conditions: vec![Condition::Well; hosts.len()],
            began: Instant::now(),
            journal,
            deeds: Deeds::default(),
            called: Arc::default(),
            threads: Vec::new(),
            undos: Vec::new(),
            deployments: 0,
        })
    }

    /// Does all of it; returns when the last command has ended and everything was taken back.
    pub(crate) fn run(mut self, schedule: &[Action], seconds: u64) -> Result<(Deeds, Vec<Called>), Error> {
        for action in schedule {
            self.wait_until(self.began + Duration::from_millis(action.at))?;
            self.fault(&action.fault)?;
        }
        self.wait_until(self.began + Duration::from_secs(seconds))?;
        for (_, host, undo) in std::mem::take(&mut self.undos) {
            self.undo(host, undo)?;
        }
        for thread in self.threads {
            // One that panicked has lost its result, which is missed below.
            let _ = thread.join();
        }
        let called = std::mem::take(&mut *self.called.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((self.deeds, called))
    }

    fn wait_until(&mut self, moment: Instant) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            let due = self.undos.iter().position(|(when, _, _)| *when <= now);
            if let Some(at) = due {
                let (_, host, undo) = self.undos.swap_remove(at);
                self.undo(host, undo)?;
                continue;
            }
            if now >= moment {
                return Ok(());
            }
            std::thread::sleep((moment - now).min(Duration::from_millis(20)));
        }
    }

    fn did(&mut self, name: &'static str, what: &str) {
        *self.deeds.counts.entry(name).or_default() += 1;
        note(&self.journal, self.began, &format!("{name}: {what}"));
    }

    /// Something is wrong with the network of a host until then, if nothing was.
    fn disturb(
        &mut self,
        host: usize,
        milliseconds: u64,
        name: &'static str,
        deed: impl FnOnce(&OwnHost) -> Result<Undo, Error>,
    ) -> Result<(), Error> {
        let Some(own) = self.hosts.get(host).filter(|_| self.condition(host) == Condition::Well) else {
            return Ok(());
        };
        let undo = deed(own)?;
        let out = matches!(undo, Undo::Unpause | Undo::Boot);
        if let Some(condition) = self.conditions.get_mut(host) {
            *condition = if out { Condition::Out } else { Condition::Disturbed };
        }
        self.undos.push((Instant::now() + Duration::from_millis(milliseconds), host, undo));
        self.did(name, &format!("{} for {milliseconds} ms", own.name()));
        Ok(())
    }

    fn condition(&self, host: usize) -> Condition {
        self.conditions.get(host).copied().unwrap_or_default()
    }

    fn undo(&mut self, host: usize, undo: Undo) -> Result<(), Error> {
        let Some(own) = self.hosts.get(host) else { return Ok(()) };
        match undo {
            Undo::Heal => own.heal()?,
            Undo::Hear(from) => own.hear(from)?,
            Undo::Rules(rules) => {
                for rule in rules {
                    own.sh(&format!("iptables --delete {rule}"))?;
                }
            }
            Undo::FullSpeed => own.full_speed()?,
            Undo::Unpause => own.unpause()?,
            Undo::Boot => own.start()?,
        }
        if let Some(condition) = self.conditions.get_mut(host) {
            *condition = Condition::Well;
        }
        note(&self.journal, self.began, &format!("{} is well again", own.name()));
        Ok(())
    }

    fn fault(&mut self, fault: &Fault) -> Result<(), Error> {
        match fault {
            Fault::Cut(host, time) => {
                self.disturb(*host, *time, "cable pulled", |host| host.cut().map(|()| Undo::Heal))
            }
            Fault::Deaf(host, other, time) => {
                let from = match other {
                    Some(other) => self.hosts.get(*other).map(|other| other.address()),
                    None => self.hosts.get(*host).map(|host| host.network().gateway()),
                };
                let Some(from) = from else { return Ok(()) };
                self.disturb(*host, *time, "deaf", |host| host.deafen(from).map(|()| Undo::Hear(from)))
            }
            Fault::NoDatagrams(host, time) => {
                self.rules(*host, *time, "no UDP", &["INPUT -p udp -j DROP", "OUTPUT -p udp -j DROP"])
            }
            Fault::Lossy(host, time) => self.rules(
                *host,
                *time,
                "lossy",
                &["INPUT -m statistic --mode random --probability 0.2 -j DROP"],
            ),
            Fault::Slow(host, time) => {
                self.disturb(*host, *time, "slow", |host| host.slow(4_000).map(|()| Undo::FullSpeed))
            }
            Fault::Pause(host, time) => {
                self.disturb(*host, *time, "paused", |host| host.pause().map(|()| Undo::Unpause))
            }
            Fault::Crash(host, time) => self.crash(*host, *time),
            Fault::Sshd(host) => self.inside(*host, "sshd restarted", "systemctl restart ssh"),
            Fault::KillAgent(host) => self.inside(*host, "agent killed", &kill_by_lock()),
            Fault::KillPlane(Place::Here) => {
                self.kill_plane_here();
                Ok(())
            }
            Fault::KillPlane(Place::Host(host)) => self.inside(*host, "data plane killed there", KILL_PLANE),
            Fault::KillDaemon(pause) => {
                if let Some(pid) = self.project.signal_daemon(Signal::KILL) {
                    self.did("daemon killed", &format!("pid {pid}"));
                }
                self.call(vec![vec!["start".to_owned()]], Duration::from_millis(*pause));
                Ok(())
            }
            Fault::KillKeeper(service) => self.kill(*service, true),
            Fault::KillService(service) => self.kill(*service, false),
            Fault::Call(call) => {
                self.command(call);
                Ok(())
            }
            Fault::Deploy => {
                self.deploy();
                Ok(())
            }
        }
    }

    fn rules(
        &mut self,
        host: usize,
        time: u64,
        name: &'static str,
        rules: &'static [&'static str],
    ) -> Result<(), Error> {
        self.disturb(host, time, name, |host| {
            for rule in rules {
                host.sh(&format!("iptables --insert {rule}"))?;
            }
            Ok(Undo::Rules(rules.iter().map(|rule| (*rule).to_owned()).collect()))
        })
    }

    /// Power is lost; what ran is read from the dead machine's disk.
    fn crash(&mut self, host: usize, time: u64) -> Result<(), Error> {
        let before = self.deeds.counts.get("power lost").copied();
        self.disturb(host, time, "power lost", |host| host.crash().map(|()| Undo::Boot))?;
        if self.deeds.counts.get("power lost").copied() == before {
            return Ok(());
        }
        let Some(own) = self.hosts.get(host) else { return Ok(()) };
        self.deeds.crashed.insert(host);
        let copy = self.project.folder.join(format!("crashed-{}-{}", own.name(), before.unwrap_or(0)));
        if copy_out(own, AGENTS, &copy).is_err() {
            // It never had an agent.
            return Ok(());
        }
        for state in folders(&copy) {
            for instance in folders(&state.join("instances")) {
                let name = instance.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if let Some((run, _, _)) = evidence::current(&state, &name) {
                    self.deeds.killed.insert(run);
                }
            }
        }
        // What it left is in the way of nobody; only the list of runs counts.
        let _ = fs::remove_dir_all(copy);
        Ok(())
    }

    /// Does something inside of a host, if one can.
    fn inside(&mut self, host: usize, name: &'static str, script: &str) -> Result<(), Error> {
        let Some(own) = self.hosts.get(host).filter(|_| self.condition(host) != Condition::Out) else {
            return Ok(());
        };
        // `false` at its end: there was nothing to do it to.
        if own.sh(script).is_ok() {
            self.did(name, own.name());
        }
        Ok(())
    }

    fn kill_plane_here(&mut self) {
        let planes: Vec<i32> =
            self.project.family.all().iter().filter(|it| is_plane(it)).map(|it| it.pid).collect();
        for pid in planes {
            if self.project.family.signal(pid, Signal::KILL, is_plane) {
                self.did("data plane killed here", &format!("pid {pid}"));
            }
        }
    }

    /// Kills a service's main process, or its keeper.
    fn kill(&mut self, service: usize, keeper: bool) -> Result<(), Error> {
        let Some(service) = self.services.get(service) else { return Ok(()) };
        let instance = service.instance();
        let found = match service.place {
            Place::Here => self.project.state_dir().and_then(|state| evidence::current(&state, &instance)),
            Place::Host(host) if self.condition(host) == Condition::Out => None,
            Place::Host(host) => self.hosts.get(host).and_then(|host| current(host, &instance)),
        };
        let Some((run, of_keeper, process)) = found else { return Ok(()) };
        let Some(target) = (if keeper { of_keeper } else { process }) else { return Ok(()) };
        if keeper {
            // Written down before: it may be dead although nobody could say so.
            self.deeds.killed.insert(run.clone());
        }
        let done = match service.place {
            Place::Here => self.project.family.signal(target.pid, Signal::KILL, |found| {
                super::super::process::start_time(found.pid) == Some(target.start)
            }),
            Place::Host(host) => {
                self.hosts.get(host).is_some_and(|host| host.sh(&kill_exactly(target)).is_ok())
            }
        };
        if done {
            let name = if keeper { "keeper killed" } else { "service killed" };
            self.did(name, &format!("{instance} {run} pid {}", target.pid));
        }
        Ok(())
    }

    fn command(&mut self, call: &Call) {
        let name = |at: &usize| self.services.get(*at).map(|it| it.name.clone()).unwrap_or_default();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let lines = match call {
            Call::Start => vec![words(&["start"])],
            Call::Restart(at) => vec![words(&["restart", &name(at)])],
            Call::StopStart(at) => vec![words(&["stop", &name(at), "-y"]), words(&["start", &name(at)])],
            Call::Status => vec![words(&["status"])],
            Call::Logs(at) => vec![words(&["logs", "-n", "20", &name(at)])],
            Call::Show => vec![words(&["network", "show"])],
        };
        self.call(lines, Duration::ZERO);
    }

    fn deploy(&mut self) {
        self.deployments += 1;
        let version = VERSIONS.get(self.deployments % 2).copied().unwrap_or_default();
        let text = stack::yaml(self.services, &self.project.folder.display().to_string(), BB, version);
        if self.project.write_services(&text).is_ok() {
            self.did("deployment", version);
            let words = ["deploy", PACKAGE, "--rollback-on-failure"];
            self.call(vec![words.iter().map(|word| (*word).to_owned()).collect()], Duration::ZERO);
        }
    }

    /// Runs command lines one after another, in a thread of their own.
    fn call(&mut self, lines: Vec<Vec<String>>, pause: Duration) {
        self.threads.retain(|thread| !thread.is_finished());
        if self.threads.len() >= AT_ONCE {
            return;
        }
        let (project, called) = (Arc::clone(&self.project), Arc::clone(&self.called));
        let (journal, start) = (Arc::clone(&self.journal), self.began);
        *self.deeds.counts.entry("commands").or_default() += lines.len() as u64;
        self.threads.push(std::thread::spawn(move || {
            std::thread::sleep(pause);
            for line in lines {
                let began = milliseconds(start);
                let text = line.join(" ");
                note(&journal, start, &format!("$ {text}"));
                let done = project.run(&line).unwrap_or_else(|error| Done {
                    code: None,
                    stdout: String::new(),
                    stderr: error.to_string(),
                });
                let ended = milliseconds(start);
                note(&journal, start, &format!("{:?} of {text} after {} ms", done.code, ended - began));
                let mut called = called.lock().unwrap_or_else(PoisonError::into_inner);
                called.push(Called { text, began, ended, done });
            }
        }));
    }
}

fn milliseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn note(journal: &Mutex<File>, start: Instant, what: &str) {
    let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
    let wall = jiff::Timestamp::now();
    let _ = writeln!(journal, "{wall:.3} {:>7} {what}", milliseconds(start));
}

fn is_plane(process: &super::super::process::Process) -> bool {
    process.command.windows(3).any(|words| words == ["daemon", "plane", "run"]) && process.name == "harness"
}

/// Kills the data planes of a host, and not itself.
const KILL_PLANE: &str = "found=false; for it in /proc/[0-9]*; do [ $it = /proc/$$ ] && continue; \
    case \"$(tr '\\0' ' ' <$it/cmdline 2>/dev/null)\" in \
    *' daemon plane run '*) kill -KILL ${it#/proc/} 2>/dev/null && found=true;; esac; done; $found";

/// Kills the agents of a host, as their locks name them.
fn kill_by_lock() -> String {
    format!(
        "found=false; for lock in {AGENTS}/*/daemon.lock; do pid=$(sed -n 's/^pid \\([0-9]*\\).*/\\1/p' $lock); \
         case \"$(tr '\\0' ' ' </proc/$pid/cmdline 2>/dev/null)\" in \
         *' daemon '*) kill -KILL $pid && found=true;; esac; done; $found"
    )
}

/// Kills a process if it is still the same.
fn kill_exactly(Identity { pid, start }: Identity) -> String {
    format!("set -- $(sed 's/.*) //' /proc/{pid}/stat) && [ \"${{20}}\" = {start} ] && kill -KILL {pid}")
}

/// The run of an instance on a host that isn't over.
fn current(host: &OwnHost, instance: &str) -> Option<(String, Option<Identity>, Option<Identity>)> {
    let script = format!(
        "cd {AGENTS}/*/instances/{instance} && name=$(LC_ALL=C ls | grep json$ | tail -n 1) && echo $name && cat $name"
    );
    let said = host.sh(&script).ok()?;
    let (name, record) = said.split_once('\n')?;
    evidence::open_run(name, record.as_bytes())
}

/// Copies a folder of a host, which may be off, to a new one here.
pub(crate) fn copy_out(host: &OwnHost, from: &str, to: &Path) -> Result<(), Error> {
    let docker = test_hosts::Docker::here()?;
    let to = to.display().to_string();
    docker.output(&["cp", "--quiet", &format!("{}:{from}", host.container()), &to]).map(drop)
}

/// The folders in a folder.
pub(crate) fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Copies what the agents and the tempers of a host wrote: `TO/agents`, `TO/torture`.
pub(crate) fn collect(host: &OwnHost, to: &Path) -> Result<(), Error> {
    copy_out(host, AGENTS, &to.join("agents"))?;
    copy_out(host, stack::FOLDER, &to.join("torture"))
}
