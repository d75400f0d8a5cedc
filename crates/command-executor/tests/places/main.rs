//! Commands in real places: sshd, sudo and engines of whole machines, nested.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests are tests")]

use command_executor::command::{Command, Stdin};
use command_executor::event::ProcessEvent;
use command_executor::executor::{ExecuteError, Executor, Finished};
use command_executor::launcher::{
    Connections, DockerExec, DockerExecLauncher, HopKind, HostKeys, LaunchError, Launcher, LocalLauncher,
    Password, Place, PlaceError, PlaceErrorKind, SshHost, SshJump, SshLauncher, Sudo, SudoLauncher,
    launcher_for,
};
use command_executor::process::{Exit, ProcessError, ProcessEvents};
use rustix::process::Signal;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use test_hosts::{BARE, BB, Docker, Host, Network, OwnHost, Suite, User, require};

mod hosts;
mod stream;

/// Runs a test on smol and on tokio, each within a minute.
fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    bounded(test());
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(limited(test()));
}

fn bounded<F: Future>(what: F) -> F::Output {
    smol::block_on(limited(what))
}

async fn limited<F: Future>(what: F) -> F::Output {
    let late = async {
        async_io::Timer::after(Duration::from_secs(60)).await;
        panic!("it took a minute");
    };
    futures_lite::future::or(what, late).await
}

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

fn ssh(host: &Host, user: User) -> SshHost {
    SshHost::new(host.name()).user(user.name()).config(host.ssh_config())
}

fn pw() -> Sudo {
    Sudo::new().password(Password::new("pw"))
}

/// Connections of this test's own.
fn connections(folder: &tempfile::TempDir) -> Arc<Connections> {
    Arc::new(Connections::new(folder.path().join("c")).unwrap().with_idle(Duration::from_secs(5)))
}

fn place(way: &[Place], connections: Option<&Arc<Connections>>) -> Box<dyn Launcher> {
    launcher_for(LocalLauncher::new(), way, connections)
}

fn failure(result: Result<Finished, ExecuteError>) -> PlaceError {
    match result {
        Err(ExecuteError::Launch(LaunchError::Place(error))) => *error,
        Err(ExecuteError::Follow { source: ProcessError::Place(error), .. }) => *error,
        other => panic!("{other:?}"),
    }
}

/// The next line on stdout.
async fn line(events: &mut ProcessEvents) -> String {
    loop {
        match events.next().await.unwrap() {
            Some(ProcessEvent::Stdout(line)) => return String::from_utf8(line.text).unwrap(),
            Some(ProcessEvent::Exited(exit)) => panic!("it ended: {exit}"),
            Some(_) => {}
            None => panic!("nothing comes"),
        }
    }
}

/// Everything that a command is, and what must come of it.
async fn everything_arrives(place: &dyn Launcher, name: &str) {
    let script = r#"printf '%s|' "$@" "$A"; pwd; cat; printf 'err\n' >&2; exit 255"#;
    let command = sh(script)
        .args(["zero", "it's", "", "a\nb", "$HOME `id` \\ !!", "*"])
        .env("A", "s3cr3t\n'\"")
        .current_dir("/etc");
    let begun = Instant::now();
    for input in [Stdin::Null, Stdin::Bytes(vec![b'x'; 100_000])] {
        let length = if input == Stdin::Null { 0 } else { 100_000 };
        let done = Executor::new(place).run(&command.clone().stdin(input)).await;
        let done = done.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let text = format!("it's||a\nb|$HOME `id` \\ !!|*|s3cr3t\n'\"|/etc\n{}", "x".repeat(length));
        assert_eq!(done.stdout.to_text(), text, "{name}");
        assert_eq!(done.stderr.to_text(), "err\n", "{name}");
        assert_eq!(done.exit, Exit::Code(255), "{name}");
    }
    for (script, exit) in [
        ("kill -TERM $$", Exit::Signal(15)),
        ("kill -KILL $$", Exit::Signal(9)),
        ("exit 137", Exit::Code(137)),
    ] {
        let done = Executor::new(place).run(&sh(script)).await.unwrap();
        assert_eq!((done.exit, done.stderr.to_text().as_str()), (exit, ""), "{name}: {script}");
    }
    eprintln!("{name}: {:?}", begun.elapsed());
}

