//! Ambassadors: containers with nothing in them but this program, each with the name of a service in a container network.
//!
//! What there is to be is decided elsewhere (`network::ambassadors`); this makes it so. The engine's own list, by labels,
//! is the only record: whatever was made by a daemon that was killed in between is found there. It is the engine that starts
//! one again that dies; one that is removed or stopped by others is made anew when the engine tells of it.

mod listening;
mod program;

use super::PROJECT_LABEL;
use super::ask::EngineError;
use super::engine::Engine;
use crate::model::InstanceName;
use crate::network::ContainerNetwork as StackNetwork;
use crate::network::ambassadors::{Caller, Callers, Doors, Post, Standing};
use crate::node::chain;
use command_executor::target::docker::{
    ContainerNetwork, ContainerRow, ContainerStatus, DockerContainer, DockerError,
};
use futures_util::future::{join_all, try_join_all};
use program::{Program, ProgramError};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Label of an ambassador: the service that it stands for.
const SERVICE_LABEL: &str = "harness.ambassador";
/// Label of an ambassador: its network.
const NETWORK_LABEL: &str = "harness.ambassador.network";
/// Label of an ambassador: the ports, with dots between them.
const PORTS_LABEL: &str = "harness.ambassador.ports";
/// The image that has nothing in it.
const IMAGE: &str = "harness-ambassador:empty";
/// In the state folder, where there may be ambassadors.
const MARK: &str = "ambassadors";
/// The folder of the data plane's socket for them, in the state folder and in a container.
const DOOR: (&str, &str) = ("plane/door", "/door");
/// The socket in it.
const SOCKET: &str = "/door/door.sock";
/// How long a new one may take until it listens.
const LISTENS: Duration = Duration::from_secs(5);
/// How many addresses are tried, and what the engine says of one that is taken.
const ADDRESSES: u64 = 32;
const TAKEN: &str = "Address already in use";
/// How often a name that is in the way is cleared, or the image made, before a start gives up.
const TRIES: usize = 3;

/// The ambassadors of a project, as far as this engine knows what is wanted of them.
#[derive(Default)]
pub(super) struct Ambassadors {
    callers: Mutex<Callers>,
    /// The stack's network, once somebody is in it: there addresses are chosen by us.
    network: Mutex<Option<StackNetwork>>,
    /// Held while something is made or taken away.
    turn: async_lock::Mutex<()>,
}

/// No ambassador stands where one is needed.
#[derive(Debug, thiserror::Error)]
pub(in crate::node::hosted) enum AmbassadorError {
    /// The engine refused.
    #[error("the container engine has no ambassador for {service} in {network}")]
    Engine {
        service: String,
        network: String,
        #[source]
        source: EngineError,
    },
    /// It has ended, and says why in its log.
    #[error("the ambassador for {service} in {network} doesn't listen; `docker logs {container}` tells why")]
    Silent { service: String, network: String, container: String },
    /// They can't be asked for.
    #[error("the container engine can't be asked for ambassadors")]
    List(#[source] EngineError),
    /// This program can't be given to containers.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The folder of the socket can't be made.
    #[error("{} can't be made for ambassadors", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl AmbassadorError {
    /// One line for people, with what goes without.
    pub(super) fn told(&self) -> String {
        format!("{} (`names: env` goes without, at the gateway of the stack's network)", chain(self))
    }
}

impl Ambassadors {
    fn callers(&self) -> MutexGuard<'_, Callers> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// An instance is in these networks: whoever it asks for stands there when this returns.
    pub(super) async fn stand_for(
        &self,
        instance: &InstanceName,
        networks: BTreeSet<String>,
        doors: &Doors,
    ) -> Result<(), AmbassadorError> {
        self.ambassadors().callers().joined(instance, networks, doors);
        if doors.is_empty() && !self.mark().exists() {
            return Ok(());
        }
        self.settle().await
    }

    /// The same for one that was found running by a daemon that returns: what is wrong is only told.
    pub(super) async fn join_again(
        &self,
        instance: &InstanceName,
        networks: BTreeSet<String>,
        doors: Option<&Doors>,
    ) {
        let Some(doors) = doors else { return };
        if let Err(error) = self.stand_for(instance, networks, doors).await {
            tracing::warn!(%instance, error = chain(&error), "those it calls aren't all there");
        }
    }

