//! `cargo xtask hosts`: the machines that tests run on. Images are made here, from Debian's packages alone; the
//! `test-hosts` crate boots them.

mod image;
mod machine;

use crate::shell::{self, Failure};
use crate::test::human;
use std::time::Instant;
use test_hosts::{Host, Suite};

const USAGE: &str = "usage: cargo xtask hosts build|up [--yes] | down | status";

/// Carries out what the words say.
///
/// # Errors
/// When they can't be understood, or what they ask for can't be done.
pub(crate) fn hosts(words: &[&str]) -> Result<(), Failure> {
    match words {
        ["build"] => build(shell::in_ci()),
        ["build", "--yes"] => build(true),
        ["up"] => up(shell::in_ci()),
        ["up", "--yes"] => up(true),
        ["down"] => down(),
        ["status"] => status(),
        _ => Err(Failure::new(USAGE)),
    }
}

/// Makes the images that are missing or whose recipe has changed. `yes`: what this machine lacks may be installed.
fn build(yes: bool) -> Result<(), Failure> {
    machine::check_docker()?;
    image::build(yes)?;
    // Last, for it needs ssh-keygen, which is among what may be installed.
    test_hosts::prepare().map_err(failure)
}

/// Makes the images, and boots the hosts that tests share.
///
/// # Errors
/// When this machine lacks something, or a host doesn't boot.
pub(crate) fn up(yes: bool) -> Result<(), Failure> {
    let begin = Instant::now();
    build(yes)?;
    machine::mount_cgroup(yes)?;
    test_hosts::sweep().map_err(failure)?;
    for suite in Suite::ALL {
        let stood = test_hosts::standing(suite).map_err(failure)?;
        let begin = Instant::now();
        let host = Host::shared(suite).map_err(failure)?;
        if stood.address != Some(host.address()) || !stood.current {
            eprintln!("hosts: booted {} at {} in {}", host.name(), host.address(), human(begin.elapsed()));
        }
    }
    eprintln!("hosts: {} are up, {}", Suite::ALL.map(Suite::name).join(", "), human(begin.elapsed()));
    Ok(())
}

/// Ends the hosts that tests share, and what killed tests left.
fn down() -> Result<(), Failure> {
    test_hosts::sweep().map_err(failure)?;
    test_hosts::end_shared().map_err(failure)
}

/// Prints images and hosts.
fn status() -> Result<(), Failure> {
    machine::check_docker()?;
    for (name, state) in image::states() {
        println!("{name:<28}{state}");
    }
    for suite in Suite::ALL {
        let standing = test_hosts::standing(suite).map_err(failure)?;
        let state = standing.state.as_deref().unwrap_or("not there");
        let address = standing.address.map(|address| address.to_string()).unwrap_or_default();
        let old = if standing.state.is_some() && !standing.current { ", from an older image" } else { "" };
        println!("{:<28}{state}{old} {address}", format!("host {}", suite.name()));
    }
    Ok(())
}

/// Takes back all that tests made in this machine's docker, and what was mounted for them.
///
/// # Errors
/// When docker refuses to remove something, or the mount stays.
pub(crate) fn clean(dry_run: bool) -> Result<(), Failure> {
    if machine::check_docker().is_ok() {
        for object in test_hosts::all().map_err(failure)? {
            eprintln!("removing {object}");
        }
        if !dry_run {
            test_hosts::remove_all().map_err(failure)?;
        }
        image::remove_all(dry_run)?;
    }
    machine::unmount_cgroup(dry_run)
}

/// An error of the crate's as a chore's.
fn failure(error: test_hosts::Error) -> Failure {
    Failure::new(error.chain())
}
