//! Fills the holes of a service's texts: "db as seen from web".

mod address;
mod assign;
mod names;
mod probe;
mod target;
#[cfg(test)]
mod tests;

pub use address::{View, fill};
pub use assign::{SECRETS_VARIABLE, assigned};
pub use names::{ambassadors, has_hosts_file, hosts_file, names};
pub use probe::ResolvedProbe;
pub use target::{Attached, ContainerSpec, PackageSpec, PublishedPort, ResolvedTarget};

use super::{AddressLeases, ContainerNetwork, PortLeases, Sites, Virtuals};
use crate::model::{InstanceName, Network, Service, ServiceName, Subject, Template};
use address::Asked;
use indexmap::IndexMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// An instance with every hole filled: what a node needs to run it.
#[derive(Clone, PartialEq)]
pub struct Resolved {
    /// What it is.
    pub target: ResolvedTarget,
    /// The whole environment, sorted.
    pub env: Vec<(String, String)>,
    /// Folder to run in; in a container the image's own unless one is named.
    pub working_dir: Option<PathBuf>,
    /// User to run as.
    pub user: Option<String>,
    /// Group to run as.
    pub group: Option<String>,
    /// Names that it resolves besides those of its machine, with their addresses: see [`names`].
    pub names: BTreeMap<String, String>,
    /// The services that ambassadors stand for in its container network: see [`ambassadors`].
    pub ambassadors: BTreeMap<String, BTreeSet<u16>>,
}

/// A hole that can't be filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// It names a service that the stack doesn't have.
    #[error("{reference} in {instance}: there is no service {service}")]
    NoService {
        /// The hole.
        reference: String,
        /// Where it stands.
        instance: InstanceName,
        /// What it names.
        service: String,
    },
    /// It asks for a port that isn't declared.
    #[error("{reference} in {instance}: {service} declares no such port")]
    NoPort {
        /// The hole.
        reference: String,
        /// Where it stands.
        instance: InstanceName,
        /// What it names.
        service: String,
    },
    /// It asks for a secret that isn't there.
    #[error("{reference} in {instance}: the secret has no value")]
    NoSecret {
        /// The hole.
        reference: String,
        /// Where it stands.
        instance: InstanceName,
    },
    /// A port to probe isn't a number.
    #[error("{text:?} in the health check of {instance} is no port")]
    BadPort {
        /// What stands there.
        text: String,
        /// Where it stands.
        instance: InstanceName,
    },
    /// It asks for the address of a service whose network doesn't leave its machine.
    #[error(
        "{reference} in {instance}: {service} is on the network {network}, which doesn't leave its machine: put it on another"
    )]
    Apart {
        /// The hole.
        reference: String,
        /// Where it stands.
        instance: InstanceName,
        /// What it names.
        service: String,
        /// The network.
        network: String,
    },
    /// It asks for an address in the stack's container network, and there is none; or for one of another node that isn't known.
    #[error(
        "{reference} in {instance}: {service} has no address, because its container engine or its node can't be reached"
    )]
    NoAddress {
        /// The hole.
        reference: String,
        /// Where it stands.
        instance: InstanceName,
        /// What it names.
        service: String,
    },
}

/// Who asks, and what there is to see.
#[derive(Clone, Copy)]
pub struct Caller<'a, 's> {
    /// The instance that asks.
    pub instance: &'a InstanceName,
    /// Its definition.
    pub service: &'a Service,
    /// From where it looks.
    pub view: View,
    /// Whether it is the instance itself that looks, with the names that it is given. A health check of a process looks from
    /// beside it.
    pub inside: bool,
    /// Looks up another service's definition.
    pub lookup: &'a dyn Fn(&ServiceName) -> Option<&'s Service>,
    /// The ports that instances have.
    pub leases: &'a PortLeases,
    /// The stack's container network, if there is one.
    pub network: Option<&'a ContainerNetwork>,
    /// The addresses that instances have in it.
    pub addresses: &'a AddressLeases,
    /// Where other nodes stand.
    pub sites: &'a Sites,
    /// The virtual addresses of services.
    pub virtuals: &'a Virtuals,
    /// The networks of the stack.
    pub networks: &'a IndexMap<String, Network>,
    /// Values of secrets by name.
    pub secrets: &'a BTreeMap<String, String>,
}

impl Caller<'_, '_> {
    /// As what a command sees that is run for the instance: in its container with its names, on the machine beside it.
    pub fn beside(&self) -> Self {
        Self { inside: self.inside && self.view != View::Machine, ..*self }
    }

    /// What addresses depend on.
    fn sight(&self) -> Sight<'_> {
        Sight {
            node: self.service.host.as_deref(),
            view: self.view,
            leases: self.leases,
            network: self.network,
            addresses: self.addresses,
            sites: self.sites,
            virtuals: self.virtuals,
            networks: self.networks,
        }
    }
}

