//! `harness node add`: a node written into the file.

use super::super::{Context, load};
use super::edit::{self, CantAdd};
use crate::elsewhere::Elsewhere;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::Project;
use crate::ui::style::{self, paint};
use harness_config::{LoadOptions, has_errors, render};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// What the node is to be called
    name: String,
    /// Where it is, as ssh understands it
    #[arg(value_name = "[USER@]HOST[:PORT]")]
    address: String,
    /// The private key's file
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The node or host to go through
    #[arg(long, value_name = "NAME")]
    jump: Option<String>,
    /// Let its agent be root's, through sudo
    #[arg(long)]
    sudo: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let stack = load::look(context, &project)?.stack;
    if stack.nodes.contains_key(&args.name) {
        let shown = project.shown.display();
        return Err(CommandError::usage(format!("{shown} has a node '{}' already", args.name))
            .hint(format!("`harness node show {}` shows it", args.name)));
    }
    let entry = entry(args)?;
    let config = &project.config;
    let text = fs::read_to_string(config)
        .map_err(|error| CommandError::io(format!("can't read {}", config.display()), &error))?;
    let changed = edit::with_node(&text, &entry).map_err(|CantAdd::InBraces { line }| {
        let place = format!("{}:{line}", project.shown.display());
        CommandError::usage(format!("{place}: `nodes:` is written in braces; nothing was changed"))
            .hint(format!("add it there by hand: `{entry}`"))
    })?;
    put(context, &project, &changed, &args.name)?;
    context.ui.say(format_args!(
        "{} {} is in {}. `harness node check {}` looks at it, `harness node up {}` brings its agent up.",
        paint(style::GOOD, "✓"),
        args.name,
        project.shown.display(),
        args.name,
        args.name
    ));
    Ok(Exit::OK)
}

/// The node as a line of YAML.
fn entry(args: &Args) -> Result<String, CommandError> {
    let expected = "expected [USER@]HOST[:PORT], as in deploy@eu1.example.com:2222";
    let wrong = |problem: &str| CommandError::usage(format!("{}: {problem}", args.address)).hint(expected);
    let address = match Elsewhere::parse(&format!("ssh://{}", args.address)) {
        Some(Ok(address)) if !args.address.contains('/') => address,
        Some(Err(problem)) => return Err(wrong(problem)),
        _ => return Err(wrong("that isn't an address")),
    };
    let (user, host, port) = address.address();
    let mut keys = vec![format!("host: {}", edit::scalar(host))];
    keys.extend(user.map(|user| format!("user: {}", edit::scalar(user))));
    keys.extend(port.map(|port| format!("port: {port}")));
    if let Some(file) = &args.identity {
        let file = file.to_str().ok_or_else(|| CommandError::usage("the key's path is no text"))?;
        keys.push(format!("identity_file: {}", edit::scalar(file)));
    }
    keys.extend(args.jump.as_ref().map(|jump| format!("jump: {}", edit::scalar(jump))));
    keys.extend(args.sudo.then(|| "sudo: true".to_owned()));
    Ok(format!("{}: {{{}}}", edit::scalar(&args.name), keys.join(", ")))
}

/// Puts the text in the file's place if it is without errors; else the file stays as it is.
fn put(context: &Context, project: &Project, text: &str, name: &str) -> Result<(), CommandError> {
    let config = &project.config;
    let draft = config.with_file_name(format!(".harness-{}.yaml", std::process::id()));
    let put = write(&draft, config, text)
        .map_err(|error| CommandError::io(format!("can't write beside {}", config.display()), &error))
        .and_then(|()| check(context, project, &draft, name))
        .and_then(|()| {
            fs::rename(&draft, config)
                .map_err(|error| CommandError::io(format!("can't write {}", config.display()), &error))
        });
    if put.is_err() {
        // Gone already where it was renamed.
        let _ = fs::remove_file(&draft);
    }
    put
}

fn write(draft: &Path, config: &Path, text: &str) -> io::Result<()> {
    let mode = fs::metadata(config)?.mode() & 0o777;
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn check(context: &Context, project: &Project, draft: &Path, name: &str) -> Result<(), CommandError> {
    let options = LoadOptions {
        env: Context::caller_environment(),
        overrides: context.global.env.clone(),
        profiles: context.global.profile.iter().filter(|profile| !profile.is_empty()).cloned().collect(),
        strict: false,
    };
    let loaded = harness_config::load(draft, &options);
    let there = loaded.stack.as_ref().is_some_and(|stack| stack.nodes.contains_key(name));
    if there && !has_errors(&loaded.diagnostics) {
        return Ok(());
    }
    let text = render(&loaded.diagnostics, &loaded.sources, true);
    let shown = project.shown.display().to_string();
    let text = text.replace(&draft.display().to_string(), &shown);
    if !text.trim().is_empty() {
        crate::ui::complain(text.trim_end());
    }
    Err(CommandError::usage(format!("{shown} was left as it was: with the node it would have errors")))
}
