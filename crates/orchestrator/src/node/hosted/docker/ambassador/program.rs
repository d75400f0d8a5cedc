//! This program, as it is given to containers: its file, and the libraries that it is linked with, mounted.
//!
//! Nothing is copied into the engine, and the program needn't be a static one: a container that has just these files runs it
//! by its own loader.

use command_executor::target::docker::Volume;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where it is in a container.
const PROGRAM: &str = "/harness/harness";
/// The folder of its libraries there.
const LIBRARIES: &str = "/harness/lib";
/// A copy for where the file was replaced meanwhile, in the state folder.
const COPY: &str = "plane/program";
/// What the kernel writes behind the path of a file that is gone.
const GONE: &str = " (deleted)";

/// This program can't be given to containers.
#[derive(Debug, thiserror::Error)]
pub(in crate::node::hosted) enum ProgramError {
    /// Its own file can't be found out, or can't be copied.
    #[error("this program's own file can't be used")]
    Own(#[source] io::Error),
    /// A library was replaced while it runs.
    #[error(
        "{library} was replaced since the daemon was started: `harness daemon restart` takes the new one"
    )]
    Library { library: String },
}

/// This program's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    file: PathBuf,
    /// What loads it, and what it is linked with. A static program has none.
    loader: Option<PathBuf>,
    /// Each with a name that it is looked for by.
    libraries: Vec<(PathBuf, String)>,
}

impl Program {
    /// The one that runs.
    pub(super) fn own(state: &Path) -> Result<Self, ProgramError> {
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(ProgramError::Own)?;
        let (loader, libraries) = linked(&maps)?;
        let file = file(state).map_err(ProgramError::Own)?;
        let libraries = libraries.into_iter().flat_map(|path| {
            let names = names(&path);
            names.into_iter().map(move |name| (path.clone(), name))
        });
        Ok(Self { file, loader, libraries: libraries.collect() })
    }

    /// What is mounted.
    pub(super) fn volumes(&self) -> Vec<Volume> {
        let at = |path: &Path, name: &str| mounted(path, format!("{LIBRARIES}/{name}"));
        let program = mounted(&self.file, PROGRAM.to_owned());
        let loader = self.loader.iter().map(|path| at(path, &file_name(path)));
        let libraries = self.libraries.iter().map(|(path, name)| at(path, name));
        std::iter::once(program).chain(loader).chain(libraries).collect()
    }

