//! Containers of real engines: docker of this machine, of older and newer hosts, and podman's docker command.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests are tests")]

mod place;

use command_executor::attacher::{AttachError, AttachStatus, Attacher, ContainerAttacher};
use command_executor::command::{Command, Stdin};
use command_executor::event::ProcessEvent;
use command_executor::executor::Finished;
use command_executor::log::Stream;
use command_executor::process::Exit;
use command_executor::target::docker::{
    Container, ContainerAction, ContainerEvent, ContainerExec, ContainerLog, ContainerLogLine,
    ContainerNetwork, ContainerRow, ContainerSpecError, ContainerState, ContainerStatus, Docker,
    DockerContainer, DockerError, DockerVersion, HealthStatus, ImageState, LogOptions, NetworkDefinition,
    NetworkState, PortBinding, Protocol, RemoveOptions, Volume, check, check_pull,
};
use place::{Place, here, on, on_both, on_smol, run, until};
use std::collections::BTreeMap;
use std::time::Duration;
use test_hosts::{BB, Host, Suite, require};

/// An engine with what one test makes in it, which is gone when it is dropped.
struct Engine {
    place: Place,
    docker: Docker,
    test: String,
    /// Removes what has the label.
    _clean: Box<dyn CleanUp>,
}

/// Something that cleans up.
trait CleanUp {}

/// Of this machine.
impl CleanUp for test_hosts::Scope {}

/// Of a host, which other tests use too.
struct OnHost(Host, String);

impl CleanUp for OnHost {}

impl Drop for OnHost {
    fn drop(&mut self) {
        let script = format!(
            "docker ps -q --filter label=t={0} | xargs -r docker kill; \
             docker ps -aq --filter label=t={0} | xargs -r docker rm -fv; \
             docker network ls -q --filter label=t={0} | xargs -r docker network rm; true",
            self.1
        );
        let _ = self.0.sh(&script);
    }
}

impl Engine {
    fn here(test: &str) -> Result<Self, test_hosts::Error> {
        let scope = test_hosts::Docker::here()?.scope(test)?;
        let label = format!("{test}-{}", std::process::id());
        scope.also(&format!("t={label}"))?;
        Ok(Self { place: here(), docker: Docker::new(), test: label, _clean: Box::new(scope) })
    }

    fn on(suite: Suite, test: &str) -> Result<Self, test_hosts::Error> {
        let host = Host::shared(suite)?;
        host.start_docker()?;
        host.load_bb()?;
        let label = format!("{test}-{}", std::process::id());
        let clean = OnHost(host.clone(), label.clone());
        Ok(Self { place: on(&host), docker: Docker::new(), test: label, _clean: Box::new(clean) })
    }

    fn labels(&self) -> BTreeMap<String, String> {
        [("t".to_owned(), self.test.clone())].into()
    }

    /// A container of this test that runs a script.
    fn container(&self, name: &str, script: &str) -> DockerContainer {
        let mut container = DockerContainer::new(self.docker.clone(), format!("{}-{name}", self.test), BB);
        container.labels = self.labels();
        container.command = Some(["sh", "-c", script].map(str::to_owned).to_vec());
        container
    }

    async fn try_run(&self, command: Command) -> Result<Finished, DockerError> {
        let finished = self.place.run(&command).await.unwrap();
        check(&finished).map(|()| finished)
    }

    async fn run(&self, command: Command) -> Finished {
        run(&self.place, command).await
    }

    async fn refusal(&self, container: &Container, exec: &ContainerExec) -> Option<DockerError> {
        ContainerExec::refusal(&self.place.run(&container.exec(exec).unwrap()).await.unwrap())
    }

    async fn state(&self, container: &Container) -> ContainerState {
        ContainerState::parse_one(&self.run(container.inspect()).await.stdout.bytes).unwrap()
    }

    /// Runs it to its end and returns its standard output.
    async fn output(&self, container: &DockerContainer) -> String {
        self.run(container.run().unwrap()).await;
        self.run(container.container().wait()).await;
        self.run(container.container().logs(&LogOptions::default())).await.stdout.to_text()
    }
}

