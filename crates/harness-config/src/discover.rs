//! Where services.yaml is.

use std::path::{Path, PathBuf};

/// The names looked for in each folder, in this order.
pub const FILE_NAMES: [&str; 3] = ["services.yaml", "harness.yaml", ".harness/services.yaml"];

/// Why no configuration file was found.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The file that was asked for isn't there.
    #[error("there is no file {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// None in any folder.
    #[error("found no services.yaml in {} or a folder above it", start.display())]
    NotFound {
        /// Where the search began.
        start: PathBuf,
        /// Every folder that was looked at.
        searched: Vec<PathBuf>,
    },
}

/// The configuration file to use: `explicit` (`--config` or `$HARNESS_CONFIG`), else the first of [`FILE_NAMES`] in
/// `start` and each folder above it up to the repository's root or `home`, else `~/.config/harness/services.yaml`.
///
/// A relative `explicit` is taken relative to `start`. Errors if there is none.
pub fn discover(
    start: &Path,
    home: Option<&Path>,
    explicit: Option<&Path>,
) -> Result<PathBuf, DiscoverError> {
    if let Some(path) = explicit {
        let path = start.join(path);
        return if path.exists() { Ok(path) } else { Err(DiscoverError::Missing { path }) };
    }
    let mut searched = Vec::new();
    for folder in start.ancestors() {
        if let Some(found) = FILE_NAMES.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
            return Ok(found);
        }
        searched.push(folder.to_path_buf());
        if folder.join(".git").exists() || Some(folder) == home {
            break;
        }
    }
    if let Some(home) = home {
        let folder = home.join(".config/harness");
        let path = folder.join("services.yaml");
        if path.is_file() {
            return Ok(path);
        }
        searched.push(folder);
    }
    Err(DiscoverError::NotFound { start: start.into(), searched })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_nearest_file_wins_and_the_repository_is_the_border() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let deep = root.join("repo/a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir_all(root.join("repo/.git")).unwrap();
        fs::write(root.join("services.yaml"), "").unwrap();
        assert!(matches!(discover(&deep, None, None), Err(DiscoverError::NotFound { .. })));

        fs::create_dir_all(root.join("repo/.harness")).unwrap();
        fs::write(root.join("repo/.harness/services.yaml"), "").unwrap();
        assert_eq!(discover(&deep, None, None).unwrap(), root.join("repo/.harness/services.yaml"));
        fs::write(root.join("repo/harness.yaml"), "").unwrap();
        assert_eq!(discover(&deep, None, None).unwrap(), root.join("repo/harness.yaml"));
        fs::write(deep.join("services.yaml"), "").unwrap();
        assert_eq!(discover(&deep, None, None).unwrap(), deep.join("services.yaml"));
    }

    #[test]
    fn home_is_the_border_and_then_its_config_folder_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        let work = home.join("work");
        fs::create_dir_all(home.join(".config/harness")).unwrap();
        fs::create_dir_all(&work).unwrap();
        fs::write(folder.path().join("services.yaml"), "").unwrap();
        assert!(discover(&work, Some(&home), None).is_err());
        fs::write(home.join(".config/harness/services.yaml"), "").unwrap();
        assert_eq!(discover(&work, Some(&home), None).unwrap(), home.join(".config/harness/services.yaml"));
    }

    #[test]
    fn an_explicit_file_must_exist() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Path::new("x.yaml");
        assert!(matches!(discover(folder.path(), None, Some(missing)), Err(DiscoverError::Missing { .. })));
        fs::write(folder.path().join("x.yaml"), "").unwrap();
        assert_eq!(discover(folder.path(), None, Some(missing)).unwrap(), folder.path().join("x.yaml"));
    }
}
