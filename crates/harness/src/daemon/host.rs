//! What the binary lends to the libraries: a runtime, clocks, limits.

use async_executor::Executor;
use futures_util::task::{FutureObj, Spawn, SpawnError};
use orchestrator::supervisor::Clock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// The runtime: one thread, which is the one that calls [`Host::run`].
pub(super) struct Host {
    executor: Arc<Executor<'static>>,
}

/// Puts tasks on the executor; they live until it is dropped.
struct Tasks(Arc<Executor<'static>>);

impl Spawn for Tasks {
    fn spawn_obj(&self, future: FutureObj<'static, ()>) -> Result<(), SpawnError> {
        self.0.spawn(future).detach();
        Ok(())
    }
}

impl Host {
    pub(super) fn new() -> Self {
        Self { executor: Arc::new(Executor::new()) }
    }

    pub(super) fn spawner(&self) -> Arc<dyn Spawn + Send + Sync> {
        Arc::new(Tasks(self.executor.clone()))
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(task).detach();
    }

    pub(super) async fn run<T>(&self, with: impl Future<Output = T>) -> T {
        self.executor.run(with).await
    }
}

/// Time since boot for decisions, wall time for display.
pub(super) fn clock() -> Clock {
    Arc::new(|| {
        let since_boot = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(since_boot.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(since_boot.tv_nsec).unwrap_or(0);
        (Duration::new(seconds, nanos), jiff::Timestamp::now())
    })
}

/// Takes as many descriptors as the hard limit allows. The answer: the soft limit until now, for those that we start.
pub(crate) fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!("can't raise the limit of open files");
    }
    limit.current
}
