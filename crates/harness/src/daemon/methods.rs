//! `stack.*`, `daemon.*` and `package.*`: wire types in, commands to the loop, wire types out.

use super::access::Access;
use super::files::Files;
use super::planes::DataPlanes;
use super::uploads::Uploads;
use super::{packages, secrets};
use crate::api::{self, code};
use crate::error::chain;
use async_channel::Sender;
use futures_util::future::BoxFuture;
use orchestrator::command::{Refused, StartRequest, Started, StopRequest};
use orchestrator::graph;
use orchestrator::model::{InstanceName, ServiceName, Stack};
use orchestrator::network::{ContainerNetwork, View};
use orchestrator::node::{Project, SecretError, container_network, evaluate_secrets};
use orchestrator::plan::Step;
use orchestrator::supervisor::{Command, Event, Reply, StartAnswer, StartOrder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use service_registry::model::{Entry, Known, State};
use service_registry::registry::{Durable, Registry};
use service_registry::server::{CallContext, Methods};
use service_registry::wire::{Empty, MethodInfo, RpcError, Scope};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What a daemon knows about itself.
pub(super) struct About {
    pub(super) project: Project,
    pub(super) started_at: String,
}

/// The daemon's methods.
pub(super) struct StackMethods {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    events: Sender<Event>,
    pub(super) registry: Registry,
    pub(super) about: About,
    access: Arc<Access>,
    uploads: Arc<Uploads>,
    files: Files,
    planes: DataPlanes,
    /// The configuration file that the last start came with.
    config: Mutex<Option<PathBuf>>,
    /// Held while the container network is looked for or made.
    making_network: async_lock::Mutex<()>,
}

/// What changes files and packages of this machine: an agent lets nobody do so but who steers it, as `steered_by` of the
/// parameters says.
const STEERED: &[&str] =
    &[service_registry::files::PUT, api::package::DEPLOY, api::package::INSTALL, api::package::ROLLBACK];

/// Whoever assigns knows this answer from all others.
const _: () = assert!(code::OUTDATED == orchestrator::node::wire::OUTDATED);

/// A start and a package bring programs along, and the answer to `stack.exec` holds secrets: these are for those who may do
/// everything.
pub(crate) const METHODS: &[MethodInfo] = &[
    MethodInfo::admin(api::STACK_START),
    MethodInfo::operate(api::STACK_STOP),
    MethodInfo::operate(api::STACK_RESTART),
    MethodInfo::read(api::STACK_STATUS),
    MethodInfo::read(api::STACK_HEALTH),
    MethodInfo::admin(api::STACK_EXEC),
    MethodInfo::read(api::DAEMON_STATUS),
    MethodInfo::admin(api::DAEMON_STOP),
    MethodInfo::admin(api::DAEMON_LISTEN),
    MethodInfo::admin(api::TOKEN_CREATE),
    MethodInfo::admin(api::TOKEN_LIST),
    MethodInfo::admin(api::TOKEN_REVOKE),
    MethodInfo::read(api::node::LIST),
    MethodInfo::read(api::node::PING),
    MethodInfo::operate(api::node::DRAIN),
    MethodInfo::operate(api::node::RETRY),
    MethodInfo::operate(api::node::FORGET),
    MethodInfo::admin(api::node::OWNER),
    MethodInfo::admin(api::node::CLAIM),
    MethodInfo::admin(api::node::ASSIGN),
    MethodInfo::admin(api::node::WITHDRAW),
    MethodInfo::read(api::network::SHOW),
    MethodInfo::operate(api::network::ROTATE_KEYS),
    MethodInfo::operate(api::network::DOWN),
    MethodInfo::admin(api::plane::UP),
    MethodInfo::admin(service_registry::files::PUT),
    MethodInfo::read(api::package::LIST),
    MethodInfo::admin(api::package::UPLOAD),
    MethodInfo::admin(api::package::DEPLOY),
    MethodInfo::admin(api::package::INSTALL),
    MethodInfo::admin(api::package::ROLLBACK),
];

/// Where the path of the configuration is kept.
const CONFIG: (&str, &str) = ("daemon", "config");

impl StackMethods {
    pub(super) fn new(
        events: Sender<Event>,
        registry: Registry,
        about: About,
        access: Arc<Access>,
        planes: DataPlanes,
    ) -> Self {
        let config =
            registry.kv_get(CONFIG.0, CONFIG.1).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let uploads = Arc::new(Uploads::new(&about.project.state));
        let files = Files::new(&about.project.state);
        Self {
            shared: Arc::new(Shared {
                events,
                registry,
                about,
                access,
                uploads,
                files,
                planes,
                config: Mutex::new(config),
                making_network: async_lock::Mutex::new(()),
            }),
        }
    }
}

impl Methods for StackMethods {
    fn methods(&self) -> &[MethodInfo] {
        METHODS
    }

    fn openrpc(&self) -> &'static str {
        include_str!("../../../../docs/openrpc.json")
    }

    fn ungreeted(&self) -> &[&str] {
        &[api::DAEMON_STOP]
    }

    fn call(
        &self,
        ctx: CallContext,
        method: &str,
        params: Value,
    ) -> BoxFuture<'static, Result<Value, RpcError>> {
        let shared = self.shared.clone();
        let method = method.to_owned();
        Box::pin(async move {
            if STEERED.contains(&method.as_str()) {
                shared.steered_by(params.get("steered_by").and_then(Value::as_str))?;
            }
            match method.as_str() {
                api::STACK_START => answer(shared.start(read(params)?).await?),
                api::STACK_STOP => answer(shared.stop(read(params)?).await?),
                api::STACK_RESTART => {
                    let params: api::RestartParams = read(params)?;
                    brings_nothing(&ctx, &params)?;
                    answer(shared.restart(params).await?)
                }
                api::STACK_STATUS => answer(shared.status(read(params)?).await?),
                api::STACK_HEALTH => answer(shared.health(read(params)?).await?),
                api::STACK_EXEC => answer(shared.exec(read(params)?).await?),
                api::DAEMON_STATUS => answer(shared.info()),
                api::DAEMON_STOP => {
                    let params: api::EndParams = read(params)?;
                    answer(shared.end(params).await?)
                }
                api::DAEMON_LISTEN => answer(shared.access.listen(read(params)?).await?),
                api::TOKEN_CREATE => answer(shared.access.create(read(params)?).await?),
                api::TOKEN_LIST => answer(shared.access.list()),
                api::TOKEN_REVOKE => answer(shared.access.revoke(read(params)?).await?),
                api::node::LIST => answer(shared.nodes().await?),
                api::node::PING => answer(shared.ping(read(params)?).await?),
                api::node::DRAIN => answer(shared.drain(read(params)?).await?),
                api::node::RETRY => {
                    shared.ask_plain(Command::RetryNodes).await?;
                    answer(Empty {})
                }
                api::node::FORGET => answer(shared.forget_node(read(params)?).await?),
                api::node::OWNER => answer(&shared.about.project.owner),
                api::node::CLAIM => answer(shared.claim(read(params)?).await?),
                api::node::ASSIGN => answer(shared.assign(read(params)?).await?),
                api::node::WITHDRAW => answer(shared.withdraw(read(params)?).await?),
                api::network::SHOW => answer(shared.network_status().await?),
                api::network::ROTATE_KEYS => {
                    let epoch = shared.ask_plain(Command::RotateKeys).await?;
                    answer(api::network::Rotated { epoch })
                }
                api::network::DOWN => {
                    let nodes = shared.ask_plain(Command::NetworkDown).await?;
                    answer(api::network::Down { nodes })
                }
                api::plane::UP => answer(shared.plane_up(read(params)?).await?),
                service_registry::files::PUT => answer(shared.files.put(read(params)?, &ctx.streams).await?),
                api::package::LIST => answer(packages::list(read(params)?).await?),
                api::package::UPLOAD => answer(shared.uploads.open(read(params)?, &ctx.streams).await?),
                api::package::DEPLOY => answer(packages::deploy(read(params)?).await?),
                api::package::INSTALL => answer(packages::install(read(params)?).await?),
                api::package::ROLLBACK => answer(packages::rollback(read(params)?).await?),
                other => Err(RpcError::new(
                    service_registry::wire::code::METHOD_NOT_FOUND,
                    format!("no method {other}"),
                )),
            }
        })
    }
}

