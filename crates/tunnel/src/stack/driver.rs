//! The task that has the TCP stack work, whenever packets come, bytes are written, or time is up.

use super::Stack;
use crate::route::Routes;
use gotatun::packet::Packet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Packets that are worked on at a time.
const BATCH: usize = 128;
/// The longest sleep; there is nothing to do in it.
const IDLE: Duration = Duration::from_secs(60);

/// All that the task needs.
pub(crate) struct Driver {
    /// The stack.
    pub(crate) stack: Arc<Stack>,
    /// Packets from the tunnels.
    pub(crate) incoming: mpsc::Receiver<Packet>,
    /// Packets to the tunnels.
    pub(crate) outgoing: mpsc::Sender<Packet>,
    /// Which way each of them goes.
    pub(crate) routes: watch::Receiver<Arc<Routes>>,
}

impl Driver {
    /// Works until the tunnels are gone.
    pub(crate) async fn run(mut self) {
        let mut packets = Vec::with_capacity(BATCH);
        let mut out = Vec::with_capacity(BATCH);
        loop {
            let due = self.stack.work(&mut packets, &mut out);
            if !out.is_empty() {
                let routes = Arc::clone(&self.routes.borrow());
                for mut packet in out.drain(..) {
                    if routes.outbound(&mut packet) && self.outgoing.send(packet).await.is_err() {
                        return;
                    }
                }
            }
            if due == Some(Duration::ZERO) {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                taken = self.incoming.recv_many(&mut packets, BATCH) => if taken == 0 { return },
                () = self.stack.wake.notified() => {}
                () = tokio::time::sleep(due.unwrap_or(IDLE).min(IDLE)) => {}
            }
        }
    }
}
