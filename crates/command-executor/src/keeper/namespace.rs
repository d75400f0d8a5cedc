//! A private view of the hosts file, for one service: a mount namespace in which another file lies over `/etc/hosts`.
//!
//! The machine's own file isn't touched. Who may not make such a namespace makes it inside a user namespace, in which its
//! user and group are mapped to themselves and to nothing else: there `sudo` and other set-user-id programs don't work.
#![allow(unsafe_code)]

use super::{report::StartStage, sys::errno};
use std::{
    ffi::{CStr, CString, c_int},
    ptr,
};

/// What a service is to see instead of its own file.
const HOSTS: &CStr = c"/etc/hosts";

/// What to do where the kernel refuses.
const WITHOUT: &str = "`names: env` goes without";

/// All that is needed between fork and exec.
pub(super) struct HostsView {
    file: CString,
    /// The lines that map user and group to themselves.
    uid_map: CString,
    gid_map: CString,
    /// Whether a user namespace will do: in one, no other user can be become.
    may_map: bool,
}

/// The step that was refused.
#[derive(Clone, Copy)]
pub(super) struct Refused {
    what: &'static str,
    pub(super) errno: c_int,
}

impl Refused {
    /// What was refused and what can be done.
    pub(super) fn told(self, stage: StartStage) -> super::child::StartFailure {
        let error = std::io::Error::from_raw_os_error(self.errno);
        let message = format!("{} was refused: {error}; {WITHOUT}", self.what);
        super::child::StartFailure { stage, errno: self.errno, message }
    }
}

impl HostsView {
    /// `file` is what is seen at `/etc/hosts`. `becomes_other`: whether user or group change after that.
    pub(super) fn new(file: CString, becomes_other: bool) -> Self {
        let line = |id: u32| CString::new(format!("{id} {id} 1\n")).unwrap_or_default();
        Self {
            file,
            uid_map: line(rustix::process::geteuid().as_raw()),
            gid_map: line(rustix::process::getegid().as_raw()),
            may_map: !becomes_other,
        }
    }

    /// Moves the calling process into namespaces of its own and lays the file over `/etc/hosts`. System calls only: nothing
    /// is allocated, so that it can be called between fork and exec.
    pub(super) fn enter(&self) -> Result<(), Refused> {
        let done = |what, result: c_int| match result < 0 {
            true => Err(Refused { what, errno: errno() }),
            false => Ok(()),
        };
        // SAFETY (all of them): the pointers are to NUL-terminated strings that outlive the calls, or null where that is
        // allowed; namespaces are those of the calling process alone, which shares none of what they replace (no CLONE_FS).
        unsafe {
            if libc::unshare(libc::CLONE_NEWNS) < 0 {
                if errno() != libc::EPERM || !self.may_map {
                    return done("a mount namespace", -1);
                }
                let both = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
                done("a user namespace with a mount namespace", libc::unshare(both))?;
                write(c"/proc/self/setgroups", c"deny")?;
                write(c"/proc/self/uid_map", &self.uid_map)?;
                write(c"/proc/self/gid_map", &self.gid_map)?;
            }
            // What the machine mounts later is still seen, and what is mounted here stays here.
            let quiet = libc::MS_REC | libc::MS_SLAVE;
            let root = libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), quiet, ptr::null());
            done("keeping mounts to itself", root)?;
            let (file, hosts) = (self.file.as_ptr(), HOSTS.as_ptr());
            let laid = libc::mount(file, hosts, ptr::null(), libc::MS_BIND, ptr::null());
            done("mounting a file over /etc/hosts", laid)
        }
    }
}

/// Writes a file of the kernel's, at once.
fn write(file: &'static CStr, text: &CStr) -> Result<(), Refused> {
    // SAFETY: the pointers are to NUL-terminated strings; the descriptor is the one just opened.
    unsafe {
        let refused = || Err(Refused { what: "mapping the user to itself", errno: errno() });
        let opened = libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if opened < 0 {
            return refused();
        }
        let length = text.to_bytes().len();
        let written = libc::write(opened, text.as_ptr().cast(), length);
        let done = if usize::try_from(written) == Ok(length) { Ok(()) } else { refused() };
        libc::close(opened);
        done
    }
}
