//! A wall clock that can be set. No namespace has one of its own, so every program in the torture's mount namespace is
//! given one by a library (`clock.c`) that adds an offset to the wall time and to nothing else, named in an
//! `/etc/ld.so.preload` that only this namespace sees. The machine's own clock stays as it is.

use super::failed;
use crate::shell::{self, Failure};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

const SOURCE: &str = include_str!("clock.c");

/// What the offset is set to while it is looked whether programs see it: a day.
const TRIAL: i64 = 86_400_000;

/// The clock; its offset to the machine's is 0 at first.
pub(crate) struct Clock(File);

impl Clock {
    /// Gives programs that are started from now on this clock. Only inside a mount namespace of our own.
    ///
    /// # Errors
    /// When there is no C compiler, nothing can be mounted, or programs don't see it.
    pub(crate) fn install(folder: &Path) -> Result<Self, Failure> {
        let (source, file) = (folder.join("clock.c"), folder.join("clock.offset"));
        let library = folder.join("clock.so");
        fs::write(&source, SOURCE).map_err(failed("the clock's source"))?;
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&file);
        let clock = Self(open.map_err(failed("the clock's offset"))?);
        clock.set(0).map_err(failed("the clock's offset"))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source);
        compiler.arg(format!("-DCLOCK_FILE=\"{}\"", file.display()));
        shell::run(&mut compiler)?;
        preload(folder, &library)?;
        clock.set(TRIAL).map_err(failed("the clock's offset"))?;
        let said = shell::output(folder, "date", &["+%s"])?;
        clock.set(0).map_err(failed("the clock's offset"))?;
        let ahead = said.trim().parse().unwrap_or(0) - jiff::Timestamp::now().as_second();
        match (ahead - TRIAL / 1000).abs() <= 60 {
            true => Ok(clock),
            false => Err(Failure::new(format!("a clock that was set a day ahead is {ahead} s ahead"))),
        }
    }

    /// Sets it to so many milliseconds after the machine's.
    pub(crate) fn set(&self, offset: i64) -> io::Result<()> {
        // Eight bytes in one page, aligned: nobody sees half of them.
        self.0.write_all_at(&offset.saturating_mul(1_000_000).to_ne_bytes(), 0)
    }
}

/// Mounts a copy of `/etc` over it that names the library. The copy is on a disk of the namespace, and ends with it.
fn preload(folder: &Path, library: &Path) -> Result<(), Failure> {
    let copy = folder.join("etc");
    fs::create_dir_all(&copy).map_err(failed("a folder for /etc"))?;
    let target = copy.display().to_string();
    shell::output(folder, "mount", &["-t", "tmpfs", "-o", "mode=0755", "torture", &target])?;
    // What only root may read can't be copied by others, and isn't missed.
    let mut cp = Command::new("cp");
    let _ = cp.args(["-a", "/etc/."]).arg(&copy).stderr(Stdio::null()).status();
    let list = copy.join("ld.so.preload");
    let before = fs::read_to_string(&list).unwrap_or_default();
    fs::write(&list, format!("{before}{}\n", library.display())).map_err(failed("ld.so.preload"))?;
    shell::output(folder, "mount", &["--bind", &target, "/etc"]).map(drop)
}

/// Takes the copy of `/etc` away again.
pub(crate) fn remove() {
    // What stays mounted ends with the namespace.
    let _ = Command::new("umount").args(["--lazy", "/etc"]).stderr(Stdio::null()).status();
}
