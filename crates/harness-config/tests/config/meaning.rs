//! What a good file means.

use crate::support::{Pretend, options, read_with, stack, stack_with};
use harness_config::{LoadOptions, render_stack};
use insta::assert_snapshot;
use orchestrator::model::{Condition, Probe, RestartPolicy, Role, Target};
use std::time::Duration;

const SHOP: &str = "
version: '1.0'
name: shop
description: everything once
settings: {log_level: info, startup_timeout: 1m, shutdown_timeout: 10, health_check_interval: 7s}
networks:
  local: {type: local}
  lan: {type: lan, subnet: 192.168.1.0/24, nodes: [{host: 192.168.1.9, name: nas, ssh_user: me, ssh_key: ~/.ssh/nas}]}
  mesh: {type: wireguard, subnet: 10.42.0.0/16, interface: wg-harness}
zone: {name: Shop.Test, listen: '127.0.0.9:53'}
nodes:
  eu-1: {host: eu1.example.com, port: 22, user: deploy, identity_file: ~/.ssh/id_ed25519, sudo: true, jump: bastion, networks: [mesh], region: eu, labels: {disk: ssd}}
secrets:
  token: {env: USER_TOKEN}
  cert: {file: certs/tls.pem}
  made: {command: [tool, print]}
templates:
  base: {restart: always, env: {LOG: info, LEVEL: low}, logs: {max_size: 1MiB}}
  api: {extends: base, type: process, command: tool --base, env: [LEVEL=high], health_check: {tcp: 80, interval: 3}}
tasks:
  migrate: {command: ./migrate --all, dependencies: [db]}
services:
  db:
    type: process
    binary: tool
    args: ['-p', 5432]
    network: local
    ports: [5432, {name: admin, port: auto}]
    health_check: {command: tool, args: [ping], interval: 10, retries: 3, timeout: 5}
    resources: {memory: 512MiB, cpus: 0.5, nice: 5, open_files: 1024}
    user: nobody
    working_dir: data
    stop_signal: INT
  web:
    extends: api
    binary: ./run
    args: ['${db.ip}', '${db.port.admin}']
    health_check: {http: {url: 'http://${self.ip}:8080/', expected_status: 204, headers: {X: '${USER_TOKEN}'}}, retries: 9}
    dependencies: [migrate]
    ports: [8080]
    env: {LEVEL: top, TOKEN: '${secrets.token}', HALF: 'x${USER_TOKEN}y', DOLLAR: '$$HOME $5'}
    deployment: {strategy: blue-green, max_parallel: 2}
    labels: {tier: front}
    on_dependency_failure: restart
  cache: {type: docker, image: 'redis:7', command: redis-server --save '', entrypoint: [/x], volumes: ['./data:/data:ro', 'named:/x'], ports: ['127.0.0.1:6379:6379/tcp'], pull: always, init: true, health_check: {test: [CMD, redis-cli, ping]}}
  stack: {type: compose, file: compose.yaml, service: app}
  unit: {type: systemd, unit: cron.service}
  box: {type: portable, image: ./image.raw, unit: box.service, profile: trusted}
  pack: {type: package, package: app.tar.zst, version: 1.2.3, install_path: opt/app, pre_install: tool before, post_install: [tool, after]}
  far: {type: remote, host: eu-1, command: ./serve, restart: {policy: unless-stopped, max_retries: 3, backoff: {initial: 1s, max: 1m}, reset_after: 1m}}
  pid: {type: attach, pid_file: run/x.pid}
  outside: {type: attach, external: {host: db.example.com, port: 5432}}
  hand: {type: attach, managed: {start: tool up, stop: tool down, status: tool is-up, logs: tool logs}}
  scaled: {type: process, command: tool, ports: [{name: http, port: auto}], scaling: {min: 2, max: 5, metric: cpu, target: 70%, window: 1m}, placement: {disk: ssd}, files: ['a.conf:/etc/a.conf'], names: env, on_node_loss: reschedule, on_unhealthy: restart, on_dependency_change: restart, restart: no}
";

#[test]
fn every_key_and_type() {
    let files = Pretend([("compose.yaml", ""), ("app.tar.zst", ""), ("data", "")].into());
    assert_snapshot!(render_stack(&stack_with(SHOP, &options(), &files), false));
}

#[test]
fn what_config_show_prints_is_read_again_to_the_same() {
    let shown = render_stack(&stack(SHOP), true);
    let again = stack(&shown);
    let shown_again = render_stack(&again, true);
    assert_eq!(shown, shown_again);
}

