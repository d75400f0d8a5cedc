//! Makes the images, without a registry: mmdebstrap or tar, piped into `docker import`. Each carries the hash of its
//! recipe, so that one that is up to date is left alone.

use super::machine;
use crate::shell::{self, Failure};
use crate::test::human;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use test_hosts::{BARE, BB, RECIPE, Suite};

/// PID 1 of a host.
const HOSTINIT: &str = include_str!("../../hosts/hostinit");

/// What is done in a host's system when its packages are installed.
const CUSTOMIZE: &str = include_str!("../../hosts/customize");

/// Packages of every host.
const PACKAGES: &str = "openssh-server,sudo,systemd,systemd-sysv,systemd-container,libpam-systemd,dbus,dbus-user-session,\
    iproute2,iptables,iputils-ping,procps,curl,ca-certificates,netcat-openbsd,busybox-static,wireguard-tools";

/// Left out of every host: half its size.
const LEFT_OUT: &[&str] =
    &["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*"];

/// Raised when this file changes what it makes of the same recipe.
const GENERATION: u32 = 1;

/// The release of Debian's and the packages beyond [`PACKAGES`].
fn system(suite: Suite) -> (&'static str, &'static str) {
    match suite {
        Suite::Bookworm => ("bookworm", "docker.io"),
        Suite::Trixie => ("trixie", "docker.io,docker-cli,docker-compose"),
        Suite::Podman => ("bookworm", "podman,podman-docker,runc,netavark,aardvark-dns,catatonit"),
    }
}

/// Makes what is missing or out of date.
///
/// # Errors
/// When a program is missing and may not be installed, or one fails.
pub(super) fn build(yes: bool) -> Result<(), Failure> {
    if states().iter().all(|(_, state)| *state == State::Current) {
        return Ok(());
    }
    machine::check_programs(yes)?;
    let busybox = Busybox::find()?;
    for (image, make) in [(BB, Busybox::all_names as fn(&Busybox, &Path) -> _), (BARE, Busybox::few_names)] {
        let recipe = busybox.recipe(image);
        if state(image, &recipe) != State::Current {
            found_or_made(image, &recipe, || busybox.import(image, &recipe, make))?;
        }
    }
    let stale =
        Suite::ALL.into_iter().filter(|suite| state(suite.image(), &recipe_of(*suite)) != State::Current);
    systems(stale.collect())?;
    // What was replaced goes, unless a container uses it.
    let label = format!("label={RECIPE}");
    shell::output(&shell::root(), "docker", &["image", "prune", "--force", "--filter", &label]).map(drop)
}

/// How many systems are put together at once: each waits as much as it computes.
const AT_ONCE: usize = 2;

/// Makes the hosts' images.
fn systems(stale: Vec<Suite>) -> Result<(), Failure> {
    let queue = Mutex::new(stale.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(suite) = next() {
            let recipe = recipe_of(suite);
            found_or_made(suite.image(), &recipe, || debootstrap(suite, &recipe))?;
        }
        Ok(())
    };
    std::thread::scope(|threads| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| threads.spawn(work)).collect();
        let ends = workers.into_iter().map(|worker| worker.join());
        let ends: Vec<_> =
            ends.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect();
        ends.into_iter().collect()
    })
}

/// How an image stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Current,
    OutOfDate,
    Missing,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Current => "up to date",
            State::OutOfDate => "out of date",
            State::Missing => "missing",
        })
    }
}

/// All images, by name.
pub(super) fn states() -> Vec<(&'static str, State)> {
    let mut all = Vec::new();
    for image in [BB, BARE] {
        // Without busybox there is nothing that it could differ from.
        let recipe = Busybox::find().map(|busybox| busybox.recipe(image)).unwrap_or_default();
        all.push((image, state(image, &recipe)));
    }
    all.extend(Suite::ALL.map(|suite| (suite.image(), state(suite.image(), &recipe_of(suite)))));
    all
}

fn state(image: &str, recipe: &str) -> State {
    match made_of(image) {
        None => State::Missing,
        Some(label) if label == recipe => State::Current,
        Some(_) => State::OutOfDate,
    }
}

/// The recipe that an image says it was made of, empty when it says nothing; `None` when it isn't there.
fn made_of(image: &str) -> Option<String> {
    let format = format!("{{{{index .Config.Labels \"{RECIPE}\"}}}}");
    let text =
        shell::output(&shell::root(), "docker", &["image", "inspect", "--format", &format, image]).ok()?;
    Some(text.trim().to_owned())
}

