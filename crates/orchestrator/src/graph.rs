//! The dependency graph: order, cycles, who needs whom.
//!
//! An edge with [`Condition::None`] is an address and no order; the graph doesn't have it.

use crate::model::{Condition, Service, ServiceName};
use indexmap::{IndexMap, IndexSet};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Services by name, in the file's order.
pub type Services = IndexMap<ServiceName, Arc<Service>>;

/// The dependencies of `service` that order it: those it must wait for.
pub fn ordering(service: &Service) -> impl Iterator<Item = (&ServiceName, Condition)> {
    service
        .dependencies
        .iter()
        .filter(|(_, dependency)| dependency.condition != Condition::None)
        .map(|(name, dependency)| (name, dependency.condition))
}

/// A cycle, if there is one: `[a, b, c, a]` where each needs the next. The first one in the file's order.
pub fn cycle(services: &Services) -> Option<Vec<ServiceName>> {
    let mut done: HashSet<&ServiceName> = HashSet::new();
    for root in services.keys() {
        // Depth first with a stack of its own: a chain of 10,000 services must not overflow the thread's.
        let mut path: IndexSet<&ServiceName> = IndexSet::new();
        let mut frames = Vec::new();
        if done.contains(root) {
            continue;
        }
        path.insert(root);
        frames.push(successors(services, root));
        while let Some(frame) = frames.last_mut() {
            match frame.next() {
                Some(next) => {
                    if let Some(position) = path.get_index_of(next) {
                        let mut cycle: Vec<ServiceName> =
                            path.iter().skip(position).copied().cloned().collect();
                        cycle.push(next.clone());
                        return Some(cycle);
                    }
                    if !done.contains(next) && services.contains_key(next) {
                        path.insert(next);
                        frames.push(successors(services, next));
                    }
                }
                None => {
                    frames.pop();
                    if let Some(name) = path.pop() {
                        done.insert(name);
                    }
                }
            }
        }
    }
    None
}

fn successors<'a>(
    services: &'a Services,
    name: &ServiceName,
) -> Box<dyn Iterator<Item = &'a ServiceName> + 'a> {
    match services.get(name) {
        Some(service) => Box::new(ordering(service).map(|(name, _)| name)),
        None => Box::new(std::iter::empty()),
    }
}

/// The services in rounds: each needs only services of earlier rounds; in the file's order within a round.
/// What stands in a cycle is in no round.
pub fn rounds(services: &Services) -> Vec<Vec<ServiceName>> {
    let mut missing: HashMap<&ServiceName, usize> = HashMap::new();
    let mut needed_by: HashMap<&ServiceName, Vec<&ServiceName>> = HashMap::new();
    for (name, service) in services {
        let known: HashSet<&ServiceName> =
            ordering(service).map(|(name, _)| name).filter(|name| services.contains_key(*name)).collect();
        missing.insert(name, known.len());
        for dependency in known {
            needed_by.entry(dependency).or_default().push(name);
        }
    }
    let mut rounds = Vec::new();
    let mut current: Vec<&ServiceName> =
        services.keys().filter(|name| missing.get(*name) == Some(&0)).collect();
    while !current.is_empty() {
        let mut next = Vec::new();
        for name in &current {
            for dependent in needed_by.get(*name).into_iter().flatten().copied() {
                if let Some(count) = missing.get_mut(dependent) {
                    *count -= 1;
                    if *count == 0 {
                        next.push(dependent);
                    }
                }
            }
        }
        next.sort_by_key(|name| services.get_index_of(*name));
        rounds.push(current.into_iter().cloned().collect());
        current = next;
    }
    rounds
}

/// `names` and everything they need, in the file's order.
pub fn with_needs<'a>(
    services: &Services,
    names: impl IntoIterator<Item = &'a ServiceName>,
) -> IndexSet<ServiceName> {
    closure(services, names, |name| successors(services, name).cloned().collect())
}

/// `names` and everything that needs them, in the file's order.
pub fn with_dependents<'a>(
    services: &Services,
    names: impl IntoIterator<Item = &'a ServiceName>,
) -> IndexSet<ServiceName> {
    let mut needed_by: HashMap<&ServiceName, Vec<ServiceName>> = HashMap::new();
    for (name, service) in services {
        for (dependency, _) in ordering(service) {
            needed_by.entry(dependency).or_default().push(name.clone());
        }
    }
    closure(services, names, |name| needed_by.get(name).cloned().unwrap_or_default())
}

fn closure<'a>(
    services: &Services,
    names: impl IntoIterator<Item = &'a ServiceName>,
    next: impl Fn(&ServiceName) -> Vec<ServiceName>,
) -> IndexSet<ServiceName> {
    let mut found: HashSet<ServiceName> = HashSet::new();
    let mut open: Vec<ServiceName> = names.into_iter().cloned().collect();
    while let Some(name) = open.pop() {
        if services.contains_key(&name) && !found.contains(&name) {
            open.extend(next(&name));
            found.insert(name);
        }
    }
    services.keys().filter(|name| found.contains(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{name, services};

    fn names(found: impl IntoIterator<Item = ServiceName>) -> String {
        found.into_iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rounds_follow_the_edges_and_keep_the_files_order() {
        let stack = services("web: api cache; api: db; db:; cache:; alone:");
        let rounds: Vec<String> = rounds(&stack).into_iter().map(names).collect();
        assert_eq!(rounds, ["db cache alone", "api", "web"]);
        assert_eq!(cycle(&stack), None);
    }

    #[test]
    fn a_cycle_is_given_whole() {
        assert_eq!(cycle(&services("x: a; a: b; b: c; c: a")).map(names), Some("a b c a".into()));
        assert_eq!(cycle(&services("a: a")).map(names), Some("a a".into()));
        let chain: String = (0..20_000).map(|i| format!("s{i}: s{};", i + 1)).collect();
        assert_eq!(cycle(&services(&chain)), None);
    }

    #[test]
    fn needs_and_dependents_are_transitive() {
        let stack = services("web: api; api: db; db:; other: db");
        assert_eq!(names(with_needs(&stack, [&name("api")])), "api db");
        assert_eq!(names(with_dependents(&stack, [&name("api")])), "web api");
        assert_eq!(names(with_dependents(&stack, [&name("db")])), "web api db other");
    }
}
