//! What an engine says of a container.

use super::json::{self, at, text};
use super::{DockerError, PortBinding, Protocol};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A container as its engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// Its id, whole.
    pub id: String,
    /// Its name, without docker's slash.
    pub name: String,
    /// What it does.
    pub status: ContainerStatus,
    /// Its first process on the engine's machine, while it runs.
    pub pid: Option<u32>,
    /// How its last run ended: the exit code, or 128 and the number of a signal. Where it couldn't even be started,
    /// 126 or 127 beside the [error](Self::error).
    pub exit_code: i32,
    /// Whether a process of it was killed for want of memory in its last run.
    pub oom_killed: bool,
    /// Why it couldn't be started.
    pub error: Option<String>,
    /// When its last run began, as the engine notes it once it runs: its first lines may be some milliseconds older.
    pub started_at: Option<Timestamp>,
    /// When its last run ended.
    pub finished_at: Option<Timestamp>,
    /// What its own health check says. Docker says unhealthy of what is paused or has ended.
    pub health: Option<ContainerHealth>,
    /// Whether it has a health check of its own, from its image or its definition.
    pub has_healthcheck: bool,
    /// The image as it was asked for.
    pub image: String,
    /// The image's id: which of those that had that name.
    pub image_id: String,
    /// Its labels, with those of its image.
    pub labels: BTreeMap<String, String>,
    /// What the machine listens on for it, while it runs, with the ports that docker chose.
    pub ports: Vec<PortBinding>,
    /// Where it is, by the network's name.
    pub networks: BTreeMap<String, NetworkEndpoint>,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerStatus {
    /// Made and never started, or its start failed.
    Created,
    /// Runs.
    Running,
    /// Runs and is frozen.
    Paused,
    /// Docker itself starts it again.
    Restarting,
    /// Is being removed.
    Removing,
    /// Has ended.
    Exited,
    /// Couldn't be removed altogether.
    Dead,
    /// Something else, of a newer engine.
    Unknown,
}

impl ContainerStatus {
    /// Whether there is a process.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Docker's words and podman's.
    pub(super) fn parse(word: &str) -> Self {
        match word {
            "created" | "configured" | "initialized" => Self::Created,
            "running" | "stopping" => Self::Running,
            "paused" => Self::Paused,
            "restarting" => Self::Restarting,
            "removing" => Self::Removing,
            "exited" | "stopped" => Self::Exited,
            "dead" => Self::Dead,
            _ => Self::Unknown,
        }
    }
}

/// What a container's own health check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerHealth {
    /// The verdict.
    pub status: HealthStatus,
    /// How many checks failed since one passed.
    pub failing_streak: u32,
    /// Exit code of the last check.
    pub last_exit_code: Option<i32>,
    /// What the last check printed; docker keeps 4 KiB.
    pub last_output: String,
}

/// The verdict of a container's own health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthStatus {
    /// None yet.
    Starting,
    /// The last check passed.
    Healthy,
    /// As many checks failed as its definition takes for that.
    Unhealthy,
}

impl HealthStatus {
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word {
            "starting" => Some(Self::Starting),
            "healthy" => Some(Self::Healthy),
            "unhealthy" => Some(Self::Unhealthy),
            _ => None,
        }
    }
}

/// A container's place in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkEndpoint {
    /// Its address, while it runs.
    pub ip: Option<IpAddr>,
    /// Its IPv6 address, while it runs.
    pub ipv6: Option<IpAddr>,
    /// The engine's machine as seen from there.
    pub gateway: Option<IpAddr>,
    /// The names that it is found by besides its own.
    pub aliases: Vec<String>,
}

impl ContainerState {
    /// Reads what [`Docker::inspect`](super::Docker::inspect) printed.
    ///
    /// # Errors
    /// [`DockerError::Answer`].
    pub fn parse(stdout: &[u8]) -> Result<Vec<Self>, DockerError> {
        let Value::Array(items) = json::document(stdout, "containers")? else {
            return Err(DockerError::unexpected("containers"));
        };
        items.iter().map(Self::read).collect()
    }

