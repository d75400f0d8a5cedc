//! What the tests share.

use futures_lite::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::task::{FutureObj, Spawn, SpawnError};
use jiff::Timestamp;
use serde_json::{Value, json};
use service_registry::client::{Client, ClientOptions, Driver};
use service_registry::model::{Entry, State};
use service_registry::registry::{Options, Registry};
use service_registry::server::{CallContext, Limits, Methods, Server, Spawner, UnixListener};
use service_registry::store::{DurableStore, MemoryStore, Store};
use service_registry::wire::RpcError;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longer than anything takes that works.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Spawns on smol's global executor.
pub(crate) struct OnSmol;

impl Spawn for OnSmol {
    fn spawn_obj(&self, future: FutureObj<'static, ()>) -> Result<(), SpawnError> {
        smol::spawn(future).detach();
        Ok(())
    }
}

/// Spawns on a tokio runtime.
pub(crate) struct OnTokio(pub(crate) tokio::runtime::Handle);

impl Spawn for OnTokio {
    fn spawn_obj(&self, future: FutureObj<'static, ()>) -> Result<(), SpawnError> {
        self.0.spawn(future);
        Ok(())
    }
}

/// Fails a test that hangs.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    future
        .or(async {
            smol::Timer::after(LONG).await;
            panic!("{what} did not happen");
        })
        .await
}

pub(crate) fn entry(instance: &str) -> Entry {
    let service = instance.rsplit_once('-').map_or(instance, |(service, _)| service);
    Entry::new(service, instance, Timestamp::UNIX_EPOCH)
}

pub(crate) fn in_state(instance: &str, state: State) -> Entry {
    let mut entry = entry(instance);
    entry.status.state = state;
    entry
}

pub(crate) fn options() -> Options {
    Options::default()
}

pub(crate) async fn in_memory(options: Options) -> Registry {
    Registry::open(Arc::new(MemoryStore::new()), options).await.unwrap()
}

pub(crate) async fn on_disk(path: &Path) -> Registry {
    let store: Arc<dyn Store> = Arc::new(DurableStore::open(path).unwrap());
    Registry::open(store, options()).await.unwrap()
}

/// Methods of a host: `test.echo` answers its parameters, `test.hang` never, `test.panic` breaks off.
pub(crate) struct TestMethods;

impl Methods for TestMethods {
    fn names(&self) -> &[&str] {
        &["test.echo", "test.hang", "test.panic", "test.who"]
    }

    fn ungreeted(&self) -> &[&str] {
        &["test.who"]
    }

    fn call(
        &self,
        ctx: CallContext,
        method: &str,
        params: Value,
    ) -> BoxFuture<'static, Result<Value, RpcError>> {
        match method {
            "test.echo" => Box::pin(async move { Ok(params) }),
            "test.hang" => Box::pin(std::future::pending()),
            "test.who" => Box::pin(async move { Ok(json!({"client": &*ctx.client, "uid": ctx.peer.uid})) }),
            _ => Box::pin(async { panic!("as asked") }),
        }
    }
}

/// A server on a Unix socket in a folder of its own.
pub(crate) struct Served {
    pub(crate) registry: Registry,
    pub(crate) server: Server,
    pub(crate) path: PathBuf,
    accept: Option<smol::Task<()>>,
}

impl Served {
    pub(crate) fn start(folder: &Path, registry: Registry, limits: Limits) -> Self {
        Self::start_on(folder, registry, limits, Arc::new(OnSmol))
    }

    pub(crate) fn start_on(folder: &Path, registry: Registry, limits: Limits, spawner: Spawner) -> Self {
        let path = folder.join("registry.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = Server::new(registry.clone(), Arc::new(TestMethods), spawner, limits);
        let accept = smol::spawn({
            let server = server.clone();
            async move { server.serve_unix(&listener).await.unwrap() }
        });
        Self { registry, server, path, accept: Some(accept) }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect_unix_on(&self.path, &ClientOptions::default(), &OnSmol).await.unwrap()
    }

    pub(crate) async fn client_with_driver(&self) -> (Client, Driver) {
        Client::connect_unix(&self.path, &ClientOptions::default()).await.unwrap()
    }

    /// Shuts down and waits until the socket is gone.
    pub(crate) async fn stop(mut self, grace: Duration) -> usize {
        let cut = self.server.shutdown(grace).await;
        if let Some(accept) = self.accept.take() {
            accept.await;
        }
        assert!(!self.path.exists(), "the socket stayed behind");
        cut
    }
}
