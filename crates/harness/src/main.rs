//! The `harness` program: the command line, and the daemon that it starts.

#[expect(unreachable_pub, reason = "a contract, written as a library writes one")]
mod api;
mod exit;

mod cli;
mod commands;
mod connect;
mod packages;
mod project;
mod remote;

mod daemon;
mod elsewhere;
mod node;

mod error;
#[cfg(test)]
mod openrpc;
mod ui;

use clap::FromArgMatches;
use error::CommandError;
use std::process::ExitCode;
use ui::{Color, Ui};

fn main() -> ExitCode {
    // In the zygote this never returns; it must be the first thing that any process of ours does.
    command_executor::keeper::zygote_main();
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let parsed = cli::command()
        .try_get_matches_from(&arguments)
        .and_then(|matches| cli::Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => run(cli).into(),
        Err(error) => error::show_usage(&error, wants_json(&arguments)).into(),
    }
}

fn run(cli: cli::Cli) -> exit::Exit {
    let cli::Cli { global, command } = cli;
    let color = if global.no_color { Color::Never } else { global.color };
    let ui = Ui::new(global.output, color, global.quiet, global.verbose);
    let format = global.output;
    prepare(&global).and_then(|()| commands::run(&commands::Context { global, ui }, command)).unwrap_or_else(
        |error| {
            error.show(format);
            error.exit
        },
    )
}

/// How another machine's harness is addressed.
const ADDRESS: &str =
    "expected ssh://[USER@]HOST[:PORT][/FOLDER], as in ssh://deploy@web-1/srv/shop, or wss://HOST:PORT";

/// What comes before any command.
fn prepare(global: &cli::Global) -> Result<(), CommandError> {
    let elsewhere = |host: &&String| !host.is_empty() && !remote::is_meant(Some(host));
    if let Some(host) = global.host.as_ref().filter(elsewhere) {
        return Err(match elsewhere::Elsewhere::parse(host) {
            Some(Ok(elsewhere)) => elsewhere.run(&std::env::args_os().collect::<Vec<_>>()),
            Some(Err(problem)) => CommandError::usage(format!("-H {host}: {problem}")).hint(ADDRESS),
            None => CommandError::usage(format!("-H {host}: that isn't an address")).hint(ADDRESS),
        });
    }
    if let Some(folder) = &global.working_dir {
        #[expect(clippy::disallowed_methods, reason = "before any thread, once, because it was asked for")]
        let entered = std::env::set_current_dir(folder);
        entered.map_err(|error| {
            CommandError::io(format!("can't enter the folder {}", folder.display()), &error)
                .exit(exit::Exit::USAGE)
        })?;
    }
    trace(global)
}

/// Traces go to stderr where they are asked for: with -vv, or HARNESS_LOG_LEVEL.
fn trace(global: &cli::Global) -> Result<(), CommandError> {
    let level = std::env::var("HARNESS_LOG_LEVEL").ok().filter(|level| !level.is_empty());
    let level = match (level, global.verbose) {
        (Some(level), _) => level,
        (None, 0 | 1) => return Ok(()),
        (None, 2) => "debug".to_owned(),
        (None, _) => "trace".to_owned(),
    };
    let filter = tracing_subscriber::EnvFilter::try_new(&level).map_err(|error| {
        CommandError::usage(format!("HARNESS_LOG_LEVEL: {error}"))
            .hint("expected error, warn, info, debug or trace")
    })?;
    // A second subscriber can't come about: this is called once.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    Ok(())
}

/// Whether errors of the parser itself are wanted as JSON.
fn wants_json(arguments: &[std::ffi::OsString]) -> bool {
    let mut previous = "";
    arguments.iter().filter_map(|argument| argument.to_str()).take_while(|argument| *argument != "--").any(
        |argument| {
            let json = matches!(argument, "-ojson" | "-o=json" | "--output=json")
                || (argument == "json" && matches!(previous, "-o" | "--output"));
            previous = argument;
            json
        },
    )
}
