//! What a machine lacks for what the file asks of it, and what to do about it.

use super::Facts;
use orchestrator::model::{Node, PortNumber, Service, Stack};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// The oldest kernel that keepers run on.
const OLDEST_KERNEL: (u32, u32) = (5, 10);
/// Room that the state of a few services needs, in KiB.
const LITTLE_ROOM_KIB: u64 = 512 * 1024;
/// Without so many descriptors a hundred services are too many.
const FEW_FILES: u64 = 1_024;
/// Clocks that differ by more put merged logs out of order.
const CLOCKS_APART: Duration = Duration::from_millis(500);
/// Clocks that differ by more make certificates and tokens invalid.
const CLOCKS_FAR_APART: Duration = Duration::from_secs(60);

/// What the file asks of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Types of the services there.
    pub(crate) types: BTreeSet<&'static str>,
    /// TCP ports that services there will listen on.
    pub(crate) ports: BTreeSet<u16>,
    /// Whether commands are to be run as root.
    pub(crate) sudo: bool,
    /// Services there, in the file's order.
    pub(crate) services: Vec<String>,
}

impl Wanted {
    /// What the stack asks of this node.
    pub(crate) fn of(stack: &Stack, name: &str, node: &Node) -> Self {
        let there = |service: &&std::sync::Arc<Service>| {
            service.host.as_deref().is_some_and(|host| host == name || host == node.host)
        };
        let mut wanted = Self { sudo: node.sudo, ..Self::default() };
        for service in stack.services.values().filter(there) {
            wanted.services.push(service.name.to_string());
            wanted.types.insert(service.target.type_name());
            wanted.ports.extend(service.ports.iter().filter_map(|port| match port.number {
                PortNumber::Fixed(number) => Some(number),
                PortNumber::Auto => None,
            }));
        }
        wanted
    }

    fn any(&self, types: &[&str]) -> bool {
        types.iter().any(|kind| self.types.contains(kind))
    }
}

/// How the clocks of two machines compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// How far the other's is ahead of ours, in milliseconds.
    pub(crate) ahead_ms: i64,
    /// It can't be known better than this: half the time of the question.
    pub(crate) uncertain: Duration,
}

impl Clock {
    /// From the other's time and ours before and after it was asked, in nanoseconds since 1970.
    pub(crate) fn compare(before: i128, theirs: i128, after: i128) -> Self {
        let half = (after - before).max(0) / 2;
        let ahead_ms = i64::try_from((theirs - (before + half)) / 1_000_000).unwrap_or(i64::MAX);
        Self { ahead_ms, uncertain: Duration::from_nanos(u64::try_from(half).unwrap_or(u64::MAX)) }
    }
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Not needed, or not yet a trouble.
    Warning,
    /// Services there will not run.
    Error,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) about: &'static str,
    /// How it is.
    pub(crate) level: Level,
    /// In words.
    pub(crate) text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

fn ok(about: &'static str, text: impl Into<String>) -> Finding {
    Finding { about, level: Level::Ok, text: text.into(), fix: None }
}

fn warning(about: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { about, level: Level::Warning, text: text.into(), fix: Some(fix.into()) }
}

fn error(about: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { level: Level::Error, ..warning(about, text, fix) }
}

/// What is to be said of a machine, in the order in which it is shown. `programs` are those that can be sent: for which kind
/// of machine, and what they are named by there.
pub(crate) fn judge(
    facts: &Facts,
    wanted: &Wanted,
    clock: Option<Clock>,
    programs: &[(String, String)],
) -> Vec<Finding> {
    let mut findings = vec![system(facts)];
    findings.extend(architecture(facts, programs));
    findings.push(folder(facts));
    findings.push(agent(facts, programs));
    findings.extend(clock.map(clocks));
    findings.extend(files(facts));
    findings.extend(sudo(facts, wanted));
    findings.extend(sessions(facts, wanted));
    findings.extend(docker(facts, wanted));
    findings.extend(systemd(facts, wanted));
    findings.extend(ports(facts, wanted));
    findings
}

