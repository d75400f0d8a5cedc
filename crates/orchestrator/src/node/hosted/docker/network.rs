//! The stack's network in the engine.

use super::PROJECT_LABEL;
use super::ask::{Asking, EngineError};
use super::engine::Engine;
use crate::network::ContainerNetwork;
use crate::node::{Project, chain};
use command_executor::target::docker::{Docker, DockerError, NetworkDefinition, NetworkState};

/// There is no network for the stack's containers.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The engine refused, or isn't there.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It gave the network no addresses that can be used.
    #[error("the container engine gave the network {name} no IPv4 subnet: {subnets:?}")]
    Subnet {
        /// The network.
        name: String,
        /// What it gave.
        subnets: Vec<String>,
    },
}

/// Label of a network that was made with its subnet named.
const FIXED: &str = "harness.subnet";

/// The network of the project in the container engine of this machine, made if it isn't there: `known` again, if its
/// addresses are still to be had.
///
/// The engine chooses the subnet, because it knows which are taken. Then the network is made once more with just that
/// subnet named: only so will it give containers the addresses that we choose.
///
/// # Errors
/// See [`NetworkError`].
pub async fn container_network(
    project: &Project,
    known: Option<&ContainerNetwork>,
) -> Result<ContainerNetwork, NetworkError> {
    let asking = Networks { docker: Docker::new(), asking: Asking::new() };
    let name = format!("harness-{}", project.id);
    if let Some(found) = asking.inspect(&name).await? {
        if found.labels.contains_key(FIXED) {
            return read(&name, &found);
        }
        // Half made: killed in between. It has no addresses that are chosen by others, and so nobody is in it.
        asking.remove(&name).await?;
    }
    let definition = NetworkDefinition {
        name: name.clone(),
        labels: [(PROJECT_LABEL.to_owned(), project.id.clone())].into(),
        ..NetworkDefinition::default()
    };
    let mut fixed = definition.labels.clone();
    fixed.insert(FIXED.to_owned(), "1".to_owned());
    if let Some(known) = known {
        let as_before = NetworkDefinition {
            subnet: Some(known.subnet()),
            gateway: Some(known.gateway.into()),
            labels: fixed.clone(),
            ..definition.clone()
        };
        match asking.create(&as_before).await {
            Ok(()) => return Ok(known.clone()),
            Err(error) => {
                tracing::info!(error = chain(&error), "the network gets other addresses than before")
            }
        }
    }
    asking.create(&definition).await?;
    let chosen = asking.inspect(&name).await?.ok_or_else(|| no_subnet(&name, Vec::new()))?;
    let network = read(&name, &chosen)?;
    asking.remove(&name).await?;
    let definition = NetworkDefinition {
        subnet: Some(network.subnet()),
        gateway: Some(network.gateway.into()),
        labels: fixed,
        ..definition
    };
    asking.create(&definition).await?;
    Ok(network)
}

struct Networks {
    docker: Docker,
    asking: Asking,
}

impl Networks {
    async fn inspect(&self, name: &str) -> Result<Option<NetworkState>, EngineError> {
        match self.asking.run(&self.docker.network_inspect(name)).await {
            Ok(finished) => Ok(Some(NetworkState::parse(&finished.stdout.bytes)?)),
            Err(EngineError::Docker(DockerError::NoSuchNetwork { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, definition: &NetworkDefinition) -> Result<(), EngineError> {
        self.asking.run(&self.docker.network_create(definition)).await.map(|_| ())
    }

    async fn remove(&self, name: &str) -> Result<(), EngineError> {
        self.asking.run(&self.docker.network_remove(name)).await.map(|_| ())
    }
}

fn read(name: &str, found: &NetworkState) -> Result<ContainerNetwork, NetworkError> {
    let gateway = found.gateway.map(|gateway| gateway.to_string());
    let parsed =
        found.subnets.iter().find_map(|subnet| ContainerNetwork::parse(name, subnet, gateway.as_deref()));
    parsed.ok_or_else(|| no_subnet(name, found.subnets.clone()))
}

fn no_subnet(name: &str, subnets: Vec<String>) -> NetworkError {
    NetworkError::Subnet { name: name.to_owned(), subnets }
}

impl Engine {
    /// Removes the stack's network with what is left of our containers in it.
    pub(in crate::node::hosted) async fn tidy(&self, network: Option<&ContainerNetwork>) {
        self.dismiss_ambassadors().await;
        self.compose_down().await;
        let Some(network) = network else { return };
        self.discard_all().await;
        if let Err(error) = self.change(&self.docker().network_remove(&network.name)).await
            && !matches!(error, EngineError::Docker(DockerError::NoSuchNetwork { .. }))
        {
            tracing::info!(error = chain(&error), "the stack's network stays");
        }
    }
}
