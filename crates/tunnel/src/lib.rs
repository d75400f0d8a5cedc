//! WireGuard in user space, without privileges: TCP streams to other nodes through one UDP port.
//!
//! ```text
//!  Stream ──► stack (smoltcp) ──► route ──► gotatun ──► udp ──► the network
//!                 ▲                 │          │         │
//!                 └──── Inlet ◄─────┴──────────┘         └──► probe: who is at that address?
//!                         │ packets for others (hub)     │
//!                         └──► back into gotatun         │
//!  actor: knows the other nodes, and decides by `path` ◄─┘   one task, told by messages
//! ```
//!
//! Each node has one engine and one UDP port. WireGuard (gotatun) encrypts between pairs of nodes; what comes out of it
//! doesn't go into a network interface but into a TCP stack of our own (smoltcp), whose connections are the [`Stream`]s.
//! That takes neither root nor `/dev/net/tun`, and only TCP goes through.
//!
//! A node has a hub, or is one. Packets go to the hub until the other node has answered an authenticated probe at one of
//! its addresses and a handshake with it is done; then they go straight (`path`). Which of both it is, each end decides by
//! itself and for each packet (`overlay`), so that nothing is lost when ends differ. The hub reads what it relays: what is
//! secret between two nodes needs encryption of its own. Tunnels between nodes come up when a stream is opened, the one to
//! the hub at once.
//!
//! What WireGuard leaves to time-outs of many seconds is done at once here: handshakes are bounded and repeated, a tunnel
//! begins anew when this machine's addresses change, when a key is replaced, and when packets go and none comes back; a
//! hub that was restarted calls those who were there before.

mod actor;
mod addresses;
mod checksum;
mod config;
mod engine;
mod interface;
mod keep;
mod overlay;
mod path;
mod probe;
mod route;
mod stack;
mod udp;

pub use config::{Config, Error, Interface, InterfaceState, Options, Peer, Pong, Report, State};
pub use engine::Engine;
pub use stack::Stream;
