//! The daemon on TCP: listening, tokens, and `-H wss://`.

use crate::support::{Done, LOCKED, PATIENCE, Project, done, kill};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use test_hosts::require;

/// `harness -H wss://…` with that token and fingerprint, not run yet.
fn command(project: &Project, address: &str, print: &str, token: &str, args: &[&str]) -> Command {
    let host = format!("wss://{address}");
    let all: Vec<&str> = ["-H", host.as_str()].into_iter().chain(args.iter().copied()).collect();
    let mut command = project.command(&all);
    command.env("HARNESS_TOKEN", token).env("HARNESS_FINGERPRINT", print);
    command
}

/// Runs it.
fn remote(project: &Project, address: &str, print: &str, token: &str, args: &[&str]) -> Done {
    done(command(project, address, print, token, args).output().unwrap())
}

/// Makes the daemon listen on a free port: its address and fingerprint.
fn listen(project: &Project) -> (String, String) {
    let listener = project.json(&["daemon", "listen", "127.0.0.1:0"])["listener"].clone();
    let text = |key: &str| listener[key].as_str().unwrap().to_owned();
    (text("address"), text("certificate"))
}

/// A new token.
fn token(project: &Project, name: &str, scope: &str) -> String {
    project.ok(&["daemon", "token", "create", name, "--scope", scope]).stdout.trim().to_owned()
}

