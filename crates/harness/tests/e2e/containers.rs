//! Containers and Compose services of this machine's engine, beside processes, in one graph.

use crate::support::{Project, kill, until};
use serde_json::Value;
use test_hosts::{BB, Docker, Scope, require};

/// A project with containers: whatever becomes of the test, they are removed.
pub(crate) struct Stack {
    pub(crate) project: Project,
    pub(crate) docker: Docker,
    pub(crate) scope: Scope,
}

impl Stack {
    pub(crate) fn new(docker: Docker, test: &str, services: &str) -> Self {
        let scope = docker.scope(test).unwrap();
        let project = Project::new(&services.replace("BB", BB));
        Self { project, docker, scope }
    }

    /// Starts it, and knows from then on whose its containers are.
    #[track_caller]
    pub(crate) fn start(&self) {
        let done = self.project.run(&["start"]);
        let id = self.id();
        self.scope.also(&format!("harness.project={id}")).unwrap();
        assert_eq!(done.code, 0, "{}", done.stderr);
    }

    pub(crate) fn id(&self) -> String {
        self.project.state_dir().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// The containers of the project that there are, by name.
    fn containers(&self) -> Vec<String> {
        let label = format!("label=harness.project={}", self.id());
        let listed =
            self.docker.output(&["ps", "--all", "--filter", &label, "--format", "{{.Names}}"]).unwrap();
        let mut names: Vec<String> = listed.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    pub(crate) fn container(&self, instance: &str) -> String {
        format!("{}-{instance}", self.id())
    }

    /// Nothing of the project is left in the engine.
    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        assert_eq!(self.containers(), Vec::<String>::new());
        let network = format!("harness-{}", self.id());
        assert!(self.docker.output(&["network", "inspect", &network]).is_err(), "{network} is left");
    }
}

/// `trap` so that a shell as the first process of a container heeds SIGTERM.
const WEB: &str = r#"
services:
  db:
    type: docker
    image: BB
    command: [sh, -c, "mkdir -p /www; echo content > /www/index.html; echo listening; exec httpd -f -p 5432 -h /www"]
    init: true
    ports: ["auto:5432"]
    env: {WORD: hush, PATH: /bin}
    health_check:
      command: [wget, -q, -O, /dev/null, "http://127.0.0.1:5432/"]
  beside:
    type: docker
    image: BB
    init: true
    command: [sh, -c, "wget -q -O - ${db.url}/ && wget -q -O - http://db:${db.port}/ && echo at ${db.ip}:${db.port}; exec sleep 1000"]
    dependencies: [db]
  outside:
    type: process
    command: [sh, -c, "echo ${db.url} $DB_ADDR; exec sleep 1000"]
"#;

#[test]
fn a_container_a_process_and_a_container_beside_it_reach_each_other() {
    let stack = Stack::new(require!(Docker::here()), "reach each other", WEB);
    stack.start();
    let project = &stack.project;
    let db = project.instance("db-1");
    assert_eq!((db["state"].as_str(), db["health"]["status"].as_str()), (Some("running"), Some("healthy")));
    let port = db["endpoints"][0]["port"].as_u64().unwrap();
    until("all has been said", || project.logs("beside").len() == 3 && project.logs("outside").len() == 1);
    let beside = project.logs("beside");
    assert_eq!(beside[..2], ["content", "content"], "by address, and by name");
    assert!(beside[2].ends_with(":5432") && !beside[2].contains("127.0.0.1"), "{beside:?}");
    assert_eq!(project.logs("outside"), [format!("http://127.0.0.1:{port} 127.0.0.1:{port}")]);
    // In the container, with what it was given and the exit code passed on.
    let exec = project.run(&["exec", "db", "--", "sh", "-c", "echo $WORD $HARNESS_INSTANCE; exit 7"]);
    assert_eq!((exec.code, exec.stdout.as_str()), (7, "hush db-1\n"), "{}", exec.stderr);
    project.ok(&["stop"]);
    stack.assert_gone();
    assert_eq!(project.logs("db"), ["listening"], "what it said is kept");
}

#[test]
fn a_container_reaches_a_process_by_its_name() {
    let services = r#"services:
  api: {type: process, command: [python3, -m, http.server, --bind, 127.0.0.1, '${self.port}'], ports: [auto], health_check: {tcp: '${self.port}'}}
  ext: {type: attach, external: {host: 10.9.8.7, port: 80}}
  it:
    type: docker
    image: BB
    init: true
    dependencies: {api: {condition: healthy}, ext: {condition: started}}
    command: [sh, -c, 'wget -q -O - http://api:${api.port}/word && echo && echo ${api.host} $API_HOST && grep ext /etc/hosts; exec sleep 1000']
"#;
    let stack = Stack::new(require!(Docker::here()), "names", services);
    std::fs::write(stack.project.path().join("word"), "hush").unwrap();
    stack.start();
    until("it has told", || stack.project.logs("it").len() == 3);
    let said = stack.project.logs("it");
    assert_eq!(said[..2], ["hush", "api api"]);
    assert_eq!(said[2].split_whitespace().collect::<Vec<_>>(), ["10.9.8.7", "ext"]);
    stack.project.ok(&["stop", "-y"]);
    stack.assert_gone();
}

#[test]
fn a_secret_of_a_container_is_in_no_arguments_and_no_file_that_others_read() {
    let services = "services:\n  it: {type: docker, image: BB, init: true, command: [sleep, '1000'], env: {TOKEN: xyzzy-1}}\n";
    let stack = Stack::new(require!(Docker::here()), "no arguments", services);
    stack.start();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let argv = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&argv);
        // This test's own runner may show its source.
        assert!(!text.contains("TOKEN=xyzzy-1"), "{text}");
    }
    let env = stack.project.ok(&["exec", "it", "--", "sh", "-c", "echo $TOKEN"]);
    assert_eq!(env.stdout, "xyzzy-1\n");
    let status = stack.project.ok(&["status", "-o", "json"]).stdout;
    assert!(!status.contains("xyzzy"), "{status}");
}

