//! Packages: whatever an archive holds, nothing appears outside the folder that it is unpacked to, and what is accepted is
//! what the manifest lists.
//!
//! The bytes are taken as they are, and as a tar whose checksums are made right and which is then compressed: a fuzzer
//! guesses neither.

#![no_main]

use harness_config::packed_manifest;
use libfuzzer_sys::fuzz_target;
use service_registry::package::archive::Limits;
use service_registry::package::unpack::{Check, Package, unpack, verify};
use std::fs;
use std::path::Path;

const BLOCK: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    attempt(bytes);
    let tar = repaired(bytes);
    attempt(&zstd::encode_all(&tar[..], 1).expect("memory can be compressed"));
});

fn check(progress: &mut dyn FnMut(u64) -> bool) -> Check<'_> {
    let limits = Limits { unpacked: 1 << 20, entries: 100, ratio: 250 };
    Check { read: &packed_manifest, limits, file_name: None, digest: None, progress }
}

fn attempt(package: &[u8]) {
    let outer = tempfile::tempdir().expect("a temporary folder");
    // Deep enough that a few `..` lead to places that are looked at.
    let into = outer.path().join("a/b/into");
    fs::create_dir_all(&into).expect("a folder in it");
    let unpacked = unpack(package, &into, check(&mut |_| true));
    assert_eq!(names(outer.path()), ["a"]);
    assert_eq!(names(&outer.path().join("a")), ["b"]);
    assert_eq!(names(&outer.path().join("a/b")), ["into"]);
    let verified = verify(package, check(&mut |_| true));
    match (unpacked, verified) {
        (Ok(unpacked), Ok(verified)) => {
            assert_eq!(unpacked, verified);
            compare(&unpacked, &into);
        }
        (Err(error), Err(_)) => drop(error.to_string()),
        (unpacked, verified) => panic!("unpacked {unpacked:?}, verified {verified:?}"),
    }
}

/// Everything that is listed is there, and no link leads out.
fn compare(package: &Package, into: &Path) {
    let root = into.canonicalize().expect("the folder is there");
    for file in &package.manifest.files {
        let data = fs::symlink_metadata(into.join(&file.path)).expect("a listed file is there");
        assert!(data.is_file() && data.len() == file.size, "{}", file.path);
    }
    for link in &package.manifest.links {
        let target = into.join(&link.path).canonicalize().expect("a link leads to something");
        assert!(target.starts_with(&root), "{} leads to {}", link.path, target.display());
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A tar with right checksums, and an end.
fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut tar = bytes.to_vec();
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    let mut at = 0;
    while let Some(header) = tar.get_mut(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = std::str::from_utf8(&header[124..135]).unwrap_or_default();
        let size = usize::from_str_radix(digits.trim_matches(['\0', ' ']), 8).unwrap_or_default();
        at = at.saturating_add(BLOCK).saturating_add(size.min(tar.len()).next_multiple_of(BLOCK));
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}
