use super::*;

fn good() -> Facts {
    Facts {
        user: Some("app".into()),
        os: Some("Debian GNU/Linux 12 (bookworm)".into()),
        kernel: Some("6.1.0-13-amd64".into()),
        arch: Some("x86_64".into()),
        cpus: Some(2),
        memory_kib: Some(4_028_000),
        open_files: Some(1_048_576),
        folder: Some("/home/app/.local/state/harness".into()),
        folder_there: Some("/home/app".into()),
        free_kib: Some(9_000_000),
        writable: true,
        executable: true,
        ..Facts::default()
    }
}

fn said(facts: &Facts, wanted: &Wanted, clock: Option<Clock>) -> String {
    let line = |finding: Finding| {
        let fix = finding.fix.map(|fix| format!("\n   {fix}")).unwrap_or_default();
        format!("{:?} {}: {}{fix}\n", finding.level, finding.about, finding.text)
    };
    let programs = [("x86_64".to_owned(), "0123456789abcdef".to_owned())];
    judge(facts, wanted, clock, &programs).into_iter().map(line).collect()
}

#[test]
fn a_machine_that_has_all_is_good() {
    let facts = Facts {
        docker: Some("26.1.5".into()),
        compose: Some("2.26.1".into()),
        systemd: Some("257".into()),
        systemd_state: Some("degraded".into()),
        sudo: true,
        agent: Some("0123456789abcdef".into()),
        agent_version: Some("0.1.0".into()),
        agent_pid: Some(4711),
        ..good()
    };
    let wanted = Wanted {
        types: BTreeSet::from(["compose", "systemd"]),
        ports: BTreeSet::from([80, 8080]),
        sudo: true,
        services: Vec::new(),
    };
    let clock = Clock::compare(0, 6_000_000, 10_000_000);
    insta::assert_snapshot!(said(&facts, &wanted, Some(clock)), @r"
    Ok system: Debian GNU/Linux 12 (bookworm), Linux 6.1.0-13-amd64, x86_64, 2 cores, 3.8 GiB of memory
    Ok folder: /home/app/.local/state/harness, 8.6 GiB free
    Ok agent: 0.1.0, pid 4711
    Ok clock: within 5 ms of this machine's
    Ok sudo: without a password
    Ok docker: 26.1.5
    Ok compose: 2.26.1
    Ok systemd: 257, degraded
    Ok ports: 80, 8080 free
    ");
}

#[test]
fn a_machine_that_lacks_all_is_told_what_to_do() {
    let facts = Facts {
        kernel: Some("4.19.0".into()),
        arch: Some("aarch64".into()),
        open_files: Some(512),
        writable: false,
        write_error: Some("mktemp: Read-only file system".into()),
        sudo_error: Some("sudo: a password is required".into()),
        docker_error: Some("permission denied while trying to connect".into()),
        listening: BTreeSet::from([22, 80]),
        ends_processes: true,
        agent: Some("fedcba9876543210".into()),
        agent_version: Some("0.0.9".into()),
        ..good()
    };
    let wanted = Wanted {
        types: BTreeSet::from(["docker", "systemd", "portable"]),
        ports: BTreeSet::from([80, 8080]),
        sudo: true,
        services: Vec::new(),
    };
    let clock = Clock::compare(0, 3_600_000_000_000, 10_000_000);
    insta::assert_snapshot!(said(&facts, &wanted, Some(clock)), @r"
    Error system: Debian GNU/Linux 12 (bookworm), Linux 4.19.0, aarch64, 2 cores, 3.8 GiB of memory
       install Linux 5.10 or later there
    Error program: the machine is aarch64, there are agents for x86_64
       build one: `cargo xtask agent --target aarch64-unknown-linux-musl`, and name its folder in HARNESS_AGENT_DIR
    Error folder: /home/app/.local/state/harness: mktemp: Read-only file system
       let the user write to /home/app, or set XDG_STATE_HOME there
    Ok agent: 0.0.9, doesn't run now, another build than this; it is exchanged when it is used next
    Error clock: 59 min ahead of this machine's
       set it there: `sudo timedatectl set-ntp true`
    Warning limits: at most 512 open files
       raise the hard limit there: `nofile` in /etc/security/limits.conf
    Error sudo: sudo: a password is required
       `app ALL=(ALL) NOPASSWD: ALL` in /etc/sudoers.d/harness there, or no `sudo: true` for the node
    Error sessions: a session that ends takes its processes with it (KillUserProcesses)
       `sudo loginctl enable-linger app` there
    Error docker: permission denied while trying to connect
       let app use it there: `sudo usermod -aG docker app`, then log in anew
    Error systemd: it isn't PID 1 there
       run these services as type process or docker
    Error portablectl: not there
       install it there: `sudo apt-get install systemd-container`
    Warning ports: 80 in use
       see by whom there: `sudo ss -ltnp`; or give the services other ports
    ");
}

#[test]
fn what_isnt_asked_for_isnt_missed() {
    let text = said(&good(), &Wanted::default(), None);
    assert!(!text.contains("Error") && !text.contains("Warning") && !text.contains("docker"), "{text}");
    let forgets = Facts { ends_memory: true, ..good() };
    let some = Wanted { services: vec!["db".into()], ..Wanted::default() };
    assert!(said(&forgets, &some, None).contains("Warning sessions"));
    assert!(!said(&forgets, &Wanted::default(), None).contains("sessions"));
    assert!(!said(&Facts { linger: true, ..forgets }, &some, None).contains("sessions"));
    let cramped = Facts { free_kib: Some(1_000), ..good() };
    assert!(said(&cramped, &Wanted::default(), None).contains("Warning folder"));
    let noexec = Facts { executable: false, ..good() };
    assert!(said(&noexec, &Wanted::default(), None).contains("noexec"));
    let blank = Facts::default();
    assert!(said(&blank, &Wanted::default(), None).contains("Error system"));
}

#[test]
fn clocks_are_compared_no_better_than_the_question_allows() {
    let slow = Clock::compare(0, 2_000_000_000, 4_000_000_000);
    assert_eq!((slow.ahead_ms, slow.uncertain), (0, Duration::from_secs(2)));
    let level = |ms: i64, uncertain: u64| {
        clocks(Clock { ahead_ms: ms, uncertain: Duration::from_millis(uncertain) }).level
    };
    assert_eq!(level(-400, 0), Level::Ok);
    assert_eq!(level(-700, 0), Level::Warning);
    assert_eq!(level(700, 300), Level::Ok, "it may be the way");
    assert_eq!(level(61_000, 100), Level::Error);
    assert_eq!(level(i64::MIN, 0), Level::Error);
}

#[test]
fn kernels_have_versions_in_many_forms() {
    assert_eq!(version("6.18.5"), Some((6, 18)));
    assert_eq!(version("5.10.0-30-amd64"), Some((5, 10)));
    assert_eq!(version("6.1-rc2"), Some((6, 1)));
    assert_eq!(version("what"), None);
}
