//! The manifest of a package. Nothing is substituted in it: what looks like a reference is for whoever runs the package.

use super::keys::{Shape, Table, key};
use super::reader::Reader;
use super::tree::{Kind, Node};
use super::{duration, words};
use crate::diagnostic::Diagnostic;
use indexmap::IndexMap;
use orchestrator::model::{Segment, Template};
use semver::{Version, VersionReq};
use service_registry::package::manifest::{File, Health, Link, Manifest, Port, Protocol, Requires, Service};
use service_registry::package::name;
use std::time::Duration;

use Shape::{Any, Keys, List, MapOf, OneOf, Text, Words};

static MANIFEST: Table = Table {
    what: "a manifest",
    required: &["name", "version"],
    keys: &[
        key("name", Text, "Name of the package."),
        key("version", Text, "Its version, as semver has it: 1.2.3."),
        key("description", Text, "What it is, in a sentence."),
        key("service", Keys(&SERVICE), "What runs."),
        key("dependencies", Any(&[List(&Text), MapOf(&Text)]), "Services that it needs, and which versions."),
        key("requires", Keys(&REQUIRES), "What the machine must have."),
        key("health", Keys(&HEALTH), "How one tells that it is well."),
        key("files", List(&Keys(&FILE)), "Written by the builder."),
        key("links", List(&Keys(&LINK)), "Written by the builder."),
    ],
};

static SERVICE: Table = Table {
    what: "the service of a package",
    required: &[],
    keys: &[
        key("command", Words, "Program and arguments; scripts/start.sh by default."),
        key("stop", Words, "Stops it; scripts/stop.sh or a signal by default."),
        key("ports", List(&Any(&[Shape::Integer(1), Keys(&PORT)])), "Where it listens."),
        key("env", MapOf(&Text), "Its environment."),
        key("working_dir", Text, "Its folder in the package."),
    ],
};

static PORT: Table = Table {
    what: "a port",
    required: &["port"],
    keys: &[
        key("name", Text, "What others call it."),
        key("port", Shape::Integer(1), "Its number."),
        key("protocol", OneOf(&["tcp", "udp"]), "tcp by default."),
    ],
};

static REQUIRES: Table = Table {
    what: "`requires`",
    required: &[],
    keys: &[key("commands", List(&Text), "Programs in the search path.")],
};

static HEALTH: Table = Table {
    what: "the health of a package",
    required: &[],
    keys: &[
        key("command", Words, "Ends with exit code 0."),
        key("http", Text, "A URL that answers with a status below 400."),
        key("tcp", Shape::Integer(1), "A port that takes connections."),
        key("interval", Shape::Duration, "From one check to the next."),
        key("timeout", Shape::Duration, "How long a check may take."),
        key("retries", Shape::Integer(1), "Failures in a row until it counts as unwell."),
        key("start_period", Shape::Duration, "Failures don't count for so long."),
    ],
};

static FILE: Table = Table {
    what: "a file of a package",
    required: &["path", "size", "sha256"],
    keys: &[
        key("path", Text, "Where it lies."),
        key("size", Shape::Integer(0), "Its bytes."),
        key("sha256", Text, "Their digest."),
    ],
};

static LINK: Table = Table {
    what: "a link of a package",
    required: &["path", "target"],
    keys: &[key("path", Text, "Where it lies."), key("target", Text, "What it says.")],
};

/// Reads a manifest. `None` where a key is missing that it can't be without, or nothing could be made of it.
pub(crate) fn manifest(reader: &mut Reader<'_>, root: &Node) -> Option<Manifest> {
    let fields = reader.fields(root, &MANIFEST)?;
    reader.require(&fields, root.span.part(0, 0), "the manifest");
    let name = fields.get("name").and_then(|node| text(reader, node));
    let expected = "expected a version of three numbers, such as 1.2.3";
    let version = fields.get("version").and_then(|node| parsed(reader, node, expected, name::version));
    let description = fields.get("description").and_then(|node| text(reader, node));
    let service = fields.get("service").map(|node| service(reader, node)).unwrap_or_default();
    let dependencies = fields.get("dependencies").map(|node| dependencies(reader, node)).unwrap_or_default();
    let requires = fields.get("requires").map(|node| requires(reader, node)).unwrap_or_default();
    let health = fields.get("health").and_then(|node| health(reader, node));
    let files = fields.get("files").map(|node| files(reader, node)).unwrap_or_default();
    let links = fields.get("links").map(|node| links(reader, node)).unwrap_or_default();
    let placeholder = || Version::new(0, 0, 0);
    Some(Manifest {
        description,
        service,
        dependencies,
        requires,
        health,
        files,
        links,
        ..Manifest::new(name?, version.unwrap_or_else(placeholder))
    })
}

fn service(reader: &mut Reader<'_>, node: &Node) -> Service {
    let Some(fields) = reader.fields(node, &SERVICE) else { return Service::default() };
    let ports = fields.get("ports").map(|node| reader.items(node, false, "expected a list of ports"));
    let env = fields.get("env").map(|node| reader.entries(node, "expected a map of texts"));
    let mut found = IndexMap::new();
    for entry in env.unwrap_or_default() {
        if let Some(value) = text(reader, &entry.value) {
            found.insert(entry.key.clone(), value);
        }
    }
    Service {
        command: fields.get("command").map(|node| command(reader, node)).unwrap_or_default(),
        stop: fields.get("stop").map(|node| command(reader, node)).unwrap_or_default(),
        ports: ports.unwrap_or_default().iter().filter_map(|node| port(reader, node)).collect(),
        env: found,
        working_dir: fields.get("working_dir").and_then(|node| text(reader, node)),
    }
}

