//! A host: where it is, how to get onto it, what to do there.

use crate::docker::{self, text};
use crate::shared;
use crate::tool::{self, Input};
use crate::{BB, Error, OwnHost, Suite};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who logs in. The same key opens all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {
    /// The administrator.
    Root,
    /// Has sudo without a password, and Docker.
    App,
    /// Has sudo with the password `pw`, and no Docker.
    Pw,
    /// Has neither.
    Plain,
}

impl User {
    /// All of them.
    pub const ALL: [User; 4] = [User::Root, User::App, User::Pw, User::Plain];

    /// The login name.
    pub fn name(self) -> &'static str {
        match self {
            User::Root => "root",
            User::App => "app",
            User::Pw => "pw",
            User::Plain => "plain",
        }
    }
}

/// A host that runs. Copies mean the same host.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) name: String,
    pub(crate) container: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) suite: Suite,
    /// Of the network that it is in.
    pub(crate) folder: PathBuf,
}

impl Host {
    /// The host of this suite that all tests of this checkout share; boots it if it doesn't run. A test leaves it as it
    /// found it.
    ///
    /// # Errors
    /// [`Error::Absent`] and [`Error::Boot`] where this machine can't run it.
    pub fn shared(suite: Suite) -> Result<Host, Error> {
        shared::host(suite)
    }

    /// A host of the test's own, on a network of its own, that ends when it is dropped. Its name is the suite's.
    ///
    /// # Errors
    /// [`Error::Absent`] and [`Error::Boot`] where this machine can't run it.
    pub fn boot(suite: Suite, test: &str) -> Result<OwnHost, Error> {
        crate::Network::create(test)?.boot(suite, suite.name())
    }

    /// Its name: that of the machine itself, in [`Host::ssh_config`], and for the other hosts of its network.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address, reachable from this machine and from the hosts of its network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What it runs.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The container that it is, for this machine's docker.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// A configuration for `ssh -F`: the hosts of its network by name and by address, as [`User::App`] when no other is
    /// named, with the key and pinned host keys. It sets no ControlMaster and no keep-alives: that is the tester's choice.
    pub fn ssh_config(&self) -> PathBuf {
        self.folder.join("ssh_config")
    }

    /// The host keys of its network, by name and by address.
    pub fn known_hosts(&self) -> PathBuf {
        self.folder.join("known_hosts")
    }

    /// The private key that opens it. The public one lies beside it, with `.pub`.
    pub fn identity(&self) -> PathBuf {
        crate::state::identity()
    }

    /// `ssh -F … USER@NAME`, for the command to be added.
    pub fn ssh(&self, user: User) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(self.ssh_config()).arg(format!("{}@{}", user.name(), self.name));
        command
    }

    /// Runs a command there as root, past sshd, within a minute; the answer: what it printed, without the last line
    /// break.
    ///
    /// # Errors
    /// [`Error::Ended`] with what it wrote to standard error, when it doesn't exit with 0.
    pub fn exec(&self, words: &[&str]) -> Result<String, Error> {
        let all: Vec<&str> = ["exec", &self.container].into_iter().chain(words.iter().copied()).collect();
        docker::output(&all)
    }

    /// The same for a text of `sh`.
    ///
    /// # Errors
    /// As [`Host::exec`].
    pub fn sh(&self, script: &str) -> Result<String, Error> {
        self.exec(&["sh", "-c", script])
    }

    /// The same as a command with standard input, to run as the test likes.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["exec", "--interactive", &self.container]).args(words);
        command
    }

    /// Writes a file there, and the folders above it.
    ///
    /// # Errors
    /// As [`Host::exec`].
    pub fn write(&self, path: &str, content: &str) -> Result<(), Error> {
        let script = r#"mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1""#;
        self.exec(&["sh", "-c", script, "sh", path, content]).map(drop)
    }

    /// Waits there, for half a minute at most, until a text of `sh` exits with 0. It is asked 50 times a second.
    ///
    /// # Errors
    /// [`Error::Ended`] when it never did.
    pub fn wait_until(&self, condition: &str) -> Result<(), Error> {
        let script = format!("until {{ {condition}\n}} >/dev/null 2>&1; do sleep 0.02; done");
        self.exec(&["timeout", "30", "sh", "-c", &script]).map(drop)
    }

    /// Starts the Docker there, if it doesn't run. Podman needs no start.
    ///
    /// # Errors
    /// As [`Host::exec`].
    pub fn start_docker(&self) -> Result<(), Error> {
        match self.suite {
            Suite::Podman => Ok(()),
            Suite::Bookworm | Suite::Trixie => self.exec(&["systemctl", "start", "docker"]).map(drop),
        }
    }

    /// Gives the Docker there the image [`BB`]. Starts it if needed.
    ///
    /// # Errors
    /// As [`Host::exec`], or when this machine hasn't the image.
    pub fn load_bb(&self) -> Result<(), Error> {
        self.load(BB)
    }

    /// Gives the Docker there an image of this machine's. Starts it if needed.
    ///
    /// # Errors
    /// As [`Host::exec`], or when this machine hasn't the image.
    pub fn load(&self, image: &str) -> Result<(), Error> {
        self.start_docker()?;
        let file = docker::saved(image)?;
        let words = ["exec", "--interactive", &self.container, "docker", "load"];
        tool::output("docker", &words, Input::File(&file)).map(drop)
    }
}

