//! Portable services of systemd: units that come with their image, through `portablectl`.
//!
//! Attaching copies the image's units to the machine; from then on they are [units](super::systemd) like others.
//! `portablectl list` and `is-attached` can't tell versions of an image apart, and `detach` of a version that isn't
//! attached undoes the one that is. So which image is attached is read from the unit itself, [its root](UnitState::root),
//! and only what was [seen so](PortableAttachment) is detached.

use super::systemd::{LoadState, SystemdError, SystemdService, UnitState};
use super::text::{between, contains};
use crate::command::Command;
use crate::executor::Finished;
use crate::process::Exit;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Portabled reads the image, and systemd all its unit files.
const CHANGE: Duration = Duration::from_secs(120);
const QUERY: Duration = Duration::from_secs(30);

/// Where the units of attached images lie, and whether they are gone after a reboot.
const ATTACHED: [(&str, bool); 2] =
    [("/run/systemd/system.attached", true), ("/etc/systemd/system.attached", false)];
/// Where an image that is given by its name is looked for.
const IMAGES: [&str; 5] = [
    "/etc/portables",
    "/run/portables",
    "/usr/local/lib/portables",
    "/var/lib/portables",
    "/usr/lib/portables",
];

/// A unit that comes with its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemdPortable {
    /// The image: an absolute path, real rather than a link, or the name of one in `/var/lib/portables`.
    pub image: PathBuf,
    /// The unit of it that is started, of the machine's manager.
    pub service: SystemdService,
    /// Which of systemd's profiles restricts it: `default`, `nonetwork`, `strict`, `trusted`.
    pub profile: Option<String>,
    /// The beginnings of the names of units that are attached; none are those that the image itself names.
    pub prefixes: Vec<String>,
    /// Whether it is forgotten at the next boot.
    pub runtime: bool,
}

/// An image as it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortableAttachment {
    /// The image.
    pub image: PathBuf,
    /// Whether it is forgotten at the next boot.
    pub runtime: bool,
}

/// What has to be done so that a unit is that of its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortableStep {
    /// Nothing.
    Nothing,
    /// [`SystemdPortable::attach`].
    Attach,
    /// [`SystemdPortable::reattach`], and a restart of the unit: until then it runs from the old image.
    Reattach(PortableAttachment),
    /// [`SystemdPortable::detach`] what is attached, then attach: it is attached for another time than is wanted.
    Replace(PortableAttachment),
    /// Nothing can be done: the unit is the machine's own.
    Foreign,
}

impl SystemdPortable {
    /// That unit of that image, kept over reboots, with the image's own prefixes and profile `default`.
    pub fn new(image: impl Into<PathBuf>, service: SystemdService) -> Self {
        Self { image: image.into(), service, profile: None, prefixes: Vec::new(), runtime: false }
    }

    /// What has to be done, as its unit is now.
    pub fn step(&self, unit: &UnitState) -> PortableStep {
        match PortableAttachment::of(unit) {
            Some(attachment) if attachment.runtime != self.runtime => PortableStep::Replace(attachment),
            Some(attachment) if attachment.is_of(&self.image) => PortableStep::Nothing,
            Some(attachment) => PortableStep::Reattach(attachment),
            None if unit.load == LoadState::NotFound => PortableStep::Attach,
            None => PortableStep::Foreign,
        }
    }

    /// Attaches the image. It starts nothing.
    pub fn attach(&self) -> Command {
        self.with_profile("attach")
    }

    /// Attaches the image in the place of another version. The unit runs on from the old one until it is restarted.
    pub fn reattach(&self) -> Command {
        self.with_profile("reattach")
    }

    /// Detaches what is attached; its units must have been stopped.
    pub fn detach(&self, attachment: &PortableAttachment) -> Command {
        let runtime = attachment.runtime.then_some("--runtime");
        portablectl()
            .arg("detach")
            .args(runtime)
            .arg("--")
            .arg(&attachment.image)
            .args(&self.prefixes)
            .timeout(CHANGE)
    }

    /// Prints what is in the image: its release and its unit files.
    pub fn inspect(&self) -> Command {
        portablectl().args(["inspect", "--cat", "--"]).arg(&self.image).args(&self.prefixes).timeout(QUERY)
    }

    fn with_profile(&self, verb: &str) -> Command {
        let runtime = self.runtime.then_some("--runtime");
        let profile = self.profile.iter().map(|profile| format!("--profile={profile}"));
        let command = portablectl().arg(verb).args(runtime).args(profile).arg("--");
        command.arg(&self.image).args(&self.prefixes).timeout(CHANGE)
    }
}

