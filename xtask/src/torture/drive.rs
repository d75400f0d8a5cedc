//! Carries out the schedule, and remembers what was really done.

use super::clock::Clock;
use super::evidence::{self, Identity};
use super::orders::{Goal, Order};
use super::process::{self, Process, Starved};
use super::project::{Done, Project};
use super::room::STORE_DISK;
use super::schedule::{Action, Attack, Call};
use super::stack::{self, DISK_SIZE, Edits, Service};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Commands that run at the same time; the schedule's further ones are left out.
const AT_ONCE: usize = 12;

/// How often the daemon's footprint is looked at.
const SAMPLING: Duration = Duration::from_millis(500);

/// What was done, for the checker.
#[derive(Default)]
pub(crate) struct Deeds {
    /// How often each thing was done, by its name.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Runs whose keeper was killed.
    pub(crate) killed_keepers: BTreeSet<String>,
    /// Services whose disk was filled, by position.
    pub(crate) filled: BTreeSet<usize>,
    /// Whether the daemon ever had no descriptors.
    pub(crate) starved: bool,
    /// Footprints of daemons: pid and start (pids come again), milliseconds, KiB, descriptors.
    pub(crate) footprints: Vec<((i32, u64), u64, u64, u64)>,
    /// The last edits.
    pub(crate) edits: Edits,
    /// When the daemon was attacked, from and to, in milliseconds.
    pub(crate) outages: Vec<(u64, u64)>,
}

/// A command that has ended.
pub(crate) struct Called {
    /// What was typed.
    pub(crate) text: String,
    /// When it began, in milliseconds.
    pub(crate) began: u64,
    /// When it ended.
    pub(crate) ended: u64,
    /// What it did.
    pub(crate) done: Done,
}

impl Called {
    /// In one paragraph.
    pub(crate) fn describe(&self) -> String {
        let Self { text, began, ended, done } = self;
        let code = done.code.map_or_else(|| "no code".to_owned(), |code| format!("code {code}"));
        let said = format!("{}{}", done.stdout, done.stderr);
        format!("`{text}` ({began} to {ended} ms) ended with {code}: {}", said.trim())
    }
}

/// All commands, and the orders among them.
#[derive(Default)]
pub(crate) struct Calls {
    /// All of them.
    pub(crate) called: Vec<Called>,
    /// Those that order something.
    pub(crate) orders: Vec<Order>,
}

/// Something to take back.
enum Undo {
    Continue { run: String, process: Identity },
    Feed(Starved),
    Empty(PathBuf),
}

/// The one who does it.
pub(crate) struct Driver {
    project: Arc<Project>,
    services: Arc<Vec<Service>>,
    /// Whether the logs of the services with small disks are on such.
    disks: bool,
    /// The wall clock, where it can be set.
    clock: Option<Arc<Clock>>,
    began: Instant,
    journal: File,
    deeds: Deeds,
    calls: Arc<Mutex<Calls>>,
    threads: Vec<JoinHandle<()>>,
    undos: Vec<(Instant, Undo)>,
    sampled: Instant,
}

impl Driver {
    /// Ready to begin.
    pub(crate) fn new(
        project: Arc<Project>,
        services: Arc<Vec<Service>>,
        disks: bool,
        clock: Option<Arc<Clock>>,
    ) -> io::Result<Self> {
        let journal = File::create(project.folder.join("journal"))?;
        let began = Instant::now();
        Ok(Self {
            project,
            services,
            disks,
            clock,
            began,
            journal,
            deeds: Deeds::default(),
            calls: Arc::default(),
            threads: Vec::new(),
            undos: Vec::new(),
            sampled: began,
        })
    }

    /// Does all of it; returns when the last command has ended and everything that can be taken back was.
    pub(crate) fn run(mut self, schedule: &[Action], seconds: u64) -> io::Result<(Deeds, Calls)> {
        for action in schedule {
            self.wait_until(self.began + Duration::from_millis(action.at));
            self.attack(&action.attack)?;
        }
        self.wait_until(self.began + Duration::from_secs(seconds));
        for (_, undo) in std::mem::take(&mut self.undos) {
            self.undo(undo);
        }
        for thread in self.threads {
            // One that panicked has lost its result, which is missed below.
            let _ = thread.join();
        }
        let calls = std::mem::take(&mut *lock(&self.calls));
        Ok((self.deeds, calls))
    }

