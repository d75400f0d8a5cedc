//! Figures, not tests: `cargo test -p service-registry --release -- --ignored package::figures --nocapture`.

use super::check;
use jiff::Timestamp;
use semver::Version;
use service_registry::package::build::Contents;
use service_registry::package::install::Depot;
use service_registry::package::manifest::Manifest;
use service_registry::package::sign::{SecretKey, Signature};
use service_registry::package::unpack::verify;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Best of three, so that what else the machine does counts least.
fn best<T>(mut work: impl FnMut() -> T) -> Duration {
    let times = (0..3).map(|_| {
        let begun = Instant::now();
        let done = work();
        let time = begun.elapsed();
        drop(done);
        time
    });
    times.min().unwrap()
}

fn tar(words: &[&str], folder: &Path) {
    assert!(Command::new("tar").args(words).current_dir(folder).status().unwrap().success());
}

/// 100 MiB in 400 files, half of which compresses well, beside `tar --zstd`.
#[test]
#[ignore = "measures"]
fn package_figures() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("web");
    super::source(&folder, "program");
    let mut state = 1_u64;
    for number in 0..400 {
        let bytes: Vec<u8> = (0..256 * 1024)
            .map(|at| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if number % 2 == 0 {
                    (state >> 56) as u8
                } else {
                    b"some words of a text "[at % 21] ^ (state >> 63) as u8
                }
            })
            .collect();
        fs::create_dir_all(folder.join(format!("share/{}", number / 20))).unwrap();
        fs::write(folder.join(format!("share/{}/{number}", number / 20)), bytes).unwrap();
    }
    let path = place.path().join("web-1.0.0.tar.zst");
    let manifest = || Manifest::new("web", Version::new(1, 0, 0));
    let build = best(|| Contents::of(&folder).unwrap().pack(manifest(), &path, &mut |_| true).unwrap());
    let theirs = best(|| tar(&["--zstd", "-cf", "theirs.tar.zst", "web"], place.path()));
    let key = SecretKey::new(&[1; 32], [2; 8]);
    let mut text = String::new();
    let sign = best(|| text = key.sign(&mut File::open(&path).unwrap(), "figures").unwrap());
    let signature = Signature::parse(&text).unwrap();
    let check_signature = best(|| key.public().verify(&signature, &mut File::open(&path).unwrap()).unwrap());
    let check_package = best(|| verify(File::open(&path).unwrap(), check(&mut |_| true)).unwrap());
    let mut number = 0;
    let install = best(|| {
        number += 1;
        let depot = Depot::new(place.path().join(format!("opt-{number}")));
        let locked = depot.lock("web", "figures", Timestamp::UNIX_EPOCH).unwrap();
        locked.place(&mut File::open(&path).unwrap(), check(&mut |_| true)).unwrap();
    });
    let extract = best(|| {
        number += 1;
        let into = format!("into-{number}");
        fs::create_dir(place.path().join(&into)).unwrap();
        tar(&["--zstd", "-xf", "theirs.tar.zst", "-C", &into], place.path());
    });
    let ratio = |ours: Duration, theirs: Duration| ours.as_secs_f64() / theirs.as_secs_f64();
    let size = |path: &Path| fs::metadata(path).unwrap().len() >> 10;
    println!("packed: {} KiB, tar --zstd {} KiB", size(&path), size(&place.path().join("theirs.tar.zst")));
    println!("build {build:?}, tar --zstd -cf {theirs:?}: {:.2}", ratio(build, theirs));
    println!("sign {sign:?}, check the signature {check_signature:?}");
    println!("verify {check_package:?}, tar -xf {extract:?}: {:.2}", ratio(check_package, extract));
    println!(
        "install (synced) {install:?}, tar -xf (not synced) {extract:?}: {:.2}",
        ratio(install, extract)
    );
}
