//! Units and portable services of real systemds, 252 and 257, and what brings its own commands.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests are tests")]

mod place;

use command_executor::attacher::{AttachError, AttachStatus, Attacher, ManagedAttacher, UnitAttacher};
use command_executor::command::Command;
use command_executor::event::ProcessEvent;
use command_executor::process::Exit;
use command_executor::target::ManagedService;
use command_executor::target::portable::{
    PortableAttachment, PortableError, PortableStep, SystemdPortable, check as check_portable,
};
use command_executor::target::systemd::{
    ActiveState, Journal, JournalLine, JournalOptions, JournalRange, LoadState, Systemd, SystemdError,
    SystemdService, UnitName, UnitState, check,
};
use place::{Place, here, on, on_as, on_both, on_smol, run, until};
use std::time::Duration;
use test_hosts::{Host, Portable, Suite, require};

/// Units of one test on a shared host, which are gone when this is dropped.
struct Units {
    host: Host,
    place: Place,
    test: String,
}

impl Units {
    fn on(suite: Suite, test: &str) -> Result<Self, test_hosts::Error> {
        let host = Host::shared(suite)?;
        let test = format!("{test}{}", std::process::id());
        Ok(Self { place: on(&host), host, test })
    }

    /// A unit of this test with that text.
    fn unit(&self, name: &str, text: &str) -> SystemdService {
        let name = format!("{}-{name}.service", self.test);
        self.host.write(&format!("/run/systemd/system/{name}"), text).unwrap();
        self.host.exec(&["systemctl", "daemon-reload"]).unwrap();
        SystemdService::new(&name).unwrap()
    }

    async fn state(&self, service: &SystemdService) -> UnitState {
        UnitState::parse_one(&run(&self.place, service.status()).await.stdout.bytes).unwrap()
    }

    async fn try_run(&self, command: Command) -> Result<(), SystemdError> {
        check(&self.place.run(&command).await.unwrap())
    }

    async fn lines(&self, service: &SystemdService, options: &JournalOptions) -> Vec<JournalLine> {
        read(&run(&self.place, service.logs(options)).await.stdout.bytes)
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let script = format!(
            "systemctl kill -s KILL '{0}-*'; systemctl stop '{0}-*'; systemctl reset-failed '{0}-*'; \
             rm -rf /run/systemd/system/{0}-* /tmp/{0}-*; systemctl daemon-reload",
            self.test
        );
        let _ = self.host.sh(&script);
    }
}

fn read(bytes: &[u8]) -> Vec<JournalLine> {
    let (mut buffer, mut journal) = (command_executor::event::LineBuffer::default(), Journal::new());
    let mut lines = Vec::new();
    buffer.push(bytes, |line| lines.extend(journal.push(&line).unwrap()));
    lines
}

fn written(lines: &[JournalLine]) -> Vec<String> {
    let own = lines.iter().filter(|line| !line.is_manager);
    own.map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect()
}

