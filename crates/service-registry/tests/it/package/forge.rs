//! Makes archives that no tar program would make.

use service_registry::package::hash::Digest;
use service_registry::package::manifest::{File, Link, Manifest};
use std::io::Write as _;
use tar::{EntryType, Header};

/// An archive, entry by entry.
#[derive(Clone)]
pub(super) struct Forge {
    pub(super) manifest: Manifest,
    entries: Vec<(Header, Vec<u8>)>,
    /// What comes after the last entry.
    pub(super) end: Vec<u8>,
}

impl Forge {
    /// A good package but for what is added: `web` 1.0.0, with its start script.
    pub(super) fn new() -> Self {
        Self::bare().file("scripts/start.sh", b"#!/bin/sh\n")
    }

    /// `web` 1.0.0 without a start script.
    pub(super) fn bare() -> Self {
        let manifest = Manifest::new("web", semver::Version::new(1, 0, 0));
        Self { manifest, entries: Vec::new(), end: vec![0; 1024] }
    }

    /// A file that the manifest lists.
    pub(super) fn file(mut self, path: &str, content: &[u8]) -> Self {
        self.manifest.files.push(File {
            path: path.into(),
            size: content.len() as u64,
            sha256: Digest::of(content),
        });
        self.entry(EntryType::Regular, path.as_bytes(), "", content)
    }

    /// A link that the manifest lists.
    pub(super) fn link(mut self, path: &str, target: &str) -> Self {
        self.manifest.links.push(Link { path: path.into(), target: target.into() });
        self.entry(EntryType::Symlink, path.as_bytes(), target, b"")
    }

    /// An entry of any kind, which the manifest doesn't list.
    pub(super) fn entry(self, kind: EntryType, path: &[u8], link: &str, content: &[u8]) -> Self {
        self.entry_with(kind, path, link, content, |_| {})
    }

    /// The same, its header changed before its checksum is made.
    pub(super) fn entry_with(
        mut self,
        kind: EntryType,
        path: &[u8],
        link: &str,
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name.iter_mut().zip(path).for_each(|(to, from)| *to = *from);
        gnu.linkname.iter_mut().zip(link.bytes()).for_each(|(to, from)| *to = from);
        change(&mut header);
        header.set_cksum();
        self.entries.push((header, content.to_vec()));
        self
    }

    /// Changes the manifest.
    pub(super) fn manifest(mut self, change: impl FnOnce(&mut Manifest)) -> Self {
        change(&mut self.manifest);
        self
    }

    /// The archive, uncompressed.
    pub(super) fn tar(self) -> Vec<u8> {
        let text = self.manifest.to_text().unwrap();
        self.tar_with(&text)
    }

    /// The same with another text for the manifest.
    pub(super) fn tar_with(self, text: &str) -> Vec<u8> {
        let end = self.end.clone();
        let with = self.entry(EntryType::Regular, b"manifest.yaml", "", text.as_bytes());
        let mut entries = with.entries;
        let last = entries.pop().unwrap();
        entries.insert(0, last);
        let mut tar = Vec::new();
        for (header, content) in entries {
            tar.extend_from_slice(header.as_bytes());
            tar.extend_from_slice(&content);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        tar.extend_from_slice(&end);
        tar
    }

    /// The package.
    pub(super) fn pack(self) -> Vec<u8> {
        zst(&self.tar())
    }
}

/// Compressed as the builder does.
pub(super) fn zst(tar: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

/// Compressed as older packages are.
pub(super) fn gz(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}
