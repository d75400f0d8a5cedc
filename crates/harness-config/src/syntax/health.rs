//! `health_check`.

use super::keys::{HEALTH, HTTP, PROBE, PROBE_KINDS, TCP};
use super::reader::{Fields, NeedKind, Reader};
use super::tree::{Kind, Node};
use crate::diagnostic::Diagnostic;
use orchestrator::model::{HttpProbe, Probe, Template};
use std::time::Duration;

/// A health check as written; what isn't there has a default.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    pub(crate) probe: Probe,
    pub(crate) interval: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Option<u32>,
    pub(crate) start_period: Option<Duration>,
    pub(crate) start_interval: Option<Duration>,
    pub(crate) success_threshold: Option<u32>,
}

/// What a probe turned out to be.
enum Found {
    Probe(Probe),
    /// `test: NONE`.
    None,
}

/// The health check of a service; `None` also for `none` and `test: [NONE]`.
pub(crate) fn health_check(reader: &mut Reader<'_>, node: &Node) -> Option<Health> {
    if let Kind::Scalar { text, .. } = &node.kind
        && text == "none"
    {
        return None;
    }
    let fields = reader.fields(node, &HEALTH)?;
    let mut timeout = fields.get("timeout").and_then(|node| reader.duration(node));
    let interval = fields.get("interval").and_then(|node| reader.duration(node));
    let retries = fields.get("retries").and_then(|node| reader.count(node, 1, 1_000_000));
    let start_period = fields.get("start_period").and_then(|node| reader.duration(node));
    let start_interval = fields.get("start_interval").and_then(|node| reader.duration(node));
    let threshold = fields.get("success_threshold").and_then(|node| reader.count(node, 1, 1_000_000));
    for (what, value) in [("timeout", timeout), ("interval", interval), ("start_interval", start_interval)] {
        if value.is_some_and(|value| value.is_zero())
            && let Some(node) = fields.get(what)
        {
            reader.report(
                Diagnostic::error("type", node.span, format!("`{what}` can't be zero"))
                    .label("expected more than 0"),
            );
        }
    }
    let Found::Probe(probe) = probe(reader, &fields, &mut timeout, 0)? else { return None };
    Some(Health {
        probe,
        interval,
        timeout,
        retries: retries.map(|count| count.value),
        start_period,
        start_interval,
        success_threshold: threshold.map(|count| count.value),
    })
}

fn probe(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    timeout: &mut Option<Duration>,
    depth: u32,
) -> Option<Found> {
    let present: Vec<&str> = PROBE_KINDS.into_iter().filter(|kind| fields.get(kind).is_some()).collect();
    let [kind] = present.as_slice() else {
        let message = match present.as_slice() {
            [] => "a health check needs a question".to_string(),
            several => format!("a health check has one question, not {}", several.len()),
        };
        let label = format!("expected exactly one of {}", PROBE_KINDS.join(", "));
        let help =
            if present.is_empty() { None } else { Some("to ask several: `all: [{…}, {…}]`".to_string()) };
        let span = present.get(1).and_then(|kind| fields.entry(kind)).map_or(fields.span, |entry| entry.span);
        reader.report(Diagnostic::error("health-check", span, message).label(label).maybe_help(help));
        return None;
    };
    for key in ["args", "expected_exit", "expected_output"] {
        if *kind != "command"
            && let Some(entry) = fields.entry(key)
        {
            reader.report(
                Diagnostic::error(
                    "unknown-key",
                    entry.span,
                    format!("`{key}` belongs to `command`, not to `{kind}`"),
                )
                .label("has no meaning here"),
            );
        }
    }
    let node = fields.get(kind)?;
    match *kind {
        "command" => command(reader, fields, node),
        "http" => http(reader, node, timeout),
        "tcp" => tcp(reader, node, timeout),
        "test" => test(reader, node),
        _ => all(reader, node, timeout, depth),
    }
}

