//! Commands, handles, events and attachers on real processes, on both kinds of runtime.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests are tests")]

use command_executor::attacher::{AttachError, AttachStatus, Attacher, LocalAttacher, LocalTarget};
use command_executor::command::{Command, Stdin};
use command_executor::event::ProcessEvent;
use command_executor::executor::{ExecuteError, Executor};
use command_executor::keeper::ProcessIdentity;
use command_executor::launcher::{LaunchError, Launcher, LocalLauncher};
use command_executor::process::{Exit, write_all};
use rustix::process::Signal;
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process as std_process;
use std::time::{Duration, Instant};

/// Runs a test on smol and on tokio, each within half a minute.
fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    let limited = || async {
        let late = async {
            async_io::Timer::after(Duration::from_secs(30)).await;
            panic!("it took half a minute");
        };
        futures_lite::future::or(test(), late).await;
    };
    smol::block_on(limited());
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(limited());
}

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

fn executor() -> Executor<LocalLauncher> {
    Executor::new(LocalLauncher::new())
}

/// Waits until exactly that process is gone.
async fn gone(process: ProcessIdentity) {
    while process.is_alive() {
        async_io::Timer::after(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_command_tells_what_it_wrote_and_how_it_ended() {
    on_both(|| async {
        let script = r#"printf 'out\n\377'; echo err >&2; echo "$A $B"; pwd; cat; exit 3"#;
        let command =
            sh(script).env("A", "1").env_remove("B").current_dir("/").stdin(Stdin::Bytes(b"in".to_vec()));
        let done = executor().run(&command).await.unwrap();
        assert_eq!(done.exit, Exit::Code(3));
        assert_eq!(done.stdout.bytes, b"out\n\xff1 \n/\nin");
        assert_eq!(done.stderr.bytes, b"err\n");
    });
}

#[test]
fn events_come_in_order_and_the_exit_comes_last() {
    on_both(|| async {
        let (handle, mut events) = executor().start(&sh("echo a; echo b; kill -9 $$")).unwrap();
        let mut seen = Vec::new();
        while let Some(event) = events.next().await.unwrap() {
            seen.push(match event {
                ProcessEvent::Started { pid } => format!("started {}", pid == handle.pid()),
                ProcessEvent::Stdout(line) | ProcessEvent::Stderr(line) => {
                    String::from_utf8(line.text).unwrap()
                }
                ProcessEvent::Exited(exit) => exit.to_string(),
            });
        }
        assert_eq!(seen, ["started true", "a", "b", "signal 9"]);
        assert!(events.next().await.unwrap().is_none());
        assert_eq!(handle.wait().await.unwrap(), Exit::Signal(9));
        assert!(!handle.signal(Signal::TERM).unwrap());
    });
}

#[test]
fn a_timeout_kills_the_whole_group() {
    on_both(|| async {
        let command = sh("sleep 600 & echo $!; wait").timeout(Duration::from_millis(200));
        let begun = Instant::now();
        let error = executor().run(&command).await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(20));
        let ExecuteError::TimedOut { stdout, .. } = error else { panic!("{error:?}") };
        let pid: i32 = stdout.to_text().trim().parse().unwrap();
        while let Ok(process) = ProcessIdentity::of(pid) {
            if !process.is_alive() {
                break;
            }
            async_io::Timer::after(Duration::from_millis(2)).await;
        }
    });
}

#[test]
fn dropping_the_handle_ends_the_group() {
    on_both(|| async {
        let (handle, mut events) = executor().start(&sh("sleep 600 & echo $!; wait")).unwrap();
        let pid = loop {
            if let Some(ProcessEvent::Stdout(line)) = events.next().await.unwrap() {
                break String::from_utf8(line.text).unwrap().parse().unwrap();
            }
        };
        let leader = ProcessIdentity::of(i32::try_from(handle.pid()).unwrap()).unwrap();
        let child = ProcessIdentity::of(pid).unwrap();
        drop(handle);
        gone(leader).await;
        gone(child).await;
    });
}

#[test]
fn what_a_command_leaves_in_its_group_ends_with_it() {
    on_both(|| async {
        let done = executor().run(&sh("sleep 600 & echo $!")).await.unwrap();
        assert_eq!(done.exit, Exit::Code(0));
        let pid: i32 = done.stdout.to_text().trim().parse().unwrap();
        if let Ok(process) = ProcessIdentity::of(pid) {
            gone(process).await;
        }
    });
}

#[test]
fn what_leaves_the_group_does_not_hold_the_command_up() {
    on_both(|| async {
        let folder = tempfile::tempdir().unwrap();
        let go_on = folder.path().join("end");
        let script = r#"setsid sh -c 'while [ -d "$0" ]; do sleep 0.02; done' "$PWD" & echo done"#;
        let begun = Instant::now();
        let done = executor().run(&sh(script).current_dir(folder.path())).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(done.stdout.bytes, b"done\n");
        drop(go_on);
    });
}

#[test]
fn much_output_and_input_at_once_is_bounded_and_does_not_block() {
    on_both(|| async {
        let input = vec![b'x'; 3_000_000];
        let command = Command::new("cat").stdin(Stdin::Bytes(input));
        let done = executor().with_capture(1000).run(&command).await.unwrap();
        assert_eq!((done.stdout.bytes.len(), done.stdout.dropped), (1000, 2_999_000));
        let ignored = sh("exec true").stdin(Stdin::Bytes(vec![0; 1_000_000]));
        assert!(executor().run(&ignored).await.unwrap().exit.is_success());
    });
}

#[test]
fn a_piped_input_is_written_by_the_caller() {
    on_both(|| async {
        let (mut handle, mut events) = executor().start(&Command::new("cat").stdin(Stdin::Piped)).unwrap();
        write_all(handle.take_stdin().unwrap(), b"one\ntwo\n").await.unwrap();
        assert!(handle.take_stdin().is_none());
        let mut lines = Vec::new();
        while let Some(event) = events.next().await.unwrap() {
            if let ProcessEvent::Stdout(line) = event {
                lines.push(line.text);
            }
        }
        assert_eq!(lines, [b"one", b"two"]);
    });
}

#[test]
fn each_reason_not_to_start_has_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, "text").unwrap();
    let broken = folder.path().join("broken");
    fs::write(&broken, "\u{1}\u{2}").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let launch = |command: Command| LocalLauncher::new().launch(&command).map(|_| ()).unwrap_err();
    assert!(matches!(launch(Command::new("no-such-program-here")), LaunchError::NotFound { .. }));
    assert!(matches!(launch(Command::new(&plain)), LaunchError::NotExecutable { .. }));
    assert!(matches!(launch(Command::new(folder.path())), LaunchError::NotExecutable { .. }));
    assert!(matches!(launch(Command::new(&broken)), LaunchError::NotExecutable { .. }));
    for folder in [folder.path().join("missing"), plain] {
        assert!(matches!(launch(Command::new("true").current_dir(folder)), LaunchError::Folder { .. }));
    }
}

