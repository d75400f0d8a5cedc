//! What a stack is, after everything written about it has been read, checked and defaulted.
//!
//! These types are what the planner decides on. They hold no text positions and no syntax; `harness-config` makes
//! them from a file, a test makes them by hand. They are serialisable because the command line hands a whole
//! [`Stack`] to the daemon.

mod health;
mod name;
mod policy;
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
    pub networks: IndexMap<String, Network>,
    /// Machines other than this one, in the file's order.
    pub nodes: IndexMap<String, Node>,
    /// Where `${secrets.NAME}` takes its value from; read on the machine that runs the service.
    pub secrets: IndexMap<String, SecretSource>,
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
    pub sudo: bool,
    /// Name of a node or host to go through.
    pub jump: Option<String>,
    /// Networks that it is a member of.
    pub networks: Vec<String>,
    /// Region it stands in.
    pub region: Option<String>,
    /// Labels for placement.
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
