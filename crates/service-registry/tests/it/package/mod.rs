//! Packages: built, signed, checked, unpacked and installed, and everything that is refused.

mod build;
mod corpus;
mod figures;
mod forge;
mod install;
mod sign;

use semver::Version;
use service_registry::package::archive::Limits;
use service_registry::package::build::{Built, Contents};
use service_registry::package::manifest::Manifest;
use service_registry::package::unpack::Check;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What is expected of a package that may be anything else.
pub(super) fn check<'a>(progress: &'a mut dyn FnMut(u64) -> bool) -> Check<'a> {
    Check { read: &Manifest::from_text, limits: Limits::default(), file_name: None, digest: None, progress }
}

/// A folder to be packed: a program, a setting, a script and a link.
pub(super) fn source(folder: &Path, program: &str) {
    for part in ["bin", "config/empty", "scripts"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    fs::write(folder.join("bin/web"), program).unwrap();
    fs::write(folder.join("scripts/start.sh"), "#!/bin/sh\nexec bin/web\n").unwrap();
    fs::write(folder.join("config/web.toml"), "port = 80\n").unwrap();
    for executable in ["bin/web", "scripts/start.sh"] {
        fs::set_permissions(folder.join(executable), fs::Permissions::from_mode(0o700)).unwrap();
    }
    std::os::unix::fs::symlink("web", folder.join("bin/w")).unwrap();
}

/// Builds such a folder in `version` as a file in `folder`.
pub(super) fn package(folder: &Path, version: &str, program: &str) -> Built {
    let source_folder = tempfile::tempdir().unwrap();
    source(source_folder.path(), program);
    let contents = Contents::of(source_folder.path()).unwrap();
    let manifest = Manifest::new("web", Version::parse(version).unwrap());
    let path = folder.join(format!("web-{version}.tar.zst"));
    contents.pack(manifest, &path, &mut |_| true).unwrap()
}

/// Every path below a folder, sorted.
pub(super) fn tree(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap().flatten() {
            found.push(entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
