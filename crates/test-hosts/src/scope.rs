//! What one test makes, and its end.

use crate::owner::Owner;
use crate::{CHECKOUT, Error, docker, state};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The label that says which scope a docker object belongs to.
const SCOPE: &str = "harness-test.scope";

/// The label that says which process made a docker object; `shared` when it outlives the process.
pub(crate) const OWNER: &str = "harness-test.owner";

/// Labels for what a test makes in this machine's Docker. Dropping it removes all containers, networks and volumes that
/// carry them. When the test is killed before that, a later one does it.
#[derive(Debug)]
pub struct Scope {
    name: String,
    folder: PathBuf,
    test: String,
}

impl Scope {
    /// A scope for the test of this name. Ends what killed tests left, once in a process.
    pub(crate) fn new(test: &str) -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        static SWEPT: std::sync::Once = std::sync::Once::new();
        state::prepare()?;
        SWEPT.call_once(|| {
            // It is no fault of this test's, and a later one tries again.
            if let Err(error) = sweep() {
                eprintln!("what killed tests left is not wholly gone: {}", error.chain());
            }
        });
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = runs().join(format!("{}-{number}", Owner::me()));
        state::make_folder(&folder)?;
        let scope =
            Self { name: format!("ht-{}-{number}", std::process::id()), folder, test: test.to_owned() };
        scope.also(&scope.label())?;
        Ok(scope)
    }

    /// A name that no other test gives: `ht-4711-1-WHAT`.
    pub fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    /// The label, as `KEY=VALUE`, that all of this test's objects carry: for filters.
    pub fn label(&self) -> String {
        format!("{SCOPE}={}", self.name)
    }

    /// Arguments for `docker create`, `docker network create` and their like: `--label`, the label, and so on.
    pub fn labels(&self) -> Vec<String> {
        let labels = [
            checkout_label(),
            format!("{OWNER}={}", Owner::me()),
            self.label(),
            format!("harness-test.test={}", self.test),
        ];
        labels.into_iter().flat_map(|label| ["--label".to_owned(), label]).collect()
    }

    /// What carries this label (`KEY` or `KEY=VALUE`) ends with this scope too: for objects that the tested program makes.
    ///
    /// # Errors
    /// When it can't be written down.
    pub fn also(&self, label: &str) -> Result<(), Error> {
        let path = self.folder.join("labels");
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        state::write(&path, &format!("{known}{label}\n"))
    }

    /// Makes a `container`, `network` or `volume`; the answer: its id or name. `words` are options and the rest.
    ///
    /// # Errors
    /// When docker refuses.
    pub fn create(&self, kind: &str, words: &[&str]) -> Result<String, Error> {
        self.labelled(&[kind, "create"], words)
    }

    /// Starts a container in the background; the answer: its id. `words` are options, image and command.
    ///
    /// # Errors
    /// When `docker run` fails.
    pub fn run(&self, words: &[&str]) -> Result<String, Error> {
        self.labelled(&["run", "--detach"], words)
    }

    fn labelled(&self, verb: &[&str], words: &[&str]) -> Result<String, Error> {
        let labels = self.labels();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        docker::output(&[verb, &labels, words].concat())
    }

    /// A folder that ends with this scope, for its user alone.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if let Err(error) = end(&self.folder) {
            eprintln!("{} is not wholly gone: {}", self.name, error.chain());
        }
    }
}

/// A folder for each scope: `PID.START-NUMBER`, with its `labels`.
fn runs() -> PathBuf {
    state::folder().join("run")
}

/// Ends a scope by its folder.
fn end(folder: &Path) -> Result<(), Error> {
    let labels = std::fs::read_to_string(folder.join("labels")).unwrap_or_default();
    for label in labels.lines() {
        remove_labelled(label)?;
    }
    state::remove(folder)
}

/// Ends what tests of this checkout left whose process is gone.
///
/// # Errors
/// When docker refuses to remove something.
pub fn sweep() -> Result<(), Error> {
    let Ok(list) = std::fs::read_dir(runs()) else { return Ok(()) };
    // One at a time: two would stand in each other's way.
    let _alone = state::lock("sweep")?;
    for entry in list.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.rsplit_once('-').and_then(|(owner, _)| Owner::parse(owner));
        if owner.is_some_and(|owner| !owner.lives()) {
            end(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes every container, network and volume of this checkout, also what is in use.
///
/// # Errors
/// When docker can't be asked, or refuses.
pub fn remove_all() -> Result<(), Error> {
    remove_labelled(&checkout_label())
}

/// What [`remove_all`] would remove: `container 4ae1…`, a line each.
///
/// # Errors
/// When docker can't be asked.
pub fn all() -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    for kind in KINDS {
        lines.extend(kind.labelled(&checkout_label())?.into_iter().map(|id| format!("{} {id}", kind.name)));
    }
    Ok(lines)
}

pub(crate) fn checkout_label() -> String {
    format!("{CHECKOUT}={}", docker::text(&state::checkout()))
}

/// A kind of docker object.
struct Kind {
    name: &'static str,
    list: &'static [&'static str],
    removal: &'static [&'static str],
}

/// In the order in which they can be removed.
const KINDS: &[Kind] = &[
    Kind { name: "container", list: &["ps", "--all"], removal: &["rm", "--force", "--volumes"] },
    Kind { name: "network", list: &["network", "ls"], removal: &["network", "rm"] },
    Kind { name: "volume", list: &["volume", "ls"], removal: &["volume", "rm", "--force"] },
];

impl Kind {
    /// Ids, or names for volumes, of what carries the label.
    fn labelled(&self, label: &str) -> Result<Vec<String>, Error> {
        let filter = format!("label={label}");
        let words: Vec<&str> = self.list.iter().copied().chain(["--quiet", "--filter", &filter]).collect();
        Ok(docker::output(&words)?.lines().map(str::to_owned).collect())
    }
}

/// Removes every container, network and volume with this label.
pub(crate) fn remove_labelled(label: &str) -> Result<(), Error> {
    for kind in KINDS {
        let found = kind.labelled(label)?;
        if found.is_empty() {
            continue;
        }
        let words: Vec<&str> = kind.removal.iter().copied().chain(found.iter().map(String::as_str)).collect();
        match docker::output(&words) {
            // Another one was faster, or removes it just now.
            Err(Error::Ended { talk, .. }) if gone(&talk) => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Whether all that docker complains of is that something is gone, or about to be.
fn gone(talk: &str) -> bool {
    let told = |line: &str| {
        let line = line.to_lowercase();
        ["no such", "not found", "already in progress"].iter().any(|words| line.contains(words))
    };
    talk.lines().filter(|line| !line.trim().is_empty()).all(told)
}
