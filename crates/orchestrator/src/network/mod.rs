//! Who is reached where: ports of instances, and the values behind `${db.ip}` as seen from the instance that asks.
//!
//! Today every instance runs on this machine; topology, virtual addresses and tunnels come with other nodes.

mod allocate;
mod resolve;

pub use allocate::{Full, PortLeases, PortRange, allocate};
pub use resolve::{Caller, Resolved, ResolvedProbe, Unresolved, fill, given, resolve};