    /// Takes who may have ambassadors from now on.
    pub(in crate::node::hosted) fn expect_callers(
        &self,
        expected: BTreeMap<InstanceName, Caller>,
        down: bool,
    ) {
        self.ambassadors().callers().expect(expected, down);
    }

    /// Looks whether all is as it should be, where there are any.
    pub(in crate::node::hosted) async fn check_ambassadors(&self) {
        let wanted = !self.ambassadors().callers().wanted().is_empty();
        if !wanted && !self.mark().exists() {
            return;
        }
        if let Err(error) = self.settle().await {
            tracing::warn!(error = chain(&error), "ambassadors aren't as they should be");
        }
    }

    /// That is the stack's network.
    pub(super) fn in_network(&self, network: Option<&StackNetwork>) {
        let known = &self.ambassadors().network;
        if let Some(network) = network {
            *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(network.clone());
        }
    }

    /// Whether these labels are an ambassador's.
    pub(super) fn is_ambassador(labels: &BTreeMap<String, String>) -> bool {
        labels.contains_key(SERVICE_LABEL)
    }

    /// Removes all of them: nothing of the stack runs any more.
    pub(super) async fn dismiss_ambassadors(&self) {
        self.ambassadors().callers().forget();
        self.check_ambassadors().await;
    }

    /// The file that is there as long as there may be ambassadors: without it the engine isn't asked.
    fn mark(&self) -> PathBuf {
        self.project().state.join(MARK)
    }

    async fn settle(&self) -> Result<(), AmbassadorError> {
        let _turn = self.ambassadors().turn.lock().await;
        let standing = self.standing().await.map_err(AmbassadorError::List)?;
        let (steps, wanted) = {
            let callers = self.ambassadors().callers();
            (callers.steps(&standing), !callers.wanted().is_empty())
        };
        let removed = join_all(steps.remove.iter().map(|id| self.remove(id))).await;
        for error in removed.iter().filter_map(|removed| removed.as_ref().err()) {
            tracing::warn!(error = chain(error), "an ambassador can't be removed");
        }
        if !steps.start.is_empty() {
            self.prepare()?;
            // Once for all of them. Where that fails each start says why.
            if self.ask(&self.docker().image(IMAGE)).await.is_err() {
                let _ = self.change(&self.docker().empty_image(IMAGE)).await;
            }
            let program = Program::own(&self.project().state)?;
            let starts = steps.start.iter().map(|(post, ports)| self.post(post, ports, &program));
            try_join_all(starts).await?;
        }
        let none = !wanted && removed.iter().all(Result::is_ok) && steps.remove.len() == standing.len();
        if none && std::fs::remove_file(self.mark()).is_ok() {
            // Refused while another project has any.
            let _ = self.change(&self.docker().image_remove(IMAGE)).await;
        }
        Ok(())
    }

    /// Those that there are.
    async fn standing(&self) -> Result<Vec<Standing>, EngineError> {
        let labels = [format!("{PROJECT_LABEL}={}", self.project().id), SERVICE_LABEL.to_owned()];
        let listed = self.ask(&self.docker().list(labels.iter().map(String::as_str))).await?;
        Ok(ContainerRow::parse(&listed.stdout.bytes)?.into_iter().map(standing).collect())
    }

    /// Makes the mark and the folder that is shown to containers; which the engine would make as root's.
    fn prepare(&self) -> Result<(), AmbassadorError> {
        let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        let folder = self.project().state.join(DOOR.0);
        let failed = |path: PathBuf| move |source| AmbassadorError::Folder { path, source };
        make(&folder).map_err(failed(folder.clone()))?;
        std::fs::write(self.mark(), "").map_err(failed(self.mark()))
    }