/// What every engine has to do alike.
async fn a_life(engine: &Engine) {
    let web = engine
        .container("web", "trap 'echo bye; exit 7' TERM; echo up; echo bad >&2; while :; do sleep 0.1; done");
    let container = web.container();
    engine.run(web.create().unwrap()).await;
    let created = engine.state(&container).await;
    assert_eq!((created.status, created.pid, created.started_at), (ContainerStatus::Created, None, None));
    assert_eq!(created.name, web.name);
    assert!(created.image.ends_with(BB) || created.image.contains(&format!("{BB}:")), "{}", created.image);

    let before = Some(jiff::Timestamp::now());
    engine.run(container.start()).await;
    let running = engine.state(&container).await;
    assert_eq!((running.status, &running.id), (ContainerStatus::Running, &created.id));
    assert!(running.pid.is_some() && running.started_at.is_some() && running.labels["t"] == engine.test);
    engine.run(container.start()).await;
    assert_eq!(engine.state(&container).await.pid, running.pid, "a second start changes nothing");

    let label = format!("t={}", engine.test);
    let rows =
        ContainerRow::parse(&engine.run(engine.docker.list([label.as_str()])).await.stdout.bytes).unwrap();
    assert_eq!((rows.len(), &rows[0].id, rows[0].status), (1, &running.id, ContainerStatus::Running));

    let options = LogOptions { timestamps: true, ..LogOptions::default() };
    until(|| async { engine.run(container.logs(&options)).await.stdout.to_text().contains("up") }).await;
    let finished = engine.run(container.logs(&options)).await;
    let lines = log_lines(&finished.stdout.bytes);
    assert_eq!((lines.len(), lines[0].text.as_slice()), (1, &b"up"[..]));
    assert!(lines[0].time >= before, "{lines:?}");

    engine.run(container.stop(Duration::from_secs(10))).await;
    let ended = engine.state(&container).await;
    assert_eq!((ended.status, ended.exit_code, ended.pid), (ContainerStatus::Exited, 7, None));
    assert!(!ended.oom_killed && ended.error.is_none() && ended.finished_at > ended.started_at);
    let code = engine.run(container.wait()).await.stdout.bytes;
    assert_eq!(ContainerState::parse_exit(&code).unwrap(), 7);

    engine.run(container.remove(RemoveOptions::default())).await;
    let gone = engine.try_run(container.inspect()).await;
    assert!(matches!(gone, Err(DockerError::NoSuchContainer { ref name }) if *name == web.name), "{gone:?}");
}

fn log_lines(bytes: &[u8]) -> Vec<ContainerLogLine> {
    let (mut buffer, mut log) = (command_executor::event::LineBuffer::default(), ContainerLog::new());
    let mut lines = Vec::new();
    buffer.push(bytes, |line| lines.extend(log.push(&line)));
    lines.extend(buffer.finish().into_iter().flat_map(|line| log.push(&line)));
    lines.extend(log.finish());
    lines
}

