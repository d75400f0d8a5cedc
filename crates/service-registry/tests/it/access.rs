//! Who may do what.

use crate::support::{LONG, OnSmol, TestMethods, entry, in_memory, options, soon};
use async_net::unix::UnixStream;
use futures_util::task::Spawn as _;
use serde_json::{Value, json};
use service_registry::client::{Client, ClientOptions};
use service_registry::server::{Caller, Limits, Server};
use service_registry::wire::{self, Scope, code};
use smol::block_on;
use std::sync::Arc;

/// A client of a connection that the host handed in with that scope.
async fn client_with(server: &Server, scope: Scope) -> Client {
    let (near, far) = UnixStream::pair().unwrap();
    server.connect(far, Caller::host(scope)).unwrap();
    let (client, driver) = Client::connect(near, &ClientOptions::default()).await.unwrap();
    OnSmol.spawn_obj(Box::pin(driver).into()).unwrap();
    client
}

#[test]
fn a_caller_does_what_its_scope_allows_and_is_told_what_it_lacks() {
    block_on(soon("it", async {
        let registry = in_memory(options()).await;
        let server = Server::new(registry, Arc::new(TestMethods), Arc::new(OnSmol), Limits::default());
        let new = json!(wire::RegisterParams { entry: entry("web-1"), lease: None });
        for has in [Scope::Read, Scope::Operate, Scope::Admin] {
            let client = client_with(&server, has).await;
            for (method, params, needs, otherwise) in [
                (wire::REGISTRY_LIST, json!({}), Scope::Read, None),
                ("test.echo", json!({}), Scope::Read, None),
                (
                    wire::REGISTRY_REGISTER,
                    new.clone(),
                    Scope::Operate,
                    (has > Scope::Operate).then_some(code::EXISTS),
                ),
                // it is refused before its parameters are looked at
                (wire::REGISTRY_UPDATE, json!({"junk": 1}), Scope::Operate, Some(code::INVALID_PARAMS)),
                ("test.panic", json!({}), Scope::Admin, Some(code::INTERNAL_ERROR)),
            ] {
                let outcome = client.call::<_, Value>(method, &params, LONG).await;
                let code = outcome.as_ref().err().map(|error| error.code().unwrap());
                if needs > has {
                    assert_eq!(code, Some(code::FORBIDDEN), "{method} with {has}");
                    let data = outcome.unwrap_err().rpc().unwrap().data.clone();
                    assert_eq!(data, Some(json!({"needs": needs, "has": has})), "{method} with {has}");
                } else {
                    assert_eq!(code, otherwise, "{method} with {has}");
                }
            }
        }
    }));
}
