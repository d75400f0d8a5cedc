//! `harness deploy SERVICE`: its package goes to where it runs, then its instances start anew with it and have to become ready.

use super::super::{Context, load, restart};
use super::{Args, nodes};
use crate::api::{self, RestartParams, StatusResult};
use crate::connect;
use crate::error::{CommandError, next_steps};
use crate::exit::Exit;
use crate::packages::{self, Opened};
use crate::project::Project;
use crate::ui::style::{self, paint};
use crate::ui::suggest;
use harness_config::Stack;
use orchestrator::model::{Target, Template};
use semver::Version;
use service_registry::model::{Location, State};
use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whether that names a service rather than a file.
pub(super) fn is_meant(named: &Path) -> bool {
    !named.is_file() && named.to_str().is_some_and(|name| !name.contains(['.', '/']))
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let stack = load::look(context, &project)?.stack;
    let name = args.file.to_str().unwrap_or_default();
    let service = stack.service(name).ok_or_else(|| {
        let near = suggest::did_you_mean(name, stack.services.keys().map(|name| name.as_str()));
        CommandError::usage(format!("there is neither a file nor a service '{name}'")).hint(near)
    })?;
    let Target::Package { install_path, .. } = &service.target else {
        return Err(CommandError::usage(format!("{name} is of type {}", service.target.type_name())).hint(
            format!("`harness restart {name}` takes what the file says now; `deploy` is for `type: package`"),
        ));
    };
    let file = nodes::file(&args.file, &stack);
    let found = Opened::new(&file, None)?.peek()?;
    let target = args.version.clone().unwrap_or_else(|| found.version.clone());
    let places = places(&project, name)?;
    let far: Vec<String> = match &places {
        Some(places) => places.iter().flatten().cloned().collect(),
        None => service.host.iter().cloned().collect(),
    };
    let prefix = install_path.as_ref().and_then(Template::as_literal);
    let deployment = service.deployment.as_ref();
    let args = &Args {
        // Where the service takes it from, here and on nodes.
        prefix: prefix.map(PathBuf::from).or_else(|| args.prefix.clone()),
        rollback_on_failure: args.rollback_on_failure || deployment.is_some_and(|it| it.rollback_on_failure),
        ..args.clone()
    };
    let in_file = deployment.and_then(|it| NonZeroUsize::try_from(NonZeroU32::new(it.max_parallel)?).ok());
    let at_once = args.max_parallel.or(in_file).map_or(1, NonZeroUsize::get);
    let depot = packages::depot(args.prefix.as_deref())?;
    let here = depot.current(&found.name).map_err(|error| CommandError::from_error(Exit::GENERAL, &error))?;
    if args.dry_run {
        return dry_run(context, args, &project, &stack, &Dry { name, target: &target, here, far, places });
    }
    let mut previous = here.filter(|_| far.is_empty());
    if !far.is_empty() && args.version.is_none() {
        let sent = nodes::send(context, args, &project, &stack, &file, &far)?;
        if sent.exit() != Exit::OK {
            return failed(context, &sent);
        }
        previous = sent.previous().and_then(|version| version.parse().ok());
    }
    if places.is_none() {
        return not_running(context, args, name, &far);
    }
    let replicas = replicas(&stack, name);
    let restart = Restart { context, project: &project, stack: &stack, name, at_once };
    let (exit, tried) = restart.with_version(&replicas, args.version.as_ref())?;
    let before = previous.filter(|previous| *previous != target);
    match before {
        Some(before) if exit != Exit::OK && args.rollback_on_failure => {
            let cross = paint(style::ERROR, "✗");
            context.ui.say(format_args!("{cross} {name} isn't ready with {target}: back to {before}"));
            // The one that failed first. Those that weren't reached run the version from before.
            let restarted: Vec<String> = replicas.into_iter().take(tried).rev().collect();
            let (back, _) = restart.with_version(&restarted, Some(&before))?;
            if back == Exit::OK {
                context.ui.say(format_args!("{} {name} runs with {before} again", paint(style::GOOD, "✓")));
            }
            Ok(exit)
        }
        Some(before) => {
            let back = format!("harness deploy {name} --version {before}");
            next_steps(&context.ui, &[(back, "go back to the version before")]);
            Ok(exit)
        }
        None => {
            if exit != Exit::OK && args.rollback_on_failure && !far.is_empty() {
                context
                    .ui
                    .say("The nodes didn't all have the same other version before: none is gone back to.");
            }
            Ok(exit)
        }
    }
}

/// The deployment to nodes failed: in a table that was told.
fn failed(context: &Context, sent: &nodes::Sent) -> Result<Exit, CommandError> {
    if !context.ui.is_table() {
        context.ui.document(sent)?;
    }
    Ok(sent.exit())
}