/// Makes a test for each systemd of what is told by its function.
macro_rules! on_each_systemd {
    ($($test:ident)*) => {
        mod systemd_252 {
            $(#[test] fn $test() { super::$test(test_hosts::Suite::Bookworm); })*
        }
        mod systemd_257 {
            $(#[test] fn $test() { super::$test(test_hosts::Suite::Trixie); })*
        }
    };
}

on_each_systemd! {
    a_unit_lives_and_is_known
    what_systemd_refuses_is_typed
    a_units_log_is_read_whole_by_run_and_from_a_place_on
    a_portable_service_is_attached_replaced_and_detached
}

fn a_unit_lives_and_is_known(suite: Suite) {
    let units = require!(Units::on(suite, "life"));
    let web = units.unit("web", "[Service]\nExecStart=/bin/sh -c 'echo up; exec sleep 1000'\n");
    on_smol(async {
        let before = units.state(&web).await;
        assert_eq!((before.load, before.active), (LoadState::Loaded, ActiveState::Inactive));
        assert_eq!((before.main_pid, before.invocation, before.exit), (None, None, None));
        units.try_run(web.start()).await.unwrap();
        let first = units.state(&web).await;
        assert_eq!(
            (first.active, first.sub.as_str(), first.kind.as_str()),
            (ActiveState::Active, "running", "simple")
        );
        assert!(first.main_pid.is_some() && first.started_at.is_some() && first.fragment.is_some());
        units.try_run(web.start()).await.unwrap();
        assert_eq!(units.state(&web).await, first, "a second start changes nothing");

        units.try_run(web.restart()).await.unwrap();
        let second = units.state(&web).await;
        assert!(second.invocation != first.invocation && second.main_pid != first.main_pid);
        assert_eq!(second.restarts, 0, "somebody's, not systemd's");
        units.try_run(web.kill(9)).await.unwrap();
        until(|| async { units.state(&web).await.active == ActiveState::Failed }).await;
        let killed = units.state(&web).await;
        assert_eq!((killed.result.as_str(), killed.exit), ("signal", Some(Exit::Signal(9))));
        units.try_run(web.reset_failed()).await.unwrap();
        assert_eq!(units.state(&web).await.active, ActiveState::Inactive);
        units.try_run(web.stop()).await.unwrap();
    });
}

#[test]
fn many_units_are_asked_for_at_once() {
    let units = require!(Units::on(Suite::Trixie, "many"));
    let one = units.unit("one", "[Service]\nExecStart=/bin/sleep 1000\n");
    let once = units.unit("once", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n");
    on_smol(async {
        units.try_run(one.start()).await.unwrap();
        units.try_run(once.start()).await.unwrap();
        let nosuch = UnitName::new("nosuch-unit").unwrap();
        let status = Systemd::System.status([&one.unit, &nosuch, &once.unit]);
        let all = UnitState::parse(&run(&units.place, status).await.stdout.bytes).unwrap();
        let told: Vec<_> =
            all.iter().map(|unit| (unit.id.as_str(), unit.active, unit.sub.as_str())).collect();
        assert_eq!(
            told,
            [
                (one.unit.as_str(), ActiveState::Active, "running"),
                ("nosuch-unit.service", ActiveState::Inactive, "dead"),
                (once.unit.as_str(), ActiveState::Active, "exited"),
            ]
        );
        assert_eq!((all[1].load, all[2].exit), (LoadState::NotFound, Some(Exit::Code(0))));
    });
}

fn what_systemd_refuses_is_typed(suite: Suite) {
    let units = require!(Units::on(suite, "refusals"));
    let slow = units.unit("slow", "[Service]\nType=notify\nTimeoutStartSec=1\nExecStart=/bin/sleep 100\n");
    let fails = units.unit("fails", "[Service]\nType=oneshot\nExecStart=/bin/false\n");
    let needs = format!("[Unit]\nRequires={0}\nAfter={0}\n[Service]\nExecStart=/bin/true\n", fails.unit);
    let needs = units.unit("needs", &needs);
    let often =
        "[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1000\n[Service]\nExecStart=/bin/sleep 1000\n";
    let often = units.unit("often", often);
    let wrong = units.unit("wrong", "[Service]\nType=oneshot\n");
    let missing = units.unit("missing", "[Service]\nExecStart=/nosuch\n");
    on_smol(async {
        let nosuch = SystemdService::new("nosuch-unit").unwrap();
        for command in [nosuch.start(), nosuch.stop(), nosuch.kill(15), nosuch.restart()] {
            let error = units.try_run(command).await.unwrap_err();
            assert!(
                matches!(&error, SystemdError::NoSuchUnit { unit } if unit == "nosuch-unit.service"),
                "{error:?}"
            );
        }
        let error = units.try_run(slow.start()).await.unwrap_err();
        assert!(
            matches!(&error, SystemdError::JobFailed { why, .. } if why.contains("timeout")),
            "{error:?}"
        );
        let error = units.try_run(fails.start()).await.unwrap_err();
        assert!(
            matches!(&error, SystemdError::JobFailed { unit, .. } if *unit == fails.unit.as_str()),
            "{error:?}"
        );
        let error = units.try_run(needs.start()).await.unwrap_err();
        assert!(
            matches!(&error, SystemdError::DependencyFailed { unit } if *unit == needs.unit.as_str()),
            "{error:?}"
        );
        units.try_run(often.start()).await.unwrap();
        let error = units.try_run(often.restart()).await.unwrap_err();
        assert!(matches!(error, SystemdError::StartLimit { .. }), "{error:?}");
        let error = units.try_run(wrong.start()).await.unwrap_err();
        assert!(matches!(error, SystemdError::BadUnitFile { .. }), "{error:?}");
        let mask = format!("ln -sf /dev/null /run/systemd/system/{}; systemctl daemon-reload", fails.unit);
        units.host.sh(&mask).unwrap();
        let error = units.try_run(fails.start()).await.unwrap_err();
        assert!(matches!(error, SystemdError::Masked { .. }), "{error:?}");
        assert_eq!(units.state(&fails).await.load, LoadState::Masked);

        // A simple service is started before its program is.
        units.try_run(missing.start()).await.unwrap();
        until(|| async { units.state(&missing).await.active == ActiveState::Failed }).await;
        let exit = units.state(&missing).await.exit.unwrap();
        assert_eq!(UnitState::exit_meaning(exit), Some("its program can't be executed"));

        let plain = on_as(&units.host, "plain");
        for command in [often.start(), often.stop(), often.kill(15)] {
            let error = check(&plain.run(&command).await.unwrap()).unwrap_err();
            assert!(matches!(error, SystemdError::PermissionDenied), "{error:?}");
        }
        assert!(UnitState::parse_one(&run(&plain, often.status()).await.stdout.bytes).is_ok());
        let error = check(&plain.run(&often.of_user().start()).await.unwrap()).unwrap_err();
        assert!(
            matches!(error, SystemdError::NoUserManager { .. } | SystemdError::NoSuchUnit { .. }),
            "{error:?}"
        );
    });
}

#[test]
fn a_machine_without_systemd_says_so() {
    // The first process of these tests' machine, or of a container, isn't systemd.
    let scope = require!(test_hosts::Docker::here().and_then(|docker| docker.scope("no systemd")));
    drop(scope);
    if std::fs::read_to_string("/proc/1/comm").unwrap().trim() == "systemd" {
        println!("skipped: this machine was booted with systemd");
        return;
    }
    on_smol(async {
        let web = SystemdService::new("web").unwrap();
        let Ok(finished) = here().run(&web.start()).await else {
            println!("skipped: this machine has no systemctl");
            return;
        };
        let error = check(&finished).unwrap_err();
        assert!(matches!(error, SystemdError::NotBooted), "{error:?}");
    });
}

fn a_units_log_is_read_whole_by_run_and_from_a_place_on(suite: Suite) {
    let units = require!(Units::on(suite, "log"));
    let script = "for n in 10 5000 49152 120000; do head -c $n /dev/zero | tr \"\\\\0\" x; echo; done; printf \"\\\\377\\\\n\"; \
                      echo end >&2; exec sleep 1000";
    let writer =
        units.unit("writer", &format!("[Service]\nExecStart=/bin/sh -c '{}'\n", script.replace('%', "%%")));
    on_smol(async {
        let all = JournalOptions::default();
        units.try_run(writer.start()).await.unwrap();
        let is_written = |lines: &[JournalLine]| written(lines).last().is_some_and(|last| last == "end");
        until(|| async { is_written(&units.lines(&writer, &all).await) }).await;
        let lines = units.lines(&writer, &all).await;
        let bytes: usize =
            lines.iter().map(|line| line.text.iter().filter(|byte| **byte == b'x').count()).sum();
        assert_eq!(bytes, 10 + 5000 + 49152 + 120_000);
        assert!(lines.iter().any(|line| line.text == [0xff]) && lines.iter().any(|line| !line.complete));
        assert!(lines[0].is_manager && lines[0].invocation == units.state(&writer).await.invocation);

        let first_run = lines[0].invocation.clone().unwrap();
        units.try_run(writer.restart()).await.unwrap();
        let second_run = units.state(&writer).await.invocation.unwrap();
        let of = |run: &str| JournalOptions { invocation: Some(run.to_owned()), ..all.clone() };
        until(|| async { is_written(&units.lines(&writer, &of(&second_run)).await) }).await;
        let second = units.lines(&writer, &of(&second_run)).await;
        assert!(second.iter().all(|line| line.invocation.as_deref() == Some(&second_run)));
        let first = units.lines(&writer, &of(&first_run)).await;
        assert_eq!(written(&first), written(&second));

        // What it wrote last: what the manager says of its end may come after the first words of the next run.
        let end = first.iter().rfind(|line| !line.is_manager && line.text == b"end").unwrap();
        let after = JournalRange::After(end.cursor.clone());
        let rest = units.lines(&writer, &JournalOptions { from: after, ..of(&second_run) }).await;
        assert_eq!(written(&rest), written(&second));
        let since = JournalRange::Since(second.last().unwrap().time);
        let rest = units.lines(&writer, &JournalOptions { from: since, ..all.clone() }).await;
        assert_eq!(written(&rest).last().unwrap(), "end");
        assert!(rest.len() < second.len());
        let until = JournalOptions { until: Some(first[0].time), ..all.clone() };
        assert_eq!(units.lines(&writer, &until).await.last().unwrap().time, first[0].time);
        let last = units.lines(&writer, &JournalOptions { tail: Some(2), ..all.clone() }).await;
        assert!(last.len() == 2 && written(&last).last().unwrap() == "end");
    });
}

#[test]
fn an_attached_unit_is_watched_and_its_log_is_followed() {
    let units = require!(Units::on(Suite::Bookworm, "attach"));
    let script = "echo one; trap \"exit 0\" TERM; until [ -e /tmp/GO ]; do sleep 0.05; done; echo two; sleep 1000 & wait";
    let go = format!("{}-go", units.test);
    let web =
        units.unit("web", &format!("[Service]\nExecStart=/bin/sh -c '{}'\n", script.replace("GO", &go)));
    on_both(|| async {
        let attacher = UnitAttacher::new(units.place.clone(), web.clone());
        let AttachStatus::NotRunning { reason } = attacher.status().await.unwrap() else { panic!("it runs") };
        assert_eq!(reason, format!("unit {} is inactive (dead)", web.unit));
        attacher.exited().await.unwrap();
        attacher.start().await.unwrap();
        assert_eq!(attacher.status().await.unwrap(), AttachStatus::Running { process: None });

        let has = |lines: &[command_executor::attacher::AttachedLine], text: &[u8]| {
            lines.iter().any(|line| line.text == text)
        };
        until(|| async { has(&attacher.logs(3).await.unwrap(), b"one") }).await;
        let mut lines = attacher.follow(3).await.unwrap();
        // What systemd says of it comes between.
        while lines.next().await.unwrap().unwrap().text != b"one" {}
        units.host.write(&format!("/tmp/{go}"), "").unwrap();
        while lines.next().await.unwrap().unwrap().text != b"two" {}
        let stop = async { attacher.stop(Duration::from_secs(10)).await.unwrap() };
        futures_lite::future::zip(attacher.exited(), stop).await.0.unwrap();
        units.host.exec(&["rm", &format!("/tmp/{go}")]).unwrap();
        attacher.stop(Duration::ZERO).await.unwrap();
    });
}

#[test]
fn an_attached_unit_that_ignores_its_stop_is_killed_after_the_grace() {
    let units = require!(Units::on(Suite::Bookworm, "stubborn"));
    let script = "trap \"\" TERM; echo up; while :; do sleep 0.1; done";
    let stubborn =
        units.unit("unit", &format!("[Service]\nTimeoutStopSec=600\nExecStart=/bin/sh -c '{script}'\n"));
    on_smol(async {
        let attacher = UnitAttacher::new(units.place.clone(), stubborn);
        attacher.start().await.unwrap();
        until(|| async { attacher.logs(5).await.unwrap().iter().any(|line| line.text == b"up") }).await;
        attacher.stop(Duration::from_millis(300)).await.unwrap();
        let status = attacher.status().await.unwrap();
        assert!(
            matches!(&status, AttachStatus::NotRunning { reason } if reason.contains("signal 9")),
            "{status:?}"
        );
    });
}

#[test]
fn a_unit_that_systemd_restarts_has_not_exited() {
    let units = require!(Units::on(Suite::Trixie, "restarts"));
    let script = "echo up; until [ -e /tmp/GO ]; do sleep 0.05; done; exit 1";
    let go = format!("/tmp/{}-go", units.test);
    let text = format!(
        "[Service]\nRestart=on-failure\nRestartSec=50ms\nExecStart=/bin/sh -c '{}'\n",
        script.replace("/tmp/GO", &go)
    );
    let web = units.unit("web", &text);
    on_smol(async {
        let attacher = UnitAttacher::new(units.place.clone(), web.clone());
        attacher.start().await.unwrap();
        let first = units.state(&web).await;
        let restarted = async {
            units.host.write(&go, "").unwrap();
            until(|| async { units.state(&web).await.restarts > 0 }).await;
            units.host.exec(&["rm", "-f", &go]).unwrap();
            until(|| async { attacher.status().await.unwrap() == AttachStatus::Running { process: None } })
                .await;
        };
        // It goes on waiting while the unit goes through a restart.
        let waited = async {
            attacher.exited().await.unwrap();
            "exited"
        };
        let restarted = async {
            restarted.await;
            "restarted"
        };
        assert_eq!(futures_lite::future::or(restarted, waited).await, "restarted");
        assert!(units.state(&web).await.invocation != first.invocation);
    });
}

fn a_portable_service_is_attached_replaced_and_detached(suite: Suite) {
    let units = require!(Units::on(suite, "portable"));
    let folder = |version: &str| format!("/tmp/{}-images/{}_{version}", units.test, units.test);
    let prefix = format!("{}-app", units.test);
    let unit = format!("{prefix}.service");
    for version in ["1", "2"] {
        let text = format!(
            "[Service]\nExecStart=/usr/bin/busybox sh -c 'echo version {version}; exec /usr/bin/busybox sleep 1000'\n"
        );
        let image =
            Portable { folder: &folder(version), prefix: &prefix, units: &[(&unit, &text)], files: &[] };
        units.host.make_portable(&image).unwrap();
    }
    let service = SystemdService::new(&unit).unwrap();
    let wanted = |version: &str| {
        let mut portable = SystemdPortable::new(folder(version), service.clone());
        portable.runtime = true;
        portable.prefixes = vec![prefix.clone()];
        portable
    };
    let (old, new) = (wanted("1"), wanted("2"));
    on_smol(async {
        let try_run = async |command: Command| check_portable(&units.place.run(&command).await.unwrap());
        assert_eq!(old.step(&units.state(&service).await), PortableStep::Attach);
        try_run(old.attach()).await.unwrap();
        assert_eq!(old.step(&units.state(&service).await), PortableStep::Nothing);
        let error = try_run(new.attach()).await.unwrap_err();
        assert!(matches!(&error, PortableError::UnitExists { unit: there } if *there == unit), "{error:?}");
        units.try_run(service.start()).await.unwrap();
        let log = JournalOptions::default();
        until(|| async { written(&units.lines(&service, &log).await) == ["version 1"] }).await;

        let seen = PortableAttachment::of(&units.state(&service).await).unwrap();
        assert_eq!(seen, PortableAttachment { image: folder("1").into(), runtime: true });
        assert_eq!(new.step(&units.state(&service).await), PortableStep::Reattach(seen.clone()));
        try_run(new.reattach()).await.unwrap();
        assert_eq!(new.step(&units.state(&service).await), PortableStep::Nothing);
        units.try_run(service.restart()).await.unwrap();
        until(|| async { written(&units.lines(&service, &log).await) == ["version 1", "version 2"] }).await;

        let seen = PortableAttachment::of(&units.state(&service).await).unwrap();
        let error = try_run(new.detach(&seen)).await.unwrap_err();
        assert!(matches!(&error, PortableError::UnitActive { unit: there } if *there == unit), "{error:?}");
        units.try_run(service.stop()).await.unwrap();
        let kept = SystemdPortable { runtime: false, ..new.clone() };
        assert_eq!(kept.step(&units.state(&service).await), PortableStep::Replace(seen.clone()));
        try_run(new.detach(&seen)).await.unwrap();
        assert_eq!(units.state(&service).await.load, LoadState::NotFound);
        let error = try_run(new.detach(&seen)).await.unwrap_err();
        assert!(matches!(error, PortableError::NotAttached { .. }), "{error:?}");
        let nosuch = SystemdPortable { image: "/nosuch".into(), ..new.clone() };
        let error = try_run(nosuch.attach()).await.unwrap_err();
        assert!(matches!(&error, PortableError::NoSuchImage { image } if image == "/nosuch"), "{error:?}");
        let error =
            check_portable(&on_as(&units.host, "plain").run(&new.attach()).await.unwrap()).unwrap_err();
        assert!(matches!(error, PortableError::Systemd(SystemdError::PermissionDenied)), "{error:?}");
        let ssh = SystemdPortable::new("/x", SystemdService::new("ssh").unwrap());
        assert_eq!(ssh.step(&units.state(&ssh.service).await), PortableStep::Foreign);
    });
}

#[test]
fn a_service_with_commands_of_its_own_is_watched_started_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let words = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    let service = ManagedService {
        name: "daemon".into(),
        start: words(
            "setsid sh -c 'echo \"$GREETING\" > log; exec sleep 1000' >/dev/null 2>&1 & echo $! > pid",
        ),
        stop: words("kill $(cat pid); while kill -0 $(cat pid) 2>/dev/null; do sleep 0.02; done; rm pid"),
        status: words("test -e pid && kill -0 $(cat pid) || { echo stopped; exit 3; }"),
        logs: Some(words("cat log")),
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        folder: Some(folder.path().to_owned()),
        start_timeout: Duration::from_secs(10),
    };
    on_both(|| async {
        let attacher = ManagedAttacher::new(here(), service.clone());
        let AttachStatus::NotRunning { reason } = attacher.status().await.unwrap() else { panic!("it runs") };
        assert_eq!(reason, "its status command ended with exit code 3: stopped");
        attacher.exited().await.unwrap();
        attacher.start().await.unwrap();
        assert_eq!(attacher.status().await.unwrap(), AttachStatus::Running { process: None });
        until(|| async { attacher.logs(5).await.is_ok_and(|lines| lines.len() == 1) }).await;
        assert_eq!(attacher.logs(5).await.unwrap()[0].text, b"hello");
        let mut lines = attacher.follow(5).await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap().text, b"hello");
        assert_eq!(lines.next().await.unwrap(), None);
        let stop = async { attacher.stop(Duration::from_secs(5)).await.unwrap() };
        futures_lite::future::zip(attacher.exited(), stop).await.0.unwrap();
        assert!(
            matches!(attacher.stop(Duration::ZERO).await, Err(AttachError::Managed(_))),
            "its own command failed"
        );
    });
}

#[test]
fn a_follow_of_the_journal_tells_lines_as_they_come() {
    let units = require!(Units::on(Suite::Trixie, "follow"));
    let web = units.unit("web", "[Service]\nExecStart=/bin/sh -c 'echo up; exec sleep 1000'\n");
    on_smol(async {
        let options = JournalOptions { follow: true, ..JournalOptions::default() };
        let (_handle, mut events) = units.place.start(&web.logs(&options)).unwrap();
        units.try_run(web.start()).await.unwrap();
        let mut journal = Journal::new();
        let line = loop {
            let Some(ProcessEvent::Stdout(line)) = events.next().await.unwrap() else { continue };
            match journal.push(&line).unwrap() {
                Some(line) if !line.is_manager => break line,
                _ => {}
            }
        };
        assert_eq!(line.text, b"up");
        assert_eq!(line.invocation, units.state(&web).await.invocation);
    });
}

/// Runs on a test host, where systemd's processes are this test's neighbours: see below.
#[test]
#[ignore = "runs inside a test host"]
fn inside_a_host_the_end_of_a_units_process_is_seen() {
    on_smol(async {
        let place = here();
        let service = SystemdService::new("watched").unwrap();
        let attacher = UnitAttacher::new(place.clone(), service.clone()).on_this_machine();
        attacher.start().await.unwrap();
        let AttachStatus::Running { process: Some(process) } = attacher.status().await.unwrap() else {
            panic!("its process isn't known");
        };
        assert!(process.is_alive());
        // Systemd starts it again after the first end: that is no exit.
        let kill = async {
            run(&place, service.kill(9)).await;
            until(|| async { attacher.show().await.unwrap().restarts == 1 }).await;
            until(|| async { matches!(attacher.status().await.unwrap(), AttachStatus::Running { .. }) })
                .await;
            assert!(!process.is_alive());
            run(&place, service.stop()).await;
        };
        let (waited, ()) = futures_lite::future::zip(attacher.exited(), kill).await;
        waited.unwrap();
        assert!(matches!(attacher.status().await.unwrap(), AttachStatus::NotRunning { .. }));
    });
}

mod hosts {
    use super::*;

    #[test]
    fn the_end_of_a_units_process_is_seen_on_its_own_machine() {
        let host = require!(Host::boot(Suite::Trixie, "own machine"));
        let text = "[Service]\nRestart=on-failure\nRestartSec=50ms\nExecStart=/bin/sleep 1000\n";
        host.write("/etc/systemd/system/watched.service", text).unwrap();
        host.exec(&["systemctl", "daemon-reload"]).unwrap();
        let binary = std::env::current_exe().unwrap();
        let copied = std::process::Command::new("docker")
            .arg("cp")
            .arg(binary)
            .arg(format!("{}:/usr/local/bin/inside", host.container()))
            .status()
            .unwrap();
        assert!(copied.success());
        let test = "inside_a_host_the_end_of_a_units_process_is_seen";
        let told = host.exec(&["/usr/local/bin/inside", "--ignored", "--exact", test]).unwrap();
        assert!(told.contains("1 passed"), "{told}");
    }
}
