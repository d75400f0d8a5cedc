//! Run records: a damaged one is refused, a good one is the same after it was written again.

#![no_main]

use command_executor::keeper::decode_record;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("run.json");
    match decode_record(path, bytes) {
        Ok(record) => {
            let again = serde_json::to_vec(&record).expect("a record can be written");
            assert_eq!(decode_record(path, &again).expect("what was written is read"), record);
            let _ = record.process();
        }
        Err(error) => drop(error.to_string()),
    }
});
