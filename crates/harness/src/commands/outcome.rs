//! The summary of a start: counts, time, what failed with its last lines, and what to do next.

use super::Context;
use super::verdict::{Expect, Verdict};
use super::wait::{Board, service_of};
use crate::error::next_steps;
use crate::exit::Exit;
use crate::project::Project;
use crate::ui::describe::{self, Labels};
use crate::ui::time::short;
use crate::ui::{WriteError, logs, style};
use command_executor::log;
use serde::Serialize;
use service_registry::model::State;
use std::time::Duration;

/// Lines of output that are shown of what failed.
const LINES: usize = 10;
/// Instances that are still waited for, of which it is said why.
const PENDING: usize = 10;
/// Names that a sentence may have.
const NAMES: usize = 10;

/// The document of `start -o json` and `restart -o json`.
#[derive(Debug, Serialize)]
struct Document {
    schema: u32,
    exit_code: u8,
    seconds: f64,
    instances: Vec<Outcome>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    instance: String,
    outcome: &'static str,
    state: Option<&'static str>,
    reason: String,
    last_lines: Vec<String>,
}

fn outcome(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pending => "pending",
        Verdict::Ready => "ready",
        Verdict::Completed => "completed",
        Verdict::Overdue => "overdue",
        Verdict::Blocked => "blocked",
        Verdict::Unreachable => "unreachable",
        Verdict::Failed => "failed",
        Verdict::Ended => "ended",
    }
}

/// Says how a start went.
pub(super) fn summary(
    context: &Context,
    project: &Project,
    wanted: &[Expect],
    verdicts: &[Verdict],
    board: &Board,
    time: Duration,
    exit: Exit,
) -> Result<(), WriteError> {
    let last_lines = |instance: &str| {
        if project.remote.is_some() {
            return Vec::new();
        }
        let lines = super::logs::last_lines(project, instance, LINES);
        let lines =
            lines.unwrap_or_else(|| log::last_lines(&project.state_dir, instance, LINES).unwrap_or_default());
        lines.iter().map(|line| plain(&line.text)).collect::<Vec<String>>()
    };
    let outcomes: Vec<Outcome> = wanted
        .iter()
        .zip(verdicts)
        .map(|(expect, verdict)| {
            let entry = board.entries.get(&expect.instance);
            let bad = matches!(verdict, Verdict::Failed | Verdict::Ended | Verdict::Overdue);
            Outcome {
                instance: expect.instance.clone(),
                outcome: outcome(*verdict),
                state: entry.map(|entry| entry.status.state.as_str()),
                reason: entry.map(describe::reason).unwrap_or_default(),
                last_lines: if bad { last_lines(&expect.instance) } else { Vec::new() },
            }
        })
        .collect();
    if !context.ui.is_table() {
        return context.ui.document(&Document {
            schema: 1,
            exit_code: exit.0,
            seconds: time.as_secs_f64(),
            instances: outcomes,
        });
    }
    let labels = Labels::new(wanted.iter().map(|expect| service_of(&expect.instance)));
    let mut pending = 0;
    for (outcome, verdict) in outcomes.iter().zip(verdicts) {
        // Where the waiting ended early: what each was waiting for.
        if *verdict == Verdict::Pending {
            pending += 1;
        }
        if !verdict.is_good() && (*verdict != Verdict::Pending || pending <= PENDING) {
            complain(outcome, *verdict, labels.of(service_of(&outcome.instance), &outcome.instance));
        }
    }
    context.ui.say(counts(verdicts, time));
    Ok(())
}

fn complain(outcome: &Outcome, verdict: Verdict, name: &str) {
    let (style, symbol, word) = match verdict {
        Verdict::Overdue => (style::WARNING, "●", "is not ready, and still running"),
        Verdict::Blocked => (style::ERROR, "✗", "is blocked"),
        Verdict::Unreachable => (style::ERROR, "✗", "can't be started"),
        Verdict::Pending => (style::WARNING, "●", "is not ready yet"),
        Verdict::Ended => (style::ERROR, "✗", "ended by itself"),
        _ => (style::ERROR, "✗", "failed"),
    };
    let reason = if outcome.reason.is_empty() { String::new() } else { format!(": {}", outcome.reason) };
    crate::ui::complain(format_args!("{} {name} {word}{reason}", style::paint(style, symbol)));
    for line in &outcome.last_lines {
        crate::ui::complain(format_args!("    {} {line}", style::paint(style::DIM, "│")));
    }
}

fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..bytes.len().min(2000)).unwrap_or(bytes)).into_owned();
    anstream::adapter::strip_str(&text).to_string().replace('\r', "")
}

