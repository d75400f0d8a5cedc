//! What a command changes in what is desired. Pure: the same world and the same command give the same wishes.

mod assign;
mod changes;
mod drain;
mod forget_node;
mod lease;
mod reschedule;

pub use assign::{AssignRequest, assign, withdraw};
pub use changes::changes;
pub use drain::{Drained, drain};
pub use forget_node::forget_node;
pub(crate) use forget_node::forgotten;
pub use lease::lease;
pub use reschedule::{Rescheduled, reschedule};

use crate::graph::{self, Services};
use crate::model::{InstanceName, OnDependencyChange, Role, Service, ServiceName, Stack};
use crate::network::{
    AddressLeases, Caller, ContainerNetwork, Full, PortLeases, PortRange, Sites, View, Virtuals, allocate,
    given,
};
use crate::observed::{Observed, Phase};
use crate::plan::{Desired, Unplaced, Wish, WishGoal, comes_back, place};
use indexmap::{IndexMap, IndexSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A command that was refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A name is neither a service nor an instance.
    #[error("there is no service {name}")]
    UnknownName {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// What is asked can't be done with these.
    #[error("{}", unsupported_text(.services))]
    NotSupported {
        /// Which, and why.
        services: Vec<(ServiceName, String)>,
    },
    /// Others that run depend on what should be stopped.
    #[error("{} depend{} on it", join(.dependents), if .dependents.len() == 1 { "s" } else { "" })]
    HasDependents {
        /// Services that would have to stop first, dependents first.
        dependents: Vec<ServiceName>,
    },
    /// What should be joined doesn't run.
    #[error("{instance} isn't running")]
    NotRunning {
        /// Which.
        instance: InstanceName,
    },
    /// A service can't be placed on any node.
    #[error("{service}: {why}")]
    NotPlaced {
        /// Which.
        service: ServiceName,
        /// Why not.
        #[source]
        why: Unplaced,
    },
    /// The assignment is older than what is known of its instance: whoever sent it has been overtaken.
    #[error("the assignment {run} of {instance} is older than what is wanted here")]
    Outdated {
        /// The instance.
        instance: InstanceName,
        /// The run that was assigned.
        run: String,
    },
    /// Only what is lost can be forgotten.
    #[error("node {node} isn't lost")]
    NotLost {
        /// The node.
        node: String,
    },
    /// What runs on a lost node has a lease, which isn't over yet.
    #[error("{instance} on node {node} has a lease, which is over in {} s at the latest", .wait.as_secs() + 1)]
    Leased {
        /// What runs there.
        instance: InstanceName,
        /// The node.
        node: String,
        /// The time until then.
        wait: Duration,
    },
    /// Nothing was ever started here.
    #[error("nothing was started in this project yet")]
    NoStack,
    /// There are no ports or addresses left to give.
    #[error(transparent)]
    Full(#[from] Full),
}

fn unsupported_text(services: &[(ServiceName, String)]) -> String {
    let lines: Vec<String> = services.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    lines.join("; ")
}

fn join(names: &[ServiceName]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// What commands work on.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The stack of the last start.
    pub stack: Option<Stack>,
    /// What is wanted.
    pub desired: Desired,
    /// What was seen.
    pub observed: Observed,
    /// Ports that instances have.
    pub leases: PortLeases,
    /// The stack's container network, once there is one.
    pub network: Option<ContainerNetwork>,
    /// Addresses that instances have in it.
    pub addresses: AddressLeases,
    /// Where other nodes stand.
    pub sites: Sites,
    /// The virtual addresses of services.
    pub virtuals: Virtuals,
    /// Nodes that get nothing new.
    pub drained: BTreeSet<String>,
    /// On an agent: the newest run of each instance that was withdrawn. What is not newer is not started any more, also if
    /// word of it comes late.
    pub fences: BTreeMap<InstanceName, String>,
}

/// What a start or restart is about.
#[derive(Clone, Debug, Default)]
pub struct StartRequest {
    /// Services or instances; empty is all.
    pub names: Vec<String>,
    /// Also replace what runs with an older definition.
    pub apply: bool,
    /// Take down what the file no longer has.
    pub remove_orphans: bool,
}

/// What a start changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// Everything that has to become ready, in the file's order.
    pub wanted: Vec<InstanceName>,
    /// Those that get a new run.
    pub started: Vec<InstanceName>,
    /// Those that run as the file has them.
    pub unchanged: Vec<InstanceName>,
    /// Those that run with an older definition, with the keys that differ.
    pub stale: Vec<(InstanceName, Vec<String>)>,
    /// Those that the file no longer has.
    pub orphans: Vec<InstanceName>,
}

/// What can be given to instances as ports.
pub struct PortSource<'a> {
    /// The range for `auto`.
    pub range: PortRange,
    /// Whether something listens on a port now.
    pub in_use: &'a dyn Fn(u16) -> bool,
    /// Where in the range of virtual addresses to begin: differs from project to project.
    pub seed: u64,
    /// Whether something listens at any address of that /24 for virtual addresses now.
    pub slot_in_use: &'a dyn Fn(u16) -> bool,
}

