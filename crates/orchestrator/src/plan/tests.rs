//! Facts in, steps out: tables for what should happen, properties for what must never.

use super::*;
use crate::command::{self, PortSource, StartRequest, StopRequest, World};
use crate::health::Verdict;
use crate::model::{
    Condition, Dependency, InstanceName, OnDependencyFailure, OnUnhealthy, RestartPolicy, Role, Service,
    Stack,
};
use crate::network::PortRange;
use crate::observed::{Fact, NodeSeen, Phase, Run};
use crate::testing::{self, instance};
use proptest::prelude::*;
use service_registry::model::Exit;
use std::collections::BTreeMap;
use std::time::Duration;

/// The other node of the random stacks.
const NODE: &str = "n1";

/// A stack, its planner, and a reality that the planner only hears about.
#[derive(Clone)]
struct Sim {
    world: World,
    now: Moment,
    real: BTreeMap<InstanceName, Real>,
    runs: usize,
    /// Everything that was issued, for the tables.
    log: Vec<String>,
}

/// What really exists of an instance.
#[derive(Clone, Debug)]
struct Real {
    run: String,
    up: bool,
    ending: bool,
}

impl Sim {
    fn new(text: &str) -> Self {
        Self::with(testing::stack(text))
    }

    fn with(stack: Stack) -> Self {
        let world = World { stack: Some(stack), ..World::default() };
        Self { world, now: Duration::from_secs(100), real: BTreeMap::new(), runs: 0, log: Vec::new() }
    }

    fn stack(&self) -> Stack {
        self.world.stack.clone().unwrap()
    }

    fn start(&mut self, names: &[&str]) {
        self.start_stack(self.stack(), names, false);
    }

    fn start_stack(&mut self, stack: Stack, names: &[&str], apply: bool) {
        let request = StartRequest {
            names: names.iter().map(ToString::to_string).collect(),
            apply,
            remove_orphans: false,
        };
        command::start(&mut self.world, stack, &request, &PORTS).unwrap();
        self.settle_plan();
    }

    fn stop(&mut self, names: &[&str], force: bool) {
        let request =
            StopRequest { names: names.iter().map(ToString::to_string).collect(), force, dependents: true };
        command::stop(&mut self.world, &request).unwrap();
        self.settle_plan();
    }

