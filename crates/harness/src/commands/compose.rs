//! Converts what other tools read into services.yaml. Pure: text in, text and notes out.
//!
//! What has no counterpart is left out and said, never guessed.

use orchestrator::model::ServiceName;
use serde_json::{Map, Value, json};

/// The services of a Procfile: `name: command` lines.
pub(super) fn from_procfile(text: &str) -> Result<(String, Vec<String>), String> {
    let (mut services, mut tasks, mut notes) = (Map::new(), Map::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, command)) = line.split_once(':') else {
            return Err(format!("line {} is no `name: command`", number + 1));
        };
        let name = service_name(name.trim(), &mut notes)?;
        // A Procfile's commands are for a shell.
        let command = json!(["sh", "-c", escape(command.trim())]);
        if name == "release" {
            tasks.insert(name, json!({ "command": command }));
        } else {
            let mut service = json!({ "type": "process", "command": command });
            if name == "web" {
                set(&mut service, "ports", json!([{ "name": "http", "port": "auto" }]));
            }
            services.insert(name, service);
        }
    }
    if services.is_empty() && tasks.is_empty() {
        return Err("it names no process".into());
    }
    if tasks.contains_key("release") {
        services.values_mut().for_each(|service| set(service, "dependencies", json!(["release"])));
    }
    written(None, &[("tasks", tasks), ("services", services)], notes)
}

/// The services of a compose file.
pub(super) fn from_compose(text: &str) -> Result<(String, Vec<String>), String> {
    let file: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let services = file.get("services").and_then(Value::as_object).ok_or("it has no `services`")?;
    let mut notes = Vec::new();
    let mut converted = Map::new();
    for (name, service) in services {
        let name = service_name(name, &mut notes)?;
        let service = service.as_object().ok_or_else(|| format!("service {name} is no map"))?;
        let value = compose_service(&name, service, &mut notes)?;
        converted.insert(name, value);
    }
    if converted.is_empty() {
        return Err("it names no service".into());
    }
    for key in file.as_object().into_iter().flat_map(Map::keys) {
        if !matches!(key.as_str(), "services" | "version" | "name") {
            notes.push(format!("`{key}` was left out"));
        }
    }
    written(file.get("name").and_then(Value::as_str), &[("services", converted)], notes)
}

fn compose_service(
    name: &str,
    service: &Map<String, Value>,
    notes: &mut Vec<String>,
) -> Result<Value, String> {
    let mut out = json!({ "type": "docker" });
    match service.get("image") {
        Some(image) => set(&mut out, "image", image.clone()),
        None => {
            notes.push(format!("{name} is built, not pulled: build its image and name it in `image`"));
            set(&mut out, "image", json!(format!("{name}:latest")));
        }
    }
    for (key, value) in service {
        match key.as_str() {
            "image" | "build" => {}
            "command" | "entrypoint" | "env_file" | "user" | "working_dir" | "profiles" | "init" => {
                set(&mut out, key, value.clone());
            }
            "environment" => set(&mut out, "env", environment(value)),
            "labels" => set(&mut out, "labels", environment(value)),
            "ports" => set(&mut out, "ports", ports(name, value, notes)),
            "volumes" => set(&mut out, "volumes", volumes(name, value, notes)),
            "depends_on" => set(&mut out, "dependencies", depends_on(value, notes)?),
            "restart" => {
                let policy = value.as_str().unwrap_or("no").split(':').next().unwrap_or("no").to_owned();
                set(&mut out, "restart", json!(policy));
            }
            "healthcheck" => {
                if let Some(check) = health_check(name, value, notes) {
                    set(&mut out, "health_check", check);
                }
            }
            "stop_signal" => set(&mut out, "stop_signal", value.clone()),
            "stop_grace_period" => set(&mut out, "shutdown_timeout", value.clone()),
            other => notes.push(format!("{name}: `{other}` was left out")),
        }
    }
    Ok(out)
}

/// A list of `KEY=VALUE` or a map becomes a map of strings. `KEY` alone takes the caller's value.
fn environment(value: &Value) -> Value {
    let mut map = Map::new();
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                map.insert(name.clone(), scalar(name, value));
            }
        }
        Value::Array(items) => {
            for item in items.iter().filter_map(Value::as_str) {
                match item.split_once('=') {
                    Some((name, value)) => map.insert(name.to_owned(), json!(value)),
                    None => map.insert(item.to_owned(), json!(format!("${{{item}:-}}"))),
                };
            }
        }
        _ => {}
    }
    Value::Object(map)
}

fn scalar(name: &str, value: &Value) -> Value {
    match value {
        Value::Null => json!(format!("${{{name}:-}}")),
        Value::String(text) => json!(text),
        other => json!(other.to_string()),
    }
}

fn ports(name: &str, value: &Value, notes: &mut Vec<String>) -> Value {
    let items = value.as_array().into_iter().flatten().filter_map(|port| match port {
        Value::Number(number) => Some(json!(number)),
        Value::String(text) if text.contains('-') => {
            notes.push(format!("{name}: the port range {text} was left out: name each port"));
            None
        }
        Value::String(text) => Some(text.parse::<u16>().map_or_else(|_| json!(text), |number| json!(number))),
        Value::Object(fields) => {
            let target = fields.get("target")?;
            let published = fields.get("published").cloned().unwrap_or_else(|| target.clone());
            let published =
                published.as_str().and_then(|text| text.parse::<u16>().ok()).map_or(published, |n| json!(n));
            Some(json!({ "port": published, "target": target }))
        }
        _ => None,
    });
    Value::Array(items.collect())
}