/// What every engine has to refuse alike.
async fn refusals(engine: &Engine) {
    let mut nowhere = engine.container("nowhere", "true");
    nowhere.image = "harness-test/nosuch:1".into();
    let error = engine.try_run(nowhere.create().unwrap()).await.unwrap_err();
    assert!(
        matches!(&error, DockerError::NoSuchImage { image } if image == "harness-test/nosuch:1"),
        "{error:?}"
    );
    let error = engine.try_run(nowhere.image()).await.unwrap_err();
    assert!(matches!(error, DockerError::NoSuchImage { .. }), "{error:?}");

    let twice = engine.container("twice", "sleep 100");
    let id = engine.run(twice.create().unwrap()).await.stdout.to_text();
    let error = engine.try_run(twice.create().unwrap()).await.unwrap_err();
    let is_taken = |by: &str| id.trim().starts_with(by) || by == id.trim();
    assert!(
        matches!(&error, DockerError::NameInUse { name, by } if *name == twice.name && is_taken(by)),
        "{error:?}"
    );

    let missing = engine.container("missing", "");
    let mut missing = DockerContainer { command: Some(vec!["nosuch".into()]), ..missing };
    let error = engine.try_run(missing.run().unwrap()).await.unwrap_err();
    assert!(matches!(&error, DockerError::ProgramNotFound { program } if program == "nosuch"), "{error:?}");
    missing.name.push('2');
    missing.user = Some("nobody-here".into());
    let error = engine.try_run(missing.run().unwrap()).await.unwrap_err();
    assert!(matches!(&error, DockerError::NoSuchUser { user } if user == "nobody-here"), "{error:?}");

    let mut lost = engine.container("lost", "true");
    lost.network = Some(ContainerNetwork { name: "nosuch-network".into(), ..ContainerNetwork::default() });
    let error = engine.try_run(lost.run().unwrap()).await.unwrap_err();
    assert!(
        matches!(&error, DockerError::NoSuchNetwork { network } if network == "nosuch-network"),
        "{error:?}"
    );

    let container = twice.container();
    let exec = ContainerExec { argv: vec!["true".into()], ..ContainerExec::default() };
    let error = engine.refusal(&container, &exec).await.unwrap();
    assert!(matches!(error, DockerError::NotRunning { .. }), "{error:?}");
    engine.run(container.start()).await;
    let error = engine.try_run(container.remove(RemoveOptions::default())).await.unwrap_err();
    assert!(matches!(error, DockerError::Running { .. }), "{error:?}");
    assert!(engine.refusal(&container, &exec).await.is_none());
    let failing = ["sh", "-c", "echo Error: mine; exit 126"].map(str::to_owned).to_vec();
    let exec = ContainerExec { argv: failing, ..exec };
    assert!(engine.refusal(&container, &exec).await.is_none());
    let exec = ContainerExec { argv: vec!["nosuch".into()], ..exec };
    let error = engine.refusal(&container, &exec).await.unwrap();
    assert!(matches!(&error, DockerError::ProgramNotFound { program } if program == "nosuch"), "{error:?}");

    for gone in [
        engine.docker.container("nosuch-container").start(),
        engine.docker.container("nosuch-container").wait(),
    ] {
        let error = engine.try_run(gone).await.unwrap_err();
        assert!(
            matches!(&error, DockerError::NoSuchContainer { name } if name == "nosuch-container"),
            "{error:?}"
        );
    }
}

/// Lines as long as an engine cuts them, and longer.
async fn long_lines(engine: &Engine) {
    let script = "for n in 8191 8192 8193 16383 16384 16385 50000 70000; do head -c $n /dev/zero | tr '\\0' x; echo; done; \
                  printf unfinished";
    let writer = engine.container("writer", script);
    engine.run(writer.run().unwrap()).await;
    engine.run(writer.container().wait()).await;
    let options = LogOptions { timestamps: true, ..LogOptions::default() };
    let finished = engine.run(writer.container().logs(&options)).await;
    let lines = log_lines(&finished.stdout.bytes);
    let mut lengths = Vec::new();
    let mut length = 0;
    for line in &lines {
        length += line.text.len();
        assert!(
            line.time.is_some() && (line.text.iter().all(|byte| *byte == b'x') || line.text == b"unfinished")
        );
        if line.complete {
            lengths.push(std::mem::take(&mut length));
        }
    }
    assert_eq!(lengths, [8191, 8192, 8193, 16383, 16384, 16385, 50000, 70000]);
    assert_eq!(lines.last().unwrap().text, b"unfinished");
}

#[test]
fn a_container_lives_and_is_known() {
    let engine = require!(Engine::here("life"));
    on_both(|| a_life(&engine));
}

#[test]
fn a_container_lives_on_docker_20() {
    let engine = require!(Engine::on(Suite::Bookworm, "life"));
    on_smol(async {
        a_life(&engine).await;
    });
}

