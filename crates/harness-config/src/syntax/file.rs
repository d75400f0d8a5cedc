//! The file as a whole.

use super::extends;
use super::keys::{ROOT, SETTINGS};
use super::network::{NamedNetwork, NamedNode, networks, nodes, secrets};
use super::reader::{Reader, Spanned};
use super::service::{Service, What, service};
use super::tree::{Entry, Kind, Node};
use super::variables::env_files;
use super::zone::zone;
use crate::diagnostic::Diagnostic;
use orchestrator::model::{SecretSource, Zone};
use std::time::Duration;

/// `settings`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) log_level: Option<&'static str>,
    pub(crate) startup_timeout: Option<Duration>,
    pub(crate) shutdown_timeout: Option<Duration>,
    pub(crate) health_check_interval: Option<Duration>,
}

/// Everything that a file says.
pub(crate) struct File {
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) description: Option<String>,
    pub(crate) settings: Settings,
    pub(crate) networks: Vec<NamedNetwork>,
    pub(crate) nodes: Vec<NamedNode>,
    pub(crate) secrets: Vec<(String, SecretSource)>,
    pub(crate) zone: Option<Zone>,
    /// Services and tasks, in the file's order.
    pub(crate) services: Vec<Service>,
}

/// Reads a file. `None` when its root isn't a map.
pub(crate) fn file(reader: &mut Reader<'_>, root: &Node) -> Option<File> {
    if !matches!(root.kind, Kind::Map(_)) {
        reader.report(
            Diagnostic::error("type", root.span, format!("the file holds {}", root.describe()))
                .label("expected a map with `version` and `services`"),
        );
        return None;
    }
    let fields = reader.fields(root, &ROOT)?;
    for key in ["services", "tasks"] {
        let names = fields.get(key).map(Node::entries).unwrap_or_default();
        reader.environment.services.extend(names.iter().map(|entry| entry.key.clone()));
    }
    // First of all: everything after may use its values.
    if let Some(node) = fields.get("env_file") {
        reader.environment.file = env_files(reader, node);
    }
    match fields.get("version") {
        Some(node) => version(reader, node),
        None => reader.report(
            Diagnostic::error("missing-key", root.span.part(0, 0), "the file has no `version`")
                .label("expected `version: \"1.0\"`"),
        ),
    }
    let name = fields.get("name").and_then(|node| reader.text(node));
    let description = fields.get("description").and_then(|node| reader.text(node)).map(|text| text.value);
    let settings = fields.get("settings").map(|node| settings(reader, node)).unwrap_or_default();
    let (networks, mut all_nodes) =
        fields.get("networks").map(|node| networks(reader, node)).unwrap_or_default();
    all_nodes.extend(fields.get("nodes").map(|node| nodes(reader, node)).unwrap_or_default());
    let secrets = fields.get("secrets").map(|node| secrets(reader, node)).unwrap_or_default();
    let zone = fields.get("zone").and_then(|node| zone(reader, node));
    let templates = match fields.get("templates") {
        Some(node) => reader.entries(node, "expected a map of templates"),
        None => &[],
    };
    for entry in templates {
        // A template alone, also one that nobody uses.
        let merged = extends::resolve(reader, &entry.value, templates, Some(&entry.key));
        reader.local = true;
        service(reader, &entry.key, entry.span, &merged, What::Template);
    }
    let mut services = Vec::new();
    let order = |entries: &[Entry]| entries.first().map_or(u32::MAX, |entry| entry.span.start);
    let mut kinds = [("tasks", What::Task), ("services", What::Service)].map(|(key, what)| {
        let entries = match fields.get(key) {
            Some(node) => reader.entries(node, "expected a map of names"),
            None => &[],
        };
        (entries, what)
    });
    kinds.sort_by_key(|(entries, _)| order(entries));
    for (entries, what) in kinds {
        for entry in entries {
            if reader.is_full() {
                break;
            }
            let merged = extends::resolve(reader, &entry.value, templates, None);
            services.extend(service(reader, &entry.key, entry.span, &merged, what));
        }
    }
    if services.is_empty() && reader.diagnostics.is_empty() {
        reader.report(Diagnostic::file("empty", "the file declares no services"));
    }
    Some(File { name, description, settings, networks, nodes: all_nodes, secrets, zone, services })
}

fn version(reader: &mut Reader<'_>, node: &Node) {
    reader.parsed(node, "expected \"1.0\"", |text| matches!(text, "1" | "1.0").then_some(()));
}

fn settings(reader: &mut Reader<'_>, node: &Node) -> Settings {
    const LEVELS: [(&str, &str); 5] =
        [("trace", "trace"), ("debug", "debug"), ("info", "info"), ("warn", "warn"), ("error", "error")];
    let Some(fields) = reader.fields(node, &SETTINGS) else { return Settings::default() };
    Settings {
        log_level: fields
            .get("log_level")
            .and_then(|node| reader.word(node, &LEVELS))
            .map(|level| level.value),
        startup_timeout: fields.get("startup_timeout").and_then(|node| reader.duration(node)),
        shutdown_timeout: fields.get("shutdown_timeout").and_then(|node| reader.duration(node)),
        health_check_interval: fields.get("health_check_interval").and_then(|node| reader.duration(node)),
    }
}