#[test]
fn a_daemon_is_asked_over_tls_by_who_has_a_token_also_after_a_restart() {
    let project = Project::new(&format!("services:\n  db: {{ type: process, command: {LOCKED} }}\n"));
    project.ok(&["start"]);
    let listener = project.json(&["daemon", "listen", "127.0.0.1:0"])["listener"].clone();
    let (address, print) = (listener["address"].as_str().unwrap(), listener["certificate"].as_str().unwrap());
    let mode = std::fs::metadata(project.state_dir().join("tls.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let create = |name: &str, scope: &str| {
        let made = project.ok(&["daemon", "token", "create", name, "--scope", scope, "--expires", "30d"]);
        made.stdout.trim().to_owned()
    };
    let (reader, operator) = (create("reader", "read"), create("operator", "operate"));
    let status = remote(&project, address, print, &reader, &["status"]);
    assert!(status.code == 0 && status.stdout.contains("db"), "{}{}", status.stdout, status.stderr);
    for (args, token, says) in [
        (&["stop", "-y"][..], reader.as_str(), "needs the scope `operate`"),
        (&["status"], "harness_guess", "401"),
        (&["logs"], &reader, "-H ssh://"),
    ] {
        let refused = remote(&project, address, print, token, args);
        assert!(refused.stderr.contains(says), "{args:?}: {} {}", refused.code, refused.stderr);
        assert_ne!(refused.code, 0, "{args:?}");
    }
    let other = remote(&project, address, &"00".repeat(32), &reader, &["status"]);
    assert!(other.stderr.contains("another certificate"), "{}", other.stderr);

    // another daemon listens where the last one did, with the same certificate and tokens
    project.ok(&["daemon", "restart"]);
    let shown = project.json(&["daemon", "status"])["daemon"]["listener"].clone();
    assert_eq!(shown, listener);
    assert_eq!(remote(&project, address, print, &reader, &["events"]).code, 0);
    let stopped = remote(&project, address, print, &operator, &["stop", "-y"]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    project.ok(&["daemon", "token", "revoke", "reader"]);
    assert_ne!(remote(&project, address, print, &reader, &["status"]).code, 0);
    let list = project.ok(&["daemon", "token", "list"]).stdout;
    assert!(list.contains("operator") && !list.contains(&operator), "{list}");
    project.ok(&["daemon", "listen", "off"]);
    assert_ne!(remote(&project, address, print, &operator, &["status"]).code, 0);
    project.ok(&["daemon", "stop"]);
}

#[test]
fn a_killed_daemons_listener_is_back_with_its_address_certificate_and_tokens() {
    let project = Project::new(&format!("services:\n  db: {{ type: process, command: {LOCKED} }}\n"));
    project.ok(&["start"]);
    let (address, print) = listen(&project);
    let (reader, revoked) = (token(&project, "reader", "read"), token(&project, "revoked", "admin"));
    project.ok(&["daemon", "token", "revoke", "revoked"]);
    let pid = project.pid("db-1");
    // each was acknowledged, so that nothing of it is lost
    kill(project.daemon_pid(), "KILL");
    project.ok(&["start"]);
    let shown = project.json(&["daemon", "status"])["daemon"]["listener"].clone();
    assert_eq!((shown["address"].as_str(), shown["certificate"].as_str()), (Some(&*address), Some(&*print)));
    let status = remote(&project, &address, &print, &reader, &["status", "-o", "json"]);
    assert!(status.stdout.contains(&format!("\"pid\": {pid}")), "{}{}", status.stdout, status.stderr);
    assert_ne!(remote(&project, &address, &print, &revoked, &["status"]).code, 0);

    // and `off` is remembered as well
    project.ok(&["daemon", "listen", "off"]);
    kill(project.daemon_pid(), "KILL");
    project.ok(&["start"]);
    assert!(project.json(&["daemon", "status"])["daemon"]["listener"].is_null());
    project.assert_never_doubled();
}

#[test]
fn connections_by_tcp_end_with_their_listener() {
    let project = Project::new(&format!("services:\n  db: {{ type: process, command: {LOCKED} }}\n"));
    project.ok(&["start"]);
    let (mut address, print) = listen(&project);
    let reader = token(&project, "reader", "read");
    for then in ["127.0.0.1:0", "off"] {
        let bound = PATIENCE.as_secs().to_string();
        let follow = command(&project, &address, &print, &reader, &["events", "-f"]);
        let mut following = Command::new("timeout");
        following.arg(bound).arg(follow.get_program()).args(follow.get_args()).current_dir(project.path());
        for (name, value) in follow.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            following.env(name, value);
        }
        let mut following =
            following.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // it has been let in, and is told of what happens
        let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
        assert!(lines.next().is_some_and(|line| line.unwrap().contains("db")));
        let listener = project.json(&["daemon", "listen", then])["listener"].clone();
        assert_eq!(listener.is_null(), then == "off");
        let ended = done(following.wait_with_output().unwrap());
        assert!(ended.code != 0 && ended.code != 124, "{}: {}", ended.code, ended.stderr);
        assert!(ended.stderr.contains("the listener was closed"), "{}", ended.stderr);
        address = listener["address"].as_str().unwrap_or_default().to_owned();
    }
    // the Unix socket is another way in
    assert_eq!(project.state("db-1"), "running");
}

#[test]
fn services_are_listed_and_restarted_over_tls_as_they_were_started() {
    let project = Project::new(
        "services:\n  db:\n    type: process\n    labels: {tier: data}\n    ports: [{name: sql, port: auto}]\n    \
         command: [sh, -c, 'echo \"$WHOSE\" > whose; exec sleep 1000']\n  \
         extra: { type: process, command: [sleep, '1000'], profiles: [more] }\n",
    );
    let started = project.command(&["start"]).env("WHOSE", "starter").output().unwrap();
    assert!(started.status.success());
    let (address, print) = listen(&project);
    let (reader, operator) = (token(&project, "reader", "read"), token(&project, "operator", "operate"));
    let ask = |args: &[&str]| remote(&project, &address, &print, &operator, args);
    let here = project.json(&["list"]);
    let there: Value = serde_json::from_str(&ask(&["list", "-o", "json"]).stdout).unwrap();
    let (here, there) = (&here["services"][0], &there["services"][0]);
    for key in ["name", "role", "type", "replicas", "dependencies", "labels", "instances"] {
        assert_eq!(here[key], there[key], "{key}");
    }
    assert!(there["ports"][0].as_str().unwrap().starts_with("sql:"), "{there}");
    assert!(there["source"].is_null());
    let table = ask(&["list", "--filter", "label.tier=data"]).stdout;
    assert!(table.contains("process") && table.contains("running"), "{table}");
    assert!(!ask(&["list", "--filter", "type=docker"]).stdout.contains("db"));

    let pid = project.pid("db-1");
    // neither this machine's file nor its environment counts
    project.write_services("services: not a file any more\n");
    std::fs::remove_file(project.path().join("whose")).unwrap();
    let mut restart = command(&project, &address, &print, &operator, &["restart", "db"]);
    let restarted = done(restart.env("WHOSE", "caller").output().unwrap());
    assert!(restarted.code == 0 && restarted.stderr.contains("1 ready"), "{}", restarted.stderr);
    assert_eq!(project.wait_for("whose"), "starter\n");
    let status: Value = serde_json::from_str(&ask(&["status", "-o", "json"]).stdout).unwrap();
    assert_ne!(status["instances"][0]["pid"], pid);
    for (args, token, says) in [
        (&["restart", "nope"][..], &operator, "nope"),
        (&["restart", "db"], &reader, "needs the scope `operate`"),
        (&["start"], &operator, "-H ssh://"),
        (&["daemon", "stop"], &operator, "-H ssh://"),
        (&["daemon", "token", "list"], &operator, "needs the scope `admin`"),
    ] {
        let refused = remote(&project, &address, &print, token, args);
        assert!(refused.code != 0 && refused.stderr.contains(says), "{args:?}: {}", refused.stderr);
    }
    project.ok(&["-c", project.path().join("services.yaml").to_str().unwrap(), "stop", "-y"]);
}

#[test]
fn a_daemon_is_looked_after_over_tls_with_a_token_from_a_file() {
    let project = Project::new(&format!("services:\n  db: {{ type: process, command: {LOCKED} }}\n"));
    project.ok(&["start"]);
    let (address, print) = listen(&project);
    let admin = token(&project, "admin", "admin");
    let file = project.write("token", &format!("{admin}\n"));
    let with = |file: &str, address: &str, args: &[&str]| {
        let mut command = command(&project, address, &print, "harness_the_file_counts", args);
        done(command.env("HARNESS_TOKEN_FILE", project.path().join(file)).output().unwrap())
    };
    let status = with("token", &address, &["daemon", "status", "-o", "json"]);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["daemon"]["pid"], project.daemon_pid());
    let option = format!("--token-file={}", file.display());
    assert_eq!(remote(&project, &address, &print, "", &[&option, "daemon", "status"]).code, 0);
    let made = with("token", &address, &["daemon", "token", "create", "new", "--scope", "read"]);
    assert_eq!(remote(&project, &address, &print, made.stdout.trim(), &["list"]).code, 0);
    assert!(with("token", &address, &["daemon", "token", "list"]).stdout.contains("new"));
    // answered before the connection ends with the listener that it came by
    let moved = with("token", &address, &["daemon", "listen", "127.0.0.1:0", "-o", "json"]);
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    let moved: Value = serde_json::from_str(&moved.stdout).unwrap();
    let moved = moved["listener"]["address"].as_str().unwrap();
    assert_ne!(with("token", &address, &["status"]).code, 0);
    let paths = ["daemon", "listen", "127.0.0.1:0", "--cert", "x.crt", "--key", "x.key"];
    assert!(with("token", moved, &paths).stderr.contains("whole paths"));
    assert_eq!(with("token", moved, &["daemon", "listen", "off"]).code, 0);

    project.write("empty", "\n");
    project.write("long", &"x".repeat(5_000));
    project.write("two", "one two\n");
    for (name, says) in
        [("empty", "hold a token"), ("long", "hold a token"), ("two", "hold a token"), ("none", "can't read")]
    {
        let refused = with(name, &address, &["status"]);
        assert!(refused.code == 2 && refused.stderr.contains(says), "{name}: {}", refused.stderr);
        assert!(!refused.stderr.contains("one two"), "{}", refused.stderr);
    }
}