#[test]
fn a_container_lives_on_docker_26() {
    let engine = require!(Engine::on(Suite::Trixie, "life"));
    on_smol(async {
        a_life(&engine).await;
    });
}

#[test]
fn a_container_lives_on_podman() {
    let engine = require!(Engine::on(Suite::Podman, "life"));
    on_smol(async {
        a_life(&engine).await;
    });
}

#[test]
fn what_docker_refuses_is_typed() {
    let engine = require!(Engine::here("refusals"));
    on_smol(async {
        refusals(&engine).await;
    });
}

#[test]
fn what_docker_20_refuses_is_typed() {
    let engine = require!(Engine::on(Suite::Bookworm, "refusals"));
    on_smol(async {
        refusals(&engine).await;
    });
}

#[test]
fn what_docker_26_refuses_is_typed() {
    let engine = require!(Engine::on(Suite::Trixie, "refusals"));
    on_smol(async {
        refusals(&engine).await;
    });
}

#[test]
fn what_podman_refuses_is_typed() {
    let engine = require!(Engine::on(Suite::Podman, "refusals"));
    on_smol(async {
        refusals(&engine).await;
    });
}

#[test]
fn long_lines_come_whole() {
    let engine = require!(Engine::here("long"));
    on_smol(async {
        long_lines(&engine).await;
    });
}

#[test]
fn long_lines_come_whole_from_docker_26() {
    let engine = require!(Engine::on(Suite::Trixie, "long"));
    on_smol(async {
        long_lines(&engine).await;
    });
}

#[test]
fn long_lines_come_whole_from_podman() {
    let engine = require!(Engine::on(Suite::Podman, "long"));
    on_smol(async {
        long_lines(&engine).await;
    });
}

#[test]
fn versions_are_told() {
    let table =
        [(Suite::Bookworm, "20.10", false), (Suite::Trixie, "26.1", false), (Suite::Podman, "4.3", true)];
    for (suite, version, is_podman) in table {
        let engine = require!(Engine::on(suite, "version"));
        on_smol(async {
            let told = DockerVersion::parse(&engine.run(engine.docker.version()).await.stdout.bytes).unwrap();
            assert!(told.client.starts_with(version) && told.is_podman == is_podman, "{told:?}");
            assert_eq!(told.engine.is_some(), !is_podman);
        });
    }
}

#[test]
fn everything_wanted_of_a_container_arrives() {
    let engine = require!(Engine::here("arrives"));
    on_smol(async {
        let scope = test_hosts::Docker::here().unwrap().scope("arrives-folder").unwrap();
        std::fs::write(scope.folder().join("file"), "mounted").unwrap();
        let script = r#"echo "$A|$HOME|$DOCKER_HOST|$http_proxy"; id -u; id -g; pwd; cat /data/file; echo; ulimit -n
            touch /data/x 2>/dev/null || echo read-only; cat /proc/1/comm; grep -c other.test /etc/hosts"#;
        let mut full = engine.container("full", script);
        full.entrypoint = Some(vec!["sh".into(), "-c".into()]);
        full.command = Some(vec![script.into()]);
        let env = [
            ("A", "two\nlines 'and' \"quotes\" $X"),
            ("HOME", "/home=x"),
            ("DOCKER_HOST", "tcp://nowhere:1"),
            ("http_proxy", "p"),
        ];
        full.env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        full.volumes =
            vec![Volume { read_only: true, ..Volume::new(scope.folder().to_str().unwrap(), "/data") }];
        (full.user, full.group, full.working_dir) =
            (Some("1234".into()), Some("567".into()), Some("/bin".into()));
        (full.open_files, full.init) = (Some(777), true);
        (full.memory, full.cpus) = (Some(64 << 20), Some(0.5));
        full.extra_hosts = vec![("other.test".into(), "10.9.8.7".into())];
        // The folder is this user's own.
        full.user = Some(rustix::process::getuid().as_raw().to_string());
        let expected = format!(
            "two\nlines 'and' \"quotes\" $X|/home=x|tcp://nowhere:1|p\n{}\n567\n/bin\nmounted\n777\nread-only\n\
             docker-init\n1\n",
            rustix::process::getuid().as_raw()
        );
        assert_eq!(engine.output(&full).await, expected);
    });
}

