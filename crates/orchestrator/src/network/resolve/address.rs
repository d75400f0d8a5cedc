//! Where a service is reached, as seen from the instance that asks.

use super::{Caller, Sight, Unresolved, names};
use crate::model::{
    Attach, Field, InstanceName, Port, Protocol, Reference, Service, Subject, Target, Template,
};
use crate::network::reach::{
    Reach, Stand, door_port, has_ambassadors, is_loopback, is_wildcard, kind_of, reach,
};

/// From where something is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// From the machine itself.
    Machine,
    /// From a container in the stack's network.
    Container,
    /// The same, with ambassadors beside it for what isn't in that network.
    Ambassador,
    /// From the containers of a whole Compose file: in networks of their own, with ambassadors for everything else.
    Enclosed,
}

impl View {
    /// From where the instances of `service` look at others.
    pub fn from(service: &Service) -> Self {
        match &service.target {
            _ if !has_ambassadors(service) => Self::of(service),
            Target::Compose { service: None, .. } => Self::Enclosed,
            _ => Self::Ambassador,
        }
    }

    /// Where the instances of `service` are.
    pub fn of(service: &Service) -> Self {
        match &service.target {
            Target::Docker { .. } | Target::Compose { service: Some(_), .. } => Self::Container,
            _ => Self::Machine,
        }
    }
}

/// The address of everything on this machine, as everything on this machine sees it.
const LOOPBACK: &str = "127.0.0.1";
/// The name of this machine in the stack's containers.
pub(super) const MACHINE: &str = "host.docker.internal";

/// The text with every hole filled, as seen from `caller`.
///
/// # Errors
/// See [`Unresolved`].
pub fn fill(caller: &Caller<'_, '_>, template: &Template) -> Result<String, Unresolved> {
    template.fill(|reference| value(caller, reference))
}

pub(super) fn value(caller: &Caller<'_, '_>, reference: &Reference) -> Result<String, Unresolved> {
    match &reference.subject {
        Subject::Secret(name) => caller.secrets.get(name).cloned().ok_or_else(|| Unresolved::NoSecret {
            reference: reference.to_string(),
            instance: caller.instance.clone(),
        }),
        Subject::Own => {
            let own = Asked::own(caller);
            match &reference.field {
                Field::Name | Field::Value => Ok(caller.instance.to_string()),
                field => own.value(caller, reference, field),
            }
        }
        Subject::Service(name) => {
            let service = (caller.lookup)(name).ok_or_else(|| Unresolved::NoService {
                reference: reference.to_string(),
                instance: caller.instance.clone(),
                service: name.to_string(),
            })?;
            match &reference.field {
                Field::Name | Field::Value => Ok(name.to_string()),
                field => Asked::first(service).value(caller, reference, field),
            }
        }
    }
}

/// An instance that somebody wants to reach.
pub(super) struct Asked<'a> {
    service: &'a Service,
    instance: InstanceName,
    /// Whether it is the caller itself: no address of the service as a whole is meant.
    own: bool,
}

impl<'a> Asked<'a> {
    /// Another service: the first instance of it, where that is reached by its own address.
    pub(super) fn first(service: &'a Service) -> Self {
        Self { service, instance: InstanceName::new(service.name.clone(), 1), own: false }
    }

    /// The caller itself.
    pub(super) fn own(caller: &Caller<'a, '_>) -> Self {
        Self { service: caller.service, instance: caller.instance.clone(), own: true }
    }

    fn reach(&self, sight: &Sight<'_>) -> Reach {
        if self.own {
            return Reach::Direct;
        }
        let from = Stand { node: sight.node, view: sight.view };
        reach(kind_of(sight.networks, self.service), from, self.service, self.service.host.as_deref())
    }

