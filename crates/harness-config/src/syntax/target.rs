//! What a service is: the keys that only its type has.

use super::health::program_path;
use super::keys::{EXTERNAL, MANAGED, TYPES, types_with};
use super::reader::{Fields, NeedKind, Reader, one_of};
use super::tree::{Entry, Node};
use crate::diagnostic::{Diagnostic, closest};
use crate::source::Span;
use orchestrator::model::{Attach, ManagedCommands, Segment, Target, Template};

/// The type that a service has, as written; a task without one is a process.
pub(crate) fn kind(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    default: Option<&'static str>,
) -> Option<&'static str> {
    let Some(node) = fields.get("type") else { return default };
    let expected = format!("expected {}", one_of(&TYPES));
    let text = reader.literal(node, &expected)?;
    if let Some(kind) = TYPES.into_iter().find(|kind| *kind == text.value) {
        return Some(kind);
    }
    let help = closest(&text.value, TYPES).map(|near| format!("did you mean `{near}`?"));
    reader.report(
        Diagnostic::error(
            "unknown-type",
            node.span,
            format!("there is no type `{}`", super::reader::shown(&text.value)),
        )
        .label(expected)
        .maybe_help(help),
    );
    None
}

/// Reports keys that belong to other types.
pub(crate) fn foreign_keys(reader: &mut Reader<'_>, entries: &[Entry], kind: &str) {
    for entry in entries {
        let types = types_with(&entry.key);
        if !types.is_empty() && !types.contains(&kind) {
            reader.foreign(entry, kind);
        }
    }
}

/// The target of a service; every key that is there is read, also after an error.
pub(crate) fn target(reader: &mut Reader<'_>, fields: &Fields<'_>, kind: &str, at: Span) -> Option<Target> {
    match kind {
        "process" | "remote" => process(reader, fields, at),
        "docker" => docker(reader, fields, at),
        "compose" => {
            let file = path(reader, fields, "file");
            let service = text(reader, fields, "service");
            if let (Some(file), Some(node)) = (&file, fields.get("file")) {
                reader.need(NeedKind::File, file, node.span);
            }
            Some(Target::Compose { file: required(reader, fields, "file", file, at)?, service })
        }
        "systemd" => {
            let unit = text(reader, fields, "unit");
            Some(Target::Systemd { unit: required(reader, fields, "unit", unit, at)? })
        }
        "portable" => {
            let image = text(reader, fields, "image")
                .map(|image| if slash(&image) { reader.path(image) } else { image });
            let unit = text(reader, fields, "unit");
            let profile = text(reader, fields, "profile");
            Some(Target::Portable { image: required(reader, fields, "image", image, at)?, unit, profile })
        }
        "package" => package(reader, fields, at),
        _ => attach(reader, fields, at).map(Target::Attach),
    }
}

fn slash(template: &Template) -> bool {
    matches!(template.segments.first(), Some(Segment::Text(text) | Segment::Value { value: text, .. }) if text.contains('/'))
}

fn text(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &'static str) -> Option<Template> {
    fields.get(key).and_then(|node| reader.template(node, "expected a text"))
}

fn path(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &'static str) -> Option<Template> {
    let path = fields.get(key).and_then(|node| reader.template(node, "expected a path"))?;
    Some(reader.path(path))
}

fn words(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &'static str) -> Option<Vec<Template>> {
    fields.get(key).and_then(|node| reader.words(node))
}

/// The value, or the report that its key is missing.
fn required<T>(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    key: &'static str,
    value: Option<T>,
    at: Span,
) -> Option<T> {
    if fields.get(key).is_none() {
        missing(reader, at, &format!("`{key}:`"));
    }
    value
}

fn missing(reader: &mut Reader<'_>, at: Span, what: &str) {
    let message = format!("{} has no {}", reader.subject, what.replace(':', ""));
    reader.report(Diagnostic::error("missing-key", at, message).label(format!("expected {what} in here")));
}

fn process(reader: &mut Reader<'_>, fields: &Fields<'_>, at: Span) -> Option<Target> {
    let (binary, command) = (fields.entry("binary"), fields.entry("command"));
    if let (Some(binary), Some(command)) = (binary, command) {
        reader.report(
            Diagnostic::error("conflict", command.span, "`binary` and `command` say the same thing")
                .label("expected one of the two")
                .related(binary.span, "the other"),
        );
    }
    let mut program = binary.and_then(|entry| reader.template(&entry.value, "expected a program"));
    reader.in_args = true;
    let command = command
        .and_then(|entry| reader.words(&entry.value).map(|words| (words, reader.program_span(&entry.value))));
    let args = words(reader, fields, "args");
    reader.in_args = false;
    let mut span = binary.map_or(at, |entry| entry.value.span);
    let mut all = Vec::new();
    if let Some((command, command_span)) = command {
        let mut words = command.into_iter();
        let first = words.next();
        if first.is_none() {
            reader.report(
                Diagnostic::error("command", command_span, "the command is empty")
                    .label("expected a program"),
            );
        }
        program = program.or(first);
        span = command_span;
        all.extend(words);
    } else if binary.is_none() && fields.get("command").is_none() {
        missing(reader, at, "`command:` or `binary:`");
    }
    all.extend(args.unwrap_or_default());
    let mut program = program?;
    if program.as_literal().is_some_and(|text| text.is_empty()) {
        reader.report(
            Diagnostic::error("command", span, "the program has no name").label("expected a program"),
        );
        return None;
    }
    program_path(reader, &mut program);
    reader.need(NeedKind::Program, &program, span);
    Some(Target::Process { program, args: all })
}