/// What `docker create` takes for a host. Less than `--privileged`, which not every machine can give.
const PRIVILEGES: &[&str] = &[
    "--cap-add=SYS_ADMIN",
    "--cap-add=NET_ADMIN",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
    "--cgroupns=private",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
    "--tmpfs=/tmp:exec",
    "--volume=/var/lib/docker",
    "--volume=/var/lib/containerd",
    "--volume=/var/lib/containers",
];

/// The device of tunnels, which WireGuard in user space needs.
const TUN: &str = "/dev/net/tun";

/// Makes the container and boots it. `labels` are arguments for `docker create`.
pub(crate) fn boot(host: Host, network: &str, labels: &[String]) -> Result<Host, Error> {
    docker::has_image(host.suite.image())?;
    check_cgroups()?;
    let folder = host.folder.join(&host.name);
    crate::state::make_folder(&folder)?;
    crate::state::make_key(&folder.join("host-key"), &host.name)?;
    for (from, to) in [("id", "id"), ("id.pub", "id.pub")] {
        let (from, to) = (crate::state::folder().join(from), folder.join(to));
        std::fs::copy(&from, &to).map_err(|source| Error::File { path: to, doing: "written", source })?;
    }
    match start(&host, network, labels, &folder) {
        Ok(()) => Ok(host),
        Err(source) => {
            let _gone = docker::output(&["rm", "--force", "--volumes", &host.container]);
            Err(Error::Boot { host: host.name, source: Box::new(source) })
        }
    }
}

fn start(host: &Host, network: &str, labels: &[String], folder: &Path) -> Result<(), Error> {
    let address = host.address.to_string();
    let mut words = vec!["create", "--name", &host.container, "--hostname", &host.name];
    words.extend(["--network", network, "--network-alias", &host.name, "--ip", &address]);
    words.extend(PRIVILEGES);
    if Path::new(TUN).exists() {
        words.extend(["--device", TUN]);
    }
    words.extend(labels.iter().map(String::as_str));
    words.push(host.suite.image());
    docker::output(&words)?;
    let handed = format!("{}/.", text(folder));
    docker::output(&["cp", &handed, &format!("{}:/etc/test-host", host.container)])?;
    docker::output(&["start", &host.container])?;
    running(host)
}

/// Waits until systemd has started all that it is to start.
pub(crate) fn running(host: &Host) -> Result<(), Error> {
    let script = "until [ -S /run/systemd/private ]; do sleep 0.02; done; systemctl is-system-running --wait";
    match host.exec(&["timeout", "30", "sh", "-c", script]) {
        Ok(_) => Ok(()),
        // A unit failed that no test may need.
        Err(Error::Ended { talk, .. }) if talk == "degraded" => Ok(()),
        Err(error) => Err(error),
    }
}

/// A host's systemd needs a cgroup v2 subtree of its own, which the engine gives it where one is mounted.
fn check_cgroups() -> Result<(), Error> {
    let mounted = ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/unified/cgroup.controllers"];
    if mounted.iter().any(|path| Path::new(path).exists()) {
        return Ok(());
    }
    Err(Error::Absent {
        what: "cgroup v2 is not mounted here".to_owned(),
        hint: "cargo xtask hosts up --yes".to_owned(),
    })
}