#[test]
fn a_launcher_can_be_chosen_at_run_time() {
    on_both(|| async {
        let boxed: Box<dyn Launcher> = Box::new(LocalLauncher::new().with_open_files(64));
        let done = Executor::new(boxed).run(&Command::new("true")).await.unwrap();
        assert!(done.exit.is_success());
        let command = Command::new("ls").arg("-l");
        assert_eq!(LocalLauncher::new().rewrite(command.clone()).unwrap(), command);
    });
}

/// A process that an attacher didn't start, ended with the test.
struct Stranger(std_process::Child);

impl Stranger {
    fn new(program: &Path) -> Self {
        Self(std_process::Command::new(program).arg("600").spawn().unwrap())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_pid_file_is_believed_only_if_it_can_be_true() {
    on_both(|| async {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let attacher = LocalAttacher::new(LocalTarget::PidFile(file.clone()));
        let no = |status| matches!(status, AttachStatus::NotRunning { .. });
        assert!(no(attacher.status().await.unwrap()));
        for text in ["", "abc", "-1", "0"] {
            fs::write(&file, text).unwrap();
            assert!(matches!(attacher.status().await, Err(AttachError::PidFile { .. })), "{text:?}");
        }
        let mut stranger = Stranger::new(Path::new("sleep"));
        fs::write(&file, format!("{}\n", stranger.0.id())).unwrap();
        let AttachStatus::Running { process: Some(process) } = attacher.status().await.unwrap() else {
            panic!("it runs")
        };
        assert_eq!(process.pid, i32::try_from(stranger.0.id()).unwrap());
        // Written long before the process started: its pid was used again.
        let old = std::time::SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        assert!(no(attacher.status().await.unwrap()));
        assert!(!attacher.signal(Signal::KILL).unwrap());
        assert!(stranger.0.try_wait().unwrap().is_none());
    });
}

#[test]
fn a_named_process_is_found_and_stopped_and_its_exit_is_seen() {
    on_both(|| async {
        let folder = tempfile::tempdir().unwrap();
        // A name that nothing else has.
        let name =
            format!("stranger-{}", folder.path().file_name().unwrap().to_str().unwrap().trim_matches('.'));
        let program = folder.path().join(&name);
        let sleep =
            ["/bin/sleep", "/usr/bin/sleep"].into_iter().find(|path| Path::new(path).exists()).unwrap();
        std::os::unix::fs::symlink(sleep, &program).unwrap();
        let attacher = LocalAttacher::new(LocalTarget::Name(name));
        assert!(matches!(attacher.status().await.unwrap(), AttachStatus::NotRunning { .. }));
        let mut stranger = Stranger::new(&program);
        assert!(matches!(attacher.status().await.unwrap(), AttachStatus::Running { process: Some(_) }));
        assert!(matches!(attacher.start().await, Err(AttachError::Unsupported { .. })));
        let second = Stranger::new(&program);
        assert!(
            matches!(attacher.status().await, Err(AttachError::Ambiguous { pids, .. }) if pids.len() == 2)
        );
        drop(second);
        let exited = attacher.exited();
        let (exited, stopped) =
            futures_lite::future::zip(exited, attacher.stop(Duration::from_secs(10))).await;
        exited.unwrap();
        stopped.unwrap();
        assert!(!stranger.0.wait().unwrap().success());
    });
}
