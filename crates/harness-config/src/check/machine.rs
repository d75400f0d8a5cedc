//! Programs, files and folders that are missing on this machine.

use super::Facts;
use crate::diagnostic::{Diagnostic, Severity};
use crate::source::FileKind;
use crate::syntax::reader::{Need, NeedKind, Spanned, shown};
use crate::syntax::service::Service;
use orchestrator::model::{FileCopy, Target};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A thousand services mostly run the same few programs: each is looked for once.
type Known = HashMap<(bool, PathBuf), Option<FileKind>>;

pub(super) fn needs(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    let mut known = Known::new();
    for service in facts.active {
        out.extend(service.files.iter().filter_map(|file| unsendable(facts, service, file)));
        let elsewhere = service.host.as_ref().is_some_and(|host| host.value != "localhost");
        if elsewhere || !service.placement.is_empty() {
            continue;
        }
        // What a container or a unit runs is not on this machine's disk.
        let processes = matches!(service.kind, Some("process" | "package" | "attach"));
        for need in &service.needs {
            if processes || need.kind == NeedKind::File {
                out.extend(missing(facts, service, need, &mut known));
            }
        }
    }
}

/// What is to be brought to another machine and isn't on this one: nothing is started without it.
fn unsendable(facts: &Facts<'_>, service: &Service, file: &Spanned<FileCopy>) -> Option<Diagnostic> {
    let source = &file.value.source;
    let text = source.to_string_lossy();
    let message = match facts.files.kind(source) {
        Some(FileKind::File { .. } | FileKind::Folder) => return None,
        Some(FileKind::Other) => format!("{} is neither a file nor a folder", shown(&text)),
        None => format!("there is no file {} on this machine", shown(&text)),
    };
    // A package may have yet to be built, as one that runs here.
    let built = matches!(&service.target, Some(Target::Package { package, .. })
        if package.as_literal().is_some_and(|package| file.value.destination == Path::new(&package)));
    let severity = if built && !facts.strict { Severity::Warning } else { Severity::Error };
    let error = Diagnostic::error("missing-file", file.span, message).label("to be copied to the node");
    Some(Diagnostic { severity, ..error })
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
