//! Services that can't be started, that die, hang, flood and fork: each is reported truly, nothing else is disturbed, and
//! a stop leaves no process.

use crate::support::{Done, Project, alive, until};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Fails unless the command said each of `words`.
#[track_caller]
fn said(done: &Done, words: &[&str]) {
    for word in words {
        assert!(done.stderr.contains(word), "{word:?} isn't in:\n{}", done.stderr);
    }
}

/// A stack in which one service is bad and one is good. The start fails with 3 and says `words`; the status says `state`
/// and has `reason`; the good one runs on with the pid that it had.
#[track_caller]
fn only_the_bad_one_suffers(bad: &str, words: &[&str], state: &str, reason: &str) -> Project {
    let project = Project::new(&format!(
        "services:\n  good: {{ type: process, command: sleep 1000 }}\n  bad: {{ type: process, restart: no, {bad} }}\n"
    ));
    let start = project.run(&["start"]);
    assert_eq!(start.code, 3, "{}", start.stderr);
    said(&start, words);
    said(&start, &["1 ready"]);
    let good = project.pid("good-1");
    let seen = project.instance("bad-1");
    assert_eq!(seen["state"], state, "{seen:#}");
    assert!(seen["reason"]["message"].as_str().unwrap().contains(reason), "{seen:#}");
    assert!(seen["pid"].is_null(), "{seen:#}");
    assert!(alive(good));
    project.ok(&["restart", "good"]);
    project.ok(&["stop"]);
    assert_eq!(project.processes(), Vec::<u32>::new());
    project
}

#[test]
fn a_missing_binary_is_named() {
    let words = ["bad failed", "nosuchprogram", "No such file"];
    only_the_bad_one_suffers(
        "command: nosuchprogram --flag",
        &words,
        "failed",
        "nosuchprogram: No such file",
    );
}

#[test]
fn a_directory_is_no_binary() {
    only_the_bad_one_suffers(
        "command: /tmp",
        &["bad failed", "/tmp", "denied"],
        "failed",
        "/tmp: Permission denied",
    );
}

#[test]
fn a_missing_working_directory_is_named() {
    let words = ["bad failed", "/no/such/folder", "No such file"];
    only_the_bad_one_suffers(
        "command: sleep 1000, working_dir: /no/such/folder",
        &words,
        "failed",
        "/no/such/folder",
    );
}

#[test]
fn an_unknown_user_is_named() {
    let words = ["bad failed", "nosuchuser"];
    only_the_bad_one_suffers(
        "command: sleep 1000, user: nosuchuser",
        &words,
        "failed",
        "nosuchuser: no such user",
    );
}

#[test]
fn a_port_in_use_names_its_holder_and_nothing_healthy_is_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let project = Project::new(&format!(
        r#"
services:
  web:
    type: process
    command: python3 -m http.server {port} --bind 127.0.0.1
    ports: [{port}]
    health_check: {{ tcp: {port} }}
    restart: {{ policy: always, backoff: {{ initial: 20ms, max: 200ms }} }}
"#
    ));
    let start = project.run(&["start"]);
    assert_eq!(start.code, 3, "{}", start.stderr);
    let (port_word, pid_word) = (format!("port {port} is in use"), format!("{}", std::process::id()));
    said(&start, &[&port_word, &pid_word]);
    let web = project.instance("web-1");
    assert_ne!(web["health"]["status"], "healthy", "the holder's answers aren't ours: {web:#}");
    assert_eq!(web["ready"], false);
    drop(listener);
    until("it gets the port", || project.instance("web-1")["health"]["status"] == "healthy");
    assert_eq!(project.instance("web-1")["state"], "running");
}

#[test]
fn what_ignores_sigterm_is_killed_after_its_shutdown_timeout() {
    let project = Project::new(
        r#"
services:
  other: { type: process, command: sleep 1000 }
  stubborn:
    type: process
    command: [sh, -c, "trap 'echo asked' TERM; echo up > up; while :; do sleep 0.02; done"]
    shutdown_timeout: 400ms
"#,
    );
    project.ok(&["start"]);
    project.wait_for("up");
    let (pid, begin) = (project.pid("stubborn-1"), Instant::now());
    project.ok(&["stop", "stubborn"]);
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(400), "it had its time: {took:?}");
    assert!(took < Duration::from_secs(4), "and no more: {took:?}");
    assert!(!alive(pid));
    let seen = project.instance("stubborn-1");
    assert_eq!((&seen["state"], &seen["exit"]["signal"]), (&"stopped".into(), &9.into()), "{seen:#}");
    assert_eq!(project.logs("stubborn"), ["asked"], "it was asked first");
    assert_eq!(project.state("other-1"), "running");
}

