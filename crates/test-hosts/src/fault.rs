//! A host of the test's own, and what can happen to it.

use crate::host::{self, Host};
use crate::{Error, Network, docker, state};
use std::net::Ipv4Addr;
use std::ops::Deref;

/// A host of the test's own. It ends when it is dropped.
#[derive(Debug)]
pub struct OwnHost {
    host: Host,
    // Goes with its last host.
    network: Network,
}

impl OwnHost {
    pub(crate) fn new(host: Host, network: Network) -> Self {
        Self { host, network }
    }

    /// The network that it is in.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Freezes every process: a host that hangs. Its kernel is this machine's and still answers, so connections stay.
    ///
    /// # Errors
    /// When docker refuses.
    pub fn pause(&self) -> Result<(), Error> {
        docker::output(&["pause", &self.host.container]).map(drop)
    }

    /// Undoes [`OwnHost::pause`].
    ///
    /// # Errors
    /// When docker refuses.
    pub fn unpause(&self) -> Result<(), Error> {
        docker::output(&["unpause", &self.host.container]).map(drop)
    }

    /// Pulls the cable: its network interface is gone. Nobody is told, connections hang.
    ///
    /// # Errors
    /// When docker refuses.
    pub fn cut(&self) -> Result<(), Error> {
        docker::output(&["network", "disconnect", self.network.name(), &self.host.container]).map(drop)
    }

    /// Undoes [`OwnHost::cut`]: the same address, on an interface of another name (`eth1`).
    ///
    /// # Errors
    /// When docker refuses.
    pub fn heal(&self) -> Result<(), Error> {
        let address = self.host.address.to_string();
        let mut words = vec!["network", "connect", "--ip", &address, "--alias", &self.host.name];
        words.extend([self.network.name(), &self.host.container]);
        docker::output(&words).map(drop)
    }

    /// Drops what comes from this address, one direction of a partition.
    ///
    /// # Errors
    /// As [`Host::exec`].
    pub fn deafen(&self, from: Ipv4Addr) -> Result<(), Error> {
        self.filter("--insert", from)
    }

    /// Undoes [`OwnHost::deafen`].
    ///
    /// # Errors
    /// As [`Host::exec`].
    pub fn hear(&self, from: Ipv4Addr) -> Result<(), Error> {
        self.filter("--delete", from)
    }

    fn filter(&self, what: &str, from: Ipv4Addr) -> Result<(), Error> {
        let from = from.to_string();
        self.host.exec(&["iptables", what, "INPUT", "--source", &from, "--jump", "DROP"]).map(drop)
    }

    /// Lets at most so many kilobits a second leave it.
    ///
    /// # Errors
    /// As [`Host::exec`].
    pub fn slow(&self, kilobits: u32) -> Result<(), Error> {
        let limit = format!("root tbf rate {kilobits}kbit burst 16kb latency 1s");
        self.shape("replace", &limit)
    }

    /// Undoes [`OwnHost::slow`].
    ///
    /// # Errors
    /// As [`Host::exec`].
    pub fn full_speed(&self) -> Result<(), Error> {
        self.shape("del", "root")
    }

    fn shape(&self, verb: &str, what: &str) -> Result<(), Error> {
        let device =
            format!("$(ip -oneline address show to {} | awk '{{ print $2; exit }}')", self.host.address);
        self.host.sh(&format!("tc qdisc {verb} dev {device} {what}")).map(drop)
    }

    /// Power is lost: every process is killed at once, connections hang.
    ///
    /// # Errors
    /// When docker refuses.
    pub fn crash(&self) -> Result<(), Error> {
        docker::output(&["kill", "--signal", "KILL", &self.host.container]).map(drop)
    }

    /// Boots it again after [`OwnHost::crash`]: the same keys, address and files, an empty `/run` and `/tmp`. The boot id
    /// stays, since the kernel is this machine's.
    ///
    /// # Errors
    /// [`Error::Boot`].
    pub fn start(&self) -> Result<(), Error> {
        let started =
            docker::output(&["start", &self.host.container]).and_then(|_| host::running(&self.host));
        started.map_err(|source| Error::Boot { host: self.host.name.clone(), source: Box::new(source) })
    }
}

impl Deref for OwnHost {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Drop for OwnHost {
    fn drop(&mut self) {
        let removed = docker::output(&["rm", "--force", "--volumes", &self.host.container]);
        let removed = removed.and_then(|_| state::remove(&self.host.folder.join(&self.host.name)));
        if let Err(error) = removed {
            eprintln!("the host {} is not wholly gone: {}", self.host.name, error.chain());
        }
    }
}
