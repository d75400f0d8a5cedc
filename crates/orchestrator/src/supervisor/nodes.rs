//! Other nodes: which are connected to, and what their links tell.

use super::Supervisor;
use crate::command::{self, Refused, Rescheduled};
use crate::model::{InstanceName, OnNodeLoss};
use crate::node::{LinkEvent, LinkFact, Order};
use crate::observed::{Moment, NodeSeen};
use crate::plan::WishGoal;
use service_registry::registry::Durable;
use std::collections::BTreeSet;

/// What is kept of a node beside what the plan needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// How far its clock is ahead, in milliseconds, and how surely.
    pub(super) clock: Option<(i64, u64)>,
}

/// A node as this daemon knows it.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its name in the file.
    pub name: String,
    /// The way to it; `None` if nothing was ever wanted there.
    pub seen: Option<NodeSeen>,
    /// Whether it gets nothing new.
    pub drained: bool,
    /// How far its clock is ahead of this machine's, in milliseconds, and the error of that.
    pub clock: Option<(i64, u64)>,
    /// What is there, as far as it is wanted or lives.
    pub instances: Vec<InstanceName>,
}

impl Supervisor {
    /// Tells the engine where nodes are.
    pub(super) fn know_nodes(&self) {
        if let Some(stack) = &self.world.stack {
            self.engine.know_nodes(&stack.nodes);
        }
    }

    /// Begins the links that what is wanted needs.
    pub(super) fn link_nodes(&mut self) {
        let observed = &self.world.observed;
        let wanted: BTreeSet<&String> = self
            .world
            .desired
            .wishes
            .iter()
            .filter(|(name, wish)| {
                wish.goal == WishGoal::Up || observed.get(name).is_some_and(|seen| seen.is_live())
            })
            .filter_map(|(_, wish)| wish.service.host.as_ref())
            .filter(|node| !observed.nodes.contains_key(*node))
            .collect();
        for node in wanted.into_iter().cloned().collect::<Vec<_>>() {
            self.engine.link(&node, self.memory.revisions.get(&node).copied());
            self.world.observed.nodes.insert(node, NodeSeen::Connecting { progress: String::new() });
        }
    }

    pub(super) fn link_event(&mut self, event: LinkEvent) {
        let LinkEvent { node, fact } = event;
        if !self.world.observed.nodes.contains_key(&node) {
            // It was forgotten, and its link had something to say before it ended.
            return;
        }
        match fact {
            LinkFact::Progress(progress) => {
                // One that was heard stays lost until it is heard again.
                if let Some(
                    NodeSeen::Connecting { progress: old } | NodeSeen::Lost { why: old, heard: false, .. },
                ) = self.world.observed.nodes.get_mut(&node)
                {
                    *old = progress;
                }
            }
            LinkFact::Up { near, far } => {
                if self.world.sites.saw(&node, near, far) {
                    self.memory.set_sites(&self.registry, &self.world.sites);
                    self.net.changed = true;
                }
                self.world.observed.nodes.insert(node.clone(), NodeSeen::Up);
                self.publish_of(&node);
            }
            LinkFact::Down { since, last, why, heard } => {
                // Heard by a daemon before this one: what runs there runs on.
                let heard = heard || self.memory.revisions.contains_key(&node);
                self.world.observed.nodes.insert(node.clone(), NodeSeen::Lost { since, last, why, heard });
                self.publish_of(&node);
            }
            LinkFact::Withdrawn { instance, run } => {
                self.memory.given_up.retain(|(_, name, given_up)| (name, given_up) != (&instance, &run));
                self.memory.set_given_up(&self.registry);
            }
            LinkFact::Gateway(gateway) => {
                if self.world.sites.has_gateway(&node, gateway) {
                    self.memory.set_sites(&self.registry, &self.world.sites);
                    self.net.changed = true;
                }
            }
            LinkFact::Revision(revision) => self.memory.set_revision(&self.registry, &node, revision),
            LinkFact::Clock { ahead_ms, uncertain_ms } => {
                self.nodes.entry(node).or_default().clock = Some((ahead_ms, uncertain_ms));
            }
        }
    }

