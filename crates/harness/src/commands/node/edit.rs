//! The text of services.yaml around `nodes:`, changed without touching anything else.

use std::ops::Range;

/// Why a node can't be written into the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CantAdd {
    /// `nodes:` is written in one line, in braces.
    InBraces {
        /// Counted from 1.
        line: usize,
    },
}

/// The text with this line below `nodes:`, behind those that are there, without its indentation.
pub(super) fn with_node(text: &str, entry: &str) -> Result<String, CantAdd> {
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let Some(head) = lines.iter().position(|line| is_head(line)) else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { end };
        return Ok(format!("{text}{gap}{end}nodes:{end}  {entry}{end}"));
    };
    let value = without_comment(lines.get(head).copied().unwrap_or_default());
    let value = value.trim_start_matches("nodes:").trim().to_owned();
    if !value.is_empty() && value != "{}" {
        return Err(CantAdd::InBraces { line: head + 1 });
    }
    let section = section(&lines, head);
    let children = lines.get(section.clone()).unwrap_or_default();
    let indent = children.iter().find(|line| is_content(line)).map_or(2, |line| indent_of(line));
    let mut out = String::with_capacity(text.len() + entry.len() + 8);
    for (at, line) in lines.iter().enumerate() {
        match at == head && value == "{}" {
            true => out.push_str(&line.replacen("{}", "", 1).replacen("nodes: ", "nodes:", 1)),
            false => out.push_str(line),
        }
        if at + 1 == section.end {
            if !out.ends_with('\n') {
                out.push_str(end);
            }
            out.push_str(&format!("{:indent$}{entry}{end}", ""));
        }
    }
    Ok(out)
}

/// The first and last line of a node, counted from 1.
pub(super) fn lines_of(text: &str, name: &str) -> Option<(usize, usize)> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let head = lines.iter().position(|line| is_head(line))?;
    let section = section(&lines, head);
    let of = |at: usize| lines.get(at).copied().unwrap_or_default();
    let indent = section.clone().find(|at| is_content(of(*at))).map(|at| indent_of(of(at)))?;
    let begins = |at: usize| is_content(of(at)) && indent_of(of(at)) == indent;
    let first = section.clone().find(|at| begins(*at) && key_of(of(*at)) == name)?;
    let next = (first + 1..section.end).find(|at| begins(*at)).unwrap_or(section.end);
    let last = (first..next).rev().find(|at| is_content(of(*at)))?;
    Some((first + 1, last + 1))
}

fn is_head(line: &str) -> bool {
    line.strip_prefix("nodes:").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// The lines below `nodes:` up to the last that has content, with those before it.
fn section(lines: &[&str], head: usize) -> Range<usize> {
    let after = head + 1;
    let end = lines
        .iter()
        .enumerate()
        .skip(after)
        .find(|(_, line)| is_content(line) && indent_of(line) == 0)
        .map_or(lines.len(), |(at, _)| at);
    let last = (after..end).rev().find(|at| lines.get(*at).is_some_and(|line| is_content(line)));
    after..last.map_or(after, |last| last + 1)
}

fn is_content(line: &str) -> bool {
    let text = line.trim();
    !text.is_empty() && !text.starts_with('#')
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn key_of(line: &str) -> &str {
    let text = line.trim();
    text.split_once(':').map_or(text, |(key, _)| key).trim().trim_matches(['"', '\''])
}

fn without_comment(line: &str) -> &str {
    line.split(" #").next().unwrap_or_default()
}

/// A value as YAML reads it as the same text.
pub(super) fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-' | '~');
    let words = ["true", "false", "yes", "no", "on", "off", "null", "~"];
    let is_plain = text.chars().all(plain)
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && !words.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_put_behind_the_others_and_all_else_stays() {
        let added = |text: &str| with_node(text, "b: {host: b}").unwrap();
        for (before, after) in [
            ("a: 1\n", "a: 1\n\nnodes:\n  b: {host: b}\n"),
            ("a: 1", "a: 1\n\nnodes:\n  b: {host: b}\n"),
            ("a: 1\r\n", "a: 1\r\n\r\nnodes:\r\n  b: {host: b}\r\n"),
            ("nodes: {} # none\nservices: {}\n", "nodes: # none\n  b: {host: b}\nservices: {}\n"),
            ("nodes:\nservices: {}\n", "nodes:\n  b: {host: b}\nservices: {}\n"),
            (
                "nodes:   # ours\n    # the first\n    a:\n      host: a # here\n\n# what runs\nservices:\n  x: {}\n",
                "nodes:   # ours\n    # the first\n    a:\n      host: a # here\n    b: {host: b}\n\n# what runs\nservices:\n  x: {}\n",
            ),
            ("nodes:\n  a: {host: a}", "nodes:\n  a: {host: a}\n  b: {host: b}\n"),
        ] {
            assert_eq!(added(before), after);
        }
        let braces = with_node("x: 1\nnodes: {a: {host: a}}\n", "b: {host: b}");
        assert_eq!(braces, Err(CantAdd::InBraces { line: 2 }));
    }

    #[test]
    fn the_lines_of_a_node_are_found() {
        let text = "nodes:\n  # first\n  a: {host: a}\n  \"b\":\n    host: b\n\n    # its key\n    port: 2\n  # about c\n  c: {host: c}\nservices:\n  a: {}\n";
        assert_eq!(lines_of(text, "a"), Some((3, 3)));
        assert_eq!(lines_of(text, "b"), Some((4, 8)));
        assert_eq!(lines_of(text, "c"), Some((10, 10)));
        assert_eq!(lines_of(text, "d"), None);
        assert_eq!(lines_of("services: {}\n", "a"), None);
    }

    #[test]
    fn values_are_quoted_where_yaml_would_read_something_else() {
        for (text, written) in [
            ("eu1.example.com", "eu1.example.com"),
            ("10.0.0.1", "\"10.0.0.1\""),
            ("fd00::1", "\"fd00::1\""),
            ("yes", "\"yes\""),
            ("a b", "\"a b\""),
            ("~/.ssh/id", "\"~/.ssh/id\""),
            ("/home/x/id", "/home/x/id"),
            ("", "\"\""),
        ] {
            assert_eq!(scalar(text), written);
        }
    }
}
