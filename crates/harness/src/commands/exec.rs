//! `harness exec`.

use super::{Context, examples, offline};
use crate::api::{self, ExecContext, ExecParams};
use crate::connect;
use crate::error::CommandError;
use crate::exit::Exit;
use command_executor::command::{self, Command, UserIds};
use std::ffi::OsString;
use std::io::ErrorKind;

/// Run a command in a service's folder and environment
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
    /// Keep stdin open (it always is for processes of this machine)
    #[arg(short, long)]
    interactive: bool,
    /// Use this terminal (it always is used for processes of this machine)
    #[arg(short, long)]
    tty: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let place: ExecContext = connect::block_on(async |executor| {
        let daemon = match connect::existing(executor, &project).await? {
            Some(daemon) => daemon,
            None if offline::live_instances(&project)?.is_empty() => {
                return Err(CommandError::new(Exit::GENERAL, "nothing is running")
                    .hint("`harness start` starts the services of services.yaml"));
            }
            None => connect::or_start(executor, &project).await?,
        };
        Ok(daemon.call(api::STACK_EXEC, &ExecParams { name: args.name.clone() }).await?)
    })?;
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
    command = command.current_dir(&place.working_dir);
    if let Some(user) = other_user(&place)? {
        command = command.user(user);
    }
    let error = command::replace(&command);
    let (exit, what) = match error.source.kind() {
        ErrorKind::NotFound if !place.working_dir.is_dir() => (
            Exit::NOT_EXECUTABLE,
            format!("the folder {} of {} isn't there", place.working_dir.display(), place.instance),
        ),
        ErrorKind::NotFound => (Exit::NOT_FOUND, format!("there is no program {}", program.display())),
        _ => (Exit::NOT_EXECUTABLE, format!("can't run {}", program.display())),
    };
    Err(CommandError::io(what, &error.source).exit(exit))
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
