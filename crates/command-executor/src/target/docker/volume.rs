//! Volumes and ports, as options.

use super::ContainerSpecError;
use std::fmt;
use std::net::IpAddr;

/// Something mounted into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What.
    pub source: VolumeSource,
    /// Where, absolute.
    pub target: String,
    /// Whether the container can't write there.
    pub read_only: bool,
    /// Further options of `--volume`, for example `z` or `rshared`.
    pub options: Vec<String>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A file or folder of the engine's machine, absolute. One that isn't there is made: a folder, root's.
    Path(String),
    /// A volume that docker keeps under this name; made if it isn't there.
    Named(String),
    /// A volume of its own, removed with the container where that is asked for.
    Anonymous,
}

impl Volume {
    /// A path or named volume, depending on whether it begins with `/`, that can be written to.
    pub fn new(source: impl Into<String>, target: impl Into<String>) -> Self {
        let source = source.into();
        let source =
            if source.starts_with('/') { VolumeSource::Path(source) } else { VolumeSource::Named(source) };
        Self { source, target: target.into(), read_only: false, options: Vec::new() }
    }

    pub(super) fn option(&self) -> Result<String, ContainerSpecError> {
        let bad = |why| Err(ContainerSpecError::Volume { volume: self.to_string(), why });
        let source = match &self.source {
            VolumeSource::Path(path) if !path.starts_with('/') => return bad("the path isn't absolute"),
            VolumeSource::Named(name) if name.is_empty() || name.contains('/') => {
                return bad("a named volume is called by letters, digits, _ . and -");
            }
            VolumeSource::Path(text) | VolumeSource::Named(text) => Some(text.as_str()),
            VolumeSource::Anonymous => None,
        };
        if !self.target.starts_with('/') {
            return bad("the place in the container isn't absolute");
        }
        if source.is_some_and(|source| source.contains(':')) || self.target.contains(':') {
            return bad("docker's --volume can't carry a path with a colon");
        }
        Ok(self.to_string())
    }
}

impl fmt::Display for Volume {
    /// As `--volume` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            VolumeSource::Path(source) | VolumeSource::Named(source) => write!(f, "{source}:")?,
            VolumeSource::Anonymous => {}
        }
        f.write_str(&self.target)?;
        let read_only = self.read_only.then_some("ro");
        let mut separator = ":";
        for option in read_only.into_iter().chain(self.options.iter().map(String::as_str)) {
            write!(f, "{separator}{option}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp` or `sctp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.name() == name)
    }
}

/// A port of a container that the engine's machine listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortBinding {
    /// The address of the machine; `None` is all of them.
    pub address: Option<IpAddr>,
    /// The machine's port; `None` lets docker choose one.
    pub host: Option<u16>,
    /// The container's port.
    pub container: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

impl fmt::Display for PortBinding {
    /// As `--publish` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        match self.host {
            Some(port) => write!(f, "{port}:")?,
            // With an address, its place has to stay; without one, the container's port stands alone.
            None if self.address.is_some() => f.write_str(":")?,
            None => {}
        }
        write!(f, "{}/{}", self.container, self.protocol.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_publish_takes_them() {
        let port = |address: Option<&str>, host| PortBinding {
            address: address.map(|address| address.parse().unwrap()),
            host,
            container: 80,
            protocol: Protocol::Tcp,
        };
        let table = [
            (port(None, None), "80/tcp"),
            (port(None, Some(8080)), "8080:80/tcp"),
            (port(Some("127.0.0.1"), Some(8080)), "127.0.0.1:8080:80/tcp"),
            (port(Some("127.0.0.1"), None), "127.0.0.1::80/tcp"),
            (port(Some("::1"), Some(8080)), "[::1]:8080:80/tcp"),
            (PortBinding { protocol: Protocol::Udp, ..port(None, Some(53)) }, "53:80/udp"),
        ];
        for (port, text) in table {
            assert_eq!(port.to_string(), text);
        }
    }

    #[test]
    fn volumes_are_written_as_volume_takes_them_or_refused() {
        let named = Volume::new("data", "/var/lib/x");
        let path = Volume { read_only: true, options: vec!["z".into()], ..Volume::new("/srv", "/srv") };
        let anonymous = Volume { source: VolumeSource::Anonymous, ..Volume::new("", "/cache") };
        for (volume, text) in [(&named, "data:/var/lib/x"), (&path, "/srv:/srv:ro,z"), (&anonymous, "/cache")]
        {
            assert_eq!(volume.option().unwrap(), text);
        }
        let relative = Volume { source: VolumeSource::Path("srv".into()), ..path.clone() };
        for refused in
            [relative, Volume::new("/a:b", "/c"), Volume::new("/a", "c"), Volume::new("../a", "/c")]
        {
            assert!(matches!(refused.option(), Err(ContainerSpecError::Volume { .. })), "{refused}");
        }
    }
}
