//! Keepers with real processes, all of them killed at one time or another.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::panic)]

use command_executor::keeper::{
    Exit, FoundRun, KeeperError, KeeperOptions, Keepers, Liveness, LogLimits, PROTOCOL, ProcessIdentity,
    Report, RunId, RunRecord, RunSpec, RunState, StartStage, StopRequest, read_record,
};
use futures_lite::FutureExt;
use smol::{Timer, block_on};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const HOST: &str = env!("CARGO_BIN_EXE_keeper-host");
const PATIENCE: Duration = Duration::from_secs(60);

/// A state folder and its keepers; what still lives at the end is ended.
struct Bench {
    _root: Option<tempfile::TempDir>,
    state: PathBuf,
    keepers: Option<Keepers>,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        Self::at(Some(root), state)
    }

    fn at(root: Option<tempfile::TempDir>, state: PathBuf) -> Self {
        let mut bench = Self { _root: root, state, keepers: None };
        bench.open();
        bench
    }

    fn open(&mut self) {
        self.open_as("test");
    }

    fn open_as(&mut self, build: &str) {
        self.keepers = None;
        self.keepers = Some(
            Keepers::open(KeeperOptions {
                state: self.state.clone(),
                program: Some(HOST.into()),
                build: build.into(),
                soft_open_files: Some(777),
            })
            .unwrap(),
        );
    }

    fn keepers(&self) -> &Keepers {
        self.keepers.as_ref().unwrap()
    }

    fn report(&self) -> Report {
        block_on(async {
            let late = async {
                Timer::after(PATIENCE).await;
                panic!("no report");
            };
            self.keepers().next_report().or(late).await.unwrap()
        })
    }

    fn start(&self, spec: &RunSpec) -> i32 {
        block_on(self.keepers().start(spec)).unwrap();
        match self.report() {
            Report::Started { run, pid, .. } if run == spec.run => pid,
            other => panic!("{other:?}"),
        }
    }

    fn exit(&self, spec: &RunSpec) -> Exit {
        match self.report() {
            Report::Exited { run, exit, left, .. } if run == spec.run => {
                assert_eq!(left, Vec::<i32>::new());
                exit
            }
            other => panic!("{other:?}"),
        }
    }

    fn run(&self, spec: &RunSpec) -> Exit {
        self.start(spec);
        self.exit(spec)
    }

    fn stop(&self, spec: &RunSpec, timeout: Duration) {
        let stop = StopRequest { signal: libc::SIGTERM, timeout, kill: false };
        block_on(self.keepers().stop(&spec.instance, spec.run, stop)).unwrap();
    }

    fn kill(&self, spec: &RunSpec) {
        let stop = StopRequest { signal: 0, timeout: Duration::ZERO, kill: true };
        block_on(self.keepers().stop(&spec.instance, spec.run, stop)).unwrap();
    }

    fn fails(&self, spec: &RunSpec) -> (StartStage, i32, String) {
        block_on(self.keepers().start(spec)).unwrap();
        let Report::StartFailed { run, stage, errno, message, .. } = self.report() else { panic!() };
        assert_eq!(run, spec.run);
        assert!(
            matches!(self.record(spec).state, RunState::FailedToStart { stage: found, .. } if found == stage)
        );
        (stage, errno, message)
    }

    fn file(&self, spec: &RunSpec, end: &str) -> PathBuf {
        self.state.join("instances").join(&spec.instance).join(format!("{}.{end}", spec.run))
    }

    fn record(&self, spec: &RunSpec) -> RunRecord {
        read_record(&self.file(spec, "json")).unwrap()
    }

    /// The run's log, oldest file first.
    fn log(&self, spec: &RunSpec) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in (1..100).rev() {
            bytes.extend(fs::read(self.file(spec, &format!("log.{number}"))).unwrap_or_default());
        }
        bytes.extend(fs::read(self.file(spec, "log")).unwrap());
        bytes
    }

    /// What a stream said, put together from the log; checks the format and that times never go back.
    fn said(&self, spec: &RunSpec, stream: &str) -> Vec<u8> {
        let (mut out, mut last) = (Vec::new(), Vec::new());
        for line in self.log(spec).split_inclusive(|byte| *byte == b'\n') {
            assert!(line.len() > 40 && line.ends_with(b"\n"), "{:?}", String::from_utf8_lossy(line));
            let time = &line[..30];
            assert!(time >= last.as_slice(), "time went back");
            last = time.to_vec();
            if &line[31..37] == stream.as_bytes() {
                out.extend_from_slice(&line[40..line.len() - 1]);
                if line[38] == b'F' {
                    out.push(b'\n');
                }
            }
        }
        out
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let found = Keepers::scan(&self.state).unwrap_or_default();
        if let Some(keepers) = &self.keepers {
            for FoundRun { record, .. } in found {
                let _ = block_on(keepers.ensure_gone(&record.instance, record.run));
            }
        }
    }
}

fn spec<const N: usize>(instance: &str, argv: [&str; N]) -> RunSpec {
    let mut spec = RunSpec::new(instance, argv.iter().map(OsString::from).collect(), "/");
    spec.env.push(("PATH".into(), std::env::var_os("PATH").unwrap()));
    spec
}