/// A restart with another stack, or with values for it, is a start.
fn brings_nothing(ctx: &CallContext, params: &api::RestartParams) -> Result<(), RpcError> {
    if ctx.caller.scope >= Scope::Admin || (params.stack.is_none() && params.env.is_empty()) {
        return Ok(());
    }
    let text = "a restart with a stack or an environment of the caller's needs the scope `admin`";
    Err(RpcError::new(service_registry::wire::code::FORBIDDEN, text)
        .with_data(serde_json::json!({ "needs": Scope::Admin, "has": ctx.caller.scope })))
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, RpcError> {
    serde_json::from_value(params).map_err(|error| RpcError::invalid_params(&error))
}

fn answer<T: Serialize>(value: T) -> Result<Value, RpcError> {
    serde_json::to_value(value).map_err(RpcError::internal)
}

impl Shared {
    pub(super) async fn send(&self, command: Command) -> Result<(), RpcError> {
        let ending = |_| RpcError::new(service_registry::wire::code::SHUTTING_DOWN, "the daemon is ending");
        self.events.send(Event::Command(command)).await.map_err(ending)
    }

    /// Asks the loop, and waits for its answer.
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(Reply<Result<T, Refused>>) -> Command,
    ) -> Result<T, RpcError> {
        self.ask_plain(command).await?.map_err(refusal)
    }

    pub(super) async fn ask_plain<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, RpcError> {
        let (reply, answer) = async_channel::bounded(1);
        self.send(command(Reply(reply))).await?;
        let ending = |_| RpcError::new(service_registry::wire::code::SHUTTING_DOWN, "the daemon is ending");
        answer.recv().await.map_err(ending)
    }

    async fn end(&self, params: api::EndParams) -> Result<api::EndResult, RpcError> {
        let ending = if params.if_idle {
            self.ask_plain(Command::EndIfIdle).await?
        } else {
            self.send(Command::End).await?;
            true
        };
        Ok(api::EndResult { ending })
    }

    /// The values of the stack's secrets; unless it is a dry run also as files, whose folder `env` is told.
    async fn secrets(
        &self,
        stack: &Stack,
        env: &mut BTreeMap<String, String>,
        dry_run: bool,
    ) -> Result<BTreeMap<String, String>, RpcError> {
        let values = evaluate_secrets(&stack.secrets, env).await.map_err(no_secret)?;
        if !dry_run && !values.is_empty() {
            let folder = secrets::write(&self.about.project.state, &values).map_err(|error| {
                RpcError::new(code::SECRET, format!("can't write the secrets' files: {error}"))
            })?;
            env.insert(secrets::VARIABLE.into(), folder.to_string_lossy().into_owned());
        }
        Ok(values)
    }

    async fn start(&self, mut params: api::StartParams) -> Result<api::StartResult, RpcError> {
        let secrets = self.secrets(&params.stack, &mut params.env, params.dry_run).await?;
        let mut warnings = warnings(&params.stack);
        let network = self.network(&params.stack, &params.names, params.dry_run, &mut warnings).await;
        let order = StartOrder {
            stack: Some(params.stack),
            env: params.env,
            secrets,
            network,
            request: StartRequest {
                names: params.names,
                apply: params.apply,
                remove_orphans: params.remove_orphans,
            },
            dry_run: params.dry_run,
        };
        let answer = self.ask(|reply| Command::Start(Box::new(order), reply)).await?;
        if !params.dry_run
            && let Some(config) = params.config
        {
            self.remember(config);
        }
        let StartAnswer { revision, outcome, plan, durable } = answer;
        safe(durable).await?;
        if plan.is_none() {
            warnings.extend(self.bring(outcome.unchanged.clone()).await?);
        }
        let Started { wanted, started, unchanged, stale, orphans } = outcome;
        let stale = stale.into_iter().map(|(instance, changes)| api::Stale { instance, changes }).collect();
        let plan = plan.map(rounds);
        Ok(api::StartResult { revision, wanted, started, unchanged, stale, orphans, plan, warnings })
    }

    /// The stack's container network, made if it isn't there. Without an engine there is none: what needs it fails by
    /// itself and says why, everything else starts.
    pub(super) async fn network(
        &self,
        stack: &Stack,
        names: &[String],
        dry_run: bool,
        warnings: &mut Vec<String>,
    ) -> Option<ContainerNetwork> {
        let named = names.iter().filter_map(|name| {
            let of_instance = || Some(name.parse::<InstanceName>().ok()?.service().clone());
            stack.services.get_key_value(name.as_str()).map(|(name, _)| name.clone()).or_else(of_instance)
        });
        let mut wanted: Vec<ServiceName> = named.collect();
        if names.is_empty() {
            wanted.extend(stack.services.keys().cloned());
        }
        let needed = graph::with_needs(&stack.services, &wanted);
        let inside = |name: &ServiceName| {
            stack.services.get(name).is_some_and(|service| View::of(service) == View::Container)
        };
        if dry_run || !needed.iter().any(inside) {
            return None;
        }
        let _turn = self.making_network.lock().await;
        let known = self.ask_plain(Command::ContainerNetwork).await.ok().flatten();
        match container_network(&self.about.project, known.as_ref()).await {
            Ok(network) => Some(network),
            Err(error) => {
                warnings.push(format!("containers have no network: {}", chain(&error)));
                None
            }
        }
    }

    fn remember(&self, config: PathBuf) {
        if let Ok(bytes) = serde_json::to_vec(&config) {
            self.registry.kv_put(CONFIG.0, CONFIG.1, &bytes).forget();
        }
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }

    async fn stop(&self, params: api::StopParams) -> Result<api::StopResult, RpcError> {
        let request = StopRequest { names: params.names, force: params.force, dependents: params.dependents };
        let stopped = self.ask(|reply| Command::Stop(request, params.dry_run, reply)).await?;
        safe(stopped.durable).await?;
        Ok(api::StopResult {
            revision: stopped.revision,
            stopping: stopped.stopping,
            runs: stopped.runs,
            plan: stopped.plan.map(rounds),
        })
    }

    async fn restart(&self, mut params: api::RestartParams) -> Result<api::RestartResult, RpcError> {
        let secrets = match &params.stack {
            Some(stack) => self.secrets(stack, &mut params.env, false).await?,
            None => Default::default(),
        };
        let network = match &params.stack {
            Some(stack) => self.network(stack, &params.names, false, &mut Vec::new()).await,
            None => None,
        };
        let order = StartOrder {
            stack: params.stack,
            env: params.env,
            secrets,
            network,
            request: StartRequest { names: params.names, ..StartRequest::default() },
            dry_run: false,
        };
        let answer = self.ask(|reply| Command::Restart(Box::new(order), params.force, reply)).await?;
        safe(answer.durable).await?;
        Ok(api::RestartResult { revision: answer.revision, restarting: answer.outcome.started })
    }

    async fn status(&self, params: api::Names) -> Result<api::StatusResult, RpcError> {
        let selected: Option<BTreeSet<String>> = match params.names.as_slice() {
            [] => None,
            names => {
                let selected = self.ask(|reply| Command::Select(names.to_vec(), reply)).await?;
                Some(selected.iter().map(ToString::to_string).collect())
            }
        };
        let not_started: Vec<ServiceName> = self.ask_plain(Command::NotStarted).await?;
        let listing = self.registry.list();
        let wanted =
            |entry: &&Known| selected.as_ref().is_none_or(|selected| selected.contains(&entry.instance));
        Ok(api::StatusResult {
            project: self.project(),
            daemon: self.info(),
            revision: listing.revision,
            instances: listing.entries.iter().filter(wanted).map(|entry| Entry::clone(entry)).collect(),
            not_started: match selected {
                None => not_started,
                Some(_) => not_started
                    .into_iter()
                    .filter(|name| params.names.iter().any(|n| n == name.as_str()))
                    .collect(),
            },
        })
    }

    async fn health(&self, params: api::HealthParams) -> Result<api::StatusResult, RpcError> {
        if params.run_now {
            let names = params.names.clone();
            self.ask(|reply| Command::Probe(names, reply)).await?;
        }
        self.status(api::Names { names: params.names }).await
    }

    async fn exec(&self, params: api::ExecParams) -> Result<api::ExecContext, RpcError> {
        let context = self.ask(|reply| Command::Exec(params.name, reply)).await?;
        Ok(api::ExecContext {
            instance: context.instance,
            env: context.env,
            working_dir: context.working_dir,
            container: context.container,
            user: context.user,
            group: context.group,
            node: context.node,
            way: context.way,
        })
    }

    async fn network_status(&self) -> Result<api::network::ShowResult, RpcError> {
        let network = self.ask_plain(Command::Network).await?;
        Ok(api::network::ShowResult { network: *network })
    }

    async fn plane_up(&self, params: api::plane::UpParams) -> Result<Empty, RpcError> {
        let up = self.planes.up(&params.node).await;
        up.map(|()| Empty {}).map_err(|error| RpcError::new(code::PLANE, chain(&error)))
    }

    fn project(&self) -> String {
        self.about.project.name.clone()
    }

    fn info(&self) -> api::DaemonInfo {
        let live =
            |entry: &&Known| matches!(entry.status.state, State::Starting | State::Running | State::Stopping);
        api::DaemonInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            build: super::build_id(),
            pid: std::process::id(),
            started_at: self.about.started_at.clone(),
            project_id: self.about.project.id.clone(),
            config: self.config.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            state_dir: self.about.project.state.clone(),
            running: self.registry.list().entries.iter().filter(live).count(),
            listener: self.access.listener(),
        }
    }
}

