//! Forgetting a node that is lost: what may run on there is nobody's business any more.

use super::{Refused, World};
use crate::model::{InstanceName, OnNodeLoss};
use crate::observed::{Fact, Moment, NodeSeen};
use crate::plan::{LEASE, MARGIN, WishGoal};

/// Gives up all that may run on the lost `node`. None of it is wanted any more, so that nothing lives twice unless somebody
/// starts it again; and the node gets nothing new, as if it were drained. The answer: what was given up, with its run. Its
/// agent, if it is ever steered again, has to hear of that before all else.
///
/// # Errors
/// [`Refused::NotLost`]; [`Refused::Leased`] as long as something there is known to live only by its lease.
pub fn forget_node(
    world: &mut World,
    node: &str,
    now: Moment,
) -> Result<Vec<(InstanceName, String)>, Refused> {
    let Some(NodeSeen::Lost { last, .. }) = world.observed.nodes.get(node) else {
        return Err(Refused::NotLost { node: node.to_owned() });
    };
    let wait = (*last + LEASE + MARGIN).saturating_sub(now);
    let there = |instance: &InstanceName| {
        let run = world.observed.get(instance).filter(|seen| seen.is_live())?.run()?;
        (run.service.host.as_deref() == Some(node)).then_some(run)
    };
    let mut given_up = Vec::new();
    for instance in world.desired.wishes.keys() {
        let Some(run) = there(instance) else { continue };
        if run.service.on_node_loss == OnNodeLoss::Reschedule && !wait.is_zero() {
            return Err(Refused::Leased { instance: instance.clone(), node: node.to_owned(), wait });
        }
        given_up.push((instance.clone(), run.id.clone()));
    }
    for (instance, run) in &given_up {
        world.observed.apply(instance, run, Fact::GivenUp { why: forgotten(node) }, now);
    }
    for (instance, wish) in &mut world.desired.wishes {
        let was_there = given_up.iter().any(|(given_up, _)| given_up == instance);
        if was_there || wish.service.host.as_deref() == Some(node) {
            wish.goal = WishGoal::Down { force: false };
        }
    }
    world.observed.nodes.remove(node);
    world.drained.insert(node.to_owned());
    Ok(given_up)
}

/// What is said of what was there.
pub(crate) fn forgotten(node: &str) -> String {
    format!("node {node} was removed while it was lost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Service;
    use crate::testing::{instance, on_two_nodes, run_of, service};
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// `db` on one, `web` on one under `policy`, `here` on this machine; all run.
    fn world(policy: OnNodeLoss) -> World {
        let placement: BTreeMap<String, String> = [("zone".to_owned(), "a".to_owned())].into();
        let mut world = on_two_nodes(vec![
            Service { host: Some("one".into()), ..service("db") },
            Service { placement: placement.into_iter().collect(), on_node_loss: policy, ..service("web") },
            service("here"),
        ]);
        for (name, wish) in world.desired.wishes.clone() {
            let run = run_of(&format!("run-of-{name}"), &wish);
            let id = run.id.clone();
            world.observed.issue_start(&name, run, false);
            world.observed.apply(&name, &id, Fact::process(7, id.clone()), Moment::ZERO);
        }
        world
    }

    fn lose(world: &mut World, last: Moment) {
        let seen = NodeSeen::Lost { since: Default::default(), last, why: "cut".into(), heard: true };
        world.observed.nodes.insert("one".into(), seen);
    }

    fn up(world: &World) -> Vec<String> {
        let wishes = world.desired.wishes.iter().filter(|(_, wish)| wish.goal == WishGoal::Up);
        wishes.map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn what_was_there_is_wanted_nowhere_and_the_rest_goes_on() {
        let mut world = world(OnNodeLoss::Keep);
        lose(&mut world, Moment::ZERO);
        let given_up = forget_node(&mut world, "one", Moment::ZERO).unwrap();
        let named: Vec<String> = given_up.iter().map(|(name, run)| format!("{name} {run}")).collect();
        assert_eq!(named, ["db-1 run-of-db-1", "web-1 run-of-web-1"]);
        assert_eq!(up(&world), ["here-1"], "nothing of it starts elsewhere by itself");
        assert!(!world.observed.get(&instance("db-1")).unwrap().is_live());
        assert!(world.observed.get(&instance("here-1")).unwrap().is_live());
        assert!(world.drained.contains("one") && world.observed.nodes.is_empty());
        let again = forget_node(&mut world, "one", Moment::ZERO);
        assert_eq!(again, Err(Refused::NotLost { node: "one".into() }));
    }

    #[test]
    fn a_lease_is_waited_for() {
        let mut world = world(OnNodeLoss::Reschedule);
        lose(&mut world, Moment::from_secs(100));
        let over = Moment::from_secs(100) + LEASE + MARGIN;
        let early = forget_node(&mut world, "one", over - Duration::from_millis(1)).unwrap_err();
        assert_eq!(early.to_string(), "web-1 on node one has a lease, which is over in 1 s at the latest");
        assert_eq!(up(&world).len(), 3, "nothing was changed");
        assert_eq!(forget_node(&mut world, "one", over).unwrap().len(), 2);
    }

    #[test]
    fn a_node_that_is_heard_is_not_forgotten() {
        let mut world = world(OnNodeLoss::Keep);
        world.observed.nodes.insert("one".into(), NodeSeen::Up);
        assert!(forget_node(&mut world, "one", Moment::ZERO).is_err());
        assert_eq!(up(&world).len(), 3);
    }
}