#[test]
fn a_killed_daemon_finds_its_containers_again_and_what_became_of_them() {
    let services = "services:
  stays: {type: docker, image: BB, init: true, command: [sh, -c, 'echo up; exec sleep 1000']}
  goes: {type: docker, image: BB, init: true, restart: no, command: [sh, -c, 'echo up; exec sleep 1000']}
  comes: {type: docker, image: BB, init: true, command: [sh, -c, 'echo up; exec sleep 1000']}
";
    let stack = Stack::new(require!(Docker::here()), "killed daemon", services);
    stack.start();
    let project = &stack.project;
    let pid = project.pid("stays-1");
    kill(project.daemon_pid(), "KILL");
    let offline = project.run(&["status", "-o", "json"]);
    assert!(offline.stdout.contains("stays-1"), "without a daemon too: {}", offline.stdout);
    for instance in ["goes-1", "comes-1"] {
        stack.docker.output(&["kill", &stack.container(instance)]).unwrap();
    }
    project.ok(&["start", "stays"]);
    assert_eq!(project.pid("stays-1"), pid, "the same process");
    until("the killed one is started again", || project.state("comes-1") == "running");
    let gone = project.instance("goes-1");
    assert_eq!(
        (gone["state"].as_str(), gone["exit"]["code"].as_i64()),
        (Some("failed"), Some(137)),
        "{gone:#}"
    );
    assert_eq!(
        stack.containers().len(),
        2,
        "each once, and the ended one is saved: {:?}",
        stack.containers()
    );
    assert_eq!(project.logs("goes"), ["up"]);
    assert_eq!(project.logs("comes"), ["up", "up"], "of both of its runs");
}

