//! Reads Rust source well enough to see which paths, words and literals it uses.
//!
//! This is no parser: it blanks comments and literals, drops what only tests compile, expands `use` trees and
//! resolves the first segment of every path through them. That sees `process::Command::new` behind any import or
//! alias of the same file; it does not see through glob imports, re-exports or macros.

use std::collections::HashMap;

/// One source file, prepared for the rules.
pub(crate) struct Source {
    /// The text as it is.
    raw: String,
    /// The same text, line for line, with comments, literals and (unless it is test code) test items blanked.
    code: String,
    /// Every path in `code`, imports resolved.
    paths: Vec<Found>,
}

/// Something found in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Line, from 1.
    pub(crate) line: usize,
    /// What stands there, imports resolved: `std::process::Command::new`, `println!`.
    pub(crate) what: String,
}

impl Source {
    /// Prepares a file. `keep_tests` keeps items under `#[cfg(test)]`.
    pub(crate) fn new(text: &str, keep_tests: bool) -> Self {
        let mut code = blank(text);
        if !keep_tests {
            code = without_test_items(&code);
        }
        let paths = resolved_paths(&code);
        Self { raw: text.to_owned(), code, paths }
    }

    /// Paths that are `prefix` or lie below it. `println!` names a macro.
    pub(crate) fn paths_below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Found> {
        self.paths.iter().filter(move |found| {
            found.what.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
    }

    /// Places where `text` stands in the code, outside comments and literals. A name's end must match a name's end.
    pub(crate) fn code_matches(&self, text: &str) -> Vec<Found> {
        matches(&self.code, text)
    }

    /// Places where `text` stands anywhere in the file.
    pub(crate) fn raw_matches(&self, text: &str) -> Vec<Found> {
        matches(&self.raw, text)
    }
}

fn matches(haystack: &str, needle: &str) -> Vec<Found> {
    let mut all = Vec::new();
    for (index, line) in haystack.lines().enumerate() {
        let hit = line.match_indices(needle).any(|(at, _)| {
            let before = line.get(..at).and_then(|s| s.chars().next_back());
            let after = line.get(at + needle.len()..).and_then(|s| s.chars().next());
            let starts = needle.starts_with(is_name);
            let ends = needle.ends_with(is_name);
            !(starts && before.is_some_and(is_name) || ends && after.is_some_and(is_name))
        });
        if hit {
            all.push(Found { line: index + 1, what: needle.to_owned() });
        }
    }
    all
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The text with comments and the insides of literals replaced by spaces; line breaks stay.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut i = 0;
    while i < chars.len() {
        let end = match at(i) {
            '/' if at(i + 1) == '/' => line_end(&chars, i),
            '/' if at(i + 1) == '*' => block_comment_end(&chars, i),
            '"' => string_end(&chars, i),
            '\'' => char_end(&chars, i),
            c if is_name(c) && (i == 0 || !is_name(at(i - 1))) => raw_string_end(&chars, i),
            _ => i,
        };
        if end > i {
            out.extend(
                chars.get(i..end).unwrap_or_default().iter().map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            i = end;
        } else {
            out.push(at(i));
            i += 1;
        }
    }
    out
}

fn line_end(chars: &[char], from: usize) -> usize {
    chars.iter().skip(from).position(|c| *c == '\n').map_or(chars.len(), |n| from + n)
}

fn block_comment_end(chars: &[char], from: usize) -> usize {
    let mut depth = 0usize;
    let mut i = from;
    while i < chars.len() {
        match (chars.get(i), chars.get(i + 1)) {
            (Some('/'), Some('*')) => {
                depth += 1;
                i += 2;
            }
            (Some('*'), Some('/')) => {
                depth = depth.saturating_sub(1);
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], from: usize) -> usize {
    let mut i = from + 1;
    while let Some(c) = chars.get(i) {
        match c {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// The end of a character literal; `from` itself for a lifetime.
fn char_end(chars: &[char], from: usize) -> usize {
    match (chars.get(from + 1), chars.get(from + 2)) {
        (Some('\\'), _) => {
            // The escaped character itself may be a quote.
            let close = chars.iter().skip(from + 3).take(12).position(|c| *c == '\'');
            close.map_or(from, |n| from + 3 + n + 1)
        }
        (Some(_), Some('\'')) => from + 3,
        _ => from,
    }
}

/// The end of `r"…"`, `r#"…"#`, `br"…"`, `cr"…"`; `from` itself for anything else.
fn raw_string_end(chars: &[char], from: usize) -> usize {
    let mut i = from;
    if matches!(chars.get(i), Some('b' | 'c')) {
        i += 1;
    }
    if chars.get(i) != Some(&'r') {
        return from;
    }
    i += 1;
    let hashes = chars.iter().skip(i).take_while(|c| **c == '#').count();
    i += hashes;
    if chars.get(i) != Some(&'"') {
        return from;
    }
    i += 1;
    while i < chars.len() {
        let closes = chars.get(i) == Some(&'"')
            && chars.iter().skip(i + 1).take_while(|c| **c == '#').take(hashes).count() == hashes;
        if closes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    chars.len()
}

/// The code with every item under `#[cfg(test)]` (or `#[cfg(all(test, …))]`, `#[test]`) blanked.
fn without_test_items(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    for marker in ["#[cfg(test)]", "#[cfg(all(test", "#[cfg(any(test", "#[test]"] {
        let mut from = 0;
        while let Some(at) = code.get(from..).and_then(|rest| rest.find(marker)).map(|n| from + n) {
            let end = item_end(code.as_bytes(), at);
            for byte in bytes.get_mut(at..end).unwrap_or_default() {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            from = end.max(at + marker.len());
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where the item ends whose attributes begin at `from`: after its `;`, or after the brace that closes it.
fn item_end(code: &[u8], from: usize) -> usize {
    let mut square = 0usize;
    let mut depth = 0usize;
    for (i, byte) in code.iter().enumerate().skip(from) {
        match byte {
            b'[' | b'(' => square += 1,
            b']' | b')' => square = square.saturating_sub(1),
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i + 1;
                }
            }
            b';' if square == 0 && depth == 0 => return i + 1,
            _ => {}
        }
    }
    code.len()
}

/// All paths of the code: what `use` trees import, and what expressions, types and macros name.
fn resolved_paths(code: &str) -> Vec<Found> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut aliases: HashMap<String, String> = HashMap::new();
    let mut rest: Vec<&(usize, String)> = Vec::new();
    let mut i = 0;
    while let Some(token) = tokens.get(i) {
        if token.1 != "use" || tokens.get(i + 1).is_some_and(|next| next.1 == "<") {
            rest.push(token);
            i += 1;
            continue;
        }
        let end = tokens.iter().skip(i).position(|t| t.1 == ";").map_or(tokens.len(), |n| i + n);
        let mut imports = Vec::new();
        use_tree(tokens.get(i + 1..end).unwrap_or_default(), "", &mut imports);
        for (line, path, name) in imports {
            aliases.insert(name, path.clone());
            found.push(Found { line, what: path });
        }
        i = end + 1;
    }
    for (line, mut path) in written_paths(&rest) {
        let first = path.split("::").next().unwrap_or_default().trim_end_matches('!').to_owned();
        if let Some(full) = aliases.get(&first) {
            path = format!("{full}{}", path.get(first.len()..).unwrap_or_default());
        }
        found.push(Found { line, what: path });
    }
    found.sort_by_key(|f| f.line);
    found
}

/// Names, `::` and single characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut all: Vec<(usize, String)> = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let chars: Vec<char> = line.chars().collect();
        let mut i = 0;
        while let Some(c) = chars.get(i) {
            if is_name(*c) {
                let name: String = chars.iter().skip(i).take_while(|c| is_name(**c)).collect();
                i += name.chars().count();
                all.push((index + 1, name));
            } else if *c == ':' && chars.get(i + 1) == Some(&':') {
                all.push((index + 1, "::".to_owned()));
                i += 2;
            } else {
                if !c.is_whitespace() {
                    all.push((index + 1, c.to_string()));
                }
                i += 1;
            }
        }
    }
    all
}

/// Expands the tokens between `use` and `;` into (line, full path, local name).
fn use_tree(tokens: &[(usize, String)], prefix: &str, out: &mut Vec<(usize, String, String)>) {
    for branch in split_at_commas(tokens) {
        let mut path = prefix.to_owned();
        let mut i = 0;
        let line = branch.first().map_or(0, |t| t.0);
        let mut alias = None;
        let mut nested = false;
        while let Some((_, token)) = branch.get(i) {
            match token.as_str() {
                "::" => path.push_str("::"),
                "{" => {
                    use_tree(branch.get(i + 1..branch.len() - 1).unwrap_or_default(), &path, out);
                    nested = true;
                    break;
                }
                "as" => {
                    alias = branch.get(i + 1).map(|t| t.1.clone());
                    break;
                }
                "self" if path.ends_with("::") => path.truncate(path.len() - 2),
                name => path.push_str(name),
            }
            i += 1;
        }
        let path = path.trim_start_matches("::").to_owned();
        if !nested && !path.is_empty() {
            let last = path.rsplit("::").next().unwrap_or_default().to_owned();
            out.push((line, path, alias.unwrap_or(last)));
        }
    }
}

fn split_at_commas(tokens: &[(usize, String)]) -> Vec<&[(usize, String)]> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0usize, 0usize);
    for (i, (_, token)) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            "," if depth == 0 => {
                parts.push(tokens.get(start..i).unwrap_or_default());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(tokens.get(start..).unwrap_or_default());
    parts.retain(|part| !part.is_empty());
    parts
}

/// Paths as they are written outside imports: names joined by `::`, and a macro's name with its `!`.
fn written_paths(tokens: &[&(usize, String)]) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut i = 0;
    let text = |i: usize| tokens.get(i).map_or("", |t| t.1.as_str());
    while let Some((line, token)) = tokens.get(i) {
        if !token.starts_with(is_name) {
            i += 1;
            continue;
        }
        let after_dot = i > 0 && text(i - 1) == ".";
        let mut path = token.clone();
        i += 1;
        while text(i) == "::" && text(i + 1).starts_with(is_name) {
            path.push_str("::");
            path.push_str(text(i + 1));
            i += 2;
        }
        if text(i) == "!" && text(i + 1) != "=" {
            path.push('!');
        }
        if !after_dot {
            paths.push((*line, path));
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        Source::new(text, false).paths.into_iter().map(|f| f.what).collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = r####"
            // std::fs::read
            /* std::fs::read /* nested */ std::fs::read */
            let a = "std::fs::read \" std::fs::read";
            let b = r#"std::fs::read " "#;
            let c = '"'; let d = '\''; let e: &'static str = b"std::fs";
        "####;
        assert_eq!(Source::new(text, false).paths_below("std::fs").count(), 0);
        let after = format!("{text}\nstd::fs::write();");
        assert_eq!(Source::new(&after, false).paths_below("std::fs").count(), 1);
    }

    #[test]
    fn imports_and_aliases_are_resolved() {
        for text in [
            "fn f() { std::process::Command::new(x) }",
            "use std::process; fn f() { process::Command::new(x) }",
            "use std::process::Command; fn f() { Command::new(x) }",
            "use std::process::{self, Command as Cmd}; fn f() { Cmd::new(x) }",
            "use std::{fs::File, process::{Child, Command}};\nfn f() { Command::new(x) }",
            "use ::std::process as p; fn f() { p::Command::new(x) }",
        ] {
            assert!(
                paths(text).iter().any(|p| p == "std::process::Command::new"),
                "{text}: {:?}",
                paths(text)
            );
        }
        let own = "use crate::command::Command; fn f() { Command::new(x) }";
        assert!(paths(own).iter().all(|p| !p.starts_with("std::")));
    }

    #[test]
    fn macros_keep_their_mark_and_methods_are_no_paths() {
        let source =
            Source::new("fn f() { println!(\"x\"); a.println(); b != c; std::println!(\"y\"); }", false);
        assert_eq!(source.paths_below("println!").count(), 1);
        assert_eq!(source.paths_below("std::println!").count(), 1);
    }

    #[test]
    fn test_items_are_dropped_and_lines_stay() {
        let text =
            "#[cfg(test)]\nmod tests {\n  fn a() { std::fs::read(); }\n}\nfn b() { std::fs::read(); }\n";
        let source = Source::new(text, false);
        let lines: Vec<usize> = source.paths_below("std::fs").map(|f| f.line).collect();
        assert_eq!(lines, [5]);
        assert_eq!(Source::new(text, true).paths_below("std::fs").count(), 2);
        let attributes = "#[cfg(test)]\n#[allow(x[1])]\nuse std::fs;\nuse std::net;\n";
        assert_eq!(paths(attributes), ["std::net"]);
    }

    #[test]
    fn words_match_whole() {
        let source = Source::new("fn f() { unsafe_code(); } // unsafe\n", false);
        assert!(source.code_matches("unsafe").is_empty());
        assert_eq!(source.raw_matches("unsafe").len(), 1);
        assert_eq!(Source::new("unsafe { x() }", false).code_matches("unsafe").len(), 1);
    }
}
