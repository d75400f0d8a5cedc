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

/// What never talks to people, and is handed all that it needs.
const QUIET: &[&str] = &[
    "crates/command-executor/src/",
    "crates/service-registry/src/",
    "crates/orchestrator/src/",
    "crates/harness-config/src/",
    "crates/data-plane/src/",
    "crates/tunnel/src/",
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
    "crates/data-plane/src/forward/balance",
    "crates/data-plane/src/ways/memory",
    "crates/data-plane/src/link/backoff",
    "crates/tunnel/src/overlay",
    "crates/tunnel/src/path",
    "crates/tunnel/src/probe",
];

/// All rules on source text.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "one spawn site",
        why: "programs are started by the local launcher or under keepers",
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
            Path("libc::execv"),
            Path("libc::execve"),
            Path("libc::execvp"),
            Path("libc::execvpe"),
            Path("libc::fexecve"),
        ],
        doors: &[
            Door { path: "crates/command-executor/src/launcher/local.rs", why: "the local launcher" },
            Door {
                path: "crates/command-executor/src/keeper/",
                why: "starts the zygote, which forks keepers",
            },
            Door {
                path: "crates/command-executor/src/command.rs",
                why: "a command in the standard library's form, for the launcher and for exec; starts nothing",
            },
            Door {
                path: "crates/harness/src/connect.rs",
                why: "starts the daemon, which outlives its starter",
            },
            Door {
                path: "crates/harness/src/commands/exec.rs",
                why: "is replaced by the command, starts nothing",
            },
            Door {
                path: "crates/data-plane/src/link/keep.rs",
                why: "starts the command whose streams are a link; it is killed with the task that holds it",
            },
            Door {
                path: "crates/test-hosts/src/",
                why: "a tool of tests: asks this machine's docker, and is no part of what users run",
            },
        ],
        tests_too: false,
    },
    Rule {
        name: "only keepers signal",
        why: "a keeper signals its own unreaped child and that one's descendants; anyone else may hit a reused pid",
        rooms: &["crates/"],
        forbids: &[
            Path("libc::kill"),
            Path("libc::killpg"),
            Path("libc::tgkill"),
            Path("rustix::process::kill_process"),
            Path("rustix::process::kill_process_group"),
            Path("rustix::process::kill_current_process_group"),
            Path("rustix::process::pidfd_send_signal"),
        ],
        doors: &[
            Door {
                path: "crates/command-executor/src/keeper/",
                why: "its child is unreaped while it signals",
            },
            Door {
                path: "crates/command-executor/src/process/",
                why: "the same, for a one-shot command's handle",
            },
            Door {
                path: "crates/command-executor/src/attacher/local.rs",
                why: "ends what was joined, through a pidfd whose identity was checked after it was opened",
            },
        ],
        tests_too: false,
    },
    Rule {
        name: "unsafe only in two rooms",
        why: "fork and what follows it need it, and ioctls that nobody wraps; nothing else does",
        rooms: &["crates/", "xtask/", "bench/"],
        forbids: &[Code("unsafe")],
        doors: &[
            Door { path: "crates/command-executor/src/keeper/", why: "fork, exec, signals" },
            Door { path: "crates/tunnel/src/interface/kernel.rs", why: "ioctls of a TUN device" },
        ],
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
        doors: &[Door {
            path: "crates/command-executor/src/command/quote.rs",
            why: "the one quoting function",
        }],
        tests_too: false,
    },
    Rule {
        name: "libraries print nothing",
        why: "only the binary talks to people; stdout is data",
        rooms: QUIET,
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
        doors: &[Door {
            path: "crates/data-plane/src/client/bridge.rs",
            why: "joins them with a socket: what goes through is a link's",
        }],
        tests_too: false,
    },
    Rule {
        name: "libraries don't read the environment or the home folder",
        why: "what a library needs is handed to it, so that a test, an agent and a daemon can differ",
        rooms: QUIET,
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
            Path("libc::getenv"),
            Path("etcetera"),
        ],
        doors: &[],
        tests_too: false,
    },
    Rule {
        name: "libraries don't read the program's arguments",
        why: "they belong to the program",
        rooms: QUIET,
        forbids: &[Path("std::env::args"), Path("std::env::args_os")],
        doors: &[Door {
            path: "crates/command-executor/src/keeper/zygote.rs",
            why: "sees that it is the zygote",
        }],
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
            why: "the writer that gathers commits, and the checkpoint behind it: their store owns and joins them",
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
            Path("tokio::net::UdpSocket"),
            Path("tokio::net::UnixListener"),
            Path("gotatun::udp::socket"),
            Path("gotatun::device::uapi"),
            Path("rustix::net::listen"),
            Path("libc::listen"),
        ],
        doors: &[
            Door { path: "crates/service-registry/src/server/", why: "checks the peer's uid" },
            Door { path: "crates/command-executor/src/keeper/", why: "a keeper's socket in the 0700 folder" },
            Door { path: "crates/data-plane/src/control/", why: "checks the peer's uid" },
            Door {
                path: "crates/data-plane/src/door/",
                why: "a socket in a 0700 folder, and sockets that ambassadors listen on in container networks",
            },
            Door {
                path: "crates/data-plane/src/ambassador.rs",
                why: "what a service's name and port lead to in a container network",
            },
            Door {
                path: "crates/data-plane/src/forward/listener.rs",
                why: "the addresses of a table: what a service's port is",
            },
            Door {
                path: "crates/data-plane/src/zone/",
                why: "tells names and addresses to programs of this machine, on loopback alone: the file can say no other",
            },
            Door { path: "crates/data-plane/examples/", why: "what the benchmark loads, on loopback" },
            Door {
                path: "crates/harness/src/commands/network/forward.rs",
                why: "asked for by the user, on loopback, for as long as the command runs",
            },
            Door {
                path: "crates/tunnel/src/udp.rs",
                why: "the port for tunnels and probes: nothing that isn't authenticated is answered",
            },
            Door {
                path: "crates/tunnel/src/addresses.rs",
                why: "connects a UDP socket to learn which address the kernel would send from; sends and hears nothing",
            },
        ],
        tests_too: false,
    },
    Rule {
        name: "one place that unpacks",
        why: "archives are hostile input; one loop decides what may be written",
        rooms: &["crates/"],
        forbids: &[Path("tar"), Path("zip")],
        doors: &[
            Door {
                path: "crates/service-registry/src/package/archive.rs",
                why: "the loop: reads headers, writes nothing",
            },
            Door {
                path: "crates/service-registry/src/package/build.rs",
                why: "packs: writes headers, reads none",
            },
        ],
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
mod tests;