#[test]
fn what_was_a_container_is_ended_before_it_is_something_else_also_by_another_daemon() {
    let container = "services:
  it: {type: docker, image: BB, init: true, shutdown_timeout: 3s, command: [sh, -c, 'trap : TERM; echo up; while :; do sleep 1; done']}
";
    let stack = Stack::new(require!(Docker::here()), "another kind", container);
    let project = &stack.project;
    stack.start();
    let runs = || {
        let name = stack.container("it-1");
        stack
            .docker
            .output(&["inspect", "--format", "{{.State.Running}}", &name])
            .is_ok_and(|is| is.trim() == "true")
    };
    assert!(runs());
    project.write_services("services:\n  it: {type: process, command: [sleep, '1000']}\n");
    project.ok(&["start", "--apply", "--no-wait"]);
    // It takes its three seconds, in which the daemon dies.
    kill(project.daemon_pid(), "KILL");
    assert!(runs());
    project.ok(&["start"]);
    assert_eq!(project.state("it-1"), "running");
    assert!(!runs(), "two copies");
}

#[test]
fn what_happens_to_a_container_from_outside_is_seen() {
    let services = "services:
  it: {type: docker, image: BB, init: true, command: [sleep, '1000'], restart: no}
  hungry: {type: docker, image: BB, restart: no, resources: {memory: 16M},
    command: [sh, -c, 'sleep 0.3; x=a; while true; do x=$x$x; done']}
";
    let stack = Stack::new(require!(Docker::here()), "from outside", services);
    stack.start();
    let project = &stack.project;
    stack.docker.output(&["rm", "--force", &stack.container("it-1")]).unwrap();
    until("it is known to be gone", || project.state("it-1") == "failed");
    until("the hungry one has ended", || project.state("hungry-1") == "failed");
    let hungry = project.instance("hungry-1");
    // Where the kernel has no swap accounting docker may not call it that; then its code says it was killed.
    let exit = &hungry["exit"];
    assert!(exit["out_of_memory"] == true || exit["code"] == 137, "{hungry:#}");
}

#[test]
fn the_image_s_own_health_check_gates_what_needs_it() {
    let docker = require!(Docker::here());
    let scope = docker.scope("own health").unwrap();
    let context = scope.folder().join("image");
    std::fs::create_dir(&context).unwrap();
    let file = format!(
        "FROM {BB}\nHEALTHCHECK --interval=300ms --timeout=5s --retries=2 CMD test -e /tmp/ok || {{ echo not yet; exit 1; }}\n\
         CMD [\"sh\", \"-c\", \"mkdir -p /tmp; sleep 1; touch /tmp/ok; exec sleep 1000\"]\n"
    );
    std::fs::write(context.join("Dockerfile"), file).unwrap();
    let image = scope.name("image");
    let mut build = docker.command();
    build.env("DOCKER_BUILDKIT", "0").args(["build", "--quiet", "--tag", &image]).arg(&context);
    assert!(build.status().unwrap().success());
    let services = format!(
        "services:\n  db: {{type: docker, image: {image}, init: true}}\n  web: {{type: process, command: [sleep, '1000'], dependencies: {{db: {{condition: healthy}}}}}}\n"
    );
    let stack = Stack::new(docker, "own health, the stack", &services);
    stack.start();
    let project = &stack.project;
    let health = || project.instance("db-1")["health"]["status"].as_str().unwrap().to_owned();
    assert_eq!(health(), "healthy");
    // It is known to the next daemon too, though docker tells only changes.
    kill(project.daemon_pid(), "KILL");
    project.ok(&["start", "web"]);
    until("a new daemon knows it", || health() == "healthy");
    project.ok(&["exec", "db", "--", "rm", "/tmp/ok"]);
    until("it is unhealthy", || health() == "unhealthy");
    project.ok(&["stop"]);
    let _ = stack.docker.output(&["image", "rm", &image]);
}

#[test]
fn failures_name_the_cause_and_leave_the_rest_alone() {
    let services = "services:
  fine: {type: docker, image: BB, init: true, command: [sleep, '1000']}
  missing: {type: docker, image: 'BB:there-is-none', pull: never, restart: no}
  unknown: {type: docker, image: BB, command: [no-such-program], restart: no}
  mount: {type: docker, image: BB, command: [true], volumes: ['/proc/no/such/place:/x'], restart: no}
";
    let stack = Stack::new(require!(Docker::here()), "failures", services);
    let done = stack.project.run(&["start"]);
    stack.scope.also(&format!("harness.project={}", stack.id())).unwrap();
    assert_eq!(done.code, 3, "{}", done.stderr);
    for said in ["there is no image", "no program no-such-program", "mount failed"] {
        assert!(done.stderr.contains(said), "{said}: {}", done.stderr);
    }
    assert_eq!(stack.project.state("fine-1"), "running");
    assert_eq!(stack.containers(), [stack.container("fine-1")], "nothing half made is left");
}

