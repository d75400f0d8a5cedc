//! The wall clock is set forth and back, and nothing that waits for a time notices: not the pause after a death, not the
//! pause between two checks.

use super::clock::Clock;
use super::project::Project;
use super::report::Report;
use super::{Ends, failed, stack};
use crate::shell::Failure;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What the clock is set to, in milliseconds after the machine's.
const OFFSETS: &[i64] = &[
    3_600_000,
    -3_600_000,
    30 * DAY,
    -30 * DAY,
    150,
    -150,
    20 * 365 * DAY,
    0,
    -20 * 365 * DAY,
    10_000,
    -DAY,
    DAY,
    0,
];

const DAY: i64 = 86_400_000;

/// Time between two settings.
const PACE: Duration = Duration::from_millis(450);

/// The pause that was asked for between two deaths, and between two checks, in milliseconds.
pub(crate) const PAUSE: u64 = 200;

/// A pause that is longer than this was prolonged by more than a busy machine.
const LONGEST: u64 = 3_000;

/// Sets the clock and looks.
pub(crate) fn steps(project: &Project, clock: &Clock, report: &mut Report) -> Result<(), Failure> {
    let _ended = Ends(project);
    let text = stack::pausing_yaml(&project.programs.temper, &project.folder);
    project.write_services(&text).map_err(failed("services.yaml"))?;
    project.run(&["start", "--no-wait"]).map_err(failed("start"))?;
    for offset in OFFSETS {
        clock.set(*offset).map_err(failed("the clock"))?;
        std::thread::sleep(PACE);
        for args in [&["status"][..], &["logs", "-n", "3"], &["events"], &["list"]] {
            let done = project.run(args).map_err(failed("a command"))?;
            if done.code != Some(0) {
                report.violation(format!("{args:?}, the clock set {offset} ms ahead: {done:?}"));
            }
        }
    }
    clock.set(0).map_err(failed("the clock"))?;
    for (what, shortest) in [("deaths", PAUSE - 5), ("checks", PAUSE - 50)] {
        match pauses(&project.folder.join(what), shortest) {
            Ok((count, least, most)) => report.notes.push(format!(
                "clock set {} times: {count} pauses of {PAUSE} ms between {what} took {least} to {most} ms",
                OFFSETS.len()
            )),
            Err(why) => report.violation(format!("while the clock was set, {what}: {why}")),
        }
    }
    let done = project.run(&["stop", "-y"]).map_err(failed("stop"))?;
    if done.code != Some(0) {
        report.violation(format!("stop, after the clock was set: {done:?}"));
    }
    Ok(())
}

/// Count, the shortest and the longest of the pauses between the moments that a file lists.
fn pauses(path: &Path, shortest: u64) -> Result<(usize, u64, u64), String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let moments: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    judge(&moments, shortest)
}

fn judge(moments: &[u64], shortest: u64) -> Result<(usize, u64, u64), String> {
    let pauses: Vec<u64> =
        moments.iter().zip(moments.iter().skip(1)).map(|(from, to)| to.saturating_sub(*from)).collect();
    let (Some(least), Some(most)) = (pauses.iter().min().copied(), pauses.iter().max().copied()) else {
        return Err("there were none".into());
    };
    match () {
        () if pauses.len() < OFFSETS.len() => Err(format!("only {} pauses", pauses.len())),
        () if least < shortest => Err(format!("a pause of {least} ms instead of {PAUSE}: {pauses:?}")),
        () if most > LONGEST => Err(format!("a pause of {most} ms instead of {PAUSE}: {pauses:?}")),
        () => Ok((pauses.len(), least, most)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_that_were_cut_short_or_prolonged_are_found() {
        let even: Vec<u64> = (0..20).map(|number| number * 210).collect();
        assert_eq!(judge(&even, 195), Ok((19, 210, 210)));
        let mut short = even.clone();
        short.insert(5, 1_000);
        assert!(judge(&short, 195).is_err());
        let mut long = even.clone();
        long.push(20_000);
        assert!(judge(&long, 195).is_err());
        assert!(judge(&even[..3], 195).is_err() && judge(&[], 195).is_err());
    }
}
