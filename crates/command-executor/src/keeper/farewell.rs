//! A command that asks a service to end, before its signal does.

use super::{
    child::{self, Prepared, StartFailure},
    record::Exit,
    report::StartStage,
    spec::RunSpec,
};
use rustix::fs::{Mode, OFlags};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

/// The variable that tells it the main process.
const PID: &str = "HARNESS_PID";

/// What is kept of a spec until the end is asked for.
pub(super) struct Farewell {
    spec: RunSpec,
    soft_open_files: Option<u64>,
}

/// One that runs.
#[derive(Clone, Copy)]
pub(super) struct Asking {
    pub(super) pid: i32,
    /// What follows it.
    pub(super) signal: i32,
}

impl Farewell {
    /// `None` where the spec has no such command.
    pub(super) fn of(spec: &RunSpec, soft_open_files: Option<u64>) -> Option<Box<Self>> {
        if spec.stop.is_empty() {
            return None;
        }
        let spec = RunSpec { argv: spec.stop.clone(), stop: Vec::new(), ..spec.clone() };
        Some(Box::new(Self { spec, soft_open_files }))
    }

    /// Starts it; its outputs are those of the service, whose reading ends are `pipes`.
    pub(super) fn start(
        mut self,
        main: i32,
        pipes: [Option<BorrowedFd<'_>>; 2],
    ) -> Result<i32, StartFailure> {
        self.spec.env.push((PID.into(), main.to_string().into()));
        let prepared = Prepared::new(&self.spec, self.soft_open_files)?;
        let failed = |error: io::Error| StartFailure::new(StartStage::Socket, "sockets and pipes", &error);
        let input = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let input = input.map_err(|error| failed(error.into()))?;
        let [out, err] = pipes.map(writing_end);
        let (out, err) = (out.map_err(failed)?, err.map_err(failed)?);
        child::spawn(&prepared, [input.as_fd(), out.as_fd(), err.as_fd()])
    }
}

/// The other end of a pipe, opened anew: the keeper holds none, so that it sees when the service has closed its own. One whose
/// reading end is closed leads nowhere.
fn writing_end(pipe: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let path = pipe.map_or("/dev/null".to_owned(), |pipe| format!("/proc/self/fd/{}", pipe.as_raw_fd()));
    Ok(rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// What is said about its end in the service's log, where it went wrong.
pub(super) fn complaint(outcome: &Result<Exit, StartFailure>) -> Option<String> {
    let how = match outcome {
        Ok(Exit::Code(0)) => return None,
        Ok(Exit::Code(code)) => format!("ended with {code}"),
        Ok(Exit::Signal(signal)) => format!("was ended by signal {signal}"),
        Ok(Exit::Unknown(why)) => format!("ended: {why}"),
        Err(failure) => format!("can't be started: {} failed: {}", failure.stage, failure.message),
    };
    Some(format!("harness: the stop command {how}; the signal follows"))
}
