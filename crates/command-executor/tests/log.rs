//! The log reader on files as keepers write them: order, times, ends, and files that change while they are read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests are tests")]

use command_executor::log::{Follower, LogError, LogLine, LogQuery, Stream, last_lines, read};
use jiff::Timestamp;
use proptest::prelude::*;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// A state folder with logs in it.
struct State(TempDir);

impl State {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn folder(&self, instance: &str) -> PathBuf {
        let folder = self.path().join("instances").join(instance);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn write(&self, instance: &str, file: &str, text: &str) {
        fs::write(self.folder(instance).join(file), text).unwrap();
    }

    fn append(&self, instance: &str, file: &str, text: &str) {
        let path = self.folder(instance).join(file);
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// As a keeper does: the oldest first, each one number up, then a new file.
    fn rotate(&self, instance: &str, run: &str, keep: u32) {
        let folder = self.folder(instance);
        let _ = fs::remove_file(folder.join(format!("{run}.log.{keep}")));
        for number in (1..keep).rev() {
            let _ = fs::rename(
                folder.join(format!("{run}.log.{number}")),
                folder.join(format!("{run}.log.{}", number + 1)),
            );
        }
        fs::rename(folder.join(format!("{run}.log")), folder.join(format!("{run}.log.1"))).unwrap();
        File::create(folder.join(format!("{run}.log"))).unwrap();
    }
}

fn time(second: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + i64::try_from(second).unwrap()).unwrap()
}

fn record(second: u64, tag: &str, text: &str) -> String {
    format!("{:.9} {tag} {text}\n", time(second))
}

fn full(second: u64, text: &str) -> String {
    record(second, "stdout F", text)
}

fn query(instances: &[&str]) -> LogQuery {
    LogQuery { instances: instances.iter().map(|name| (*name).to_owned()).collect(), ..LogQuery::default() }
}

fn texts(lines: impl IntoIterator<Item = LogLine>) -> Vec<String> {
    lines.into_iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect()
}

fn all(state: &State, query: &LogQuery) -> Vec<String> {
    texts(read(state.path(), query).unwrap().map(Result::unwrap))
}

#[test]
fn runs_and_rotated_files_come_in_order() {
    let state = State::new();
    state.write("a", "r1.log", &full(3, "three"));
    state.write("a", "r1.log.1", &full(2, "two"));
    state.write("a", "r1.log.2", &full(1, "one"));
    state.write("a", "r1.json", "{}");
    state.write("a", "r2.log", &full(4, "four"));
    assert_eq!(all(&state, &query(&["a"])), ["one", "two", "three", "four"]);
    let last = read(state.path(), &query(&["a"])).unwrap().last().unwrap().unwrap();
    assert_eq!((&*last.instance, &*last.run, last.time, last.stream), ("a", "r2", time(4), Stream::Stdout));
}

#[test]
fn instances_merge_by_time_and_equal_times_keep_their_order() {
    let state = State::new();
    state.write("a", "r.log", &[full(1, "a1"), full(2, "a2"), full(2, "a3"), full(5, "a4")].concat());
    state.write("b", "r.log", &[full(0, "b1"), full(2, "b2"), full(3, "b3")].concat());
    assert_eq!(all(&state, &query(&["a", "b"])), ["b1", "a1", "a2", "a3", "b2", "b3", "a4"]);
    assert_eq!(all(&state, &query(&["b", "a"])), ["b1", "a1", "b2", "a2", "a3", "b3", "a4"]);
}

#[test]
fn parts_join_across_files_but_not_across_runs() {
    let state = State::new();
    state.write("a", "r1.log.1", &(record(1, "stdout P", "be") + &record(2, "stderr F", "oops")));
    state.write("a", "r1.log", &(record(3, "stdout F", "gun") + &record(4, "stdout P", "never ended")));
    state.write("a", "r2.log", &full(5, "next"));
    assert_eq!(all(&state, &query(&["a"])), ["oops", "begun", "never ended", "next"]);
}

#[test]
fn what_is_no_record_or_has_no_end_is_still_shown() {
    let state = State::new();
    state.write("a", "r1.log", &(full(1, "one") + "nonsense\n" + full(2, "torn").trim_end()));
    state.write("a", "r2.log", &full(3, "three"));
    assert_eq!(all(&state, &query(&["a"])), ["one", "nonsense", "torn", "three"]);
    assert_eq!(read(state.path(), &query(&["a"])).unwrap().nth(1).unwrap().unwrap().time, time(1));
}

#[test]
fn a_log_of_version_1_is_read() {
    let state = State::new();
    state.write("a", "r1.log", include_str!("samples/keeper/run.v1.log"));
    let lines: Vec<LogLine> = read(state.path(), &query(&["a"])).unwrap().map(|line| line.unwrap()).collect();
    let shown: Vec<(String, Stream)> =
        lines.iter().map(|line| (String::from_utf8_lossy(&line.text).into_owned(), line.stream)).collect();
    let expected = [
        ("first", Stream::Stdout),
        ("", Stream::Stdout),
        ("a long line", Stream::Stderr),
        ("no end", Stream::Stdout),
    ];
    assert_eq!(shown, expected.map(|(text, stream)| (text.to_owned(), stream)));
    assert_eq!(lines[3].time.to_string(), "2026-11-23T10:00:02.123456789Z");
}

#[test]
fn since_and_until_are_both_included() {
    let state = State::new();
    state.write("a", "r.log.1", &(1..5).map(|n| full(n, &n.to_string())).collect::<String>());
    state.write("a", "r.log", &(5..9).map(|n| full(n, &n.to_string())).collect::<String>());
    let between = LogQuery { since: Some(time(3)), until: Some(time(6)), ..query(&["a"]) };
    assert_eq!(all(&state, &between), ["3", "4", "5", "6"]);
    assert_eq!(all(&state, &LogQuery { tail: Some(2), ..between }), ["5", "6"]);
    assert_eq!(all(&state, &LogQuery { until: Some(time(2)), ..query(&["a"]) }), ["1", "2"]);
}

#[test]
fn nothing_is_there_for_an_instance_that_never_ran() {
    let state = State::new();
    assert!(all(&state, &query(&["a"])).is_empty());
    assert!(all(&state, &LogQuery { tail: Some(3), ..query(&["a"]) }).is_empty());
    assert!(last_lines(state.path(), "a", 3).unwrap().is_empty());
    assert!(matches!(read(state.path(), &query(&["../a"])), Err(LogError::Name { .. })));
}

#[test]
fn the_last_words_are_those_of_the_latest_run() {
    let state = State::new();
    state.write("a", "r1.log", &full(1, "old"));
    state.write("a", "r2.log", &(full(2, "two") + &full(3, "three") + &full(4, "four")));
    assert_eq!(texts(last_lines(state.path(), "a", 2).unwrap()), ["three", "four"]);
    assert_eq!(texts(last_lines(state.path(), "a", 9).unwrap()), ["two", "three", "four"]);
    assert_eq!(all(&state, &LogQuery { tail: Some(9), ..query(&["a"]) }), ["old", "two", "three", "four"]);
}

#[test]
fn a_line_of_ten_megabytes_is_one_line() {
    let state = State::new();
    let part = "x".repeat(16 * 1024);
    let mut text = full(1, "before");
    for _ in 0..640 {
        text += &record(2, "stdout P", &part);
    }
    text += &record(3, "stdout F", "end");
    state.write("a", "r.log", &text);
    for tail in [None, Some(1)] {
        let last = read(state.path(), &LogQuery { tail, ..query(&["a"]) }).unwrap().last().unwrap().unwrap();
        assert_eq!(last.text.len(), 640 * 16 * 1024 + 3, "{tail:?}");
    }
}

#[test]
fn reading_ends_though_the_log_is_written_on() {
    let state = State::new();
    state.write("a", "r1.log", &full(1, "one"));
    let mut lines = read(state.path(), &query(&["a"])).unwrap();
    state.append("a", "r1.log", &full(2, "two"));
    state.rotate("a", "r1", 3);
    state.append("a", "r1.log", &full(3, "three"));
    state.write("a", "r2.log", &full(4, "four"));
    assert_eq!(texts(lines.by_ref().map(Result::unwrap)), ["one"]);
}

/// One log as it could have been written: files of a few records each, with parts and both streams.
fn logs() -> impl Strategy<Value = Vec<Vec<(u64, bool, bool, String)>>> {
    let record = (0u64..3, any::<bool>(), prop::bool::weighted(0.3), "[a-z]{0,6}");
    prop::collection::vec(prop::collection::vec(record, 0..12), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_tail_is_the_end_of_the_whole(
        files in logs(),
        tail in 0usize..12,
        since in prop::option::of(0u64..40),
        until in prop::option::of(0u64..40),
        one_run in any::<bool>(),
    ) {
        let state = State::new();
        let mut second = 0;
        let count = files.len();
        for (index, records) in files.iter().enumerate() {
            let mut text = String::new();
            for (step, stderr, partial, word) in records {
                second += step;
                let tag = format!("{} {}", if *stderr { "stderr" } else { "stdout" }, if *partial { "P" } else { "F" });
                text += &record(second, &tag, word);
            }
            let name = match (one_run, count - 1 - index) {
                (true, 0) => "r.log".to_owned(),
                (true, number) => format!("r.log.{number}"),
                (false, _) => format!("r{index}.log"),
            };
            state.write("a", &name, &text);
        }
        let whole = LogQuery { since: since.map(time), until: until.map(time), ..query(&["a"]) };
        let lines: Vec<LogLine> = read(state.path(), &whole).unwrap().map(Result::unwrap).collect();
        let end: Vec<LogLine> =
            read(state.path(), &LogQuery { tail: Some(tail), ..whole }).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(&end[..], &lines[lines.len().saturating_sub(tail)..]);
    }
}

/// Follows until that many lines came, in at most half a minute.
async fn follow(follower: &mut Follower, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.len() < count {
        let late = async {
            async_io::Timer::after(Duration::from_secs(30)).await;
            panic!("only {} of {count} lines came: {lines:?}", lines.len());
        };
        let more = futures_lite::future::or(follower.next(), late).await.unwrap();
        assert!(!more.is_empty());
        lines.extend(texts(more));
    }
    lines
}

#[test]
fn a_follower_sees_what_is_written_new_runs_and_new_instances() {
    smol::block_on(async {
        let state = State::new();
        state.write("a", "r1.log", &(full(1, "one") + &full(2, "two")));
        let asked = LogQuery { tail: Some(1), ..query(&["a", "b"]) };
        let mut follower = Follower::new(state.path(), &asked).unwrap();
        assert_eq!(follow(&mut follower, 1).await, ["two"]);
        // A record that comes in two writes is one line.
        let third = full(3, "three");
        let (head, tail) = third.split_at(37);
        state.append("a", "r1.log", head);
        state.append("a", "r1.log", tail);
        assert_eq!(follow(&mut follower, 1).await, ["three"]);
        state.write("b", "r9.log", &full(4, "other"));
        assert_eq!(follow(&mut follower, 1).await, ["other"]);
        state.append("a", "r1.log", &record(5, "stdout P", "begun"));
        state.write("a", "r2.log", &full(6, "next run"));
        assert_eq!(follow(&mut follower, 2).await, ["begun", "next run"]);
    });
}

#[test]
fn a_follower_waits_for_a_state_that_has_no_instances_yet() {
    smol::block_on(async {
        let state = State::new();
        let mut follower = Follower::new(state.path(), &query(&["a"])).unwrap();
        state.write("a", "r.log", &full(1, "one"));
        assert_eq!(follow(&mut follower, 1).await, ["one"]);
        fs::remove_dir_all(state.folder("a")).unwrap();
        state.write("a", "s.log", &full(2, "two"));
        assert_eq!(follow(&mut follower, 1).await, ["two"]);
    });
}

#[test]
fn a_follower_ends_at_the_time_asked_for() {
    smol::block_on(async {
        let state = State::new();
        state.write("a", "r.log", &full(1, "one"));
        let asked = LogQuery { until: Some(Timestamp::now()), ..query(&["a"]) };
        // The log is of the future.
        assert!(Follower::new(state.path(), &asked).unwrap().next().await.unwrap().is_empty());
    });
}

#[test]
fn rotation_while_following_loses_and_repeats_nothing() {
    const LINES: u64 = 20_000;
    let state = State::new();
    state.write("a", "r.log", "");
    let mut follower = Follower::new(state.path(), &query(&["a"])).unwrap();
    let lines = std::thread::scope(|scope| {
        scope.spawn(|| {
            let path = state.folder("a").join("r.log");
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            for number in 0..LINES {
                if number > 0 && number % 500 == 0 {
                    // Far more files than a keeper keeps, so that a slow reader still finds them all.
                    state.rotate("a", "r", 60);
                    file = OpenOptions::new().append(true).open(&path).unwrap();
                }
                file.write_all(full(number / 100, &number.to_string()).as_bytes()).unwrap();
            }
        });
        smol::block_on(follow(&mut follower, usize::try_from(LINES).unwrap()))
    });
    let expected: Vec<String> = (0..LINES).map(|number| number.to_string()).collect();
    assert!(lines == expected, "{} lines", lines.len());
}

#[test]
fn files_that_are_deleted_while_followed_are_survived() {
    smol::block_on(async {
        let state = State::new();
        state.write("a", "r1.log", &full(1, "one"));
        let mut follower = Follower::new(state.path(), &query(&["a"])).unwrap();
        assert_eq!(follow(&mut follower, 1).await, ["one"]);
        let mut held = OpenOptions::new().append(true).open(state.folder("a").join("r1.log")).unwrap();
        fs::remove_file(state.folder("a").join("r1.log")).unwrap();
        held.write_all(full(2, "unseen by name").as_bytes()).unwrap();
        state.write("a", "r2.log", &full(3, "three"));
        assert_eq!(follow(&mut follower, 2).await, ["unseen by name", "three"]);
    });
}
