//! Short answers: rows of a list, images, versions.

use super::json::{self, at, text};
use super::{ContainerStatus, DockerError};
use serde_json::Value;
use std::collections::BTreeMap;

/// A row of [`Docker::list`](super::Docker::list): enough to know which ones to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRow {
    /// Its id, whole.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it does.
    pub status: ContainerStatus,
    /// The image as it was asked for.
    pub image: String,
    /// Its labels. Docker writes them as one text: where values hold commas, [look](super::Docker::inspect) instead.
    pub labels: BTreeMap<String, String>,
}

impl ContainerRow {
    /// Reads what [`Docker::list`](super::Docker::list) printed, in docker's order.
    ///
    /// # Errors
    /// [`DockerError::Answer`].
    pub fn parse(stdout: &[u8]) -> Result<Vec<Self>, DockerError> {
        // Docker prints a line each, podman 4 a list.
        json::documents(stdout, "a list of containers")?.iter().map(Self::read).collect()
    }

    fn read(row: &Value) -> Result<Self, DockerError> {
        let unexpected = || DockerError::unexpected("a row of containers");
        // Docker joins names by commas, the container's own first or last; links bring names with a slash.
        let names = match at(row, &["/Names"]) {
            Some(Value::String(names)) => names.split(',').map(str::to_owned).collect(),
            _ => json::list(row, "/Names"),
        };
        let own = names.into_iter().find(|name| !name.contains('/'));
        Ok(Self {
            id: text(row, &["/ID", "/Id"]).ok_or_else(unexpected)?,
            name: own.ok_or_else(unexpected)?,
            status: ContainerStatus::parse(&text(row, &["/State"]).unwrap_or_default()),
            image: text(row, &["/Image"]).unwrap_or_default(),
            labels: match at(row, &["/Labels"]) {
                Some(Value::String(labels)) => split_labels(labels),
                _ => json::texts(row, &["/Labels"]),
            },
        })
    }
}

fn split_labels(joined: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut last: Option<String> = None;
    for part in joined.split(',') {
        match (part.split_once('='), &last) {
            (Some((name, value)), _) => {
                labels.insert(name.to_owned(), value.to_owned());
                last = Some(name.to_owned());
            }
            // No name: the value before it had a comma.
            (None, Some(name)) => {
                if let Some(value) = labels.get_mut(name) {
                    value.push(',');
                    value.push_str(part);
                }
            }
            (None, None) => {}
        }
    }
    labels
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageState {
    /// Its id.
    pub id: String,
    /// Whether it brings a health check.
    pub has_healthcheck: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Ports that it says it listens on, `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Whom it runs as, if it says so.
    pub user: Option<String>,
}

impl ImageState {
    /// Reads what [`Docker::image`](super::Docker::image) printed.
    ///
    /// # Errors
    /// [`DockerError::Answer`].
    pub fn parse(stdout: &[u8]) -> Result<Self, DockerError> {
        let document = json::document(stdout, "an image")?;
        let image = document.get(0).ok_or_else(|| DockerError::unexpected("an image"))?;
        let check = at(image, &["/Config/Healthcheck/Test", "/Healthcheck/Test"]);
        let first = check.and_then(|test| test.get(0)).and_then(Value::as_str);
        let ports = at(image, &["/Config/ExposedPorts"]).and_then(Value::as_object);
        Ok(Self {
            id: text(image, &["/Id", "/ID"]).ok_or_else(|| DockerError::unexpected("an image"))?,
            has_healthcheck: first.is_some_and(|word| !word.is_empty() && word != "NONE"),
            labels: json::texts(image, &["/Config/Labels", "/Labels"]),
            exposed_ports: ports.into_iter().flatten().map(|(port, _)| port.clone()).collect(),
            user: text(image, &["/Config/User", "/User"]),
        })
    }
}

/// Which docker it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerVersion {
    /// The client's version.
    pub client: String,
    /// The engine's version; podman without a service has none of its own.
    pub engine: Option<String>,
    /// The version of the protocol that both speak.
    pub api: Option<String>,
    /// Whether the program is podman.
    pub is_podman: bool,
}

impl DockerVersion {
    /// Reads what [`Docker::version`](super::Docker::version) printed. It prints the client's part also where the engine
    /// can't be reached, with a bad exit.
    ///
    /// # Errors
    /// [`DockerError::Answer`].
    pub fn parse(stdout: &[u8]) -> Result<Self, DockerError> {
        let value = json::document(stdout, "a version")?;
        let client = text(&value, &["/Client/Version"]);
        Ok(Self {
            client: client.ok_or_else(|| DockerError::unexpected("a version"))?,
            engine: text(&value, &["/Server/Version"]),
            api: text(&value, &["/Client/ApiVersion", "/Client/APIVersion"]),
            // Docker's client names its default; podman's doesn't.
            is_podman: at(&value, &["/Client/DefaultAPIVersion", "/Client/Context"]).is_none(),
        })
    }
}
