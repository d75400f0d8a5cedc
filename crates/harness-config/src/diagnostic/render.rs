//! Diagnostics as text for people, in the style of rustc, and as JSON for programs.

use super::{Diagnostic, Severity, has_errors};
use crate::source::{Sources, Span};
use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// So many are shown in full; the rest is counted.
const SHOWN: usize = 50;
/// The longest line that is shown as it stands, in bytes.
const LONGEST_LINE: usize = 400;

/// All diagnostics as text: each with its place, the offending text underlined, what was expected and a hint; at the end a
/// line with the count. Empty if there are none. With `colour`, ANSI escapes.
pub fn render(diagnostics: &[Diagnostic], sources: &Sources, colour: bool) -> String {
    if diagnostics.is_empty() {
        return String::new();
    }
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(DecorStyle::Ascii);
    let mut text = String::new();
    for diagnostic in diagnostics.iter().take(SHOWN) {
        text.push_str(&renderer.render(&[group(diagnostic, sources)]));
        text.push_str("\n\n");
    }
    if diagnostics.len() > SHOWN {
        text.push_str(&format!("… and {} more\n", diagnostics.len() - SHOWN));
    }
    text.push_str(&count(diagnostics));
    text.push('\n');
    text
}

/// `2 errors, 1 warning`.
fn count(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    let warnings = diagnostics.len() - errors;
    let some = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    match (errors, warnings) {
        (_, 0) => some(errors, "error"),
        (0, _) => some(warnings, "warning"),
        _ => format!("{}, {}", some(errors, "error"), some(warnings, "warning")),
    }
}

fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group =
        Group::with_title(level.primary_title(printable(&diagnostic.message)).id(diagnostic.code));
    let mut marks: Vec<(Span, Option<&str>, AnnotationKind)> = Vec::new();
    if let Some(span) = diagnostic.span {
        marks.push((span, diagnostic.label.as_deref(), AnnotationKind::Primary));
    }
    marks.extend(
        diagnostic.related.iter().map(|(span, label)| (*span, Some(label.as_str()), AnnotationKind::Context)),
    );
    for (span, label, kind) in marks {
        group = mark(group, span, label, kind, sources);
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(printable(help)));
    }
    group
}

/// The line of a mark with what is said about it.
fn mark<'a>(
    group: Group<'a>,
    span: Span,
    label: Option<&'a str>,
    kind: AnnotationKind,
    sources: &'a Sources,
) -> Group<'a> {
    let Some(source) = sources.get(span.source) else { return group };
    let last = first_line_end(&source.text, span);
    let (line, range) = source.lines_around(span.start, last);
    let whole = source.text.get(range.clone()).unwrap_or("").trim_end_matches(['\n', '\r']);
    let (text, cut) = excerpt(whole, (span.start as usize).saturating_sub(range.start));
    let limit = |offset: u32| floor(text, (offset as usize).saturating_sub(range.start + cut));
    let start = limit(span.start);
    let mut annotation = kind.span(start..limit(last).max(start));
    if let Some(label) = label {
        annotation = annotation.label(printable(label));
    }
    let snippet = Snippet::source(text).line_start(line + 1).annotation(annotation);
    if text.len() == whole.len() {
        return group.element(snippet.path(source.name.as_str()));
    }
    // A part of a long line would be counted from its own beginning.
    let position = sources.position(span);
    let origin = Origin::path(source.name.as_str()).line(position.line).char_column(position.column);
    group.element(origin).element(snippet)
}

/// Only the first line of a block is underlined.
fn first_line_end(text: &str, span: Span) -> u32 {
    let part = text.get(span.start as usize..span.end as usize).unwrap_or("");
    let len = part.find('\n').unwrap_or(part.len());
    span.start + part.get(..len).unwrap_or("").trim_end().len() as u32
}

/// A window of a line that is too long to be shown, around byte `at`, and how many bytes were left out before it.
fn excerpt(line: &str, at: usize) -> (&str, usize) {
    if line.len() <= LONGEST_LINE {
        return (line, 0);
    }
    let from = floor(line, at.saturating_sub(40));
    let to = floor(line, from + LONGEST_LINE / 2);
    (line.get(from..to).unwrap_or(""), from)
}

/// The nearest character boundary at or before `offset`.
fn floor(text: &str, offset: usize) -> usize {
    text.floor_char_boundary(offset.min(text.len()))
}

/// Without control characters: what a file says must not steer a terminal.
fn printable(text: &str) -> String {
    let mut out: String =
        text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect();
    if out.len() > 1000 {
        out.truncate(floor(&out, 1000));
        out.push('…');
    }
    out
}

/// The diagnostics as JSON: `{"schema": 1, "valid": …, "diagnostics": [{severity, code, message, file, line, column, …}]}`.
pub fn to_json(diagnostics: &[Diagnostic], sources: &Sources) -> serde_json::Value {
    let place = |span: Span| {
        let position = sources.position(span);
        serde_json::json!({
            "file": sources.get(span.source).map(|source| source.name.as_str()),
            "line": position.line,
            "column": position.column,
            "start": span.start,
            "end": span.end,
        })
    };
    let all: Vec<serde_json::Value> = diagnostics
        .iter()
        .map(|diagnostic| {
            let related: Vec<serde_json::Value> = diagnostic
                .related
                .iter()
                .map(|(span, label)| serde_json::json!({ "location": place(*span), "label": label }))
                .collect();
            serde_json::json!({
                "severity": match diagnostic.severity { Severity::Error => "error", Severity::Warning => "warning" },
                "code": diagnostic.code,
                "message": diagnostic.message,
                "location": diagnostic.span.map(place),
                "label": diagnostic.label,
                "help": diagnostic.help,
                "related": related,
            })
        })
        .collect();
    serde_json::json!({ "schema": 1, "valid": !has_errors(diagnostics), "diagnostics": all })
}
