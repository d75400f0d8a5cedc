//! What follows when this machine's addresses or routes change, and the report.

use super::Actor;
use crate::addresses::{self, Outlook};
use crate::config::{InterfaceState, Report, State};
use crate::interface::{Interface, Way};
use std::collections::BTreeMap;

impl Actor {
    /// Addresses or routes may have changed. Where that matters tunnels begin anew, so that the other ends learn at once
    /// where this one is now: left alone, that took 15 s.
    pub(super) async fn network_changed(&mut self) {
        let sessions = self.sessions().await;
        let outlook = Outlook::now(sessions.iter().map(|(_, place)| *place), self.interface_name());
        let before = std::mem::replace(&mut self.outlook, outlook);
        let everywhere =
            before.addresses != self.outlook.addresses || before.gateways != self.outlook.gateways;
        for (name, place) in sessions {
            let (was, is) = (before.from.get(&place), self.outlook.from.get(&place));
            if everywhere || was.is_some() && was != is {
                // A NAT may let nothing of the new address through. The hub does until a handshake has shown that it's fine.
                if !self.is_without_alternative(&name) {
                    self.demote(&name);
                }
                self.probe(&name);
                self.kick(&name).await;
            }
        }
        if everywhere && let Some(hub) = self.hub().map(str::to_owned) {
            self.probe(&hub);
        }
    }

    /// Makes an interface again that somebody has removed, or that couldn't be made: whoever was told why may have mended it.
    pub(super) async fn look_after_interface(&mut self) {
        let wanted = self.config.as_ref().is_some_and(|config| config.interface.is_some());
        let is_there = |this: &Self| this.interface.as_ref().is_some_and(Interface::is_there);
        if wanted && !is_there(self) {
            let had = self.interface.is_some();
            self.set_interface().await;
            if had || is_there(self) {
                self.publish();
            }
        }
    }

    /// Has the interface that is configured, if any. Without it everything else goes on.
    pub(super) async fn set_interface(&mut self) {
        let wanted = self.config.as_ref().and_then(|config| config.interface.as_ref());
        let is = self.interface.as_ref().filter(|interface| interface.is_there());
        if is.map(|interface| &interface.config) == wanted {
            return;
        }
        // The one before goes first: it may have the same name.
        let told = self.no_interface.take();
        let wanted = wanted.cloned();
        if let Some(before) = self.interface.take() {
            before.end().await;
        }
        let Some(wanted) = wanted else { return };
        let way = Way {
            routes: self.routes.subscribe(),
            outgoing: self.outgoing.clone(),
            hints: self.hints.clone(),
        };
        match Interface::make(&wanted, way) {
            Ok(made) => self.interface = Some(made),
            Err(error) => {
                let source = std::error::Error::source(&error).map(|source| format!(" ({source})"));
                let why = format!("{error}{}", source.unwrap_or_default());
                if told.as_ref() != Some(&why) {
                    tracing::warn!("{why}");
                }
                self.no_interface = Some(why);
            }
        }
    }

    fn interface_name(&self) -> Option<&str> {
        Some(&self.interface.as_ref()?.config.name)
    }

    fn interface_state(&self) -> Option<InterfaceState> {
        let wanted = self.config.as_ref()?.interface.as_ref()?;
        let is_there = self.interface.as_ref().is_some_and(Interface::is_there);
        let error = self.no_interface.clone();
        let error =
            error.or_else(|| (!is_there).then(|| format!("somebody removed the interface {}", wanted.name)));
        Some(InterfaceState { name: wanted.name.clone(), address: wanted.address, error })
    }

    /// How it is.
    pub(super) async fn report(&self) -> Report {
        let seen = self.wire.look().await;
        let hub = self.hub();
        let tunnels = self.others.iter().map(|(name, other)| {
            let seen = seen.get(&other.key.to_bytes()).copied().unwrap_or_default();
            let straight = other.path.is_straight();
            let state = State {
                endpoint: seen.endpoint.or(other.endpoint).filter(|_| straight),
                through_hub: !straight && hub.is_some_and(|hub| hub != name),
                handshake_s: seen.handshake.map(|age| age.as_secs()),
                rx: seen.rx.saturating_add(other.before.0),
                tx: seen.tx.saturating_add(other.before.1),
                rtt_us: other.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            };
            (name.clone(), state)
        });
        Report {
            public_key: self.key.public(),
            key_epoch: self.key.epoch,
            port: self.port,
            addresses: addresses::here(self.interface_name()),
            interface: self.interface_state(),
            seen_as: self.seen_as.clone(),
            tunnels: tunnels.collect::<BTreeMap<_, _>>(),
        }
    }
}