fn system(facts: &Facts) -> Finding {
    let kernel = facts.kernel.as_deref().unwrap_or_default();
    let mut parts = vec![facts.os.clone().unwrap_or_else(|| "an unknown system".into())];
    parts.push(format!("Linux {kernel}"));
    parts.extend(facts.arch.clone());
    parts.extend(facts.cpus.map(|cpus| if cpus == 1 { "1 core".into() } else { format!("{cpus} cores") }));
    parts.extend(facts.memory_kib.map(|kib| format!("{} of memory", room(kib))));
    let text = parts.join(", ");
    match version(kernel) {
        Some(version) if version >= OLDEST_KERNEL => ok("system", text),
        _ => error(
            "system",
            text,
            format!("install Linux {}.{} or later there", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
        ),
    }
}

/// The first two numbers of a kernel's version.
fn version(kernel: &str) -> Option<(u32, u32)> {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn architecture(facts: &Facts, programs: &[(String, String)]) -> Option<Finding> {
    let arch = facts.arch.as_deref()?;
    let known: Vec<&str> = programs.iter().map(|(arch, _)| arch.as_str()).collect();
    (!known.contains(&arch)).then(|| {
        error(
            "program",
            format!("the machine is {arch}, there are agents for {}", known.join(", ")),
            format!(
                "build one: `cargo xtask agent --target {arch}-unknown-linux-musl`, and name its folder in HARNESS_AGENT_DIR"
            ),
        )
    })
}

fn agent(facts: &Facts, programs: &[(String, String)]) -> Finding {
    let Some(program) = &facts.agent else { return ok("agent", "none yet; it comes with the first start") };
    let version = facts.agent_version.as_deref().unwrap_or("of an unknown version");
    let life = facts.agent_pid.map_or("doesn't run now".into(), |pid| format!("pid {pid}"));
    let ours = programs.iter().any(|(arch, hash)| Some(arch) == facts.arch.as_ref() && hash == program);
    let other = if ours { "" } else { ", another build than this; it is exchanged when it is used next" };
    ok("agent", format!("{version}, {life}{other}"))
}

fn folder(facts: &Facts) -> Finding {
    let folder = facts.folder.as_deref().unwrap_or("the state folder");
    let there = facts.folder_there.as_deref().unwrap_or("/");
    if !facts.writable {
        let why = facts.write_error.as_deref().unwrap_or("no file can be made there");
        return error(
            "folder",
            format!("{folder}: {why}"),
            format!("let the user write to {there}, or set XDG_STATE_HOME there"),
        );
    }
    if !facts.executable {
        return error(
            "folder",
            format!("{folder}: no program can be run from there (noexec)"),
            format!("mount {there} without noexec, or set XDG_STATE_HOME to a folder elsewhere"),
        );
    }
    match facts.free_kib {
        Some(free) if free < LITTLE_ROOM_KIB => warning(
            "folder",
            format!("{folder}: only {} free", room(free)),
            "make room there: logs and state need it",
        ),
        free => ok(
            "folder",
            format!("{folder}{}", free.map(|free| format!(", {} free", room(free))).unwrap_or_default()),
        ),
    }
}

fn room(kib: u64) -> String {
    match kib {
        1_048_576.. => format!("{:.1} GiB", kib as f64 / 1_048_576.0),
        _ => format!("{} MiB", kib / 1_024),
    }
}

fn clocks(clock: Clock) -> Finding {
    const FIX: &str = "set it there: `sudo timedatectl set-ntp true`";
    let apart = Duration::from_millis(clock.ahead_ms.unsigned_abs());
    let direction = if clock.ahead_ms < 0 { "behind" } else { "ahead of" };
    let text = format!("{} {direction} this machine's", human(apart));
    match apart.saturating_sub(clock.uncertain) {
        certain if certain > CLOCKS_FAR_APART => error("clock", text, FIX),
        certain if certain > CLOCKS_APART => warning("clock", text, FIX),
        _ => ok("clock", format!("within {} of this machine's", human(apart.max(clock.uncertain)))),
    }
}

fn human(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

fn files(facts: &Facts) -> Option<Finding> {
    let limit = facts.open_files.filter(|limit| *limit < FEW_FILES)?;
    Some(warning(
        "limits",
        format!("at most {limit} open files"),
        "raise the hard limit there: `nofile` in /etc/security/limits.conf",
    ))
}

fn sudo(facts: &Facts, wanted: &Wanted) -> Option<Finding> {
    if !wanted.sudo {
        return None;
    }
    if facts.sudo {
        return Some(ok("sudo", "without a password"));
    }
    let user = facts.user.as_deref().unwrap_or("USER");
    let text = facts.sudo_error.clone().unwrap_or_else(|| "there is no sudo".into());
    Some(error(
        "sudo",
        text,
        format!(
            "`{user} ALL=(ALL) NOPASSWD: ALL` in /etc/sudoers.d/harness there, or no `sudo: true` for the node"
        ),
    ))
}

/// What the end of a session takes away. For root's agent it takes nothing: it has a scope of its own.
fn sessions(facts: &Facts, wanted: &Wanted) -> Option<Finding> {
    if facts.linger || (wanted.sudo && facts.sudo) {
        return None;
    }
    let fix = format!("`sudo loginctl enable-linger {}` there", facts.user.as_deref().unwrap_or("USER"));
    if facts.ends_processes {
        let text = "a session that ends takes its processes with it (KillUserProcesses)";
        return Some(error("sessions", text, fix));
    }
    let text =
        "the last one that ends takes the user's shared memory with it (RemoveIPC), which databases need";
    (facts.ends_memory && !wanted.services.is_empty()).then(|| warning("sessions", text, fix))
}

fn docker(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let needed = wanted.any(&["docker", "compose"]);
    let user = facts.user.as_deref().unwrap_or("USER");
    let mut findings = Vec::new();
    match (&facts.docker, &facts.docker_error) {
        (Some(version), _) => findings.push(ok("docker", version.clone())),
        (None, Some(why)) if needed => {
            let fix = match why.contains("permission denied") {
                true => {
                    format!("let {user} use it there: `sudo usermod -aG docker {user}`, then log in anew")
                }
                false => "start it there: `sudo systemctl start docker`".into(),
            };
            findings.push(error("docker", why.clone(), fix));
        }
        (None, None) if needed => {
            findings.push(error("docker", "not there", "install it there: `sudo apt-get install docker.io`"));
        }
        _ => {}
    }
    if wanted.any(&["compose"]) && facts.docker.is_some() {
        findings.push(match &facts.compose {
            Some(version) => ok("compose", version.clone()),
            None => error("compose", "not there", "install it there: `sudo apt-get install docker-compose`"),
        });
    }
    findings
}

fn systemd(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.systemd {
        Some(version) => {
            let state = facts.systemd_state.as_deref().filter(|state| *state != "running");
            findings.push(ok(
                "systemd",
                format!("{version}{}", state.map(|state| format!(", {state}")).unwrap_or_default()),
            ));
        }
        None if wanted.any(&["systemd", "portable"]) => {
            findings.push(error(
                "systemd",
                "it isn't PID 1 there",
                "run these services as type process or docker",
            ));
        }
        None => {}
    }
    if wanted.any(&["portable"]) && !facts.portablectl {
        findings.push(error(
            "portablectl",
            "not there",
            "install it there: `sudo apt-get install systemd-container`",
        ));
    }
    findings
}

fn ports(facts: &Facts, wanted: &Wanted) -> Option<Finding> {
    if wanted.ports.is_empty() {
        return None;
    }
    let list = |ports: Vec<&u16>| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let taken: Vec<&u16> = wanted.ports.intersection(&facts.listening).collect();
    if taken.is_empty() {
        return Some(ok("ports", format!("{} free", list(wanted.ports.iter().collect()))));
    }
    Some(warning(
        "ports",
        format!("{} in use", list(taken)),
        "see by whom there: `sudo ss -ltnp`; or give the services other ports",
    ))
}

#[cfg(test)]
mod tests;
