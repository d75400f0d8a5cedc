//! Connections to zygotes, and what was handed over them: of a lost zygote it must be known which runs it may have begun,
//! and which were handed to the one after it.

use super::spec::RunId;
use async_io::Async;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::net::UnixStream,
    process::Child,
    sync::{Arc, Mutex, PoisonError},
};

/// The connection to a zygote, and the child to wait for if we made it.
pub(super) struct Link {
    pub(super) stream: Async<UnixStream>,
    child: Mutex<Option<Child>>,
}

impl Link {
    pub(super) fn new(stream: Async<UnixStream>, child: Option<Child>) -> Self {
        Self { stream, child: Mutex::new(child) }
    }
}

/// The present connection, and what became of earlier ones.
#[derive(Default)]
pub(super) struct Links {
    pub(super) link: Option<Arc<Link>>,
    /// Runs that were handed over the present connection and that nothing was heard of.
    handed: BTreeMap<RunId, String>,
    /// The same of connections that broke.
    pub(super) handed_to_lost: BTreeMap<RunId, String>,
    /// Connections that broke, not yet reported.
    pub(super) lost: usize,
    /// Zygotes of ours that have ended, or are about to; one that lives on belongs to init when we end.
    ended: Vec<Child>,
}

impl Links {
    /// Notes what is about to be written; `false` if the connection isn't the present one any more.
    pub(super) fn hand(&mut self, link: &Arc<Link>, runs: impl Iterator<Item = (RunId, String)>) -> bool {
        let present = self.is_present(link);
        if present {
            self.handed.extend(runs);
        }
        present
    }

    /// Notes that these were not handed over after all. The answer: those of which nobody was told otherwise.
    pub(super) fn take_back(&mut self, runs: impl Iterator<Item = RunId>) -> BTreeSet<RunId> {
        runs.filter(|run| self.heard_of(Some(*run))).collect()
    }

    /// Something was heard of the run; whether nothing had been before.
    pub(super) fn heard_of(&mut self, run: Option<RunId>) -> bool {
        let Some(run) = run else { return false };
        let handed = self.handed.remove(&run).is_some();
        self.handed_to_lost.remove(&run).is_some() || handed
    }

    /// Forgets a connection that broke; whether it was the present one.
    pub(super) fn unlink(&mut self, broken: &Arc<Link>) -> bool {
        let present = self.is_present(broken);
        if present {
            self.link = None;
            self.lost += 1;
            self.handed_to_lost.append(&mut self.handed);
            self.ended.extend(broken.child.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        present
    }

    fn is_present(&self, link: &Arc<Link>) -> bool {
        self.link.as_ref().is_some_and(|present| Arc::ptr_eq(present, link))
    }

    /// Takes the status of zygotes that have ended.
    pub(super) fn reap(&mut self) {
        self.ended.retain_mut(|zygote| matches!(zygote.try_wait(), Ok(None)));
    }

    /// Whether all zygotes of ours whose connections broke have ended.
    pub(super) fn have_ended(&mut self) -> bool {
        self.reap();
        self.ended.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Arc<Link> {
        let (stream, _) = UnixStream::pair().unwrap();
        Arc::new(Link::new(Async::new(stream).unwrap(), None))
    }

    #[test]
    fn a_lost_zygote_is_held_to_account_for_its_own_runs_only() {
        let mut links = Links::default();
        let (first, second) = (link(), link());
        let [a, b, c, d] = [(); 4].map(|()| RunId::generate());
        links.link = Some(first.clone());
        assert!(links.hand(&first, [(a, "a-1".into()), (b, "b-1".into())].into_iter()));
        assert!(links.heard_of(Some(a)) && !links.heard_of(Some(a)));
        assert!(links.unlink(&first) && !links.unlink(&first));
        assert!(!links.hand(&first, [(c, "c-1".into())].into_iter()), "it is gone");
        links.link = Some(second.clone());
        assert!(links.hand(&second, [(c, "c-1".into()), (d, "d-1".into())].into_iter()));
        assert_eq!(links.lost, 1);
        assert_eq!(
            links.handed_to_lost,
            BTreeMap::from([(b, "b-1".to_owned())]),
            "not what the second was handed"
        );
        assert_eq!(links.take_back([b, c].into_iter()), BTreeSet::from([b, c]));
        links.unlink(&second);
        assert_eq!(links.handed_to_lost, BTreeMap::from([(d, "d-1".to_owned())]));
        links.handed_to_lost.clear();
        assert_eq!(links.take_back([d].into_iter()), BTreeSet::new(), "it was told that it is lost");
    }
}
