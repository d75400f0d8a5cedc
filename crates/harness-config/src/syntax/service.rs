//! A service, task or template.

use super::health::{Health, health_check};
use super::keys::{FILE_COPY, SERVICE, TASK, TEMPLATE};
use super::policy::{self, Dependency, Restart};
use super::port::ports;
use super::reader::{Fields, Need, NeedKind, Reader, Spanned, Use};
use super::target;
use super::tree::{Kind, Node};
use super::variables::{env, env_files};
use crate::diagnostic::Diagnostic;
use crate::source::Span;
use indexmap::IndexMap;
use orchestrator::model::{
    Deployment, FileCopy, LogPolicy, NameView, OnDependencyChange, OnDependencyFailure, OnNodeLoss,
    OnUnhealthy, Port, Resources, Role, Scaling, Segment, Signal, Target, Template,
};
use std::path::{Component, PathBuf};
use std::time::Duration;

/// What a map is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Service,
    Task,
    /// Only checked: nothing has to be there.
    Template,
}

/// A service or task as written; what isn't there has a default.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// Where its name stands.
    pub(crate) span: Span,
    pub(crate) role: Role,
    pub(crate) target: Option<Target>,
    pub(crate) kind: Option<&'static str>,
    pub(crate) network: Option<Spanned<String>>,
    pub(crate) host: Option<Spanned<String>>,
    pub(crate) replicas: Option<Spanned<u32>>,
    pub(crate) env: IndexMap<String, Template>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) uses: Vec<Use>,
    pub(crate) needs: Vec<Need>,
    pub(crate) health: Option<Health>,
    pub(crate) ports: Vec<Spanned<Port>>,
    pub(crate) startup_timeout: Option<Duration>,
    pub(crate) shutdown_timeout: Option<Duration>,
    pub(crate) stop_signal: Option<Signal>,
    pub(crate) restart: Restart,
    pub(crate) user: Option<Template>,
    pub(crate) group: Option<Template>,
    pub(crate) working_dir: Option<Template>,
    pub(crate) resources: Resources,
    pub(crate) labels: IndexMap<String, String>,
    pub(crate) profiles: Vec<Spanned<String>>,
    pub(crate) on_dependency_failure: Option<OnDependencyFailure>,
    pub(crate) on_dependency_change: Option<OnDependencyChange>,
    pub(crate) on_unhealthy: Option<OnUnhealthy>,
    pub(crate) on_node_loss: Option<Spanned<OnNodeLoss>>,
    pub(crate) logs: LogPolicy,
    pub(crate) init: bool,
    pub(crate) names: Option<NameView>,
    pub(crate) placement: IndexMap<String, String>,
    pub(crate) files: Vec<Spanned<FileCopy>>,
    pub(crate) deployment: Option<Deployment>,
    pub(crate) scaling: Option<Scaling>,
    pub(crate) description: Option<String>,
}

