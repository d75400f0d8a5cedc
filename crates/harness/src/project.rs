//! Which project is meant, and where its state lies.
//!
//! A project is one configuration file: its id is a name and 8 hex digits of the SHA-256 of the file's canonical path.
//! All that belongs to it lies in `$XDG_STATE_HOME/harness/<id>/`. Finding it needs no more than the file's path and
//! its `name:`, so that `stop`, `status` and `logs` work while the file has errors, and also after it was deleted.

use harness_config::{DiscoverError, discover};
use serde::{Deserialize, Serialize};
use service_registry::client::Remote;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A project on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    /// Name and 8 hex digits.
    pub(crate) id: String,
    /// Its configuration file, canonical. May have been deleted: see [`Project::deleted`].
    pub(crate) config: PathBuf,
    /// The configuration file as it should be shown: as it was given, or relative to the working folder.
    pub(crate) shown: PathBuf,
    /// All that belongs to it. Exists only once something was started.
    pub(crate) state_dir: PathBuf,
    /// The file isn't there any more; the project is known from its state.
    pub(crate) deleted: bool,
    /// It is the project of a daemon on another machine: nothing else here is known.
    pub(crate) remote: Option<Remote>,
}

/// Why no project could be settled on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProjectError {
    /// No configuration file.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// The working folder is gone or unreadable.
    #[error("can't enter the working folder {}", path.display())]
    WorkingDir {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file can't be resolved.
    #[error("can't resolve the path {}", path.display())]
    Resolve {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Neither `XDG_STATE_HOME` nor `HOME` is set.
    #[error("no folder for state: neither XDG_STATE_HOME nor HOME is set to an absolute path")]
    NoStateHome,
    /// The state folder can't be made or written.
    #[error("can't write to the state folder {}", path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A newer harness made the state folder.
    #[error(
        "{} has format {found}, this harness reads up to {SCHEMA}: use the newer harness, or another state folder",
        path.display()
    )]
    Newer {
        /// The file that says so; it is left as it is.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The state folder belongs to someone else.
    #[error("the state folder {} belongs to user {owner}", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Its owner's uid.
        owner: u32,
    },
}

/// What is remembered of a project beside its state: how it is found after its file was deleted.
#[derive(Serialize, Deserialize)]
struct Remembered {
    schema: u32,
    config: PathBuf,
}

const REMEMBERED: &str = "project.json";

/// The format of [`Remembered`] and of the folder that it stands in.
const SCHEMA: u32 = 1;

impl Project {
    /// The project of a daemon on another machine.
    pub(crate) fn of_remote(remote: Remote) -> Self {
        let (config, shown, state_dir) = Default::default();
        Self { id: remote.to_string(), config, shown, state_dir, deleted: false, remote: Some(remote) }
    }

    /// The project whose state is in that folder: on a node, the one that the folder's name says.
    pub(crate) fn at(state_dir: PathBuf) -> Self {
        let id = state_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (config, shown) = Default::default();
        Self { id, config, shown, state_dir, deleted: false, remote: None }
    }

    /// The project of `explicit` (`--config`), or of the working folder.
    pub(crate) fn find(explicit: Option<&Path>) -> Result<Self, ProjectError> {
        let start = std::env::current_dir()
            .map_err(|source| ProjectError::WorkingDir { path: PathBuf::from("."), source })?;
        let home = home();
        let states = state_home()?;
        match discover(&start, home.as_deref(), explicit) {
            Ok(path) => {
                let config = path
                    .canonicalize()
                    .map_err(|source| ProjectError::Resolve { path: path.clone(), source })?;
                let shown = explicit.map_or_else(
                    || path.strip_prefix(&start).map(Path::to_path_buf).unwrap_or(path.clone()),
                    Path::to_path_buf,
                );
                Ok(Self::of(&states, config, shown, false))
            }
            Err(error) => Self::of_deleted(&states, &start, explicit).ok_or(ProjectError::Discover(error)),
        }
    }

