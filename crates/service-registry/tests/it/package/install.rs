//! Installing, switching, going back, cleaning up; and being killed at any moment.

use super::{check, package, tree};
use jiff::Timestamp;
use semver::Version;
use service_registry::package::history::Action;
use service_registry::package::install::{Depot, InstallError, Locked};
use service_registry::package::manifest::Manifest;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

fn lock(depot: &Depot) -> Locked {
    depot.lock("web", "pid 1, since today", NOW).unwrap()
}

/// Installs a package and makes it current.
fn deploy(depot: &Depot, path: &Path) -> Result<Version, InstallError> {
    let locked = lock(depot);
    let placed = locked.place(&mut File::open(path).unwrap(), check(&mut |_| true))?;
    let version = placed.package.manifest.version;
    locked.switch(&version, Action::Deploy, Some(placed.package.digest), NOW)?;
    Ok(version)
}

fn current(depot: &Depot) -> Option<String> {
    depot.current("web").unwrap().map(|version| version.to_string())
}

fn versions(depot: &Depot) -> Vec<String> {
    let status = depot.status("web", &Manifest::from_text).unwrap();
    status.versions.iter().map(ToString::to_string).collect()
}

struct Place {
    folder: tempfile::TempDir,
    depot: Depot,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let depot = Depot::new(folder.path().join("opt"));
        Self { folder, depot }
    }

    fn package(&self, version: &str) -> PathBuf {
        package(self.folder.path(), version, &format!("program {version}")).path
    }
}

#[test]
fn versions_stand_beside_each_other_and_one_is_current() {
    let place = Place::new();
    let depot = &place.depot;
    for number in ["1.0.0", "1.1.0", "1.10.0"] {
        deploy(depot, &place.package(number)).unwrap();
        assert_eq!(current(depot).as_deref(), Some(number));
        let program = fs::read_to_string(depot.link("web").join("bin/web")).unwrap();
        assert_eq!(program, format!("program {number}"));
    }
    assert_eq!(
        fs::read_link(depot.link("web")).unwrap(),
        Path::new("web-1.10.0"),
        "a link that moves with the folder"
    );
    assert_eq!(versions(depot), ["1.0.0", "1.1.0", "1.10.0"]);
    let locked = lock(depot);
    let read = &Manifest::from_text;
    for back in ["1.1.0", "1.0.0"] {
        let earlier = locked.earlier(None, read).unwrap();
        assert_eq!(earlier.to_string(), back);
        locked.switch(&earlier, Action::Rollback, None, NOW).unwrap();
    }
    assert!(matches!(locked.earlier(None, read), Err(InstallError::NoEarlier { .. })));
    assert_eq!(locked.earlier(Some(&version("1.10.0")), read).unwrap(), version("1.10.0"));
    assert!(matches!(locked.earlier(Some(&version("3.0.0")), read), Err(InstallError::NotInstalled { .. })));
    // 1.0.0 is current and nothing was before it; one more stays.
    assert_eq!(locked.collect(2, read).unwrap(), [version("1.10.0")]);
    assert_eq!(versions(depot), ["1.0.0", "1.1.0"]);
    let status = depot.list(read).unwrap().pop().unwrap();
    assert_eq!(status.history.records.len(), 5);
    assert!(
        matches!(depot.status("other", read), Err(InstallError::NotInstalled { known, .. }) if known == ["web"])
    );
    assert!(matches!(depot.status("../web", read), Err(InstallError::Name(_))));
}

#[test]
fn the_same_again_changes_nothing_and_other_contents_are_refused() {
    let place = Place::new();
    let path = place.package("1.0.0");
    deploy(&place.depot, &path).unwrap();
    let before = tree(place.folder.path());
    let locked = lock(&place.depot);
    let placed = locked.place(&mut File::open(&path).unwrap(), check(&mut |_| true)).unwrap();
    assert!(!placed.fresh);
    locked.switch(&version("1.0.0"), Action::Deploy, None, NOW).unwrap();
    drop(locked);
    assert_eq!(tree(place.folder.path()), before);
    assert_eq!(place.depot.status("web", &Manifest::from_text).unwrap().history.records.len(), 1);
    let other = place.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let other = package(&other, "1.0.0", "another program").path;
    assert!(matches!(deploy(&place.depot, &other), Err(InstallError::OtherContents { .. })));
    assert_eq!(fs::read_to_string(place.depot.link("web").join("bin/web")).unwrap(), "program 1.0.0");
}

