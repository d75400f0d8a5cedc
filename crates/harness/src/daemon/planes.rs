//! The data planes of a project: this machine's is kept running under a keeper, told its tables and heard; those of other
//! nodes are reached through it.
//!
//! A plane that runs is found by its socket, whoever started it: it outlives daemons. One that ends is started again and
//! told the last tables.

use crate::error::chain;
use crate::node::There;
use async_channel::{Receiver, Sender};
use async_io::Timer;
use command_executor::executor::Executor;
use command_executor::keeper::{KeeperError, Keepers, Liveness, LogLimits, RunSpec, StopRequest};
use command_executor::launcher::Launcher;
use data_plane::client::{self, ClientError};
use futures_lite::{FutureExt, StreamExt};
use futures_util::future::BoxFuture;
use futures_util::task::SpawnExt;
use indexmap::IndexMap;
use orchestrator::model::Node;
use orchestrator::network::plane::{Report, Table};
use orchestrator::node::{Planes, Spawner};
use orchestrator::supervisor::Event;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The plane's name among what keepers keep. Instances have a number, so no service can have it.
const INSTANCE: &str = "data-plane";
/// The plane's folder in the state folder.
pub(crate) const FOLDER: &str = "plane";
/// The time that a new plane has until it answers.
const READY: Duration = Duration::from_secs(5);
/// How long its socket is looked for in vain before the next look; doubled each time.
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// The same at most.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// The pause before a plane that ended by itself is started again; doubled while it goes on ending.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The same at most.
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// One that served for so long wasn't at fault from its start.
const STABLE: Duration = Duration::from_secs(30);
/// The time that it has to end, before it is killed.
const END: Duration = Duration::from_secs(3);
/// The same for one on another node, with the way there.
const END_THERE: Duration = Duration::from_secs(10);

/// What a plane inherits: what ssh needs to find keys, and where programs are.
const INHERITED: [&str; 11] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "TZ",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "XDG_STATE_HOME",
    "HARNESS_LOG_LEVEL",
];