fn command(reader: &mut Reader<'_>, fields: &Fields<'_>, node: &Node) -> Option<Found> {
    let mut argv = reader.words(node);
    let args = fields.get("args").map(|node| reader.words(node));
    let exit = fields.get("expected_exit").and_then(|node| reader.integer(node, 0..=255));
    let output = fields.get("expected_output").and_then(|node| reader.text(node));
    if let (Some(argv), Some(Some(args))) = (&mut argv, args) {
        argv.extend(args);
    }
    let mut argv = argv?;
    let Some(program) = argv.first_mut() else {
        reader.wrong(node, "expected a program and its arguments");
        return None;
    };
    program_path(reader, program);
    let program = program.clone();
    let span = reader.program_span(node);
    reader.need(NeedKind::Program, &program, span);
    Some(Found::Probe(Probe::Command {
        argv,
        expected_exit: exit.map_or(0, |exit| i32::try_from(exit.value).unwrap_or(0)),
        expected_output: output.map(|output| output.value),
    }))
}

/// A program with a slash is a path.
pub(crate) fn program_path(reader: &Reader<'_>, program: &mut Template) {
    let slash = program.segments.first().is_some_and(|segment| match segment {
        orchestrator::model::Segment::Text(text) => text.contains('/'),
        orchestrator::model::Segment::Value { value, .. } => value.contains('/'),
        orchestrator::model::Segment::Reference(_) => false,
    });
    if slash && !reader.inside {
        *program = reader.path(std::mem::take(program));
    }
}

fn http(reader: &mut Reader<'_>, node: &Node, timeout: &mut Option<Duration>) -> Option<Found> {
    let mut probe = HttpProbe {
        url: Template::default(),
        method: "GET".into(),
        headers: Vec::new(),
        expected_status: Vec::new(),
        expected_body: None,
    };
    if !matches!(node.kind, Kind::Map(_)) {
        probe.url = url(reader, node)?;
        return Some(Found::Probe(Probe::Http(probe)));
    }
    let fields = reader.fields(node, &HTTP)?;
    reader.require(&fields, node.span, "the http check");
    if let Some(node) = fields.get("method") {
        let method = reader.parsed(node, "expected a method such as GET, HEAD or POST", |text| {
            let letters = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic());
            letters.then(|| text.to_ascii_uppercase())
        });
        probe.method = method.map_or_else(|| "GET".into(), |method| method.value);
    }
    if let Some(node) = fields.get("headers") {
        for entry in reader.entries(node, "expected a map of headers") {
            if let Some(value) = reader.template(&entry.value, "expected a text") {
                probe.headers.push((entry.key.clone(), value));
            }
        }
    }
    if let Some(node) = fields.get("expected_status") {
        let items = reader.items(node, true, "expected a status, or a list of them");
        probe.expected_status = items
            .iter()
            .filter_map(|item| reader.integer(item, 100..=599))
            .filter_map(|status| u16::try_from(status.value).ok())
            .collect();
    }
    probe.expected_body =
        fields.get("expected_body").and_then(|node| reader.text(node)).map(|text| text.value);
    if let Some(node) = fields.get("timeout") {
        *timeout = reader.duration(node).or(*timeout);
    }
    probe.url = url(reader, fields.get("url")?)?;
    Some(Found::Probe(Probe::Http(probe)))
}

fn url(reader: &mut Reader<'_>, node: &Node) -> Option<Template> {
    const EXPECTED: &str = "expected http://HOST[:PORT]/PATH";
    let url = reader.template(node, EXPECTED)?;
    // Holes are filled later; a word in their place tells whether the rest is a URL.
    let sample: String = url
        .segments
        .iter()
        .map(|segment| match segment {
            orchestrator::model::Segment::Text(text) => text.clone(),
            orchestrator::model::Segment::Value { value, .. } => value.clone(),
            orchestrator::model::Segment::Reference(reference) => match reference.field {
                orchestrator::model::Field::Url => "http://1".into(),
                _ => "1".into(),
            },
        })
        .collect();
    if sample.starts_with("https://") {
        reader.report(
            Diagnostic::error("url", node.span, "https isn't supported by health checks")
                .label(EXPECTED)
                .help("ask with a command: [curl, -fsS, URL]"),
        );
        return None;
    }
    if !is_http_url(&sample) {
        reader.wrong(node, EXPECTED);
        return None;
    }
    Some(url)
}

