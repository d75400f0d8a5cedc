//! Who is reached where: ports and addresses of instances, and the values behind `${db.ip}` as seen from the instance
//! that asks.
//!
//! What can neither move nor multiply is given by its own address to what is beside it; everything else by its virtual
//! address, or at the gateway of the caller's container network (`reach`). What listens there, and on which ways it goes
//! on from there, stands in the tables that each node's data plane is handed (`tables`, `topology`, `plane`).

mod allocate;
pub mod ambassadors;
mod container;
mod peers;
pub mod plane;
pub mod reach;
mod resolve;
mod sites;
mod tables;
#[cfg(test)]
mod tests;
pub mod topology;
mod virtuals;
pub mod zone;

pub use allocate::{Full, PortLeases, PortRange, allocate, allocate_service};
pub use container::{AddressLeases, ContainerNetwork};
pub use peers::{Overlay, Subnet, Tunnels};
pub(crate) use resolve::Sight;
pub use resolve::{
    Attached, Caller, ContainerSpec, PackageSpec, PublishedPort, Resolved, ResolvedProbe, ResolvedTarget,
    SECRETS_VARIABLE, Unresolved, View, ambassadors, assigned, fill, given, has_hosts_file, hosts_file,
    names, resolve,
};
pub use sites::Sites;
pub use tables::{Scene, tables};
pub use virtuals::{Virtuals, slot_of};
