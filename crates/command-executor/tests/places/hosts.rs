//! On hosts of their own: faults, and places over two hosts.

use super::*;

/// A host whose silence is noticed within seconds.
fn lively(host: &Host) -> SshHost {
    ssh(host, User::App).keep_alive(Duration::from_secs(1), 2).connect_timeout(Duration::from_secs(3))
}

fn run(place: &impl Launcher, script: &str) -> Result<Finished, ExecuteError> {
    bounded(Executor::new(place).run(&sh(script)))
}

#[test]
fn places_nest_over_two_hosts() {
    let lan = require!(Network::create("nested places"));
    let [a, b] = require!(lan.boot_all([(Suite::Bookworm, "a"), (Suite::Trixie, "b")]));
    let container = require!(Container::new(&b));
    let folder = tempfile::tempdir().unwrap();
    let connections = connections(&folder);
    let there = SshHost::new(b.name()).user("app");
    let way = [
        Place::Ssh(ssh(&a, User::App)),
        Place::Ssh(there.clone()),
        Place::Sudo(Sudo::new()),
        Place::Docker(DockerExec::new(&container.name)),
    ];
    let nested = place(&way, Some(&connections));
    bounded(async {
        everything_arrives(&nested, "ssh, ssh, sudo, docker exec").await;
        life_there(&nested, "ssh, ssh, sudo, docker exec").await;
        death_there(&nested, &b, "ssh, ssh, sudo, docker exec").await;
    });
    let rooted = place(&[way[0].clone(), Place::Sudo(Sudo::new()), way[1].clone()], Some(&connections));
    bounded(everything_arrives(&rooted, "ssh, sudo, ssh"));
    let error =
        why(place(&[way[0].clone(), Place::Ssh(there.port(9))], Some(&connections)), &Command::new("true"));
    assert_eq!(error.kind, PlaceErrorKind::Refused);
    assert_eq!(error.place, format!("ssh app@{} → ssh app@{}:9", a.name(), b.name()));

    // Through a jump host, with our options there too.
    let jump = SshJump { host: a.name().into(), user: Some("app".into()), port: None };
    let behind = ssh(&b, User::App).jump(jump);
    let place = SshLauncher::new(LocalLauncher::new(), behind).with_connections(connections);
    bounded(async {
        everything_arrives(&place, "through a jump host").await;
        let logins = b.sh("ss -Htn state established '( sport = :22 )' | wc -l").unwrap();
        assert_eq!(logins.trim(), "1", "its connection outlives the client that made it");
        place.close().await.unwrap();
    });
}

#[test]
fn a_wrong_password_is_tried_once() {
    let host = require!(Host::boot(Suite::Bookworm, "wrong password"));
    let folder = tempfile::tempdir().unwrap();
    let connections = connections(&folder);
    let way = |password: &str| {
        let sudo = Sudo::new().password(Password::new(password));
        place(&[Place::Ssh(ssh(&host, User::Pw)), Place::Sudo(sudo)], Some(&connections))
    };
    let error = why(way("wrong"), &Command::new("true"));
    assert_eq!((error.kind, error.hop), (PlaceErrorKind::SudoPasswordWrong, Some(HopKind::Sudo)));
    let log = host.sh("journalctl -o cat SYSLOG_IDENTIFIER=sudo").unwrap();
    assert_eq!(log.matches("authentication failure").count(), 1, "{log}");
    assert_eq!(log.matches("1 incorrect password attempt").count(), 1, "{log}");
    assert!(run(&way("pw"), "exit 0").unwrap().exit.is_success());
}

