//! Other machines: how they are reached, and what they are.
//!
//! ```text
//! nodes: of the file ──reach──► ssh ──look.sh──► text ──facts (pure)──► Facts ──verdict (pure)──► findings
//! ```

pub(crate) mod agent;

mod facts;
mod reach;
mod there;
mod verdict;

pub(crate) use facts::{Facts, look};
pub(crate) use reach::{host_of, label};
pub(crate) use there::There;
pub(crate) use verdict::{Clock, Finding, Level, Wanted, judge};