#[test]
fn a_stop_signal_and_its_time_are_the_containers_own() {
    let engine = require!(Engine::here("signal"));
    on_smol(async {
        let mut hup = engine.container("hup", "trap 'exit 3' HUP; echo up; while :; do sleep 0.05; done");
        hup.stop_signal = Some(1);
        engine.run(hup.run().unwrap()).await;
        let container = hup.container();
        until(|| async { !engine.run(container.logs(&LogOptions::default())).await.stdout.bytes.is_empty() })
            .await;
        engine.run(container.stop(Duration::from_secs(20))).await;
        assert_eq!(engine.state(&container).await.exit_code, 3);

        engine.run(container.start()).await;
        engine.run(container.kill(9)).await;
        engine.run(container.wait()).await;
        assert_eq!(engine.state(&container).await.exit_code, 137);
    });
}

#[test]
fn ports_networks_and_addresses_are_known_while_it_runs() {
    let engine = require!(Engine::here("net"));
    on_smol(async {
        let name = format!("{}-net", engine.test);
        let network =
            NetworkDefinition { name: name.clone(), labels: engine.labels(), ..NetworkDefinition::default() };
        engine.run(engine.docker.network_create(&network)).await;
        let error = engine.try_run(engine.docker.network_create(&network)).await.unwrap_err();
        assert!(matches!(error, DockerError::NetworkExists { .. }), "{error:?}");

        let mut web = engine.container("web", "echo hello > /index.html; httpd -f -p 80 -h /");
        let port = |host| PortBinding {
            address: Some([127, 0, 0, 1].into()),
            host,
            container: 80,
            protocol: Protocol::Tcp,
        };
        web.ports = vec![port(None)];
        web.network =
            Some(ContainerNetwork { name: name.clone(), aliases: vec!["site".into()], address: None });
        engine.run(web.run().unwrap()).await;
        let state = engine.state(&web.container()).await;
        let host = state.ports[0].host.unwrap();
        assert_eq!(state.ports, [port(Some(host))]);
        let endpoint = &state.networks[&name];
        assert!(endpoint.aliases.contains(&"site".to_owned()));

        let bytes = engine.run(engine.docker.network_inspect(&name)).await.stdout.bytes;
        let network = NetworkState::parse(&bytes).unwrap();
        assert_eq!((network.containers.len(), network.gateway), (1, endpoint.gateway));
        assert_eq!((&network.containers[0].id, network.containers[0].ip), (&state.id, endpoint.ip));

        let mut peer = engine.container("peer", "until wget -q -O - http://site/; do sleep 0.05; done");
        peer.network.clone_from(&web.network);
        peer.network.as_mut().unwrap().aliases.clear();
        assert_eq!(engine.output(&peer).await, "hello\n");

        let mut second = engine.container("second", "sleep 100");
        second.ports = vec![port(Some(host))];
        let error = engine.try_run(second.run().unwrap()).await.unwrap_err();
        let address = format!("127.0.0.1:{host}");
        assert!(matches!(&error, DockerError::PortInUse { address: said } if *said == address), "{error:?}");
        assert_eq!(engine.state(&second.container()).await.status, ContainerStatus::Created);

        let error = engine.try_run(engine.docker.network_remove(&name)).await.unwrap_err();
        assert!(matches!(&error, DockerError::NetworkInUse { network } if *network == name), "{error:?}");
    });
}