    fn restart(&mut self, names: &[&str]) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        command::restart(&mut self.world, None, &names, &PORTS).unwrap();
        self.settle_plan();
    }

    fn fact(&mut self, name: &InstanceName, run: &str, fact: Fact) {
        self.world.observed.apply(name, run, fact, self.now);
        self.settle_plan();
    }

    /// Plans and issues until there is nothing more to do at this moment, checking every step against reality.
    fn settle_plan(&mut self) -> Option<Moment> {
        for _ in 0..1000 {
            let stack = self.stack();
            let plan = plan(&stack, &self.world.desired, &self.world.observed, self.now);
            let again = super::plan(&stack, &self.world.desired, &self.world.observed, self.now);
            assert_eq!(plan, again, "the same facts give the same plan");
            if plan.steps.is_empty() {
                assert!(plan.wake_at.is_none_or(|at| at > self.now), "a wake-up in the past");
                return plan.wake_at;
            }
            for step in plan.steps {
                self.issue(step);
            }
        }
        panic!(
            "steps for ever without time passing: {:?}",
            self.log.iter().rev().take(6).collect::<Vec<_>>()
        );
    }

    fn issue(&mut self, step: Step) {
        match step {
            Step::Start { instance, service, epoch, dependencies, again } => {
                self.log.push(format!("{}start {instance}", if again { "re" } else { "" }));
                assert!(!self.real.contains_key(&instance), "a second copy of {instance}");
                self.check_dependencies(&service);
                assert!(
                    service.host.is_none() || self.node_is_up(),
                    "{instance} is started on a node that is lost"
                );
                assert_eq!(
                    self.world.desired.wishes[&instance].goal,
                    WishGoal::Up,
                    "an unwanted start of {instance}"
                );
                self.runs += 1;
                let id = format!("run-{}", self.runs);
                self.real.insert(instance.clone(), Real { run: id.clone(), up: false, ending: false });
                let run = Run {
                    id,
                    epoch,
                    began: self.now,
                    execution: service_registry::model::Execution::None,
                    started: false,
                    tells_health: false,
                    returned: 0,
                    given: self.given(&service),
                    service,
                    dependencies,
                };
                self.world.observed.issue_start(&instance, run, again);
            }
            Step::Stop { instance, run, force, cause } => {
                self.log.push(format!("{} {instance}", if force { "kill" } else { "stop" }));
                let real = self.real.get_mut(&instance).expect("a stop of what doesn't exist");
                assert_eq!(real.run, run);
                real.ending = true;
                if cause == StopCause::Wish && !force {
                    self.check_stop_order(&instance);
                }
                self.world.observed.issue_stop(&instance, force, cause, self.now);
            }
            Step::Probe { instance, .. } => {
                assert!(!self.is_elsewhere(&instance), "an agent probes {instance}");
                self.world.observed.issue_probe(&instance, self.now);
            }
        }
    }

    fn given(&self, service: &Service) -> BTreeMap<String, String> {
        let lookup = |name: &crate::model::ServiceName| {
            let first = InstanceName::new(name.clone(), 1);
            self.world.desired.wishes.get(&first).map(|wish| wish.service.as_ref())
        };
        let instance = InstanceName::new(service.name.clone(), 1);
        crate::network::given(&crate::network::Caller {
            instance: &instance,
            service,
            view: crate::network::View::from(service),
            inside: true,
            lookup: &lookup,
            leases: &self.world.leases,
            network: None,
            addresses: &self.world.addresses,
            sites: &self.world.sites,
            virtuals: &self.world.virtuals,
            networks: &Default::default(),
            secrets: &BTreeMap::new(),
        })
    }

    fn check_dependencies(&self, service: &Service) {
        for (name, condition) in crate::graph::ordering(service) {
            for (other, wish) in self.world.desired.wishes.iter().filter(|(other, _)| other.service() == name)
            {
                let seen = self.world.observed.get(other);
                let met = match condition {
                    Condition::None => true,
                    Condition::Started => self.real.get(other).is_some_and(|real| real.up),
                    Condition::Healthy => {
                        self.real.contains_key(other) && seen.is_some_and(|seen| seen.ready)
                    }
                    Condition::Completed => {
                        seen.and_then(|seen| seen.exit()).is_some_and(|exit| exit.code == Some(0))
                    }
                };
                assert!(met && wish.goal == WishGoal::Up, "{} started without {other}", service.name);
            }
        }
    }

    /// Who is stopped in order has no dependent alive that is to stop as well.
    fn check_stop_order(&self, stopped: &InstanceName) {
        for (other, wish) in &self.world.desired.wishes {
            let needs = crate::graph::ordering(&wish.service).any(|(name, _)| name == stopped.service());
            assert!(
                !(needs && wish.goal != WishGoal::Up && self.real.contains_key(other)),
                "{stopped} was stopped before {other}, which needs it"
            );
        }
    }

    fn up(&mut self, name: &str) {
        let name = instance(name);
        let run = self.real.get_mut(&name).map(|real| {
            real.up = true;
            real.run.clone()
        });
        self.fact(&name, &run.unwrap(), Fact::process(7, ""));
    }

    fn node_is_up(&self) -> bool {
        self.world.observed.nodes.get(NODE) == Some(&NodeSeen::Up)
    }

    fn node(&mut self, up: bool) {
        let lost =
            NodeSeen::Lost { since: Default::default(), last: self.now, why: "cut".into(), heard: true };
        self.world.observed.nodes.insert(NODE.into(), if up { NodeSeen::Up } else { lost });
        self.settle_plan();
    }

    fn is_elsewhere(&self, name: &InstanceName) -> bool {
        self.world.observed.get(name).and_then(|seen| seen.run()).is_some_and(Run::is_elsewhere)
    }

    /// Whether anything can be heard of it.
    fn is_heard(&self, name: &InstanceName) -> bool {
        !self.is_elsewhere(name) || self.node_is_up()
    }

    /// An agent starts what its policy wants started again by itself.
    fn returns(&mut self, name: &InstanceName, code: i32) -> bool {
        let Some(run) = self.world.observed.get(name).and_then(|seen| seen.run()).cloned() else {
            return false;
        };
        let exit = Exit::with_code(code);
        let wanted = run.is_elsewhere() && stack::wants_restart(&run.service, Some(&exit));
        let Some(real) = self.real.get_mut(name).filter(|real| wanted && !real.ending) else { return false };
        real.up = false;
        self.fact(name, &run.id, Fact::Returning { exit, why: "it ended".into(), deaths: 1 });
        true
    }

    fn exit(&mut self, name: &str, code: i32) {
        let name = instance(name);
        if self.returns(&name, code) {
            return;
        }
        let real = self.real.remove(&name).unwrap();
        self.fact(&name, &real.run, Fact::Exited { exit: Exit::with_code(code) });
    }

    fn probed(&mut self, name: &str, ok: bool) {
        let name = instance(name);
        let run = self.real[&name].run.clone();
        if self.is_elsewhere(&name) {
            let verdict = if ok { Verdict::Healthy } else { Verdict::Unhealthy };
            return self.fact(&name, &run, Fact::Told { verdict });
        }
        self.fact(&name, &run, Fact::Probed { ok });
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.settle_plan();
    }

    fn take_log(&mut self) -> String {
        std::mem::take(&mut self.log).join(", ")
    }

    fn reason(&self, name: &str) -> String {
        let plan = plan(&self.stack(), &self.world.desired, &self.world.observed, self.now);
        let name = instance(name);
        plan.waiting
            .into_iter()
            .find(|(other, _)| *other == name)
            .map(|(_, r)| r.to_string())
            .unwrap_or_default()
    }

    /// Lets everything happen that was set in motion: starts succeed, stops end, probes are good, timers fire.
    fn quiesce(&mut self) {
        self.node(true);
        for _ in 0..300 {
            let names: Vec<InstanceName> = self.real.keys().cloned().collect();
            let mut moved = false;
            for name in names {
                let Some(real) = self.real.get(&name).cloned() else { continue };
                let told =
                    |seen: &Instance| seen.run().is_some_and(|run| run.is_elsewhere() && run.is_checked());
                let probing = self
                    .world
                    .observed
                    .get(&name)
                    .is_some_and(|seen| seen.health.in_flight.is_some() || told(seen));
                if real.ending {
                    self.exit(&name.to_string(), 143);
                } else if !real.up {
                    self.up(&name.to_string());
                } else if self.role(&name) == Role::Task {
                    self.exit(&name.to_string(), 0);
                } else if probing
                    && self
                        .world
                        .observed
                        .get(&name)
                        .is_some_and(|seen| seen.health.verdict != Verdict::Healthy)
                {
                    self.probed(&name.to_string(), true);
                } else {
                    continue;
                }
                moved = true;
            }
            if !moved {
                // Only timers are left: those of what isn't settled have to fire.
                match self.settle_plan() {
                    Some(at) if self.unsettled().is_some() => {
                        self.now = at;
                        self.settle_plan();
                    }
                    _ => return,
                }
            }
        }
        let plan = plan(&self.stack(), &self.world.desired, &self.world.observed, self.now);
        let reasons: Vec<String> =
            plan.waiting.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
        panic!(
            "never quiet at {:?}: {reasons:?} after {:?}",
            self.now,
            self.log.iter().rev().take(30).rev().collect::<Vec<_>>()
        );
    }

    fn role(&self, name: &InstanceName) -> Role {
        self.world
            .observed
            .get(name)
            .and_then(|seen| seen.run())
            .map_or(Role::Service, |run| run.service.role)
    }

    /// An instance that is neither where its wish wants it nor failed or waiting with a reason.
    fn unsettled(&self) -> Option<String> {
        let plan = plan(&self.stack(), &self.world.desired, &self.world.observed, self.now);
        for (name, wish) in &self.world.desired.wishes {
            let seen = self.world.observed.get(name).cloned().unwrap_or_default();
            let reason = plan.waiting.iter().find(|(other, _)| other == name).map(|(_, reason)| reason.code);
            let settled = match (wish.goal, &seen.phase) {
                (WishGoal::Down { .. }, _) => !seen.is_live(),
                (WishGoal::Up, Phase::Running(run)) => run.epoch >= wish.epoch && seen.ready,
                (WishGoal::Up, Phase::Ended { run, cause, .. })
                    if run.epoch >= wish.epoch && cause.is_none() =>
                {
                    !stack::comes_back(&wish.service, &seen)
                        || matches!(reason, Some(ReasonCode::Blocked | ReasonCode::Held))
                }
                (WishGoal::Up, Phase::Unstartable { run, .. }) if run.epoch >= wish.epoch => {
                    !stack::comes_back(&wish.service, &seen)
                        || matches!(reason, Some(ReasonCode::Blocked | ReasonCode::Held))
                }
                (WishGoal::Up, Phase::Starting(_) | Phase::Returning { .. } | Phase::Stopping { .. }) => {
                    false
                }
                (WishGoal::Up, _) => {
                    matches!(reason, Some(ReasonCode::Blocked | ReasonCode::Held | ReasonCode::GaveUp))
                }
            };
            if !settled {
                return Some(format!("{name}: {:?}, {reason:?}", seen.phase));
            }
        }
        None
    }

    /// The daemon dies and comes back: what it observed is made anew from what is.
    fn daemon_restart(&mut self) {
        let old = std::mem::take(&mut self.world.observed);
        for (name, seen) in old.instances {
            let Some(run) = seen.run().cloned() else { continue };
            let mut new = Instance { restarts: seen.restarts, ready: seen.ready, ..Instance::default() };
            new.phase = match (self.real.get(&name), seen.phase) {
                (Some(real), phase) if real.run == run.id => match phase {
                    Phase::Stopping { run, force, cause, .. } if cause != StopCause::Wish => {
                        Phase::Stopping { run, issued: self.now, force, cause }
                    }
                    Phase::Returning { exit, why, .. } => Phase::Returning { run, exit, why },
                    _ if real.up => Phase::Running(run),
                    _ => Phase::Starting(run),
                },
                (None, phase @ (Phase::Ended { .. } | Phase::Unstartable { .. })) => phase,
                (_, Phase::Stopping { run, cause, .. }) => {
                    Phase::Ended { run, exit: Exit::with_code(143), cause: Some(cause) }
                }
                _ => Phase::Ended { run, exit: Exit::unknown("keeper killed"), cause: None },
            };
            self.world.observed.instances.insert(name, new);
        }
        self.settle_plan();
    }
}

