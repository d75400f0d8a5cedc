//! Sockets in the run folder, reached through the folder's descriptor: a socket's path is at most 107 bytes, a state
//! folder may be deeper. And the frames that the zygote is spoken to with.

use super::spec::RunId;
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, sendto,
        socket_with,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// The daemon's socket, to which everyone reports.
pub(super) const DAEMON: &str = "daemon.sock";

/// The keeper's control socket.
pub(super) fn control_name(run: RunId) -> String {
    format!("k-{run}.sock")
}

/// The pipe that is the service's standard input.
pub(super) fn stdin_name(run: RunId) -> String {
    format!("i-{run}")
}

/// The zygote's socket.
pub(super) fn zygote_name(build: &str) -> String {
    format!("zygote-{build}.sock")
}

/// The sockets of zygotes of any build, living or not.
pub(super) fn zygote_names(run_folder: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(run_folder)? {
        let entry = entry?;
        let name = entry.file_name().to_str().unwrap_or_default();
        if name.starts_with("zygote-") && name.ends_with(".sock") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Opens a folder for the names in it.
pub(super) fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The address of `name` in an open folder.
fn address(folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// A datagram socket without a name.
pub(super) fn datagram() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// A socket bound to a name, for its owner only. It is bound under another name first and renamed, so that there is
/// no moment without one where a stale one lay. `listening` makes it a stream socket that listens.
pub(super) fn bound(folder: BorrowedFd<'_>, name: &str, listening: bool) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = if listening { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    // The mode of the socket's file is that of the socket's inode: so there is no moment with a wider one.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let fresh = format!("{name}.new");
    match rustix::fs::unlinkat(folder, &fresh, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    bind(&socket, &address(folder, &fresh)?)?;
    if listening {
        listen(&socket, 128)?;
    }
    rustix::fs::renameat(folder, &fresh, folder, name)?;
    Ok(socket)
}

/// Connects a stream to a name.
pub(super) fn connected(folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address(folder, name)?)?;
    Ok(socket)
}

/// Sends one datagram to a name; `EAGAIN` when its reader is behind.
pub(super) fn send(
    socket: impl AsFd,
    folder: BorrowedFd<'_>,
    name: &str,
    bytes: &[u8],
) -> rustix::io::Result<()> {
    sendto(socket, bytes, SendFlags::NOSIGNAL, &address(folder, name)?).map(|_| ())
}

/// The longest frame to a zygote, in bytes.
pub(super) const MAX_FRAME: usize = 8 << 20;

/// What a zygote is asked, before the line's end; what follows it is passed on unread.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// Start a keeper; the rest of the frame is the RunSpec.
    Start { instance: String, run: RunId, soft_open_files: Option<u64> },
    /// Answer with the runs whose keepers live, once everything that others had sent before is done.
    Hello,
}

/// The zygote's answer to `Hello`.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The zygote's pid.
    pub(super) pid: i32,
    /// Instance, run and keeper's pid.
    pub(super) keepers: Vec<(String, RunId, i32)>,
}

/// Adds a frame: its length as a big-endian u32, a line of JSON, and the body.
pub(super) fn push_frame(out: &mut Vec<u8>, head: &[u8], body: &[u8]) -> io::Result<()> {
    let len = head.len() + 1 + body.len();
    if len > MAX_FRAME {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    out.extend_from_slice(&(len as u32).to_be_bytes());
    out.extend_from_slice(head);
    out.push(b'\n');
    out.extend_from_slice(body);
    Ok(())
}

/// What the first bytes of a stream are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A whole frame: its head, its body, and its length with everything.
    Whole { head: &'a [u8], body: &'a [u8], len: usize },
    /// The beginning of one.
    Partial,
    /// Nothing that can be one.
    Broken,
}

/// Takes the first frame.
pub(super) fn first_frame(bytes: &[u8]) -> Frame<'_> {
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else { return Frame::Partial };
    let size = u32::from_be_bytes(*size) as usize;
    if size > MAX_FRAME {
        return Frame::Broken;
    }
    let Some(frame) = rest.get(..size) else { return Frame::Partial };
    let line = memchr::memchr(b'\n', frame);
    match line.and_then(|at| Some((frame.get(..at)?, frame.get(at + 1..)?))) {
        Some((head, body)) => Frame::Whole { head, body, len: size + 4 },
        None => Frame::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_wherever_the_stream_is_cut() {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, b"{}", b"a\nb").unwrap();
        push_frame(&mut bytes, b"{1}", b"").unwrap();
        for cut in 0..10 {
            assert_eq!(first_frame(&bytes[..cut]), Frame::Partial, "{cut}");
        }
        assert_eq!(first_frame(&bytes), Frame::Whole { head: b"{}", body: b"a\nb", len: 10 });
        assert_eq!(first_frame(&bytes[10..]), Frame::Whole { head: b"{1}", body: b"", len: 8 });
    }

    #[test]
    fn a_frame_too_long_or_without_a_head_is_broken() {
        assert_eq!(first_frame(&[0xff; 8]), Frame::Broken);
        assert_eq!(first_frame(&[0, 0, 0, 1, b'x']), Frame::Broken);
        assert!(push_frame(&mut Vec::new(), b"{}", &vec![0; MAX_FRAME]).is_err());
    }

    #[test]
    fn a_folder_deeper_than_a_socket_path_works() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let folder = open_folder(&deep).unwrap();
        let receiver = bound(folder.as_fd(), DAEMON, false).unwrap();
        send(datagram().unwrap(), folder.as_fd(), DAEMON, b"hello").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&receiver, &mut buffer), Ok(5));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(deep.join(DAEMON)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
