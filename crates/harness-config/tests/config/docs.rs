//! What README.md and the guide show is true of this crate: their files are read without an error, and every key is told.
//!
//! A block that begins with ```` ```yaml ```` is a whole file; one that begins with ```` ```yaml fragment ```` lacks only
//! the `version`; ```` ```yaml manifest ```` is a package's.

use crate::support::options;
use harness_config::{FileKind, Files, LoadOptions, json_schema, load_str, render};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// Every file that an example names is there, and empty.
struct All;

impl Files for All {
    fn read(&self, _: &Path, _: u64) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn kind(&self, _: &Path) -> Option<FileKind> {
        Some(FileKind::File { executable: true })
    }
}

/// A block of YAML in a page.
struct Block {
    /// Page and line.
    at: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// README.md and the pages of the guide.
fn pages() -> Vec<String> {
    let guide = std::fs::read_dir(root().join("docs/guide")).unwrap().flatten();
    let names = guide.filter_map(|entry| entry.file_name().into_string().ok());
    let mut pages: Vec<String> =
        names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/guide/{name}")).collect();
    pages.push("README.md".into());
    pages.sort();
    pages
}

fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```yaml") else { continue };
        let version = match info {
            "" => "",
            " fragment" => "version: \"1.0\"\n",
            " manifest" => {
                manifest(page, lines.by_ref().map(|(_, line)| line));
                continue;
            }
            other => {
                panic!("{page}:{}: `yaml{other}` is neither a file, a fragment nor a manifest", number + 1)
            }
        };
        let body: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        blocks.push(Block {
            at: format!("{page}:{}", number + 1),
            text: format!("{version}{}\n", body.join("\n")),
        });
    }
    blocks
}

/// A package's manifest is read by its own reader.
fn manifest<'a>(page: &str, lines: impl Iterator<Item = &'a str>) {
    let body: Vec<&str> = lines.take_while(|line| *line != "```").collect();
    let read = harness_config::read_manifest(page, &body.join("\n"));
    assert!(read.manifest.is_some(), "{}", render(&read.diagnostics, &read.sources, false));
}

fn errors(text: &str) -> Option<String> {
    let options = LoadOptions { profiles: vec!["*".into()], ..options() };
    let loaded = load_str(Path::new("/project/services.yaml"), text, &options, &All);
    loaded.stack.is_none().then(|| render(&loaded.diagnostics, &loaded.sources, false))
}

#[test]
fn every_file_that_the_documentation_shows_is_valid() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for page_name in pages() {
        for block in blocks(&page_name, &page(&page_name)) {
            count += 1;
            wrong.extend(errors(&block.text).map(|problems| format!("{}\n{problems}", block.at)));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(count >= 10, "only {count} blocks were found: are they marked as YAML?");
}

#[test]
fn a_broken_block_would_be_found() {
    let text = "words\n```yaml fragment\nservices:\n  web: {type: proces}\n```\n```yaml\nservices: {}\n```\n";
    let blocks = blocks("page.md", text);
    assert_eq!(blocks.iter().map(|block| block.at.as_str()).collect::<Vec<_>>(), ["page.md:2", "page.md:6"]);
    assert!(blocks.iter().all(|block| errors(&block.text).is_some()));
}

/// A text without its comments and empty lines.
fn bare(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let uncommented = lines.map(|line| line.split(" # ").next().unwrap_or_default().trim_end());
    uncommented.filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_readme_shows_the_quickstart() {
    let readme = page("README.md");
    let shown = blocks("README.md", &readme).into_iter().next().unwrap().text;
    assert_eq!(bare(&shown), bare(&page("examples/quickstart/services.yaml")));
}

/// Names of all properties in a schema.
fn keys(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let ("properties", Value::Object(properties)) = (name.as_str(), value) {
                    found.extend(properties.keys().cloned());
                }
                keys(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

#[test]
fn the_reference_tells_every_key() {
    let reference = page("docs/guide/services-yaml.md");
    let mut known = BTreeSet::new();
    keys(&serde_json::to_value(json_schema()).unwrap(), &mut known);
    assert!(known.len() > 80, "{known:?}");
    let missing: Vec<&String> = known.iter().filter(|key| !reference.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "not in docs/guide/services-yaml.md: {missing:?}");
}
