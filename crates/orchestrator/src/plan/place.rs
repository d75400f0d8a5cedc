//! Which node an instance runs on.
//!
//! A placed definition has its node's name as `host`, or none for this machine: from here on nothing else says where an
//! instance is.

use super::{Desired, WishGoal};
use crate::model::{InstanceName, Node, Service, Stack};
use indexmap::IndexMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A service that no node of the file may run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplaced {
    /// `host` names no node.
    #[error("host {host} is no node of the file")]
    NoNode {
        /// What it names.
        host: String,
    },
    /// No node has the labels of its `placement`.
    #[error("no node has the labels of its placement: {labels}")]
    NoLabels {
        /// The labels, as `disk=ssd, zone=a`.
        labels: String,
    },
    /// The nodes that may run it are all drained.
    #[error("every node that may run it is drained: {nodes}")]
    Drained {
        /// Their names.
        nodes: String,
    },
}

/// The name of the node that `host` means: a key of `nodes:`, or the address of one of them.
pub fn node_named<'a>(nodes: &'a IndexMap<String, Node>, host: &str) -> Option<&'a str> {
    let by_name = nodes.get_key_value(host);
    by_name.or_else(|| nodes.iter().find(|(_, node)| node.host == host)).map(|(name, _)| name.as_str())
}

/// Whether a node has the labels of a placement. Its region counts as one where no label says otherwise.
pub fn fits(node: &Node, placement: &IndexMap<String, String>) -> bool {
    placement.iter().all(|(key, value)| match key.as_str() {
        "region" if !node.labels.contains_key(key) => node.region.as_ref() == Some(value),
        _ => node.labels.get(key) == Some(value),
    })
}

/// The nodes that may run a service, in the file's order; `None` is this machine.
///
/// # Errors
/// See [`Unplaced`].
pub fn allowed<'a>(stack: &'a Stack, service: &Service) -> Result<Vec<Option<&'a str>>, Unplaced> {
    if let Some(host) = &service.host {
        let named = node_named(&stack.nodes, host).ok_or_else(|| Unplaced::NoNode { host: host.clone() })?;
        return Ok(vec![Some(named)]);
    }
    if service.placement.is_empty() {
        return Ok(vec![None]);
    }
    let nodes: Vec<Option<&str>> = stack
        .nodes
        .iter()
        .filter(|(_, node)| fits(node, &service.placement))
        .map(|(name, _)| Some(name.as_str()))
        .collect();
    if nodes.is_empty() {
        let labels: Vec<String> =
            service.placement.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return Err(Unplaced::NoLabels { labels: labels.join(", ") });
    }
    Ok(nodes)
}

