//! Starting elsewhere what a lost node can't be running any more.
//!
//! A service with `on_node_loss: reschedule` runs on its node under a lease: the agent there renews it as long as it hears
//! the project's daemon, and its keeper kills it when the lease is over, whoever else lives. So the daemon waits for
//! [`LEASE`] and [`MARGIN`] from the moment at which it last heard the node, and only then is the instance given up there
//! and placed on another node. When the lost node is heard again it is told of that before it has a new lease.

use super::World;
use crate::model::{InstanceName, OnNodeLoss, Service};
use crate::observed::{Fact, Moment, NodeSeen};
use crate::plan::{LEASE, MARGIN, WishGoal, place};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was given up, and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rescheduled {
    /// Node, instance and run.
    pub given_up: Vec<(String, InstanceName, String)>,
    /// Instances that go elsewhere.
    pub moving: Vec<InstanceName>,
    /// When the next lease is over.
    pub wake_at: Option<Moment>,
}

fn is_leased(service: &Service) -> bool {
    service.host.is_some() && service.on_node_loss == OnNodeLoss::Reschedule
}

/// Gives up what surely runs no more on lost nodes, and places it elsewhere, where it may run elsewhere.
pub fn reschedule(world: &mut World, now: Moment) -> Rescheduled {
    let mut outcome = Rescheduled::default();
    let lost: BTreeMap<String, Moment> = world
        .observed
        .nodes
        .iter()
        .filter_map(|(name, seen)| match seen {
            NodeSeen::Lost { last, .. } => Some((name.clone(), *last)),
            _ => None,
        })
        .collect();
    if lost.is_empty() || !world.desired.wishes.values().any(|wish| is_leased(&wish.service)) {
        return outcome;
    }
    let homes = new_homes(world, lost.keys());
    for (instance, wish) in &mut world.desired.wishes {
        let home = homes.get(instance).filter(|home| home.host != wish.service.host);
        let up = wish.goal == WishGoal::Up;
        let live = world.observed.get(instance).filter(|seen| seen.is_live()).and_then(|seen| seen.run());
        if let Some(run) = live {
            let Some((node, last)) = run.service.host.as_ref().and_then(|node| lost.get_key_value(node))
            else {
                continue;
            };
            // Where it may run nowhere else it is waited for; what should end is known to have ended.
            let replaced = run.epoch < wish.epoch;
            if !is_leased(&run.service) || (up && home.is_none() && !replaced) {
                continue;
            }
            let over = *last + LEASE + MARGIN;
            if over > now {
                outcome.wake_at = Some(outcome.wake_at.map_or(over, |wake| wake.min(over)));
                continue;
            }
            let run = run.id.clone();
            outcome.given_up.push((node.clone(), instance.clone(), run.clone()));
            let why = format!("node {node} was lost for longer than its lease");
            world.observed.apply(instance, &run, Fact::GivenUp { why }, now);
        }
        // What never ran there, or has ended there, needs no lease to be over.
        let on_lost = wish.service.host.as_ref().is_some_and(|node| lost.contains_key(node));
        if let Some(home) = home.filter(|_| up && on_lost && is_leased(&wish.service)) {
            wish.service = home.clone();
            wish.epoch += 1;
            outcome.moving.push(instance.clone());
        }
    }
    outcome
}

/// Where instances would be if lost nodes weren't there.
fn new_homes<'a>(
    world: &'a World,
    lost: impl Iterator<Item = &'a String>,
) -> BTreeMap<InstanceName, Arc<Service>> {
    let Some(stack) = &world.stack else { return BTreeMap::new() };
    let closed: BTreeSet<String> = world.drained.iter().chain(lost).cloned().collect();
    place(stack, &world.desired, &closed, |_| false).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{instance, on_two_nodes, run_of, service};
    use std::time::Duration;

    fn world() -> World {
        let web = Service {
            placement: [("zone".to_owned(), "a".to_owned())].into_iter().collect(),
            on_node_loss: OnNodeLoss::Reschedule,
            ..service("web")
        };
        let mut world = on_two_nodes(vec![web]);
        let wish = &world.desired.wishes[&instance("web-1")];
        let run = run_of("r1", wish);
        world.observed.issue_start(&instance("web-1"), run, false);
        world.observed.apply(&instance("web-1"), "r1", Fact::process(7, "r1"), Moment::ZERO);
        world
    }

    fn lose(world: &mut World, node: &str, last: Moment) {
        let seen = NodeSeen::Lost { since: Default::default(), last, why: "cut".into(), heard: true };
        world.observed.nodes.insert(node.into(), seen);
    }

    fn home(world: &World) -> Option<&str> {
        world.desired.wishes[&instance("web-1")].service.host.as_deref()
    }

    #[test]
    fn it_goes_elsewhere_when_its_lease_is_over_and_not_before() {
        let mut world = world();
        assert_eq!(home(&world), Some("one"));
        let last = Duration::from_secs(100);
        let over = last + LEASE + MARGIN;
        lose(&mut world, "one", last);
        let early = reschedule(&mut world, over - Duration::from_millis(1));
        assert_eq!(early, Rescheduled { wake_at: Some(over), ..Rescheduled::default() });
        assert_eq!(home(&world), Some("one"));
        let done = reschedule(&mut world, over);
        assert_eq!(done.given_up, [("one".to_owned(), instance("web-1"), "r1".to_owned())]);
        assert_eq!((home(&world), done.moving), (Some("two"), vec![instance("web-1")]));
        assert!(!world.observed.get(&instance("web-1")).unwrap().is_live());
        assert_eq!(reschedule(&mut world, over), Rescheduled::default(), "once");
    }

    #[test]
    fn what_may_run_nowhere_else_is_waited_for_and_what_should_end_has_ended() {
        let mut world = world();
        let late = Duration::from_secs(1_000_000);
        lose(&mut world, "one", Moment::ZERO);
        lose(&mut world, "two", Moment::ZERO);
        assert_eq!(reschedule(&mut world, late), Rescheduled::default());
        world.desired.wishes[&instance("web-1")].goal = WishGoal::Down { force: false };
        let done = reschedule(&mut world, late);
        assert_eq!((done.given_up.len(), done.moving.len()), (1, 0));
        assert!(!world.observed.get(&instance("web-1")).unwrap().is_live());
    }

    #[test]
    fn without_the_policy_nothing_is_given_up_however_long_it_takes() {
        let mut world = world();
        for wish in world.desired.wishes.values_mut() {
            wish.service =
                Arc::new(Service { on_node_loss: OnNodeLoss::Keep, ..Service::clone(&wish.service) });
        }
        lose(&mut world, "one", Moment::ZERO);
        assert_eq!(reschedule(&mut world, Duration::from_secs(1_000_000)), Rescheduled::default());
        assert_eq!(home(&world), Some("one"));
    }
}
