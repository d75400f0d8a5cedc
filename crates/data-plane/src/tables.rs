//! Serves tables: the one part that opens and closes listeners and starts and ends links.

use crate::folder::Folder;
use crate::forward::listener::{Listener, Place, accept, bind};
use crate::link::keep::keep;
use crate::plane::{Plane, lock};
use crate::port::cannot;
use crate::task::Task;
use crate::{tunnels, zone};
use orchestrator::network::plane::{self, Backend, FORMAT, Table};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long until a port that somebody else has is tried again. Nothing tells when it becomes free.
const RETRY: Duration = Duration::from_secs(2);

/// A table to serve.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) table: Table,
    /// Answered once it is served, or with why it isn't.
    pub(crate) answer: oneshot::Sender<Result<(), String>>,
}

/// What is open for the table that is served.
struct Tables {
    plane: Arc<Plane>,
    folder: Arc<Folder>,
    listeners: Vec<Open>,
    links: BTreeMap<String, (Vec<String>, Task)>,
    tunnel: tunnels::Owner,
    zone: zone::Owner,
}

/// A listener of the table, and the task that accepts for it if the port could be opened.
struct Open {
    listener: Arc<Listener>,
    task: Option<Task>,
}

impl Open {
    /// Whether its port is to be opened here, and isn't.
    fn lacks(&self) -> bool {
        self.task.is_none() && matches!(self.listener.place, Place::Address(_))
    }
}

/// All that is listened for: the service, where, and who serves it.
fn wanted(table: &Table) -> Vec<(&str, Place, &[Backend])> {
    let listeners = table.listeners.iter();
    let listeners =
        listeners.map(|it| (it.service.as_str(), Place::Address(it.address), it.backends.as_slice()));
    let doors = table.doors.iter();
    let doors = doors.map(|it| (it.service.as_str(), Place::Door(it.port), it.backends.as_slice()));
    listeners.chain(doors).collect()
}

/// Serves what is asked for until nobody can ask any more. Begins with `kept`, the last table of an earlier life.
pub(crate) async fn own(
    plane: Arc<Plane>,
    folder: Arc<Folder>,
    kept: Option<Table>,
    mut requests: mpsc::Receiver<Request>,
    ready: oneshot::Sender<()>,
) {
    let mut tables = Tables {
        plane,
        folder,
        listeners: Vec::new(),
        links: BTreeMap::new(),
        tunnel: tunnels::Owner::default(),
        zone: zone::Owner::default(),
    };
    if let Some(table) = kept
        && let Err(why) = tables.serve(table, false).await
    {
        tracing::warn!(why, "the last table isn't served");
    }
    // Nobody waits for it while the data plane ends.
    let _ = ready.send(());
    loop {
        let closed = tables.listeners.iter().any(Open::lacks) || tables.tunnel.lacks() || tables.zone.lacks();
        tokio::select! {
            request = requests.recv() => {
                let Some(Request { table, answer }) = request else { return };
                let served = tables.serve(table, true).await;
                // Whoever asked may be gone.
                let _ = answer.send(served);
            }
            () = tokio::time::sleep(RETRY), if closed => tables.again().await,
        }
    }
}

