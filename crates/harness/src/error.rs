//! Every typed error becomes what a person or a program gets to see: what, why (the chain, once), one way out, a code.

use crate::connect::{CallError, ConnectError};
use crate::exit::Exit;
use crate::project::ProjectError;
use crate::ui::{self, Format, Ui, WriteError, style, suggest};
use command_executor::log::LogError;
use harness_config::DiscoverError;
use orchestrator::command::Refused;
use serde::Serialize;
use serde_json::Value;
use std::error::Error;
use std::io;

/// Why a command failed, ready to be shown.
#[derive(Debug)]
pub(crate) struct CommandError {
    /// How the program ends.
    pub(crate) exit: Exit,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    data: Option<Box<Value>>,
    /// All has been said already.
    silent: bool,
}

/// The JSON form of an error.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    message: &'a str,
    causes: &'a [String],
    hint: Option<&'a str>,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
}

impl CommandError {
    /// A failure with no cause below it.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), causes: Vec::new(), hint: None, data: None, silent: false }
    }

    /// Wrong usage.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::USAGE, message)
    }

    /// The end of a command that has already said what went wrong.
    pub(crate) fn said(exit: Exit) -> Self {
        Self { silent: true, ..Self::new(exit, "") }
    }

    /// An error with its chain of causes.
    pub(crate) fn from_error(exit: Exit, error: &dyn Error) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if causes.last() != Some(&text) {
                causes.push(text);
            }
            source = cause.source();
        }
        Self { causes, ..Self::new(exit, error.to_string()) }
    }

    /// What failed, with what the system says.
    pub(crate) fn io(what: impl Into<String>, error: &io::Error) -> Self {
        Self { causes: vec![error.to_string()], ..Self::new(Exit::GENERAL, what) }
    }

    /// Ends with this code instead.
    pub(crate) fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// Adds the way out.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A name that nothing has.
    pub(crate) fn unknown_name(name: &str, known: &[String]) -> Self {
        let near = suggest::did_you_mean(name, known.iter().map(String::as_str));
        Self {
            data: Some(Box::new(serde_json::json!({ "names": known }))),
            ..Self::usage(format!("there is no service '{name}'"))
        }
        .hint(near)
    }

    /// Message and causes in a line, for who shows it elsewhere.
    pub(crate) fn in_a_line(&self) -> String {
        let mut parts = vec![self.message.as_str()];
        parts.extend(self.causes.iter().map(String::as_str));
        parts.join(": ")
    }

    /// Shows it, unless all has been said.
    pub(crate) fn show(&self, format: Option<Format>) {
        if self.silent {
            return;
        }
        if matches!(format, Some(Format::Json | Format::Yaml)) {
            let body = Body {
                message: &self.message,
                causes: &self.causes,
                hint: self.hint.as_deref(),
                exit_code: self.exit.0,
                data: self.data.as_deref(),
            };
            if let Ok(text) = serde_json::to_string_pretty(&Document { schema: 1, error: body }) {
                ui::complain(text);
                return;
            }
        }
        ui::complain(format_args!("{}: {}", style::paint(style::ERROR, "error"), self.message));
        for cause in &self.causes {
            ui::complain(format_args!("  caused by: {cause}"));
        }
        if let Some(hint) = &self.hint {
            ui::complain(format_args!("{}: {hint}", style::paint(style::HINT, "hint")));
        }
    }
}

impl From<ProjectError> for CommandError {
    fn from(error: ProjectError) -> Self {
        let plain = Self::from_error(Exit::USAGE, &error);
        match &error {
            ProjectError::Discover(DiscoverError::NotFound { .. }) => {
                plain.hint("`harness init` writes a starter file, `--config FILE` names another one")
            }
            ProjectError::State { path, .. } => Self { exit: Exit::GENERAL, ..plain }
                .hint(format!("make {} writable, or set XDG_STATE_HOME to a folder that is", path.display())),
            ProjectError::Foreign { .. } => Self { exit: Exit::GENERAL, ..plain }
                .hint("run harness as that user, or set XDG_STATE_HOME to a folder of your own"),
            ProjectError::NoStateHome => plain.hint("set HOME or XDG_STATE_HOME"),
            _ => plain,
        }
    }
}

impl From<WriteError> for CommandError {
    fn from(error: WriteError) -> Self {
        match error {
            // `harness logs | head`: the reader has what it wanted.
            WriteError::Closed => Self::said(Exit::OK),
            other => Self::from_error(Exit::GENERAL, &other),
        }
    }
}

impl From<LogError> for CommandError {
    fn from(error: LogError) -> Self {
        Self::from_error(Exit::GENERAL, &error)
    }
}

