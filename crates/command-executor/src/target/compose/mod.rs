//! Compose: a file of services, or one service of it.
//!
//! Compose makes and removes containers; everything else is asked of docker, by the labels that both generations of
//! Compose put on what they make:
//!
//! ```text
//! ComposeService ── up, stop, remove ──► docker compose / docker-compose
//!       └── labels ──► Docker::list, Docker::events ──► Container: inspect, logs, exec, wait
//! ```
//!
//! There are two command lines: the plugin `docker compose` (version 2) and the program `docker-compose`, which is
//! version 1 on older systems and the same version 2 on newer ones. [`ComposeCli::candidates`] has both, the better
//! first; [`ComposeCli::version`] tells whether one is there.

mod error;

pub use error::{ComposeError, check};

use super::docker::{CHANGE, Docker, QUERY, whole_seconds};
use crate::command::Command;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How Compose starts up, with Python.
const SLOW: Duration = Duration::from_secs(30);

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
const NUMBER: &str = "com.docker.compose.container-number";
const ONE_OFF: &str = "com.docker.compose.oneoff";

/// A Compose command line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ComposeCli {
    /// `docker compose`.
    Plugin(Docker),
    /// `docker-compose`.
    Standalone {
        /// The program.
        program: OsString,
        /// The engine that it talks to.
        docker: Docker,
    },
}

impl ComposeCli {
    /// Those that there may be for that engine, the better first. The first whose [version](Self::version) can be told
    /// is it.
    pub fn candidates(docker: &Docker) -> [Self; 2] {
        let standalone = Self::Standalone { program: "docker-compose".into(), docker: docker.clone() };
        [Self::Plugin(docker.clone()), standalone]
    }

    /// The docker that knows its containers.
    pub fn docker(&self) -> &Docker {
        match self {
            Self::Plugin(docker) | Self::Standalone { docker, .. } => docker,
        }
    }

    fn command<A: Into<OsString>>(&self, words: impl IntoIterator<Item = A>) -> Command {
        match self {
            Self::Plugin(docker) => docker.command(["compose"]).args(words),
            Self::Standalone { program, docker } => {
                docker.environment(Command::new(program.clone())).args(words)
            }
        }
    }

    /// Tells its version: [`ComposeVersion::parse`].
    pub fn version(&self) -> Command {
        self.command(["version", "--short"]).timeout(QUERY)
    }
}

/// Which Compose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComposeVersion {
    /// 1 or 2, or what comes after them.
    pub generation: u32,
    /// The whole version.
    pub text: String,
}

impl ComposeVersion {
    /// Reads what [`ComposeCli::version`] printed.
    ///
    /// # Errors
    /// [`ComposeError::Answer`].
    pub fn parse(stdout: &[u8]) -> Result<Self, ComposeError> {
        let text = String::from_utf8_lossy(stdout).trim().trim_start_matches('v').to_owned();
        let generation = text.split('.').next().and_then(|number| number.parse().ok());
        let generation = generation.ok_or(ComposeError::Answer { what: "a version" })?;
        Ok(Self { generation, text })
    }
}

/// A file of services as one.
#[derive(Clone, PartialEq, Eq)]
pub struct ComposeProject {
    /// Which Compose.
    pub cli: ComposeCli,
    /// Its name: lower-case letters, digits, `_` and `-`, beginning with a letter or digit.
    pub name: String,
    /// Its file, and those laid over it in their order. Absolute, unless its commands get a folder.
    pub files: Vec<PathBuf>,
    /// A file with values for `${…}` in them, instead of the `.env` beside the first.
    pub env_file: Option<PathBuf>,
    /// Values for `${…}`, stronger than those of a file.
    pub env: BTreeMap<String, String>,
    /// Profiles that are switched on.
    pub profiles: Vec<String>,
}

/// One service of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComposeService {
    /// The project.
    pub project: ComposeProject,
    /// The service's name in the file.
    pub service: String,
}

impl ComposeProject {
    /// A project of one file.
    pub fn new(cli: ComposeCli, name: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        Self {
            cli,
            name: name.into(),
            files: vec![file.into()],
            env_file: None,
            env: BTreeMap::new(),
            profiles: Vec::new(),
        }
    }

    /// One of its services.
    pub fn service(&self, service: impl Into<String>) -> ComposeService {
        ComposeService { project: self.clone(), service: service.into() }
    }