/// There is no plane to talk to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaneError {
    /// It can't be started.
    #[error("the data plane can't be started")]
    Start(#[source] KeeperError),
    /// This program doesn't know where it is.
    #[error("the data plane can't be started: this program's own file isn't known")]
    Program(#[source] std::io::Error),
    /// It doesn't answer.
    #[error("the data plane doesn't answer; what it said is in {}", log.display())]
    Silent {
        /// Where its log is.
        log: PathBuf,
        /// What came instead.
        #[source]
        source: ClientError,
    },
}

/// The data planes of one state folder.
#[derive(Clone)]
pub(super) struct DataPlanes {
    inner: Arc<Inner>,
}

struct Inner {
    keepers: Keepers,
    project_id: String,
    spawner: Spawner,
    /// Where reports go.
    events: Sender<Event>,
    wanted: Mutex<Wanted>,
    /// Holds a message while something new is wanted.
    bell: (Sender<()>, Receiver<()>),
    /// Held while a plane is looked for, started or ended.
    making: async_lock::Mutex<()>,
}

/// What planes are to serve.
#[derive(Default)]
struct Wanted {
    tables: BTreeMap<String, Table>,
    nodes: IndexMap<String, Node>,
    /// The other nodes whose planes were told something.
    there: BTreeSet<String>,
    /// Whether there is a task that follows this.
    followed: bool,
}

impl DataPlanes {
    pub(super) fn new(keepers: Keepers, project_id: String, spawner: Spawner, events: Sender<Event>) -> Self {
        let (wanted, making) = Default::default();
        let bell = async_channel::bounded(1);
        Self { inner: Arc::new(Inner { keepers, project_id, spawner, events, wanted, bell, making }) }
    }

    /// Makes sure that this machine's plane runs.
    pub(super) async fn up(&self, node: &str) -> Result<(), PlaneError> {
        self.inner.up(node).await
    }
}

impl Inner {
    fn folder(&self) -> PathBuf {
        self.keepers.state().join(FOLDER)
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This machine's plane, started if none answers.
    async fn up(&self, node: &str) -> Result<(), PlaneError> {
        let _turn = self.making.lock().await;
        let folder = self.folder();
        let build = super::build_id();
        match shown(&folder).await {
            // One of another build goes on as long as it carries something: nobody's connection breaks for an upgrade.
            Ok(report) if report.build == build || report.connections > 0 => return Ok(()),
            Ok(_) => {
                tracing::info!("the data plane is of another build and carries nothing: it is exchanged");
                if let Err(error) = end(&folder).await {
                    tracing::warn!(error = chain(&error), "it doesn't end by itself");
                }
            }
            Err(_) => {}
        }
        // One that hangs, or that was killed with its keeper: two would be one too many.
        self.clear().await;
        let program = std::env::current_exe().map_err(PlaneError::Program)?;
        let words = ["daemon", "plane", "run", "--folder"].map(std::ffi::OsStr::new);
        let argv = std::iter::once(program.as_os_str())
            .chain(words)
            .chain([folder.as_os_str(), "--node".as_ref(), node.as_ref()])
            .chain(["--build".as_ref(), build.as_ref()]);
        let mut spec = RunSpec::new(INSTANCE, argv.map(OsString::from).collect(), self.keepers.state());
        spec.run = self.keepers.name_run();
        spec.env =
            INHERITED.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?))).collect();
        spec.logs = LogLimits { max_size: 1 << 20, keep_files: 1, keep_runs: 3 };
        spec.stop_timeout = END;
        let log = self.keepers.state().join("instances").join(INSTANCE).join(format!("{}.log", spec.run));
        self.keepers.start(&spec).await.map_err(PlaneError::Start)?;
        answers(&folder).await.map_err(|source| PlaneError::Silent { log, source })
    }

    /// Ends what is left of planes here.
    async fn clear(&self) {
        let state = self.keepers.state().to_owned();
        let found = blocking::unblock(move || Keepers::scan(&state)).await;
        let alive = |found: &command_executor::keeper::FoundRun| {
            let over = matches!(found.liveness, Liveness::Dead | Liveness::OtherBoot);
            found.record.instance == INSTANCE && !(over && found.record.state.is_final())
        };
        for found in found.unwrap_or_default().iter().filter(|found| alive(found)) {
            let stop =
                StopRequest { signal: rustix::process::Signal::TERM.as_raw(), timeout: END, kill: false };
            if let Err(error) = self.keepers.ensure_ended(found, stop).await {
                tracing::warn!(error = chain(&error), "a data plane that doesn't answer can't be ended");
            }
        }
    }

    /// Ends this machine's plane, if there is one.
    async fn down(&self) {
        let _turn = self.making.lock().await;
        if !self.folder().exists() {
            return;
        }
        if let Err(error) = end(&self.folder()).await {
            tracing::warn!(error = chain(&error), "the data plane doesn't end by itself");
        }
        self.clear().await;
    }

    /// Follows what is wanted, until the daemon ends.
    async fn follow(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        while self.bell.1.recv().await.is_ok() {
            loop {
                let began = Instant::now();
                self.end_unwanted();
                let Some((table, node)) = self.table() else {
                    self.down().await;
                    break;
                };
                let why = match self.serve(table, &node).await {
                    Ok(()) => return,
                    Err(why) => why,
                };
                if self.wanted().tables.is_empty() {
                    continue;
                }
                if began.elapsed() > STABLE {
                    pause = FIRST_PAUSE;
                }
                tracing::warn!(why, "the data plane is told anew, or started again");
                Timer::after(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }

    /// Tells this machine's plane what is wanted, and hears it, until the daemon ends. The error: why the plane can't be
    /// told, for people.
    async fn serve(self: &Arc<Self>, mut table: Table, node: &str) -> Result<(), String> {
        let failed = |error: ClientError| chain(&error);
        self.up(node).await.map_err(|error| chain(&error))?;
        let folder = self.folder();
        let mut teller = client::connect(&folder).await.map_err(failed)?;
        let mut reports = client::connect(&folder).await.map_err(failed)?.watch();
        loop {
            teller.serve(&table).await.map_err(failed)?;
            loop {
                let rung = async { self.bell.1.recv().await.map_or(Heard::End, |()| Heard::Bell) };
                let told = async {
                    reports.next().await.map_or(Heard::Gone, |report| Heard::Report(Box::new(report)))
                };
                match rung.or(told).await {
                    Heard::Bell => break,
                    Heard::Report(report) => {
                        let report = (*report).map_err(failed)?;
                        let event = Event::Planes([(report.node.clone(), report)].into());
                        if self.events.send(event).await.is_err() {
                            return Ok(());
                        }
                    }
                    Heard::Gone => return Err("it has ended".to_owned()),
                    Heard::End => return Ok(()),
                }
            }
            self.end_unwanted();
            (table, _) = self.table().ok_or("nothing is wanted any more")?;
        }
    }

    /// Ends the planes of nodes that nothing is wanted of any more. Nobody waits for them.
    fn end_unwanted(self: &Arc<Self>) {
        let (nodes, gone) = {
            let wanted = self.wanted();
            let gone = wanted.there.iter().filter(|name| !wanted.tables.contains_key(*name));
            (wanted.nodes.clone(), gone.cloned().collect::<BTreeSet<_>>())
        };
        if gone.is_empty() {
            return;
        }
        let inner = Arc::clone(self);
        // Refused only when the daemon is to end.
        let _ = self.spawner.spawn(async move {
            inner.down_there(&nodes, &gone).await;
            let mut wanted = inner.wanted();
            let Wanted { there, tables, .. } = &mut *wanted;
            there.retain(|name| !gone.contains(name) || tables.contains_key(name));
        });
    }

    /// This machine's table, with those of the others in it and the ways to them. `None` if nothing is wanted.
    fn table(&self) -> Option<(Table, String)> {
        let wanted = self.wanted();
        let (own, others): (Vec<_>, Vec<_>) =
            wanted.tables.iter().partition(|(name, _)| !wanted.nodes.contains_key(*name));
        let (node, own) = own.into_iter().next()?;
        let mut table = own.clone();
        for (name, other) in others {
            match self.link(&wanted.nodes, name) {
                Ok(link) => table.peers.entry(name.clone()).or_default().link = link,
                Err(error) => tracing::warn!(node = name, error, "no link to its data plane"),
            }
            table.others.insert(name.clone(), other.clone());
        }
        Some((table, node.clone()))
    }

    /// The command whose standard input and output are the plane of another node.
    fn link(&self, nodes: &IndexMap<String, Node>, name: &str) -> Result<Vec<String>, String> {
        let there = There::of(nodes, name, &self.project_id).map_err(|error| chain(&error))?;
        let command = there.harness(["daemon", "plane", "join", "--node", name]);
        let command = there.launcher.rewrite_to_replace(command, false).map_err(|error| chain(&error))?;
        let word = |word: &std::ffi::OsStr| word.to_str().map(str::to_owned).ok_or("not UTF-8".to_owned());
        command.argv().map(word).collect()
    }

    /// Ends the planes of other nodes, each within a bound.
    async fn down_there(&self, nodes: &IndexMap<String, Node>, names: &BTreeSet<String>) {
        let ends = names.iter().map(|name| async move {
            let there = There::of(nodes, name, &self.project_id).map_err(|error| chain(&error))?;
            let command = there.harness(["daemon", "plane", "end"]).timeout(END_THERE);
            let finished = Executor::new(there.launcher).run(&command).await;
            let finished = finished.map_err(|error| chain(&error))?;
            match finished.exit.is_success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&finished.stderr.bytes).trim().to_owned()),
            }
        });
        let ended: Vec<Result<(), String>> = futures_util::future::join_all(ends).await;
        for (name, ended) in names.iter().zip(ended) {
            if let Err(error) = ended {
                tracing::warn!(node = name, error, "its data plane goes on");
            }
        }
    }
}

