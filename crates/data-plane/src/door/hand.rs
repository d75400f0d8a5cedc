//! How a listening socket goes from an ambassador to the data plane: one message, with the socket as its descriptor.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketType, recvmsg, sendmsg, sockopt,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The longest message: a service's name and a port.
const LONGEST: usize = 512;

/// What a socket is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hand {
    /// The service that it stands for.
    pub(crate) service: String,
    /// The port that it listens on.
    pub(crate) port: u16,
}

/// Hands a listening socket over. Blocks.
///
/// # Errors
///
/// The connection is broken.
pub(crate) fn send(
    stream: &std::os::unix::net::UnixStream,
    hand: &Hand,
    socket: BorrowedFd<'_>,
) -> io::Result<()> {
    let message = serde_json::to_vec(hand).map_err(io::Error::other)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket];
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("there is no room for the descriptor"));
    }
    let sent = sendmsg(stream, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Takes what is handed over.
///
/// # Errors
///
/// It isn't understood, or isn't a socket that listens for TCP.
pub(crate) async fn receive(stream: &UnixStream) -> io::Result<(Hand, OwnedFd)> {
    let invalid = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut message = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let (count, socket) = stream
        .async_io(Interest::READABLE, || {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let received = recvmsg(stream, &mut [IoSliceMut::new(&mut message)], &mut control, flags)?;
            let mut sockets = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
                _ => None,
            });
            Ok((received.bytes, sockets.next()))
        })
        .await?;
    let socket = socket.ok_or_else(|| invalid("no socket came"))?;
    let hand: Hand = serde_json::from_slice(message.get(..count).unwrap_or_default())?;
    let is_tcp = sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_domain(&socket).is_ok_and(|domain| {
            [rustix::net::AddressFamily::INET, rustix::net::AddressFamily::INET6].contains(&domain)
        });
    if !is_tcp || !sockopt::socket_acceptconn(&socket).unwrap_or(false) {
        return Err(invalid("what came isn't a socket that listens for TCP"));
    }
    Ok((hand, socket))
}