#[test]
fn a_container_that_is_not_ours_keeps_its_name() {
    let services =
        "services:\n  it: {type: docker, image: BB, init: true, command: [sleep, '1000'], restart: no}\n";
    let stack = Stack::new(require!(Docker::here()), "not ours", services);
    // The first start tells the project's id.
    stack.start();
    stack.project.ok(&["stop"]);
    let name = stack.container("it-1");
    let taken = stack.scope.run(&["--name", &name, BB, "sleep", "1000"]).unwrap();
    let done = stack.project.run(&["start"]);
    assert_eq!(done.code, 3, "{}", done.stderr);
    assert!(done.stderr.contains("is taken by container"), "{}", done.stderr);
    let state = stack.docker.output(&["inspect", "--format", "{{.State.Status}}", &taken]).unwrap();
    assert_eq!(state, "running", "it was touched");
}

#[test]
fn one_stream_of_events_serves_all_containers_and_no_process_each() {
    let mut services = String::from("services:\n");
    for number in 0..10 {
        services.push_str(&format!(
            "  s{number}: {{type: docker, image: BB, init: true, command: [sleep, '1000']}}\n"
        ));
    }
    let stack = Stack::new(require!(Docker::here()), "one stream", &services);
    stack.start();
    let daemon = stack.project.daemon_pid();
    let children = std::fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "{children}");
}

#[test]
fn logs_are_followed_from_one_container_to_the_next() {
    let services = "services:\n  it: {type: docker, image: BB, init: true, command: [sh, -c, 'echo up as $HOSTNAME; exec sleep 1000']}\n";
    let stack = Stack::new(require!(Docker::here()), "followed", services);
    stack.start();
    let project = &stack.project;
    let output = project.path().join("followed");
    let mut follow = project.command(&["logs", "-f", "--no-prefix", "it"]);
    let mut follow = follow.stdout(std::fs::File::create(&output).unwrap()).spawn().unwrap();
    let lines = || std::fs::read_to_string(&output).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    until("the first has been heard", || lines().len() == 1);
    project.ok(&["restart", "it"]);
    until("the second has been heard", || lines().len() == 2);
    project.ok(&["stop"]);
    let all = lines();
    kill(follow.id(), "TERM");
    follow.wait().unwrap();
    assert_eq!(all, project.logs("it"), "the same as what is kept");
    assert_ne!(all[0], all[1]);
}

/// Compose's file and what harness says of it.
const COMPOSE: &str = r#"
version: "3.7"
services:
  cache:
    image: BB
    init: true
    command: sh -c "echo cache of $$WHO; mkdir -p /w; echo cached > /w/index.html; exec httpd -f -p 6379 -h /w"
    environment: {WHO: "${WHO:-nobody}"}
  other:
    image: BB
    init: true
    command: sh -c "echo other; exec sleep 1000"
"#;

pub(crate) fn has_compose(docker: &Docker) -> bool {
    let plugin = docker.output(&["compose", "version"]).is_ok();
    plugin
        || std::process::Command::new("docker-compose")
            .arg("version")
            .output()
            .is_ok_and(|o| o.status.success())
}

