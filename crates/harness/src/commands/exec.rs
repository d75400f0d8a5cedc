//! `harness exec`.

use super::{Context, examples, offline};
use crate::api::{self, ExecContext, ExecParams};
use crate::connect;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::node::There;
use crate::project::Project;
use command_executor::command::{self, Command, UserIds};
use command_executor::target::docker::{ContainerExec, Docker};
use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal};
use std::path::Path;

/// Run a command in a service's folder and environment, or in its container
///
/// The command takes the place of this program: its exit code is passed on, signals reach it, and it has this terminal.
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness exec web -- env           What web's environment is"
    "harness exec db -- psql -c '\\l'   Next to db"
    "harness exec web-2                A shell"
])]
pub(crate) struct Args {
    /// A service (its first running instance) or an instance
    #[arg(value_name = "NAME")]
    name: String,
    /// Program and arguments; without any, your shell
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
    /// Keep stdin open (it always is)
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal in a container (it has one anyway where this is run in one, as processes of this machine have)
    #[arg(short, long)]
    tty: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let place: ExecContext = connect::block_on(async |executor| {
        let Some(daemon) = offline::daemon_of_what_runs(executor, &project).await? else {
            return Err(CommandError::new(Exit::GENERAL, "nothing is running")
                .hint("`harness start` starts the services of services.yaml"));
        };
        Ok(daemon.call(api::STACK_EXEC, &ExecParams { name: args.name.clone() }).await?)
    })?;
    if let Some(node) = &place.node {
        return on_node(context, &project, node, &place, &args);
    }
    if let Some(container) = &place.container {
        return in_container(context, container, &args);
    }
    let mut words = args.command.into_iter();
    let program = words
        .next()
        .or_else(|| std::env::var_os("SHELL").filter(|shell| !shell.is_empty()))
        .unwrap_or_else(|| "/bin/sh".into());
    let mut command = Command::new(program.clone()).args(words).env_clear();
    // What only a terminal's user can know, unless the service has a wish of its own.
    for name in ["TERM", "COLORTERM"] {
        if let Some(value) = std::env::var_os(name) {
            command = command.env(name, value);
        }
    }
    command = command.envs(place.env.iter().cloned()).envs(context.global.env.iter().cloned());
    let folder = place.working_dir.as_deref().unwrap_or(Path::new("/"));
    command = command.current_dir(folder);
    if let Some(user) = other_user(&place)? {
        command = command.user(user);
    }
    let error = command::replace(&command);
    let (exit, what) = match error.source.kind() {
        ErrorKind::NotFound if !folder.is_dir() => (
            Exit::NOT_EXECUTABLE,
            format!("the folder {} of {} isn't there", folder.display(), place.instance),
        ),
        ErrorKind::NotFound => (Exit::NOT_FOUND, format!("there is no program {}", program.display())),
        _ => (Exit::NOT_EXECUTABLE, format!("can't run {}", program.display())),
    };
    Err(CommandError::io(what, &error.source).exit(exit))
}

/// Runs it on another node: the agent's own harness there knows how.
fn on_node(
    context: &Context,
    project: &Project,
    node: &str,
    place: &ExecContext,
    args: &Args,
) -> Result<Exit, CommandError> {
    let there = There::of(&place.way, node, &project.id)
        .map_err(|error| CommandError::from_error(Exit::UNREACHABLE, &error))?;
    let mut words: Vec<OsString> = Vec::new();
    if !context.global.env.is_empty() {
        // In arguments everybody over there could read them.
        return Err(CommandError::usage(format!("-e has no way to node {node}"))
            .hint(format!("harness exec {} -- env NAME=VALUE COMMAND", args.name)));
    }
    words.extend(["exec".into(), place.instance.to_string().into()]);
    if args.tty {
        words.push("--tty".into());
    }
    if !args.command.is_empty() {
        words.push("--".into());
        words.extend(args.command.iter().cloned());
    }
    let terminal = args.tty || (std::io::stdin().is_terminal() && std::io::stdout().is_terminal());
    let command = there.launcher.rewrite_to_replace(there.harness(words), terminal);
    let command = command.map_err(|error| CommandError::from_error(Exit::USAGE, &error))?;
    let error = command::replace(&command);
    Err(CommandError::io("can't run ssh", &error.source).exit(Exit::NOT_FOUND))
}

/// Runs it in the container, through docker, whose exit codes are a shell's: 126 and 127.
fn in_container(context: &Context, container: &str, args: &Args) -> Result<Exit, CommandError> {
    let text = |word: &OsString| {
        let text = word.to_str().map(str::to_owned);
        text.ok_or_else(|| CommandError::usage(format!("{} isn't UTF-8, which docker needs", word.display())))
    };
    let mut argv: Vec<String> = args.command.iter().map(text).collect::<Result<_, _>>()?;
    let shell = argv.is_empty();
    if shell {
        argv.push("sh".into());
    }
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let exec = ContainerExec {
        argv,
        env: context.global.env.iter().cloned().collect(),
        interactive: true,
        tty: args.tty || terminal,
        ..ContainerExec::default()
    };
    let command = Docker::new().container(container).exec(&exec);
    let command = command.map_err(|error| CommandError::from_error(Exit::USAGE, &error))?;
    let error = command::replace(&command);
    Err(CommandError::io("can't run docker", &error.source).exit(Exit::NOT_FOUND))
}

/// The user and group that the service runs as, if these aren't ours already.
fn other_user(place: &ExecContext) -> Result<Option<UserIds>, CommandError> {
    let own = UserIds { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let unknown = |what: &str, name: &str| {
        CommandError::new(Exit::NOT_EXECUTABLE, format!("there is no {what} '{name}' in /etc/{what}"))
    };
    let mut wanted = own;
    if let Some(user) = place.user.as_deref() {
        let ids = lookup("/etc/passwd", user).or_else(|| Some((user.parse().ok()?, own.gid)));
        (wanted.uid, wanted.gid) = ids.ok_or_else(|| unknown("passwd", user))?;
    }
    if let Some(group) = place.group.as_deref() {
        let id = lookup("/etc/group", group).map(|(id, _)| id).or_else(|| group.parse().ok());
        wanted.gid = id.ok_or_else(|| unknown("group", group))?;
    }
    if wanted == own {
        return Ok(None);
    }
    if own.uid != 0 {
        return Err(CommandError::new(
            Exit::NOT_EXECUTABLE,
            format!("{} runs as another user or group, which only root may become", place.instance),
        )
        .hint("run harness as root: `sudo harness exec …`"));
    }
    Ok(Some(wanted))
}

/// The numbers of the entry with this name or number: the third field, and the fourth where it is one.
fn lookup(file: &str, name: &str) -> Option<(u32, u32)> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| numbers(line, name))
}

fn numbers(line: &str, name: &str) -> Option<(u32, u32)> {
    let fields: Vec<&str> = line.split(':').collect();
    let [entry, _, id, rest @ ..] = fields.as_slice() else { return None };
    let second = rest.first().and_then(|field| field.parse().ok()).unwrap_or(0);
    (*entry == name || *id == name).then_some((id.parse().ok()?, second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let line = "www-data:x:33:34:www-data:/var/www:/usr/sbin/nologin";
        assert_eq!(numbers(line, "www-data"), Some((33, 34)));
        assert_eq!(numbers(line, "33"), Some((33, 34)));
        assert_eq!(numbers(line, "www"), None);
        assert_eq!(numbers("staff:x:50:", "staff"), Some((50, 0)));
        assert_eq!(numbers("broken", "broken"), None);
    }
}
