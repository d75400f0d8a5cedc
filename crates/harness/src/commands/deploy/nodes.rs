//! Deploying to other machines: what is missing there is sent, then it is installed there.

use super::super::node::{Board, chosen};
use super::super::{Context, daemon, load};
use super::Args;
use crate::api::node::{CLAIM, OWNER, Owner};
use crate::api::package::{INSTALL, InstallParams, ROLLBACK, RollbackParams};
use crate::connect;
use crate::error::{CommandError, chain};
use crate::exit::Exit;
use crate::node::agent::{Agents, Brought};
use crate::packages::{self, Opened, PackageError, SCRIPT};
use crate::project::Project;
use crate::ui::meter::bytes;
use crate::ui::progress::Phase;
use crate::ui::style::{self, paint};
use crate::ui::time::short;
use async_io::Timer;
use async_lock::{OnceCell, Semaphore};
use command_executor::launcher::LocalLauncher;
use futures_util::future::{join_all, try_join};
use indexmap::IndexMap;
use jiff::Timestamp;
use orchestrator::model::{Node, Stack, Target};
use serde::Serialize;
use serde_json::Value;
use service_registry::client::{Client, ClientOptions};
use service_registry::files::{
    Opened as Offered, PUT, PackagePlace, PushError, Pushed, Scan, Source, push_scanned, scan,
};
use service_registry::package::unpack::Package;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time that an agent has to greet.
const ANSWER: Duration = Duration::from_secs(10);
/// On top of what scripts may take: unpacked files are compared, and written to disk.
const INSTALLED: Duration = Duration::from_secs(600);
/// Times that a connection that breaks is made again, and the pause before.
const AGAIN: (u32, Duration) = (5, Duration::from_secs(2));

/// A folder of a deployment in the state folder begins so; its process's id follows.
const UNPACKED: &str = "deploy-";

/// Nodes that are deployed to at the same time.
const AT_ONCE: usize = 3;

/// What became of a node.
#[derive(Serialize)]
struct Outcome {
    node: String,
    milliseconds: u64,
    /// Bytes that went over the wire, or would.
    sent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployed: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A package, unpacked here for as long as it is sent.
struct Unpacked {
    folder: PathBuf,
    package: Package,
    scan: Scan,
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // What is left is in the way of nobody: the name has this process's id.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What is the same for all nodes.
struct Work<'a> {
    args: &'a Args,
    agents: Agents,
    nodes: IndexMap<String, Node>,
    /// Known once it is unpacked; the way to the first nodes is made meanwhile.
    unpacked: OnceCell<Unpacked>,
    timeout: Duration,
    board: Board<'a>,
    turns: Semaphore,
    /// As whom the project's daemon claims agents.
    owner: Owner,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let stack = load::look(context, &project)?.stack;
    let file = file(&args.file, &stack);
    let sent = send(context, args, &project, &stack, &file, &args.to)?;
    if !context.ui.is_table() {
        context.ui.document(&sent)?;
    }
    Ok(sent.exit())
}

/// What became of a deployment to nodes.
#[derive(Serialize)]
pub(super) struct Sent {
    schema: u32,
    name: String,
    version: String,
    bytes: u64,
    nodes: Vec<Outcome>,
}

impl Sent {
    pub(super) fn exit(&self) -> Exit {
        if self.nodes.iter().any(|outcome| outcome.error.is_some()) { Exit::GENERAL } else { Exit::OK }
    }

