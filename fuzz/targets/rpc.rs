//! JSON-RPC frames, as the server and as the client read them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use service_registry::registry::Filter;
use service_registry::wire::{
    HelloParams, Incoming, RegisterParams, UpdateParams, notification, parse_incoming, parse_request, request,
};

fuzz_target!(|text: &str| {
    if let Ok(found) = parse_request(text) {
        let again = match &found.id {
            Some(id) => request(id, &found.method, &found.params),
            None => notification(&found.method, &found.params),
        };
        let again = parse_request(&again.expect("what was JSON is JSON")).expect("what was a request is one");
        assert_eq!(again, found);
        // The parameters of each method, whatever the method says.
        let _ = serde_json::from_value::<HelloParams>(found.params.clone());
        let _ = serde_json::from_value::<Filter>(found.params.clone());
        let _ = serde_json::from_value::<UpdateParams>(found.params.clone());
        if let Ok(register) = serde_json::from_value::<RegisterParams>(found.params) {
            register.entry.problems();
        }
    }
    if let Ok(Incoming::Answer(_, Err(error))) = parse_incoming(text) {
        let _ = error.to_string();
    }
});
