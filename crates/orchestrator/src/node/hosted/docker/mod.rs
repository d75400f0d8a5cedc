//! Containers: one engine, its one stream of events, and the runs that it keeps.

mod ambassador;
mod ask;
mod compose;
mod container;
mod engine;
mod joined;
mod network;
mod news;
mod save;

pub use ask::EngineError;
pub(super) use engine::Engine;
pub use network::{NetworkError, container_network};

/// Label of everything that harness makes: the project's id.
pub const PROJECT_LABEL: &str = "harness.project";
/// Label of a container: its instance.
pub(super) const INSTANCE_LABEL: &str = "harness.instance";
/// Label of a container: its run.
pub(super) const RUN_LABEL: &str = "harness.run";
