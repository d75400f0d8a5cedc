//! Want of descriptors or memory: what can't be looked at now is not gone.

use std::io;

/// What was read of a process: `None` where there is nothing to be known, an error where it only can't be read now, for
/// want of descriptors or memory. The two must not be taken for each other: of what is gone another copy is started.
pub(super) fn known<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_want(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Whether something failed for want of descriptors or memory: it may work in a moment.
pub(super) fn is_want(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cant_be_read_now_is_not_taken_for_what_is_gone() {
        let read = |errno: i32| known::<()>(Err(io::Error::from_raw_os_error(errno)));
        for gone in [libc::ENOENT, libc::ESRCH, libc::EACCES, libc::EPERM] {
            assert!(matches!(read(gone), Ok(None)), "{gone}");
        }
        for want in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            assert!(read(want).is_err(), "{want}");
        }
        assert!(matches!(known(Ok(1)), Ok(Some(1))));
    }
}