/// Gives the name to an image of this recipe that is still here, since a checkout with another recipe took the name from
/// it. Else makes it, and says how long that took.
fn found_or_made(
    image: &str,
    recipe: &str,
    make: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let label = format!("label={RECIPE}={recipe}");
    let list = ["image", "ls", "--quiet", "--no-trunc", "--filter", &label];
    let here = shell::output(&shell::root(), "docker", &list)?;
    if let Some(id) = here.lines().next() {
        return shell::run(Command::new("docker").args(["image", "tag", id, image]));
    }
    eprintln!("hosts: making the image {image}");
    let begin = Instant::now();
    make()?;
    eprintln!("hosts: made {image} in {}", human(begin.elapsed()));
    Ok(())
}

/// Sixteen hexadecimal digits of what an image is made of.
fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(GENERATION.to_le_bytes());
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn recipe_of(suite: Suite) -> String {
    let (release, packages) = system(suite);
    let text = [HOSTINIT, CUSTOMIZE, PACKAGES, &LEFT_OUT.concat(), release, packages];
    hash(&text.map(str::as_bytes))
}

/// Pipes what `maker` writes into a new image.
fn import(mut maker: Command, image: &str, recipe: &str, changes: &[&str]) -> Result<(), Failure> {
    let label = format!("LABEL {RECIPE}={recipe}");
    let mut import = Command::new("docker");
    import.args(["import", "--change", &label]);
    import.args(changes.iter().flat_map(|change| ["--change", change])).args(["-", image]);
    let name = maker.get_program().to_string_lossy().into_owned();
    let cant = |what: &str, e: std::io::Error| Failure::new(format!("`{what}` can't be started: {e}"));
    let mut making = maker.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|e| cant(&name, e))?;
    // The maker's end is ours no more once the importer has it: if that dies, the maker is told.
    let archive = making.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let imported = import.stdin(archive).stdout(Stdio::null()).output();
    let made = making.wait().map_err(|e| Failure::new(format!("`{name}` can't be waited for: {e}")))?;
    let imported = imported.map_err(|e| cant("docker import", e))?;
    if !made.success() {
        // Half a system may have become an image.
        let _gone = shell::answers("docker", &["image", "rm", image]);
        return Err(Failure::new(format!("`{name}` ended with {made}")));
    }
    if !imported.status.success() {
        let talk = String::from_utf8_lossy(&imported.stderr).trim().to_owned();
        return Err(Failure::new(format!("`docker import` ended with {}: {talk}", imported.status)));
    }
    Ok(())
}

/// A host's image: a Debian of its packages alone.
fn debootstrap(suite: Suite, recipe: &str) -> Result<(), Failure> {
    let folder = machine::state()?.join(format!("recipe-{}", suite.name()));
    remove(&folder)?;
    write(&folder.join("hostinit"), HOSTINIT)?;
    write(&folder.join("customize"), CUSTOMIZE)?;
    let (release, more) = system(suite);
    let log = folder.with_extension("log");
    let talk =
        File::create(&log).map_err(|e| Failure::new(format!("{} can't be written: {e}", log.display())))?;
    let mut maker = Command::new("mmdebstrap");
    maker.env("TMPDIR", machine::build_folder()).current_dir(&folder).stderr(talk);
    maker.args([if machine::is_root() { "--mode=root" } else { "--mode=unshare" }, "--variant=minbase"]);
    maker.arg(format!("--include={PACKAGES},{more}"));
    maker.args(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    maker.arg("--aptopt=APT::Install-Recommends \"false\"");
    maker.args([
        "--customize-hook=upload hostinit /sbin/hostinit",
        "--customize-hook=upload customize /customize",
    ]);
    maker.args(["--customize-hook=chroot \"$1\" sh /customize", "--customize-hook=rm \"$1/customize\""]);
    maker.args([release, "-"]).args(machine::mirror());
    let changes = ["CMD [\"/sbin/hostinit\"]", "ENV container=docker"];
    let made = import(maker, suite.image(), recipe, &changes);
    made.map_err(|failure| Failure::new(format!("{failure}\n{}", last_lines(&log))))?;
    remove(&folder)
}

/// The end of a log.
fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}

/// This machine's busybox, which is linked statically.
struct Busybox {
    program: PathBuf,
    bytes: Vec<u8>,
}

impl Busybox {
    fn find() -> Result<Self, Failure> {
        let places = ["/usr/bin/busybox", "/bin/busybox"].map(PathBuf::from);
        let found = places.into_iter().find_map(|program| Some((std::fs::read(&program).ok()?, program)));
        let (bytes, program) = found.ok_or_else(|| Failure::new("busybox is not here"))?;
        if !is_static(&bytes) {
            let wanted = "an image wants the one that doesn't; on Debian: apt-get install busybox-static";
            return Err(Failure::new(format!("{} needs libraries, and {wanted}", program.display())));
        }
        Ok(Self { program, bytes })
    }