#[test]
fn exec_runs_in_the_container_and_passes_its_code() {
    let engine = require!(Engine::here("exec"));
    on_smol(async {
        let sleeper = engine.container("sleeper", "sleep 100");
        engine.run(sleeper.run().unwrap()).await;
        let container = sleeper.container();
        let mut exec = ContainerExec {
            argv: ["sh", "-c", "echo \"$A:$PATH_INFO:$LD_X\"; pwd; id -u; cat; exit 5"]
                .map(str::to_owned)
                .to_vec(),
            env: [("A", "a\nb"), ("LD_X", "x")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            working_dir: Some("/bin".into()),
            user: Some("12".into()),
            ..ContainerExec::default()
        };
        let finished = engine.place.run(&container.exec(&exec).unwrap()).await.unwrap();
        assert_eq!(
            (finished.exit, finished.stdout.to_text().as_str()),
            (Exit::Code(5), "a\nb::x\n/bin\n12\n")
        );

        exec.interactive = true;
        assert!(
            matches!(container.exec(&exec), Err(ContainerSpecError::Variable { name, .. }) if name == "LD_X")
        );
        exec.env.remove("LD_X");
        let command = container.exec(&exec).unwrap().stdin(Stdin::Bytes(b"input".to_vec()));
        let finished = engine.place.run(&command).await.unwrap();
        assert_eq!(finished.stdout.to_text(), "a\nb::\n/bin\n12\ninput");
    });
}

#[test]
fn one_stream_tells_what_happens_to_all_containers() {
    let engine = require!(Engine::here("events"));
    on_smol(async {
        let label = format!("t={}", engine.test);
        let since = jiff::Timestamp::now();
        let (_handle, mut events) =
            engine.place.start(&engine.docker.events([label.as_str()], Some(since))).unwrap();
        let mut bad = engine.container("bad", "exit 4");
        bad.labels.insert("harness.instance".into(), "bad-1".into());
        engine.run(bad.run().unwrap()).await;
        let mut hungry = engine.container("hungry", "tail /dev/zero");
        hungry.memory = Some(12 << 20);
        engine.run(hungry.run().unwrap()).await;
        engine.run(hungry.container().wait()).await;
        assert!(engine.state(&hungry.container()).await.oom_killed);
        let remove = RemoveOptions { force: true, volumes: true };
        engine.run(hungry.container().remove(remove)).await;

        let mut told = Vec::new();
        let last = (hungry.name.clone(), ContainerAction::Destroy);
        while told.last() != Some(&last) {
            let Some(ProcessEvent::Stdout(line)) = events.next().await.unwrap() else { continue };
            let Some(event) = ContainerEvent::parse(&line.text).unwrap() else { continue };
            assert!(event.time() >= since, "{event:?}");
            if event.name == bad.name {
                assert_eq!(event.labels["harness.instance"], "bad-1");
            }
            told.push((event.name, event.action));
        }
        let of =
            |name: &str| told.iter().filter(|(who, _)| who == name).map(|(_, what)| what).collect::<Vec<_>>();
        let die = |code| ContainerAction::Die { exit_code: Some(code) };
        assert_eq!(of(&bad.name), [&ContainerAction::Create, &ContainerAction::Start, &die(4)]);
        let hungry = of(&hungry.name);
        assert!(hungry.contains(&&ContainerAction::Oom) && hungry.contains(&&die(137)), "{hungry:?}");
    });
}

#[test]
fn the_images_own_health_check_is_told() {
    let engine = require!(Engine::here("health"));
    on_smol(async {
        // A health check comes with an image: make one.
        let image = format!("{}:1", engine.test);
        let scope = test_hosts::Docker::here().unwrap().scope("health-image").unwrap();
        let file = format!(
            "FROM {BB}\nLABEL t={}\nHEALTHCHECK --interval=1s --retries=1 CMD echo checked; test -e /ok\n",
            engine.test
        );
        let build = Command::new("docker").args(["build", "-q", "--network", "none", "-t", &image, "-"]);
        engine.run(build.env("DOCKER_BUILDKIT", "0").stdin(Stdin::Bytes(file.into_bytes()))).await;
        let remove_image = RemoveImage(image.clone());
        let told = ImageState::parse(&engine.run(engine.docker.image(&image)).await.stdout.bytes).unwrap();
        assert!(told.has_healthcheck);

        let label = format!("t={}", engine.test);
        let since = jiff::Timestamp::now();
        let (_handle, mut events) =
            engine.place.start(&engine.docker.events([label.as_str()], Some(since))).unwrap();
        let mut sick = engine.container("sick", "sleep 100");
        sick.image.clone_from(&image);
        engine.run(sick.run().unwrap()).await;
        let state = engine.state(&sick.container()).await;
        assert!(state.has_healthcheck && state.health.unwrap().status == HealthStatus::Starting);
        let mut verdicts = Vec::new();
        while verdicts.len() < 2 {
            let Some(ProcessEvent::Stdout(line)) = events.next().await.unwrap() else { continue };
            let Some(event) = ContainerEvent::parse(&line.text).unwrap() else { continue };
            let ContainerAction::Health(verdict) = event.action else { continue };
            if verdicts.is_empty() {
                let health = engine.state(&sick.container()).await.health.unwrap();
                assert_eq!((health.last_output.as_str(), health.last_exit_code), ("checked\n", Some(1)));
                let exec = ContainerExec {
                    argv: ["touch", "/ok"].map(str::to_owned).to_vec(),
                    ..ContainerExec::default()
                };
                engine.run(sick.container().exec(&exec).unwrap()).await;
            }
            verdicts.push(verdict);
        }
        assert_eq!(verdicts, [HealthStatus::Unhealthy, HealthStatus::Healthy]);
        engine.run(sick.container().remove(RemoveOptions { force: true, volumes: true })).await;
        drop((remove_image, scope));
    });
}

struct RemoveImage(String);

impl Drop for RemoveImage {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["rmi", "-f", &self.0]).output();
    }
}