    fn of(states: &Path, config: PathBuf, shown: PathBuf, deleted: bool) -> Self {
        let hash = path_hash(&config);
        // The path alone identifies a project: a changed `name:` must not make a running stack unreachable.
        let id = existing(states, &hash).unwrap_or_else(|| format!("{}-{hash}", project_name(&config)));
        let state_dir = states.join(&id);
        Self { id, config, shown, state_dir, deleted, remote: None }
    }

    /// The project whose file was at `explicit`, or in the folder `start` or one above it.
    fn of_deleted(states: &Path, start: &Path, explicit: Option<&Path>) -> Option<Self> {
        if let Some(explicit) = explicit {
            let path = start.join(explicit);
            let config = path.parent()?.canonicalize().ok()?.join(path.file_name()?);
            existing(states, &path_hash(&config))?;
            return Some(Self::of(states, config, explicit.to_path_buf(), true));
        }
        let start = start.canonicalize().ok()?;
        let remembered = fs::read_dir(states).ok()?.flatten().filter_map(|entry| {
            let text = fs::read(entry.path().join(REMEMBERED)).ok()?;
            serde_json::from_slice::<Remembered>(&text).ok()
        });
        let config = remembered
            .map(|remembered| remembered.config)
            .filter(|config| !config.exists() && project_folder(config).is_some_and(|f| start.starts_with(f)))
            .max_by_key(|config| config.as_os_str().len())?;
        Some(Self::of(states, config.clone(), config, true))
    }

    /// Makes the state folder (0700) and remembers in it whose it is. Nothing else is ever written before this.
    pub(crate) fn create_state_dir(&self) -> Result<(), ProjectError> {
        let failed = |source| ProjectError::State { path: self.state_dir.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.state_dir).map_err(failed)?;
        let metadata = fs::metadata(&self.state_dir).map_err(failed)?;
        let own = rustix::process::geteuid().as_raw();
        if metadata.uid() != own {
            return Err(ProjectError::Foreign { path: self.state_dir.clone(), owner: metadata.uid() });
        }
        let file = self.state_dir.join(REMEMBERED);
        if let Some(found) = schema(&file).filter(|found| *found > SCHEMA) {
            return Err(ProjectError::Newer { path: file, found });
        }
        if !file.exists() {
            let text = serde_json::to_vec(&Remembered { schema: SCHEMA, config: self.config.clone() })
                .map_err(|e| failed(io::Error::other(e)))?;
            // Renamed into place: another start at the same moment sees a whole file or none.
            let draft = self.state_dir.join(format!("{REMEMBERED}.{}", std::process::id()));
            fs::write(&draft, text).and_then(|()| fs::rename(&draft, &file)).map_err(failed)?;
        }
        // Writable also when the folder was there already.
        rustix::fs::access(&self.state_dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
            .map_err(|e| failed(e.into()))
    }
}

/// The format that a file says it has.
fn schema(file: &Path) -> Option<u32> {
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    serde_json::from_slice::<Schema>(&fs::read(file).ok()?).ok().map(|found| found.schema)
}

/// The folder that a configuration file speaks for: for `.harness/services.yaml` the one above.
fn project_folder(config: &Path) -> Option<&Path> {
    let folder = config.parent()?;
    if folder.ends_with(".harness") { folder.parent() } else { Some(folder) }
}

/// The home folder of the person, if it is set.
pub(crate) fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute())
}

fn state_home() -> Result<PathBuf, ProjectError> {
    let xdg = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = xdg.or_else(|| home().map(|home| home.join(".local/state")));
    Ok(base.ok_or(ProjectError::NoStateHome)?.join("harness"))
}

