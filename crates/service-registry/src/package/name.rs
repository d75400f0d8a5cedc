//! Which names, versions and paths a package may have.

use semver::Version;
use std::collections::HashSet;
use unicode_normalization::UnicodeNormalization as _;

/// Bytes of the longest name of a package.
pub const MAX_NAME: usize = 63;
/// Bytes of the longest version.
pub const MAX_VERSION: usize = 64;
/// Bytes of the longest path in a package.
pub const MAX_PATH: usize = 1024;
/// Bytes of the longest part of a path, as file systems have it.
pub const MAX_PART: usize = 255;
/// Folders inside folders, at most.
pub const MAX_DEPTH: usize = 32;

/// The endings of a package's file. Only the first is written.
pub const ENDINGS: [&str; 3] = [".tar.zst", ".tar.gz", ".tgz"];

/// Whether this may be the name of a package: 1 to 63 of `a-z`, `0-9`, `.`, `_`, `+` and `-`, beginning with a letter or
/// digit, without `..`.
pub fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().next().is_some_and(good)
        && name.bytes().all(|byte| good(byte) || b"._+-".contains(&byte))
        && !name.contains("..")
}

/// A version as it may stand in a path: [semver](https://semver.org/spec/v2.0.0.html), at most [`MAX_VERSION`] bytes.
pub fn version(text: &str) -> Option<Version> {
    if text.len() > MAX_VERSION { None } else { Version::parse(text).ok() }
}

/// `NAME-VERSION`, which is also the folder that it is installed to.
pub fn stem(name: &str, version: &Version) -> String {
    format!("{name}-{version}")
}

/// A file's name without a package's ending; `None` where it has none.
pub fn without_ending(file: &str) -> Option<&str> {
    ENDINGS.iter().find_map(|ending| file.strip_suffix(ending))
}

/// Why a path can't be in a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// No path at all.
    #[error("an empty path")]
    Empty,
    /// Begins with `/`.
    #[error("an absolute path")]
    Absolute,
    /// Has a part `..`.
    #[error("climbs out with `..`")]
    Climbs,
    /// Has an empty part or a part `.`.
    #[error("has an empty part or a part `.`")]
    Odd,
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// Has a character that isn't shown as what it is.
    #[error("has a control character, an invisible one, or one that turns the direction of text")]
    Hidden,
    /// Has a backslash, which is a separator elsewhere.
    #[error("has a backslash")]
    Backslash,
    /// Longer than [`MAX_PATH`], or a part longer than [`MAX_PART`].
    #[error("longer than {MAX_PATH} bytes, or a part of it longer than {MAX_PART}")]
    Long,
    /// More than [`MAX_DEPTH`] folders deep.
    #[error("more than {MAX_DEPTH} folders deep")]
    Deep,
}

/// A path in a package: relative, of plain parts, never leading out.
///
/// # Errors
///
/// What is wrong with it.
pub fn path(bytes: &[u8]) -> Result<&str, PathProblem> {
    let text = std::str::from_utf8(bytes).map_err(|_| PathProblem::NotUtf8)?;
    if text.is_empty() {
        return Err(PathProblem::Empty);
    }
    if text.starts_with('/') {
        return Err(PathProblem::Absolute);
    }
    if text.len() > MAX_PATH {
        return Err(PathProblem::Long);
    }
    if text.chars().any(is_hidden) {
        return Err(PathProblem::Hidden);
    }
    if text.contains('\\') {
        return Err(PathProblem::Backslash);
    }
    for part in text.split('/') {
        match part {
            ".." => return Err(PathProblem::Climbs),
            "" | "." => return Err(PathProblem::Odd),
            _ if part.len() > MAX_PART => return Err(PathProblem::Long),
            _ => {}
        }
    }
    if text.split('/').count() > MAX_DEPTH { Err(PathProblem::Deep) } else { Ok(text) }
}

