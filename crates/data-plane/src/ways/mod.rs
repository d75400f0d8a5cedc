//! The ways to a backend: straight, or over a stream to the data plane beside it.

pub(crate) mod export;
pub(crate) mod hello;
pub(crate) mod memory;
pub(crate) mod stream;

use crate::plane::{Plane, lock};
use hello::Answer;
use orchestrator::network::plane::{Backend, Table, Way};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use stream::Stream;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an instance on this node may take to accept.
pub(crate) const LOCAL: Duration = Duration::from_secs(2);
/// How long one way to another node may take.
const FAR: Duration = Duration::from_secs(3);

/// Why a way gave no connection.
#[derive(Debug)]
enum Failure {
    /// The way works, the instance doesn't: other ways lead to the same.
    Instance(String),
    /// The way is broken.
    Way(String),
    /// Not now, and there is nothing to remember.
    NotThisOne(String),
}

/// Connects to a backend by the first way that works. Where it went and by which way, or why not, for people.
pub(crate) async fn dial(
    plane: &Plane,
    table: &Table,
    backend: &Backend,
) -> Result<(Stream, Option<Way>), String> {
    if backend.node == plane.node {
        let address = table.exports.get(&backend.export).copied().unwrap_or(backend.address);
        return Ok((Stream::Tcp(connect(address, LOCAL).await.map_err(|e| e.to_string())?), None));
    }
    let Some(peer) = table.peers.get(&backend.node) else {
        return Err(format!("no way to {} is known", backend.node));
    };
    let usable: Vec<Way> = peer.ways.iter().filter(|way| reaches(way, backend)).cloned().collect();
    let order = lock(&plane.memory).order(&backend.node, &usable, plane.now());
    let mut reasons = Vec::new();
    for way in order {
        let began = Instant::now();
        match timeout(FAR, take(plane, &way, backend)).await.unwrap_or_else(|_| Err(late())) {
            Ok(stream) => {
                let took = began.elapsed();
                plane.way_worked(&backend.node, &way, evidence(&way, backend, took), Some(took));
                return Ok((stream, Some(way)));
            }
            Err(Failure::Instance(why)) => {
                // The far end has answered: the way is a good one.
                plane.way_worked(&backend.node, &way, format!("{} was asked", backend.node), None);
                return Err(why);
            }
            Err(Failure::Way(why)) => {
                plane.way_failed(&backend.node, &way, why.clone());
                reasons.push(format!("{}: {why}", name(&way)));
            }
            Err(Failure::NotThisOne(why)) => reasons.push(format!("{}: {why}", name(&way))),
        }
    }
    if reasons.is_empty() {
        reasons.push(format!("no way to {} is known", backend.node));
    }
    Err(reasons.join(", "))
}

/// Whether the way can lead to the backend at all.
fn reaches(way: &Way, backend: &Backend) -> bool {
    match way {
        Way::Lan { .. } => !backend.address.ip().is_loopback(),
        Way::Wireguard | Way::Link | Way::Relay { .. } => true,
    }
}

async fn take(plane: &Plane, way: &Way, backend: &Backend) -> Result<Stream, Failure> {
    let broken = |error: io::Error| Failure::Way(error.to_string());
    let link = match way {
        Way::Lan { address } => return straight(*address, backend).await,
        Way::Wireguard => {
            let mut stream = plane.tunnels.open(&backend.node, FAR).await.map_err(Failure::Way)?;
            let answer = hello::ask(&mut stream, &backend.node, &backend.export).await.map_err(broken)?;
            return answered(answer).map(|()| Stream::Tunnel(stream));
        }
        Way::Link => &backend.node,
        Way::Relay { via } => via,
    };
    let Some(link) = plane.links.to(link) else { return Err(no_link(plane, way, backend, link)) };
    let mut stream = link.open().await.map_err(broken)?;
    let answer = hello::ask(&mut stream, &backend.node, &backend.export).await.map_err(broken)?;
    answered(answer).map(|()| Stream::Link(stream))
}

fn answered(answer: Answer) -> Result<(), Failure> {
    match answer {
        Answer::Ok => Ok(()),
        Answer::Instance { why } => Err(Failure::Instance(why)),
        Answer::Way { why } => Err(Failure::Way(why)),
    }
}

/// Whoever keeps the link has said why it isn't there; where nobody does, this is all that is known.
fn no_link(plane: &Plane, way: &Way, backend: &Backend, to: &str) -> Failure {
    let why = format!("there is no link to {to}");
    let known = lock(&plane.memory).report(&backend.node, way).works.is_some();
    if known && *way == Way::Link { Failure::NotThisOne(why) } else { Failure::Way(why) }
}

async fn straight(address: IpAddr, backend: &Backend) -> Result<Stream, Failure> {
    match connect(SocketAddr::new(address, backend.address.port()), FAR).await {
        Ok(stream) => Ok(Stream::Tcp(stream)),
        // Somebody answered: the instance is down, or listens elsewhere; the node says which.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(Failure::NotThisOne(error.to_string()))
        }
        Err(error) => Err(Failure::Way(error.to_string())),
    }
}

/// Connects by TCP.
///
/// # Errors
///
/// Nobody accepts within `bound`.
pub(crate) async fn connect(address: SocketAddr, bound: Duration) -> io::Result<TcpStream> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", bound.as_secs()));
    let said = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
    let stream = timeout(bound, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(late()));
    let stream = stream.map_err(said)?;
    stream.set_nodelay(true)?;
    notice_silence(&stream)?;
    Ok(stream)
}

/// Has the kernel end the connection when the other machine says nothing any more, as after a power cut: whoever is connected
/// through here asks only this machine whether it lives, and would wait for ever.
fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    const IDLE: Duration = Duration::from_secs(15);
    const INTERVAL: Duration = Duration::from_secs(5);
    const MISSES: u32 = 3;
    const UNACKNOWLEDGED_MS: u32 = 30_000;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, MISSES)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS)?;
    Ok(())
}

fn late() -> Failure {
    Failure::Way(format!("no answer within {} s", FAR.as_secs()))
}

fn evidence(way: &Way, backend: &Backend, took: Duration) -> String {
    let by = match way {
        Way::Lan { address } => format!("{address}"),
        Way::Wireguard | Way::Link => backend.node.clone(),
        Way::Relay { via } => format!("{} through {via}", backend.node),
    };
    format!("{by} took a connection in {:.1} ms", took.as_secs_f64() * 1000.0)
}

fn name(way: &Way) -> &'static str {
    match way {
        Way::Lan { .. } => "lan",
        Way::Wireguard => "wireguard",
        Way::Link => "link",
        Way::Relay { .. } => "relay",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt;

    #[test]
    fn a_machine_that_falls_silent_is_noticed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = connect(listener.local_addr().unwrap(), Duration::from_secs(10)).await.unwrap();
            assert!(sockopt::socket_keepalive(&stream).unwrap());
            let silence = sockopt::tcp_keepidle(&stream).unwrap()
                + sockopt::tcp_keepintvl(&stream).unwrap() * sockopt::tcp_keepcnt(&stream).unwrap();
            assert!(silence <= Duration::from_secs(30));
            assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 30_000);
        });
    }
}
