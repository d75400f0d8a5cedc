//! A project in a folder of its own, and `harness` run in it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Time after which something that should happen has not.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A project. Dropped, it stops everything that it started.
pub(crate) struct Project {
    folder: tempfile::TempDir,
    vars: Vec<(&'static str, std::ffi::OsString)>,
}

/// What a command did.
pub(crate) struct Done {
    /// Its exit code; -1 for a signal.
    pub(crate) code: i32,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it said.
    pub(crate) stderr: String,
}

impl Project {
    /// A folder with this services.yaml; `version: "1.0"` and `name: test` are put before it.
    pub(crate) fn new(services: &str) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap(), vars: Vec::new() };
        project.write_services(services);
        project
    }

    /// The same with a variable that every `harness` of it gets.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<std::ffi::OsString>) -> Self {
        self.vars.push((name, value.into()));
        self
    }

    /// The project's folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces services.yaml.
    pub(crate) fn write_services(&self, services: &str) {
        self.write("services.yaml", &format!("version: \"1.0\"\nname: test\n{services}"));
    }

    /// Writes a file in the folder.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// `harness` with these arguments, not run yet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HARNESS_")) {
            command.env_remove(name);
        }
        command
            .env("HOME", self.path())
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env_remove("XDG_RUNTIME_DIR")
            .envs(self.vars.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `harness` with these arguments.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        done(self.command(args).output().unwrap())
    }

    /// Runs it and asks for exit code 0.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> Done {
        let done = self.run(args);
        assert_eq!(done.code, 0, "harness {args:?}\n{}\n{}", done.stdout, done.stderr);
        done
    }

    /// Runs it with `-o json`, asks for exit code 0.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        let done = self.ok(&args);
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout))
    }

    /// What `status` says of an instance.
    #[track_caller]
    pub(crate) fn instance(&self, name: &str) -> Value {
        let status = self.json(&["status"]);
        let instances = status["instances"].as_array().unwrap();
        let found = instances.iter().find(|instance| instance["instance"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {status:#}")).clone()
    }

    /// The state that `status` shows of an instance.
    #[track_caller]
    pub(crate) fn state(&self, name: &str) -> String {
        self.instance(name)["state"].as_str().unwrap().to_owned()
    }

    /// The process id of an instance that runs.
    #[track_caller]
    pub(crate) fn pid(&self, name: &str) -> u32 {
        let instance = self.instance(name);
        instance["pid"].as_u64().unwrap_or_else(|| panic!("{name} has no pid: {instance:#}")) as u32
    }

    /// The daemon's process id.
    #[track_caller]
    pub(crate) fn daemon_pid(&self) -> u32 {
        let status = self.json(&["daemon", "status"]);
        status["daemon"]["pid"].as_u64().unwrap_or_else(|| panic!("no daemon: {status:#}")) as u32
    }

    /// The state folder of the project.
    pub(crate) fn state_dir(&self) -> PathBuf {
        let folders = std::fs::read_dir(self.path().join("state/harness")).unwrap();
        folders.flatten().map(|entry| entry.path()).next().expect("nothing was started yet")
    }

    /// Whether anything was started yet.
    pub(crate) fn state_dir_exists(&self) -> bool {
        std::fs::read_dir(self.path().join("state/harness")).is_ok_and(|folders| folders.count() > 0)
    }

    /// All lines that an instance wrote.
    pub(crate) fn logs(&self, name: &str) -> Vec<String> {
        let done = self.ok(&["logs", "--no-prefix", "-n", "100000000", name]);
        done.stdout.lines().map(str::to_owned).collect()
    }

    /// The data planes of the project on this machine.
    pub(crate) fn data_planes(&self) -> Vec<u32> {
        let folder = format!("daemon plane run --folder {}/", self.path().join("state").display());
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| {
                let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&words).replace('\0', " ").contains(&folder)
            })
            .collect()
    }

    /// Processes whose environment carries this project's state folder: everything that services started.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let marker = format!("XDG_STATE_HOME={}", self.path().join("state").display());
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| {
                let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let service =
                    environ.split(|byte| *byte == 0).any(|pair| pair.starts_with(b"HARNESS_INSTANCE="));
                service
                    && environ.split(|byte| *byte == 0).any(|pair| pair == marker.as_bytes())
                    && alive(*pid)
            })
            .collect()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = self.command(&["stop", "--force", "-y"]).output();
        let left = self.processes();
        for pid in &left {
            kill(*pid, "KILL");
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "processes were left after stop: {left:?}");
        }
    }
}

/// Collects an output.
pub(crate) fn done(output: Output) -> Done {
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Whether a process exists and is no zombie.
pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Sends a signal to a process that the test started.
pub(crate) fn kill(pid: u32, signal: &str) {
    let _ = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
}

/// Asks until `condition` holds, at most for [`PATIENCE`].
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A service's command that holds a lock as long as anything of it lives, and leaves a file `doubled` if it can't have
/// it: then two copies lived at once.
pub(crate) const LOCKED: &str = r#"[sh, -c, "exec 9>>lock-$HARNESS_INSTANCE; flock -n 9 || { echo $HARNESS_INSTANCE >> doubled; exit 1; }; echo up; exec sleep 1000"]"#;

impl Project {
    /// The content of a file in the folder; empty if there is none.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    /// Waits until a file in the folder has content, and gives it.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str) -> String {
        until(&format!("{name} is written"), || self.read(name).ends_with('\n'));
        self.read(name)
    }

    /// A pid that a service wrote into a file.
    #[track_caller]
    pub(crate) fn pid_in(&self, name: &str) -> u32 {
        self.wait_for(name).trim().parse().unwrap()
    }

    /// The records of an instance's runs, oldest first.
    pub(crate) fn records(&self, instance: &str) -> Vec<Value> {
        let folder = self.state_dir().join("instances").join(instance);
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
        files.sort();
        files.iter().filter_map(|path| serde_json::from_slice(&std::fs::read(path).ok()?).ok()).collect()
    }

    /// The keeper of an instance's newest run.
    #[track_caller]
    pub(crate) fn keeper_pid(&self, instance: &str) -> u32 {
        let records = self.records(instance);
        records.last().and_then(|record| record["keeper"]["pid"].as_u64()).expect("no keeper") as u32
    }

    /// The process that keepers are forked from.
    #[track_caller]
    pub(crate) fn zygote_pid(&self, instance: &str) -> u32 {
        parent(self.keeper_pid(instance)).expect("no zygote")
    }

    /// Fails if two copies of a service with the command [`LOCKED`] lived at once.
    #[track_caller]
    pub(crate) fn assert_never_doubled(&self) {
        assert_eq!(self.read("doubled"), "", "two copies lived at once");
    }
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Bytes that can't be packed.
pub(crate) fn noise(count: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend(seed.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}