/// Whether a character is one that a reader doesn't see, or that changes how others are shown.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Where a link at `path` leads, as a path in the package; `""` is its root.
///
/// Only the text is looked at: that no part of it is a link itself is for whoever follows it.
///
/// # Errors
///
/// [`PathProblem::Climbs`] where it leads out, and whatever else is wrong with the text.
pub fn link_target(path: &str, target: &[u8]) -> Result<String, PathProblem> {
    let text = std::str::from_utf8(target).map_err(|_| PathProblem::NotUtf8)?;
    if text.starts_with('/') {
        return Err(PathProblem::Absolute);
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    let mut rest = Vec::new();
    for part in text.split('/') {
        match part {
            ".." if rest.is_empty() => drop(parts.pop().ok_or(PathProblem::Climbs)?),
            // `a/../b` leads elsewhere if `a` is a link: going up is for the beginning only.
            ".." => return Err(PathProblem::Climbs),
            "." if rest.is_empty() => {}
            _ => rest.push(part),
        }
    }
    if rest.is_empty() {
        return if text.is_empty() { Err(PathProblem::Empty) } else { Ok(parts.join("/")) };
    }
    parts.extend(rest);
    let joined = parts.join("/");
    self::path(joined.as_bytes()).map(str::to_owned)
}

/// The paths of a package, each only once. Paths that differ only in how an accent is written count as one.
#[derive(Debug, Default)]
pub struct Paths {
    seen: HashSet<String>,
}

impl Paths {
    /// Whether the path is a new one.
    pub fn add(&mut self, path: &str) -> bool {
        self.seen.insert(normal(path))
    }
}

/// The same text for paths that look the same: Unicode's normal form C.
pub(super) fn normal(path: &str) -> String {
    if path.is_ascii() { path.to_owned() } else { path.nfc().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions() {
        for good in ["a", "web", "lib-x2.0", "g++", "0ad", &"x".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a/b", "..", "a..b", "a b", "ä", "a\n", "../x", &"x".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
        for good in ["1.2.3", "1.0.0-rc.1", "1.0.0+build.5"] {
            assert_eq!(version(good).unwrap().to_string(), good);
        }
        for bad in ["../x", "1", "1.0", "01.0.0", "1.0.0-../x", "1.0.0/x", "1.0.0-\u{e9}", "v1.0.0", " 1.0.0"]
        {
            assert!(version(bad).is_none(), "{bad}");
        }
        assert!(version(&format!("1.0.0-{}", "a".repeat(100))).is_none());
    }

    #[test]
    fn paths() {
        for good in ["a", "bin/web", "config/ä.toml", "a/.hidden", "...", "a b", "bin/[", "x/%2e%2e"] {
            assert_eq!(path(good.as_bytes()), Ok(good));
        }
        let long = "x".repeat(256);
        let many = "abc/".repeat(300) + "x";
        let deep = "a/".repeat(32) + "a";
        for (bad, why) in [
            ("", PathProblem::Empty),
            ("/etc/passwd", PathProblem::Absolute),
            ("../a", PathProblem::Climbs),
            ("a/../../b", PathProblem::Climbs),
            ("a/..", PathProblem::Climbs),
            ("a//b", PathProblem::Odd),
            ("a/", PathProblem::Odd),
            ("./a", PathProblem::Odd),
            ("a/./b", PathProblem::Odd),
            ("a\nb", PathProblem::Hidden),
            ("a\0b", PathProblem::Hidden),
            ("a\u{202e}gpj.exe", PathProblem::Hidden),
            ("a\u{200b}b", PathProblem::Hidden),
            ("a\u{feff}b", PathProblem::Hidden),
            ("a\\..\\b", PathProblem::Backslash),
            (&long, PathProblem::Long),
            (&many, PathProblem::Long),
            (&deep, PathProblem::Deep),
        ] {
            assert_eq!(path(bad.as_bytes()), Err(why), "{bad:?}");
        }
        assert_eq!(path(b"a\xff"), Err(PathProblem::NotUtf8));
    }

    #[test]
    fn links_stay_inside() {
        let at = |path: &str, target: &str| link_target(path, target.as_bytes());
        assert_eq!(at("lib/x.so", "x.so.1").as_deref(), Ok("lib/x.so.1"));
        assert_eq!(at("lib/a/x", "../../bin/y").as_deref(), Ok("bin/y"));
        assert_eq!(at("a", ".").as_deref(), Ok(""));
        assert_eq!(at("a/b", "./c").as_deref(), Ok("a/c"));
        for bad in ["..", "../x", "b/../../x", "b/../x", "x/.."] {
            assert_eq!(at("a", bad), Err(PathProblem::Climbs), "{bad}");
        }
        assert_eq!(at("a", "/etc"), Err(PathProblem::Absolute));
        assert_eq!(at("a", ""), Err(PathProblem::Empty));
        assert_eq!(at("a", "b\0"), Err(PathProblem::Hidden));
    }

    #[test]
    fn a_path_is_there_once_however_it_is_written() {
        let mut paths = Paths::default();
        assert!(paths.add("caf\u{e9}"));
        assert!(!paths.add("cafe\u{301}"));
        assert!(paths.add("Readme") && paths.add("readme"), "two files on every file system of Linux");
        assert!(!paths.add("readme"));
    }
}