fn sh(instance: &str, script: &str) -> RunSpec {
    spec(instance, ["sh", "-c", script])
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn alive(pid: i32) -> bool {
    ProcessIdentity::of(pid).is_ok_and(|process| process.is_alive())
}

fn sigkill(pid: i32) {
    signal(pid, rustix::process::Signal::KILL);
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The parent's pid: of a keeper, the zygote.
fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn keeper_of(bench: &Bench, spec: &RunSpec) -> i32 {
    bench.record(spec).keeper.unwrap().pid
}

/// Waits for the pids that `escape` writes.
fn escaped(file: &Path, count: usize) -> Vec<i32> {
    let pids = || -> Vec<i32> {
        fs::read_to_string(file).unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
    };
    until("escaped processes", || pids().len() == count);
    pids()
}

#[test]
fn exit_codes_and_signals_are_reported_and_recorded() {
    let bench = Bench::new();
    for (script, exit) in [
        ("exit 0", Exit::Code(0)),
        ("exit 37", Exit::Code(37)),
        ("kill -9 $$", Exit::Signal(9)),
        ("kill -TERM $$", Exit::Signal(15)),
    ] {
        let spec = sh("web-1", script);
        assert_eq!(bench.run(&spec), exit);
        let record = bench.record(&spec);
        assert!(matches!(record.state, RunState::Exited { exit: recorded, .. } if recorded == exit));
        assert!(record.gaps.is_empty());
    }
    until("no sockets are left", || fs::read_dir(bench.state.join("run")).unwrap().count() == 2);
}

#[test]
fn output_of_both_streams_arrives_as_it_is() {
    let bench = Bench::new();
    let spec = sh("web-1", r"printf 'one\n\ntwo\377\376\n\000zero\n'; printf 'err\nno end' >&2");
    assert_eq!(bench.run(&spec), Exit::Code(0));
    assert_eq!(bench.said(&spec, "stdout"), b"one\n\ntwo\xff\xfe\n\0zero\n");
    assert_eq!(bench.said(&spec, "stderr"), b"err\nno end\n");
}

#[test]
fn the_program_gets_its_environment_directory_and_limits_and_nothing_else() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let mut spec = sh(
        "web-1",
        r"pwd; ulimit -Sn; echo $MINE; echo $HARNESS_RUN; nice; ls /proc/self/fd | wc -l; grep -E '^Sig(Blk|Ign)' /proc/self/status; env | wc -l; ps -o sid= -p $$ | tr -d ' '; echo $$",
    );
    spec.cwd = folder.path().canonicalize().unwrap();
    spec.env.push(("MINE".into(), "a b\n$c".into()));
    spec.nice = Some(7);
    assert_eq!(bench.run(&spec), Exit::Code(0));
    let said = String::from_utf8(bench.said(&spec, "stdout")).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], spec.cwd.to_str().unwrap());
    assert_eq!(lines[1], "777");
    assert_eq!(lines[2], "a b $c");
    assert_eq!(lines[3], spec.run.to_string());
    assert_eq!(lines[4], "7");
    // 0, 1, 2, and the folder that ls reads.
    assert_eq!(lines[5], "4", "{said}");
    assert!(lines[6].ends_with("0000000000000000") && lines[7].ends_with("0000000000000000"), "{said}");
    assert_eq!(lines[9], lines[10], "a session of its own");
}

#[test]
fn a_million_lines_are_all_there_in_order() {
    let bench = Bench::new();
    let mut spec = spec("chatty-1", [HOST, "lines", "1000000", "100"]);
    spec.logs = LogLimits { max_size: 8 << 20, keep_files: 50, keep_runs: 2 };
    let begun = Instant::now();
    assert_eq!(bench.run(&spec), Exit::Code(0));
    println!("a million lines in {:?}", begun.elapsed());
    let said = bench.said(&spec, "stdout");
    let mut count = 0;
    for (number, line) in said.split_inclusive(|byte| *byte == b'\n').enumerate() {
        assert_eq!(line.len(), 100);
        assert_eq!(&line[..9], format!("{number:09}").as_bytes());
        count += 1;
    }
    assert_eq!(count, 1_000_000);
    assert!(bench.record(&spec).gaps.is_empty());
    let rotated = (1..60).filter(|number| bench.file(&spec, &format!("log.{number}")).exists()).count();
    assert!((15..=18).contains(&rotated), "{rotated}");
}

#[test]
fn rotation_keeps_the_files_it_may_and_old_runs_go() {
    let bench = Bench::new();
    let mut runs = Vec::new();
    for _ in 0..4 {
        let mut spec = spec("chatty-1", [HOST, "lines", "10000", "100"]);
        spec.logs = LogLimits { max_size: 100_000, keep_files: 3, keep_runs: 2 };
        assert_eq!(bench.run(&spec), Exit::Code(0));
        let said = bench.said(&spec, "stdout");
        assert!(said.ends_with(format!("{:09} {}\n", 9999, "x".repeat(89)).as_bytes()));
        assert!(!bench.file(&spec, "log.4").exists() && bench.file(&spec, "log.3").exists());
        runs.push(spec.run);
    }
    let left: BTreeSet<String> = fs::read_dir(bench.state.join("instances/chatty-1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap()[..36].to_owned())
        .collect();
    assert_eq!(left, runs[2..].iter().map(RunId::to_string).collect());
}

#[test]
fn a_line_of_ten_megabytes_is_one_line() {
    let bench = Bench::new();
    let spec = sh("web-1", "head -c 10000000 /dev/zero | tr '\\0' 'y'; echo; echo after");
    assert_eq!(bench.run(&spec), Exit::Code(0));
    let said = bench.said(&spec, "stdout");
    assert_eq!(said.len(), 10_000_007);
    assert!(said.ends_with(b"y\nafter\n") && said[..10_000_000].iter().all(|byte| *byte == b'y'));
}

#[test]
fn closed_outputs_dont_end_or_spin_anything() {
    let bench = Bench::new();
    let spec = sh("web-1", "echo first; exec >&- 2>&-; sleep 600");
    bench.start(&spec);
    until("the line", || bench.said(&spec, "stdout") == b"first\n");
    let keeper = keeper_of(&bench, &spec);
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap();
        stat.rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|n| n.parse::<u64>().unwrap())
            .sum()
    };
    let before = ticks();
    // A window in which a spinning keeper would burn some twenty ticks.
    std::thread::sleep(Duration::from_millis(200));
    assert!(ticks() - before <= 3, "the keeper spins");
    bench.stop(&spec, Duration::from_secs(10));
    assert_eq!(bench.exit(&spec), Exit::Signal(15));
}

#[test]
fn output_held_by_a_grandchild_doesnt_hold_up_the_exit() {
    let bench = Bench::new();
    let spec = sh("web-1", "sleep 600 & echo out; exit 3");
    assert_eq!(bench.run(&spec), Exit::Code(3));
    assert_eq!(bench.said(&spec, "stdout"), b"out\n");
}

#[test]
fn one_that_ignores_the_signal_is_killed_after_the_timeout() {
    let bench = Bench::new();
    let spec = sh("deaf-1", "trap '' TERM; echo ready; while :; do sleep 1; done");
    bench.start(&spec);
    until("ready", || !bench.log(&spec).is_empty());
    let begun = Instant::now();
    bench.stop(&spec, Duration::from_millis(300));
    assert_eq!(bench.exit(&spec), Exit::Signal(9));
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

/// Time since boot, sleep included.
fn since_boot() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).try_into().unwrap()
}