#[test]
fn values_are_masked_until_they_are_asked_for() {
    let stack = stack(SHOP);
    assert!(!render_stack(&stack, false).contains("s3cr3t"));
    assert!(render_stack(&stack, true).contains("xs3cr3ty"));
    assert!(!format!("{stack:?}").contains("s3cr3t"));
}

#[test]
fn defaults() {
    let stack = stack(
        "version: 1.0\nservices: {a: {type: process, command: tool, health_check: {tcp: 80}}}\ntasks: {t: {command: tool}}\n",
    );
    let a = stack.service("a").unwrap();
    let check = a.health_check.as_ref().unwrap();
    assert_eq!((a.startup_timeout, a.shutdown_timeout), (Duration::from_secs(300), Duration::from_secs(30)));
    assert_eq!((check.interval, check.timeout), (Duration::from_secs(30), Duration::from_secs(5)));
    assert_eq!(
        (check.retries, check.success_threshold, check.start_interval),
        (3, 1, Duration::from_millis(20))
    );
    assert_eq!(a.restart.policy, RestartPolicy::OnFailure);
    assert_eq!((a.restart.max_retries, a.restart.reset_after), (None, Duration::from_secs(10)));
    assert_eq!(a.source, "services.yaml:2");
    let t = stack.service("t").unwrap();
    assert_eq!((t.role, t.restart.policy), (Role::Task, RestartPolicy::No));
    assert_eq!(stack.name, "project");
    assert_eq!(stack.networks.len(), 1);
}

#[test]
fn conditions_of_dependencies() {
    let stack = stack(
        "version: 1.0
tasks: {job: {command: tool}}
services:
  well: {type: process, command: tool, health_check: {tcp: 80}}
  plain: {type: process, command: tool}
  web: {type: process, command: 'tool ${well.ip} ${plain.ip} ${other.ip} ${self.name}', dependencies: [well, job]}
  other: {type: process, command: tool}
  late: {type: process, command: 'tool ${web.ip}', dependencies: {web: none, well: started}}
",
    );
    let show = |name: &str| -> Vec<String> {
        let service = stack.service(name).unwrap();
        service
            .dependencies
            .iter()
            .map(|(name, edge)| format!("{name} {:?} {}", edge.condition, edge.implied))
            .collect()
    };
    assert_eq!(
        show("web"),
        ["well Healthy false", "job Completed false", "plain Started true", "other Started true"]
    );
    assert_eq!(show("late"), ["web None false", "well Started false"]);
    assert_eq!(stack.service("late").unwrap().dependencies[0].condition, Condition::None);
}

