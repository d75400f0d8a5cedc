//! `harness init`.

use super::{Context, compose, examples};
use crate::error::{CommandError, next_steps};
use crate::exit::Exit;
use crate::ui::prompt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Write a starter services.yaml, or convert a compose file or a Procfile
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness init                            Asks in a terminal, else writes the starter"
    "harness init --template web             A web server, a worker and a task"
    "harness init --from docker-compose.yml  Convert"
    "harness init --from Procfile"
])]
pub(crate) struct Args {
    /// Where to write [default: services.yaml, or --config]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// What to begin with
    #[arg(long, value_name = "TEMPLATE")]
    template: Option<Template>,
    /// Convert this compose file or Procfile
    #[arg(long, value_name = "FILE", conflicts_with = "template")]
    from: Option<PathBuf>,
    /// Overwrite a file that exists
    #[arg(short, long)]
    force: bool,
    /// Show what would be written, and touch nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Template {
    /// One service, everything explained
    Starter,
    /// A web server, a worker that needs it, and a task
    Web,
}

const STARTER: &str = include_str!("init/starter.yaml");
const WEB: &str = include_str!("init/web.yaml");

/// Bytes of the largest file that is converted.
const LARGEST: u64 = 4 * 1024 * 1024;

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    let configured = context.global.config.clone().filter(|path| !path.as_os_str().is_empty());
    let file = args.file.clone().or(configured).unwrap_or_else(|| PathBuf::from("services.yaml"));
    // Before any question: an answer should not be for nothing.
    if file.exists() && !args.force && !args.dry_run {
        return Err(exists(&file));
    }
    let mut notes = Vec::new();
    let text = match (&args.from, args.template) {
        (Some(from), _) => {
            let (text, left_out) = convert(from)?;
            notes = left_out;
            text
        }
        (None, Some(template)) => with_name(context, template, &file, false),
        (None, None) => with_name(context, ask(context), &file, context.ui.can_ask),
    };
    if args.dry_run {
        context.ui.out(text.trim_end())?;
        return Ok(Exit::OK);
    }
    write(&file, &text, args.force)?;
    for note in notes {
        context.ui.warn(note);
    }
    context.ui.say(format_args!("Wrote {}.", file.display()));
    next_steps(
        &context.ui,
        &[
            ("harness validate".into(), "check it and show the start order"),
            ("harness start".into(), "start everything"),
        ],
    );
    Ok(Exit::OK)
}

fn exists(file: &Path) -> CommandError {
    CommandError::usage(format!("{} exists already", file.display()))
        .hint("`harness init --force` overwrites it")
}

fn ask(context: &Context) -> Template {
    if !context.ui.can_ask {
        return Template::Starter;
    }
    let choices = [
        ("starter", "one service, everything explained"),
        ("web", "a web server, a worker that needs it, and a task"),
    ];
    match prompt::choose("What should services.yaml begin with?", &choices) {
        "web" => Template::Web,
        _ => Template::Starter,
    }
}

fn with_name(context: &Context, template: Template, file: &Path, may_ask: bool) -> String {
    let text = match template {
        Template::Starter => STARTER,
        Template::Web => WEB,
    };
    let name = project_name(file);
    let name = if may_ask && context.ui.can_ask {
        crate::project::sanitise(&prompt::text("Name of the project?", &name))
    } else {
        name
    };
    // Quoted, because a name such as `1` or `no` would be something else. JSON strings are YAML strings.
    let quoted = serde_json::to_string(&name).unwrap_or_else(|_| "\"project\"".into());
    text.replacen("NAME", &quoted, 1)
}

fn project_name(file: &Path) -> String {
    let folder = std::path::absolute(file).ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let name = folder.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    crate::project::sanitise(&name.unwrap_or_default())
}

fn convert(from: &Path) -> Result<(String, Vec<String>), CommandError> {
    let failed = |error: &io::Error| {
        CommandError::io(format!("can't read {}", from.display()), error).exit(Exit::USAGE)
    };
    let size = fs::metadata(from).map_err(|error| failed(&error))?.len();
    if size > LARGEST {
        return Err(CommandError::usage(format!("{} is larger than 4 MiB", from.display())));
    }
    let text = fs::read_to_string(from).map_err(|error| failed(&error))?;
    let name = from.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let converted =
        if name.contains("procfile") { compose::from_procfile(&text) } else { compose::from_compose(&text) };
    converted.map_err(|reason| {
        CommandError::usage(format!("can't convert {}: {reason}", from.display()))
            .hint("compose files and Procfiles can be converted")
    })
}

/// Writes the file at once or not at all, and never over one that came about meanwhile.
fn write(file: &Path, text: &str, force: bool) -> Result<(), CommandError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(file),
        _ => CommandError::io(format!("can't write {}", file.display()), &error),
    };
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    options.open(file).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness_config::{LoadOptions, NoFiles, has_errors, load_str, render};

    #[test]
    fn every_template_is_valid() {
        for (name, text) in [("starter", STARTER), ("web", WEB)] {
            let text = text.replacen("NAME", "\"my-project\"", 1);
            let loaded = load_str(Path::new("/p/services.yaml"), &text, &LoadOptions::default(), &NoFiles);
            let problems = render(&loaded.diagnostics, &loaded.sources, false);
            assert!(!has_errors(&loaded.diagnostics), "{name}: {problems}");
        }
    }

    #[test]
    fn a_file_is_never_overwritten_unless_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/services.yaml");
        write(&file, "one", false).unwrap();
        assert_eq!(write(&file, "two", false).unwrap_err().exit, Exit::USAGE);
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        write(&file, "two", true).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
    }
}
