//! Networks of an engine.

use super::DockerError;
use super::json::{self, at, text};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A network as it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkDefinition {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its driver instead of `bridge`.
    pub driver: Option<String>,
    /// Its addresses instead of those docker chooses, as `10.1.0.0/24`.
    pub subnet: Option<String>,
    /// The engine's machine in it.
    pub gateway: Option<IpAddr>,
    /// Whether it leads nowhere else.
    pub internal: bool,
}

impl NetworkDefinition {
    pub(super) fn options(&self) -> Vec<String> {
        let labels = self.labels.iter().map(|(name, value)| ("--label", format!("{name}={value}")));
        let driver = self.driver.iter().map(|driver| ("--driver", driver.clone()));
        let subnet = self.subnet.iter().map(|subnet| ("--subnet", subnet.clone()));
        let gateway = self.gateway.iter().map(|gateway| ("--gateway", gateway.to_string()));
        let pairs = labels.chain(driver).chain(subnet).chain(gateway);
        let mut options: Vec<String> = pairs.flat_map(|(option, value)| [option.to_owned(), value]).collect();
        options.extend(self.internal.then(|| "--internal".to_owned()));
        options.extend(["--".to_owned(), self.name.clone()]);
        options
    }
}

/// How a container joins a further network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkJoin {
    /// The network.
    pub network: String,
    /// Further names of the container there.
    pub aliases: Vec<String>,
    /// A fixed address there.
    pub address: Option<IpAddr>,
}

impl NetworkJoin {
    pub(super) fn options(&self) -> Vec<String> {
        let aliases = self.aliases.iter().flat_map(|alias| ["--alias".to_owned(), alias.clone()]);
        let address = self.address.iter().flat_map(|address| {
            [if address.is_ipv6() { "--ip6" } else { "--ip" }.to_owned(), address.to_string()]
        });
        aliases.chain(address).chain(["--".to_owned(), self.network.clone()]).collect()
    }
}

/// A network that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkState {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub subnets: Vec<String>,
    /// The engine's machine in it.
    pub gateway: Option<IpAddr>,
    /// Who is in it.
    pub containers: Vec<NetworkAttachment>,
}

/// A container in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAttachment {
    /// The container's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its address there.
    pub ip: Option<IpAddr>,
}

impl NetworkState {
    /// Reads what [`Docker::network_inspect`](super::Docker::network_inspect) printed, docker's form or podman's.
    ///
    /// # Errors
    /// [`DockerError::Answer`].
    pub fn parse(stdout: &[u8]) -> Result<Self, DockerError> {
        let document = json::document(stdout, "a network")?;
        let network = document.get(0).ok_or_else(|| DockerError::unexpected("a network"))?;
        let need = |paths: &[&str]| text(network, paths).ok_or_else(|| DockerError::unexpected("a network"));
        let pools = at(network, &["/IPAM/Config", "/subnets"]).and_then(Value::as_array);
        let pools: Vec<&Value> = pools.into_iter().flatten().collect();
        let gateway = |pool: &&Value| text(pool, &["/Gateway", "/gateway"])?.parse().ok();
        let members = at(network, &["/Containers", "/containers"]).and_then(Value::as_object);
        Ok(Self {
            id: need(&["/Id", "/id"])?,
            name: need(&["/Name", "/name"])?,
            driver: text(network, &["/Driver", "/driver"]).unwrap_or_default(),
            labels: json::texts(network, &["/Labels", "/labels"]),
            subnets: pools.iter().filter_map(|pool| text(pool, &["/Subnet", "/subnet"])).collect(),
            gateway: pools.iter().find_map(gateway),
            containers: members.into_iter().flatten().map(|(id, value)| attachment(id, value)).collect(),
        })
    }
}

fn attachment(id: &str, value: &Value) -> NetworkAttachment {
    // `172.18.0.2/16`
    let ip = text(value, &["/IPv4Address"]);
    let ip = ip.and_then(|text| text.split('/').next().and_then(|address| address.parse().ok()));
    NetworkAttachment { id: id.to_owned(), name: text(value, &["/Name", "/name"]).unwrap_or_default(), ip }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::docker::Docker;

    #[test]
    fn a_network_is_made_as_it_is_wanted() {
        let network = NetworkDefinition {
            name: "shop".into(),
            labels: [("a".to_owned(), "1".to_owned())].into(),
            subnet: Some("10.1.0.0/24".into()),
            gateway: Some([10, 1, 0, 1].into()),
            internal: true,
            driver: None,
        };
        let command = Docker::new().network_create(&network);
        let words: Vec<_> = command.argv().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(
            words.join(" "),
            "docker network create --label a=1 --subnet 10.1.0.0/24 --gateway 10.1.0.1 --internal -- shop"
        );
    }
}
