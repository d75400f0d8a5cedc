//! What the loop remembers over its own death, in the registry's store.

use super::Cause;
use super::network::Kept;
use crate::command::World;
use crate::model::{InstanceName, Service, Stack};
use crate::network::{PortLeases, PortRange, Sites};
use crate::observed::{Run, StopCause};
use crate::plan::{Desired, Wish};
use serde::{Deserialize, Serialize};
use service_registry::registry::{Durable, Registry};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The values of the namespace [`STATE`] that aren't wishes.
const STATE: &str = "supervisor";
/// Wishes by instance.
const WISHES: &str = "wishes";
/// Runs by instance.
const RUNS: &str = "runs";
/// Environments by hash.
const ENVS: &str = "environments";
/// Which environment an instance has.
const ENV_OF: &str = "environment-of";

/// Revisions of agents by node.
const REVISIONS: &str = "node-revisions";

/// The format of what is written here. A newer one is refused.
const VERSION: u32 = 1;

/// What was written can't be read.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// A value isn't what it should be.
    #[error("can't understand {namespace}/{key} in the project's state")]
    Decode {
        /// Where it stands.
        namespace: &'static str,
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A newer harness wrote it.
    #[error(
        "the project's state has format {found}, this harness reads up to {VERSION}: use the newer harness"
    )]
    Newer {
        /// What was found.
        found: u32,
    },
}

/// What is remembered about the run of an instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RunNote {
    pub(super) run: String,
    pub(super) epoch: u64,
    pub(super) dependencies: Vec<(InstanceName, String)>,
    #[serde(default)]
    pub(super) given: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) cause: Cause,
    /// Of a run that no keeper has: the definition that says where to look for it. The wish may have another by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hosted_as: Option<Arc<Service>>,
}

/// What is kept beside the world.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) runs: BTreeMap<InstanceName, RunNote>,
    pub(super) secrets: BTreeMap<String, String>,
    /// Up to which revision of its agent's registry each node was heard.
    pub(super) revisions: BTreeMap<String, u64>,
    /// Runs that were given up while their node was lost, which doesn't know it yet: node, instance, run.
    pub(super) given_up: Vec<(String, InstanceName, String)>,
    envs: BTreeMap<String, BTreeMap<String, String>>,
    env_of: BTreeMap<InstanceName, String>,
    none: BTreeMap<String, String>,
}

impl Memory {
    /// Reads all of it.
    pub(super) fn load(
        registry: &Registry,
        range: PortRange,
        seed: u64,
    ) -> Result<(Self, World), PersistError> {
        if let Some(version) = value::<u32>(registry, STATE, "version")?
            && version > VERSION
        {
            return Err(PersistError::Newer { found: version });
        }
        let stack: Option<Stack> = value(registry, STATE, "stack")?;
        let leases = value(registry, STATE, "ports")?.unwrap_or_else(|| PortLeases::new(range, seed));
        let network = value(registry, STATE, "container-network")?;
        let addresses = value(registry, STATE, "addresses")?.unwrap_or_default();
        let sites = value(registry, STATE, "sites")?.unwrap_or_default();
        let virtuals = value(registry, STATE, "virtuals")?.unwrap_or_default();
        let drained = value(registry, STATE, "drained")?.unwrap_or_default();
        let fences = value(registry, STATE, "fences")?.unwrap_or_default();
        let mut wishes: Vec<(InstanceName, Wish)> = values(registry, WISHES)?;
        let position = |name: &InstanceName| {
            stack.as_ref().and_then(|stack| stack.services.get_index_of(name.service()))
        };
        wishes.sort_by_key(|(name, _)| (position(name).unwrap_or(usize::MAX), name.clone()));
        let memory = Self {
            runs: values(registry, RUNS)?.into_iter().collect(),
            secrets: value(registry, STATE, "secrets")?.unwrap_or_default(),
            revisions: values(registry, REVISIONS)?.into_iter().collect(),
            given_up: value(registry, STATE, "given-up")?.unwrap_or_default(),
            envs: values(registry, ENVS)?.into_iter().collect(),
            env_of: values(registry, ENV_OF)?.into_iter().collect(),
            none: BTreeMap::new(),
        };
        let desired = Desired { wishes: wishes.into_iter().collect() };
        Ok((
            memory,
            World {
                stack,
                desired,
                leases,
                network,
                addresses,
                sites,
                virtuals,
                drained,
                fences,
                ..World::default()
            },
        ))
    }

