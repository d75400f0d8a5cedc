//! Files made to hurt: each is answered with an error that says where, quickly.

use crate::support::{options, read};
use harness_config::{LoadOptions, Loaded, load, location, render};
use std::time::{Duration, Instant};

/// The codes of what was found; nothing may take longer than a second.
fn codes(loaded: &Loaded, begin: Instant) -> Vec<&'static str> {
    let text = render(&loaded.diagnostics, &loaded.sources, false);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}\n{}", begin.elapsed(), text.len());
    assert!(loaded.stack.is_none());
    loaded.diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
}

#[track_caller]
fn check(text: &str, code: &str) {
    let begin = Instant::now();
    let loaded = read(text);
    let codes = codes(&loaded, begin);
    assert!(codes.contains(&code), "{codes:?}");
}

#[test]
fn nesting_without_end() {
    check(&"[".repeat(100_000), "too-deep");
    check(&"{a: ".repeat(100_000), "too-deep");
    check(&"- ".repeat(100_000), "too-deep");
    check(&(0..3_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>(), "too-deep");
}

#[test]
fn alias_bombs() {
    let mut text = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_string();
    for (name, previous) in ('b'..='k').zip('a'..) {
        text.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{previous}"); 9].join(",")));
    }
    check(&text, "too-large");
    let mut text = "a: &a {k0: x, k1: x}\n".to_string();
    for (name, previous) in ('b'..='z').zip('a'..) {
        text.push_str(&format!("{name}: &{name} {{l: *{previous}, r: *{previous}}}\n"));
    }
    check(&text, "too-large");
    check("a: &a [*a]\n", "alias");
}

#[test]
fn substitutions_without_end() {
    let open = "${A:-".repeat(100_000);
    check(&format!("version: '1.0'\nname: '{open}'\n"), "unclosed");
    check(&format!("version: '1.0'\nname: '{open}{}'\n", "}".repeat(100_000)), "too-deep");
}

#[test]
fn more_mistakes_than_anyone_reads() {
    let services: String = (0..5_000).map(|n| format!("  s{n}: {{type: docker, foo: 1}}\n")).collect();
    check(&format!("version: '1.0'\nservices:\n{services}"), "unknown-key");
}

#[test]
fn odd_contents() {
    for text in ["", "# nothing\n", "---\n", "~\n", "\u{feff}"] {
        check(text, "empty");
    }
    check("just text\n", "type");
    check("- a\n- b\n", "type");
    check("\0\0\0\0", "syntax");
    check("version: '1.0'\n", "empty");
    check(&"x".repeat(1_000_000), "type");
}

fn load_here(path: &std::path::Path) -> (Loaded, Vec<&'static str>) {
    let begin = Instant::now();
    let loaded = load(path, &LoadOptions::default());
    let codes = codes(&loaded, begin);
    (loaded, codes)
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("services.yaml");
    let (loaded, found) = load_here(&path);
    assert_eq!(found, ["unreadable"]);
    assert!(loaded.diagnostics[0].message.contains("No such file"));
    let (loaded, _) = load_here(folder.path());
    assert!(loaded.diagnostics[0].message.contains("is a directory"), "{}", loaded.diagnostics[0].message);
    std::fs::write(&path, b"version: '1.0'\nname: \xc3\xa4\xff").unwrap();
    let (loaded, _) = load_here(&path);
    assert!(loaded.diagnostics[0].message.contains("line 2, column 8"), "{}", loaded.diagnostics[0].message);
    std::fs::write(&path, vec![b'#'; 9 << 20]).unwrap();
    let (loaded, _) = load_here(&path);
    assert!(loaded.diagnostics[0].message.contains("larger than 8 MiB"));
    let (loaded, _) = load_here(std::path::Path::new("/dev/zero"));
    assert!(loaded.diagnostics[0].message.contains("not a regular file"));
}

#[test]
fn a_file_without_permission() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("services.yaml");
    std::fs::write(&path, "version: '1.0'\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    // root may read everything.
    if std::fs::read(&path).is_err() {
        let (loaded, _) = load_here(&path);
        assert!(loaded.diagnostics[0].message.contains("Permission denied"));
    }
}

#[test]
fn a_long_chain_of_dependencies_needs_no_stack() {
    let services: String = (0..2_000)
        .map(|n| format!("  s{n}: {{type: process, command: tool, dependencies: [s{}]}}\n", (n + 1) % 2_000))
        .collect();
    let begin = Instant::now();
    let loaded = read(&format!("version: '1.0'\nservices:\n{services}"));
    assert_eq!(codes(&loaded, begin), ["cycle"]);
    assert!(loaded.diagnostics[0].message.contains("…"));
    assert_eq!(location(&loaded.diagnostics[0], &loaded.sources).as_deref(), Some("services.yaml:3:53"));
}

#[test]
fn a_thousand_services_are_read_within_a_second() {
    let services: String = (0..1_000)
        .map(|n| {
            format!(
                "  svc{n}:
    type: process
    command: tool ${{TIME:-1000}}
    ports: [{{name: http, port: {}}}]
    env: {{A: x, B: '${{HOME}}', C: '${{self.port.http}}', D: '${{svc{}.port.http}}'}}
    dependencies: {{svc{2}: {{condition: none}}}}
    health_check: {{tcp: '${{self.port}}', interval: 5, retries: 3}}
    restart: {{policy: always, backoff: {{initial: 100ms, max: 30s}}}}
",
                10_000 + n,
                (n + 1) % 1_000,
                (n + 1) % 1_000,
            )
        })
        .collect();
    let text = format!("version: '1.0'\nservices:\n{services}");
    let begin = Instant::now();
    let loaded = crate::support::read_with(&text, &options(), &crate::support::Pretend::default());
    let took = begin.elapsed();
    assert_eq!(render(&loaded.diagnostics, &loaded.sources, false), "");
    assert_eq!(loaded.stack.unwrap().services.len(), 1_000);
    assert!(took < Duration::from_secs(1), "{took:?}");
}
