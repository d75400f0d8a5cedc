//! Files that travel: from one folder to another, with everything that may be wrong on the way.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use service_registry::files::{PackagePlace, Places, Received, Receiver, Scan, ScanError, Source, scan};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Two machines.
struct Pair {
    folder: TempDir,
}

impl Pair {
    fn new() -> Self {
        let pair = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(pair.here("conf/sub")).unwrap();
        pair
    }

    fn here(&self, path: &str) -> PathBuf {
        self.folder.path().join("here").join(path)
    }

    fn there(&self, path: &str) -> PathBuf {
        self.folder.path().join("there").join(path)
    }

    fn places(&self) -> Places {
        Places { files: self.there(""), state: self.folder.path().join("state"), bases: vec![] }
    }

    fn scan(&self, sources: &[(&str, &str)]) -> Scan {
        let sources: Vec<Source> = sources
            .iter()
            .map(|(from, to)| Source { source: self.here(from), destination: to.into() })
            .collect();
        scan("web", &sources).unwrap()
    }

    fn begin(&self, found: &Scan) -> Receiver {
        Receiver::begin(found.params.clone(), &self.places()).unwrap()
    }

    /// All of it: what was done, and how many chunks went over.
    fn copy(&self, sources: &[(&str, &str)]) -> (Received, usize) {
        let found = self.scan(sources);
        let mut receiver = self.begin(&found);
        let missing = receiver.missing().to_vec();
        let stream = stream(&found, &missing);
        // In pieces that fit nothing.
        stream.chunks(10_007).for_each(|piece| receiver.take(piece).unwrap());
        (receiver.finish().unwrap(), missing.len())
    }
}

/// Chunks as they go over the wire, every other one packed.
fn stream(found: &Scan, missing: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in missing {
        let chunk = found.chunk(*index).unwrap();
        let packed = zstd(&chunk).filter(|packed| index % 2 == 0 && packed.len() < chunk.len());
        let payload = packed.unwrap_or(chunk);
        bytes.extend(index.to_be_bytes());
        bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(payload);
    }
    bytes
}

fn zstd(bytes: &[u8]) -> Option<Vec<u8>> {
    zstd::bulk::compress(bytes, 1).ok()
}