    /// Writes what a command changed. The answer resolves when it is safe from a crash.
    pub(super) fn save(&self, registry: &Registry, before: &World, after: &World) -> Durable {
        put(registry, STATE, "version", &VERSION);
        if before.stack != after.stack {
            put(registry, STATE, "stack", &after.stack);
        }
        if before.leases != after.leases {
            put(registry, STATE, "ports", &after.leases);
        }
        if before.network != after.network {
            put(registry, STATE, "container-network", &after.network);
        }
        if before.addresses != after.addresses {
            put(registry, STATE, "addresses", &after.addresses);
        }
        if before.sites != after.sites {
            put(registry, STATE, "sites", &after.sites);
        }
        if before.virtuals != after.virtuals {
            put(registry, STATE, "virtuals", &after.virtuals);
        }
        if before.drained != after.drained {
            put(registry, STATE, "drained", &after.drained);
        }
        if before.fences != after.fences {
            put(registry, STATE, "fences", &after.fences);
        }
        self.save_wishes(registry, &before.desired, &after.desired)
    }

    /// The same of wishes alone.
    pub(super) fn save_wishes(&self, registry: &Registry, before: &Desired, after: &Desired) -> Durable {
        for (name, wish) in &after.wishes {
            if before.wishes.get(name) != Some(wish) {
                put(registry, WISHES, &name.to_string(), wish);
            }
        }
        for name in before.wishes.keys().filter(|name| !after.wishes.contains_key(*name)) {
            registry.kv_delete(WISHES, &name.to_string()).forget();
        }
        registry.flush()
    }

    pub(super) fn set_given_up(&self, registry: &Registry) {
        put(registry, STATE, "given-up", &self.given_up);
    }

    /// The environment that `instances` were started with.
    pub(super) fn set_env(
        &mut self,
        registry: &Registry,
        instances: &[InstanceName],
        env: &BTreeMap<String, String>,
    ) {
        if instances.is_empty() {
            return;
        }
        let hash = hash(env);
        if !self.envs.contains_key(&hash) {
            put(registry, ENVS, &hash, env);
            self.envs.insert(hash.clone(), env.clone());
        }
        for instance in instances {
            if self.env_of.get(instance) != Some(&hash) {
                put(registry, ENV_OF, &instance.to_string(), &hash);
                self.env_of.insert(instance.clone(), hash.clone());
            }
        }
        let used: BTreeSet<&String> = self.env_of.values().collect();
        let unused: Vec<String> = self.envs.keys().filter(|hash| !used.contains(hash)).cloned().collect();
        for hash in unused {
            registry.kv_delete(ENVS, &hash).forget();
            self.envs.remove(&hash);
        }
    }

    pub(super) fn set_secrets(&mut self, registry: &Registry, secrets: BTreeMap<String, String>) {
        if self.secrets != secrets {
            put(registry, STATE, "secrets", &secrets);
            self.secrets = secrets;
        }
    }

    /// What is kept of networking, and the epoch of the daemon before.
    pub(super) fn load_network(registry: &Registry) -> Result<(Kept, u64), PersistError> {
        let kept = value(registry, STATE, "network")?.unwrap_or_default();
        Ok((kept, value(registry, STATE, "network-epoch")?.unwrap_or_default()))
    }

    pub(super) fn set_network(&self, registry: &Registry, kept: &Kept) {
        put(registry, STATE, "network", kept);
    }