/// A signal arrives there, the process id is known, and what runs there ends with its handle.
async fn life_there(place: &dyn Launcher, name: &str) {
    let script = "trap 'echo caught; exit 9' USR1; echo $$; while :; do sleep 0.02; done";
    for stdin in [Stdin::Null, Stdin::Piped] {
        let (handle, mut events) = Executor::new(place).open(&sh(script).stdin(stdin)).await.unwrap();
        let pid: u32 = line(&mut events).await.parse().unwrap();
        assert_eq!(handle.far_pid(), Some(pid), "{name}");
        handle.signal(Signal::USR1).unwrap();
        assert_eq!(line(&mut events).await, "caught", "{name}");
        assert_eq!(handle.wait().await.unwrap(), Exit::Code(9), "{name}");
    }
}

/// A sleep that nothing else sleeps, and whether it still does.
fn sleeper() -> (String, Command) {
    let time = format!("6{:07}.5", fastrand::u32(..10_000_000));
    let command = sh(&format!("sleep {time} & echo up; trap '' TERM; wait"));
    (format!("sleep {time}"), command)
}

/// Drops the handle, and kills the client, and sees the tree end.
async fn death_there(place: &dyn Launcher, host: &Host, name: &str) {
    let begun = Instant::now();
    for end in ["drop", "kill", "client"] {
        let (text, command) = sleeper();
        let (handle, mut events) = Executor::new(place).open(&command).await.unwrap();
        assert_eq!(line(&mut events).await, "up");
        let running = format!("pgrep -fx '{text}' >/dev/null");
        host.sh(&running).unwrap();
        match end {
            "drop" => drop(handle),
            "kill" => assert_eq!(handle.kill().await.unwrap(), Exit::Signal(9), "{name}"),
            _ => {
                // As the kernel's out-of-memory killer would.
                let pid = rustix::process::Pid::from_raw(handle.pid() as i32).unwrap();
                rustix::process::kill_process(pid, Signal::KILL).unwrap();
                assert!(matches!(handle.wait().await, Err(ProcessError::Place(_))), "{name}");
            }
        }
        host.wait_until(&format!("! {running}"))
            .unwrap_or_else(|error| panic!("{name}: {end}: {}", error.chain()));
    }
    eprintln!("{name}: ends in {:?}", begun.elapsed());
}

/// A container on the host, gone with the test.
struct Container<'a> {
    host: &'a Host,
    name: String,
}

impl<'a> Container<'a> {
    fn new(host: &'a Host) -> Result<Self, test_hosts::Error> {
        host.start_docker()?;
        host.load_bb()?;
        let name = format!("places-{:08x}", fastrand::u32(..));
        host.exec(&["docker", "run", "-d", "--rm", "--name", &name, BB, "sleep", "3600"])?;
        Ok(Self { host, name })
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.host.exec(&["docker", "rm", "-f", &self.name]);
    }
}

/// All ways into a host that a command can take.
fn ways(host: &Host, container: &Container<'_>) -> Vec<(&'static str, Vec<Place>)> {
    let docker = || Place::Docker(DockerExec::new(&container.name));
    vec![
        ("ssh", vec![Place::Ssh(ssh(host, User::App))]),
        ("ssh root", vec![Place::Ssh(ssh(host, User::Root))]),
        ("ssh, sudo", vec![Place::Ssh(ssh(host, User::App)), Place::Sudo(Sudo::new())]),
        (
            "ssh, sudo -u plain",
            vec![Place::Ssh(ssh(host, User::App)), Place::Sudo(Sudo::new().user("plain"))],
        ),
        ("ssh, sudo with password", vec![Place::Ssh(ssh(host, User::Pw)), Place::Sudo(pw())]),
        (
            "ssh, sudo with a password that isn't asked for",
            vec![Place::Ssh(ssh(host, User::App)), Place::Sudo(pw())],
        ),
        ("ssh, docker exec", vec![Place::Ssh(ssh(host, User::App)), docker()]),
        (
            "ssh, sudo with password, docker exec",
            vec![Place::Ssh(ssh(host, User::Pw)), Place::Sudo(pw()), docker()],
        ),
    ]
}

