//! This machine's Docker.

use crate::tool::{self, Input};
use crate::{BB, Error, Scope, state};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// This machine's Docker, with the images for tests. Copies are cheap.
#[derive(Clone, Debug)]
pub struct Docker {
    /// What the engine calls its version.
    version: &'static str,
}

impl Docker {
    /// This machine's Docker. Asks once in a process.
    ///
    /// # Errors
    /// [`Error::Absent`] when it isn't installed, doesn't answer or lacks the image [`BB`].
    pub fn here() -> Result<Self, Error> {
        static VERSION: OnceLock<String> = OnceLock::new();
        if let Some(version) = VERSION.get() {
            return Ok(Self { version });
        }
        let version = engine()?;
        has_image(BB)?;
        Ok(Self { version: VERSION.get_or_init(|| version) })
    }

    /// The engine's version, such as `20.10.24`.
    pub fn version(&self) -> &str {
        self.version
    }

    /// `docker` with arguments, to its end and within a minute; the answer: what it printed, without the last line break.
    ///
    /// # Errors
    /// [`Error::Ended`] with what it wrote to standard error, when it doesn't exit with 0.
    pub fn output(&self, words: &[&str]) -> Result<String, Error> {
        output(words)
    }

    /// `docker` as a command to add words to.
    pub fn command(&self) -> Command {
        Command::new("docker")
    }

    /// Labels for what a test makes here; it is removed when the scope is dropped. `test` says whose it is.
    ///
    /// # Errors
    /// When the folder for its record can't be made.
    pub fn scope(&self, test: &str) -> Result<Scope, Error> {
        Scope::new(test)
    }
}

/// `docker` to its end.
pub(crate) fn output(words: &[&str]) -> Result<String, Error> {
    tool::output("docker", words, Input::Nothing)
}

/// The engine's version.
pub(crate) fn engine() -> Result<String, Error> {
    output(&["version", "--format", "{{.Server.Version}}"]).map_err(|error| {
        let hint = match error {
            Error::Ended { status, .. } if status.code() == Some(127) => {
                "on Debian: apt-get install docker.io".to_owned()
            }
            other => format!("start it, or join its group ({})", other.chain()),
        };
        Error::Absent { what: "Docker does not answer here".to_owned(), hint }
    })
}

/// The image's id.
pub(crate) fn has_image(image: &str) -> Result<String, Error> {
    output(&["image", "inspect", "--format", "{{.Id}}", image]).map_err(|_| Error::Absent {
        what: format!("the image {image} is not here"),
        hint: "cargo xtask hosts build".to_owned(),
    })
}

/// The image as a file that `docker load` reads, made once for each content.
pub(crate) fn saved(image: &str) -> Result<PathBuf, Error> {
    let id = has_image(image)?;
    let short = id.trim_start_matches("sha256:").get(..12).unwrap_or(&id).to_owned();
    let name = image.replace(['/', ':'], "-");
    let path = state::folder().join(format!("{name}-{short}.tar"));
    if path.exists() {
        return Ok(path);
    }
    state::prepare()?;
    // Two tests may save at once: each under a name of its own, and the last one's stays.
    let new = path.with_extension(format!("{}.new", std::process::id()));
    output(&["image", "save", "--output", &text(&new), image])?;
    std::fs::rename(&new, &path).map_err(|source| Error::File {
        path: path.clone(),
        doing: "written",
        source,
    })?;
    Ok(path)
}

/// A path as an argument. The paths here are made of the checkout's and of plain names.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
