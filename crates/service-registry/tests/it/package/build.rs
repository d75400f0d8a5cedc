//! From a folder to a package and back.

use super::{check, package, source, tree};
use semver::Version;
use service_registry::package::build::{BuildError, Contents, Progress};
use service_registry::package::hash::Digest;
use service_registry::package::manifest::Manifest;
use service_registry::package::unpack::{unpack, verify};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

fn manifest() -> Manifest {
    Manifest::new("web", Version::new(1, 0, 0))
}

#[test]
fn the_same_folder_gives_the_same_bytes() {
    let out = tempfile::tempdir().unwrap();
    let first = package(out.path(), "1.0.0", "program");
    let bytes = fs::read(&first.path).unwrap();
    // Another folder, filled in another order, at another time, with other modes and a umask's.
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("scripts")).unwrap();
    source(folder.path(), "program");
    fs::write(folder.path().join(".env"), "SECRET=1").unwrap();
    fs::set_permissions(folder.path().join("bin"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(folder.path().join("config/web.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(folder.path().join("bin/web"), fs::Permissions::from_mode(0o775)).unwrap();
    let old = fs::File::open(folder.path().join("bin/web")).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let contents = Contents::of(folder.path()).unwrap();
    assert_eq!(contents.left_out, [".env"]);
    let second = contents.pack(manifest(), &out.path().join("second"), &mut |_| true).unwrap();
    assert_eq!(fs::read(&second.path).unwrap(), bytes);
    assert_eq!(second.digest, Digest::of(&bytes));
}

/// A digest that was written down: another version of a library or of this crate that packs otherwise is noticed.
#[test]
fn the_bytes_are_those_of_the_last_version() {
    let out = tempfile::tempdir().unwrap();
    let built = package(out.path(), "1.0.0", "program");
    insta::assert_snapshot!(built.digest, @"5cd3e61073eb511cd5337a1ca7aee943d9ddc8e5018b59aac5f8c696a79a8147");
}

#[test]
fn what_was_packed_is_unpacked() {
    let out = tempfile::tempdir().unwrap();
    let built = package(out.path(), "1.2.3", "#!/bin/sh\n");
    let into = out.path().join("into");
    fs::create_dir(&into).unwrap();
    let file = || fs::File::open(&built.path).unwrap();
    let found = unpack(file(), &into, check(&mut |_| true)).unwrap();
    assert_eq!((&found.manifest, found.digest), (&built.manifest, built.digest));
    assert_eq!((found.packed, found.unpacked), (built.packed, built.unpacked));
    assert_eq!(verify(file(), check(&mut |_| true)).unwrap(), found);
    assert_eq!(
        tree(&into),
        [
            "bin",
            "bin/w",
            "bin/web",
            "config",
            "config/empty",
            "config/web.toml",
            "manifest.yaml",
            "scripts",
            "scripts/start.sh",
        ]
    );
    let mode = |path: &str| fs::metadata(into.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("bin"), mode("bin/web"), mode("config/web.toml")), (0o755, 0o755, 0o644));
    assert_eq!(fs::read_link(into.join("bin/w")).unwrap(), Path::new("web"));
    assert_eq!(fs::read_to_string(into.join("manifest.yaml")).unwrap(), built.manifest.to_text().unwrap());
}

/// Other programs read it too.
#[test]
fn tar_reads_it() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("source");
    source(&folder, "program");
    let deep = folder.join("share").join("long-".repeat(20)).join("name-".repeat(20));
    fs::create_dir_all(deep.parent().unwrap()).unwrap();
    fs::write(&deep, "deep").unwrap();
    let target = format!("{}/{}", "long-".repeat(20), "name-".repeat(20));
    std::os::unix::fs::symlink(&target, folder.join("share/link")).unwrap();
    let contents = Contents::of(&folder).unwrap();
    let built = contents.pack(manifest(), &out.path().join("web-1.0.0.tar.zst"), &mut |_| true).unwrap();
    let (theirs, ours) = (out.path().join("theirs"), out.path().join("ours"));
    for folder in [&theirs, &ours] {
        fs::create_dir(folder).unwrap();
    }
    let tar =
        Command::new("tar").args(["--zstd", "-xf"]).arg(&built.path).arg("-C").arg(&theirs).output().unwrap();
    assert!(tar.status.success() && tar.stderr.is_empty(), "{}", String::from_utf8_lossy(&tar.stderr));
    unpack(fs::File::open(&built.path).unwrap(), &ours, check(&mut |_| true)).unwrap();
    let same = Command::new("diff").args(["-r", "--no-dereference"]).args([&theirs, &ours]).output().unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    // And the other way round: what a tar program packs with the same manifest.
    let by_hand = out.path().join("by-hand.tar.gz");
    let tar = Command::new("tar").arg("-czf").arg(&by_hand).arg("-C").arg(&theirs).arg(".").output().unwrap();
    assert!(tar.status.success());
    let found = verify(fs::File::open(&by_hand).unwrap(), check(&mut |_| true)).unwrap();
    assert_eq!(found.manifest, built.manifest);
}

#[test]
fn what_would_be_refused_is_not_packed_and_all_is_told_at_once() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("source");
    source(&folder, "program");
    std::os::unix::fs::symlink("/etc/passwd", folder.join("config/passwd")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("config/dangling")).unwrap();
    fs::set_permissions(folder.join("bin/web"), fs::Permissions::from_mode(0o4755)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("bin/socket")).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("bin/pipe")).status().unwrap().success());
    fs::write(folder.join("bin/a\nb"), "").unwrap();
    let mut manifest = manifest();
    manifest.service.command = vec!["bin/nothing".into()];
    manifest.name = "WEB".into();
    let path = out.path().join("package");
    let Err(BuildError::Problems(problems)) =
        Contents::of(&folder).unwrap().pack(manifest, &path, &mut |_| true)
    else {
        panic!("it was packed")
    };
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(problems.join("\n"), @r"
    name: expected 1 to 63 of a-z, 0-9, '.', '_', '+' and '-', beginning with a letter or digit
    bin/a\nb: has a control character, an invisible one, or one that turns the direction of text
    bin/pipe: a pipe, and a package holds files, folders and links only
    bin/socket: a socket, and a package holds files, folders and links only
    bin/web: has a setuid, setgid or sticky bit
    config/passwd: is a link to /etc/passwd, which isn't inside the package: an absolute path
    config/dangling: is a link to nowhere, which isn't in the package
    service.command: there is no bin/nothing in the package
    ");
    assert_eq!(tree(out.path()).iter().filter(|path| path.starts_with("package")).count(), 0);
}