#[test]
fn a_service_of_a_compose_file_is_one_of_the_stack() {
    let docker = require!(Docker::here());
    assert!(has_compose(&docker) || !test_hosts::in_ci(), "Compose has to be here in CI");
    if !has_compose(&docker) {
        eprintln!("skipped: neither docker compose nor docker-compose is here");
        return;
    }
    let services = "services:
  cache: {type: compose, file: compose.yaml, service: cache, env: {WHO: us}, shutdown_timeout: 2s}
  beside: {type: docker, image: BB, init: true, dependencies: [cache],
    command: [sh, -c, 'wget -q -O - http://${cache.host}:6379/; wget -q -O - http://${cache.ip}:6379/; exec sleep 1000']}
";
    let stack = Stack::new(docker, "compose service", services);
    stack.project.write("compose.yaml", &COMPOSE.replace("BB", BB));
    stack.start();
    let project = &stack.project;
    until("all has been said", || project.logs("beside").len() == 2);
    assert_eq!(project.logs("beside"), ["cached", "cached"]);
    assert_eq!(project.logs("cache"), ["cache of us"]);
    assert_eq!(project.ok(&["exec", "cache", "--", "cat", "/w/index.html"]).stdout, "cached\n");
    let of_compose = |all: bool| {
        let filter = format!("name={}", stack.id());
        let mut words = vec!["ps", "--filter", &filter, "--filter", "label=com.docker.compose.project", "-q"];
        words.extend(all.then_some("--all"));
        stack.docker.output(&words).unwrap().lines().count()
    };
    assert_eq!(of_compose(false), 1, "only the service that was named");
    kill(project.daemon_pid(), "KILL");
    let before = project.run(&["exec", "cache", "--", "hostname"]).stdout;
    project.ok(&["start", "beside"]);
    assert_eq!(project.ok(&["exec", "cache", "--", "hostname"]).stdout, before, "found again");
    project.ok(&["stop"]);
    assert_eq!(of_compose(true), 0);
    assert_eq!(project.logs("cache"), ["cache of us"], "what it said is kept");
    stack.assert_gone();
}

#[test]
fn a_whole_compose_file_is_one_unit() {
    let docker = require!(Docker::here());
    if !has_compose(&docker) {
        assert!(!test_hosts::in_ci(), "Compose has to be here in CI");
        eprintln!("skipped: neither docker compose nor docker-compose is here");
        return;
    }
    let stack = Stack::new(
        docker,
        "compose file",
        "services:\n  all: {type: compose, file: compose.yaml, shutdown_timeout: 2s, restart: no}\n",
    );
    stack.project.write("compose.yaml", &COMPOSE.replace("BB", BB));
    stack.start();
    let project = &stack.project;
    let said = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort();
        lines == ["cache | cache of nobody", "other | other"]
    };
    until("all has been said", || said(&project.logs("all")));
    let of = |service: &str| {
        let label = format!("label=com.docker.compose.service={service}");
        let name = format!("name={}", stack.id());
        stack.docker.output(&["ps", "-q", "--filter", &label, "--filter", &name]).unwrap()
    };
    stack.docker.output(&["kill", &of("other")]).unwrap();
    assert_eq!(project.state("all-1"), "running", "while one of them runs");
    stack.docker.output(&["kill", &of("cache")]).unwrap();
    until("all of it has ended", || project.state("all-1") == "failed");
    assert!(said(&project.logs("all")));
    project.ok(&["stop"]);
    stack.assert_gone();
}

#[test]
fn what_others_started_is_joined_and_left_running() {
    let docker = require!(Docker::here());
    let scope = docker.scope("joined").unwrap();
    let name = scope.name("theirs");
    let theirs =
        scope.run(&["--name", &name, "--init", BB, "sh", "-c", "echo theirs; exec sleep 1000"]).unwrap();
    let services = format!(
        "services:\n  it: {{type: attach, container: {name}}}\n  far: {{type: attach, external: {{host: db.example.com, port: 5432}}}}\n  \
         web: {{type: process, command: [sh, -c, 'echo ${{far.host}}:${{far.port}}; exec sleep 1000'], dependencies: [it]}}\n"
    );
    let stack = Stack::new(docker, "joined, the stack", &services);
    stack.start();
    let project = &stack.project;
    assert_eq!(project.state("it-1"), "running");
    until("the process has said it", || project.logs("web").len() == 1);
    assert_eq!(project.logs("web"), ["db.example.com:5432"]);
    assert_eq!(project.logs("it"), ["theirs"]);
    assert_eq!(project.ok(&["exec", "it", "--", "echo", "inside"]).stdout, "inside\n");
    stack.docker.output(&["stop", "-t", "1", &theirs]).unwrap();
    until("its end is seen", || project.state("it-1") != "running");
    stack.docker.output(&["start", &theirs]).unwrap();
    until("it is joined again", || project.state("it-1") == "running");
    project.ok(&["stop"]);
    let state = stack.docker.output(&["inspect", "--format", "{{.State.Status}}", &theirs]).unwrap();
    assert_eq!(state, "running", "what others started is theirs to stop");
}

