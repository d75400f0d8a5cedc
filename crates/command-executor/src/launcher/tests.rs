//! The far protocol through real shells, at any depth, with hops that need no other machine.

use super::far::{self, Hop, HopKind, Style};
use super::*;
use crate::command::Stdin;
use crate::event::ProcessEvent;
use crate::executor::{ExecuteError, Executor};
use crate::process::{Exit, ProcessError, write_all};
use proptest::prelude::*;
use rustix::process::Signal;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

/// Wraps as ssh does: joins words with spaces and has a login shell make of them what it makes of them.
struct LoginShell<L> {
    inner: L,
    shell: &'static str,
    noise: String,
}

impl<L: Launcher> LoginShell<L> {
    fn wrap(&self, command: Command) -> Result<Command, LaunchError> {
        let hop = Hop::new(HopKind::Ssh, format!("login {}", self.shell));
        let script = format!("{}exec {} -c \"$*\"", self.noise, self.shell);
        let client = ["sh", "-c", &script, "login"].map(OsString::from).to_vec();
        far::wrap(command, hop, client, Style::Text)
    }
}

impl<L: Launcher> Launcher for LoginShell<L> {
    fn rewrite(&self, command: Command) -> Result<Command, LaunchError> {
        self.inner.rewrite(self.wrap(command)?)
    }

    fn rewrite_to_replace(&self, command: Command, _tty: bool) -> Result<Command, LaunchError> {
        Ok(command)
    }

    fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
        self.inner.launch(&self.wrap(command.clone())?)
    }

    fn pipe(&self, command: &Command) -> Result<ByteStream, LaunchError> {
        self.inner.pipe(command)
    }
}

fn login<L: Launcher>(inner: L) -> LoginShell<L> {
    LoginShell { inner, shell: "sh", noise: String::new() }
}

/// A place so many logins away.
fn deep(depth: usize) -> Box<dyn Launcher> {
    let mut place: Box<dyn Launcher> = Box::new(LocalLauncher::new());
    for _ in 0..depth {
        place = Box::new(login(place));
    }
    place
}

fn bounded<F: Future>(what: F) -> F::Output {
    let late = async {
        async_io::Timer::after(Duration::from_secs(30)).await;
        panic!("it took half a minute");
    };
    smol::block_on(futures_lite::future::or(what, late))
}

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

fn bytes(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => 1u8..=255,
        2 => prop::sample::select(b"'\"\\$`!*?[]{}()<>|&;~# \t\n=%^-@".to_vec()),
    ];
    prop::collection::vec(byte, 0..longest)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn everything_arrives_at_any_depth(
        depth in 1..4usize,
        args in prop::collection::vec(bytes(24), 0..5),
        env in prop::collection::btree_map("[A-Z][A-Z0-9_]{3,9}", bytes(24), 0..4),
        folder in bytes(12),
        stdin in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        clear: bool,
        code in 0..126u8,
    ) {
        let base = tempfile::tempdir().unwrap();
        let mut name: Vec<u8> = folder.into_iter().filter(|byte| *byte != b'/').collect();
        name.push(b'd');
        let folder = base.path().join(OsString::from_vec(name));
        std::fs::create_dir(&folder).unwrap();
        // The environment as the program sees it, its folder, its arguments, its input, then something on stderr.
        let script = r#"tr '\0' '\n' </proc/self/environ | wc -l >&2; for v in $NAMES; do eval "printf '%s\0' \"\$$v\""; done; pwd -P
            for a; do printf '%s\0' "$a"; done; cat; printf 'err\n%s' "$1" >&2; exit $CODE"#;
        let names: Vec<&str> = env.keys().map(String::as_str).collect();
        let mut command = sh(script).arg("zero").args(args.iter().cloned().map(OsString::from_vec));
        if clear {
            command = command.env_clear().env("PATH", "/usr/bin:/bin");
        }
        command = command
            .envs(env.iter().map(|(name, value)| (name.clone(), OsString::from_vec(value.clone()))))
            .env("NAMES", names.join(" ")).env("CODE", code.to_string())
            .current_dir(&folder);
        if let Some(stdin) = &stdin {
            command = command.stdin(Stdin::Bytes(stdin.clone()));
        }
        let (near, far) = bounded(async {
            let near = Executor::new(LocalLauncher::new()).run(&command).await.unwrap();
            let far = Executor::new(deep(depth)).run(&command).await.unwrap();
            (near, far)
        });
        prop_assert_eq!(far.exit, Exit::Code(i32::from(code)));
        prop_assert_eq!(&far.stdout, &near.stdout);
        let tail = |bytes: &[u8]| bytes.split(|byte| *byte == b'\n').skip(1).map(<[u8]>::to_vec).collect::<Vec<_>>();
        prop_assert_eq!(tail(&far.stderr.bytes), tail(&near.stderr.bytes));
        if clear {
            // Not a variable more.
            prop_assert_eq!(&far.stderr.bytes, &near.stderr.bytes);
        }
    }
}