#[test]
fn a_build_tells_how_far_it_is_and_can_be_ended() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("source");
    source(&folder, &"x".repeat(300_000));
    let contents = Contents::of(&folder).unwrap();
    let path = out.path().join("package");
    let mut told: Vec<Progress> = Vec::new();
    contents
        .pack(manifest(), &path, &mut |progress| {
            told.push(progress);
            true
        })
        .unwrap();
    assert!(told.windows(2).all(|pair| pair[0].done < pair[1].done));
    assert_eq!(told.last().map(|progress| progress.done), Some(contents.size() * 2));
    let before = fs::read(&path).unwrap();
    let ended = contents.pack(manifest(), &path, &mut |progress| progress.done < 400_000);
    assert!(matches!(ended, Err(BuildError::Interrupted)));
    assert_eq!(fs::read(&path).unwrap(), before, "the old one stays");
    let mut grown = false;
    let changed = contents.pack(manifest(), &path, &mut |progress| {
        if progress.done > 350_000 && !grown {
            grown = true;
            fs::write(folder.join("scripts/start.sh"), "#!/bin/sh\necho other\n").unwrap();
        }
        true
    });
    assert!(matches!(changed, Err(BuildError::Changed(_))), "{changed:?}");
    assert_eq!(tree(out.path()).iter().filter(|path| path.starts_with("package")).count(), 1);
}
