//! A checker that finds nothing proves nothing: each kind of damage is made, and must be found.

use super::*;
use crate::torture::evidence::{Gap, Record};

/// A run whose writer `o` wrote `written` lines, with the log of `lines`.
fn run(written: u64, lines: impl IntoIterator<Item = u64>) -> Run {
    let mut file = Vec::new();
    for seq in lines {
        file.extend_from_slice(b"2026-11-23T10:00:00.000000001Z stdout F ");
        line::compose(&mut file, "o", seq, (seq % 40) as usize);
    }
    Run {
        instance: "web-1".into(),
        run: "r".into(),
        record: Some(Ok(record(State::Exited(Exit::Code(3))))),
        files: vec![(0, file)],
        writers: [("o".to_owned(), Progress { attempted: written, written })].into(),
        begun: true,
        declared: Some(Exit::Code(3)),
        seconds: 1.0,
    }
}

fn record(state: State) -> Record {
    Record { state, gaps: Vec::new(), left: 0 }
}

const CALM: Circumstances = Circumstances {
    keeper_killed: false,
    disk_full: false,
    keep_files: 2,
    zygotes_killed: false,
    starved: false,
    forgotten: false,
};

fn with_gap(mut run: Run, reason: &str, lines: Option<u64>) -> Run {
    if let Some(Ok(record)) = &mut run.record {
        record.gaps.push(Gap { reason: reason.into(), lines });
    }
    run
}

#[test]
fn a_whole_log_is_fine() {
    let findings = check(&run(100, 1..=100), CALM);
    assert_eq!((findings.lines, findings.lost, findings.doubled), (100, 0, 0));
    assert_eq!(findings.violations, Vec::<String>::new());
}

#[test]
fn losses_and_doubles_are_found() {
    for (lines, lost, doubled) in [
        ((2..=100).collect::<Vec<u64>>(), 1, 0),
        ((1..=99).collect(), 1, 0),
        ((1..=50).chain(60..=100).collect(), 9, 0),
        ((1..=50).chain(50..=100).collect(), 0, 1),
        ((1..=50).chain(41..=100).collect(), 0, 10),
        (vec![], 100, 0),
    ] {
        let findings = check(&run(100, lines), CALM);
        assert_eq!((findings.lost, findings.doubled), (lost, doubled), "{:?}", findings.violations);
        assert!(!findings.violations.is_empty());
    }
}

#[test]
fn a_line_that_was_attempted_may_be_there_and_one_that_wasnt_may_not() {
    let mut killed = run(10, 1..=11);
    killed.writers.insert("o".into(), Progress { attempted: 11, written: 10 });
    assert_eq!(check(&killed, CALM).violations, Vec::<String>::new());
    assert_eq!(check(&run(10, 1..=11), CALM).violations.len(), 1);
}

#[test]
fn only_rotation_excuses_the_first_lines() {
    let mut rotated = run(100, 41..=100);
    assert_eq!(check(&rotated, CALM).lost, 40);
    rotated.files.insert(0, (2, Vec::new()));
    let findings = check(&rotated, CALM);
    assert_eq!((findings.rotated, findings.violations.len()), (40, 0));
    let mut holed = run(100, (41..=60).chain(70..=100));
    holed.files.insert(0, (2, Vec::new()));
    assert_eq!(check(&holed, CALM).lost, 9);
}

#[test]
fn only_a_killed_keeper_excuses_the_last_lines() {
    let gap = |lines: std::ops::RangeInclusive<u64>| with_gap(run(100, lines), "keeper killed", None);
    let killed = Circumstances { keeper_killed: true, ..CALM };
    let findings = check(&gap(1..=70), killed);
    assert_eq!((findings.gaps, findings.violations.len()), (30, 0));
    assert!(!check(&gap(1..=70), CALM).violations.is_empty(), "a gap that nothing explains");
    assert_eq!(check(&gap(31..=100), killed).lost, 30, "the first lines are not excused");
    assert_eq!(check(&run(100, 1..=70), killed).lost, 30, "without a gap record nothing is");
}

#[test]
fn a_full_disk_excuses_as_many_lines_as_it_counted() {
    let full = Circumstances { disk_full: true, ..CALM };
    let holed = run(100, (1..=50).chain(61..=100));
    assert_eq!(check(&with_gap(holed.clone(), "disk full: 500 bytes", Some(10)), full).violations.len(), 0);
    assert_eq!(check(&with_gap(holed, "disk full: 500 bytes", Some(9)), full).lost, 1);
}

