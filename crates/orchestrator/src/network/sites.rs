//! The addresses by which nodes see each other.

use crate::model::Node;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// What is known of where nodes stand. Kept, so that a daemon that returns sees the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sites {
    sites: BTreeMap<String, Site>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Site {
    /// Address or name of it in the file.
    host: String,
    /// By which it sees this machine.
    near: Option<IpAddr>,
    /// By which this machine sees it.
    far: Option<IpAddr>,
    /// Of the container network there: that machine, as the stack's containers on it see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<Ipv4Addr>,
}

impl Sites {
    /// Takes the nodes of a file. What was seen of one whose address has changed is forgotten.
    pub fn know(&mut self, nodes: &IndexMap<String, Node>) {
        self.sites.retain(|name, site| nodes.get(name).is_some_and(|node| node.host == site.host));
        for (name, node) in nodes {
            let site = self.sites.entry(name.clone()).or_default();
            site.host.clone_from(&node.host);
        }
    }

    /// Takes what a connection to a node has shown. The answer: whether it is new.
    pub fn saw(&mut self, node: &str, near: Option<IpAddr>, far: Option<IpAddr>) -> bool {
        let Some(site) = self.sites.get_mut(node) else { return false };
        let new = (near.is_some() && near != site.near) || (far.is_some() && far != site.far);
        site.near = near.or(site.near);
        site.far = far.or(site.far);
        new
    }

    /// Takes the gateway of the container network on a node. The answer: whether it is new.
    pub fn has_gateway(&mut self, node: &str, gateway: Ipv4Addr) -> bool {
        let Some(site) = self.sites.get_mut(node) else { return false };
        site.gateway.replace(gateway) != Some(gateway)
    }

    /// The gateway of the container network on a node, if it has one and has told it.
    pub fn gateway(&self, node: &str) -> Option<Ipv4Addr> {
        self.sites.get(node)?.gateway
    }

    /// The address by which this machine reaches a node, as a connection has shown it.
    pub fn far(&self, node: &str) -> Option<IpAddr> {
        self.sites.get(node)?.far
    }

    /// The address by which a node reaches this machine, as a connection has shown it.
    pub fn near(&self, node: &str) -> Option<IpAddr> {
        self.sites.get(node)?.near
    }

    /// The address of `to` as `from` sees it; `None` is this machine, for both. What another node sees of this machine is
    /// known once there was a connection to it. Two other nodes are taken to see each other as this machine sees them.
    pub fn address(&self, from: Option<&str>, to: Option<&str>) -> Option<String> {
        match to {
            Some(to) => {
                let site = self.sites.get(to)?;
                Some(site.far.map_or_else(|| site.host.clone(), |address| address.to_string()))
            }
            None => Some(self.sites.get(from?)?.near?.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node;

    #[test]
    fn nodes_are_seen_by_the_addresses_that_connections_have_shown() {
        let mut sites = Sites::default();
        let mut nodes = IndexMap::from([("eu-1".to_owned(), node("eu1.example.com", &[]))]);
        sites.know(&nodes);
        assert_eq!(sites.address(None, Some("eu-1")).as_deref(), Some("eu1.example.com"));
        assert_eq!(sites.address(Some("eu-1"), None), None, "nobody knows yet");
        let (near, far) = ("10.0.0.9".parse().ok(), "10.0.0.1".parse().ok());
        assert!(sites.saw("eu-1", near, far) && !sites.saw("eu-1", near, None) && !sites.saw("x", near, far));
        assert_eq!(sites.address(None, Some("eu-1")).as_deref(), Some("10.0.0.1"));
        assert_eq!(sites.address(Some("eu-2"), Some("eu-1")).as_deref(), Some("10.0.0.1"));
        assert_eq!(sites.address(Some("eu-1"), None).as_deref(), Some("10.0.0.9"));
        let gateway = Ipv4Addr::new(172, 20, 0, 1);
        assert!(sites.has_gateway("eu-1", gateway) && !sites.has_gateway("eu-1", gateway));
        assert!(!sites.has_gateway("x", gateway));
        assert_eq!((sites.gateway("eu-1"), sites.far("eu-1")), (Some(gateway), far));
        let text = serde_json::to_string(&sites).unwrap();
        assert_eq!(serde_json::from_str::<Sites>(&text).unwrap(), sites);
        nodes.insert("eu-1".to_owned(), node("elsewhere.example.com", &[]));
        sites.know(&nodes);
        assert_eq!(sites.address(None, Some("eu-1")).as_deref(), Some("elsewhere.example.com"));
        sites.know(&IndexMap::new());
        assert_eq!(sites.address(None, Some("eu-1")), None);
    }
}