#[test]
fn what_runs_on_a_lease_is_gone_when_it_is_over() {
    let bench = Bench::new();
    let pids = bench.state.join("pids");
    let mut spec = spec("tree-1", [HOST, "escape", "3", pids.to_str().unwrap()]);
    let begun = since_boot();
    spec.lease_until = Some(begun + Duration::from_millis(700));
    bench.start(&spec);
    let pids = escaped(&pids, 4);
    let renewed = begun + Duration::from_millis(1500);
    block_on(bench.keepers().renew(&spec.instance, spec.run, renewed)).unwrap();
    // Nobody is there any more who could renew it, or end it.
    assert_eq!(bench.exit(&spec), Exit::Signal(9));
    let over = since_boot();
    assert!(over >= renewed, "not before the time that it was renewed to");
    assert!(over < renewed + Duration::from_secs(1), "at once: {:?}", over.saturating_sub(renewed));
    assert!(!pids.iter().any(|pid| alive(*pid)), "what left the session too: {pids:?}");
}

#[test]
fn what_has_no_lease_left_isnt_started() {
    let bench = Bench::new();
    let mut spec = sh("web-1", "echo never");
    spec.lease_until = Some(since_boot());
    let (_, _, message) = bench.fails(&spec);
    assert!(message.contains("lease"), "{message}");
}

#[test]
fn one_that_cleans_up_is_given_the_time() {
    let bench = Bench::new();
    let spec = sh("web-1", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    bench.start(&spec);
    until("ready", || !bench.log(&spec).is_empty());
    bench.stop(&spec, Duration::from_secs(20));
    assert_eq!(bench.exit(&spec), Exit::Code(5));
    assert_eq!(bench.said(&spec, "stdout"), b"ready\nbye\n");
}

/// A service that says which signal ended it, and one line of its own without an end.
const ENDS: &str =
    "trap 'echo term; exit 5' TERM; trap 'echo hup; exit 6' HUP; echo ready; while :; do sleep 0.01; done";

fn with_stop(script: &str) -> RunSpec {
    let mut spec = sh("web-1", ENDS);
    spec.stop = ["sh", "-c", script].map(OsString::from).to_vec();
    spec.env.push(("GREETING".into(), "good bye".into()));
    spec
}

#[test]
fn a_stop_command_runs_before_the_signal_and_beside_the_service() {
    let bench = Bench::new();
    let spec = with_stop("echo $GREETING to $HARNESS_PID; kill -HUP $HARNESS_PID; echo done >&2");
    let pid = bench.start(&spec);
    until("ready", || !bench.log(&spec).is_empty());
    bench.stop(&spec, Duration::from_secs(20));
    assert_eq!(bench.exit(&spec), Exit::Code(6), "it ended before its signal");
    let said = String::from_utf8(bench.said(&spec, "stdout")).unwrap();
    assert!(said.contains(&format!("good bye to {pid}\n")) && said.ends_with("hup\n"), "{said}");
    assert_eq!(bench.said(&spec, "stderr"), b"done\n");
}

#[test]
fn the_signal_follows_a_stop_command_that_fails_or_takes_too_long() {
    for (script, complaint) in [
        ("exit 3", "harness: the stop command ended with 3; the signal follows\n"),
        ("kill -KILL $$", "harness: the stop command was ended by signal 9; the signal follows\n"),
        ("true", ""),
        ("sleep 600", ""),
    ] {
        let bench = Bench::new();
        let spec = with_stop(script);
        bench.start(&spec);
        until("ready", || !bench.log(&spec).is_empty());
        let begun = Instant::now();
        bench.stop(&spec, if script == "sleep 600" { Duration::from_secs(2) } else { PATIENCE });
        assert_eq!(bench.exit(&spec), Exit::Code(5), "{script}");
        assert_eq!(bench.said(&spec, "stdout"), b"ready\nterm\n", "{script}");
        assert_eq!(String::from_utf8(bench.said(&spec, "stderr")).unwrap(), complaint, "{script}");
        assert_eq!(begun.elapsed() >= Duration::from_secs(1), script == "sleep 600", "{script}");
    }
    let bench = Bench::new();
    let mut spec = with_stop("");
    spec.stop = vec!["/nowhere/stop".into()];
    bench.start(&spec);
    until("ready", || !bench.log(&spec).is_empty());
    bench.stop(&spec, PATIENCE);
    assert_eq!(bench.exit(&spec), Exit::Code(5));
    let said = String::from_utf8(bench.said(&spec, "stderr")).unwrap();
    assert!(said.contains("can't be started") && said.contains("/nowhere/stop"), "{said}");
}

#[test]
fn a_kill_asks_no_stop_command_and_ends_one_that_runs() {
    let bench = Bench::new();
    let spec = with_stop("echo asked; sleep 600");
    bench.start(&spec);
    until("ready", || !bench.log(&spec).is_empty());
    bench.stop(&spec, Duration::from_secs(600));
    until("it is asked", || bench.said(&spec, "stdout") == b"ready\nasked\n");
    bench.kill(&spec);
    assert_eq!(bench.exit(&spec), Exit::Signal(9));
    let bench = Bench::new();
    let spec = with_stop("echo asked");
    bench.start(&spec);
    until("ready", || !bench.log(&spec).is_empty());
    bench.kill(&spec);
    assert_eq!(bench.exit(&spec), Exit::Signal(9));
    assert_eq!(bench.said(&spec, "stdout"), b"ready\n");
}

#[test]
fn a_stopped_process_can_be_stopped_for_good() {
    let bench = Bench::new();
    let spec = sh("web-1", "echo ready; kill -STOP $$");
    bench.start(&spec);
    until("ready", || !bench.log(&spec).is_empty());
    bench.stop(&spec, Duration::from_secs(30));
    assert_eq!(bench.exit(&spec), Exit::Signal(15));
}

#[test]
fn what_left_the_session_is_gone_after_a_stop() {
    for at_once in [false, true] {
        let bench = Bench::new();
        let pids = bench.state.join("pids");
        let spec = spec("tree-1", [HOST, "escape", "5", pids.to_str().unwrap()]);
        bench.start(&spec);
        let pids = escaped(&pids, 6);
        if at_once {
            bench.kill(&spec);
        } else {
            bench.stop(&spec, Duration::from_secs(20));
        }
        assert_eq!(bench.exit(&spec), Exit::Signal(if at_once { 9 } else { 15 }));
        assert!(!pids.iter().any(|pid| alive(*pid)), "{pids:?}");
    }
}

#[test]
fn descendants_that_ignore_the_signal_are_killed_when_the_main_process_ends() {
    let bench = Bench::new();
    let mut spec = sh("web-1", "(trap '' TERM; echo up; while :; do sleep 1; done) & sleep 600");
    spec.stop_timeout = Duration::from_millis(200);
    bench.start(&spec);
    until("up", || !bench.log(&spec).is_empty());
    bench.stop(&spec, Duration::from_secs(20));
    let begun = Instant::now();
    assert_eq!(bench.exit(&spec), Exit::Signal(15));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn signals_and_stdin_reach_the_main_process() {
    let bench = Bench::new();
    let mut spec =
        sh("web-1", "trap 'echo usr1' USR1; echo ready; while ! read line; do :; done; echo got $line; cat");
    spec.stdin = true;
    bench.start(&spec);
    until("ready", || !bench.log(&spec).is_empty());
    block_on(async {
        let keepers = bench.keepers();
        keepers.signal("web-1", spec.run, libc::SIGUSR1).await.unwrap();
        // A shell that is interrupted in the middle of a line loses what it had of it.
        until("the signal", || bench.said(&spec, "stdout") == b"ready\nusr1\n");
        // More than a pipe holds.
        let text = format!("hello\n{}", "z".repeat(300_000));
        keepers.write_stdin("web-1", spec.run, text.as_bytes()).await.unwrap();
        keepers.close_stdin("web-1", spec.run).await.unwrap();
    });
    assert_eq!(bench.exit(&spec), Exit::Code(0));
    let said = bench.said(&spec, "stdout");
    assert!(said.starts_with(b"ready\n"));
    assert_eq!(said.len(), "ready\nusr1\ngot hello\n\n".len() + 300_000);
    let gone = block_on(bench.keepers().write_stdin("web-1", spec.run, b"x"));
    assert!(matches!(gone, Err(KeeperError::KeeperGone { .. })), "{gone:?}");
}

#[test]
fn failures_to_start_name_the_step_and_the_error() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("script"), "#!/no/such/interpreter\n").unwrap();
    fs::write(folder.path().join("plain"), "").unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    let stage = |spec: &RunSpec| {
        let (stage, errno, message) = bench.fails(spec);
        assert!(message.len() > 5, "{message}");
        (stage, errno)
    };
    assert_eq!(stage(&spec("a", ["/no/such/binary"])), (StartStage::Exec, libc::ENOENT));
    assert_eq!(stage(&spec("a", ["no-such-binary"])), (StartStage::Exec, libc::ENOENT));
    assert_eq!(stage(&spec("a", ["/tmp"])), (StartStage::Exec, libc::EACCES));
    assert_eq!(stage(&spec("a", [&format!("{path}/plain")])), (StartStage::Exec, libc::EACCES));
    assert_eq!(stage(&spec("a", ["a\0b"])), (StartStage::Exec, libc::EINVAL));
    let change = |change: fn(&mut RunSpec)| {
        let mut spec = sh("a", "exit 0");
        change(&mut spec);
        spec
    };
    assert_eq!(stage(&change(|spec| spec.cwd = "/no/such/folder".into())), (StartStage::Cwd, libc::ENOENT));
    assert_eq!(
        stage(&change(|spec| spec.user = Some("nosuchuser".into()))),
        (StartStage::User, libc::ENOENT)
    );
    assert_eq!(
        stage(&change(|spec| spec.group = Some("nosuchgroup".into()))),
        (StartStage::Group, libc::ENOENT)
    );
    assert_eq!(
        stage(&change(|spec| spec.cgroup = Some("/no/such".into()))),
        (StartStage::Cgroup, libc::ENOENT)
    );
    let (stage, _) = stage(&change(|spec| spec.open_files = Some(1 << 40)));
    assert_eq!(stage, StartStage::Rlimit);
}