    /// Reads what [`Container::inspect`](super::Container::inspect) printed.
    ///
    /// # Errors
    /// [`DockerError::Answer`], also if there isn't exactly one.
    pub fn parse_one(stdout: &[u8]) -> Result<Self, DockerError> {
        let mut all = Self::parse(stdout)?;
        match (all.pop(), all.is_empty()) {
            (Some(one), true) => Ok(one),
            _ => Err(DockerError::unexpected("one container")),
        }
    }

    /// Reads what [`Container::wait`](super::Container::wait) printed: the exit code.
    ///
    /// # Errors
    /// [`DockerError::Answer`].
    pub fn parse_exit(stdout: &[u8]) -> Result<i32, DockerError> {
        let code = std::str::from_utf8(stdout).ok().and_then(|text| text.trim().parse().ok());
        code.ok_or_else(|| DockerError::unexpected("an exit code"))
    }

    fn read(value: &Value) -> Result<Self, DockerError> {
        let need = |paths: &[&str]| text(value, paths).ok_or_else(|| DockerError::unexpected("a container"));
        let number = |path| at(value, &[path]).and_then(Value::as_i64);
        let pid = number("/State/Pid").and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let check = at(value, &["/Config/Healthcheck/Test", "/Config/HealthCheck/Test"]);
        let first = check.and_then(|test| test.get(0)).and_then(Value::as_str);
        Ok(Self {
            id: need(&["/Id", "/ID"])?,
            name: need(&["/Name"])?.trim_start_matches('/').to_owned(),
            status: ContainerStatus::parse(&need(&["/State/Status"])?),
            pid,
            exit_code: number("/State/ExitCode")
                .and_then(|code| i32::try_from(code).ok())
                .unwrap_or_default(),
            oom_killed: json::flag(value, "/State/OOMKilled"),
            error: text(value, &["/State/Error"]),
            started_at: json::time(value, "/State/StartedAt"),
            finished_at: json::time(value, "/State/FinishedAt"),
            health: at(value, &["/State/Health", "/State/Healthcheck"]).and_then(health),
            has_healthcheck: first.is_some_and(|word| !word.is_empty() && word != "NONE"),
            image: text(value, &["/ImageName", "/Config/Image"]).unwrap_or_default(),
            image_id: text(value, &["/Image"]).unwrap_or_default(),
            labels: json::texts(value, &["/Config/Labels"]),
            ports: ports(value),
            networks: networks(value),
        })
    }
}

fn health(value: &Value) -> Option<ContainerHealth> {
    let last = at(value, &["/Log"]).and_then(Value::as_array).and_then(|log| log.last());
    let number = |value: &Value, path| at(value, &[path]).and_then(Value::as_i64);
    Some(ContainerHealth {
        status: HealthStatus::parse(&text(value, &["/Status"])?)?,
        failing_streak: number(value, "/FailingStreak")
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or_default(),
        last_exit_code: last.and_then(|last| number(last, "/ExitCode")).and_then(|n| i32::try_from(n).ok()),
        last_output: last.and_then(|last| text(last, &["/Output"])).unwrap_or_default(),
    })
}

/// `"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]`, null where nothing listens.
fn ports(value: &Value) -> Vec<PortBinding> {
    let mut ports = Vec::new();
    let exposed = at(value, &["/NetworkSettings/Ports"]).and_then(Value::as_object).into_iter().flatten();
    for (port, bindings) in exposed {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let (Ok(container), Some(protocol)) = (number.parse(), Protocol::parse(protocol)) else { continue };
        for binding in bindings.as_array().into_iter().flatten() {
            let Some(host) = text(binding, &["/HostPort"]).and_then(|port| port.parse().ok()) else {
                continue;
            };
            let address = json::address(binding, "/HostIp").filter(|address| !address.is_unspecified());
            ports.push(PortBinding { address, host: Some(host), container, protocol });
        }
    }
    // Listening on all addresses is told twice, for IPv4 and IPv6.
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn networks(value: &Value) -> BTreeMap<String, NetworkEndpoint> {
    let networks = at(value, &["/NetworkSettings/Networks"]).and_then(Value::as_object).into_iter().flatten();
    let endpoint = |value: &Value| NetworkEndpoint {
        ip: json::address(value, "/IPAddress"),
        ipv6: json::address(value, "/GlobalIPv6Address"),
        gateway: json::address(value, "/Gateway"),
        aliases: json::list(value, "/Aliases"),
    };
    networks.map(|(name, value)| (name.clone(), endpoint(value))).collect()
}
