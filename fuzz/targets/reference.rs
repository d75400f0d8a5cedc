//! The grammar of `${…}`: any text in any of its places is replaced, kept as a hole, or explained.

#![no_main]

use harness_config::{LoadOptions, NoFiles, has_errors, load_str, render};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &str| {
    // JSON's strings are YAML's double-quoted ones.
    let Ok(quoted) = serde_json::to_string(text) else { return };
    let file = format!(
        "version: '1.0'\nname: fuzz\nservices:\n  db: {{type: process, command: [db], ports: [{{name: http, port: 80}}]}}\n  web: {{type: process, command: [web, {quoted}], env: {{VALUE: {quoted}}}}}\n"
    );
    let env = [("A", "1"), ("EMPTY", ""), ("HOLE", "${db.port}")];
    let options = LoadOptions {
        env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        ..LoadOptions::default()
    };
    let loaded = load_str(Path::new("/project/services.yaml"), &file, &options, &NoFiles);
    render(&loaded.diagnostics, &loaded.sources, false);
    assert_eq!(loaded.stack.is_none(), has_errors(&loaded.diagnostics));
    let Some(stack) = loaded.stack else { return };
    let web = stack.service("web").expect("it was declared");
    let value = web.env.get("VALUE").expect("it was given");
    value.display(true);
    // A variable's value is text, also where it looks like a hole.
    if !text.contains('$') {
        assert_eq!(value.as_literal().as_deref(), Some(text));
    }
    let filled = value.fill(|_| Ok::<_, ()>("x".into()));
    assert!(filled.is_ok());
});
