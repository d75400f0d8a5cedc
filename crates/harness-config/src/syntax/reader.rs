//! Reads values out of the tree: each reader says what it expected, goes on after an error, and gives `None` for what it
//! could not read.

use super::keys::{Table, types_with};
use super::tree::{Entry, Kind, Node};
use super::{duration, size, words};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::environment::Environment;
use crate::source::{Files, Sources, Span};
use crate::substitute::{Problem, substitute};
use orchestrator::model::{Reference, Segment, Template};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// So many problems are gathered while reading.
const MAX_DIAGNOSTICS: usize = 1000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// A reference that the file makes, and where.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    pub(crate) reference: Reference,
    pub(crate) span: Span,
    /// Whether it is in the arguments of a program, which every user of the machine can see.
    pub(crate) in_args: bool,
}

/// Something that must be on the machine that runs a service.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    pub(crate) kind: NeedKind,
    pub(crate) text: Template,
    pub(crate) span: Span,
}

/// The kinds of [`Need`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NeedKind {
    Program,
    File,
    Folder,
}

/// Everything that reading needs and gathers.
pub(crate) struct Reader<'a> {
    pub(crate) sources: &'a mut Sources,
    pub(crate) files: &'a dyn Files,
    pub(crate) environment: Environment<'a>,
    pub(crate) folder: PathBuf,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// References and needs of the service that is being read.
    pub(crate) uses: Vec<Use>,
    pub(crate) needs: Vec<Need>,
    pub(crate) in_args: bool,
    /// Whether relative paths are paths of this machine.
    pub(crate) local: bool,
    /// Whether commands of the service run inside a container, where paths are the image's.
    pub(crate) inside: bool,
    /// What is being read, for messages: "the service `web`".
    pub(crate) subject: String,
}

/// The keys of a map that are known to its table.
pub(crate) struct Fields<'n> {
    table: &'static Table,
    entries: &'n [Entry],
    pub(crate) span: Span,
}

impl<'n> Fields<'n> {
    /// The value of a key.
    pub(crate) fn get(&self, name: &str) -> Option<&'n Node> {
        self.entry(name).map(|entry| &entry.value)
    }

    /// How many of these keys are there.
    pub(crate) fn count(&self, names: &[&str]) -> usize {
        names.iter().filter(|name| self.get(name).is_some()).count()
    }

    /// The key and its value.
    pub(crate) fn entry(&self, name: &str) -> Option<&'n Entry> {
        debug_assert!(self.table.has(name), "{} has no key {name}", self.table.what);
        self.entries.iter().find(|entry| entry.key == name)
    }
}

