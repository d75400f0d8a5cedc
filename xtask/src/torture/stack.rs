//! The stack that is tortured: fifty services of all tempers, as text of services.yaml.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// How a service behaves, as the checker must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temper {
    /// Runs until it is told to stop.
    Stable,
    /// Ends by itself.
    Crashing,
    /// Has children, also such that leave its session.
    Forking,
    /// Takes its time to stop.
    Slow,
    /// Writes much.
    Chatty,
    /// Must be killed.
    Ignoring,
    /// Writes long lines, and ends by itself.
    Long,
    /// Its log lies on a small disk.
    Disk,
    /// Its health check hangs now and then.
    Probed,
}

/// How many of each, fifty in all.
const TEMPERS: &[(Temper, &str, usize)] = &[
    (Temper::Stable, "stable", 14),
    (Temper::Crashing, "crash", 8),
    (Temper::Forking, "fork", 6),
    (Temper::Slow, "slow", 5),
    (Temper::Chatty, "chatty", 5),
    (Temper::Ignoring, "ignore", 4),
    (Temper::Long, "long", 4),
    (Temper::Disk, "disk", DISKS),
    (Temper::Probed, "probed", 1),
];

/// Services whose log may lie on a small disk.
pub(crate) const DISKS: usize = 3;

/// Bytes of a small disk.
pub(crate) const DISK_SIZE: usize = 4 << 20;

/// One service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Its name.
    pub(crate) name: String,
    /// Its temper.
    pub(crate) temper: Temper,
    /// Positions of those that it needs.
    pub(crate) needs: Vec<usize>,
    /// What is kept of its logs.
    pub(crate) logs: Logs,
}

impl Service {
    /// Its only instance.
    pub(crate) fn instance(&self) -> String {
        format!("{}-1", self.name)
    }

    /// Whether it ends by itself, so that nobody can say whether it should be running at a given moment.
    pub(crate) fn ends_by_itself(&self) -> bool {
        matches!(self.temper, Temper::Crashing | Temper::Long)
    }
}

/// Limits of a service's logs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logs {
    /// KiB of a file.
    pub(crate) max_size: usize,
    /// Rotated files.
    pub(crate) keep_files: u32,
    /// Runs.
    pub(crate) keep_runs: usize,
}

/// All services, in the order of the file.
pub(crate) fn services() -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    for (temper, word, count) in TEMPERS {
        for number in 0..*count {
            let name = format!("{word}{number:02}");
            let logs = logs(*temper, number);
            services.push(Service { name, temper: *temper, needs: Vec::new(), logs });
        }
    }
    // A few of the stable ones need each other; two of other tempers need one of them.
    for (dependent, needed) in [(1, 0), (2, 0), (3, 2), (4, 3), (15, 5), (23, 6)] {
        if let Some(service) = services.get_mut(dependent) {
            service.needs.push(needed);
        }
    }
    services
}

fn logs(temper: Temper, number: usize) -> Logs {
    let (max_size, keep_files, keep_runs) = match temper {
        Temper::Disk => (128, 2, 10),
        // One keeps so much that nothing is rotated out.
        Temper::Chatty if number == 0 => (16 << 10, 64, 10_000),
        Temper::Chatty => (256, 2, 10_000),
        Temper::Long => (4 << 10, 3, 10_000),
        // Some rotate often, some never; some forget runs.
        _ if number % 3 == 1 => (8, 3, 10_000),
        _ if number % 7 == 5 => (1 << 10, 5, 3),
        _ => (1 << 10, 5, 10_000),
    };
    Logs { max_size, keep_files, keep_runs }
}

/// What edits have changed so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edits {
    /// How often each service was edited.
    pub(crate) counts: BTreeMap<usize, u32>,
    /// Whether the file has one more service.
    pub(crate) extra: bool,
}

/// The name of the service that comes and goes.
pub(crate) const EXTRA: &str = "extra";

/// The text of services.yaml. `temper` is the program, `folder` where truth and locks lie.
pub(crate) fn yaml(services: &[Service], edits: &Edits, temper: &Path, folder: &Path) -> String {
    let mut text = String::from("version: \"1.0\"\nname: torture\ntemplates:\n");
    let _ = write!(
        text,
        "  any:\n    type: process\n    shutdown_timeout: 3s\n    startup_timeout: 30s\n    env: {{TORTURE_DIR: \"{}\"}}\n    \
         restart: {{policy: always, backoff: {{initial: 50ms, max: 500ms}}, reset_after: 1s}}\nservices:\n",
        folder.display()
    );
    for (position, service) in services.iter().enumerate() {
        let edit = edits.counts.get(&position).copied().unwrap_or(0);
        write_service(&mut text, services, service, edit, temper);
    }
    if edits.extra {
        let _ =
            writeln!(text, "  {EXTRA}:\n    extends: any\n    command: [\"{}\", stable]", temper.display());
    }
    text
}

