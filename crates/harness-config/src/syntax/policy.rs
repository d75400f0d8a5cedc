//! `restart`, `dependencies`, `resources`, `logs`, `deployment`, `scaling`.

use super::keys::{
    BACKOFF, DEPENDENCY, DEPLOYMENT, DEPLOYMENT_OPTIONS, LOGS, RESOURCES, RESTART, SCALING, SCALING_OPTIONS,
};
use super::reader::{Fields, Reader, Spanned};
use super::tree::{Kind, Node};
use crate::diagnostic::Diagnostic;
use crate::source::Span;
use indexmap::IndexMap;
use orchestrator::model::{Condition, Deployment, LogPolicy, Resources, RestartPolicy, Scaling, Strategy};
use std::time::Duration;

/// `restart` as written; what isn't there has a default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Restart {
    pub(crate) policy: Option<RestartPolicy>,
    pub(crate) max_retries: Option<u32>,
    pub(crate) initial: Option<Duration>,
    pub(crate) max: Option<Duration>,
    pub(crate) reset_after: Option<Duration>,
}

const RESTARTS: [(&str, RestartPolicy); 5] = [
    ("no", RestartPolicy::No),
    ("always", RestartPolicy::Always),
    ("on-failure", RestartPolicy::OnFailure),
    ("unless-stopped", RestartPolicy::UnlessStopped),
    // YAML 1.1 writers turn `no` into this.
    ("false", RestartPolicy::No),
];

/// When a service is started again.
pub(crate) fn restart(reader: &mut Reader<'_>, node: &Node) -> Restart {
    if !matches!(node.kind, Kind::Map(_)) {
        return Restart { policy: policy(reader, node), ..Restart::default() };
    }
    let Some(fields) = reader.fields(node, &RESTART) else { return Restart::default() };
    let mut restart = Restart {
        policy: fields.get("policy").and_then(|node| policy(reader, node)),
        max_retries: fields
            .get("max_retries")
            .and_then(|node| reader.count(node, 0, u32::MAX))
            .map(|n| n.value),
        reset_after: fields.get("reset_after").and_then(|node| reader.duration(node)),
        ..Restart::default()
    };
    if let Some(fields) = fields.get("backoff").and_then(|node| reader.fields(node, &BACKOFF)) {
        restart.initial = fields.get("initial").and_then(|node| reader.duration(node));
        restart.max = fields.get("max").and_then(|node| reader.duration(node));
        if let (Some(initial), Some(max)) = (restart.initial, restart.max)
            && initial > max
        {
            reader.report(
                Diagnostic::error("restart", fields.span, "the first delay is longer than the longest")
                    .label("expected `initial` to be at most `max`"),
            );
        }
    }
    restart
}

fn policy(reader: &mut Reader<'_>, node: &Node) -> Option<RestartPolicy> {
    reader
        .parsed(node, "expected no, always, on-failure or unless-stopped", |text| {
            RESTARTS.iter().find(|(name, _)| *name == text.to_ascii_lowercase()).map(|(_, policy)| *policy)
        })
        .map(|policy| policy.value)
}

/// An edge as written.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) condition: Option<Spanned<Condition>>,
}

const CONDITIONS: [(&str, Condition); 4] = [
    ("started", Condition::Started),
    ("healthy", Condition::Healthy),
    ("completed", Condition::Completed),
    ("none", Condition::None),
];

/// What a service needs: a list of names, or a map to conditions.
pub(crate) fn dependencies(reader: &mut Reader<'_>, node: &Node) -> Vec<Dependency> {
    let mut all: Vec<Dependency> = Vec::new();
    if let Kind::Map(entries) = &node.kind {
        for entry in entries {
            let condition = condition(reader, &entry.value);
            all.push(Dependency { name: entry.key.clone(), span: entry.span, condition });
        }
        return all;
    }
    for item in reader.items(node, true, "expected a list of names, or a map of name: {condition: …}") {
        let Some(name) = reader.literal(item, "expected the name of a service or task") else { continue };
        if let Some(first) = all.iter().find(|dependency| dependency.name == name.value) {
            let problem =
                Diagnostic::error("duplicate", name.span, format!("`{}` is here twice", name.value))
                    .label("the second")
                    .related(first.span, "the first");
            reader.report(problem);
            continue;
        }
        all.push(Dependency { name: name.value, span: name.span, condition: None });
    }
    all
}

fn condition(reader: &mut Reader<'_>, node: &Node) -> Option<Spanned<Condition>> {
    if node.is_null() {
        return None;
    }
    if matches!(node.kind, Kind::Map(_)) {
        let fields = reader.fields(node, &DEPENDENCY)?;
        return fields.get("condition").and_then(|node| condition(reader, node));
    }
    if let Kind::Scalar { text, .. } = &node.kind {
        // Compose's words.
        let near = match text.as_str() {
            "service_started" => Some("started"),
            "service_healthy" => Some("healthy"),
            "service_completed_successfully" => Some("completed"),
            _ => None,
        };
        if let Some(near) = near {
            reader.report(
                Diagnostic::error("type", node.span, format!("`{text}` is Compose's word"))
                    .label("expected started, healthy, completed or none")
                    .help(format!("write `{near}`")),
            );
            return None;
        }
    }
    reader.word(node, &CONDITIONS)
}

