//! Fills the holes of a service's texts: "db as seen from web".

use super::PortLeases;
use crate::model::{
    Field, HttpProbe, InstanceName, Port, Probe, Reference, Service, ServiceName, Subject, Target, Template,
};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An instance with every hole filled: what a node needs to run it.
#[derive(Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Program and arguments, of a process.
    pub argv: Vec<String>,
    /// The whole environment, sorted.
    pub env: Vec<(String, String)>,
    /// Folder to run in.
    pub working_dir: PathBuf,
    /// User to run as.
    pub user: Option<String>,
    /// Group to run as.
    pub group: Option<String>,
}

/// A probe with every hole filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolvedProbe {
    /// Run this.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
        /// The exit code of a healthy service.
        expected_exit: i32,
        /// Text that its standard output must contain.
        expected_output: Option<String>,
    },
    /// Ask this.
    Http {
        /// `http://HOST[:PORT]/PATH`.
        url: String,
        /// Method.
        method: String,
        /// Headers.
        headers: Vec<(String, String)>,
        /// Statuses of a healthy service; empty means any of 200 to 399.
        expected_status: Vec<u16>,
        /// Text that the body must contain.
        expected_body: Option<String>,
    },
    /// Connect to this.
    Tcp {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// All of these.
    All(Vec<ResolvedProbe>),
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
    /// It isn't a process.
    #[error("{instance} is of type {kind}, which has no command line")]
    NotAProcess {
        /// Which.
        instance: InstanceName,
        /// Its type.
        kind: &'static str,
    },
}

/// Who asks, and what there is to see.
pub struct Caller<'a, 's> {
    /// The instance that asks.
    pub instance: &'a InstanceName,
    /// Its definition.
    pub service: &'a Service,
    /// Looks up another service's definition.
    pub lookup: &'a dyn Fn(&ServiceName) -> Option<&'s Service>,
    /// The ports that instances have.
    pub leases: &'a PortLeases,
    /// Values of secrets by name.
    pub secrets: &'a BTreeMap<String, String>,
}

/// The address of everything on this machine, as everything on this machine sees it.
const LOOPBACK: &str = "127.0.0.1";

/// The instance with every hole filled. `base_env` is what it inherits.
pub fn resolve(
    caller: &Caller<'_, '_>,
    base_env: &BTreeMap<String, String>,
    folder: &std::path::Path,
    node: &str,
) -> Result<Resolved, Unresolved> {
    let service = caller.service;
    let Target::Process { program, args } = &service.target else {
        return Err(Unresolved::NotAProcess {
            instance: caller.instance.clone(),
            kind: service.target.type_name(),
        });
    };
    let mut argv = vec![fill(caller, program)?];
    for arg in args {
        argv.push(fill(caller, arg)?);
    }
    let optional = |template: &Option<Template>| template.as_ref().map(|text| fill(caller, text)).transpose();
    Ok(Resolved {
        argv,
        env: environment(caller, base_env, node)?,
        working_dir: optional(&service.working_dir)?.map_or_else(|| folder.to_path_buf(), PathBuf::from),
        user: optional(&service.user)?,
        group: optional(&service.group)?,
    })
}

/// What it inherits, then what it is told about itself and its dependencies, then its own variables.
fn environment(
    caller: &Caller<'_, '_>,
    base: &BTreeMap<String, String>,
    node: &str,
) -> Result<Vec<(String, String)>, Unresolved> {
    let service = caller.service;
    let mut env = base.clone();
    for dependency in service.dependencies.keys() {
        let Some(target) = (caller.lookup)(dependency) else { continue };
        let prefix = dependency.variable_prefix();
        env.insert(format!("{prefix}_HOST"), host_of(target).into());
        if let Some(port) = port_of(caller, target, None) {
            env.insert(format!("{prefix}_PORT"), port.to_string());
            env.insert(format!("{prefix}_ADDR"), format!("{}:{port}", ip_of(target)));
        }
    }
    if let Some(port) = own_port(caller, None) {
        env.insert("PORT".into(), port.to_string());
    }
    env.insert("HARNESS_SERVICE".into(), service.name.to_string());
    env.insert("HARNESS_INSTANCE".into(), caller.instance.to_string());
    env.insert("HARNESS_NODE".into(), node.into());
    for (name, value) in &service.env {
        env.insert(name.clone(), fill(caller, value)?);
    }
    Ok(env.into_iter().collect())
}

