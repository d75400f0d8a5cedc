//! Hostile packages, a kind each: all are refused with a reason, and nothing of them is left.

use super::forge::{Forge, gz, zst};
use super::{check, tree};
use jiff::Timestamp;
use service_registry::package::archive::Limits;
use service_registry::package::hash::Digest;
use service_registry::package::install::Depot;
use service_registry::package::manifest::File;
use service_registry::package::unpack::{Check, UnpackError, unpack, verify};
use std::fs;
use tar::EntryType;

type Sample = (&'static str, Vec<u8>, &'static str);

/// What, the package, and a part of the reason.
fn corpus() -> Vec<Sample> {
    let mut all = paths();
    all.extend(kinds());
    all.extend(links());
    all.extend(contents());
    all.extend(manifests());
    all.extend(framing());
    all
}

fn paths() -> Vec<Sample> {
    let file = |path: &[u8]| Forge::new().entry(EntryType::Regular, path, "", b"x").pack();
    let folder = |path: &[u8]| Forge::new().entry(EntryType::Directory, path, "", b"").pack();
    let long = |name: &str| {
        let bytes = [name.as_bytes(), b"\0"].concat();
        Forge::new()
            .entry(EntryType::GNULongName, b"././@LongLink", "", &bytes)
            .entry(EntryType::Regular, b"short", "", b"x")
            .pack()
    };
    let pax = |record: &str| {
        let text = format!("{} {record}\n", record.len() + 4);
        Forge::new()
            .entry(EntryType::XHeader, b"pax", "", text.as_bytes())
            .entry(EntryType::Regular, b"short", "", b"x")
            .pack()
    };
    vec![
        ("climbs out", file(b"../evil"), "../evil: climbs out"),
        ("climbs out from a folder", file(b"bin/../../evil"), "climbs out"),
        ("climbs and comes back", file(b"bin/../bin/x"), "climbs out"),
        ("behind ./", file(b"./../evil"), "climbs out"),
        ("absolute", file(b"/tmp/evil"), "an absolute path"),
        ("absolute behind ./", file(b".//evil"), "an absolute path"),
        ("a folder that climbs", folder(b"../evil/"), "climbs out"),
        ("the root as a folder", folder(b"/"), "an absolute path"),
        ("empty", file(b""), "an empty path"),
        ("a dot in between", file(b"bin/./x"), "part `.`"),
        ("an empty part", file(b"bin//x"), "an empty part"),
        ("a file with a slash at its end", file(b"bin/"), "an empty part"),
        ("a line break", file(b"bin/a\nb"), "a control character"),
        ("an escape", file(b"bin/\x1b[2J"), "bin/\\u{1b}[2J: has a control character"),
        ("turned text", file("bin/a\u{202e}gpj.sh".as_bytes()), "turns the direction"),
        ("an invisible character", file("bin/a\u{200b}".as_bytes()), "invisible"),
        ("not UTF-8", file(b"bin/\xff\xfe"), "not UTF-8"),
        ("overlong UTF-8", file(b"\xc0\xae\xc0\xae/evil"), "not UTF-8"),
        ("a backslash", file(b"..\\evil"), "a backslash"),
        ("a long name that climbs", long("../evil"), "climbs out"),
        ("too long a name", long(&"x".repeat(300)), "longer than"),
        ("too long a path", long(&"abcdefgh/".repeat(200)), "longer than"),
        ("too deep", long(&format!("{}x", "d/".repeat(40))), "folders deep"),
        ("NUL in a long name", long("bin/a\0b"), "a control character"),
        ("a pax path that climbs", pax("path=../evil"), "climbs out"),
        ("a pax path that is absolute", pax("path=/evil"), "an absolute path"),
        ("a sparse file by pax", pax("GNU.sparse.major=1"), "sparse"),
        ("a pax size that isn't one", pax("size=-1"), "damaged"),
        (
            "two long names",
            Forge::new()
                .entry(EntryType::GNULongName, b"l", "", b"one\0")
                .entry(EntryType::GNULongName, b"l", "", b"two\0")
                .entry(EntryType::Regular, b"short", "", b"x")
                .pack(),
            "two names",
        ),
        (
            "a huge extended header",
            Forge::new().entry(EntryType::XHeader, b"pax", "", &vec![b'a'; 70_000]).pack(),
            "an extended header",
        ),
    ]
}

