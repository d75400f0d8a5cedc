//! Who is reached where: ports and addresses of instances, and the values behind `${db.ip}` as seen from the instance
//! that asks.
//!
//! Nodes see each other by the addresses that connections to them have shown; topology, virtual addresses and tunnels
//! aren't there yet.

mod allocate;
mod container;
pub mod plane;
mod resolve;
mod sites;

pub use allocate::{Full, PortLeases, PortRange, allocate};
pub use container::{AddressLeases, ContainerNetwork};
pub use resolve::{
    Attached, Caller, ContainerSpec, PackageSpec, PublishedPort, Resolved, ResolvedProbe, ResolvedTarget,
    Unresolved, View, assigned, fill, given, resolve,
};
pub use sites::Sites;