impl ResolvedProbe {
    /// The probe with every hole filled.
    pub fn new(caller: &Caller<'_, '_>, probe: &Probe) -> Result<Self, Unresolved> {
        Ok(match probe {
            Probe::Command { argv, expected_exit, expected_output } => Self::Command {
                argv: argv.iter().map(|arg| fill(caller, arg)).collect::<Result<_, _>>()?,
                expected_exit: *expected_exit,
                expected_output: expected_output.clone(),
            },
            Probe::Http(http) => Self::http(caller, http)?,
            Probe::Tcp { host, port } => Self::Tcp {
                host: match host {
                    Some(host) => fill(caller, host)?,
                    None => ip_of(caller.service).into(),
                },
                port: {
                    let text = fill(caller, port)?;
                    text.parse()
                        .map_err(|_| Unresolved::BadPort { text, instance: caller.instance.clone() })?
                },
            },
            Probe::All(probes) => {
                Self::All(probes.iter().map(|probe| Self::new(caller, probe)).collect::<Result<_, _>>()?)
            }
        })
    }

    fn http(caller: &Caller<'_, '_>, http: &HttpProbe) -> Result<Self, Unresolved> {
        let headers = http.headers.iter().map(|(name, value)| Ok((name.clone(), fill(caller, value)?)));
        Ok(Self::Http {
            url: fill(caller, &http.url)?,
            method: http.method.clone(),
            headers: headers.collect::<Result<_, Unresolved>>()?,
            expected_status: http.expected_status.clone(),
            expected_body: http.expected_body.clone(),
        })
    }
}

/// What stands behind the references of `service` to other services: `${db.port}` → `5432`. One that can't be resolved is
/// left out; starting says so.
pub fn given<'s>(
    service: &Service,
    lookup: &dyn Fn(&ServiceName) -> Option<&'s Service>,
    leases: &PortLeases,
) -> BTreeMap<String, String> {
    let (instance, secrets) = (InstanceName::new(service.name.clone(), 1), BTreeMap::new());
    let caller = Caller { instance: &instance, service, lookup, leases, secrets: &secrets };
    let references = service.templates().flat_map(Template::references);
    references
        .filter(|reference| matches!(reference.subject, Subject::Service(_)))
        .filter_map(|reference| Some((reference.to_string(), value(&caller, reference).ok()?)))
        .collect()
}

/// The text with every hole filled, as seen from `caller`.
pub fn fill(caller: &Caller<'_, '_>, template: &Template) -> Result<String, Unresolved> {
    template.fill(|reference| value(caller, reference))
}

fn value(caller: &Caller<'_, '_>, reference: &Reference) -> Result<String, Unresolved> {
    match &reference.subject {
        Subject::Secret(name) => caller.secrets.get(name).cloned().ok_or_else(|| Unresolved::NoSecret {
            reference: reference.to_string(),
            instance: caller.instance.clone(),
        }),
        Subject::Own => match &reference.field {
            Field::Ip => Ok(ip_of(caller.service).into()),
            Field::Host => Ok(host_of(caller.service).into()),
            Field::Name | Field::Value => Ok(caller.instance.to_string()),
            Field::Port(name) => {
                port_text(caller, reference, caller.service, own_port(caller, name.as_deref()))
            }
            Field::Url => url(caller, reference, caller.service, own_port(caller, None)),
        },
        Subject::Service(name) => {
            let target = (caller.lookup)(name).ok_or_else(|| Unresolved::NoService {
                reference: reference.to_string(),
                instance: caller.instance.clone(),
                service: name.to_string(),
            })?;
            match &reference.field {
                Field::Ip => Ok(ip_of(target).into()),
                Field::Host => Ok(host_of(target).into()),
                Field::Name | Field::Value => Ok(name.to_string()),
                Field::Port(port) => {
                    port_text(caller, reference, target, port_of(caller, target, port.as_deref()))
                }
                Field::Url => url(caller, reference, target, port_of(caller, target, None)),
            }
        }
    }
}