fn docker(reader: &mut Reader<'_>, fields: &Fields<'_>, at: Span) -> Option<Target> {
    let image = text(reader, fields, "image");
    let command = words(reader, fields, "command");
    let entrypoint = words(reader, fields, "entrypoint");
    let mut volumes = Vec::new();
    if let Some(node) = fields.get("volumes") {
        for item in reader.items(node, false, "expected a list of SOURCE:DESTINATION[:ro]") {
            volumes.extend(volume(reader, item));
        }
    }
    const PULLS: [(&str, &str); 3] = [("always", "always"), ("missing", "missing"), ("never", "never")];
    let pull =
        fields.get("pull").and_then(|node| reader.word(node, &PULLS)).map(|pull| pull.value.to_string());
    let image = required(reader, fields, "image", image, at)?;
    Some(Target::Docker { image, command, entrypoint, volumes, pull })
}

/// `SOURCE:DESTINATION[:ro]`, whose source is a path when it begins with `.`, `~` or `/`, else a volume's name.
fn volume(reader: &mut Reader<'_>, node: &Node) -> Option<Template> {
    const EXPECTED: &str = "expected SOURCE:DESTINATION[:ro]";
    let template = reader.template(node, EXPECTED)?;
    if let Some(text) = template.as_literal() {
        let parts: Vec<&str> = text.split(':').collect();
        let good = match parts.as_slice() {
            [only] => only.starts_with('/'),
            [source, destination] | [source, destination, _] => {
                !source.is_empty() && destination.starts_with('/')
            }
            _ => false,
        };
        if !good {
            reader.wrong(node, EXPECTED);
            return None;
        }
    }
    let path = matches!(template.segments.first(), Some(Segment::Text(text)) if text.starts_with(['.', '~']));
    Some(if path { volume_path(reader, template) } else { template })
}

fn volume_path(reader: &Reader<'_>, mut template: Template) -> Template {
    if let Some(Segment::Text(text)) = template.segments.first_mut() {
        let (source, rest) = match text.find(':') {
            Some(colon) => text.split_at(colon),
            None => (text.as_str(), ""),
        };
        let absolute = reader.path(Template::literal(source));
        let tail = if source.ends_with('/') && rest.is_empty() { "/" } else { "" };
        *text = format!("{}{tail}{rest}", absolute.as_literal().unwrap_or_default());
    }
    template
}

fn package(reader: &mut Reader<'_>, fields: &Fields<'_>, at: Span) -> Option<Target> {
    let package = path(reader, fields, "package");
    if let (Some(package), Some(node)) = (&package, fields.get("package")) {
        reader.need(NeedKind::File, package, node.span);
    }
    let version = text(reader, fields, "version");
    let install_path = text(reader, fields, "install_path");
    let pre_install = words(reader, fields, "pre_install");
    let post_install = words(reader, fields, "post_install");
    let package = required(reader, fields, "package", package, at)?;
    Some(Target::Package { package, version, install_path, pre_install, post_install })
}

fn attach(reader: &mut Reader<'_>, fields: &Fields<'_>, at: Span) -> Option<Attach> {
    const KINDS: [&str; 6] = ["pid_file", "process_name", "container", "unit", "managed", "external"];
    let present: Vec<&'static str> = KINDS.into_iter().filter(|key| fields.get(key).is_some()).collect();
    let [key] = present.as_slice() else {
        let span = present.get(1).and_then(|key| fields.entry(key)).map_or(at, |entry| entry.span);
        let message = if present.is_empty() {
            format!("{} doesn't say what to attach to", reader.subject)
        } else {
            format!("attaches to one thing, not to {}", present.len())
        };
        reader.report(
            Diagnostic::error("attach", span, message)
                .label(format!("expected exactly one of {}", KINDS.join(", "))),
        );
        return None;
    };
    let node = fields.get(key)?;
    match *key {
        "pid_file" => path(reader, fields, key).map(Attach::PidFile),
        "process_name" => text(reader, fields, key).map(Attach::ProcessName),
        "container" => text(reader, fields, key).map(Attach::Container),
        "unit" => text(reader, fields, key).map(Attach::Unit),
        "managed" => {
            let fields = reader.fields(node, &MANAGED)?;
            let commands = ManagedCommands {
                start: words(reader, &fields, "start"),
                stop: words(reader, &fields, "stop"),
                status: words(reader, &fields, "status"),
                logs: words(reader, &fields, "logs"),
            };
            if fields.get("status").is_none() {
                missing(reader, node.span, "`status:`");
            }
            Some(Attach::Managed(commands))
        }
        _ => {
            let fields = reader.fields(node, &EXTERNAL)?;
            reader.require(&fields, node.span, "`external`");
            let host = text(reader, &fields, "host");
            let port = fields.get("port").and_then(|node| reader.port(node));
            Some(Attach::External { host: host?, port: port? })
        }
    }
}
