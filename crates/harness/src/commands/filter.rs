//! `--filter`: which instances a listing shows. Pure.

use globset::{Glob, GlobMatcher};

/// One condition. All of them must hold.
#[derive(Clone, Debug)]
pub(crate) enum Filter {
    /// `state=running`: a state or the word of the table.
    State(String),
    /// `health=unhealthy`
    Health(String),
    /// `type=process`
    Type(String),
    /// `label.KEY=VALUE` or `label.KEY`
    Label(String, Option<String>),
    /// `name=web*` or just `web*`
    Name(GlobMatcher),
}

/// What conditions are asked about.
#[derive(Clone, Debug, Default)]
pub(super) struct Subject<'a> {
    pub(super) service: &'a str,
    pub(super) instance: Option<&'a str>,
    /// States and words that hold for it.
    pub(super) states: Vec<&'a str>,
    pub(super) health: &'a str,
    pub(super) kind: &'a str,
    pub(super) labels: Vec<(&'a str, &'a str)>,
}

/// Reads a condition. The error says what is expected.
pub(crate) fn parse(text: &str) -> Result<Filter, String> {
    let glob = |pattern: &str| {
        Glob::new(pattern).map(|glob| Filter::Name(glob.compile_matcher())).map_err(|error| error.to_string())
    };
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    if let Some(label) = key.strip_prefix("label.") {
        return Ok(Filter::Label(label.to_owned(), value.map(str::to_owned)));
    }
    match (key, value) {
        ("state", Some(value)) => Ok(Filter::State(value.to_owned())),
        ("health", Some(value)) => Ok(Filter::Health(value.to_owned())),
        ("type", Some(value)) => Ok(Filter::Type(value.to_owned())),
        ("name", Some(value)) => glob(value),
        (pattern, None) => glob(pattern),
        _ => Err("expected state=, health=, type=, name=, label.KEY= or a name such as 'web*'".into()),
    }
}

impl Filter {
    /// Whether it holds.
    pub(super) fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::State(state) => subject.states.contains(&state.as_str()),
            Self::Health(health) => subject.health == health,
            Self::Type(kind) => subject.kind == kind,
            Self::Label(key, value) => {
                subject.labels.iter().any(|(k, v)| k == key && value.as_ref().is_none_or(|value| value == v))
            }
            Self::Name(glob) => {
                glob.is_match(subject.service) || subject.instance.is_some_and(|name| glob.is_match(name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_or_not() {
        let web = Subject {
            service: "web",
            instance: Some("web-1"),
            states: vec!["registered", "waiting"],
            health: "unknown",
            kind: "process",
            labels: vec![("team", "shop")],
        };
        for (text, holds) in [
            ("state=waiting", true),
            ("state=registered", true),
            ("state=running", false),
            ("health=unknown", true),
            ("health=healthy", false),
            ("type=process", true),
            ("label.team", true),
            ("label.team=shop", true),
            ("label.team=other", false),
            ("web", true),
            ("w*", true),
            ("name=web-1", true),
            ("db", false),
        ] {
            assert_eq!(parse(text).unwrap().holds(&web), holds, "{text}");
        }
        assert!(parse("colour=red").is_err());
        assert!(parse("[").is_err());
    }
}
