//! Listens for services and carries their connections to backends.

pub(crate) mod balance;
pub(crate) mod copy;
pub(crate) mod dial;
pub(crate) mod listener;