    fn wait_until(&mut self, moment: Instant) {
        loop {
            let now = Instant::now();
            let due: Vec<usize> = (0..self.undos.len())
                .rev()
                .filter(|at| self.undos.get(*at).is_some_and(|u| u.0 <= now))
                .collect();
            for at in due {
                let (_, undo) = self.undos.swap_remove(at);
                self.undo(undo);
            }
            if now.duration_since(self.sampled) >= SAMPLING {
                self.sampled = now;
                self.sample();
            }
            if now >= moment {
                return;
            }
            std::thread::sleep((moment - now).min(Duration::from_millis(20)));
        }
    }

    fn sample(&mut self) {
        if let Some(pid) = self.project.daemon()
            && let Some((memory, open)) = process::footprint(pid)
        {
            let at = self.now();
            let start = process::start_time(pid).unwrap_or(0);
            self.deeds.footprints.push(((pid, start), at, memory, open));
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn note(&mut self, what: &str) {
        let at = self.now();
        let wall = jiff::Timestamp::now();
        let _ = writeln!(self.journal, "{wall:.3} {at:>7} {what}");
    }

    fn did(&mut self, name: &'static str, what: &str) {
        *self.deeds.counts.entry(name).or_default() += 1;
        self.note(&format!("{name}: {what}"));
    }

    fn name(&self, service: usize) -> String {
        self.services.get(service).map(|service| service.name.clone()).unwrap_or_default()
    }

    fn attack(&mut self, attack: &Attack) -> io::Result<()> {
        match attack {
            Attack::KillDaemon => self.end_daemon(Signal::KILL, "daemon killed"),
            Attack::EndDaemon => self.end_daemon(Signal::TERM, "daemon terminated"),
            Attack::KillKeeper(service) => self.kill_keeper(*service),
            Attack::KillZygote => self.kill_zygotes(),
            Attack::KillZygoteAndKeepers(services) => {
                self.kill_zygotes();
                for service in services {
                    self.kill_keeper(*service);
                }
            }
            Attack::KillService(service) => {
                if let Some((_, run, _, Some(process))) = self.current(*service)
                    && self.signal(process, Signal::KILL, &run)
                {
                    let what = format!("{} {run} pid {}", self.name(*service), process.pid);
                    self.did("service killed", &what);
                }
            }
            Attack::Pause(service, milliseconds) => {
                if let Some((_, run, _, Some(process))) = self.current(*service)
                    && self.signal(process, Signal::STOP, &run)
                {
                    let end = Instant::now() + Duration::from_millis(*milliseconds);
                    self.undos.push((end, Undo::Continue { run, process }));
                    let what = format!("{} pid {} for {milliseconds} ms", self.name(*service), process.pid);
                    self.did("service paused", &what);
                }
            }
            Attack::Calls(calls) => calls.iter().for_each(|call| self.call(call)),
            Attack::Edit(service) => {
                *self.deeds.edits.counts.entry(*service).or_default() += 1;
                let name = self.name(*service);
                self.edit(&name, &["start", "--apply"])?;
            }
            Attack::Extra => {
                self.deeds.edits.extra = !self.deeds.edits.extra;
                self.edit(stack::EXTRA, &["start", "--apply", "--remove-orphans"])?;
            }
            Attack::Starve(milliseconds) => self.starve(*milliseconds),
            Attack::FillDisk(service, milliseconds) => self.fill_log(*service, *milliseconds)?,
            Attack::FillStore(milliseconds) => self.fill_store(*milliseconds)?,
            Attack::SetClock(offset) => self.set_clock(*offset)?,
        }
        Ok(())
    }

    fn end_daemon(&mut self, signal: Signal, name: &'static str) {
        let before = self.now();
        if let Some(pid) = self.project.signal_daemon(signal) {
            self.deeds.outages.push((before, self.now() + 3_000));
            self.did(name, &format!("pid {pid}"));
        }
    }

    /// The run of a service that isn't over: instance, run, keeper, main process.
    fn current(&self, service: usize) -> Option<(String, String, Option<Identity>, Option<Identity>)> {
        let instance = self.services.get(service)?.instance();
        let (run, keeper, process) = evidence::current(&self.project.state_dir()?, &instance)?;
        Some((instance, run, keeper, process))
    }

    /// Signals exactly the process that a record names.
    fn signal(&self, target: Identity, signal: Signal, run: &str) -> bool {
        let is_it = |found: &Process| {
            process::start_time(found.pid) == Some(target.start)
                && found.run.as_deref().is_none_or(|found| found == run)
        };
        self.project.family.signal(target.pid, signal, is_it)
    }

    fn kill_keeper(&mut self, service: usize) {
        if let Some((instance, run, Some(keeper), _)) = self.current(service)
            && self.signal(keeper, Signal::KILL, &run)
        {
            self.deeds.killed_keepers.insert(run.clone());
            self.did("keeper killed", &format!("{instance} {run} pid {}", keeper.pid));
        }
    }

    fn kill_zygotes(&mut self) {
        for zygote in self.project.family.zygotes() {
            // Its keepers are forked from it: one that was about to begin may be gone with it.
            if self.project.family.signal(zygote.pid, Signal::KILL, |found| found.name == "keeper-zygote") {
                self.did("zygote killed", &format!("pid {}", zygote.pid));
            }
        }
    }

    fn starve(&mut self, milliseconds: u64) {
        if let Some(starved) = self.project.daemon().and_then(process::starve) {
            let what = format!("pid {} for {milliseconds} ms", starved.pid);
            let now = self.now();
            self.deeds.outages.push((now, now + milliseconds + 1_000));
            self.undos.push((Instant::now() + Duration::from_millis(milliseconds), Undo::Feed(starved)));
            self.deeds.starved = true;
            self.did("daemon without descriptors", &what);
        }
    }

    fn fill_log(&mut self, service: usize, milliseconds: u64) -> io::Result<()> {
        let folder = self.project.state_dir().zip(self.services.get(service).map(Service::instance));
        let Some((state, instance)) = folder.filter(|_| self.disks) else { return Ok(()) };
        self.deeds.filled.insert(service);
        let name = self.name(service);
        self.fill(state.join("instances").join(instance), DISK_SIZE, milliseconds)?;
        self.did("disk filled", &format!("{name} for {milliseconds} ms"));
        Ok(())
    }

    fn fill_store(&mut self, milliseconds: u64) -> io::Result<()> {
        let Some(folder) = self.project.state_dir().map(|state| state.join(STORE_DISK)) else {
            return Ok(());
        };
        if !self.disks || !folder.is_dir() {
            return Ok(());
        }
        let now = self.now();
        self.deeds.outages.push((now, now + milliseconds + 3_000));
        self.fill(folder, super::room::STORE_SIZE, milliseconds)?;
        self.did("store's disk filled", &format!("for {milliseconds} ms"));
        Ok(())
    }

    /// Fills a disk of `size` bytes until there is no room for a page; what a page still has room for is left.
    fn fill(&mut self, folder: PathBuf, size: usize, milliseconds: u64) -> io::Result<()> {
        let path = folder.join("filler");
        let mut file = File::create(&path)?;
        let page = [0; 4096];
        for _ in 0..=size / page.len() {
            if file.write_all(&page).is_err() {
                break;
            }
        }
        self.undos.push((Instant::now() + Duration::from_millis(milliseconds), Undo::Empty(path)));
        Ok(())
    }

    fn set_clock(&mut self, offset: i64) -> io::Result<()> {
        if let Some(clock) = &self.clock {
            clock.set(offset)?;
            self.did("clock set", &format!("{offset} ms after the machine's"));
        }
        Ok(())
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Continue { run, process } => {
                self.signal(process, Signal::CONT, &run);
            }
            Undo::Feed(starved) => starved.feed(),
            Undo::Empty(path) => {
                let _ = fs::remove_file(path);
            }
        }
    }

    fn edit(&mut self, what: &str, args: &[&str]) -> io::Result<()> {
        let text = stack::yaml(
            &self.services,
            &self.deeds.edits,
            &self.project.programs.temper,
            &self.project.folder,
        );
        self.project.write_services(&text)?;
        self.did("edit", what);
        let all = (0..self.services.len()).collect();
        self.order(args.iter().map(|word| (*word).to_owned()).collect(), Some((all, Goal::Up)));
        Ok(())
    }

    fn call(&mut self, call: &Call) {
        let names = |positions: &[usize]| positions.iter().map(|at| self.name(*at)).collect::<Vec<_>>();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let all = || (0..self.services.len()).collect::<Vec<_>>();
        let (args, about) = match call {
            Call::Start(chosen) if chosen.is_empty() => (words(&["start"]), Some((all(), Goal::Up))),
            Call::Start(chosen) => {
                let about = stack::with_needs(&self.services, chosen);
                ([words(&["start"]), names(chosen)].concat(), Some((about, Goal::Up)))
            }
            Call::Stop(service) => {
                let about = stack::with_dependents(&self.services, &[*service]);
                (words(&["stop", &self.name(*service), "-y"]), Some((about, Goal::Down)))
            }
            Call::Kill(service) => {
                let args = words(&["stop", &self.name(*service), "--force", "-y"]);
                (args, Some((vec![*service], Goal::Down)))
            }
            Call::StopAll => {
                let now = self.now();
                self.deeds.outages.push((now, now + 15_000));
                (words(&["stop", "-y"]), Some((all(), Goal::Down)))
            }
            Call::Restart(service) => {
                let about = stack::with_needs(&self.services, &[*service]);
                (words(&["restart", &self.name(*service)]), Some((about, Goal::Up)))
            }
            Call::Status => (words(&["status"]), None),
            Call::List => (words(&["list"]), None),
            Call::Logs(service) => (words(&["logs", "-n", "20", &self.name(*service)]), None),
            Call::DaemonStatus => (words(&["daemon", "status"]), None),
        };
        self.order(args, about);
    }

    /// Runs a command beside everything else.
    fn order(&mut self, args: Vec<String>, about: Option<(Vec<usize>, Goal)>) {
        self.threads.retain(|thread| !thread.is_finished());
        let text = args.join(" ");
        if self.threads.len() >= AT_ONCE {
            *self.deeds.counts.entry("commands left out").or_default() += 1;
            return self.note(&format!("left out: {text}"));
        }
        self.did("command", &text);
        let (project, services, calls) =
            (Arc::clone(&self.project), Arc::clone(&self.services), Arc::clone(&self.calls));
        let began_all = self.began;
        let now = move || u64::try_from(began_all.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.threads.push(std::thread::spawn(move || {
            let began = now();
            let done = project.run(&args).unwrap_or_else(|error| Done {
                code: None,
                stdout: String::new(),
                stderr: format!("it can't be run: {error}"),
            });
            let acknowledged = done.code == Some(0);
            let alive = match &about {
                Some((about, Goal::Down)) if acknowledged => living(&project, &services, about),
                _ => Vec::new(),
            };
            // Only now: an order that came between the answer and the look counts as one at the same time.
            let ended = now();
            let order = about.map(|(services, goal)| {
                let text = text.clone();
                Order { text, services, goal, began, ended, acknowledged, alive }
            });
            let mut calls = lock(&calls);
            calls.orders.extend(order);
            calls.called.push(Called { text, began, ended, done });
        }));
    }
}

/// Processes of runs of these services.
pub(crate) fn living(project: &Project, services: &[Service], about: &[usize]) -> Vec<String> {
    let instances: BTreeSet<String> =
        about.iter().filter_map(|at| services.get(*at)).map(Service::instance).collect();
    let all = project.family.all().into_iter();
    all.filter(|process| {
        process.run.is_some() && process.instance.as_ref().is_some_and(|name| instances.contains(name))
    })
    .map(|process| {
        format!(
            "{} pid {} `{}`",
            process.instance.unwrap_or_default(),
            process.pid,
            process.command.join(" ")
        )
    })
    .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
