//! The files of an instance: which runs there are, and which files each has.
//!
//! `INSTANCE/RUN.log` is written, `RUN.log.1` is the newest that was rotated, `.2` the one before. Rotation renames
//! upwards from the oldest, so files are looked up in ascending order: one that moves meanwhile is met twice, never
//! missed. A file is recognised by its inode, which can't be reused while it is held open.

use super::LogError;
use super::segment::Segment;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How often a lookup is repeated that a rotation has overtaken.
const TRIES: usize = 32;
/// Names missing in a row after which a run has no older files; one may be missing in the middle of a rotation.
const MISSING: u32 = 2;

/// Which file, whatever its name is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// A file's neighbour in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Older,
    Newer,
}

/// One run of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    folder: Arc<Path>,
    pub(crate) id: Arc<str>,
}

/// The folder of an instance's runs.
///
/// # Errors
/// [`LogError::Name`] if the name could lead elsewhere.
pub(crate) fn folder(state: &Path, instance: &str) -> Result<Arc<Path>, LogError> {
    if instance.is_empty() || instance.starts_with('.') || instance.contains(['/', '\0']) {
        return Err(LogError::Name { instance: instance.to_owned() });
    }
    Ok(state.join("instances").join(instance).into())
}

/// The runs of which there is a log, oldest first; none if the folder isn't there.
pub(crate) fn runs(folder: &Arc<Path>) -> Result<Vec<Run>, LogError> {
    let failed = |source| LogError::List { path: folder.to_path_buf(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if let Some(id) = name.to_str().and_then(run_of) {
            ids.push(id.to_owned());
        }
    }
    // Version 7 UUIDs: names sort as times do.
    ids.sort_unstable();
    ids.dedup();
    Ok(ids.into_iter().map(|id| Run { folder: Arc::clone(folder), id: id.into() }).collect())
}

/// The run that a log file's name belongs to.
fn run_of(name: &str) -> Option<&str> {
    let (id, rest) = name.split_once(".log")?;
    let rotated = |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let ours = rest.is_empty() || rest.strip_prefix('.').is_some_and(rotated);
    (ours && !id.is_empty() && !id.contains('.')).then_some(id)
}

impl Run {
    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(match number {
            0 => format!("{}.log", self.id),
            number => format!("{}.log.{number}", self.id),
        })
    }

    /// Its files as they are named now, newest first.
    fn files(&self) -> Result<Vec<(PathBuf, FileId)>, LogError> {
        let mut files: Vec<(PathBuf, FileId)> = Vec::new();
        let mut missing = 0;
        for number in 0.. {
            let path = self.path(number);
            match fs::metadata(&path) {
                Ok(metadata) => {
                    missing = 0;
                    let id = FileId::of(&metadata);
                    if files.iter().all(|(_, known)| *known != id) {
                        files.push((path, id));
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => missing += 1,
                Err(source) => return Err(LogError::Open { path, source }),
            }
            if missing > MISSING {
                break;
            }
        }
        Ok(files)
    }

    /// Opens the file that `choose` picks from the list, newest first, by position.
    fn open(&self, choose: impl Fn(&[FileId]) -> Option<usize>) -> Result<Option<Segment>, LogError> {
        for _ in 0..TRIES {
            let files = self.files()?;
            let ids: Vec<FileId> = files.iter().map(|(_, id)| *id).collect();
            let Some((path, id)) = choose(&ids).and_then(|position| files.into_iter().nth(position)) else {
                return Ok(None);
            };
            match open(&path) {
                Ok((file, metadata)) if FileId::of(&metadata) == id => {
                    return Ok(Some(Segment::new(file, id, path)));
                }
                // Rotated or deleted between the two looks.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(LogError::Open { path, source }),
            }
        }
        let source = io::Error::other("it was rotated faster than it could be opened");
        Err(LogError::Open { path: self.path(0), source })
    }

    /// Its first file; `None` if all are gone.
    pub(crate) fn oldest(&self) -> Result<Option<Segment>, LogError> {
        self.open(|ids| ids.len().checked_sub(1))
    }

    /// Its last file; `None` if all are gone.
    pub(crate) fn newest(&self) -> Result<Option<Segment>, LogError> {
        self.open(|ids| (!ids.is_empty()).then_some(0))
    }

    /// The file beside an open one; `None` if there is none.
    ///
    /// A file that was deleted was older than all that are there.
    pub(crate) fn beside(&self, file: FileId, side: Side) -> Result<Option<Segment>, LogError> {
        self.open(|ids| match (ids.iter().position(|id| *id == file), side) {
            (Some(position), Side::Newer) => position.checked_sub(1),
            (Some(position), Side::Older) => (position + 1 < ids.len()).then_some(position + 1),
            (None, Side::Newer) => ids.len().checked_sub(1),
            (None, Side::Older) => None,
        })
    }
}

fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_log_files_name_a_run() {
        assert_eq!(run_of("0190.log"), Some("0190"));
        assert_eq!(run_of("0190.log.12"), Some("0190"));
        for name in ["0190.json", "0190.log.", "0190.log.x", "0190.log.1.tmp", ".log", "a.b.log", "0190.logs"]
        {
            assert_eq!(run_of(name), None, "{name}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", "a/b", "../a", "a\0"] {
            assert!(matches!(folder(Path::new("/s"), name), Err(LogError::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn neighbours_are_found_across_a_rotation() {
        let root = tempfile::tempdir().unwrap();
        let folder: Arc<Path> = root.path().into();
        for (name, text) in [("r.log", "3"), ("r.log.1", "2"), ("r.log.2", "1")] {
            fs::write(root.path().join(name), text).unwrap();
        }
        let run = runs(&folder).unwrap().remove(0);
        let oldest = run.oldest().unwrap().unwrap();
        let newest = run.newest().unwrap().unwrap();
        fs::rename(root.path().join("r.log.2"), root.path().join("r.log.3")).unwrap();
        // In the middle of a rotation a number is missing.
        let middle = run.beside(oldest.id(), Side::Newer).unwrap().unwrap();
        assert_eq!(run.beside(middle.id(), Side::Newer).unwrap().unwrap().id(), newest.id());
        assert_eq!(run.beside(middle.id(), Side::Older).unwrap().unwrap().id(), oldest.id());
        assert!(run.beside(newest.id(), Side::Newer).unwrap().is_none());
        fs::remove_file(root.path().join("r.log.3")).unwrap();
        // What is gone was older than all that is there.
        assert_eq!(run.beside(oldest.id(), Side::Newer).unwrap().unwrap().id(), middle.id());
    }
}
