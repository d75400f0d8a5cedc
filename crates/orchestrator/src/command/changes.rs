//! What differs between two definitions of a service.

use crate::model::Service;

/// The keys in which two definitions differ, as the file names them, for those that only a new run can take. Policies
/// that the planner reads anew each time aren't among them.
pub fn changes(old: &Service, new: &Service) -> Vec<String> {
    /// Read by the planner or by people, not by the process.
    const SOFT: &[&str] = &[
        "source",
        "description",
        "labels",
        "profiles",
        "replicas",
        "deployment",
        "scaling",
        "restart",
        "placement",
        "on_dependency_failure",
        "on_dependency_change",
        "on_unhealthy",
        "on_node_loss",
        "dependencies",
        "role",
    ];
    if old == new {
        return Vec::new();
    }
    let fields = |service: &Service| match serde_json::to_value(service) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (old, new) = (fields(old), fields(new));
    let differs = |key: &&String| old.get(*key) != new.get(*key) && !SOFT.contains(&key.as_str());
    let mut keys: Vec<String> = new.keys().filter(differs).cloned().collect();
    keys.sort();
    // "target" is our word; the file has the keys of the type.
    if let Some(position) = keys.iter().position(|key| key == "target") {
        keys.splice(position..=position, target_changes(old.get("target"), new.get("target")));
    }
    keys
}

fn target_changes(old: Option<&serde_json::Value>, new: Option<&serde_json::Value>) -> Vec<String> {
    let (Some(serde_json::Value::Object(old)), Some(serde_json::Value::Object(new))) = (old, new) else {
        return vec!["type".into()];
    };
    if old.get("type") != new.get("type") {
        return vec!["type".into()];
    }
    let differs = |key: &&String| old.get(*key) != new.get(*key);
    let keys =
        new.keys().filter(differs).map(|key| if key == "program" { "binary".into() } else { key.clone() });
    keys.collect()
}