#[test]
fn signals_and_codes_are_told_apart() {
    for (script, exit) in [
        ("exit 0", Exit::Code(0)),
        ("exit 255", Exit::Code(255)),
        ("exit 126", Exit::Code(126)),
        ("exit 127", Exit::Code(127)),
        ("exit 137", Exit::Code(137)),
        ("exit 143", Exit::Code(143)),
        ("exit 130", Exit::Code(130)),
        ("kill -TERM $$", Exit::Signal(15)),
        ("kill -KILL $$", Exit::Signal(9)),
        ("kill -HUP $$", Exit::Signal(1)),
        ("kill -SEGV $$", Exit::Signal(11)),
    ] {
        for stdin in [Stdin::Null, Stdin::Bytes(b"x".to_vec())] {
            let done = bounded(Executor::new(deep(2)).run(&sh(script).stdin(stdin))).unwrap();
            assert_eq!(done.exit, exit, "{script}: {}", done.stderr.to_text());
            assert_eq!(done.stderr.bytes, b"", "{script}: {}", done.stderr.to_text());
        }
    }
}

#[test]
fn every_login_shell_will_do() {
    for shell in ["sh", "dash", "bash", "zsh", "fish", "csh", "tcsh", "mksh", "busybox sh"] {
        let name = shell.split(' ').next().unwrap();
        if !["/bin", "/usr/bin"].iter().any(|folder| std::path::Path::new(folder).join(name).exists()) {
            continue;
        }
        let place =
            LoginShell { inner: LocalLauncher::new(), shell, noise: "echo noise; echo noise >&2; ".into() };
        let command = sh(r#"printf '%s|' "$@" "$A"; cat"#)
            .args(["0", "a'b\\", "$x!\n"])
            .env("A", "*'\n")
            .stdin(Stdin::Bytes(b"in".to_vec()));
        let done = bounded(Executor::new(place).run(&command)).unwrap();
        assert_eq!(done.stdout.to_text(), "a'b\\|$x!\n|*'\n|in", "{shell}");
        assert_eq!(done.stderr.to_text(), "", "{shell}");
    }
}

/// The text of the next line of its output.
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

async fn exit(events: &mut ProcessEvents) -> Exit {
    loop {
        match events.next().await.unwrap() {
            Some(ProcessEvent::Exited(exit)) => return exit,
            Some(_) => {}
            None => panic!("no exit"),
        }
    }
}

/// Whether it runs, zombies aside.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn gone(pid: u32) {
    while lives(pid) {
        async_io::Timer::after(Duration::from_millis(2)).await;
    }
}

/// Forms in which a program reads: nothing, something, and more than it will take.
fn inputs() -> [Stdin; 3] {
    [Stdin::Null, Stdin::Piped, Stdin::Bytes(vec![b'x'; 1_000_000])]
}

#[test]
fn a_signal_reaches_the_whole_group_also_of_a_program_that_does_not_read() {
    for stdin in inputs() {
        bounded(async {
            let script = "trap 'echo caught; kill $!; exit 7' TERM; sleep 600 & echo $!; wait";
            let (handle, mut events) = deep(2).launch(&sh(script).stdin(stdin)).unwrap();
            let child: u32 = line(&mut events).await.parse().unwrap();
            let pid = handle.far_pid().unwrap();
            assert!(lives(pid) && lives(child) && pid != handle.pid());
            assert!(handle.signal(Signal::TERM).unwrap());
            assert_eq!(line(&mut events).await, "caught");
            assert_eq!(exit(&mut events).await, Exit::Code(7));
            assert_eq!(handle.wait().await.unwrap(), Exit::Code(7));
            gone(child).await;
            assert!(!handle.signal(Signal::TERM).unwrap());
        });
    }
}

