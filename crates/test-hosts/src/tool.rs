//! Runs programs to their end, each with a bound.

use crate::Error;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

/// Seconds that a program may take when nothing else is said: many times what any of them needs on a busy machine.
const BOUND: &str = "60";

/// What goes to a program's standard input.
pub(crate) enum Input<'a> {
    /// Nothing.
    Nothing,
    /// A file's content.
    File(&'a Path),
}

/// Runs a program; the answer: what it printed, without the line break at its end.
pub(crate) fn output(program: &str, words: &[&str], input: Input<'_>) -> Result<String, Error> {
    // `timeout` stays in our process group, so that what ends the test ends this too.
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=5", BOUND, program]).args(words);
    command.stdin(match input {
        Input::Nothing => Stdio::null(),
        Input::File(path) => {
            let file = File::open(path);
            file.map_err(|source| Error::File { path: path.to_owned(), doing: "opened", source })?.into()
        }
    });
    let line = || format!("{program} {}", words.join(" "));
    let output = command.output().map_err(|source| Error::Start { command: line(), source })?;
    if !output.status.success() {
        let told = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        let talk = String::from_utf8_lossy(told).trim().to_owned();
        return Err(Error::Ended { command: line(), status: output.status, talk });
    }
    match String::from_utf8(output.stdout) {
        Ok(mut text) => {
            text.truncate(text.trim_end_matches('\n').len());
            Ok(text)
        }
        Err(error) => Err(Error::Answer {
            command: line(),
            printed: String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }),
    }
}
