//! `harness validate`, also `harness config check`.

use super::{Context, examples, load, plan};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::ui::describe::count;
use crate::ui::{Format, style};
use harness_config::{Severity, has_errors, render, to_json};

/// Check the configuration and show the start order
///
/// All problems at once, each with its place. Exit code 2 if there is an error.
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness validate"
    "harness validate --strict        Commands and files that are missing here are errors"
    "harness validate -o json         For editors"
])]
pub(crate) struct Args {
    /// Commands and files that are missing on this machine are errors
    #[arg(long)]
    strict: bool,
    /// Print the JSON Schema of the file instead, for editors
    #[arg(long)]
    schema: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    if args.schema {
        context.ui.document(&harness_config::json_schema())?;
        return Ok(Exit::OK);
    }
    let project = context.project()?;
    if project.deleted {
        return Err(CommandError::usage(format!("{} was deleted", project.config.display())));
    }
    let loaded = load::read(context, &project, args.strict);
    let failed = has_errors(&loaded.diagnostics) || loaded.stack.is_none();
    let exit = if failed { Exit::USAGE } else { Exit::OK };
    let rounds = loaded.stack.as_ref().map(|stack| plan::rounds(stack, &plan::selected(stack, &[])));
    if context.ui.format != Format::Table {
        let mut document = to_json(&loaded.diagnostics, &loaded.sources);
        if let (Some(fields), Some(rounds)) = (document.as_object_mut(), &rounds) {
            let names = |round: &crate::api::Round| -> Vec<String> {
                round.steps.iter().map(|step| step.instance.to_string()).collect()
            };
            fields.insert("rounds".into(), rounds.iter().map(names).collect());
        }
        context.ui.document(&document)?;
        return Ok(exit);
    }
    let text = render(&loaded.diagnostics, &loaded.sources, true);
    if !text.is_empty() {
        crate::ui::complain(text.trim_end());
    }
    let (Some(stack), Some(rounds)) = (&loaded.stack, rounds) else {
        return Err(CommandError::said(exit));
    };
    if failed {
        return Err(CommandError::said(exit));
    }
    if !rounds.is_empty() {
        plan::show(context, &rounds)?;
    }
    let warnings = loaded.diagnostics.iter().filter(|d| d.severity == Severity::Warning).count();
    let warned = if warnings == 0 { String::new() } else { format!(", {}", count(warnings, "warning")) };
    context.ui.say(format_args!(
        "{} {} is valid: {}{warned}",
        style::paint(style::GOOD, "✓"),
        project.shown.display(),
        count(stack.services.len(), "service")
    ));
    Ok(exit)
}