#[test]
fn interrupts_are_not_ignored() {
    bounded(async {
        let (handle, mut events) = deep(1).launch(&sh("echo up; exec sleep 600")).unwrap();
        line(&mut events).await;
        handle.signal(Signal::INT).unwrap();
        assert_eq!(exit(&mut events).await, Exit::Signal(2));
    });
}

#[test]
fn killing_and_dropping_end_the_tree_there() {
    for stdin in inputs() {
        for drops in [false, true] {
            bounded(async {
                let script = "trap '' TERM; sleep 600 & echo $!; wait";
                let (handle, mut events) = deep(2).launch(&sh(script).stdin(stdin.clone())).unwrap();
                let child: u32 = line(&mut events).await.parse().unwrap();
                let pid = handle.far_pid().unwrap();
                if drops {
                    drop(handle);
                } else {
                    assert_eq!(handle.kill().await.unwrap(), Exit::Signal(9));
                }
                gone(pid).await;
                gone(child).await;
            });
        }
    }
}

#[test]
fn the_tree_there_ends_when_the_client_here_is_killed() {
    for stdin in inputs() {
        bounded(async {
            let (handle, mut events) = deep(2).launch(&sh("sleep 600 & echo $!; wait").stdin(stdin)).unwrap();
            let child: u32 = line(&mut events).await.parse().unwrap();
            let pid = handle.far_pid().unwrap();
            // As if this program were killed: nothing is said, only the pipe closes.
            handle.hang_up();
            gone(pid).await;
            gone(child).await;
        });
    }
}

#[test]
fn what_a_program_leaves_in_its_group_ends_with_it() {
    bounded(async {
        let done = Executor::new(deep(1)).run(&sh("sleep 600 >/dev/null 2>&1 & echo $!")).await.unwrap();
        gone(done.stdout.to_text().trim().parse().unwrap()).await;
    });
}

#[test]
fn what_leaves_the_group_does_not_hold_the_command_up() {
    bounded(async {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"setsid sh -c 'while [ -d "$0" ]; do sleep 0.02; done' "$PWD" & echo done"#;
        let done = Executor::new(deep(1)).run(&sh(script).current_dir(folder.path())).await.unwrap();
        assert_eq!((done.stdout.to_text().as_str(), done.exit), ("done\n", Exit::Code(0)));
        assert!(done.elapsed < Duration::from_secs(20));
    });
}

#[test]
fn a_piped_input_is_written_piece_by_piece() {
    bounded(async {
        let (mut handle, mut events) = deep(2).launch(&Command::new("cat").stdin(Stdin::Piped)).unwrap();
        let mut stdin = handle.take_stdin().unwrap();
        futures_lite::AsyncWriteExt::write_all(&mut stdin, b"one\n").await.unwrap();
        assert_eq!(line(&mut events).await, "one");
        futures_lite::AsyncWriteExt::write_all(&mut stdin, b"two\n").await.unwrap();
        assert_eq!(line(&mut events).await, "two");
        drop(stdin);
        assert_eq!(exit(&mut events).await, Exit::Code(0));
    });
}

