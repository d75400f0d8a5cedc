//! The manifest of a package.

use harness_config::{packed_manifest, read_manifest, render};
use proptest::prelude::*;
use service_registry::package::manifest::Manifest;

const FULL: &str = r#"
name: web
version: 1.2.0
description: Answers on port 80.
service:
  command: bin/web --port "80 81"
  stop: [bin/web, stop]
  ports: [80, {name: admin, port: 8081, protocol: udp}]
  env: {DATABASE: "${db.url}", LEVEL: 3}
  working_dir: config
dependencies:
  db: ">=1.2, <2"
  cache:
requires: {commands: [sh]}
health: {http: "http://localhost/", interval: 10s, timeout: 1m30s, retries: 3, start_period: 500ms}
files:
  - {path: bin/web, size: 3, sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad}
links:
  - {path: bin/w, target: web}
"#;

fn problems(text: &str) -> String {
    let read = read_manifest("manifest.yaml", text);
    assert!(read.manifest.is_none());
    render(&read.diagnostics, &read.sources, false)
}

#[test]
fn a_manifest_is_read_as_people_write_it() {
    let read = read_manifest("manifest.yaml", FULL);
    let manifest =
        read.manifest.unwrap_or_else(|| panic!("{}", render(&read.diagnostics, &read.sources, false)));
    insta::assert_snapshot!(manifest.to_text().unwrap());
}

#[test]
fn what_the_builder_writes_is_read_the_same() {
    let manifest = packed_manifest(FULL).unwrap();
    let text = manifest.to_text().unwrap();
    assert_eq!(packed_manifest(&text).unwrap(), manifest);
    assert_eq!(Manifest::from_text(&text).unwrap(), manifest);
}

#[test]
fn all_problems_at_once_each_with_its_place() {
    let text = r#"
name: ../x
version: v1
servise: {}
service:
  command: bin/web "
  ports: [0, {name: http}, {port: 80}, 80]
  env: {"1 x": y}
  working_dir: ../up
dependencies: {db: new}
requires: {commands: [/bin/sh]}
health: {http: localhost, tcp: 80, interval: soon}
files: [{path: ../x, size: -1, sha256: ab}, {path: /x, size: 1, sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad}]
"#;
    insta::assert_snapshot!(problems(text));
}

#[test]
fn what_is_no_manifest_is_told() {
    for (text, reason) in [
        ("", "is empty"),
        ("[]", "expected a map"),
        ("name: web", "has no `version`"),
        ("name: web\nversion: 1.0.0\nname: other", "twice"),
        ("name: [", "not valid YAML"),
        ("name: web\nversion: 1.0", "three numbers"),
    ] {
        assert!(problems(text).contains(reason), "{text}: {}", problems(text));
    }
    let error = packed_manifest("name: web\nversion: 1.0\nnmae: x").unwrap_err();
    assert_eq!(
        error,
        "manifest.yaml:2:10: invalid value `1.0`: expected a version of three numbers, such as 1.2.3\n\
         manifest.yaml:3:1: a manifest has no key `nmae`: unknown key"
    );
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let read = read_manifest("manifest.yaml", &text);
        render(&read.diagnostics, &read.sources, false);
        prop_assert_eq!(read.manifest.is_none(), !read.diagnostics.is_empty());
    }

    /// A description of any characters comes through, or is told to be wrong.
    #[test]
    fn any_description_comes_through(text in any::<String>()) {
        let mut manifest = packed_manifest(FULL).unwrap();
        manifest.description = Some(text);
        let written = manifest.to_text().unwrap();
        match packed_manifest(&written) {
            Ok(read) => prop_assert_eq!(read, manifest),
            Err(error) => prop_assert!(manifest.problems().len() + error.len() > 0),
        }
    }
}
