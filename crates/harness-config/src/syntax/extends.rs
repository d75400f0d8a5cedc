//! `extends`: a service on top of its template, key by key.

use super::keys::PROBE_KINDS;
use super::reader::{Reader, shown};
use super::tree::{Entry, Kind, Node};
use crate::diagnostic::{Diagnostic, did_you_mean};
use std::borrow::Cow;

/// Keys of which only one kind can be: what the service has replaces what the template has.
const EXCLUSIVE: [(&[&str], &[&str]); 2] = [(&["command"], &["binary", "args"]), (&["binary"], &["command"])];
/// Keys that belong to a kind of probe.
const PROBE_KEYS: [&str; 8] =
    ["command", "args", "expected_exit", "expected_output", "http", "tcp", "test", "all"];

/// The node of a service with everything that its chain of templates adds. Errors in the chain are reported.
pub(crate) fn resolve<'n>(
    reader: &mut Reader<'_>,
    node: &'n Node,
    templates: &'n [Entry],
    own: Option<&str>,
) -> Cow<'n, Node> {
    let mut chain: Vec<&Node> = vec![node];
    let mut names: Vec<String> = own.into_iter().map(String::from).collect();
    let mut current = node;
    while let Some(extends) = current.get("extends") {
        let Some(name) = reader.literal(extends, "expected the name of a template") else { break };
        if let Some(begin) = names.iter().position(|known| *known == name.value) {
            // Every template of a circle finds it: the first by name reports it.
            let circle = names.get(begin..).unwrap_or_default();
            if own.is_some() && begin == 0 && circle.iter().min() == circle.first() {
                names.push(name.value);
                let message = format!("templates extend each other: {}", names.join(" → "));
                reader.report(Diagnostic::error("cycle", name.span, message).label("closes the circle"));
            }
            break;
        }
        let Some(template) = templates.iter().find(|entry| entry.key == name.value) else {
            let known = templates.iter().map(|entry| entry.key.as_str());
            let help = did_you_mean(&name.value, known).unwrap_or_else(|| "there are no `templates:`".into());
            reader.report(
                Diagnostic::error(
                    "unknown-template",
                    name.span,
                    format!("there is no template `{}`", shown(&name.value)),
                )
                .label("unknown template")
                .help(help),
            );
            break;
        };
        names.push(name.value);
        current = &template.value;
        chain.push(current);
    }
    if chain.len() == 1 {
        return Cow::Borrowed(node);
    }
    let mut merged: Option<Node> = None;
    for part in chain.iter().rev() {
        merged = Some(match merged {
            None => (*part).clone(),
            Some(base) => merge(base, part, 0, ""),
        });
    }
    merged.map_or(Cow::Borrowed(node), Cow::Owned)
}

/// `over` on top of `base`: maps are merged, anything else is replaced.
fn merge(base: Node, over: &Node, depth: usize, key: &str) -> Node {
    let (Kind::Map(mut entries), Kind::Map(own)) =
        (as_map(base.kind, depth, key), as_map(over.kind.clone(), depth, key))
    else {
        return over.clone();
    };
    let has = |name: &str| own.iter().any(|entry| entry.key == name);
    if depth == 0 {
        for (these, replace) in EXCLUSIVE {
            if these.iter().any(|name| has(name)) {
                entries.retain(|entry| !replace.contains(&entry.key.as_str()));
            }
        }
        entries.retain(|entry| entry.key != "extends");
    }
    if depth == 1 && key == "health_check" && PROBE_KINDS.iter().any(|name| has(name)) {
        let same =
            PROBE_KINDS.iter().all(|kind| !entries.iter().any(|entry| entry.key == **kind) || has(kind));
        entries.retain(|entry| !PROBE_KEYS.contains(&entry.key.as_str()) || (same && has(&entry.key)));
    }
    for entry in own {
        match entries.iter_mut().find(|old| old.key == entry.key) {
            Some(old) => {
                let before = std::mem::replace(&mut old.value, entry.value.clone());
                old.value = merge(before, &entry.value, depth + 1, &entry.key);
                old.span = entry.span;
            }
            None => entries.push(entry),
        }
    }
    Node { span: over.span, kind: Kind::Map(entries) }
}

/// Lists that are another way to write a map, as that map, so that they can be merged.
fn as_map(kind: Kind, depth: usize, key: &str) -> Kind {
    let Kind::List(items) = kind else { return kind };
    if depth != 1 || !matches!(key, "env" | "labels" | "placement" | "dependencies") {
        return Kind::List(items);
    }
    let scalar = |item: &Node| matches!(item.kind, Kind::Scalar { .. });
    if !items.iter().all(scalar) {
        return Kind::List(items);
    }
    let entries = items.into_iter().filter_map(|item| {
        let Kind::Scalar { text, .. } = item.kind else { return None };
        let (key, value) = match text.split_once('=') {
            Some((name, value)) if key != "dependencies" => (name.to_string(), Some(value.to_string())),
            _ => (text, None),
        };
        let plain = value.is_none();
        let value = Node { span: item.span, kind: Kind::Scalar { text: value.unwrap_or_default(), plain } };
        Some(Entry { key, span: item.span, value })
    });
    Kind::Map(entries.collect())
}