#[test]
fn much_input_arrives_whole() {
    bounded(async {
        let input: Vec<u8> =
            (0..5_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let counted = Executor::new(LocalLauncher::new())
            .run(&Command::new("cksum").stdin(Stdin::Bytes(input.clone())))
            .await
            .unwrap();
        let place = Executor::new(deep(2));
        let done = place.run(&Command::new("cksum").stdin(Stdin::Bytes(input.clone()))).await.unwrap();
        assert_eq!(done.stdout, counted.stdout);

        let (mut handle, mut events) = deep(2).launch(&Command::new("cksum").stdin(Stdin::Piped)).unwrap();
        let writing = write_all(handle.take_stdin().unwrap(), &input);
        let (written, sum) = futures_lite::future::zip(writing, line(&mut events)).await;
        written.unwrap();
        assert_eq!(sum, counted.stdout.to_text().trim());
        // A program that takes nothing of it isn't held up by it.
        let ignored = place.run(&sh("exec true").stdin(Stdin::Bytes(input))).await.unwrap();
        assert!(ignored.exit.is_success());
    });
}

#[test]
fn much_output_comes_whole_on_both_outputs() {
    bounded(async {
        let script = "yes 0123456789 | head -c 3000000; yes 9876543210 | head -c 3000000 >&2";
        let executor = Executor::new(deep(2)).with_capture(4_000_000);
        let done = executor.run(&sh(script)).await.unwrap();
        assert_eq!((done.stdout.bytes.len(), done.stderr.bytes.len()), (3_000_000, 3_000_000));
        assert!(done.stderr.bytes.chunks(11).all(|line| b"9876543210\n".starts_with(line)));
    });
}

#[test]
fn a_program_can_end_its_group_and_the_shell_there_still_tells() {
    bounded(async {
        let done =
            Executor::new(deep(1)).run(&sh("trap 'exit 5' TERM; kill 0; sleep 600 & wait")).await.unwrap();
        assert_eq!(done.exit, Exit::Code(5));
    });
}

#[test]
fn each_reason_not_to_start_has_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        path
    };
    let plain = file("plain", "text", 0o644);
    let lost = file("lost", "#!/no/such/interpreter\n", 0o755);
    let kind = |command: &Command| match bounded(Executor::new(deep(2)).run(command)) {
        Err(ExecuteError::Launch(LaunchError::Place(error))) => {
            assert_eq!(error.place, "login sh → login sh");
            error.kind
        }
        other => panic!("{other:?}"),
    };
    let missing = Command::new("no-such-program-here");
    assert_eq!(kind(&missing), PlaceErrorKind::ProgramMissing);
    assert_eq!(kind(&missing.stdin(Stdin::Bytes(b"x".to_vec()))), PlaceErrorKind::ProgramMissing);
    assert_eq!(kind(&Command::new(folder.path().join("none"))), PlaceErrorKind::ProgramMissing);
    assert_eq!(kind(&Command::new(lost)), PlaceErrorKind::ProgramMissing);
    assert_eq!(kind(&Command::new(&plain)), PlaceErrorKind::ProgramDenied);
    assert_eq!(kind(&Command::new(folder.path())), PlaceErrorKind::ProgramDenied);
    let within = |folder: &std::path::Path| Command::new("true").current_dir(folder);
    assert_eq!(kind(&within(&folder.path().join("none"))), PlaceErrorKind::FolderMissing);
    assert_eq!(kind(&within(&plain)), PlaceErrorKind::FolderIsNone);
}