/// From where addresses are looked at, and what they depend on.
#[derive(Clone, Copy)]
pub(crate) struct Sight<'a> {
    /// The node; `None` is the project's own.
    pub(crate) node: Option<&'a str>,
    pub(crate) view: View,
    pub(crate) leases: &'a PortLeases,
    pub(crate) network: Option<&'a ContainerNetwork>,
    pub(crate) addresses: &'a AddressLeases,
    pub(crate) sites: &'a Sites,
    pub(crate) virtuals: &'a Virtuals,
    pub(crate) networks: &'a IndexMap<String, Network>,
}

impl Sight<'_> {
    /// From a container or from the machine, whatever else is beside it.
    fn inside_or_not(&self) -> View {
        match self.view {
            View::Machine => View::Machine,
            View::Container | View::Ambassador | View::Enclosed => View::Container,
        }
    }

    /// Where the service is reached from there, if it has an IP address.
    pub(super) fn ip(&self, service: &Service) -> Option<IpAddr> {
        Asked::first(service).ip(self)?.parse().ok()
    }

    /// At which number its port of that name is reached from there.
    pub(super) fn port(&self, service: &Service, name: &str) -> Option<u16> {
        Asked::first(service).port(self, Some(name))
    }
}

/// The instance with every hole filled. `inherited` is what a process inherits; a container gets only what is declared.
///
/// # Errors
/// See [`Unresolved`].
pub fn resolve(
    caller: &Caller<'_, '_>,
    inherited: &BTreeMap<String, String>,
    folder: &std::path::Path,
    node: &str,
) -> Result<Resolved, Unresolved> {
    let service = caller.service;
    if let Some(host) = &service.host {
        let service = Box::new(assigned(caller, host)?);
        let target = ResolvedTarget::Elsewhere { node: host.clone(), service };
        return Ok(Resolved {
            target,
            env: Vec::new(),
            working_dir: None,
            user: None,
            group: None,
            names: BTreeMap::new(),
            ambassadors: BTreeMap::new(),
        });
    }
    let optional = |template: &Option<Template>| template.as_ref().map(|text| fill(caller, text)).transpose();
    let (none, inside) = (BTreeMap::new(), matches!(service.target, crate::model::Target::Docker { .. }));
    let base = if inside { &none } else { inherited };
    let own = optional(&service.working_dir)?.map(PathBuf::from);
    Ok(Resolved {
        target: target::target(caller)?,
        env: environment(caller, base, node)?,
        working_dir: if inside { own } else { own.or_else(|| Some(folder.to_path_buf())) },
        user: optional(&service.user)?,
        group: optional(&service.group)?,
        names: names(caller),
        ambassadors: ambassadors(caller),
    })
}

/// What it inherits, then what it is told about itself and its dependencies, then its own variables.
fn environment(
    caller: &Caller<'_, '_>,
    base: &BTreeMap<String, String>,
    node: &str,
) -> Result<Vec<(String, String)>, Unresolved> {
    let mut env = base.clone();
    env.extend(variables(caller, node));
    for (name, value) in &caller.service.env {
        env.insert(name.clone(), fill(caller, value)?);
    }
    Ok(env.into_iter().collect())
}

/// What an instance is told about itself and its dependencies.
fn variables(caller: &Caller<'_, '_>, node: &str) -> BTreeMap<String, String> {
    let service = caller.service;
    let mut env = BTreeMap::new();
    for dependency in service.dependencies.keys() {
        let Some(target) = (caller.lookup)(dependency) else { continue };
        let prefix = dependency.variable_prefix();
        let target = Asked::first(target);
        if let Some(host) = target.host(caller) {
            env.insert(format!("{prefix}_HOST"), host);
        }
        if let Some(port) = target.port(&caller.sight(), None) {
            env.insert(format!("{prefix}_PORT"), port.to_string());
            if let Some(ip) = target.ip(&caller.sight()) {
                env.insert(format!("{prefix}_ADDR"), format!("{}:{port}", address::bracketed(&ip)));
            }
        }
    }
    if let Some(port) = Asked::own(caller).port(&caller.sight(), None) {
        env.insert("PORT".into(), port.to_string());
    }
    env.insert("HARNESS_SERVICE".into(), service.name.to_string());
    env.insert("HARNESS_INSTANCE".into(), caller.instance.to_string());
    env.insert("HARNESS_NODE".into(), node.into());
    env
}

/// What stands behind the references of `caller`'s service to other services: `${db.port}` → `5432`. One that can't be
/// resolved is left out; starting says so.
pub fn given(caller: &Caller<'_, '_>) -> BTreeMap<String, String> {
    let references = caller.service.templates().flat_map(Template::references);
    references
        .filter(|reference| matches!(reference.subject, Subject::Service(_)))
        .filter_map(|reference| Some((reference.to_string(), address::value(caller, reference).ok()?)))
        .collect()
}
