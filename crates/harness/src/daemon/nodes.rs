//! `node.*`: what an agent does for the project's daemon, and what the daemon tells of other machines.

use super::methods::{Shared, safe};
use super::secrets;
use crate::api::code;
use crate::api::node::{
    AssignParams, DrainParams, DrainResult, ForgetParams, ForgetResult, ListResult, NodeInfo, NodeState,
    Owner, PingParams, Pong, WithdrawParams,
};
use crate::error::chain;
use async_io::Timer;
use futures_lite::FutureExt as _;
use orchestrator::command::AssignRequest;
use orchestrator::model::{InstanceName, Service, Stack, Target, Template};
use orchestrator::node::wire::Stamp;
use orchestrator::observed::NodeSeen;
use orchestrator::plan::LEASE;
use orchestrator::supervisor::{AssignOrder, Command, NodeStatus};
use service_registry::model::State;
use service_registry::registry::Registry;
use service_registry::wire::{self, Empty, RpcError};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The folder below an agent's state folder in which what was assigned runs, unless it says otherwise; files that the
/// project sends come here.
pub(super) const FOLDER: &str = "files";

/// The time that an answer waits for files that are brought to nodes where nothing starts anew.
const BRING: Duration = Duration::from_secs(15);

/// The time that the answer to a ping waits for what else it tells.
const GATEWAY: Duration = Duration::from_millis(200);

