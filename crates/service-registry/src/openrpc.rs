//! The description of the API as [OpenRPC 1.3](https://spec.open-rpc.org/), made from the types that go over the wire.
//!
//! It is made by tests, which hold it against `openrpc.json`; servers hand out that file. So the program carries the text
//! and not what makes it. `registry` describes the methods that every server has; a host describes its own with
//! [`Described`] and puts both in one [`document`].

use crate::model::Entry;
use crate::registry::Filter;
use crate::wire::code::{self, CodeInfo};
use crate::wire::{self, MethodInfo};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// A method with everything that a caller must know.
pub struct Described {
    name: &'static str,
    summary: &'static str,
    params: fn(&mut SchemaGenerator) -> Value,
    result: fn(&mut SchemaGenerator) -> Schema,
    errors: Vec<i64>,
    examples: Vec<Value>,
}

impl Described {
    /// A method that takes an object `P` and answers `R`.
    pub fn new<P: JsonSchema, R: JsonSchema>(name: &'static str, summary: &'static str) -> Self {
        let (params, result) = (descriptors::<P>, SchemaGenerator::subschema_for::<R>);
        Self { name, summary, params, result, errors: Vec::new(), examples: Vec::new() }
    }

    /// The codes that it refuses with, besides those that every method has.
    #[must_use]
    pub fn refuses(mut self, codes: &[i64]) -> Self {
        self.errors.extend(codes);
        self
    }

    /// Parameters as somebody could send them.
    #[must_use]
    pub fn example(mut self, params: impl Serialize) -> Self {
        // can only fail for maps whose keys are no text: there is none
        self.examples.push(serde_json::to_value(params).unwrap_or_default());
        self
    }
}

/// The parameters of a method, one by one: they are the fields of an object.
fn descriptors<P: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    let schema = P::json_schema(generator);
    let required = |name: &String| {
        schema.get("required").and_then(Value::as_array).is_some_and(|all| all.iter().any(|n| n == name))
    };
    let fields = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let descriptor = |(name, mut schema): (String, Value)| {
        let summary = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        json!({ "name": name, "summary": summary, "required": required(&name), "schema": schema })
    };
    fields.into_iter().map(descriptor).collect()
}

