//! `harness man`.

use super::{Context, examples};
use crate::error::CommandError;
use crate::exit::Exit;
use std::path::{Path, PathBuf};

/// Write a man page for each command to a folder, or one to stdout
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness man | man -l -"
    "harness man ~/.local/share/man/man1"
])]
pub(crate) struct Args {
    /// The folder; without it the overview is printed
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let mut command = crate::cli::command();
    command.build();
    let Some(folder) = &args.folder else {
        context.ui.out_bytes(&page(command)?)?;
        return Ok(Exit::OK);
    };
    std::fs::create_dir_all(folder)
        .map_err(|error| CommandError::io(format!("can't make the folder {}", folder.display()), &error))?;
    let number = write(folder, command, "harness".to_owned())?;
    context.ui.say(format_args!("{number} pages in {}", folder.display()));
    Ok(Exit::OK)
}

fn write(folder: &Path, command: clap::Command, name: String) -> Result<usize, CommandError> {
    let mut number = 1;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        number += write(folder, sub.clone(), format!("{name}-{}", sub.get_name()))?;
    }
    let path = folder.join(format!("{name}.1"));
    let text = rendered(&clap_mangen::Man::new(command).title(name))?;
    std::fs::write(&path, text)
        .map_err(|error| CommandError::io(format!("can't write {}", path.display()), &error))?;
    Ok(number)
}

fn page(command: clap::Command) -> Result<Vec<u8>, CommandError> {
    rendered(&clap_mangen::Man::new(command))
}

fn rendered(page: &clap_mangen::Man) -> Result<Vec<u8>, CommandError> {
    let mut text = Vec::new();
    page.render(&mut text).map_err(|error| CommandError::io("can't make the man page", &error))?;
    Ok(text)
}