#[test]
fn an_engine_that_is_not_there_or_not_ours_is_told_apart() {
    let engine = require!(Engine::here("engine"));
    let trixie = require!(Host::shared(Suite::Trixie));
    trixie.start_docker().unwrap();
    on_smol(async {
        let closed = Docker::new().with_host("tcp://127.0.0.1:1");
        let error = engine.try_run(closed.list(["x"])).await.unwrap_err();
        assert!(error.is_transient() && error.hint().is_some(), "{error:?}");
        assert!(
            matches!(&error, DockerError::NotReachable { endpoint, .. } if endpoint == "tcp://127.0.0.1:1")
        );
        let error = engine.try_run(Docker::new().with_context("nosuch").list(["x"])).await.unwrap_err();
        assert!(matches!(&error, DockerError::NoSuchContext { context } if context == "nosuch"), "{error:?}");

        let plain = place::on_as(&trixie, "plain");
        let error = check(&plain.run(&Docker::new().list(["x"])).await.unwrap()).unwrap_err();
        assert!(
            matches!(&error, DockerError::PermissionDenied { socket } if socket.contains("docker.sock")),
            "{error:?}"
        );
        assert!(!error.is_transient() && error.hint().unwrap().contains("docker group"));

        let finished = engine.place.run(&engine.docker.pull("127.0.0.1:1/x:1")).await.unwrap();
        let error = check_pull(&finished, "127.0.0.1:1/x:1").unwrap_err();
        assert!(
            error.to_string().starts_with("can't pull 127.0.0.1:1/x:1: ") && error.is_transient(),
            "{error}"
        );
    });
}

