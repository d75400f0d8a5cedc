//! `harness` while it runs: read as it writes, in pipes or in a terminal, with its keyboard and its signals.

use crate::support::{Done, PATIENCE, Project, kill, until};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A program that runs. Dropped, it is ended.
pub(crate) struct Running {
    child: Child,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    keyboard: Option<File>,
}

impl Running {
    /// Runs it with its output in pipes.
    pub(crate) fn piped(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, out) = collect(child.stdout.take().unwrap());
        let (stderr, talk) = collect(child.stderr.take().unwrap());
        Self { child, stdout, stderr, readers: vec![out, talk], keyboard: None }
    }

    /// Runs it in a terminal of 100 columns and 30 rows. What it shows is in `stdout`, in whatever way it gets there.
    pub(crate) fn in_terminal(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let side = || OpenOptions::new().read(true).write(true).open(&name).unwrap();
        command.env_remove("NO_COLOR").env("TERM", "xterm-256color");
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        // The command keeps the terminal's other side open: without this, reading would never end.
        drop(command);
        let master = File::from(master);
        let (stdout, reader) = collect(master.try_clone().unwrap());
        Self { child, stdout, stderr: Arc::default(), readers: vec![reader], keyboard: Some(master) }
    }

    /// Types.
    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// What it has written to stdout so far.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.lock().unwrap()).into_owned()
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    /// Waits until it has written this.
    #[track_caller]
    pub(crate) fn shows(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.stdout().contains(text) && !self.stderr().contains(text) {
            assert!(Instant::now() < deadline, "never wrote {text:?}:\n{}\n{}", self.stdout(), self.stderr());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        kill(self.child.id(), signal);
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn end(mut self) -> Done {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "never ended:\n{}\n{}", self.stdout(), self.stderr());
            std::thread::park_timeout(Duration::from_millis(5));
        };
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let code = status.code().unwrap_or_else(|| -status.signal().unwrap());
        Done { code, stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static) -> (Arc<Mutex<Vec<u8>>>, JoinHandle<()>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&seen);
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        // A terminal whose other side is closed is an error (EIO): the end as well.
        while let Ok(count) = from.read(&mut buffer) {
            if count == 0 {
                break;
            }
            writer.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
    });
    (seen, reader)
}

const STACK: &str = r#"
services:
  db: { type: process, command: [sleep, "1000"] }
  web: { type: process, command: [sleep, "1000"], dependencies: [db] }
"#;

/// A project whose `slow` is healthy once the file `go` is there.
const SLOW: &str = r#"
services:
  quick: { type: process, command: [sleep, "1000"] }
  slow: { type: process, command: [sleep, "1000"], health_check: { command: test, args: [-e, go], interval: 50ms } }
  after: { type: process, command: [sleep, "1000"], dependencies: [slow] }
"#;

#[test]
fn in_a_terminal_start_draws_a_line_for_each_service_and_ends_with_a_summary() {
    let project = Project::new(SLOW);
    let start = Running::in_terminal(project.command(&["start"]));
    start.shows("waiting for slow");
    project.write("go", "");
    let done = start.end();
    assert_eq!(done.code, 0, "{}", done.stdout);
    assert!(done.stdout.contains("\u{1b}["), "no redraw: {}", done.stdout);
    assert!(done.stdout.contains("3 ready"), "{}", done.stdout);
    for name in ["quick", "slow", "after"] {
        assert!(done.stdout.contains(name), "{}", done.stdout);
    }
}

#[test]
fn interrupting_a_start_stops_waiting_and_says_what_goes_on() {
    let project = Project::new(SLOW);
    for terminal in [true, false] {
        let command = project.command(&["start"]);
        let start = if terminal { Running::in_terminal(command) } else { Running::piped(command) };
        start.shows("slow");
        until("quick runs", || project.instance("quick-1")["state"] == "running");
        start.signal("INT");
        let done = start.end();
        assert_eq!(done.code, 130, "{}{}", done.stdout, done.stderr);
        let said = if terminal { done.stdout } else { done.stderr };
        assert!(said.contains("goes on") && said.contains("harness stop"), "how to go on: {said}");
        assert_eq!(project.state("quick-1"), "running");
        assert_eq!(project.state("slow-1"), "starting");
    }
    project.write("go", "");
    until("what waited is started without anyone waiting", || project.state("after-1") == "running");
}

#[test]
fn stopping_what_others_need_asks_and_the_answer_is_no_unless_it_is_yes() {
    let project = Project::new(STACK);
    project.ok(&["start"]);
    for keys in ["\n", "n\n", "nonsense\n", "\u{4}"] {
        let mut stop = Running::in_terminal(project.command(&["stop", "db"]));
        stop.shows("Stop these too?");
        assert!(stop.stdout().contains("web"), "{}", stop.stdout());
        stop.press(keys);
        let done = stop.end();
        assert_eq!(done.code, 0, "{}", done.stdout);
        assert_eq!(
            (project.state("db-1"), project.state("web-1")),
            ("running".into(), "running".into()),
            "{keys:?}"
        );
    }
    let mut stop = Running::in_terminal(project.command(&["stop", "db"]));
    stop.shows("Stop these too?");
    stop.press("y\n");
    assert_eq!(stop.end().code, 0);
    assert_eq!((project.state("db-1"), project.state("web-1")), ("stopped".into(), "stopped".into()));
}