#[test]
fn requests_that_cant_be_are_refused_before_anything_starts() {
    let bench = Bench::new();
    let refused = |spec: RunSpec| block_on(bench.keepers().start(&spec)).unwrap_err();
    assert!(matches!(refused(sh("../x", "")), KeeperError::InvalidInstance(_)));
    assert!(matches!(refused(spec("x", [])), KeeperError::NoProgram(_)));
    assert!(matches!(refused(spec("x", [&"y".repeat(9 << 20)])), KeeperError::TooLong(_)));
    let no_main = KeeperOptions {
        state: bench.state.clone(),
        program: None,
        build: "test".into(),
        soft_open_files: None,
    };
    assert!(matches!(Keepers::open(no_main), Err(KeeperError::NoZygoteMain)));
}

#[test]
fn another_user_with_its_groups() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let bench = Bench::new();
    let mut spec = sh("web-1", "id -un; id -u; id -Gn; sleep 600");
    spec.user = Some("nobody".into());
    let pid = bench.start(&spec);
    until("ids", || bench.said(&spec, "stdout").split(|byte| *byte == b'\n').count() == 4);
    let said = String::from_utf8(bench.said(&spec, "stdout")).unwrap();
    assert!(said.starts_with("nobody\n65534\nno"), "{said}");
    // Also its death with the keeper survived the change of user.
    sigkill(keeper_of(&bench, &spec));
    assert!(matches!(bench.report(), Report::KeeperLost { run, .. } if run == spec.run));
    assert!(!alive(pid));
}

/// A hosts file, and the machine's own as it was.
fn hosts_file(folder: &Path) -> (PathBuf, Vec<u8>) {
    let file = folder.join("hosts");
    fs::write(&file, "127.77.1.9 db.of.this.test\n").unwrap();
    (file, fs::read("/etc/hosts").unwrap())
}

#[test]
fn a_hosts_file_of_its_own_that_changes_in_place() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let bench = Bench::new();
    let (file, before) = hosts_file(&bench.state);
    let mut spec = sh(
        "web-1",
        "getent hosts db.of.this.test; id -un; echo ready; until grep -q 9.9.9.9 /etc/hosts; do sleep 0.02; done; \
         getent hosts db.of.this.test",
    );
    spec.hosts = Some(file.clone());
    // The file lies where that user may not look: it is laid there before.
    spec.user = Some("nobody".into());
    bench.start(&spec);
    until("readiness", || bench.said(&spec, "stdout").ends_with(b"ready\n"));
    fs::write(&file, "9.9.9.9 db.of.this.test\n").unwrap();
    assert_eq!(bench.exit(&spec), Exit::Code(0));
    let said = String::from_utf8(bench.said(&spec, "stdout")).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    let name = "db.of.this.test";
    assert_eq!(words, ["127.77.1.9", name, "nobody", "ready", "9.9.9.9", name]);
    assert_eq!(fs::read("/etc/hosts").unwrap(), before);
    spec.run = RunId::generate();
    spec.hosts = Some("/no/such/hosts".into());
    let (stage, errno, message) = bench.fails(&spec);
    assert_eq!((stage, errno), (StartStage::Names, libc::ENOENT));
    let expected = "mounting a file over /etc/hosts was refused: No such file or directory (os error 2); \
                    `names: env` goes without";
    assert_eq!(message, expected);
}

