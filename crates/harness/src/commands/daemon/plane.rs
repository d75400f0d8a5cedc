//! `harness daemon plane`: the data plane of a node, and what is said to it from elsewhere. Nobody types this.

use super::super::Context;
use crate::api;
use crate::api::plane::UpParams;
use crate::connect;
use crate::daemon::PLANE_FOLDER;
use crate::error::CommandError;
use crate::exit::Exit;
use data_plane::client;
use orchestrator::network::plane::{Report, Way};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a way is taken for its time; the middle one counts.
const ATTEMPTS: usize = 5;

/// How long each way is measured for.
const SPEED: Duration = Duration::from_secs(2);

/// The data plane of this machine
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Be it
    Run {
        /// Its folder
        #[arg(long)]
        folder: PathBuf,
        /// The node
        #[arg(long)]
        node: String,
        /// The build of the program that has it started
        #[arg(long)]
        build: String,
    },
    /// Have it started where it doesn't run, and connect standard input and output with it
    Join {
        /// The node
        #[arg(long)]
        node: String,
    },
    /// End it
    End,
    /// Connect to services as services here would, and tell how that went, as JSON
    Probe {
        /// Services, with the port of a listener: `web:8080`; all that are listened for without one
        services: Vec<String>,
        /// Measure how fast the ways are, too
        #[arg(long)]
        speed: bool,
    },
}

/// How a connection to a service went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Probed {
    /// The service.
    pub(crate) service: String,
    /// Where it is listened for.
    pub(crate) address: String,
    /// The instance that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<String>,
    /// The way to it; none where it is on the same node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) way: Option<Way>,
    /// Microseconds that connecting took, with the answer of the far end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connect_us: Option<u64>,
    /// The node of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// How fast the way to that node is, if that was asked for; none on the same node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) speed: Option<Speed>,
    /// Why there is no connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// How fast a way is: one stream of bytes to the data plane at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Speed {
    /// What was measured.
    Measured {
        /// Bits a second.
        bits: u64,
        /// The way; where instances are reached straight, it is the next one: straight there is nobody who measures.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        way: Option<Way>,
    },
    /// It couldn't be measured, and why.
    Failed(String),
}

pub(super) fn run(context: &Context, args: Args) -> Result<Exit, CommandError> {
    match args.command {
        Command::Run { folder, node, build } => {
            // Two for each connection.
            crate::daemon::raise_open_files();
            data_plane::run(data_plane::Options { state: folder, node, build })
                .map(|()| Exit::OK)
                .map_err(|error| CommandError::from_error(Exit::GENERAL, &error))
        }
        Command::Join { node } => join(context, node),
        Command::End => {
            let folder = context.project()?.state_dir.join(PLANE_FOLDER);
            async_io::block_on(crate::daemon::end_plane(&folder))
                .map(|()| Exit::OK)
                .map_err(|error| CommandError::from_error(Exit::GENERAL, &error))
        }
        Command::Probe { services, speed } => {
            let folder = context.project()?.state_dir.join(PLANE_FOLDER);
            let probed = async_io::block_on(probe(&folder, &services, speed))?;
            context.ui.out(serde_json::to_string(&probed).unwrap_or_default())?;
            Ok(Exit::OK)
        }
    }
}

fn join(context: &Context, node: String) -> Result<Exit, CommandError> {
    let project = context.project()?;
    connect::block_on(async |executor| {
        let daemon = connect::existing(executor, &project).await?.ok_or_else(|| {
            CommandError::new(
                Exit::UNREACHABLE,
                "no agent of this project runs here, so there is no data plane",
            )
        })?;
        Ok(daemon.call::<serde_json::Value>(api::plane::UP, &UpParams { node }).await?)
    })?;
    let folder = project.state_dir.join(PLANE_FOLDER);
    client::bridge(&folder)
        .map(|()| Exit::OK)
        .map_err(|error| CommandError::from_error(Exit::UNREACHABLE, &error))
}

/// Connects to services through the plane whose folder that is.
pub(crate) async fn probe(
    folder: &Path,
    services: &[String],
    speed: bool,
) -> Result<Vec<Probed>, CommandError> {
    let failed = |error: client::ClientError| {
        CommandError::from_error(Exit::UNREACHABLE, &error)
            .hint("`harness network show` tells whether it should run")
    };
    let report: Report = client::connect(folder).await.map_err(failed)?.show().await.map_err(failed)?;
    let mut probed = Vec::new();
    for listener in &report.listeners {
        let port = listener.address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let named = |name: &String| match name.split_once(':') {
            Some((name, wanted)) => name == listener.service && wanted.parse().ok() == port,
            None => *name == listener.service,
        };
        if !services.is_empty() && !services.iter().any(named) {
            continue;
        }
        let mut one = Probed {
            service: listener.service.clone(),
            address: listener.address.clone(),
            instance: None,
            way: None,
            connect_us: None,
            node: None,
            speed: None,
            why: None,
        };
        let mut times = Vec::new();
        for _ in 0..ATTEMPTS {
            let began = Instant::now();
            let connected =
                async { client::connect(folder).await?.connect_service(&listener.service, port).await };
            match connected.await {
                Ok(connected) => {
                    times.push(began.elapsed());
                    (one.instance, one.node) = (Some(connected.instance), connected.node);
                    one.way = connected.way;
                }
                Err(error) => {
                    one.why = Some(crate::error::chain(&error));
                    break;
                }
            }
        }
        times.sort();
        one.connect_us = times.get(times.len() / 2).map(micros).filter(|_| one.why.is_none());
        if let Some(error) = &listener.error {
            one.why = Some(format!("{} can't be listened for: {error}", listener.address));
        }
        probed.push(one);
    }
    if speed {
        let mut measured = BTreeMap::new();
        for one in probed.iter_mut().filter(|one| one.way.is_some()) {
            let Some(node) = &one.node else { continue };
            if !measured.contains_key(node) {
                measured.insert(node.clone(), measure(folder, node).await);
            }
            one.speed = measured.get(node).cloned();
        }
    }
    Ok(probed)
}

/// How fast the way to a node is.
async fn measure(folder: &Path, node: &str) -> Speed {
    let measured = async { client::connect(folder).await?.measure(node, SPEED).await };
    match measured.await {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bits a second are below 2^63"
        )]
        Ok(speed) => Speed::Measured { bits: speed.bits() as u64, way: speed.way },
        Err(error) => Speed::Failed(crate::error::chain(&error)),
    }
}

fn micros(time: &Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