/// Bytes that can't be packed, the same for the same seed.
fn noise(count: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend(seed.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_folder_is_there_as_it_is_here_and_kept_in_step() {
    let pair = Pair::new();
    fs::write(pair.here("conf/web.toml"), "a = 1\n").unwrap();
    fs::write(pair.here("conf/empty"), "").unwrap();
    fs::write(pair.here("conf/sub/run"), noise(1_000_000, 1)).unwrap();
    fs::write(pair.here("conf/sub/text"), "all the same, ".repeat(100_000)).unwrap();
    fs::set_permissions(pair.here("conf/sub/run"), Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(pair.here("conf/sub"), Permissions::from_mode(0o500)).unwrap();
    symlink("sub/run", pair.here("conf/current")).unwrap();
    let all = [("conf", "etc"), ("conf/web.toml", "single.toml"), ("conf/web.toml", "in/")];
    let (first, _) = pair.copy(&all);
    assert_eq!(first, Received { written: 7, unchanged: 0, removed: 0 });
    for (from, to) in [
        ("conf/web.toml", "etc/web.toml"),
        ("conf/sub/run", "etc/sub/run"),
        ("conf/sub/text", "etc/sub/text"),
    ] {
        assert_eq!(fs::read(pair.here(from)).unwrap(), fs::read(pair.there(to)).unwrap(), "{to}");
    }
    assert_eq!(fs::read(pair.there("etc/empty")).unwrap(), b"");
    assert_eq!(fs::read_link(pair.there("etc/current")).unwrap(), Path::new("sub/run"));
    assert_eq!(fs::read_to_string(pair.there("single.toml")).unwrap(), "a = 1\n");
    assert_eq!(fs::read_to_string(pair.there("in/web.toml")).unwrap(), "a = 1\n");
    assert_eq!((mode(&pair.there("etc/sub/run")), mode(&pair.there("etc/sub"))), (0o750, 0o500));

    // Again: nothing goes over, and what is there isn't touched.
    let inode = fs::metadata(pair.there("etc/sub/run")).unwrap().ino();
    let (again, sent) = pair.copy(&all);
    assert_eq!((again.written, again.unchanged, sent), (1, 6, 0), "only the link is made anew");
    assert_eq!(fs::metadata(pair.there("etc/sub/run")).unwrap().ino(), inode);

    // A change, a file that is gone, a file of the service's own.
    fs::set_permissions(pair.here("conf/sub"), Permissions::from_mode(0o700)).unwrap();
    fs::write(pair.there("etc/own.db"), "the service's").unwrap();
    let mut run = noise(1_000_000, 1);
    run.splice(500_000..500_000, *b"changed");
    fs::write(pair.here("conf/sub/run"), run).unwrap();
    fs::remove_file(pair.here("conf/sub/text")).unwrap();
    let (changed, sent) = pair.copy(&all);
    assert_eq!(changed.removed, 1);
    assert!((1..=3).contains(&sent), "{sent} chunks for 7 bytes");
    assert!(!pair.there("etc/sub/text").exists());
    assert_ne!(fs::metadata(pair.there("etc/sub/run")).unwrap().ino(), inode, "replaced, not written into");
    assert_eq!(fs::read_to_string(pair.there("etc/own.db")).unwrap(), "the service's");
    // What was named before and isn't any more goes too; the folder with the service's file stays.
    let (less, _) = pair.copy(&[("conf/web.toml", "single.toml")]);
    assert_eq!(less.removed, 5);
    assert!(!pair.there("etc/sub").exists() && !pair.there("in/web.toml").exists());
    assert!(pair.there("etc/own.db").exists());
    let left: Vec<_> = fs::read_dir(pair.folder.path().join("state")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "only the record: {left:?}");
}

#[test]
fn what_breaks_off_goes_on_where_it_was() {
    let pair = Pair::new();
    fs::write(pair.here("conf/big"), noise(4_000_000, 5)).unwrap();
    let found = pair.scan(&[("conf", "etc")]);
    let mut receiver = pair.begin(&found);
    let missing = receiver.missing().to_vec();
    let bytes = stream(&found, &missing);
    receiver.take(&bytes[..bytes.len() / 2]).unwrap();
    let text = receiver.finish().unwrap_err().to_string();
    assert!(text.ends_with("chunks came"), "{text}");
    assert!(!pair.there("etc/big").exists(), "nothing half there");
    let left = pair.begin(&found).missing().len();
    assert!((missing.len() / 3..=2 * missing.len() / 3).contains(&left), "{left} of {}", missing.len());
    // A part of the pack rots: from there on it is asked for again.
    let pack = pair.folder.path().join("state/web.pack");
    let mut kept = fs::read(&pack).unwrap();
    let middle = kept.len() / 2;
    kept[middle] ^= 1;
    fs::write(&pack, kept).unwrap();
    assert!(pair.begin(&found).missing().len() > left);
    assert_eq!(pair.copy(&[("conf", "etc")]).0.written, 1);
    assert_eq!(fs::read(pair.there("etc/big")).unwrap(), noise(4_000_000, 5));
}

#[test]
fn what_is_damaged_there_or_changes_here_is_noticed() {
    let pair = Pair::new();
    fs::write(pair.here("conf/big"), noise(2_000_000, 5)).unwrap();
    pair.copy(&[("conf", "etc")]);
    let mut changed = noise(2_000_000, 5);
    changed[0] ^= 1;
    fs::write(pair.here("conf/big"), &changed).unwrap();
    let found = pair.scan(&[("conf", "etc")]);
    let mut receiver = pair.begin(&found);
    receiver.take(&stream(&found, receiver.missing())).unwrap();
    // The old file, of which most of the new one is to be made, rots in this moment.
    let mut rotten = fs::read(pair.there("etc/big")).unwrap();
    rotten[1_500_000] ^= 1;
    fs::write(pair.there("etc/big"), &rotten).unwrap();
    let error = receiver.finish().unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("damaged"), "{error}");
    assert_eq!(fs::read(pair.there("etc/big")).unwrap(), rotten, "nothing was replaced");
    let mut left: Vec<_> =
        fs::read_dir(pair.there("etc")).unwrap().flatten().map(|it| it.file_name()).collect();
    left.sort();
    assert_eq!(left, ["big", "sub"], "nothing beside it");
    pair.copy(&[("conf", "etc")]);
    assert_eq!(fs::read(pair.there("etc/big")).unwrap(), changed);

    let found = pair.scan(&[("conf", "etc")]);
    fs::write(pair.here("conf/big"), noise(2_000_000, 6)).unwrap();
    assert!(matches!(found.chunk(0), Err(ScanError::Changed { .. })));
    fs::write(pair.here("conf/big"), "short").unwrap();
    assert!(matches!(found.chunk(0), Err(ScanError::Changed { .. })));
}

#[test]
fn what_has_no_place_is_refused_and_nothing_is_changed() {
    let pair = Pair::new();
    let refused = |from: &str, to: &str| {
        let source = Source { source: pair.here(from), destination: to.into() };
        scan("web", &[source]).unwrap_err().to_string()
    };
    assert!(refused("conf", "../out").contains("climbs out"));
    assert!(refused("nothing", "x").contains("can't read"));
    symlink("/etc/passwd", pair.here("conf/out")).unwrap();
    assert!(refused("conf", "etc").contains("only links inside"));
    fs::remove_file(pair.here("conf/out")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(pair.here("conf/s")).unwrap();
    assert!(refused("conf", "etc").contains("a socket"));
    drop(socket);
    fs::remove_file(pair.here("conf/s")).unwrap();

    // What isn't ours is never removed to make way.
    fs::write(pair.here("conf/a"), "new").unwrap();
    fs::create_dir_all(pair.there("etc/a")).unwrap();
    let found = pair.scan(&[("conf", "etc")]);
    let mut receiver = pair.begin(&found);
    receiver.take(&stream(&found, receiver.missing())).unwrap();
    assert!(receiver.finish().unwrap_err().to_string().contains("in the way"));
    fs::remove_dir(pair.there("etc/a")).unwrap();
    // What comes isn't what was announced.
    let mut receiver = pair.begin(&found);
    if let Some(index) = receiver.missing().first().copied() {
        let mut wrong = index.to_be_bytes().to_vec();
        wrong.extend([0, 0, 0, 3, b'x', b'y', b'z']);
        assert!(receiver.take(&wrong).is_err());
    }
    let mut receiver = pair.begin(&found);
    assert!(receiver.take(&[0xff; 8]).is_err(), "not what is missing");
}

#[test]
fn only_what_was_put_is_ever_removed() {
    let pair = Pair::new();
    fs::write(pair.here("conf/a"), "of the project").unwrap();
    fs::write(pair.here("conf/b"), "new").unwrap();
    fs::create_dir_all(pair.there("etc")).unwrap();
    fs::write(pair.there("etc/a"), "the user's own").unwrap();
    let own = || fs::read_to_string(pair.there("etc/a")).unwrap();
    let both = [("conf/a", "etc/a"), ("conf/b", "other/b")];
    // The second can't be written.
    fs::create_dir_all(pair.there("other/.harness-1.new")).unwrap();
    let found = pair.scan(&both);
    let mut receiver = pair.begin(&found);
    receiver.take(&stream(&found, receiver.missing())).unwrap();
    assert!(receiver.finish().unwrap_err().to_string().contains("can't write"));
    assert_eq!(own(), "the user's own");
    assert_eq!(fs::read_dir(pair.there("etc")).unwrap().count(), 1, "nothing beside it");
    let (other, _) = pair.copy(&[("conf/b", "b")]);
    assert_eq!((other.removed, own().as_str()), (0, "the user's own"));

    // A daemon that was killed as it wrote, and one between two renames: `c` has got its name, `a` hasn't.
    let record = pair.folder.path().join("state/web.json");
    let (beside, before) = (pair.there("etc/.harness-0.new"), pair.there("b"));
    for (writing, moving) in [
        (vec![&beside], vec![]),
        (
            vec![],
            vec![(&beside, pair.there("etc/a")), (&pair.there("etc/.harness-1.new"), pair.there("etc/c"))],
        ),
    ] {
        fs::write(pair.there("etc/c"), "put").unwrap();
        fs::write(&beside, "of the project").unwrap();
        let text =
            serde_json::json!({ "files": [before], "folders": [], "beside": writing, "moving": moving });
        fs::write(&record, text.to_string()).unwrap();
        // The one that comes next breaks off too.
        drop(pair.begin(&found));
        assert!(!beside.exists());
        let (next, _) = pair.copy(&[("conf/b", "b")]);
        assert_eq!((next.unchanged, own().as_str()), (1, "the user's own"));
        assert_eq!((next.removed, pair.there("etc/c").exists()), (moving.len() / 2, moving.is_empty()));
    }
}

#[test]
fn a_damaged_record_is_not_taken_for_an_empty_one() {
    let pair = Pair::new();
    fs::write(pair.here("conf/a"), "new").unwrap();
    let all = [("conf", "etc")];
    pair.copy(&all);
    let record = pair.folder.path().join("state/web.json");
    // As some file systems leave it after a power loss.
    fs::write(&record, "").unwrap();
    assert_eq!(pair.copy(&all).0.unchanged, 1);
    assert!(record.with_extension("json.damaged").exists(), "kept for people");
    fs::remove_file(&record).unwrap();
    fs::create_dir(&record).unwrap();
    let error = Receiver::begin(pair.scan(&all).params, &pair.places()).unwrap_err().to_string();
    assert!(error.contains("can't read") && error.ends_with("web.json"), "{error}");
}

#[test]
fn what_is_put_in_a_place_meanwhile_is_left_alone() {
    let pair = Pair::new();
    fs::write(pair.here("conf/a"), "the same").unwrap();
    fs::set_permissions(pair.here("conf/sub"), Permissions::from_mode(0o711)).unwrap();
    let all = [("conf", "etc")];
    pair.copy(&all);
    // The service's user makes links to what is another's.
    let (secret, theirs) = (pair.there("secret"), pair.there("theirs"));
    fs::write(&secret, "").unwrap();
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&theirs, Permissions::from_mode(0o700)).unwrap();
    let receiver = pair.begin(&pair.scan(&all));
    fs::remove_file(pair.there("etc/a")).unwrap();
    symlink(&secret, pair.there("etc/a")).unwrap();
    assert!(receiver.finish().unwrap_err().is_passing());
    assert_eq!(mode(&secret), 0o600);
    assert_eq!(pair.copy(&all).0.written, 1);
    assert_eq!((mode(&secret), fs::read_to_string(pair.there("etc/a")).unwrap()), (0o600, "the same".into()));
    // A folder that was moved, with a link in its place, is used, and keeps its mode.
    fs::remove_dir(pair.there("etc/sub")).unwrap();
    fs::remove_file(pair.there("etc/a")).unwrap();
    fs::remove_dir(pair.there("etc")).unwrap();
    symlink(&theirs, pair.there("etc")).unwrap();
    pair.copy(&all);
    assert_eq!((mode(&theirs), mode(&theirs.join("sub"))), (0o700, 0o711));

    // A pipe in the place of the file of which the new one is to be made.
    fs::write(pair.here("conf/a"), noise(300_000, 1)).unwrap();
    pair.copy(&all);
    fs::write(pair.here("conf/a"), [noise(300_000, 1), noise(300_000, 2)].concat()).unwrap();
    let found = pair.scan(&all);
    let mut receiver = pair.begin(&found);
    receiver.take(&stream(&found, receiver.missing())).unwrap();
    fs::remove_file(theirs.join("a")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, theirs.join("a"), 0o600.into()).unwrap();
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || tell.send(receiver.finish().unwrap_err().is_passing()));
    assert!(told.recv_timeout(Duration::from_secs(10)).expect("it blocks"));
    pair.copy(&all);
}

/// The same as a package: it comes into a folder of its own, which nobody else looks into.
fn packaged(pair: &Pair) -> Scan {
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".parse().unwrap();
    let place = PackagePlace { name: "web".into(), sha256, prefix: None };
    pair.scan(&[("conf", ".")]).for_several().with_package(place)
}

#[test]
fn a_package_is_written_in_its_place_and_gone_on_with_there() {
    let pair = Pair::new();
    fs::write(pair.here("conf/big"), noise(4_000_000, 5)).unwrap();
    // The same content twice, and again as a part of another.
    fs::write(pair.here("conf/sub/copy"), noise(4_000_000, 5)).unwrap();
    fs::write(pair.here("conf/sub/more"), [noise(4_000_000, 5), noise(500_000, 6)].concat()).unwrap();
    fs::write(pair.here("conf/empty"), "").unwrap();
    fs::set_permissions(pair.here("conf/big"), Permissions::from_mode(0o755)).unwrap();
    symlink("sub/more", pair.here("conf/link")).unwrap();
    let found = packaged(&pair);
    let mut receiver = pair.begin(&found);
    let missing = receiver.missing().to_vec();
    let bytes = stream(&found, &missing);
    receiver.take(&bytes[..bytes.len() / 2]).unwrap();
    assert!(receiver.finish().unwrap_err().to_string().ends_with("chunks came"));
    let left = pair.begin(&found).missing().len();
    assert!((missing.len() / 3..=2 * missing.len() / 3).contains(&left), "{left} of {}", missing.len());
    // What had come rots: it is asked for again, unless it is whole in another place.
    let mut kept = fs::read(pair.there("big")).unwrap();
    kept[1_000_000] ^= 1;
    fs::write(pair.there("big"), &kept).unwrap();
    assert_eq!(pair.begin(&found).missing().len(), left, "its other places have it");
    for path in ["sub/copy", "sub/more"] {
        fs::write(pair.there(path), &kept).unwrap();
    }
    let again = pair.begin(&found).missing().len();
    assert_eq!(again, left + 1);
    let mut receiver = pair.begin(&found);
    for piece in stream(&found, receiver.missing()).chunks(10_007) {
        receiver.take(piece).unwrap();
    }
    assert_eq!(receiver.finish().unwrap().removed, 0);
    for path in ["big", "sub/copy", "sub/more", "empty"] {
        let here = fs::read(pair.here("conf").join(path)).unwrap();
        assert!(here == fs::read(pair.there(path)).unwrap(), "{path}");
    }
    assert_eq!(mode(&pair.there("big")), 0o755);
    assert_eq!(fs::read_link(pair.there("link")).unwrap(), Path::new("sub/more"));
    assert!(pair.begin(&found).missing().is_empty());
    assert!(!pair.folder.path().join("state").exists(), "it needs no pack");

    // From another version that is there; what stands in the way is of no use.
    let base = pair.folder.path().join("base");
    fs::rename(pair.there(""), &base).unwrap();
    fs::create_dir_all(pair.there("big")).unwrap();
    let places = Places { bases: vec![base.clone()], ..pair.places() };
    let receiver = Receiver::begin(found.params.clone(), &places).unwrap();
    assert!(receiver.missing().is_empty());
    receiver.finish().unwrap();
    assert!(fs::read(pair.there("sub/more")).unwrap() == fs::read(pair.here("conf/sub/more")).unwrap());
    // One that rots between the look and the copy is noticed.
    fs::remove_dir_all(pair.there("")).unwrap();
    let receiver = Receiver::begin(found.params.clone(), &places).unwrap();
    for path in ["big", "sub/copy", "sub/more"] {
        fs::write(base.join(path), noise(4_500_000, 9)).unwrap();
    }
    assert!(receiver.finish().unwrap_err().is_passing());
}

#[test]
fn a_package_of_more_files_than_may_be_open_is_gone_on_with() {
    let pair = Pair::new();
    for file in 1..=200 {
        fs::write(pair.here(&format!("conf/{file}")), noise(100, file)).unwrap();
    }
    let found = packaged(&pair);
    let mut receiver = pair.begin(&found);
    receiver.take(&stream(&found, receiver.missing())).unwrap();
    drop(receiver);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(100), ..limit }).unwrap();
    let missing = pair.begin(&found).missing().len();
    setrlimit(Resource::Nofile, limit).unwrap();
    assert_eq!(missing, 0);
}

#[test]
fn a_look_at_what_is_missing_of_a_package_changes_nothing() {
    let pair = Pair::new();
    fs::write(pair.here("conf/big"), noise(1_000_000, 5)).unwrap();
    let found = packaged(&pair);
    let look = || pair.begin(&found.clone().only_to_look());
    let all = look().missing().to_vec();
    assert!(!all.is_empty() && !pair.there("").exists());
    let mut receiver = look();
    assert!(receiver.take(&stream(&found, &all)).is_err() && receiver.finish().is_err());
    assert!(!pair.there("").exists());
    // Half of it came before; then something is in the way.
    let mut receiver = pair.begin(&found);
    assert_eq!(receiver.missing(), all);
    let bytes = stream(&found, &all);
    receiver.take(&bytes[..bytes.len() / 2]).unwrap();
    assert!((1..all.len()).contains(&look().missing().len()));
    fs::remove_dir(pair.there("sub")).unwrap();
    fs::write(pair.there("sub"), "in the way").unwrap();
    assert_eq!(look().missing(), all, "what is there can't be used");
    assert!(pair.there("big").exists() && pair.there("sub").is_file());
}