/// Loses the connection to a host in the middle of a command and of a log that is followed, and finds it again.
fn lose(name: &str, lose: impl Fn(&OwnHost), heal: impl Fn(&OwnHost)) {
    let host = require!(Host::boot(Suite::Bookworm, name));
    let folder = tempfile::tempdir().unwrap();
    let connections = connections(&folder);
    let ssh = SshLauncher::new(LocalLauncher::new(), lively(&host)).with_connections(connections);
    let place = SudoLauncher::new(ssh, Sudo::new());
    for script in ["echo up; sleep 600", "while :; do echo up; sleep 0.1; done"] {
        let begun = bounded(async {
            let (handle, mut events) = Executor::new(&place).open(&sh(script)).await.unwrap();
            assert_eq!(line(&mut events).await, "up");
            lose(&host);
            let begun = Instant::now();
            let error = loop {
                match events.next().await {
                    Err(ProcessError::Place(error)) => break error,
                    Ok(Some(ProcessEvent::Stdout(_) | ProcessEvent::Stderr(_))) => {}
                    other => panic!("{name}: {other:?}"),
                }
            };
            assert_eq!(error.kind, PlaceErrorKind::Lost, "{name}: {error}");
            assert!(error.kind.may_have_run());
            assert!(matches!(handle.wait().await, Err(ProcessError::Place(_))));
            begun
        });
        eprintln!("{name}: noticed after {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(10), "{name}");
        if name == "host paused" || name == "network cut" {
            let kind = failure(run(&place, "true")).kind;
            assert!(matches!(kind, PlaceErrorKind::TimedOut | PlaceErrorKind::Unreachable), "{name}: {kind}");
        }
        heal(&host);
        let again = run(&place, "id -u").unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(again.stdout.to_text(), "0\n", "{name}");
    }
    // Nothing of all that runs on.
    host.wait_until("! pgrep -fx 'sleep 600'").unwrap();
}

#[test]
fn a_killed_sshd_is_noticed_and_its_successor_used() {
    lose("sshd killed", |host| drop(host.sh("pkill -KILL sshd; systemctl restart ssh").unwrap()), |_| ());
}

#[test]
fn a_paused_host_is_noticed_and_used_again() {
    lose("host paused", |host| host.pause().unwrap(), |host| host.unpause().unwrap());
}

#[test]
fn a_network_that_is_cut_is_noticed_and_used_again() {
    lose("network cut", |host| host.cut().unwrap(), |host| host.heal().unwrap());
}

#[test]
fn a_host_that_crashes_is_noticed_and_used_again() {
    lose("host crashed", |host| host.crash().unwrap(), |host| host.start().unwrap());
}

#[test]
fn connections_are_few_and_dead_ones_are_replaced() {
    let host = require!(Host::boot(Suite::Trixie, "shared connections"));
    let folder = tempfile::tempdir().unwrap();
    let connections = connections(&folder);
    let place = SshLauncher::new(LocalLauncher::new(), ssh(&host, User::App)).with_connections(connections);
    let there = || host.sh("ss -Htn state established '( sport = :22 )' | wc -l").unwrap().trim().to_owned();
    let many = |count: usize, script: &'static str| {
        let executor = Executor::new(&place);
        let runs = (0..count).map(|_| async { executor.run(&sh(script)).await.map(|done| done.exit) });
        bounded(futures_util::future::join_all(runs))
    };
    let all_well = |exits: Vec<Result<Exit, ExecuteError>>| {
        for exit in exits {
            assert_eq!(exit.unwrap(), Exit::Code(0));
        }
    };
    all_well(many(20, "sleep 0.5"));
    assert_eq!(there(), "3", "20 sessions, 8 on each connection");
    all_well(many(20, "true"));
    assert_eq!(there(), "3");

    // Masters that are killed leave their sockets behind.
    let pids = host_masters(&folder);
    assert_eq!(pids.len(), 3);
    for pid in pids {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    end_of(&folder, "ControlMaster=yes");
    assert!(run(&place, "true").unwrap().exit.is_success());
    all_well(many(20, "true"));

    // So is a session that waits for its command.
    let waiting = processes_with(&folder, "_h_begin");
    for pid in &waiting {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(*pid).unwrap(), Signal::KILL);
    }
    // Until they are dead for whoever asks: what ends hasn't ended yet, and one that is given its command then fails it.
    let over = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    };
    bounded(async {
        while !waiting.iter().all(over) {
            async_io::Timer::after(Duration::from_millis(2)).await;
        }
    });
    assert_eq!(run(&place, "exit 3").unwrap().exit, Exit::Code(3));

    bounded(place.close()).unwrap();
    host.wait_until("[ $(ss -Htn state established '( sport = :22 )' | wc -l) = 0 ]").unwrap();
    assert_eq!(host_masters(&folder), Vec::<i32>::new());

    // A host that allows less. A reload would be over before sshd listens again.
    host.sh("echo MaxSessions 1 >/etc/ssh/sshd_config.d/less.conf && systemctl restart ssh").unwrap();
    all_well(many(4, "sleep 0.2"));
    bounded(place.close()).unwrap();
    host.sh("echo MaxStartups 2:100:3 >/etc/ssh/sshd_config.d/less.conf && systemctl restart ssh").unwrap();
    let direct = SshLauncher::new(LocalLauncher::new(), ssh(&host, User::App));
    let executor = Executor::new(&direct);
    let runs = (0..6).map(|_| async { executor.run(&sh("true")).await.map(|done| done.exit) });
    all_well(bounded(futures_util::future::join_all(runs)));
}

fn host_masters(folder: &tempfile::TempDir) -> Vec<i32> {
    processes_with(folder, "ControlMaster=yes")
}

/// Waits until none of them is left.
fn end_of(folder: &tempfile::TempDir, text: &str) {
    bounded(async {
        while !processes_with(folder, text).is_empty() {
            async_io::Timer::after(Duration::from_millis(2)).await;
        }
    });
}

/// The ssh clients of a test, by the folder of their sockets, that have the text in their arguments.
fn processes_with(folder: &tempfile::TempDir, text: &str) -> Vec<i32> {
    let socket = folder.path().join("c").to_str().unwrap().to_owned();
    let has = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|argv| {
            let argv = String::from_utf8_lossy(&argv);
            argv.starts_with("ssh\0") && argv.contains(text) && argv.contains(&socket)
        })
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(has).collect()
}

#[test]
fn banners_and_noisy_profiles_stay_out_of_what_a_program_says() {
    let host = require!(Host::boot(Suite::Bookworm, "noise"));
    host.sh("echo Welcome >/etc/issue.net; echo 'Banner /etc/issue.net' >/etc/ssh/sshd_config.d/noise.conf; systemctl restart ssh; \
             echo 'echo noise; echo noise >&2' | tee /home/app/.profile >/home/app/.bashrc")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    for connections in [None, Some(connections(&folder))] {
        let place = place(&[Place::Ssh(ssh(&host, User::App))], connections.as_ref());
        bounded(everything_arrives(&place, "noisy host"));
    }
}
