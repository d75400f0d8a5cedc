//! Whatever is written, reading it ends, without a panic.

use crate::support::{Pretend, options, read, read_with};
use proptest::prelude::*;

/// Pieces of which files are made, so that more than the first byte is reached.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("version: '1.0'\n"),
        Just("services:\n"),
        Just("  a:\n"),
        Just("    type: process\n"),
        Just("    command: "),
        Just("tasks:\n"),
        Just("templates:\n"),
        Just("    extends: a\n"),
        Just("    <<: *x\n"),
        Just("&x "),
        Just("*x"),
        Just("${"),
        Just("}"),
        Just("${a.port}"),
        Just("${A:-"),
        Just("$$"),
        Just("'"),
        Just("\""),
        Just("["),
        Just("]"),
        Just("{"),
        Just(": "),
        Just(", "),
        Just("- "),
        Just("\n"),
        Just("ä€😀"),
        Just("|\n"),
        Just(">\n  "),
        Just("#"),
        Just("    ports: [80, {port: auto}]\n"),
        Just("    health_check: {tcp: 80}\n"),
        Just("\t"),
        Just("!!str "),
        Just("~"),
        Just("    dependencies: [a, b]\n"),
        Just("    env: {A: b}\n"),
        Just("---\n"),
        Just("? "),
        Just("\u{feff}"),
        Just("\r\n"),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        let loaded = read(&text);
        harness_config::render(&loaded.diagnostics, &loaded.sources, true);
    }

    #[test]
    fn any_mixture_of_yaml_is_answered(text in pieces()) {
        let loaded = read(&text);
        harness_config::render(&loaded.diagnostics, &loaded.sources, false);
        harness_config::to_json(&loaded.diagnostics, &loaded.sources);
        if let Some(stack) = &loaded.stack {
            harness_config::render_stack(stack, true);
        }
    }

    #[test]
    fn any_bytes_in_a_file_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("services.yaml");
        std::fs::write(&path, bytes).unwrap();
        let loaded = harness_config::load(&path, &options());
        harness_config::render(&loaded.diagnostics, &loaded.sources, false);
    }

    #[test]
    fn any_substitution_is_answered(text in "[$${}A-Za-z.:?+_ '-]{0,60}") {
        let text = format!("version: '1.0'\nservices:\n  a:\n    type: process\n    command: |\n      tool {text}\n");
        let loaded = read(&text);
        harness_config::render(&loaded.diagnostics, &loaded.sources, false);
    }

    #[test]
    fn an_environment_file_never_injects_anything(value in "[^\u{0}]{0,60}") {
        let options = harness_config::LoadOptions {
            overrides: vec![("INJECT".into(), value.clone())],
            ..options()
        };
        let text = "version: '1.0'\nservices:\n  a: {type: process, binary: tool, args: ['${INJECT}'], env: {A: '${INJECT}'}}\n";
        let stack = read_with(text, &options, &Pretend::default()).stack.unwrap();
        let service = stack.service("a").unwrap();
        prop_assert_eq!(service.env["A"].as_literal(), Some(value.clone()));
        let orchestrator::model::Target::Process { args, .. } = &service.target else { panic!() };
        prop_assert_eq!(args[0].as_literal(), Some(value));
    }
}
