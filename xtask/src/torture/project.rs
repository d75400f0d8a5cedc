//! A project in a folder of its own, and `harness` run in it.

use super::process::{Family, Process};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A command that takes longer than this is stuck.
pub(crate) const STUCK: Duration = Duration::from_secs(90);

/// The programs that are run.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// `harness`.
    pub(crate) harness: PathBuf,
    /// `temper`.
    pub(crate) temper: PathBuf,
}

/// A project.
pub(crate) struct Project {
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// Its programs.
    pub(crate) programs: Programs,
    /// Its processes.
    pub(crate) family: Family,
    /// More variables that `harness` is run with.
    pub(crate) variables: Vec<(&'static str, PathBuf)>,
}

/// What a command did.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// Its exit code; `None` if it didn't end by itself (then it was killed after [`STUCK`]) or was killed by a signal.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it said.
    pub(crate) stderr: String,
}

impl Project {
    /// A project in `folder`, which is made.
    pub(crate) fn new(folder: &Path, programs: Programs) -> io::Result<Self> {
        for name in ["truth", "locks", "state"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let folder = folder.canonicalize()?;
        let family = Family::new(&folder.join("state"));
        Ok(Self { folder, programs, family, variables: Vec::new() })
    }

    /// Replaces services.yaml, so that nobody ever reads half of it.
    pub(crate) fn write_services(&self, text: &str) -> io::Result<()> {
        let draft = self.folder.join("services.yaml.new");
        fs::write(&draft, text)?;
        fs::rename(draft, self.folder.join("services.yaml"))
    }

    /// The state folder, once something was started.
    pub(crate) fn state_dir(&self) -> Option<PathBuf> {
        let mut folders = fs::read_dir(self.folder.join("state/harness")).ok()?.flatten();
        folders.next().map(|entry| entry.path())
    }

    /// `harness` with these arguments, not run yet. `XDG_STATE_HOME` is how everything that comes of it is found again.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.programs.harness);
        command.args(args).current_dir(&self.folder).stdin(Stdio::null()).env_clear();
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env("PATH", path).env("HOME", &self.folder).env("RUST_BACKTRACE", "1");
        command.env("XDG_STATE_HOME", self.folder.join("state"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `harness` with these arguments.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> io::Result<Done> {
        let child = self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        wait(child, STUCK)
    }

    /// What `status -o json` says.
    pub(crate) fn status(&self) -> io::Result<Value> {
        let done = self.run(&["status", "-o", "json"])?;
        serde_json::from_str(&done.stdout)
            .map_err(|error| io::Error::other(format!("status: {error}: {}{}", done.stdout, done.stderr)))
    }

    /// The daemon, from the file that it holds locked.
    pub(crate) fn daemon(&self) -> Option<i32> {
        let text = fs::read_to_string(self.state_dir()?.join("daemon.lock")).ok()?;
        let pid = text.strip_prefix("pid ")?.split(',').next()?.parse().ok()?;
        self.family.all().iter().any(|process| process.pid == pid && is_daemon(process)).then_some(pid)
    }

    /// Sends a signal to the daemon; its pid, if that was done.
    pub(crate) fn signal_daemon(&self, signal: Signal) -> Option<i32> {
        let pid = self.daemon()?;
        self.family.signal(pid, signal, is_daemon).then_some(pid)
    }

    /// Kills the daemon, if there is one, and starts another; the time until it says that it is ready, with all that it
    /// has taken over.
    pub(crate) fn daemon_again(&self) -> io::Result<Duration> {
        if let Some(pid) = self.signal_daemon(Signal::KILL) {
            let end = Instant::now() + Duration::from_secs(5);
            while !super::process::is_gone(pid) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let state = self.state_dir().ok_or_else(|| io::Error::other("there is no state folder"))?;
        let (mut reader, writer) = io::pipe()?;
        let log = fs::OpenOptions::new().append(true).create(true).open(state.join("daemon.log"))?;
        let mut command = self.command(&["daemon", "run", "--background", "--state-dir"]);
        command.arg(&state).stdin(writer).stdout(Stdio::null()).stderr(log);
        let begin = Instant::now();
        let child = command.spawn()?;
        drop(command);
        let mut said = [0; 512];
        let length = reader.read(&mut said)?;
        let took = begin.elapsed();
        // Waited for by nobody else: whoever kills it leaves a zombie, which counts as gone.
        reap_later(child);
        match said.get(..length) {
            Some(b"1") => Ok(took),
            other => {
                let said = String::from_utf8_lossy(other.unwrap_or_default()).into_owned();
                Err(io::Error::other(format!("the daemon doesn't start: {said}")))
            }
        }
    }

    /// Ends everything that belongs to the project, whatever state it is in.
    pub(crate) fn end(&self) {
        let _ = self.run(&["stop", "--force", "-y"]);
        for _ in 0..50 {
            let left = self.family.all();
            if left.is_empty() {
                return;
            }
            // Zygotes last: they end what keepers leave.
            for process in left.iter().filter(|process| process.name != "keeper-zygote") {
                self.family.signal(process.pid, Signal::KILL, |_| true);
            }
            if left.iter().all(|process| process.name == "keeper-zygote") {
                for process in &left {
                    self.family.signal(process.pid, Signal::KILL, |_| true);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_daemon(process: &Process) -> bool {
    process.name == "harness" && process.command.iter().any(|word| word == "daemon")
}

fn reap_later(mut child: Child) {
    std::thread::spawn(move || {
        let _ = child.wait();
    });
}

/// Waits for a command and collects what it says, both without end; kills it if it is stuck.
pub(crate) fn wait(mut child: Child, patience: Duration) -> io::Result<Done> {
    fn collect(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut from) = from {
                let _ = from.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let end = Instant::now() + patience;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if Instant::now() >= end => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    Ok(Done {
        code: status.and_then(|status| status.code()),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}