fn is_http_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://") else { return false };
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return false;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    !host.is_empty() && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn tcp(reader: &mut Reader<'_>, node: &Node, timeout: &mut Option<Duration>) -> Option<Found> {
    const EXPECTED: &str = "expected a port, HOST:PORT, or a map with `port`";
    let (host, port, at) = if let Kind::Map(_) = &node.kind {
        let fields = reader.fields(node, &TCP)?;
        reader.require(&fields, node.span, "the tcp check");
        let host = fields.get("host").and_then(|node| reader.template(node, "expected a host"));
        if let Some(node) = fields.get("timeout") {
            *timeout = reader.duration(node).or(*timeout);
        }
        let node = fields.get("port")?;
        (host, reader.template(node, "expected a port from 1 to 65535")?, node)
    } else {
        let (host, port) = split_host(reader.template(node, EXPECTED)?);
        (host, port, node)
    };
    if let Some(text) = port.as_literal()
        && text.trim().parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Some(Found::Probe(Probe::Tcp { host, port: Template { segments: port.segments } }));
    }
    if port.as_literal().is_some() {
        reader.wrong(at, "expected a port from 1 to 65535");
        return None;
    }
    Some(Found::Probe(Probe::Tcp { host, port }))
}

/// `HOST:PORT` at its last colon.
fn split_host(template: Template) -> (Option<Template>, Template) {
    use orchestrator::model::Segment::Text;
    let found = template.segments.iter().enumerate().rev().find_map(|(at, segment)| match segment {
        Text(text) => text.rfind(':').map(|colon| (at, text.clone(), colon)),
        _ => None,
    });
    let Some((at, text, colon)) = found else { return (None, template) };
    let text_of = |part: &str| (!part.is_empty()).then(|| Text(part.to_string()));
    let mut host: Vec<_> = template.segments.iter().take(at).cloned().collect();
    host.extend(text.get(..colon).and_then(text_of));
    let mut port: Vec<_> = text.get(colon + 1..).and_then(text_of).into_iter().collect();
    port.extend(template.segments.into_iter().skip(at + 1));
    (Some(Template { segments: host }), Template { segments: port })
}

/// Compose's form.
fn test(reader: &mut Reader<'_>, node: &Node) -> Option<Found> {
    const EXPECTED: &str = "expected a shell command, or a list that begins with CMD, CMD-SHELL or NONE";
    let shell = |command: Template| Probe::Command {
        argv: vec!["/bin/sh".into(), "-c".into(), command],
        expected_exit: 0,
        expected_output: None,
    };
    let items = match &node.kind {
        Kind::List(items) => items,
        _ => {
            let command = reader.template(node, EXPECTED)?;
            return Some(if command.as_literal().as_deref() == Some("NONE") {
                Found::None
            } else {
                Found::Probe(shell(command))
            });
        }
    };
    let words: Vec<_> = items.iter().map(|item| reader.template(item, EXPECTED)).collect();
    let words: Vec<Template> = words.into_iter().collect::<Option<_>>()?;
    let Some((first, rest)) = words.split_first() else {
        reader.wrong(node, EXPECTED);
        return None;
    };
    match (first.as_literal().as_deref(), rest) {
        (Some("NONE"), []) => Some(Found::None),
        (Some("CMD-SHELL"), [command]) => Some(Found::Probe(shell(command.clone()))),
        (Some("CMD"), [_, ..]) => {
            let mut argv = rest.to_vec();
            if let Some(program) = argv.first_mut() {
                program_path(reader, program);
            }
            if let (Some(program), Some(item)) = (argv.first().cloned(), items.get(1)) {
                reader.need(NeedKind::Program, &program, item.span);
            }
            Some(Found::Probe(Probe::Command { argv, expected_exit: 0, expected_output: None }))
        }
        _ => {
            reader.wrong(items.first().unwrap_or(node), EXPECTED);
            None
        }
    }
}

fn all(reader: &mut Reader<'_>, node: &Node, timeout: &mut Option<Duration>, depth: u32) -> Option<Found> {
    let items = reader.items(node, false, "expected a list of checks");
    if items.is_empty() || depth > 4 {
        reader.report(
            Diagnostic::error("health-check", node.span, "`all` needs a list of checks")
                .label("expected [{…}, {…}]"),
        );
        return None;
    }
    let mut probes = Vec::new();
    for item in items {
        let Some(fields) = reader.fields(item, &PROBE) else { continue };
        if let Some(Found::Probe(probe)) = probe(reader, &fields, timeout, depth + 1) {
            probes.push(probe);
        }
    }
    (probes.len() == items.len()).then_some(Found::Probe(Probe::All(probes)))
}