use crate::observed::Instance;

const PORTS: PortSource<'static> = PortSource {
    range: PortRange { first: 20_000, last: 29_999 },
    in_use: &|_| false,
    seed: 0,
    slot_in_use: &|_| false,
};

#[test]
fn starts_in_order_and_stops_in_reverse() {
    let mut sim = Sim::new("web: api!; api: db!; db:");
    sim.start(&[]);
    assert_eq!(sim.take_log(), "start db-1");
    assert_eq!(sim.reason("web-1"), "waiting for api");
    sim.up("db-1");
    assert_eq!(sim.reason("api-1"), "waiting for db to be healthy");
    sim.probed("db-1", false);
    sim.advance(Duration::from_millis(20));
    sim.probed("db-1", true);
    sim.quiesce();
    assert_eq!(sim.take_log(), "start api-1, start web-1");
    sim.start(&[]);
    assert_eq!(sim.take_log(), "", "again is a no-op");
    sim.stop(&[], false);
    assert_eq!(sim.take_log(), "stop web-1");
    assert_eq!(sim.reason("db-1"), "waiting for api to stop");
    sim.exit("web-1", 0);
    sim.exit("api-1", 0);
    assert_eq!(sim.take_log(), "stop api-1, stop db-1");
}

#[test]
fn a_stable_service_is_replaced_at_once_and_quick_deaths_back_off() {
    let mut sim = Sim::new("web:");
    sim.start(&[]);
    sim.up("web-1");
    sim.advance(Duration::from_secs(10));
    sim.exit("web-1", 1);
    assert_eq!(sim.take_log(), "start web-1, restart web-1");
    sim.up("web-1");
    for delay in [100, 200, 400] {
        sim.exit("web-1", 1);
        assert_eq!(sim.take_log(), "");
        sim.advance(Duration::from_millis(delay - 1));
        assert_eq!(sim.take_log(), "", "{delay}");
        sim.advance(Duration::from_millis(1));
        assert_eq!(sim.take_log(), "restart web-1", "{delay}");
        sim.up("web-1");
    }
    sim.advance(Duration::from_secs(10));
    sim.exit("web-1", 1);
    assert_eq!(sim.take_log(), "restart web-1", "stable again: the count begins anew");
    sim.up("web-1");
    sim.exit("web-1", 0);
    sim.advance(Duration::from_secs(60));
    assert_eq!(sim.take_log(), "", "on-failure lets a good end be");
}