    /// Gives up what lost nodes can't be running any more. The answer: when the next lease is over.
    pub(super) fn reschedule(&mut self) -> Option<Moment> {
        let (now, _) = (self.clock)();
        let before = self.world.desired.clone();
        let Rescheduled { given_up, moving, wake_at } = command::reschedule(&mut self.world, now);
        if given_up.is_empty() && moving.is_empty() {
            return wake_at;
        }
        for (node, instance, run) in &given_up {
            tracing::warn!(%instance, node, run, "given up: its node was lost for longer than its lease");
            self.engine.give_up(node, instance, run);
        }
        self.net.changed = true;
        self.memory.given_up.extend(given_up.iter().cloned());
        // In one commit with where they go: nobody may know the one without the other.
        self.memory.set_given_up(&self.registry);
        self.memory.save_wishes(&self.registry, &before, &self.world.desired).forget();
        for instance in moving.iter().chain(given_up.iter().map(|(_, instance, _)| instance)) {
            self.publish(instance);
        }
        wake_at
    }

    /// Gives up all that may run on a lost node, and forgets the node.
    pub(super) fn forget_node_command(
        &mut self,
        node: &str,
    ) -> Result<(Vec<InstanceName>, Durable), Refused> {
        let (now, _) = (self.clock)();
        let before = self.world.clone();
        let given_up = command::forget_node(&mut self.world, node, now)?;
        for (instance, run) in &given_up {
            tracing::warn!(%instance, node, run, "given up: its node was removed while it was lost");
        }
        self.engine.forget_node(node, &given_up);
        self.nodes.remove(node);
        let noted = given_up.iter().map(|(instance, run)| (node.to_owned(), instance.clone(), run.clone()));
        self.memory.given_up.extend(noted);
        self.memory.set_given_up(&self.registry);
        self.memory.forget_revision(&self.registry, node);
        let durable = self.memory.save(&self.registry, &before, &self.world);
        self.publish_all();
        Ok((given_up.into_iter().map(|(instance, _)| instance).collect(), durable))
    }

    /// On an agent: what runs on a lease runs on.
    pub(super) fn lease(&mut self, until: Moment) {
        let observed = &mut self.world.observed;
        observed.lease = observed.lease.max(Some(until));
        for (instance, wish) in &self.world.desired.wishes {
            if wish.assignment.is_none() || wish.service.on_node_loss != OnNodeLoss::Reschedule {
                continue;
            }
            if let Some(run) =
                observed.get(instance).filter(|seen| seen.is_live()).and_then(|seen| seen.run())
            {
                let (instance, run) = (instance.clone(), run.id.clone());
                self.engine.order(Order::Renew { instance, run, until });
            }
        }
    }

    fn publish_of(&self, node: &str) {
        for (instance, wish) in &self.world.desired.wishes {
            if wish.service.host.as_deref() == Some(node) {
                self.publish(instance);
            }
        }
    }

    /// The nodes of the file, and what else is connected to.
    pub(super) fn node_statuses(&self) -> Vec<NodeStatus> {
        let declared = self.world.stack.iter().flat_map(|stack| stack.nodes.keys());
        let mut names: Vec<&String> = declared.collect();
        let known: Vec<&String> =
            self.world.observed.nodes.keys().filter(|name| !names.contains(name)).collect();
        names.extend(known);
        let there = |node: &str| {
            let wishes = self.world.desired.wishes.iter();
            let on_it = wishes.filter(|(name, wish)| {
                wish.service.host.as_deref() == Some(node)
                    && (wish.goal == WishGoal::Up
                        || self.world.observed.get(name).is_some_and(|seen| seen.is_live()))
            });
            on_it.map(|(name, _)| name.clone()).collect()
        };
        names
            .into_iter()
            .map(|name| NodeStatus {
                name: name.clone(),
                seen: self.world.observed.nodes.get(name).cloned(),
                drained: self.world.drained.contains(name),
                clock: self.nodes.get(name).and_then(|kept| kept.clock),
                instances: there(name),
            })
            .collect()
    }
}
