//! The rules on source text, as data: what is forbidden, where, and which doors are open.
//!
//! To open a door, add it here with the reason; nothing else opens one.

use super::source::Source;
use super::{Violation, Warning};

/// One rule.
pub(crate) struct Rule {
    /// Its name, as the report prints it.
    pub(crate) name: &'static str,
    /// Why it stands.
    pub(crate) why: &'static str,
    /// Files under these paths are held to it.
    pub(crate) rooms: &'static [&'static str],
    /// What must not stand there.
    pub(crate) forbids: &'static [Forbidden],
    /// Files, or folders that end with `/`, where it may.
    pub(crate) doors: &'static [Door],
    /// Whether test code is held to it too.
    pub(crate) tests_too: bool,
}

/// What a rule forbids.
pub(crate) enum Forbidden {
    /// A path and all below it, imports resolved; macros with their `!`.
    Path(&'static str),
    /// Text in code, outside comments and literals.
    Code(&'static str),
    /// Text anywhere in the file.
    Raw(&'static str),
}

/// A place where the forbidden thing is allowed.
pub(crate) struct Door {
    /// A file, or a folder that ends with `/`.
    pub(crate) path: &'static str,
    /// Why it is one.
    pub(crate) why: &'static str,
}

use Forbidden::{Code, Path, Raw};

const LIBRARIES: &[&str] = &[
    "crates/command-executor/src/",
    "crates/service-registry/src/",
    "crates/orchestrator/src/",
    "crates/harness-config/src/",
];

/// Rooms for decisions. A path without an ending slash covers `graph.rs` and `graph/`.
const PURE_ROOMS: &[&str] = &[
    "crates/orchestrator/src/model",
    "crates/orchestrator/src/graph",
    "crates/orchestrator/src/plan",
    "crates/orchestrator/src/health",
    "crates/orchestrator/src/observed",
    "crates/orchestrator/src/command",
    "crates/orchestrator/src/view",
    "crates/orchestrator/src/network",
];

/// All rules on source text.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "one spawn site",
        why: "programs are started by the local launcher or by the zygote, nowhere else",
        rooms: &["crates/"],
        forbids: &[
            Path("std::process::Command"),
            Path("async_process::Command"),
            Path("smol::process::Command"),
            Path("tokio::process::Command"),
            Path("libc::fork"),
            Path("libc::vfork"),
            Path("libc::clone"),
            Path("libc::posix_spawn"),
            Path("libc::system"),
            Path("libc::popen"),
        ],
        doors: &[
            Door { path: "crates/command-executor/src/launcher/local.rs", why: "the local launcher" },
            Door {
                path: "crates/command-executor/src/keeper/",
                why: "starts the zygote, which forks keepers",
            },
        ],
        tests_too: false,
    },
    Rule {
        name: "unsafe only in the keeper's room",
        why: "fork and what follows it need it; nothing else does",
        rooms: &["crates/", "xtask/", "bench/"],
        forbids: &[Code("unsafe")],
        doors: &[Door { path: "crates/command-executor/src/keeper/", why: "fork, exec, signals" }],
        tests_too: true,
    },
    Rule {
        name: "one quoting function",
        why: "a second one would be wrong in its own way; the property test covers one",
        rooms: &["crates/"],
        forbids: &[
            Code("fn quote"),
            Code("fn shell_quote"),
            Code("fn sh_quote"),
            Code("fn quote_sh"),
            Code("fn quote_word"),
            Code("fn quote_argument"),
            Code("fn shell_escape"),
            Code("fn escape_sh"),
            Code("fn escape_shell"),
            Path("shlex"),
            Path("shell_words"),
            Path("shell_escape"),
            Raw("'\\''\""),
            Raw("'\\\\''"),
        ],
        doors: &[Door { path: "crates/command-executor/src/command.rs", why: "the one quoting function" }],
        tests_too: false,
    },
    Rule {
        name: "libraries print nothing",
        why: "only the binary talks to people; stdout is data",
        rooms: LIBRARIES,
        forbids: &[
            Path("println!"),
            Path("print!"),
            Path("eprintln!"),
            Path("eprint!"),
            Path("dbg!"),
            Path("std::println!"),
            Path("std::print!"),
            Path("std::eprintln!"),
            Path("std::eprint!"),
            Path("std::dbg!"),
            Path("std::io::stdout"),
            Path("std::io::stderr"),
        ],
        doors: &[],
        tests_too: false,
    },
    Rule {
        name: "libraries don't read the environment or the home folder",
        why: "what a library needs is handed to it, so that a test, an agent and a daemon can differ",
        rooms: LIBRARIES,
        forbids: &[
            Path("std::env::var"),
            Path("std::env::var_os"),
            Path("std::env::vars"),
            Path("std::env::vars_os"),
            Path("std::env::set_var"),
            Path("std::env::remove_var"),
            Path("std::env::home_dir"),
            Path("std::env::temp_dir"),
            Path("std::env::current_dir"),
            Path("std::env::set_current_dir"),
            Path("std::env::args"),
            Path("std::env::args_os"),
            Path("libc::getenv"),
            Path("etcetera"),
        ],
        doors: &[],
        tests_too: false,
    },
    Rule {
        name: "libraries spawn nothing unasked",
        why: "every task and thread has an owner; libraries are given a spawner",
        rooms: LIBRARIES,
        forbids: &[
            Path("std::thread::spawn"),
            Path("std::thread::Builder"),
            Path("async_executor"),
            Path("async_global_executor"),
            Path("smol"),
            Path("tokio"),
            Path("async_std"),
        ],
        doors: &[Door {
            path: "crates/service-registry/src/store/durable.rs",
            why: "the writer that gathers commits: its store owns it and joins it",
        }],
        tests_too: false,
    },
    Rule {
        name: "no clock, randomness or IO in the pure rooms",
        why: "a decision is a function of its arguments, or it can't be tested as a table",
        rooms: PURE_ROOMS,
        forbids: &[
            Path("std::time::Instant::now"),
            Path("std::time::SystemTime"),
            Path("jiff::Timestamp::now"),
            Path("jiff::Zoned::now"),
            Path("rustix::time"),
            Code(".elapsed("),
            Path("fastrand"),
            Path("rand"),
            Path("uuid::Uuid::now_v7"),
            Path("uuid::Uuid::new_v4"),
            Path("std::fs"),
            Path("std::io"),
            Path("std::env"),
            Path("std::thread"),
            Path("std::process"),
            Path("std::os::unix::net"),
            Path("std::net::TcpStream"),
            Path("std::net::TcpListener"),
            Path("std::net::UdpSocket"),
            Path("std::net::ToSocketAddrs"),
            Path("rustix"),
            Path("libc"),
            Path("async_io"),
            Path("async_net"),
            Path("async_lock"),
            Path("async_channel"),
            Path("async_process"),
            Path("blocking"),
            Path("futures_lite"),
            Path("futures_util"),
            Path("tracing"),
            Code("async"),
            Code(".await"),
        ],
        doors: &[],
        tests_too: false,
    },
    Rule {
        name: "listeners have named doors",
        why: "no listener without authentication: every place that opens one is looked at",
        rooms: &["crates/"],
        forbids: &[
            Path("std::net::TcpListener"),
            Path("std::net::UdpSocket"),
            Path("std::os::unix::net::UnixListener"),
            Path("async_net::TcpListener"),
            Path("async_net::UdpSocket"),
            Path("async_net::unix::UnixListener"),
            Path("tokio::net::TcpListener"),
            Path("tokio::net::UnixListener"),
            Path("rustix::net::listen"),
            Path("libc::listen"),
        ],
        doors: &[
            Door { path: "crates/service-registry/src/server/", why: "checks the peer's uid" },
            Door { path: "crates/command-executor/src/keeper/", why: "a keeper's socket in the 0700 folder" },
        ],
        tests_too: false,
    },
    Rule {
        name: "one place that unpacks",
        why: "archives are hostile input; one loop decides what may be written",
        rooms: &["crates/"],
        forbids: &[Path("tar"), Path("zip")],
        doors: &[],
        tests_too: false,
    },
    Rule {
        name: "finished code",
        why: "what isn't there yet is refused with a message, never with a panic",
        rooms: &["crates/", "xtask/", "bench/"],
        forbids: &[Path("todo!"), Path("unimplemented!"), Path("std::todo!"), Path("std::unimplemented!")],
        doors: &[],
        tests_too: true,
    },
];

/// Everything in the file that breaks the rule.
pub(crate) fn check(rule: &Rule, path: &str, text: &str) -> Vec<Violation> {
    if !rule.rooms.iter().any(|room| is_in(path, room))
        || rule.doors.iter().any(|door| is_in(path, door.path))
    {
        return Vec::new();
    }
    if is_test_file(path) && !rule.tests_too {
        return Vec::new();
    }
    let source = Source::new(text, rule.tests_too);
    let mut violations = Vec::new();
    for forbidden in rule.forbids {
        let found = match forbidden {
            Path(prefix) => source.paths_below(prefix).cloned().collect(),
            Code(text) => source.code_matches(text),
            Raw(text) => source.raw_matches(text),
        };
        violations.extend(found.into_iter().map(|found| Violation {
            rule: rule.name,
            at: format!("{path}:{}", found.line),
            what: format!("`{}`: {}{}", found.what, rule.why, doors_of(rule)),
        }));
    }
    violations.sort();
    violations.dedup();
    violations
}

/// The open doors, for the reader of a violation.
fn doors_of(rule: &Rule) -> String {
    let doors: Vec<String> = rule.doors.iter().map(|door| format!("{} ({})", door.path, door.why)).collect();
    if doors.is_empty() { String::new() } else { format!("; open: {}", doors.join(", ")) }
}

/// Rooms that no file lies in: a renamed room would lose its guard without a word.
pub(crate) fn empty_rooms(paths: &[String]) -> Vec<Violation> {
    let is_empty = |place: &str| !paths.iter().any(|path| is_in(path, place));
    let rooms = RULES.iter().flat_map(|rule| rule.rooms.iter().map(move |room| (rule.name, *room)));
    rooms
        .filter(|(_, room)| is_empty(room))
        .map(|(rule, room)| Violation {
            rule,
            at: room.to_owned(),
            what: "the guarded room is gone".to_owned(),
        })
        .collect()
}

/// Doors that no file lies behind: they open for whatever takes that name next.
pub(crate) fn blind_doors(paths: &[String]) -> Vec<Warning> {
    let doors = RULES.iter().flat_map(|rule| rule.doors.iter().map(move |door| (rule.name, door.path)));
    doors
        .filter(|(_, door)| !paths.iter().any(|path| is_in(path, door)))
        .map(|(rule, door)| Warning(format!("{door}: {rule}: this door leads nowhere")))
        .collect()
}

/// Whether the path lies in the room: a folder with its slash, a file, or a module written without its `.rs`.
fn is_in(path: &str, room: &str) -> bool {
    match path.strip_prefix(room) {
        Some(rest) => room.ends_with('/') || rest.is_empty() || rest == ".rs" || rest.starts_with('/'),
        None => false,
    }
}

/// Whether only tests and benches compile the file.
fn is_test_file(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.any(|part| matches!(part, "tests" | "tests.rs" | "testing" | "testing.rs" | "benches"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For each rule: a file in which it must fail, and one in which it must not.
    const SAMPLES: &[(&str, &str, &str, &str)] = &[
        (
            "one spawn site",
            "crates/harness/src/commands/exec.rs",
            "use std::process::Command; fn f() { Command::new(\"sh\"); }",
            "use command_executor::command::Command; fn f() { Command::new(\"sh\"); }",
        ),
        (
            "unsafe only in the keeper's room",
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
        (
            "finished code",
            "crates/harness/src/main.rs",
            "fn main() { todo!() }",
            "fn main() { /* todo!() */ }",
        ),
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
        let unsafe_rule = rule("unsafe only in the keeper's room");
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
        let without_graph: Vec<String> =
            all.iter().filter(|path| !path.ends_with("/graph")).cloned().collect();
        assert_eq!(empty_rooms(&without_graph).len(), 1);
        let without_keeper: Vec<String> =
            all.iter().filter(|path| !path.contains("/keeper/")).cloned().collect();
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
}