    /// The version that was current before on all of them, if that was the same one, and another than this.
    pub(super) fn previous(&self) -> Option<&str> {
        let mut all = self.nodes.iter().map(|outcome| outcome.deployed.as_ref()?["previous"].as_str());
        let first = all.next()??;
        all.all(|other| other == Some(first)).then_some(first)
    }
}

/// Deploys a package to nodes, and tells how that went on a screen.
pub(super) fn send(
    context: &Context,
    args: &Args,
    project: &Project,
    stack: &Stack,
    file: &Path,
    names: &[String],
) -> Result<Sent, CommandError> {
    let nodes = chosen(stack, names)?;
    let key = args.key.as_deref().map(packages::public_key).transpose()?;
    let mut package = Opened::new(file, key.as_ref())?;
    // What is no package is told before anybody is asked anything.
    package.peek()?;
    LocalLauncher::prepare();
    let asked = Asked::of(project)?;
    let work = Work {
        args,
        agents: Agents::of(&project.id),
        nodes: stack.nodes.clone(),
        unpacked: OnceCell::new(),
        timeout: context.global.timeout.unwrap_or(SCRIPT),
        board: Board::new(&context.ui, &nodes),
        turns: Semaphore::new(args.max_parallel.map_or(AT_ONCE, NonZeroUsize::get)),
        owner: asked.owner.clone(),
    };
    let state = project.state_dir.clone();
    let outcomes = connect::block_on(async |_| {
        let unpacking = async {
            let unpacked = blocking::unblock(move || unpack(package, &state)).await?;
            let _ = work.unpacked.set(unpacked).await;
            Ok(())
        };
        let all = nodes.iter().enumerate();
        let all = async { Ok(join_all(all.map(|(at, (name, _))| work.one(name, at))).await) };
        try_join(unpacking, all).await.map(|((), outcomes)| outcomes)
    });
    let Work { unpacked, board, .. } = work;
    drop(board);
    asked.done(project)?;
    let outcomes = outcomes?;
    let unpacked = unpacked.into_inner().ok_or(PackageError::Interrupted)?;
    if context.ui.is_table() {
        for outcome in &outcomes {
            context.ui.out(line(outcome, &unpacked, args.dry_run))?;
        }
    }
    let manifest = &unpacked.package.manifest;
    let (name, version) = (manifest.name.clone(), manifest.version.to_string());
    Ok(Sent { schema: 1, name, version, bytes: unpacked.scan.bytes, nodes: outcomes })
}

/// The package's file: what was named, unless that is a service of this type.
pub(super) fn file(named: &Path, stack: &Stack) -> PathBuf {
    let service = named.to_str().and_then(|name| stack.services.get(name)).filter(|_| !named.is_file());
    match service.map(|service| (&service.target, &service.files)) {
        Some((Target::Package { package, .. }, files)) => {
            let path = PathBuf::from(package.as_literal().unwrap_or_default());
            files.iter().find(|file| file.destination == path).map_or(path, |file| file.source.clone())
        }
        _ => named.to_owned(),
    }
}

/// Checks the package, and unpacks and scans it in a folder of this process.
fn unpack(mut package: Opened, state: &Path) -> Result<Unpacked, CommandError> {
    let failed = |error: &std::io::Error| CommandError::io("can't unpack the package here", error);
    sweep(state);
    let folder = state.join(format!("{UNPACKED}{}", std::process::id()));
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&error)),
        _ => {}
    }
    std::fs::create_dir_all(&folder).map_err(|error| failed(&error))?;
    let unpacked = package.unpack(&folder).map_err(CommandError::from).and_then(|package| {
        let source = Source { source: folder.clone(), destination: ".".into() };
        let owner = format!("package-{}", package.manifest.name.replace('+', "_"));
        let scan =
            scan(&owner, &[source]).map_err(|error| CommandError::from_error(Exit::GENERAL, &error))?;
        Ok((package, scan))
    });
    match unpacked {
        Ok((package, scan)) => Ok(Unpacked { folder, package, scan: scan.for_several() }),
        Err(error) => {
            let _ = std::fs::remove_dir_all(&folder);
            Err(error)
        }
    }
}

/// Removes what deployments left that were killed: their processes are gone.
fn sweep(state: &Path) {
    for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(UNPACKED)) else { continue };
        if pid.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // It is in the way of nobody: the next one tries again.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn line(outcome: &Outcome, unpacked: &Unpacked, dry: bool) -> String {
    let manifest = &unpacked.package.manifest;
    let (name, node) =
        (format!("{} {}", manifest.name, manifest.version), paint(style::STRONG, &outcome.node));
    let sent = format!("{} of {}", bytes(outcome.sent), bytes(unpacked.scan.bytes));
    if let Some(error) = &outcome.error {
        return format!("{} {node}  {error}", paint(style::ERROR, "✗"));
    }
    let time = short(Duration::from_millis(outcome.milliseconds));
    if dry {
        return format!("{node}  {name} would send {sent}");
    }
    let good = paint(style::GOOD, "✓");
    let Some(deployed) = &outcome.deployed else { return format!("{good} {node}") };
    if deployed["changed"] == false {
        return format!("{good} {node}  {name} is current already: unchanged");
    }
    let before = deployed["previous"].as_str().map(|before| format!(", before it {before}"));
    format!("{good} {node}  {name} is current{}: {sent} sent in {time}", before.unwrap_or_default())
}

