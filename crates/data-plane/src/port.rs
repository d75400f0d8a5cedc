//! Why a port can't be opened, for people.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Who has which port of a protocol: [`orchestrator::node::listening`] or [`orchestrator::node::bound`].
pub(crate) type Sockets = fn() -> BTreeMap<SocketAddr, Option<String>>;

/// Why a port can't be opened, for people.
pub(crate) async fn cannot(address: SocketAddr, error: io::Error, sockets: Sockets) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            // Reads the descriptors of all processes that may be looked at.
            let holder = tokio::task::spawn_blocking(move || holder(address, sockets())).await;
            match holder.ok().flatten() {
                Some(holder) => format!("in use by {holder}"),
                None => "in use by a process that can't be seen".to_owned(),
            }
        }
        io::ErrorKind::AddrNotAvailable => format!("{} isn't an address of this machine", address.ip()),
        io::ErrorKind::PermissionDenied => {
            format!("port {} needs privileges: choose one from 1024 on", address.port())
        }
        _ => error.to_string(),
    }
}

/// Who has that port there, or on every address: `redis (pid 812)`.
fn holder(address: SocketAddr, mut sockets: BTreeMap<SocketAddr, Option<String>>) -> Option<String> {
    let everywhere: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let holder = sockets
        .remove(&address)
        .or_else(|| everywhere.iter().find_map(|ip| sockets.remove(&SocketAddr::new(*ip, address.port()))));
    holder.flatten()
}
