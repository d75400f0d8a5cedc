//! Keeps the hosts files of what runs true, and who may have ambassadors.

use super::Supervisor;
use crate::network::ambassadors::Caller;
use crate::network::reach::has_ambassadors;
use crate::network::{ambassadors, has_hosts_file, names};
use crate::node::Order;
use crate::observed::Instance;
use crate::plan::WishGoal;
use std::collections::BTreeMap;

impl Supervisor {
    /// Tells the engine which instances call others by ambassadors, and whom, if that has changed.
    pub(super) fn serve_ambassadors(&mut self) {
        let mut callers = BTreeMap::new();
        for (instance, wish) in &self.world.desired.wishes {
            let live =
                self.world.observed.get(instance).filter(|seen| seen.is_live()).and_then(Instance::run);
            let service = live.map_or(&wish.service, |run| &run.service);
            let wanted = live.is_some() || wish.goal == WishGoal::Up;
            // Those of another node are its agent's.
            if wanted && service.host.is_none() && has_ambassadors(service) {
                let doors = self.seen_from(instance, service, ambassadors);
                callers.insert(instance.clone(), Caller { lives: live.is_some(), doors });
            }
        }
        let down = self.net.down;
        // Also the first time, with none: there may be some of a daemon before this one.
        if self.callers.as_ref().is_none_or(|(before, was)| (before, *was) != (&callers, down)) {
            self.callers = Some((callers.clone(), down));
            self.engine.order(Order::Ambassadors { callers, down });
        }
    }

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
