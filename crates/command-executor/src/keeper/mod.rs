//! Keepers: processes that outlive the program that started them, with their output, their exit and their tree kept.
//!
//! # Theory of operation
//!
//! ```text
//! daemon ──stream: "start this"──► zygote ──fork──► keeper ──exec──► service
//!   ▲  └─────datagram: stop, signal, …──────────────► │ ◄──pipes─────────┘
//!   └──────────datagram: started, exited, …───────────┘──► instances/NAME/RUN.log, RUN.json
//! ```
//!
//! A process that must outlive the daemon can't be its child. So the daemon ([`Keepers`]) executes its own program once
//! more as a *zygote* ([`zygote_main`]), and the zygote forks a *keeper* for each run. A keeper owns one service: it is
//! its parent and its reader, writes what it says to the log, ends its whole tree when it is asked to or when its main
//! process ends, records the exit on disk, and then tells the daemon, if there is one. Any of the four may be killed
//! at any moment:
//!
//! - the daemon: nothing happens. The next one reads the records ([`Keepers::adopt`]) and hears the same keepers.
//! - a keeper: its service dies with it (PDEATHSIG), what else it left falls to the zygote, which ends it, records
//!   `unknown: keeper killed` and reports it.
//! - the zygote: its keepers live on, watched by the daemon; the next start makes another zygote. Should a keeper be
//!   killed too, [`Keepers::ensure_gone`] finds what is left by identity and by the marker in its environment.
//!
//! Signals go only to processes that the sender knows by more than a pid: a keeper signals its own children (a pid that
//! wasn't waited for can't be reused, and what its children leave become its children), everyone else uses pidfds whose
//! identity was checked.
//!
//! # Files
//!
//! In the state folder (0700): `instances/INSTANCE/RUN.log` (`RUN.log.1` is the latest that was rotated out) and
//! `RUN.json`, see [`RunRecord`]; in `run/`, sockets and the pipes of standard inputs. A run's name is a UUIDv7: names
//! sort by time.
//!
//! `unsafe` is allowed here and nowhere else.

mod spec;
pub use spec::{InvalidRunId, LogLimits, RunId, RunSpec};

mod identity;
pub use identity::ProcessIdentity;

mod report;
pub use report::{PROTOCOL, Report, StartStage, StopRequest};

mod record;
pub use record::{Exit, Gap, RECORD_VERSION, RecordError, RunRecord, RunState, decode_record, read_record};

mod runs;
mod socket;

mod zygote;
pub use zygote::zygote_main;

mod child;
mod farewell;
mod keep;
mod namespace;
mod outbox;
mod region;
mod sys;
pub(crate) use sys::kill_with_this_thread;
mod tree;
mod want;
mod writer;

mod error;
pub use error::KeeperError;

mod client;
mod leftovers;
mod link;
mod orphans;
mod zygote_spawn;
pub use client::{KeeperOptions, Keepers};

mod scan;
pub use scan::{EndedRun, FoundRun, Liveness};