#[test]
fn a_client_that_ends_before_the_program_is_an_error_that_tells_what_it_said() {
    struct Broken(&'static str);
    impl Launcher for Broken {
        fn rewrite(&self, command: Command) -> Result<Command, LaunchError> {
            let hop = Hop::new(HopKind::Ssh, "ssh h".into());
            far::wrap(command, hop, ["sh", "-c", self.0].map(OsString::from).to_vec(), Style::Text)
        }
        fn rewrite_to_replace(&self, command: Command, _tty: bool) -> Result<Command, LaunchError> {
            Ok(command)
        }
        fn launch(&self, command: &Command) -> Result<(ProcessHandle, ProcessEvents), LaunchError> {
            LocalLauncher::new().launch(&self.rewrite(command.clone())?)
        }
        fn pipe(&self, command: &Command) -> Result<ByteStream, LaunchError> {
            LocalLauncher::new().pipe(command)
        }
    }
    for (script, kind) in [
        ("echo 'ssh: connect to host h port 22: Connection refused' >&2; exit 255", PlaceErrorKind::Refused),
        ("echo gibberish >&2; exit 255", PlaceErrorKind::Other),
        ("kill -9 $$", PlaceErrorKind::Other),
    ] {
        let (handle, mut events) = Broken(script).launch(&Command::new("true")).unwrap();
        let error = bounded(async {
            loop {
                match events.next().await {
                    Err(ProcessError::Place(error)) => return error,
                    Ok(Some(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        });
        assert_eq!((error.kind, error.place.as_str()), (kind, "ssh h"));
        assert!(bounded(events.next()).unwrap().is_none());
        assert!(matches!(bounded(handle.wait()), Err(ProcessError::Place(_))));
        assert!(error.to_string().contains("can't run true in ssh h: "), "{error}");
    }
}

#[test]
fn the_exit_is_known_to_who_waits_without_reading() {
    bounded(async {
        let (handle, _events) = deep(2).launch(&sh("echo out; echo err >&2; exit 255")).unwrap();
        assert_eq!(handle.wait().await.unwrap(), Exit::Code(255));
    });
}

#[test]
fn any_posix_shell_can_be_the_one_that_stays() {
    for (shell, tells_signals) in [("dash", true), ("bash", true), ("busybox", true), ("zsh", false)] {
        let Some(path) = ["/bin", "/usr/bin"]
            .iter()
            .map(|folder| std::path::Path::new(folder).join(shell))
            .find(|path| path.exists())
        else {
            continue;
        };
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(path, folder.path().join("sh")).unwrap();
        let noise = format!("PATH={}:$PATH; export PATH; ", folder.path().display());
        let place = || LoginShell { inner: LocalLauncher::new(), shell: "sh", noise: noise.clone() };
        let script = r#"printf '%s|' "$@" "$A"; cat; echo err >&2; exit 255"#;
        // By its path: the shell of our choice must not be the program too.
        let command = Command::new("/bin/sh")
            .args(["-c", script, "0", "a'b\\", "$x!\n"])
            .env("A", "*'\n")
            .env("LC_ALL", "xx_XX")
            .current_dir("/");
        for input in inputs() {
            let text = if let Stdin::Bytes(bytes) = &input {
                String::from_utf8(bytes.clone()).unwrap()
            } else {
                String::new()
            };
            if input == Stdin::Piped {
                continue;
            }
            let done = bounded(Executor::new(place()).run(&command.clone().stdin(input))).unwrap();
            assert_eq!(done.stdout.to_text(), format!("a'b\\|$x!\n|*'\n|{text}"), "{shell}");
            assert_eq!((done.stderr.to_text().as_str(), done.exit), ("err\n", Exit::Code(255)), "{shell}");
        }
        if tells_signals {
            for (script, exit) in [("exit 143", Exit::Code(143)), ("kill -TERM $$", Exit::Signal(15))] {
                let done = bounded(Executor::new(place()).run(&sh(script))).unwrap();
                assert_eq!(done.exit, exit, "{shell}: {script}");
            }
        }
        bounded(async {
            let (handle, mut events) =
                place().launch(&sh("sleep 600 & echo $!; wait").stdin(Stdin::Piped)).unwrap();
            let child: u32 = line(&mut events).await.parse().unwrap();
            handle.signal(Signal::TERM).unwrap();
            gone(child).await;
            drop(handle);
            let (handle, mut events) = place().launch(&sh("sleep 600 & echo $!; wait")).unwrap();
            let child: u32 = line(&mut events).await.parse().unwrap();
            drop(handle);
            gone(child).await;
        });
    }
}

/// Whoever watches for the end of the near end may run later than the program: bash takes its time here for each trap.
#[test]
fn a_near_end_that_is_gone_before_its_watcher_has_run_ends_the_program_too() {
    if !std::path::Path::new("/bin/bash").exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/bash", folder.path().join("sh")).unwrap();
    let slow = format!(
        r#"PATH={}:$PATH; export PATH; exec env 'BASH_FUNC_trap%%=() {{ sleep 0.3; builtin trap "$@"; }}' bash -c "$*"; "#,
        folder.path().display()
    );
    for input in [Stdin::Null, Stdin::Piped] {
        let place = LoginShell { inner: LocalLauncher::new(), shell: "bash", noise: slow.clone() };
        bounded(async {
            let (handle, mut events) = place.launch(&sh("sleep 600 & echo $!; wait").stdin(input)).unwrap();
            let child: u32 = line(&mut events).await.parse().unwrap();
            drop(handle);
            gone(child).await;
        });
    }
}

#[test]
fn a_place_that_never_answers_is_given_up() {
    let hop = Hop::new(HopKind::Docker, "docker exec x".into());
    let client = ["sh", "-c", "exec sleep 600"].map(OsString::from).to_vec();
    let mut command = far::wrap(Command::new("true"), hop, client, Style::Argv).unwrap();
    command.far.as_mut().unwrap().start_within = Duration::from_millis(100);
    match bounded(Executor::new(LocalLauncher::new()).run(&command)) {
        Err(ExecuteError::Launch(LaunchError::Place(error))) => {
            assert_eq!((error.kind, error.hop), (PlaceErrorKind::StartTimedOut, Some(HopKind::Docker)));
        }
        other => panic!("{other:?}"),
    }
}
