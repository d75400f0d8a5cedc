//! A fixed piece of zeroed memory straight from the kernel: it costs nothing until it is touched, and can be given back.
#![allow(unsafe_code)]

use std::{
    io,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

/// Zeroed memory of its own mapping.
#[derive(Debug)]
pub(super) struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its mapping exclusively, like a Box.
unsafe impl Send for Region {}

impl Region {
    /// `len` bytes, a multiple of the page size.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a fresh private anonymous mapping, at an address the kernel chooses, aliases nothing.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Gives the pages back; they read as zeros and cost nothing until they are touched again.
    pub(super) fn release(&mut self) {
        // SAFETY: the range is this mapping, exclusively borrowed; private anonymous pages become zeros.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_DONTNEED) };
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `len` readable, initialised (zeroed) bytes and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref, and self is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
