//! Decides whether a licence expression (SPDX, or the older `MIT/Apache-2.0`) leaves us a choice that we accept.

/// Licences that every package may have. `deny.toml` states the same list; a test compares them.
pub(crate) const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Licences that one named package may have besides.
pub(crate) const EXCEPTIONS: &[(&str, &str)] = &[("gotatun", "MPL-2.0")];

/// Whether the package may be used: a choice of the expression has only accepted parts.
pub(crate) fn is_allowed(package: &str, expression: &str) -> bool {
    let accepted = |id: &str| ALLOWED.contains(&id) || EXCEPTIONS.contains(&(package, id));
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest, &accepted) == Some(true) && rest.is_empty()
}

type Words<'a, 'b> = &'a mut &'b [&'b str];

/// `a OR b`; `None` when it isn't an expression.
fn any_of(words: Words<'_, '_>, accepted: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut all = all_of(words, accepted)?;
    while take(words, "OR") {
        all |= all_of(words, accepted)?;
    }
    Some(all)
}

/// `a AND b`, which binds closer.
fn all_of(words: Words<'_, '_>, accepted: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut all = one(words, accepted)?;
    while take(words, "AND") {
        all &= one(words, accepted)?;
    }
    Some(all)
}

fn one(words: Words<'_, '_>, accepted: &dyn Fn(&str) -> bool) -> Option<bool> {
    if take(words, "(") {
        let inner = any_of(words, accepted)?;
        return take(words, ")").then_some(inner);
    }
    let id = next(words).filter(|id| !matches!(*id, "OR" | "AND" | "WITH" | ")"))?;
    if take(words, "WITH") {
        return Some(accepted(&format!("{id} WITH {}", next(words)?)));
    }
    Some(accepted(id))
}

fn next<'b>(words: &mut &'b [&'b str]) -> Option<&'b str> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    Some(first)
}

fn take(words: Words<'_, '_>, word: &str) -> bool {
    let hit = words.first() == Some(&word);
    if hit {
        *words = words.get(1..).unwrap_or_default();
    }
    hit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_decided_by_their_best_choice() {
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
            "(MIT OR GPL-3.0-only) AND Unicode-3.0",
            "Unlicense/MIT",
        ] {
            assert!(is_allowed("x", good), "{good}");
        }
        for bad in [
            "GPL-3.0-only",
            "LGPL-2.1-or-later",
            "AGPL-3.0",
            "MPL-2.0",
            "MIT AND GPL-2.0",
            "(MIT OR Apache-2.0) AND GPL-2.0",
            "GPL-2.0 WITH Classpath-exception-2.0",
            "",
            "MIT OR",
            "(MIT",
        ] {
            assert!(!is_allowed("x", bad), "{bad}");
        }
    }

    #[test]
    fn deny_toml_lists_the_same_licences() {
        let text = include_str!("../../../deny.toml");
        let list = text.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
        let listed: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
        assert_eq!(listed, ALLOWED);
    }
}
