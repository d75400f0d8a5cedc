//! Where `${VAR}` takes its value from, and files of `NAME=value` lines.

use crate::substitute::Variables;
use indexmap::IndexMap;
use std::collections::{BTreeMap, HashSet};

/// The variables: `-e` beats the caller's environment, which beats `env_file`.
pub(crate) struct Environment<'a> {
    pub(crate) overrides: &'a [(String, String)],
    pub(crate) caller: &'a BTreeMap<String, String>,
    pub(crate) file: IndexMap<String, String>,
    /// Names of services and tasks, to tell `${db-1.ip}` from a variable with a default.
    pub(crate) services: HashSet<String>,
    /// Every variable that the file asked for, with the value it got.
    pub(crate) referenced: BTreeMap<String, Option<String>>,
}

impl Environment<'_> {
    /// A variable of the caller's environment.
    pub(crate) fn caller(&self, name: &str) -> Option<&str> {
        self.caller.get(name).map(String::as_str)
    }

    fn find(&self, name: &str) -> Option<&String> {
        let given = self.overrides.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value);
        given.or_else(|| self.caller.get(name)).or_else(|| self.file.get(name))
    }
}

impl Variables for Environment<'_> {
    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.find(name).cloned();
        self.referenced.insert(name.into(), value.clone());
        value
    }

    fn is_service(&self, name: &str) -> bool {
        self.services.contains(name)
    }

    fn similar(&self, name: &str) -> Option<String> {
        let given = self.overrides.iter().map(|(key, _)| key);
        let all = given.chain(self.caller.keys()).chain(self.file.keys()).map(String::as_str);
        // Short names resemble each other too easily.
        if name.len() < 4 { None } else { crate::diagnostic::closest(name, all).map(String::from) }
    }
}

/// A line of an environment file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) value: String,
    /// Whether `${…}` in it is replaced: not in single quotes.
    pub(crate) expand: bool,
    /// Bytes of the value's text in the file.
    pub(crate) at: std::ops::Range<usize>,
}

/// The lines of an environment file: `NAME=value`, `export NAME=value`, quotes, `# comments`. A wrong line is given by
/// its byte range and what was expected.
pub(crate) fn parse_file(text: &str) -> Vec<Result<Line, (std::ops::Range<usize>, &'static str)>> {
    let mut lines = Vec::new();
    let mut at = text.len() - text.trim_start_matches('\u{feff}').len();
    while at < text.len() {
        let rest = text.get(at..).unwrap_or("");
        let length = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let line = rest.get(..length).unwrap_or("");
        let body = line.trim();
        let mut used = length;
        if !body.is_empty() && !body.starts_with('#') {
            let begin = at + (line.len() - line.trim_start().len());
            let (parsed, end) = parse_line(text, begin, at + length);
            used = end - at;
            lines.push(parsed);
        }
        at += used.max(1);
    }
    lines
}

type Parsed = Result<Line, (std::ops::Range<usize>, &'static str)>;

/// One line from byte `begin`, whose end is `end`; a quoted value may go on over several. Gives where the next begins.
fn parse_line(text: &str, begin: usize, end: usize) -> (Parsed, usize) {
    let line = text.get(begin..end).unwrap_or("").trim_end();
    let wrong = |what| (Err((begin..begin + line.len(), what)), end);
    let (body, skipped) = match line.strip_prefix("export ") {
        Some(body) => (body.trim_start(), line.len() - body.trim_start().len()),
        None => (line, 0),
    };
    let Some(equals) = body.find('=') else { return wrong("expected NAME=value") };
    let name = body.get(..equals).unwrap_or("").trim_end();
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return wrong("expected NAME=value");
    }
    let after = body.get(equals + 1..).unwrap_or("");
    let value = after.trim_start();
    let value_at = begin + skipped + equals + 1 + (after.len() - value.len());
    let line_of = |value: String, expand, at| Line { name: name.into(), value, expand, at };
    let Some(quote) = value.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
        let plain = match value.find(" #") {
            Some(comment) => value.get(..comment).unwrap_or("").trim_end(),
            None => value,
        };
        return (Ok(line_of(plain.into(), true, value_at..value_at + plain.len())), end);
    };
    let inside = text.get(value_at + 1..).unwrap_or("");
    let (mut out, mut chars) = (String::new(), inside.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => {
                let stop = value_at + 1 + at;
                let next =
                    text.get(stop..).and_then(|rest| rest.find('\n')).map_or(text.len(), |n| stop + n + 1);
                return (Ok(line_of(out, quote == '"', value_at + 1..stop)), next);
            }
            '\\' if quote == '"' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, '$')) => out.push_str("$$"),
                Some((_, c)) => out.push(c),
                None => {}
            },
            c => out.push(c),
        }
    }
    (Err((begin..begin + line.len(), "the quote is not closed")), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_files() {
        let text = "# c\nA=1\n export B = two words # c\nC='x $y'\nD=\"a\\nb\"\nE=\nF=\"two\nlines\"\n\nbad line\nG='open\nH=#x\n";
        let lines: Vec<_> = parse_file(text)
            .into_iter()
            .map(|line| match line {
                Ok(line) => format!("{}={:?} {}", line.name, line.value, &text[line.at]),
                Err((at, what)) => format!("{what}: {}", &text[at]),
            })
            .collect();
        assert_eq!(
            lines,
            [
                "A=\"1\" 1",
                "B=\"two words\" two words",
                "C=\"x $y\" x $y",
                "D=\"a\\nb\" a\\nb",
                "E=\"\" ",
                "F=\"two\\nlines\" two\nlines",
                "expected NAME=value: bad line",
                "the quote is not closed: G='open",
                "H=\"#x\" #x",
            ]
        );
    }
}