/// Makes an authority `ca.crt`, and `client.crt` and `client.key` that it vouches for.
fn certificates(project: &Project) {
    let script = "set -e; new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
        openssl req -x509 $new -keyout ca.key -out ca.crt -subj /CN=ca -days 2
        openssl req $new -keyout client.key -out client.csr -subj /CN=client
        echo basicConstraints=CA:FALSE > extensions
        openssl x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out client.crt -days 2 -extfile extensions";
    let made = Command::new("sh").args(["-c", script]).current_dir(project.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn a_client_certificate_is_enough() {
    require!(test_hosts::program("openssl", "openssl"));
    let project = Project::new(&format!("services:\n  db: {{ type: process, command: {LOCKED} }}\n"));
    certificates(&project);
    project.ok(&["start"]);
    let scope = ["--client-ca", "ca.crt", "--client-scope", "operate"];
    let listen = [&["daemon", "listen", "127.0.0.1:0"][..], &scope].concat();
    let listener = project.json(&listen)["listener"].clone();
    let (address, print) = (listener["address"].as_str().unwrap(), listener["certificate"].as_str().unwrap());
    let ask = |args: &[&str]| remote(&project, address, print, "", args);
    let own = ["--client-cert", "client.crt", "--client-key", "client.key"];
    let done = ask(&[&own[..], &["restart", "db"]].concat());
    assert_eq!(done.code, 0, "{}", done.stderr);
    for (args, code, says) in [
        (&["status"][..], 2, "--client-cert"),
        (&["status", "--client-cert", "client.crt"], 2, "--client-key"),
        (&["status", "--client-key", "client.key"], 2, "--client-cert"),
        (&["status", "--client-cert", "client.crt", "--client-key", "ca.crt"], 2, "private key"),
        (&["status", "--client-cert", "none.crt", "--client-key", "client.key"], 2, "none.crt"),
        (&["daemon", "token", "list", own[0], own[1], own[2], own[3]], 1, "needs the scope `admin`"),
    ] {
        let refused = ask(args);
        assert!(
            refused.code == code && refused.stderr.contains(says),
            "{args:?}: {} {}",
            refused.code,
            refused.stderr
        );
    }
}
