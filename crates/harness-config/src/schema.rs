//! The JSON Schema of services.yaml, made from the same table that the reader uses.

use crate::syntax::keys::{ROOT, Shape, Table};
use serde_json::{Map, Value, json};

/// A text that `${…}` may fill.
const HOLE: &str = r"\$\{";

/// The JSON Schema (draft 2020-12) of services.yaml, for editors.
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    let root = table(&ROOT, &mut definitions);
    let mut schema = match root {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    schema.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".into(), json!("services.yaml of harness"));
    schema.insert("$defs".into(), Value::Object(definitions));
    Value::Object(schema)
}

fn table(table: &'static Table, definitions: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    for key in table.keys {
        let mut value = shape(&key.shape, definitions);
        if let Value::Object(map) = &mut value {
            map.insert("description".into(), json!(key.doc));
        }
        properties.insert(key.name.into(), value);
    }
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "patternProperties": { "^x-": {} },
        "additionalProperties": false,
    });
    let required = json!(table.required);
    if let Value::Object(map) = &mut schema {
        if table.has("extends") && !table.required.is_empty() {
            // A template may have what is required.
            map.insert("anyOf".into(), json!([{ "required": required }, { "required": ["extends"] }]));
        } else {
            map.insert("required".into(), required);
        }
    }
    schema
}