#[test]
fn max_retries_gives_up_and_a_start_begins_anew() {
    let mut stack = testing::stack("web:; job: web");
    let web = std::sync::Arc::make_mut(&mut stack.services[0]);
    web.restart.max_retries = Some(2);
    let mut sim = Sim::with(stack);
    sim.start(&["web"]);
    for _ in 0..3 {
        sim.up("web-1");
        sim.exit("web-1", 3);
        sim.advance(Duration::from_secs(1));
    }
    assert_eq!(sim.take_log(), "start web-1, restart web-1, restart web-1");
    assert_eq!(sim.reason("web-1"), "gave up after 3 quick deaths: exit code 3");
    sim.start(&["job"]);
    assert_eq!(sim.take_log(), "start web-1");
}

#[test]
fn a_failed_dependency_blocks_the_whole_chain_with_its_root() {
    let mut sim = Sim::new("web: api; api: migrate; migrate?:");
    sim.start(&[]);
    sim.up("migrate-1");
    sim.exit("migrate-1", 3);
    assert_eq!(sim.reason("api-1"), "needs migrate, which failed: exit code 3");
    assert_eq!(sim.reason("web-1"), "needs migrate, which failed: exit code 3");
    sim.take_log();
    sim.start(&[]);
    assert_eq!(sim.take_log(), "start migrate-1");
    sim.up("migrate-1");
    sim.exit("migrate-1", 0);
    sim.quiesce();
    assert_eq!(sim.take_log(), "start api-1, start web-1");
    sim.start(&[]);
    assert_eq!(sim.take_log(), "", "a task doesn't run again on a no-op");
    sim.daemon_restart();
    assert_eq!(sim.take_log(), "", "nor on the daemon's return");
    sim.advance(Duration::from_secs(10));
    sim.exit("api-1", 1);
    assert_eq!(sim.take_log(), "restart api-1", "nor on a crash restart");
    sim.start(&["migrate"]);
    assert_eq!(sim.take_log(), "start migrate-1");
}

