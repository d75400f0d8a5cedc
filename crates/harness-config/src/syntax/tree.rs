//! YAML as a tree in which every key and value knows where it stands.

use super::reader::shown;
use crate::diagnostic::Diagnostic;
use crate::source::Span;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, options};
use std::collections::HashMap;

/// Collections inside collections, at most.
const MAX_DEPTH: usize = 64;
/// Nodes that aliases and merge keys may add to a file, at most.
const MAX_COPIED: usize = 100_000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

/// What a [`Node`] is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A scalar; `plain` when it has no quotes, so that `null` and `~` are nothing.
    Scalar { text: String, plain: bool },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the file's order.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) span: Span,
    pub(crate) value: Node,
}

impl Node {
    /// Whether it is nothing: absent, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// What it is, for a message.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.kind {
            _ if self.is_null() => "nothing",
            Kind::Scalar { .. } => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }

    fn size(&self) -> usize {
        match &self.kind {
            Kind::Scalar { .. } => 1,
            Kind::List(items) => 1 + items.iter().map(Node::size).sum::<usize>(),
            Kind::Map(entries) => 1 + entries.iter().map(|entry| entry.value.size()).sum::<usize>(),
        }
    }
}

/// The tree of a text. `None` only with an error among the diagnostics, or when the text holds nothing.
pub(crate) fn parse(text: &str, source: u32, diagnostics: &mut Vec<Diagnostic>) -> Option<Node> {
    let options = options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => {
                let range = span.byte_range().unwrap_or(0..0);
                builder.take(event, Span::new(source, range.start, range.end))
            }
            Err(error) => Err(Box::new(syntax_error(text, source, &error))),
        };
        if let Err(problem) = step {
            diagnostics.append(&mut builder.diagnostics);
            diagnostics.push(*problem);
            return None;
        }
    }
    diagnostics.append(&mut builder.diagnostics);
    builder.root
}

/// From so many keys on they are looked up in a table; below, looking through them is faster.
const MANY: usize = 32;

/// A collection that has begun and not ended.
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next.
    key: Option<(String, Span)>,
    /// The keys of a map that has [`MANY`] of them, and where they stand.
    seen: HashMap<String, Span>,
    /// Values of `<<`.
    merges: Vec<Node>,
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    copied: usize,
    documents: usize,
    root: Option<Node>,
    diagnostics: Vec<Diagnostic>,
}

impl Open {
    /// Where the map has this key already.
    fn find(&self, key: &str) -> Option<Span> {
        match &self.node.kind {
            Kind::Map(entries) if entries.len() < MANY => {
                entries.iter().find(|entry| entry.key == key).map(|entry| entry.span)
            }
            _ => self.seen.get(key).copied(),
        }
    }

    fn push(&mut self, entry: Entry) {
        let Kind::Map(entries) = &mut self.node.kind else { return };
        entries.push(entry);
        if entries.len() == MANY {
            self.seen = entries.iter().map(|entry| (entry.key.clone(), entry.span)).collect();
        } else if let Some(entry) = entries.last().filter(|_| entries.len() > MANY) {
            self.seen.insert(entry.key.clone(), entry.span);
        }
    }
}

