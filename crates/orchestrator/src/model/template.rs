//! Text with holes: `http://${db.ip}:${db.port.http}/`.
//!
//! A hole is filled at the moment an instance starts, as seen from that instance. What came from the environment is
//! kept apart from what the file says, so that it can be masked where configuration is shown.

use super::ServiceName;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A text with references to other services in it.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template {
    /// The parts, in order; adjacent [`Segment::Text`]s are merged by the constructors.
    pub segments: Vec<Segment>,
}

/// A part of a [`Template`].
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Segment {
    /// What the file says.
    Text(String),
    /// The value of the environment variable `name` at the time the file was read: masked in `Debug` and on output.
    Value {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
    },
    /// A hole, filled when the instance starts.
    Reference(Reference),
}

/// What fills a hole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// Whose.
    pub subject: Subject,
    /// Which property.
    pub field: Field,
}

/// Whose property a [`Reference`] names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// `${db.…}`: another service, as seen from the one that asks. Implies a dependency.
    Service(ServiceName),
    /// `${self.…}`: the instance itself. Implies nothing.
    Own,
    /// `${secrets.NAME}`: the value of a secret; the field is [`Field::Value`].
    Secret(String),
}

/// The property that a [`Reference`] names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Field {
    /// Address.
    Ip,
    /// The first port, or the named one.
    Port(Option<String>),
    /// A name that resolves where the asking instance runs.
    Host,
    /// `scheme://host:port` of the first port.
    Url,
    /// The name of the instance (of `self`) or of the service.
    Name,
    /// The value of a secret.
    Value,
}

impl Template {
    /// A text without holes.
    pub fn literal(text: impl Into<String>) -> Self {
        Self { segments: vec![Segment::Text(text.into())] }
    }

    /// The text, if it has no holes.
    pub fn as_literal(&self) -> Option<String> {
        let mut text = String::new();
        for segment in &self.segments {
            match segment {
                Segment::Text(part) => text.push_str(part),
                Segment::Value { value, .. } => text.push_str(value),
                Segment::Reference(_) => return None,
            }
        }
        Some(text)
    }

    /// The references in it, in order.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Reference(reference) => Some(reference),
            _ => None,
        })
    }

    /// The text with every hole filled by `fill`; the first hole that can't be filled is the error.
    pub fn fill<E>(&self, mut fill: impl FnMut(&Reference) -> Result<String, E>) -> Result<String, E> {
        let mut text = String::new();
        for segment in &self.segments {
            match segment {
                Segment::Text(part) => text.push_str(part),
                Segment::Value { value, .. } => text.push_str(value),
                Segment::Reference(reference) => text.push_str(&fill(reference)?),
            }
        }
        Ok(text)
    }

    /// The text as a person may see it: holes as `${…}`, values from the environment as `${NAME}` unless `show_values`.
    pub fn display(&self, show_values: bool) -> String {
        let mut text = String::new();
        for segment in &self.segments {
            match segment {
                Segment::Text(part) => text.push_str(part),
                Segment::Value { value, .. } if show_values => text.push_str(value),
                Segment::Value { name, .. } => text.push_str(&format!("${{{name}}}")),
                Segment::Reference(reference) => text.push_str(&reference.to_string()),
            }
        }
        text
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.display(false), f)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => fmt::Debug::fmt(text, f),
            Self::Value { name, .. } => write!(f, "${{{name}}}"),
            Self::Reference(reference) => write!(f, "{reference}"),
        }
    }
}

impl From<&str> for Template {
    fn from(text: &str) -> Self {
        Self::literal(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = match &self.subject {
            Subject::Service(name) => name.as_str(),
            Subject::Own => "self",
            Subject::Secret(name) => return write!(f, "${{secrets.{name}}}"),
        };
        match &self.field {
            Field::Ip => write!(f, "${{{subject}.ip}}"),
            Field::Port(None) => write!(f, "${{{subject}.port}}"),
            Field::Port(Some(port)) => write!(f, "${{{subject}.port.{port}}}"),
            Field::Host => write!(f, "${{{subject}.host}}"),
            Field::Url => write!(f, "${{{subject}.url}}"),
            Field::Name => write!(f, "${{{subject}.name}}"),
            Field::Value => write!(f, "${{{subject}}}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_from_the_environment_are_masked() {
        let template = Template {
            segments: vec![
                Segment::Text("pw=".into()),
                Segment::Value { name: "DB_PW".into(), value: "hunter2".into() },
                Segment::Reference(Reference {
                    subject: Subject::Service(ServiceName::new("db").unwrap()),
                    field: Field::Port(Some("http".into())),
                }),
            ],
        };
        assert_eq!(format!("{template:?}"), r#""pw=${DB_PW}${db.port.http}""#);
        assert!(!format!("{:?}", template.segments).contains("hunter2"));
        assert_eq!(template.display(true), "pw=hunter2${db.port.http}");
        assert_eq!(template.fill(|_| Ok::<_, ()>("80".into())).unwrap(), "pw=hunter280");
        assert_eq!(template.as_literal(), None);
    }
}