fn on_a_host(suite: Suite, which: std::ops::Range<usize>) {
    let host = require!(Host::shared(suite));
    let container = require!(Container::new(&host));
    let folder = tempfile::tempdir().unwrap();
    let connections = connections(&folder);
    for (name, way) in &ways(&host, &container)[which] {
        let name = format!("{}: {name}", suite.name());
        let place = place(way, Some(&connections));
        bounded(async {
            everything_arrives(&place, &name).await;
            life_there(&place, &name).await;
            death_there(&place, &host, &name).await;
        });
    }
}

#[test]
fn everything_arrives_by_ssh_and_sudo_of_bookworm() {
    on_a_host(Suite::Bookworm, 0..4);
}

#[test]
fn everything_arrives_by_password_and_docker_of_bookworm() {
    on_a_host(Suite::Bookworm, 4..8);
}

#[test]
fn everything_arrives_by_ssh_and_sudo_of_trixie() {
    on_a_host(Suite::Trixie, 0..4);
}

#[test]
fn everything_arrives_by_password_and_docker_of_trixie() {
    on_a_host(Suite::Trixie, 4..8);
}

#[test]
fn everything_arrives_in_a_container_of_podman() {
    let host = require!(Host::shared(Suite::Podman));
    let container = require!(Container::new(&host));
    let folder = tempfile::tempdir().unwrap();
    let way = [
        Place::Ssh(ssh(&host, User::Root)),
        Place::Docker(DockerExec::new(&container.name).client(["podman"])),
    ];
    let place = place(&way, Some(&connections(&folder)));
    bounded(async {
        everything_arrives(&place, "podman").await;
        life_there(&place, "podman").await;
        death_there(&place, &host, "podman").await;
    });
}

#[test]
fn a_command_in_a_place_runs_on_any_runtime() {
    let host = require!(Host::shared(Suite::Trixie));
    on_both(|| async {
        let folder = tempfile::tempdir().unwrap();
        let place = place(
            &[Place::Ssh(ssh(&host, User::App)), Place::Sudo(Sudo::new())],
            Some(&connections(&folder)),
        );
        let command = sh("id -u; cat").stdin(Stdin::Bytes(b"in".to_vec()));
        let done = Executor::new(place).run(&command).await.unwrap();
        assert_eq!(done.stdout.to_text(), "0\nin");
    });
}

#[test]
fn a_place_by_type_and_one_by_description_spawn_the_same() {
    let host = SshHost::new("h").user("u").jump(SshJump { host: "j".into(), user: None, port: Some(23) });
    let (sudo, exec) = (Sudo::new().user("deploy"), DockerExec::new("web"));
    let by_type = DockerExecLauncher::new(
        SudoLauncher::new(SshLauncher::new(LocalLauncher::new(), host.clone()), sudo.clone()),
        exec.clone(),
    );
    let described = place(&[Place::Ssh(host.clone()), Place::Sudo(sudo), Place::Docker(exec)], None);
    let command = || sh("echo $A").env("A", "secret");
    let argv = |command: Command| command.argv().map(std::borrow::ToOwned::to_owned).collect::<Vec<_>>();
    let one = argv(by_type.rewrite(command()).unwrap());
    assert_eq!(one, argv(described.rewrite(command()).unwrap()));
    assert_eq!(one[0], "ssh");
    assert!(!format!("{one:?}").contains("secret") && !format!("{one:?}").contains("echo"), "{one:?}");

    // sudo here, for ssh.
    let rooted = SshLauncher::new(SudoLauncher::new(LocalLauncher::new(), Sudo::new()), host);
    let text = argv(rooted.rewrite(command()).unwrap());
    assert_eq!(text[..4], ["sudo", "-n", "--", "ssh"]);
}

