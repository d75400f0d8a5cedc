//! `files.put`: what the project's services on this node need of it, brought here and kept in step.
//!
//! One transfer at a time: two that bring the same would each bring all of it.

use crate::api::code;
use crate::error::chain;
use crate::packages;
use async_io::Timer;
use async_lock::Mutex;
use futures_lite::FutureExt as _;
use service_registry::files::{Opened, PackagePlace, Places, PutParams, ReceiveError, Receiver};
use service_registry::package::install::Depot;
use service_registry::server::{IncomingStream, Streams};
use service_registry::wire::{self, RpcError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The time after which a sender that says nothing is given up: the next one waits for it.
const SILENCE: Duration = Duration::from_secs(20);

/// What comes to this node.
pub(super) struct Files {
    /// What relative destinations are below.
    folder: PathBuf,
    /// For what isn't in its place yet.
    state: PathBuf,
    turn: Arc<Mutex<()>>,
}

impl Files {
    pub(super) fn new(state: &Path) -> Self {
        Self { folder: state.join(super::nodes::FOLDER), state: state.join("incoming"), turn: Arc::default() }
    }

    /// Begins a transfer, or goes on with one: the answer says what is missing.
    pub(super) async fn put(&self, params: PutParams, streams: &Streams) -> Result<Opened, RpcError> {
        let turn = self.turn.lock_arc().await;
        let params = at_home(params, crate::project::home().as_deref());
        let mut places = Places { files: self.folder.clone(), state: self.state.clone(), bases: Vec::new() };
        let begun = blocking::unblock(move || {
            let mut others = Vec::new();
            if let Some(PackagePlace { name, sha256, prefix }) = &params.package {
                let depot = packages::depot(prefix.as_deref())
                    .map_err(|error| RpcError::new(code::PACKAGE, chain(&error)))?;
                places.files = depot.staging(name, sha256);
                others = depot.incoming(name);
                others.retain(|folder| *folder != places.files);
                places.bases = installed(&depot, name);
                places.bases.extend(others.iter().cloned());
            }
            let receiver = Receiver::begin(params, &places).map_err(|error| refused(&error))?;
            Ok((receiver, others))
        });
        let (receiver, others): (_, Vec<PathBuf>) = begun.await?;
        let missing = receiver.missing().to_vec();
        let stream = streams.receive(move |incoming| async move {
            let _turn = turn;
            let received = receive(receiver, incoming).await?;
            // What had come of other versions has served.
            blocking::unblock(move || others.iter().for_each(|other| drop(std::fs::remove_dir_all(other))))
                .await;
            Ok(received)
        })?;
        Ok(Opened { stream, missing })
    }
}

/// The versions of a package that are there, the current one first. None of them is an error: there may be none.
fn installed(depot: &Depot, name: &str) -> Vec<PathBuf> {
    let Ok(status) = depot.status(name, packages::READ) else { return Vec::new() };
    let older = status.versions.iter().rev().filter(|version| Some(*version) != status.current.as_ref());
    status.current.iter().chain(older).map(|version| depot.folder(name, version)).collect()
}

/// `~/` is the home folder here.
fn at_home(mut params: PutParams, home: Option<&Path>) -> PutParams {
    let Some(home) = home else { return params };
    for copy in &mut params.copies {
        if let Ok(rest) = copy.folder.strip_prefix("~") {
            copy.folder = home.join(rest);
        }
    }
    params
}

async fn receive(
    mut receiver: Receiver,
    mut incoming: IncomingStream,
) -> Result<serde_json::Value, RpcError> {
    loop {
        let late = async {
            Timer::after(SILENCE).await;
            Err(RpcError::new(wire::code::STREAM_BROKEN, "nothing was sent for too long"))
        };
        let Some(bytes) = incoming.next().or(late).await? else { break };
        receiver = blocking::unblock(move || receiver.take(&bytes).map(|()| receiver))
            .await
            .map_err(|error| refused(&error))?;
    }
    let received = blocking::unblock(move || receiver.finish()).await.map_err(|error| refused(&error))?;
    serde_json::to_value(received).map_err(RpcError::internal)
}

fn refused(error: &ReceiveError) -> RpcError {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let mut text = chain(error);
    let hint = match error {
        ReceiveError::InTheWay { .. } => Some("move it away there"),
        ReceiveError::File { source, .. } => match source.kind() {
            StorageFull | QuotaExceeded => Some("make room there"),
            PermissionDenied => {
                Some("choose a folder that the agent may write to, or `sudo: true` for the node")
            }
            ReadOnlyFilesystem => Some("choose another folder"),
            _ => None,
        },
        _ => None,
    };
    if let Some(hint) = hint {
        text = format!("{text} ({hint})");
    }
    let again = serde_json::json!({ "again": error.is_passing() });
    RpcError::new(code::FILES, text).with_data(again)
}