/// Reads the service `name`, whose templates are already merged into `node`.
pub(crate) fn service(
    reader: &mut Reader<'_>,
    name: &str,
    span: Span,
    node: &Node,
    what: What,
) -> Option<Service> {
    let table = match what {
        What::Service => &SERVICE,
        What::Task => &TASK,
        What::Template => &TEMPLATE,
    };
    reader.uses.clear();
    reader.needs.clear();
    reader.subject = match what {
        What::Service => format!("the service `{name}`"),
        What::Task => format!("the task `{name}`"),
        What::Template => format!("the template `{name}`"),
    };
    let fields = reader.fields(node, table)?;
    if what == What::Service {
        let subject = reader.subject.clone();
        reader.require(&fields, span, &subject);
    }
    let host = fields.get("host").and_then(|node| reader.text(node));
    let default = (what == What::Task).then_some("process");
    let kind = target::kind(reader, &fields, default);
    reader.inside = matches!(kind, Some("docker" | "compose"));
    let here = host.as_ref().is_none_or(|host| host.value == "localhost");
    reader.local = here && kind != Some("remote") && fields.get("placement").is_none();
    if kind == Some("remote") && fields.get("host").is_none() && what != What::Template {
        reader.report(
            crate::diagnostic::Diagnostic::error(
                "missing-key",
                span,
                format!("`{name}` is remote and has no `host`"),
            )
            .label("expected `host:` in here"),
        );
    }
    let target = match (kind, what) {
        (Some(kind), What::Service | What::Task) => {
            target::foreign_keys(reader, node.entries(), kind);
            target::target(reader, &fields, kind, span)
        }
        _ => {
            template_target(reader, &fields);
            None
        }
    };
    let mut service = Service {
        name: name.into(),
        span,
        role: if what == What::Task { Role::Task } else { Role::Service },
        target,
        kind,
        network: fields.get("network").and_then(|node| reader.text(node)),
        host,
        replicas: fields.get("replicas").and_then(|node| reader.count(node, 0, 10_000)),
        env: environment(reader, &fields),
        dependencies: fields.get("dependencies").map(|n| policy::dependencies(reader, n)).unwrap_or_default(),
        uses: Vec::new(),
        needs: Vec::new(),
        health: fields.get("health_check").and_then(|node| health_check(reader, node)),
        ports: fields.get("ports").map(|node| ports(reader, node)).unwrap_or_default(),
        startup_timeout: fields.get("startup_timeout").and_then(|node| reader.duration(node)),
        shutdown_timeout: fields.get("shutdown_timeout").and_then(|node| reader.duration(node)),
        stop_signal: fields.get("stop_signal").and_then(|node| signal(reader, node)),
        restart: fields.get("restart").map(|node| policy::restart(reader, node)).unwrap_or_default(),
        user: fields.get("user").and_then(|node| reader.template(node, "expected a user's name or number")),
        group: fields
            .get("group")
            .and_then(|node| reader.template(node, "expected a group's name or number")),
        working_dir: fields.get("working_dir").and_then(|node| working_dir(reader, node, kind)),
        resources: fields.get("resources").map(|node| policy::resources(reader, node)).unwrap_or_default(),
        labels: fields.get("labels").map(|node| reader.labels(node)).unwrap_or_default(),
        profiles: fields.get("profiles").map(|node| reader.texts(node)).unwrap_or_default(),
        on_dependency_failure: None,
        on_dependency_change: None,
        on_unhealthy: None,
        on_node_loss: None,
        logs: policy::logs(reader, fields.get("logs")),
        init: fields.get("init").and_then(|node| reader.bool(node)).unwrap_or(false),
        names: None,
        placement: fields.get("placement").map(|node| reader.labels(node)).unwrap_or_default(),
        files: fields.get("files").map(|node| files(reader, node)).unwrap_or_default(),
        deployment: fields.get("deployment").and_then(|node| policy::deployment(reader, node)),
        scaling: fields.get("scaling").and_then(|node| policy::scaling(reader, node)),
        description: fields.get("description").and_then(|node| reader.text(node)).map(|text| text.value),
    };
    reactions(reader, &fields, &mut service);
    service.uses = std::mem::take(&mut reader.uses);
    service.needs = std::mem::take(&mut reader.needs);
    if !reader.local {
        service.needs.clear();
        let brought = brought(reader, service.target.as_ref(), &fields);
        let named = |file: &Spanned<FileCopy>| {
            service.files.iter().any(|other| other.value.destination == file.value.destination)
        };
        let brought = brought.filter(|file| !named(file));
        service.files.extend(brought);
    }
    Some(service)
}

/// `on_…` and `names`.
fn reactions(reader: &mut Reader<'_>, fields: &Fields<'_>, service: &mut Service) {
    const FAILURE: [(&str, OnDependencyFailure); 3] = [
        ("restart", OnDependencyFailure::Restart),
        ("hold", OnDependencyFailure::Hold),
        ("ignore", OnDependencyFailure::Ignore),
    ];
    const CHANGE: [(&str, OnDependencyChange); 2] =
        [("ignore", OnDependencyChange::Ignore), ("restart", OnDependencyChange::Restart)];
    const UNHEALTHY: [(&str, OnUnhealthy); 2] =
        [("ignore", OnUnhealthy::Ignore), ("restart", OnUnhealthy::Restart)];
    const LOSS: [(&str, OnNodeLoss); 2] =
        [("keep", OnNodeLoss::Keep), ("reschedule", OnNodeLoss::Reschedule)];
    const NAMES: [(&str, NameView); 3] =
        [("env", NameView::Env), ("hosts", NameView::Hosts), ("ambassador", NameView::Ambassador)];
    service.on_dependency_failure = fields
        .get("on_dependency_failure")
        .and_then(|node| reader.word(node, &FAILURE))
        .map(|word| word.value);
    service.on_dependency_change =
        fields.get("on_dependency_change").and_then(|node| reader.word(node, &CHANGE)).map(|word| word.value);
    service.on_unhealthy =
        fields.get("on_unhealthy").and_then(|node| reader.word(node, &UNHEALTHY)).map(|word| word.value);
    service.on_node_loss = fields.get("on_node_loss").and_then(|node| reader.word(node, &LOSS));
    service.names = fields.get("names").and_then(|node| reader.word(node, &NAMES)).map(|word| word.value);
}

