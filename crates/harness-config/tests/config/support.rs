//! What the tests share.

use harness_config::{FileKind, Files, LoadOptions, Loaded, Stack, load_str, render};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// Files that exist only in a test: below `/project` by their relative names.
#[derive(Default)]
pub(crate) struct Pretend(pub(crate) HashMap<&'static str, &'static str>);

impl Files for Pretend {
    fn read(&self, path: &Path, _: u64) -> io::Result<Vec<u8>> {
        let name = path.strip_prefix("/project").map_err(|_| io::ErrorKind::NotFound)?;
        let text = self.0.get(name.to_str().unwrap()).ok_or(io::ErrorKind::NotFound)?;
        Ok(text.as_bytes().to_vec())
    }

    fn kind(&self, path: &Path) -> Option<FileKind> {
        let path = path.strip_prefix("/project").unwrap_or(path).to_str()?;
        match path {
            "/bin/tool" | "/bin/sh" | "/usr/bin/curl" | "run" => Some(FileKind::File { executable: true }),
            "plain" | "a.conf" => Some(FileKind::File { executable: false }),
            "folder" | "" => Some(FileKind::Folder),
            name => self.0.contains_key(name).then_some(FileKind::File { executable: false }),
        }
    }
}

pub(crate) fn options() -> LoadOptions {
    let env = [
        ("PATH", "/bin:/usr/bin"),
        ("HOME", "/home/me"),
        ("USER_TOKEN", "s3cr3t"),
        ("PORT", "8080"),
        ("EMPTY", ""),
    ];
    LoadOptions {
        env: env.map(|(name, value)| (name.to_string(), value.to_string())).into(),
        ..LoadOptions::default()
    }
}

pub(crate) fn read_with(text: &str, options: &LoadOptions, files: &dyn Files) -> Loaded {
    load_str(&PathBuf::from("/project/services.yaml"), text, options, files)
}

pub(crate) fn read(text: &str) -> Loaded {
    read_with(text, &options(), &Pretend::default())
}

/// The diagnostics of a text, as a person sees them.
pub(crate) fn check(text: &str) -> String {
    let loaded = read(text);
    assert_eq!(loaded.stack.is_none(), harness_config::has_errors(&loaded.diagnostics));
    render(&loaded.diagnostics, &loaded.sources, false)
}

/// The same for a body of services, so that a test shows only what it is about.
pub(crate) fn check_services(services: &str) -> String {
    check(&format!("version: '1.0'\nservices:\n{services}"))
}

/// The stack of a text that has no errors.
#[track_caller]
pub(crate) fn stack(text: &str) -> Stack {
    stack_with(text, &options(), &Pretend::default())
}

#[track_caller]
pub(crate) fn stack_with(text: &str, options: &LoadOptions, files: &dyn Files) -> Stack {
    let loaded = read_with(text, options, files);
    match loaded.stack {
        Some(stack) => stack,
        None => panic!("{}", render(&loaded.diagnostics, &loaded.sources, false)),
    }
}
