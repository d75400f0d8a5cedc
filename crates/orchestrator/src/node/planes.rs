//! The seam behind which data planes are run and handed their tables.

use crate::model::Node;
use crate::network::plane::Table;
use futures_util::future::BoxFuture;
use indexmap::IndexMap;
use std::collections::BTreeMap;

/// Runs the data planes of a project's nodes. What they report comes back as [`crate::supervisor::Event::Planes`].
pub trait Planes: Send + Sync {
    /// From now on the data plane of each of these nodes serves this, and no other node needs one; `nodes` are those of the
    /// stack, which tell how to reach them. Never blocks; the latest tables win. They carry one version, which rises. Of a
    /// node's [`crate::network::plane::Peer::link`] nothing is said here: whoever makes links knows the commands.
    fn serve(&self, tables: BTreeMap<String, Table>, nodes: &IndexMap<String, Node>);

    /// Whether what serves tables reports that it does: then those who need a new listener are started once it is there.
    fn reports(&self) -> bool {
        true
    }

    /// Ends all of them: nothing of the stack runs any more. Every wait in it has a bound.
    fn end(&self) -> BoxFuture<'_, ()>;
}

/// Runs none: connections through virtual addresses find nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPlanes;

impl Planes for NoPlanes {
    fn serve(&self, _: BTreeMap<String, Table>, _: &IndexMap<String, Node>) {}

    fn reports(&self) -> bool {
        false
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