/// The values of a template's own keys are checked as far as they are the same for every type.
fn template_target(reader: &mut Reader<'_>, fields: &Fields<'_>) {
    for key in [
        "binary",
        "image",
        "file",
        "service",
        "unit",
        "profile",
        "package",
        "version",
        "install_path",
        "pid_file",
        "process_name",
        "container",
    ] {
        if let Some(node) = fields.get(key) {
            reader.template(node, "expected a text");
        }
    }
    for key in ["command", "args", "entrypoint", "pre_install", "post_install"] {
        if let Some(node) = fields.get(key) {
            reader.words(node);
        }
    }
}

/// `env_file` first, `env` over it.
fn environment(reader: &mut Reader<'_>, fields: &Fields<'_>) -> IndexMap<String, Template> {
    let mut all = IndexMap::new();
    if let Some(node) = fields.get("env_file") {
        for (name, value) in env_files(reader, node) {
            let segment = Segment::Value { name: name.clone(), value };
            all.insert(name, Template { segments: vec![segment] });
        }
    }
    if let Some(node) = fields.get("env") {
        all.extend(env(reader, node));
    }
    all
}

fn signal(reader: &mut Reader<'_>, node: &Node) -> Option<Signal> {
    reader
        .parsed(node, "expected a signal such as SIGTERM, INT or 15", Signal::parse)
        .map(|signal| signal.value)
}

fn working_dir(reader: &mut Reader<'_>, node: &Node, kind: Option<&str>) -> Option<Template> {
    let folder = reader.template(node, "expected a folder")?;
    // A container's folders are its own.
    if !matches!(kind, None | Some("process" | "package" | "attach")) {
        return Some(folder);
    }
    let folder = reader.path(folder);
    reader.need(NeedKind::Folder, &folder, node.span);
    Some(folder)
}

fn files(reader: &mut Reader<'_>, node: &Node) -> Vec<Spanned<FileCopy>> {
    let mut all = Vec::new();
    for item in reader.items(node, false, "expected a list of SOURCE:DESTINATION") {
        if matches!(item.kind, Kind::Map(_)) {
            let Some(fields) = reader.fields(item, &FILE_COPY) else { continue };
            reader.require(&fields, item.span, "the file");
            let source = fields.get("source").and_then(|node| reader.text(node));
            let destination = fields.get("destination").and_then(|node| reader.text(node));
            if let (Some(source), Some(destination)) = (source, destination) {
                all.extend(file(reader, &source.value, &destination.value, item.span));
            }
        } else if let Some(text) = reader.literal(item, "expected SOURCE or SOURCE:DESTINATION") {
            let (source, destination) = text.value.split_once(':').unwrap_or((&text.value, &text.value));
            all.extend(file(reader, source, destination, item.span));
        }
    }
    all
}

fn file(reader: &mut Reader<'_>, source: &str, destination: &str, span: Span) -> Option<Spanned<FileCopy>> {
    let destination = PathBuf::from(destination);
    if destination.components().any(|part| part == Component::ParentDir) {
        let message = format!("{} climbs out of its folder", destination.display());
        reader.report(
            Diagnostic::error("files", span, message)
                .label("expected a destination without `..`")
                .help("name it: `SOURCE:DESTINATION`, absolute or below the folder of the project's files on the node"),
        );
        return None;
    }
    Some(Spanned { value: FileCopy { source: reader.absolute(source), destination }, span })
}

/// A Compose file and a package file of a service on another machine come along by themselves, if they are the project's.
fn brought(reader: &Reader<'_>, target: Option<&Target>, fields: &Fields<'_>) -> Option<Spanned<FileCopy>> {
    let (text, key) = match target? {
        Target::Compose { file, .. } => (file, "file"),
        Target::Package { package, .. } => (package, "package"),
        _ => return None,
    };
    let text = text.as_literal().filter(|text| !text.starts_with('/') && !text.starts_with("~/"))?;
    let destination = PathBuf::from(&text);
    let inside = !destination.components().any(|part| part == Component::ParentDir);
    let span = fields.get(key)?.span;
    inside.then(|| Spanned { value: FileCopy { source: reader.absolute(&text), destination }, span })
}
