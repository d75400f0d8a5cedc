//! A store that forgets: for tests, and for a registry that needn't outlive its process.

use super::{Batch, Snapshot, Store, StoreError};
use futures_util::future::{BoxFuture, ready};
use std::sync::{Mutex, PoisonError};

/// Keeps everything in memory; every commit is at once as durable as it gets.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Snapshot>);

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn load(&self) -> BoxFuture<'static, Result<Snapshot, StoreError>> {
        Box::pin(ready(Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), StoreError>> {
        let mut data = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((namespace, key), value) in batch.updates {
            match value {
                Some(value) => {
                    data.entry(namespace.into_owned()).or_default().insert(key, value);
                }
                None => {
                    if let Some(keys) = data.get_mut(namespace.as_ref()) {
                        keys.remove(&key);
                        if keys.is_empty() {
                            data.remove(namespace.as_ref());
                        }
                    }
                }
            }
        }
        Box::pin(ready(Ok(())))
    }
}
