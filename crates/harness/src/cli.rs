//! What can be typed. What it means stands in `commands/`, a file each.

use crate::commands;
use crate::ui::time::parse_duration;
use crate::ui::{Color, Format};
use clap::{CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Runs a declared stack of services, supervises it, and lets every service reach the others by name.
#[derive(Parser, Debug)]
#[command(name = "harness", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Options that every command takes, before or after its name.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration file; else services.yaml, harness.yaml or .harness/services.yaml, here or in a folder above
    #[arg(short, long, global = true, value_name = "FILE", env = "HARNESS_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Set a variable for ${…} in the configuration (again for more)
    #[arg(short, long = "env", global = true, value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Also use the services of this profile (again for more)
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "HARNESS_PROFILES",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) profile: Vec<String>,
    /// The state folder itself, instead of the file whose it is: what runs on a node has no file
    #[arg(long, global = true, value_name = "FOLDER", hide = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Change to this folder first
    #[arg(short = 'C', long, global = true, value_name = "FOLDER")]
    pub(crate) working_dir: Option<PathBuf>,
    /// How data is written
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
    /// Stop waiting after this time: 30 (seconds), 500ms, 5m, 1h
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        env = "HARNESS_TIMEOUT",
        hide_env_values = true,
        value_parser = parse_duration
    )]
    pub(crate) timeout: Option<Duration>,
    /// Say more (again for even more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_default_value = true)]
    pub(crate) color: Color,
    /// No colours; the same as NO_COLOR=1
    #[arg(long, global = true, conflicts_with = "color")]
    pub(crate) no_color: bool,
    /// Let the harness of another machine do it: ssh://USER@HOST:PORT/FOLDER, or ask its daemon: wss://HOST:PORT
    #[arg(
        short = 'H',
        long,
        global = true,
        value_name = "HOST",
        env = "HARNESS_HOST",
        hide_env_values = true
    )]
    pub(crate) host: Option<String>,
    #[command(flatten)]
    pub(crate) pass: Pass,
}

/// What opens a daemon at `-H wss://HOST:PORT`, by files: what is secret stands in no argument.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "With -H wss://")]
pub(crate) struct Pass {
    /// A file with the token; else the token is in HARNESS_TOKEN
    #[arg(long, global = true, value_name = "FILE", env = "HARNESS_TOKEN_FILE", hide_env_values = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// Your certificate, a PEM file, for a daemon that trusts its authority; with it no token is needed
    #[arg(long, global = true, value_name = "FILE", env = "HARNESS_CLIENT_CERT", hide_env_values = true)]
    pub(crate) client_cert: Option<PathBuf>,
    /// Its key, a PEM file
    #[arg(long, global = true, value_name = "FILE", env = "HARNESS_CLIENT_KEY", hide_env_values = true)]
    pub(crate) client_key: Option<PathBuf>,
}

/// The commands, in the order in which help lists them.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Start(commands::start::Args),
    Stop(commands::stop::Args),
    Restart(commands::restart::Args),
    Exec(commands::exec::Args),
    Status(commands::status::Args),
    List(commands::list::Args),
    Logs(commands::logs::Args),
    Health(commands::health::Args),
    Events(commands::events::Args),
    Init(commands::init::Args),
    Validate(commands::validate::Args),
    Config(commands::config::Args),
    Deploy(commands::deploy::Args),
    Rollback(commands::rollback::Args),
    Package(commands::package::Args),
    Node(commands::node::Args),
    Network(commands::network::Args),
    Registry(commands::registry::Args),
    Daemon(commands::daemon::Args),
    Completions(commands::completions::Args),
    Man(commands::man::Args),
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

const HEAD: &str = "\u{1b}[1;4m";
const WORD: &str = "\u{1b}[1m";
const END: &str = "\u{1b}[0m";

/// The groups of the overview. A test checks that every command stands in exactly one.
const GROUPS: &[(&str, &[&str])] = &[
    ("Run", &["start", "stop", "restart", "exec"]),
    ("Inspect", &["status", "list", "logs", "health", "events"]),
    ("Configure", &["init", "validate", "config"]),
    ("Deploy", &["deploy", "rollback", "package"]),
    ("Machines and network", &["node", "network"]),
    ("Daemon and shell", &["registry", "daemon", "completions", "man"]),
];

const EXAMPLES: &[(&str, &str)] = &[
    ("harness init", "Write a starter services.yaml"),
    ("harness start", "Start everything, wait until it is ready"),
    ("harness status --watch", "See how it goes"),
    ("harness logs -f web", "Follow the output of one service"),
    ("harness stop", "Stop everything"),
];

/// Help of a command: summary, examples, usage, arguments.
const TEMPLATE: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// The whole command line, with grouped and example-first help.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let template = overview(&command);
    command
        .mut_subcommands(with_template)
        .help_template(template)
        .disable_help_subcommand(false)
        .subcommand_value_name("COMMAND")
}

fn with_template(command: clap::Command) -> clap::Command {
    command.help_template(TEMPLATE).mut_subcommands(with_template)
}

fn overview(command: &clap::Command) -> String {
    use std::fmt::Write;
    let mut text = String::from(
        "Runs a declared stack of services, supervises it, and lets every service reach the others by name.\n\
         Write services.yaml once; `harness start` does the rest.\n\n",
    );
    let _ = writeln!(text, "{HEAD}Examples:{END}");
    for (typed, what) in EXAMPLES {
        let _ = writeln!(text, "  {WORD}{typed:<24}{END}  {what}");
    }
    text.push_str("\n{usage-heading} {usage}\n");
    for (group, names) in GROUPS {
        let _ = writeln!(text, "\n{HEAD}{group}:{END}");
        for name in *names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {WORD}{name:<12}{END}  {about}");
        }
    }
    let _ = writeln!(text, "\n{HEAD}Options:{END}");
    text.push_str("{options}\n\nRun `harness COMMAND --help` for the options and examples of a command.");
    text
}

/// What was meant by words that other tools use.
pub(crate) fn foreign_word(word: &str) -> Option<&'static str> {
    Some(match word {
        "up" | "run" => "start",
        "down" | "kill" => "stop",
        "ps" | "top" => "status",
        "ls" => "list",
        "log" | "tail" => "logs",
        "check" | "lint" => "validate",
        "new" | "create" => "init",
        "sh" | "shell" | "attach" => "exec",
        "reload" | "apply" => "start --apply",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_is_in_one_group_and_has_a_summary_and_examples() {
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let command = command();
        let all: Vec<&str> =
            command.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name).collect();
        assert_eq!(grouped, all);
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{} has no summary", sub.get_name());
            assert!(sub.get_before_help().is_some(), "{} has no examples", sub.get_name());
        }
    }

    #[test]
    fn foreign_words_lead_to_commands_that_exist() {
        let command = command();
        for word in ["up", "down", "ps", "ls", "log", "check", "new", "sh", "reload"] {
            let meant = foreign_word(word).and_then(|meant| meant.split(' ').next()).unwrap();
            assert!(command.find_subcommand(meant).is_some(), "{word} → {meant}");
            assert!(command.find_subcommand(word).is_none(), "{word} is a command");
        }
    }

    #[test]
    fn variables_need_a_name() {
        assert_eq!(parse_variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(parse_variable("A="), Ok(("A".into(), String::new())));
        assert!(parse_variable("A").is_err() && parse_variable("=b").is_err());
    }
}
