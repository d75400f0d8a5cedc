//! The description of the API: made from the code, and what is served.

use crate::support::{LONG, in_memory, options, soon};
use serde_json::{Value, json};
use service_registry::client::{Client, ClientOptions};
use service_registry::openrpc::{document, problems, registry};
use service_registry::server::{Caller, Limits, NoMethods, Server};
use service_registry::wire::{self, Scope, code};
use smol::block_on;
use std::sync::Arc;

#[test]
fn the_document_is_what_the_code_says_and_what_is_served() {
    let infos = [wire::METHODS];
    let made = document("service-registry", &infos, &registry(), &[code::ALL]);
    assert_eq!(problems(&made, &infos), [""; 0]);
    let text = format!("{made:#}\n");
    if std::env::var_os("UPDATE_OPENRPC").is_some() {
        std::fs::write("openrpc.json", &text).unwrap();
    }
    assert!(text == std::fs::read_to_string("openrpc.json").unwrap(), "run `cargo xtask openrpc`");
    // a test that can't fail is none
    assert_eq!(problems(&made, &[&wire::METHODS[1..]]), ["hello is described and not served"]);

    block_on(soon("it", async {
        let spawner = Arc::new(crate::support::OnSmol);
        let registry = in_memory(options()).await;
        let server = Server::new(registry, Arc::new(NoMethods), spawner, Limits::default());
        let (here, there) = smol::net::unix::UnixStream::pair().unwrap();
        server.connect(there, Caller::host(Scope::Admin)).unwrap();
        let (client, driver) = Client::connect(here, &ClientOptions::default()).await.unwrap();
        driver
            .run(async {
                let served: Value = client.call(wire::RPC_DISCOVER, &json!({}), LONG).await.unwrap();
                assert!(served == made || std::env::var_os("UPDATE_OPENRPC").is_some());
                // each is there, and says of each parameter that is missing which one
                for method in made["methods"].as_array().unwrap() {
                    let name = method["name"].as_str().unwrap();
                    let called = client.call::<_, Value>(name, &json!({}), LONG).await;
                    let code = called.err().and_then(|error| error.code());
                    let needs = method["params"].as_array().unwrap().iter().any(|p| p["required"] == true);
                    assert_eq!(code == Some(code::INVALID_PARAMS), needs, "{name}: {code:?}");
                }
            })
            .await;
    }));
}
