//! Questions to the person at the terminal. Callers ask only where [`super::Ui::can_ask`] says that one is there.

use super::style;
use std::io::{self, Write};

/// Asks a yes-or-no question; the default, also at the end of input, is no.
pub(crate) fn confirm(question: &str) -> bool {
    let answer = ask(&format!("{question} {}", style::paint(style::DIM, "[y/N]"))).unwrap_or_default();
    matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Asks for a text; an empty answer is the default.
pub(crate) fn text(question: &str, default: &str) -> String {
    let answer = ask(&format!("{question} {}", style::paint(style::DIM, format_args!("[{default}]"))));
    answer.filter(|answer| !answer.is_empty()).unwrap_or_else(|| default.to_owned())
}

/// Asks for one of several things by its number or its word; the default is the first.
pub(crate) fn choose<'a>(question: &str, choices: &'a [(&'a str, &'a str)]) -> &'a str {
    let width = choices.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
    super::complain(question);
    for (number, (word, what)) in choices.iter().enumerate() {
        super::complain(format_args!("  {}) {word:width$}  {}", number + 1, style::paint(style::DIM, what)));
    }
    let first = choices.first().map_or("", |(word, _)| word);
    loop {
        let Some(answer) = ask(&format!("Which? {}", style::paint(style::DIM, "[1]"))) else { return first };
        if answer.is_empty() {
            return first;
        }
        let by_number = answer.parse::<usize>().ok().and_then(|n| choices.get(n.checked_sub(1)?));
        if let Some((word, _)) = by_number.or_else(|| choices.iter().find(|(word, _)| *word == answer)) {
            return word;
        }
        super::complain(format_args!("Please answer 1 to {} or a word from the list.", choices.len()));
    }
}

/// The line that was typed, trimmed; `None` at the end of input.
fn ask(question: &str) -> Option<String> {
    let mut stderr = anstream::stderr().lock();
    let _ = write!(stderr, "{question} ").and_then(|()| stderr.flush());
    drop(stderr);
    let mut line = String::new();
    match io::stdin().read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim().to_owned()),
    }
}
