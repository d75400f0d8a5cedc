//! Reports on their way to the daemon: sent at once if it reads, kept while it is behind, dropped if there is none (the
//! files say the same).

use super::{
    report::{MAX_DATAGRAM, Report, encode},
    socket::{self, DAEMON},
};
use rustix::{
    io::Errno,
    net::sockopt::{Timeout, set_socket_timeout},
};
use std::{
    collections::VecDeque,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// The kernel's queue of a datagram socket is short (10 by default). When it is full, the sender waits in the kernel
/// for its turn, for at most this: there nobody spins, and each place that comes free wakes one.
const TURN: Duration = Duration::from_millis(10);

/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Reports not yet sent. Bounded by its owner: a keeper has two in its life.
#[derive(Default)]
pub(super) struct Outbox {
    way: Option<(OwnedFd, BorrowedFd<'static>)>,
    waiting: VecDeque<Vec<u8>>,
    retry: Option<(Instant, Duration)>,
}

impl Outbox {
    pub(super) fn new(run_folder: BorrowedFd<'static>) -> io::Result<Self> {
        let socket = socket::datagram()?;
        // Blocking, but only for TURN.
        rustix::io::ioctl_fionbio(&socket, false)?;
        set_socket_timeout(&socket, Timeout::Send, Some(TURN))?;
        Ok(Self { way: Some((socket, run_folder)), ..Self::default() })
    }

    /// Sends a report, or keeps it for later.
    pub(super) fn push(&mut self, report: &Report) {
        let mut bytes = encode(report);
        if bytes.len() > MAX_DATAGRAM
            && let Report::StartFailed { instance, run, stage, errno, .. } = report
        {
            let (instance, run, stage, errno) = (instance.clone(), *run, *stage, *errno);
            bytes = encode(&Report::StartFailed { instance, run, stage, errno, message: String::new() });
        }
        self.waiting.push_back(bytes);
        self.retry = None;
        self.flush();
    }

    /// Tries again if it is time to.
    pub(super) fn flush(&mut self) {
        if self.delay().is_some_and(|delay| !delay.is_zero()) {
            return;
        }
        while let (Some((socket, folder)), Some(first)) = (&self.way, self.waiting.front()) {
            match socket::send(socket, *folder, DAEMON, first) {
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => {
                    let pause = self.retry.map_or(TURN, |(_, pause)| (pause * 2).min(MAX_PAUSE));
                    self.retry = Some((Instant::now() + pause, pause));
                    return;
                }
                // Sent; or there is no daemon (ECONNREFUSED, ENOENT), and none that comes needs it.
                _ => {
                    self.waiting.pop_front();
                    self.retry = None;
                }
            }
        }
    }

    /// When [`Self::flush`] should be called next, from now.
    pub(super) fn delay(&self) -> Option<Duration> {
        self.retry.map(|(at, _)| at.saturating_duration_since(Instant::now()))
    }

    /// Sends all that waits, as long as there is a daemon to take it.
    pub(super) fn finish(&mut self) {
        while let Some(delay) = self.delay() {
            std::thread::sleep(delay);
            self.flush();
        }
    }
}
