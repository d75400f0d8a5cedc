//! The examples, as someone who has cloned the repository runs them.

use crate::support::{Project, alive, until};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: [&str; 4] = ["quickstart", "shop", "mixed", "legacy"];

fn folder(example: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(example)
}

/// A copy of an example in a folder of its own, so that running it leaves nothing in the repository.
fn copy(example: &str) -> Project {
    fn copy_folder(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().flatten() {
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy_folder(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let project = Project::new("");
    copy_folder(&folder(example), project.path());
    // What an earlier run has left in the repository isn't part of the example.
    for made in ["public", "run"] {
        let _ = fs::remove_dir_all(project.path().join(made));
    }
    project
}

/// The body of the answer to a GET.
fn get(url: &str) -> String {
    let (address, path) =
        url.trim_start_matches("http://").split_once('/').unwrap_or((url.trim_start_matches("http://"), ""));
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{url}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{url}: {answer}");
    answer
}

#[test]
fn every_example_is_valid_also_where_nothing_is_installed() {
    for example in EXAMPLES {
        let project = copy(example);
        let done = project.run(&["validate"]);
        assert_eq!(done.code, 0, "{example}: {}", done.stderr);
        assert!(done.stderr.contains("is valid"), "{example}: {}", done.stderr);
        project.ok(&["list"]);
        project.ok(&["config", "deps"]);
    }
}

#[test]
fn the_quickstart_starts_answers_and_leaves_nothing() {
    let project = copy("quickstart");
    let start = project.ok(&["start"]);
    assert!(start.stderr.contains("3 ready, 1 completed"), "{}", start.stderr);
    for name in ["web-1", "counter-1", "visitor-1"] {
        let instance = project.instance(name);
        assert_eq!(
            (&instance["state"], &instance["health"]["status"]),
            (&"running".into(), &"healthy".into()),
            "{instance:#}"
        );
    }
    let url = |service: &str| {
        project.ok(&["config", "resolve", &format!("${{{service}.url}}")]).stdout.trim().to_owned()
    };
    let (web, counter) = (url("web"), url("counter"));
    assert!(get(&format!("{web}/")).contains("It works"));
    assert!(get(&format!("{web}/about.html")).contains("About"));
    let count = || get(&format!("{counter}/")).lines().last().unwrap().parse::<u64>().unwrap();
    assert!(count() >= 1, "healthy only once a visit was counted");
    until("the visitor tells of a visit", || {
        project.logs("visitor").iter().any(|line| line.starts_with("visit 1: "))
    });
    assert!(project.logs("pages").iter().any(|line| line.contains("wrote")));

    // What its README suggests.
    let before = project.pid("visitor-1");
    let mut command = project.command(&["restart", "visitor"]);
    command.env("VISIT_EVERY", "0.05");
    assert!(command.output().unwrap().status.success());
    assert_ne!(project.pid("visitor-1"), before);
    let many = count() + 5;
    until("visits come faster", || count() >= many);
    let counted = project.pid("counter-1");
    crate::support::kill(counted, "KILL");
    until("a new counter answers", || {
        project.instance("counter-1")["pid"].as_u64().is_some_and(|pid| pid != u64::from(counted))
            && project.instance("counter-1")["health"]["status"] == "healthy"
    });
    assert!(count() < many, "it counts from the beginning");
    assert!(project.ok(&["status"]).stdout.contains("running"));

    let pids: Vec<u32> = ["web-1", "counter-1", "visitor-1"].map(|name| project.pid(name)).to_vec();
    let daemon = project.daemon_pid();
    project.ok(&["stop"]);
    assert!(pids.iter().chain([&daemon]).all(|pid| !alive(*pid)), "stop leaves no process");
    // A health check that was being asked is killed with the daemon, and is gone a moment later.
    until("nothing is left", || project.processes().is_empty());
    let address = web.trim_start_matches("http://");
    assert!(TcpStream::connect(address).is_err(), "nothing listens any more");
}

#[test]
fn the_shop_of_twenty_services_runs_and_stops() {
    let project = copy("shop");
    let start = project.ok(&["start"]);
    assert!(start.stderr.contains("3 completed"), "{}", start.stderr);
    let status = project.json(&["status"]);
    let instances = status["instances"].as_array().unwrap();
    assert!(instances.len() >= 20, "{}", instances.len());
    for instance in instances {
        let good = instance["state"] == "running" || instance["reason"]["code"] == "completed";
        assert!(good, "{instance:#}");
    }
    let storefront = project.ok(&["config", "resolve", "${storefront.url}"]).stdout;
    get(&format!("{}/health", storefront.trim()));
    assert!(project.ok(&["start"]).stderr.contains("unchanged"));
    project.ok(&["start", "--profile", "traffic"]);
    assert_eq!(project.state("customers-3"), "running");
    let health = project.run(&["health", "--run-now"]);
    assert_eq!(health.code, 0, "{}", health.stdout);
    project.ok(&["stop"]);
    until("nothing is left", || project.processes().is_empty());
}

#[test]
fn the_file_format_of_old_runs_unchanged() {
    let project = copy("legacy");
    project.ok(&["validate"]);
    let start = project.run(&["start"]);
    assert_eq!(start.code, 0, "{}", start.stderr);
    project.ok(&["stop"]);
}

/// Checks a value against a JSON Schema, as far as ours goes: type, enum, required, properties, patternProperties,
/// additionalProperties, items, anyOf, $ref, minimum, exclusiveMinimum. Texts' patterns are the parser's business.
/// A keyword that isn't known is a failure, so that nothing is passed over.
fn violations(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Value::Object(rules) = schema else {
        if schema == &Value::Bool(false) {
            found.push(format!("{at}: not allowed"));
        }
        return;
    };
    for (keyword, rule) in rules {
        match keyword.as_str() {
            "$schema" | "$defs" | "$id" | "title" | "description" | "default" | "examples" | "pattern"
            | "format" => {}
            "$ref" => {
                let path = rule.as_str().unwrap().strip_prefix('#').unwrap();
                let target = root.pointer(path).unwrap_or_else(|| panic!("no {path} in the schema"));
                violations(root, target, value, at, found);
            }
            "type" => {
                let is = |name: &str| match name {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    other => panic!("type {other}"),
                };
                let allowed = match rule {
                    Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
                    name => is(name.as_str().unwrap()),
                };
                if !allowed {
                    found.push(format!("{at}: {value} is no {rule}"));
                }
            }
            "enum" => {
                if !rule.as_array().unwrap().contains(value) {
                    found.push(format!("{at}: {value} is none of {rule}"));
                }
            }
            "minimum" | "exclusiveMinimum" => {
                let (least, strict) = (rule.as_f64().unwrap(), keyword == "exclusiveMinimum");
                if value.as_f64().is_some_and(|number| number < least || (strict && number == least)) {
                    found.push(format!("{at}: {value} is below {rule}"));
                }
            }
            "required" => {
                for key in rule.as_array().unwrap().iter().filter_map(Value::as_str) {
                    if value.is_object() && value.get(key).is_none() {
                        found.push(format!("{at}: no {key}"));
                    }
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    violations(root, rule, item, &format!("{at}[{index}]"), found);
                }
            }
            "anyOf" | "oneOf" => {
                let fits = |option: &Value| {
                    let mut inner = Vec::new();
                    violations(root, option, value, at, &mut inner);
                    inner.is_empty()
                };
                if !rule.as_array().unwrap().iter().any(fits) {
                    found.push(format!("{at}: {value} fits no alternative"));
                }
            }
            "properties" | "patternProperties" | "additionalProperties" => {}
            other => panic!("the schema says {other}, which this check doesn't know"),
        }
    }
    for (key, item) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{key}");
        let mut known = false;
        if let Some(rule) = rules.get("properties").and_then(|properties| properties.get(key)) {
            violations(root, rule, item, &at, found);
            known = true;
        }
        for (pattern, rule) in rules.get("patternProperties").and_then(Value::as_object).into_iter().flatten()
        {
            if regex_lite::Regex::new(pattern).unwrap().is_match(key) {
                violations(root, rule, item, &at, found);
                known = true;
            }
        }
        if let Some(rule) = rules.get("additionalProperties").filter(|_| !known) {
            violations(root, rule, item, &at, found);
        }
    }
}

fn check(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    violations(schema, schema, value, "", &mut found);
    found
}

#[test]
fn the_published_schema_accepts_every_example_and_starter_and_refuses_mistakes() {
    let project = Project::new("");
    let schema: Value = serde_json::from_str(&project.ok(&["validate", "--schema"]).stdout).unwrap();
    let published = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../harness-config/services.schema.json"),
    )
    .unwrap();
    assert_eq!(
        schema,
        serde_json::from_str::<Value>(&published).unwrap(),
        "the published file is the program's"
    );
    let parse = |text: &str| serde_saphyr::from_str::<Value>(text).unwrap();
    for example in EXAMPLES {
        let value = parse(&fs::read_to_string(folder(example).join("services.yaml")).unwrap());
        assert_eq!(check(&schema, &value), [""; 0], "{example}");
    }
    for template in ["starter", "web"] {
        let value = parse(&project.ok(&["init", "--dry-run", "--template", template]).stdout);
        assert_eq!(check(&schema, &value), [""; 0], "{template}");
    }
    let quickstart = fs::read_to_string(folder("quickstart").join("services.yaml")).unwrap();
    for (from, to) in [
        ("version: \"1.0\"", "comment: x"),
        ("health_check:", "healthcheck:"),
        ("    restart: always", "    restart: [always]"),
        ("      interval: 10s", "      interval: {seconds: 10}"),
        ("name: http, port: auto", "name: http, prot: auto"),
        ("services:", "service:"),
    ] {
        let wrong = quickstart.replacen(from, to, 1);
        assert_ne!(wrong, quickstart, "{from}");
        assert_ne!(check(&schema, &parse(&wrong)), [""; 0], "{to} was accepted");
    }
}