#[test]
fn a_volume_outlives_its_container_and_belongs_to_the_project() {
    let services = "services:\n  it: {type: docker, image: BB, init: true, volumes: ['data:/data'], command: [sh, -c, 'echo x >> /data/f; wc -l < /data/f; exec sleep 1000']}\n";
    let stack = Stack::new(require!(Docker::here()), "volume", services);
    stack.start();
    stack.project.ok(&["restart", "it"]);
    until("both have said it", || stack.project.logs("it").len() == 2);
    assert_eq!(stack.project.logs("it"), ["1", "2"]);
    stack.project.ok(&["stop"]);
    let volume = "test_data";
    assert_eq!(stack.docker.output(&["volume", "ls", "-q", "--filter", "name=^test_data$"]).unwrap(), volume);
    stack.docker.output(&["volume", "rm", volume]).unwrap();
}

#[test]
fn status_tells_what_carries_it_out() {
    let services = "services:\n  it: {type: docker, image: BB, init: true, command: [sleep, '1000']}\n";
    let stack = Stack::new(require!(Docker::here()), "status", services);
    stack.start();
    let list: Value = stack.project.json(&["status"]);
    let it = &list["instances"][0];
    assert_eq!(it["execution"]["kind"], "container", "{it:#}");
    assert_eq!(it["execution"]["image"], BB);
}

#[test]
fn what_has_commands_of_its_own_is_steered_by_them() {
    let project = Project::new(
        "services:
  it:
    type: attach
    env: {WORD: hush}
    managed:
      start: [sh, -c, 'echo started $WORD >> log; touch up']
      stop: [sh, -c, 'echo stopped >> log; rm up']
      status: [test, -e, up]
      logs: [cat, log]
",
    );
    project.ok(&["start"]);
    assert_eq!(project.state("it-1"), "running");
    assert_eq!(project.logs("it"), ["started hush"]);
    std::fs::remove_file(project.path().join("up")).unwrap();
    until("it is started again", || {
        project.read("log").lines().count() == 2 && project.state("it-1") == "running"
    });
    project.ok(&["stop"]);
    assert_eq!(project.read("log"), "started hush\nstarted hush\nstopped\n");
    assert!(!project.path().join("up").exists());
}

#[test]
fn a_check_that_hangs_in_a_container_leaves_nothing_there() {
    let services = "services:
  it:
    type: docker
    image: BB
    init: true
    command: [sleep, '1000']
    health_check: {command: [sh, -c, 'sleep 777 & sleep 777'], timeout: 300ms, interval: 100ms, start_interval: 100ms}
";
    let stack = Stack::new(require!(Docker::here()), "hanging check", services);
    let done = stack.project.run(&["start", "--timeout", "2s"]);
    stack.scope.also(&format!("harness.project={}", stack.id())).unwrap();
    assert_eq!(done.code, 5, "{}", done.stderr);
    let hanging = || {
        let listed = stack.docker.output(&["top", &stack.container("it-1")]).unwrap();
        listed.lines().filter(|line| line.contains("sleep 777")).count()
    };
    // Of several that have timed out by now, at most the one that is under way is there.
    until("those that timed out are gone", || hanging() <= 2);
    assert!(
        stack.project.instance("it-1")["health"]["last"]["message"]
            .as_str()
            .unwrap()
            .contains("no answer within")
    );
}

#[test]
fn a_container_without_a_shell_is_checked_too() {
    let services = format!(
        "services:\n  it: {{type: docker, image: {}, ports: ['auto:8080'], health_check: {{command: [/true]}}}}\n",
        test_hosts::BARE
    );
    let stack = Stack::new(require!(Docker::here()), "no shell", &services);
    stack.start();
    assert_eq!(stack.project.instance("it-1")["health"]["status"], "healthy");
}