impl Work<'_> {
    async fn one(&self, node: &str, at: usize) -> Outcome {
        self.board.tell(at, Phase::Busy, "waiting for its turn".to_owned());
        let _turn = self.turns.acquire().await;
        let begun = Instant::now();
        let mut tries = 0;
        let done = loop {
            tries += 1;
            match self.once(node, at).await {
                Err((why, true)) if tries < AGAIN.0 => {
                    self.board.tell(at, Phase::Busy, format!("again after: {why}"));
                    Timer::after(AGAIN.1).await;
                }
                done => break done,
            }
        };
        let (phase, text) = if done.is_ok() { (Phase::Done, "done") } else { (Phase::Failed, "failed") };
        self.board.tell(at, phase, text.to_owned());
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let node = node.to_owned();
        match done {
            Ok((sent, deployed)) => Outcome { node, milliseconds, sent, deployed, error: None },
            Err((error, _)) => Outcome { node, milliseconds, sent: 0, deployed: None, error: Some(error) },
        }
    }

    /// Over one connection. The error is for people, and whether another connection may help.
    async fn once(&self, node: &str, at: usize) -> Result<(u64, Option<Value>), (String, bool)> {
        let progress = |text: String| self.board.tell(at, Phase::Busy, text);
        let brought = self.agents.bring(&self.nodes, node, &progress).await;
        let Brought { connection, .. } = brought.map_err(|failed| {
            (format!("{}: {} ({})", failed.step, failed.message, failed.hint), failed.passing)
        })?;
        let options = ClientOptions {
            name: concat!("harness ", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: ANSWER,
            ..ClientOptions::default()
        };
        let greeted = Client::connect(connection.stream, &options).await;
        let (client, driver) = greeted.map_err(|error| (error.to_string(), true))?;
        let deploy = async {
            claim(&client, &self.owner).await?;
            self.board.tell(at, Phase::Busy, "waiting for the package to be unpacked here".to_owned());
            self.with(&client, self.unpacked.wait().await, at).await
        };
        driver.run(deploy).await
    }

    async fn with(
        &self,
        client: &Client,
        unpacked: &Unpacked,
        at: usize,
    ) -> Result<(u64, Option<Value>), (String, bool)> {
        let lost = |error: PushError| (chain(&error), error.is_of_the_way() || error.may_pass());
        let Package { manifest, digest, packed, .. } = &unpacked.package;
        let name = manifest.name.clone();
        let place = PackagePlace { name, sha256: *digest, prefix: self.args.prefix.clone() };
        let found = unpacked.scan.with_package(place.clone()).steered_by(&self.owner.id);
        if self.args.dry_run {
            let found = found.only_to_look();
            let (offered, _stream): (Offered, _) = client
                .open_stream(PUT, &found.params, INSTALLED)
                .await
                .map_err(|error| lost(error.into()))?;
            return Ok((found.size_of(&offered.missing), None));
        }
        let found = Arc::new(found);
        let tell = |done: u64, total: u64| {
            self.board.tell(at, Phase::Busy, format!("sending, {} of {}", bytes(done), bytes(total)));
        };
        let Pushed { sent, .. } = push_scanned(client, &found, &tell).await.map_err(lost)?;
        self.board.tell(at, Phase::Busy, "installing".to_owned());
        let params = InstallParams {
            package: place,
            size: *packed,
            holder: holder(),
            keep: self.args.keep,
            rollback_on_failure: self.args.rollback_on_failure,
            timeout_ms: u64::try_from(self.timeout.as_millis()).ok(),
            steered_by: Some(self.owner.id.clone()),
        };
        let patience = INSTALLED + self.timeout * 3;
        let deployed: Value =
            client.call(INSTALL, &params, patience).await.map_err(|error| lost(error.into()))?;
        Ok((sent, Some(deployed)))
    }
}

