//! Links to other nodes' data planes: one stream of bytes each, with many streams in it, in both directions.

mod backoff;
pub(crate) mod control;
pub(crate) mod hold;
pub(crate) mod keep;
pub(crate) mod mux;

use crate::plane::lock;
use mux::Link;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Which end of a link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It was made from here: tables go over it, reports come back.
    Made,
    /// It came from there.
    Came,
}

/// The links that stand, by node.
#[derive(Debug, Default)]
pub(crate) struct Links {
    made: Mutex<BTreeMap<String, Arc<Link>>>,
    came: Mutex<BTreeMap<String, Arc<Link>>>,
}

impl Links {
    /// The link to a node.
    pub(crate) fn to(&self, node: &str) -> Option<Arc<Link>> {
        lock(&self.made).get(node).cloned().or_else(|| lock(&self.came).get(node).cloned())
    }

    /// Adds a link. An older one of the same side ends: its far end knows better whether it still stands.
    fn add(&self, side: Side, link: &Arc<Link>) {
        if let Some(older) = lock(self.side(side)).insert(link.node.clone(), link.clone()) {
            older.replaced.cancel();
        }
    }

    /// Removes it, unless a newer one has its place.
    fn remove(&self, side: Side, link: &Arc<Link>) {
        let mut links = lock(self.side(side));
        if links.get(&link.node).is_some_and(|there| Arc::ptr_eq(there, link)) {
            links.remove(&link.node);
        }
    }

    fn side(&self, side: Side) -> &Mutex<BTreeMap<String, Arc<Link>>> {
        match side {
            Side::Made => &self.made,
            Side::Came => &self.came,
        }
    }
}