#[test]
fn children_that_left_the_session_end_with_the_service() {
    let project = Project::new(
        r#"
services:
  daemonizer:
    type: process
    # A double fork into a session of its own, also without the environment that marks it, and deaf to SIGTERM.
    command:
      - sh
      - -c
      - |
        setsid sh -c 'sh -c "trap \"\" TERM HUP; echo \$\$ > marked; while :; do sleep 1; done" &' </dev/null
        setsid env -i sh -c 'sh -c "echo \$\$ > unmarked; exec sleep 1000" &' </dev/null
        echo forked
        exec sleep 1000
  leaver:
    type: process
    restart: no
    command: [sh, -c, "setsid sh -c 'echo $$$$ > left; exec sleep 1000' & while [ ! -s left ]; do sleep 0.01; done; exit 4"]
"#,
    );
    project.run(&["start"]);
    let (marked, unmarked, left) =
        (project.pid_in("marked"), project.pid_in("unmarked"), project.pid_in("left"));
    until("the leaver has ended", || project.state("leaver-1") == "failed");
    assert_eq!(project.instance("leaver-1")["exit"]["code"], 4);
    assert!(!alive(left), "a service that has ended leaves nothing");
    assert!(alive(marked) && alive(unmarked));
    project.ok(&["stop"]);
    assert!(!alive(marked) && !alive(unmarked));
    assert!(project.processes().is_empty());
}

#[test]
fn invalid_utf8_arrives_as_text_that_can_be_shown() {
    let project = Project::new(
        r#"
tasks:
  bytes: { command: [sh, -c, "printf 'a\\377\\376b\\n\\000\\200\\nlast'"] }
"#,
    );
    project.ok(&["start"]);
    let lines = project.logs("bytes");
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with('a') && lines[0].ends_with('b'), "{lines:?}");
    assert_eq!(lines[2], "last", "a last line needs no line break");
    let raw = project.command(&["logs", "--no-prefix", "bytes"]).output().unwrap().stdout;
    assert!(raw.windows(2).any(|two| two == [0xff, 0xfe]), "the bytes are what they were: {raw:?}");
}

#[test]
fn a_line_of_ten_megabytes_is_one_line() {
    let project = Project::new(
        r#"
tasks:
  long: { command: [sh, -c, "echo before; head -c 10000000 /dev/zero | tr '\\0' x; echo; echo after"], logs: { max_size: 64MiB } }
"#,
    );
    project.ok(&["start"]);
    let lines = project.logs("long");
    let lengths: Vec<usize> = lines.iter().map(String::len).collect();
    assert_eq!(lengths, [6, 10_000_000, 5]);
    assert!(lines[1].bytes().all(|byte| byte == b'x'));
}

#[test]
fn a_service_that_closes_its_outputs_runs_on() {
    let project = Project::new(
        r#"
services:
  mute:
    type: process
    command: [sh, -c, "echo last words; exec >&- 2>&-; echo up > up; while [ ! -e go ]; do sleep 0.02; done; exit 6"]
    restart: no
"#,
    );
    project.ok(&["start"]);
    project.wait_for("up");
    assert_eq!(project.state("mute-1"), "running");
    project.write("go", "");
    until("its end is seen", || project.state("mute-1") == "failed");
    assert_eq!(project.instance("mute-1")["exit"]["code"], 6);
    assert_eq!(project.logs("mute"), ["last words"]);
}