#[test]
fn a_hosts_file_of_its_own_without_privileges() {
    let root = tempfile::tempdir().unwrap();
    let program = root.path().join("keeper-host");
    fs::copy(HOST, &program).unwrap();
    let (file, before) = hosts_file(root.path());
    let script = "getent hosts db.of.this.test; id -u; stat -c %u /etc/hosts";
    // `as_whom` is a command that executes the rest of its arguments.
    let run = |state: &str, as_whom: &[&str]| {
        let mut command = std::process::Command::new(as_whom[0]);
        command.args(&as_whom[1..]).arg(&program).arg("hosts").arg(root.path().join(state));
        let done = command.arg(&file).arg(script).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    // A user without any privilege.
    let said = run("a", &["unshare", "-U", "--map-user=1000", "--map-group=1000"]);
    assert!(said.contains("127.77.1.9") && said.contains("F 1000\n") && said.ends_with("Code(0)"), "{said}");
    // The same where no user namespace may be made.
    let forbidden = "echo 0 > /proc/sys/user/max_user_namespaces \
                     && exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
    let said = run("b", &["unshare", "-Ur", "sh", "-c", forbidden, "sh"]);
    let expected = "Names: a user namespace with a mount namespace was refused: No space left on device (os error 28); \
                    `names: env` goes without";
    assert_eq!(said.trim(), expected);
    if rustix::process::geteuid().is_root() {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(root.path(), open).unwrap();
        let said = run("c", &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        let good = said.contains("127.77.1.9") && said.contains("F 65534\n") && said.ends_with("Code(0)");
        assert!(good, "{said}");
    }
    assert_eq!(fs::read("/etc/hosts").unwrap(), before);
}

#[test]
fn a_daemon_that_comes_back_finds_what_happened_meanwhile() {
    let mut bench = Bench::new();
    let stays = sh("stays-1", "while :; do echo tick; sleep 0.05; done");
    let ends = sh("ends-1", "read x < $FIFO; exit 9");
    let fifo = bench.state.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let mut ends = ends;
    ends.env.push(("FIFO".into(), fifo.clone().into()));
    let pid = bench.start(&stays);
    bench.start(&ends);
    bench.keepers = None;
    fs::write(&fifo, "go\n").unwrap();
    until("the exit is recorded without a daemon", || bench.record(&ends).state.is_final());
    bench.open();
    let found = block_on(bench.keepers().adopt()).unwrap();
    assert_eq!(found.len(), 2);
    assert!(matches!(found[0].record.state, RunState::Exited { exit: Exit::Code(9), .. }));
    assert_eq!(found[0].liveness, Liveness::Dead);
    assert_eq!(found[1].record.process().unwrap().pid, pid);
    assert_eq!(found[1].liveness, Liveness::KeeperAlive);
    bench.stop(&stays, Duration::from_secs(10));
    // An exit is recorded before it is reported, so that the new daemon may hear of it as well.
    let mut report = bench.report();
    if matches!(report, Report::Exited { run, .. } if run == ends.run) {
        report = bench.report();
    }
    assert!(
        matches!(report, Report::Exited { run, exit: Exit::Signal(15), .. } if run == stays.run),
        "{report:?}"
    );
    // The zygote is still the same and serves the new daemon.
    assert_eq!(bench.run(&sh("more-1", "exit 1")), Exit::Code(1));
}

#[test]
fn a_killed_keeper_takes_all_with_it_and_is_reported() {
    let bench = Bench::new();
    let pids = bench.state.join("pids");
    let lost = spec("tree-1", [HOST, "escape", "4", pids.to_str().unwrap()]);
    let other = sh("other-1", "sleep 600");
    bench.start(&lost);
    let survivor = bench.start(&other);
    let pids = escaped(&pids, 5);
    sigkill(keeper_of(&bench, &lost));
    assert!(matches!(bench.report(), Report::KeeperLost { run, .. } if run == lost.run));
    assert!(!pids.iter().any(|pid| alive(*pid)), "{pids:?}");
    assert!(alive(survivor));
    let record = bench.record(&lost);
    assert!(
        matches!(record.state, RunState::Exited { exit: Exit::Unknown(why), .. } if why == "keeper killed")
    );
    assert_eq!(record.gaps.len(), 1);
    let stop = StopRequest { signal: 15, timeout: Duration::ZERO, kill: false };
    let gone = block_on(bench.keepers().stop("tree-1", lost.run, stop));
    assert!(matches!(gone, Err(KeeperError::KeeperGone { .. })), "{gone:?}");
    assert_eq!(bench.run(&sh("tree-1", "exit 0")), Exit::Code(0));
}

#[test]
fn a_killed_zygote_leaves_its_keepers_and_another_takes_its_place() {
    let bench = Bench::new();
    let old = sh("old-1", "while :; do echo tick; sleep 0.02; done");
    let pid = bench.start(&old);
    let zygote = parent(keeper_of(&bench, &old));
    sigkill(zygote);
    assert_eq!(bench.report(), Report::ZygoteLost);
    assert!(alive(pid));
    let new = sh("new-1", "sleep 600");
    bench.start(&new);
    assert_ne!(parent(keeper_of(&bench, &new)), zygote);
    let size = bench.log(&old).len();
    until("the old one still talks", || bench.log(&old).len() > size);
    bench.stop(&old, Duration::from_secs(10));
    assert_eq!(bench.exit(&old), Exit::Signal(15));
    bench.kill(&new);
    assert_eq!(bench.exit(&new), Exit::Signal(9));
}

#[test]
fn a_start_right_after_the_zygotes_death_works_and_the_loss_is_reported() {
    let bench = Bench::new();
    let first = sh("a-1", "sleep 600");
    bench.start(&first);
    let zygote = parent(keeper_of(&bench, &first));
    sigkill(zygote);
    until("it is dead", || !alive(zygote));
    let second = sh("b-1", "exit 4");
    block_on(bench.keepers().start(&second)).unwrap();
    let reports: Vec<Report> = (0..3).map(|_| bench.report()).collect();
    assert!(reports.contains(&Report::ZygoteLost), "{reports:?}");
    assert!(reports.iter().any(|report| matches!(report, Report::Exited { exit: Exit::Code(4), .. })));
    assert_eq!(bench.keepers().take_unheard_of(), [], "the first one wasn't asked for it");
}

#[test]
fn only_what_a_lost_zygote_was_asked_for_is_in_doubt() {
    let bench = Bench::new();
    let first = sh("a-1", "sleep 600");
    bench.start(&first);
    let zygote = parent(keeper_of(&bench, &first));
    signal(zygote, rustix::process::Signal::STOP);
    let [unheard, next] = [sh("b-1", "exit 1"), sh("c-1", "exit 2")];
    block_on(bench.keepers().start(&unheard)).unwrap();
    sigkill(zygote);
    until("it is dead", || !alive(zygote));
    // Handed to the next zygote before the death of the first is reported.
    block_on(bench.keepers().start(&next)).unwrap();
    while bench.report() != Report::ZygoteLost {}
    assert_eq!(bench.keepers().take_unheard_of(), [("b-1".to_owned(), unheard.run)]);
    assert_eq!(bench.keepers().take_unheard_of(), [], "each is told once");
    let ended = block_on(bench.keepers().ensure_gone("b-1", unheard.run)).unwrap();
    assert!(ended.record.is_none() && ended.ended.is_empty(), "{ended:?}");
}

#[test]
fn with_keeper_and_zygote_dead_the_next_start_can_make_sure_that_all_is_gone() {
    let bench = Bench::new();
    let pids = bench.state.join("pids");
    let lost = spec("tree-1", [HOST, "escape", "3", pids.to_str().unwrap()]);
    bench.start(&lost);
    let pids = escaped(&pids, 4);
    let keeper = keeper_of(&bench, &lost);
    sigkill(parent(keeper));
    assert_eq!(bench.report(), Report::ZygoteLost);
    sigkill(keeper);
    until("it is dead", || !alive(keeper) && !alive(pids[0]));
    // Nobody listens for reports here: the daemon would have ended it by itself.
    let found = Keepers::scan(&bench.state).unwrap();
    let Liveness::KeeperDeadProcessesLeft(left) = &found[0].liveness else { panic!("{found:?}") };
    assert_eq!(left.iter().collect::<BTreeSet<_>>(), pids[1..].iter().collect::<BTreeSet<_>>());
    let ended = block_on(bench.keepers().ensure_gone("tree-1", lost.run)).unwrap();
    assert_eq!(ended.ended.len(), 3);
    assert!(!pids.iter().any(|pid| alive(*pid)));
    assert!(matches!(bench.record(&lost).state, RunState::Exited { exit: Exit::Unknown(_), .. }));
    // Again: nothing to do, nothing changes.
    let again = block_on(bench.keepers().ensure_gone("tree-1", lost.run)).unwrap();
    assert_eq!((again.ended, again.record), (Vec::new(), ended.record));
}

#[test]
fn a_keeper_killed_after_its_zygote_is_noticed_by_the_daemon() {
    for comes_back in [false, true] {
        let mut bench = Bench::new();
        let pids = bench.state.join("pids");
        let lost = spec("tree-1", [HOST, "escape", "3", pids.to_str().unwrap()]);
        bench.start(&lost);
        let pids = escaped(&pids, 4);
        let keeper = keeper_of(&bench, &lost);
        sigkill(parent(keeper));
        assert_eq!(bench.report(), Report::ZygoteLost);
        if comes_back {
            bench.open();
            assert_eq!(block_on(bench.keepers().adopt()).unwrap().len(), 1);
        }
        sigkill(keeper);
        assert!(matches!(bench.report(), Report::KeeperLost { run, .. } if run == lost.run));
        assert!(!pids.iter().any(|pid| alive(*pid)), "{pids:?}");
        assert!(bench.record(&lost).state.is_final());
    }
}

#[test]
fn a_record_that_was_never_written_is_written_by_whoever_finds_it() {
    let mut bench = Bench::new();
    let before = sh("torn-1", "exit 3");
    bench.start(&before);
    assert!(matches!(bench.report(), Report::Exited { run, .. } if run == before.run));
    // What remains where keeper and zygote are killed between the making of the file and its first byte.
    let torn = [sh("torn-1", "true"), sh("torn-2", "true")];
    for (spec, half) in torn.iter().zip(["", r#"{"version":1,"pro"#]) {
        let folder = bench.state.join("instances").join(&spec.instance);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{}.json", spec.run)), half).unwrap();
    }
    let ended = block_on(bench.keepers().ensure_gone("torn-1", torn[0].run)).unwrap();
    assert_eq!(ended.record.as_ref(), Some(&bench.record(&torn[0])));
    bench.open();
    let found = block_on(bench.keepers().adopt()).unwrap();
    assert_eq!(found.iter().map(|found| found.record.run).collect::<Vec<_>>(), [torn[0].run]);
    for spec in &torn {
        let record = bench.record(spec);
        assert!(
            matches!(&record.state, RunState::Exited { exit: Exit::Unknown(why), .. } if why == "keeper killed")
        );
        assert_eq!(record.gaps.len(), 1, "{record:?}");
    }
}

#[test]
fn a_keepers_death_is_told_also_where_the_telling_was_interrupted() {
    for _ in 0..5 {
        let bench = Bench::new();
        let lost = sh("web-1", "sleep 600");
        bench.start(&lost);
        let keeper = keeper_of(&bench, &lost);
        sigkill(parent(keeper));
        assert_eq!(bench.report(), Report::ZygoteLost);
        sigkill(keeper);
        // Whoever listens looks rarely, and is called away in the moment in which the end was recorded.
        let mut listening = Box::pin(bench.keepers().next_report());
        let told = loop {
            if let Some(report) = block_on(smol::future::poll_once(&mut listening)) {
                break Some(report.unwrap());
            }
            std::thread::park_timeout(Duration::from_millis(10));
            if bench.record(&lost).state.is_final() {
                break None;
            }
        };
        drop(listening);
        let report = told.unwrap_or_else(|| bench.report());
        assert!(matches!(report, Report::KeeperLost { run, .. } if run == lost.run), "{report:?}");
    }
}

#[test]
fn an_exit_is_told_once_also_by_a_keeper_that_is_watched() {
    let bench = Bench::new();
    let watched = sh("web-1", "sleep 600");
    bench.start(&watched);
    let keeper = keeper_of(&bench, &watched);
    sigkill(parent(keeper));
    assert_eq!(bench.report(), Report::ZygoteLost);
    bench.stop(&watched, Duration::from_secs(10));
    assert_eq!(bench.exit(&watched), Exit::Signal(15));
    until("its keeper is gone too", || !alive(keeper));
    // `run` refuses every other report.
    for number in 0..5 {
        assert_eq!(bench.run(&sh(&format!("next-{number}"), "exit 3")), Exit::Code(3));
    }
}

/// The child of the next test: it takes descriptors from itself.
#[test]
#[ignore = "run by without_descriptors_nothing_is_taken_for_dead_and_nothing_panics"]
fn child_without_descriptors() {
    use command_executor::{
        command::Command,
        launcher::{Launcher, LocalLauncher},
    };
    if std::env::var_os("KEEPER_TEST_CHILD").is_none() {
        return;
    }
    let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let identity = ProcessIdentity::of(other.id() as i32).unwrap();
    LocalLauncher::prepare();
    let bench = Bench::new();
    let keepers = bench.keepers();
    // A first one, so that all that is opened once has been.
    block_on(keepers.ensure_gone("x-1", RunId::generate())).unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let set = |current| {
        let limit = rustix::process::Rlimit { current, maximum: limit.maximum };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    };
    set(Some(0));
    let unsure = identity.is_alive();
    // What can't be looked for now isn't gone: it is looked for until it can be.
    let mut gone = Box::pin(keepers.ensure_gone("x-1", RunId::generate()));
    let early = block_on(async { Some((&mut gone).await.is_ok()) }.or(async {
        Timer::after(Duration::from_millis(100)).await;
        None
    }));
    let refused = LocalLauncher::new().launch(&Command::new("true")).is_err();
    set(limit.current);
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(unsure, "of a death one must be sure");
    assert_eq!(early, None, "nothing can be said without descriptors");
    block_on(gone).unwrap();
    assert!(refused, "there was a descriptor left");
    let (handle, _events) = LocalLauncher::new().launch(&Command::new("true")).unwrap();
    block_on(handle.wait()).unwrap();
    assert!(!identity.is_alive());
    println!("as it should be");
}

#[test]
fn without_descriptors_nothing_is_taken_for_dead_and_nothing_panics() {
    let ran = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_without_descriptors", "--ignored", "--nocapture"])
        .env("KEEPER_TEST_CHILD", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(
        ran.status.success() && said.contains("as it should be"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[test]
fn what_another_builds_zygote_was_asked_for_is_found_before_it_is_written() {
    let mut bench = Bench::new();
    let first = sh("first-1", "sleep 600");
    bench.start(&first);
    let zygote = parent(keeper_of(&bench, &first));
    signal(zygote, rustix::process::Signal::STOP);
    let asked: Vec<RunSpec> = (0..20).map(|number| sh(&format!("asked-{number}"), "sleep 600")).collect();
    block_on(bench.keepers().start_many(&asked)).unwrap();
    // The daemon of another build comes while nothing of this has happened yet.
    bench.open_as("other");
    let keepers = bench.keepers().clone();
    let adopting = std::thread::spawn(move || block_on(keepers.adopt()).unwrap());
    signal(zygote, rustix::process::Signal::CONT);
    let found: BTreeSet<String> =
        adopting.join().unwrap().into_iter().map(|found| found.record.instance).collect();
    assert_eq!(found.len(), 21, "{found:?}");
    let mut started = BTreeSet::new();
    while started.len() < asked.len() {
        if let Report::Started { instance, .. } = bench.report() {
            started.insert(instance);
        }
    }
    assert_eq!(bench.run(&sh("new-1", "exit 3")), Exit::Code(3));
    for spec in &asked {
        bench.kill(spec);
        while !matches!(bench.report(), Report::Exited { run, .. } if run == spec.run) {}
    }
}

#[test]
fn a_keeper_of_the_version_before_is_spoken_to_in_its_own() {
    let root = tempfile::tempdir().unwrap();
    let (instances, run) = (root.path().join("instances/old-1"), RunId::generate());
    fs::create_dir_all(&instances).unwrap();
    let sample = include_str!("samples/keeper/running.v1.json");
    let mut record: serde_json::Value = serde_json::from_str(sample).unwrap();
    record["protocol"] = (PROTOCOL - 1).into();
    record["instance"] = "old-1".into();
    record["run"] = run.to_string().into();
    fs::write(instances.join(format!("{run}.json")), record.to_string()).unwrap();
    let keepers = Keepers::open(KeeperOptions {
        state: root.path().into(),
        program: Some(HOST.into()),
        build: "test".into(),
        soft_open_files: None,
    })
    .unwrap();
    let keeper =
        std::os::unix::net::UnixDatagram::bind(root.path().join(format!("run/k-{run}.sock"))).unwrap();
    keeper.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(block_on(keepers.adopt()).unwrap().len(), 1);
    let stop = StopRequest { signal: libc::SIGTERM, timeout: Duration::from_secs(1), kill: false };
    for (run, version) in [(run, PROTOCOL - 1), (RunId::generate(), PROTOCOL)] {
        let other = root.path().join(format!("run/k-{run}.sock"));
        let other =
            std::os::unix::net::UnixDatagram::bind(other).unwrap_or_else(|_| keeper.try_clone().unwrap());
        other.set_read_timeout(Some(PATIENCE)).unwrap();
        block_on(keepers.stop("old-1", run, stop)).unwrap();
        let mut buffer = [0; 1024];
        let length = other.recv(&mut buffer).unwrap();
        let message: serde_json::Value = serde_json::from_slice(&buffer[..length]).unwrap();
        assert_eq!(message["v"], version, "{message}");
    }
}

#[test]
fn ensure_gone_ends_a_run_whose_keeper_lives_too() {
    let bench = Bench::new();
    let live = sh("web-1", "sleep 600");
    let pid = bench.start(&live);
    let ended = block_on(bench.keepers().ensure_gone("web-1", live.run)).unwrap();
    assert!(!alive(pid));
    assert!(matches!(ended.record.unwrap().state, RunState::Exited { exit: Exit::Signal(9), .. }));
}

#[test]
fn three_hundred_at_once_are_all_reported() {
    let bench = Bench::new();
    let specs: Vec<RunSpec> = (0..300).map(|number| sh(&format!("many-{number}"), "exit 0")).collect();
    let begun = Instant::now();
    block_on(bench.keepers().start_many(&specs)).unwrap();
    // Nobody listens for a while, so that the queue is full.
    std::thread::sleep(Duration::from_millis(300));
    let (mut started, mut exited) = (BTreeSet::new(), BTreeSet::new());
    while exited.len() < specs.len() {
        match bench.report() {
            Report::Started { run, .. } => assert!(started.insert(run)),
            Report::Exited { run, exit: Exit::Code(0), .. } => {
                assert!(started.contains(&run), "exited before it started");
                assert!(exited.insert(run));
            }
            other => panic!("{other:?}"),
        }
    }
    println!("300 started and ended in {:?}", begun.elapsed());
}

#[test]
fn a_full_disk_costs_lines_that_are_counted_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"])
        .arg(root.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        assert!(
            std::env::var_os("CI").is_none(),
            "a tmpfs can't be mounted, and in CI nothing may be skipped"
        );
        println!("skipped: cannot mount a tmpfs");
        return;
    }
    let path = root.path().to_owned();
    {
        let bench = Bench::at(Some(root), path.join("state"));
        let mut service = sh(
            "web-1",
            "\"$HOST\" lines 30000 100; touch $OUT/full; while [ ! -e $OUT/go ]; do sleep 0.01; done; echo back; while [ ! -e $OUT/end ]; do sleep 0.01; done; exit 6",
        );
        let out = tempfile::tempdir().unwrap();
        service.env.push(("HOST".into(), HOST.into()));
        service.env.push(("OUT".into(), out.path().into()));
        bench.start(&service);
        until("all is written and the service isn't held up", || out.path().join("full").exists());
        until("the log is full", || bench.log(&service).len() > 500_000);
        // Room again, for the log and for the record of the gap.
        let filled = bench.said(&service, "stdout");
        let other = bench.state.join("ballast");
        assert!(fs::write(&other, vec![1; 200_000]).is_err(), "the disk isn't full");
        let _ = fs::remove_file(&other);
        let log = fs::OpenOptions::new().write(true).open(bench.file(&service, "log")).unwrap();
        log.set_len(200 * 140).unwrap();
        drop(log);
        fs::write(out.path().join("go"), "").unwrap();
        until("the gap is recorded", || !bench.record(&service).gaps.is_empty());
        let gap = bench.record(&service).gaps.remove(0);
        assert_eq!(gap.reason, format!("disk full: {} bytes", gap.bytes.unwrap()));
        assert_eq!(filled.len() as u64 + gap.bytes.unwrap(), 3_000_000);
        assert_eq!(filled.len() as u64 / 100 + gap.lines.unwrap(), 30_000);
        assert!(bench.said(&service, "stdout").ends_with(b"back\n"));
        fs::write(out.path().join("end"), "").unwrap();
        assert_eq!(bench.exit(&service), Exit::Code(6));

        // With no room at all the exit is recorded all the same.
        let second = sh("web-2", "sleep 600");
        bench.start(&second);
        let mut size = 1 << 20;
        let ballast = fs::File::create(bench.state.join("ballast")).unwrap();
        while size > 0 {
            use std::io::Write;
            if (&ballast).write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
        // A third run has no room for its first record: it isn't begun, and nothing is left that can't be read.
        let third = sh("web-3", "exit 0");
        block_on(bench.keepers().start(&third)).unwrap();
        let report = bench.report();
        assert!(
            matches!(&report, Report::StartFailed { run, errno, .. } if *run == third.run && *errno == libc::ENOSPC),
            "{report:?}"
        );
        assert!(!bench.file(&third, "json").exists(), "an empty record was left");
        bench.stop(&second, Duration::from_secs(10));
        assert_eq!(bench.exit(&second), Exit::Signal(15));
        assert!(matches!(bench.record(&second).state, RunState::Exited { exit: Exit::Signal(15), .. }));
    }
    let _ = std::process::Command::new("umount").arg("-l").arg(&path).status();
}

#[test]
fn a_pid_that_means_another_process_is_left_alone() {
    let bench = Bench::new();
    let victim = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let now = ProcessIdentity::of(victim.id() as i32).unwrap();
    let ended = sh("web-1", "exit 0");
    assert_eq!(bench.run(&ended), Exit::Code(0));
    // The record of a run that seems to be alive, with pids that have gone to somebody else.
    let mut record = bench.record(&ended);
    let earlier = ProcessIdentity { start: now.start - 1, ..now };
    record.keeper = Some(earlier);
    record.state =
        RunState::Running { process: ProcessIdentity { inode: now.inode.map(|inode| inode - 1), ..now } };
    fs::write(bench.file(&ended, "json"), serde_json::to_vec(&record).unwrap()).unwrap();
    assert_eq!(Keepers::scan(&bench.state).unwrap()[0].liveness, Liveness::Dead);
    let gone = block_on(bench.keepers().ensure_gone("web-1", ended.run)).unwrap();
    assert_eq!(gone.ended, Vec::<i32>::new());
    let mut victim = victim;
    assert!(victim.try_wait().unwrap().is_none(), "it was signalled");
    // The same in another boot.
    record.boot_id = "of-yesterday".into();
    fs::write(bench.file(&ended, "json"), serde_json::to_vec(&record).unwrap()).unwrap();
    assert_eq!(Keepers::scan(&bench.state).unwrap()[0].liveness, Liveness::OtherBoot);
    victim.kill().unwrap();
    victim.wait().unwrap();
}

#[test]
fn a_state_folder_may_be_deeper_than_a_socket_path() {
    let root = tempfile::tempdir().unwrap();
    let state = root.path().join("d".repeat(100)).join("e".repeat(100)).join("f".repeat(100));
    let bench = Bench::at(Some(root), state);
    let spec = sh("web-1", "echo deep; sleep 600");
    bench.start(&spec);
    until("the line", || bench.said(&spec, "stdout") == b"deep\n");
    bench.stop(&spec, Duration::from_secs(10));
    assert_eq!(bench.exit(&spec), Exit::Signal(15));
}

#[test]
fn folders_and_files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let spec = sh("web-1", "sleep 600");
    bench.start(&spec);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for entry in fs::read_dir(bench.state.join("run")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    for folder in ["", "run", "instances", "instances/web-1"] {
        assert_eq!(mode(&bench.state.join(folder)), 0o700, "{folder}");
    }
    assert_eq!((mode(&bench.file(&spec, "json")), mode(&bench.file(&spec, "log"))), (0o600, 0o600));
}

#[test]
fn a_keeper_that_is_asked_by_sigterm_stops_its_service() {
    let bench = Bench::new();
    let spec = sh("web-1", "trap 'exit 8' TERM; echo ready; while :; do sleep 0.01; done");
    bench.start(&spec);
    until("ready", || !bench.log(&spec).is_empty());
    let keeper = rustix::process::Pid::from_raw(keeper_of(&bench, &spec)).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::TERM).unwrap();
    assert_eq!(bench.exit(&spec), Exit::Code(8));
}