/// `foo-1.0.0` in version 2.0.0 and `foo` in version 1.0.0-2.0.0 have the same folder.
#[test]
fn a_folder_of_another_package_is_refused_by_its_manifest() {
    let place = Place::new();
    let pack = |name: &str, number: &str| {
        let source = tempfile::tempdir().unwrap();
        super::source(source.path(), "program");
        let contents = service_registry::package::build::Contents::of(source.path()).unwrap();
        let path = place.folder.path().join(format!("{name}-{number}.tar.zst"));
        contents.pack(Manifest::new(name, version(number)), &path, &mut |_| true).unwrap().path
    };
    let deploy = |name: &str, path: &Path| {
        let locked = place.depot.lock(name, "the test", NOW).unwrap();
        let placed = locked.place(&mut File::open(path).unwrap(), check(&mut |_| true))?;
        locked.switch(&placed.package.manifest.version, Action::Deploy, None, NOW)
    };
    let first = pack("foo-1.0.0", "2.0.0");
    deploy("foo-1.0.0", &first).unwrap();
    let second = pack("foo", "1.0.0-2.0.0");
    let error = deploy("foo", &second).unwrap_err().to_string();
    assert!(error.ends_with("isn't foo in version 1.0.0-2.0.0: it is foo-1.0.0 in version 2.0.0"), "{error}");
    assert!(place.depot.status("foo", &Manifest::from_text).is_err(), "its folder isn't taken for foo's");
    // A package for another name than was asked for.
    let error = deploy("bar", &second).unwrap_err().to_string();
    assert_eq!(error, "it is foo by its manifest and bar by its name");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let place = Place::new();
    let path = place.package("1.0.0");
    fs::create_dir_all(place.depot.root().join("web-1.0.0")).unwrap();
    assert!(matches!(deploy(&place.depot, &path), Err(InstallError::Taken { .. })));
    fs::remove_dir(place.depot.root().join("web-1.0.0")).unwrap();
    fs::create_dir(place.depot.link("web")).unwrap();
    let error = place.depot.lock("web", "x", NOW).unwrap_err();
    assert!(matches!(error, InstallError::Taken { .. }), "{error}");
    fs::remove_dir(place.depot.link("web")).unwrap();
    std::os::unix::fs::symlink("/etc", place.depot.link("web")).unwrap();
    let error = place.depot.lock("web", "x", NOW).unwrap_err().to_string();
    assert!(error.ends_with("it leads to /etc"), "{error}");
}

#[test]
fn the_lock_names_its_holder() {
    let place = Place::new();
    let first = lock(&place.depot);
    let error = place.depot.lock("web", "another", NOW).unwrap_err().to_string();
    assert_eq!(error, "web is being changed by another: pid 1, since today");
    place.depot.lock("other", "another", NOW).unwrap();
    drop(first);
    lock(&place.depot);
}

#[test]
fn a_switch_that_was_taken_back_leaves_what_was() {
    let place = Place::new();
    let path = place.package("1.0.0");
    let locked = lock(&place.depot);
    locked.place(&mut File::open(&path).unwrap(), check(&mut |_| true)).unwrap();
    let before = locked.switch(&version("1.0.0"), Action::Deploy, None, NOW).unwrap();
    locked.take_back(before.as_ref()).unwrap();
    assert_eq!(current(&place.depot), None);
    locked.remove(&version("1.0.0")).unwrap();
    assert_eq!(
        tree(place.depot.root()),
        [".harness", ".harness/web", ".harness/web/history.json", ".harness/web/lock"]
    );
}

/// Set in the process that is to be killed: the package, the folder, and after how many steps.
const VICTIM: &str = "PACKAGE_VICTIM";

