//! `${…}` in a text: variables are replaced at once, references to services become holes.
//!
//! The grammar, of which only what stands in braces is looked at:
//! `$$` · `${VAR}` · `${VAR:-default}` · `${VAR-default}` · `${VAR:?message}` · `${VAR?message}` · `${VAR:+alternative}` ·
//! `${VAR+alternative}` · `${service.field}` · `${service.port.NAME}` · `${self.field}` · `${secrets.NAME}`.
//! Defaults, messages and alternatives may hold more of the same. Any other `$` is a dollar.

use crate::reference;
use orchestrator::model::{Segment, Template};

/// `${…}` inside the default of `${…}`, at most.
const MAX_NESTING: usize = 16;

/// What can be wrong with a `${…}`; `at` is its byte range in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) at: std::ops::Range<usize>,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) label: Option<String>,
    pub(crate) help: Option<String>,
}

impl Problem {
    pub(crate) fn new(at: std::ops::Range<usize>, code: &'static str, message: impl Into<String>) -> Self {
        Self { at, code, message: message.into(), label: None, help: None }
    }
}

/// Where values come from.
pub(crate) trait Variables {
    /// The value of a variable; being asked is remembered, for a change of it makes what runs stale.
    fn value(&mut self, name: &str) -> Option<String>;
    /// Whether a service of this name is known.
    fn is_service(&self, name: &str) -> bool;
    /// A variable with a name like this one, for a hint.
    fn similar(&self, name: &str) -> Option<String>;
}

/// The text with its variables replaced, and every reference with its place in the text.
pub(crate) struct Substituted {
    pub(crate) template: Template,
    pub(crate) references: Vec<(orchestrator::model::Reference, std::ops::Range<usize>)>,
}

/// Replaces the variables of a text.
pub(crate) fn substitute(text: &str, variables: &mut dyn Variables) -> Result<Substituted, Vec<Problem>> {
    let mut out = Output::default();
    if text.contains('$') {
        expand(text, 0, 0, variables, &mut out);
    } else {
        out.text(text);
    }
    if out.problems.is_empty() {
        Ok(Substituted { template: Template { segments: out.segments }, references: out.references })
    } else {
        Err(out.problems)
    }
}

#[derive(Default)]
struct Output {
    segments: Vec<Segment>,
    references: Vec<(orchestrator::model::Reference, std::ops::Range<usize>)>,
    problems: Vec<Problem>,
}

impl Output {
    fn text(&mut self, part: &str) {
        if part.is_empty() {
            return;
        }
        match self.segments.last_mut() {
            Some(Segment::Text(text)) => text.push_str(part),
            _ => self.segments.push(Segment::Text(part.into())),
        }
    }
}

/// Expands `text`, which begins at byte `base` of the whole; goes on after a problem.
fn expand(text: &str, base: usize, depth: usize, variables: &mut dyn Variables, out: &mut Output) {
    let mut rest = text;
    let mut at = base;
    while let Some(dollar) = rest.find('$') {
        let (before, after) = rest.split_at(dollar);
        out.text(before);
        at += dollar;
        let used = if after.starts_with("$$") {
            out.text("$");
            2
        } else if let Some(inside) = after.strip_prefix("${") {
            let Some(length) = closing(inside) else {
                out.problems.push(unclosed(after, at));
                return;
            };
            let inner = inside.get(..length).unwrap_or("");
            if let Err(problem) = hole(inner, at, depth, variables, out) {
                out.problems.push(problem);
            }
            length + 3
        } else {
            out.text("$");
            1
        };
        rest = after.get(used..).unwrap_or("");
        at += used;
    }
    out.text(rest);
}

fn unclosed(after: &str, at: usize) -> Problem {
    let line = after.find('\n').unwrap_or(after.len());
    let mut problem = Problem::new(at..at + line, "unclosed", "`${` is not closed");
    problem.label = Some("expected a `}` after this".into());
    problem.help = Some("write `$${` for a literal `${`".into());
    problem
}

