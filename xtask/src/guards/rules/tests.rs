//! Each rule is shown to fail, and to pass what is good.

use super::*;

/// For each rule: a file in which it must fail, and one in which it must not.
const SAMPLES: &[(&str, &str, &str, &str)] = &[
    (
        "one spawn site",
        "crates/harness/src/commands/status.rs",
        "use std::process::Command; fn f() { Command::new(\"sh\"); }",
        "use command_executor::command::Command; fn f() { Command::new(\"sh\"); }",
    ),
    (
        "only keepers signal",
        "crates/harness/src/daemon/mod.rs",
        "use rustix::process::{Signal, kill_process}; fn f() { kill_process(pid, Signal::TERM); }",
        "fn f() { keeper.signal(Signal::TERM); }",
    ),
    (
        "unsafe only in two rooms",
        "crates/orchestrator/src/node/mod.rs",
        "fn f() { unsafe { g() } }",
        "#![deny(unsafe_code)] // unsafe",
    ),
    (
        "one quoting function",
        "crates/command-executor/src/launcher/ssh.rs",
        r#"fn f(s: &str) -> String { s.replace('\'', "'\\''") }"#,
        "fn f(s: &str) -> String { crate::command::quote(s) }",
    ),
    (
        "libraries print nothing",
        "crates/service-registry/src/server/mod.rs",
        "fn f() { eprintln!(\"hello\"); }",
        "fn f() { tracing::info!(\"eprintln!\"); }",
    ),
    (
        "libraries don't read the environment or the home folder",
        "crates/harness-config/src/discover.rs",
        "use std::env; fn f() { env::var(\"HOME\"); }",
        "fn f(env: &Env) { env.var(\"HOME\"); }",
    ),
    (
        "libraries don't read the program's arguments",
        "crates/orchestrator/src/node/mod.rs",
        "fn f() { std::env::args(); }",
        "fn f(args: &[String]) {}",
    ),
    (
        "libraries spawn nothing unasked",
        "crates/service-registry/src/registry/core.rs",
        "use std::thread; fn f() { thread::spawn(|| ()); }",
        "fn f(s: &dyn Spawn) { s.spawn_obj(x); }",
    ),
    (
        "no clock, randomness or IO in the pure rooms",
        "crates/orchestrator/src/plan/restart.rs",
        "use std::time::Instant; fn f() { let now = Instant::now(); }",
        "fn f(now: Now) { }",
    ),
    (
        "no clock, randomness or IO in the pure rooms",
        "crates/orchestrator/src/graph.rs",
        "async fn f() {}",
        "fn f() {}",
    ),
    (
        "listeners have named doors",
        "crates/harness/src/daemon/serve.rs",
        "use std::os::unix::net::UnixListener; fn f() { UnixListener::bind(p); }",
        "fn f() { service_registry::server::serve(p); }",
    ),
    (
        "one place that unpacks",
        "crates/harness/src/commands/deploy.rs",
        "fn f() { tar::Archive::new(r).unpack(d); }",
        "fn f() { service_registry::package::unpack(r, d); }",
    ),
    ("finished code", "crates/harness/src/main.rs", "fn main() { todo!() }", "fn main() { /* todo!() */ }"),
];

fn rule(name: &str) -> &'static Rule {
    RULES.iter().find(|rule| rule.name == name).unwrap()
}

#[test]
fn every_rule_fails_on_a_violating_sample_and_passes_a_good_one() {
    for (name, path, bad, good) in SAMPLES {
        assert!(!check(rule(name), path, bad).is_empty(), "{name} must refuse: {bad}");
        assert_eq!(check(rule(name), path, good), [], "{name} must accept: {good}");
    }
    for rule in RULES {
        assert!(SAMPLES.iter().any(|sample| sample.0 == rule.name), "{} has no sample", rule.name);
    }
}

#[test]
fn every_forbidden_thing_is_found() {
    for rule in RULES {
        let room = rule.rooms.first().unwrap();
        let path = format!("{}/sample/mod.rs", room.trim_end_matches('/'));
        for forbidden in rule.forbids {
            let text = match forbidden {
                Path(path) => format!("fn f() {{ {path}; }}"),
                Code(code) => format!("{code} "),
                Raw(raw) => format!("// {raw}"),
            };
            assert!(!check(rule, &path, &text).is_empty(), "{}: {text}", rule.name);
        }
    }
}

#[test]
fn doors_are_open_and_tests_are_exempt_where_the_rule_says_so() {
    let text = "fn f() { std::process::Command::new(\"sh\"); }";
    let spawn = rule("one spawn site");
    for path in [
        "crates/command-executor/src/launcher/local.rs",
        "crates/command-executor/src/keeper/zygote.rs",
        "crates/harness/tests/cli/main.rs",
        "xtask/src/main.rs",
    ] {
        assert_eq!(check(spawn, path, text), [], "{path}");
    }
    assert!(!check(spawn, "crates/command-executor/src/launcher/local_two.rs", text).is_empty());
    let unsafe_rule = rule("unsafe only in two rooms");
    assert!(!check(unsafe_rule, "crates/harness/tests/cli/main.rs", "unsafe {}").is_empty());
}

#[test]
fn rooms_that_are_gone_and_doors_that_lead_nowhere_are_found() {
    let all: Vec<String> = RULES
        .iter()
        .flat_map(|rule| rule.rooms.iter().copied().chain(rule.doors.iter().map(|door| door.path)))
        .map(|place| if place.ends_with('/') { format!("{place}mod.rs") } else { place.to_owned() })
        .collect();
    assert_eq!(empty_rooms(&all), []);
    assert_eq!(blind_doors(&all), []);
    let without_graph: Vec<String> = all.iter().filter(|path| !path.ends_with("/graph")).cloned().collect();
    assert_eq!(empty_rooms(&without_graph).len(), 1);
    let without_keeper: Vec<String> = all.iter().filter(|path| !path.contains("/keeper/")).cloned().collect();
    assert!(!blind_doors(&without_keeper).is_empty());
}

#[test]
fn every_door_says_why_and_leads_somewhere_the_rule_holds() {
    for rule in RULES {
        for door in rule.doors {
            assert!(
                !door.why.is_empty() && rule.rooms.iter().any(|room| is_in(door.path, room)),
                "{}",
                door.path
            );
        }
    }
}
