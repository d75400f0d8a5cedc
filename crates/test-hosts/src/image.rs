//! The images, by name. `cargo xtask hosts build` makes them.

/// An image for services: busybox under its usual names (`sh`, `httpd`, `nc`, `sleep`, …) and nothing else. 2 MB.
pub const BB: &str = "harness-test/bb";

/// An image without a shell: `/httpd` (what it runs when nothing is said: on port 8080, files from `/`), `/sleep`
/// and `/true`.
pub const BARE: &str = "harness-test/bare";

/// The label that holds the hash of what an image was made from.
pub const RECIPE: &str = "harness-test.recipe";

/// What a host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suite {
    /// Debian 12: systemd 252, OpenSSH 9.2, Docker 20.10 without Compose.
    Bookworm,
    /// Debian 13: systemd 257, OpenSSH 10.0, Docker 26.1, Compose 2.26 as its plugin.
    Trixie,
    /// Debian 12 with Podman 4.3 as `docker`, and no other engine.
    Podman,
}

impl Suite {
    /// All of them.
    pub const ALL: [Suite; 3] = [Suite::Bookworm, Suite::Trixie, Suite::Podman];

    /// Its name, in images and of its shared host.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
            Suite::Podman => "podman",
        }
    }

    /// The image that its hosts boot.
    pub fn image(self) -> &'static str {
        match self {
            Suite::Bookworm => "harness-test/host:bookworm",
            Suite::Trixie => "harness-test/host:trixie",
            Suite::Podman => "harness-test/host:podman",
        }
    }
}
