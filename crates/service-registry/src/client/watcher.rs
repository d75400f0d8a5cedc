//! List, then watch, then go on where it broke off.

use super::{Client, ClientError, ClientOptions, Driver, Remote, Subscription};
use crate::model::Known;
use crate::registry::{Event, Filter, Item};
use crate::wire::code;
use async_io::Timer;
use futures_lite::FutureExt as _;
use futures_util::future::BoxFuture;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// First pause before the next try.
const FIRST: Duration = Duration::from_millis(10);
/// Longest pause between tries.
const LONGEST: Duration = Duration::from_secs(1);
/// Time for the answer to a subscription.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a [`Watcher`] saw.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// Everything as it is; what was known before is void. Comes first, and again when it was away for too long.
    Snapshot {
        /// The entries, sorted as a listing.
        entries: Vec<Known>,
        /// The revision that they are the state of.
        revision: u64,
    },
    /// A change: each exactly once, in the order of their revisions.
    Event(Arc<Event>),
    /// The connection is lost, or could not be made; it is tried again, and this comes once until it works.
    Lost(ClientError),
}

type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<(Client, Driver), ClientError>> + Send + Sync>;

/// Watches a registry for as long as it is asked to, whatever becomes of connections and servers. Drives its own
/// connections: it needs no spawner.
pub struct Watcher {
    connect: Connect,
    filter: Filter,
    last: Option<u64>,
    connection: Option<Connection>,
    attempt: Option<BoxFuture<'static, Result<Connection, ClientError>>>,
    pause: Duration,
    lost: bool,
}

struct Connection {
    subscription: Subscription,
    driver: Driver,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("filter", &self.filter)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl Watcher {
    /// Watches what the filter wants; with `since` it begins after that revision, if that is still known. `connect` makes
    /// a connection, and is called again whenever one is lost.
    pub fn new(
        filter: Filter,
        since: Option<u64>,
        connect: impl Fn() -> BoxFuture<'static, Result<(Client, Driver), ClientError>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            connect: Box::new(connect),
            filter,
            last: since,
            connection: None,
            attempt: None,
            pause: Duration::ZERO,
            lost: false,
        }
    }

    /// Watches over a Unix socket.
    pub fn unix(path: PathBuf, options: ClientOptions, filter: Filter, since: Option<u64>) -> Self {
        Self::new(filter, since, move || {
            let (path, options) = (path.clone(), options.clone());
            Box::pin(async move { Client::connect_unix(&path, &options).await })
        })
    }

    /// Watches over TCP with TLS.
    pub fn tls(remote: Remote, options: ClientOptions, filter: Filter, since: Option<u64>) -> Self {
        Self::new(filter, since, move || {
            let (remote, options) = (remote.clone(), options.clone());
            Box::pin(async move { Client::connect_tls(&remote, &options).await })
        })
    }

    /// The revision of the last item.
    pub fn revision(&self) -> Option<u64> {
        self.last
    }

    /// The next thing that is seen. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> WatchItem {
        loop {
            let Some(connection) = &mut self.connection else {
                if let Some(error) = self.try_connect().await
                    && !self.lost
                {
                    self.lost = true;
                    return WatchItem::Lost(error);
                }
                continue;
            };
            let Connection { subscription, driver } = connection;
            let item = subscription
                .next()
                .or(async {
                    Pin::new(driver).await;
                    // the subscription has been told, unless it has items left
                    std::future::pending().await
                })
                .await;
            match item {
                Some(Item::Snapshot { entries, revision }) => {
                    self.last = Some(revision);
                    return WatchItem::Snapshot { entries, revision };
                }
                Some(Item::Event(event)) => {
                    self.last = Some(event.revision);
                    return WatchItem::Event(event);
                }
                Some(Item::Dropped { reason, .. }) => {
                    self.connection = None;
                    self.pause = FIRST;
                    self.lost = true;
                    return WatchItem::Lost(ClientError::Closed { reason: reason.to_string() });
                }
                None => self.connection = None,
            }
        }
    }

    /// One attempt, after a pause if the last one failed.
    async fn try_connect(&mut self) -> Option<ClientError> {
        let attempt = self.attempt.get_or_insert_with(|| {
            let connecting = (self.connect)();
            let (filter, since, pause) = (self.filter.clone(), self.last, self.pause);
            Box::pin(async move {
                if !pause.is_zero() {
                    Timer::after(pause).await;
                }
                subscribe(connecting.await?, &filter, since).await
            })
        });
        let outcome = attempt.await;
        self.attempt = None;
        match outcome {
            Ok(connection) => {
                self.connection = Some(connection);
                self.pause = Duration::ZERO;
                self.lost = false;
                None
            }
            Err(error) => {
                self.pause = (self.pause * 2).clamp(FIRST, LONGEST);
                Some(error)
            }
        }
    }
}

async fn subscribe(
    (client, mut driver): (Client, Driver),
    filter: &Filter,
    since: Option<u64>,
) -> Result<Connection, ClientError> {
    let work = async {
        match client.subscribe(filter, since, PATIENCE).await {
            Err(error) if error.code() == Some(code::REVISION_GONE) => {
                client.subscribe(filter, None, PATIENCE).await
            }
            outcome => outcome,
        }
    };
    let drive = async {
        Pin::new(&mut driver).await;
        std::future::pending().await
    };
    let subscription = work.or(drive).await?;
    Ok(Connection { subscription, driver })
}