#[test]
fn in_a_terminal_start_asks_before_it_replaces_what_changed() {
    let project = Project::new(STACK);
    project.ok(&["start"]);
    let pid = project.pid("db-1");
    project.write_services(&STACK.replacen("1000", "2000", 1));
    let mut start = Running::in_terminal(project.command(&["start"]));
    start.shows("Replace what changed now?");
    start.press("n\n");
    assert_eq!(start.end().code, 0);
    assert_eq!(project.pid("db-1"), pid);
    let mut start = Running::in_terminal(project.command(&["start"]));
    start.shows("Replace what changed now?");
    start.press("y\n");
    assert_eq!(start.end().code, 0);
    assert_ne!(project.pid("db-1"), pid);
}

#[test]
fn init_asks_in_a_terminal() {
    let project = Project::new("");
    std::fs::remove_file(project.path().join("services.yaml")).unwrap();
    let mut init = Running::in_terminal(project.command(&["init"]));
    init.shows("begin with");
    init.press("2\n");
    init.shows("Name of the project?");
    init.press("my shop\n");
    let done = init.end();
    assert_eq!(done.code, 0, "{}", done.stdout);
    let text = std::fs::read_to_string(project.path().join("services.yaml")).unwrap();
    assert!(text.contains("name: \"my-shop\""), "{text}");
    project.ok(&["validate"]);
}

#[test]
fn status_watch_redraws_in_place_until_it_is_interrupted() {
    let project = Project::new(STACK);
    project.ok(&["start"]);
    let watch = Running::in_terminal(project.command(&["status", "--watch"]));
    watch.shows("running");
    project.ok(&["stop", "web"]);
    watch.shows("stopped");
    watch.signal("INT");
    let shown = watch.stdout();
    let done = watch.end();
    assert!(done.code == 130 || done.code == -2, "{}: {shown}", done.code);
    assert!(!shown.contains("\u{1b}[2J"), "clearing the screen flickers: {shown:?}");
    assert!(
        shown.contains("\u{1b}[?2026h") && shown.contains("\u{1b}[?2026l"),
        "frames aren't synchronised: {shown:?}"
    );
    assert_eq!(
        shown.matches("\u{1b}[?2026h").count(),
        shown.matches("\u{1b}[?2026l").count(),
        "a frame was left open"
    );
    assert!(!shown.contains("\u{1b}[?25l") || shown.contains("\u{1b}[?25h"), "the cursor stays hidden");
}

#[test]
fn status_watch_into_a_pipe_has_no_escape_codes() {
    let project = Project::new(STACK);
    project.ok(&["start"]);
    let watch = Running::piped(project.command(&["status", "--watch"]));
    watch.shows("running");
    project.ok(&["stop", "web"]);
    watch.shows("stopped");
    assert!(!watch.stdout().contains('\u{1b}'), "{:?}", watch.stdout());
}

#[test]
fn status_watch_ends_when_the_daemon_does() {
    let project = Project::new(STACK);
    project.ok(&["start"]);
    let watch = Running::piped(project.command(&["status", "--watch"]));
    watch.shows("running");
    project.ok(&["stop"]);
    let done = watch.end();
    assert!([0, 4].contains(&done.code), "{}\n{}", done.code, done.stderr);
}

#[test]
fn colours_only_where_someone_looks_or_asks() {
    let project = Project::new(STACK);
    project.ok(&["start"]);
    let painted = |args: &[&str], env: Option<(&str, &str)>, terminal: bool| {
        let mut command = project.command(args);
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
        let running = if terminal {
            // `in_terminal` removes NO_COLOR, so it is set behind `env`.
            let mut wrapped = Command::new("env");
            wrapped
                .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
                .current_dir(project.path());
            wrapped.args(env.map(|(name, value)| format!("{name}={value}"))).arg(command.get_program());
            wrapped.args(command.get_args());
            Running::in_terminal(wrapped)
        } else {
            command.envs(env);
            Running::piped(command)
        };
        let done = running.end();
        assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
        done.stdout.contains("\u{1b}[3")
            || done.stdout.contains("\u{1b}[1")
            || done.stdout.contains("\u{1b}[2m")
    };
    assert!(painted(&["status"], None, true), "a terminal");
    assert!(!painted(&["status"], Some(("NO_COLOR", "1")), true), "NO_COLOR");
    assert!(!painted(&["status", "--no-color"], None, true), "--no-color");
    assert!(!painted(&["status", "--color", "never"], None, true), "--color never");
    assert!(!painted(&["status"], None, false), "a pipe");
    assert!(painted(&["status"], Some(("CLICOLOR_FORCE", "1")), false), "CLICOLOR_FORCE");
    assert!(painted(&["status", "--color", "always"], None, false), "--color always");
    assert!(!painted(&["status", "-o", "json", "--color", "always"], None, true), "JSON");
}
