//! A container that somebody else started.

use super::ask::EngineError;
use super::container::{exit_of, told};
use super::engine::{Engine, Notice};
use super::news::{news, removed};
use crate::node::hosted::{Change, Hosted, LogSource, Progress, Seen, Up};
use crate::node::{Launch, StopHow};
use async_channel::Receiver;
use command_executor::target::docker::ContainerState;
use futures_lite::future;
use futures_util::future::BoxFuture;
use service_registry::model::{Execution, Exit};

/// A container that is joined, by its name or id.
pub(in crate::node::hosted) struct Joined {
    engine: Engine,
    name: String,
    run: String,
    notices: Receiver<Notice>,
}

impl Engine {
    /// The run that is somebody else's container.
    pub(in crate::node::hosted) fn joined(&self, launch: &Launch, name: &str) -> Joined {
        Joined {
            notices: self.watch(name, &launch.run),
            engine: self.clone(),
            name: name.to_owned(),
            run: launch.run.clone(),
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.engine.unwatch(&self.name, &self.run);
    }
}

impl Joined {
    async fn look(&self) -> Result<Seen, EngineError> {
        Ok(match self.engine.inspect(&self.name).await? {
            Some(state) if state.status.is_running() => Seen::Up(self.up(&state)),
            Some(state) => Seen::Ended(exit_of(&state)),
            None => Seen::Absent,
        })
    }

    fn up(&self, state: &ContainerState) -> Up {
        Up {
            returning: None,
            execution: Execution::Container {
                id: state.id.clone(),
                image: state.image.clone(),
                pid: state.pid,
                run: Some(self.run.clone()),
            },
            tells_health: state.has_healthcheck,
            health: state.health.as_ref().and_then(told),
            log: LogSource::Container { id: state.id.clone() },
        }
    }
}

impl Hosted for Joined {
    fn start<'a>(&'a self, _: Progress<'a>) -> BoxFuture<'a, Result<Up, String>> {
        Box::pin(async {
            match self.look().await.map_err(|error| error.told())? {
                Seen::Up(up) => Ok(up),
                Seen::Ended(exit) => Err(format!("the container {} doesn't run: {exit}", self.name)),
                Seen::Absent => Err(format!("there is no container {}", self.name)),
            }
        })
    }

    fn find(&self) -> BoxFuture<'_, Result<Seen, String>> {
        Box::pin(async {
            Ok(match self.look().await.map_err(|error| error.told())? {
                Seen::Absent => Seen::Ended(removed()),
                seen => seen,
            })
        })
    }

    fn next(&self) -> BoxFuture<'_, Change> {
        Box::pin(news(&self.notices, None, self))
    }

    /// It goes on without us.
    fn stop(&self, _: StopHow) -> BoxFuture<'_, Result<Exit, String>> {
        Box::pin(future::ready(Ok(Exit::with_code(0))))
    }
}