/// `4 ready, 1 failed, 1 blocked in 2.3s`.
pub(super) fn counts(verdicts: &[Verdict], time: Duration) -> String {
    let number = |wanted: &[Verdict]| verdicts.iter().filter(|verdict| wanted.contains(verdict)).count();
    let parts: Vec<String> = [
        (number(&[Verdict::Ready]), "ready"),
        (number(&[Verdict::Completed]), "completed"),
        (number(&[Verdict::Failed]), "failed"),
        (number(&[Verdict::Ended]), "ended"),
        (number(&[Verdict::Blocked]), "blocked"),
        (number(&[Verdict::Unreachable]), "unreachable"),
        (number(&[Verdict::Overdue]), "overdue"),
        (number(&[Verdict::Pending]), "not settled"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, word)| format!("{number} {word}"))
    .collect();
    format!("{} in {}", if parts.is_empty() { "nothing to do".into() } else { parts.join(", ") }, short(time))
}

/// What to type next.
pub(super) fn advise(context: &Context, wanted: &[Expect], verdicts: &[Verdict]) {
    let find = |wanted_verdicts: &[Verdict]| {
        let mut pairs = wanted.iter().zip(verdicts);
        pairs
            .find(|(_, verdict)| wanted_verdicts.contains(verdict))
            .map(|(expect, _)| expect.instance.clone())
    };
    let labels = Labels::new(wanted.iter().map(|expect| service_of(&expect.instance)));
    let called = |instance: &str| labels.of(service_of(instance), instance).to_owned();
    if let Some(bad) = find(&[Verdict::Failed, Verdict::Ended]) {
        let name = called(&bad);
        next_steps(
            &context.ui,
            &[
                (format!("harness logs {name}"), "all it said"),
                (format!("harness restart {name}"), "try again with the file as it is now"),
                ("harness stop".into(), "stop everything"),
            ],
        );
    } else if find(&[Verdict::Unreachable]).is_some() {
        next_steps(
            &context.ui,
            &[
                ("harness node check".into(), "what is wrong with the way there"),
                ("harness status --watch".into(), "it is tried again by itself"),
            ],
        );
    } else if let Some(late) = find(&[Verdict::Overdue, Verdict::Pending]) {
        let name = called(&late);
        next_steps(
            &context.ui,
            &[
                (format!("harness health {name}"), "what its checks say"),
                (format!("harness logs -f {name}"), "what it says"),
                ("harness stop".into(), "stop everything"),
            ],
        );
    }
}

/// What an interrupted or timed-out wait leaves behind: what goes on, and how to end it.
pub(super) fn goes_on(context: &Context, wanted: &[Expect], verdicts: &[Verdict], board: &Board) {
    let labels = Labels::new(wanted.iter().map(|expect| service_of(&expect.instance)));
    let label = |expect: &Expect| labels.of(service_of(&expect.instance), &expect.instance).to_owned();
    let runs = |expect: &&Expect| {
        let entry = board.entries.get(&expect.instance);
        entry.is_some_and(|entry| matches!(entry.status.state, State::Starting | State::Running))
    };
    let running: Vec<String> = wanted.iter().filter(runs).map(label).collect();
    if !running.is_empty() {
        let more = running.len().saturating_sub(NAMES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names: Vec<&str> = running.iter().take(NAMES).map(String::as_str).collect();
        context.ui.say(format_args!("What was started goes on: {}{more}", names.join(", ")));
    }
    let mut steps = vec![("harness status".to_owned(), "see how it goes")];
    let late = |(_, verdict): &(&Expect, &Verdict)| matches!(verdict, Verdict::Pending | Verdict::Overdue);
    if let Some((expect, _)) = wanted.iter().zip(verdicts).filter(late).find(|(expect, _)| runs(expect)) {
        steps.push((format!("harness health {}", label(expect)), "what its checks say"));
    }
    steps.push(("harness stop".into(), "stop everything"));
    next_steps(&context.ui, &steps);
}

/// The shape of log lines beside a summary.
pub(super) fn log_shape(context: &Context, names: usize, prefix: bool, times: bool) -> logs::Shape {
    let choice = anstream::AutoStream::choice(&std::io::stdout());
    let forced = context.global.color == crate::ui::Color::Always && !context.global.no_color;
    let colour = forced || (choice != anstream::ColorChoice::Never && context.ui.stdout_terminal);
    logs::Shape { names, prefix, times, colour }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_name_only_what_there_is() {
        use Verdict::{Blocked, Failed, Ready};
        assert_eq!(
            counts(&[Ready, Ready, Failed, Blocked], Duration::from_millis(2_340)),
            "2 ready, 1 failed, 1 blocked in 2.3s"
        );
        assert_eq!(counts(&[], Duration::from_millis(3)), "nothing to do in 3ms");
    }

    #[test]
    fn last_lines_are_plain_text_of_bounded_length() {
        assert_eq!(plain(b"\x1b[31mred\x1b[0m\r"), "red");
        assert_eq!(plain(&vec![b'x'; 100_000]).len(), 2000);
        assert!(plain(b"\xff").contains('\u{fffd}'));
    }
}