fn write_service(text: &mut String, services: &[Service], service: &Service, edit: u32, temper: &Path) {
    let program = temper.display();
    let command = match service.temper {
        Temper::Stable | Temper::Probed => format!("[\"{program}\", stable]"),
        Temper::Crashing => format!("[\"{program}\", crash]"),
        Temper::Forking => format!("[\"{program}\", fork]"),
        Temper::Chatty => format!("[\"{program}\", chatty]"),
        Temper::Long => format!("[\"{program}\", long]"),
        Temper::Disk => format!("[\"{program}\", fast]"),
        Temper::Ignoring => format!("[sh, -c, \"trap '' TERM; exec '{program}' stable\"]"),
        // The shell's own words about killed children are not the service's.
        Temper::Slow => format!(
            "[sh, -c, \"exec 3>&2 2>/dev/null; '{program}' stable 2>&3 & c=$$!; trap 'sleep 0.7; kill $$c; wait $$c; exit 0' TERM; wait $$c\"]"
        ),
    };
    let Logs { max_size, keep_files, keep_runs } = service.logs;
    let _ = writeln!(text, "  {}:\n    extends: any\n    command: {command}", service.name);
    let _ = writeln!(
        text,
        "    logs: {{max_size: {max_size}KiB, keep_files: {keep_files}, keep_runs: {keep_runs}}}"
    );
    if service.temper == Temper::Ignoring {
        text.push_str("    shutdown_timeout: 800ms\n");
    }
    if service.temper == Temper::Probed {
        let _ = writeln!(
            text,
            "    health_check: {{command: [\"{program}\", probe], interval: 300ms, timeout: 400ms, retries: 3}}"
        );
    }
    let needs: Vec<&str> =
        service.needs.iter().filter_map(|at| services.get(*at)).map(|needed| needed.name.as_str()).collect();
    if !needs.is_empty() {
        let _ = writeln!(text, "    dependencies: [{}]", needs.join(", "));
    }
    if edit > 0 {
        let _ = writeln!(text, "    labels: {{edit: \"{edit}\"}}\n    env: {{TORTURE_EDIT: \"{edit}\"}}");
    }
}

/// The text of a stack of `count` services that do nothing.
pub(crate) fn quiet_yaml(count: usize, temper: &Path, folder: &Path) -> String {
    let mut text = String::from("version: \"1.0\"\nname: quiet\nservices:\n");
    for number in 0..count {
        let _ = writeln!(
            text,
            "  q{number:03}: {{type: process, command: [\"{}\", quiet], env: {{TORTURE_DIR: \"{}\"}}}}",
            temper.display(),
            folder.display()
        );
    }
    text
}

/// The text of a stack with a service that dies at once again and again, and one that is checked again and again. Both
/// write down the time since boot at which they do.
pub(crate) fn pausing_yaml(temper: &Path, folder: &Path) -> String {
    let (program, folder, pause) = (temper.display(), folder.display(), super::steps::PAUSE);
    format!(
        "version: \"1.0\"\nname: pausing\nservices:\n  deaths:\n    type: process\n    \
         command: [\"{program}\", note, \"{folder}/deaths\", \"1\"]\n    \
         restart: {{policy: always, backoff: {{initial: {pause}ms, max: {pause}ms}}, reset_after: 1h}}\n  checks:\n    \
         type: process\n    command: [\"{program}\", quiet]\n    env: {{TORTURE_DIR: \"{folder}\"}}\n    \
         health_check: {{command: [\"{program}\", note, \"{folder}/checks\", \"0\"], interval: {pause}ms, timeout: 2s}}\n"
    )
}

/// `chosen` and all that they need, directly or through others.
pub(crate) fn with_needs(services: &[Service], chosen: &[usize]) -> Vec<usize> {
    closure(chosen, |at| services.get(at).map(|service| service.needs.clone()).unwrap_or_default())
}

/// `chosen` and all that need them.
pub(crate) fn with_dependents(services: &[Service], chosen: &[usize]) -> Vec<usize> {
    closure(chosen, |needed| {
        let dependents = services.iter().enumerate().filter(|(_, service)| service.needs.contains(&needed));
        dependents.map(|(at, _)| at).collect()
    })
}

fn closure(chosen: &[usize], next: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
    let mut all: Vec<usize> = chosen.to_vec();
    let mut done = 0;
    while let Some(at) = all.get(done).copied() {
        done += 1;
        for more in next(at) {
            if !all.contains(&more) {
                all.push(more);
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_fifty_services_and_their_needs_have_no_cycle() {
        let services = services();
        assert_eq!(services.len(), 50);
        for (position, service) in services.iter().enumerate() {
            assert!(service.needs.iter().all(|need| *need < position), "{}", service.name);
        }
        assert_eq!(with_needs(&services, &[4]), [0, 2, 3, 4]);
        assert_eq!(with_dependents(&services, &[2]), [2, 3, 4]);
    }

    #[test]
    fn an_edit_changes_one_service_and_nothing_else() {
        let services = services();
        let text = |edits: &Edits| yaml(&services, edits, Path::new("/t"), Path::new("/f"));
        let plain = text(&Edits::default());
        let edited = text(&Edits { counts: [(3, 1)].into(), extra: false });
        let added: Vec<&str> = edited.lines().filter(|line| !plain.lines().any(|l| l == *line)).collect();
        assert_eq!(added.len(), 2, "{added:?}");
        assert!(text(&Edits { extra: true, ..Edits::default() }).contains("\n  extra:\n"));
    }
}
