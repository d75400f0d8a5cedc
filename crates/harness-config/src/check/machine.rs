//! Programs, files and folders that are missing on this machine.

use super::Facts;
use crate::diagnostic::{Diagnostic, Severity};
use crate::source::FileKind;
use crate::syntax::reader::{Need, NeedKind, shown};
use crate::syntax::service::Service;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A thousand services mostly run the same few programs: each is looked for once.
type Known = HashMap<(bool, PathBuf), Option<FileKind>>;

pub(super) fn needs(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    let mut known = Known::new();
    for service in facts.active {
        // What a container or a unit runs is not on this machine's disk.
        let processes = matches!(service.kind, Some("process" | "package" | "attach"));
        for need in &service.needs {
            if processes || need.kind == NeedKind::File {
                out.extend(missing(facts, service, need, &mut known));
            }
        }
    }
}

fn missing(facts: &Facts<'_>, service: &Service, need: &Need, known: &mut Known) -> Option<Diagnostic> {
    let text = need.text.as_literal()?;
    let found = if need.kind == NeedKind::Program && !text.contains('/') {
        // The service's own PATH decides, where it has one.
        let own = service.env.get("PATH").and_then(|path| path.as_literal());
        let path = own.as_deref().or(facts.caller.get("PATH").map(String::as_str))?;
        let own = own.is_some();
        let look = || {
            std::env::split_paths(path)
                .filter_map(|folder| facts.files.kind(&folder.join(&text)))
                .find(|kind| matches!(kind, FileKind::File { executable: true }))
        };
        if own { look() } else { *known.entry((true, PathBuf::from(&text))).or_insert_with(look) }
    } else {
        *known.entry((false, PathBuf::from(&text))).or_insert_with(|| facts.files.kind(Path::new(&text)))
    };
    let path = need.text.display(false);
    let path = shown(&path);
    let (code, message, label) = match (need.kind, found) {
        (NeedKind::Program, None) if !text.contains('/') => {
            ("missing-command", format!("the command `{path}` is not in PATH"), "not found")
        }
        (NeedKind::Program, None) => ("missing-command", format!("there is no program {path}"), "not found"),
        (NeedKind::Program, Some(FileKind::Folder)) => {
            ("missing-command", format!("{path} is a folder"), "expected a program")
        }
        (NeedKind::Program, Some(FileKind::File { executable: false })) => {
            ("missing-command", format!("{path} is not executable"), "expected a program")
        }
        (NeedKind::File, None) => ("missing-file", format!("there is no file {path}"), "not found"),
        (NeedKind::File, Some(FileKind::Folder)) => {
            ("missing-file", format!("{path} is a folder"), "expected a file")
        }
        (NeedKind::Folder, None) => ("missing-folder", format!("there is no folder {path}"), "not found"),
        (NeedKind::Folder, Some(FileKind::File { .. } | FileKind::Other)) => {
            ("missing-folder", format!("{path} is no folder"), "expected a folder")
        }
        _ => return None,
    };
    let severity = if facts.strict { Severity::Error } else { Severity::Warning };
    Some(Diagnostic { severity, ..Diagnostic::error(code, need.span, message).label(label) })
}
