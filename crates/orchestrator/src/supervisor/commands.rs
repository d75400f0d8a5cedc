//! What the loop can be asked, and how it answers.

use super::{NetworkStatus, NodeStatus, Supervisor};
use crate::command::{self, AssignRequest, Drained, PortSource, Refused, StartRequest, Started, StopRequest};
use crate::model::{Attach, InstanceName, Node, Service, ServiceName, Stack, Target};
use crate::network::ContainerNetwork;
use crate::node::{Listeners, Order};
use crate::observed::Moment;
use crate::plan::{Step, WishGoal, simulate};
use async_channel::Sender;
use indexmap::IndexMap;
use service_registry::model::Execution;
use service_registry::registry::Durable;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

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
    /// The stack's container network, as far as one is known.
    ContainerNetwork(Reply<Option<ContainerNetwork>>),
    /// What is known of virtual addresses, ways and data planes.
    Network(Reply<Box<NetworkStatus>>),
    /// Have every node make another key for its tunnels. The answer: the epoch of the new keys, which nodes report once they
    /// have them.
    RotateKeys(Reply<u64>),
    /// End all data planes, until something is started again. The answer: the nodes that had one.
    NetworkDown(Reply<Vec<String>>),
    /// Which services of the stack aren't wanted.
    NotStarted(Reply<Vec<ServiceName>>),
    /// The names that a selection means.
    Select(Vec<String>, Reply<Result<Vec<InstanceName>, Refused>>),
    /// On an agent: run this. The answer resolves when the wish is safe from a crash.
    Assign(Box<AssignOrder>, Reply<Result<Durable, Refused>>),
    /// On an agent: don't run this any more; whether to kill it. As before.
    Withdraw(InstanceName, String, bool, Reply<Result<Durable, Refused>>),
    /// Bring the files of these instances to their nodes again, where they run. The answer, once all are there: what failed,
    /// for people.
    Bring(Vec<InstanceName>, Reply<Vec<String>>),
    /// On an agent: the lease lasts until then. There is no answer.
    Lease(Moment),
    /// Empty a node, or let it take part again.
    Drain(String, bool, Reply<Result<(Drained, Durable), Refused>>),
    /// Forget a node that is lost. The answer: what may run on there.
    ForgetNode(String, Reply<Result<(Vec<InstanceName>, Durable), Refused>>),
    /// What is known of other nodes.
    Nodes(Reply<Vec<NodeStatus>>),
    /// Try to reach the nodes that are lost now.
    RetryNodes(Reply<()>),
    /// End the loop. What runs goes on.
    End,
    /// End the loop if nothing is wanted to run and nothing does. The answer: whether it ends.
    EndIfIdle(Reply<bool>),
}

impl Command {
    /// Whether it changes what is wanted.
    fn changes(&self) -> bool {
        use Command::{Assign, Drain, ForgetNode, Restart, Start, Stop, Withdraw};
        matches!(
            self,
            Start(..) | Stop(..) | Restart(..) | Assign(..) | Withdraw(..) | Drain(..) | ForgetNode(..)
        )
    }

    /// Whether somebody waits for what may hang on a lost node.
    fn is_urgent(&self) -> bool {
        use Command::{Drain, Restart, RetryNodes, Start, Stop};
        matches!(self, Start(..) | Stop(..) | Restart(..) | Drain(..) | RetryNodes(..))
    }
}

/// A start with what comes along.
pub struct StartOrder {
    /// The stack as the file has it; a restart may do without.
    pub stack: Option<Stack>,
    /// The caller's environment.
    pub env: BTreeMap<String, String>,
    /// Values of the stack's secrets.
    pub secrets: BTreeMap<String, String>,
    /// The stack's container network, where it has containers and an engine was there.
    pub network: Option<ContainerNetwork>,
    /// What to start.
    pub request: StartRequest,
    /// Change nothing.
    pub dry_run: bool,
}

/// An assignment with what comes along.
pub struct AssignOrder {
    /// What to run.
    pub request: AssignRequest,
    /// What a process inherits there.
    pub env: BTreeMap<String, String>,
    /// The container network there, where it is needed and an engine was there.
    pub network: Option<ContainerNetwork>,
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
    /// Its folder; `None` is what a container has by itself.
    pub working_dir: Option<PathBuf>,
    /// The container that it is, where it is one: its environment is in there.
    pub container: Option<String>,
    /// Its user.
    pub user: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// The node that it is on, if that isn't this machine: its agent knows the rest.
    pub node: Option<String>,
    /// That node and those on the way to it.
    pub way: IndexMap<String, Node>,
}