fn port(reader: &mut Reader<'_>, node: &Node) -> Option<Port> {
    if !matches!(node.kind, Kind::Map(_)) {
        let expected = "expected a port (80), or a map with `port`";
        let port = parsed(reader, node, expected, number)?;
        return Some(Port { name: None, port, protocol: Protocol::Tcp });
    }
    let fields = reader.fields(node, &PORT)?;
    reader.require(&fields, node.span, "the port");
    let name = fields.get("name").and_then(|node| text(reader, node));
    let protocol = fields.get("protocol").and_then(|node| {
        parsed(reader, node, "expected tcp or udp", |text| match text {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            _ => None,
        })
    });
    let port = parsed(reader, fields.get("port")?, "expected a number from 1 to 65535", number)?;
    Some(Port { name, port, protocol: protocol.unwrap_or_default() })
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|number| *number > 0)
}

/// A list of names, or a map to the versions that will do.
fn dependencies(reader: &mut Reader<'_>, node: &Node) -> IndexMap<String, VersionReq> {
    let mut found = IndexMap::new();
    if let Kind::List(items) = &node.kind {
        for item in items {
            found.extend(text(reader, item).map(|name| (name, VersionReq::STAR)));
        }
        return found;
    }
    for entry in reader.entries(node, "expected a list of names, or a map of versions") {
        let expected = "expected which versions will do, such as \">=1.2, <2\" or \"*\"";
        let wanted = match entry.value.is_null() {
            true => Some(VersionReq::STAR),
            false => parsed(reader, &entry.value, expected, |text| VersionReq::parse(text).ok()),
        };
        found.extend(wanted.map(|wanted| (entry.key.clone(), wanted)));
    }
    found
}

fn requires(reader: &mut Reader<'_>, node: &Node) -> Requires {
    let Some(fields) = reader.fields(node, &REQUIRES) else { return Requires::default() };
    let commands = fields.get("commands").map(|node| reader.items(node, true, "expected a list of programs"));
    Requires { commands: commands.unwrap_or_default().iter().filter_map(|item| text(reader, item)).collect() }
}

fn health(reader: &mut Reader<'_>, node: &Node) -> Option<Health> {
    let fields = reader.fields(node, &HEALTH)?;
    let mut time = |name: &str| -> Option<Duration> {
        parsed(reader, fields.get(name)?, duration::EXPECTED, duration::parse)
    };
    let (interval, timeout, start_period) = (time("interval"), time("timeout"), time("start_period"));
    Some(Health {
        command: fields.get("command").map(|node| command(reader, node)).unwrap_or_default(),
        http: fields.get("http").and_then(|node| text(reader, node)),
        tcp: fields
            .get("tcp")
            .and_then(|node| parsed(reader, node, "expected a number from 1 to 65535", number)),
        interval,
        timeout,
        retries: fields.get("retries").and_then(|node| {
            parsed(reader, node, "expected a whole number, at least 1", |text| {
                text.parse().ok().filter(|number| *number > 0)
            })
        }),
        start_period,
    })
}

fn files(reader: &mut Reader<'_>, node: &Node) -> Vec<File> {
    let items = reader.items(node, false, "expected a list of files");
    let mut file = |node: &Node| {
        let fields = reader.fields(node, &FILE)?;
        reader.require(&fields, node.span, "the file");
        let path = fields.get("path").and_then(|node| text(reader, node));
        let size = fields
            .get("size")
            .and_then(|node| parsed(reader, node, "expected a number of bytes", |text| text.parse().ok()));
        let sha256 = fields
            .get("sha256")
            .and_then(|node| parsed(reader, node, "expected 64 hex digits", |text| text.parse().ok()));
        Some(File { path: path?, size: size?, sha256: sha256? })
    };
    items.iter().filter_map(&mut file).collect()
}

fn links(reader: &mut Reader<'_>, node: &Node) -> Vec<Link> {
    let items = reader.items(node, false, "expected a list of links");
    let mut link = |node: &Node| {
        let fields = reader.fields(node, &LINK)?;
        reader.require(&fields, node.span, "the link");
        let path = fields.get("path").and_then(|node| text(reader, node));
        let target = fields.get("target").and_then(|node| text(reader, node));
        Some(Link { path: path?, target: target? })
    };
    items.iter().filter_map(&mut link).collect()
}

/// A command: a text that is split into words, or a list that is taken as it is.
fn command(reader: &mut Reader<'_>, node: &Node) -> Vec<String> {
    if let Kind::List(items) = &node.kind {
        return items.iter().filter_map(|item| text(reader, item)).collect();
    }
    let Some(whole) = parsed(reader, node, words::EXPECTED, |text| Some(text.to_owned())) else {
        return Vec::new();
    };
    let template = Template { segments: vec![Segment::Text(whole)] };
    match words::split(&template) {
        Ok(words) => words.iter().filter_map(Template::as_literal).collect(),
        Err(_) => {
            let what = "a quote in the command is not closed";
            reader.report(Diagnostic::error("command", node.span, what).label("can't be split into words"));
            Vec::new()
        }
    }
}

fn text(reader: &mut Reader<'_>, node: &Node) -> Option<String> {
    parsed(reader, node, "expected a text", |text| Some(text.to_owned()))
}

/// A scalar that `parse` understands, as it is written.
fn parsed<T>(
    reader: &mut Reader<'_>,
    node: &Node,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let found = match &node.kind {
        Kind::Scalar { text, .. } if !node.is_null() => parse(text),
        _ => None,
    };
    if found.is_none() {
        reader.wrong(node, expected);
    }
    found
}
