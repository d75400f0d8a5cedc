//! Signatures, beside the real `minisign` from Debian.

use service_registry::package::sign::{PublicKey, SecretKey, SignError, Signature};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use test_hosts::require;

fn minisign(folder: &Path, words: &[&str]) -> Output {
    Command::new("minisign").args(words).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn good(output: &Output) {
    let told = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&told));
}

#[test]
fn minisign_verifies_what_we_signed() {
    require!(test_hosts::program("minisign", "minisign"));
    let folder = tempfile::tempdir().unwrap();
    let key = SecretKey::new(&[42; 32], *b"harness!");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "content").unwrap();
    fs::write(at("key.pub"), key.public().to_text()).unwrap();
    let signature = key.sign(&mut &b"content"[..], "file:web-1.0.0.tar.zst").unwrap();
    fs::write(at("file.minisig"), signature).unwrap();
    let verified = minisign(folder.path(), &["-V", "-p", "key.pub", "-m", "file"]);
    good(&verified);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("file:web-1.0.0.tar.zst"));
    fs::write(at("file"), "Content").unwrap();
    assert!(!minisign(folder.path(), &["-V", "-p", "key.pub", "-m", "file"]).status.success());
    // It signs with our secret key.
    fs::write(at("key"), key.to_text()).unwrap();
    good(&minisign(folder.path(), &["-S", "-s", "key", "-m", "file"]));
    let signature = Signature::parse(&fs::read_to_string(at("file.minisig")).unwrap()).unwrap();
    key.public().verify(&signature, &mut &b"Content"[..]).unwrap();
}

#[test]
fn we_verify_what_minisign_signed() {
    require!(test_hosts::program("minisign", "minisign"));
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    good(&minisign(folder.path(), &["-G", "-W", "-p", "key.pub", "-s", "key"]));
    let content = vec![b'x'; 1_000_000];
    fs::write(folder.path().join("file"), &content).unwrap();
    let public = PublicKey::parse(&read("key.pub")).unwrap();
    // Prehashed, and as it was before version 0.9.
    for (flags, kind) in [(&[][..], "ED"), (&["-l"], "Ed")] {
        let words = [&["-S", "-s", "key", "-m", "file", "-t", "a comment"], flags].concat();
        good(&minisign(folder.path(), &words));
        let text = read("file.minisig");
        let signature = Signature::parse(&text).unwrap();
        assert!(format!("{signature:?}").contains(&format!("prehashed: {}", kind == "ED")), "{signature:?}");
        assert_eq!(signature.comment(), "a comment");
        public.verify(&signature, &mut &content[..]).unwrap();
        assert!(matches!(public.verify(&signature, &mut &content[1..]), Err(SignError::Wrong)));
        let changed = Signature::parse(&text.replace("a comment", "A comment")).unwrap();
        assert!(matches!(public.verify(&changed, &mut &content[..]), Err(SignError::Comment)));
    }
    // Its secret key is ours too, without a password.
    let secret = SecretKey::parse(&read("key")).unwrap();
    assert_eq!(secret.public(), public);
    // It leaves out zeros at the beginning.
    let id = public.id().to_string();
    assert!(read("key.pub").contains(id.trim_start_matches('0')), "{id}");
}