#[test]
fn exits_that_are_missing_or_wrong_are_found() {
    let with = |state: State| Run { record: Some(Ok(record(state))), ..run(5, 1..=5) };
    let killed = Circumstances { keeper_killed: true, ..CALM };
    let unknown = || with(State::Exited(Exit::Unknown("keeper killed".into())));
    assert_eq!(check(&unknown(), CALM).violations.len(), 1);
    assert_eq!(check(&unknown(), killed).violations.len(), 0);
    assert_eq!(check(&with(State::Open("running".into())), killed).violations.len(), 1);
    assert_eq!(check(&with(State::Exited(Exit::Code(4))), CALM).violations.len(), 1);
    assert_eq!(check(&with(State::Exited(Exit::Signal(15))), CALM).violations.len(), 0);
    assert_eq!(check(&with(State::FailedToStart("exec".into())), CALM).violations.len(), 1);
    let lost = Run { record: None, files: Vec::new(), ..run(5, 1..=5) };
    assert_eq!(check(&lost, CALM).violations.len(), 1);
    assert_eq!(check(&lost, Circumstances { forgotten: true, ..CALM }).forgotten, 1);
}

#[test]
fn damaged_content_is_found() {
    let mut changed = run(5, 1..=5);
    let at = changed.files[0].1.len() - 2;
    changed.files[0].1[at] ^= 1;
    assert!(!check(&changed, CALM).violations.is_empty());
    let mut torn = run(5, 1..=5);
    torn.files[0].1.pop();
    assert!(!check(&torn, CALM).violations.is_empty());
    let mut foreign = run(5, 1..=5);
    foreign.files[0].1.extend_from_slice(b"2026-11-23T10:00:00.000000001Z stdout F hello\n");
    assert!(!check(&foreign, CALM).violations.is_empty());
    let mut back = run(5, 1..=5);
    back.files[0].1.extend_from_slice(b"2026-11-23T09:00:00.000000001Z stdout F T o 6 0 \n");
    assert!(check(&back, CALM).violations.iter().any(|violation| violation.contains("time goes back")));
}

#[test]
fn parts_make_a_line_and_a_cut_one_is_allowed_only_at_the_end() {
    let mut long = run(1, []);
    let mut text = Vec::new();
    line::compose(&mut text, "o", 1, 100);
    let (head, tail) = text.split_at(40);
    for (tag, part) in [("P", head), ("F", tail)] {
        let prefix = format!("2026-11-23T10:00:00.000000001Z stdout {tag} ");
        long.files[0].1.extend_from_slice(prefix.as_bytes());
        long.files[0].1.extend_from_slice(part);
        if tag == "P" {
            long.files[0].1.push(b'\n');
        }
    }
    assert_eq!(check(&long, CALM).violations, Vec::<String>::new());

    let cut = |written| {
        let mut cut = run(1, [1]);
        cut.files[0].1.extend_from_slice(b"2026-11-23T10:00:00.000000001Z stdout F T o 2 10 cde\n");
        cut.writers.insert("o".into(), Progress { attempted: 2, written });
        check(&cut, CALM)
    };
    assert_eq!(cut(1).violations, Vec::<String>::new());
    assert_eq!(cut(2).lost, 1);
}

#[test]
fn lines_that_a_merge_swaps_or_leaves_out_are_found() {
    let files = vec![
        (1, b"2026-11-23T10:00:00.000000001Z stdout P T o 1 3 b\n2026-11-23T10:00:00.000000001Z stderr F T e 1 1 b\n".to_vec()),
        (0, b"2026-11-23T10:00:00.000000001Z stdout F cd\n2026-11-23T10:00:00.000000002Z stdout F T o 2 1 c\nhalf".to_vec()),
    ];
    let run = Run { run: "r".into(), files, ..Run::default() };
    let lines = whole_lines(&run);
    let texts: Vec<&str> = lines.iter().map(|(_, _, text)| text.as_str()).collect();
    assert_eq!(texts, ["T e 1 1 b", "T o 1 3 bcd", "T o 2 1 c"]);
    assert_eq!(difference(&lines, &lines), None);
    let mut swapped = lines.clone();
    swapped.swap(0, 1);
    assert!(difference(&lines, &swapped).is_some_and(|text| text.contains("at 0")));
    assert!(
        difference(&lines, &lines[..2]).is_some_and(|text| text.contains("3 lines in the files, 2 shown"))
    );
}
