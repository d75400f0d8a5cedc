//! A file for each command. Its doc comment is its help.

pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod daemon;
pub(crate) mod deploy;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod health;
pub(crate) mod init;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod package;
pub(crate) mod registry;
pub(crate) mod restart;
pub(crate) mod rollback;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod validate;

mod compose;
mod filter;
mod load;
mod offline;
mod outcome;
mod plan;
mod verdict;
mod wait;

use crate::cli::{Command, Global};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::{Project, ProjectError};
use crate::ui::Ui;
use std::collections::BTreeMap;

/// The examples of a command, for its help.
macro_rules! examples {
    ($($line:literal)*) => {
        concat!("\u{1b}[1;4mExamples:\u{1b}[0m\n", $("  ", $line, "\n",)*)
    };
}
use examples;

/// What every command gets.
pub(crate) struct Context {
    /// The options that every command takes.
    pub(crate) global: Global,
    /// Where it writes.
    pub(crate) ui: Ui,
}

impl Context {
    /// The project that is meant.
    pub(crate) fn project(&self) -> Result<Project, CommandError> {
        if let Some(remote) = crate::remote::meant(&self.global)? {
            return Ok(Project::of_remote(remote));
        }
        Ok(self.find_project()?)
    }

    /// The project of `--config`, or of the working folder.
    fn find_project(&self) -> Result<Project, ProjectError> {
        if let Some(state_dir) = &self.global.state_dir {
            return Ok(Project::at(state_dir.clone()));
        }
        let explicit = self.global.config.as_deref().filter(|path| !path.as_os_str().is_empty());
        let project = Project::find(explicit)?;
        if project.deleted {
            self.ui.warn(format_args!(
                "{} was deleted; this is what the last start made of it",
                project.config.display()
            ));
        }
        Ok(project)
    }

    /// The environment of the caller, as services get it. What isn't UTF-8 can't be passed on.
    pub(crate) fn caller_environment() -> BTreeMap<String, String> {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| !is_own(name))
            .collect()
    }
}

/// Whether a variable says which service its process belongs to, or opens a daemon: not to be handed on to services.
pub(crate) fn is_own(name: &str) -> bool {
    matches!(
        name,
        "HARNESS_RUN"
            | "HARNESS_SERVICE"
            | "HARNESS_INSTANCE"
            | "HARNESS_NODE"
            | "HARNESS_COMMAND_OF"
            | crate::remote::TOKEN
    )
}

/// Over TLS go the commands that only ask the daemon; others need files of its machine, or bring some of this one along.
fn only_asks(host: Option<&str>, command: Option<&Command>) -> Result<(), CommandError> {
    let asks = match command {
        Some(
            Command::Status(_)
            | Command::List(_)
            | Command::Health(_)
            | Command::Events(_)
            | Command::Stop(_)
            | Command::Restart(_)
            | Command::Registry(_),
        ) => true,
        Some(Command::Daemon(args)) => args.only_asks(),
        _ => false,
    };
    if asks || !crate::remote::is_meant(host) {
        return Ok(());
    }
    Err(CommandError::usage(
        "over wss:// there are status, list, health, events, stop, restart, registry, \
         and of daemon status, listen and token",
    )
    .hint("`-H ssh://[USER@]HOST` carries out any command over there"))
}

/// Runs what was typed.
pub(crate) fn run(context: &Context, command: Option<Command>) -> Result<Exit, CommandError> {
    only_asks(context.global.host.as_deref(), command.as_ref())?;
    match command {
        None => status::overview(context),
        Some(Command::Start(args)) => start::run(context, &args),
        Some(Command::Stop(args)) => stop::run(context, &args),
        Some(Command::Restart(args)) => restart::run(context, &args),
        Some(Command::Exec(args)) => exec::run(context, args),
        Some(Command::Status(args)) => status::run(context, &args),
        Some(Command::List(args)) => list::run(context, &args),
        Some(Command::Logs(args)) => logs::run(context, &args),
        Some(Command::Health(args)) => health::run(context, &args),
        Some(Command::Events(args)) => events::run(context, &args),
        Some(Command::Init(args)) => init::run(context, &args),
        Some(Command::Validate(args)) => validate::run(context, &args),
        Some(Command::Config(args)) => config::run(context, args),
        Some(Command::Deploy(args)) => deploy::run(context, &args),
        Some(Command::Rollback(args)) => rollback::run(context, &args),
        Some(Command::Package(args)) => package::run(context, &args),
        Some(Command::Registry(args)) => registry::run(context, &args),
        Some(Command::Node(args)) => node::run(context, &args),
        Some(Command::Network(args)) => network::run(context, &args),
        Some(Command::Daemon(args)) => daemon::run(context, args),
        Some(Command::Completions(args)) => completions::run(context, &args),
        Some(Command::Man(args)) => man::run(context, &args),
    }
}
