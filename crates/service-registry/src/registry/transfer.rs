//! Entries from outside as a whole: taken out to be kept or carried elsewhere, and taken in all at once.

use super::{Change, Listing, Origin, Registry, Written};
use crate::model::Entry;
use crate::store::Batch;
use std::collections::BTreeSet;

/// Entries that were taken in.
#[derive(Debug)]
#[must_use = "they are only safe when `written` is durable"]
pub struct Imported {
    /// All of them as one write.
    pub written: Written,
    /// How many took the place of an entry that was there.
    pub replaced: usize,
}

/// Why nothing was taken in. All that are in the way are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clashes {
    /// Instances that come twice.
    pub twice: Vec<String>,
    /// Instances that the host looks after.
    pub not_yours: Vec<String>,
    /// Instances that a lease holds.
    pub leased: Vec<String>,
    /// Instances that are registered already, unless they may be replaced.
    pub exist: Vec<String>,
}

impl Clashes {
    /// Whether nothing is in the way.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Registry {
    /// The entries from outside that no lease holds: those of leases come again by themselves, those of the host are the
    /// host's.
    pub fn export(&self) -> Listing {
        let core = self.lock();
        let Listing { entries, revision } = core.listing(&super::Filter::default());
        let wanted = |instance: &str| {
            core.get(instance).is_some_and(|(_, origin)| *origin == Origin::Outside)
                && !core.leases().is_leased(instance)
        };
        let entries = entries.into_iter().filter(|entry| wanted(&entry.instance)).collect();
        Listing { entries, revision }
    }

    /// Registers all of these entries, or none. Their times and revisions are set anew.
    ///
    /// # Errors
    ///
    /// Every instance that is in the way.
    pub fn import(&self, entries: Vec<Entry>, replace: bool) -> Result<Imported, Clashes> {
        let mut core = self.lock();
        let (mut clashes, mut seen) = (Clashes::default(), BTreeSet::new());
        let mut replaced = 0;
        for entry in &entries {
            let instance = &entry.instance;
            if !seen.insert(instance.as_str()) {
                clashes.twice.push(instance.clone());
                continue;
            }
            match core.get(instance).map(|(_, origin)| *origin) {
                None => {}
                Some(Origin::Host) => clashes.not_yours.push(instance.clone()),
                Some(Origin::Outside) if core.leases().is_leased(instance) => {
                    clashes.leased.push(instance.clone())
                }
                Some(Origin::Outside) if replace => replaced += 1,
                Some(Origin::Outside) => clashes.exist.push(instance.clone()),
            }
        }
        if !clashes.is_empty() {
            return Err(clashes);
        }
        let mut batch = Batch::new();
        let mut changed = false;
        for entry in entries {
            let instance = entry.instance.clone();
            changed |= core.apply(&instance, Change::Put(Box::new(entry), Origin::Outside), &mut batch);
        }
        Ok(Imported { written: self.written(&core, changed, batch), replaced })
    }
}