enum Heard {
    /// Something new is wanted.
    Bell,
    /// The plane has told of itself.
    Report(Box<Result<Report, ClientError>>),
    /// The plane is gone.
    Gone,
    /// The daemon ends; the plane goes on.
    End,
}

impl Planes for DataPlanes {
    fn serve(&self, tables: BTreeMap<String, Table>, nodes: &IndexMap<String, Node>) {
        let inner = &self.inner;
        let begins = {
            let mut wanted = inner.wanted();
            wanted.nodes.clone_from(nodes);
            wanted.there.extend(tables.keys().filter(|name| nodes.contains_key(*name)).cloned());
            wanted.tables = tables;
            !std::mem::replace(&mut wanted.followed, true)
        };
        if begins {
            // Refused only when the daemon is to end.
            let _ = inner.spawner.spawn(inner.clone().follow());
        }
        // Full: it has been rung and not been heard yet.
        let _ = inner.bell.0.try_send(());
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        let inner = &self.inner;
        let (nodes, names) = {
            let mut wanted = inner.wanted();
            wanted.tables.clear();
            (wanted.nodes.clone(), std::mem::take(&mut wanted.there))
        };
        Box::pin(async move {
            futures_util::future::join(inner.down_there(&nodes, &names), inner.down()).await;
        })
    }
}

async fn shown(folder: &Path) -> Result<Report, ClientError> {
    client::connect(folder).await?.show().await
}

/// Has the plane of a folder end, if there is one.
pub(crate) async fn end(folder: &Path) -> Result<(), ClientError> {
    match client::connect(folder).await {
        Ok(client) => client.end().await,
        Err(ClientError::Connect { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until a plane answers. Its socket is looked for again and again: it is new, and nobody can tell of it before.
async fn answers(folder: &Path) -> Result<(), ClientError> {
    let (until, mut pause) = (Instant::now() + READY, FIRST_LOOK);
    loop {
        match shown(folder).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => Timer::after(pause).await,
        };
        pause = (pause * 2).min(LAST_LOOK);
    }
}