/// 8 hex digits of the SHA-256 of a canonical path.
fn path_hash(path: &Path) -> String {
    Sha256::digest(path.as_os_str().as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The state folder that exists for this path, whatever the project's name was when it was made.
fn existing(states: &Path, hash: &str) -> Option<String> {
    let names = fs::read_dir(states).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.rsplit_once('-').is_some_and(|(_, tail)| tail == hash)).min()
}

/// The project's name, read leniently: a top-level `name:` in the first 64 KiB, else the folder's name.
fn project_name(config: &Path) -> String {
    let mut text = Vec::new();
    // A pipe would be waited for, and its text be gone.
    if let Some(Ok(file)) = config.is_file().then(|| fs::File::open(config)) {
        let _ = file.take(64 * 1024).read_to_end(&mut text);
    }
    let folder =
        || project_folder(config).and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    sanitise(&name_in(&String::from_utf8_lossy(&text)).or_else(folder).unwrap_or_default())
}

fn name_in(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("name:"))?;
    let value = value.split(" #").next()?.trim().trim_matches(['"', '\'']);
    (!value.is_empty() && !value.contains(['$', '{', '&', '*', '|', '>'])).then(|| value.to_owned())
}

/// Letters, digits and `_` stay; everything else becomes one `-`. At most 40 characters, never empty.
pub(crate) fn sanitise(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
        if out.len() >= 40 {
            break;
        }
    }
    let out = out.trim_end_matches('-');
    if out.is_empty() { "project".into() } else { out.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_safe_for_folders() {
        for (name, safe) in [
            ("shop", "shop"),
            ("My Shop!", "my-shop"),
            ("../../etc", "etc"),
            ("", "project"),
            ("日本", "project"),
            (&"x".repeat(100), &"x".repeat(40)),
        ] {
            assert_eq!(sanitise(name), *safe, "{name}");
        }
    }

    #[test]
    fn the_name_is_found_even_in_a_file_with_errors() {
        for (text, name) in [
            ("version: \"1.0\"\nname: shop # mine\n", Some("shop")),
            ("name: \"shop\"\n  bad: [", Some("shop")),
            ("services:\n  name: x\n", None),
            ("name: ${NAME}\n", None),
            ("name:\n", None),
        ] {
            assert_eq!(name_in(text).as_deref(), name, "{text}");
        }
    }

    #[test]
    fn the_sample_of_every_version_is_read_and_a_newer_one_is_refused() {
        let sample = include_bytes!("../tests/samples/project-v1.json");
        let remembered: Remembered = serde_json::from_slice(sample).unwrap();
        assert_eq!(
            (remembered.schema, remembered.config.as_path()),
            (1, Path::new("/srv/shop/services.yaml"))
        );
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("services.yaml");
        let project = Project::of(&folder.path().join("state"), config.clone(), config, false);
        project.create_state_dir().unwrap();
        let newer = r#"{"schema":2,"where":"elsewhere"}"#;
        fs::write(project.state_dir.join(REMEMBERED), newer).unwrap();
        let error = project.create_state_dir().unwrap_err();
        assert!(matches!(error, ProjectError::Newer { found: 2, .. }), "{error}");
        assert!(error.to_string().contains("use the newer harness"), "{error}");
        assert_eq!(fs::read_to_string(project.state_dir.join(REMEMBERED)).unwrap(), newer);
    }

    #[test]
    fn a_project_keeps_its_state_when_its_name_changes_or_its_file_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let states = root.join("state");
        let config = root.join("work/services.yaml");
        fs::create_dir_all(root.join("work/sub")).unwrap();
        fs::write(&config, "name: one\n").unwrap();
        let first = Project::of(&states, config.clone(), config.clone(), false);
        assert!(first.id.starts_with("one-") && first.id.len() == "one-".len() + 8, "{}", first.id);
        first.create_state_dir().unwrap();
        assert_eq!(fs::metadata(&first.state_dir).unwrap().mode() & 0o777, 0o700);

        fs::write(&config, "name: two\n").unwrap();
        assert_eq!(Project::of(&states, config.clone(), config.clone(), false).id, first.id);

        fs::remove_file(&config).unwrap();
        let found = Project::of_deleted(&states, &root.join("work/sub"), None).unwrap();
        assert!(found.deleted && found.id == first.id);
        let found = Project::of_deleted(&states, &root, Some(Path::new("work/services.yaml"))).unwrap();
        assert!(found.deleted && found.id == first.id);
        assert!(Project::of_deleted(&states, &root, None).is_none(), "a folder above is not the project's");
    }
}