impl Reader<'_> {
    pub(crate) fn report(&mut self, diagnostic: Diagnostic) {
        if !self.is_full() {
            self.diagnostics.push(diagnostic);
        }
    }

    /// Whether enough is wrong: nobody reads more, and a hostile file could make more than memory holds.
    pub(crate) fn is_full(&self) -> bool {
        self.diagnostics.len() >= MAX_DIAGNOSTICS
    }

    /// The keys of a map; unknown ones are reported, and missing ones at `missing_at`.
    pub(crate) fn fields<'n>(&mut self, node: &'n Node, table: &'static Table) -> Option<Fields<'n>> {
        let entries: &[Entry] = match &node.kind {
            Kind::Map(entries) => entries,
            _ if node.is_null() && table.required.is_empty() => &[],
            _ => {
                let known: Vec<&str> = table.keys.iter().take(4).map(|key| key.name).collect();
                self.wrong(node, &format!("expected a map with keys such as {}", known.join(", ")));
                return None;
            }
        };
        for entry in entries {
            if !table.has(&entry.key) && !entry.key.starts_with("x-") {
                self.unknown(entry, table);
            }
        }
        Some(Fields { table, entries, span: node.span })
    }

    fn unknown(&mut self, entry: &Entry, table: &Table) {
        if self.is_full() {
            return;
        }
        let names = table.keys.iter().map(|key| key.name);
        let help = match synonym(&entry.key).filter(|name| table.has(name)) {
            Some(name) => Some(format!("here it is called `{name}`")),
            None => did_you_mean(&entry.key, names),
        };
        self.report(
            Diagnostic::error(
                "unknown-key",
                entry.span,
                format!("{} has no key `{}`", table.what, shown(&entry.key)),
            )
            .label("unknown key")
            .maybe_help(help),
        );
    }

    /// Reports the required keys that aren't there, at `span`.
    pub(crate) fn require(&mut self, fields: &Fields<'_>, span: Span, what: &str) {
        for name in fields.table.required {
            if fields.entries.iter().all(|entry| entry.key != **name) {
                self.report(
                    Diagnostic::error("missing-key", span, format!("{what} has no `{name}`"))
                        .label(format!("expected `{name}:` in here")),
                );
            }
        }
    }

    /// Reports a key that this type of service doesn't have.
    pub(crate) fn foreign(&mut self, entry: &Entry, kind: &str) {
        let types = types_with(&entry.key);
        self.report(
            Diagnostic::error(
                "unknown-key",
                entry.span,
                format!("a service of type {kind} has no key `{}`", entry.key),
            )
            .label(format!("a key of type {}", types.join(", "))),
        );
    }

    /// Reports that a value isn't what was expected.
    pub(crate) fn wrong(&mut self, node: &Node, expected: &str) {
        let message = match &node.kind {
            Kind::Scalar { text, .. } if !node.is_null() => format!("invalid value `{}`", shown(text)),
            _ => format!("found {} here", node.describe()),
        };
        self.report(Diagnostic::error("type", node.span, message).label(expected));
    }

    /// A text in which references may stand.
    pub(crate) fn template(&mut self, node: &Node, expected: &str) -> Option<Template> {
        let Kind::Scalar { text, .. } = &node.kind else {
            self.wrong(node, expected);
            return None;
        };
        if node.is_null() {
            self.wrong(node, expected);
            return None;
        }
        match substitute(text, &mut self.environment) {
            Ok(done) => {
                for (reference, range) in done.references {
                    let span = self.part(node, text, range);
                    self.uses.push(Use { reference, span, in_args: self.in_args });
                }
                Some(done.template)
            }
            Err(problems) => {
                for problem in problems {
                    self.problem(node, text, problem);
                }
                None
            }
        }
    }

    fn problem(&mut self, node: &Node, text: &str, problem: Problem) {
        let span = self.part(node, text, problem.at);
        let mut diagnostic = Diagnostic::error(problem.code, span, problem.message).maybe_help(problem.help);
        diagnostic.label = problem.label;
        self.report(diagnostic);
    }

    /// Where a part of a scalar's text stands in the file.
    pub(crate) fn part(&self, node: &Node, text: &str, range: std::ops::Range<usize>) -> Span {
        let whole = self.sources.text(node.span.source);
        let raw = whole.get(node.span.start as usize..node.span.end as usize).unwrap_or("");
        if raw == text {
            return node.span.part(range.start, range.end);
        }
        if raw.get(1..raw.len().saturating_sub(1)) == Some(text) {
            return node.span.part(range.start + 1, range.end + 1);
        }
        // Escapes and folding move things: look for the same characters.
        match text.get(range).and_then(|part| raw.find(part).map(|at| (at, part.len()))) {
            Some((at, length)) if length > 0 => node.span.part(at, at + length),
            _ => node.span,
        }
    }

    /// A text that is known now: references can't be used in it.
    pub(crate) fn literal(&mut self, node: &Node, expected: &str) -> Option<Spanned<String>> {
        let before = self.uses.len();
        let template = self.template(node, expected)?;
        let references = self.uses.split_off(before);
        if let Some(first) = references.first() {
            self.report(
                Diagnostic::error("reference", first.span, format!("{} can't be used here", first.reference))
                    .label(format!("its value isn't known yet; {expected}")),
            );
            return None;
        }
        Some(Spanned { value: template.as_literal()?, span: node.span })
    }

    /// A text that `parse` understands.
    pub(crate) fn parsed<T>(
        &mut self,
        node: &Node,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Spanned<T>> {
        let text = self.literal(node, expected)?;
        match parse(text.value.trim()) {
            Some(value) => Some(Spanned { value, span: node.span }),
            None => {
                // Shows what the file says, not what a variable holds: that may be a secret.
                self.wrong(node, expected);
                None
            }
        }
    }

    pub(crate) fn text(&mut self, node: &Node) -> Option<Spanned<String>> {
        self.literal(node, "expected a text")
    }

    pub(crate) fn bool(&mut self, node: &Node) -> Option<bool> {
        let parse = |text: &str| match text {
            "true" | "True" | "TRUE" | "yes" | "on" => Some(true),
            "false" | "False" | "FALSE" | "no" | "off" => Some(false),
            _ => None,
        };
        self.parsed(node, "expected true or false", parse).map(|value| value.value)
    }

    pub(crate) fn integer(&mut self, node: &Node, range: RangeInclusive<i64>) -> Option<Spanned<i64>> {
        let expected = match (*range.start(), *range.end()) {
            (low, i64::MAX) => format!("expected a whole number, at least {low}"),
            (low, high) => format!("expected a whole number from {low} to {high}"),
        };
        self.parsed(node, &expected, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    pub(crate) fn count(&mut self, node: &Node, least: u32, most: u32) -> Option<Spanned<u32>> {
        let number = self.integer(node, i64::from(least)..=i64::from(most))?;
        Some(Spanned { value: u32::try_from(number.value).ok()?, span: number.span })
    }

    pub(crate) fn number(&mut self, node: &Node) -> Option<f64> {
        let parse = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
        self.parsed(node, "expected a number above 0", parse).map(|value| value.value)
    }

    pub(crate) fn port(&mut self, node: &Node) -> Option<u16> {
        self.integer(node, 1..=65_535).and_then(|port| u16::try_from(port.value).ok())
    }

    pub(crate) fn duration(&mut self, node: &Node) -> Option<Duration> {
        self.parsed(node, duration::EXPECTED, duration::parse).map(|value| value.value)
    }

    pub(crate) fn size(&mut self, node: &Node) -> Option<u64> {
        self.parsed(node, size::EXPECTED, size::parse).map(|value| value.value)
    }

    /// One of a closed set of words.
    pub(crate) fn word<T: Copy>(&mut self, node: &Node, words: &[(&str, T)]) -> Option<Spanned<T>> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let expected = format!("expected {}", one_of(&names));
        let text = self.literal(node, &expected)?;
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == text.value) {
            return Some(Spanned { value: *value, span: node.span });
        }
        self.wrong(node, &expected);
        let near = crate::diagnostic::closest(&text.value, names.iter().copied());
        if let (Some(near), Some(last)) = (near, self.diagnostics.last_mut()) {
            last.help = Some(format!("did you mean `{near}`?"));
        }
        None
    }

    /// The items of a list; a single scalar stands for a list of one where `single`.
    pub(crate) fn items<'n>(&mut self, node: &'n Node, single: bool, expected: &str) -> &'n [Node] {
        match &node.kind {
            Kind::List(items) => items,
            _ if node.is_null() => &[],
            Kind::Scalar { .. } if single => std::slice::from_ref(node),
            _ => {
                self.wrong(node, expected);
                &[]
            }
        }
    }

    /// The entries of a map with names of the user's own; nothing counts as empty.
    pub(crate) fn entries<'n>(&mut self, node: &'n Node, expected: &str) -> &'n [Entry] {
        match &node.kind {
            Kind::Map(entries) => entries,
            _ if node.is_null() => &[],
            _ => {
                self.wrong(node, expected);
                &[]
            }
        }
    }

    pub(crate) fn texts(&mut self, node: &Node) -> Vec<Spanned<String>> {
        let items = self.items(node, true, "expected a list of texts");
        items.iter().filter_map(|item| self.text(item)).collect()
    }

    /// A map of texts, or a list of `NAME=VALUE`.
    pub(crate) fn labels(&mut self, node: &Node) -> indexmap::IndexMap<String, String> {
        let mut labels = indexmap::IndexMap::new();
        if let Kind::List(items) = &node.kind {
            for item in items {
                let Some(text) = self.text(item) else { continue };
                let (name, value) = text.value.split_once('=').unwrap_or((&text.value, ""));
                labels.insert(name.to_string(), value.to_string());
            }
            return labels;
        }
        for entry in self.entries(node, "expected a map of texts, or a list of NAME=VALUE") {
            if let Some(text) = self.text(&entry.value) {
                labels.insert(entry.key.clone(), text.value);
            }
        }
        labels
    }

    /// A command: a text that is split into words, or a list that is taken as it is.
    pub(crate) fn words(&mut self, node: &Node) -> Option<Vec<Template>> {
        match &node.kind {
            Kind::List(items) => {
                let all: Vec<_> = items.iter().map(|item| self.template(item, "expected a text")).collect();
                all.into_iter().collect()
            }
            Kind::Scalar { .. } if !node.is_null() => {
                let template = self.template(node, words::EXPECTED)?;
                match words::split(&template) {
                    Ok(words) => {
                        self.warn_of_shell(node, &words);
                        Some(words)
                    }
                    Err(unclosed) => {
                        let what = match unclosed {
                            words::Unclosed::Quote(quote) => {
                                format!("a {quote} in the command is not closed")
                            }
                            words::Unclosed::Backslash => "the command ends with a backslash".into(),
                        };
                        self.report(
                            Diagnostic::error("command", node.span, what).label("can't be split into words"),
                        );
                        None
                    }
                }
            }
            _ => {
                self.wrong(node, words::EXPECTED);
                None
            }
        }
    }

    fn warn_of_shell(&mut self, node: &Node, words: &[Template]) {
        if let Some(word) = words::shell_word(words) {
            self.report(
                Diagnostic::warning(
                    "shell",
                    node.span,
                    format!("the command is not run by a shell: `{word}` is passed on as an argument"),
                )
                .label("split into words only")
                .help("if a shell is wanted, name it: [sh, -c, \"…\"]"),
            );
        }
    }

    /// Where the program of a command stands.
    pub(crate) fn program_span(&self, node: &Node) -> Span {
        match &node.kind {
            Kind::List(items) => items.first().map_or(node.span, |item| item.span),
            Kind::Scalar { text, .. } => match text.find(char::is_whitespace) {
                Some(end) if end > 0 && !text.starts_with(['"', '\'']) => self.part(node, text, 0..end),
                _ => node.span,
            },
            Kind::Map(_) => node.span,
        }
    }

    /// Remembers that a service needs something on its machine.
    pub(crate) fn need(&mut self, kind: NeedKind, text: &Template, span: Span) {
        self.needs.push(Need { kind, text: text.clone(), span });
    }

    /// A path: relative ones are made absolute against the file's folder, `~/` against the home folder. The paths of
    /// services on other machines stay as they are.
    pub(crate) fn path(&self, mut template: Template) -> Template {
        if !self.local {
            return template;
        }
        if template.segments.len() == 1
            && let Some(text) = template.as_literal()
        {
            let path = self.absolute(&text).to_string_lossy().into_owned();
            if let Some(Segment::Text(text) | Segment::Value { value: text, .. }) =
                template.segments.first_mut()
            {
                *text = path;
            }
            return template;
        }
        if let Some(Segment::Text(first)) = template.segments.first_mut() {
            let slash = if first.ends_with('/') { "/" } else { "" };
            let path = self.absolute(first).to_string_lossy().into_owned();
            *first = format!("{}{slash}", path.trim_end_matches('/'));
        }
        template
    }

    /// A path of this machine, absolute and without `.` and `..` that need no link to be followed.
    pub(crate) fn absolute(&self, text: &str) -> PathBuf {
        let path = match (text.strip_prefix("~/"), self.environment.caller("HOME")) {
            (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
            _ => self.folder.join(text),
        };
        path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
    }
}

/// Our word for a key of Compose, systemd or a process manager.
fn synonym(key: &str) -> Option<&'static str> {
    Some(match key {
        "depends_on" | "needs" | "requires" | "after" => "dependencies",
        "environment" => "env",
        "healthcheck" | "readiness_probe" | "liveness_probe" => "health_check",
        "cmd" | "exec" | "exec_start" | "run" => "command",
        "cwd" | "dir" | "directory" | "workdir" | "working_directory" => "working_dir",
        "container_name" => "name",
        "stop_grace_period" | "stop_timeout" => "shutdown_timeout",
        "restart_policy" | "autorestart" => "restart",
        "deploy" => "deployment",
        "scale" | "instances" | "numprocs" => "replicas",
        "autoscaling" => "scaling",
        "pull_policy" => "pull",
        "extend" => "extends",
        "expose" => "ports",
        "identity" | "key" => "identity_file",
        _ => return None,
    })
}

/// `a, b or c`.
pub(crate) fn one_of(names: &[&str]) -> String {
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// The beginning of a text that may be very long.
pub(crate) fn shown(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    match line.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or("")),
        None => line.into(),
    }
}
