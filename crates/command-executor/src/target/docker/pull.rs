//! How far a pull is.

use std::collections::BTreeMap;

/// What `docker pull` printed so far, line by line. Podman's words are counted too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    layers: BTreeMap<String, Step>,
    digest: Option<String>,
    up_to_date: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Waiting,
    Downloaded,
    Done,
}

impl PullProgress {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a line of its output; whether it changed anything.
    pub fn push(&mut self, line: &str) -> bool {
        let line = line.trim();
        if let Some(digest) = line.strip_prefix("Digest: ") {
            self.digest = Some(digest.to_owned());
            return true;
        }
        if line.starts_with("Status: Image is up to date") {
            self.up_to_date = true;
            return true;
        }
        // Podman: "Copying blob 4abcf2066143 done".
        if let Some(rest) = line.strip_prefix("Copying blob ") {
            let Some(layer) = rest.split_whitespace().next() else { return false };
            let done = rest.contains(" done") || rest.contains("skipped");
            return self.reach(layer, if done { Step::Done } else { Step::Waiting });
        }
        // Docker: "4abcf2066143: Pull complete".
        let Some((layer, what)) = line.split_once(": ") else { return false };
        let step = match what {
            "Pulling fs layer" | "Waiting" | "Verifying Checksum" => Step::Waiting,
            "Download complete" => Step::Downloaded,
            "Pull complete" | "Already exists" => Step::Done,
            _ => return false,
        };
        self.reach(layer, step)
    }

    fn reach(&mut self, layer: &str, step: Step) -> bool {
        let before = self.layers.get(layer).copied();
        if before.is_some_and(|before| before >= step) {
            return false;
        }
        self.layers.insert(layer.to_owned(), step);
        true
    }

    /// Layers that are known of; more may follow.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Layers that are fetched, unpacked or not.
    pub fn downloaded(&self) -> usize {
        self.layers.values().filter(|step| **step >= Step::Downloaded).count()
    }

    /// Layers that are unpacked.
    pub fn complete(&self) -> usize {
        self.layers.values().filter(|step| **step == Step::Done).count()
    }

    /// Which image it is, said at the end.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Whether it was there already.
    pub fn is_up_to_date(&self) -> bool {
        self.up_to_date
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted() {
        let mut pull = PullProgress::new();
        let lines = "1.25: Pulling from library/nginx\n\
                     aaa: Already exists\n\
                     bbb: Pulling fs layer\n\
                     ccc: Pulling fs layer\n\
                     ccc: Download complete\n\
                     bbb: Verifying Checksum\n\
                     bbb: Download complete\n\
                     bbb: Pull complete";
        for line in lines.lines() {
            pull.push(line);
        }
        assert_eq!((pull.layers(), pull.downloaded(), pull.complete()), (3, 3, 2));
        assert!(!pull.push("bbb: Download complete"));
        assert!(pull.push("Digest: sha256:12"));
        assert_eq!(pull.digest(), Some("sha256:12"));
        assert!(pull.push("Status: Image is up to date for nginx:1.25"));
        assert!(pull.is_up_to_date());
    }
}
