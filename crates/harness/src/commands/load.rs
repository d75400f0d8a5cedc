//! Reads the configuration for a command, and shows what is wrong with it.

use super::{Context, plan};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::Project;
use crate::ui::{self, Format};
use harness_config::{LoadOptions, Stack, has_errors, load as load_file, render, to_json};

/// A file without errors.
pub(super) struct Loaded {
    pub(super) stack: Stack,
}

/// What the file means, whatever is wrong with it.
pub(super) fn read(context: &Context, project: &Project, strict: bool) -> harness_config::Loaded {
    let options = LoadOptions {
        env: Context::caller_environment(),
        overrides: context.global.env.clone(),
        profiles: context.global.profile.iter().filter(|profile| !profile.is_empty()).cloned().collect(),
        strict,
    };
    load_file(&project.config, &options)
}

/// The stack of the file. Its problems are shown; with an error among them the command ends with code 2.
pub(super) fn load(context: &Context, project: &Project, strict: bool) -> Result<Loaded, CommandError> {
    let mut loaded = checked(context, project, strict, !context.ui.quiet)?;
    crate::packages::service::complete(&mut loaded.stack);
    Ok(loaded)
}

/// The same for commands that only look: warnings are `validate`'s business.
pub(super) fn look(context: &Context, project: &Project) -> Result<Loaded, CommandError> {
    checked(context, project, false, context.ui.verbose > 0)
}

fn checked(
    context: &Context,
    project: &Project,
    strict: bool,
    warnings: bool,
) -> Result<Loaded, CommandError> {
    if project.deleted {
        return Err(CommandError::usage(format!("{} was deleted", project.config.display()))
            .hint("`harness stop` stops what still runs of it"));
    }
    let loaded = read(context, project, strict);
    let failed = has_errors(&loaded.diagnostics) || loaded.stack.is_none();
    if failed && context.ui.format != Format::Table {
        let document = to_json(&loaded.diagnostics, &loaded.sources);
        ui::complain(serde_json::to_string_pretty(&document).unwrap_or_default());
    } else if failed || warnings {
        let text = render(&loaded.diagnostics, &loaded.sources, true);
        if !text.is_empty() {
            ui::complain(text.trim_end());
        }
    }
    match loaded.stack {
        Some(stack) if !failed => Ok(Loaded { stack }),
        _ => {
            if context.ui.is_table() {
                ui::complain("nothing was started or changed: the configuration has errors");
            }
            Err(CommandError::said(Exit::USAGE))
        }
    }
}

/// Whether every name is a service or an instance of the file.
pub(super) fn check_names(stack: &Stack, names: &[String]) -> Result<(), CommandError> {
    match names.iter().find(|name| plan::service_of(stack, name).is_none()) {
        None => Ok(()),
        Some(unknown) => {
            let known: Vec<String> = stack.services.keys().map(ToString::to_string).collect();
            Err(CommandError::unknown_name(unknown, &known))
        }
    }
}