    fn recipe(&self, image: &str) -> String {
        hash(&[image.as_bytes(), &self.bytes])
    }

    /// An image of this program under the names that `make` gives it.
    fn import(
        &self,
        image: &str,
        recipe: &str,
        make: fn(&Self, &Path) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let folder = machine::state()?.join(image.replace('/', "-"));
        remove(&folder)?;
        make(self, &folder)?;
        let mut tar = Command::new("tar");
        tar.args(["--create", "--owner=0", "--group=0", "--numeric-owner", "--directory"])
            .arg(&folder)
            .arg(".");
        let command = if image == BB {
            "CMD [\"sh\"]"
        } else {
            "CMD [\"/httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/\"]"
        };
        import(tar, image, recipe, &["ENV PATH=/bin", command])?;
        remove(&folder)
    }

    /// Everything that it can do, in `/bin`.
    fn all_names(&self, folder: &Path) -> Result<(), Failure> {
        let names = shell::output(&shell::root(), &self.program.to_string_lossy(), &["--list"])?;
        let bin = folder.join("bin");
        self.copy(&bin.join("busybox"))?;
        for name in names.lines().filter(|name| *name != "busybox") {
            let path = bin.join(name);
            std::os::unix::fs::symlink("busybox", &path)
                .map_err(|e| Failure::new(format!("{} can't be made: {e}", path.display())))?;
        }
        for empty in ["tmp", "etc", "var"] {
            make_folder(&folder.join(empty))?;
        }
        Ok(())
    }

    /// Three names and no shell. What it does is its name, so these are all it can do.
    fn few_names(&self, folder: &Path) -> Result<(), Failure> {
        ["httpd", "sleep", "true"].iter().try_for_each(|name| self.copy(&folder.join(name)))
    }

    fn copy(&self, to: &Path) -> Result<(), Failure> {
        make_folder(to.parent().unwrap_or(to))?;
        let copied = std::fs::copy(&self.program, to);
        copied.map(drop).map_err(|e| Failure::new(format!("{} can't be written: {e}", to.display())))
    }
}

/// Whether a program (ELF, 64 bits, little-endian) names no loader, and so needs nothing beside itself.
fn is_static(elf: &[u8]) -> bool {
    const INTERPRETER: u64 = 3;
    let number = |at: usize, length: usize| {
        let bytes = elf.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let headers = || {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let at = |index: u64| usize::try_from(start.checked_add(index * size)?).ok();
        (0..count).map(|index| number(at(index)?, 4)).collect::<Option<Vec<u64>>>()
    };
    headers().is_some_and(|types| !types.contains(&INTERPRETER))
}

/// Removes the images, but not those that another checkout's containers use.
pub(super) fn remove_all(dry_run: bool) -> Result<(), Failure> {
    let filter = format!("label={RECIPE}");
    let list = shell::output(
        &shell::root(),
        "docker",
        &["image", "ls", "--quiet", "--no-trunc", "--filter", &filter],
    )?;
    for id in list.lines() {
        eprintln!("removing image {id}");
        if !dry_run && !shell::answers("docker", &["image", "rm", id]) {
            eprintln!("image {id} is still in use and stays");
        }
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|e| Failure::new(format!("{} can't be made: {e}", path.display())))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    make_folder(path.parent().unwrap_or(path))?;
    let written = std::fs::write(path, text)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)));
    written.map_err(|e| Failure::new(format!("{} can't be written: {e}", path.display())))
}

fn remove(folder: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(format!("{} can't be removed: {e}", folder.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_that_differs_has_another_hash() {
        let all: std::collections::BTreeSet<String> = Suite::ALL.map(recipe_of).into_iter().collect();
        assert_eq!(all.len(), Suite::ALL.len());
        assert_eq!(recipe_of(Suite::Trixie), recipe_of(Suite::Trixie));
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }

    #[test]
    fn a_program_that_needs_libraries_is_told_from_one_that_does_not() {
        assert!(!is_static(&std::fs::read("/bin/sh").unwrap()));
        assert!(!is_static(b"no program"));
        // A header that says: one entry, at 64, of 56 bytes. 1 is a segment to load, 3 names the loader.
        let program = |kind: u8| {
            let mut elf = [0_u8; 120];
            (elf[32], elf[54], elf[56], elf[64]) = (64, 56, 1, kind);
            elf
        };
        assert!(is_static(&program(1)) && !is_static(&program(3)));
    }
}