/// Where instances of the service are wanted or live: nodes, and `None` for this machine. `None` where it isn't running.
fn places(project: &Project, name: &str) -> Result<Option<BTreeSet<Option<String>>>, CommandError> {
    let status: Option<StatusResult> = connect::block_on(async |executor| {
        let Some(daemon) = connect::existing(executor, project).await? else { return Ok(None) };
        Ok(Some(daemon.call(api::STACK_STATUS, &api::Names::default()).await?))
    })?;
    let instances = status.map(|status| status.instances).unwrap_or_default();
    let runs = |state| !matches!(state, State::Stopped | State::Registered);
    let places: BTreeSet<Option<String>> = instances
        .into_iter()
        .filter(|entry| entry.service == name && runs(entry.status.state))
        .map(|entry| match entry.location {
            Location::Local => None,
            Location::Node(node) => Some(node),
        })
        .collect();
    Ok(Some(places).filter(|places| !places.is_empty()))
}

/// What is restarted one after the other, or some at a time: the replicas, or the service where there is one.
fn replicas(stack: &Stack, name: &str) -> Vec<String> {
    let all = stack.instances().filter(|(_, service)| service.name.as_str() == name);
    let all: Vec<String> = all.map(|(instance, _)| instance.to_string()).collect();
    if all.len() > 1 { all } else { vec![name.to_owned()] }
}

/// How replicas are restarted.
struct Restart<'a> {
    context: &'a Context,
    project: &'a Project,
    stack: &'a Stack,
    name: &'a str,
    /// So many of them at the same time, at least one.
    at_once: usize,
}

impl Restart<'_> {
    /// Restarts replicas, some at a time, each group once the one before is ready, with another version of the package than the
    /// file's where one is named. Stops at the first group that doesn't become ready; how many replicas were tried.
    fn with_version(
        &self,
        replicas: &[String],
        version: Option<&Version>,
    ) -> Result<(Exit, usize), CommandError> {
        let mut stack = self.stack.clone();
        if let (Some(service), Some(wanted)) = (stack.services.get_mut(self.name), version)
            && let Target::Package { version, .. } = &mut Arc::make_mut(service).target
        {
            *version = Some(Template::literal(wanted.to_string()));
        }
        // Ports and checks are those of the version that is to run.
        packages::service::complete(&mut stack);
        let mut params = RestartParams {
            stack: Some(stack),
            names: Vec::new(),
            env: Context::caller_environment(),
            force: false,
        };
        let mut tried = 0;
        for group in replicas.chunks(self.at_once.max(1)) {
            params.names = group.to_vec();
            tried += group.len();
            let exit = restart::carry_out(self.context, self.project, &params, true)?;
            if exit != Exit::OK {
                return Ok((exit, tried));
            }
        }
        Ok((Exit::OK, tried))
    }
}

fn not_running(context: &Context, args: &Args, name: &str, far: &[String]) -> Result<Exit, CommandError> {
    if far.is_empty() || args.version.is_some() {
        return Err(CommandError::new(
            Exit::GENERAL,
            format!("{name} isn't running, so there is nothing to restart"),
        )
        .hint(format!("`harness start {name}` installs its package and starts it")));
    }
    context.ui.say(format_args!("{name} isn't running, so nothing was restarted"));
    next_steps(&context.ui, &[(format!("harness start {name}"), "start it")]);
    Ok(Exit::OK)
}

/// What a dry run tells of.
struct Dry<'a> {
    name: &'a str,
    target: &'a Version,
    here: Option<Version>,
    far: Vec<String>,
    places: Option<BTreeSet<Option<String>>>,
}

fn dry_run(
    context: &Context,
    args: &Args,
    project: &Project,
    stack: &Stack,
    dry: &Dry<'_>,
) -> Result<Exit, CommandError> {
    let Dry { name, target, here, far, places } = dry;
    if !far.is_empty() && args.version.is_none() {
        let file = nodes::file(&args.file, stack);
        let sent = nodes::send(context, args, project, stack, &file, far)?;
        if sent.exit() != Exit::OK {
            return failed(context, &sent);
        }
    }
    let mut steps = Vec::new();
    match (far.is_empty(), here) {
        (true, Some(here)) if here == *target => steps.push(format!("{target} is current here already")),
        (true, Some(here)) => steps.push(format!("install {target}, and switch to it from {here}")),
        (true, None) => steps.push(format!("install {target}, and switch to it")),
        (false, _) => {}
    }
    steps.push(match places {
        Some(_) => format!("restart {name}, and wait until it is ready"),
        None => format!("nothing is restarted: {name} isn't running"),
    });
    if args.rollback_on_failure && places.is_some() {
        steps.push("go back to the version from before if it isn't".to_owned());
    }
    if context.ui.is_table() {
        context.ui.out(steps.join("\n"))?;
    } else {
        context.ui.document(&serde_json::json!({ "schema": 1, "steps": steps }))?;
    }
    Ok(Exit::OK)
}
