//! The whole way from a file to a stack.

use crate::check::{self, Facts};
use crate::diagnostic::{Diagnostic, finish, has_errors};
use crate::environment::Environment;
use crate::lower;
use crate::source::{Disk, Files, ReadError, Sources, Span, read_text};
use crate::syntax::file::File;
use crate::syntax::reader::Reader;
use crate::syntax::service::Service;
use crate::syntax::{file, tree};
use indexmap::IndexMap;
use orchestrator::model::Stack;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error as _;
use std::path::{Path, PathBuf};

/// What reading a file depends on besides its text.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The caller's environment.
    pub env: BTreeMap<String, String>,
    /// `-e NAME=value`: beats the environment, which beats `env_file`. The last of a name counts.
    pub overrides: Vec<(String, String)>,
    /// Active profiles; `*` activates all.
    pub profiles: Vec<String>,
    /// Whether commands and files that are missing on this machine are errors.
    pub strict: bool,
}

/// What became of a file.
#[derive(Debug)]
pub struct Loaded {
    /// The stack, if there was no error.
    pub stack: Option<Stack>,
    /// Every problem, in the file's order.
    pub diagnostics: Vec<Diagnostic>,
    /// The texts that the problems stand in.
    pub sources: Sources,
    /// Every variable that the file referred to, with the value that it had; only these count for staleness.
    pub referenced_env: BTreeMap<String, Option<String>>,
    /// Profiles that the file names.
    pub profiles: Vec<String>,
    /// `settings.log_level`.
    pub log_level: Option<&'static str>,
}

impl Loaded {
    fn failed(diagnostic: Diagnostic, sources: Sources) -> Self {
        Self {
            stack: None,
            diagnostics: vec![diagnostic],
            sources,
            referenced_env: BTreeMap::new(),
            profiles: Vec::new(),
            log_level: None,
        }
    }
}

/// Reads the file at `path`. A file that can't be read is a diagnostic too.
pub fn load(path: &Path, options: &LoadOptions) -> Loaded {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    match read_text(&Disk, &path) {
        Ok(text) => read(name, folder_of(&path), text, options, &Disk),
        Err(error) => Loaded::failed(unreadable(&error), Sources::default()),
    }
}

/// The folder that relative paths are relative to: the file's, or that of `.harness` when the file is in there.
fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().unwrap_or(Path::new("/"));
    match (folder.file_name(), folder.parent()) {
        (Some(name), Some(above)) if name == ".harness" => above.into(),
        _ => folder.into(),
    }
}

fn unreadable(error: &ReadError) -> Diagnostic {
    let mut message = error.to_string();
    if let Some(cause) = error.source() {
        message.push_str(&format!(": {cause}"));
    }
    Diagnostic::file("unreadable", message)
}

/// Reads a text as if it stood at `path`; every file that it names is looked for through `files`.
pub fn load_str(path: &Path, text: &str, options: &LoadOptions, files: &dyn Files) -> Loaded {
    let name =
        path.file_name().map_or_else(|| "services.yaml".into(), |name| name.to_string_lossy().into_owned());
    read(name, folder_of(path), text.into(), options, files)
}

fn read(name: String, folder: PathBuf, text: String, options: &LoadOptions, files: &dyn Files) -> Loaded {
    let mut sources = Sources::default();
    let mut diagnostics = Vec::new();
    let main = sources.add(name.clone(), text);
    let root = tree::parse(sources.text(main), main, &mut diagnostics);
    let Some(root) = root.filter(|root| !root.is_null()) else {
        if diagnostics.is_empty() {
            diagnostics.push(
                Diagnostic::file("empty", format!("{name} is empty"))
                    .help("`harness init` writes one to begin with"),
            );
        }
        return Loaded {
            diagnostics: finish(diagnostics),
            ..Loaded::failed(Diagnostic::file("", ""), sources)
        };
    };
    let mut reader = Reader {
        sources: &mut sources,
        files,
        environment: Environment {
            overrides: &options.overrides,
            caller: &options.env,
            file: IndexMap::new(),
            services: HashSet::new(),
            referenced: BTreeMap::new(),
        },
        folder: folder.clone(),
        diagnostics,
        uses: Vec::new(),
        needs: Vec::new(),
        in_args: false,
        local: true,
        inside: false,
        subject: String::new(),
    };
    let file = file::file(&mut reader, &root);
    let Reader { environment, mut diagnostics, .. } = reader;
    let referenced_env = environment.referenced;
    let (mut stack, mut profiles, mut log_level) = (None, Vec::new(), None);
    if let Some(file) = &file {
        profiles = declared_profiles(file);
        log_level = file.settings.log_level;
        stack = checked(file, options, files, &folder, &sources, &mut diagnostics);
    }
    let diagnostics = finish(diagnostics);
    if has_errors(&diagnostics) {
        stack = None;
    }
    Loaded { stack, diagnostics, sources, referenced_env, profiles, log_level }
}

/// The profiles that a file names, in its order.
fn declared_profiles(file: &File) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for profile in file.services.iter().flat_map(|service| &service.profiles) {
        if !all.contains(&profile.value) {
            all.push(profile.value.clone());
        }
    }
    all
}

fn checked(
    file: &File,
    options: &LoadOptions,
    files: &dyn Files,
    folder: &Path,
    sources: &Sources,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Stack> {
    let asked: HashSet<&str> = options.profiles.iter().map(String::as_str).collect();
    let (active, rest): (Vec<&Service>, Vec<&Service>) =
        file.services.iter().partition(|service| check::is_active(service, &asked));
    let by_name: HashMap<&str, &Service> =
        active.iter().map(|service| (service.name.as_str(), *service)).collect();
    let inactive = rest.iter().map(|service| (service.name.as_str(), *service)).collect();
    let facts = Facts {
        file,
        active: &active,
        by_name: &by_name,
        inactive: &inactive,
        caller: &options.env,
        files,
        strict: options.strict,
    };
    check::check(&facts, diagnostics);
    let name = match &file.name {
        Some(name) if check::is_name(&name.value) => name.value.clone(),
        Some(name) => {
            diagnostics.push(bad_name(&name.value, name.span));
            return None;
        }
        None => project_name(folder),
    };
    if has_errors(diagnostics) {
        return None;
    }
    let source = |service: &Service| {
        let place = sources.get(service.span.source).map_or("", |source| source.name.as_str());
        format!("{place}:{}", sources.position(service.span).line)
    };
    Some(lower::stack(file, &active, name, folder, source))
}

fn bad_name(name: &str, span: Span) -> Diagnostic {
    let suggestion = check::sanitise(name);
    Diagnostic::error(
        "name",
        span,
        format!("`{}` can't be the name of a project", crate::syntax::reader::shown(name)),
    )
    .label("expected 1 to 63 characters of a-z, 0-9, '-' and '_', beginning with a letter or digit")
    .maybe_help((!suggestion.is_empty()).then(|| format!("for example `{suggestion}`")))
}

/// The name of a project whose file gives none: its folder's, made of what a name may have.
pub fn project_name(folder: &Path) -> String {
    let name = folder.file_name().map(|name| check::sanitise(&name.to_string_lossy())).unwrap_or_default();
    if name.is_empty() { "project".into() } else { name }
}
