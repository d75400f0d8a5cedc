//! Which process exactly: a pid alone means another one tomorrow.

use rustix::{
    fd::OwnedFd,
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};
use std::{fs, io, time::Duration};

/// The magic number of pidfs, whose inode numbers are unique for the life of the kernel (Linux 6.9).
const PIDFS: u64 = 0x5049_4446;

/// A process of this boot, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
    /// The inode of its pidfd, where the kernel has unique ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
}

impl ProcessIdentity {
    /// The identity of the process that has the pid now.
    pub fn of(pid: i32) -> io::Result<Self> {
        let fd = open(pid)?;
        let stat = Stat::read(pid)?;
        Ok(Self { pid, start: stat.start, inode: inode(&fd) })
    }

    /// Whether exactly that process is alive; a zombie isn't. One of which that can't be said now, for want of descriptors,
    /// counts as alive: what follows from a death can't be taken back.
    pub fn is_alive(&self) -> bool {
        !matches!(self.open(), Ok(None))
    }

    /// A descriptor of exactly that process; `None` if it is gone.
    pub(super) fn open(&self) -> io::Result<Option<OwnedFd>> {
        let gone = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT))
                || error.kind() == io::ErrorKind::InvalidInput
        };
        let fd = match open(self.pid) {
            Ok(fd) => fd,
            Err(error) if gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if let (Some(recorded), Some(found)) = (self.inode, inode(&fd))
            && recorded != found
        {
            return Ok(None);
        }
        // Read after the descriptor was opened: if the start fits, the descriptor is of the process that was recorded.
        match Stat::read(self.pid) {
            Ok(stat) if stat.start == self.start && stat.is_alive() => Ok(Some(fd)),
            Ok(_) => Ok(None),
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A descriptor of the process that has the pid now.
pub(super) fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn inode(fd: &OwnedFd) -> Option<u64> {
    let system = rustix::fs::fstatfs(fd).ok()?;
    (u64::try_from(system.f_type).ok() == Some(PIDFS))
        .then(|| rustix::fs::fstat(fd).ok())?
        .map(|stat| stat.st_ino)
}

/// What `/proc/PID/stat` says.
pub(super) struct Stat {
    pub(super) state: u8,
    pub(super) parent: i32,
    flags: u64,
    pub(super) start: u64,
}

impl Stat {
    pub(super) fn read(pid: i32) -> io::Result<Self> {
        let text = fs::read(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        // The name in brackets may hold anything, also brackets and spaces.
        let end = memchr::memrchr(b')', text)?;
        let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let flags = fields.nth(4)?.parse().ok()?;
        let start = fields.nth(12)?.parse().ok()?;
        Some(Self { state, parent, flags, start })
    }

    /// Whether it is a thread of the kernel (PF_KTHREAD in its `include/linux/sched.h`).
    pub(super) fn is_of_kernel(&self) -> bool {
        self.flags & 0x0020_0000 != 0
    }

    /// How long ago it was started: ticks are hundredths of a second (USER_HZ).
    pub(super) fn age(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
        now.saturating_sub(Duration::from_millis(self.start.saturating_mul(10)))
    }

    /// Not ended: a zombie only waits for its parent.
    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// The id of this boot.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_ascii().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_is_skipped() {
        let line = b"12 (a) S (b)) R 7 1 1 0 -1 4 0 0 0 0 1 2 3 4 20 0 1 0 4242 1 2 3";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.flags, stat.start), (b'R', 7, 4, 4242));
        assert!(Stat::parse(b"12 (x").is_none() && Stat::parse(b"").is_none());
    }

    #[test]
    fn this_process_is_alive_and_its_namesakes_are_not() {
        let me = ProcessIdentity::of(std::process::id() as i32).unwrap();
        assert!(me.is_alive());
        assert!(!ProcessIdentity { start: me.start + 1, ..me }.is_alive());
        assert!(
            !ProcessIdentity { inode: me.inode.map(|inode| inode + 1), start: me.start + 1, ..me }.is_alive()
        );
        if let Some(inode) = me.inode {
            assert!(!ProcessIdentity { inode: Some(inode + 1), ..me }.is_alive(), "start alone isn't enough");
        }
    }
}
