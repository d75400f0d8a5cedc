//! What is shown, and the only place that writes to stdout and stderr.
//!
//! stdout is the answer, stderr is the talk. Nothing here panics when the other end is closed: a reader of stdout that
//! has gone away ends the command quietly (`Closed`), talk that nobody can hear is dropped.

pub(crate) mod describe;
pub(crate) mod logs;
pub(crate) mod meter;
pub(crate) mod progress;
pub(crate) mod prompt;
pub(crate) mod status;
pub(crate) mod style;
pub(crate) mod suggest;
pub(crate) mod table;
pub(crate) mod time;

use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// How data is written to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON document, with `"schema": 1`.
    Json,
    /// The same as YAML.
    Yaml,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// In a terminal, unless NO_COLOR is set; also elsewhere if CLICOLOR_FORCE is.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Writing to stdout failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Its reader has gone away: the command ends quietly.
    #[error("the reader of stdout has gone away")]
    Closed,
    /// Anything else: a full disk, for example.
    #[error("can't write to stdout")]
    Failed(#[source] io::Error),
    /// The data has no form in the asked format.
    #[error("can't write this as {format}: {reason}")]
    Encode {
        /// `JSON` or `YAML`.
        format: &'static str,
        /// What the encoder says.
        reason: String,
    },
}

/// What the command may assume about the person or program that reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui {
    /// How data is written.
    pub(crate) format: Format,
    /// No talk but errors.
    pub(crate) quiet: bool,
    /// How much more to say.
    pub(crate) verbose: u8,
    /// stdout is a terminal.
    pub(crate) stdout_terminal: bool,
    /// stderr is a terminal that can be redrawn.
    pub(crate) stderr_terminal: bool,
    /// Questions can be asked: stdin and stderr are a terminal.
    pub(crate) can_ask: bool,
}

impl Ui {
    /// Looks at the terminal once, and settles whether colours are used.
    pub(crate) fn new(format: Option<Format>, color: Color, quiet: bool, verbose: u8) -> Self {
        let choice = match color {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let stderr_terminal = io::stderr().is_terminal();
        Self {
            format: format.unwrap_or(Format::Table),
            quiet,
            verbose,
            stdout_terminal: io::stdout().is_terminal(),
            stderr_terminal: stderr_terminal && !dumb,
            can_ask: stderr_terminal && io::stdin().is_terminal(),
        }
    }

    /// Whether people read the answer.
    pub(crate) fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// Writes data: the text and a line break.
    pub(crate) fn out(&self, text: impl std::fmt::Display) -> Result<(), WriteError> {
        let mut stdout = anstream::stdout().lock();
        written(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
    }

    /// Writes data as it is, colours removed where they aren't wanted.
    pub(crate) fn out_raw(&self, text: &[u8]) -> Result<(), WriteError> {
        let mut stdout = anstream::stdout().lock();
        written(stdout.write_all(text).and_then(|()| stdout.flush()))
    }

    /// Writes bytes exactly as they are: whoever made them has settled the colours.
    pub(crate) fn out_bytes(&self, bytes: &[u8]) -> Result<(), WriteError> {
        let mut stdout = io::stdout().lock();
        written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
    }

    /// Writes a document in the asked format (JSON when a table was asked for).
    pub(crate) fn document(&self, document: &impl Serialize) -> Result<(), WriteError> {
        match self.format {
            Format::Yaml => {
                let text = serde_saphyr::to_string(document)
                    .map_err(|e| WriteError::Encode { format: "YAML", reason: e.to_string() })?;
                self.out_raw(text.as_bytes())
            }
            Format::Json | Format::Table => {
                let text = serde_json::to_string_pretty(document)
                    .map_err(|e| WriteError::Encode { format: "JSON", reason: e.to_string() })?;
                self.out(text)
            }
        }
    }

    /// Writes one JSON document on a line of its own.
    pub(crate) fn json_line(&self, document: &impl Serialize) -> Result<(), WriteError> {
        let text = serde_json::to_string(document)
            .map_err(|e| WriteError::Encode { format: "JSON", reason: e.to_string() })?;
        self.out(text)
    }

    /// Talk: not with `-q`.
    pub(crate) fn say(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            complain(text);
        }
    }

    /// A warning: shown also with `-q`.
    pub(crate) fn warn(&self, text: impl std::fmt::Display) {
        let style = style::WARNING;
        complain(format_args!("{style}warning{style:#}: {text}"));
    }

    /// Columns of the terminal that stdout is, if it is one.
    pub(crate) fn stdout_width(&self) -> Option<usize> {
        self.stdout_terminal.then(|| size(&io::stdout())).flatten().map(|(columns, _)| columns)
    }

    /// Columns and rows of the terminal that stderr is.
    pub(crate) fn stderr_size(&self) -> (usize, usize) {
        size(&io::stderr()).unwrap_or((80, 24))
    }
}

fn size(terminal: &impl std::os::fd::AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

fn written(result: io::Result<()>) -> Result<(), WriteError> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => WriteError::Closed,
        _ => WriteError::Failed(error),
    })
}

/// Writes a line to stderr. Nobody can be told when that fails.
pub(crate) fn complain(text: impl std::fmt::Display) {
    let mut line = text.to_string();
    line.push('\n');
    let _ = anstream::stderr().lock().write_all(line.as_bytes());
}
