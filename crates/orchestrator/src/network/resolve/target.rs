//! What an instance is, with every hole filled.

use super::address::protocol;
use super::{Caller, Unresolved, fill};
use crate::model::{Attach, Service, Target, Template};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// What an instance is, with every hole filled.
#[derive(Clone, Debug, PartialEq)]
pub enum ResolvedTarget {
    /// A process: program and arguments.
    Process(Vec<String>),
    /// A container.
    Container(Box<ContainerSpec>),
    /// A service of a Compose file, or the whole of it.
    Compose {
        /// The file.
        file: PathBuf,
        /// The service; `None` is all of them.
        service: Option<String>,
        /// Its address in the stack's container network.
        ip: Option<Ipv4Addr>,
    },
    /// A systemd unit.
    Unit(String),
    /// A portable service.
    Portable {
        /// Image or folder.
        image: String,
        /// The unit in it; `None` is the one that has the image's name.
        unit: Option<String>,
        /// Security profile.
        profile: Option<String>,
    },
    /// What a package brings: installed, then a process.
    Package(Box<PackageSpec>),
    /// Something that somebody else started.
    Attached(Attached),
    /// Anything on another node, for its agent.
    Elsewhere {
        /// The node.
        node: String,
        /// The definition as the agent is told to run it.
        service: Box<Service>,
    },
}

/// A package to install and run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageSpec {
    /// The package's file.
    pub file: PathBuf,
    /// The version to run; the file's if none is named.
    pub version: Option<String>,
    /// The folder to install to, if not the usual one.
    pub install_path: Option<PathBuf>,
    /// A command before the switch to this version.
    pub pre_install: Option<Vec<String>>,
    /// A command after it.
    pub post_install: Option<Vec<String>>,
}

/// How to find what somebody else started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// A file with the id of a process.
    PidFile(PathBuf),
    /// The name of a process.
    ProcessName(String),
    /// A container.
    Container(String),
    /// A systemd unit.
    Unit(String),
    /// Commands of the user's own.
    Managed {
        /// Starts it.
        start: Option<Vec<String>>,
        /// Stops it.
        stop: Option<Vec<String>>,
        /// Exits with 0 while it runs.
        status: Vec<String>,
        /// Prints its log.
        logs: Option<Vec<String>>,
    },
    /// Something elsewhere, of which only the address is known.
    External {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
}

/// What a container is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Image reference.
    pub image: String,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Replaces the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// `SOURCE:DESTINATION[:ro]`.
    pub volumes: Vec<String>,
    /// `always`, `missing` or `never`.
    pub pull: Option<String>,
    /// Its ports, and where they are published on this machine.
    pub ports: Vec<PublishedPort>,
    /// Its address in the stack's container network.
    pub ip: Option<Ipv4Addr>,
    /// Its names there.
    pub aliases: Vec<String>,
}

/// A port of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// Address on this machine.
    pub address: String,
    /// Port on this machine.
    pub published: u16,
    /// Port in the container.
    pub target: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
}

/// Where a container's port is published unless an address is named: not for the whole network to reach.
const PUBLISHED_AT: &str = "127.0.0.1";

pub(super) fn target(caller: &Caller<'_, '_>) -> Result<ResolvedTarget, Unresolved> {
    let text = |template: &Template| fill(caller, template);
    let maybe = |template: &Option<Template>| template.as_ref().map(text).transpose();
    let words = |templates: &Vec<Template>| templates.iter().map(text).collect::<Result<Vec<String>, _>>();
    let maybe_words = |templates: &Option<Vec<Template>>| templates.as_ref().map(words).transpose();
    let ip = || caller.network.and_then(|network| caller.addresses.address(network, caller.instance));
    Ok(match &caller.service.target {
        Target::Process { program, args } => {
            let mut argv = vec![text(program)?];
            argv.extend(words(args)?);
            ResolvedTarget::Process(argv)
        }
        Target::Docker { image, command, entrypoint, volumes, pull } => {
            ResolvedTarget::Container(Box::new(ContainerSpec {
                image: text(image)?,
                command: maybe_words(command)?,
                entrypoint: maybe_words(entrypoint)?,
                volumes: words(volumes)?,
                pull: pull.clone(),
                ports: ports(caller),
                ip: ip(),
                aliases: vec![caller.service.name.to_string(), caller.instance.to_string()],
            }))
        }
        Target::Compose { file, service } => {
            ResolvedTarget::Compose { file: text(file)?.into(), service: maybe(service)?, ip: ip() }
        }
        Target::Systemd { unit } => ResolvedTarget::Unit(text(unit)?),
        Target::Portable { image, unit, profile } => {
            ResolvedTarget::Portable { image: text(image)?, unit: maybe(unit)?, profile: maybe(profile)? }
        }
        Target::Attach(attach) => ResolvedTarget::Attached(match attach {
            Attach::PidFile(path) => Attached::PidFile(text(path)?.into()),
            Attach::ProcessName(name) => Attached::ProcessName(text(name)?),
            Attach::Container(name) => Attached::Container(text(name)?),
            Attach::Unit(unit) => Attached::Unit(text(unit)?),
            Attach::Managed(commands) => Attached::Managed {
                start: maybe_words(&commands.start)?,
                stop: maybe_words(&commands.stop)?,
                status: maybe_words(&commands.status)?.unwrap_or_default(),
                logs: maybe_words(&commands.logs)?,
            },
            Attach::External { host, port } => Attached::External { host: text(host)?, port: *port },
        }),
        Target::Package { package, version, install_path, pre_install, post_install } => {
            ResolvedTarget::Package(Box::new(PackageSpec {
                file: text(package)?.into(),
                version: maybe(version)?,
                install_path: maybe(install_path)?.map(PathBuf::from),
                pre_install: maybe_words(pre_install)?,
                post_install: maybe_words(post_install)?,
            }))
        }
    })
}

fn ports(caller: &Caller<'_, '_>) -> Vec<PublishedPort> {
    let ports = caller.service.ports.iter().enumerate();
    ports
        .filter_map(|(position, port)| {
            let published = caller.leases.port(caller.instance, caller.service, position)?;
            Some(PublishedPort {
                address: port.address.clone().unwrap_or_else(|| PUBLISHED_AT.into()),
                published,
                target: port.target.unwrap_or(published),
                protocol: protocol(port),
            })
        })
        .collect()
}
