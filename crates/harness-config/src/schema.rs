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
    json!({
        "type": "object",
        "properties": properties,
        "patternProperties": { "^x-": {} },
        "additionalProperties": false,
        "required": table.required,
    })
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
