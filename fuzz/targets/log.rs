//! Log files: a parser that remembers the second of the line before says the same as one that doesn't.

#![no_main]

use command_executor::log::format::Parser;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut parser = Parser::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        let found = parser.parse(line);
        assert_eq!(found, Parser::default().parse(line));
        if let Some(record) = found {
            assert!(record.text.len() < line.len());
        }
    }
});
