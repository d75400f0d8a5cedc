//! `env` and `env_file`.

use super::keys::ENV_FILE;
use super::reader::{Reader, shown};
use super::tree::{Kind, Node};
use crate::diagnostic::Diagnostic;
use crate::environment::parse_file;
use crate::source::{ReadError, Span, read_text};
use crate::substitute::{Variables, substitute};
use indexmap::IndexMap;
use orchestrator::model::{Segment, Template};
use std::error::Error as _;
use std::io::ErrorKind;

const EXPECTED: &str = "expected a map of NAME: value, or a list of NAME=value";

/// The variables of `env`.
pub(crate) fn env(reader: &mut Reader<'_>, node: &Node) -> IndexMap<String, Template> {
    let mut env = IndexMap::new();
    if let Kind::List(items) = &node.kind {
        for item in items {
            list_item(reader, item, &mut env);
        }
        return env;
    }
    for entry in reader.entries(node, EXPECTED) {
        if !valid_name(&entry.key) {
            bad_name(reader, entry.span, &entry.key);
            continue;
        }
        if entry.value.is_null() {
            pass_through(reader, &entry.key, &mut env);
        } else if let Some(value) =
            reader.template(&entry.value, "expected a text, a number or a truth value")
        {
            env.insert(entry.key.clone(), value);
        }
    }
    env
}

/// `NAME=value`, or `NAME` alone for the value that the caller's environment has.
fn list_item(reader: &mut Reader<'_>, item: &Node, env: &mut IndexMap<String, Template>) {
    let Some(mut template) = reader.template(item, "expected NAME=value") else { return };
    let Some(Segment::Text(first)) = template.segments.first_mut() else {
        reader.wrong(item, "expected NAME=value");
        return;
    };
    let (name, value) = match first.split_once('=') {
        Some((name, value)) => (name.to_string(), Some(value.to_string())),
        None => (first.clone(), None),
    };
    if !valid_name(&name) {
        bad_name(reader, item.span, &name);
        return;
    }
    match value {
        Some(value) => {
            *first = value;
            if first.is_empty() && template.segments.len() > 1 {
                template.segments.remove(0);
            }
            env.insert(name, template);
        }
        None => pass_through(reader, &name, env),
    }
}

fn pass_through(reader: &mut Reader<'_>, name: &str, env: &mut IndexMap<String, Template>) {
    if let Some(value) = reader.environment.value(name) {
        env.insert(name.into(), Template { segments: vec![Segment::Value { name: name.into(), value }] });
    }
}

fn valid_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !name.contains(char::is_whitespace)
}

fn bad_name(reader: &mut Reader<'_>, span: Span, name: &str) {
    reader.report(
        Diagnostic::error("name", span, format!("`{}` is no name of a variable", shown(name)))
            .label("expected a name without spaces and `=`"),
    );
}

/// The values of all files that an `env_file` names, later ones over earlier ones.
pub(crate) fn env_files(reader: &mut Reader<'_>, node: &Node) -> IndexMap<String, String> {
    let mut values = IndexMap::new();
    for item in reader.items(node, true, "expected a file, or a list of files") {
        let (path, required) = if let Kind::Map(_) = &item.kind {
            let Some(fields) = reader.fields(item, &ENV_FILE) else { continue };
            reader.require(&fields, item.span, "the env_file");
            let required = fields.get("required").and_then(|node| reader.bool(node)).unwrap_or(true);
            (fields.get("path").and_then(|node| reader.text(node)), required)
        } else {
            (reader.literal(item, "expected a file"), true)
        };
        if let Some(path) = path {
            read_env_file(reader, &path.value, path.span, required, &mut values);
        }
    }
    values
}

fn read_env_file(
    reader: &mut Reader<'_>,
    name: &str,
    span: Span,
    required: bool,
    values: &mut IndexMap<String, String>,
) {
    let text = match read_text(reader.files, &reader.absolute(name)) {
        Ok(text) => text,
        Err(ReadError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            if required {
                reader.report(
                    Diagnostic::error("missing-file", span, format!("there is no file {name}"))
                        .label("not found")
                        .help(format!("if it may be absent: {{path: {name}, required: false}}")),
                );
            }
            return;
        }
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            reader
                .report(Diagnostic::error("unreadable", span, format!("{error}{cause}")).label("named here"));
            return;
        }
    };
    let lines = parse_file(&text);
    let source = reader.sources.add(name.to_string(), text);
    for line in lines {
        match line {
            Err((at, what)) => reader.report(
                Diagnostic::error(
                    "env-file",
                    Span::new(source, at.start, at.end),
                    format!("a line of {name} can't be read"),
                )
                .label(what)
                .related(span, "named here"),
            ),
            Ok(line) => {
                let value =
                    if line.expand { expand(reader, source, &line, values) } else { Some(line.value) };
                values.extend(value.map(|value| (line.name, value)));
            }
        }
    }
}

/// The value with its `${…}` replaced; names of the same file are known too.
fn expand(
    reader: &mut Reader<'_>,
    source: u32,
    line: &crate::environment::Line,
    values: &IndexMap<String, String>,
) -> Option<String> {
    if !line.value.contains('$') {
        return Some(line.value.clone());
    }
    struct Both<'a, 'e>(&'a IndexMap<String, String>, &'a mut crate::environment::Environment<'e>);
    impl Variables for Both<'_, '_> {
        fn value(&mut self, name: &str) -> Option<String> {
            self.0.get(name).cloned().or_else(|| self.1.value(name))
        }
        fn is_service(&self, _: &str) -> bool {
            false
        }
        fn similar(&self, name: &str) -> Option<String> {
            self.1.similar(name)
        }
    }
    let span = Span::new(source, line.at.start, line.at.end);
    match substitute(&line.value, &mut Both(values, &mut reader.environment)) {
        Ok(done) => match done.template.as_literal() {
            Some(text) => Some(text),
            None => {
                reader.report(
                    Diagnostic::error("reference", span, "an env_file can't refer to services")
                        .label("expected a text, or ${NAME}")
                        .help("write it under `env:` instead"),
                );
                None
            }
        },
        Err(problems) => {
            for problem in problems {
                let mut diagnostic =
                    Diagnostic::error(problem.code, span, problem.message).maybe_help(problem.help);
                diagnostic.label = problem.label;
                reader.report(diagnostic);
            }
            None
        }
    }
}
