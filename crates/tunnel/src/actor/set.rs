//! A new configuration: what differs is changed, the rest goes on.

use super::peer::{self, Other};
use super::wire::{Change, Spec};
use super::{Actor, Instant};
use crate::config::{Config, Error};
use crate::keep;
use crate::overlay;
use crate::probe::{Key, MAX_NAME};
use crate::route::Routes;
use crate::udp::Identity;
use gotatun::x25519::PublicKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most other nodes.
const NODES: usize = 4096;
/// Seconds after which a NAT may forget the way from the hub.
const KEEP_ALIVE: u16 = 20;

/// Whether it can be served; the keys of the others, read.
fn check(config: &Config) -> Result<BTreeMap<String, PublicKey>, Error> {
    let refuse = |what: String| Err(Error::Config(what));
    if config.peers.len() > NODES {
        return refuse(format!(
            "{} nodes are more than the {NODES} that tunnels can have",
            config.peers.len()
        ));
    }
    let names = config.peers.keys().chain([&config.node]);
    if let Some(name) = names.into_iter().find(|name| name.is_empty() || name.len() > MAX_NAME) {
        return refuse(format!("the name of a node has 1 to {MAX_NAME} bytes, unlike `{name}`"));
    }
    if config.peers.contains_key(&config.node) {
        return refuse(format!("{} can't be another end of its own tunnels", config.node));
    }
    if let Some(hub) = config.hub.as_ref().filter(|hub| !config.peers.contains_key(*hub)) {
        return refuse(format!("the hub {hub} isn't among the other nodes"));
    }
    let mut addresses = BTreeSet::new();
    let mut keys = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (name, address) in config.addresses() {
        if !addresses.insert(address) || !addresses.insert(overlay::straight(address)) {
            return refuse(format!("{address} of {name} is another node's too, or can't be told from it"));
        }
    }
    for (name, peer) in &config.peers {
        let Some(key) = keep::public_key(&peer.public_key) else {
            return refuse(format!("the public key of {name} isn't 32 bytes in base64"));
        };
        if !taken.insert(key.to_bytes()) {
            return refuse(format!("{name} has the public key of another node"));
        }
        keys.insert(name.clone(), key);
    }
    Ok(keys)
}

impl Config {
    fn addresses(&self) -> impl Iterator<Item = (&String, std::net::Ipv4Addr)> {
        let others = self.peers.iter().flat_map(|(name, peer)| {
            std::iter::once(peer.address).chain(peer.interface).map(move |address| (name, address))
        });
        let own = std::iter::once(self.address).chain(self.interface.as_ref().map(|it| it.address));
        others.chain(own.map(|address| (&self.node, address)))
    }
}

impl Actor {
    /// Serves that from now on.
    pub(super) async fn set(&mut self, config: Config) -> Result<(), Error> {
        if self.config.as_ref() == Some(&config) && config.key_epoch <= self.key.epoch {
            return Ok(());
        }
        let keys = check(&config)?;
        let rotated = config.key_epoch > self.key.epoch;
        if rotated {
            self.key = self.folder.new_key(config.key_epoch)?;
        }
        let before = self.config.take();
        let known = before.as_ref().map(|before| (&before.node, &before.probe_key));
        if known != Some((&config.node, &config.probe_key)) {
            let identity = Identity { name: config.node.clone(), key: Key::new(&config.probe_key) };
            self.identity.send_replace(Some(Arc::new(identity)));
        }
        let seen = self.wire.look().await;
        let secret = rotated.then(|| self.key.secret.clone());
        let mut change = Change { secret, ..Change::default() };
        let gone = self.take_leave(&config, &keys, &mut change);
        let mut anew = self.welcome(&config, &keys, &seen, &mut change);
        self.adjust(&config, before.as_ref(), &anew, &mut change);
        let (address, first) = (config.address, before.is_none());
        self.config = Some(config);
        self.wire.change(change).await?;
        for gone in gone {
            self.stack.reset(gone);
        }
        self.stack.set_address(address);
        if rotated {
            anew.extend(self.others.keys().cloned());
        }
        self.set_interface().await;
        self.publish();
        self.begin(&anew, first, rotated);
        Ok(())
    }

    /// Forgets who is no longer there, or is another one by the same name. Their addresses.
    fn take_leave(
        &mut self,
        config: &Config,
        keys: &BTreeMap<String, PublicKey>,
        change: &mut Change,
    ) -> Vec<std::net::Ipv4Addr> {
        let mut gone = Vec::new();
        self.others.retain(|name, other| {
            let now = config.peers.get(name);
            if now.map(|now| now.address) != Some(other.config.address) {
                gone.push(other.config.address);
                change.remove.push(other.key);
                return false;
            }
            if keys.get(name) != Some(&other.key) {
                // The same node with another key: it is met again below, and its streams go on.
                change.remove.push(other.key);
            }
            true
        });
        self.seen_as.retain(|name, _| config.peers.contains_key(name));
        gone
    }