    /// How it is run there.
    pub(super) fn argv(&self) -> Vec<String> {
        let loader = self.loader.as_ref().and_then(|path| path.file_name());
        let loaded = loader.map(|name| {
            [format!("{LIBRARIES}/{}", name.to_string_lossy()), "--library-path".into(), LIBRARIES.into()]
        });
        loaded.into_iter().flatten().chain([PROGRAM.to_owned()]).collect()
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The names that a library may be looked for by: its file's, and those of links beside it. Before glibc 2.34 `libc.so.6` was a
/// link to `libc-2.31.so`, and others are to this day.
fn names(library: &Path) -> Vec<String> {
    let own = file_name(library);
    let beside = library.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let links = beside.into_iter().flatten().flatten().filter(|entry| {
        let leads_here =
            || std::fs::read_link(entry.path()).is_ok_and(|to| to.file_name() == library.file_name());
        entry.file_type().is_ok_and(|kind| kind.is_symlink()) && leads_here()
    });
    let mut names: Vec<String> = links
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| *name != own)
        .collect();
    names.sort();
    names.insert(0, own);
    names
}

fn mounted(from: &Path, to: String) -> Volume {
    let mut volume = Volume::new(from.to_string_lossy(), to);
    volume.read_only = true;
    volume
}

/// The running program's file; a copy where another lies at its path by now.
fn file(state: &Path) -> io::Result<PathBuf> {
    const OWN: &str = "/proc/self/exe";
    let (path, own) = (std::fs::read_link(OWN)?, std::fs::metadata(OWN)?);
    let is_own = |there: std::fs::Metadata| (there.dev(), there.ino()) == (own.dev(), own.ino());
    if !path.to_string_lossy().ends_with(GONE) && std::fs::metadata(&path).is_ok_and(is_own) {
        return Ok(path);
    }
    let (copy, new) = (state.join(COPY), state.join(COPY).with_extension("new"));
    if std::fs::metadata(&copy).is_ok_and(|there| there.len() == own.len() && there.mtime() >= own.mtime()) {
        return Ok(copy);
    }
    std::fs::copy(OWN, &new)?;
    std::fs::rename(new, &copy)?;
    Ok(copy)
}

/// The loader and the libraries among the files that are mapped, as `/proc/PID/maps` has them (proc(5)).
fn linked(maps: &str) -> Result<(Option<PathBuf>, Vec<PathBuf>), ProgramError> {
    let (mut loader, mut libraries) = (None, Vec::new());
    for line in maps.lines() {
        let Some(at) = line.find('/') else { continue };
        let path = line.get(at..).unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_loader = name.starts_with("ld-") || name.starts_with("ld.so") || name.starts_with("ld64.so");
        if !is_loader && !name.contains(".so") {
            continue;
        }
        if let Some(library) = path.strip_suffix(GONE) {
            return Err(ProgramError::Library { library: library.to_owned() });
        }
        let path = PathBuf::from(path);
        match is_loader {
            true => loader = Some(path),
            false if !libraries.contains(&path) => libraries.push(path),
            false => {}
        }
    }
    // Without a loader nothing is linked: what else is mapped was opened by the program itself.
    Ok(if loader.is_some() { (loader, libraries) } else { (None, Vec::new()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_run_by_its_own_loader_with_its_libraries() {
        let maps = "55d0-55d1 r--p 0 fe:00 1 /opt/my tools/harness\n\
            7f01-7f02 r-xp 0 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f02-7f03 r--p 0 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f04-7f05 r-xp 0 fe:00 3 /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n\
            7ffc-7ffd rw-p 0 00:00 0 [stack]\n";
        let (loader, libraries) = linked(maps).unwrap();
        let libraries = libraries.into_iter().map(|path| (path, "libc.so.6".to_owned())).collect();
        let program = Program { file: "/opt/my tools/harness".into(), loader, libraries };
        assert_eq!(
            program.argv(),
            ["/harness/lib/ld-linux-x86-64.so.2", "--library-path", "/harness/lib", "/harness/harness"]
        );
        let volumes: Vec<String> = program.volumes().iter().map(ToString::to_string).collect();
        assert_eq!(
            volumes,
            [
                "/opt/my tools/harness:/harness/harness:ro",
                "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2:/harness/lib/ld-linux-x86-64.so.2:ro",
                "/usr/lib/x86_64-linux-gnu/libc.so.6:/harness/lib/libc.so.6:ro",
            ]
        );
        let static_one =
            "55d0-55d1 r--p 0 fe:00 1 /opt/harness\n7f00-7f01 r--p 0 fe:00 9 /x/locale.so.cache\n";
        let (loader, libraries) = linked(static_one).unwrap();
        assert!(libraries.is_empty());
        let program = Program { file: "/opt/harness".into(), loader, libraries: Vec::new() };
        assert_eq!((program.argv(), program.volumes().len()), (vec![PROGRAM.to_owned()], 1));
        let replaced = linked("7f04-7f05 r-xp 0 fe:00 3 /lib/ld-musl-x86_64.so.1 (deleted)\n").unwrap_err();
        assert!(replaced.to_string().starts_with("/lib/ld-musl-x86_64.so.1 was replaced"));
    }

    #[test]
    fn the_program_that_runs_is_found() {
        let state = tempfile::tempdir().unwrap();
        let program = Program::own(state.path()).unwrap();
        assert!(program.file.exists() && program.libraries.iter().all(|(path, _)| path.exists()));
    }

    #[test]
    fn a_library_has_the_names_of_the_links_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["libc-2.31.so", "libm-2.31.so"] {
            std::fs::write(path(name), "").unwrap();
        }
        for (link, to) in [("libc.so.6", "libc-2.31.so"), ("libm.so.6", "libm-2.31.so"), ("x.so", "/gone")] {
            std::os::unix::fs::symlink(to, path(link)).unwrap();
        }
        assert_eq!(names(&path("libc-2.31.so")), ["libc-2.31.so", "libc.so.6"]);
        assert_eq!(names(&path("not.there")), ["not.there"]);
    }
}