    pub(super) fn set_network_epoch(&self, registry: &Registry, epoch: u64) {
        put(registry, STATE, "network-epoch", &epoch);
    }

    /// Where nodes stand has become known.
    pub(super) fn set_sites(&self, registry: &Registry, sites: &Sites) {
        put(registry, STATE, "sites", sites);
    }

    /// A node was heard up to there. What came of it was written before; both are safe at the same time.
    pub(super) fn set_revision(&mut self, registry: &Registry, node: &str, revision: u64) {
        if self.revisions.insert(node.to_owned(), revision) != Some(revision) {
            put(registry, REVISIONS, node, &revision);
        }
    }

    /// What a node tells is heard from its beginning again.
    pub(super) fn forget_revision(&mut self, registry: &Registry, node: &str) {
        if self.revisions.remove(node).is_some() {
            registry.kv_delete(REVISIONS, node).forget();
        }
    }

    pub(super) fn env_of(&self, instance: &InstanceName) -> &BTreeMap<String, String> {
        self.env_of.get(instance).and_then(|hash| self.envs.get(hash)).unwrap_or(&self.none)
    }

    pub(super) fn started(&mut self, registry: &Registry, instance: &InstanceName, run: &Run) {
        let note = RunNote {
            run: run.id.clone(),
            epoch: run.epoch,
            dependencies: run.dependencies.clone(),
            given: run.given.clone(),
            cause: None,
            hosted_as: run.service.is_hosted().then(|| run.service.clone()),
        };
        put(registry, RUNS, &instance.to_string(), &note);
        self.runs.insert(instance.clone(), note);
    }

    pub(super) fn stopping(&mut self, registry: &Registry, instance: &InstanceName, cause: StopCause) {
        if let Some(note) = self.runs.get_mut(instance)
            && note.cause != Some(cause)
        {
            note.cause = Some(cause);
            put(registry, RUNS, &instance.to_string(), note);
        }
    }

    pub(super) fn forget(&mut self, registry: &Registry, instance: &InstanceName) {
        let key = instance.to_string();
        self.runs.remove(instance);
        self.env_of.remove(instance);
        for namespace in [RUNS, WISHES, ENV_OF] {
            registry.kv_delete(namespace, &key).forget();
        }
    }
}

fn hash(env: &BTreeMap<String, String>) -> String {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    for (name, value) in env {
        hasher.update(name.as_bytes());
        hasher.update([0]);
        hasher.update(value.as_bytes());
        hasher.update([0]);
    }
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn put<T: Serialize>(registry: &Registry, namespace: &str, key: &str, value: &T) {
    // Our own types: maps with text keys, nothing that JSON can't hold.
    if let Ok(bytes) = serde_json::to_vec(value) {
        registry.kv_put(namespace, key, &bytes).forget();
    }
}

fn value<T: for<'de> Deserialize<'de>>(
    registry: &Registry,
    namespace: &'static str,
    key: &str,
) -> Result<Option<T>, PersistError> {
    let decode = |bytes: &[u8]| {
        serde_json::from_slice(bytes).map_err(|source| PersistError::Decode {
            namespace,
            key: key.into(),
            source,
        })
    };
    registry.kv_get(namespace, key).map(|bytes| decode(&bytes)).transpose().map(Option::flatten)
}

fn values<K, T>(registry: &Registry, namespace: &'static str) -> Result<Vec<(K, T)>, PersistError>
where
    K: TryFrom<String>,
    T: for<'de> Deserialize<'de>,
{
    let mut found = Vec::new();
    for (key, bytes) in registry.kv_list(namespace) {
        let value = serde_json::from_slice(&bytes).map_err(|source| PersistError::Decode {
            namespace,
            key: key.clone(),
            source,
        })?;
        if let Ok(name) = K::try_from(key) {
            found.push((name, value));
        }
    }
    Ok(found)
}