#[test]
fn substitution() {
    let files = Pretend([(".env", "FROM_FILE=file\nUSER_TOKEN=other\nBOTH=file\n")].into());
    let options = LoadOptions { overrides: vec![("BOTH".into(), "given".into())], ..options() };
    let value = |text: &str| {
        let text = format!(
            "version: 1.0\nenv_file: .env\nservices: {{a: {{type: process, command: tool, env: {{X: \"{text}\"}}}}}}"
        );
        stack_with(&text, &options, &files).service("a").unwrap().env["X"].as_literal().unwrap()
    };
    for (text, expected) in [
        ("${FROM_FILE}", "file"),
        ("${USER_TOKEN}", "s3cr3t"),
        ("${BOTH}", "given"),
        ("${EMPTY}", ""),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${NOPE-x}", "x"),
        ("${NOPE:-}", ""),
        ("${NOPE:-a}b", "ab"),
        ("${NOPE:-${ALSO:-deep}}", "deep"),
        ("${NOPE:-${BOTH}-${FROM_FILE}}", "given-file"),
        ("${NOPE:-$$5}", "$5"),
        ("${BOTH:+set}", "set"),
        ("${NOPE:+set}", ""),
        ("${EMPTY:+set}", ""),
        ("${EMPTY+set}", "set"),
        ("${BOTH:?must}", "given"),
        ("$$", "$"),
        ("$${BOTH}", "${BOTH}"),
        ("$5 $HOME a$", "$5 $HOME a$"),
        ("${NOPE:-a.b}", "a.b"),
        ("${NOPE:-}}", "}"),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn a_variable_may_be_a_number() {
    let stack = stack(
        "version: 1.0\nservices: {a: {type: process, command: tool, ports: ['${PORT}'], replicas: '${N:-1}', health_check: {tcp: {port: '${PORT}', timeout: 2}}}}",
    );
    let a = stack.service("a").unwrap();
    assert_eq!(a.ports[0].number, orchestrator::model::PortNumber::Fixed(8080));
    let Probe::Tcp { port, .. } = &a.health_check.as_ref().unwrap().probe else { panic!() };
    assert_eq!(port.as_literal().as_deref(), Some("8080"));
    assert_eq!(a.health_check.as_ref().unwrap().timeout, Duration::from_secs(2));
}

#[test]
fn only_what_the_file_refers_to_is_remembered() {
    let loaded = read_with(
        "version: 1.0\nservices: {a: {type: process, command: 'tool ${PORT} ${NOPE:-x}', env: {HOME: , ALSO: }}}",
        &options(),
        &Pretend::default(),
    );
    let names: Vec<(&str, Option<&str>)> =
        loaded.referenced_env.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    assert_eq!(names, [("ALSO", None), ("HOME", Some("/home/me")), ("NOPE", None), ("PORT", Some("8080"))]);
    let stack = loaded.stack.unwrap();
    let env = &stack.service("a").unwrap().env;
    assert_eq!(env.keys().collect::<Vec<_>>(), ["HOME"]);
}

#[test]
fn paths_are_absolute_where_they_are_of_this_machine() {
    let stack = stack(
        "version: 1.0
services:
  a: {type: process, binary: bin/../run, working_dir: '~/x'}
  b: {type: process, command: ./run}
  c: {type: process, command: tool ./x}
  d: {type: process, command: ./run, host: eu.example.com}
",
    );
    let program = |name: &str| match &stack.service(name).unwrap().target {
        Target::Process { program, .. } => program.as_literal().unwrap(),
        _ => panic!(),
    };
    assert_eq!(program("a"), "/project/bin/../run");
    assert_eq!(program("b"), "/project/run");
    assert_eq!(program("c"), "tool");
    assert_eq!(program("d"), "./run");
    let folder = stack.service("a").unwrap().working_dir.as_ref().unwrap().as_literal();
    assert_eq!(folder.as_deref(), Some("/home/me/x"));
}

#[test]
fn anchors_and_merge_keys() {
    let stack = stack(
        "version: 1.0
x-common: &common {type: process, restart: always, env: &env {A: 1}}
services:
  a: {<<: *common, command: tool, restart: no}
  b: {<<: [*common], command: tool, env: {<<: *env, B: 2}}
",
    );
    assert_eq!(stack.service("a").unwrap().restart.policy, RestartPolicy::No);
    assert_eq!(stack.service("b").unwrap().restart.policy, RestartPolicy::Always);
    assert_eq!(stack.service("b").unwrap().env.len(), 2);
}

#[test]
fn profiles() {
    let text = "version: 1.0
services:
  a: {type: process, command: tool, profiles: [dev, test]}
  b: {type: process, command: tool}
";
    let names = |profiles: &[&str]| -> Vec<String> {
        let options =
            LoadOptions { profiles: profiles.iter().map(|p| (*p).to_string()).collect(), ..options() };
        stack_with(text, &options, &Pretend::default()).services.keys().map(ToString::to_string).collect()
    };
    assert_eq!(names(&[]), ["b"]);
    assert_eq!(names(&["test"]), ["a", "b"]);
    assert_eq!(names(&["*"]), ["a", "b"]);
    let loaded = read_with(text, &options(), &Pretend::default());
    assert_eq!(loaded.profiles, ["dev", "test"]);
}

#[test]
fn missing_commands_are_errors_when_strict() {
    let text = "version: 1.0\nservices: {a: {type: process, command: missing}}";
    let options = LoadOptions { strict: true, ..options() };
    assert!(read_with(text, &options, &Pretend::default()).stack.is_none());
}

#[test]
fn what_a_node_needs_to_read_comes_along() {
    let files = Pretend([("compose.yaml", ""), ("app.tar.zst", ""), ("conf", "")].into());
    let stack = stack_with(
        "version: '1.0'
services:
  a: {type: compose, host: eu.example.com, file: compose.yaml}
  b: {type: package, host: eu.example.com, package: ./app.tar.zst, files: ['conf:/etc/app/']}
  c: {type: compose, host: eu.example.com, file: /srv/compose.yaml}
  d: {type: compose, file: compose.yaml}
",
        &options(),
        &files,
    );
    let copies = |name: &str| -> Vec<String> {
        let files = &stack.services[name].files;
        files.iter().map(|it| format!("{} > {}", it.source.display(), it.destination.display())).collect()
    };
    assert_eq!(copies("a"), ["/project/compose.yaml > compose.yaml"]);
    assert_eq!(copies("b"), ["/project/conf > /etc/app/", "/project/app.tar.zst > ./app.tar.zst"]);
    assert_eq!((copies("c"), copies("d")), (vec![], vec![]));
}
