//! What the loop can be asked, and how it answers.

use super::Supervisor;
use crate::command::{self, PortSource, Refused, StartRequest, Started, StopRequest};
use crate::model::{InstanceName, ServiceName, Stack};
use crate::node::Listeners;
use crate::plan::{Step, WishGoal, simulate};
use async_channel::Sender;
use service_registry::registry::Durable;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Where an answer goes. The asker may be gone.
pub struct Reply<T>(pub Sender<T>);

impl<T> Reply<T> {
    fn send(self, answer: T) {
        // A full or closed channel is an asker that doesn't wait any more.
        let _ = self.0.try_send(answer);
    }
}

/// Everything the loop can be asked.
pub enum Command {
    /// Start, or show what a start would do.
    Start(Box<StartOrder>, Reply<Result<StartAnswer, Refused>>),
    /// Stop, or show what a stop would do.
    Stop(StopRequest, bool, Reply<Result<Stopped, Refused>>),
    /// Restart; the stack and the environment to take, if any.
    Restart(Box<StartOrder>, bool, Reply<Result<StartAnswer, Refused>>),
    /// Run the health checks of these instances now; answers when all are done. Empty is all.
    Probe(Vec<String>, Reply<Result<(), Refused>>),
    /// What a command needs to run where this service or instance runs.
    Exec(String, Reply<Result<ExecContext, Refused>>),
    /// Which services of the stack aren't wanted.
    NotStarted(Reply<Vec<ServiceName>>),
    /// The names that a selection means.
    Select(Vec<String>, Reply<Result<Vec<InstanceName>, Refused>>),
    /// End the loop. What runs goes on.
    End,
    /// End the loop if nothing is wanted to run and nothing does. The answer: whether it ends.
    EndIfIdle(Reply<bool>),
}

/// A start with what comes along.
pub struct StartOrder {
    /// The stack as the file has it; a restart may do without.
    pub stack: Option<Stack>,
    /// The caller's environment.
    pub env: BTreeMap<String, String>,
    /// Values of the stack's secrets.
    pub secrets: BTreeMap<String, String>,
    /// What to start.
    pub request: StartRequest,
    /// Change nothing.
    pub dry_run: bool,
}

/// What a start set in motion.
pub struct StartAnswer {
    /// Revision of the registry before.
    pub revision: u64,
    /// What was decided.
    pub outcome: Started,
    /// With a dry run, the rounds.
    pub plan: Option<Vec<Vec<Step>>>,
    /// Resolves when the wish is safe from a crash.
    pub durable: Option<Durable>,
}

/// What a stop set in motion.
pub struct Stopped {
    /// Revision of the registry before.
    pub revision: u64,
    /// What stops, dependents first.
    pub stopping: Vec<InstanceName>,
    /// The runs of these, where they have run: another run later means that something else started it again.
    pub runs: BTreeMap<InstanceName, String>,
    /// With a dry run, the rounds.
    pub plan: Option<Vec<Vec<Step>>>,
    /// Resolves when the wish is safe from a crash.
    pub durable: Option<Durable>,
}

/// What a command needs to run where an instance runs.
pub struct ExecContext {
    /// The instance.
    pub instance: InstanceName,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its folder.
    pub working_dir: PathBuf,
    /// Its user.
    pub user: Option<String>,
    /// Its group.
    pub group: Option<String>,
}

/// A `health --run-now` that waits for its probes.
pub(super) struct Asked {
    open: BTreeSet<InstanceName>,
    reply: Reply<Result<(), Refused>>,
}

