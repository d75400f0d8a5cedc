//! The secrets' files: each secret is also a file that only its user may read, for programs that want a path.

use orchestrator::model::InstanceName;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The variable that tells services where the files are.
pub(super) use orchestrator::network::SECRETS_VARIABLE as VARIABLE;

/// What folders of assigned instances' secrets begin with, before the run.
const OF_RUN: &str = "secrets-";

/// Writes `values` to `secrets/NAME` in the state folder. The answer: the folder.
pub(super) fn write(state_dir: &Path, values: &BTreeMap<String, String>) -> io::Result<PathBuf> {
    let folder = state_dir.join("secrets");
    write_to(&folder, values)?;
    Ok(folder)
}

/// The same on an agent, for one assignment: it has a folder of its own, so that word of an older one that comes late changes
/// nothing.
pub(super) fn write_for(
    state_dir: &Path,
    instance: &InstanceName,
    run: &str,
    values: &BTreeMap<String, String>,
) -> io::Result<PathBuf> {
    let folder = home_of(state_dir, instance).join(format!("{OF_RUN}{run}"));
    write_to(&folder, values)?;
    Ok(folder)
}

/// Removes what assignments of an instance were given whose run `goes`.
pub(super) fn remove_for(
    state_dir: &Path,
    instance: &InstanceName,
    goes: impl Fn(&str) -> bool,
) -> io::Result<()> {
    let entries = match std::fs::read_dir(home_of(state_dir, instance)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().and_then(|name| name.strip_prefix(OF_RUN)).is_some_and(&goes) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn home_of(state_dir: &Path, instance: &InstanceName) -> PathBuf {
    state_dir.join("instances").join(instance.to_string())
}

/// Writes `values` to files of their names (0600, replaced by rename), and removes the files of secrets that are no more.
fn write_to(folder: &Path, values: &BTreeMap<String, String>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_none_or(|name| !values.contains_key(name)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    for (name, value) in values {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} can't be a file's name"),
            ));
        }
        let new = folder.join(format!(".{name}.new"));
        // A half of an earlier try must not lend this one its mode.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(value.as_bytes())?;
        std::fs::rename(&new, folder.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_private_and_follow_the_values() {
        let state = tempfile::tempdir().unwrap();
        let one = BTreeMap::from([("a".to_string(), "1".to_string()), ("b".into(), "2".into())]);
        let folder = write(state.path(), &one).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("b")).unwrap(), "2");
        assert_eq!(std::fs::metadata(folder.join("a")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        write(state.path(), &BTreeMap::from([("a".to_string(), "3".to_string())])).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("a")).unwrap(), "3");
        assert!(!folder.join("b").exists());
        for bad in ["../x", "", ".x", "a/b"] {
            assert!(
                write(state.path(), &BTreeMap::from([(bad.to_string(), "x".to_string())])).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn an_assignment_has_files_of_its_own_until_it_is_over() {
        let state = tempfile::tempdir().unwrap();
        let instance: InstanceName = "web-1".parse().unwrap();
        let one = BTreeMap::from([("a".to_string(), "1".to_string())]);
        let [old, new] = ["01", "02"].map(|run| write_for(state.path(), &instance, run, &one).unwrap());
        std::fs::write(state.path().join("instances/web-1/hosts"), "").unwrap();
        remove_for(state.path(), &instance, |run| run < "02").unwrap();
        assert!(!old.exists() && new.join("a").exists());
        remove_for(state.path(), &instance, |run| run <= "02").unwrap();
        assert!(!new.exists() && state.path().join("instances/web-1/hosts").exists());
        remove_for(state.path(), &"other-1".parse().unwrap(), |_| true).unwrap();
    }
}
