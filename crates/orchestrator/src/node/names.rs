//! Hosts files of instances: written, and written again in place.

use crate::model::InstanceName;
use crate::network::hosts_file;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The machine's own.
const MACHINE: &str = "/etc/hosts";
/// Its name in the instance's folder.
const FILE: &str = "hosts";

/// Writes the hosts file of an instance: what the machine's says now, and `names`. A file that is there already is changed
/// in place, as it lies over `/etc/hosts` for whoever runs; in one write, so that nobody reads half of it.
pub(super) fn write(
    state: &Path,
    instance: &InstanceName,
    names: &BTreeMap<String, String>,
) -> io::Result<PathBuf> {
    let machine = match std::fs::read(MACHINE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read?,
    };
    let folder = super::hosted::folder(state, instance);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let path = folder.join(FILE);
    let (mut file, mut before) = (open(&path)?, Vec::new());
    file.read_to_end(&mut before)?;
    let mut text = hosts_file(&String::from_utf8_lossy(&machine), names).into_bytes();
    if before.trim_ascii_end() != text.trim_ascii_end() {
        // What is shorter is filled up: between a write and a cut the old end would be read as lines of the new file.
        text.resize(text.len().max(before.len()), b'\n');
        file.write_all_at(&text, 0)?;
    }
    Ok(path)
}

/// For every user to read: the service may be another one.
fn open(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_change_keeps_the_file_and_leaves_nothing_of_the_old_one() {
        let state = tempfile::tempdir().unwrap();
        let instance = crate::testing::instance("web-1");
        let names = |names: &[&str]| {
            names.iter().map(|name| (name.to_string(), "127.77.1.1".to_string())).collect::<BTreeMap<_, _>>()
        };
        let path = write(state.path(), &instance, &names(&["a-long-name", "db"])).unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("127.77.1.1 a-long-name\n127.77.1.1 db\n"));
        write(state.path(), &instance, &names(&["db"])).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.trim_end().ends_with("127.77.1.1 db") && !text.contains("a-long-name"), "{text}");
        let written = std::fs::metadata(&path).unwrap();
        assert_eq!((written.ino(), written.mode() & 0o777), (inode, 0o644));
    }
}