impl Supervisor {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Start(order, reply) => reply.send(self.start_command(*order)),
            Command::Stop(request, dry_run, reply) => reply.send(self.stop_command(&request, dry_run)),
            Command::Restart(order, force, reply) => reply.send(self.restart_command(*order, force)),
            Command::Probe(names, reply) => self.probe_command(&names, reply),
            Command::Exec(name, reply) => reply.send(self.exec_command(&name)),
            Command::NotStarted(reply) => reply.send(self.not_started()),
            Command::Select(names, reply) => {
                reply.send(self.select(&names).map(|set| set.into_iter().collect()))
            }
            Command::End => self.ended = true,
            Command::EndIfIdle(reply) => {
                let wanted = self.world.desired.wishes.values().any(|wish| wish.goal == WishGoal::Up);
                let idle = !wanted && self.running() == 0;
                self.ended |= idle;
                reply.send(idle);
            }
        }
    }

    fn start_command(&mut self, order: StartOrder) -> Result<StartAnswer, Refused> {
        let revision = self.registry.revision();
        let stack = order.stack.ok_or(Refused::NoStack)?;
        let before = self.world.clone();
        let listeners = Listeners::read();
        let in_use = |port| listeners.contains(port);
        let ports = PortSource { range: self.ports, in_use: &in_use };
        if order.dry_run {
            let mut after = before;
            let outcome = command::start(&mut after, stack, &order.request, &ports)?;
            return Ok(StartAnswer { revision, outcome, plan: Some(self.rounds(&after)), durable: None });
        }
        let outcome = command::start(&mut self.world, stack, &order.request, &ports)?;
        self.memory.set_env(&self.registry, &outcome.started, &order.env);
        self.memory.set_secrets(&self.registry, order.secrets);
        let durable = self.memory.save(&self.registry, &before, &self.world);
        self.publish_all();
        Ok(StartAnswer { revision, outcome, plan: None, durable: Some(durable) })
    }

    fn restart_command(&mut self, order: StartOrder, force: bool) -> Result<StartAnswer, Refused> {
        let revision = self.registry.revision();
        let before = self.world.clone();
        let listeners = Listeners::read();
        let in_use = |port| listeners.contains(port);
        let ports = PortSource { range: self.ports, in_use: &in_use };
        let with_stack = order.stack.is_some();
        let restarting = command::restart(&mut self.world, order.stack, &order.request.names, &ports)?;
        if with_stack {
            self.memory.set_env(&self.registry, &restarting, &order.env);
            self.memory.set_secrets(&self.registry, order.secrets);
        }
        let durable = self.memory.save(&self.registry, &before, &self.world);
        if force {
            self.kill(&restarting);
        }
        self.publish_all();
        let outcome = Started { wanted: restarting.clone(), started: restarting, ..Started::default() };
        Ok(StartAnswer { revision, outcome, plan: None, durable: Some(durable) })
    }

    /// Kills what is about to be replaced, instead of asking it to end.
    fn kill(&mut self, instances: &[InstanceName]) {
        let (now, _) = (self.clock)();
        for instance in instances {
            let Some(run) = self.world.observed.get(instance).and_then(|seen| Some(seen.run()?.id.clone()))
            else {
                continue;
            };
            let cause = crate::observed::StopCause::Replaced;
            self.issue(Step::Stop { instance: instance.clone(), run, force: true, cause }, now);
        }
    }

    fn stop_command(&mut self, request: &StopRequest, dry_run: bool) -> Result<Stopped, Refused> {
        let revision = self.registry.revision();
        let before = self.world.clone();
        if dry_run {
            let mut after = before;
            let stopping = command::stop(&mut after, request)?;
            let (runs, plan) = (BTreeMap::new(), Some(self.rounds(&after)));
            return Ok(Stopped { revision, stopping, runs, plan, durable: None });
        }
        let stopping = command::stop(&mut self.world, request)?;
        let durable = self.memory.save(&self.registry, &before, &self.world);
        self.publish_all();
        let runs = stopping.iter().filter_map(|name| {
            let run = self.world.observed.get(name)?.run()?;
            Some((name.clone(), run.id.clone()))
        });
        let runs = runs.collect();
        Ok(Stopped { revision, stopping, runs, plan: None, durable: Some(durable) })
    }

    fn rounds(&self, world: &command::World) -> Vec<Vec<Step>> {
        let Some(stack) = &world.stack else { return Vec::new() };
        simulate(stack, &world.desired, &world.observed, (self.clock)().0)
    }

    fn select(&self, names: &[String]) -> Result<Vec<InstanceName>, Refused> {
        let Some(stack) = &self.world.stack else { return Err(Refused::NoStack) };
        let mut selected = command::select(&stack.services, &self.world.desired, names)?;
        if names.is_empty() {
            // Everything: also what the file no longer has.
            selected.extend(self.world.desired.wishes.keys().cloned());
        }
        Ok(selected.into_iter().collect())
    }

    fn probe_command(&mut self, names: &[String], reply: Reply<Result<(), Refused>>) {
        let selected = match self.select(names) {
            Ok(selected) => selected,
            Err(refused) => return reply.send(Err(refused)),
        };
        let (now, _) = (self.clock)();
        let mut open = BTreeSet::new();
        for instance in selected {
            let Some(seen) = self.world.observed.get(&instance) else { continue };
            let Some(run) = seen.run().filter(|run| run.pid.is_some() && run.health_check().is_some()) else {
                continue;
            };
            if !matches!(seen.phase, crate::observed::Phase::Running(_)) {
                continue;
            }
            let (run, under_way) = (run.id.clone(), seen.health.in_flight.is_some());
            open.insert(instance.clone());
            if !under_way {
                self.issue(Step::Probe { instance, run }, now);
            }
        }
        if open.is_empty() {
            return reply.send(Ok(()));
        }
        self.asked.push(Asked { open, reply });
    }

    /// A probe of `instance` has ended, or never will.
    pub(super) fn answer_asked(&mut self, instance: &InstanceName) {
        for asked in &mut self.asked {
            asked.open.remove(instance);
        }
        let (done, open) =
            std::mem::take(&mut self.asked).into_iter().partition(|asked: &Asked| asked.open.is_empty());
        self.asked = open;
        for asked in Vec::<Asked>::into_iter(done) {
            asked.reply.send(Ok(()));
        }
    }

    fn exec_command(&self, name: &str) -> Result<ExecContext, Refused> {
        let selected = self.select(&[name.to_owned()])?;
        let live =
            |instance: &&InstanceName| self.world.observed.get(instance).is_some_and(|seen| seen.is_live());
        let unknown = || Refused::UnknownName { name: name.into(), known: Vec::new() };
        let first = selected.first().ok_or_else(unknown)?;
        let instance =
            selected.iter().find(live).ok_or_else(|| Refused::NotRunning { instance: first.clone() })?;
        let wish = self.world.desired.wishes.get(instance);
        let service = wish
            .map(|wish| &wish.service)
            .or_else(|| self.world.stack.as_ref()?.services.get(instance.service()));
        let service = service.ok_or_else(unknown)?;
        let resolved =
            self.seen_from(instance, service, |caller| self.resolved(caller)).map_err(|error| {
                Refused::NotSupported { services: vec![(instance.service().clone(), error.to_string())] }
            })?;
        Ok(ExecContext {
            instance: instance.clone(),
            env: resolved.env,
            working_dir: resolved.working_dir,
            user: resolved.user,
            group: resolved.group,
        })
    }

    fn not_started(&self) -> Vec<ServiceName> {
        let Some(stack) = &self.world.stack else { return Vec::new() };
        let wished =
            |name: &ServiceName| self.world.desired.wishes.keys().any(|instance| instance.service() == name);
        stack.services.keys().filter(|name| !wished(name)).cloned().collect()
    }

    fn publish_all(&self) {
        for instance in self.world.desired.wishes.keys() {
            self.publish(instance);
        }
    }
}