#[test]
fn an_image_is_pulled_with_its_progress_and_a_failure_says_whose_fault_it_is() {
    let docker = require!(Docker::here());
    let scope = docker.scope("pull").unwrap();
    // With a layer that isn't here any more when it is pulled.
    let (saved, context, made) =
        (scope.folder().join("image.tar"), scope.folder().join("made"), scope.name("made"));
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("layer"), &made).unwrap();
    std::fs::write(context.join("Dockerfile"), format!("FROM {BB}\nCOPY layer /layer\n")).unwrap();
    let mut build = docker.command();
    build.env("DOCKER_BUILDKIT", "0").args(["build", "--quiet", "--tag", &made]).arg(&context);
    assert!(build.status().unwrap().success());
    docker.output(&["save", "--output", saved.to_str().unwrap(), &made]).unwrap();
    docker.output(&["image", "rm", &made]).unwrap();
    let port_file = scope.folder().join("port");
    let mut registry = std::process::Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/fixtures/registry.py"))
        .args([saved.as_path(), "pulled".as_ref(), &port_file])
        .spawn()
        .unwrap();
    until("the registry listens", || port_file.exists());
    let port = std::fs::read_to_string(&port_file).unwrap().trim().to_owned();
    let image = format!("127.0.0.1:{port}/pulled");
    let services = format!(
        "services:\n  it: {{type: docker, image: '{image}', init: true, command: [sleep, '1000']}}\n  \
         none: {{type: docker, image: '127.0.0.1:{port}/there-is-none', restart: no}}\n"
    );
    let stack = Stack::new(docker, "pull, the stack", &services);
    let done = stack.project.run(&["start"]);
    stack.scope.also(&format!("harness.project={}", stack.id())).unwrap();
    registry.kill().unwrap();
    registry.wait().unwrap();
    assert_eq!(done.code, 3, "{}", done.stderr);
    assert!(done.stderr.contains(&format!("it: pulling {image}")), "{}", done.stderr);
    assert!(done.stderr.contains(" of 2 layers"), "{}", done.stderr);
    assert!(done.stderr.contains("there-is-none"), "{}", done.stderr);
    assert_eq!(stack.project.state("it-1"), "running");
    let none = stack.project.instance("none-1");
    assert!(none["reason"]["message"].as_str().unwrap().contains("can't pull"), "{none:#}");
    // Once more: it is here now, and the registry isn't.
    stack.project.ok(&["restart", "it"]);
    stack.project.ok(&["stop"]);
    let _ = stack.docker.output(&["image", "rm", &image]);
}

#[test]
fn a_port_that_nobody_listens_on_in_the_container_is_not_healthy() {
    let services = "services:
  it: {type: docker, image: BB, init: true, ports: ['auto:5432'], command: [sleep, '1000'], health_check: {tcp: '${self.port}'}}
";
    let stack = Stack::new(require!(Docker::here()), "nobody listens", services);
    let done = stack.project.run(&["start", "--timeout", "2s"]);
    stack.scope.also(&format!("harness.project={}", stack.id())).unwrap();
    assert_eq!(done.code, 5, "the engine's proxy accepts for it: {}", done.stderr);
    // And once somebody does, it is.
    stack.project.ok(&["exec", "it", "--", "httpd", "-p", "5432"]);
    until("it is healthy", || stack.project.instance("it-1")["health"]["status"] == "healthy");
}

#[test]
fn a_command_is_never_run_on_this_machine_instead_of_a_container() {
    let services = "services:\n  it: {type: docker, image: BB, pull: never, command: [no-such-program]}\n";
    let stack = Stack::new(require!(Docker::here()), "instead", services);
    stack.project.run(&["start"]);
    stack.scope.also(&format!("harness.project={}", stack.id())).unwrap();
    let done = stack.project.run(&["exec", "it", "--", "sh", "-c", "touch here"]);
    assert_ne!(done.code, 0, "{}", done.stdout);
    assert!(!stack.project.path().join("here").exists());
}
