//! `package.*`: the packages of the daemon's machine.

use crate::packages::KEEP;
use semver::Version;
use serde::{Deserialize, Serialize};
use service_registry::files::PackagePlace;
use service_registry::package::hash::Digest;
use service_registry::package::install::Status;
use std::path::PathBuf;

/// `package.list`: [`ListParams`] → [`ListResult`].
pub const LIST: &str = "package.list";
/// `package.deploy`: [`DeployParams`] → [`crate::packages::Deployed`], when it is current.
pub const DEPLOY: &str = "package.deploy";
/// `package.install`: [`InstallParams`] → [`crate::packages::Deployed`]: the same for a package that came unpacked, by `files.put`.
pub const INSTALL: &str = "package.install";
/// `package.rollback`: [`RollbackParams`] → [`crate::packages::RolledBack`].
pub const ROLLBACK: &str = "package.rollback";

/// `package.upload`: [`UploadParams`] → [`UploadOpened`], then a stream of the package's bytes from `offset` on, whose end
/// brings [`Uploaded`]. What broke off is gone on with by the same call. The file is then one for [`DEPLOY`].
pub const UPLOAD: &str = "package.upload";

/// What will come.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UploadParams {
    /// The name of the file: `NAME-VERSION.tar.zst` or `.tar.gz`.
    pub name: String,
    /// Its bytes, at most 16 GiB.
    pub size: u64,
    /// The SHA-256 of all of it.
    #[cfg_attr(test, schemars(with = "String"))]
    pub sha256: Digest,
}

/// Where to send it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UploadOpened {
    /// The stream's number.
    pub stream: u32,
    /// The bytes that are there already: send what follows them.
    pub offset: u64,
}

/// A package that was uploaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Uploaded {
    /// Where it is, on the daemon's machine. The latest few uploads are kept.
    pub file: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: Digest,
}

/// Where to look.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ListParams {
    /// The folder; else the one of the daemon's user.
    pub prefix: Option<PathBuf>,
}

/// What is installed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListResult {
    /// The folder.
    pub root: PathBuf,
    /// By name: versions, the current one, and what was current when.
    #[cfg_attr(test, schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>"))]
    pub packages: Vec<Status>,
}

/// What to deploy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeployParams {
    /// The package, a file of the daemon's machine, by its absolute path.
    pub file: PathBuf,
    /// The public key whose signature it must have: minisign's second line, or a file of the daemon's machine.
    #[serde(default)]
    pub key: Option<String>,
    /// The folder to install to; else the one of the daemon's user.
    #[serde(default)]
    pub prefix: Option<PathBuf>,
    /// Versions that are kept.
    #[serde(default = "keep")]
    pub keep: usize,
    /// Whether the version from before becomes current again when the script after the switch fails.
    #[serde(default)]
    pub rollback_on_failure: bool,
    /// On an agent: who steers it, by the id that it was claimed with. One that another steers refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered_by: Option<String>,
}

/// What came, and how to deploy it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct InstallParams {
    /// Where it came to.
    #[cfg_attr(test, schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    pub package: PackagePlace,
    /// Bytes of its archive.
    pub size: u64,
    /// Who asks, for whoever finds the package's lock taken.
    pub holder: String,
    /// Versions that are kept.
    #[serde(default = "keep")]
    pub keep: usize,
    /// Whether the version from before becomes current again when the script after the switch fails.
    #[serde(default)]
    pub rollback_on_failure: bool,
    /// Milliseconds that a script may take; else five minutes.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// On an agent: who steers it, by the id that it was claimed with. One that another steers refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered_by: Option<String>,
}

fn keep() -> usize {
    KEEP
}

/// What to go back to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RollbackParams {
    /// The package.
    pub name: String,
    /// A version that is installed; else what the current one replaced.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub version: Option<Version>,
    /// Where it is installed; else the folder of the daemon's user.
    #[serde(default)]
    pub prefix: Option<PathBuf>,
    /// On an agent: who steers it, by the id that it was claimed with. One that another steers refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered_by: Option<String>,
}