fn kinds() -> Vec<Sample> {
    let kind = |kind| Forge::new().entry(kind, b"bin/x", "scripts/start.sh", b"").pack();
    let mode = |bits: u32| {
        let forge = Forge::new().file("bin/x", b"x");
        forge.entry_with(EntryType::Regular, b"bin/y", "", b"", |header| header.set_mode(bits)).pack()
    };
    vec![
        ("a character device", kind(EntryType::Char), "bin/x: a device"),
        ("a block device", kind(EntryType::Block), "a device"),
        ("a pipe", kind(EntryType::Fifo), "a pipe"),
        ("a hard link", kind(EntryType::Link), "a hard link"),
        ("a sparse file", kind(EntryType::GNUSparse), "a sparse file"),
        ("a global header", kind(EntryType::XGlobalHeader), "a header for all entries"),
        ("an unknown kind", kind(EntryType::new(b'Z')), "an unknown kind"),
        ("a contiguous file", kind(EntryType::Continuous), "an unknown kind"),
        ("setuid", mode(0o4755), "bin/y: has a setuid"),
        ("setgid", mode(0o2755), "setgid"),
        ("sticky", mode(0o1644), "sticky"),
        (
            "a folder with a content",
            Forge::new().entry(EntryType::Directory, b"bin/", "", b"x").pack(),
            "a content that only files have",
        ),
    ]
}

fn links() -> Vec<Sample> {
    let link = |path: &str, target: &str| Forge::new().link(path, target);
    let behind = |target: &str| link("out", target).entry(EntryType::Regular, b"out/evil", "", b"x").pack();
    vec![
        ("a link out", link("bin/x", "../../evil").pack(), "links[0].target: climbs out"),
        ("an absolute link", link("bin/x", "/etc/passwd").pack(), "an absolute path"),
        ("a link out and back", link("x", "scripts/../../y").pack(), "climbs out"),
        (
            "an unlisted link out",
            Forge::new().entry(EntryType::Symlink, b"x", "/tmp", b"").pack(),
            "isn't inside the package",
        ),
        ("an empty link", link("x", "").pack(), "an empty path"),
        ("a link to nothing", link("x", "nothing").pack(), "isn't in the package"),
        ("a link to itself", link("x", "x").pack(), "in a circle"),
        ("links in a circle", link("x", "y").link("y", "x").pack(), "in a circle"),
        (
            "a link through a link",
            link("d", "scripts").link("x", "d/start.sh").pack(),
            "goes through another link",
        ),
        ("a file behind a link", behind("scripts"), "out/evil: lies behind the link out"),
        ("a file behind a link out", behind("/tmp"), "links[0].target: an absolute path"),
        ("a file behind a link to the root", behind("."), "lies behind the link out"),
        (
            "a file over a link",
            link("bin/x", "../scripts").entry(EntryType::Regular, b"bin/x", "", b"x").pack(),
            "bin/x: is there twice",
        ),
        (
            "a link over a folder",
            Forge::new().entry(EntryType::Directory, b"d/", "", b"").link("d", "scripts").pack(),
            "d: is there twice",
        ),
        (
            "an unlisted link",
            Forge::new().entry(EntryType::Symlink, b"x", "scripts", b"").pack(),
            "x: not in the manifest",
        ),
        (
            "a link to elsewhere than listed",
            link("x", "scripts")
                .manifest(|manifest| manifest.links[0].target = "scripts/start.sh".into())
                .pack(),
            "x: not what the manifest says",
        ),
        (
            "a link that isn't there",
            Forge::new()
                .manifest(|manifest| {
                    manifest.links.push(service_registry::package::manifest::Link {
                        path: "x".into(),
                        target: "scripts".into(),
                    });
                })
                .pack(),
            "x: in the manifest and not in the package",
        ),
    ]
}

