//! Packages that services are made of: installed before they run.

use super::{Launch, Order, Orders, ResolvedTarget, Spawner};
use crate::model::InstanceName;
use crate::network::PackageSpec;
use crate::node::{NodeEvent, NodeFact};
use crate::supervisor::Event;
use async_channel::Sender;
use futures_util::future::BoxFuture;
use futures_util::task::SpawnExt;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Installs packages. Every wait in it has a bound.
pub trait Installer: Send + Sync {
    /// Sees to it that the package is installed and current. `progress` is told how that goes on, for people; so is the error.
    /// The same again changes nothing.
    fn install<'a>(
        &'a self,
        package: &'a PackageSpec,
        progress: &'a (dyn Fn(String) + Send + Sync),
    ) -> BoxFuture<'a, Result<Installed, String>>;
}

/// What runs of an installed package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// What asks it to end, before its signal; empty: the signal alone.
    pub stop: Vec<String>,
    /// The folder to run in, unless the service names one.
    pub folder: PathBuf,
    /// Variables, below the service's own.
    pub env: Vec<(String, String)>,
}

/// Starts that wait for their packages.
#[derive(Clone)]
pub(super) struct Installs {
    installer: Arc<dyn Installer>,
    spawner: Spawner,
    events: Sender<Event>,
    /// The runs, by instance.
    waiting: Arc<Mutex<BTreeMap<InstanceName, String>>>,
}

impl Installs {
    pub(super) fn new(installer: Arc<dyn Installer>, spawner: Spawner, events: Sender<Event>) -> Self {
        Self { installer, spawner, events, waiting: Arc::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<InstanceName, String>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a start of that run waited, which it doesn't any more.
    pub(super) fn end(&self, instance: &InstanceName, run: &str) -> bool {
        let mut waiting = self.waiting();
        let waits = waiting.get(instance).is_some_and(|current| current == run);
        if waits {
            waiting.remove(instance);
        }
        waits
    }

    /// Installs what a launch needs; then it is ordered again, as one of a process.
    pub(super) fn begin(&self, launch: Launch, package: PackageSpec, orders: Arc<Orders>) {
        let installs = self.clone();
        self.waiting().insert(launch.instance.clone(), launch.run.clone());
        // Refused only when the engine is to end.
        let _ = self.spawner.spawn(async move {
            let event = |fact| {
                let (instance, run) = (launch.instance.clone(), launch.run.clone());
                Event::Node(NodeEvent { instance, run, fact })
            };
            let say = |message: String| {
                // Full: there is more important news.
                let _ = installs.events.try_send(event(NodeFact::Progress { message }));
            };
            let done = installs.installer.install(&package, &say).await;
            if !installs.end(&launch.instance, &launch.run) {
                return;
            }
            match done {
                Ok(installed) => orders.push(Order::Start(Box::new(as_process(launch, installed)))),
                Err(error) => {
                    let _ = installs.events.send(event(NodeFact::StartFailed { error })).await;
                }
            }
        });
    }
}

fn as_process(mut launch: Launch, installed: Installed) -> Launch {
    let Installed { argv, stop, folder, env } = installed;
    launch.stop = stop;
    let resolved = &mut launch.resolved;
    resolved.target = ResolvedTarget::Process(argv);
    if launch.service.working_dir.is_none() {
        resolved.working_dir = Some(folder);
    }
    for (name, value) in env.into_iter().filter(|(name, _)| !launch.service.env.contains_key(name)) {
        resolved.env.retain(|(other, _)| *other != name);
        resolved.env.push((name, value));
    }
    launch
}
