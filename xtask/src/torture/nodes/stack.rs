//! The stack over this machine, three others and a container, as text of services.yaml.

use std::fmt::Write;
use test_hosts::Suite;

/// The hosts: what they run, and the names of their nodes.
pub(crate) const HOSTS: [(Suite, &str); 3] =
    [(Suite::Bookworm, "one"), (Suite::Trixie, "two"), (Suite::Bookworm, "three")];

/// Where the tempers of a host write down what is true.
pub(crate) const FOLDER: &str = "/home/app/torture";

/// Where something runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// On this machine.
    Here,
    /// On a host, by position.
    Host(usize),
}

/// What a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Numbers lines; the word that the temper is told.
    Lines(&'static str),
    /// Answers with its name.
    Serves,
    /// Asks all that answer.
    Asks,
}

/// A service that is always at the same place, as the others know it.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Its name.
    pub(crate) name: String,
    /// Where.
    pub(crate) place: Place,
    /// What.
    pub(crate) role: Role,
}

impl Service {
    /// Its only instance.
    pub(crate) fn instance(&self) -> String {
        format!("{}-1", self.name)
    }

    /// Whether it ends by itself now and then.
    pub(crate) fn ends_by_itself(&self) -> bool {
        self.role == Role::Lines("crash")
    }
}

/// The service in a container of this machine.
pub(crate) const BOX: &str = "box";
/// The one with an instance on each of the first two hosts.
pub(crate) const PAIR: &str = "pair";
/// The one of a package, on the second host.
pub(crate) const PACKAGE: &str = "pack";
/// The one that may live on the first two hosts, and never twice.
pub(crate) const ROAM: &str = "roam";

/// The services that are processes at fixed places, in the order of the file.
pub(crate) fn services() -> Vec<Service> {
    let mut services = Vec::new();
    let places = [("here", Place::Here)]
        .into_iter()
        .chain(HOSTS.iter().enumerate().map(|(at, (_, name))| (*name, Place::Host(at))));
    for (word, place) in places {
        for role in
            [Role::Lines("stable"), Role::Lines("crash"), Role::Lines("chatty"), Role::Serves, Role::Asks]
        {
            let kind = match role {
                Role::Lines(kind) => kind,
                Role::Serves => "serve",
                Role::Asks => "ask",
            };
            services.push(Service { name: format!("{kind}-{word}"), place, role });
        }
    }
    services
}

/// Those that answer.
pub(crate) fn answering(services: &[Service]) -> Vec<String> {
    let fixed = services.iter().filter(|service| service.role == Role::Serves);
    let fixed = fixed.map(|service| service.name.clone());
    fixed.chain([BOX, PAIR, PACKAGE].map(str::to_owned)).collect()
}

/// Instances of all services, in no order.
pub(crate) fn instances(services: &[Service]) -> Vec<String> {
    let others = [format!("{BOX}-1"), format!("{PAIR}-1"), format!("{PAIR}-2"), format!("{PACKAGE}-1")];
    let roam = format!("{ROAM}-1");
    services.iter().map(Service::instance).chain(others).chain([roam]).collect()
}

/// The text of services.yaml; `folder` is where truth lies on this machine, and the temper; `version` that of the package.
pub(crate) fn yaml(services: &[Service], folder: &str, image: &str, version: &str) -> String {
    let mut text = String::from("version: \"1.0\"\nname: torture\nnodes:\n");
    for (at, (_, name)) in HOSTS.iter().enumerate() {
        let labels = if at < 2 { ", labels: {pair: \"yes\"}" } else { "" };
        let _ = writeln!(text, "  {name}: {{host: {name}, user: app{labels}}}");
    }
    // What has a crashing neighbour must not wait for its restart: that has no end.
    let restart = "restart: {policy: always, backoff: {initial: 50ms, max: 500ms}, reset_after: 1s}";
    let logs = "logs: {max_size: 1MiB, keep_files: 40, keep_runs: 10000}";
    let common = format!("shutdown_timeout: 3s, startup_timeout: 60s, {restart}, {logs}");
    let _ = writeln!(
        text,
        "templates:\n  here: {{type: process, env: {{TORTURE_DIR: \"{folder}\"}}, {common}}}\n  \
         there: {{type: process, files: [temper], env: {{TORTURE_DIR: {FOLDER}}}, {common}}}\nservices:"
    );
    let answering = answering(services);
    let ask: Vec<String> =
        answering.iter().map(|name| format!("{name}=${{{name}.ip}}:${{{name}.port}}")).collect();
    let unordered: Vec<String> =
        answering.iter().map(|name| format!("{name}: {{condition: none}}")).collect();
    for service in services {
        let place = match service.place {
            Place::Here => "extends: here".to_owned(),
            Place::Host(at) => {
                format!("extends: there, host: {}", HOSTS.get(at).map_or("", |(_, name)| name))
            }
        };
        let rest = match service.role {
            Role::Lines(kind) => format!("command: [./temper, {kind}]"),
            Role::Serves => format!("command: [./temper, serve, {}], ports: [auto]", service.name),
            Role::Asks => format!(
                "command: [./temper, ask], env: {{ASK: \"{}\"}}, dependencies: {{{}}}",
                ask.join(" "),
                unordered.join(", ")
            ),
        };
        let _ = writeln!(text, "  {}: {{{place}, {rest}}}", service.name);
    }
    let _ = write!(
        text,
        "  {BOX}: {{type: docker, image: {image}, init: true, command: [/temper, serve, {BOX}, anywhere, \"9000\"], \
         volumes: [\"{folder}/temper:/temper:ro\"], ports: [\"auto:9000\"], {common}}}\n  \
         {PAIR}: {{extends: there, placement: {{pair: \"yes\"}}, replicas: 2, command: [./temper, serve, {PAIR}], ports: [auto]}}\n  \
         {PACKAGE}: {{type: package, package: {PACKAGE}-{version}.tar.zst, host: {two}, install_path: {FOLDER}/opt, env: {{TORTURE_DIR: {FOLDER}}}, ports: [auto], {common}}}\n  \
         {ROAM}: {{extends: there, placement: {{pair: \"yes\"}}, on_node_loss: reschedule, command: [./temper, beat]}}\n",
        two = HOSTS.get(1).map_or("", |(_, name)| name)
    );
    text
}