/// A reference to a table's definition, which is added when it is met first.
fn definition(keys: &'static Table, definitions: &mut Map<String, Value>) -> Value {
    let name = keys.what.trim_start_matches("an ").trim_start_matches("a ").replace(' ', "-");
    if !definitions.contains_key(&name) {
        // Put in before it is made: a check may hold checks.
        definitions.insert(name.clone(), Value::Null);
        let made = table(keys, definitions);
        definitions.insert(name.clone(), made);
    }
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn shape(of: &Shape, definitions: &mut Map<String, Value>) -> Value {
    let hole = || json!({ "type": "string", "pattern": HOLE });
    match of {
        Shape::Text => json!({ "type": ["string", "number", "boolean"] }),
        Shape::Integer(least) => json!({ "anyOf": [
            { "type": "integer", "minimum": least },
            { "type": "string", "pattern": "^-?[0-9]+$" },
            hole(),
        ] }),
        Shape::Number => {
            json!({ "anyOf": [{ "type": "number", "exclusiveMinimum": 0 }, { "type": "string" }] })
        }
        Shape::Bool => {
            json!({ "anyOf": [{ "type": "boolean" }, { "enum": ["yes", "no", "on", "off"] }, hole()] })
        }
        Shape::Duration => json!({ "anyOf": [
            { "type": "number", "minimum": 0 },
            { "type": "string", "pattern": "^([0-9.]+(us|ms|s|m|min|h|d)?)+$" },
            hole(),
        ] }),
        Shape::Size => json!({ "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9.]+ ?([kKmMgGtT]?(i?[bB])?)$" },
            hole(),
        ] }),
        Shape::OneOf(words) => json!({ "anyOf": [{ "enum": words }, hole()] }),
        Shape::Words => json!({ "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": ["string", "number", "boolean"] } },
        ] }),
        Shape::List(item) => json!({ "type": ["array", "null"], "items": shape(item, definitions) }),
        Shape::MapOf(value) => {
            json!({ "type": ["object", "null"], "additionalProperties": shape(value, definitions) })
        }
        Shape::Keys(keys) => definition(keys, definitions),
        Shape::Any(shapes) => {
            let all: Vec<Value> = shapes.iter().map(|one| shape(one, definitions)).collect();
            json!({ "anyOf": all })
        }
        Shape::Null => json!({ "type": "null" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::keys::{self, types_with};
    use crate::{LoadOptions, NoFiles, load_str};
    use std::path::Path;

    /// Whether a value fits a schema, as far as schemas are made here.
    fn fits(value: &Value, schema: &Value, root: &Value) -> Result<(), String> {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.trim_start_matches("#/$defs/");
            return fits(value, &root["$defs"][name], root);
        }
        if let Some(several) = schema["anyOf"].as_array() {
            let results: Vec<_> = several.iter().map(|one| fits(value, one, root)).collect();
            if results.iter().all(Result::is_err) {
                return Err(format!("{value} fits none: {results:?}"));
            }
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if !(kinds.is_empty() || kinds.contains(&kind) || kind == "integer" && kinds.contains(&"number")) {
            return Err(format!("{value} is no {kinds:?}"));
        }
        if schema["pattern"] == HOLE && !value.as_str().is_some_and(|text| text.contains("${")) {
            return Err(format!("{value} has no hole"));
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            return Err(format!("{value} is none of {words:?}"));
        }
        if let (Some(items), Some(item)) = (value.as_array(), schema.get("items")) {
            items.iter().try_for_each(|value| fits(value, item, root))?;
        }
        let Some(map) = value.as_object() else { return Ok(()) };
        for name in schema["required"].as_array().into_iter().flatten() {
            if !map.contains_key(name.as_str().unwrap()) {
                return Err(format!("{name} is missing"));
            }
        }
        for (key, value) in map {
            match (schema["properties"].get(key), &schema["additionalProperties"]) {
                (Some(schema), _) => fits(value, schema, root).map_err(|error| format!("{key}: {error}"))?,
                (None, Value::Bool(false)) if !key.starts_with("x-") => {
                    return Err(format!("{key} is unknown"));
                }
                (None, schema @ Value::Object(_)) => {
                    fits(value, schema, root).map_err(|error| format!("{key}: {error}"))?
                }
                _ => {}
            }
        }
        Ok(())
    }

    #[test]
    fn every_example_fits_and_loads() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        let schema = json_schema();
        for entry in std::fs::read_dir(examples).into_iter().flatten().flatten() {
            let path = entry.path().join("services.yaml");
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let value: Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(fits(&value, &schema, &schema), Ok(()), "{}", path.display());
            let loaded = crate::load(&path, &LoadOptions::default());
            assert!(loaded.stack.is_some(), "{}", crate::render(&loaded.diagnostics, &loaded.sources, false));
        }
    }

    #[test]
    fn the_schema_refuses_what_the_reader_refuses() {
        let schema = json_schema();
        let fits = |text: &str| {
            let value: Value = serde_saphyr::from_str(text).unwrap();
            fits(&value, &schema, &schema).is_ok()
        };
        assert!(fits(
            "{version: '1.0', services: {a: {type: process, command: x, restart: no, dependencies: {b: {condition: none}}}}}"
        ));
        assert!(fits(
            "{version: 1.0, services: {a: {extends: b, ports: [80, {port: auto}], health_check: {tcp: 80, interval: 5}}}}"
        ));
        assert!(!fits("{services: {}}"));
        assert!(!fits("{version: '1.0', services: {a: {command: x}}}"));
        assert!(!fits("{version: '1.0', services: {a: {type: process, comand: x}}}"));
        assert!(!fits("{version: '1.0', services: {a: {type: proces}}}"));
        assert!(!fits("{version: '1.0', services: {a: {type: process, health_check: {tcp: [80]}}}}"));
    }

    /// A value that no key takes.
    const WRONG: &str = "{zz: [[[]]]}";

    /// Every key that the table has is read: a wrong value under it is noticed, inside of it.
    fn every_key_is_read(table: &Table, before: &str, after: &str, kind: impl Fn(&str) -> String) {
        for key in table.keys {
            let before = before.replace("KIND", &kind(key.name));
            let text = format!("{before}{}: {WRONG}{after}", key.name);
            let loaded = load_str(Path::new("/x/services.yaml"), &text, &LoadOptions::default(), &NoFiles);
            let (start, end) = (before.len(), text.len() - after.len());
            let inside = |span: crate::Span| {
                span.start as usize > start + key.name.len() && (span.end as usize) <= end
            };
            let found = loaded.diagnostics.iter().any(|problem| problem.span.is_some_and(inside));
            assert!(found, "{} of {} is not read: {text}\n{:#?}", key.name, table.what, loaded.diagnostics);
        }
    }

    #[test]
    fn every_key_of_every_table_is_read() {
        let none = |_: &str| String::new();
        let service = |key: &str| match (key, types_with(key)) {
            ("type", _) => String::new(),
            ("binary" | "args" | "command", _) => "type: process, ".into(),
            (_, []) => "type: process, ".into(),
            (_, [first, ..]) => format!("type: {first}, "),
        };
        every_key_is_read(&keys::ROOT, "{x-a: 1, ", "}", none);
        every_key_is_read(&keys::SERVICE, "{services: {a: {KIND", "}}}", service);
        every_key_is_read(&keys::TASK, "{tasks: {a: {KIND", "}}}", service);
        let inner: [(&Table, &str); 17] = [
            (&keys::SETTINGS, "settings: {"),
            (&keys::NETWORK, "networks: {a: {"),
            (&keys::NODE, "nodes: {a: {"),
            (&keys::ZONE, "zone: {"),
            (&keys::NETWORK_NODE, "networks: {a: {nodes: [{"),
            (&keys::SECRET, "secrets: {a: {"),
            (&keys::ENV_FILE, "env_file: [{"),
            (&keys::PORT, "services: {a: {type: process, ports: [{"),
            (&keys::DEPENDENCY, "services: {a: {type: process, dependencies: {b: {"),
            (&keys::HTTP, "services: {a: {type: process, health_check: {http: {"),
            (&keys::TCP, "services: {a: {type: process, health_check: {tcp: {"),
            (&keys::RESTART, "services: {a: {type: process, restart: {"),
            (&keys::BACKOFF, "services: {a: {type: process, restart: {backoff: {"),
            (&keys::RESOURCES, "services: {a: {type: process, resources: {"),
            (&keys::LOGS, "services: {a: {type: process, logs: {"),
            (&keys::DEPLOYMENT, "services: {a: {type: process, deployment: {"),
            (&keys::SCALING, "services: {a: {type: process, scaling: {"),
        ];
        for (table, before) in inner {
            let mut after: String = before
                .chars()
                .rev()
                .filter_map(|c| match c {
                    '{' => Some('}'),
                    '[' => Some(']'),
                    _ => None,
                })
                .collect();
            after.push('}');
            every_key_is_read(table, &format!("{{{before}"), &after, none);
        }
        let command = |key: &str| {
            let belongs = matches!(key, "args" | "expected_exit" | "expected_output");
            if belongs { "command: x, ".to_string() } else { String::new() }
        };
        every_key_is_read(&keys::HEALTH, "{services: {a: {health_check: {KIND", "}}}}", command);
        every_key_is_read(&keys::MANAGED, "{services: {a: {type: attach, managed: {", "}}}}", none);
        every_key_is_read(&keys::EXTERNAL, "{services: {a: {type: attach, external: {", "}}}}", none);
        every_key_is_read(&keys::FILE_COPY, "{services: {a: {type: process, files: [{", "}]}}}", none);
    }

    #[test]
    fn the_published_schema_is_the_one_that_is_made() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("services.schema.json");
        let made = format!("{}\n", serde_json::to_string_pretty(&json_schema()).unwrap());
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(published == made, "run the tests with UPDATE_SCHEMA=1, and commit {}", path.display());
    }
}