fn volumes(name: &str, value: &Value, notes: &mut Vec<String>) -> Value {
    let items = value.as_array().into_iter().flatten().filter_map(|volume| match volume {
        Value::String(text) => Some(json!(text)),
        Value::Object(fields) => {
            let (source, target) = (fields.get("source")?.as_str()?, fields.get("target")?.as_str()?);
            Some(json!(format!("{source}:{target}")))
        }
        _ => {
            notes.push(format!("{name}: a volume was left out"));
            None
        }
    });
    Value::Array(items.collect())
}

fn depends_on(value: &Value, notes: &mut Vec<String>) -> Result<Value, String> {
    match value {
        Value::Array(items) => {
            let names = items.iter().filter_map(Value::as_str).map(|name| service_name(name, notes));
            Ok(json!(names.collect::<Result<Vec<String>, String>>()?))
        }
        Value::Object(fields) => {
            let mut map = Map::new();
            for (name, needs) in fields {
                let condition = match needs.get("condition").and_then(Value::as_str) {
                    Some("service_healthy") => "healthy",
                    Some("service_completed_successfully") => "completed",
                    _ => "started",
                };
                map.insert(service_name(name, notes)?, json!({ "condition": condition }));
            }
            Ok(Value::Object(map))
        }
        _ => Ok(json!([])),
    }
}

fn health_check(name: &str, value: &Value, notes: &mut Vec<String>) -> Option<Value> {
    let fields = value.as_object()?;
    if fields.get("disable").and_then(Value::as_bool) == Some(true) {
        return None;
    }
    let mut check = Map::new();
    for (key, value) in fields {
        match key.as_str() {
            "test" | "interval" | "timeout" | "retries" | "start_period" | "start_interval" => {
                check.insert(key.clone(), value.clone());
            }
            "disable" => {}
            other => notes.push(format!("{name}: `healthcheck.{other}` was left out")),
        }
    }
    check.contains_key("test").then_some(Value::Object(check))
}

/// A name that services.yaml allows; a changed one is noted.
fn service_name(name: &str, notes: &mut Vec<String>) -> Result<String, String> {
    let safe: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' })
        .collect();
    ServiceName::new(&safe).map_err(|error| format!("'{name}' can't be a name: {error}"))?;
    if safe != name {
        let note = format!("{name} is called {safe} here");
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    Ok(safe)
}

/// A shell's `${VAR}` is for the shell, not for us; its `$PORT` is already literal.
fn escape(command: &str) -> String {
    command.replace("${", "$${")
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(key.to_owned(), value);
    }
}

fn written(
    name: Option<&str>,
    sections: &[(&str, Map<String, Value>)],
    notes: Vec<String>,
) -> Result<(String, Vec<String>), String> {
    let mut file = json!({ "version": "1.0" });
    if let Some(name) = name {
        set(&mut file, "name", json!(name));
    }
    for (key, section) in sections.iter().filter(|(_, section)| !section.is_empty()) {
        set(&mut file, key, Value::Object(section.clone()));
    }
    let text = serde_saphyr::to_string(&file).map_err(|error| error.to_string())?;
    Ok((format!("# Converted by `harness init --from`. `harness validate` checks it.\n{text}"), notes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness_config::{LoadOptions, NoFiles, Stack, load_str, render};
    use std::path::Path;

    fn load(text: &str) -> Stack {
        let loaded = load_str(Path::new("/p/services.yaml"), text, &LoadOptions::default(), &NoFiles);
        let problems = render(&loaded.diagnostics, &loaded.sources, false);
        loaded.stack.unwrap_or_else(|| panic!("{text}\n{problems}"))
    }

    #[test]
    fn a_procfile_becomes_a_valid_file() {
        let (text, notes) = from_procfile(
            "# comment\nweb: bundle exec rails s -p ${PORT:-3000}\nWorker: ./work\nrelease: ./migrate\n",
        )
        .unwrap();
        let stack = load(&text);
        let mut names: Vec<&str> = stack.services.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["release", "web", "worker"]);
        assert_eq!(notes, ["Worker is called worker here"]);
        assert!(from_procfile("").is_err());
        assert!(from_procfile("no colon").is_err());
    }

    #[test]
    fn a_compose_file_becomes_a_valid_file_and_says_what_it_left_out() {
        let compose = r#"
name: shop
services:
  web:
    image: nginx:1.27
    ports: ["8080:80", 9000]
    environment: [A=1, "B=x y"]
    depends_on: {db: {condition: service_healthy}}
    restart: on-failure:5
    networks: [front]
  db:
    image: postgres:17
    environment: {POSTGRES_PASSWORD: secret, PORT: 5432}
    volumes: ["data:/var/lib/postgresql"]
    healthcheck: {test: [CMD, pg_isready], interval: 5s, retries: 3}
volumes: {data: {}}
"#;
        let (text, notes) = from_compose(compose).unwrap();
        let stack = load(&text);
        assert_eq!(stack.name, "shop");
        assert_eq!(stack.services.len(), 2);
        assert_eq!(notes, ["web: `networks` was left out", "`volumes` was left out"]);
        assert!(from_compose("a: 1").is_err());
        assert!(from_compose(": [").is_err());
    }
}
