//! Real machines for tests: containers that boot systemd as PID 1, with sshd, sudo, Docker and faults on demand.
//! For tests of this repository only; nothing that users run depends on it.
//!
//! # Theory of operation
//!
//! `cargo xtask hosts build` makes the images from Debian's packages, without a registry: a host image for each
//! [`Suite`], [`BB`] and [`BARE`] for what runs on them. Everything else is here.
//!
//! * [`Docker::here`] is this machine's engine. A [`Scope`] labels what one test makes there, and removes it when it is
//!   dropped.
//! * [`Host::shared`] is a host that all tests share: whoever comes first boots it, and it stays until
//!   `cargo xtask hosts down`. Tests leave it as they found it and give names of their own to what they make on it.
//! * [`Host::boot`] is a host of the test's own, an [`OwnHost`], on a network of its own. Only such a host can be paused,
//!   cut off or crashed. A [`Network`] can hold several. They end when they are dropped.
//! * [`require!`] takes the result of these. What a machine can't give skips the test, with its reason, and is a failure
//!   with `CI=true`.
//!
//! A test that boots hosts lies in a module or a test binary named `hosts`: nextest runs at most two of those at once.
//!
//! What a test leaves behind because it was killed is found by who made it: each scope has a folder in `target/hosts/run`
//! that is named after the test's process, and docker objects carry labels that say the same. The next test that makes
//! something of the kind ends what dead processes left.
//!
//! Networks are internal: hosts reach each other and this machine, nothing else.

mod docker;
mod error;
mod fault;
mod host;
mod image;
mod network;
mod owner;
mod portable;
mod scope;
mod shared;
mod state;
mod tool;

pub use docker::Docker;
pub use error::Error;
pub use fault::OwnHost;
pub use host::{Host, User};
pub use image::{BARE, BB, RECIPE, Suite};
pub use network::Network;
pub use portable::Portable;
pub use scope::{Scope, all, remove_all, sweep};
pub use shared::{Standing, end_shared, standing};
pub use state::{CHECKOUT, folder, prepare};

/// Takes what the test needs out of a `Result<T, Error>`: where this machine can't give it, the test prints the reason
/// and returns, with `CI=true` it fails. Any other error fails the test everywhere.
///
/// ```no_run
/// use test_hosts::{Host, Suite, User, require};
///
/// fn a_command_runs_there() {
///     let host = require!(Host::shared(Suite::Trixie));
///     let status = host.ssh(User::App).arg("true").status().unwrap();
///     assert!(status.success());
/// }
/// ```
#[macro_export]
macro_rules! require {
    ($what:expr) => {
        match $crate::needed($what) {
            Some(value) => value,
            None => return,
        }
    };
}

/// What [`require!`] does: the value, or `None` when the test is to be skipped, which is printed.
///
/// # Panics
/// When the error isn't one of this machine's lacks, or with `CI=true`.
#[track_caller]
pub fn needed<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.is_lack() && !in_ci() => {
            eprintln!("skipped: {}", error.chain());
            None
        }
        #[expect(clippy::panic, reason = "this is the assertion of a test")]
        Err(error) => panic!("{}", error.chain()),
    }
}

/// A program of this machine that a test compares with, for [`require!`].
///
/// # Errors
/// [`Error::Absent`] when it isn't in the search path, with Debian's `package` that brings it.
pub fn program(name: &str, package: &str) -> Result<std::path::PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file());
    found.ok_or_else(|| Error::Absent {
        what: format!("{name} is not here"),
        hint: format!("on Debian: apt-get install {package}, or `cargo xtask hosts up --yes`"),
    })
}

/// Whether this machine lets users have networks of their own (`unshare -Urnm`), for [`require!`].
///
/// # Errors
/// [`Error::Absent`] where it doesn't, or where iproute2 or nftables isn't there.
pub fn namespaces() -> Result<(), Error> {
    let mut tried = std::process::Command::new("unshare");
    let tried = tried.args(["-Urnm", "sh", "-c", "ip -V && nft -v && tc -V"]).output();
    if tried.is_ok_and(|tried| tried.status.success()) {
        return Ok(());
    }
    let hint = "allow user namespaces, and install iproute2 and nftables".to_owned();
    Err(Error::Absent { what: "networks without root".to_owned(), hint })
}

/// Python with what tests use from PyPI (`xtask/python/requirements.txt`), for [`require!`].
///
/// # Errors
/// [`Error::Absent`] when `cargo xtask test` hasn't made it, or couldn't.
pub fn python() -> Result<std::path::PathBuf, Error> {
    let python = state::python();
    if python.is_file() {
        return Ok(python);
    }
    Err(Error::Absent {
        what: format!("{} is not here", python.display()),
        hint: "`cargo xtask test` makes it, with python3-venv and from PyPI".to_owned(),
    })
}

/// Whether this runs where nothing may be skipped.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}