#[test]
fn a_health_command_that_hangs_is_bounded_and_delays_nobody() {
    let project = Project::new(
        r#"
services:
  hung:
    type: process
    command: sleep 1000
    startup_timeout: 800ms
    health_check:
      # Its children leave its group, and it is deaf.
      command: [sh, -c, "trap '' TERM; echo $$$$ >> probes; sleep 1000 & echo $! >> probes; sleep 1000"]
      interval: 100ms
      timeout: 200ms
      retries: 2
  other:
    type: process
    command: sleep 1000
    health_check: { command: "true", interval: 50ms }
"#,
    );
    let begin = Instant::now();
    let start = project.run(&["start"]);
    assert_eq!(start.code, 5, "time-outs are the only failures: {}", start.stderr);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    said(&start, &["hung", "1 ready"]);
    let hung = project.instance("hung-1");
    assert_eq!(
        (&hung["state"], &hung["summary"]),
        (&"starting".into(), &"starting (overdue)".into()),
        "{hung:#}"
    );
    until("it is unhealthy", || project.instance("hung-1")["health"]["status"] == "unhealthy");
    assert_eq!(project.instance("other-1")["health"]["status"], "healthy");
    let probes = || project.read("probes").lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>();
    until("it was asked again and again", || probes().len() >= 8);
    let living = probes().into_iter().filter(|pid| alive(*pid)).count();
    assert!(living <= 2, "{living} processes of probes live, at most one probe may");
    project.ok(&["stop"]);
    until("the last probe is gone", || probes().into_iter().all(|pid| !alive(pid)));
}

mod heavy {
    use super::*;

    #[test]
    fn a_service_that_exits_at_once_is_never_called_ready() {
        for code in [1, 3, 127] {
            let bad = format!(r#"command: [sh, -c, "echo my last words; exit {code}"]"#);
            let cause = format!("exited with code {code}");
            let words = ["bad failed", cause.as_str(), "my last words"];
            let project = only_the_bad_one_suffers(&bad, &words, "failed", &cause);
            assert_eq!(project.logs("bad"), ["my last words"]);
        }
        let words = ["bad ended by itself", "exited with code 0", "my last words"];
        only_the_bad_one_suffers(r#"command: [sh, -c, "echo my last words"]"#, &words, "stopped", "code 0");
        let words = ["bad failed", "SIGSEGV", "my last words"];
        only_the_bad_one_suffers(
            r#"command: [sh, -c, "echo my last words; kill -SEGV $$$$"]"#,
            &words,
            "failed",
            "SIGSEGV",
        );
    }

    #[test]
    fn what_dies_again_and_again_fails_the_start_with_its_last_words() {
        let project = Project::new(
            r#"
services:
  crasher: { type: process, command: [sh, -c, "echo try $HARNESS_INSTANCE; exit 9"] }
  other: { type: process, command: sleep 1000 }
"#,
        );
        let start = project.run(&["start"]);
        assert_eq!(start.code, 3, "{}", start.stderr);
        said(&start, &["crasher failed", "code 9", "try crasher-1", "1 ready"]);
        assert!(project.instance("crasher-1")["restarts"].as_u64().unwrap() >= 2);
    }

    #[test]
    fn a_hundred_megabytes_of_output_are_rotated_and_hang_nothing() {
        let project = Project::new(
            r#"
services:
  other: { type: process, command: sleep 1000 }
  flood:
    type: process
    restart: no
    logs: { max_size: 1MiB, keep_files: 2 }
    command: [sh, -c, "seq -f '%099.0f' 1 1000000; echo done > done; exec sleep 1000"]
"#,
        );
        project.ok(&["start"]);
        let begin = Instant::now();
        project.wait_for("done");
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        until("the last line is logged", || {
            project.ok(&["logs", "--no-prefix", "-n", "1", "flood"]).stdout.trim_start_matches('0').trim()
                == "1000000"
        });
        let folder = project.state_dir().join("instances/flood-1");
        let logs = std::fs::read_dir(folder)
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains(".log"));
        let sizes: Vec<u64> = logs.map(|entry| entry.metadata().unwrap().len()).collect();
        assert!(sizes.len() <= 3, "the current one and two more: {sizes:?}");
        assert!(sizes.iter().sum::<u64>() <= 3 * (1 << 20) + (1 << 18), "{sizes:?}");
        let numbers: Vec<u64> =
            project.logs("flood").iter().map(|line| line.trim_start_matches('0').parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "no line between two is missing");
        assert_eq!(project.state("flood-1"), "running");
        assert_eq!(project.state("other-1"), "running");
    }
}
