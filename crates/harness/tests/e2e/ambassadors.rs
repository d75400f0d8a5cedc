//! Ambassadors: services that aren't in a container network, called in it by their names at their own ports.

use super::containers::{Stack, has_compose};
use crate::support::{kill, until};
use test_hosts::{BB, Docker, require};

/// Answers requests for `/word` with the name of the instance; `/count` with `CONNECTION NUMBER`, for ever.
const API: &str = r#"[python3, -c, 'import http.server,itertools,os,sys,time;
  say = lambda h: (h.send_response(200), h.end_headers(), h.wfile.write(os.environ["HARNESS_INSTANCE"].encode() + b"\n")) if h.path == "/word" else [(h.wfile.write(b"%d %d\n" % (h.client_address[1], n)), time.sleep(0.02)) for n in itertools.count()];
  H = type("H", (http.server.BaseHTTPRequestHandler,), {"do_GET": say, "log_message": lambda *a: None});
  http.server.ThreadingHTTPServer((sys.argv[1], int(os.environ["PORT"])), H).serve_forever()']"#;

/// `API` at an address.
fn api(address: &str) -> String {
    API.replace("serve_forever()']", &format!("serve_forever()', {address}]"))
}

impl Stack {
    /// The ids of its ambassadors, and the networks that they stand in.
    fn ambassadors(&self) -> Vec<String> {
        let project = format!("label=harness.project={}", self.id());
        let words = ["ps", "--no-trunc", "--filter", &project, "--filter", "label=harness.ambassador"];
        let listed =
            self.docker.output(&[&words[..], &["--format", "{{.ID}} {{.Networks}}"]].concat()).unwrap();
        listed.lines().map(str::to_owned).collect()
    }
}

#[test]
fn containers_of_a_compose_file_reach_a_process_by_name_also_where_their_network_leads_nowhere() {
    let docker = require!(Docker::here());
    if !has_compose(&docker) {
        assert!(!test_hosts::in_ci(), "Compose has to be here in CI");
        eprintln!("skipped: neither docker compose nor docker-compose is here");
        return;
    }
    let services = format!(
        "services:
  api: {{type: process, command: {}, ports: [18945], health_check: {{tcp: '${{self.port}}', interval: 1s}}}}
  all: {{type: compose, file: compose.yaml, env: {{URL: '${{api.url}}'}}, dependencies: {{api: {{condition: healthy}}}}, shutdown_timeout: 2s}}
",
        api("127.0.0.1")
    );
    let stack = Stack::new(docker, "compose names", &services);
    let compose = r#"
version: "3.7"
services:
  it:
    image: BB
    init: true
    command: sh -c "echo ${URL}; (echo GET /word HTTP/1.0; echo) | nc api 18945 | tail -n 1; (echo GET /count HTTP/1.0; echo) | nc api 18945; echo over; exec sleep 1000"
networks:
  default: {internal: true}
"#;
    stack.project.write("compose.yaml", &compose.replace("BB", BB));
    stack.start();
    let project = &stack.project;
    let said = || project.logs("all");
    until("the connection goes on", || said().len() > 4);
    assert_eq!(said()[..2], ["it | http://api:18945", "it | api-1"]);
    let before = stack.ambassadors();
    assert_eq!(before.len(), 1, "{before:?}");
    assert!(before[0].ends_with("_default"), "{before:?}");
    let shown = project.ok(&["network", "show"]).stdout;
    assert!(shown.contains("api:18945"), "{shown}");
    // The daemon is killed and comes back: the same ambassador, the same connection.
    let count = said().len();
    kill(project.daemon_pid(), "KILL");
    until("it goes on without a daemon", || said().len() > count + 5);
    project.ok(&["start"]);
    assert_eq!(stack.ambassadors(), before);
    let count = said().len();
    until("it goes on with another one", || said().len() > count + 5);
    let lines = said();
    let connection = |line: &String| line.split_whitespace().nth(2).unwrap().to_owned();
    assert_eq!(connection(&lines[2]), connection(&lines[lines.len() - 1]));
    // One that is removed by others is made anew, and so is one that dies. What it carried ends with it.
    let it = stack
        .docker
        .output(&[
            "ps",
            "-q",
            "--filter",
            &format!("name={}", stack.id()),
            "--filter",
            "label=com.docker.compose.service=it",
        ])
        .unwrap();
    let word = || {
        stack.docker.output(&[
            "exec",
            &it,
            "sh",
            "-c",
            "(echo GET /word HTTP/1.0; echo) | nc -w 5 api 18945 | tail -n 1",
        ])
    };
    let id = before[0].split_whitespace().next().unwrap();
    stack.docker.output(&["rm", "-f", id]).unwrap();
    until("another one stands there", || word().is_ok_and(|said| said == "api-1"));
    let pid = |id: &str| stack.docker.output(&["inspect", "--format", "{{.State.Pid}}", id]).unwrap();
    let after = stack.ambassadors();
    assert_ne!(after, before);
    let id = after[0].split_whitespace().next().unwrap();
    let first = pid(id);
    kill(first.parse().unwrap(), "KILL");
    until("it is started again", || !["0", first.as_str()].contains(&pid(id).as_str()));
    until("it stands there again", || word().is_ok_and(|said| said == "api-1"));
    // Neither is a data plane missed for long.
    let planes = project.data_planes();
    kill(planes[0], "KILL");
    until("the next data plane has its sockets", || {
        project.data_planes() != planes && word().is_ok_and(|said| said == "api-1")
    });
    project.ok(&["network", "down", "-y"]);
    until("they are taken away", || stack.ambassadors().is_empty());
    project.ok(&["start"]);
    until("they are there again", || word().is_ok_and(|said| said == "api-1"));
    project.ok(&["stop", "-y"]);
    stack.assert_gone();
}

