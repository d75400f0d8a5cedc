//! The few system calls that have no safe door elsewhere, each behind one here.
//!
//! Zygote and keepers are single-threaded processes; the functions that need that say so.
#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_uint},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The number of the error that the last system call ended with. Allocates nothing.
pub(super) fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)
}

/// Waits until one of `fds` is ready (those with the descriptor -1 are ignored), for at most `timeout_ms`
/// (-1: for ever). An interruption counts as nothing ready.
pub(super) fn poll(fds: &mut [libc::pollfd], timeout_ms: c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of one exclusive slice, which outlives the call.
    let result = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
    match check(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            fds.iter_mut().for_each(|fd| fd.revents = 0);
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Lets what the command starts be killed when the calling thread ends, also when that is by SIGKILL. Set after a change of
/// user, which would clear it.
pub(crate) fn kill_with_this_thread(command: &mut std::process::Command) {
    let parent = rustix::process::getpid();
    let set = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It may have ended before that.
        match rustix::process::getppid() == Some(parent) {
            true => Ok(()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    };
    // SAFETY: between fork and exec, it makes two system calls and allocates nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, set) };
}

/// Blocks every signal for this thread, and gives every signal its default action: what the program's start-up code
/// or whoever started it had ignored would be inherited by the services.
pub(super) fn reset_signals() {
    // Larger than the kernel's structure, all zeros: the default action, no flags.
    let default = [0u64; 8];
    // SAFETY: the set is initialised by sigfillset before it is read; the default action installs no code. The system
    // call is made directly because libc keeps two of the numbers to itself, and those may be inherited as ignored
    // too. Numbers that can't be set (SIGKILL, SIGSTOP) are refused by the kernel, which is fine.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        for number in 1..=64 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8usize,
            );
        }
    }
}

/// A descriptor that becomes readable when one of the (blocked) signals is pending.
pub(super) fn signal_fd(signals: &[c_int]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is read; the descriptor returned is new and ours alone.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Takes the pending signals out of a [`signal_fd`]; whether `wanted` was among them.
pub(super) fn drain_signals(fd: BorrowedFd<'_>, wanted: c_int) -> bool {
    const ONE: usize = size_of::<libc::signalfd_siginfo>();
    let mut found = false;
    let mut buffer = [0u8; ONE * 4];
    while let Ok(read) = rustix::io::read(fd, &mut buffer) {
        for info in buffer.get(..read).unwrap_or_default().chunks_exact(ONE) {
            // The number is the structure's first field, four bytes.
            found |=
                info.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes)) == u32::try_from(wanted).ok();
        }
        if read < buffer.len() {
            break;
        }
    }
    found
}

/// Forks; `None` in the child. Only for single-threaded processes.
pub(super) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the callers are single-threaded, so the child inherits no lock that another thread held.
    let pid = check(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid))
}

/// Ends the process at once, without destructors or handlers.
pub(super) fn exit(code: c_int) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Sends a signal to one process by its pid. Only for one's own child that wasn't waited for.
pub(super) fn kill_child(pid: i32, signal: c_int) -> io::Result<()> {
    // 0 and negative numbers would mean groups, or everything.
    if pid <= 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: kill has no memory preconditions.
    check(unsafe { libc::kill(pid, signal) }).map(|_| ())
}

/// Puts a copy of a descriptor at a fixed number, closed on exec.
pub(super) fn dup_to(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    if from.as_raw_fd() == to {
        return Ok(());
    }
    // SAFETY: the caller keeps the low numbers free for this (they are not owned by anything in this process).
    check(unsafe { libc::dup3(from.as_raw_fd(), to, libc::O_CLOEXEC) }).map(|_| ())
}

/// Puts a copy of a descriptor at a number that a standard stream has, open over exec.
pub(super) fn dup_to_standard(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    debug_assert!((0..3).contains(&to));
    // SAFETY: 0 to 2 are the standard streams, which nobody owns.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }).map(|_| ())
}

/// A descriptor by a number at which [`dup_to`] put one in this process, for ever.
pub(super) fn fixed(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: callers name the fixed numbers only, which are never closed while the process lives.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Closes every descriptor from `first` on. Only in a forked keeper, which never drops what its parent owned.
pub(super) fn close_from(first: c_uint) {
    // SAFETY: the owners of these descriptors belong to the zygote's part of the copied memory, and are never used or
    // dropped by a keeper.
    unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0) };
}

/// Gives what the allocator holds and doesn't use back to the kernel.
pub(super) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
