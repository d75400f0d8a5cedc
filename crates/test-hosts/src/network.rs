//! A network of a test's own.

use crate::host::{self, Host};
use crate::{Docker, Error, OwnHost, Scope, Suite, docker, state};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A network for hosts, reachable from this machine and leading nowhere else. It ends when it and all its hosts are
/// dropped.
#[derive(Clone, Debug)]
pub struct Network(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    // Dropped with all that carries its label: hosts, then the network.
    scope: Scope,
    pub(crate) name: String,
    subnet: Subnet,
    next: AtomicU8,
    /// One at a time tells the others who is there.
    telling: Mutex<()>,
}

impl Network {
    /// A network for the test of this name.
    ///
    /// # Errors
    /// [`Error::Absent`] where there is no Docker; [`Error::Misplaced`] when nextest runs the test outside the group of
    /// those that boot hosts.
    pub fn create(test: &str) -> Result<Network, Error> {
        Self::create_within(test, |_| true)
    }

    /// The same, with a subnet whose first address is wanted.
    ///
    /// # Errors
    /// As [`Network::create`].
    pub fn create_within(test: &str, wanted: impl Fn(Ipv4Addr) -> bool) -> Result<Network, Error> {
        // Nextest says `@global` for a test that is in no group.
        if std::env::var_os("NEXTEST_TEST_GROUP").is_some_and(|group| group == "@global") {
            return Err(Error::Misplaced);
        }
        let scope = Docker::here()?.scope(test)?;
        let name = scope.name("lan");
        let subnet = create(&name, &scope.labels(), |subnet| wanted(subnet.address(0)))?;
        let (next, telling) = (AtomicU8::new(FIRST_ADDRESS), Mutex::new(()));
        Ok(Network(Arc::new(Inner { scope, name, subnet, next, telling })))
    }

    /// Its name, for this machine's docker.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What the test makes beside the hosts, such as containers in this network.
    pub fn scope(&self) -> &Scope {
        &self.0.scope
    }

    /// This machine's address in it.
    pub fn gateway(&self) -> Ipv4Addr {
        self.0.subnet.address(1)
    }

    /// Boots a host of this name, a word that fits a host. The hosts of a network know each other by name and key.
    ///
    /// # Errors
    /// [`Error::Absent`] and [`Error::Boot`] where this machine can't run it.
    pub fn boot(&self, suite: Suite, name: &str) -> Result<OwnHost, Error> {
        let own = self.boot_alone(suite, name)?;
        self.tell(&own)?;
        Ok(own)
    }

    /// Boots several at once, in the order given.
    ///
    /// # Errors
    /// As [`Network::boot`], the first one.
    pub fn boot_all<const N: usize>(&self, hosts: [(Suite, &str); N]) -> Result<[OwnHost; N], Error> {
        let booted = std::thread::scope(|threads| {
            let started = hosts.map(|(suite, name)| threads.spawn(move || self.boot_alone(suite, name)));
            started.map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        });
        let mut all = Vec::with_capacity(N);
        for host in booted {
            all.push(host?);
        }
        if let Some(any) = all.first() {
            self.tell(any)?;
        }
        // There are as many as were asked for.
        all.try_into().map_err(|_| Error::NoSubnet)
    }

    /// Boots a host that the others haven't heard of yet.
    fn boot_alone(&self, suite: Suite, name: &str) -> Result<OwnHost, Error> {
        let inner = &self.0;
        let address = inner.subnet.address(inner.next.fetch_add(1, Ordering::Relaxed));
        let folder = inner.scope.folder().join("hosts");
        let container = inner.scope.name(name);
        let host = Host { name: name.to_owned(), container, address, suite, folder };
        let own = OwnHost::new(host::boot(host, &inner.name, &inner.scope.labels())?, self.clone());
        note(&own)?;
        Ok(own)
    }

    fn tell(&self, any: &Host) -> Result<(), Error> {
        let _alone = self.0.telling.lock().unwrap_or_else(PoisonError::into_inner);
        tell(any)
    }
}

/// The first host's number in its subnet. 1 is this machine.
const FIRST_ADDRESS: u8 = 2;

/// A private network of 254 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet(pub(crate) [u8; 3]);

impl Subnet {
    pub(crate) fn address(self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.0;
        Ipv4Addr::new(a, b, c, last)
    }
}

/// Private networks to try: the higher parts of 10/8, then of 172.16/12 for machines whose routes cover that.
fn candidates() -> impl Iterator<Item = Subnet> {
    let tens = (200..=254).flat_map(|b| (0..=255).map(move |c| Subnet([10, b, c])));
    let others = (28..=31).flat_map(|b| (0..=255).map(move |c| Subnet([172, b, c])));
    tens.chain(others)
}

/// How many subnets are tried when others take them at the same time.
const TRIES: usize = 64;

