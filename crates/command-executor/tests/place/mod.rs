//! Where the tests of targets run: on this machine, and on the test hosts.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use command_executor::command::Command;
use command_executor::executor::{Executor, Finished};
use command_executor::launcher::{DockerExec, DockerExecLauncher, Launcher, LocalLauncher};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use test_hosts::Host;

/// A place by configuration.
pub(crate) type Place = Executor<Arc<dyn Launcher>>;

/// This machine.
pub(crate) fn here() -> Place {
    Executor::new(Arc::new(LocalLauncher::new()))
}

/// A test host, as root.
pub(crate) fn on(host: &Host) -> Place {
    on_as(host, "root")
}

/// A test host, as that user.
pub(crate) fn on_as(host: &Host, user: &'static str) -> Place {
    let exec = DockerExec::new(host.container()).user(user);
    Executor::new(Arc::new(DockerExecLauncher::new(LocalLauncher::new(), exec)))
}

/// Runs a test on smol and on tokio, each within three quarters of a minute.
pub(crate) fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    smol::block_on(within(test()));
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(within(test()));
}

/// Runs a test within three quarters of a minute.
pub(crate) fn on_smol(test: impl Future<Output = ()>) {
    smol::block_on(within(test));
}

/// The same future, at most three quarters of a minute of it.
pub(crate) async fn within<T>(test: impl Future<Output = T>) -> T {
    let late = async {
        async_io::Timer::after(Duration::from_secs(45)).await;
        panic!("it took three quarters of a minute");
    };
    futures_lite::future::or(test, late).await
}

/// Runs a command that must end well.
pub(crate) async fn run(place: &Place, command: Command) -> Finished {
    let finished = place.run(&command).await.unwrap();
    assert!(finished.exit.is_success(), "{command:?}: {}", finished.stderr.to_text());
    finished
}

/// Waits for a condition, with the bound of its test.
pub(crate) async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    while !condition().await {
        async_io::Timer::after(Duration::from_millis(50)).await;
    }
}
