//! All entries from outside, out and in again.

use crate::support::{LONG, Served, copy_store, entry, in_memory, on_disk, options, soon};
use serde_json::{Value, json};
use service_registry::client::{Client, ClientError};
use service_registry::registry::Registry;
use service_registry::server::Limits;
use service_registry::wire::{self, code};
use smol::block_on;

async fn import(client: &Client, export: &Value, replace: bool) -> Result<wire::ImportResult, ClientError> {
    let mut params = export.clone();
    params["replace"] = replace.into();
    client.call(wire::REGISTRY_IMPORT, &params, LONG).await
}

async fn register(client: &Client, instance: &str, lease: Option<wire::LeaseParams>) {
    let params = wire::RegisterParams { entry: entry(instance), lease };
    client.call::<_, wire::RegisterResult>(wire::REGISTRY_REGISTER, &params, LONG).await.unwrap();
}

fn names(registry: &Registry) -> Vec<String> {
    registry.list().entries.iter().map(|entry| entry.instance.clone()).collect()
}

#[test]
fn what_is_exported_comes_back_in_another_registry_and_survives_there() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let registry = in_memory(options()).await;
        registry.put(entry("ours-1")).forget();
        let served = Served::start(folder.path(), registry.clone(), Limits::default());
        let client = served.client().await;
        for name in ["mail-1", "mail-2"] {
            register(&client, name, None).await;
        }
        register(&client, "leased-1", Some(wire::LeaseParams { ttl_ms: 60_000 })).await;
        let export: Value = client.call(wire::REGISTRY_EXPORT, &json!({}), LONG).await.unwrap();
        let instances: Vec<_> =
            export["entries"].as_array().unwrap().iter().map(|entry| entry["instance"].clone()).collect();
        assert_eq!(instances, ["mail-1", "mail-2"], "neither the host's own nor those of leases");

        let (there, path) = (tempfile::tempdir().unwrap(), folder.path().join("there.redb"));
        let other = Served::start(there.path(), on_disk(&path).await, Limits::default());
        let client = other.client().await;
        let done = import(&client, &export, false).await.unwrap();
        assert_eq!((done.imported, done.replaced), (2, 0));
        // as a crash at this moment would leave it
        let copy = copy_store(&path);
        assert_eq!(names(&on_disk(&copy).await), ["mail-1", "mail-2"]);
        let again = import(&client, &export, false).await.unwrap_err();
        assert_eq!(again.code(), Some(code::EXISTS));
        assert_eq!(again.rpc().unwrap().data.as_ref().unwrap()["exist"], json!(["mail-1", "mail-2"]));
        assert_eq!(import(&client, &export, true).await.unwrap().replaced, 2);
    }));
}

#[test]
fn all_is_imported_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let registry = in_memory(options()).await;
        registry.put(entry("ours-1")).forget();
        let served = Served::start(folder.path(), registry.clone(), Limits::default());
        let client = served.client().await;
        register(&client, "leased-1", Some(wire::LeaseParams { ttl_ms: 60_000 })).await;
        let before = (names(&registry), registry.revision());
        let with = |instances: &[&str]| {
            let entries: Vec<_> = instances.iter().map(|name| entry(name)).collect();
            json!({ "schema": 1, "entries": entries })
        };
        let mut bad = with(&["new-1", "new-2"]);
        bad["entries"][1]["instance"] = "a\nb".into();
        for (export, refused) in [
            (with(&["new-1", "ours-1"]), code::NOT_YOURS),
            (with(&["new-1", "leased-1"]), code::NOT_YOUR_LEASE),
            (with(&["new-1", "new-1"]), code::INVALID_ENTRY),
            (bad, code::INVALID_ENTRY),
            (json!({ "schema": 2, "entries": [] }), code::INVALID_PARAMS),
            (json!({ "entries": [] }), code::INVALID_PARAMS),
        ] {
            let error = import(&client, &export, true).await.unwrap_err();
            assert_eq!(error.code(), Some(refused), "{export}");
        }
        assert_eq!((names(&registry), registry.revision()), before, "nothing came in");
    }));
}
