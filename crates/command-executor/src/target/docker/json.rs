//! Reads JSON of engines of many ages: what isn't there, or is null, is left out rather than an error.

use super::DockerError;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The document that a command printed.
pub(super) fn document(bytes: &[u8], what: &'static str) -> Result<Value, DockerError> {
    serde_json::from_slice(bytes).map_err(|source| DockerError::Answer { what, source: Some(source) })
}

/// The documents that a command printed one after another; a list is those in it.
pub(super) fn documents(bytes: &[u8], what: &'static str) -> Result<Vec<Value>, DockerError> {
    let mut all = Vec::new();
    for value in serde_json::Deserializer::from_slice(bytes).into_iter() {
        match value.map_err(|source| DockerError::Answer { what, source: Some(source) })? {
            Value::Array(values) => all.extend(values),
            value => all.push(value),
        }
    }
    Ok(all)
}

/// The value at the first of these paths that has one.
pub(super) fn at<'a>(value: &'a Value, paths: &[&str]) -> Option<&'a Value> {
    paths.iter().find_map(|path| value.pointer(path).filter(|found| !found.is_null()))
}

/// Text that isn't empty.
pub(super) fn text(value: &Value, paths: &[&str]) -> Option<String> {
    at(value, paths).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

pub(super) fn flag(value: &Value, path: &str) -> bool {
    at(value, &[path]).and_then(Value::as_bool).unwrap_or_default()
}

/// A time; engines say "never" with the year 1.
pub(super) fn time(value: &Value, path: &str) -> Option<Timestamp> {
    let time: Timestamp = text(value, &[path])?.parse().ok()?;
    (time > Timestamp::UNIX_EPOCH).then_some(time)
}

pub(super) fn address(value: &Value, path: &str) -> Option<IpAddr> {
    text(value, &[path])?.parse().ok()
}

/// An object of texts; anything else in it is left out.
pub(super) fn texts(value: &Value, paths: &[&str]) -> BTreeMap<String, String> {
    let entries = at(value, paths).and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// A list of texts.
pub(super) fn list(value: &Value, path: &str) -> Vec<String> {
    let items = at(value, &[path]).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}