fn portablectl() -> Command {
    Command::new("portablectl").args(["--no-ask-password", "--no-pager", "--quiet"])
}

impl PortableAttachment {
    /// What a unit was attached with; `None` if it wasn't.
    pub fn of(unit: &UnitState) -> Option<Self> {
        let fragment = unit.fragment.as_ref()?;
        let (_, runtime) = ATTACHED.into_iter().find(|(folder, _)| fragment.starts_with(folder))?;
        Some(Self { image: unit.root.clone()?, runtime })
    }

    /// Whether it is that image: the same path, or the name of one where images are kept.
    pub fn is_of(&self, image: &Path) -> bool {
        let is_kept =
            self.image.parent().is_some_and(|parent| IMAGES.iter().any(|folder| parent == Path::new(folder)));
        let is_named = || {
            is_kept
                && (self.image.file_name() == Some(image.as_os_str())
                    || self.image.file_stem() == Some(image.as_os_str()))
        };
        self.image == image || is_named()
    }
}

/// Why portablectl didn't do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortableError {
    /// There is no such image.
    #[error("there is no image {image}")]
    NoSuchImage {
        /// The image.
        image: String,
    },
    /// It is no image of a portable service.
    #[error("not an image of a portable service: {why}")]
    NotPortable {
        /// What portablectl says.
        why: String,
    },
    /// A unit of that name is there already, attached or the machine's own.
    #[error("there is a unit {unit} already")]
    UnitExists {
        /// The unit.
        unit: String,
    },
    /// The image isn't attached.
    #[error("the image {image} isn't attached")]
    NotAttached {
        /// The image.
        image: String,
    },
    /// A unit of it still runs.
    #[error("the unit {unit} still runs")]
    UnitActive {
        /// The unit.
        unit: String,
    },
    /// The machine has no portabled.
    #[error("this machine has no service for portable images")]
    NotInstalled,
    /// What systemctl would say too.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
}

/// Whether the portablectl that ended did what it should.
///
/// # Errors
/// Why not, from what it wrote to its standard error.
pub fn check(finished: &Finished) -> Result<(), PortableError> {
    if finished.exit.is_success() {
        return Ok(());
    }
    Err(PortableError::classify(finished.exit, &finished.stderr.to_text()))
}

impl PortableError {
    /// What a portablectl that ended like that meant by this text.
    pub fn classify(exit: Exit, stderr: &str) -> Self {
        let is_noise = |line: &&str| line.starts_with("(Matching unit files") || line.trim().is_empty();
        let lines: Vec<&str> = stderr.lines().filter(|line| !is_noise(line)).collect();
        let text = lines.join("\n");
        let image = between(&text, "image path '", "': No such file")
            .or_else(|| between(&text, "No image '", "' found"))
            .or_else(|| between(&text, "Failed to open image '", "': No such file"));
        if let Some(image) = image {
            return Self::NoSuchImage { image: image.to_owned() };
        }
        if let Some(unit) = between(&text, "Unit file '", "' exists on the host") {
            return Self::UnitExists { unit: unit.to_owned() };
        }
        if let Some(unit) = between(&text, "Unit file '", "' is active") {
            return Self::UnitActive { unit: unit.to_owned() };
        }
        if let Some(image) = between(&text, "No unit files associated with '", "' found attached") {
            return Self::NotAttached { image: image.to_owned() };
        }
        if contains(
            &text,
            &["lacks os-release", "any matching unit files", "not compatible with portable service"],
        ) {
            let why = text.split_once("failed: ").map_or(text.as_str(), |(_, why)| why);
            return Self::NotPortable { why: why.to_owned() };
        }
        if contains(
            &text,
            &[
                "portable1.service not found",
                "org.freedesktop.portable1 was not provided",
                "portable1.service is masked",
            ],
        ) {
            return Self::NotInstalled;
        }
        Self::Systemd(SystemdError::classify(exit, &text))
    }

