//! A stack as `config show` prints it: in the words of services.yaml, with every default filled in.

use crate::syntax::duration;
use indexmap::IndexMap;
use orchestrator::model::{
    Attach, HealthCheck, Node, Port, PortNumber, Probe, Protocol, Restart, SecretSource, Segment, Service,
    Stack, Target, Template,
};
use serde::{Serialize, Serializer};

/// What stands for a value that is not shown.
const MASK: &str = "********";

/// A tree that keeps the order of its keys; serialise it as YAML or JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolved {
    /// A text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// A truth value.
    Bool(bool),
    /// A list.
    List(Vec<Resolved>),
    /// A map, in order.
    Map(IndexMap<String, Resolved>),
}

impl Serialize for Resolved {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Integer(number) => serializer.serialize_i64(*number),
            Self::Number(number) => serializer.serialize_f64(*number),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => serializer.collect_map(entries),
        }
    }
}

impl From<&str> for Resolved {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Resolved {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u32> for Resolved {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<u16> for Resolved {
    fn from(number: u16) -> Self {
        Self::Integer(number.into())
    }
}

impl From<bool> for Resolved {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// A map that is being filled; what is absent or empty is left out.
#[derive(Default)]
struct Map(IndexMap<String, Resolved>);

impl Map {
    fn put(&mut self, key: &str, value: impl Into<Resolved>) {
        self.0.insert(key.into(), value.into());
    }

    fn maybe(&mut self, key: &str, value: Option<impl Into<Resolved>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    fn list(&mut self, key: &str, items: Vec<Resolved>) {
        if !items.is_empty() {
            self.put(key, Resolved::List(items));
        }
    }

    fn texts(&mut self, key: &str, entries: &IndexMap<String, String>) {
        let entries = entries.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
        self.map(key, Map(entries.collect()));
    }

    fn map(&mut self, key: &str, map: Map) {
        if !map.0.is_empty() {
            self.put(key, Resolved::Map(map.0));
        }
    }

    fn word(&mut self, key: &str, value: impl Serialize) {
        if let Ok(serde_json::Value::String(word)) = serde_json::to_value(value) {
            self.put(key, word);
        }
    }
}

/// Writes templates with or without the values that came from the environment.
#[derive(Clone, Copy)]
struct Painter {
    values: bool,
}

impl Painter {
    /// The text, with a literal `$` written so that it would be read as one again.
    fn text(self, template: &Template) -> Resolved {
        let mut text = String::new();
        for segment in &template.segments {
            match segment {
                Segment::Text(part) => escape(part, &mut text),
                Segment::Value { value, .. } if self.values => escape(value, &mut text),
                Segment::Value { name, .. } => text.push_str(&format!("${{{name}}}")),
                Segment::Reference(reference) => text.push_str(&reference.to_string()),
            }
        }
        Resolved::Text(text)
    }