/// A `health --run-now` that waits for its probes.
pub(super) struct Asked {
    open: BTreeSet<InstanceName>,
    reply: Reply<Result<(), Refused>>,
}

impl Supervisor {
    pub(super) fn command(&mut self, command: Command) {
        self.net.changed |= command.changes();
        if matches!(command, Command::Start(..) | Command::Restart(..)) {
            self.net.down = false;
        }
        if command.is_urgent() {
            self.engine.retry_nodes();
        }
        match command {
            Command::RetryNodes(reply) => reply.send(()),
            Command::Start(order, reply) => reply.send(self.start_command(*order)),
            Command::Stop(request, dry_run, reply) => reply.send(self.stop_command(&request, dry_run)),
            Command::Restart(order, force, reply) => reply.send(self.restart_command(*order, force)),
            Command::Probe(names, reply) => self.probe_command(&names, reply),
            Command::Exec(name, reply) => reply.send(self.exec_command(&name)),
            Command::ContainerNetwork(reply) => reply.send(self.world.network.clone()),
            Command::Network(reply) => reply.send(Box::new(self.network_status())),
            Command::RotateKeys(reply) => reply.send(self.rotate_keys()),
            Command::NetworkDown(reply) => reply.send(self.network_down()),
            Command::NotStarted(reply) => reply.send(self.not_started()),
            Command::Select(names, reply) => {
                reply.send(self.select(&names).map(|set| set.into_iter().collect()))
            }
            Command::Assign(order, reply) => reply.send(self.assign_command(*order)),
            Command::Withdraw(instance, run, force, reply) => {
                reply.send(self.withdraw_command(&instance, &run, force));
            }
            Command::Bring(instances, reply) => self.bring_command(&instances, reply),
            Command::Lease(until) => self.lease(until),
            Command::Drain(node, on, reply) => reply.send(self.drain_command(&node, on)),
            Command::ForgetNode(node, reply) => reply.send(self.forget_node_command(&node)),
            Command::Nodes(reply) => reply.send(self.node_statuses()),
            Command::End => self.ended = true,
            Command::EndIfIdle(reply) => {
                let wanted = self.world.desired.wishes.values().any(|wish| wish.goal == WishGoal::Up);
                let idle = !wanted && self.running() == 0;
                self.ended |= idle;
                self.idle = idle;
                reply.send(idle);
            }
        }
    }

    fn start_command(&mut self, order: StartOrder) -> Result<StartAnswer, Refused> {
        let revision = self.registry.revision();
        let stack = order.stack.ok_or(Refused::NoStack)?;
        let before = self.world.clone();
        let listeners = Listeners::read();
        let (in_use, slot_in_use) = (|port| listeners.contains(port), |slot| listeners.has_slot(slot));
        let ports =
            PortSource { range: self.ports, in_use: &in_use, seed: self.seed, slot_in_use: &slot_in_use };
        if order.dry_run {
            let mut after = before;
            after.network = order.network.or(after.network);
            let outcome = command::start(&mut after, stack, &order.request, &ports)?;
            return Ok(StartAnswer { revision, outcome, plan: Some(self.rounds(&after)), durable: None });
        }
        self.world.network = order.network.or(self.world.network.take());
        let outcome = command::start(&mut self.world, stack, &order.request, &ports)?;
        self.know_nodes();
        self.memory.set_env(&self.registry, &outcome.started, &order.env);
        self.memory.set_secrets(&self.registry, order.secrets);
        let durable = self.memory.save(&self.registry, &before, &self.world);
        self.publish_all();
        Ok(StartAnswer { revision, outcome, plan: None, durable: Some(durable) })
    }

    fn assign_command(&mut self, order: AssignOrder) -> Result<Durable, Refused> {
        let AssignOrder { request, env, network } = order;
        let before = self.world.clone();
        let listeners = Listeners::read();
        let (in_use, slot_in_use) = (|port| listeners.contains(port), |slot| listeners.has_slot(slot));
        let ports =
            PortSource { range: self.ports, in_use: &in_use, seed: self.seed, slot_in_use: &slot_in_use };
        let instance = request.instance.clone();
        self.world.network = network.or(self.world.network.take());
        if command::assign(&mut self.world, request, &ports)? {
            self.memory.set_env(&self.registry, std::slice::from_ref(&instance), &env);
        }
        let durable = self.memory.save(&self.registry, &before, &self.world);
        self.publish(&instance);
        Ok(durable)
    }