/// Limits of an instance.
pub(crate) fn resources(reader: &mut Reader<'_>, node: &Node) -> Resources {
    let Some(fields) = reader.fields(node, &RESOURCES) else { return Resources::default() };
    Resources {
        memory: fields.get("memory").and_then(|node| reader.size(node)),
        cpus: fields.get("cpus").and_then(|node| reader.number(node)),
        nice: fields
            .get("nice")
            .and_then(|node| reader.integer(node, -20..=19))
            .and_then(|nice| i32::try_from(nice.value).ok()),
        open_files: fields
            .get("open_files")
            .and_then(|node| reader.integer(node, 1..=i64::MAX))
            .and_then(|files| u64::try_from(files.value).ok()),
    }
}

/// What is kept of an instance's output.
pub(crate) fn logs(reader: &mut Reader<'_>, node: Option<&Node>) -> LogPolicy {
    let mut logs = LogPolicy { max_size: 10 << 20, keep_files: 5, keep_runs: 5 };
    let Some(fields) = node.and_then(|node| reader.fields(node, &LOGS)) else { return logs };
    if let Some(node) = fields.get("max_size")
        && let Some(size) = reader.size(node)
    {
        if size < 4096 {
            reader.wrong(node, "expected a size of at least 4KiB");
        }
        logs.max_size = size;
    }
    if let Some(count) = fields.get("keep_files").and_then(|node| reader.count(node, 0, 10_000)) {
        logs.keep_files = count.value;
    }
    if let Some(count) = fields.get("keep_runs").and_then(|node| reader.count(node, 1, 10_000)) {
        logs.keep_runs = count.value;
    }
    logs
}

/// How a new version replaces an old one.
pub(crate) fn deployment(reader: &mut Reader<'_>, node: &Node) -> Option<Deployment> {
    const STRATEGIES: [(&str, Strategy); 4] = [
        ("recreate", Strategy::Recreate),
        ("rolling", Strategy::Rolling),
        ("blue-green", Strategy::BlueGreen),
        ("canary", Strategy::Canary),
    ];
    let fields = reader.fields(node, &DEPLOYMENT)?;
    Some(Deployment {
        strategy: fields
            .get("strategy")
            .and_then(|node| reader.word(node, &STRATEGIES))
            .map_or(Strategy::Recreate, |strategy| strategy.value),
        max_parallel: fields
            .get("max_parallel")
            .and_then(|node| reader.count(node, 1, 10_000))
            .map_or(1, |n| n.value),
        rollback_on_failure: fields
            .get("rollback_on_failure")
            .and_then(|node| reader.bool(node))
            .unwrap_or(true),
        options: options(reader, &fields, &DEPLOYMENT_OPTIONS),
    })
}

/// Keys that only some ways read, checked and kept as text.
fn options(reader: &mut Reader<'_>, fields: &Fields<'_>, names: &[&'static str]) -> IndexMap<String, String> {
    let mut options = IndexMap::new();
    for name in names {
        let Some(node) = fields.get(name) else { continue };
        let text = match *name {
            "canary_percent" => reader.integer(node, 1..=100).map(|percent| percent.value.to_string()),
            "url" => reader.text(node).map(|url| url.value),
            _ => reader.duration(node).map(super::duration::text),
        };
        options.extend(text.map(|text| ((*name).to_string(), text)));
    }
    options
}

/// How many replicas there should be.
pub(crate) fn scaling(reader: &mut Reader<'_>, node: &Node) -> Option<Scaling> {
    let fields = reader.fields(node, &SCALING)?;
    reader.require(&fields, node.span, "scaling");
    let min = fields.get("min").and_then(|node| reader.count(node, 0, 10_000));
    let max = fields.get("max").and_then(|node| reader.count(node, 1, 10_000));
    let metric = fields.get("metric").and_then(|node| reader.text(node));
    let target = fields.get("target").and_then(|node| {
        reader.parsed(node, "expected a number above 0, also as a percentage", |text| {
            let text = text.strip_suffix('%').unwrap_or(text);
            text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0)
        })
    });
    let options = options(reader, &fields, &SCALING_OPTIONS);
    let (min, max) = (min?, max?);
    if min.value > max.value {
        reader.report(
            Diagnostic::error(
                "scaling",
                max.span,
                format!("`max` ({}) is less than `min` ({})", max.value, min.value),
            )
            .label(format!("expected at least {}", min.value))
            .related(min.span, "the minimum"),
        );
        return None;
    }
    Some(Scaling { min: min.value, max: max.value, metric: metric?.value, target: target?.value, options })
}
