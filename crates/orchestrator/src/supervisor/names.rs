//! Keeps the hosts files of what runs true.

use super::Supervisor;
use crate::network::{has_hosts_file, names};
use crate::node::Order;
use crate::plan::WishGoal;

impl Supervisor {
    /// Has the hosts files written anew that don't say any more where others are.
    pub(super) fn serve_names(&mut self) {
        let named = |name: &&crate::model::InstanceName| {
            let wish = self.world.desired.wishes.get(*name);
            wish.is_some_and(|wish| wish.goal == WishGoal::Up && has_hosts_file(&wish.service))
        };
        let living =
            self.world.observed.instances.iter().filter(|(name, seen)| named(name) && seen.is_live());
        let mut orders = Vec::new();
        for (instance, seen) in living {
            let Some(run) = seen.run().filter(|run| run.service.host.is_none()) else { continue };
            let now = self.seen_from(instance, &run.service, names);
            if self.names.get(instance) != Some(&now) {
                orders.push((instance.clone(), now));
            }
        }
        let observed = &self.world.observed;
        self.names.retain(|name, _| observed.get(name).is_some_and(|seen| seen.is_live()));
        for (instance, names) in orders {
            self.names.insert(instance.clone(), names.clone());
            self.engine.order(Order::Names { instance, names });
        }
    }
}
