//! Bringing up on this machine, with its own shells: what a real host can't be made to do at a chosen moment.

use super::bring::{Script, Stop, Talk};
use super::program::{Program, Programs, own_arch};
use super::*;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A program that is its own agent: it says that it is up.
const AGENT: &str = r#"#!/bin/sh
[ "$1" = --version ] && exit 0
printf '\n%s ready {"build":"b","version":"v","pid":7}\n' "$6"
exec cat
"#;

struct Machine {
    home: tempfile::TempDir,
    programs: Programs,
    known: Vec<Program>,
}

impl Machine {
    fn new(agent: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("programs");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(format!("harness-{}", own_arch())), agent).unwrap();
        let programs = Programs::new(Some(folder));
        let known = async_io::block_on(programs.known()).unwrap();
        Self { home, programs, known }
    }

    /// A login there, with this shell.
    fn login(&self, shell: &[&str]) -> ByteStream {
        let (program, options) = shell.split_first().unwrap();
        let command = Command::new(*program).args(options.iter().copied()).args(["-c", READ]);
        let command = command.env("HOME", self.home.path()).env_remove("XDG_STATE_HOME");
        LocalLauncher::new().pipe(&command.env("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 2")).unwrap()
    }

    async fn bring(&self, stream: ByteStream) -> Result<(bring::Done, Talk<ByteStream>), Stop> {
        let mut talk = Talk::new(stream);
        let link = talk.begin(Script::Bring, "p-1", &self.known, false).await?;
        assert!(["", "10.0.0.1 1 10.0.0.2 2"].contains(&link.as_str()), "{link}");
        let done = talk.bring(&self.known, &self.programs, &|_| {}).await?;
        Ok((done, talk))
    }

    fn bin(&self) -> PathBuf {
        self.home.path().join(".local/state/harness/agents/p-1/bin")
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.bin()).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// The shells that this machine has.
fn shells() -> Vec<Vec<&'static str>> {
    let all = [("dash", vec!["dash"]), ("bash", vec!["bash"]), ("busybox", vec!["busybox", "sh"])];
    let there =
        |name: &str| Path::new("/usr/bin").join(name).exists() || Path::new("/bin").join(name).exists();
    let found: Vec<Vec<&str>> =
        all.into_iter().filter(|(name, _)| there(name)).map(|(_, shell)| shell).collect();
    if found.is_empty() { vec![vec!["sh"]] } else { found }
}

#[test]
fn an_agent_comes_up_in_every_shell_and_its_stream_follows() {
    for shell in shells() {
        async_io::block_on(async {
            let machine = Machine::new(AGENT);
            let (done, _) = machine.bring(machine.login(&shell)).await.unwrap();
            assert!(done.copied.is_some(), "{shell:?}");
            assert_eq!(done.up, Up { build: "b".into(), version: "v".into(), pid: 7 });
            let (done, talk) = machine.bring(machine.login(&shell)).await.unwrap();
            assert_eq!(done.copied, None, "{shell:?}");
            let mut stream = talk.into_stream();
            stream.write_all(b"\0\xff\n").await.unwrap();
            let mut back = [0; 3];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"\0\xff\n");
            assert_eq!(machine.files().len(), 1);
        });
    }
}

#[test]
fn a_machine_with_nothing_but_busybox_will_do() {
    let busybox = test_hosts::require!(test_hosts::program("busybox", "busybox-static"));
    let machine = Machine::new(AGENT);
    let tools = machine.home.path().join("tools");
    fs::create_dir(&tools).unwrap();
    for tool in "sh cat chmod df grep gzip head id ln ls mkdir mv printf rm rmdir sed sha256sum sync tr uname"
        .split(' ')
    {
        std::os::unix::fs::symlink(&busybox, tools.join(tool)).unwrap();
    }
    async_io::block_on(async {
        for (gone, form) in [(None, "gzip"), (Some("gzip"), "plain")] {
            if let Some(tool) = gone {
                fs::remove_file(tools.join(tool)).unwrap();
                fs::remove_dir_all(machine.bin()).unwrap();
            }
            let login = || {
                let command = Command::new(tools.join("sh")).args(["-c", READ]).env_clear();
                let command = command.env("PATH", &tools).env("HOME", machine.home.path());
                LocalLauncher::new().pipe(&command).unwrap()
            };
            let (done, _) = machine.bring(login()).await.unwrap();
            assert!(done.copied.is_some(), "{form}");
            let (done, _) = machine.bring(login()).await.unwrap();
            assert_eq!(done.copied, None, "{form}");
        }
    });
}

/// Says what is said up to a part of the program's bytes; the stream, which still waits for the rest.
async fn begin(machine: &Machine, shell: &[&str]) -> ByteStream {
    let mut stream = machine.login(shell);
    stream
        .write_all(bring::line_of(Script::Bring, "m4rk", "p-1", &machine.known, false).as_bytes())
        .await
        .unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("m4rk need") {
        let mut byte = [0; 64];
        let count = stream.read(&mut byte).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&byte[..count]);
    }
    stream.write_all(b"1000000 plain\n1234").await.unwrap();
    stream
}