impl From<ConnectError> for CommandError {
    fn from(error: ConnectError) -> Self {
        let error = match error {
            ConnectError::Project(error) => return error.into(),
            other => other,
        };
        let plain = Self::from_error(Exit::UNREACHABLE, &error);
        match &error {
            ConnectError::Silent { pid: Some(pid), .. } => plain.hint(format!(
                "if it hangs, end it with `kill {pid}`: services go on, and the next command starts a new daemon"
            )),
            ConnectError::Version { .. } => {
                plain.hint("`harness daemon restart` lets this version take over; services go on")
            }
            ConnectError::Start { .. } | ConnectError::NotReady { .. } | ConnectError::Refused { .. } => {
                plain.hint("the daemon's own words are in daemon.log in that folder")
            }
            _ => plain,
        }
    }
}

const NOT_SUPPORTED: &str =
    "name the services that should start without these: `harness start NAME…`, or use a profile";

impl From<Refused> for CommandError {
    fn from(refused: Refused) -> Self {
        let plain = Self::from_error(Exit::USAGE, &refused);
        match refused {
            Refused::UnknownName { name, known } => Self::unknown_name(&name, &known),
            _ => plain,
        }
    }
}

impl From<CallError> for CommandError {
    fn from(error: CallError) -> Self {
        use crate::api::code;
        let CallError::Answer { code: number, data, .. } = &error else {
            return Self::from_error(Exit::UNREACHABLE, &error)
                .hint("services go on without the daemon; `harness status` shows them");
        };
        let list = |key: &str| -> Vec<String> {
            let items = data.as_ref().and_then(|data| data.get(key)).and_then(Value::as_array);
            items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let data = data.clone();
        let plain = Self::from_error(Exit::GENERAL, &error);
        let plain = match *number {
            code::UNKNOWN_NAME => {
                let name = data.as_ref().and_then(|data| data.get("name")).and_then(Value::as_str);
                return Self::unknown_name(name.unwrap_or_default(), &list("names"));
            }
            code::NOT_SUPPORTED => Self { exit: Exit::USAGE, ..plain }.hint(NOT_SUPPORTED),
            code::HAS_DEPENDENTS => Self { exit: Exit::USAGE, ..plain }
                .hint("`-y` stops them too, `--force` leaves them running".to_owned()),
            code::NOT_RUNNING => plain.hint("`harness start` starts it, `harness logs` shows why it ended"),
            code::NOT_LOST => Self { exit: Exit::UNREACHABLE, ..plain }
                .hint("`harness node list` shows how nodes are; try again then".to_owned()),
            code::NO_STACK => plain.hint("`harness start` starts the services of services.yaml"),
            code::PORTS => Self { exit: Exit::USAGE, ..plain }
                .hint("`port: auto` takes a free one; `ss -ltnp` shows who listens"),
            code::SECRET => Self { exit: Exit::USAGE, ..plain }
                .hint("`secrets:` in the file says where each value comes from"),
            _ => plain,
        };
        Self { data, ..plain }
    }
}

/// Shows an error of the command line's own parser: with a suggestion, else with what exists.
pub(crate) fn show_usage(error: &clap::Error, json: bool) -> Exit {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    if !error.use_stderr() {
        let _ = error.print();
        return Exit::OK;
    }
    let invalid = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let suggested = error.get(ContextKind::SuggestedSubcommand).is_some();
    let hint = invalid.map(|word| match crate::cli::foreign_word(word) {
        Some(meant) => format!("here that is `harness {meant}`"),
        None => {
            let command = crate::cli::command();
            let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
            format!("there is: {}", names.join(", "))
        }
    });
    let hint = hint.filter(|hint| !suggested || hint.starts_with("here"));
    if json {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let plain = CommandError::usage(message);
        CommandError { hint, ..plain }.show(Some(Format::Json));
    } else if error.kind() == ErrorKind::InvalidSubcommand
        && let (Some(word), Some(hint)) = (invalid, &hint)
    {
        CommandError::usage(format!("there is no command '{word}'")).hint(hint).show(None);
    } else {
        ui::complain(error.render().ansi().to_string().trim_end());
    }
    Exit::USAGE
}

/// The hint lines with which a command ends.
pub(crate) fn next_steps(ui: &Ui, steps: &[(String, &str)]) {
    let width = steps.iter().map(|(typed, _)| typed.len()).max().unwrap_or(0);
    for (index, (typed, what)) in steps.iter().enumerate() {
        let head = if index == 0 { "Next:" } else { "     " };
        ui.say(format_args!("{head} {}  {what}", style::paint(style::TYPE, format_args!("{typed:width$}"))));
    }
}

/// An error with its sources, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_chain_is_told_once() {
        let error = CommandError::from_error(Exit::GENERAL, &Outer(io::Error::other("inner")));
        assert_eq!((error.message.as_str(), error.causes.as_slice()), ("outer", &["inner".to_owned()][..]));
    }

    #[test]
    fn unknown_names_lead_to_known_ones() {
        let known = ["web".to_owned(), "db".to_owned()];
        assert_eq!(CommandError::unknown_name("wbe", &known).hint.as_deref(), Some("did you mean 'web'?"));
        assert_eq!(CommandError::unknown_name("zzz", &known).hint.as_deref(), Some("there is: web, db"));
    }
}