fn port_text(
    caller: &Caller<'_, '_>,
    reference: &Reference,
    target: &Service,
    port: Option<u16>,
) -> Result<String, Unresolved> {
    port.map(|port| port.to_string()).ok_or_else(|| Unresolved::NoPort {
        reference: reference.to_string(),
        instance: caller.instance.clone(),
        service: target.name.to_string(),
    })
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

/// `scheme://ip:port`; the scheme is the name of the port where that is one, else `http`.
fn url(
    caller: &Caller<'_, '_>,
    reference: &Reference,
    target: &Service,
    port: Option<u16>,
) -> Result<String, Unresolved> {
    let port = port_text(caller, reference, target, port)?;
    let name = target.ports.first().and_then(|port| port.name.as_deref());
    let scheme = name.filter(|name| SCHEMES.contains(name)).unwrap_or("http");
    Ok(format!("{scheme}://{}:{port}", ip_of(target)))
}

/// Where a service of this machine listens: the address that its first port names, else loopback.
fn ip_of(service: &Service) -> &str {
    match service.ports.first().and_then(|port| port.address.as_deref()) {
        Some(address) if address != "0.0.0.0" && address != "::" && address != "*" => address,
        _ => LOOPBACK,
    }
}

fn host_of(service: &Service) -> &str {
    match ip_of(service) {
        LOOPBACK => "localhost",
        address => address,
    }
}

fn own_port(caller: &Caller<'_, '_>, name: Option<&str>) -> Option<u16> {
    caller.leases.port(caller.instance, caller.service, position(&caller.service.ports, name)?)
}

/// The port of another service: its first instance's, until a virtual address stands before all of them.
fn port_of(caller: &Caller<'_, '_>, target: &Service, name: Option<&str>) -> Option<u16> {
    let first = InstanceName::new(target.name.clone(), 1);
    caller.leases.port(&first, target, position(&target.ports, name)?)
}

fn position(ports: &[Port], name: Option<&str>) -> Option<usize> {
    match name {
        None => (!ports.is_empty()).then_some(0),
        Some(name) => ports.iter().position(|port| port.name.as_deref() == Some(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PortNumber, Protocol, Segment};
    use crate::testing;
    use std::path::Path;

    fn hole(service: &str, field: Field) -> Segment {
        let subject = if service == "self" { Subject::Own } else { Subject::Service(testing::name(service)) };
        Segment::Reference(Reference { subject, field })
    }

    fn port(name: Option<&str>, number: PortNumber) -> Port {
        Port { name: name.map(Into::into), number, target: None, protocol: Protocol::Tcp, address: None }
    }

    #[test]
    fn an_instance_sees_itself_and_its_dependencies() {
        let mut db = testing::service("my-db");
        db.ports =
            vec![port(Some("postgres"), PortNumber::Fixed(5432)), port(Some("admin"), PortNumber::Fixed(80))];
        let mut web = testing::service("web");
        web.ports = vec![port(None, PortNumber::Fixed(8080))];
        web.dependencies.insert(
            db.name.clone(),
            crate::model::Dependency { condition: crate::model::Condition::Started, implied: false },
        );
        web.target = Target::Process {
            program: "serve".into(),
            args: vec![Template {
                segments: vec![
                    hole("my-db", Field::Url),
                    Segment::Text(" ".into()),
                    hole("my-db", Field::Port(Some("admin".into()))),
                    Segment::Text(" ".into()),
                    hole("self", Field::Port(None)),
                ],
            }],
        };
        web.env.insert("MY_DB_HOST".into(), "elsewhere".into());
        let instance = testing::instance("web-1");
        let (leases, secrets) = (PortLeases::default(), BTreeMap::new());
        let lookup = |name: &ServiceName| (name == &db.name).then_some(&db);
        let caller = Caller {
            instance: &instance,
            service: &web,
            lookup: &lookup,
            leases: &leases,
            secrets: &secrets,
        };
        let base = BTreeMap::from([("HOME".to_string(), "/h".to_string()), ("PORT".into(), "1".into())]);
        let resolved = resolve(&caller, &base, Path::new("/stack"), "local").unwrap();
        assert_eq!(resolved.argv, ["serve", "postgres://127.0.0.1:5432 80 8080"]);
        let env: Vec<String> = resolved.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            env,
            [
                "HARNESS_INSTANCE=web-1",
                "HARNESS_NODE=local",
                "HARNESS_SERVICE=web",
                "HOME=/h",
                "MY_DB_ADDR=127.0.0.1:5432",
                "MY_DB_HOST=elsewhere",
                "MY_DB_PORT=5432",
                "PORT=8080",
            ]
        );
        assert_eq!(resolved.working_dir, Path::new("/stack"));
        let missing = Template { segments: vec![hole("web", Field::Ip)] };
        assert_eq!(
            fill(&caller, &missing).unwrap_err().to_string(),
            "${web.ip} in web-1: there is no service web"
        );
        let unnamed = Template { segments: vec![hole("my-db", Field::Port(Some("x".into())))] };
        assert_eq!(
            fill(&caller, &unnamed).unwrap_err().to_string(),
            "${my-db.port.x} in web-1: my-db declares no such port"
        );
    }
}