impl Shared {
    /// Answers, and lets what runs on a lease run on from the last answer that the daemon has heard.
    pub(super) async fn ping(&self, params: PingParams) -> Result<Pong, RpcError> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim().to_owned();
        let steered = params.owner.is_some_and(|id| self.owner().is_some_and(|owner| owner.id == id));
        if let Some(seen) = params.seen.filter(|seen| steered && seen.boot == boot) {
            self.send(Command::Lease(Duration::from_millis(seen.ms) + LEASE)).await?;
        }
        let (since_boot, now) = super::host::clock()();
        let ms = u64::try_from(since_boot.as_millis()).unwrap_or(u64::MAX);
        // The answer says that the program is there: it doesn't wait long for a loop that is busy.
        let late = async {
            Timer::after(GATEWAY).await;
            Ok(None)
        };
        let network = self.ask_plain(Command::ContainerNetwork).or(late).await?;
        let gateway = network.map(|network| network.gateway);
        Ok(Pong { stamp: Some(Stamp { boot, ms }), now_ms: now.as_millisecond(), gateway })
    }

    /// Takes a daemon as the one that steers this agent, unless another does and something is kept for it.
    pub(super) async fn claim(&self, claim: Owner) -> Result<Empty, RpcError> {
        let owner = self.owner();
        if let Some(owner) = owner.filter(|owner| owner.id != claim.id) {
            let idle = self.registry.list().entries.iter().all(|entry| {
                matches!(entry.status.state, State::Stopped | State::Failed) && !entry.returning
            });
            if !idle {
                return Err(RpcError::new(
                    code::CLAIMED,
                    format!(
                        "its agent keeps services of this project for another daemon: {}; stop them there first",
                        owner.whose
                    ),
                ));
            }
        }
        let bytes = serde_json::to_vec(&claim).map_err(RpcError::internal)?;
        safe(Some(self.registry.kv_put(OWNER.0, OWNER.1, &bytes))).await?;
        Ok(Empty {})
    }

    fn owner(&self) -> Option<Owner> {
        let bytes = self.registry.kv_get(OWNER.0, OWNER.1)?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Whether whoever asks may change files and packages here: on an agent that was claimed only who claimed it. A daemon that
    /// nobody steers is no agent, or one that nothing was assigned to.
    pub(super) fn steered_by(&self, id: Option<&str>) -> Result<(), RpcError> {
        steered_by(self.owner().as_ref(), id)
    }

    /// Words of a daemon that another has taken the place of come late.
    fn owned_by(&self, id: &str) -> Result<(), RpcError> {
        match self.owner() {
            Some(owner) if owner.id == id => Ok(()),
            Some(owner) => Err(other(&owner)),
            None => Err(RpcError::new(code::CLAIMED, "this agent was claimed by nobody")),
        }
    }

    pub(super) async fn assign(&self, params: AssignParams) -> Result<Empty, RpcError> {
        let AssignParams { owner, project, instance, run, service } = params;
        self.owned_by(&owner)?;
        let folder = self.about.project.state.join(FOLDER);
        if !run.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(RpcError::new(wire::code::INVALID_PARAMS, format!("{run:?} is no run")));
        }
        let mut service = rooted(&service, &folder);
        let secrets = std::mem::take(&mut service.secrets);
        crate::packages::service::complete_here(&mut service)
            .map_err(|error| RpcError::new(code::PACKAGE, chain(&error)))?;
        let service = Arc::new(service);
        make(&folder)
            .map_err(|error| RpcError::internal(format!("can't make {}: {error}", folder.display())))?;
        let stack = Stack {
            name: project.clone(),
            description: None,
            folder: folder.clone(),
            services: [(service.name.clone(), service.clone())].into_iter().collect(),
            networks: Default::default(),
            nodes: Default::default(),
            secrets: Default::default(),
            zone: None,
        };
        let mut warnings = Vec::new();
        let network = self.network(&stack, &[], false, &mut warnings).await;
        for warning in warnings {
            tracing::warn!(%instance, warning, "assigned");
        }
        let request =
            AssignRequest { project, folder, instance: instance.clone(), run: run.clone(), service };
        let mut env = own_env();
        let state = &self.about.project.state;
        if !secrets.is_empty() {
            let written = secrets::write_for(state, &instance, &run, &secrets);
            let folder = written.map_err(|error| {
                RpcError::new(code::SECRET, format!("can't write the secrets' files: {error}"))
            })?;
            env.insert(secrets::VARIABLE.into(), folder.to_string_lossy().into_owned());
        }
        let order = AssignOrder { request, env, network };
        let durable = match self.ask(|reply| Command::Assign(Box::new(order), reply)).await {
            Ok(durable) => durable,
            Err(refused) => {
                forget_secrets(state, &instance, |other| other == run);
                return Err(refused);
            }
        };
        forget_secrets(state, &instance, |other| other < run.as_str());
        safe(Some(durable)).await?;
        Ok(Empty {})
    }

    /// Brings the files of what runs on other nodes in step; what didn't work, for people.
    pub(super) async fn bring(&self, instances: Vec<InstanceName>) -> Result<Vec<String>, RpcError> {
        let late = async {
            Timer::after(BRING).await;
            Ok(vec!["files are still being copied to nodes; the daemon's log tells how that ends".to_owned()])
        };
        self.ask_plain(|reply| Command::Bring(instances, reply)).or(late).await
    }

    pub(super) async fn withdraw(&self, params: WithdrawParams) -> Result<Empty, RpcError> {
        let WithdrawParams { owner, instance, run, force } = params;
        self.owned_by(&owner)?;
        let (name, upto) = (instance.clone(), run.clone());
        let durable = self.ask(|reply| Command::Withdraw(instance, run, force, reply)).await?;
        forget_secrets(&self.about.project.state, &name, |run| run <= upto.as_str());
        safe(Some(durable)).await?;
        Ok(Empty {})
    }

    pub(super) async fn drain(&self, params: DrainParams) -> Result<DrainResult, RpcError> {
        let DrainParams { name, off } = params;
        let (drained, durable) = self.ask(|reply| Command::Drain(name, !off, reply)).await?;
        safe(Some(durable)).await?;
        Ok(DrainResult { moving: drained.moving, staying: drained.staying })
    }

    pub(super) async fn forget_node(&self, params: ForgetParams) -> Result<ForgetResult, RpcError> {
        let (left, durable) = self.ask(|reply| Command::ForgetNode(params.name, reply)).await?;
        safe(Some(durable)).await?;
        Ok(ForgetResult { left })
    }

    pub(super) async fn nodes(&self) -> Result<ListResult, RpcError> {
        let nodes = self.ask_plain(Command::Nodes).await?;
        Ok(ListResult { nodes: nodes.into_iter().map(info).collect() })
    }
}

fn steered_by(owner: Option<&Owner>, id: Option<&str>) -> Result<(), RpcError> {
    match owner {
        Some(owner) if id != Some(&owner.id) => Err(other(owner)),
        _ => Ok(()),
    }
}

fn other(owner: &Owner) -> RpcError {
    RpcError::new(code::CLAIMED, format!("this agent is steered by {}", owner.whose))
}

/// Where the daemon that steers this agent is kept.
const OWNER: (&str, &str) = ("agent", "owner");
/// Where a daemon's own name for agents is kept.
const SELF: (&str, &str) = ("daemon", "owner");

/// Who this daemon is for agents. A state folder that was copied to another place or machine is another daemon's.
pub(super) fn identity(registry: &Registry, state_dir: &Path) -> Owner {
    let kept = registry.kv_get(SELF.0, SELF.1).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    let own = kept.unwrap_or_else(|| {
        let new = uuid::Uuid::new_v4().to_string();
        registry.kv_put(SELF.0, SELF.1, new.as_bytes()).forget();
        new
    });
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let mut hash = Sha256::new();
    for part in [own.as_bytes(), machine.trim().as_bytes(), state_dir.as_os_str().as_bytes()] {
        hash.update(part);
        hash.update([0]);
    }
    let user = std::env::var("USER").unwrap_or_else(|_| rustix::process::geteuid().as_raw().to_string());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let whose = format!("{user}@{host}, {}", state_dir.display());
    Owner { id: super::hex(&hash.finalize(), 16), whose }
}

