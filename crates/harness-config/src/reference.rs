//! `${name.field}`: what it may say.

use crate::diagnostic::did_you_mean;
use crate::substitute::Problem;
use orchestrator::model::{Field, Reference, ServiceName, Subject};

const FIELDS: [&str; 5] = ["ip", "port", "host", "url", "name"];

/// Whether the inside of a `${…}` is meant as a reference and not as a variable with an operator: `db-1.ip` is one, the
/// `db-a.b` of a variable `db` with the default `a.b` isn't, unless there is a service of that name.
pub(crate) fn looks_like_one(inner: &str, is_service: impl Fn(&str) -> bool) -> bool {
    let Some((subject, field)) = inner.split_once('.') else { return false };
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if !word(subject) || !field.split('.').all(word) {
        return false;
    }
    let first = field.split('.').next().unwrap_or("");
    !subject.contains('-') || FIELDS.contains(&first) || is_service(subject)
}

/// The reference that the inside of a `${…}` says; a problem's place is the caller's to fill in.
pub(crate) fn parse(inner: &str) -> Result<Reference, Problem> {
    let problem = |message: String| Problem::new(0..0, "reference", message);
    let (subject, field) = inner.split_once('.').unwrap_or((inner, ""));
    if subject == "secrets" {
        return Ok(Reference { subject: Subject::Secret(field.into()), field: Field::Value });
    }
    let (first, more) = field.split_once('.').map_or((field, None), |(first, more)| (first, Some(more)));
    let field = match (first, more) {
        ("ip", None) => Field::Ip,
        ("port", port) => Field::Port(port.map(Into::into)),
        ("host", None) => Field::Host,
        ("url", None) => Field::Url,
        ("name", None) => Field::Name,
        _ => {
            let mut problem = problem(format!("`${{{inner}}}`: a service has no `{field}`"));
            problem.label = Some("expected ip, port, port.NAME, host, url or name".into());
            problem.help = did_you_mean(first, FIELDS);
            return Err(problem);
        }
    };
    if subject == "self" {
        return Ok(Reference { subject: Subject::Own, field });
    }
    let name = ServiceName::new(subject).map_err(|error| {
        let mut problem = problem(format!("`{subject}` is no name of a service"));
        problem.help = Some(error.to_string());
        problem
    })?;
    Ok(Reference { subject: Subject::Service(name), field })
}
