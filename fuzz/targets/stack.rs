//! services.yaml → stack: any text is answered, and what was accepted survives the trip to the daemon.

#![no_main]

use harness_config::{LoadOptions, NoFiles, has_errors, load_str, render, render_stack, to_json};
use libfuzzer_sys::fuzz_target;
use orchestrator::model::Stack;
use std::path::Path;

fuzz_target!(|text: &str| {
    let options = LoadOptions { profiles: vec!["*".into()], ..LoadOptions::default() };
    let loaded = load_str(Path::new("/project/services.yaml"), text, &options, &NoFiles);
    render(&loaded.diagnostics, &loaded.sources, false);
    to_json(&loaded.diagnostics, &loaded.sources);
    assert_eq!(loaded.stack.is_none(), has_errors(&loaded.diagnostics), "a stack or an error, never both");
    let Some(stack) = loaded.stack else { return };
    render_stack(&stack, false);
    let wire = serde_json::to_string(&stack).expect("a stack can be sent");
    let there: Stack = serde_json::from_str(&wire).expect("a stack can be received");
    assert_eq!(there, stack);
});