#[test]
fn a_container_reaches_processes_by_their_names_at_their_own_ports() {
    let services = format!(
        "services:
  one: {{type: process, command: {}, ports: [18946], health_check: {{tcp: '${{self.port}}', interval: 1s}}}}
  two: {{type: process, command: {}, ports: [{{port: 18947, address: 127.0.0.2}}], health_check: {{tcp: {{host: 127.0.0.2, port: 18947}}, interval: 1s}}}}
  many: {{type: process, command: {}, replicas: 2, ports: [auto], health_check: {{tcp: '${{self.port}}', interval: 1s}}}}
  it:
    type: docker
    image: BB
    init: true
    names: ambassador
    dependencies: {{one: {{condition: healthy}}, two: {{condition: healthy}}, many: {{condition: healthy}}}}
    command: [sh, -c, 'CALL() {{ (echo GET /word HTTP/1.0; echo) | nc $1 $2 | tail -n 1; }}; CALL one 18946; CALL $TWO_HOST $TWO_PORT; CALL ${{many.host}} ${{many.port}}; exec sleep 1000']
",
        api("127.0.0.1"),
        api("127.0.0.2"),
        api("127.0.0.1"),
    );
    let stack = Stack::new(require!(Docker::here()), "ambassadors", &services);
    stack.start();
    let project = &stack.project;
    until("all has been said", || project.logs("it").len() == 3);
    let said = project.logs("it");
    assert_eq!(said[..2], ["one-1", "two-1"]);
    assert!(said[2].starts_with("many-"), "{said:?}");
    assert_eq!(stack.ambassadors().len(), 3, "one for each");
    for of in stack.ambassadors() {
        let id = of.split_whitespace().next().unwrap();
        let format = "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{range .Mounts}}{{.RW}}{{end}}";
        let confined = stack.docker.output(&["inspect", "--format", format, id]).unwrap();
        assert!(confined.starts_with("true [ALL] [no-new-privileges"), "{confined}");
        assert!(!confined.split_whitespace().last().unwrap().contains("true"), "{confined}");
    }
    // Nobody needs them any more: they go, also where the daemon was killed meanwhile.
    project.ok(&["stop", "it"]);
    until("they are taken away", || stack.ambassadors().is_empty());
    project.ok(&["start"]);
    assert_eq!(stack.ambassadors().len(), 3);
    kill(project.daemon_pid(), "KILL");
    stack.docker.output(&["rm", "-f", &stack.container("it-1")]).unwrap();
    project.write_services(&services.replace("BB", BB).replace("names: ambassador", "names: env"));
    project.ok(&["start", "--apply"]);
    until("nobody needs them", || stack.ambassadors().is_empty());
    project.ok(&["stop", "-y"]);
    stack.assert_gone();
}
