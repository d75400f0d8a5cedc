//! What programs that the host doesn't look after do with entries of their own: register, renew, change, take back.

use super::core::Core;
use super::lease::{Key, LeaseId};
use super::{Change, Inner, Origin, Registry, Written};
use crate::model::{Entry, State};
use crate::store::Batch;
use async_io::Timer;
use futures_lite::FutureExt as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Why an entry from outside isn't changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The instance is registered already.
    #[error("it is registered already")]
    Exists {
        /// Its revision.
        revision: u64,
    },
    /// There is no such instance.
    #[error("there is no such instance")]
    NotFound,
    /// The host looks after it.
    #[error("it is looked after by the server's own program")]
    NotYours,
    /// It is at another revision.
    #[error("it is at revision {current}, not {expected}")]
    Conflict {
        /// The one that was expected.
        expected: u64,
        /// The one that it is at.
        current: u64,
    },
    /// An instance can't go that way.
    #[error("it is {from} and can't become {to}")]
    NotAllowed {
        /// Its state.
        from: State,
        /// The state that was asked for.
        to: State,
    },
    /// Another lease holds it, or none does any more.
    #[error("this isn't the lease that it is held by")]
    NotYourLease,
}

/// A lease whose time began anew.
#[derive(Debug)]
#[must_use = "an entry that was lost is only safely back when `written` is durable"]
pub struct Renewed {
    /// In how long it lapses unless it is renewed again.
    pub ttl: Duration,
    /// Set if the entry was lost, and is back now as it was.
    pub written: Option<Written>,
}

impl Registry {
    /// Registers an entry from outside. With a lease, an id that nobody can guess and a time to live, it must be renewed
    /// by that id within that time, again and again; without one it lives until somebody removes it. An entry that is
    /// lost is replaced.
    ///
    /// # Errors
    ///
    /// [`Refused::Exists`].
    pub fn register(&self, entry: Entry, lease: Option<(&LeaseId, Duration)>) -> Result<Written, Refused> {
        let instance = entry.instance.clone();
        let mut core = self.lock();
        if let Some((current, _)) = core.get(&instance)
            && !core.leases().is_lost(&instance)
        {
            return Err(Refused::Exists { revision: current.revision });
        }
        let mut batch = Batch::new();
        let changed = core.apply(&instance, Change::Put(Box::new(entry), Origin::Outside), &mut batch);
        core.with_leases(|leases, now| match lease {
            Some((id, ttl)) => leases.grant(&instance, Key::of(id), ttl, now, &mut batch),
            None => leases.end(&instance, &mut batch),
        });
        Ok(self.written(&core, changed, batch))
    }

    /// Sets an entry from outside, if it is at this revision and held by this lease; each where there is one. That renews
    /// the lease too.
    ///
    /// # Errors
    ///
    /// Every one of [`Refused`] but [`Refused::Exists`].
    pub fn replace(
        &self,
        entry: Entry,
        revision: Option<u64>,
        lease: Option<&LeaseId>,
    ) -> Result<Written, Refused> {
        let instance = entry.instance.clone();
        let mut core = self.lock();
        let (from, to) = (theirs(&core, &instance, revision, lease)?, entry.status.state);
        if from != to && !from.can_become(to) {
            return Err(Refused::NotAllowed { from, to });
        }
        let mut batch = Batch::new();
        let changed = core.apply(&instance, Change::Put(Box::new(entry), Origin::Outside), &mut batch);
        core.with_leases(|leases, now| leases.renew(&instance, now, &mut batch));
        Ok(self.written(&core, changed, batch))
    }

    /// Removes an entry from outside, if it is at this revision and held by this lease; each where there is one.
    ///
    /// # Errors
    ///
    /// Those of [`Registry::replace`].
    pub fn deregister(
        &self,
        instance: &str,
        revision: Option<u64>,
        lease: Option<&LeaseId>,
    ) -> Result<Written, Refused> {
        let mut core = self.lock();
        theirs(&core, instance, revision, lease)?;
        let mut batch = Batch::new();
        let changed = core.apply(instance, Change::Remove, &mut batch);
        Ok(self.written(&core, changed, batch))
    }

    /// Begins a lease's time anew. Nothing is written for that, unless the entry was lost and is back now.
    ///
    /// # Errors
    ///
    /// [`Refused::NotYourLease`], whatever is wrong: it tells nobody what there is.
    pub fn renew(&self, instance: &str, lease: &LeaseId) -> Result<Renewed, Refused> {
        let mut core = self.lock();
        if !core.leases().is_held_by(instance, Key::of(lease)) {
            return Err(Refused::NotYourLease);
        }
        let ttl = core.leases().ttl(instance).unwrap_or_default();
        let found = core.get(instance).and_then(|(entry, _)| core.leases().found(instance, entry));
        let mut batch = Batch::new();
        core.with_leases(|leases, now| leases.renew(instance, now, &mut batch));
        let written = found.map(|found| {
            let changed = core.apply(instance, Change::Put(Box::new(found), Origin::Outside), &mut batch);
            self.written(&core, changed, batch)
        });
        Ok(Renewed { ttl, written })
    }

    /// Carries out what is due: entries whose leases weren't renewed become lost, and those that were lost for long enough
    /// are removed. The answer: in how long something is due next, if nothing changes until then. It may be now, as not
    /// everything is done in one go.
    pub fn lapse_leases(&self) -> Option<Duration> {
        let mut core = self.lock();
        let mut batch = Batch::new();
        let next = core.lapse(&mut batch);
        if !batch.is_empty() {
            self.commit(batch).forget();
        }
        next
    }

    /// Does that for as long as the registry is open, whenever something is due. Without somebody who runs it no lease ever
    /// lapses; a [`crate::server::Server`] does. It holds no registry open.
    pub fn tend_leases(&self) -> impl Future<Output = ()> + Send + use<> {
        let woken = self.lock().add_tender();
        let mut next = self.lapse_leases();
        let registry = Arc::downgrade(&self.inner);
        async move {
            loop {
                let due = async {
                    match next {
                        Some(wait) => drop(Timer::after(wait).await),
                        None => std::future::pending().await,
                    }
                    Ok(())
                };
                if woken.recv().or(due).await.is_err() {
                    return;
                }
                let Some(inner) = registry.upgrade() else { return };
                next = Registry::from(inner).lapse_leases();
            }
        }
    }
}

impl From<Arc<Inner>> for Registry {
    fn from(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

/// The state of the entry, if it is there, from outside, at the revision that they think, and held by the lease that they
/// have.
fn theirs(
    core: &Core,
    instance: &str,
    revision: Option<u64>,
    lease: Option<&LeaseId>,
) -> Result<State, Refused> {
    let (entry, origin) = core.get(instance).ok_or(Refused::NotFound)?;
    if *origin == Origin::Host {
        return Err(Refused::NotYours);
    }
    let held = match lease {
        Some(lease) => core.leases().is_held_by(instance, Key::of(lease)),
        None => !core.leases().is_leased(instance),
    };
    if !held {
        return Err(Refused::NotYourLease);
    }
    match revision {
        Some(expected) if expected != entry.revision => {
            Err(Refused::Conflict { expected, current: entry.revision })
        }
        _ => Ok(entry.status.state),
    }
}