#[test]
fn dependents_follow_as_their_policy_says() {
    let run = |policy| {
        let mut stack = testing::stack("web: db; db:");
        std::sync::Arc::make_mut(&mut stack.services[0]).on_dependency_failure = policy;
        let mut sim = Sim::with(stack);
        sim.start(&[]);
        sim.quiesce();
        sim.advance(Duration::from_secs(20));
        sim.take_log();
        sim.exit("db-1", 1);
        sim.quiesce();
        (sim.take_log(), sim.reason("web-1"))
    };
    assert_eq!(run(OnDependencyFailure::Ignore).0, "restart db-1");
    let (log, reason) = run(OnDependencyFailure::Restart);
    assert_eq!((log.as_str(), reason.as_str()), ("stop web-1, restart db-1, start web-1", ""));
    let (log, reason) = run(OnDependencyFailure::Hold);
    assert_eq!(log, "stop web-1, restart db-1");
    assert_eq!(reason, "a dependency failed; it is held until it is started again");
}

#[test]
fn unhealthy_is_shown_or_restarted() {
    let run = |policy| {
        let mut stack = testing::stack("web: db!; db:");
        std::sync::Arc::make_mut(&mut stack.services[1]).on_unhealthy = policy;
        let mut sim = Sim::with(stack);
        sim.start(&["db"]);
        sim.up("db-1");
        sim.probed("db-1", true);
        for _ in 0..3 {
            sim.advance(Duration::from_secs(30));
            sim.probed("db-1", false);
        }
        sim.take_log()
    };
    assert_eq!(run(OnUnhealthy::Ignore), "start db-1");
    assert_eq!(run(OnUnhealthy::Restart), "start db-1, stop db-1");
}

#[test]
fn a_changed_definition_waits_for_apply() {
    let mut sim = Sim::new("web:");
    sim.start(&[]);
    sim.quiesce();
    let mut changed = sim.stack();
    std::sync::Arc::make_mut(&mut changed.services[0]).env.insert("A".into(), "1".into());
    sim.take_log();
    sim.start_stack(changed.clone(), &[], false);
    assert_eq!(sim.take_log(), "");
    sim.start_stack(changed, &[], true);
    assert_eq!(sim.take_log(), "stop web-1");
    sim.quiesce();
    assert_eq!(sim.take_log(), "start web-1");
}

