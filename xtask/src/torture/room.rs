//! A mount namespace of its own, in which small disks can be had without changing anything of the machine.

use super::arguments::{Arguments, INSIDE};
use super::failed;
use super::project::Project;
use super::stack::{DISK_SIZE, Service, Temper};
use crate::shell::{self, Failure};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder in the state folder that is the disk of the store.
pub(crate) const STORE_DISK: &str = "store";

/// Bytes of that disk.
pub(crate) const STORE_SIZE: usize = 32 << 20;

/// The store's file.
const STORE: &str = "registry.redb";

/// How a private namespace is made: as root, else with a user namespace.
const WAYS: [&[&str]; 2] = [
    &["--mount", "--propagation", "private"],
    &["--user", "--map-root-user", "--mount", "--propagation", "private"],
];

/// Runs the chore again inside a private mount namespace, if one can be had; what came of that. `None`: it goes on here.
///
/// # Errors
/// When the program can't be run again.
pub(crate) fn enter(words: &[String], arguments: &Arguments) -> Result<Option<Result<(), Failure>>, Failure> {
    if arguments.inside {
        return Ok(None);
    }
    let mounts = "mount -t tmpfs none /mnt";
    let Some(way) =
        WAYS.iter().find(|way| shell::answers("unshare", &[**way, &["sh", "-c", mounts]].concat()))
    else {
        return Ok(None);
    };
    let own = std::env::current_exe().map_err(failed("this program's path"))?;
    let mut command = Command::new("unshare");
    command.args(*way).arg(own).arg("torture").args(words);
    // The seed is settled here, so that both speak of the same.
    command.args(["--seed", &arguments.seed.to_string(), INSIDE]);
    let status = command.status().map_err(failed("unshare"))?;
    let outcome = if status.success() { Ok(()) } else { Err(Failure::new("it was not withstood")) };
    Ok(Some(outcome))
}

/// Puts the logs of some services, and the daemon's store, on small disks, before anything of them exists.
///
/// # Errors
/// When the project doesn't start, or nothing can be mounted.
pub(crate) fn mount_disks(project: &Project, services: &[Service]) -> Result<(), Failure> {
    let first = services.first().map(|service| service.name.clone()).unwrap_or_default();
    let start = project.run(&["start", &first]).map_err(failed("start"))?;
    let stop = project.run(&["stop"]).map_err(failed("stop"))?;
    let Some(state) = project.state_dir().filter(|_| start.code == Some(0) && stop.code == Some(0)) else {
        return Err(Failure::new(format!("the project doesn't start and stop: {start:?} {stop:?}")));
    };
    for service in services.iter().filter(|service| service.temper == Temper::Disk) {
        mount(project, &state.join("instances").join(service.instance()), DISK_SIZE)?;
    }
    let disk = state.join(STORE_DISK);
    mount(project, &disk, STORE_SIZE)?;
    fs::copy(state.join(STORE), disk.join(STORE)).map_err(failed("moving the store"))?;
    fs::remove_file(state.join(STORE)).map_err(failed("moving the store"))?;
    symlink(Path::new(STORE_DISK).join(STORE), state.join(STORE)).map_err(failed("moving the store"))
}

/// Mounts a disk of so many bytes.
fn mount(project: &Project, folder: &Path, size: usize) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("a disk's folder"))?;
    let options = format!("size={size},mode=0700");
    let target = folder.display().to_string();
    shell::output(&project.folder, "mount", &["-t", "tmpfs", "-o", &options, "torture", &target])?;
    Ok(())
}

/// Copies what is on the small disks to where it outlives the namespace.
pub(crate) fn keep(project: &Project, services: &[Service]) {
    let Some(state) = project.state_dir() else { return };
    for service in services.iter().filter(|service| service.temper == Temper::Disk) {
        let from = state.join("instances").join(service.instance());
        // What can't be kept is missed by whoever reads it, not by the verdict.
        let _ = Command::new("cp").arg("-r").arg(from).arg(&project.folder).status();
    }
    let _ = Command::new("cp").arg("-r").arg(state.join(STORE_DISK)).arg(&project.folder).status();
}

/// Takes the small disks below `folder` away again.
pub(crate) fn leave(folder: &Path) {
    super::clock::remove();
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted =
        table.lines().filter_map(|line| line.strip_prefix("torture ")?.split(' ').next().map(PathBuf::from));
    for target in mounted.filter(|target| target.starts_with(folder)) {
        // What stays mounted ends with the namespace.
        let _ = Command::new("umount").arg(target).status();
    }
}