fn contents() -> Vec<Sample> {
    let lie = |change: &dyn Fn(&mut File)| {
        Forge::new().file("bin/x", b"content").manifest(|manifest| change(&mut manifest.files[1])).pack()
    };
    let twice = |first: &str, second: &str| {
        Forge::new().file(first, b"x").entry(EntryType::Regular, second.as_bytes(), "", b"x").pack()
    };
    vec![
        (
            "a wrong hash",
            lie(&|file| file.sha256 = Digest::of(b"other")),
            "bin/x: not what the manifest says: its SHA-256",
        ),
        ("a wrong size", lie(&|file| file.size = 3), "7 bytes instead of 3"),
        (
            "an unlisted file",
            Forge::new().entry(EntryType::Regular, b"bin/x", "", b"x").pack(),
            "bin/x: not in the manifest",
        ),
        (
            "a missing file",
            Forge::new()
                .manifest(|manifest| {
                    manifest.files.push(File { path: "bin/x".into(), size: 0, sha256: Digest::of(b"") });
                })
                .pack(),
            "bin/x: in the manifest and not in the package",
        ),
        ("a file twice", twice("bin/x", "bin/x"), "bin/x: is there twice"),
        ("a file twice, once with ./", twice("bin/x", "./bin/x"), "is there twice"),
        (
            "a file twice by how an accent is written",
            twice("bin/caf\u{e9}", "bin/cafe\u{301}"),
            "is there twice",
        ),
        ("a file as a folder", twice("bin/x", "bin/x/y"), "lies in bin/x, which is no folder"),
        (
            "a folder twice",
            Forge::new()
                .entry(EntryType::Directory, b"d/", "", b"")
                .entry(EntryType::Directory, b"d", "", b"")
                .pack(),
            "d: is there twice",
        ),
    ]
}

fn manifests() -> Vec<Sample> {
    let named = |name: &str, version: &str| {
        let text = Forge::new().manifest.to_text().unwrap();
        let text =
            text.replace("\"web\"", &format!("{name:?}")).replace("\"1.0.0\"", &format!("{version:?}"));
        zst(&Forge::new().tar_with(&text))
    };
    let size = Forge::new().manifest.to_text().unwrap().len().next_multiple_of(512);
    let no_manifest = zst(&Forge::new().tar()[512 + size..]);
    vec![
        ("no manifest", no_manifest, "no manifest.yaml"),
        (
            "a second manifest",
            Forge::new().entry(EntryType::Regular, b"manifest.yaml", "", b"{}").pack(),
            "is there twice",
        ),
        (
            "a link over the manifest",
            Forge::new().entry(EntryType::Symlink, b"manifest.yaml", "scripts/start.sh", b"").pack(),
            "manifest.yaml: is there twice",
        ),
        ("a version that climbs", named("web", "../x"), "manifest.yaml"),
        ("a version with a slash", named("web", "1.0.0/x"), "manifest.yaml"),
        ("a name that climbs", named("../web", "1.0.0"), "name: expected"),
        ("a name with a slash", named("a/b", "1.0.0"), "name: expected"),
        ("a name with a trick", named("w\u{e9}b", "1.0.0"), "name: expected"),
        ("no manifest at all", zst(&Forge::new().tar_with("")), "manifest.yaml"),
        ("a manifest of junk", zst(&Forge::new().tar_with("\0\u{1}\u{2}")), "manifest.yaml"),
        ("a deep manifest", zst(&Forge::new().tar_with(&"[".repeat(100_000))), "manifest.yaml"),
        (
            "a listed path that climbs",
            Forge::new()
                .manifest(|manifest| {
                    manifest.files.push(File { path: "../x".into(), size: 0, sha256: Digest::of(b"") });
                })
                .pack(),
            "files[1].path: climbs out",
        ),
        (
            "a missing start script",
            Forge::bare().file("bin/x", b"x").pack(),
            "there is neither a command nor scripts/start.sh",
        ),
        (
            "a program that isn't in it",
            Forge::new().manifest(|manifest| manifest.service.command = vec!["bin/y".into()]).pack(),
            "there is no bin/y",
        ),
        (
            "a start script that can't be run",
            Forge::bare()
                .manifest(|manifest| {
                    let path = "scripts/start.sh".into();
                    manifest.files.push(File { path, size: 0, sha256: Digest::of(b"") });
                })
                .entry_with(EntryType::Regular, b"scripts/start.sh", "", b"", |header| header.set_mode(0o644))
                .pack(),
            "scripts/start.sh isn't executable",
        ),
    ]
}