#[test]
fn what_takes_over_the_terminal_is_lowered_without_a_shell_between() {
    let exec = DockerExec::new("web");
    let command =
        || Command::new("psql").arg("-c").arg("it's").env("PGPASSWORD", "secret").current_dir("/srv");
    let argv =
        |command: &Command| command.argv().map(|word| word.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    let here = DockerExecLauncher::new(LocalLauncher::new(), exec.clone());
    let lowered = here.rewrite_to_replace(command(), true).unwrap();
    let words = [
        "docker",
        "exec",
        "-i",
        "-t",
        "--env",
        "PGPASSWORD",
        "--workdir",
        "/srv",
        "web",
        "psql",
        "-c",
        "it's",
    ];
    assert_eq!(argv(&lowered), words);
    assert!(
        lowered
            .get_envs()
            .any(|(name, value)| name == "PGPASSWORD" && value.is_some_and(|value| value == "secret"))
    );
    // Behind ssh nothing carries the value.
    let ssh = SshLauncher::new(LocalLauncher::new(), SshHost::new("h"));
    let there = DockerExecLauncher::new(ssh.clone(), exec);
    assert!(matches!(there.rewrite_to_replace(command(), true), Err(LaunchError::Carry { .. })));
    let text =
        argv(&ssh.rewrite_to_replace(Command::new("ls").arg("it's").current_dir("/a b"), true).unwrap());
    assert_eq!(text.last().unwrap(), r"cd '/a b' && exec ls 'it'\''s'");
    let rooted = SudoLauncher::new(ssh, Sudo::new().user("u"));
    let text = argv(&rooted.rewrite_to_replace(Command::new("top"), true).unwrap());
    assert_eq!(text.last().unwrap(), "exec sudo -u u -- top");
}

#[test]
fn a_container_of_this_machine_is_a_place() {
    let docker = require!(Docker::here());
    let scope = docker.scope("places").unwrap();
    let name = scope.name("bb");
    scope.run(&["--name", &name, BB, "sleep", "600"]).unwrap();
    let place = place(&[Place::Docker(DockerExec::new(&name))], None);
    bounded(async {
        everything_arrives(&place, "docker exec").await;
        life_there(&place, "docker exec").await;
        let user = place.launch(&sh("id -u").user(command_executor::command::UserIds { uid: 7, gid: 8 }));
        assert_eq!(line(&mut user.unwrap().1).await, "7");
    });
    let fails = |place: Box<dyn Launcher>| failure(bounded(Executor::new(place).run(&Command::new("true"))));
    let docker_at = |exec: DockerExec| launcher_for(LocalLauncher::new(), &[Place::Docker(exec)], None);
    let error = fails(docker_at(DockerExec::new(scope.name("none"))));
    assert_eq!((error.kind, error.hop), (PlaceErrorKind::NoSuchContainer, Some(HopKind::Docker)));
    scope.run(&["--name", &scope.name("bare"), BARE, "/sleep", "600"]).unwrap();
    let bare = DockerExec::new(scope.name("bare"));
    assert_eq!(fails(docker_at(bare.clone())).kind, PlaceErrorKind::NoShell);
    scope.create("container", &["--name", &scope.name("down"), BB, "true"]).unwrap();
    assert_eq!(
        fails(docker_at(DockerExec::new(scope.name("down")))).kind,
        PlaceErrorKind::ContainerNotRunning
    );
    docker.output(&["pause", &name]).unwrap();
    assert_eq!(fails(docker_at(DockerExec::new(&name))).kind, PlaceErrorKind::ContainerNotRunning);
    docker.output(&["unpause", &name]).unwrap();
    let nowhere = ["docker", "--host", "unix:///nowhere.sock"];
    assert_eq!(
        fails(docker_at(DockerExec::new(&name).client(nowhere))).kind,
        PlaceErrorKind::EngineUnreachable
    );

    let shellless = DockerExecLauncher::new(LocalLauncher::new(), bare.without_shell());
    let done = bounded(Executor::new(&shellless).run(&Command::new("/true"))).unwrap();
    assert!(done.exit.is_success(), "{}", done.stderr.to_text());
    for refused in [
        Command::new("/true").env("PATH", "/x"),
        Command::new("/true").env("DOCKER_HOST", "x"),
        Command::new("/true").env_clear(),
        Command::new("/true").env_remove("A"),
    ] {
        assert!(matches!(shellless.launch(&refused), Err(LaunchError::Carry { .. })), "{refused:?}");
    }
}

/// Whether some process of this machine, those of hosts included, has the text in its arguments.
fn in_some_argv(text: &str) -> bool {
    let own = std::process::id().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let name = entry.file_name();
        let is_process =
            name.to_str().is_some_and(|name| name != own && name.bytes().all(|byte| byte.is_ascii_digit()));
        is_process
            && std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|argv| argv.windows(text.len()).any(|window| window == text.as_bytes()))
    })
}

