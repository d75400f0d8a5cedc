//! What an instance is.

use super::Template;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What an instance is, with the keys that only this kind has. Paths are absolute unless they have holes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum Target {
    /// A process of this machine or, as `type: remote`, of the node that `host` names.
    Process {
        /// The program: a path, or a name to look for in `PATH`.
        program: Template,
        /// Its arguments.
        args: Vec<Template>,
    },
    /// A container.
    Docker {
        /// Image reference.
        image: Template,
        /// Replaces the image's command.
        command: Option<Vec<Template>>,
        /// Replaces the image's entrypoint.
        entrypoint: Option<Vec<Template>>,
        /// `SOURCE:DESTINATION[:ro]`.
        volumes: Vec<Template>,
        /// `always`, `missing` or `never`.
        pull: Option<String>,
    },
    /// A service of a Compose file, or the whole of it.
    Compose {
        /// The Compose file.
        file: Template,
        /// One service of it.
        service: Option<Template>,
    },
    /// A systemd unit.
    Systemd {
        /// Its name.
        unit: Template,
    },
    /// A systemd portable service.
    Portable {
        /// Image or folder.
        image: Template,
        /// The unit in it.
        unit: Option<Template>,
        /// Security profile.
        profile: Option<Template>,
    },
    /// A package that is installed and run.
    Package {
        /// The package file.
        package: Template,
        /// Version to run; the file's by default.
        version: Option<Template>,
        /// Folder to install to.
        install_path: Option<Template>,
        /// Command run before the switch to this version.
        pre_install: Option<Vec<Template>>,
        /// Command run after it.
        post_install: Option<Vec<Template>>,
    },
    /// Something that harness did not start and never stops.
    Attach(Attach),
}

/// How to find what an `attach` service joins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attach {
    /// A file that holds a process id.
    PidFile(Template),
    /// The name of a process, as in `/proc/PID/comm`.
    ProcessName(Template),
    /// A container.
    Container(Template),
    /// A systemd unit.
    Unit(Template),
    /// Commands of the user's own.
    Managed(ManagedCommands),
    /// Something elsewhere that has an address and nothing else: `external: {host, port}`.
    External {
        /// Host name or address.
        host: Template,
        /// TCP port.
        port: u16,
    },
}

/// Commands that steer something for harness; each is an argument list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ManagedCommands {
    /// Starts it.
    pub start: Option<Vec<Template>>,
    /// Stops it.
    pub stop: Option<Vec<Template>>,
    /// Exits with 0 while it runs.
    pub status: Option<Vec<Template>>,
    /// Prints its log.
    pub logs: Option<Vec<Template>>,
}

impl Target {
    /// The word that stands behind `type:`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Process { .. } => "process",
            Self::Docker { .. } => "docker",
            Self::Compose { .. } => "compose",
            Self::Systemd { .. } => "systemd",
            Self::Portable { .. } => "portable",
            Self::Package { .. } => "package",
            Self::Attach(_) => "attach",
        }
    }

    /// Whether somebody else keeps it: a container engine, systemd, whoever started it.
    pub fn is_hosted(&self) -> bool {
        !matches!(self, Self::Process { .. } | Self::Package { .. })
    }

    /// Its texts, in the order of the fields.
    pub fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Process { program, args } => std::iter::once(program).chain(args).collect(),
            Self::Docker { image, command, entrypoint, volumes, pull: _ } => {
                let words = command.iter().chain(entrypoint).flatten();
                std::iter::once(image).chain(words).chain(volumes).collect()
            }
            Self::Compose { file, service } => std::iter::once(file).chain(service).collect(),
            Self::Systemd { unit } => vec![unit],
            Self::Portable { image, unit, profile } => {
                std::iter::once(image).chain(unit).chain(profile).collect()
            }
            Self::Package { package, version, install_path, pre_install, post_install } => {
                let own = std::iter::once(package).chain(version).chain(install_path);
                own.chain(pre_install.iter().chain(post_install).flatten()).collect()
            }
            Self::Attach(attach) => match attach {
                Attach::PidFile(text)
                | Attach::ProcessName(text)
                | Attach::Container(text)
                | Attach::Unit(text)
                | Attach::External { host: text, .. } => vec![text],
                Attach::Managed(ManagedCommands { start, stop, status, logs }) => {
                    [start, stop, status, logs].into_iter().flatten().flatten().collect()
                }
            },
        }
    }

    /// The files that this target needs on the machine that runs it, where the text has no holes.
    pub fn files(&self) -> Vec<PathBuf> {
        let template = match self {
            Self::Compose { file, .. } => file,
            Self::Package { package, .. } => package,
            _ => return Vec::new(),
        };
        template.as_literal().map(PathBuf::from).into_iter().collect()
    }
}