fn framing() -> Vec<Sample> {
    let tar = Forge::new().tar();
    let changed = |at: usize, byte: u8| {
        let mut tar = tar.clone();
        tar[at] = byte;
        zst(&tar)
    };
    let mut trailing = Forge::new();
    trailing.end.extend_from_slice(&[1; 512]);
    let mut endless = Forge::new();
    endless.end = vec![0; 3 << 20];
    let mut one = Forge::new();
    one.end = vec![0; 512];
    let mut none = Forge::new();
    none.end = Vec::new();
    let huge =
        Forge::new().entry_with(EntryType::Regular, b"bin/x", "", b"x", |header| header.set_size(1 << 40));
    vec![
        ("nothing", Vec::new(), "neither zstd nor gzip"),
        ("a tar without compression", tar.clone(), "neither zstd nor gzip"),
        ("a zip", b"PK\x03\x04and so on".to_vec(), "neither zstd nor gzip"),
        ("zstd of nothing", zst(b""), "truncated"),
        ("zstd of junk", zst(&[b'x'; 2000]), "damaged"),
        ("gzip of junk", gz(&[b'x'; 2000]), "damaged"),
        ("junk after the magic", [&b"\x28\xb5\x2f\xfd"[..], &[0xff; 100]].concat(), "damaged"),
        ("a header that was changed", changed(0, b'M'), "the checksum"),
        ("a size that isn't one", changed(124, b'z'), "damaged"),
        ("a content that was changed", changed(512 + 1, b'~'), "manifest.yaml"),
        ("something after the end", trailing.pack(), "something comes after its end"),
        ("zeros without end", endless.pack(), "something comes after its end"),
        ("half an end", one.pack(), "truncated"),
        ("no end", none.pack(), "truncated"),
        ("something after zstd's end", [Forge::new().pack(), b"junk".to_vec()].concat(), "damaged"),
        (
            "something after gzip's end",
            [gz(&Forge::new().tar()), b"junk".to_vec()].concat(),
            "comes after its end",
        ),
        ("a second archive after gzip's end", [gz(&tar), gz(&tar)].concat(), "comes after its end"),
        ("a second archive after zstd's end", [zst(&tar), zst(&tar)].concat(), "comes after its end"),
        ("a file of a terabyte", huge.pack(), "bin/x: not in the manifest"),
        (
            "a bomb",
            {
                let zeros = vec![0; 64 << 20];
                Forge::new().file("bin/x", &zeros).pack()
            },
            "like a bomb",
        ),
        (
            "a bomb of gzip",
            {
                let zeros = vec![0; 64 << 20];
                gz(&Forge::new().file("bin/x", &zeros).tar())
            },
            "like a bomb",
        ),
    ]
}

