//! From the text of a package's manifest to the manifest, or everything that is wrong with it.

use crate::diagnostic::{Diagnostic, finish, has_errors, location};
use crate::environment::Environment;
use crate::source::{NoFiles, Sources, Span};
use crate::syntax::reader::Reader;
use crate::syntax::tree::{self, Kind, Node};
use indexmap::IndexMap;
use service_registry::package::manifest::Manifest;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

/// What became of a manifest.
#[derive(Debug)]
pub struct ManifestRead {
    /// The manifest, if there was no error.
    pub manifest: Option<Manifest>,
    /// Every problem, in the text's order.
    pub diagnostics: Vec<Diagnostic>,
    /// The text that they stand in.
    pub sources: Sources,
}

/// Reads the text of a manifest. `name` is how messages call it.
///
/// Checked are its form and what [`Manifest::problems`] finds, not whether the files are there that it names.
pub fn read_manifest(name: &str, text: &str) -> ManifestRead {
    let mut sources = Sources::default();
    let mut diagnostics = Vec::new();
    let source = sources.add(name.to_owned(), text.to_owned());
    let root = tree::parse(text, source, &mut diagnostics).filter(|root| !root.is_null());
    let Some(root) = root else {
        if diagnostics.is_empty() {
            let empty = Diagnostic::file("empty", format!("{name} is empty"));
            diagnostics.push(empty.help("it needs at least `name` and `version`"));
        }
        return ManifestRead { manifest: None, diagnostics: finish(diagnostics), sources };
    };
    let mut reader = Reader {
        sources: &mut sources,
        files: &NoFiles,
        environment: Environment {
            overrides: &[],
            caller: &BTreeMap::new(),
            file: IndexMap::new(),
            services: HashSet::new(),
            referenced: BTreeMap::new(),
        },
        folder: PathBuf::new(),
        diagnostics,
        uses: Vec::new(),
        needs: Vec::new(),
        in_args: false,
        local: false,
        inside: false,
        subject: String::new(),
    };
    let manifest = crate::syntax::manifest::manifest(&mut reader, &root);
    // An item of a list that can't be read isn't counted: the numbers of those after it would be wrong.
    let unsure = has_errors(&reader.diagnostics);
    let problems = manifest.iter().flat_map(Manifest::problems);
    for problem in problems.filter(|problem| !unsure || !problem.at.contains('[')) {
        let what = Diagnostic::error(
            "manifest",
            place(&root, &problem.at),
            format!("{}: {}", problem.at, problem.what),
        );
        reader.report(what.label("here"));
    }
    let diagnostics = finish(reader.diagnostics);
    let manifest = manifest.filter(|_| !has_errors(&diagnostics));
    ManifestRead { manifest, diagnostics, sources }
}

/// Reads the manifest in a package: a [`service_registry::package::ReadManifest`].
///
/// # Errors
///
/// Every problem on a line, each with its place.
pub fn packed_manifest(text: &str) -> Result<Manifest, String> {
    let read = read_manifest("manifest.yaml", text);
    let told = |diagnostic: &Diagnostic| {
        let at = location(diagnostic, &read.sources).map(|at| format!("{at}: ")).unwrap_or_default();
        let label = diagnostic.label.as_deref().filter(|label| *label != "here");
        format!("{at}{}{}", diagnostic.message, label.map(|label| format!(": {label}")).unwrap_or_default())
    };
    read.manifest.ok_or_else(|| read.diagnostics.iter().map(told).collect::<Vec<_>>().join("\n"))
}

/// Where a key such as `service.ports[0].name` stands, or what is nearest to it.
fn place(root: &Node, at: &str) -> Span {
    let mut node = root;
    let mut rest = at;
    while !rest.is_empty() {
        rest = rest.trim_start_matches('.');
        if let (Some(inside), Kind::List(items)) = (rest.strip_prefix('['), &node.kind) {
            let (index, after) = inside.split_once(']').unwrap_or((inside, ""));
            let Some(item) = index.parse().ok().and_then(|index: usize| items.get(index)) else { break };
            (node, rest) = (item, after);
            continue;
        }
        // A key may have dots itself: the whole rest is tried first.
        let end =
            if node.get(rest).is_some() { rest.len() } else { rest.find(['.', '[']).unwrap_or(rest.len()) };
        let (key, after) = rest.split_at(end);
        let Some(value) = node.get(key) else { break };
        (node, rest) = (value, after);
    }
    if std::ptr::eq(node, root) { root.span.part(0, 0) } else { node.span }
}
