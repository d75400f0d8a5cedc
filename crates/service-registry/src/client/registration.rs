//! Registers, keeps renewing, and registers anew where that was lost.

use super::{Client, ClientError, ClientOptions, Driver};
use crate::model::Entry;
use crate::registry::LeaseId;
use crate::wire::{self, code};
use async_io::Timer;
use futures_lite::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::time::Duration;

/// First pause before the next try.
const FIRST: Duration = Duration::from_millis(10);
/// Longest pause between tries.
const LONGEST: Duration = Duration::from_secs(1);
/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Renewals in the time that a lease has: two may come to nothing.
const RENEWALS: u32 = 3;

/// What became of a [`Registration`].
#[derive(Clone, Debug)]
pub enum RegistrationNews {
    /// The entry is registered, with this lease: changes of it need that. Comes again after [`RegistrationNews::Lost`].
    Registered(LeaseId),
    /// The entry could not be registered or renewed; that is tried again. Comes once until it works.
    Lost(ClientError),
}

type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<(Client, Driver), ClientError>> + Send + Sync>;

/// Keeps an entry registered with a lease, whatever becomes of connections and servers. Drives its own connections: it needs
/// no spawner.
pub struct Registration {
    connect: Connect,
    entry: Entry,
    ttl: Duration,
    lease: Option<LeaseId>,
    /// Whether the last news were good; `None` before the first.
    well: Option<bool>,
    /// Before the next try.
    pause: Duration,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("instance", &self.entry.instance).finish_non_exhaustive()
    }
}

/// How a connection ended.
enum End {
    /// It was asked to.
    Asked,
    /// Try again with a new one.
    Broken(ClientError),
    /// There is no use in trying.
    Refused(ClientError),
}

impl Registration {
    /// Of this entry, with this time to live (1 s to 24 h). `connect` makes a connection, and is called again whenever one is
    /// lost.
    pub fn new(
        entry: Entry,
        ttl: Duration,
        connect: impl Fn() -> BoxFuture<'static, Result<(Client, Driver), ClientError>> + Send + Sync + 'static,
    ) -> Self {
        Self { connect: Box::new(connect), entry, ttl, lease: None, well: None, pause: Duration::ZERO }
    }

    /// Over a Unix socket.
    pub fn unix(path: PathBuf, options: ClientOptions, entry: Entry, ttl: Duration) -> Self {
        Self::new(entry, ttl, move || {
            let (path, options) = (path.clone(), options.clone());
            Box::pin(async move { Client::connect_unix(&path, &options).await })
        })
    }

    /// Registers and renews until `until` is over, and then removes the entry. `tell` hears what becomes of it. When this is
    /// dropped instead, the entry is lost once its lease is over.
    ///
    /// While somebody else's entry has the name, or this one's of a lease that is not known any more, it waits until that
    /// is lost.
    ///
    /// # Errors
    ///
    /// The server refuses the entry, or the time to live, for good.
    pub async fn run(
        mut self,
        until: impl Future<Output = ()>,
        mut tell: impl FnMut(RegistrationNews),
    ) -> Result<(), ClientError> {
        let mut until = pin!(until);
        loop {
            match self.connection(until.as_mut(), &mut tell).await {
                End::Asked => return Ok(()),
                End::Refused(error) => return Err(error),
                End::Broken(error) => {
                    self.pause = (self.pause * 2).clamp(FIRST, LONGEST);
                    if self.well != Some(false) {
                        self.well = Some(false);
                        tell(RegistrationNews::Lost(error));
                    }
                }
            }
        }
    }

    /// One connection, for as long as it is good.
    async fn connection(
        &mut self,
        mut until: Pin<&mut impl Future<Output = ()>>,
        tell: &mut impl FnMut(RegistrationNews),
    ) -> End {
        let (connecting, pause) = ((self.connect)(), self.pause);
        let connected = async {
            if !pause.is_zero() {
                Timer::after(pause).await;
            }
            Some(connecting.await)
        };
        let asked = async {
            until.as_mut().await;
            None
        };
        let (client, driver) = match connected.or(asked).await {
            // what was registered over an earlier connection lapses by itself
            None => return End::Asked,
            Some(Err(error)) => return End::Broken(error),
            Some(Ok(connection)) => connection,
        };
        driver.run(self.hold(&client, until, tell)).await
    }

    async fn hold(
        &mut self,
        client: &Client,
        mut until: Pin<&mut impl Future<Output = ()>>,
        tell: &mut impl FnMut(RegistrationNews),
    ) -> End {
        loop {
            let step = match &self.lease {
                Some(lease) => self.renew(client, lease.clone()).await,
                None => self.register(client).await,
            };
            if let Err(error) = step {
                return match error.code() {
                    Some(code::INVALID_ENTRY | code::INVALID_PARAMS | code::NOT_YOURS | code::FORBIDDEN) => {
                        End::Refused(error)
                    }
                    _ => End::Broken(error),
                };
            }
            // none: it was removed meanwhile
            let Some(lease) = self.lease.clone() else { continue };
            self.pause = Duration::ZERO;
            if self.well != Some(true) {
                self.well = Some(true);
                tell(RegistrationNews::Registered(lease));
            }
            let pause = async {
                Timer::after(self.ttl / RENEWALS).await;
                false
            };
            let asked = async {
                until.as_mut().await;
                true
            };
            if asked.or(pause).await {
                self.end(client).await;
                return End::Asked;
            }
        }
    }

    async fn register(&mut self, client: &Client) -> Result<(), ClientError> {
        if !client.server().capabilities.iter().any(|method| method == wire::REGISTRY_RENEW) {
            let reason = "the server is of a version that knows no leases".to_owned();
            return Err(ClientError::Closed { reason });
        }
        let ttl_ms = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        let lease = Some(wire::LeaseParams { ttl_ms });
        let params = wire::RegisterParams { entry: self.entry.clone(), lease };
        let result: wire::RegisterResult = self.call(client, wire::REGISTRY_REGISTER, &params).await?;
        self.lease = result.lease.map(|lease| lease.id);
        self.well = None;
        Ok(())
    }

    /// Leaves no lease if the server doesn't know it any more.
    async fn renew(&mut self, client: &Client, lease: LeaseId) -> Result<(), ClientError> {
        let params = wire::RenewParams { instance: self.entry.instance.clone(), lease };
        match self.call::<_, wire::RenewResult>(client, wire::REGISTRY_RENEW, &params).await {
            Err(error) if error.code() == Some(code::NOT_YOUR_LEASE) => {
                self.lease = None;
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }

    async fn end(&mut self, client: &Client) {
        let params = wire::DeregisterParams {
            instance: self.entry.instance.clone(),
            revision: None,
            lease: self.lease.take(),
        };
        let ended = self.call::<_, wire::WriteResult>(client, wire::REGISTRY_DEREGISTER, &params).await;
        if let Err(error) = ended {
            tracing::debug!(%error, instance = self.entry.instance, "it lapses by itself");
        }
    }

    /// Waits no longer for an answer than a lease lasts.
    async fn call<P, R>(&self, client: &Client, method: &str, params: &P) -> Result<R, ClientError>
    where
        P: Serialize,
        R: DeserializeOwned,
    {
        client.call(method, params, PATIENCE.min(self.ttl)).await
    }
}