    fn list(self, templates: &[Template]) -> Resolved {
        Resolved::List(templates.iter().map(|template| self.text(template)).collect())
    }
}

fn escape(part: &str, out: &mut String) {
    if part.contains("${") || part.contains("$$") || part.ends_with('$') {
        out.push_str(&part.replace('$', "$$"));
    } else {
        out.push_str(part);
    }
}

/// The stack in the words of services.yaml. Values of `env` and whatever came from the environment, an `env_file` or `-e`
/// are masked unless `show_values`; secrets are never in it, only where they come from.
pub fn resolved(stack: &Stack, show_values: bool) -> Resolved {
    let painter = Painter { values: show_values };
    let mut root = Map::default();
    root.put("version", "1.0");
    root.put("name", stack.name.as_str());
    root.maybe("description", stack.description.as_deref());
    let mut networks = Map::default();
    for (name, network) in &stack.networks {
        let mut map = Map::default();
        map.word("type", network.kind);
        map.maybe("subnet", network.subnet.as_deref());
        map.maybe("interface", network.interface.as_deref());
        networks.map(name, map);
    }
    root.map("networks", networks);
    let mut nodes = Map::default();
    for (name, one) in &stack.nodes {
        nodes.map(name, node(one));
    }
    root.map("nodes", nodes);
    if let Some(zone) = &stack.zone {
        let mut map = Map::default();
        map.put("name", zone.name.as_str());
        map.maybe("listen", zone.listen.map(|address| address.to_string()));
        root.map("zone", map);
    }
    let mut secrets = Map::default();
    for (name, source) in &stack.secrets {
        let mut map = Map::default();
        match source {
            SecretSource::File(path) => map.put("file", path.to_string_lossy().into_owned()),
            SecretSource::Env(name) => map.put("env", name.as_str()),
            SecretSource::Command(argv) => map.put("command", painter.list(argv)),
        }
        secrets.map(name, map);
    }
    root.map("secrets", secrets);
    let (mut tasks, mut services) = (Map::default(), Map::default());
    for (name, one) in &stack.services {
        let into = match one.role {
            orchestrator::model::Role::Task => &mut tasks,
            orchestrator::model::Role::Service => &mut services,
        };
        into.map(name.as_str(), service(one, painter));
    }
    root.map("tasks", tasks);
    root.map("services", services);
    Resolved::Map(root.0)
}

/// [`resolved`] as YAML.
pub fn render_stack(stack: &Stack, show_values: bool) -> String {
    // The tree has texts, numbers, lists and maps only: writing it can't fail but for a lack of memory.
    let mut text = serde_saphyr::to_string(&resolved(stack, show_values)).unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn node(node: &Node) -> Map {
    let mut map = Map::default();
    map.put("host", node.host.as_str());
    map.maybe("port", node.port);
    map.maybe("user", node.user.as_deref());
    map.maybe("identity_file", node.identity_file.as_ref().map(|path| path.to_string_lossy().into_owned()));
    map.put("sudo", node.sudo);
    map.maybe("jump", node.jump.as_deref());
    map.list("networks", node.networks.iter().map(|name| name.as_str().into()).collect());
    map.maybe("region", node.region.as_deref());
    map.texts("labels", &node.labels);
    map
}

fn service(service: &Service, painter: Painter) -> Map {
    let mut map = Map::default();
    map.put("type", service.target.type_name());
    map.maybe("description", service.description.as_deref());
    target(&service.target, painter, &mut map);
    map.maybe("network", service.network.as_deref());
    map.maybe("host", service.host.as_deref());
    map.put("replicas", service.replicas);
    let mut env = Map::default();
    for (name, value) in &service.env {
        let masked = !painter.values && value.as_literal().is_some_and(|text| !text.is_empty());
        env.put(name, if masked { MASK.into() } else { painter.text(value) });
    }
    map.map("env", env);
    let mut dependencies = Map::default();
    for (name, dependency) in &service.dependencies {
        let mut edge = Map::default();
        edge.word("condition", dependency.condition);
        dependencies.map(name.as_str(), edge);
    }
    map.map("dependencies", dependencies);
    if let Some(check) = &service.health_check {
        map.map("health_check", health_check(check, painter));
    }
    map.list("ports", service.ports.iter().map(port).collect());
    map.put("startup_timeout", duration::text(service.startup_timeout));
    map.put("shutdown_timeout", duration::text(service.shutdown_timeout));
    map.put("stop_signal", service.stop_signal.to_string().trim_start_matches("signal "));
    map.map("restart", restart(&service.restart));
    map.maybe("user", service.user.as_ref().map(|user| painter.text(user)));
    map.maybe("group", service.group.as_ref().map(|group| painter.text(group)));
    map.maybe("working_dir", service.working_dir.as_ref().map(|folder| painter.text(folder)));
    limits(service, &mut map);
    map.texts("labels", &service.labels);
    map.list("profiles", service.profiles.iter().map(|profile| profile.as_str().into()).collect());
    map.word("on_dependency_failure", service.on_dependency_failure);
    map.word("on_dependency_change", service.on_dependency_change);
    map.word("on_unhealthy", service.on_unhealthy);
    map.word("on_node_loss", service.on_node_loss);
    if service.init {
        map.put("init", true);
    }
    if let Some(names) = service.names {
        map.word("names", names);
    }
    map.texts("placement", &service.placement);
    let files = service.files.iter().map(|file| {
        let mut map = Map::default();
        map.put("source", file.source.to_string_lossy().into_owned());
        map.put("destination", file.destination.to_string_lossy().into_owned());
        Resolved::Map(map.0)
    });
    map.list("files", files.collect());
    rollout(service, &mut map);
    map
}

fn limits(service: &Service, map: &mut Map) {
    let mut resources = Map::default();
    let integer = |number: u64| Resolved::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    resources.maybe("memory", service.resources.memory.map(integer));
    resources.maybe("cpus", service.resources.cpus.map(Resolved::Number));
    resources.maybe("nice", service.resources.nice.map(|nice| Resolved::Integer(nice.into())));
    resources.maybe("open_files", service.resources.open_files.map(integer));
    map.map("resources", resources);
    let mut logs = Map::default();
    logs.put("max_size", integer(service.logs.max_size));
    logs.put("keep_files", service.logs.keep_files);
    logs.put("keep_runs", service.logs.keep_runs);
    map.map("logs", logs);
}

fn rollout(service: &Service, map: &mut Map) {
    if let Some(deployment) = &service.deployment {
        let mut inner = Map::default();
        inner.word("strategy", deployment.strategy);
        inner.put("max_parallel", deployment.max_parallel);
        inner.put("rollback_on_failure", deployment.rollback_on_failure);
        inner.0.extend(deployment.options.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
        map.map("deployment", inner);
    }
    if let Some(scaling) = &service.scaling {
        let mut inner = Map::default();
        inner.put("min", scaling.min);
        inner.put("max", scaling.max);
        inner.put("metric", scaling.metric.as_str());
        inner.put("target", Resolved::Number(scaling.target));
        inner.0.extend(scaling.options.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
        map.map("scaling", inner);
    }
}

fn restart(restart: &Restart) -> Map {
    let mut map = Map::default();
    map.word("policy", restart.policy);
    map.maybe("max_retries", restart.max_retries);
    let mut backoff = Map::default();
    backoff.put("initial", duration::text(restart.backoff.initial));
    backoff.put("max", duration::text(restart.backoff.max));
    map.map("backoff", backoff);
    map.put("reset_after", duration::text(restart.reset_after));
    map
}

fn port(port: &Port) -> Resolved {
    let mut map = Map::default();
    map.maybe("name", port.name.as_deref());
    match port.number {
        PortNumber::Fixed(number) => map.put("port", number),
        PortNumber::Auto => map.put("port", "auto"),
    }
    map.maybe("target", port.target);
    if port.protocol == Protocol::Udp {
        map.put("protocol", "udp");
    }
    map.maybe("address", port.address.as_deref());
    Resolved::Map(map.0)
}

fn health_check(check: &HealthCheck, painter: Painter) -> Map {
    let mut map = probe(&check.probe, painter);
    map.put("interval", duration::text(check.interval));
    map.put("timeout", duration::text(check.timeout));
    map.put("retries", check.retries);
    map.put("start_period", duration::text(check.start_period));
    map.put("start_interval", duration::text(check.start_interval));
    map.put("success_threshold", check.success_threshold);
    map
}

fn probe(probe: &Probe, painter: Painter) -> Map {
    let mut map = Map::default();
    match probe {
        Probe::Command { argv, expected_exit, expected_output } => {
            map.put("command", painter.list(argv));
            if *expected_exit != 0 {
                map.put("expected_exit", Resolved::Integer((*expected_exit).into()));
            }
            map.maybe("expected_output", expected_output.as_deref());
        }
        Probe::Http(http) => {
            let mut inner = Map::default();
            inner.put("url", painter.text(&http.url));
            inner.put("method", http.method.as_str());
            let mut headers = Map::default();
            for (name, value) in &http.headers {
                headers.put(name, if painter.values { painter.text(value) } else { MASK.into() });
            }
            inner.map("headers", headers);
            inner.list(
                "expected_status",
                http.expected_status.iter().map(|status| (*status).into()).collect(),
            );
            inner.maybe("expected_body", http.expected_body.as_deref());
            map.map("http", inner);
        }
        Probe::Tcp { host, port } => {
            let mut inner = Map::default();
            inner.maybe("host", host.as_ref().map(|host| painter.text(host)));
            inner.put("port", painter.text(port));
            map.map("tcp", inner);
        }
        Probe::All(probes) => {
            map.list("all", probes.iter().map(|one| Resolved::Map(self::probe(one, painter).0)).collect());
        }
    }
    map
}

fn target(target: &Target, painter: Painter, map: &mut Map) {
    let text = |template: &Template| painter.text(template);
    let words = |words: &Vec<Template>| painter.list(words);
    match target {
        Target::Process { program, args } => {
            map.put("binary", text(program));
            if !args.is_empty() {
                map.put("args", words(args));
            }
        }
        Target::Docker { image, command, entrypoint, volumes, pull } => {
            map.put("image", text(image));
            map.maybe("command", command.as_ref().map(words));
            map.maybe("entrypoint", entrypoint.as_ref().map(words));
            map.list("volumes", volumes.iter().map(text).collect());
            map.maybe("pull", pull.as_deref());
        }
        Target::Compose { file, service } => {
            map.put("file", text(file));
            map.maybe("service", service.as_ref().map(text));
        }
        Target::Systemd { unit } => map.put("unit", text(unit)),
        Target::Portable { image, unit, profile } => {
            map.put("image", text(image));
            map.maybe("unit", unit.as_ref().map(text));
            map.maybe("profile", profile.as_ref().map(text));
        }
        Target::Package { package, version, install_path, pre_install, post_install } => {
            map.put("package", text(package));
            map.maybe("version", version.as_ref().map(text));
            map.maybe("install_path", install_path.as_ref().map(text));
            map.maybe("pre_install", pre_install.as_ref().map(words));
            map.maybe("post_install", post_install.as_ref().map(words));
        }
        Target::Attach(attach) => attached(attach, painter, map),
    }
}

fn attached(attach: &Attach, painter: Painter, map: &mut Map) {
    match attach {
        Attach::PidFile(path) => map.put("pid_file", painter.text(path)),
        Attach::ProcessName(name) => map.put("process_name", painter.text(name)),
        Attach::Container(name) => map.put("container", painter.text(name)),
        Attach::Unit(unit) => map.put("unit", painter.text(unit)),
        Attach::Managed(commands) => {
            let mut inner = Map::default();
            for (key, command) in [
                ("start", &commands.start),
                ("stop", &commands.stop),
                ("status", &commands.status),
                ("logs", &commands.logs),
            ] {
                inner.maybe(key, command.as_ref().map(|argv| painter.list(argv)));
            }
            map.map("managed", inner);
        }
        Attach::External { host, port } => {
            let mut inner = Map::default();
            inner.put("host", painter.text(host));
            inner.put("port", *port);
            map.map("external", inner);
        }
    }
}
