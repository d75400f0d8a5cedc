//! What the daemon knows of nodes, and what it is asked about them.

use super::super::Context;
use crate::api::node::{self, DrainParams, DrainResult, ListResult, NodeInfo, NodeState};
use crate::connect;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::Project;
use crate::ui::style::{self, paint};
use serde::Serialize;
use std::collections::BTreeMap;

/// The nodes as the daemon knows them, by name; none where no daemon runs.
pub(super) fn known(project: &Project) -> Result<BTreeMap<String, NodeInfo>, CommandError> {
    connect::block_on(async |executor| {
        let Some(daemon) = connect::existing(executor, project).await? else { return Ok(BTreeMap::new()) };
        let known: ListResult = daemon.call(node::LIST, &serde_json::json!({})).await?;
        Ok(known.nodes.into_iter().map(|node| (node.name.clone(), node)).collect())
    })
}

/// Has the daemon try lost nodes now, which were just seen to answer. Where no daemon runs there is nothing to do.
pub(super) fn retry(project: &Project) -> Result<(), CommandError> {
    connect::block_on(async |executor| {
        let Some(daemon) = connect::existing(executor, project).await? else { return Ok(()) };
        let _: serde_json::Value = daemon.call(node::RETRY, &serde_json::json!({})).await?;
        Ok(())
    })
}

/// The state in a symbol and a word, coloured; empty where nothing was ever wanted there.
pub(super) fn state(node: Option<&NodeInfo>) -> String {
    let Some(node) = node else { return String::new() };
    let (style, text) = match node.state {
        NodeState::Unused => (style::DIM, "○ unused"),
        NodeState::Connecting => (style::BUSY, "● connecting"),
        NodeState::Up => (style::GOOD, "✓ up"),
        NodeState::Unreachable => (style::ERROR, "✗ unreachable"),
        NodeState::Lost => (style::ERROR, "✗ lost"),
    };
    let drained = if node.drained { ", drained" } else { "" };
    paint(style, format_args!("{text}{drained}"))
}

/// How its clock differs, where that can be told from the way there: `+1.2s`.
pub(super) fn clock(node: Option<&NodeInfo>) -> String {
    let Some((ahead, uncertain)) =
        node.and_then(|node| Some((node.clock_ahead_ms?, node.clock_uncertain_ms?)))
    else {
        return String::new();
    };
    if ahead.unsigned_abs() <= uncertain {
        return String::new();
    }
    let sign = if ahead < 0 { '-' } else { '+' };
    let size = std::time::Duration::from_millis(ahead.unsigned_abs());
    format!("{sign}{}", crate::ui::time::short(size))
}

/// Since when and why it can't be reached.
pub(super) fn trouble(node: Option<&NodeInfo>) -> String {
    let Some(node) = node else { return String::new() };
    let since =
        node.since.map(|since| format!("since {}: ", since.strftime("%F %T UTC"))).unwrap_or_default();
    if node.message.is_empty() { String::new() } else { format!("{since}{}", node.message) }
}

/// `harness node drain`.
pub(super) fn drain(
    context: &Context,
    project: &Project,
    name: &str,
    off: bool,
) -> Result<Exit, CommandError> {
    #[derive(Serialize)]
    struct Document {
        schema: u32,
        node: String,
        drained: bool,
        #[serde(flatten)]
        result: DrainResult,
    }
    let params = DrainParams { name: name.to_owned(), off };
    let result: DrainResult = connect::block_on(async |executor| {
        let daemon = connect::or_start(executor, project).await?;
        Ok(daemon.call(node::DRAIN, &params).await?)
    })?;
    if !context.ui.is_table() {
        context.ui.document(&Document { schema: 1, node: name.to_owned(), drained: !off, result })?;
        return Ok(Exit::OK);
    }
    let names = |instances: &[orchestrator::model::InstanceName]| {
        instances.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    if off {
        context.ui.say(format_args!("{name} takes part again; nothing moves back by itself"));
    } else if result.moving.is_empty() {
        context.ui.say(format_args!("{name} gets nothing new"));
    } else {
        context
            .ui
            .say(format_args!("{name} gets nothing new; moving to other nodes: {}", names(&result.moving)));
    }
    if !result.staying.is_empty() {
        context.ui.say(format_args!("bound to it by `host`, and staying: {}", names(&result.staying)));
    }
    Ok(Exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(state: NodeState, clock: Option<(i64, u64)>) -> NodeInfo {
        NodeInfo {
            name: "eu-1".into(),
            state,
            since: None,
            message: String::new(),
            drained: state == NodeState::Up,
            clock_ahead_ms: clock.map(|(ahead, _)| ahead),
            clock_uncertain_ms: clock.map(|(_, uncertain)| uncertain),
            instances: Vec::new(),
        }
    }

    #[test]
    fn a_clock_is_told_where_it_surely_differs() {
        let told = |clock| super::clock(Some(&node(NodeState::Up, clock)));
        assert_eq!(told(Some((3, 5))), "");
        assert_eq!(told(Some((-1_200, 5))), "-1.2s");
        assert_eq!(told(Some((3_600_000, 5))), "+1h 00m");
        assert_eq!((told(None), super::clock(None)), (String::new(), String::new()));
    }

    #[test]
    fn every_state_has_a_word() {
        let word = |state| anstream::adapter::strip_str(&super::state(Some(&node(state, None)))).to_string();
        assert_eq!(word(NodeState::Up), "✓ up, drained");
        assert_eq!(word(NodeState::Lost), "✗ lost");
        assert_eq!(super::state(None), "");
    }
}