/// Every service of the stack as each of its instances runs it. Instances stay where they are wanted already as long as
/// they may; the others go where the fewest of their service are, first in the file's order. `drained` nodes get none that
/// isn't fixed to them.
///
/// # Errors
/// The first service that can't be placed, of those in `needed`.
pub fn place(
    stack: &Stack,
    desired: &Desired,
    drained: &BTreeSet<String>,
    needed: impl Fn(&Service) -> bool,
) -> Result<BTreeMap<InstanceName, Arc<Service>>, (crate::model::ServiceName, Unplaced)> {
    let mut placed = BTreeMap::new();
    for service in stack.services.values() {
        let allowed = match allowed(stack, service) {
            Ok(allowed) => allowed,
            Err(error) if needed(service) => return Err((service.name.clone(), error)),
            Err(_) => continue,
        };
        let open: Vec<Option<&str>> =
            allowed.iter().copied().filter(|node| node.is_none_or(|node| !drained.contains(node))).collect();
        if open.is_empty() && needed(service) {
            let nodes: Vec<&str> = allowed.iter().copied().flatten().collect();
            return Err((service.name.clone(), Unplaced::Drained { nodes: nodes.join(", ") }));
        }
        let numbers = (1..=service.replicas).map(|n| InstanceName::new(service.name.clone(), n));
        let mut homes: BTreeMap<InstanceName, Option<&str>> = BTreeMap::new();
        for instance in numbers.clone() {
            let Some(wish) = desired.wishes.get(&instance).filter(|wish| wish.goal == WishGoal::Up) else {
                continue;
            };
            if let Some(home) = open.iter().find(|node| **node == wish.service.host.as_deref()) {
                homes.insert(instance, *home);
            }
        }
        for instance in numbers {
            if !homes.contains_key(&instance) {
                let load = |node: &Option<&str>| homes.values().filter(|home| *home == node).count();
                // The first of those with the fewest: `min_by_key` keeps the first of equals.
                let Some(home) = open.iter().min_by_key(|node| load(node)).copied() else { continue };
                homes.insert(instance.clone(), home);
            }
            let home = homes.get(&instance).copied().flatten();
            let here = match service.host.as_deref() == home {
                true => service.clone(),
                false => Arc::new(Service { host: home.map(str::to_owned), ..Service::clone(service) }),
            };
            placed.insert(instance, here);
        }
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Wish;
    use crate::testing::{instance, node, service, stack_of};

    fn stack(services: Vec<Service>) -> Stack {
        let mut stack = stack_of(services);
        for (name, host, zone) in
            [("eu-1", "10.0.0.1", "a"), ("eu-2", "10.0.0.2", "a"), ("us-1", "10.0.0.3", "b")]
        {
            stack
                .nodes
                .insert(name.into(), Node { region: Some(zone.into()), ..node(host, &[("zone", zone)]) });
        }
        stack
    }

    fn homes(stack: &Stack, desired: &Desired, drained: &[&str]) -> Vec<String> {
        let drained = drained.iter().map(|name| (*name).to_owned()).collect();
        let placed = place(stack, desired, &drained, |_| true).unwrap();
        placed
            .iter()
            .map(|(name, service)| format!("{name}@{}", service.host.as_deref().unwrap_or("-")))
            .collect()
    }

    fn web(replicas: u32, zone: &str) -> Service {
        Service {
            replicas,
            placement: [("zone".to_owned(), zone.to_owned())].into_iter().collect(),
            ..service("web")
        }
    }

    #[test]
    fn instances_are_spread_and_stay_where_they_are() {
        let first = stack(vec![web(3, "a"), service("db")]);
        let mut desired = Desired::default();
        assert_eq!(homes(&first, &desired, &[]), ["db-1@-", "web-1@eu-1", "web-2@eu-2", "web-3@eu-1"]);
        for (name, service) in place(&first, &desired, &BTreeSet::new(), |_| true).unwrap() {
            desired.wishes.insert(name, Wish { service, goal: WishGoal::Up, epoch: 1, assignment: None });
        }
        desired.wishes.shift_remove(&instance("web-1"));
        // web-1 goes where fewer are; the others don't move.
        assert_eq!(homes(&first, &desired, &[])[1..], ["web-1@eu-1", "web-2@eu-2", "web-3@eu-1"]);
        assert_eq!(homes(&first, &desired, &["eu-1"])[1..], ["web-1@eu-2", "web-2@eu-2", "web-3@eu-2"]);
        assert_eq!(homes(&stack(vec![web(1, "b")]), &desired, &[]), ["web-1@us-1"]);
    }

    #[test]
    fn a_host_is_a_nodes_name_or_its_address_and_what_cant_be_placed_says_why() {
        let on = |host: &str| Service { host: Some(host.into()), ..service("web") };
        assert_eq!(homes(&stack(vec![on("eu-2")]), &Desired::default(), &[]), ["web-1@eu-2"]);
        assert_eq!(homes(&stack(vec![on("10.0.0.3")]), &Desired::default(), &[]), ["web-1@us-1"]);
        let refused = |service: Service, drained: &[&str]| {
            let drained = drained.iter().map(|name| (*name).to_owned()).collect();
            place(&stack(vec![service]), &Desired::default(), &drained, |_| true).unwrap_err().1.to_string()
        };
        assert_eq!(refused(on("nowhere"), &[]), "host nowhere is no node of the file");
        assert_eq!(refused(web(1, "c"), &[]), "no node has the labels of its placement: zone=c");
        assert_eq!(refused(on("eu-1"), &["eu-1"]), "every node that may run it is drained: eu-1");
        let by_region = Service {
            placement: [("region".to_owned(), "b".to_owned())].into_iter().collect(),
            ..service("web")
        };
        assert_eq!(homes(&stack(vec![by_region]), &Desired::default(), &[]), ["web-1@us-1"]);
    }
}