type Step = Result<(), Box<Diagnostic>>;

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Step {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Box::new(
                        Diagnostic::error("syntax", span, "a second document begins here")
                            .label("expected one document in the file"),
                    ));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                // `!!str 5` is a text like "5"; no other tag changes how a value is read here.
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let node = Node { span, kind: Kind::Scalar { text: text.into_owned(), plain } };
                self.scalar(node, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.open(Kind::List(Vec::new()), anchor, span),
            Event::MappingStart(_, anchor, _) => self.open(Kind::Map(Vec::new()), anchor, span),
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    return Err(Box::new(
                        Diagnostic::error("alias", span, "an alias inside its own anchor")
                            .label("refers to itself"),
                    ));
                };
                let copied = self.copied + node.size();
                self.count(copied, span)?;
                let node = self.anchors.get(&id).cloned();
                node.map_or(Ok(()), |node| self.value(node))
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, copied: usize, span: Span) -> Step {
        self.copied = copied;
        if copied > MAX_COPIED {
            return Err(Box::new(
                Diagnostic::error(
                    "too-large",
                    span,
                    format!("aliases make the file larger than {MAX_COPIED} values"),
                )
                .label("too much is repeated up to here"),
            ));
        }
        Ok(())
    }

    fn open(&mut self, kind: Kind, anchor: usize, span: Span) -> Step {
        if self.stack.len() >= MAX_DEPTH {
            return Err(Box::new(
                Diagnostic::error("too-deep", span, format!("nested more than {MAX_DEPTH} levels deep"))
                    .label("one level too many"),
            ));
        }
        if let Some(Open { node: Node { kind: Kind::Map(_), .. }, key: None, .. }) = self.stack.last() {
            return Err(Box::new(
                Diagnostic::error("syntax", span, "a list or map can't be a key").label("expected a text as key").help(
                    "text that begins with `{` or `[` must be quoted, and `${…}` in a list in brackets too: [\"${NAME}\"]",
                ),
            ));
        }
        self.stack.push(Open {
            node: Node { span, kind },
            anchor,
            key: None,
            seen: HashMap::new(),
            merges: Vec::new(),
        });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Step {
        let Some(mut open) = self.stack.pop() else { return Ok(()) };
        let last = match &open.node.kind {
            Kind::List(items) => items.last().map(|item| item.span.end),
            Kind::Map(entries) => entries.last().map(|entry| entry.value.span.end.max(entry.span.end)),
            Kind::Scalar { .. } => None,
        };
        // The end of a block is noticed at the next token: it ends with what it holds.
        let end = if span.end > span.start { span.end } else { last.unwrap_or(open.node.span.end) };
        open.node.span.end = end.max(open.node.span.start);
        if !open.merges.is_empty() {
            self.merge(&mut open)?;
        }
        if open.anchor > 0 {
            self.anchors.insert(open.anchor, open.node.clone());
        }
        self.value(open.node)
    }

    /// Adds the keys of `<<` that the map doesn't have itself.
    fn merge(&mut self, open: &mut Open) -> Step {
        for merged in std::mem::take(&mut open.merges) {
            let maps = match merged.kind {
                Kind::List(items) => items,
                _ => vec![merged],
            };
            for map in maps {
                let Kind::Map(entries) = map.kind else {
                    self.diagnostics.push(
                        Diagnostic::error("type", map.span, "`<<` merges maps only").label("expected a map"),
                    );
                    continue;
                };
                let copied = self.copied + entries.iter().map(|entry| entry.value.size()).sum::<usize>();
                self.count(copied, map.span)?;
                for entry in entries {
                    if open.find(&entry.key).is_none() {
                        open.push(entry);
                    }
                }
            }
        }
        Ok(())
    }

    fn scalar(&mut self, node: Node, anchor: usize) -> Step {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.value(node)
    }

    /// Puts a finished node where it belongs: it may be a key, a value, an item or the root.
    fn value(&mut self, node: Node) -> Step {
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        if let Kind::List(items) = &mut open.node.kind {
            items.push(node);
            return Ok(());
        }
        match open.key.take() {
            None => {
                let Kind::Scalar { text, .. } = node.kind else {
                    return Err(Box::new(
                        Diagnostic::error("syntax", node.span, "a list or map can't be a key")
                            .label("expected a text as key"),
                    ));
                };
                open.key = Some((text, node.span));
            }
            Some((key, _)) if key == "<<" => open.merges.push(node),
            Some((key, span)) => match open.find(&key) {
                Some(first) => self.diagnostics.push(
                    Diagnostic::error("duplicate-key", span, format!("`{}` is here twice", shown(&key)))
                        .label("the second")
                        .related(first, "the first"),
                ),
                None => open.push(Entry { key, span, value: node }),
            },
        }
        Ok(())
    }
}

/// A syntax error with the hint that the text around it suggests.
fn syntax_error(text: &str, source: u32, error: &ScanError) -> Diagnostic {
    let at = error.marker().byte_offset().unwrap_or(0).min(text.len());
    let at = text.floor_char_boundary(at);
    let next =
        text.get(at..).and_then(|rest| rest.chars().next()).filter(|c| *c != '\n').map_or(0, char::len_utf8);
    let span = Span::new(source, at, at + next);
    let begin = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let end = text.get(at..).and_then(|after| after.find('\n')).map_or(text.len(), |newline| at + newline);
    let line = text.get(begin..end).unwrap_or("");
    let mut info = error.info();
    info.truncate(info.floor_char_boundary(300));
    if info.contains("recursion limit") || info.contains("nesting") {
        return Diagnostic::error("too-deep", span, format!("nested more than {MAX_DEPTH} levels deep"))
            .label("one level too many");
    }
    Diagnostic::error("syntax", span, format!("not valid YAML: {info}"))
        .label("here")
        .maybe_help(syntax_hint(line).map(String::from))
}

fn syntax_hint(line: &str) -> Option<&'static str> {
    let opened = line.matches("${").count();
    if opened > 0 && (line.contains('[') || line.contains("{ ") || line.contains(": {")) {
        return Some("in `[…]` and `{…}`, quote what has `${…}` in it: [db, \"${NAME}\"]");
    }
    if opened > line.matches('}').count() {
        return Some("`${` is not closed with `}`");
    }
    let indent = line.get(..line.len() - line.trim_start().len()).unwrap_or("");
    if indent.contains('\t') {
        return Some("indent with spaces: YAML has no tabs there");
    }
    if line.trim_start().trim_start_matches("- ").starts_with(['*', '&', '!', '%', '@', '`'])
        || line.contains(": %")
        || line.contains(": @")
        || line.contains(": `")
    {
        return Some("a text that begins with one of * & ! % @ ` must be quoted");
    }
    if line.matches(": ").count() > 1 {
        return Some("a text with `: ` in it must be quoted");
    }
    None
}