/// The whole description. Notifications, for which OpenRPC has no place, stand in `x-notifications`.
pub fn document(title: &str, infos: &[&[MethodInfo]], methods: &[Described], codes: &[&[CodeInfo]]) -> Value {
    let settings = SchemaSettings::draft07().with(|s| s.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let named = |code: &i64| codes.iter().copied().flatten().find(|info| info.code == *code);
    let described: Vec<Value> = methods
        .iter()
        .map(|method| {
            let info = infos.iter().copied().flatten().find(|info| info.name == method.name);
            let errors: Vec<Value> = method
                .errors
                .iter()
                .filter_map(named)
                .map(|info| json!({ "$ref": format!("#/components/errors/{}", info.name) }))
                .collect();
            let examples: Vec<Value> = method.examples.iter().map(example).collect();
            json!({
                "name": method.name,
                "summary": method.summary,
                "x-scope": info.map(|info| info.scope),
                "paramStructure": "by-name",
                "params": (method.params)(&mut generator),
                "result": { "name": "result", "schema": (method.result)(&mut generator) },
                "errors": errors,
                "examples": examples,
            })
        })
        .collect();
    let notifications = [
        (wire::EVENTS_SNAPSHOT, generator.subschema_for::<wire::SnapshotNote>()),
        (wire::EVENTS_EVENT, generator.subschema_for::<wire::EventNote>()),
        (wire::EVENTS_DROPPED, generator.subschema_for::<wire::DroppedNote>()),
    ];
    let notifications = notifications.map(|(name, schema)| json!({ "name": name, "params": schema }));
    let errors: Map<String, Value> = codes
        .iter()
        .copied()
        .flatten()
        .map(|info| (info.name.to_owned(), json!({ "code": info.code, "message": info.meaning.trim() })))
        .collect();
    json!({
        "openrpc": "1.3.2",
        "info": {
            "title": title,
            "version": env!("CARGO_PKG_VERSION"),
            "description": "JSON-RPC 2.0 in WebSocket text frames. `hello` comes first; parameters have names; answers come as they are ready, matched by id.",
            "x-protocol": { "newest": wire::PROTOCOL, "oldest": wire::OLDEST },
        },
        "methods": described,
        "x-notifications": notifications,
        "components": { "schemas": generator.take_definitions(true), "errors": errors },
    })
}

fn example(params: &Value) -> Value {
    let fields = params.as_object().into_iter().flatten();
    let params: Vec<Value> = fields.map(|(name, value)| json!({ "name": name, "value": value })).collect();
    json!({ "name": "example", "params": params })
}

/// The methods that every server has.
pub fn registry() -> Vec<Described> {
    let since = jiff::Timestamp::UNIX_EPOCH;
    let mail = Entry::new("mail", "mail-1", since);
    let lease = crate::registry::LeaseId::new("0b9c4b6c7e5e4a2f8d3a1c9e6f7b2d10");
    let web = || wire::InstanceParams { instance: "web-1".to_owned() };
    let instance = "mail-1".to_owned();
    let theirs = [code::NOT_FOUND, code::NOT_YOURS, code::NOT_YOUR_LEASE, code::CONFLICT, code::NOT_DURABLE];
    vec![
        Described::new::<wire::HelloParams, wire::HelloResult>(wire::HELLO, "Compare versions; must come first.")
            .refuses(&[code::PROTOCOL_MISMATCH])
            .example(wire::HelloParams {
                protocol: wire::PROTOCOL,
                oldest: Some(wire::OLDEST),
                client: "example 1.0".to_owned(),
            }),
        Described::new::<wire::Empty, Map<String, Value>>(wire::RPC_DISCOVER, "This document.")
            .example(wire::Empty {}),
        Described::new::<Filter, wire::ListResult>(wire::REGISTRY_LIST, "Entries, all or by name.")
            .example(Filter::names(["web"])),
        Described::new::<wire::InstanceParams, Entry>(wire::REGISTRY_GET, "One entry.")
            .refuses(&[code::NOT_FOUND])
            .example(web()),
        Described::new::<wire::RegisterParams, wire::RegisterResult>(
            wire::REGISTRY_REGISTER,
            "Add an entry of one's own, with a lease or for good. Answered once it is durable.",
        )
        .refuses(&[code::EXISTS, code::INVALID_ENTRY, code::NOT_DURABLE])
        .example(wire::RegisterParams {
            entry: mail.clone(),
            lease: Some(wire::LeaseParams { ttl_ms: 10_000 }),
        }),
        Described::new::<wire::RenewParams, wire::RenewResult>(
            wire::REGISTRY_RENEW,
            "Begin the time of a lease anew; an entry that was lost is back as it was.",
        )
        .refuses(&[code::NOT_YOUR_LEASE, code::NOT_DURABLE])
        .example(wire::RenewParams { instance: instance.clone(), lease: lease.clone() }),
        Described::new::<wire::UpdateParams, wire::WriteResult>(
            wire::REGISTRY_UPDATE,
            "Set an entry of one's own. Answered once it is durable.",
        )
        .refuses(&[code::INVALID_ENTRY, code::NOT_ALLOWED])
        .refuses(&theirs)
        .example(wire::UpdateParams { entry: mail, revision: Some(9), lease: Some(lease.clone()) }),
        Described::new::<wire::DeregisterParams, wire::WriteResult>(
            wire::REGISTRY_DEREGISTER,
            "Remove an entry of one's own. Answered once it is durable.",
        )
        .refuses(&theirs)
        .example(wire::DeregisterParams { instance, revision: None, lease: Some(lease) }),
        Described::new::<wire::Empty, wire::ExportResult>(
            wire::REGISTRY_EXPORT,
            "The entries from outside that no lease holds, to be kept or taken elsewhere.",
        )
        .example(wire::Empty {}),
        Described::new::<wire::ImportParams, wire::ImportResult>(
            wire::REGISTRY_IMPORT,
            "Register all of these entries, or none. Answered once it is durable.",
        )
        .refuses(&[code::INVALID_ENTRY, code::NOT_YOURS, code::NOT_YOUR_LEASE, code::EXISTS, code::NOT_DURABLE])
        .example(wire::ImportParams { schema: wire::EXPORT_SCHEMA, entries: Vec::new(), replace: false }),
        Described::new::<wire::ResolveParams, wire::ResolveResult>(
            wire::REGISTRY_RESOLVE,
            "Where a service or an instance can be reached.",
        )
        .example(wire::ResolveParams { name: "web".to_owned(), ..wire::ResolveParams::default() }),
        Described::new::<wire::EventsListParams, wire::EventsListResult>(wire::EVENTS_LIST, "Events of the past.")
            .example(wire::EventsListParams { limit: Some(10), ..wire::EventsListParams::default() }),
        Described::new::<wire::SubscribeParams, wire::SubscribeResult>(
            wire::EVENTS_SUBSCRIBE,
            "A snapshot, or what followed a revision, and then every change once and in order, as notifications.",
        )
        .refuses(&[code::REVISION_GONE, code::TOO_MANY_SUBSCRIPTIONS])
        .example(wire::SubscribeParams { since: Some(9), ..wire::SubscribeParams::default() }),
        Described::new::<wire::SubscriptionParams, wire::Empty>(wire::EVENTS_UNSUBSCRIBE, "End a subscription.")
            .refuses(&[code::NOT_FOUND])
            .example(wire::SubscriptionParams { subscription: 1 }),
    ]
}

/// What is wrong with a document: methods that are served and not described, or the other way round; examples that their
/// schemas don't allow; references that lead nowhere.
pub fn problems(document: &Value, infos: &[&[MethodInfo]]) -> Vec<String> {
    let mut problems = Vec::new();
    let methods = document["methods"].as_array().cloned().unwrap_or_default();
    let described: Vec<&str> = methods.iter().filter_map(|method| method["name"].as_str()).collect();
    let served: Vec<&str> = infos.iter().copied().flatten().map(|info| info.name).collect();
    let missing = served.iter().filter(|name| !described.contains(name));
    problems.extend(missing.map(|name| format!("{name} is served and not described")));
    let surplus = described.iter().filter(|name| !served.contains(name));
    problems.extend(surplus.map(|name| format!("{name} is described and not served")));
    for method in &methods {
        let params = method["params"].as_array().cloned().unwrap_or_default();
        let examples = method["examples"].as_array().cloned().unwrap_or_default();
        if examples.is_empty() {
            problems.push(format!("{} has no example", method["name"]));
        }
        for example in examples {
            let values = example["params"].as_array().cloned().unwrap_or_default();
            for param in &params {
                let at = format!("{}.{}", method["name"], param["name"]);
                match values.iter().find(|value| value["name"] == param["name"]) {
                    Some(value) => check(document, &param["schema"], &value["value"], &at, &mut problems),
                    None if param["required"] == true => problems.push(format!("{at} is missing")),
                    None => {}
                }
            }
        }
        references(document, method, &mut problems);
    }
    references(document, &document["components"], &mut problems);
    problems
}

/// Every `$ref` below a value must lead somewhere.
fn references(document: &Value, value: &Value, problems: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(to) = fields.get("$ref").and_then(Value::as_str)
                && follow(document, to).is_none()
            {
                problems.push(format!("{to} leads nowhere"));
            }
            fields.values().for_each(|value| references(document, value, problems));
        }
        Value::Array(items) => items.iter().for_each(|value| references(document, value, problems)),
        _ => {}
    }
}