    /// What to do about it, where there is something to say that can be done.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotPortable { .. } => {
                "it needs usr/lib/os-release with PORTABLE_PREFIXES=, and unit files whose names begin with one of them".into()
            }
            Self::UnitExists { unit } => format!("systemctl status {unit} shows where it comes from"),
            Self::UnitActive { unit } => format!("stop it first: systemctl stop {unit}"),
            Self::NotInstalled => "install it: systemd-container on Debian, systemd-portable on Fedora and SUSE".into(),
            Self::Systemd(error) => return error.hint(),
            Self::NoSuchImage { .. } | Self::NotAttached { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(command: &Command) -> String {
        command.argv().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    fn app(image: &str) -> SystemdPortable {
        SystemdPortable::new(image, SystemdService::new("app").unwrap())
    }

    #[test]
    fn verbs_lower_to_portablectl() {
        let plain = app("/srv/app_1");
        let mut full = plain.clone();
        (full.runtime, full.profile) = (true, Some("trusted".into()));
        full.prefixes = vec!["app".into(), "db".into()];
        let seen = PortableAttachment { image: "/srv/app_0".into(), runtime: true };
        let begin = "portablectl --no-ask-password --no-pager --quiet";
        let table = [
            (plain.attach(), "attach -- /srv/app_1"),
            (plain.reattach(), "reattach -- /srv/app_1"),
            (plain.inspect(), "inspect --cat -- /srv/app_1"),
            (full.attach(), "attach --runtime --profile=trusted -- /srv/app_1 app db"),
            (full.reattach(), "reattach --runtime --profile=trusted -- /srv/app_1 app db"),
            (plain.detach(&seen), "detach --runtime -- /srv/app_0"),
        ];
        for (command, end) in table {
            assert_eq!(text(&command), format!("{begin} {end}"));
        }
    }

    fn unit(load: &str, fragment: &str, root: &str) -> UnitState {
        let block = format!(
            "Id=app.service\nLoadState={load}\nActiveState=inactive\nFragmentPath={fragment}\nRootDirectory={root}\n"
        );
        UnitState::parse_one(block.as_bytes()).unwrap()
    }

    #[test]
    fn what_has_to_be_done_follows_from_what_the_unit_says() {
        let wanted = app("/srv/app_2");
        let at = |folder: &str, root: &str| unit("loaded", &format!("{folder}/app.service"), root);
        let etc = "/etc/systemd/system.attached";
        let seen = |image: &str, runtime| PortableAttachment { image: image.into(), runtime };
        let table = [
            (unit("not-found", "", ""), PortableStep::Attach),
            (at(etc, "/srv/app_2"), PortableStep::Nothing),
            (at(etc, "/srv/app_1"), PortableStep::Reattach(seen("/srv/app_1", false))),
            (
                at("/run/systemd/system.attached", "/srv/app_2"),
                PortableStep::Replace(seen("/srv/app_2", true)),
            ),
            (at("/etc/systemd/system", "/srv/app_2"), PortableStep::Foreign),
            (unit("masked", "", ""), PortableStep::Foreign),
        ];
        for (unit, step) in table {
            assert_eq!(wanted.step(&unit), step);
        }
        let kept = at(etc, "/var/lib/portables/app_2.raw");
        for (name, step) in [("app_2", true), ("app_2.raw", true), ("app_1", false)] {
            assert_eq!(app(name).step(&kept) == PortableStep::Nothing, step, "{name}");
        }
    }

    #[test]
    fn what_portablectl_wrote_is_told_apart() {
        let table = [
            ("Cannot normalize specified image path '/x': No such file or directory", "there is no image /x"),
            ("AttachImage failed: No image 'x' found.", "there is no image x"),
            (
                "(Matching unit files with prefix 'app'.)\nAttachImage failed: Unit file 'app.service' exists on the \
                 host already, refusing.",
                "there is a unit app.service already",
            ),
            (
                "DetachImage failed: Unit file 'app.service' is active, can't detach.",
                "the unit app.service still runs",
            ),
            (
                "DetachImage failed: No unit files associated with '/x' found attached to the system. Image not attached?",
                "the image /x isn't attached",
            ),
            (
                "AttachImage failed: Image '/x' lacks os-release data, refusing.",
                "not an image of a portable service: Image '/x' lacks os-release data, refusing.",
            ),
            (
                "Failed to list images: Unit dbus-org.freedesktop.portable1.service not found.",
                "this machine has no service for portable images",
            ),
            ("AttachImage failed: Access denied", "no permission to do that with systemd's units"),
            ("new trouble", "systemctl failed (exit code 1): new trouble"),
        ];
        for (text, told) in table {
            assert_eq!(PortableError::classify(Exit::Code(1), text).to_string(), told);
        }
    }
}
