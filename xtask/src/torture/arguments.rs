//! The words after `torture`.

use crate::shell::Failure;
use std::path::PathBuf;

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    /// How long it is tortured.
    pub(crate) seconds: u64,
    /// What decides everything.
    pub(crate) seed: u64,
    /// A debug build instead of a release build.
    pub(crate) debug: bool,
    /// This program instead of one that is built.
    pub(crate) harness: Option<PathBuf>,
    /// Groups of attacks that are left out.
    pub(crate) without: Vec<String>,
    /// Keep the folder also when nothing was found.
    pub(crate) keep: bool,
    /// Already in a mount namespace of its own.
    pub(crate) inside: bool,
}

const USAGE: &str = "usage: cargo xtask torture [nodes] [--seconds N] [--seed S] [--debug] [--harness PROGRAM] [--without GROUP,…] [--keep]";

/// The word that says that the namespace was entered.
pub(crate) const INSIDE: &str = "--inside-namespace";

impl Arguments {
    /// Understands the words, of which some may name these groups. Without a seed, the clock gives one.
    ///
    /// # Errors
    /// With the usage.
    pub(crate) fn parse(words: &[String], groups: &[(&str, u64)]) -> Result<Self, Failure> {
        let now = jiff::Timestamp::now().as_microsecond();
        let mut arguments = Self {
            seconds: 60,
            seed: u64::try_from(now).unwrap_or(1) % 1_000_000,
            debug: false,
            harness: None,
            without: Vec::new(),
            keep: false,
            inside: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value =
                || words.next().ok_or_else(|| Failure::new(format!("{word} needs a value\n{USAGE}")));
            match word.as_str() {
                "--seconds" => arguments.seconds = number(value()?)?,
                "--seed" => arguments.seed = number(value()?)?,
                "--debug" => arguments.debug = true,
                "--harness" => arguments.harness = Some(PathBuf::from(value()?)),
                "--without" => arguments.without.extend(value()?.split(',').map(str::to_owned)),
                "--keep" => arguments.keep = true,
                INSIDE => arguments.inside = true,
                other => return Err(Failure::new(format!("`{other}` isn't known\n{USAGE}"))),
            }
        }
        let known = |name: &String| groups.iter().any(|(group, _)| group == name);
        if let Some(unknown) = arguments.without.iter().find(|name| !known(name)) {
            let groups: Vec<&str> = groups.iter().map(|(group, _)| *group).collect();
            return Err(Failure::new(format!(
                "there is no group `{unknown}`; there are {}",
                groups.join(", ")
            )));
        }
        Ok(arguments)
    }
}

fn number(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_| Failure::new(format!("`{text}` is no number\n{USAGE}")))
}

#[cfg(test)]
mod tests {
    use super::super::schedule::GROUPS;
    use super::*;

    fn parse(text: &str) -> Result<Arguments, Failure> {
        Arguments::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), GROUPS)
    }

    #[test]
    fn words_are_understood_or_refused() {
        let arguments = parse("--seconds 5 --seed 9 --debug --without keeper,zygote").unwrap();
        assert_eq!((arguments.seconds, arguments.seed, arguments.debug), (5, 9, true));
        assert_eq!(arguments.without, ["keeper", "zygote"]);
        for wrong in ["--seconds", "--seconds x", "--sed 1", "--without cats"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