/// The whole chain of an error.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[test]
fn hostile_packages_are_refused_with_a_reason_and_leave_nothing() {
    let mut wrong = Vec::new();
    let all = corpus();
    for (what, bytes, reason) in &all {
        match verify(&bytes[..], check(&mut |_| true)) {
            Ok(_) => wrong.push(format!("{what}: verified")),
            Err(error) if !told(&error).contains(reason) => wrong.push(format!("{what}: {}", told(&error))),
            Err(_) => {}
        }
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("canary"), "alive").unwrap();
        let file = outer.path().join("package");
        fs::write(&file, bytes).unwrap();
        let depot = Depot::new(outer.path().join("opt"));
        let locked = depot.lock("web", "the test", Timestamp::UNIX_EPOCH).unwrap();
        let placed = locked.place(&mut fs::File::open(&file).unwrap(), check(&mut |_| true));
        if let Ok(placed) = placed {
            wrong.push(format!("{what}: installed to {}", placed.folder.display()));
        }
        locked.discard(None).unwrap();
        let left = tree(outer.path());
        if left != ["canary", "package"] {
            wrong.push(format!("{what}: left {left:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(all.len() > 90, "{}", all.len());
}

#[test]
fn what_the_corpus_is_made_of_is_good_without_its_faults() {
    let forge = || Forge::new().file("bin/caf\u{e9}", b"x").link("bin/x", "../scripts/start.sh");
    for bytes in [forge().pack(), gz(&forge().tar())] {
        let package = verify(&bytes[..], check(&mut |_| true)).unwrap();
        assert_eq!((package.unpacked, package.packed), (11, bytes.len() as u64));
        assert_eq!(package.digest, Digest::of(&bytes));
    }
    // What tar programs write too: a folder `./` and paths that begin with it.
    let dotted = Forge::new().entry(EntryType::Directory, b"./", "", b"").entry(
        EntryType::Directory,
        b"./d/",
        "",
        b"",
    );
    verify(&dotted.pack()[..], check(&mut |_| true)).unwrap();
}

/// A package that was cut anywhere is refused, in either compression; and one in which any byte was changed is refused or
/// is the same.
#[test]
fn truncated_at_every_byte() {
    let forge = Forge::new().file("bin/x", b"content").link("bin/y", "x");
    for bytes in [forge.clone().pack(), gz(&forge.tar())] {
        let whole = verify(&bytes[..], check(&mut |_| true)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for end in 0..bytes.len() {
            let into = folder.path().join("into");
            fs::create_dir(&into).unwrap();
            let error = unpack(&bytes[..end], &into, check(&mut |_| true)).unwrap_err();
            assert!(matches!(error, UnpackError::Archive(_)), "{end}: {error}");
            fs::remove_dir_all(&into).unwrap();
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x41;
            if let Ok(found) = verify(&changed[..], check(&mut |_| true)) {
                assert_eq!(found.manifest, whole.manifest, "byte {at}");
            }
        }
    }
}

#[test]
fn limits_and_names_are_kept() {
    let bytes = Forge::new().file("bin/x", &[7; 5000]).pack();
    let with = |limits: Limits, file_name| {
        verify(&bytes[..], Check { limits, file_name, ..check(&mut |_| true) })
            .map(drop)
            .map_err(|error| told(&error))
    };
    let limits = Limits::default();
    assert_eq!(with(limits, Some("web-1.0.0.tar.zst")), Ok(()));
    assert_eq!(with(limits, Some("web-1.0.0.tgz")), Ok(()));
    let other = with(limits, Some("web-1.0.1.tar.zst")).unwrap_err();
    assert_eq!(other, "it is web-1.0.0 by its manifest and web-1.0.1 by its name");
    assert!(with(Limits { unpacked: 4000, ..limits }, None).unwrap_err().contains("4000 bytes unpacked"));
    assert!(with(Limits { entries: 1, ..limits }, None).unwrap_err().contains("1 entries"));
    let mut on = |_| true;
    let changed = Check { digest: Some(Digest::of(b"other")), ..check(&mut on) };
    assert!(matches!(verify(&bytes[..], changed), Err(UnpackError::Changed)));
    assert!(matches!(verify(&bytes[..], check(&mut |_| false)), Err(UnpackError::Interrupted)));
}
