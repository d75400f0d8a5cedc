//! What the registry knows about an instance. The types are also what goes over the wire and into the store.
//!
//! Field names are snake case, closed sets are kebab case, times are RFC 3339 in UTC. Readers ignore fields that they
//! don't know, so fields may be added; removing or renaming one needs a new protocol version.

mod endpoint;
mod entry;
mod health;
mod invalid;
mod known;
mod state;
mod status;

pub use endpoint::{Endpoint, Execution, Location, Place, Scope};
pub use entry::Entry;
pub use health::{Health, HealthStatus, ProbeResult};
pub use invalid::{Invalid, check_name};
pub use known::Known;
pub use state::State;
pub use status::{Exit, Reason, ReasonCode, Status};
