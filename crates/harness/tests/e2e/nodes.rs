//! Other machines, on the hosts that all tests share.

use crate::support::{Done, Project};
use serde_json::Value;
use test_hosts::{Host, Suite, require};

/// A project whose nodes are that host, under several names.
fn project(host: &Host) -> Project {
    let (name, key) = (host.name(), host.identity());
    Project::new(&format!(
        "nodes:
  app: {{host: {name}, user: app, identity_file: {key}, sudo: true, region: lab, labels: {{disk: ssd}}}}
  plain: {{host: {name}, user: plain, identity_file: {key}, sudo: true}}
  nobody: {{host: {name}, user: nobody-there, identity_file: {key}}}
  closed: {{host: {name}, user: app, port: 9, identity_file: {key}}}
  through: {{host: {name}, user: app, identity_file: {key}, jump: app}}
services:
  db: {{type: docker, image: 'x:1', host: app, ports: [5432, 22]}}
  unit: {{type: systemd, unit: x.service, host: app}}
  there: {{type: docker, image: 'x:1', host: plain}}
",
        key = key.display()
    ))
}

fn run(project: &Project, host: &Host, args: &[&str]) -> Done {
    let output = project.command(args).env("HARNESS_SSH_CONFIG", host.ssh_config()).output().unwrap();
    crate::support::done(output)
}

/// What was found about one thing.
fn about<'a>(node: &'a Value, what: &str) -> &'a Value {
    let findings = node["findings"].as_array().unwrap();
    findings
        .iter()
        .find(|finding| finding["about"] == what)
        .unwrap_or_else(|| panic!("no {what} in {node:#}"))
}

#[test]
fn nodes_are_listed_and_shown_without_being_asked() {
    let project = Project::new(
        "nodes:\n  eu-1: {host: eu1.example.com, user: deploy, port: 2222, jump: eu-2, region: eu}\n  eu-2: {host: eu2.example.com}\n\
         services:\n  web: {type: remote, command: web, host: eu-1}\n  api: {type: remote, command: api, host: eu1.example.com}\n",
    );
    let listed = project.ok(&["node", "list"]);
    assert!(
        listed.stdout.contains("eu-1  deploy@eu1.example.com:2222  eu-2  eu      web, api"),
        "{}",
        listed.stdout
    );
    let document = project.json(&["node", "show", "eu-1"]);
    assert_eq!(document["node"]["services"], serde_json::json!(["web", "api"]));
    assert_eq!(document["node"]["host"], "eu1.example.com");
    let unknown = project.run(&["node", "show", "eu-l"]);
    assert_eq!(unknown.code, 2);
    assert!(
        unknown.stderr.contains("there is no node 'eu-l'") && unknown.stderr.contains("did you mean 'eu-1'?"),
        "{}",
        unknown.stderr
    );
    let none = Project::new("services:\n  web: {type: process, command: web}\n").run(&["node", "check"]);
    assert_eq!(none.code, 2);
}

#[test]
fn a_node_says_what_it_is_and_what_it_lacks() {
    let host = require!(Host::shared(Suite::Bookworm));
    host.start_docker().unwrap();
    let project = project(&host);
    let good = run(&project, &host, &["node", "check", "app", "through", "-o", "json"]);
    assert_eq!(good.code, 0, "{}\n{}", good.stdout, good.stderr);
    let document: Value = serde_json::from_str(&good.stdout).unwrap();
    let node = &document["nodes"][0];
    assert!(node["facts"]["os"].as_str().unwrap().starts_with("Debian GNU/Linux 12"), "{node:#}");
    for (what, level, text) in [
        ("login", "ok", "as app in "),
        ("sudo", "ok", "without a password"),
        ("docker", "ok", "20.10"),
        ("systemd", "ok", "252"),
        ("clock", "ok", "within "),
        ("ports", "warning", "22 in use"),
    ] {
        let finding = about(node, what);
        assert_eq!(finding["level"], level, "{finding}");
        assert!(finding["text"].as_str().unwrap().starts_with(text), "{finding}");
    }
    assert_eq!(about(&document["nodes"][1], "login")["level"], "ok", "through itself as jump host");

    let lacks = run(&project, &host, &["node", "check", "plain"]);
    assert_eq!(lacks.code, 1, "{}", lacks.stdout);
    for text in ["✗ sudo", "NOPASSWD", "✗ docker", "permission denied", "usermod -aG docker"] {
        assert!(lacks.stdout.contains(text), "no {text:?} in\n{}", lacks.stdout);
    }
    let left = host.sh("find / -xdev -name '.harness-check*'; ls -A /home/app /home/plain").unwrap();
    assert!(!left.contains("harness"), "it left something there: {left}");
}

