//! What a machine says of itself.

use command_executor::command::Command;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// What is run there, and what that runs as the agent's user.
const LOOK: &str = include_str!("look.sh");
const FOLDER: &str = include_str!("folder.sh");

/// The time that a machine has to look at itself: engines that hang are bounded in the script.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command that makes a machine say what it is, and what it has of a project's agent, which is root's with `root`. Read
/// its output with [`Facts::read`].
pub(crate) fn look(project_id: &str, root: bool) -> Command {
    let root = if root { "y" } else { "" };
    Command::new("sh").args(["-c", LOOK, "sh", project_id, root, FOLDER]).timeout(PATIENCE)
}

/// What a machine said. What it has nothing of is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    /// Its clock when it began to look, in nanoseconds since 1970.
    #[serde(skip)]
    pub(crate) time: Option<i128>,
    /// The user that was logged in.
    pub(crate) user: Option<String>,
    /// Its own name.
    pub(crate) hostname: Option<String>,
    /// The system's name, from os-release(5).
    pub(crate) os: Option<String>,
    /// `uname -r`.
    pub(crate) kernel: Option<String>,
    /// `uname -m`.
    pub(crate) arch: Option<String>,
    /// Processors that are online.
    pub(crate) cpus: Option<u32>,
    /// Memory in KiB.
    pub(crate) memory_kib: Option<u64>,
    /// The hard limit of open files; `None` also for no limit.
    pub(crate) open_files: Option<u64>,
    /// The version of systemd, where that is PID 1.
    pub(crate) systemd: Option<String>,
    /// What `systemctl is-system-running` says.
    pub(crate) systemd_state: Option<String>,
    /// Whether what the user runs and keeps outlives the last session.
    pub(crate) linger: bool,
    /// Whether a session that ends takes its processes with it, else.
    pub(crate) ends_processes: bool,
    /// Whether the user's shared memory, semaphores and queues go when the last session ends, else.
    pub(crate) ends_memory: bool,
    /// Whether there is portablectl.
    pub(crate) portablectl: bool,
    /// The engine's version.
    pub(crate) docker: Option<String>,
    /// Why the engine can't be used.
    pub(crate) docker_error: Option<String>,
    /// The version of Compose.
    pub(crate) compose: Option<String>,
    /// Whether commands can be run as root without a password.
    pub(crate) sudo: bool,
    /// Why sudo refuses.
    pub(crate) sudo_error: Option<String>,
    /// `yes` where the device for tunnels can be used, `denied` where it is there.
    pub(crate) tun: Option<String>,
    /// Where state will lie.
    pub(crate) folder: Option<String>,
    /// The nearest folder above that is there.
    pub(crate) folder_there: Option<String>,
    /// Room there in KiB.
    pub(crate) free_kib: Option<u64>,
    /// Whether files can be made there.
    pub(crate) writable: bool,
    /// Why not.
    pub(crate) write_error: Option<String>,
    /// Whether programs can be run from there.
    pub(crate) executable: bool,
    /// The program of the project's agent that is there: 16 digits of its hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent_version: Option<String>,
    /// Its process, if it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent_pid: Option<u32>,
    /// TCP ports that somebody listens on.
    pub(crate) listening: BTreeSet<u16>,
}

