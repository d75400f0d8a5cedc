//! More services on one machine than may be asked of an agent at once.

use super::nodes::{left, project};
use crate::support::until;
use std::fmt::Write as _;
use test_hosts::{Host, Suite, require};

#[test]
fn a_hundred_services_on_one_machine_start_and_stop() {
    let host = require!(Host::boot(Suite::Trixie, "many"));
    let mut services = String::new();
    for n in 0..110 {
        let files = if n < 10 { format!(", files: ['f{n}:copies/f{n}']") } else { String::new() };
        let _ = writeln!(services, "  s{n}: {{type: remote, host: far, command: [sleep, '1000']{files}}}");
    }
    let project = project(
        &host,
        &format!("nodes:\n  far: {{host: {}, user: app}}\nservices:\n{services}", host.name()),
    );
    for n in 0..10 {
        std::fs::write(project.path().join(format!("f{n}")), vec![n; 200_000]).unwrap();
    }
    project.ok(&["start"]);
    let status = project.json(&["status"]);
    let running =
        status["instances"].as_array().unwrap().iter().filter(|it| it["state"] == "running").count();
    assert_eq!(running, 110);
    project.ok(&["stop", "-y"]);
    until("nothing of it runs there", || left(&host).is_empty());
}