/// A process of its own that deploys and kills itself after so many steps; each read of a part is one, and each change.
#[test]
fn victim() {
    let Some(words) = std::env::var_os(VICTIM) else { return };
    let words = words.into_string().unwrap();
    let [path, root, steps] = words.split('\n').collect::<Vec<_>>()[..] else { panic!("{words}") };
    let mut left: u32 = steps.parse().unwrap();
    let mut step = move || {
        if left == 0 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
        left -= 1;
        true
    };
    let depot = Depot::new(root);
    step();
    let locked = lock(&depot);
    step();
    let placed = locked.place(&mut File::open(path).unwrap(), check(&mut |_| step())).unwrap();
    step();
    locked.switch(&placed.package.manifest.version, Action::Deploy, None, NOW).unwrap();
    step();
    locked.collect(1, &Manifest::from_text).unwrap();
}

#[test]
fn killed_at_any_step_either_version_is_there_whole() {
    let place = Place::new();
    let (old, new) = (place.package("1.0.0"), place.package("2.0.0"));
    let mut seen = std::collections::BTreeSet::new();
    for steps in 0.. {
        let root = place.folder.path().join(format!("opt-{steps}"));
        let depot = Depot::new(&root);
        deploy(&depot, &old).unwrap();
        let words = [new.to_str().unwrap(), root.to_str().unwrap(), &steps.to_string()].join("\n");
        let mut command = Command::new(std::env::current_exe().unwrap());
        let status =
            command.args(["--exact", "package::install::victim"]).env(VICTIM, words).output().unwrap().status;
        assert!(status.success() || status.signal() == Some(9), "{status}");
        let now = current(&depot).unwrap();
        let program = fs::read_to_string(depot.link("web").join("bin/web")).unwrap();
        assert_eq!(program, format!("program {now}"));
        seen.insert(now);
        // The next one cleans up, goes on, and all is as if nothing had happened.
        deploy(&depot, &new).unwrap();
        let left: Vec<String> =
            tree(&root).into_iter().filter(|path| path.contains("/new-") || path.contains("/old-")).collect();
        assert_eq!(left, [""; 0], "after {steps} steps");
        assert_eq!(lock(&depot).earlier(None, &Manifest::from_text).unwrap(), version("1.0.0"));
        if status.success() {
            assert!(steps > 6, "only {steps} steps");
            break;
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["1.0.0", "2.0.0"]);
}

/// The moments between two renames, made by hand.
#[test]
fn a_switch_that_was_not_noted_is_noted_by_the_next() {
    let place = Place::new();
    deploy(&place.depot, &place.package("1.0.0")).unwrap();
    let path = place.package("2.0.0");
    lock(&place.depot).place(&mut File::open(&path).unwrap(), check(&mut |_| true)).unwrap();
    fs::remove_file(place.depot.link("web")).unwrap();
    std::os::unix::fs::symlink("web-2.0.0", place.depot.link("web")).unwrap();
    let own = place.depot.root().join(".harness/web");
    std::os::unix::fs::symlink("web-9.0.0", own.join("new-link")).unwrap();
    fs::create_dir_all(own.join("old-0.1.0/bin")).unwrap();
    fs::write(own.join("new-history"), "{").unwrap();
    let locked = lock(&place.depot);
    assert_eq!(locked.earlier(None, &Manifest::from_text).unwrap(), version("1.0.0"));
    let status = place.depot.status("web", &Manifest::from_text).unwrap();
    assert_eq!(status.history.records.last().unwrap().action, Action::Found);
    assert_eq!(tree(&own), ["history.json", "lock"]);
}

#[test]
fn a_history_of_a_later_format_is_refused() {
    let place = Place::new();
    deploy(&place.depot, &place.package("1.0.0")).unwrap();
    let path = place.depot.root().join(".harness/web/history.json");
    for text in [r#"{"schema": 2, "records": []}"#, "junk", ""] {
        fs::write(&path, text).unwrap();
        assert!(matches!(place.depot.lock("web", "x", NOW), Err(InstallError::History { .. })), "{text}");
    }
}