/// Wishes for `request` with the definitions of `stack`, which becomes the world's.
pub fn start(
    world: &mut World,
    stack: Stack,
    request: &StartRequest,
    ports: &PortSource<'_>,
) -> Result<Started, Refused> {
    let named = select(&stack.services, &world.desired, &request.names)?;
    let needed = graph::with_needs(&stack.services, named.iter().map(InstanceName::service));
    let placed = placed(&stack, world, |service| needed.contains(&service.name))?;
    let mut outcome = Started::default();
    let mut leases = world.leases.clone();
    let mut addresses = world.addresses.clone();
    let mut wishes = world.desired.wishes.clone();
    let explicit: BTreeSet<&InstanceName> =
        if request.names.is_empty() { BTreeSet::new() } else { named.iter().collect() };

    // Dependents before what they need: whether a task runs again depends on who is about to start.
    let mut starting: BTreeSet<ServiceName> = BTreeSet::new();
    let mut decided: IndexMap<InstanceName, Decision> = IndexMap::new();
    for round in graph::rounds(&stack.services).into_iter().rev() {
        for name in round.into_iter().filter(|name| needed.contains(name)) {
            let Some(service) = stack.services.get(&name) else { continue };
            let dependent_starts = starting.iter().any(|dependent| {
                stack
                    .services
                    .get(dependent)
                    .is_some_and(|dependent| dependent.dependencies.contains_key(&name))
            });
            for instance in chosen(&named, service) {
                let service = placed.get(&instance).unwrap_or(service);
                let force = explicit.contains(&instance) && service.role == Role::Task;
                let decision = decide(world, &instance, service, request.apply, force || dependent_starts);
                if matches!(decision, Decision::Start) {
                    starting.insert(name.clone());
                }
                decided.insert(instance, decision);
            }
        }
    }

    let declared = declared_ports(&stack);
    let mut virtuals = world.virtuals.clone();
    let stays = |service: &ServiceName| {
        stack.services.contains_key(service) || wishes.keys().any(|instance| instance.service() == service)
    };
    virtuals.retain(stays);
    leases.retain_services(stays);
    lease(&stack, &mut virtuals, &mut leases, ports)?;
    for (instance, service) in stack.instances() {
        let Some(decision) = decided.get(&instance) else { continue };
        let service = placed.get(&instance).unwrap_or(service);
        outcome.wanted.push(instance.clone());
        let epoch = wishes.get(&instance).map_or(0, |wish| wish.epoch);
        let (epoch, service) = match decision {
            Decision::Unchanged => {
                outcome.unchanged.push(instance.clone());
                (epoch, service.clone())
            }
            Decision::Stale(changes) => {
                outcome.stale.push((instance.clone(), changes.clone()));
                continue;
            }
            Decision::Replace(changes) => {
                outcome.stale.push((instance.clone(), changes.clone()));
                outcome.started.push(instance.clone());
                (epoch + 1, service.clone())
            }
            Decision::Start => {
                outcome.started.push(instance.clone());
                (epoch + 1, service.clone())
            }
        };
        allocate(&mut leases, ports.range, &instance, &service, &declared, ports.in_use)?;
        if let Some(network) = world.network.as_ref().filter(|_| in_network(&service)) {
            addresses.lease(network, &instance)?;
        }
        wishes.insert(instance, Wish { service, goal: WishGoal::Up, epoch, assignment: None });
    }

    outcome.orphans = wishes
        .iter()
        .filter(|(instance, wish)| is_orphan(&stack, instance) && wish.goal == WishGoal::Up)
        .map(|(instance, _)| instance.clone())
        .collect();
    if request.remove_orphans {
        for orphan in &outcome.orphans {
            if let Some(wish) = wishes.get_mut(orphan) {
                wish.goal = WishGoal::Down { force: false };
            }
        }
    }
    let leased = Leased { leases, addresses, virtuals };
    for (instance, changes) in changed_values(world, &stack, &wishes, &leased, &decided) {
        outcome.unchanged.retain(|other| *other != instance);
        let Some(wish) = wishes.get_mut(&instance) else { continue };
        if wish.service.on_dependency_change == OnDependencyChange::Restart || request.apply {
            wish.epoch += 1;
            outcome.started.push(instance.clone());
        }
        outcome.stale.push((instance, changes));
    }
    sort(&mut wishes, &stack);
    world.desired.wishes = wishes;
    world.leases = leased.leases;
    world.addresses = leased.addresses;
    world.virtuals = leased.virtuals;
    world.sites.know(&stack.nodes);
    world.stack = Some(stack);
    Ok(outcome)
}

