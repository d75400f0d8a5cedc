//! Who is where, told to all.

pub mod client;
pub mod model;
pub mod registry;
pub mod server;
pub mod store;
pub mod wire;

mod unix;
