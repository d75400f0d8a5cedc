//! Who is where, told to all.

pub mod model;
pub mod registry;
pub mod store;
pub mod wire;