fn follow<'a>(document: &'a Value, to: &str) -> Option<&'a Value> {
    document.pointer(to.strip_prefix('#')?)
}

/// Checks a value against as much of JSON Schema as the document uses.
fn check(document: &Value, schema: &Value, value: &Value, at: &str, problems: &mut Vec<String>) {
    if let Some(to) = schema["$ref"].as_str() {
        return match follow(document, to) {
            Some(schema) => check(document, schema, value, at, problems),
            None => problems.push(format!("{at}: {to} leads nowhere")),
        };
    }
    let fits = |schema: &Value| {
        let mut problems = Vec::new();
        check(document, schema, value, at, &mut problems);
        problems.is_empty()
    };
    for all in schema["allOf"].as_array().into_iter().flatten() {
        check(document, all, value, at, problems);
    }
    for any in ["anyOf", "oneOf"] {
        if schema[any].as_array().is_some_and(|schemas| !schemas.iter().any(fits)) {
            problems.push(format!("{at}: {value} fits none of {any}"));
        }
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |expected: &Value| expected == kind || (expected == "number" && kind == "integer");
    let typed = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(is),
        expected => is(expected),
    };
    let allowed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    if !typed || !allowed || schema.get("const").is_some_and(|only| only != value) {
        problems.push(format!("{at}: {value} isn't {schema}"));
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        if value.get(required.as_str().unwrap_or_default()).is_none() {
            problems.push(format!("{at}: {required} is missing"));
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let schema = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
        check(document, schema, field, &format!("{at}.{name}"), problems);
    }
    for item in value.as_array().into_iter().flatten() {
        check(document, &schema["items"], item, at, problems);
    }
}