/// What is leased once a command is done.
struct Leased {
    leases: PortLeases,
    addresses: AddressLeases,
    virtuals: Virtuals,
}

/// The instances that run on, but with values of others that aren't true any more once `wishes` are.
fn changed_values(
    world: &World,
    stack: &Stack,
    wishes: &IndexMap<InstanceName, Wish>,
    leased: &Leased,
    decided: &IndexMap<InstanceName, Decision>,
) -> Vec<(InstanceName, Vec<String>)> {
    let lookup = |name: &ServiceName| {
        wishes.get(&InstanceName::new(name.clone(), 1)).map(|wish| wish.service.as_ref())
    };
    let secrets = BTreeMap::new();
    let unchanged = decided.iter().filter(|(_, decision)| matches!(decision, Decision::Unchanged));
    unchanged
        .filter_map(|(instance, _)| {
            let seen = world.observed.get(instance).filter(|seen| seen.is_live())?;
            let run = seen.run()?;
            let caller = Caller {
                instance,
                service: &run.service,
                view: View::from(&run.service),
                inside: true,
                lookup: &lookup,
                leases: &leased.leases,
                network: world.network.as_ref(),
                addresses: &leased.addresses,
                sites: &world.sites,
                virtuals: &leased.virtuals,
                networks: &stack.networks,
                secrets: &secrets,
            };
            let now = given(&caller);
            let changed: Vec<String> = now
                .into_iter()
                .filter(|(name, value)| run.given.get(name) != Some(value))
                .map(|(name, _)| name)
                .collect();
            (!changed.is_empty()).then(|| (instance.clone(), changed))
        })
        .collect()
}

/// What a start does with one instance.
enum Decision {
    /// It runs, or has run, as the file has it.
    Unchanged,
    /// It runs with an older definition and is left alone.
    Stale(Vec<String>),
    /// It runs with an older definition and is replaced.
    Replace(Vec<String>),
    /// It gets a new run.
    Start,
}

fn decide(
    world: &World,
    instance: &InstanceName,
    service: &Arc<Service>,
    apply: bool,
    run_task: bool,
) -> Decision {
    let wish = world.desired.wishes.get(instance).filter(|wish| wish.goal == WishGoal::Up);
    let (Some(wish), Some(seen)) = (wish, world.observed.get(instance)) else { return Decision::Start };
    let completed = match &seen.phase {
        Phase::Ended { exit, run, .. } => {
            service.role == Role::Task && exit.code == Some(0) && run.epoch >= wish.epoch
        }
        _ => false,
    };
    if completed {
        return if run_task { Decision::Start } else { Decision::Unchanged };
    }
    if !seen.is_live() {
        return Decision::Start;
    }
    let changes = changes(&wish.service, service);
    match (changes.is_empty(), apply) {
        (true, _) => Decision::Unchanged,
        (false, true) => Decision::Replace(changes),
        (false, false) => Decision::Stale(changes),
    }
}

/// What a stop is about.
#[derive(Clone, Debug, Default)]
pub struct StopRequest {
    /// Services or instances; empty is everything.
    pub names: Vec<String>,
    /// Kill at once and leave dependents running.
    pub force: bool,
    /// Dependents may be stopped too.
    pub dependents: bool,
}