#[test]
fn a_value_that_changed_makes_stale_and_restarts_where_the_policy_says() {
    let port = |number| crate::model::Port {
        name: None,
        number: crate::model::PortNumber::Fixed(number),
        target: None,
        protocol: crate::model::Protocol::Tcp,
        address: None,
    };
    let run = |policy| {
        let mut stack = testing::stack("web: db; db:");
        let web = std::sync::Arc::make_mut(&mut stack.services[0]);
        let subject = crate::model::Subject::Service(testing::name("db"));
        let reference = crate::model::Reference { subject, field: crate::model::Field::Port(None) };
        let segments = vec![crate::model::Segment::Reference(reference)];
        web.env.insert("DB".into(), crate::model::Template { segments });
        web.on_dependency_change = policy;
        std::sync::Arc::make_mut(&mut stack.services[1]).ports = vec![port(5432)];
        let mut sim = Sim::with(stack);
        sim.start(&[]);
        sim.quiesce();
        sim.take_log();
        let mut changed = sim.stack();
        std::sync::Arc::make_mut(&mut changed.services[1]).ports = vec![port(5433)];
        let names = vec!["db".to_string()];
        let request = StartRequest { names, apply: true, remove_orphans: false };
        command::start(&mut sim.world, changed.clone(), &request, &PORTS).unwrap();
        sim.settle_plan();
        sim.quiesce();
        let outcome = command::start(&mut sim.world, changed, &StartRequest::default(), &PORTS).unwrap();
        sim.settle_plan();
        sim.quiesce();
        (sim.take_log(), outcome.stale)
    };
    let stale = vec![(instance("web-1"), vec!["${db.port}".to_string()])];
    let (log, found) = run(crate::model::OnDependencyChange::Ignore);
    assert_eq!((log.as_str(), found), ("stop db-1, start db-1", stale.clone()));
    let (log, found) = run(crate::model::OnDependencyChange::Restart);
    assert_eq!((log.as_str(), found), ("stop db-1, start db-1, stop web-1, start web-1", stale));
}

#[test]
fn a_stop_whose_end_is_not_reported_is_repeated_as_a_kill() {
    let mut sim = Sim::new("web:");
    sim.start(&[]);
    sim.up("web-1");
    sim.stop(&[], false);
    sim.advance(Duration::from_secs(34));
    assert_eq!(sim.take_log(), "start web-1, stop web-1");
    sim.advance(Duration::from_secs(1));
    assert_eq!(sim.take_log(), "kill web-1");
}

#[test]
fn a_start_that_is_overdue_says_so_and_goes_on() {
    let mut sim = Sim::new("web: db!; db:");
    sim.start(&[]);
    sim.up("db-1");
    sim.advance(Duration::from_secs(300));
    assert_eq!(sim.reason("db-1"), "not ready within its startup_timeout of 300s");
    assert_eq!(sim.reason("web-1"), "waiting for db to be healthy");
    sim.probed("db-1", true);
    assert_eq!(sim.take_log(), "start db-1, start web-1");
}

#[test]
fn late_facts_change_nothing() {
    let mut sim = Sim::new("web:");
    sim.start(&[]);
    sim.up("web-1");
    let old = sim.real[&instance("web-1")].run.clone();
    sim.restart(&["web"]);
    sim.exit("web-1", 0);
    sim.up("web-1");
    sim.take_log();
    sim.fact(&instance("web-1"), &old, Fact::Exited { exit: Exit::with_code(9) });
    sim.fact(&instance("web-1"), &old, Fact::process(1, ""));
    assert_eq!(sim.take_log(), "");
    assert!(matches!(sim.world.observed.get(&instance("web-1")).unwrap().phase, Phase::Running(_)));
}

