//! Names of services and of their instances.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Name of a service or task: `[a-z0-9][a-z0-9_-]{0,62}`, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Arc<str>);

/// A name that [`ServiceName`] refuses; its display says what a name may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 63 characters of a-z, 0-9, '-' and '_', and begins with a letter or digit")]
pub struct InvalidName;

impl ServiceName {
    /// The name, if it is one.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let mut bytes = name.bytes();
        let first = bytes.next().ok_or(InvalidName)?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if name.len() <= 63 && plain(first) && bytes.all(|b| plain(b) || b == b'-' || b == b'_') {
            Ok(Self(name.into()))
        } else {
            Err(InvalidName)
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix of the variables that other services get about this one: `my-db` gives `MY_DB`.
    pub fn variable_prefix(&self) -> String {
        self.0.to_ascii_uppercase().replace('-', "_")
    }
}

impl TryFrom<String> for ServiceName {
    type Error = InvalidName;
    fn try_from(name: String) -> Result<Self, InvalidName> {
        Self::new(&name)
    }
}

impl FromStr for ServiceName {
    type Err = InvalidName;
    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> String {
        name.0.as_ref().into()
    }
}

impl std::borrow::Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ServiceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// One running copy of a service: `web-1`, counted from 1 also where there is only one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName {
    service: ServiceName,
    number: u32,
}

impl InstanceName {
    /// The instance with this number (from 1).
    pub fn new(service: ServiceName, number: u32) -> Self {
        Self { service, number }
    }

    /// The service that it is a copy of.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Its number, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl FromStr for InstanceName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (service, number) = text.rsplit_once('-').ok_or(InvalidName)?;
        if number.starts_with('0') || number.starts_with('+') {
            return Err(InvalidName);
        }
        Ok(Self { service: ServiceName::new(service)?, number: number.parse().map_err(|_| InvalidName)? })
    }
}

impl TryFrom<String> for InstanceName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<InstanceName> for String {
    fn from(name: InstanceName) -> String {
        name.to_string()
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.service, self.number))
    }
}

impl fmt::Debug for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "0", "web", "my-db_2", &"x".repeat(63)] {
            assert!(ServiceName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a b", "a/b", "..", "ä", &"x".repeat(64)] {
            assert!(ServiceName::new(bad).is_err(), "{bad}");
        }
        assert_eq!(ServiceName::new("my-db").map(|n| n.variable_prefix()), Ok("MY_DB".into()));
    }

    #[test]
    fn instances() {
        let web2: InstanceName = "my-web-2".parse().unwrap();
        assert_eq!(
            (web2.service().as_str(), web2.number(), web2.to_string().as_str()),
            ("my-web", 2, "my-web-2")
        );
        for bad in ["web", "web-", "web-0", "web-01", "web-+1", "-1", "web-99999999999"] {
            assert!(bad.parse::<InstanceName>().is_err(), "{bad}");
        }
    }
}