/// The length of what stands before the `}` that belongs to an opened `${`.
fn closing(inside: &str) -> Option<usize> {
    let bytes = inside.as_bytes();
    let (mut open, mut i) = (0usize, 0usize);
    while let Some(byte) = bytes.get(i) {
        match (byte, bytes.get(i + 1)) {
            (b'$', Some(b'$')) => i += 1,
            (b'$', Some(b'{')) => {
                open += 1;
                i += 1;
            }
            (b'}', _) if open == 0 => return Some(i),
            (b'}', _) => open -= 1,
            _ => {}
        }
        i += 1;
    }
    None
}

/// One `${inner}`, which begins at byte `at` of the whole.
fn hole(
    inner: &str,
    at: usize,
    depth: usize,
    variables: &mut dyn Variables,
    out: &mut Output,
) -> Result<(), Problem> {
    let range = at..at + inner.len() + 3;
    if depth >= MAX_NESTING {
        return Err(Problem::new(
            range,
            "too-deep",
            format!("`${{…}}` nested more than {MAX_NESTING} levels deep"),
        ));
    }
    let length = inner.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inner.len());
    let (name, operator) = inner.split_at(length);
    if reference::looks_like_one(inner, |name| variables.is_service(name)) {
        let reference = reference::parse(inner).map_err(|mut problem| {
            problem.at = range.clone();
            problem
        })?;
        out.references.push((reference.clone(), range));
        out.segments.push(Segment::Reference(reference));
        return Ok(());
    }
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        let mut problem = Problem::new(range, "substitution", format!("`${{{inner}}}` names no variable"));
        problem.label = Some("expected ${NAME}, ${NAME:-default} or ${service.field}".into());
        problem.help = Some("write `$${` for a literal `${`".into());
        return Err(problem);
    }
    let value = variables.value(name);
    let colon = operator.starts_with(':');
    // With a colon, empty counts as unset.
    let set = value.filter(|value| !(colon && value.is_empty()));
    let after = operator.strip_prefix(':').unwrap_or(operator);
    let argument = after.get(1..).unwrap_or("");
    let argument_at = at + 2 + inner.len() - argument.len();
    let mut put = |value: String| out.segments.push(Segment::Value { name: name.into(), value });
    match (after.chars().next(), set) {
        (None, Some(value)) if !colon => put(value),
        (None, None) if !colon => return Err(unset(name, range, variables)),
        (Some('-'), Some(value)) | (Some('?'), Some(value)) => put(value),
        (Some('-'), None) | (Some('+'), Some(_)) => {
            expand(argument, argument_at, depth + 1, variables, out);
        }
        (Some('+'), None) => {}
        (Some('?'), None) => {
            let mut message = Output::default();
            expand(argument, argument_at, depth + 1, variables, &mut message);
            out.problems.append(&mut message.problems);
            let message = Template { segments: message.segments }.display(false);
            let message = if message.is_empty() { "it must be set".to_string() } else { message };
            let mut problem =
                Problem::new(range, "unset-variable", format!("`{name}` is not set: {message}"));
            problem.label = Some("not set".into());
            return Err(problem);
        }
        _ => {
            let mut problem =
                Problem::new(range, "substitution", format!("`${{{inner}}}` is not understood"));
            problem.label = Some("expected ${NAME}, ${NAME:-default}, ${NAME:?message}, ${NAME:+alternative} or ${service.field}".into());
            return Err(problem);
        }
    }
    Ok(())
}

fn unset(name: &str, range: std::ops::Range<usize>, variables: &dyn Variables) -> Problem {
    let mut problem = Problem::new(range, "unset-variable", format!("the variable `{name}` is not set"));
    problem.label = Some("not set".into());
    problem.help = Some(match variables.similar(name) {
        Some(near) => format!("did you mean `{near}`?"),
        None if variables.is_service(name) => {
            format!("to refer to the service, name a field: ${{{name}.ip}} or ${{{name}.port}}")
        }
        None => format!(
            "set it (`-e {name}=…`, the environment, or an env_file), or give a default: ${{{name}:-…}}"
        ),
    });
    problem
}
