//! Clients that we did not write, against the listener on TCP: Python's `websockets`, and a web page in Chromium.

use crate::support::{LOCKED, PATIENCE, Project};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use test_hosts::require;

/// A project that runs `db` and listens on TCP.
struct Listening {
    project: Project,
    address: String,
    fingerprint: String,
    token: String,
}

impl Listening {
    fn new() -> Self {
        let project = Project::new(&format!("services:\n  db: {{ type: process, command: {LOCKED} }}\n"));
        project.ok(&["start"]);
        let listener = project.json(&["daemon", "listen", "127.0.0.1:0"])["listener"].clone();
        let text = |key: &str| listener[key].as_str().unwrap().to_owned();
        let token = project.ok(&["daemon", "token", "create", "reader", "--scope", "read"]).stdout;
        Self {
            project,
            address: text("address"),
            fingerprint: text("certificate"),
            token: token.trim().to_owned(),
        }
    }
}

/// `examples/watch.py`, ended when it is dropped.
struct Watcher {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watcher {
    fn start(python: &Path, address: &str, fingerprint: &str, token: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/watch.py");
        // with a bound of its own, so that no line is waited for in vain
        let mut child = Command::new("timeout")
            .arg(PATIENCE.as_secs().to_string())
            .arg(python)
            .arg(script)
            .arg(address)
            .env("HARNESS_FINGERPRINT", fingerprint)
            .env("HARNESS_TOKEN", token)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line, or what it said when it ended instead.
    fn line(&mut self) -> String {
        self.lines.next().map_or_else(|| panic!("it ended: {}", self.last_words()), |line| line.unwrap())
    }

    fn last_words(&mut self) -> String {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut said).unwrap();
        said
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn pythons_websockets_lists_and_watches_over_tls_with_a_pinned_certificate() {
    let python = require!(test_hosts::python());
    let Listening { project, address, fingerprint, token } = Listening::new();
    let mut watcher = Watcher::start(&python, &address, &fingerprint, &token);
    assert_eq!(watcher.line(), "is db-1 running");
    let snapshot = watcher.line();
    let revision: u64 =
        snapshot.strip_prefix("snapshot ").unwrap_or_else(|| panic!("{snapshot}")).parse().unwrap();
    project.ok(&["restart", "db"]);
    let (mut states, mut last) = (Vec::new(), revision);
    while states.last().map(String::as_str) != Some("running")
        || !states.iter().any(|state| state == "stopped")
    {
        let line = watcher.line();
        let words: Vec<&str> = line.split(' ').collect();
        let ["event", number, "db-1", state] = words[..] else { panic!("{line}") };
        assert_eq!(number.parse::<u64>().unwrap(), last + 1, "each change once and in order: {line}");
        last += 1;
        states.push(state.to_owned());
    }
    for (fingerprint, token, says) in
        [(&*"00".repeat(32), &*token, "another certificate"), (&fingerprint, "harness_guess", "HTTP 401")]
    {
        let mut refused = Watcher::start(&python, &address, fingerprint, token);
        assert!(refused.lines.next().is_none());
        let said = refused.last_words();
        assert!(said.contains(says), "{said}");
    }
}

/// Debian's two packages of the browser; either will do.
fn chromium() -> Result<PathBuf, test_hosts::Error> {
    let small = "chromium-headless-shell";
    test_hosts::program("chromium", "chromium").or_else(|_| test_hosts::program(small, small))
}

#[test]
fn a_web_page_is_refused_by_its_origin_and_the_same_request_without_it_is_not() {
    let browser = require!(chromium());
    let Listening { project, address, token, .. } = Listening::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/fixtures/browser.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(browser)
        .arg(address)
        .arg(project.state_dir().join("tls.crt"))
        .env("HARNESS_TOKEN", token)
        .env("HOME", project.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let origin = &told["origin"];
    for name in ["as_written", "without_origin"] {
        assert_eq!(&told["requested"][name], origin, "what the browser wrote: {told:#}");
    }
    assert_eq!(told["answered"]["as_written"], "HTTP/1.1 403 Forbidden");
    assert_eq!(told["answered"]["without_origin"], "HTTP/1.1 101 Switching Protocols");
    let seen = &told["seen"];
    assert_eq!((&seen["as_written"], &seen["directly"]), (&"refused".into(), &"refused".into()));
    assert_eq!(seen["without_origin"]["result"]["protocol"], 1, "{told:#}");
    let log = std::fs::read_to_string(project.state_dir().join("daemon.log")).unwrap();
    assert_eq!(log.matches("web pages may not connect here").count(), 2, "{log}");
}
