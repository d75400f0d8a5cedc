//! What the test hosts need of this machine: programs, Docker, a cgroup v2 mount.

use super::failure;
use crate::shell::{self, Failure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs that make the images, and those that tests hold ours against, signatures and tunnels: program and Debian's
/// package.
const PROGRAMS: &[(&str, &str)] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("busybox", "busybox-static"),
    ("ssh-keygen", "openssh-client"),
    ("minisign", "minisign"),
    ("wireguard-go", "wireguard-go"),
    ("wg", "wireguard-tools"),
];

/// What mmdebstrap needs too where it isn't root: it works as several users then.
const FOR_USERS: (&str, &str) = ("newuidmap", "uidmap");

/// Where cgroup v2 lies on a machine that has v1 too.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// Says so where Docker doesn't answer.
pub(super) fn check_docker() -> Result<(), Failure> {
    if shell::answers("docker", &["version"]) {
        return Ok(());
    }
    Err(Failure::new("Docker does not answer here; on Debian: apt-get install docker.io, or join its group"))
}

/// Makes sure that the programs are here. Installs them where that was agreed to.
pub(super) fn check_programs(yes: bool) -> Result<(), Failure> {
    let programs = PROGRAMS.iter().chain((!is_root()).then_some(&FOR_USERS));
    let missing: Vec<&str> =
        programs.filter(|(program, _)| !is_here(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !yes {
        return Err(Failure::new(format!(
            "the test hosts need programs that are not here: run `apt-get install {packages}` as root, \
             or `cargo xtask hosts up --yes`"
        )));
    }
    shell::run(as_root("apt-get").args(["-q", "-o", "DPkg::Lock::Timeout=300", "update"]))?;
    let mut install = as_root("env");
    install.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-qy", "--no-install-recommends"]);
    shell::run(install.args(["-o", "DPkg::Lock::Timeout=300"]).args(missing))
}

/// Whether a program of this name can be run. Debian keeps some where only root looks.
pub(super) fn is_here(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .any(|folder| folder.join(program).is_file())
}

/// Whether we are root.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The program, run by root: by sudo without a password where we are not.
fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

/// A host's systemd needs a cgroup v2 subtree of its own. The engine gives it one where v2 is mounted: as the only one, or
/// beside v1.
pub(super) fn mount_cgroup(yes: bool) -> Result<(), Failure> {
    let unified = Path::new(UNIFIED);
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() || unified.join("cgroup.controllers").exists()
    {
        return Ok(());
    }
    if !yes {
        return Err(Failure::new(format!(
            "the test hosts need cgroup v2, which is not mounted at {UNIFIED}: `cargo xtask hosts up --yes` mounts it, and \
             `cargo xtask clean` takes it back"
        )));
    }
    let marker = marker();
    // First, so that what a killed run mounted is taken back too.
    std::fs::write(&marker, "")
        .map_err(|e| Failure::new(format!("{} can't be written: {e}", marker.display())))?;
    shell::run(as_root("mkdir").args(["-p", UNIFIED]))?;
    shell::run(as_root("mount").args(["-t", "cgroup2", "cgroup2", UNIFIED]))
}

/// Takes back what [`mount_cgroup`] mounted.
pub(super) fn unmount_cgroup(dry_run: bool) -> Result<(), Failure> {
    let marker = marker();
    if !marker.exists() {
        return Ok(());
    }
    eprintln!("unmounting {UNIFIED}");
    if dry_run {
        return Ok(());
    }
    if Path::new(UNIFIED).join("cgroup.controllers").exists() {
        shell::run(as_root("umount").arg(UNIFIED))?;
        shell::run(as_root("rmdir").arg(UNIFIED))?;
    }
    std::fs::remove_file(&marker)
        .map_err(|e| Failure::new(format!("{} can't be removed: {e}", marker.display())))
}

/// A file that says that the mount is ours.
fn marker() -> PathBuf {
    test_hosts::folder().join("cgroup2-is-ours")
}

/// The folder where systems are put together: in memory where there is room for two, else on disk. Where we are not root,
/// other users must be able to enter it, since mmdebstrap then works as several.
pub(super) fn build_folder() -> PathBuf {
    const NEEDED: u64 = 4 << 30;
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    if free >= NEEDED { memory.to_path_buf() } else { PathBuf::from("/var/tmp") }
}

/// The mirror of Debian's packages that this machine's apt uses; `None` where it uses none, which leaves the choice to
/// mmdebstrap.
pub(super) fn mirror() -> Option<String> {
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let arguments = ["indextargets", "--format", format, "Created-By: Packages"];
    let list = shell::output(&shell::root(), "apt-get", &arguments).ok()?;
    debian_of(&list)
}

/// The first repository that has a release of Debian's under its own name.
fn debian_of(list: &str) -> Option<String> {
    const RELEASES: &[&str] =
        &["bookworm", "trixie", "forky", "duke", "sid", "stable", "testing", "unstable"];
    list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (uri, release, component) = (words.next()?, words.next()?, words.next()?);
        (RELEASES.contains(&release) && component == "main").then(|| uri.trim_end_matches('/').to_owned())
    })
}

/// The folder of the test hosts' state, made.
pub(super) fn state() -> Result<PathBuf, Failure> {
    test_hosts::prepare().map_err(failure)?;
    Ok(test_hosts::folder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_that_has_debian_itself() {
        let list = "https://example.org/node/ nodistro main\nhttp://example.org/security/ bookworm-security main\n\
            http://example.org/debian/ bookworm main\n";
        assert_eq!(debian_of(list).as_deref(), Some("http://example.org/debian"));
        assert_eq!(debian_of("http://example.org/ubuntu/ noble main\n"), None);
        assert_eq!(debian_of(""), None);
    }
}
