//! What has become of a start, from the registry's entries alone. Pure: no clock, no IO.

use crate::exit::Exit;
use orchestrator::model::RestartPolicy;
use service_registry::model::{Entry, ReasonCode, State};
use std::collections::{HashMap, HashSet};

/// So many quick deaths in a row and a start is called failed, though its instance is still tried.
const DEATHS: u32 = 3;

/// What is expected of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expect {
    /// Its name.
    pub(crate) instance: String,
    /// What the registry said at this revision or before is the past; 0 if the present state counts too.
    pub(crate) after: u64,
    /// Whether a new run is expected: one that doesn't last was never ready.
    pub(crate) fresh: bool,
    /// The run that is to be replaced: while it is the present one, nothing has happened yet.
    pub(crate) not_run: Option<String>,
    /// Quick deaths that it had before.
    pub(crate) deaths_before: u32,
    /// When it is started again by itself; `None` if that isn't known: then the first failure counts.
    pub(crate) restart: Option<RestartPolicy>,
}

/// What has become of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not settled.
    Pending,
    /// Running, and healthy where it has a check.
    Ready,
    /// A task that ended well.
    Completed,
    /// Past its start-up time-out, and still given a chance.
    Overdue,
    /// It waits for something that failed or is overdue.
    Blocked,
    /// Its node can't be reached.
    Unreachable,
    /// It failed, or dies as fast as it is started.
    Failed,
    /// It ended, though nothing is wrong with how: a service that exited with 0, or was stopped meanwhile.
    Ended,
}

impl Verdict {
    /// Whether this is what was wanted.
    pub(crate) fn is_good(self) -> bool {
        matches!(self, Self::Ready | Self::Completed)
    }
}

/// Everything wanted, judged at once.
pub(crate) fn judge(wanted: &[Expect], entries: &HashMap<String, Entry>) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = wanted
        .iter()
        .map(|expect| entries.get(&expect.instance).map_or(Verdict::Pending, |e| one(expect, e)))
        .collect();
    // What waits for something that won't come soon is settled too, also through others that wait.
    loop {
        let bad: HashSet<&str> = wanted
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| {
                matches!(
                    verdict,
                    Verdict::Failed
                        | Verdict::Overdue
                        | Verdict::Blocked
                        | Verdict::Unreachable
                        | Verdict::Ended
                )
            })
            .filter_map(|(expect, _)| entries.get(&expect.instance).map(|entry| entry.service.as_str()))
            .collect();
        if bad.is_empty() {
            return verdicts;
        }
        let mut changed = false;
        for (expect, verdict) in wanted.iter().zip(&mut verdicts) {
            let Some(entry) = entries.get(&expect.instance) else { continue };
            let held = *verdict == Verdict::Pending
                && waits(entry)
                && entry.dependencies.iter().any(|needed| bad.contains(needed.as_str()));
            if held {
                *verdict = Verdict::Blocked;
                changed = true;
            }
        }
        if !changed {
            return verdicts;
        }
    }
}

fn one(expect: &Expect, entry: &Entry) -> Verdict {
    let lives = matches!(entry.status.state, State::Starting | State::Running | State::Stopping);
    let run = entry.execution.run().filter(|_| lives);
    if entry.revision <= expect.after || (run.is_some() && run == expect.not_run.as_deref()) {
        return Verdict::Pending;
    }
    if entry.lost_since.is_some() {
        return Verdict::Unreachable;
    }
    let code = entry.status.reason.as_ref().map(|reason| reason.code);
    match (entry.status.state, code) {
        (State::Stopped | State::Running, Some(ReasonCode::Completed)) => Verdict::Completed,
        (State::Running, _) if entry.ready => Verdict::Ready,
        (_, Some(ReasonCode::Backoff)) => after_deaths(expect, entry),
        (_, Some(ReasonCode::Blocked | ReasonCode::DependencyFailed | ReasonCode::Held)) => Verdict::Blocked,
        (_, Some(ReasonCode::Unreachable)) => Verdict::Unreachable,
        // It ended before and its turn comes: this start's, or a new daemon's that found it lost.
        (State::Failed | State::Stopped, Some(ReasonCode::Waiting)) => Verdict::Pending,
        // Between an end and the plan to try again there is a moment in which only the end is known.
        (
            State::Failed | State::Stopped,
            Some(
                ReasonCode::Exited
                | ReasonCode::Signaled
                | ReasonCode::SpawnFailed
                | ReasonCode::KeeperKilled,
            ),
        ) if is_retried(expect, entry) => after_deaths(expect, entry),
        (State::Failed, _) => Verdict::Failed,
        (State::Starting | State::Running, Some(ReasonCode::Overdue | ReasonCode::TimedOut)) => {
            Verdict::Overdue
        }
        // The old run has ended, the new one comes next.
        (State::Stopped, Some(ReasonCode::Replaced)) => Verdict::Pending,
        (State::Stopped, _) => Verdict::Ended,
        _ => Verdict::Pending,
    }
}

