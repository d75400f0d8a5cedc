//! What is said about what is wrong.

use crate::support::{check, check_services};
use insta::assert_snapshot;

#[test]
fn a_good_file_says_nothing() {
    assert_snapshot!(check_services("  web: {type: process, command: tool --port 80}"));
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion() {
    assert_snapshot!(check_services("  web:\n    type: process\n    comand: tool\n    depends_on: [db]\n"));
}

#[test]
fn wrong_types() {
    assert_snapshot!(check_services(
        "  web:
    type: process
    command: {a: b}
    env: 5
    ports: 80
    replicas: two
    startup_timeout: 5 parsecs
    resources: {memory: lots, nice: 30, cpus: 0}
    stop_signal: SIGFOO
    restart: sometimes
    init: maybe
    dependencies: 5
"
    ));
}

#[test]
fn missing_keys() {
    assert_snapshot!(check(
        "services:\n  a: {}\n  b: {type: docker}\n  c: {type: process}\n  d: {type: remote, command: tool}\n  e: {type: attach}\n  f: {type: compose}\n"
    ));
}

#[test]
fn duplicate_keys_are_shown_both() {
    assert_snapshot!(check_services(
        "  web: {type: process, command: tool}\n  web: {type: process, command: tool}\n"
    ));
}

#[test]
fn keys_of_another_type() {
    assert_snapshot!(check_services(
        "  web: {type: process, command: tool, image: x}\n  db: {type: docker, image: x, binary: y}\n"
    ));
}

#[test]
fn names() {
    assert_snapshot!(check(
        "version: 1.0
tasks:
  web: {command: tool}
services:
  Web: {type: process, command: tool}
  web: {type: process, command: tool}
  web-1: {type: process, command: tool}
  my-db: {type: process, command: tool}
  my_db: {type: process, command: tool}
  a/b: {type: process, command: tool}
  self: {type: process, command: tool}
"
    ));
}

#[test]
fn unknown_services_networks_nodes_templates_and_types() {
    assert_snapshot!(check(
        "version: 1.0
networks: {mesh: {type: auto}}
nodes: {eu-1: {host: eu1.example.com, networks: [mehs]}}
templates: {base: {restart: always}}
services:
  db: {type: process, command: tool, network: mash, host: eu-2}
  web: {type: proces, extends: bsae, dependencies: [bd]}
  other: {type: process, command: 'tool ${nope.ip}', host: 10.0.0.5}
"
    ));
}

#[test]
fn a_placement_that_no_node_fits() {
    let file = |placement: &str| {
        check(&format!(
            "version: 1.0\nnodes: {{eu-1: {{host: eu1.example.com, region: eu, labels: {{disk: ssd}}}}}}\n\
             services:\n  db: {{type: process, command: tool, placement: {placement}}}\n"
        ))
    };
    let refused = file("{disk: hdd, region: eu}");
    assert!(
        refused.contains("error[unplaceable]") && refused.contains("`db`: disk=hdd, region=eu"),
        "{refused}"
    );
    assert!(!file("{disk: ssd, region: eu}").contains("error"));
}

#[test]
fn a_cycle_is_shown_with_its_whole_path() {
    assert_snapshot!(check_services(
        "  a: {type: process, command: tool, dependencies: [b]}
  b: {type: process, command: tool, dependencies: {c: {condition: started}}}
  c: {type: process, command: 'tool ${a.ip}'}
"
    ));
}

#[test]
fn a_cycle_of_references_with_condition_none_is_fine() {
    assert_snapshot!(check_services(
        "  a: {type: process, command: 'tool ${b.ip}', dependencies: {b: {condition: none}}}
  b: {type: process, command: 'tool ${a.ip}', dependencies: {a: none}}
"
    ));
}

#[test]
fn self_dependency() {
    assert_snapshot!(check_services("  a: {type: process, command: tool, dependencies: [a]}\n"));
}

#[test]
fn conditions_that_can_never_hold() {
    assert_snapshot!(check_services(
        "  a: {type: process, command: tool, restart: always}
  b: {type: process, command: tool, dependencies: {a: {condition: healthy}}}
  c: {type: process, command: tool, dependencies: {a: {condition: completed}}}
  d: {type: process, command: tool, dependencies: {a: {condition: service_started}}}
"
    ));
}

#[test]
fn references_to_what_is_not_declared() {
    assert_snapshot!(check(
        "version: 1.0
secrets: {token: {env: USER_TOKEN}}
services:
  db: {type: process, command: tool, ports: [{name: http, port: 80}]}
  bare: {type: process, command: tool}
  web:
    type: process
    command: tool ${db.port.htp} ${bare.port} ${db.prot} ${secrets.tokn} ${secrets.token}
    env: {A: '${self.port}', B: '${db.port.http}'}
"
    ));
}

#[test]
fn variables() {
    assert_snapshot!(check_services(
        "  a:
    type: process
    command: tool ${USER_TOKN} ${NOPE:?please set it} ${NOPE?} ${1X} ${NOPE:-${ALSO_NOPE}}
  b: {type: process, command: tool, replicas: '${PORT}', startup_timeout: '${USER_TOKEN}'}
  c: {type: process, command: 'tool ${unclosed'}
  d: {type: process, command: tool, replicas: '${a.port}'}
"
    ));
}

#[test]
fn ports() {
    assert_snapshot!(check_services(
        "  a: {type: process, command: tool, ports: [80, {name: x, port: auto}, {name: x, port: auto}]}
  b: {type: process, command: tool, ports: ['127.0.0.1:80:80']}
  c: {type: process, command: tool, ports: [81], replicas: 2}
  d: {type: docker, image: x, ports: [80, '80/udp']}
  e: {type: process, command: tool, ports: ['80/udp', 0, 70000, x]}
  f: {type: process, command: tool, ports: [80], host: 10.0.0.1}
"
    ));
}

#[test]
fn subnets() {
    assert_snapshot!(check(
        "version: 1.0
networks:
  a: {type: lan, subnet: 10.0.0.0/8}
  b: {type: wireguard, subnet: 10.42.0.0/16}
  c: {type: lan, subnet: 192.168.1.5/24}
  d: {type: lan, subnet: 300.1.1.1/8}
  e: {}
services: {a: {type: process, command: tool}}
"
    ));
}

#[test]
fn health_checks() {
    assert_snapshot!(check_services(
        "  a: {type: process, command: tool, health_check: {interval: 5}}
  b: {type: process, command: tool, health_check: {tcp: 80, http: 'http://x'}}
  c: {type: process, command: tool, health_check: {http: 'ftp://x'}}
  d: {type: process, command: tool, health_check: {http: 'https://x'}}
  e: {type: process, command: tool, health_check: {tcp: x, args: [y]}}
  f: {type: process, command: tool, health_check: {test: [CMD]}}
  g: {type: process, command: tool, health_check: {all: []}}
  h: {type: process, command: tool, health_check: {command: tool, interval: 0, retries: 0}}
"
    ));
}

#[test]
fn commands() {
    assert_snapshot!(check_services(
        "  a: {type: process, command: 'tool \"x'}
  b: {type: process, command: tool && tool}
  c: {type: process, command: tool, binary: tool}
  d: {type: process, command: ''}
  e: {type: process, command: []}
"
    ));
}

#[test]
fn what_is_missing_on_this_machine_is_a_warning() {
    assert_snapshot!(check_services(
        "  a: {type: process, command: missing --now}
  b: {type: process, binary: ./missing}
  c: {type: process, binary: ./plain}
  d: {type: process, binary: ./folder}
  e: {type: process, binary: ./run, working_dir: nowhere}
  f: {type: compose, file: compose.yaml}
  g: {type: process, command: missing, host: eu.example.com}
  h: {type: process, command: tool, env: {PATH: /nowhere}}
  i: {type: process, command: '${USER_TOKEN}'}
"
    ));
}

#[test]
fn profiles_that_are_not_active() {
    assert_snapshot!(check_services(
        "  a: {type: process, command: tool, profiles: [dev]}
  b: {type: process, command: tool, dependencies: [a]}
  c: {type: process, command: 'tool ${a.ip}'}
"
    ));
}

#[test]
fn templates_in_a_circle() {
    assert_snapshot!(check(
        "version: 1.0
templates:
  a: {extends: b}
  b: {extends: a}
services:
  x: {type: process, command: tool, extends: a}
"
    ));
}

#[test]
fn a_mistake_in_a_template_is_said_once() {
    assert_snapshot!(check(
        "version: 1.0
templates:
  a: {type: process, command: 'tool ${NOPE}', startup_timeout: soon, wrong: 1}
services:
  x: {extends: a}
  y: {extends: a}
"
    ));
}

#[test]
fn yaml_errors_come_with_a_hint() {
    let texts = [
        "version: 1.0\nservices:\n  a: {dependencies: [db, ${X}]}\n",
        "version: 1.0\nservices:\n\ta: 1\n",
        "version: 1.0\nservices:\n  a: [1, 2\n",
        "version: 1.0\ndescription: a: b\n",
        "version: 1.0\nname: @x\n",
        "version: *nope\n",
        "? [a, b]\n: c\n",
        "a: 1\n---\nb: 2\n",
    ];
    assert_snapshot!(texts.map(check).join("────\n"));
}

#[test]
fn env_files() {
    use crate::support::{Pretend, options, read_with};
    let files = Pretend([(".env", "GOOD=1\nbad line\nX=${NOPE}\n")].into());
    let text = "version: 1.0
env_file: [.env, missing.env, {path: maybe.env, required: false}]
services: {a: {type: process, command: 'tool ${GOOD}', env_file: also-missing}}
";
    let loaded = read_with(text, &options(), &files);
    assert_snapshot!(harness_config::render(&loaded.diagnostics, &loaded.sources, false));
}

#[test]
fn other_sections() {
    assert_snapshot!(check(
        "version: 2
name: Not A Name
settings: {log_level: loud, startup_timeout: x, more: 1}
nodes:
  a: {port: 22}
  b: {host: -oProxyCommand=x}
secrets:
  s: {file: a, env: b}
services:
  a:
    type: docker
    image: x
    volumes: [nonsense]
    scaling: {min: 3, max: 1, metric: cpu, target: 50%}
    deployment: {strategy: magic, max_parallel: 0}
    on_node_loss: reschedule
    logs: {max_size: 1}
"
    ));
}

#[test]
fn what_a_deployment_does_not_do_yet() {
    let warned = |kind: &str, deployment: &str| {
        let text = format!("version: 1.0\nservices:\n  a: {{{kind}, deployment: {{{deployment}}}}}\n");
        let loaded = crate::support::read(&text);
        let warned: Vec<String> = loaded
            .diagnostics
            .iter()
            .filter(|it| it.code == "not-yet")
            .map(|it| it.message.clone())
            .collect();
        warned.join("; ")
    };
    let package = "type: package, package: ./a-1.0.0.tar.zst";
    assert_eq!(warned(package, "strategy: rolling, max_parallel: 2, rollback_on_failure: false"), "");
    assert_eq!(
        warned(package, "strategy: canary, canary_percent: 10"),
        "deployment.strategy, deployment.canary_percent of `a` aren't carried out yet"
    );
    assert_eq!(
        warned("type: process, command: x", "max_parallel: 2"),
        "deployment of `a` isn't carried out yet"
    );
}

#[test]
fn json() {
    let loaded = crate::support::read("version: 1.0\nservices:\n  a: {type: process, comand: x}\n");
    let json = harness_config::to_json(&loaded.diagnostics, &loaded.sources);
    assert_eq!(json["valid"], false);
    assert_eq!(json["diagnostics"][1]["code"], "unknown-key");
    assert_eq!(json["diagnostics"][1]["location"]["line"], 3);
    assert_eq!(json["diagnostics"][1]["location"]["column"], 22);
    assert_eq!(json["diagnostics"][1]["help"], "did you mean `command`?");
}

#[test]
fn what_networks_and_nodes_cant_be_yet_or_ever() {
    assert_snapshot!(check(
        "version: 1.0
networks:
  mesh: {type: wireguard}
  kernel: {type: wireguard, interface: wg0}
  best: {type: auto}
nodes:
  local: {host: a.example.com}
services:
  a: {type: process, command: tool, network: mesh}
  b: {type: process, command: tool, network: kernel}
  c: {type: process, command: tool, network: best}
  d: {type: process, command: tool, names: hosts}
  e: {type: docker, image: tool, names: hosts}
"
    ));
}

#[test]
fn what_a_zone_cant_be() {
    for zone in [
        "a..b",
        "{listen: 127.0.0.1:53}",
        "{name: shop.local, listen: 0.0.0.0:53}",
        "{name: a, listen: 127.0.0.1}",
    ] {
        assert_snapshot!(check(&format!(
            "version: 1.0
zone: {zone}
services:
  web: {{type: process, command: tool}}
"
        )));
    }
}

#[test]
fn ports_that_a_zone_has() {
    let services = |zone: &str| {
        check(&format!(
            "version: 1.0
zone: {zone}
services:
  all: {{type: process, command: tool, ports: [5300]}}
  one: {{type: process, command: tool, ports: ['127.0.0.1:5301:5301/udp', '127.0.0.2:5301:5301']}}
  published: {{type: docker, image: x, ports: ['5302:80']}}
  inside: {{type: docker, image: x, ports: [5303]}}
"
        ))
    };
    assert_snapshot!(services("shop.test"));
    assert_snapshot!(services("{name: shop.test, listen: '127.0.0.1:5301'}"));
    assert_snapshot!(services("{name: shop.test, listen: '127.0.0.1:5302'}"));
    assert_snapshot!(services("{name: shop.test, listen: '127.0.0.1:5303'}"));
}

#[test]
fn jump_hosts_in_a_circle() {
    assert_snapshot!(check(
        "version: 1.0
nodes:
  a: {host: a.example.com, jump: b}
  b: {host: b.example.com, jump: a}
  self: {host: s.example.com, jump: self}
  behind: {host: c.example.com, jump: a}
  good: {host: d.example.com, jump: bastion}
services:
  web: {type: process, command: tool}
"
    ));
}

#[test]
fn files_for_a_node_must_be_here_and_stay_inside_there() {
    let text = check_services(
        "  a: {type: remote, host: eu.example.com, command: x, files: [plain, folder:/srv/x, 'none:there']}
  b: {type: remote, host: eu.example.com, command: x, files: [{source: plain, destination: ../up}, ../x]}
  c: {type: compose, host: eu.example.com, file: compose.yaml}
",
    );
    insta::assert_snapshot!(text);
}