    fn verb<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut options: Vec<OsString> = Vec::new();
        for file in &self.files {
            options.extend(["--file".into(), file.into()]);
        }
        options.extend(["--project-name".into(), self.name.clone().into()]);
        if let Some(file) = &self.env_file {
            options.extend(["--env-file".into(), file.into()]);
        }
        for profile in &self.profiles {
            options.extend(["--profile".into(), profile.into()]);
        }
        self.cli.command(options).args(words).envs(self.env.clone())
    }

    /// Checks the file; prints nothing.
    pub fn config(&self) -> Command {
        self.verb(["config", "--quiet"]).timeout(QUERY)
    }

    /// Lists the file's services, those of switched-off profiles left out: [`ComposeProject::parse_services`].
    pub fn services(&self) -> Command {
        self.verb(["config", "--services"]).timeout(QUERY)
    }

    /// Reads what [`Self::services`] printed; the two generations have different orders.
    pub fn parse_services(stdout: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(stdout);
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Makes, or makes anew where the file has changed, and starts everything, in Compose's own order. It fetches and
    /// builds images that aren't there: the bound is the caller's.
    pub fn up(&self) -> Command {
        self.verb(["up", "--detach"])
    }

    /// Makes everything without starting it, as [`Self::up`] would.
    pub fn create(&self) -> Command {
        self.verb(["up", "--no-start"])
    }

    /// Fetches the images of all services.
    pub fn pull(&self) -> Command {
        self.verb(["pull"])
    }

    /// Stops everything, dependents first, and kills what runs on after `grace`, in whole seconds.
    pub fn stop(&self, grace: Duration) -> Command {
        let seconds = whole_seconds(grace).to_string();
        self.verb(["stop", "--timeout", &seconds]).timeout(grace + CHANGE + SLOW)
    }

    /// Stops and removes everything with its networks, with `volumes` also those that the file names.
    pub fn down(&self, grace: Duration, volumes: bool) -> Command {
        let seconds = whole_seconds(grace).to_string();
        let volumes = volumes.then_some("--volumes");
        self.verb(["down", "--timeout", &seconds].into_iter().chain(volumes)).timeout(grace + CHANGE + SLOW)
    }

    /// The labels of its containers, for [`Docker::list`] and [`Docker::events`]; those of `run` are left out.
    pub fn labels(&self) -> Vec<String> {
        vec![format!("{PROJECT}={}", self.name), format!("{ONE_OFF}=False")]
    }
}

impl ComposeService {
    /// Makes, or makes anew where the file has changed, and starts it without what it depends on. It fetches and builds an
    /// image that isn't there: the bound is the caller's.
    pub fn up(&self) -> Command {
        self.project.verb(["up", "--detach", "--no-deps", &self.service])
    }

    /// Makes it without starting it, as [`Self::up`] would.
    pub fn create(&self) -> Command {
        self.project.verb(["up", "--no-start", "--no-deps", &self.service])
    }

    /// Fetches its image.
    pub fn pull(&self) -> Command {
        self.project.verb(["pull", &self.service])
    }

    /// Stops all its containers, and kills what runs on after `grace`, in whole seconds.
    pub fn stop(&self, grace: Duration) -> Command {
        let seconds = whole_seconds(grace).to_string();
        self.project.verb(["stop", "--timeout", &seconds, &self.service]).timeout(grace + CHANGE + SLOW)
    }

    /// Removes its stopped containers, with `volumes` also their anonymous volumes.
    pub fn remove(&self, volumes: bool) -> Command {
        let volumes = volumes.then_some("-v");
        let words = ["rm", "--force"].into_iter().chain(volumes).chain([self.service.as_str()]);
        self.project.verb(words).timeout(CHANGE + SLOW)
    }

    /// The labels of its containers, for [`Docker::list`] and [`Docker::events`].
    pub fn labels(&self) -> Vec<String> {
        let mut labels = self.project.labels();
        labels.push(format!("{SERVICE}={}", self.service));
        labels
    }
}

impl fmt::Debug for ComposeProject {
    /// Values by their names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComposeProject")
            .field("cli", &self.cli)
            .field("name", &self.name)
            .field("files", &self.files)
            .field("env_file", &self.env_file)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("profiles", &self.profiles)
            .finish()
    }
}

/// Which part of which project a container is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComposeIdentity {
    /// The project's name.
    pub project: String,
    /// The service's name in the file.
    pub service: String,
    /// Which of the service's containers, from 1.
    pub number: u32,
}

impl ComposeIdentity {
    /// Reads it from a container's labels; `None` if Compose didn't make it, or only for one command.
    pub fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        if labels.get(ONE_OFF).is_some_and(|one_off| one_off.eq_ignore_ascii_case("true")) {
            return None;
        }
        Some(Self {
            project: labels.get(PROJECT)?.clone(),
            service: labels.get(SERVICE)?.clone(),
            number: labels.get(NUMBER)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests;
