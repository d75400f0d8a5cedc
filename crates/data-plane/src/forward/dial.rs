//! Finds the backend for a connection: one after the other, until one takes it.

use crate::forward::balance::Picked;
use crate::forward::listener::Listener;
use crate::plane::{Plane, lock};
use crate::ways;
use crate::ways::stream::Stream;
use orchestrator::network::plane::Way;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a connection waits for a table with a backend for it.
const WAIT: Duration = Duration::from_secs(3);
/// How long backends are tried, in all. One that is being tried then may still take its own time.
const TRY: Duration = Duration::from_secs(10);

/// A connection to a backend.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: Stream,
    /// The backend.
    pub(crate) picked: Picked,
    /// The way that was taken; `None` if it is on this node.
    pub(crate) way: Option<Way>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoBackend {
    #[error("{service} has no instance that serves: none came within {} s", WAIT.as_secs())]
    None { service: String },
    #[error("no instance of {service} answers: {why}")]
    Failed { service: String, why: String },
}

/// Connects to a backend of the listener.
///
/// # Errors
///
/// None took the connection.
pub(crate) async fn dial(plane: &Arc<Plane>, listener: &Listener) -> Result<Dialed, NoBackend> {
    wait_for_backends(listener).await?;
    let deadline = Instant::now() + TRY;
    let mut tried = Vec::new();
    let mut reasons: Vec<String> = Vec::new();
    while Instant::now() < deadline {
        let next = {
            let mut serving = lock(&listener.serving);
            serving.balance.pick(plane.now(), &tried).map(|picked| (picked, serving.table.clone()))
        };
        let Some((picked, table)) = next else { break };
        match ways::dial(plane, &table, &picked.backend).await {
            Ok((stream, way)) => {
                if lock(&listener.serving).balance.succeeded(&picked.backend) {
                    plane.changed();
                }
                return Ok(Dialed { stream, picked, way });
            }
            Err(why) => {
                if lock(&listener.serving).balance.failed(&picked.backend, plane.now(), &why) {
                    plane.changed();
                }
                reasons.push(format!("{}: {why}", picked.backend.instance));
                tried.push(picked.backend.clone());
            }
        }
    }
    Err(NoBackend::Failed { service: listener.service.clone(), why: reasons.join("; ") })
}

async fn wait_for_backends(listener: &Listener) -> Result<(), NoBackend> {
    let mut tables = listener.tables.subscribe();
    let deadline = Instant::now() + WAIT;
    while !lock(&listener.serving).balance.serves() {
        match timeout_at(deadline, tables.changed()).await {
            Ok(Ok(())) => {}
            _ => return Err(NoBackend::None { service: listener.service.clone() }),
        }
    }
    Ok(())
}
