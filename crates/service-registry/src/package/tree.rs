//! What a package holds, and which things can't stand together in it: the same rules for who builds and who unpacks.

use super::manifest::Manifest;
use super::name::{self, PathProblem, normal};
use std::collections::BTreeMap;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A folder; `listed` when it has an entry of its own.
    Folder { listed: bool },
    /// A file.
    File { executable: bool },
    /// A link, and the path in the package that it leads to.
    Link { target: String },
}

/// Why something can't be in a package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    /// Its path.
    #[error("{0}")]
    Path(#[from] PathProblem),
    /// It is no file, folder or link: a device, a pipe, a hard link.
    #[error("{0}, and a package holds files, folders and links only")]
    Kind(&'static str),
    /// Mode bits that give rights.
    #[error("has a setuid, setgid or sticky bit")]
    Rights,
    /// Its path is taken.
    #[error("is there twice")]
    Twice,
    /// A part of its path is a link.
    #[error("lies behind the link {0}")]
    BehindLink(String),
    /// A part of its path is a file.
    #[error("lies in {0}, which is no folder")]
    InFile(String),
    /// Where the link leads.
    #[error("is a link to {target}, which {problem}")]
    Target {
        /// What the link says.
        target: String,
        /// What is wrong with it.
        problem: TargetProblem,
    },
}

/// Why a link can't lead there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetProblem {
    /// The text.
    #[error("isn't inside the package: {0}")]
    Path(#[from] PathProblem),
    /// Over another link.
    #[error("goes through another link")]
    ThroughLink,
    /// To itself, over others or at once.
    #[error("leads in a circle")]
    Circle,
    /// To nothing.
    #[error("isn't in the package")]
    Nothing,
}

/// Everything that a package holds, by path.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Keys are in NFC, so that paths that look the same are the same.
    kinds: BTreeMap<String, Kind>,
    /// What the links say, by their path as it was given.
    links: Vec<(String, String)>,
}

impl Tree {
    /// Adds what stands at a path that [`name::path`] has found good.
    pub(super) fn add(&mut self, path: &str, kind: Kind) -> Result<(), EntryProblem> {
        for (end, _) in path.match_indices('/') {
            let parent = path.get(..end).unwrap_or_default();
            match self.kinds.entry(normal(parent)).or_insert(Kind::Folder { listed: false }) {
                Kind::Folder { .. } => {}
                Kind::Link { .. } => return Err(EntryProblem::BehindLink(parent.to_owned())),
                Kind::File { .. } => return Err(EntryProblem::InFile(parent.to_owned())),
            }
        }
        match (self.kinds.get_mut(&normal(path)), &kind) {
            (None, _) => drop(self.kinds.insert(normal(path), kind)),
            (Some(Kind::Folder { listed: listed @ false }), Kind::Folder { .. }) => *listed = true,
            (Some(_), _) => return Err(EntryProblem::Twice),
        }
        Ok(())
    }

    /// Adds a link with what it says; where it leads is looked at by [`Tree::bad_links`].
    pub(super) fn add_link(&mut self, path: &str, says: &[u8]) -> Result<String, EntryProblem> {
        let text = || String::from_utf8_lossy(says).escape_debug().to_string();
        let target = name::link_target(path, says)
            .map_err(|problem| EntryProblem::Target { target: text(), problem: problem.into() })?;
        self.add(path, Kind::Link { target })?;
        // What was good is UTF-8.
        let says = String::from_utf8_lossy(says).into_owned();
        self.links.push((path.to_owned(), says.clone()));
        Ok(says)
    }

    /// The links that lead nowhere, in a circle, or through another link. For when all has been added.
    pub(super) fn bad_links(&self) -> impl Iterator<Item = (&str, EntryProblem)> {
        self.links.iter().filter_map(|(path, says)| {
            let problem = self.follow(path).err()?;
            Some((path.as_str(), EntryProblem::Target { target: says.escape_debug().to_string(), problem }))
        })
    }