/// Makes an internal docker network in a subnet that is wanted and that nothing here routes.
pub(crate) fn create(
    name: &str,
    labels: &[String],
    wanted: impl Fn(Subnet) -> bool,
) -> Result<Subnet, Error> {
    let path = Path::new("/proc/net/route");
    let routes = std::fs::read_to_string(path);
    let routes = routes.map_err(|source| Error::File { path: path.to_owned(), doing: "read", source })?;
    let taken = routed(&routes);
    let is_free = |subnet: &Subnet| !taken.iter().any(|route| route.overlaps(*subnet));
    // Tests that begin together begin in different places.
    let offset = std::process::id() as usize % 4096;
    let (early, late): (Vec<_>, Vec<_>) = candidates().enumerate().partition(|(index, _)| *index < offset);
    let all = late.into_iter().chain(early).map(|(_, subnet)| subnet);
    for subnet in all.filter(|subnet| wanted(*subnet)).filter(is_free).take(TRIES) {
        let range = format!("{}/24", subnet.address(0));
        let mut words = vec!["network", "create", "--internal", "--subnet", &range];
        words.extend(labels.iter().map(String::as_str));
        words.push(name);
        match docker::output(&words) {
            Ok(_) => return Ok(subnet),
            // Another network took it, one that has no route yet.
            Err(Error::Ended { talk, .. }) if talk.contains("overlap") => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::NoSubnet)
}

/// A route of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    network: u32,
    mask: u32,
}

impl Route {
    fn overlaps(self, subnet: Subnet) -> bool {
        let both = self.mask & 0xffff_ff00;
        self.network & both == subnet.address(0).to_bits() & both
    }
}

/// The routes of `/proc/net/route` but for the default one.
fn routed(table: &str) -> Vec<Route> {
    // Columns: interface, destination, gateway, flags, reference count, use, metric, mask. Addresses are hexadecimal and
    // in the machine's byte order.
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be);
    let row = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        Some(Route { network: number(columns.get(1)?)?, mask: number(columns.get(7)?)? })
    };
    table.lines().skip(1).filter_map(row).filter(|route| route.mask != 0).collect()
}

/// Notes who the host is: its names and key, and its container.
pub(crate) fn note(host: &Host) -> Result<(), Error> {
    let folder = host.folder.join(&host.name);
    let public = folder.join("host-key.pub");
    let key = std::fs::read_to_string(&public);
    let key = key.map_err(|source| Error::File { path: public, doing: "read", source })?;
    let key: Vec<&str> = key.split_whitespace().take(2).collect();
    state::write(&folder.join("container"), &host.container)?;
    state::write(&folder.join("known"), &format!("{},{} {}\n", host.name, host.address, key.join(" ")))
}

/// Tells ssh, here and on the hosts of this one's network, who was noted.
pub(crate) fn tell(host: &Host) -> Result<(), Error> {
    let mut known = String::new();
    let mut config = String::new();
    let mut containers = Vec::new();
    let list = std::fs::read_dir(&host.folder);
    let list = list.map_err(|source| Error::File { path: host.folder.clone(), doing: "read", source })?;
    for folder in list.flatten().map(|entry| entry.path()) {
        let Ok(line) = std::fs::read_to_string(folder.join("known")) else { continue };
        if let Some((name, address)) = line.split(' ').next().and_then(|names| names.split_once(',')) {
            config.push_str(&format!("Host {name}\n  HostName {address}\n"));
        }
        known.push_str(&line);
        containers.extend(std::fs::read_to_string(folder.join("container")));
    }
    state::write(&host.known_hosts(), &known)?;
    state::write(&host.ssh_config(), &format!("{config}{}", settings(host)))?;
    if containers.len() > 1 {
        for container in containers {
            let script = "printf %s \"$1\" > /etc/ssh/ssh_known_hosts";
            match docker::output(&["exec", &container, "sh", "-c", script, "sh", &known]) {
                // It crashed, hangs or is gone: it will ask nobody.
                Err(Error::Ended { talk, .. }) if away(&talk) => {}
                other => drop(other?),
            }
        }
    }
    Ok(())
}

/// Whether docker says that a container can't run anything now.
fn away(talk: &str) -> bool {
    ["No such container", "is not running", "is paused"].iter().any(|words| talk.contains(words))
}

/// What holds for every host of a configuration for ssh.
fn settings(host: &Host) -> String {
    // In this file `%` begins a token.
    let quoted = |path: &Path| format!("\"{}\"", docker::text(path).replace('%', "%%"));
    format!(
        "Host *\n  User app\n  IdentityFile {}\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {}\n  \
         GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  BatchMode yes\n  ConnectTimeout 10\n",
        quoted(&host.identity()),
        quoted(&host.known_hosts()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        wg0\t0000C80A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        docker0\t00001FAC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";

    #[test]
    fn what_is_routed_elsewhere_is_not_taken() {
        let routes = routed(TABLE);
        assert_eq!(routes.len(), 2, "the default route covers everything and takes nothing: {routes:?}");
        let taken = |subnet| routes.iter().any(|route| route.overlaps(Subnet(subnet)));
        assert!(taken([10, 200, 7]) && taken([172, 31, 255]));
        assert!(!taken([10, 201, 0]) && !taken([172, 30, 0]));
    }

    #[test]
    fn a_route_inside_a_subnet_takes_it_too() {
        let table = "head\neth0\t050AC90A\t00000000\t0001\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";
        let [route] = routed(table)[..] else { panic!("one route") };
        assert!(route.overlaps(Subnet([10, 201, 10])) && !route.overlaps(Subnet([10, 201, 11])));
    }

    #[test]
    fn every_candidate_is_private() {
        assert!(candidates().all(|subnet| subnet.address(1).is_private()));
    }
}