#[test]
fn a_node_that_cant_be_reached_says_why_and_the_others_are_checked() {
    let host = require!(Host::shared(Suite::Bookworm));
    let project = project(&host);
    let done = run(&project, &host, &["node", "check", "nobody", "closed", "app"]);
    assert_eq!(done.code, 4, "{}", done.stdout);
    for text in [
        "✗ login        the host refuses the login",
        "✗ login        the host refuses the connection",
        "✓ login        as app",
    ] {
        assert!(done.stdout.contains(text), "no {text:?} in\n{}", done.stdout);
    }
    // Without the host's key nothing is believed.
    let config = std::fs::read_to_string(host.ssh_config()).unwrap();
    let known = host.known_hosts().display().to_string();
    let strange = project.write("strange", &config.replace(&known, "/dev/null"));
    let output =
        project.command(&["node", "check", "app"]).env("HARNESS_SSH_CONFIG", strange).output().unwrap();
    let done = crate::support::done(output);
    assert_eq!(done.code, 4);
    assert!(
        done.stdout.contains("the host's key isn't known") && done.stdout.contains("known_hosts"),
        "{}",
        done.stdout
    );
}

#[test]
fn a_node_is_written_into_the_file_and_all_else_of_it_stays() {
    let services = "# ours\nnodes:\n  eu-1:  {host: eu1.example.com}   # the first\n\nservices:\n  web: {type: process, command: [web]} # it\n";
    let project = Project::new(services);
    let before = project.read("services.yaml");
    let added = project.ok(&[
        "node",
        "add",
        "eu-2",
        "deploy@10.0.0.2:2222",
        "--identity",
        "~/.ssh/id",
        "--jump",
        "eu-1",
        "--sudo",
    ]);
    assert!(added.stderr.contains("harness node check eu-2"), "{}", added.stderr);
    let line = "  eu-2: {host: \"10.0.0.2\", user: deploy, port: 2222, identity_file: \"~/.ssh/id\", jump: eu-1, sudo: true}\n";
    assert_eq!(
        project.read("services.yaml"),
        before.replace("# the first\n", &format!("# the first\n{line}"))
    );
    let shown = project.json(&["node", "show", "eu-2"])["node"].clone();
    assert_eq!((&shown["port"], &shown["sudo"]), (&2222.into(), &true.into()), "{shown:#}");
    let now = project.read("services.yaml");
    for (args, said) in [
        (["eu-2", "x.example.com"], "has a node 'eu-2' already"),
        (["eu-3", "a b"], "no name"),
        (["eu-3", "host:http"], "no number"),
        (["eu-3", "host/folder"], "isn't an address"),
        (["Bad Name", "x.example.com"], "left as it was"),
    ] {
        let refused = project.run(&["node", "add", args[0], args[1]]);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
        assert_eq!(project.read("services.yaml"), now);
    }
    let none = project.run(&["node", "add", "eu-3", "x.example.com", "--jump", "eu-3"]);
    assert!(none.code == 2 && none.stderr.contains("left as it was"), "{}", none.stderr);
    let files = std::fs::read_dir(project.path()).unwrap().count();
    assert_eq!(files, 1, "no draft is left");
}
