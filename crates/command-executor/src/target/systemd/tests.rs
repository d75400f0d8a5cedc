use super::*;
use crate::event::{Line, LineBuffer};
use crate::process::Exit;
use jiff::Timestamp;
use proptest::prelude::*;

const UNITS: [&[u8]; 2] = [
    include_bytes!("../../../tests/samples/systemd/show.252.txt"),
    include_bytes!("../../../tests/samples/systemd/show.257.txt"),
];
const JOURNALS: [&[u8]; 2] = [
    include_bytes!("../../../tests/samples/systemd/journal.252.jsonl"),
    include_bytes!("../../../tests/samples/systemd/journal.257.jsonl"),
];

fn text(command: &Command) -> String {
    command.argv().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn verbs_lower_to_systemctl() {
    let web = SystemdService::new("web").unwrap();
    let mine = web.clone().of_user();
    let table = [
        (web.start(), "systemctl --no-ask-password --no-pager start -- web.service"),
        (web.stop(), "systemctl --no-ask-password --no-pager stop -- web.service"),
        (web.restart(), "systemctl --no-ask-password --no-pager restart -- web.service"),
        (web.kill(15), "systemctl --no-ask-password --no-pager kill --signal 15 -- web.service"),
        (web.reset_failed(), "systemctl --no-ask-password --no-pager reset-failed -- web.service"),
        (mine.start(), "systemctl --user --no-ask-password --no-pager start -- web.service"),
        (Systemd::System.reload(), "systemctl --no-ask-password --no-pager daemon-reload"),
    ];
    for (command, expected) in table {
        assert_eq!(text(&command), expected);
        assert!(command.get_timeout().is_some());
    }
    let other = UnitName::new("b.socket").unwrap();
    let show = text(&Systemd::System.status([&web.unit, &other]));
    assert!(
        show.contains(" show --property Id,LoadState,") && show.ends_with(" -- web.service b.socket"),
        "{show}"
    );
    assert!(!show.contains(",,") && !show.contains(", "), "{show}");
}

#[test]
fn logs_lower_to_journalctl() {
    let web = SystemdService::new("web").unwrap();
    let fields = "--output=json --all --no-pager --output-fields=MESSAGE,PRIORITY,_PID,_LINE_BREAK,\
                  _SYSTEMD_INVOCATION_ID,INVOCATION_ID,USER_INVOCATION_ID";
    let at = Timestamp::from_microsecond(1_795_556_951_376_580).unwrap();
    let all = JournalOptions::default();
    let some = JournalOptions { follow: true, from: JournalRange::Since(at), tail: Some(5), ..all.clone() };
    let run = JournalOptions {
        from: JournalRange::After("s=1;i=2".into()),
        until: Some(at),
        invocation: Some("abc".into()),
        ..all.clone()
    };
    let table = [
        (web.logs(&all), format!("journalctl {fields} --lines=all --unit=web.service")),
        (
            web.logs(&some),
            format!("journalctl {fields} --since=@1795556951.376580 --lines=5 --follow --unit=web.service"),
        ),
        (
            web.logs(&run),
            format!(
                "journalctl {fields} --after-cursor=s=1;i=2 --until=@1795556951.376580 --lines=all \
                 _SYSTEMD_INVOCATION_ID=abc + INVOCATION_ID=abc"
            ),
        ),
        (
            web.clone().of_user().logs(&all),
            format!("journalctl --user {fields} --lines=all --user-unit=web.service"),
        ),
    ];
    for (command, expected) in table {
        assert_eq!(text(&command), expected);
    }
}

#[test]
fn a_name_gets_its_kind_and_what_is_no_name_is_refused() {
    let table =
        [("web", "web.service"), ("a.b", "a.b.service"), ("x.timer", "x.timer"), ("t@1", "t@1.service")];
    for (given, whole) in table {
        assert_eq!(UnitName::new(given).unwrap().as_str(), whole);
    }
    assert_eq!(UnitName::new("app@1.service").unwrap().stem(), "app@1");
    let long = "x".repeat(250);
    for refused in
        ["", "a b", "web*", "web?", "t@", "t@.service", ".service", "-x", "a/b", "a\nb", "@x", &long]
    {
        assert!(UnitName::new(refused).is_err(), "{refused:?}");
    }
}

#[test]
fn units_are_read() {
    for sample in UNITS {
        let units = UnitState::parse(sample).unwrap();
        let told: Vec<String> = units
            .iter()
            .map(|unit| {
                format!(
                    "{} {:?} {:?}/{} {} pid={} exit={:?} {}{}",
                    unit.id,
                    unit.load,
                    unit.active,
                    unit.sub,
                    unit.result,
                    unit.main_pid.is_some(),
                    unit.exit,
                    unit.restart,
                    unit.load_error.as_deref().map(|why| format!(": {why}")).unwrap_or_default(),
                )
            })
            .collect();
        insta::allow_duplicates! { insta::assert_snapshot!(told.join("\n"), @r"
        web.service Loaded Active/running success pid=true exit=None no
        bad.service Loaded Failed/failed exit-code pid=false exit=Some(Code(203)) no
        fails.service Loaded Failed/failed exit-code pid=false exit=Some(Code(3)) no
        killed.service Loaded Failed/failed exit-code pid=false exit=Some(Code(1)) no
        once.service Loaded Active/exited success pid=false exit=Some(Code(0)) no
        slow.service Loaded Failed/failed timeout pid=false exit=Some(Signal(15)) no
        flappy.service Loaded Activating/auto-restart exit-code pid=false exit=Some(Code(1)) on-failure
        wrong.service Loaded Failed/failed exit-code pid=false exit=Some(Code(203)) no
        masked.service Masked Inactive/dead success pid=false exit=None no: Unit masked.service is masked.
        nosuch.service NotFound Inactive/dead success pid=false exit=None no: Unit nosuch.service not found.
        badset.service BadSetting Inactive/dead success pid=false exit=None no: Unit badset.service has a bad unit file setting.
        cond.service Loaded Inactive/dead success pid=false exit=None no
        "); }
        let web = &units[0];
        assert_eq!(web.fragment.as_deref(), Some("/etc/systemd/system/web.service".as_ref()));
        assert!(web.started_at.is_some() && web.active_since >= web.started_at && web.exited_at.is_none());
        assert_eq!(web.invocation.as_ref().unwrap().len(), 32);
        assert!(web.drop_ins.is_empty() && !web.needs_reload && !web.has_job && web.root.is_none());
        assert_eq!(units[3].exit.and_then(UnitState::exit_meaning), None);
        assert_eq!(units[1].exit.and_then(UnitState::exit_meaning), Some("its program can't be executed"));
    }
}

#[test]
fn times_are_read_with_and_without_parts_of_a_second() {
    for (text, time) in [
        ("Tue 2026-11-24 21:49:08 UTC", Some("2026-11-24T21:49:08Z")),
        ("Tue 2026-11-24 21:49:08.819609 UTC", Some("2026-11-24T21:49:08.819609Z")),
        ("Tue 2026-11-24 21:49:08 CET", None),
        ("n/a", None),
    ] {
        let block = format!("Id=a\nLoadState=loaded\nActiveState=active\nExecMainStartTimestamp={text}\n");
        let unit = UnitState::parse_one(block.as_bytes()).unwrap();
        assert_eq!(unit.started_at.map(|time| time.to_string()).as_deref(), time);
    }
}

fn journal(bytes: &[u8], limit: usize) -> Vec<JournalLine> {
    let (mut buffer, mut journal, mut lines) = (LineBuffer::new(limit), Journal::new(), Vec::new());
    buffer.push(bytes, |line| lines.extend(journal.push(&line).unwrap()));
    assert!(buffer.finish().is_none());
    lines
}

#[test]
fn entries_of_the_journal_are_read_also_in_parts() {
    for sample in JOURNALS {
        let lines = journal(sample, usize::MAX);
        assert_eq!(journal(sample, 700), lines);
        let texts: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(&line.text)).collect();
        assert_eq!(texts, ["Started web.service.", "hello", "err", "\u{1b}[1mbold\u{fffd}"]);
        let managers: Vec<_> = lines.iter().map(|line| line.is_manager).collect();
        assert_eq!(managers, [true, false, false, false]);
        assert!(lines.iter().all(|line| line.complete && line.invocation == lines[0].invocation));
        assert!(lines.windows(2).all(|pair| pair[0].time <= pair[1].time));
    }
}

#[test]
fn a_line_that_journald_cut_is_known_to_go_on() {
    let entry = |rest: &str| {
        format!(r#"{{"__REALTIME_TIMESTAMP":"1795557019662552","__CURSOR":"s=1"{rest}}}"#).into_bytes()
    };
    let cut = JournalLine::parse(&entry(r#","MESSAGE":"xx","_LINE_BREAK":"line-max""#)).unwrap();
    assert!(!cut.complete && cut.text == b"xx");
    let several = JournalLine::parse(&entry(r#","MESSAGE":["a",[98,255]]"#)).unwrap();
    assert_eq!(several.text, b"b\xff");
    assert_eq!(JournalLine::parse(&entry(r#","MESSAGE":null"#)).unwrap().text, b"");
    assert!(JournalLine::parse(b"{}").is_err());
}

#[test]
fn an_entry_without_an_end_is_dropped_and_the_next_is_read() {
    let mut journal = Journal::new();
    let part = Line { text: vec![b'x'; 64 * 1024], complete: false };
    for _ in 0..40 {
        assert_eq!(journal.push(&part).unwrap(), None);
    }
    assert!(journal.push(&Line { text: b"x".to_vec(), complete: true }).is_err());
    let next = br#"{"__REALTIME_TIMESTAMP":"1","__CURSOR":"s=1","MESSAGE":"a"}"#.to_vec();
    assert_eq!(journal.push(&Line { text: next, complete: true }).unwrap().unwrap().text, b"a");
}

#[test]
fn what_systemctl_wrote_is_told_apart() {
    let texts = include_str!("../../../tests/samples/systemd/errors.txt");
    let mut told = String::new();
    for text in texts.split("\n====\n") {
        let error = SystemdError::classify(Exit::Code(1), text.trim());
        let kind = format!("{error:?}").split([' ', '{']).next().unwrap().to_owned();
        let hint = error.hint().map(|hint| format!("\n    {hint}")).unwrap_or_default();
        told.push_str(&format!("{kind}: {error}{hint}\n"));
    }
    insta::assert_snapshot!(told, @r#"
    JobFailed: unit slow.service failed: a timeout was exceeded
        systemctl status slow.service and journalctl -xeu slow.service show why
    Masked: unit masked.service is masked
        allow it: systemctl unmask masked.service
    NoSuchUnit: there is no unit nosuch.service
        systemctl list-unit-files lists what there is; systemctl daemon-reload finds new files
    Other: systemctl failed (exit code 1): Failed to start tmpl@.service: Unit name tmpl@.service is missing the instance name.
    NoSuchUnit: there is no unit nosuch.service
        systemctl list-unit-files lists what there is; systemctl daemon-reload finds new files
    NoSuchUnit: there is no unit nosuch.service
        systemctl list-unit-files lists what there is; systemctl daemon-reload finds new files
    NoSuchUnit: there is no unit nosuch.service
        systemctl list-unit-files lists what there is; systemctl daemon-reload finds new files
    Other: systemctl failed (exit code 1): Failed to parse signal string "NOSUCH".
    NoSuchUnit: there is no unit bad\x20name.service
        systemctl list-unit-files lists what there is; systemctl daemon-reload finds new files
    NoSuchUnit: there is no unit web.socket
        systemctl list-unit-files lists what there is; systemctl daemon-reload finds new files
    PermissionDenied: no permission to do that with systemd's units
        use sudo, a polkit rule for the user, or a unit of the user's own manager
    PermissionDenied: no permission to do that with systemd's units
        use sudo, a polkit rule for the user, or a unit of the user's own manager
    PermissionDenied: no permission to do that with systemd's units
        use sudo, a polkit rule for the user, or a unit of the user's own manager
    NoSuchUnit: there is no unit web.service
        systemctl list-unit-files lists what there is; systemctl daemon-reload finds new files
    NotReachable: systemd can't be reached: Failed to connect to bus: Host is down
    JobFailed: unit pre.service failed: the control process exited with error code
        systemctl status pre.service and journalctl -xeu pre.service show why
    DependencyFailed: a unit that dep.service needs failed
        systemctl status dep.service and journalctl -xeu dep.service show why
    BadUnitFile: the file of unit badset.service has a mistake
        systemd-analyze verify badset.service shows where
    NoUserManager: the user's own systemd can't be reached: Failed to connect to bus: No medium found
        let it run without a login: loginctl enable-linger USER
    NotReachable: systemd can't be reached: Failed to connect to system scope bus via machine transport: Host is down
    DependencyFailed: a unit that dep.service needs failed
        systemctl status dep.service and journalctl -xeu dep.service show why
    NoUserManager: the user's own systemd can't be reached: Failed to connect to user scope bus via local transport: $DBUS_SESSION_BUS_ADDRESS and $XDG_RUNTIME_DIR not defined (consider using --machine=<user>@.host --user to connect to bus of other user)
        let it run without a login: loginctl enable-linger USER
    NoUserManager: the user's own systemd can't be reached: Failed to connect to user scope bus via local transport: No such file or directory
        let it run without a login: loginctl enable-linger USER
    NotBooted: this machine wasn't booted with systemd
        run it as a process or container there
    StartLimit: unit limit.service was started too often
        see why it ends (journalctl -u limit.service), then systemctl reset-failed limit.service
    Cancelled: the job for unit web.service was cancelled by another
    PermissionDenied: no permission to do that with systemd's units
        use sudo, a polkit rule for the user, or a unit of the user's own manager
    "#);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        all_parsers(&bytes);
    }

    #[test]
    fn no_damaged_answer_panics(which in 0usize..4, cut in 0usize..4000, put in any::<u8>()) {
        let mut bytes = [UNITS[0], UNITS[1], JOURNALS[0], JOURNALS[1]][which].to_vec();
        let at = cut % bytes.len();
        bytes[at] = put;
        all_parsers(&bytes);
        bytes.truncate(at);
        all_parsers(&bytes);
    }
}

fn all_parsers(bytes: &[u8]) {
    let _ = UnitState::parse(bytes);
    let _ = JournalLine::parse(bytes);
    let mut journal = Journal::new();
    LineBuffer::new(64).push(bytes, |line| drop(journal.push(&line)));
    let _ = SystemdError::classify(Exit::Code(1), &String::from_utf8_lossy(bytes)).hint();
    let _ = UnitName::new(&String::from_utf8_lossy(bytes));
}