/// Takes the wishes down, dependents too. The answer: what stops, dependents first.
pub fn stop(world: &mut World, request: &StopRequest) -> Result<Vec<InstanceName>, Refused> {
    let services = wished_services(&world.desired);
    // Everything is what is wished, not what a definition has now: one that was scaled down may still end.
    let named = match request.names.as_slice() {
        [] => world.desired.wishes.keys().cloned().collect(),
        names => select(&services, &world.desired, names)?,
    };
    let up = |world: &World, instance: &InstanceName| {
        world.desired.wishes.get(instance).is_some_and(|wish| wish.goal == WishGoal::Up)
            || world.observed.get(instance).is_some_and(|seen| seen.is_live())
    };
    // A service that keeps another instance still serves its dependents.
    let going: Vec<&ServiceName> = named
        .iter()
        .map(InstanceName::service)
        .filter(|service| {
            let mut others = world.desired.wishes.keys().filter(|other| other.service() == *service);
            !others.any(|other| !named.contains(other) && up(world, other))
        })
        .collect();
    let cascade = graph::with_dependents(&services, going.iter().copied());
    let order: Vec<ServiceName> = graph::rounds(&services).into_iter().rev().flatten().collect();
    let dependents: Vec<ServiceName> = order
        .iter()
        .filter(|name| cascade.contains(*name) && !named.iter().any(|instance| instance.service() == *name))
        .filter(|name| world.desired.wishes.keys().any(|i| i.service() == *name && up(world, i)))
        .cloned()
        .collect();
    if !dependents.is_empty() && !request.dependents && !request.force {
        return Err(Refused::HasDependents { dependents });
    }
    let mut stopping = Vec::new();
    for service in &order {
        let instances: Vec<InstanceName> =
            world.desired.wishes.keys().filter(|instance| instance.service() == service).cloned().collect();
        for instance in instances {
            let chosen = named.contains(&instance) || (!request.force && dependents.contains(service));
            if !chosen {
                continue;
            }
            if has_a_future(world, &instance) {
                stopping.push(instance.clone());
            }
            if let Some(wish) = world.desired.wishes.get_mut(&instance) {
                wish.goal = WishGoal::Down { force: request.force };
            }
        }
    }
    Ok(stopping)
}

/// Whether it lives, or would be started again: what has completed or given up isn't stopped once more.
fn has_a_future(world: &World, instance: &InstanceName) -> bool {
    let Some(seen) = world.observed.get(instance) else { return false };
    let wish = world.desired.wishes.get(instance).filter(|wish| wish.goal == WishGoal::Up);
    seen.is_live()
        || wish.is_some_and(|wish| comes_back(&wish.service, seen) && !matches!(seen.phase, Phase::Idle))
}

/// Wishes new runs. With a stack, its definitions are taken. What they need and isn't up is started too.
/// The answer: what gets a new run though it may be running, in the file's order.
pub fn restart(
    world: &mut World,
    stack: Option<Stack>,
    names: &[String],
    ports: &PortSource<'_>,
) -> Result<Vec<InstanceName>, Refused> {
    let stack = stack.or_else(|| world.stack.clone()).ok_or(Refused::NoStack)?;
    let named = if names.is_empty() {
        let up = world.desired.wishes.iter().filter(|(instance, wish)| {
            wish.goal == WishGoal::Up && wish.service.role == Role::Service && !is_orphan(&stack, instance)
        });
        up.map(|(instance, _)| instance.clone()).collect()
    } else {
        select(&stack.services, &world.desired, names)?
    };
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let request =
        StartRequest { names: named.iter().map(ToString::to_string).collect(), ..StartRequest::default() };
    let definitions = placed(&stack, world, |_| false)?;
    let outcome = start(world, stack, &request, ports)?;
    for instance in &named {
        let Some(wish) = world.desired.wishes.get_mut(instance) else { continue };
        if let Some(service) = definitions.get(instance) {
            wish.service = service.clone();
        }
        if !outcome.started.contains(instance) {
            wish.epoch += 1;
        }
    }
    Ok(outcome.wanted.into_iter().filter(|instance| named.contains(instance)).collect())
}