    fn value(
        &self,
        caller: &Caller<'_, '_>,
        reference: &Reference,
        field: &Field,
    ) -> Result<String, Unresolved> {
        let nowhere = || Unresolved::NoAddress {
            reference: reference.to_string(),
            instance: caller.instance.clone(),
            service: self.service.name.to_string(),
        };
        let sight = &caller.sight();
        let asks_for_address = matches!(field, Field::Ip | Field::Host | Field::Url);
        if asks_for_address && self.reach(sight) == Reach::Apart {
            return Err(Unresolved::Apart {
                reference: reference.to_string(),
                instance: caller.instance.clone(),
                service: self.service.name.to_string(),
                network: self.service.network.clone().unwrap_or_default(),
            });
        }
        let no_port = || Unresolved::NoPort {
            reference: reference.to_string(),
            instance: caller.instance.clone(),
            service: self.service.name.to_string(),
        };
        let port = |name: Option<&str>| self.port(sight, name).ok_or_else(no_port);
        match field {
            Field::Ip => self.ip(sight).ok_or_else(nowhere),
            Field::Host => self.host(caller).ok_or_else(nowhere),
            Field::Port(name) => Ok(port(name.as_deref())?.to_string()),
            Field::Url => {
                let port = port(None)?;
                Ok(format!("{}://{}:{port}", self.scheme(), bracketed(&self.ip(sight).ok_or_else(nowhere)?)))
            }
            Field::Name | Field::Value => Ok(self.service.name.to_string()),
        }
    }

    /// The name of the first port where that is a scheme, else `http`.
    fn scheme(&self) -> &str {
        let name = self.service.ports.first().and_then(|port| port.name.as_deref());
        name.filter(|name| SCHEMES.contains(name)).unwrap_or("http")
    }

    /// Its address; `None` for one in a container network that isn't there.
    pub(super) fn ip(&self, sight: &Sight<'_>) -> Option<String> {
        match self.reach(sight) {
            Reach::Direct => self.own_ip(sight),
            Reach::Virtual => Some(sight.virtuals.address(&self.service.name)?.to_string()),
            Reach::Gateway => gateway(sight),
            // Which address the ambassador has is known to the engine alone.
            Reach::Ambassador => Some(self.service.name.to_string()),
            Reach::Apart => None,
        }
    }

    fn own_ip(&self, sight: &Sight<'_>) -> Option<String> {
        if let Target::Attach(Attach::External { host, .. }) = &self.service.target {
            return host.as_literal();
        }
        let address = self.service.ports.first().and_then(|port| port.address.as_deref());
        let listens = address.filter(|address| !is_wildcard(address));
        let (from, to) = (sight.node, self.service.host.as_deref());
        if from != to {
            let open = listens.filter(|address| !is_loopback(address)).map(str::to_owned);
            return open.or_else(|| sight.sites.address(from, to));
        }
        if to.is_some() {
            return self.on_the_same_node(sight, listens);
        }
        match (sight.inside_or_not(), View::of(self.service)) {
            (View::Container, View::Container) => self.leased(sight),
            // What isn't published is reached where it is: this machine is in the container network too.
            (View::Machine, View::Container) if self.service.ports.is_empty() => self.leased(sight),
            (View::Machine, _) => Some(listens.unwrap_or(LOOPBACK).to_owned()),
            (_, _) => match listens.filter(|address| !is_loopback(address)) {
                Some(address) => Some(address.to_owned()),
                None => gateway(sight),
            },
        }
    }

    /// Beside the caller, on another node: addresses in the container network there are its agent's to give, and are known
    /// by name.
    fn on_the_same_node(&self, sight: &Sight<'_>, listens: Option<&str>) -> Option<String> {
        match (sight.inside_or_not(), View::of(self.service)) {
            (View::Container, View::Container) => Some(self.service.name.to_string()),
            (View::Machine, View::Container) if self.service.ports.is_empty() => None,
            (View::Machine, _) => Some(listens.unwrap_or(LOOPBACK).to_owned()),
            (_, _) => Some(listens.filter(|address| !is_loopback(address)).unwrap_or(MACHINE).to_owned()),
        }
    }