#[test]
fn dry_run_shows_the_rounds() {
    let sim = {
        let mut sim = Sim::new("web: api! job; api: db!; db:; job?: db");
        let request = StartRequest::default();
        let stack = sim.stack();
        command::start(&mut sim.world, stack, &request, &PORTS).unwrap();
        sim
    };
    let rounds = simulate(&sim.stack(), &sim.world.desired, &sim.world.observed, sim.now);
    let text: Vec<String> = rounds
        .iter()
        .map(|round| round.iter().map(|step| step.instance().to_string()).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(text, ["db-1", "job-1", "api-1", "web-1"]);
}

/// Something that happens in a random history.
#[derive(Clone, Debug)]
enum Op {
    Start(u8, bool),
    Stop(u8, bool),
    Restart(u8),
    Scale(u8, u32),
    Change(u8),
    Up(u8),
    StartFails(u8),
    Exit(u8, i32),
    Probe(u8, bool),
    Advance(u64),
    Late(u8),
    DaemonRestart,
    Node(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (any::<u8>(), any::<bool>()).prop_map(|(n, apply)| Op::Start(n, apply)),
        2 => (any::<u8>(), prop::bool::weighted(0.2)).prop_map(|(n, force)| Op::Stop(n, force)),
        1 => any::<u8>().prop_map(Op::Restart),
        1 => (any::<u8>(), 0u32..4).prop_map(|(n, replicas)| Op::Scale(n, replicas)),
        1 => any::<u8>().prop_map(Op::Change),
        8 => any::<u8>().prop_map(Op::Up),
        1 => any::<u8>().prop_map(Op::StartFails),
        4 => (any::<u8>(), prop_oneof![Just(0), Just(1)]).prop_map(|(n, code)| Op::Exit(n, code)),
        5 => (any::<u8>(), prop::bool::weighted(0.7)).prop_map(|(n, ok)| Op::Probe(n, ok)),
        3 => (0u64..40_000).prop_map(Op::Advance),
        1 => any::<u8>().prop_map(Op::Late),
        1 => Just(Op::DaemonRestart),
        3 => prop::bool::weighted(0.7).prop_map(Op::Node),
    ]
}

/// A random stack without cycles: each service needs some of those before it.
fn random_stack() -> impl Strategy<Value = Stack> {
    let service = (prop::collection::vec((any::<u8>(), 0u8..4), 0..3), any::<[u8; 6]>());
    prop::collection::vec(service, 1..8).prop_map(|services| {
        let mut stack = testing::stack("");
        stack.nodes.insert(NODE.into(), testing::node("10.0.0.1", &[]));
        for (i, (needs, dice)) in services.into_iter().enumerate() {
            let mut service = testing::service(&format!("s{i}"));
            service.host = (dice[4] % 3 == 0).then(|| NODE.to_owned());
            if dice[0] % 5 == 0 {
                service.role = Role::Task;
                service.restart.policy = RestartPolicy::No;
            } else {
                service.replicas = 1 + u32::from(dice[1] % 6 == 0);
                service.health_check = (dice[2] % 2 == 0).then(testing::check);
                service.restart.policy = [RestartPolicy::No, RestartPolicy::Always, RestartPolicy::OnFailure]
                    [usize::from(dice[3]) % 3];
                service.restart.max_retries = (dice[3] % 4 == 0).then_some(2);
                service.on_dependency_failure =
                    [OnDependencyFailure::Ignore, OnDependencyFailure::Restart, OnDependencyFailure::Hold]
                        [usize::from(dice[4]) % 3];
                service.on_unhealthy = [OnUnhealthy::Ignore, OnUnhealthy::Restart][usize::from(dice[5]) % 2];
            }
            for (n, condition) in needs.into_iter().filter(|_| i > 0) {
                let (name, other) = stack.services.get_index(usize::from(n) % i).unwrap();
                let condition = match (other.role, condition) {
                    (Role::Task, _) => Condition::Completed,
                    (_, 0) => Condition::None,
                    (_, 1) if other.health_check.is_some() => Condition::Healthy,
                    _ => Condition::Started,
                };
                service.dependencies.insert(name.clone(), Dependency { condition, implied: false });
            }
            stack.services.insert(service.name.clone(), std::sync::Arc::new(service));
        }
        stack
    })
}

fn happen(sim: &mut Sim, op: &Op) {
    let service = |sim: &Sim, n: u8| {
        let services = sim.stack().services;
        services.get_index(usize::from(n) % services.len()).unwrap().0.to_string()
    };
    // Mostly one, sometimes all.
    let names = |sim: &Sim, n: u8| if n.is_multiple_of(4) { vec![] } else { vec![service(sim, n)] };
    let some_real = |sim: &Sim, n: u8| sim.real.keys().nth(usize::from(n) % sim.real.len().max(1)).cloned();
    match op {
        Op::Start(n, apply) => {
            let names = names(sim, *n);
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            sim.start_stack(sim.stack(), &names, *apply);
        }
        Op::Stop(n, force) => {
            let names = names(sim, *n);
            let request = StopRequest { names, force: *force, dependents: true };
            // A name that was never started is refused.
            if command::stop(&mut sim.world, &request).is_ok() {
                sim.settle_plan();
            }
        }
        Op::Restart(n) => {
            let names = names(sim, *n);
            command::restart(&mut sim.world, None, &names, &PORTS).unwrap();
            sim.settle_plan();
        }
        Op::Scale(n, replicas) => {
            let mut stack = sim.stack();
            let position = usize::from(*n) % stack.services.len();
            std::sync::Arc::make_mut(&mut stack.services[position]).replicas = *replicas;
            let request = StartRequest { remove_orphans: true, ..StartRequest::default() };
            command::start(&mut sim.world, stack, &request, &PORTS).unwrap();
            sim.settle_plan();
        }
        Op::Change(n) => {
            let mut stack = sim.stack();
            let position = usize::from(*n) % stack.services.len();
            let runs = sim.runs.to_string();
            std::sync::Arc::make_mut(&mut stack.services[position])
                .env
                .insert("N".into(), runs.as_str().into());
            sim.start_stack(stack, &[], n % 2 == 0);
        }
        Op::Up(n) => {
            let launching: Vec<InstanceName> =
                sim.real.iter().filter(|(_, real)| !real.up).map(|(name, _)| name.clone()).collect();
            let launching = launching.get(usize::from(*n) % launching.len().max(1));
            if let Some(name) = launching.filter(|name| sim.is_heard(name)) {
                sim.up(&name.to_string());
            }
        }
        Op::StartFails(n) => {
            let launching: Vec<InstanceName> =
                sim.real.iter().filter(|(_, real)| !real.up).map(|(name, _)| name.clone()).collect();
            let launching = launching.get(usize::from(*n) % launching.len().max(1));
            let starting = |name: &InstanceName| {
                matches!(sim.world.observed.get(name).map(|seen| &seen.phase), Some(Phase::Starting(_)))
            };
            if let Some(name) = launching.filter(|name| sim.is_heard(name) && starting(name)) {
                let real = sim.real.remove(name).unwrap();
                sim.fact(name, &real.run, Fact::StartFailed { error: "no such file".into() });
            }
        }
        Op::Exit(n, code) => {
            if let Some(name) = some_real(sim, *n).filter(|name| sim.is_heard(name)) {
                sim.exit(&name.to_string(), *code);
            }
        }
        Op::Probe(n, ok) => {
            if let Some(name) = some_real(sim, *n).filter(|name| sim.is_heard(name)) {
                sim.probed(&name.to_string(), *ok);
            }
        }
        Op::Advance(ms) => sim.advance(Duration::from_millis(*ms)),
        Op::Late(n) => {
            if let Some(name) = some_real(sim, *n) {
                sim.fact(&name, "run-0", Fact::Exited { exit: Exit::with_code(1) });
                sim.fact(&name, "run-0", Fact::process(1, ""));
            }
        }
        Op::DaemonRestart => sim.daemon_restart(),
        Op::Node(up) => sim.node(*up),
    }
    crate::command::forget(&mut sim.world);
}

#[test]
fn stopping_everything_stops_what_was_scaled_to_nothing_and_back() {
    let mut sim = Sim::new("a:");
    for op in [Op::Scale(0, 3), Op::Scale(0, 0), Op::Restart(1), Op::Scale(0, 1)] {
        happen(&mut sim, &op);
    }
    sim.quiesce();
    assert_eq!(sim.real.keys().map(ToString::to_string).collect::<Vec<_>>(), ["a-1"]);
    sim.stop(&[], false);
    sim.quiesce();
    assert!(sim.real.is_empty(), "left: {:?}", sim.real);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    /// Every step is checked against reality as it is issued (see `Sim::issue`); at the end, with nothing more happening
    /// to it, the stack comes to rest with everything where it should be or with a reason, and `stop` ends all of it.
    #[test]
    fn random_histories_keep_the_promises(stack in random_stack(), ops in prop::collection::vec(op(), 0..60)) {
        let mut sim = Sim::with(stack);
        for op in &ops {
            happen(&mut sim, op);
        }
        sim.quiesce();
        prop_assert_eq!(sim.unsettled(), None);
        sim.stop(&[], false);
        sim.quiesce();
        prop_assert!(sim.real.is_empty(), "left: {:?}", sim.real);
        let before = sim.runs;
        sim.advance(Duration::from_secs(3600));
        prop_assert_eq!(sim.runs, before, "nothing starts again");
    }

    /// What a dry run shows is what then happens, if all goes well.
    #[test]
    fn a_dry_run_tells_the_truth(stack in random_stack()) {
        let mut sim = Sim::with(stack);
        let mut wished = sim.world.clone();
        command::start(&mut wished, sim.stack(), &StartRequest::default(), &PORTS).unwrap();
        let shown: std::collections::BTreeSet<String> =
            simulate(&sim.stack(), &wished.desired, &wished.observed, sim.now)
                .iter().flatten().map(|step| format!("start {}", step.instance())).collect();
        sim.start(&[]);
        sim.quiesce();
        let done: std::collections::BTreeSet<String> = sim.log.iter().cloned().collect();
        prop_assert_eq!(shown, done);
    }
}