#[test]
fn no_secret_is_in_any_argv_of_either_side() {
    let host = require!(Host::shared(Suite::Bookworm));
    let container = require!(Container::new(&host));
    let folder = tempfile::tempdir().unwrap();
    let way = [
        Place::Ssh(ssh(&host, User::Pw)),
        Place::Sudo(Sudo::new().password(Password::new("pw")).user("root")),
        Place::Docker(DockerExec::new(&container.name)),
    ];
    let secret = format!("s3cret{:08x}", fastrand::u32(..));
    let place = place(&way, Some(&connections(&folder)));
    bounded(async {
        let command =
            sh("read -r line; echo \"$line $A\"; exec sleep 600").env("A", &secret).stdin(Stdin::Piped);
        let executor = Executor::new(place);
        // While it is on its way, and while it runs.
        let (done, watched) =
            (std::sync::atomic::AtomicBool::new(false), std::sync::atomic::AtomicUsize::new(0));
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(!in_some_argv(&secret));
                    watched.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
            smol::block_on(async {
                let (mut handle, mut events) = executor.open(&command).await.unwrap();
                let mut stdin = handle.take_stdin().unwrap();
                futures_lite::AsyncWriteExt::write_all(&mut stdin, format!("{secret}\n").as_bytes())
                    .await
                    .unwrap();
                assert_eq!(line(&mut events).await, format!("{secret} {secret}"));
                assert!(!in_some_argv(&secret));
                assert_eq!(handle.kill().await.unwrap(), Exit::Signal(9));
            });
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(watched.into_inner() > 0);
    });
}

fn why(place: impl Launcher, command: &Command) -> PlaceError {
    let error = failure(bounded(Executor::new(place).run(command)));
    eprintln!("{error} | {}", error.hint());
    error
}