    /// What a path leads to, links followed.
    fn follow(&self, path: &str) -> Result<Option<&Kind>, TargetProblem> {
        let mut at = normal(path);
        for _ in 0..=self.links.len() {
            let target = match self.kinds.get(&at) {
                Some(Kind::Link { target }) => target,
                found => return Ok(found),
            };
            if target.is_empty() {
                return Ok(Some(&Kind::Folder { listed: false }));
            }
            let through = target.match_indices('/').filter_map(|(end, _)| target.get(..end));
            if through
                .into_iter()
                .any(|part| matches!(self.kinds.get(&normal(part)), Some(Kind::Link { .. })))
            {
                return Err(TargetProblem::ThroughLink);
            }
            at = normal(target);
            if !self.kinds.contains_key(&at) {
                return Err(TargetProblem::Nothing);
            }
        }
        Err(TargetProblem::Circle)
    }

    /// Whether the file at a path may be executed; `None` where there is no file.
    pub(super) fn executable(&self, path: &str) -> Option<bool> {
        match self.follow(path).ok()? {
            Some(Kind::File { executable }) => Some(*executable),
            _ => None,
        }
    }

    /// What the manifest needs and the tree lacks.
    pub(super) fn missing(&self, manifest: &Manifest) -> Vec<super::manifest::Problem> {
        manifest.missing(|path| self.executable(path))
    }

    /// What the links say, sorted by path.
    pub(super) fn links(&self) -> Vec<(String, String)> {
        let mut links = self.links.clone();
        links.sort();
        links
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Kind = Kind::File { executable: false };

    #[test]
    fn what_cannot_stand_together() {
        let mut tree = Tree::default();
        tree.add("a/b", FILE).unwrap();
        tree.add("a", Kind::Folder { listed: true }).unwrap();
        assert_eq!(tree.add("a", Kind::Folder { listed: true }), Err(EntryProblem::Twice));
        assert_eq!(tree.add("a", FILE), Err(EntryProblem::Twice));
        assert_eq!(tree.add("a/b/c", FILE), Err(EntryProblem::InFile("a/b".into())));
        tree.add_link("l", b"a").unwrap();
        assert_eq!(tree.add("l/x", FILE), Err(EntryProblem::BehindLink("l".into())));
        assert_eq!(tree.add_link("l", b"a"), Err(EntryProblem::Twice));
        tree.add("caf\u{e9}", FILE).unwrap();
        assert_eq!(tree.add("cafe\u{301}", FILE), Err(EntryProblem::Twice));
        assert_eq!(tree.bad_links().next(), None);
    }

    #[test]
    fn where_links_may_lead() {
        let problem = |links: &[(&str, &str)]| {
            let mut tree = Tree::default();
            tree.add("d/file", Kind::File { executable: true }).unwrap();
            for (path, target) in links {
                tree.add_link(path, target.as_bytes()).unwrap();
            }
            match tree.bad_links().next() {
                None => Ok(tree.executable(links[0].0)),
                Some((_, EntryProblem::Target { problem, .. })) => Err(problem),
                Some((_, other)) => panic!("{other}"),
            }
        };
        assert_eq!(problem(&[("l", "d/file")]), Ok(Some(true)));
        assert_eq!(problem(&[("d/l", "file"), ("m", "d/l")]), Ok(Some(true)));
        assert_eq!(problem(&[("l", "d")]), Ok(None));
        assert_eq!(problem(&[("l", "x")]), Err(TargetProblem::Nothing));
        assert_eq!(problem(&[("l", "m/file"), ("m", "d")]), Err(TargetProblem::ThroughLink));
        assert_eq!(problem(&[("l", "m"), ("m", "l")]), Err(TargetProblem::Circle));
        assert_eq!(problem(&[("l", "l")]), Err(TargetProblem::Circle));
    }
}
