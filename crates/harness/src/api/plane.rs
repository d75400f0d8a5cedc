//! `plane.*`: what an agent is asked for the data plane of its node. Tables and reports don't come this way: they travel
//! between data planes (`docs/adr/0010-data-plane.md`).

use serde::{Deserialize, Serialize};

/// `plane.up`: [`UpParams`] → an empty object, once the node's data plane answers. One that runs is left as it is.
pub const UP: &str = "plane.up";

/// Which node it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UpParams {
    /// Its name in the project's file.
    pub node: String,
}