    /// Starts one, and waits until it listens.
    async fn post(
        &self,
        post: &Post,
        ports: &BTreeSet<u16>,
        program: &Program,
    ) -> Result<(), AmbassadorError> {
        let failed = |source| AmbassadorError::Engine {
            service: post.service.clone(),
            network: post.network.clone(),
            source,
        };
        let mut container = self.definition(post, ports, program);
        let (mut tries, mut others) = (0, 0);
        loop {
            tries += 1;
            if let Some(network) = &mut container.network {
                network.address = self.address(post, others);
            }
            let run = container.run().map_err(|error| failed(error.into()))?;
            match self.change(&run).await {
                Ok(_) => break,
                Err(EngineError::Docker(DockerError::NoSuchImage { .. })) if tries <= TRIES => {
                    self.change(&self.docker().empty_image(IMAGE)).await.map_err(failed)?;
                }
                // Another one's service has the same by chance.
                Err(EngineError::Docker(DockerError::Other { text, .. }))
                    if others < ADDRESSES && text.contains(TAKEN) =>
                {
                    others += 1;
                    tries = 0;
                    self.remove(&container.name).await.map_err(failed)?;
                }
                // One whose labels can't be read, or that was being removed when they were listed.
                Err(EngineError::Docker(DockerError::NameInUse { .. })) if tries <= TRIES => {
                    self.remove(&container.name).await.map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let state = self.inspect(&container.name).await.map_err(failed)?;
        let silent = || AmbassadorError::Silent {
            service: post.service.clone(),
            network: post.network.clone(),
            container: container.name.clone(),
        };
        let pid = state.and_then(|state| state.pid).ok_or_else(silent)?;
        if listening::within(pid, ports, LISTENS).await { Ok(()) } else { Err(silent()) }
    }

    /// Its address, where addresses are ours to choose: of the stack's network the engine would give out one that is leased to
    /// an instance.
    fn address(&self, post: &Post, others: u64) -> Option<IpAddr> {
        let network = self.ambassadors().network.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let network = network.filter(|network| network.name == post.network)?;
        let digest = Sha256::digest(post.service.as_bytes());
        let seed = digest.iter().take(4).fold(0, |seed, byte| seed << 8 | u64::from(*byte));
        Some(network.spare(seed + others)?.into())
    }

    fn definition(&self, post: &Post, ports: &BTreeSet<u16>, program: &Program) -> DockerContainer {
        let project = self.project();
        let name = format!("{}-ambassador-{}-{}", project.id, post.service, short_hash(&post.network));
        let mut container = DockerContainer::new(self.docker().clone(), name, IMAGE);
        container.confined = true;
        container.network = Some(ContainerNetwork {
            name: post.network.clone(),
            aliases: vec![post.service.clone()],
            address: None,
        });
        let numbers: Vec<String> = ports.iter().map(u16::to_string).collect();
        container.labels = [
            (PROJECT_LABEL, project.id.clone()),
            (SERVICE_LABEL, post.service.clone()),
            (NETWORK_LABEL, post.network.clone()),
            (PORTS_LABEL, numbers.join(".")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        container.volumes = program.volumes();
        let folder = project.state.join(DOOR.0).to_string_lossy().into_owned();
        let mut door = command_executor::target::docker::Volume::new(folder, DOOR.1);
        door.read_only = true;
        container.volumes.push(door);
        // Who may open the socket.
        container.user = Some(rustix::process::geteuid().as_raw().to_string());
        container.group = Some(rustix::process::getegid().as_raw().to_string());
        container.entrypoint = Some(program.argv());
        let words = ["--door", SOCKET, "--service", &post.service, "--ports", &numbers.join(",")];
        let words = words.iter().map(|word| (*word).to_owned());
        container.command =
            Some(project.ambassador.iter().map(|word| (*word).to_owned()).chain(words).collect());
        container
    }
}

fn standing(row: ContainerRow) -> Standing {
    let label = |name: &str| row.labels.get(name).cloned();
    let post = label(NETWORK_LABEL).zip(label(SERVICE_LABEL));
    let ports = label(PORTS_LABEL).unwrap_or_default();
    Standing {
        post: post.map(|(network, service)| Post { network, service }),
        ports: ports.split('.').filter_map(|port| port.parse().ok()).collect(),
        runs: row.status.is_running() || row.status == ContainerStatus::Restarting,
        id: row.id,
    }
}

/// Networks have longer names than containers may have beside a service's.
fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
