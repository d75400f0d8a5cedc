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
use service_registry::wire::{MethodInfo, RpcError};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// A time measured on a busy machine: what it was, without what this process's threads were ready to run and others had
/// the processors (the run delay of `/proc/PID/schedstat`). So a bound can be what a quiet machine keeps; on a busy one,
/// where several threads wait at once, it is short.
pub(crate) struct Stopwatch {
    begun: Instant,
    waited: Duration,
}

impl Stopwatch {
    /// Begins now.
    pub(crate) fn start() -> Self {
        Self { begun: Instant::now(), waited: waited() }
    }

    /// The time since, at least zero.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed().saturating_sub(waited().saturating_sub(self.waited))
    }
}

/// How long all threads of this process have waited for a processor; zero where the kernel doesn't say.
fn waited() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let delay = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(delay).sum())
}

/// Processor time that this process has used.
pub(crate) fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
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

/// Copies the files of a store at which nobody writes at this moment. The answer: the copy.
pub(crate) fn copy_store(path: &Path) -> PathBuf {
    let named = |path: &Path, end: &str| PathBuf::from(format!("{}{end}", path.display()));
    let copy = path.with_file_name("copy.redb");
    for end in ["", "-log-0", "-log-1"] {
        std::fs::copy(named(path, end), named(&copy, end)).unwrap();
    }
    copy
}

/// Methods of a host: `test.echo` answers its parameters, `test.size` how many bytes they are, `test.hang` never, `test.panic` breaks off.
pub(crate) struct TestMethods;

impl Methods for TestMethods {
    fn methods(&self) -> &[MethodInfo] {
        const METHODS: &[MethodInfo] = &[
            MethodInfo::read("test.echo"),
            MethodInfo::read("test.size"),
            MethodInfo::operate("test.hang"),
            MethodInfo::admin("test.panic"),
            MethodInfo::read("test.who"),
            MethodInfo::operate("test.upload"),
        ];
        METHODS
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
            "test.size" => Box::pin(std::future::ready(Ok(json!({"size": params.to_string().len()})))),
            "test.upload" => Box::pin(std::future::ready(upload(&ctx, &params))),
            "test.hang" => Box::pin(std::future::pending()),
            "test.who" => {
                Box::pin(
                    async move { Ok(json!({"client": &*ctx.client, "who": ctx.caller.who.to_string()})) },
                )
            }
            _ => Box::pin(async { panic!("as asked") }),
        }
    }
}

/// Takes bytes: `test.upload` answers with the stream, its end with how many they were and their sum. Before it takes any it
/// waits `pause_ms`, and with `fail_after` it gives up after so many.
fn upload(ctx: &CallContext, params: &Value) -> Result<Value, RpcError> {
    let pause = Duration::from_millis(params["pause_ms"].as_u64().unwrap_or(0));
    let most = params["fail_after"].as_u64();
    let stream = ctx.streams.receive(move |mut incoming| async move {
        smol::Timer::after(pause).await;
        let (mut count, mut sum) = (0, 0_u64);
        while let Some(chunk) = incoming.next().await? {
            count += chunk.len() as u64;
            sum += chunk.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            if most.is_some_and(|most| count > most) {
                return Err(RpcError::new(-32050, "too much of it"));
            }
        }
        Ok(json!({"count": count, "sum": sum}))
    })?;
    if params["refuse"] == true {
        return Err(RpcError::new(-32051, "refused all the same"));
    }
    Ok(json!({"stream": stream, "note": "go on"}))
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