/// Goes back on nodes, one after the other.
pub(in crate::commands) fn rollback(
    context: &Context,
    to: &[String],
    mut params: RollbackParams,
) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let stack = load::look(context, &project)?.stack;
    let nodes = chosen(&stack, to)?;
    LocalLauncher::prepare();
    let agents = Agents::of(project.id.clone());
    let asked = Asked::of(&project)?;
    params.steered_by = Some(asked.owner.id.clone());
    let mut outcomes = Vec::new();
    for (node, _) in nodes {
        let begun = Instant::now();
        let done = connect::block_on(async |_| {
            Ok(async {
                let brought = agents.bring(&stack.nodes, node, &|_| {}).await;
                let Brought { connection, .. } = brought.map_err(|failed| failed.to_string())?;
                let options = ClientOptions { connect_timeout: ANSWER, ..ClientOptions::default() };
                let greeted = Client::connect(connection.stream, &options).await;
                let (client, driver) = greeted.map_err(|error| chain(&PushError::from(error)))?;
                let rolled_back = async {
                    claim(&client, &asked.owner).await.map_err(|(why, _)| why)?;
                    let done = client.call::<_, Value>(ROLLBACK, &params, INSTALLED).await;
                    done.map_err(|error| chain(&PushError::from(error)))
                };
                driver.run(rolled_back).await
            }
            .await)
        })?;
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (deployed, error) = match done {
            Ok(deployed) => (Some(deployed), None),
            Err(error) => (None, Some(error)),
        };
        outcomes.push(Outcome { node: node.to_owned(), milliseconds, sent: 0, deployed, error });
    }
    asked.done(&project)?;
    let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
    if !context.ui.is_table() {
        context.ui.document(&serde_json::json!({ "schema": 1, "nodes": outcomes }))?;
    } else {
        for outcome in &outcomes {
            let node = paint(style::STRONG, &outcome.node);
            let (mark, text) = match (&outcome.error, &outcome.deployed) {
                (Some(error), _) => (paint(style::ERROR, "✗"), error.clone()),
                (None, deployed) => {
                    let version = deployed.as_ref().and_then(|done| done["version"].as_str());
                    let text = format!("{} {} is current", params.name, version.unwrap_or_default());
                    (paint(style::GOOD, "✓"), text)
                }
            };
            context.ui.out(format_args!("{mark} {node}  {text}"))?;
        }
    }
    Ok(if failed { Exit::GENERAL } else { Exit::OK })
}

/// The project's daemon was asked as whom it claims agents.
struct Asked {
    owner: Owner,
    /// Whether it runs only since then.
    started: bool,
}

impl Asked {
    fn of(project: &Project) -> Result<Self, CommandError> {
        connect::block_on(async |executor| {
            let (daemon, started) = connect::asked(executor, project).await?;
            let owner = daemon.call(OWNER, &serde_json::json!({})).await?;
            Ok(Self { owner, started })
        })
    }

    /// A daemon that was only started to be asked isn't needed any more.
    fn done(self, project: &Project) -> Result<(), CommandError> {
        if self.started { daemon::end_if_idle(project) } else { Ok(()) }
    }
}

/// Takes the agent for the project's daemon, as that does itself: one that keeps something for another refuses. The error as in
/// [`Work::once`].
async fn claim(client: &Client, owner: &Owner) -> Result<(), (String, bool)> {
    let claimed: Result<Value, _> = client.call(CLAIM, owner, ANSWER).await;
    claimed.map(drop).map_err(|error| match error.rpc() {
        Some(refused) => (refused.message.clone(), false),
        None => (error.to_string(), true),
    })
}

/// Who deploys, for whoever finds the lock taken there.
fn holder() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| rustix::process::getuid().as_raw().to_string());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{host}, pid {}, since {}", std::process::id(), Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_deployment_left_goes_with_the_next() {
        let state = tempfile::tempdir().unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let folder = |pid: u32| state.path().join(format!("{UNPACKED}{pid}"));
        let (left, used) = (folder(ended.id()), folder(std::process::id()));
        for folder in [&left, &used, &state.path().join("deploy-notes")] {
            std::fs::create_dir_all(folder.join("bin")).unwrap();
        }
        sweep(state.path());
        assert!(!left.exists() && used.exists() && state.path().join("deploy-notes").exists());
    }

    #[test]
    fn only_a_version_that_all_nodes_had_is_gone_back_to() {
        let sent = |before: &[Option<&str>]| Sent {
            schema: 1,
            name: "shop".to_owned(),
            version: "2.0.0".to_owned(),
            bytes: 0,
            nodes: before
                .iter()
                .map(|before| Outcome {
                    node: "a".to_owned(),
                    milliseconds: 0,
                    sent: 0,
                    deployed: Some(serde_json::json!({ "previous": before })),
                    error: None,
                })
                .collect(),
        };
        assert_eq!(sent(&[Some("1.0.0"), Some("1.0.0")]).previous(), Some("1.0.0"));
        assert_eq!(sent(&[Some("1.0.0"), Some("1.1.0")]).previous(), None);
        assert_eq!(sent(&[Some("1.0.0"), None]).previous(), None);
        assert_eq!(sent(&[]).previous(), None);
    }
}
