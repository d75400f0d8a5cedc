//! What is said about files that travel.

use super::super::package::hash::Digest;
use super::super::package::name;
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};

/// `files.put`: [`PutParams`] → [`Opened`], then a stream of the missing chunks, whose end brings [`super::Received`] once all of it
/// is in its place.
pub const PUT: &str = "files.put";

/// What should be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct PutParams {
    /// Whose they are: what was put for the same owner before and isn't among them any more is removed.
    pub owner: String,
    /// What should be where.
    pub copies: Vec<Copy>,
    /// Every chunk of the files, once.
    pub chunks: Vec<Chunk>,
    /// The package that they are, unpacked: then they go to where it waits to be installed, and all paths are in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<PackagePlace>,
    /// Who steers that machine's agent, by the id that it was claimed with. An agent that another steers refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered_by: Option<String>,
    /// Only to tell what is missing of a package: nothing is made or changed, and nothing may be sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub look: bool,
}

/// Where a package that comes unpacked waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct PackagePlace {
    /// Its name.
    pub name: String,
    /// The SHA-256 of its archive.
    #[cfg_attr(feature = "openrpc", schemars(with = "String"))]
    pub sha256: Digest,
    /// Where it will be installed; else the folder of the agent's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<PathBuf>,
}

/// A file or the content of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Copy {
    /// The folder that it goes into: absolute, or below the folder of the agent's files.
    pub folder: PathBuf,
    /// What is in it, folders before what they hold.
    pub entries: Vec<Entry>,
}

/// A file, folder or link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Entry {
    /// Where, in the folder of its [`struct@Copy`]; `.` for the folder itself.
    pub path: String,
    /// What.
    pub kind: Kind,
}

/// What an [`Entry`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A folder.
    Folder {
        /// Its permission bits.
        mode: u32,
    },
    /// A file.
    File {
        /// Its permission bits.
        mode: u32,
        /// Its chunks, as positions in [`PutParams::chunks`].
        chunks: Vec<u32>,
    },
    /// A link.
    Link {
        /// What it says: leads to somewhere in the same folder tree.
        says: String,
    },
}

/// A chunk: its SHA-256 and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Chunk(#[cfg_attr(feature = "openrpc", schemars(with = "String"))] pub Digest, pub u32);

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openrpc", derive(schemars::JsonSchema))]
pub struct Opened {
    /// The stream's number.
    pub stream: u32,
    /// The chunks that are missing, in this order: each as its position and the bytes that follow, both u32, big-endian, and these
    /// bytes, which are a frame of zstd if there are fewer of them than the chunk has.
    pub missing: Vec<u32>,
}

impl PutParams {
    /// What is wrong with it, before anything is made of its paths; the error is for people.
    pub(super) fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=100).contains(&self.owner.len())
            || self.owner.starts_with('.')
            || !self.owner.chars().all(plain)
        {
            return Err(format!("{:?} can't own files", self.owner));
        }
        for Chunk(digest, size) in &self.chunks {
            if usize::try_from(*size).map_or(true, |size| size == 0 || size > super::chunk::MOST) {
                return Err(format!("the chunk {digest} can't have {size} bytes"));
            }
        }
        if let Some(package) = &self.package {
            let inside = self.copies.iter().all(|copy| copy.folder.is_relative());
            if !name::is_name(&package.name) || !inside {
                return Err(format!("{:?} is no package that can come so", package.name));
            }
        }
        if self.look && self.package.is_none() {
            return Err("only at what is missing of a package one can just look".into());
        }
        self.copies.iter().try_for_each(|copy| {
            if let Some(why) = refused(&copy.folder) {
                return Err(format!("{}: {why}", copy.folder.display()));
            }
            copy.entries
                .iter()
                .try_for_each(|entry| self.check_entry(entry).map_err(|why| format!("{}: {why}", entry.path)))
        })
    }

    fn check_entry(&self, entry: &Entry) -> Result<(), String> {
        if entry.path == "." {
            return match entry.kind {
                Kind::Folder { .. } => Ok(()),
                _ => Err("is no folder".into()),
            };
        }
        name::path(entry.path.as_bytes()).map_err(|problem| problem.to_string())?;
        match &entry.kind {
            Kind::Folder { .. } => Ok(()),
            Kind::File { chunks, .. } => {
                let known = |at: &u32| usize::try_from(*at).is_ok_and(|at| at < self.chunks.len());
                if chunks.iter().all(known) { Ok(()) } else { Err("has a chunk that isn't listed".into()) }
            }
            Kind::Link { says } => name::link_target(&entry.path, says.as_bytes())
                .map(|_| ())
                .map_err(|problem| format!("the link to {says}: {problem}")),
        }
    }
}

/// Why nothing can go to this path; `None` if it can.
pub(super) fn refused(path: &Path) -> Option<&'static str> {
    if path.components().any(|part| part == Component::ParentDir) {
        return Some("climbs out with `..`");
    }
    match path.to_str() {
        None => Some("not UTF-8"),
        Some(text) if text.contains('\0') => Some("has a NUL"),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_out_is_refused() {
        let entry = |path: &str, kind: Kind| PutParams {
            owner: "web".into(),
            copies: vec![Copy { folder: "conf".into(), entries: vec![Entry { path: path.into(), kind }] }],
            chunks: vec![Chunk(Digest::of(b"a"), 1)],
            package: None,
            steered_by: None,
            look: false,
        };
        let file = |chunks: &[u32]| Kind::File { mode: 0o644, chunks: chunks.to_vec() };
        assert_eq!(entry("a/b", file(&[0])).check(), Ok(()));
        for (params, part) in [
            (entry("../a", file(&[0])), "climbs out"),
            (entry("/a", file(&[0])), "absolute"),
            (entry(".", file(&[0])), "no folder"),
            (entry("a", file(&[1])), "isn't listed"),
            (entry("a", Kind::Link { says: "../x".into() }), "climbs out"),
            (entry("a", Kind::Link { says: "/etc/passwd".into() }), "absolute"),
            (PutParams { owner: "../x".into(), ..entry("a", file(&[])) }, "can't own"),
            (PutParams { look: true, ..entry("a", file(&[])) }, "just look"),
            (PutParams { chunks: vec![Chunk(Digest::of(b""), 0)], ..entry("a", file(&[])) }, "0 bytes"),
        ] {
            let why = params.check().unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        let mut out = entry("a", file(&[0]));
        out.copies[0].folder = "conf/../..".into();
        assert!(out.check().unwrap_err().contains("climbs out"));
    }
}
