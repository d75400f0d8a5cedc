//! Plans as people see them: rounds of steps, those of a round at the same time.

use super::Context;
use crate::api::{PlannedStep, Round, Stale};
use crate::error::CommandError;
use crate::project::Project;
use crate::ui::{WriteError, style};
use orchestrator::graph;
use orchestrator::model::{Condition, InstanceName, Service, ServiceName, Stack};
use serde::Serialize;

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    rounds: &'a [Round],
}

/// Prints a plan.
pub(super) fn show(context: &Context, rounds: &[Round]) -> Result<(), WriteError> {
    if !context.ui.is_table() {
        return context.ui.document(&Document { schema: 1, rounds });
    }
    if rounds.is_empty() {
        return context.ui.out("nothing to do");
    }
    context.ui.out(text(rounds).trim_end())
}

fn text(rounds: &[Round]) -> String {
    let width =
        rounds.iter().flat_map(|round| &round.steps).map(|step| step.instance.to_string().len()).max();
    let width = width.unwrap_or(0);
    let mut text = String::new();
    for (number, round) in rounds.iter().enumerate() {
        text.push_str(&style::paint(style::STRONG, format_args!("Round {}", number + 1)));
        text.push('\n');
        for step in &round.steps {
            let instance = step.instance.to_string();
            let head = format!("  {:<5}  {instance:width$}", step.action);
            if step.reason.is_empty() {
                text.push_str(head.trim_end());
            } else {
                text.push_str(&format!("{head}  {}", style::paint(style::DIM, &step.reason)));
            }
            text.push('\n');
        }
    }
    text
}

/// Says what runs with an older definition.
pub(super) fn say_stale(context: &Context, stale: &[Stale]) {
    for stale in stale {
        let changes = stale.changes.join(", ");
        context.ui.say(format_args!(
            "{} {} runs with an older definition: {changes}",
            style::paint(style::WARNING, "●"),
            stale.instance
        ));
    }
    if !stale.is_empty() {
        context.ui.say(format_args!(
            "`{}` restarts {} with the file as it is now",
            style::paint(style::TYPE, "harness start --apply"),
            if stale.len() == 1 { "it" } else { "them" }
        ));
    }
}

/// The services that the names mean, with all that they need; all without names.
pub(super) fn selected(stack: &Stack, names: &[String]) -> Vec<ServiceName> {
    if names.is_empty() {
        return stack.services.keys().cloned().collect();
    }
    let named: Vec<ServiceName> = names.iter().filter_map(|name| service_of(stack, name)).collect();
    graph::with_needs(&stack.services, named.iter()).into_iter().collect()
}

/// The service that a service's or an instance's name means.
pub(super) fn service_of(stack: &Stack, name: &str) -> Option<ServiceName> {
    if let Some((known, _)) = stack.services.get_key_value(name) {
        return Some(known.clone());
    }
    let instance: InstanceName = name.parse().ok()?;
    stack.services.get_key_value(instance.service()).map(|(known, _)| known.clone())
}

/// The start order of the services that are chosen, in rounds.
pub(super) fn rounds(stack: &Stack, chosen: &[ServiceName]) -> Vec<Round> {
    let steps = |names: Vec<ServiceName>| -> Vec<PlannedStep> {
        names
            .iter()
            .filter(|name| chosen.contains(name))
            .filter_map(|name| stack.services.get(name))
            .flat_map(|service| {
                (1..=service.replicas).map(|number| PlannedStep {
                    instance: InstanceName::new(service.name.clone(), number),
                    action: "start".into(),
                    reason: needs(service),
                })
            })
            .collect()
    };
    graph::rounds(&stack.services)
        .into_iter()
        .map(|names| Round { steps: steps(names) })
        .filter(|round| !round.steps.is_empty())
        .collect()
}

/// `after db is healthy, migrate has completed`, or nothing.
fn needs(service: &Service) -> String {
    let needs: Vec<String> = graph::ordering(service)
        .map(|(name, condition)| match condition {
            Condition::Healthy => format!("{name} is healthy"),
            Condition::Completed => format!("{name} has completed"),
            Condition::Started | Condition::None => format!("{name} has started"),
        })
        .collect();
    if needs.is_empty() { String::new() } else { format!("after {}", needs.join(", ")) }
}

/// The plan when nothing runs and no daemon is there to ask.
pub(super) fn from_nothing(
    project: &Project,
    stack: &Stack,
    names: &[String],
) -> Result<Vec<Round>, CommandError> {
    let live = super::offline::live_instances(project)?;
    let mut rounds = rounds(stack, &selected(stack, names));
    for round in &mut rounds {
        round.steps.retain(|step| !live.contains(&step.instance.to_string()));
    }
    rounds.retain(|round| !round.steps.is_empty());
    Ok(rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_read_from_top_to_bottom() {
        let step = |name: &str, action: &str, reason: &str| PlannedStep {
            instance: name.parse().unwrap(),
            action: action.into(),
            reason: reason.into(),
        };
        let rounds = [
            Round { steps: vec![step("db-1", "start", ""), step("cache-1", "start", "")] },
            Round { steps: vec![step("web-1", "start", "after db is healthy")] },
        ];
        let text = anstream::adapter::strip_str(&text(&rounds)).to_string();
        insta::assert_snapshot!(text, @r"
        Round 1
          start  db-1
          start  cache-1
        Round 2
          start  web-1    after db is healthy
        ");
    }
}