impl Facts {
    /// Reads what the script printed. Lines of other programs (a noisy login) are passed over.
    pub(crate) fn read(text: &str) -> Self {
        let mut facts = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(' ') else { continue };
            let value = value.trim();
            let text = || Some(shortened(value));
            match key {
                "time" => facts.time = nanoseconds(value),
                "user" => facts.user = text(),
                "hostname" => facts.hostname = text(),
                "os" => facts.os = text(),
                "kernel" => facts.kernel = text(),
                "arch" => facts.arch = text(),
                "cpus" => facts.cpus = value.parse().ok(),
                "memory_kib" => facts.memory_kib = value.parse().ok(),
                "open_files" => facts.open_files = value.parse().ok(),
                "systemd" => facts.systemd = text(),
                "systemd_state" => facts.systemd_state = text(),
                "linger" => facts.linger = value == "yes",
                "ends_processes" => facts.ends_processes = value == "b true",
                "ends_memory" => facts.ends_memory = value == "b true",
                "portablectl" => facts.portablectl = value == "yes",
                "docker" => facts.docker = text(),
                "docker_error" => facts.docker_error = text(),
                "compose" => facts.compose = text(),
                "sudo" => facts.sudo = value == "yes",
                "sudo_error" => facts.sudo_error = text(),
                "tun" => facts.tun = text(),
                "folder" => facts.folder = text(),
                "folder_there" => facts.folder_there = text(),
                "free_kib" => facts.free_kib = value.parse().ok(),
                "writable" => facts.writable = value == "yes",
                "write_error" => facts.write_error = text(),
                "executable" => facts.executable = value == "yes",
                "agent" => facts.agent = text(),
                "agent_version" => facts.agent_version = text(),
                "agent_pid" => facts.agent_pid = value.parse().ok(),
                "listening" => {
                    facts.listening =
                        value.split(' ').filter_map(|port| u16::from_str_radix(port, 16).ok()).collect();
                }
                _ => {}
            }
        }
        facts
    }
}

/// What `date +%s.%N` printed; busybox knows seconds only.
fn nanoseconds(text: &str) -> Option<i128> {
    let (seconds, rest) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    let nanos: i128 = match rest.len() {
        9 => rest.parse().unwrap_or(0),
        _ => 0,
    };
    Some(i128::from(seconds) * 1_000_000_000 + nanos)
}

/// What another machine said, fit for a line of a terminal.
fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = clean.take(MOST).collect();
    if text.chars().count() > MOST {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_is_read_and_noise_is_passed_over() {
        let facts = Facts::read(
            "Welcome to eu-1!\nuser app\nos Debian GNU/Linux 12 (bookworm)\ncpus two\nmemory_kib 4028000\n\
             docker_error permission denied \u{1b}[31mwhile\u{7} connecting\nlistening 0016 1F90 junk FFFFF\nwritable yes\n",
        );
        assert_eq!(facts.user.as_deref(), Some("app"));
        assert_eq!(facts.os.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!((facts.cpus, facts.memory_kib), (None, Some(4_028_000)));
        assert_eq!(facts.docker_error.as_deref(), Some("permission denied  [31mwhile  connecting"));
        assert_eq!(facts.listening, BTreeSet::from([22, 8080]));
        assert!(facts.writable && !facts.executable);
        assert_eq!(Facts::read("os \n\n \u{0}").os.as_deref(), Some(""));
        assert_eq!(
            Facts::read(&format!("os {}", "ä".repeat(500))).os.map(|os| os.chars().count()),
            Some(201)
        );
    }

    #[test]
    fn times_come_with_and_without_fractions() {
        assert_eq!(nanoseconds("12.000000034"), Some(12_000_000_034));
        assert_eq!(
            (nanoseconds("12"), nanoseconds("12.N"), nanoseconds("x.1")),
            (Some(12_000_000_000), Some(12_000_000_000), None)
        );
    }

    #[test]
    fn this_machine_can_say_what_it_is() {
        let home = tempfile::tempdir().unwrap();
        let output = std::process::Command::new("sh")
            .args(["-c", LOOK, "sh", "p-1", "", FOLDER])
            .env("XDG_STATE_HOME", home.path())
            .output()
            .unwrap();
        let facts = Facts::read(&String::from_utf8_lossy(&output.stdout));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(facts.arch.as_deref(), Some(std::env::consts::ARCH));
        assert!(facts.kernel.is_some() && facts.cpus > Some(0) && facts.free_kib.is_some(), "{facts:?}");
        assert_eq!(facts.folder_there.as_deref(), home.path().to_str());
        assert!(facts.writable && facts.executable);
        assert_eq!(home.path().read_dir().unwrap().count(), 0, "nothing is left");
    }
}
