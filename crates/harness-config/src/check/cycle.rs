//! Services that wait for each other.

use super::Facts;
use crate::diagnostic::Diagnostic;
use crate::lower::edges;
use crate::source::Span;
use crate::syntax::service::Service;
use orchestrator::model::{Condition, Subject};
use std::collections::HashMap;

/// Reports one cycle for each group of services that wait for each other.
pub(super) fn cycles(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    let index: HashMap<&str, usize> =
        facts.active.iter().enumerate().map(|(at, service)| (service.name.as_str(), at)).collect();
    let graph: Vec<Vec<usize>> = facts
        .active
        .iter()
        .map(|service| {
            edges(service, facts.by_name)
                .iter()
                .filter(|(name, edge)| edge.condition != Condition::None && name.as_str() != service.name)
                .filter_map(|(name, _)| index.get(name.as_str()).copied())
                .collect()
        })
        .collect();
    for cycle in find(&graph) {
        out.extend(report(facts, &cycle));
    }
}

/// Depth first, without recursion: the file may hold a chain of any length. Each cycle begins with its lowest number.
fn find(graph: &[Vec<usize>]) -> Vec<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; graph.len()];
    let mut cycles: Vec<Vec<usize>> = Vec::new();
    for start in 0..graph.len() {
        if marks.get(start) != Some(&Mark::New) {
            continue;
        }
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        while let Some((node, next)) = path.last_mut() {
            let node = *node;
            if *next == 0
                && let Some(mark) = marks.get_mut(node)
            {
                *mark = Mark::Open;
            }
            let target = graph.get(node).and_then(|edges| edges.get(*next)).copied();
            *next += 1;
            match target.and_then(|target| marks.get(target).map(|mark| (target, *mark))) {
                Some((target, Mark::New)) => path.push((target, 0)),
                Some((target, Mark::Open)) => {
                    let begin = path.iter().position(|(at, _)| *at == target).unwrap_or(0);
                    let mut cycle: Vec<usize> = path.iter().skip(begin).map(|(at, _)| *at).collect();
                    // One cycle for a service is enough to show it.
                    let known = cycles.iter().any(|old| old.iter().any(|at| cycle.contains(at)));
                    if !known {
                        let lowest =
                            cycle.iter().enumerate().min_by_key(|(_, at)| **at).map_or(0, |(i, _)| i);
                        cycle.rotate_left(lowest);
                        cycles.push(cycle);
                    }
                }
                Some((_, Mark::Done)) => {}
                None => {
                    if let Some(mark) = marks.get_mut(node) {
                        *mark = Mark::Done;
                    }
                    path.pop();
                }
            }
        }
    }
    cycles
}

fn report(facts: &Facts<'_>, cycle: &[usize]) -> Option<Diagnostic> {
    let services: Vec<&Service> = cycle.iter().filter_map(|at| facts.active.get(*at).copied()).collect();
    let first = services.first()?;
    let mut names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    names.push(&first.name);
    if names.len() > 30 {
        let left_out = names.len() - 28;
        names.splice(14..14 + left_out, ["…"]);
    }
    let pairs: Vec<(&Service, &Service)> =
        services.iter().zip(services.iter().cycle().skip(1)).map(|(a, b)| (*a, *b)).collect();
    let places: Vec<(Span, bool, String)> = pairs
        .iter()
        .map(|(from, to)| {
            let (span, implied) = place(from, to);
            (span, implied, format!("`{}` needs `{}`", from.name, to.name))
        })
        .collect();
    let implied = pairs.iter().zip(&places).find(|(_, (_, implied, _))| *implied).map(|(pair, _)| pair);
    let (span, _, label) = places.first()?;
    let mut diagnostic =
        Diagnostic::error("cycle", *span, format!("services wait for each other: {}", names.join(" → ")))
            .label(label.clone());
    for (span, _, label) in places.iter().skip(1).take(10) {
        diagnostic = diagnostic.related(*span, label.clone());
    }
    if let Some((from, to)) = implied {
        diagnostic = diagnostic.help(format!(
            "if `{}` only wants the address, and no order: dependencies: {{{}: {{condition: none}}}}",
            from.name, to.name
        ));
    }
    Some(diagnostic)
}

/// Where one service says that it needs the other, and whether only a reference says so.
fn place(from: &Service, to: &Service) -> (Span, bool) {
    if let Some(dependency) = from.dependencies.iter().find(|dependency| dependency.name == to.name) {
        return (dependency.span, false);
    }
    let used = from
        .uses
        .iter()
        .find(|used| matches!(&used.reference.subject, Subject::Service(name) if name.as_str() == to.name));
    (used.map_or(from.span, |used| used.span), true)
}