#[test]
fn a_login_that_is_refused_says_why() {
    let host = require!(Host::shared(Suite::Bookworm));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let keygen = |name: &str| {
        let words = ["-q", "-t", "ed25519", "-N", "", "-f"];
        let made = std::process::Command::new("ssh-keygen").args(words).arg(path(name)).status().unwrap();
        assert!(made.success());
        std::fs::read_to_string(path(&format!("{name}.pub"))).unwrap()
    };
    let stranger = keygen("stranger");
    std::fs::write(path("none"), "").unwrap();
    let address = host.address().to_string();
    std::fs::write(path("changed"), format!("{} {stranger}{address} {stranger}", host.name())).unwrap();
    std::fs::write(path("empty-config"), "").unwrap();

    // A host by its address and by nothing that a configuration says, so that each option counts.
    let plain = || {
        SshHost::new(&address)
            .config(path("empty-config"))
            .user("app")
            .identity(host.identity())
            .known_hosts(host.known_hosts())
            .connect_timeout(Duration::from_secs(5))
    };
    let sockets = connections(&folder);
    let both = |host: SshHost, kind: PlaceErrorKind| {
        let direct = SshLauncher::new(LocalLauncher::new(), host);
        let shared = direct.clone().with_connections(Arc::clone(&sockets));
        for place in [direct, shared] {
            let error = why(place, &Command::new("true"));
            assert_eq!((error.kind, error.hop), (kind, Some(HopKind::Ssh)), "{error}");
        }
    };
    let works = |host: SshHost| {
        let place = SshLauncher::new(LocalLauncher::new(), host);
        assert!(bounded(Executor::new(place).run(&Command::new("true"))).unwrap().exit.is_success());
    };
    works(plain());
    both(plain().identity(path("stranger")), PlaceErrorKind::AuthDenied);
    both(plain().known_hosts(path("none")), PlaceErrorKind::HostKeyUnknown);
    both(plain().known_hosts(path("changed")), PlaceErrorKind::HostKeyChanged);
    both(plain().known_hosts(path("changed")).host_keys(HostKeys::AcceptNew), PlaceErrorKind::HostKeyChanged);
    both(plain().port(9), PlaceErrorKind::Refused);
    both(SshHost::new("no-such-host.invalid").config(path("empty-config")), PlaceErrorKind::UnknownHost);
    // Learned when it is asked for, and known from then on.
    works(plain().known_hosts(path("none")).host_keys(HostKeys::AcceptNew));
    works(plain().known_hosts(path("none")));
    for bad in ["-oProxyCommand=x", "", "a\nb"] {
        let place = SshLauncher::new(LocalLauncher::new(), SshHost::new(bad));
        assert!(matches!(place.launch(&Command::new("true")), Err(LaunchError::Carry { .. })));
    }
}

#[test]
fn what_sudo_and_docker_refuse_over_there_says_where() {
    let host = require!(Host::shared(Suite::Trixie));
    let container = require!(Container::new(&host));
    let folder = tempfile::tempdir().unwrap();
    let connections = connections(&folder);
    let check = |way: Vec<Place>, kind: PlaceErrorKind, hop: Option<HopKind>| {
        let error = why(place(&way, Some(&connections)), &Command::new("true"));
        assert_eq!((error.kind, error.hop), (kind, hop), "{error}");
        assert!(error.place.starts_with("ssh "), "{error}");
    };
    let ssh = |user| Place::Ssh(ssh(&host, user));
    let docker = |exec: DockerExec| Place::Docker(exec);
    let (sudo, engine) = (Some(HopKind::Sudo), Some(HopKind::Docker));
    check(vec![ssh(User::Pw), Place::Sudo(Sudo::new())], PlaceErrorKind::SudoPasswordNeeded, sudo);
    check(
        vec![ssh(User::App), Place::Sudo(Sudo::new().user("nobody-here"))],
        PlaceErrorKind::UnknownUser,
        sudo,
    );
    check(
        vec![ssh(User::App), Place::Sudo(Sudo::new().program("/no/sudo"))],
        PlaceErrorKind::ClientMissing,
        sudo,
    );
    check(
        vec![ssh(User::Plain), docker(DockerExec::new(&container.name))],
        PlaceErrorKind::EngineDenied,
        engine,
    );
    check(vec![ssh(User::App), docker(DockerExec::new("nothing"))], PlaceErrorKind::NoSuchContainer, engine);
    let missing = DockerExec::new("x").client(["/no/docker"]);
    check(vec![ssh(User::App), docker(missing)], PlaceErrorKind::ClientMissing, engine);

    // What the program there says and does stays the program's.
    let full = Executor::new(place(&[ssh(User::App)], Some(&connections))).with_capture(1000);
    let done = bounded(full.run(&sh("cat >/dev/full").stdin(Stdin::Bytes(vec![0; 500_000])))).unwrap();
    assert_eq!(done.exit, Exit::Code(1));
    assert!(done.stderr.to_text().contains("No space left"), "{}", done.stderr.to_text());
}