impl Tables {
    async fn serve(&mut self, table: Table, keep_it: bool) -> Result<(), String> {
        self.check(&table)?;
        let table = Arc::new(table);
        if keep_it {
            let (folder, kept) = (self.folder.clone(), table.clone());
            let written = tokio::task::spawn_blocking(move || folder.keep(&kept)).await;
            if let Err(error) = written.map_err(io::Error::other).and_then(|result| result) {
                // It is served all the same; after a restart whoever told it tells it again.
                tracing::warn!(%error, "the table can't be kept");
            }
        }
        // Before anybody is sent through it.
        self.tunnel.serve(&self.plane, self.folder.tunnel(), &table).await;
        // First what is closed, so that another listener may have its address.
        let wanted = wanted(&table);
        let is = |listener: &Listener, service: &str, place: Place| {
            listener.place == place && listener.service == service
        };
        let stays =
            |open: &Open| wanted.iter().any(|(service, place, _)| is(&open.listener, service, *place));
        let (mut old, gone): (Vec<Open>, Vec<Open>) = self.listeners.drain(..).partition(stays);
        for open in gone {
            if let Some(task) = open.task {
                task.end().await;
            }
        }
        self.plane.table.send_replace(table.clone());
        for (service, place, backends) in &wanted {
            match old.iter().position(|open| is(&open.listener, service, *place)) {
                Some(at) => {
                    let open = old.swap_remove(at);
                    open.listener.update(backends, &table);
                    self.listeners.push(open);
                }
                None => {
                    let listener = Listener::new(service, *place, backends, &table);
                    self.listeners.push(Open { listener, task: None });
                }
            }
        }
        *lock(&self.plane.listeners) = self.listeners.iter().map(|open| open.listener.clone()).collect();
        self.plane.served.send_modify(|count| *count += 1);
        lock(&self.plane.memory).retain(|node, _| table.peers.contains_key(node));
        lock(&self.plane.others).retain(|node, _| table.peers.contains_key(node));
        self.open().await;
        self.zone.serve(&self.plane, table.zone.as_ref(), table.version).await;
        self.link(&table);
        self.plane.changed();
        Ok(())
    }

    fn check(&self, table: &Table) -> Result<(), String> {
        let served = self.plane.table.borrow().version;
        if table.format != FORMAT {
            return Err(format!(
                "a table of format {} isn't understood, {FORMAT} is: use the same release on all nodes",
                table.format
            ));
        }
        if table.node != self.plane.node {
            return Err(format!("the table is for {}, this is {}", table.node, self.plane.node));
        }
        if table.version < served {
            return Err(format!("table {} is older than {served}, which is served", table.version));
        }
        Ok(())
    }

    /// Tries again what couldn't be opened.
    async fn again(&mut self) {
        if self.tunnel.lacks() {
            let table = self.plane.table();
            self.tunnel.serve(&self.plane, self.folder.tunnel(), &table).await;
        }
        self.open().await;
        self.zone.open(&self.plane).await;
    }

    /// Opens what isn't open yet.
    async fn open(&mut self) {
        let mut news = false;
        for at in 0..self.listeners.len() {
            let taken = self.taken_before(at);
            let Some(open) = self.listeners.get_mut(at).filter(|open| open.lacks()) else { continue };
            let listener = open.listener.clone();
            let Place::Address(address) = listener.place else { continue };
            let error = match taken {
                true => Some("listed twice in the table".to_owned()),
                false => match bind(address) {
                    Ok(socket) => {
                        let task = Task::spawn(accept(self.plane.clone(), listener.clone(), socket, None));
                        open.task = Some(task);
                        None
                    }
                    Err(error) => Some(cannot(address, error, orchestrator::node::listening).await),
                },
            };
            news |= listener.set_error(error);
        }
        if news {
            self.plane.changed();
        }
    }

    /// Whether a listener before this one has its address.
    fn taken_before(&self, at: usize) -> bool {
        let place = self.listeners.get(at).map(|open| open.listener.place);
        self.listeners.iter().take(at).any(|open| Some(open.listener.place) == place)
    }

    /// Starts the links of the table that aren't kept yet, and ends the others.
    fn link(&mut self, table: &Table) {
        let wanted = |node: &str| table.peers.get(node).map(|peer: &plane::Peer| &peer.link);
        self.links.retain(|node, (argv, _)| wanted(node) == Some(argv));
        for (node, peer) in &table.peers {
            if !peer.link.is_empty() && !self.links.contains_key(node) {
                let task = Task::spawn(keep(self.plane.clone(), node.clone(), peer.link.clone()));
                self.links.insert(node.clone(), (peer.link.clone(), task));
            }
        }
    }
}
