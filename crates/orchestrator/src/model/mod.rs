//! What a stack is, after everything written about it has been read, checked and defaulted.
//!
//! These types are what the planner decides on. They hold no text positions and no syntax; `harness-config` makes
//! them from a file, a test makes them by hand. They are serialisable because the command line hands a whole
//! [`Stack`] to the daemon, and the daemon keeps it: a field that is added later needs `#[serde(default)]`, and the
//! samples in `samples/` must be read for ever.

mod health;
mod name;
mod policy;
mod rewrite;
mod service;
mod target;
mod template;

pub use health::{HealthCheck, HttpProbe, Probe};
pub use name::{InstanceName, InvalidName, ServiceName};
pub use policy::{
    Backoff, Condition, Dependency, Deployment, OnDependencyChange, OnDependencyFailure, OnNodeLoss,
    OnUnhealthy, Restart, RestartPolicy, Scaling, Strategy,
};
pub use service::{
    FileCopy, LogPolicy, NameView, Port, PortNumber, Protocol, Resources, Role, SecretSource, Service, Signal,
};
pub use target::{Attach, ManagedCommands, Target};
pub use template::{Field, Reference, Segment, Subject, Template};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What one services.yaml declares: the services and tasks in the order of the file, the networks and the nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// The project's name: `name:`, or the name of the file's folder.
    pub name: String,
    /// Free text for people.
    pub description: Option<String>,
    /// The folder of the file: relative paths were made absolute against it, processes run in it by default.
    pub folder: PathBuf,
    /// Services and tasks, in the file's order. Only those whose profiles are active.
    pub services: IndexMap<ServiceName, Arc<Service>>,
    /// Networks, in the file's order; `local` is always there.
    #[serde(default)]
    pub networks: IndexMap<String, Network>,
    /// Machines other than this one, in the file's order.
    #[serde(default)]
    pub nodes: IndexMap<String, Node>,
    /// Where `${secrets.NAME}` takes its value from; read on the machine that runs the service.
    #[serde(default)]
    pub secrets: IndexMap<String, SecretSource>,
    /// The DNS zone that services are found in too, if there is to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
}

/// A DNS zone with the services' names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Its name, in lower case and without a dot at the end: `shop.test`.
    pub name: String,
    /// Where each node is asked, a loopback address; `None` is one of the stack's own.
    pub listen: Option<SocketAddr>,
}

/// A network that services can be on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// How the members reach each other.
    pub kind: NetworkKind,
    /// IPv4 subnet in CIDR form, where the kind has one.
    pub subnet: Option<String>,
    /// Name of the network interface, where the kind has one.
    pub interface: Option<String>,
}

/// The kinds of [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// This machine only.
    Local,
    /// Machines that reach each other directly.
    Lan,
    /// An encrypted overlay.
    Wireguard,
    /// The best path for each pair of nodes.
    Auto,
}

/// A machine other than this one, reached over SSH.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Address or name that `ssh` understands.
    pub host: String,
    /// TCP port of its sshd; `None` leaves it to ssh's own configuration.
    pub port: Option<u16>,
    /// User to log in as.
    pub user: Option<String>,
    /// Private key file.
    pub identity_file: Option<PathBuf>,
    /// Whether commands there may be run as root through sudo.
    #[serde(default)]
    pub sudo: bool,
    /// Name of a node or host to go through.
    pub jump: Option<String>,
    /// Networks that it is a member of.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Region it stands in.
    pub region: Option<String>,
    /// Labels for placement.
    #[serde(default)]
    pub labels: IndexMap<String, String>,
}

impl Stack {
    /// All instances that the file asks for, in the file's order, `web-1` before `web-2`.
    pub fn instances(&self) -> impl Iterator<Item = (InstanceName, &Arc<Service>)> {
        self.services.values().flat_map(|service| {
            (1..=service.replicas).map(move |n| (InstanceName::new(service.name.clone(), n), service))
        })
    }

    /// The service of that name.
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Wish, WishGoal};
    use serde_json::{Value, json};

    #[test]
    fn samples_of_every_version_are_read() {
        let stack: Stack = serde_json::from_str(include_str!("../../samples/stack-v1.json")).unwrap();
        let names: Vec<&str> = stack.services.keys().map(ServiceName::as_str).collect();
        assert_eq!(names, ["db", "web", "spare", "migrate"], "in the file's order");
        let web = stack.service("web").unwrap();
        assert_eq!(web.dependencies.len(), 1);
        assert_eq!(serde_json::from_value::<Stack>(serde_json::to_value(&stack).unwrap()).unwrap(), stack);
        let wish: Wish = serde_json::from_str(include_str!("../../samples/wish-v1.json")).unwrap();
        assert_eq!((wish.goal, &wish.service.name), (WishGoal::Up, &web.name));
    }

    /// What an older program leaves out and what a newer one adds are no reason to lose a stack.
    #[test]
    fn fields_that_are_missing_or_unknown_do_no_harm() {
        let mut stack: Value = serde_json::from_str(include_str!("../../samples/stack-v1.json")).unwrap();
        stack["of_a_later_version"] = json!([1]);
        for key in ["networks", "nodes", "secrets", "description"] {
            stack.as_object_mut().unwrap().remove(key);
        }
        for service in stack["services"].as_object_mut().unwrap().values_mut() {
            service["of_a_later_version"] = json!({"a": 1});
            for key in [
                "env",
                "ports",
                "labels",
                "profiles",
                "placement",
                "files",
                "init",
                "source",
                "user",
                "names",
            ] {
                service.as_object_mut().unwrap().remove(key);
            }
        }
        let stack: Stack = serde_json::from_value(stack).unwrap();
        assert!(stack.services.values().all(|service| service.ports.is_empty() && service.labels.is_empty()));
    }
}
