//! What was ordered and acknowledged, and what must therefore be true. Pure.

use std::collections::BTreeMap;

/// What an order wants of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// It runs.
    Up,
    /// It doesn't.
    Down,
}

/// An order that was given.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// What was typed.
    pub(crate) text: String,
    /// The services that it is about, with all that it takes along.
    pub(crate) services: Vec<usize>,
    /// What it wants of them.
    pub(crate) goal: Goal,
    /// When the command began, in milliseconds.
    pub(crate) began: u64,
    /// When it ended.
    pub(crate) ended: u64,
    /// Whether it was answered with 0.
    pub(crate) acknowledged: bool,
    /// Processes of these services that lived when a stop had been acknowledged.
    pub(crate) alive: Vec<String>,
}

/// An order whose client was killed or cut off may take effect this much later, in milliseconds.
const LATE: u64 = 1_000;

/// What must be true of each service: the goal of the last acknowledged order about it, if no other order about it
/// could have taken effect since.
pub(crate) fn standing(orders: &[Order]) -> BTreeMap<usize, (Goal, &Order)> {
    let mut standing = BTreeMap::new();
    let services: std::collections::BTreeSet<usize> =
        orders.iter().flat_map(|order| order.services.iter().copied()).collect();
    for service in services {
        let about = || orders.iter().filter(|order| order.services.contains(&service));
        let last = about().filter(|order| order.acknowledged).max_by_key(|order| order.began);
        let alone = |last: &Order| {
            about().all(|other| {
                std::ptr::eq(other, last)
                    || other.goal == last.goal
                    || other.ended + late(other) <= last.began
            })
        };
        if let Some(last) = last.filter(|last| alone(last)) {
            standing.insert(service, (last.goal, last));
        }
    }
    standing
}

fn late(order: &Order) -> u64 {
    if order.acknowledged { 0 } else { LATE }
}

/// Stops that were acknowledged while a process of theirs lived, and nobody had ordered otherwise.
pub(crate) fn broken_stops(orders: &[Order]) -> Vec<String> {
    let stops = orders
        .iter()
        .filter(|order| order.goal == Goal::Down && order.acknowledged && !order.alive.is_empty());
    let undisturbed = stops.filter(|stop| {
        !orders.iter().any(|other| {
            other.goal == Goal::Up
                && other.services.iter().any(|service| stop.services.contains(service))
                && other.began <= stop.ended
                && other.ended + late(other) >= stop.began
        })
    });
    undisturbed
        .map(|stop| format!("`{}` was acknowledged while there lived: {}", stop.text, stop.alive.join(", ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(goal: Goal, service: usize, began: u64, ended: u64, acknowledged: bool) -> Order {
        Order {
            text: String::new(),
            services: vec![service],
            goal,
            began,
            ended,
            acknowledged,
            alive: Vec::new(),
        }
    }

    fn goal(orders: &[Order]) -> Option<Goal> {
        standing(orders).get(&0).map(|(goal, _)| *goal)
    }

    #[test]
    fn the_last_acknowledged_order_stands_if_no_other_could_have_come_after_it() {
        use Goal::{Down, Up};
        assert_eq!(goal(&[order(Up, 0, 0, 10, true), order(Down, 0, 20, 30, true)]), Some(Down));
        assert_eq!(goal(&[order(Up, 0, 0, 25, true), order(Down, 0, 20, 30, true)]), None, "overlapping");
        assert_eq!(goal(&[order(Up, 0, 0, 10, false), order(Down, 0, 20, 30, true)]), None, "may come late");
        assert_eq!(goal(&[order(Up, 0, 0, 10, false), order(Down, 0, 2000, 2001, true)]), Some(Down));
        assert_eq!(goal(&[order(Up, 0, 0, 10, true), order(Down, 0, 20, 30, false)]), None);
        assert_eq!(goal(&[order(Up, 0, 0, 25, true), order(Up, 0, 20, 30, false)]), Some(Up), "they agree");
        assert_eq!(goal(&[order(Up, 1, 0, 25, true)]), None);
    }

    #[test]
    fn a_stop_that_left_something_is_broken_unless_a_start_came_between() {
        let stop = Order { alive: vec!["7".into()], ..order(Goal::Down, 0, 20, 30, true) };
        assert_eq!(broken_stops(std::slice::from_ref(&stop)).len(), 1);
        assert_eq!(broken_stops(&[stop.clone(), order(Goal::Up, 0, 25, 40, true)]).len(), 0);
        assert_eq!(broken_stops(&[stop, order(Goal::Up, 0, 0, 10, true)]).len(), 1);
    }
}
