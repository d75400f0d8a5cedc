//! What the project's daemon asks of the agent of another node.
//!
//! An assignment is named by the run that the project's daemon gave it, a UUIDv7: of two, the later one is the later wish.
//! Whatever order words arrive in, over whichever connection, an agent never goes back: what is not newer than what it has
//! heard is refused.

use super::{PortSource, Refused, World, declared_ports, in_network};
use crate::model::{InstanceName, Service, Stack};
use crate::network::allocate;
use crate::plan::{Wish, WishGoal};
use indexmap::IndexMap;
use std::path::PathBuf;
use std::sync::Arc;

/// An instance to run, with everything resolved.
#[derive(Clone, Debug)]
pub struct AssignRequest {
    /// The project's name.
    pub project: String,
    /// The folder that it runs in unless it says otherwise.
    pub folder: PathBuf,
    /// The instance.
    pub instance: InstanceName,
    /// The run that the project's daemon gave it.
    pub run: String,
    /// The definition, with every hole filled.
    pub service: Arc<Service>,
}

/// Takes an assignment. The answer: whether it is new.
///
/// # Errors
/// [`Refused::Outdated`], and what a start can be refused for.
pub fn assign(world: &mut World, request: AssignRequest, ports: &PortSource<'_>) -> Result<bool, Refused> {
    let AssignRequest { project, folder, instance, run, service } = request;
    let known = world.desired.wishes.get(&instance);
    let newest = known.and_then(|wish| wish.assignment.as_ref());
    let outdated = || Refused::Outdated { instance: instance.clone(), run: run.clone() };
    if world.fences.get(&instance).is_some_and(|fence| *fence >= run)
        || newest.is_some_and(|newest| *newest > run)
    {
        return Err(outdated());
    }
    if newest == Some(&run) {
        return Ok(false);
    }
    let epoch = known.map_or(0, |wish| wish.epoch) + 1;
    let mut leases = world.leases.clone();
    let mut addresses = world.addresses.clone();
    let mut stack = world.stack.clone().unwrap_or_else(|| Stack {
        name: project,
        description: None,
        folder,
        services: IndexMap::new(),
        networks: IndexMap::new(),
        nodes: IndexMap::new(),
        secrets: IndexMap::new(),
        zone: None,
    });
    stack.services.insert(service.name.clone(), service.clone());
    let declared = declared_ports(&stack);
    allocate(&mut leases, ports.range, &instance, &service, &declared, ports.in_use)?;
    if let Some(network) = world.network.as_ref().filter(|_| in_network(&service)) {
        addresses.lease(network, &instance)?;
    }
    let wish = Wish { service, goal: WishGoal::Up, epoch, assignment: Some(run) };
    world.desired.wishes.insert(instance, wish);
    world.leases = leases;
    world.addresses = addresses;
    world.stack = Some(stack);
    Ok(true)
}

/// Takes back an assignment, and all that were before it. The answer: whether anything of it is wanted here.
///
/// # Errors
/// [`Refused::Outdated`] if a newer one has taken its place.
pub fn withdraw(world: &mut World, instance: &InstanceName, run: &str, force: bool) -> Result<bool, Refused> {
    let newest = world.desired.wishes.get(instance).and_then(|wish| wish.assignment.clone());
    if newest.as_deref().is_some_and(|newest| newest > run) {
        return Err(Refused::Outdated { instance: instance.clone(), run: run.to_owned() });
    }
    let fence = world.fences.entry(instance.clone()).or_default();
    if fence.as_str() < run {
        run.clone_into(fence);
    }
    match world.desired.wishes.get_mut(instance) {
        Some(wish) => {
            // A kill isn't softened by a stop that comes after it.
            let force = force || wish.goal == WishGoal::Down { force: true };
            wish.goal = WishGoal::Down { force };
            Ok(true)
        }
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::PortRange;
    use crate::testing;
    use proptest::prelude::*;

    fn request(run: u32) -> AssignRequest {
        AssignRequest {
            project: "shop".into(),
            folder: "/srv".into(),
            instance: testing::instance("web-1"),
            run: format!("{run:04}"),
            service: Arc::new(testing::service("web")),
        }
    }

    #[derive(Clone, Debug)]
    enum Word {
        Assign(u32),
        Withdraw(u32, bool),
    }

    fn word() -> impl Strategy<Value = Word> {
        prop_oneof![
            (0..20u32).prop_map(Word::Assign),
            (0..20u32, any::<bool>()).prop_map(|(run, force)| Word::Withdraw(run, force)),
        ]
    }

    proptest! {
        /// Words that come twice, late, and in any order.
        #[test]
        fn an_agent_never_goes_back(words in prop::collection::vec(word(), 0..40)) {
            let ports = PortSource { range: PortRange { first: 1000, last: 1999 }, in_use: &|_| false, seed: 0, slot_in_use: &|_| false };
            let instance = testing::instance("web-1");
            let mut world = World::default();
            let (mut newest, mut withdrawn, mut epoch) = (None, None, 0);
            for word in words {
                match word {
                    Word::Assign(run) => {
                        let may = withdrawn.is_none_or(|fence| run > fence) && newest.is_none_or(|newest| run >= newest);
                        let taken = assign(&mut world, request(run), &ports);
                        prop_assert_eq!(taken.is_ok(), may);
                        if let Ok(new) = taken {
                            prop_assert_eq!(new, newest != Some(run));
                            newest = Some(run);
                        }
                    }
                    Word::Withdraw(run, force) => {
                        let taken = withdraw(&mut world, &instance, &format!("{run:04}"), force);
                        prop_assert_eq!(taken.is_ok(), newest.is_none_or(|newest| run >= newest));
                        if taken.is_ok() {
                            withdrawn = withdrawn.max(Some(run));
                        }
                    }
                }
                let wish = world.desired.wishes.get(&instance);
                let up = wish.is_some_and(|wish| wish.goal == WishGoal::Up);
                prop_assert_eq!(up, newest.is_some() && newest > withdrawn, "up is the newest that wasn't withdrawn");
                let now = wish.map_or(0, |wish| wish.epoch);
                prop_assert!(now >= epoch);
                epoch = now;
            }
        }
    }
}
