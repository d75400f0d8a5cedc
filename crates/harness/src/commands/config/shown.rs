//! The words of services.yaml for what a command shows of it.

use orchestrator::model::{Condition, Service};
use serde_json::{Value, json};

/// What stands in the place of a value that may be a secret.
pub(super) const MASK: &str = "********";

/// Who it needs, and what of them.
pub(super) fn dependencies(service: &Service) -> Value {
    let all = service.dependencies.iter();
    let pairs = all.map(|(name, d)| (name.to_string(), json!({ "condition": condition(d.condition) })));
    Value::Object(pairs.collect())
}

/// The word of a condition.
pub(super) fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Started => "started",
        Condition::Healthy => "healthy",
        Condition::Completed => "completed",
        Condition::None => "none",
    }
}
