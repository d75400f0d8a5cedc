//! `harness completions`.

use super::{Context, examples};
use crate::error::CommandError;
use crate::exit::Exit;
use clap_complete::Shell;

/// Print completions for a shell
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness completions bash > ~/.local/share/bash-completion/completions/harness"
    "harness completions zsh > ~/.zfunc/_harness"
    "harness completions fish > ~/.config/fish/completions/harness.fish"
])]
pub(crate) struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let mut command = crate::cli::command();
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "harness", &mut text);
    context.ui.out_bytes(&text)?;
    Ok(Exit::OK)
}