    fn withdraw_command(
        &mut self,
        instance: &InstanceName,
        run: &str,
        force: bool,
    ) -> Result<Durable, Refused> {
        let before = self.world.clone();
        command::withdraw(&mut self.world, instance, run, force)?;
        let durable = self.memory.save(&self.registry, &before, &self.world);
        self.publish(instance);
        Ok(durable)
    }

    fn bring_command(&self, instances: &[InstanceName], reply: Reply<Vec<String>>) {
        let wishes = instances.iter().filter_map(|instance| self.world.desired.wishes.get(instance));
        // Instances of one service share its files.
        let wanted: BTreeMap<(String, ServiceName), Arc<Service>> = wishes
            .filter(|wish| !wish.service.files.is_empty())
            .filter_map(|wish| {
                Some(((wish.service.host.clone()?, wish.service.name.clone()), wish.service.clone()))
            })
            .collect();
        self.engine.bring(wanted.into_iter().map(|((node, _), service)| (node, service)).collect(), reply.0);
    }

    fn drain_command(&mut self, node: &str, on: bool) -> Result<(Drained, Durable), Refused> {
        let before = self.world.clone();
        let drained = command::drain(&mut self.world, node, on)?;
        let durable = self.memory.save(&self.registry, &before, &self.world);
        self.publish_all();
        Ok((drained, durable))
    }

    fn restart_command(&mut self, order: StartOrder, force: bool) -> Result<StartAnswer, Refused> {
        let revision = self.registry.revision();
        let before = self.world.clone();
        let listeners = Listeners::read();
        let (in_use, slot_in_use) = (|port| listeners.contains(port), |slot| listeners.has_slot(slot));
        let ports =
            PortSource { range: self.ports, in_use: &in_use, seed: self.seed, slot_in_use: &slot_in_use };
        let with_stack = order.stack.is_some();
        self.world.network = order.network.or(self.world.network.take());
        let restarting = command::restart(&mut self.world, order.stack, &order.request.names, &ports)?;
        self.know_nodes();
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
            let Some(run) = seen.run().filter(|run| run.started && run.health_check().is_some()) else {
                continue;
            };
            if !matches!(seen.phase, crate::observed::Phase::Running(_)) {
                continue;
            }
            if let (Some(node), Some(check)) = (run.service.host.clone(), run.health_check()) {
                let order = Order::Ask {
                    instance: instance.clone(),
                    run: run.id.clone(),
                    node,
                    timeout: check.timeout,
                };
                self.engine.order(order);
                open.insert(instance);
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
        if let Some(node) = &service.host {
            return Ok(ExecContext {
                instance: instance.clone(),
                env: Vec::new(),
                working_dir: None,
                container: None,
                user: None,
                group: None,
                node: Some(node.clone()),
                way: self.engine.way(node),
            });
        }
        let resolved =
            self.seen_from(instance, service, |caller| self.resolved(&caller.beside())).map_err(|error| {
                Refused::NotSupported { services: vec![(instance.service().clone(), error.to_string())] }
            })?;
        let execution = self.world.observed.get(instance).and_then(|seen| Some(&seen.run()?.execution));
        let container = match (execution, &service.target) {
            (Some(Execution::Container { id, .. }), _) if !id.is_empty() => Some(id.clone()),
            (Some(Execution::Compose { .. }), _) => {
                let why = "a whole Compose file has no place to run a command in: name one service of it";
                return Err(Refused::NotSupported { services: vec![(service.name.clone(), why.into())] });
            }
            // Not up yet: this machine isn't the place that is meant.
            (_, Target::Docker { .. } | Target::Compose { .. } | Target::Attach(Attach::Container(_))) => {
                return Err(Refused::NotRunning { instance: instance.clone() });
            }
            _ => None,
        };
        Ok(ExecContext {
            instance: instance.clone(),
            container,
            env: resolved.env,
            working_dir: resolved.working_dir,
            user: resolved.user,
            group: resolved.group,
            node: None,
            way: IndexMap::new(),
        })
    }

    fn not_started(&self) -> Vec<ServiceName> {
        let Some(stack) = &self.world.stack else { return Vec::new() };
        let wished =
            |name: &ServiceName| self.world.desired.wishes.keys().any(|instance| instance.service() == name);
        stack.services.keys().filter(|name| !wished(name)).cloned().collect()
    }

    pub(super) fn publish_all(&self) {
        for instance in self.world.desired.wishes.keys() {
            self.publish(instance);
        }
    }
}
