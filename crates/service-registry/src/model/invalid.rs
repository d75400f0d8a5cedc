//! What an entry from outside must keep to.

use super::Entry;

/// Longest name of a service, in bytes.
const NAME: usize = 63;
/// Longest name of an instance: a service's name, `-` and a number.
const INSTANCE: usize = NAME + 11;
/// Longest version, protocol, port name, label key.
const WORD: usize = 128;
/// Longest address or label value.
const TEXT: usize = 1024;
/// Longest message of a reason or of a check.
const MESSAGE: usize = 8 * 1024;
/// Most endpoints.
const ENDPOINTS: usize = 256;
/// Most dependencies, labels and stale notes, each.
const ITEMS: usize = 1024;

/// One thing that is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Path of the field: `endpoints[0].address`.
    pub field: String,
    /// What is wrong, and what was expected.
    pub problem: String,
}

impl Entry {
    /// Everything that is wrong with an entry from outside: names, sizes, counts, characters.
    pub fn problems(&self) -> Vec<Invalid> {
        let mut check = Check(Vec::new());
        check.name("service", &self.service, NAME);
        check.name("instance", &self.instance, INSTANCE);
        if self.role != "service" && self.role != "task" {
            check.add("role", format!("expected `service` or `task`, found {:?}", short(&self.role)));
        }
        if let Some(version) = &self.version {
            check.text("version", version, WORD);
        }
        self.check_place(&mut check);
        check.count("dependencies", self.dependencies.len(), ITEMS);
        for (n, name) in self.dependencies.iter().enumerate().take(ITEMS) {
            check.name(&format!("dependencies[{n}]"), name, NAME);
        }
        self.check_status(&mut check);
        check.count("stale", self.stale.len(), ITEMS);
        for (n, text) in self.stale.iter().enumerate().take(ITEMS) {
            check.text(&format!("stale[{n}]"), text, TEXT);
        }
        check.count("labels", self.labels.len(), ITEMS);
        for (key, value) in self.labels.iter().take(ITEMS) {
            check.text("labels", key, WORD);
            check.length(&format!("labels.{}", short(key)), value, TEXT);
        }
        check.0
    }

    fn check_place(&self, check: &mut Check) {
        use super::{Execution, Location};
        match &self.execution {
            Execution::None | Execution::Unknown => {}
            Execution::Process { .. } | Execution::External { .. } => {}
            Execution::Container { id, image, .. } => {
                check.length("execution.id", id, WORD);
                check.text("execution.image", image, TEXT);
            }
            Execution::Compose { project, .. } => check.text("execution.project", project, TEXT),
            Execution::Unit { unit, .. } => check.text("execution.unit", unit, TEXT),
        }
        if let Some(run) = self.execution.run() {
            check.text("execution.run", run, WORD);
        }
        if let Location::Node(name) = &self.location {
            check.text("location.node", name, WORD);
        }
        check.count("endpoints", self.endpoints.len(), ENDPOINTS);
        for (n, endpoint) in self.endpoints.iter().enumerate().take(ENDPOINTS) {
            let at = |field| format!("endpoints[{n}].{field}");
            if let Some(name) = &endpoint.name {
                check.text(&at("name"), name, WORD);
            }
            check.text(&at("address"), &endpoint.address, TEXT);
            check.text(&at("protocol"), &endpoint.protocol, WORD);
            if endpoint.port == 0 {
                check.add(&at("port"), "expected 1 to 65535, found 0".into());
            }
        }
    }

    fn check_status(&self, check: &mut Check) {
        if let Some(reason) = &self.status.reason {
            check.length("status.reason.message", &reason.message, MESSAGE);
        }
        if let Some(why) = self.status.exit.as_ref().and_then(|exit| exit.unknown.as_ref()) {
            check.length("status.exit.unknown", why, MESSAGE);
        }
        if let Some(last) = self.health.as_ref().and_then(|health| health.last.as_ref()) {
            check.length("health.last.message", &last.message, MESSAGE);
        }
    }
}

/// Checks the name of an instance, as it is used for a key.
pub fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    let mut check = Check(Vec::new());
    check.name(field, name, INSTANCE);
    check.0.pop().map_or(Ok(()), Err)
}

struct Check(Vec<Invalid>);

impl Check {
    fn add(&mut self, field: &str, problem: String) {
        self.0.push(Invalid { field: field.to_owned(), problem });
    }

    fn name(&mut self, field: &str, name: &str, most: usize) {
        let first = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let rest = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
        if !first || !rest || name.len() > most {
            let expected = "expected a lowercase letter or digit, then letters, digits, `-` or `_`";
            self.add(field, format!("{expected}, at most {most} in all, found {:?}", short(name)));
        }
    }

    fn text(&mut self, field: &str, text: &str, most: usize) {
        if text.is_empty() || text.chars().any(char::is_control) {
            self.add(field, format!("expected text without control characters, found {:?}", short(text)));
        }
        self.length(field, text, most);
    }

    fn length(&mut self, field: &str, text: &str, most: usize) {
        if text.len() > most {
            self.add(field, format!("expected at most {most} bytes, found {}", text.len()));
        }
    }

    fn count(&mut self, field: &str, found: usize, most: usize) {
        if found > most {
            self.add(field, format!("expected at most {most}, found {found}"));
        }
    }
}

/// The beginning of a text that may be long.
fn short(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Execution, Location, Reason, ReasonCode, Scope};
    use jiff::Timestamp;

    #[test]
    fn a_good_entry_has_no_problems() {
        assert_eq!(Entry::new("web", "web-1", Timestamp::UNIX_EPOCH).problems(), []);
        assert!(check_name("instance", &format!("{}-4294967295", "a".repeat(63))).is_ok());
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let mut entry = Entry::new("Web", "../1", Timestamp::UNIX_EPOCH);
        entry.role = "king".into();
        entry.version = Some(String::new());
        entry.execution = Execution::Unit { unit: "a\nb".into(), pid: None, run: None };
        entry.location = Location::Node("x".repeat(200));
        entry.endpoints = vec![Endpoint {
            name: Some("\u{7}".into()),
            address: String::new(),
            port: 0,
            protocol: "tcp".into(),
            scope: Scope::Lan,
        }];
        entry.dependencies = vec!["db".into(), "-db".into()];
        entry.status.reason = Some(Reason::new(ReasonCode::Waiting, "m".repeat(MESSAGE + 1)));
        entry.labels.insert("k".into(), "v".repeat(TEXT + 1));
        entry.stale = vec!["x".into(); ITEMS + 1];
        let fields: Vec<_> = entry.problems().into_iter().map(|p| p.field).collect();
        assert_eq!(
            fields,
            [
                "service",
                "instance",
                "role",
                "version",
                "execution.unit",
                "location.node",
                "endpoints[0].name",
                "endpoints[0].address",
                "endpoints[0].port",
                "dependencies[1]",
                "status.reason.message",
                "stale",
                "labels.k",
            ]
        );
    }

    #[test]
    fn names_with_paths_case_or_unicode_tricks_are_refused() {
        for bad in ["", "a/b", "..", ".a", "-a", "_a", "A", "a b", "a\0", "ａ", "é", &"a".repeat(75)] {
            assert!(check_name("instance", bad).is_err(), "{bad:?}");
        }
    }
}