/// Forgets instances that are down, ended, and not in the stack. The answer: which.
pub fn forget(world: &mut World) -> Vec<InstanceName> {
    let Some(stack) = &world.stack else { return Vec::new() };
    let gone: Vec<InstanceName> = world
        .desired
        .wishes
        .iter()
        .filter(|(instance, wish)| {
            is_orphan(stack, instance)
                && wish.goal != WishGoal::Up
                && !world.observed.get(instance).is_some_and(|seen| seen.is_live())
        })
        .map(|(instance, _)| instance.clone())
        .collect();
    for instance in &gone {
        world.desired.wishes.shift_remove(instance);
        world.observed.instances.remove(instance);
    }
    if !gone.is_empty() {
        world.addresses.retain(|instance| !gone.contains(instance));
        let wished: BTreeSet<&ServiceName> = world.desired.wishes.keys().map(InstanceName::service).collect();
        let stays = |service: &ServiceName| stack.services.contains_key(service) || wished.contains(service);
        world.virtuals.retain(stays);
        world.leases.retain_services(stays);
    }
    gone
}

/// The instances that `names` mean: services (all their instances) or single instances; all if empty. In order.
pub fn select(
    services: &Services,
    desired: &Desired,
    names: &[String],
) -> Result<IndexSet<InstanceName>, Refused> {
    let of = |service: &Arc<Service>| {
        let name = service.name.clone();
        (1..=service.replicas).map(move |n| InstanceName::new(name.clone(), n))
    };
    let all = || {
        let declared = services.values().flat_map(of);
        declared.chain(desired.wishes.keys().cloned()).collect::<IndexSet<InstanceName>>()
    };
    if names.is_empty() {
        return Ok(services.values().flat_map(of).collect());
    }
    let known = all();
    let mut selected = IndexSet::new();
    for name in names {
        let before = selected.len();
        let exact = name.parse::<InstanceName>().ok().filter(|instance| known.contains(instance));
        if services.contains_key(name.as_str()) {
            selected.extend(known.iter().filter(|instance| instance.service().as_str() == name).cloned());
            if services.get(name.as_str()).is_some_and(|service| service.replicas == 0) {
                continue;
            }
        } else if let Some(instance) = exact {
            selected.insert(instance);
        } else {
            selected.extend(known.iter().filter(|instance| instance.service().as_str() == name).cloned());
        }
        let already = known
            .iter()
            .any(|i| (i.service().as_str() == name || i.to_string() == *name) && selected.contains(i));
        if selected.len() == before && !already {
            let known = services.keys().map(ToString::to_string).collect();
            return Err(Refused::UnknownName { name: name.clone(), known });
        }
    }
    Ok(selected)
}

fn chosen(named: &IndexSet<InstanceName>, service: &Service) -> Vec<InstanceName> {
    let all: Vec<InstanceName> =
        (1..=service.replicas).map(|n| InstanceName::new(service.name.clone(), n)).collect();
    let some: Vec<InstanceName> = all.iter().filter(|instance| named.contains(*instance)).cloned().collect();
    // A service that is needed but wasn't named is needed whole.
    if some.is_empty() { all } else { some }
}

/// Every service of the stack as each of its instances runs it.
fn placed(
    stack: &Stack,
    world: &World,
    needed: impl Fn(&Service) -> bool,
) -> Result<BTreeMap<InstanceName, Arc<Service>>, Refused> {
    place(stack, &world.desired, &world.drained, needed)
        .map_err(|(service, why)| Refused::NotPlaced { service, why })
}

/// Whether its instances get addresses in the stack's container network of this machine.
fn in_network(service: &Service) -> bool {
    service.host.is_none() && View::of(service) == View::Container
}

fn is_orphan(stack: &Stack, instance: &InstanceName) -> bool {
    stack.services.get(instance.service()).is_none_or(|service| instance.number() > service.replicas)
}

/// The ports that nobody is leased: those that services have by the file, and the zone's.
fn declared_ports(stack: &Stack) -> BTreeSet<u16> {
    let ports = stack.services.values().flat_map(|service| service.ports.iter());
    ports
        .filter_map(|port| match port.number {
            crate::model::PortNumber::Fixed(port) => Some(port),
            crate::model::PortNumber::Auto => None,
        })
        .chain(stack.zone.as_ref().map(crate::network::zone::port))
        .collect()
}

fn wished_services(desired: &Desired) -> Services {
    desired.wishes.iter().map(|(instance, wish)| (instance.service().clone(), wish.service.clone())).collect()
}

fn sort(wishes: &mut IndexMap<InstanceName, Wish>, stack: &Stack) {
    wishes.sort_by_cached_key(|instance, _| {
        (stack.services.get_index_of(instance.service()).unwrap_or(usize::MAX), instance.clone())
    });
}