    /// Takes in who is new, or has another key. Their names.
    fn welcome(
        &mut self,
        config: &Config,
        keys: &BTreeMap<String, PublicKey>,
        seen: &std::collections::HashMap<[u8; 32], super::wire::Seen>,
        change: &mut Change,
    ) -> Vec<String> {
        let mut anew = Vec::new();
        for (name, peer) in &config.peers {
            let Some(key) = keys.get(name) else { continue };
            match self.others.get_mut(name) {
                Some(other) if other.key == *key => {
                    if other.config.candidates != peer.candidates {
                        other.due = Some(Instant::now());
                    }
                    other.config = peer.clone();
                    continue;
                }
                Some(other) => {
                    let seen = seen.get(&other.key.to_bytes()).copied().unwrap_or_default();
                    other.endpoint = seen.endpoint.or(other.endpoint);
                    other.before = (other.before.0 + seen.rx, other.before.1 + seen.tx);
                    other.key = *key;
                    other.config = peer.clone();
                    other.shaking = None;
                }
                None => {
                    let endpoint = self.last.endpoints.get(name).copied();
                    self.others.insert(name.clone(), Other::new(name, peer.clone(), *key, endpoint));
                }
            }
            anew.push(name.clone());
        }
        change.add = anew.iter().filter_map(|name| self.spec(name, config)).collect();
        anew
    }

    /// Has tunnels that stay let through what they should, if that isn't what it was.
    fn adjust(&self, config: &Config, before: Option<&Config>, anew: &[String], change: &mut Change) {
        let Some(before) = before else { return };
        for name in self.others.keys().filter(|name| !anew.contains(name)) {
            let hub = config.hub.as_deref();
            let differs = peer::allowed(name, hub, &config.peers)
                != peer::allowed(name, before.hub.as_deref(), &before.peers)
                || (hub == Some(name)) != (before.hub.as_ref() == Some(name));
            if differs {
                change.modify.extend(self.spec(name, config));
            }
        }
    }

    /// The tunnel to that node.
    pub(super) fn spec(&self, name: &str, config: &Config) -> Option<Spec> {
        let other = self.others.get(name)?;
        let hub = config.hub.as_deref();
        Some(Spec {
            key: other.key,
            endpoint: other.endpoint,
            allowed: peer::allowed(name, hub, &config.peers),
            keep_alive: (hub == Some(name)).then_some(KEEP_ALIVE),
        })
    }

    pub(super) fn publish(&self) {
        let Some(config) = &self.config else { return };
        let hub = config.hub.as_ref().and_then(|hub| config.peers.get(hub)).map(|hub| hub.address);
        let nodes = self.others.values().map(|other| (other.config.address, Arc::clone(&other.node)));
        let interfaces = self.others.values();
        let interfaces =
            interfaces.filter_map(|other| Some((other.config.interface?, Arc::clone(&other.node))));
        let routes = Routes {
            own: Some(config.address),
            interface: self.interface.as_ref().map(|it| (it.config.address, it.to.clone())),
            relays: hub.is_none(),
            hub,
            nodes: nodes.collect(),
            interfaces: interfaces.collect(),
        };
        self.routes.send_replace(Arc::new(routes));
        self.ways.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Meets those who are to be met without being asked for: the hub, as the hub those who were there before it
    /// started, and those with whom there was a tunnel under another key.
    fn begin(&mut self, anew: &[String], first: bool, rotated: bool) {
        let hub = self.hub().map(str::to_owned);
        for name in anew {
            let Some(other) = self.others.get(name) else { continue };
            let met = other.path.is_straight() || other.wanted.is_some();
            let is_hub = hub.as_ref() == Some(name);
            let waits_for_me = first && hub.is_none();
            if other.endpoint.is_some() && (met || is_hub || waits_for_me) {
                self.shake(name, 0);
            }
        }
        if let Some(other) = hub.and_then(|hub| self.others.get_mut(&hub))
            && !rotated
        {
            other.due.get_or_insert(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Peer;
    use base64::Engine as _;

    fn config() -> Config {
        let peer = |n: u8| Peer {
            public_key: base64::engine::general_purpose::STANDARD.encode([n; 32]),
            address: [10, 210, n, 1].into(),
            interface: None,
            candidates: Vec::new(),
        };
        Config {
            node: "a".to_owned(),
            address: [10, 210, 0, 1].into(),
            probe_key: [1; 32],
            key_epoch: 0,
            hub: Some("b".to_owned()),
            interface: None,
            peers: [("b".to_owned(), peer(1)), ("c".to_owned(), peer(2))].into(),
        }
    }

    #[test]
    fn a_configuration_that_cannot_be_served_is_refused() {
        assert_eq!(check(&config()).unwrap().len(), 2);
        type Case = (&'static str, fn(&mut Config));
        let cases: [Case; 7] = [
            ("isn't among", |c| c.hub = Some("d".to_owned())),
            ("another node's too", |c| c.address = [10, 210, 1, 1].into()),
            ("can't be told", |c| c.address = [250, 210, 1, 1].into()),
            ("isn't 32 bytes", |c| c.peers.get_mut("b").unwrap().public_key = "AAAA".to_owned()),
            ("public key of another", |c| {
                c.peers.get_mut("b").unwrap().public_key = c.peers["c"].public_key.clone();
            }),
            ("its own tunnels", |c| c.node = "b".to_owned()),
            ("1 to 255 bytes", |c| c.node = "x".repeat(300)),
        ];
        for (what, spoil) in cases {
            let mut config = config();
            spoil(&mut config);
            let error = check(&config).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        assert!(!format!("{:?}", config()).contains("probe_key"));
    }
}