#[test]
fn an_attached_container_is_watched_and_its_log_is_read_and_followed() {
    let engine = require!(Engine::here("attach"));
    on_both(|| async {
        let script = "echo one; echo two >&2; trap 'exit 0' TERM; until [ -e /go ]; do sleep 0.05; done; echo three; sleep 100 & wait";
        let theirs = engine.container("theirs", script);
        let attacher = ContainerAttacher::new(engine.place.clone(), theirs.container());
        let reason = |status| match status {
            AttachStatus::NotRunning { reason } => reason,
            AttachStatus::Running { .. } => panic!("it runs"),
        };
        assert!(reason(attacher.status().await.unwrap()).starts_with("there is no container "));
        attacher.exited().await.unwrap();
        assert!(matches!(
            attacher.logs(5).await,
            Err(AttachError::Docker(DockerError::NoSuchContainer { .. }))
        ));

        engine.run(theirs.create().unwrap()).await;
        assert!(reason(attacher.status().await.unwrap()).ends_with(" is created"));
        attacher.start().await.unwrap();
        assert!(matches!(attacher.status().await.unwrap(), AttachStatus::Running { .. }));
        until(|| async { attacher.logs(5).await.unwrap().len() == 2 }).await;

        let mut lines = attacher.follow(5).await.unwrap();
        let mut seen = [lines.next().await.unwrap().unwrap(), lines.next().await.unwrap().unwrap()];
        // Each stream is read and stamped by a thread of the engine's own: their times don't say which was written first.
        seen.sort_by_key(|line| line.stream == Some(Stream::Stderr));
        let text =
            |line: &command_executor::attacher::AttachedLine| String::from_utf8(line.text.clone()).unwrap();
        assert_eq!(seen.iter().map(text).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(
            seen.iter().map(|line| line.stream).collect::<Vec<_>>(),
            [Some(Stream::Stdout), Some(Stream::Stderr)]
        );
        let exec =
            ContainerExec { argv: ["touch", "/go"].map(str::to_owned).to_vec(), ..ContainerExec::default() };
        engine.run(theirs.container().exec(&exec).unwrap()).await;
        assert_eq!(text(&lines.next().await.unwrap().unwrap()), "three");

        let stop = async {
            attacher.stop(Duration::from_secs(10)).await.unwrap();
            assert_eq!(lines.next().await.unwrap(), None);
        };
        futures_lite::future::zip(attacher.exited(), stop).await.0.unwrap();
        assert!(reason(attacher.status().await.unwrap()).contains(" has exited with code "));
        assert_eq!(attacher.logs(2).await.unwrap().len(), 2);
        attacher.stop(Duration::ZERO).await.unwrap();
        engine.run(theirs.container().remove(RemoveOptions::default())).await;
        attacher.stop(Duration::ZERO).await.unwrap();
    });
}

mod hosts {
    use super::*;

    #[test]
    fn an_engine_that_is_killed_ends_waits_and_streams_with_a_transient_error() {
        let host = require!(Host::boot(Suite::Trixie, "engine restart"));
        host.start_docker().unwrap();
        host.load_bb().unwrap();
        let place = on(&host);
        on_smol(async {
            let docker = Docker::new();
            let mut sleeper = DockerContainer::new(docker.clone(), "sleeper", BB);
            sleeper.command = Some(vec!["sleep".into(), "1000".into()]);
            run(&place, sleeper.run().unwrap()).await;
            let attacher = ContainerAttacher::new(place.clone(), sleeper.container());
            let mut lines = attacher.follow(0).await.unwrap();
            let (_events_handle, mut events) = place.start(&docker.events(["x"], None)).unwrap();
            let kill = async {
                until(|| async { matches!(attacher.status().await, Ok(AttachStatus::Running { .. })) }).await;
                host.sh("systemctl kill -s KILL docker.service containerd.service; systemctl stop docker.socket docker.service").unwrap();
            };
            let (waited, ()) = futures_lite::future::zip(attacher.exited(), kill).await;
            let is_transient =
                |error: &AttachError| matches!(error, AttachError::Docker(error) if error.is_transient());
            assert!(waited.as_ref().err().is_none_or(is_transient), "{waited:?}");
            loop {
                match lines.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => assert!(is_transient(&error), "{error:?}"),
                }
            }
            while events.next().await.unwrap().is_some() {}
            let status = attacher.status().await;
            assert!(status.as_ref().is_err_and(is_transient), "{status:?}");
        });
    }
}
