//! What a service on another node needs of the project, brought there.

use super::wire::Owner;
use crate::model::Service;
use service_registry::client::Client;
use service_registry::files::{PushError, Pushed, Source, push};
use std::sync::atomic::{AtomicU64, Ordering};

/// Copies below so many bytes aren't told about.
const TOLD_FROM: u64 = 4 << 20;

/// Brings the files of a service to the machine of an agent that was claimed as `owner`. `progress` is told, for people, how far that is.
pub(in crate::node) async fn files(
    client: &Client,
    owner: &Owner,
    service: &Service,
    progress: &(dyn Fn(String) + Send + Sync),
) -> Result<Pushed, PushError> {
    let sources: Vec<Source> = service
        .files
        .iter()
        .map(|file| Source { source: file.source.clone(), destination: file.destination.clone() })
        .collect();
    let told = AtomicU64::new(u64::MAX);
    let tell = |done: u64, total: u64| {
        let mib = done >> 20;
        if total >= TOLD_FROM && told.swap(mib, Ordering::Relaxed) != mib {
            progress(format!("copying files, {mib} of {} MiB", total.div_ceil(1 << 20)));
        }
    };
    let pushed = push(client, &owner.id, service.name.as_str(), &sources, &tell).await?;
    let Pushed { bytes, sent, written, removed } = pushed;
    tracing::info!(service = %service.name, bytes, sent, written, removed, "its files are in step");
    Ok(pushed)
}