fn after_deaths(expect: &Expect, entry: &Entry) -> Verdict {
    if entry.deaths.saturating_sub(expect.deaths_before) >= DEATHS {
        Verdict::Failed
    } else {
        Verdict::Pending
    }
}

fn is_retried(expect: &Expect, entry: &Entry) -> bool {
    match expect.restart {
        None | Some(RestartPolicy::No) => false,
        Some(RestartPolicy::Always | RestartPolicy::UnlessStopped) => true,
        Some(RestartPolicy::OnFailure) => !entry.status.exit.as_ref().is_some_and(|exit| exit.is_success()),
    }
}

fn waits(entry: &Entry) -> bool {
    entry.status.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::Waiting)
}

/// Whether nothing is left to wait for.
pub(crate) fn settled(verdicts: &[Verdict]) -> bool {
    verdicts.iter().all(|verdict| *verdict != Verdict::Pending)
}

/// The exit code for what was seen: 4 if nothing failed but a node can't be reached, 5 if time-outs are the only failures,
/// else 3.
pub(crate) fn exit(verdicts: &[Verdict], timed_out: bool) -> Exit {
    let failed = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Failed | Verdict::Ended));
    let late = verdicts.contains(&Verdict::Overdue);
    let blocked = verdicts.contains(&Verdict::Blocked);
    let unreachable = verdicts.contains(&Verdict::Unreachable);
    if failed {
        Exit::SERVICE_FAILED
    } else if unreachable {
        Exit::UNREACHABLE
    } else if late || timed_out {
        Exit::TIMED_OUT
    } else if blocked {
        Exit::SERVICE_FAILED
    } else {
        Exit::OK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use service_registry::model::{Execution, Reason};

    struct Fact(&'static str, State, Option<ReasonCode>, bool);

    fn entry(fact: &Fact, needs: &[&str]) -> Entry {
        let Fact(service, state, code, ready) = fact;
        let mut entry = Entry::new(*service, format!("{service}-1"), Timestamp::UNIX_EPOCH);
        entry.status.state = *state;
        entry.status.reason = code.map(|code| Reason::new(code, ""));
        entry.ready = *ready;
        entry.revision = 10;
        entry.dependencies = needs.iter().map(|name| (*name).to_owned()).collect();
        entry
    }

    fn expect(service: &str) -> Expect {
        Expect {
            instance: format!("{service}-1"),
            after: 5,
            fresh: true,
            not_run: None,
            deaths_before: 0,
            restart: None,
        }
    }

    fn check(facts: &[(Fact, &[&str])]) -> Vec<Verdict> {
        let wanted: Vec<Expect> = facts.iter().map(|(fact, _)| expect(fact.0)).collect();
        let entries =
            facts.iter().map(|(fact, needs)| (format!("{}-1", fact.0), entry(fact, needs))).collect();
        judge(&wanted, &entries)
    }

    #[test]
    fn each_state_has_its_verdict() {
        use ReasonCode as R;
        use State::{Failed, Registered, Running, Starting, Stopped, Stopping};
        for (state, code, ready, verdict) in [
            (Registered, None, false, Verdict::Pending),
            (Registered, Some(R::Waiting), false, Verdict::Pending),
            (Registered, Some(R::Blocked), false, Verdict::Blocked),
            (Stopped, Some(R::Held), false, Verdict::Blocked),
            (Starting, None, false, Verdict::Pending),
            (Starting, Some(R::Overdue), false, Verdict::Overdue),
            (Running, None, false, Verdict::Pending),
            (Running, None, true, Verdict::Ready),
            (Stopping, None, false, Verdict::Pending),
            (Stopped, Some(R::Completed), false, Verdict::Completed),
            (Stopped, Some(R::StopRequested), false, Verdict::Ended),
            (Stopped, Some(R::Exited), false, Verdict::Ended),
            (Stopped, Some(R::Replaced), false, Verdict::Pending),
            (Failed, Some(R::GaveUp), false, Verdict::Failed),
            (Failed, Some(R::SpawnFailed), false, Verdict::Failed),
            (Failed, Some(R::Exited), false, Verdict::Failed),
            (Failed, Some(R::Backoff), false, Verdict::Pending),
            (Failed, Some(R::Waiting), false, Verdict::Pending),
            (Stopped, Some(R::Waiting), false, Verdict::Pending),
            (Failed, None, false, Verdict::Failed),
        ] {
            assert_eq!(check(&[(Fact("web", state, code, ready), &[])]), [verdict], "{state} {code:?}");
        }
    }

    #[test]
    fn what_was_so_before_the_start_does_not_count() {
        let mut old = entry(&Fact("web", State::Failed, Some(ReasonCode::GaveUp), false), &[]);
        old.revision = 5;
        let entries = HashMap::from([("web-1".to_owned(), old)]);
        assert_eq!(judge(&[expect("web")], &entries), [Verdict::Pending]);
        assert_eq!(judge(&[Expect { after: 0, ..expect("web") }], &entries), [Verdict::Failed]);
        assert_eq!(judge(&[expect("gone")], &entries), [Verdict::Pending]);
    }

    #[test]
    fn a_run_that_is_to_be_replaced_is_not_ready() {
        let mut running = entry(&Fact("web", State::Running, None, true), &[]);
        running.execution = Execution::Process { pid: Some(7), run: Some("old".into()) };
        let entries = HashMap::from([("web-1".to_owned(), running)]);
        assert_eq!(
            judge(&[Expect { not_run: Some("old".into()), ..expect("web") }], &entries),
            [Verdict::Pending]
        );
        assert_eq!(
            judge(&[Expect { not_run: Some("other".into()), ..expect("web") }], &entries),
            [Verdict::Ready]
        );
    }

    #[test]
    fn backoff_is_failure_after_three_deaths_of_this_start() {
        for (deaths, before, verdict) in [
            (1, 0, Verdict::Pending),
            (2, 0, Verdict::Pending),
            (3, 0, Verdict::Failed),
            (4, 2, Verdict::Pending),
        ] {
            let mut web = entry(&Fact("web", State::Failed, Some(ReasonCode::Backoff), false), &[]);
            web.deaths = deaths;
            let entries = HashMap::from([("web-1".to_owned(), web)]);
            let expect = Expect { deaths_before: before, ..expect("web") };
            assert_eq!(judge(&[expect], &entries), [verdict], "{deaths} after {before}");
        }
    }

    #[test]
    fn an_end_is_no_failure_where_it_is_tried_again() {
        use service_registry::model::Exit as Ended;
        for (policy, code, deaths, verdict) in [
            (None, 1, 1, Verdict::Failed),
            (Some(RestartPolicy::No), 1, 1, Verdict::Failed),
            (Some(RestartPolicy::OnFailure), 1, 1, Verdict::Pending),
            (Some(RestartPolicy::OnFailure), 1, 3, Verdict::Failed),
            (Some(RestartPolicy::OnFailure), 0, 1, Verdict::Failed),
            (Some(RestartPolicy::Always), 0, 1, Verdict::Pending),
        ] {
            let mut web = entry(&Fact("web", State::Failed, Some(ReasonCode::Exited), false), &[]);
            web.status.exit = Some(Ended::with_code(code));
            web.deaths = deaths;
            let entries = HashMap::from([("web-1".to_owned(), web)]);
            let expect = Expect { restart: policy, ..expect("web") };
            assert_eq!(judge(&[expect], &entries), [verdict], "{policy:?} {code} {deaths}");
        }
    }

    #[test]
    fn who_waits_for_the_overdue_is_settled_through_any_chain_and_others_are_not() {
        let waiting = |name| Fact(name, State::Registered, Some(ReasonCode::Waiting), false);
        let verdicts = check(&[
            (Fact("db", State::Starting, Some(ReasonCode::Overdue), false), &[]),
            (waiting("ui"), &["web"]),
            (waiting("web"), &["db"]),
            (waiting("other"), &["cache"]),
            (Fact("cache", State::Starting, None, false), &[]),
        ]);
        assert_eq!(
            verdicts,
            [Verdict::Overdue, Verdict::Blocked, Verdict::Blocked, Verdict::Pending, Verdict::Pending]
        );
        assert!(!settled(&verdicts));
    }

    #[test]
    fn the_exit_code_is_5_only_for_time_outs() {
        use Verdict::{Blocked, Completed, Ended, Failed, Overdue, Pending, Ready};
        for (verdicts, timed_out, code) in [
            (vec![Ready, Completed], false, Exit::OK),
            (vec![Ready, Overdue, Blocked], false, Exit::TIMED_OUT),
            (vec![Ready, Pending], true, Exit::TIMED_OUT),
            (vec![Overdue, Failed], false, Exit::SERVICE_FAILED),
            (vec![Pending, Failed], true, Exit::SERVICE_FAILED),
            (vec![Ready, Blocked], false, Exit::SERVICE_FAILED),
            (vec![Ended], false, Exit::SERVICE_FAILED),
        ] {
            assert_eq!(exit(&verdicts, timed_out), code, "{verdicts:?}");
        }
    }
}