/// Waits until a wish is safe from a crash: only then it was accepted.
pub(super) async fn safe(durable: Option<Durable>) -> Result<(), RpcError> {
    let Some(durable) = durable else { return Ok(()) };
    durable.await.map_err(|error| {
        let mut text = format!("the order stands, but could not be written down: {error}");
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        RpcError::new(service_registry::wire::code::NOT_DURABLE, text)
    })
}

fn no_secret(error: SecretError) -> RpcError {
    RpcError::new(code::SECRET, chain(&error))
}

fn refusal(refused: Refused) -> RpcError {
    let text = refused.to_string();
    match refused {
        Refused::UnknownName { name, known } => RpcError::new(code::UNKNOWN_NAME, text)
            .with_data(serde_json::json!({ "name": name, "names": known })),
        Refused::HasDependents { dependents } => RpcError::new(code::HAS_DEPENDENTS, text)
            .with_data(serde_json::json!({ "dependents": dependents })),
        Refused::NotRunning { .. } => RpcError::new(code::NOT_RUNNING, text),
        Refused::NotSupported { services } => {
            RpcError::new(code::NOT_SUPPORTED, text).with_data(serde_json::json!({ "services": services }))
        }
        Refused::NotPlaced { .. } => RpcError::new(code::NOT_SUPPORTED, text),
        Refused::Outdated { .. } => RpcError::new(code::OUTDATED, text),
        Refused::NotLost { .. } | Refused::Leased { .. } => RpcError::new(code::NOT_LOST, text),
        Refused::NoStack => RpcError::new(code::NO_STACK, text),
        Refused::Full(_) => RpcError::new(code::PORTS, text),
    }
}

