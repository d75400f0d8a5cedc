//! Every parser on what real engines printed: docker 20.10 and 26.1, podman 5.4.

use super::*;
use crate::executor::{Captured, Finished};
use crate::process::Exit;
use proptest::prelude::*;

macro_rules! sample {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/samples/docker/", $name)).as_slice()
    };
}

#[test]
fn a_running_container_is_read() {
    let state = ContainerState::parse_one(sample!("inspect-running.20.10.json")).unwrap();
    insta::assert_debug_snapshot!(state, @r#"
    ContainerState {
        id: "63e8d7ca652f6d609d46b780738f2fc4eb26f9e235af65576f4f448fbb2b9295",
        name: "tp1",
        status: Running,
        pid: Some(
            13270,
        ),
        exit_code: 0,
        oom_killed: false,
        error: None,
        started_at: Some(
            2026-11-24T21:27:08.992097851Z,
        ),
        finished_at: None,
        health: Some(
            ContainerHealth {
                status: Healthy,
                failing_streak: 0,
                last_exit_code: Some(
                    0,
                ),
                last_output: "hi\n",
            },
        ),
        has_healthcheck: true,
        image: "harness-test/bb",
        image_id: "sha256:509d7ee9c17e2aaa4ada608871a95e9771190873636cfa5fff888eb938bfb1b4",
        labels: {
            "harness-test": "1",
            "t": "probe",
        },
        ports: [
            PortBinding {
                address: None,
                host: Some(
                    32768,
                ),
                container: 53,
                protocol: Udp,
            },
            PortBinding {
                address: None,
                host: Some(
                    32768,
                ),
                container: 81,
                protocol: Tcp,
            },
            PortBinding {
                address: Some(
                    127.0.0.1,
                ),
                host: Some(
                    18080,
                ),
                container: 80,
                protocol: Tcp,
            },
        ],
        networks: {
            "tprobe": NetworkEndpoint {
                ip: Some(
                    172.18.0.2,
                ),
                ipv6: None,
                gateway: Some(
                    172.18.0.1,
                ),
                aliases: [
                    "al",
                    "63e8d7ca652f",
                ],
            },
        },
    }
    "#);
}

#[test]
fn what_became_of_a_container_is_read() {
    let read = |bytes| {
        let state = ContainerState::parse_one(bytes).unwrap();
        (state.status, state.pid, state.exit_code, state.oom_killed, state.error.is_some())
    };
    use ContainerStatus::{Created, Exited, Paused};
    assert_eq!(read(sample!("inspect-created.20.10.json")), (Created, None, 0, false, false));
    assert_eq!(read(sample!("inspect-paused.20.10.json")), (Paused, Some(13270), 0, false, false));
    assert_eq!(read(sample!("inspect-exited.20.10.json")), (Exited, None, 137, false, false));
    assert_eq!(read(sample!("inspect-oom.20.10.json")), (Exited, None, 137, true, false));
    assert_eq!(read(sample!("inspect-failed.20.10.json")), (Created, None, 127, false, true));
}

#[test]
fn health_and_networks_are_read_from_every_engine() {
    for (bytes, id) in [
        (sample!("inspect-unhealthy.26.1.json"), "sha256:"),
        (sample!("inspect-unhealthy.podman-5.4.json"), ""),
    ] {
        let state = ContainerState::parse_one(bytes).unwrap();
        let health = state.health.unwrap();
        assert_eq!((health.status, health.last_exit_code), (HealthStatus::Unhealthy, Some(1)));
        assert_eq!(health.last_output, "no\n");
        assert!(state.has_healthcheck && state.status == ContainerStatus::Running && state.pid.is_some());
        assert!(state.networks["nn"].ip.is_some() && state.networks["nn"].gateway.is_some());
        assert!(state.networks["nn"].aliases.contains(&"al".to_owned()));
        assert_eq!(state.ports[0].to_string(), "127.0.0.1:18081:80/tcp");
        assert!(state.image_id.starts_with(id) && state.image.contains("harness-test/bb"));
        assert!(state.started_at.is_some() && state.finished_at.is_none());
        assert_eq!((state.labels["t"].as_str(), state.name.as_str()), ("probe", "te1"));
    }
}

#[test]
fn lists_are_read() {
    for (bytes, name) in [
        (sample!("list.20.10.jsonl"), "tp1"),
        (sample!("list.26.1.jsonl"), "te1"),
        (sample!("list.podman-5.4.jsonl"), "te1"),
        (sample!("list.podman-4.3.json"), "q"),
    ] {
        let rows = ContainerRow::parse(bytes).unwrap();
        assert_eq!((rows.len(), rows[0].id.len(), rows[0].name.as_str()), (1, 64, name));
        assert_eq!((rows[0].status, rows[0].labels["t"].as_str()), (ContainerStatus::Running, "probe"));
    }
    let joined = br#"{"ID":"1","Names":"a/b,c","State":"exited","Labels":"x=1,2,y="}"#;
    let rows = ContainerRow::parse(joined).unwrap();
    let labels: Vec<_> = rows[0].labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!((rows[0].name.as_str(), labels.join(" ").as_str()), ("c", "x=1,2 y="));
    assert_eq!(ContainerRow::parse(b"").unwrap(), []);
    assert_eq!(ContainerRow::parse(b"[]\n").unwrap(), []);
}

fn events(bytes: &[u8]) -> String {
    let events = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let text = |event: ContainerEvent| format!("{} {:.4} {:?}", event.name, event.id, event.action);
    events.map(|line| text(ContainerEvent::parse(line).unwrap().unwrap())).collect::<Vec<_>>().join("\n")
}

#[test]
fn events_are_read() {
    insta::assert_snapshot!(events(sample!("events.20.10.jsonl")), @r#"
    tp1 63e8 Create
    tp1 63e8 Start
    tp1 63e8 Other("exec_create: /bin/sh -c echo hi; exit 0")
    tp1 63e8 Other("exec_start: /bin/sh -c echo hi; exit 0")
    tp1 63e8 Other("exec_die")
    tp1 63e8 Health(Healthy)
    tp1 63e8 Pause
    tp1 63e8 Unpause
    tp1 63e8 Kill { signal: Some(9) }
    tp1 63e8 Die { exit_code: Some(137) }
    tp1 63e8 Destroy
    tp2 c16f Oom
    tp2 c16f Die { exit_code: Some(137) }
    "#);
    insta::assert_snapshot!(events(sample!("events.26.1.jsonl")), @r"
    te1 6cca Start
    te1 6cca Health(Unhealthy)
    te1 6cca Kill { signal: Some(15) }
    te1 6cca Kill { signal: Some(9) }
    te1 6cca Die { exit_code: Some(137) }
    ");
    insta::assert_snapshot!(events(sample!("events.podman-5.4.jsonl")), @r#"
    te1 a511 Create
    te2 f7f0 Destroy
    te1 5c08 Other("init")
    te1 5c08 Start
    te1 5c08 Health(Unhealthy)
    te1 5c08 Die { exit_code: Some(137) }
    te1 5c08 Other("cleanup")
    "#);
    insta::assert_snapshot!(events(sample!("events.podman-4.3.jsonl")), @r#"
    q 72aa Create
    q 72aa Other("init")
    q 72aa Start
    q 72aa Die { exit_code: Some(137) }
    q 72aa Other("cleanup")
    q 72aa Destroy
    "#);
    let network = br#"{"Type":"network","Action":"create","Actor":{"ID":"1"},"timeNano":1}"#;
    assert_eq!(ContainerEvent::parse(network).unwrap(), None);
    let event = sample!("events.20.10.jsonl").split(|byte| *byte == b'\n').next().unwrap();
    let event = ContainerEvent::parse(event).unwrap().unwrap();
    assert_eq!(event.time().to_string(), "2026-11-24T21:27:08.671472958Z");
}

#[test]
fn images_networks_and_versions_are_read() {
    let image = ImageState::parse(sample!("image.20.10.json")).unwrap();
    let podman = ImageState::parse(sample!("image.podman-5.4.json")).unwrap();
    assert_eq!(image.id.strip_prefix("sha256:"), Some(podman.id.as_str()));
    assert!(!image.has_healthcheck && image.labels["harness-test"] == "1" && podman.labels == image.labels);

    let network = NetworkState::parse(sample!("network.20.10.json")).unwrap();
    assert_eq!((network.name.as_str(), network.subnets[0].as_str()), ("tprobe", "172.18.0.0/16"));
    let network = NetworkState::parse(sample!("network.podman-5.4.json")).unwrap();
    assert_eq!((network.name.as_str(), network.subnets[0].as_str()), ("nn", "10.89.1.0/24"));
    assert_eq!((network.gateway, network.labels["a"].as_str()), (Some([10, 89, 1, 1].into()), "1"));

    let version = |bytes| {
        let version = DockerVersion::parse(bytes).unwrap();
        (version.client, version.engine, version.api.unwrap(), version.is_podman)
    };
    let of = |text: &str| text.to_owned();
    let old = (of("20.10.24+dfsg1"), Some(of("20.10.24+dfsg1")), of("1.41"), false);
    assert_eq!(version(sample!("version.20.10.json")), old);
    let new = (of("26.1.5+dfsg1"), Some(of("26.1.5+dfsg1")), of("1.45"), false);
    assert_eq!(version(sample!("version.26.1.json")), new);
    assert_eq!(version(sample!("version.podman-5.4.json")), (of("5.4.2"), None, of("5.4.2"), true));
}

#[test]
fn what_docker_wrote_is_told_apart() {
    let texts = include_str!("../../../tests/samples/docker/errors.txt");
    let mut told = String::new();
    for text in texts.split("\n\n").map(str::trim).filter(|text| !text.is_empty()) {
        let error = DockerError::classify(Exit::Code(1), text);
        let kind = format!("{error:?}").split([' ', '{']).next().unwrap().to_owned();
        let hint = error.hint().map(|hint| format!("\n    {hint}")).unwrap_or_default();
        told.push_str(&format!("{kind}: {error}{hint}\n"));
    }
    insta::assert_snapshot!(told, @r#"
    PullFailed: can't pull nosuch/image:1: Get "https://registry.example.com/v2/": dial tcp: lookup registry.example.com on 192.0.2.1:53: no such host.
        is the registry's name right, and is there a network or a proxy to it?
    PullFailed: can't pull the image: Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused
        is the registry's name right, and is there a network or a proxy to it?
    NoSuchImage: there is no image nosuch/image:1 on this machine
        pull it first: docker pull nosuch/image:1
    InvalidReference: not an image: invalid reference format: repository name must be lowercase
        an image is written [registry/]name[:tag], its name in lower case
    NoSuchContainer: there is no container nosuch
    NoSuchContainer: there is no container nosuch
    NoSuchContainer: there is no container nosuch
    NameInUse: the container name te1 is taken by container 90a50547b005b5d331698a111931f35eff2125c2e5487ff1e7dbe86b0049f83a
        choose another name, or remove that container: docker rm -f te1
    PortInUse: 127.0.0.1:18081 is in use
        find who listens (ss -ltnp 'sport = :18081'; docker ps), or choose another port
    Running: container 90a50547b005b5d331698a111931f35eff2125c2e5487ff1e7dbe86b0049f83a runs
        stop it first: docker stop 90a50547b005b5d331698a111931f35eff2125c2e5487ff1e7dbe86b0049f83a
    BadMount: can't mount: invalid volume specification: '/tmp:relative': invalid mount config for type "bind": invalid mount path: 'relative' mount path must be absolute
    BadMount: can't mount: invalid mode: zz
    NoSuchNetwork: there is no network nosuchnet
        make it first: docker network create nosuchnet
    NoSuchUser: the container has no user or group nosuch
        use a number, or a user that the image's /etc/passwd has
    BadOption: docker refuses: the working directory 'relative' is invalid, it needs to be an absolute path.
    BadOption: docker refuses: Minimum memory limit allowed is 6MB.
    ProgramNotFound: the container has no program nosuch
        see what the image has: docker run --rm --entrypoint ls IMAGE /bin
    ProgramNotExecutable: the container can't execute /etc
    ProgramNotFound: the container has no program nosuch
        see what the image has: docker run --rm --entrypoint ls IMAGE /bin
    NoSuchUser: the container has no user or group nosuch
        use a number, or a user that the image's /etc/passwd has
    NoSuchFolder: the container has no folder /nosuch
    Paused: container te1 is paused
        docker unpause te1
    Paused: container te1 is paused
        docker unpause te1
    NotRunning: container 90a50547b005b5d331698a111931f35eff2125c2e5487ff1e7dbe86b0049f83a doesn't run
    NotRunning: container 90a50547b005b5d331698a111931f35eff2125c2e5487ff1e7dbe86b0049f83a doesn't run
    NoSuchNetwork: there is no network nosuchnet
        make it first: docker network create nosuchnet
    NetworkExists: there is a network nn already
    NetworkInUse: the network nn is still in use
        docker network inspect nn lists the containers in it
    AddressOverlap: the network's addresses overlap with those of another
        give the network another subnet: docker network ls lists the others
    NoSuchImage: there is no image nosuch on this machine
        pull it first: docker pull nosuch
    NoSuchContainer: there is no container nosuch
    PortInUse: 0.0.0.0:18099 is in use
        find who listens (ss -ltnp 'sport = :18099'; docker ps), or choose another port
    PermissionDenied: no permission to talk to docker at unix:///var/run/docker.sock
        let the user into the docker group (sudo usermod -aG docker USER, then log in again), or use sudo
    NotReachable: docker can't be reached at tcp://127.0.0.1:1: nobody answers there
        is it started (sudo systemctl start docker)? is DOCKER_HOST or the context right (docker context ls)?
    NotReachable: docker can't be reached at unix:///nosuch.sock: nobody answers there
        is it started (sudo systemctl start docker)? is DOCKER_HOST or the context right (docker context ls)?
    InvalidReference: not an image: invalid reference format: repository name (library/Bad_Image@@x) must be lowercase
        an image is written [registry/]name[:tag], its name in lower case
    NoSuchContainer: there is no container nosuch
    NoSuchContainer: there is no container nosuch
    Running: container te1 runs
        stop it first: docker stop te1
    ProgramNotFound: the container has no program nosuch
        see what the image has: docker run --rm --entrypoint ls IMAGE /bin
    ProgramNotExecutable: the container can't execute /etc
    NotRunning: container 6ccaecb5f285e6a06f10e5b3e3957ee57fe3ce230d506baf7defd8f1601d0741 doesn't run
    NotRunning: container 6ccaecb5f285e6a06f10e5b3e3957ee57fe3ce230d506baf7defd8f1601d0741 doesn't run
    NoSuchNetwork: there is no network nosuchnet
        make it first: docker network create nosuchnet
    NoSuchImage: there is no image nosuch:latest on this machine
        pull it first: docker pull nosuch:latest
    PermissionDenied: no permission to talk to docker at unix:///var/run/docker.sock
        let the user into the docker group (sudo usermod -aG docker USER, then log in again), or use sudo
    NameInUse: the container name te1 is taken by container 5c08aa7f13f683dface95552f2cc83756100bfdaa15feb6840a4e0c8d363829a
        choose another name, or remove that container: docker rm -f te1
    PullFailed: can't pull nosuch/image:1: short-name "nosuch/image:1" did not resolve to an alias and no unqualified-search registries are defined in "/etc/containers/registries.conf"
        check registry, name and tag; for a private image log in first: docker login REGISTRY
    PullFailed: can't pull 127.0.0.1: initializing source docker://127.0.0.1:1/x:1: pinging container registry 127.0.0.1:1: Get "https://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused
        is the registry's name right, and is there a network or a proxy to it?
    PullFailed: can't pull nosuch.invalid/x: initializing source docker://nosuch.invalid/x:1: pinging container registry nosuch.invalid: Get "https://nosuch.invalid/v2/": dial tcp: lookup nosuch.invalid on 192.0.2.1:53: no such host
        is the registry's name right, and is there a network or a proxy to it?
    NoSuchImage: there is no image nosuch/image:1 on this machine
        pull it first: docker pull nosuch/image:1
    InvalidReference: not an image: parsing reference "Bad_Image@@x": invalid reference format
        an image is written [registry/]name[:tag], its name in lower case
    NoSuchContainer: there is no container nosuch
    NoSuchContainer: there is no container nosuch
    NoSuchContainer: there is no container nosuch
    PortInUse: 127.0.0.1:18081 is in use
        find who listens (ss -ltnp 'sport = :18081'; docker ps), or choose another port
    Running: container 5c08aa7f13f683dface95552f2cc83756100bfdaa15feb6840a4e0c8d363829a runs
        stop it first: docker stop 5c08aa7f13f683dface95552f2cc83756100bfdaa15feb6840a4e0c8d363829a
    BadMount: can't mount: invalid container path "relative", must be an absolute path
    BadMount: can't mount: statfs /nosuch: no such file or directory
    NoSuchNetwork: there is no network nosuchnet
        make it first: docker network create nosuchnet
    NoSuchUser: the container has no user or group nosuch
        use a number, or a user that the image's /etc/passwd has
    Other: docker failed (exit code 1): Error: OCI runtime error: runc: runc create failed: unable to start container process: error during container init: error setting cgroup config for procHooks process: unable to set memory limit to 1048576 (current usage: 2396160, peak usage: 2514944)
    ProgramNotFound: the container has no program nosuch
        see what the image has: docker run --rm --entrypoint ls IMAGE /bin
    ProgramNotExecutable: the container can't execute /etc
    ProgramNotFound: the container has no program nosuch
        see what the image has: docker run --rm --entrypoint ls IMAGE /bin
    NoSuchFolder: the container has no folder /nosuch
    NotRunning: container  doesn't run
    NotRunning: container 5c08aa7f13f683dface95552f2cc83756100bfdaa15feb6840a4e0c8d363829a doesn't run
    NoSuchNetwork: there is no network nosuchnet
        make it first: docker network create nosuchnet
    NetworkExists: there is a network nn already
    NetworkInUse: the network nn is still in use
        docker network inspect nn lists the containers in it
    AddressOverlap: the network's addresses overlap with those of another
        give the network another subnet: docker network ls lists the others
    NoSuchImage: there is no image nosuch on this machine
        pull it first: docker pull nosuch
    NoSuchContainer: there is no container nosuch
    PortInUse: 127.0.0.1:18081 is in use
        find who listens (ss -ltnp 'sport = :18081'; docker ps), or choose another port
    PullFailed: can't pull nosuch/image: pull access denied for nosuch/image, repository does not exist or may require 'docker login': denied: requested access to the resource is denied
        check registry, name and tag; for a private image log in first: docker login REGISTRY
    PullFailed: can't pull nginx:nosuch: manifest for nginx:nosuch not found: manifest unknown: manifest unknown
        check registry, name and tag; for a private image log in first: docker login REGISTRY
    PullFailed: can't pull the image: toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit
        log in (docker login), or wait; registries count pulls by address
    PullFailed: can't pull the image: Get "https://registry.example.com/v2/": x509: certificate signed by unknown authority
        trust its certificate in /etc/docker/certs.d, or list it as an insecure registry
    PullFailed: can't pull the image: Get "https://registry.example.com:5000/v2/": http: server gave HTTP response to HTTPS client
        trust its certificate in /etc/docker/certs.d, or list it as an insecure registry
    PullFailed: can't pull the image: Head "https://registry.example.com/v2/x/manifests/1": no basic auth credentials
        log in first: docker login REGISTRY
    PullFailed: can't pull the image: no matching manifest for linux/arm/v7 in the manifest list entries
        choose a tag that is built for this machine
    VersionMismatch: docker's client and engine don't fit together: client version 1.50 is too new. Maximum supported API version is 1.41
        update the older of the two, or set DOCKER_API_VERSION to what the engine speaks
    NoSuchContext: docker has no context nosuch
        docker context ls lists them; DOCKER_CONTEXT chooses one
    NotReachable: docker can't be reached at its address: error during connect: Get "http://docker.example.com/v1.50/containers/json": command [ssh -o ConnectTimeout=30 -T -- nosuch docker system dial-stdio] has exited with exit status 255, make sure the URL is valid, and Docker 18.09 or later is installed on the remote host: stderr=ssh: Could not resolve hostname nosuch: Name or service not known
        is it started (sudo systemctl start docker)? is DOCKER_HOST or the context right (docker context ls)?
    BeingRemoved: container te1 is being removed already
    NoSpace: no space left on the engine's machine: failed to create task for container: failed to start shim: write /var/lib/docker/x: no space left on device: unknown
        docker system df shows what takes it; docker system prune removes what nothing uses
    NotReachable: docker can't be reached at unix:///var/run/docker.sock: failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if the daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory
        is it started (sudo systemctl start docker)? is DOCKER_HOST or the context right (docker context ls)?
    BadOption: docker refuses: invalid argument "foo" for "-m, --memory" flag: invalid size: 'foo'
    BadOption: docker refuses: unknown flag: --pull
    BadOption: docker refuses: Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available
    BadOption: docker refuses: Invalid signal: NOSUCH
    BadOption: docker refuses: No command specified
    BadOption: docker refuses: 'compose' is not a docker command.
    ProgramNotExecutable: the container can't execute /app
    BadOption: docker refuses: unknown flag: --short
    NotReachable: docker can't be reached at its address: it ended in the middle of its answer
        is it started (sudo systemctl start docker)? is DOCKER_HOST or the context right (docker context ls)?
    "#);
}

#[test]
fn an_unknown_text_is_passed_on_shortened() {
    let error = DockerError::classify(Exit::Code(1), "a new kind of trouble");
    assert_eq!(error.to_string(), "docker failed (exit code 1): a new kind of trouble");
    let error = DockerError::classify(Exit::Signal(9), &"é".repeat(5000));
    assert!(error.to_string().chars().count() < 2100);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        all_parsers(&bytes);
    }

    #[test]
    fn no_damaged_answer_panics(which in 0usize..6, cut in 0usize..4000, put in any::<u8>()) {
        let samples = [
            sample!("inspect-running.20.10.json"),
            sample!("inspect-unhealthy.podman-5.4.json"),
            sample!("list.20.10.jsonl"),
            sample!("events.26.1.jsonl"),
            sample!("network.20.10.json"),
            sample!("version.26.1.json"),
        ];
        let mut bytes = samples[which].to_vec();
        let at = cut % bytes.len();
        bytes[at] = put;
        all_parsers(&bytes);
        bytes.truncate(at);
        all_parsers(&bytes);
    }
}

fn all_parsers(bytes: &[u8]) {
    let _ = ContainerState::parse(bytes);
    let _ = ContainerState::parse_exit(bytes);
    let _ = ContainerRow::parse(bytes);
    let _ = ContainerEvent::parse(bytes);
    let _ = ImageState::parse(bytes);
    let _ = NetworkState::parse(bytes);
    let _ = DockerVersion::parse(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = PullProgress::new().push(&text);
    let _ = DockerError::classify(Exit::Code(1), &text).hint();
    let output = |bytes: &[u8]| Captured { bytes: bytes.to_vec(), dropped: 0 };
    let finished = Finished {
        exit: Exit::Code(126),
        stdout: output(bytes),
        stderr: output(bytes),
        elapsed: std::time::Duration::ZERO,
    };
    let _ = ContainerExec::refusal(&finished);
}