/// What can't be removed is in a folder that nobody else can read, and is tried again with the next assignment.
fn forget_secrets(state: &Path, instance: &InstanceName, goes: impl Fn(&str) -> bool) {
    if let Err(error) = secrets::remove_for(state, instance, goes) {
        tracing::warn!(%instance, %error, "the files of its secrets can't be removed");
    }
}

fn make(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The definition with its paths as they are on this machine: relative ones are below the folder of the agent's files, `~/`
/// is the home folder here.
fn rooted(service: &Service, folder: &Path) -> Service {
    let home = crate::project::home();
    let path = |text: &Template| match text.as_literal() {
        Some(literal) => match (literal.strip_prefix("~/"), &home) {
            (Some(rest), Some(home)) => Template::literal(home.join(rest).to_string_lossy()),
            _ => {
                let path: PathBuf = folder.join(literal).components().collect();
                Template::literal(path.to_string_lossy())
            }
        },
        None => text.clone(),
    };
    let marked = |text: &Template| match text.as_literal() {
        Some(literal) if literal.starts_with("./") || literal.starts_with("~/") => path(text),
        _ => text.clone(),
    };
    let mut service = service.clone();
    service.working_dir = service.working_dir.as_ref().map(path);
    match &mut service.target {
        Target::Process { program, .. } => *program = marked(program),
        Target::Docker { volumes, .. } => {
            for volume in volumes {
                *volume = marked(volume);
            }
        }
        Target::Compose { file, .. } => *file = path(file),
        Target::Portable { image, .. } => *image = path(image),
        Target::Package { package, .. } => *package = path(package),
        Target::Systemd { .. } | Target::Attach(_) => {}
    }
    service
}

/// What a process on a node inherits: who is logged in there and where programs are, nothing else.
fn own_env() -> BTreeMap<String, String> {
    const NAMES: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR"];
    NAMES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect()
}

fn info(status: NodeStatus) -> NodeInfo {
    let (state, since, message) = match status.seen {
        None => (NodeState::Unused, None, String::new()),
        Some(NodeSeen::Connecting { progress }) => (NodeState::Connecting, None, progress),
        Some(NodeSeen::Up) => (NodeState::Up, None, String::new()),
        Some(NodeSeen::Lost { since, why, heard, .. }) => {
            (if heard { NodeState::Lost } else { NodeState::Unreachable }, Some(since), why)
        }
    };
    NodeInfo {
        name: status.name,
        state,
        since,
        message,
        drained: status.drained,
        clock_ahead_ms: status.clock.map(|(ahead, _)| ahead),
        clock_uncertain_ms: status.clock.map(|(_, uncertain)| uncertain),
        instances: status.instances,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_below_the_agents_files() {
        let stack: Stack =
            serde_json::from_str(include_str!("../../../orchestrator/samples/stack-v1.json")).unwrap();
        let mut service = Service::clone(stack.services.values().next().unwrap());
        service.working_dir = Some("data".into());
        service.target = Target::Process { program: "./server".into(), args: vec!["./as-it-is".into()] };
        let there = rooted(&service, Path::new("/agent/files"));
        assert_eq!(there.working_dir, Some("/agent/files/data".into()));
        let Target::Process { program, args } = there.target else { panic!("a process") };
        assert_eq!((program, &args[0]), ("/agent/files/server".into(), &"./as-it-is".into()));
        service.target = Target::Process { program: "sleep".into(), args: vec![] };
        service.working_dir = Some("/srv".into());
        assert_eq!(rooted(&service, Path::new("/agent/files")), service);
    }

    #[test]
    fn files_and_packages_of_a_claimed_agent_are_changed_by_who_claimed_it() {
        let owner = Owner { id: "1a".into(), whose: "alice@laptop, /home/alice/shop".into() };
        assert!(steered_by(None, None).is_ok() && steered_by(None, Some("1a")).is_ok());
        assert!(steered_by(Some(&owner), Some("1a")).is_ok());
        for id in [None, Some("2b")] {
            let refused = steered_by(Some(&owner), id).unwrap_err();
            assert_eq!(refused.code, code::CLAIMED);
            assert_eq!(refused.message, "this agent is steered by alice@laptop, /home/alice/shop");
        }
    }
}