    fn leased(&self, sight: &Sight<'_>) -> Option<String> {
        Some(sight.addresses.address(sight.network?, &self.instance)?.to_string())
    }

    /// A name that resolves where the caller is.
    pub(super) fn host(&self, caller: &Caller<'_, '_>) -> Option<String> {
        if !self.own && names::is_named(caller, self, &self.service.name) {
            return Some(self.service.name.to_string());
        }
        let sight = &caller.sight();
        match self.reach(sight) {
            Reach::Gateway => return Some(MACHINE.to_owned()),
            Reach::Ambassador => return Some(self.service.name.to_string()),
            Reach::Direct if sight.node == self.service.host.as_deref() => {}
            _ => return self.ip(sight),
        }
        match (sight.inside_or_not(), View::of(self.service)) {
            (View::Container, View::Container) => Some(self.service.name.to_string()),
            (View::Container, _) if !self.is_external() => Some(MACHINE.to_owned()),
            _ => self.ip(sight).map(|ip| if ip == LOOPBACK { "localhost".into() } else { ip }),
        }
    }

    /// Whether it is a container on the caller's node: in the stack's network there it has its name.
    pub(super) fn is_beside(&self, caller: &Caller<'_, '_>) -> bool {
        View::of(self.service) == View::Container && caller.service.host == self.service.host
    }

    fn is_external(&self) -> bool {
        matches!(self.service.target, Target::Attach(Attach::External { .. }))
    }

    /// The first port, or the named one, as it is reached from where the caller is.
    pub(super) fn port(&self, sight: &Sight<'_>, name: Option<&str>) -> Option<u16> {
        if let (Target::Attach(Attach::External { port, .. }), None) = (&self.service.target, name) {
            return Some(*port);
        }
        let position = position(&self.service.ports, name)?;
        if self.service.ports.get(position)?.protocol == Protocol::Tcp {
            match self.reach(sight) {
                Reach::Virtual => return sight.virtuals.port(sight.leases, self.service, position),
                Reach::Gateway => return sight.leases.service_port(&self.service.name, position),
                Reach::Ambassador => return door_port(sight.leases, self.service, position),
                Reach::Direct | Reach::Apart => {}
            }
        }
        let number = sight.leases.port(&self.instance, self.service, position)?;
        let together = sight.node == self.service.host.as_deref();
        let inside =
            together && sight.inside_or_not() == View::Container && View::of(self.service) == View::Container;
        let target = self.service.ports.get(position)?.target.filter(|_| inside);
        Some(target.unwrap_or(number))
    }
}

/// This machine, as a container of the caller's sees it: of another node only the name there is known.
fn gateway(sight: &Sight<'_>) -> Option<String> {
    match sight.node {
        Some(_) => Some(MACHINE.to_owned()),
        None => Some(sight.network?.gateway.to_string()),
    }
}

/// An IPv6 address in brackets, as URLs want it.
pub(super) fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

fn position(ports: &[Port], name: Option<&str>) -> Option<usize> {
    match name {
        None => (!ports.is_empty()).then_some(0),
        Some(name) => ports.iter().position(|port| port.name.as_deref() == Some(name)),
    }
}

/// `tcp` or `udp`.
pub(super) fn protocol(port: &Port) -> &'static str {
    match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// Names of ports that are schemes of URLs (IANA's registry of URI schemes, and those that clients of well-known
/// databases and brokers take).
const SCHEMES: &[&str] = &[
    "http",
    "https",
    "ws",
    "wss",
    "ftp",
    "ssh",
    "ldap",
    "ldaps",
    "postgres",
    "postgresql",
    "mysql",
    "redis",
    "rediss",
    "mongodb",
    "amqp",
    "amqps",
    "nats",
    "mqtt",
    "mqtts",
    "kafka",
    "grpc",
    "tcp",
    "udp",
    "memcached",
    "cassandra",
];
