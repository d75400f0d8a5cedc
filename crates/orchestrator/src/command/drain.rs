//! Emptying a node.

use super::{Refused, World, placed};
use crate::model::InstanceName;
use crate::plan::WishGoal;

/// What becomes of the instances of a node that is drained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// These end there and start elsewhere.
    pub moving: Vec<InstanceName>,
    /// These are bound to it by `host`, and stay.
    pub staying: Vec<InstanceName>,
}

/// From now on `node` gets nothing that isn't bound to it, and what may run elsewhere goes there; with `on` false it takes
/// part again, and nothing moves back by itself.
///
/// # Errors
/// [`Refused::NoStack`], [`Refused::UnknownName`] for a node that isn't known, [`Refused::NotPlaced`] if something that
/// runs there may run nowhere else.
pub fn drain(world: &mut World, node: &str, on: bool) -> Result<Drained, Refused> {
    let stack = world.stack.clone().ok_or(Refused::NoStack)?;
    if !stack.nodes.contains_key(node) && !world.drained.contains(node) {
        let known = stack.nodes.keys().cloned().collect();
        return Err(Refused::UnknownName { name: node.to_owned(), known });
    }
    if !on {
        world.drained.remove(node);
        return Ok(Drained::default());
    }
    let there: Vec<InstanceName> = world
        .desired
        .wishes
        .iter()
        .filter(|(_, wish)| wish.goal == WishGoal::Up && wish.service.host.as_deref() == Some(node))
        .map(|(name, _)| name.clone())
        .collect();
    let bound = |instance: &InstanceName| {
        stack.services.get(instance.service()).is_none_or(|service| service.host.is_some())
    };
    let (staying, moving): (Vec<_>, Vec<_>) = there.into_iter().partition(bound);
    let new = world.drained.insert(node.to_owned());
    let needed =
        |service: &crate::model::Service| moving.iter().any(|moved| *moved.service() == service.name);
    let homes = match placed(&stack, world, needed) {
        Ok(homes) => homes,
        Err(refused) => {
            if new {
                world.drained.remove(node);
            }
            return Err(refused);
        }
    };
    for instance in &moving {
        if let (Some(wish), Some(service)) = (world.desired.wishes.get_mut(instance), homes.get(instance)) {
            wish.service = service.clone();
            wish.epoch += 1;
        }
    }
    Ok(Drained { moving, staying })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Service;
    use crate::testing::{on_two_nodes, service};

    fn world() -> World {
        let spread = Service {
            replicas: 2,
            placement: [("zone".to_owned(), "a".to_owned())].into_iter().collect(),
            ..service("web")
        };
        on_two_nodes(vec![spread, Service { host: Some("one".into()), ..service("db") }])
    }

    fn homes(world: &World) -> Vec<String> {
        let wishes = world.desired.wishes.iter();
        wishes
            .map(|(name, wish)| format!("{name}@{}:{}", wish.service.host.as_deref().unwrap(), wish.epoch))
            .collect()
    }

    #[test]
    fn what_may_run_elsewhere_goes_there_and_the_rest_stays() {
        let mut world = world();
        assert_eq!(homes(&world), ["web-1@one:1", "web-2@two:1", "db-1@one:1"]);
        let drained = drain(&mut world, "one", true).unwrap();
        assert_eq!(drained.moving.iter().map(ToString::to_string).collect::<Vec<_>>(), ["web-1"]);
        assert_eq!(drained.staying.iter().map(ToString::to_string).collect::<Vec<_>>(), ["db-1"]);
        assert_eq!(homes(&world), ["web-1@two:2", "web-2@two:1", "db-1@one:1"]);
        let refused = drain(&mut world, "two", true).unwrap_err();
        assert_eq!(refused.to_string(), "web: every node that may run it is drained: one, two");
        assert_eq!(homes(&world), ["web-1@two:2", "web-2@two:1", "db-1@one:1"], "nothing was changed");
        assert!(!world.drained.contains("two"));
        assert_eq!(drain(&mut world, "one", false), Ok(Drained::default()));
        assert!(world.drained.is_empty());
        assert!(matches!(drain(&mut world, "three", true), Err(Refused::UnknownName { .. })));
    }
}