/// Waits until the machine's files are as wanted.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "never happened: {what}");
        async_io::Timer::after(std::time::Duration::from_millis(2)).await;
    }
}

#[test]
fn a_copy_that_is_cut_off_leaves_nothing_and_a_killed_one_is_swept_away() {
    for shell in shells() {
        async_io::block_on(async {
            let machine = Machine::new(AGENT);
            let stream = begin(&machine, &shell).await;
            until("it copies", || machine.files().len() == 1).await;
            assert!(machine.files()[0].starts_with("new-"), "{:?}", machine.files());
            // The connection ends: so does what is read there.
            let mut stream = stream;
            stream.close().await.unwrap();
            until("nothing is left", || !machine.home.path().join(".local/state/harness").exists()).await;

            let stream = begin(&machine, &shell).await;
            until("it copies", || machine.files().len() == 1).await;
            // With SIGKILL, and what it started.
            let shell_there = format!("/proc/{}", stream.pid());
            drop(stream);
            until("it is gone", || !Path::new(&shell_there).exists()).await;
            let (done, _) = machine.bring(machine.login(&shell)).await.unwrap();
            assert!(done.copied.is_some());
            let files = machine.files();
            assert!(files.len() == 1 && files[0].starts_with("harness-"), "{shell:?}: {files:?}");
        });
    }
}

#[test]
fn what_is_there_is_kept_as_long_as_somebody_runs_it() {
    let machine = Machine::new(AGENT);
    async_io::block_on(async {
        let (_, talk) = machine.bring(machine.login(&["sh"])).await.unwrap();
        drop(talk);
        let old = machine.bin().join("harness-0123456789abcdef");
        fs::copy("/bin/sleep", &old).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o700)).unwrap();
        let sleeper = LocalLauncher::new().pipe(&Command::new(&old).arg("1000")).unwrap();
        let (_, talk) = machine.bring(machine.login(&["sh"])).await.unwrap();
        drop(talk);
        assert!(old.exists(), "it runs");
        let pid = sleeper.pid();
        drop(sleeper);
        until("it is gone", || fs::read_link(format!("/proc/{pid}/exe")).is_err()).await;
        let (_, talk) = machine.bring(machine.login(&["sh"])).await.unwrap();
        drop(talk);
        assert!(!old.exists(), "nobody runs it");
    });
}

#[test]
fn a_program_that_changes_under_way_is_not_installed() {
    let mut machine = Machine::new(AGENT);
    machine.known[0].hash = Sha256::digest(b"other").iter().map(|byte| format!("{byte:02x}")).collect();
    let stop = async_io::block_on(machine.bring(machine.login(&["sh"]))).map(|_| ()).unwrap_err();
    assert!(matches!(&stop, Stop::Said { kind, .. } if kind == "hash"), "{stop:?}");
    assert!(machine.files().is_empty());
}

#[test]
fn addresses_are_as_sshd_tells_them() {
    let v4 = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    assert_eq!(addresses("10.0.0.1 5000 10.0.0.2 22"), (v4("10.0.0.1"), v4("10.0.0.2")));
    assert_eq!(addresses("::ffff:10.0.0.1 5000 fd00::2 22"), (v4("10.0.0.1"), v4("fd00::2")));
    assert_eq!(addresses("fe80::1%eth0 5000 fe80::2%eth0 22"), (None, None));
    assert_eq!(addresses(""), (None, None));
}

/// An agent that has stopped all when it is told to.
const STOPS: &str = r#"#!/bin/sh
[ "$1" = --version ] && exit 0
[ "$1 $3 $4" = "--state-dir stop -y" ] && { [ -e "$2/stuck" ] && { echo "it is stuck" >&2; exit 1; }; echo "2 stopped" >&2; exit 0; }
printf '\n%s ready {"build":"b","version":"v","pid":7}\n' "$6"
"#;

#[test]
fn an_agent_is_removed_wholly_or_stays_with_what_cant_be_stopped() {
    for shell in shells() {
        async_io::block_on(async {
            let machine = Machine::new(STOPS);
            let remove = async || {
                let mut talk = Talk::new(machine.login(&shell));
                talk.begin(Script::Remove, "p-1", &[], false).await?;
                talk.remove().await
            };
            assert_eq!(remove().await.unwrap(), None, "{shell:?}");
            machine.bring(machine.login(&shell)).await.unwrap();
            let stuck = machine.bin().with_file_name("stuck");
            fs::write(&stuck, "").unwrap();
            let stop = remove().await.unwrap_err();
            assert!(
                matches!(&stop, Stop::Said { kind, text, .. } if kind == "stop" && text == "it is stuck"),
                "{stop:?}"
            );
            fs::remove_file(stuck).unwrap();
            assert_eq!(remove().await.unwrap().as_deref(), Some("2 stopped"), "{shell:?}");
            assert!(!machine.home.path().join(".local/state/harness").exists());
        });
    }
}
