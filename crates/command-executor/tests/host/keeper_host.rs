//! A host program for the keepers' tests: a zygote when it is started as one, else one of a few services.

use command_executor::keeper::{KeeperOptions, Keepers, Report, RunSpec, StopRequest};
use futures_lite::future::block_on;
use std::{
    collections::BTreeSet,
    ffi::OsString,
    io::Write,
    process::{Command, exit},
    time::{Duration, Instant},
};

fn main() {
    command_executor::keeper::zygote_main();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["lines", count, length] => lines(number(count), number(length)),
        // A tree that leaves: each level starts the next in a session of its own.
        ["escape", depth, file] => escape(number(depth), file),
        ["bench", count] => bench(number(count)),
        ["hosts", state, file, script] => hosts(state, file, script),
        _ => {
            eprintln!(
                "usage: keeper-host lines COUNT LENGTH | escape DEPTH FILE | bench COUNT | hosts STATE FILE SCRIPT"
            );
            exit(2)
        }
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| exit(2))
}

/// `count` numbered lines of `length` bytes with their ends, in large blocks.
fn lines(count: usize, length: usize) {
    let mut out = std::io::BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
    let padding = "x".repeat(length);
    for line in 0..count {
        let _ = writeln!(out, "{line:09} {}", padding.get(..length.saturating_sub(11)).unwrap_or_default());
    }
    let _ = out.flush();
}

fn escape(depth: usize, file: &str) {
    if let Ok(mut pids) = std::fs::OpenOptions::new().append(true).create(true).open(file) {
        let _ = writeln!(pids, "{}", std::process::id());
    }
    if depth > 0 {
        // setsid -f forks and ends: what it starts is an orphan in another session.
        let me = std::env::current_exe().unwrap_or_else(|_| exit(1));
        let _ = Command::new("setsid")
            .arg("-f")
            .arg(me)
            .args(["escape", &(depth - 1).to_string(), file])
            .status();
    }
    std::thread::sleep(Duration::from_secs(600));
}

/// Runs a script that sees `file` at `/etc/hosts`, and prints its log, or why it couldn't be started.
fn hosts(state: &str, file: &str, script: &str) {
    let options =
        KeeperOptions { state: state.into(), program: None, build: "hosts".into(), soft_open_files: None };
    let Ok(keepers) = Keepers::open(options) else { exit(1) };
    let mut spec = RunSpec::new("web-1", ["sh", "-c", script].map(OsString::from).to_vec(), "/");
    spec.env.extend(std::env::var_os("PATH").map(|path| ("PATH".into(), path)));
    spec.hosts = Some(file.into());
    if block_on(keepers.start(&spec)).is_err() {
        exit(1)
    }
    loop {
        match block_on(keepers.next_report()) {
            Ok(Report::Started { .. }) => {}
            Ok(Report::StartFailed { stage, message, .. }) => {
                println!("{stage:?}: {message}");
                return;
            }
            Ok(Report::Exited { exit, .. }) => {
                let log = std::path::Path::new(state).join(format!("instances/web-1/{}.log", spec.run));
                print!("{}{exit:?}", std::fs::read_to_string(log).unwrap_or_default());
                return;
            }
            _ => exit(1),
        }
    }
}

/// Figures of many keepers at once, and of a million lines; to be run by hand on an optimised build.
fn bench(count: usize) {
    let folder = std::env::temp_dir().join(format!("keeper-bench-{}", std::process::id()));
    let options =
        KeeperOptions { state: folder.clone(), program: None, build: "bench".into(), soft_open_files: None };
    let Ok(keepers) = Keepers::open(options) else { exit(1) };
    let spec =
        |name: String, argv: &[&str]| RunSpec::new(name, argv.iter().map(OsString::from).collect(), "/");
    let wait = |mut over: Box<dyn FnMut(&Report) -> bool>| {
        while !block_on(keepers.next_report()).is_ok_and(|report| over(&report)) {}
    };
    let specs: Vec<RunSpec> =
        (0..count).map(|at| spec(format!("sleep-{at}"), &["/bin/sleep", "1000"])).collect();

    let begun = Instant::now();
    let _ = block_on(keepers.start_many(&specs));
    let mut started = 0;
    wait(Box::new(move |report| {
        started += usize::from(matches!(report, Report::Started { .. }));
        started == count
    }));
    println!("{count} started: {:?}", begun.elapsed());

    let found = block_on(keepers.adopt()).unwrap_or_default();
    let pids: BTreeSet<i32> =
        found.iter().filter_map(|found| found.record.keeper.map(|keeper| keeper.pid)).collect();
    let pss: u64 = pids.iter().filter_map(|pid| pss(*pid)).sum();
    println!("PSS of {} keepers: {pss} KiB, {} each", pids.len(), pss / pids.len().max(1) as u64);

    let begun = Instant::now();
    for spec in &specs {
        let stop = StopRequest { signal: 15, timeout: Duration::from_secs(5), kill: false };
        let _ = block_on(keepers.stop(&spec.instance, spec.run, stop));
    }
    let mut ended = 0;
    wait(Box::new(move |report| {
        ended += usize::from(matches!(report, Report::Exited { .. }));
        ended == count
    }));
    println!("{count} stopped: {:?}", begun.elapsed());

    let me = std::env::current_exe().unwrap_or_else(|_| exit(1));
    for _ in 0..3 {
        let chatty = spec("chatty".into(), &[&me.to_string_lossy(), "lines", "1000000", "100"]);
        let begun = Instant::now();
        let _ = block_on(keepers.start(&chatty));
        wait(Box::new(|report| matches!(report, Report::Exited { .. })));
        println!("1,000,000 lines of 100 bytes: {:?}", begun.elapsed());
    }
    let _ = std::fs::remove_dir_all(folder);
}

fn pss(pid: i32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?.split_whitespace().next()?.parse().ok()
}