fn rounds(rounds: Vec<Vec<Step>>) -> Vec<api::Round> {
    let step = |step: Step| {
        let instance: InstanceName = step.instance().clone();
        let (action, reason) = match step {
            Step::Start { again: true, .. } => ("restart", String::new()),
            Step::Start { dependencies, .. } if dependencies.is_empty() => ("start", String::new()),
            Step::Start { dependencies, .. } => {
                let names: Vec<String> = dependencies.iter().map(|(name, _)| name.to_string()).collect();
                ("start", format!("after {}", names.join(", ")))
            }
            Step::Stop { force: true, .. } => ("kill", String::new()),
            Step::Stop { cause, .. } => (
                "stop",
                match cause {
                    orchestrator::observed::StopCause::Replaced => "replaced by a new run".into(),
                    orchestrator::observed::StopCause::Dependency => "a dependency failed".into(),
                    orchestrator::observed::StopCause::Unhealthy => "unhealthy".into(),
                    orchestrator::observed::StopCause::Wish => String::new(),
                },
            ),
            Step::Probe { .. } => ("probe", String::new()),
        };
        api::PlannedStep { instance, action: action.into(), reason }
    };
    rounds.into_iter().map(|round| api::Round { steps: round.into_iter().map(step).collect() }).collect()
}

/// Limits that can't be enforced on this machine.
fn warnings(stack: &orchestrator::model::Stack) -> Vec<String> {
    let mut warnings = Vec::new();
    let processes = stack.services.values().filter(|service| !service.target.is_hosted());
    for service in processes {
        for (limit, set) in
            [("memory", service.resources.memory.is_some()), ("cpus", service.resources.cpus.is_some())]
        {
            if set {
                warnings.push(format!(
                    "{}: resources.{limit} isn't enforced: it needs a delegated cgroup v2 with that controller",
                    service.name
                ));
            }
        }
    }
    warnings
}
