//! Nodes that are lost for good, or so it seems.

use super::nodes::{COUNTER, doubled, left, on_node, project};
use crate::support::{Project, until};
use test_hosts::{Host, OwnHost, Suite, require};

fn state(project: &Project) -> serde_json::Value {
    project.json(&["node", "list"])["nodes"][0]["known"]["state"].clone()
}

/// Cuts the host off, and waits until that is noticed.
fn lose(project: &Project, host: &OwnHost) {
    host.cut().unwrap();
    until("it is lost", || state(project) == "lost");
}

#[test]
fn a_lost_node_is_forgotten_only_by_force_and_never_taken_up_again_by_itself() {
    let host = require!(Host::boot(Suite::Bookworm, "lost"));
    let project = project(
        &host,
        &format!(
            "nodes:\n  far: {{host: {}, user: app}}\nservices:\n  db: {{type: remote, host: far, command: {COUNTER}}}\n  \
             here: {{type: process, command: [sleep, '1000']}}\n",
            host.name()
        ),
    );
    project.ok(&["start"]);
    let (first, here) = (on_node(&project, "db-1"), on_node(&project, "here-1"));
    lose(&project, &host);
    let refused = project.run(&["node", "remove", "far", "-y"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    for part in ["node far is lost, since ", "nothing was removed", "harness node remove far --force"] {
        assert!(refused.stderr.contains(part), "{part} in {}", refused.stderr);
    }
    let forgotten = project.ok(&["node", "remove", "far", "-y", "--force"]);
    for part in [
        "far  forgotten; db-1 may run on there. What is there stays: ${XDG_STATE_HOME:-$HOME/.local/state}/harness/agents/",
        "once it is back, `harness node remove far`",
        "--state-dir $d stop -y && rm -rf $d",
        "still names it; delete line",
    ] {
        let said = format!("{}{}", forgotten.stdout, forgotten.stderr);
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!((state(&project).as_str(), project.state("db-1").as_str()), (Some("unused"), "stopped"));
    let why = project.instance("db-1")["exit"]["unknown"].clone();
    assert_eq!(why, "node far was removed while it was lost");
    // Back again, and with a new daemon: nobody goes there, and what runs there runs on.
    host.heal().unwrap();
    project.ok(&["daemon", "restart"]);
    assert_eq!(state(&project), "unused");
    assert_eq!(project.state("db-1"), "stopped");
    assert_eq!(on_node(&project, "here-1"), here, "what is elsewhere goes on");
    assert!(host.exec(&["test", "-d", &format!("/proc/{first}")]).is_ok());
    // Only when somebody says so: what was left is killed before anything starts there.
    let refused = project.run(&["start"]);
    assert!(refused.stderr.contains("every node that may run it is drained: far"), "{}", refused.stderr);
    project.ok(&["node", "drain", "far", "--off"]);
    project.ok(&["start"]);
    assert_ne!(on_node(&project, "db-1"), first);
    assert!(host.exec(&["test", "-d", &format!("/proc/{first}")]).is_err());
    assert_eq!(doubled(&host), "");
    // Or it is removed for good.
    lose(&project, &host);
    project.ok(&["node", "remove", "far", "-y", "--force"]);
    host.heal().unwrap();
    assert!(!left(&host).is_empty());
    project.ok(&["node", "remove", "far", "-y"]);
    until("nothing of it runs", || left(&host).is_empty());
    host.sh("! ls -d /home/app/.local/state/harness").unwrap();
    project.ok(&["stop", "-y"]);
}
