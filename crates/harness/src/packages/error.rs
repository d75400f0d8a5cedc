//! What can go wrong with packages, and the way out.

use crate::error::CommandError;
use crate::exit::Exit;
use command_executor::executor::ExecuteError;
use service_registry::package::archive::ArchiveError;
use service_registry::package::build::BuildError;
use service_registry::package::install::{Depot, InstallError};
use service_registry::package::sign::SignError;
use service_registry::package::unpack::UnpackError;
use std::io;
use std::path::{Path, PathBuf};

/// Why something can't be done with a package.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageError {
    /// A file that can't be used.
    #[error("can't use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// There is no folder to install to.
    #[error("no folder for packages: neither XDG_DATA_HOME nor HOME is set to an absolute path")]
    NoHome,
    /// A key that can't be used.
    #[error("can't use the key {}", path.display())]
    Key {
        /// What was given.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SignError,
    },
    /// A signature was asked for, and there is none.
    #[error("{} is not signed", path.display())]
    Unsigned {
        /// The package.
        path: PathBuf,
    },
    /// A signature that doesn't fit.
    #[error("{} is refused", path.display())]
    Signature {
        /// The package.
        path: PathBuf,
        /// Why.
        #[source]
        source: SignError,
    },
    /// A package that is refused.
    #[error("{} is refused", path.display())]
    Refused {
        /// The package.
        path: PathBuf,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// A package that can't be built.
    #[error("no package was built")]
    Build(#[from] BuildError),
    /// It can't be installed or switched to; `path` is the package or the folder.
    #[error("{} can't be installed", path.display())]
    Install {
        /// The package.
        path: PathBuf,
        /// Why.
        #[source]
        source: InstallError,
    },
    /// The folder of packages can't be used as wanted.
    #[error("nothing was changed in {}", path.display())]
    Depot {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: InstallError,
    },
    /// What the package requires isn't here.
    #[error("{package} requires {}, which is not in the search path", missing.join(", "))]
    Lacks {
        /// The package.
        package: String,
        /// The programs.
        missing: Vec<String>,
    },
    /// The package of a service.
    #[error("{service} needs its package, so nothing was started")]
    OfService {
        /// The service.
        service: String,
        /// What is wrong with it.
        #[source]
        source: Box<PackageError>,
    },
    /// Not a version.
    #[error("`{text}` is not a version as semver has it")]
    NoVersion {
        /// What stands there.
        text: String,
    },
    /// The file has another version than the one that is wanted, which isn't installed either.
    #[error("{package} isn't installed, and {} is version {found}", file.display())]
    OtherVersion {
        /// The package and the version.
        package: String,
        /// The package's file.
        file: PathBuf,
        /// Its version.
        found: semver::Version,
    },
    /// Packages that it depends on are here in versions that won't do.
    #[error("{package} depends on {}", unmet.join("; on "))]
    Unmet {
        /// The package.
        package: String,
        /// Each with the versions that would do, and the one that is current.
        unmet: Vec<String>,
    },
    /// A script failed.
    #[error("{script} {how}{}", quoted(output))]
    Script {
        /// Its path in the package.
        script: String,
        /// How it ended.
        how: String,
        /// Its last lines.
        output: String,
    },
    /// A script can't be run.
    #[error("{script} can't be run")]
    Start {
        /// Its path in the package.
        script: String,
        /// Why.
        #[source]
        source: ExecuteError,
    },
    /// The script after the switch failed.
    #[error("{}", if *stays { "the new version is current, but its last script failed" } else { "the switch was taken back" })]
    After {
        /// How.
        #[source]
        source: Box<PackageError>,
        /// Whether the new version is current all the same.
        stays: bool,
    },
    /// Ctrl-C.
    #[error("interrupted; nothing was changed")]
    Interrupted,
}

fn quoted(output: &str) -> String {
    output.lines().map(|line| format!("\n  | {line}")).collect()
}

impl PackageError {
    /// For `map_err` of what is done in a folder of packages.
    pub(crate) fn depot(depot: &Depot) -> impl Fn(InstallError) -> Self {
        Self::depot_at(depot.root())
    }

    pub(super) fn depot_at(path: &Path) -> impl Fn(InstallError) -> Self {
        let path = path.to_owned();
        move |source| Self::Depot { path: path.clone(), source }
    }

    fn is_interrupt(&self) -> bool {
        let unpack = |error: &UnpackError| matches!(error, UnpackError::Interrupted);
        match self {
            Self::Interrupted | Self::Build(BuildError::Interrupted) => true,
            Self::Refused { source, .. } => unpack(source),
            Self::Install { source: InstallError::Package(source), .. } => unpack(source),
            _ => false,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::OfService { .. } => Exit::USAGE,
            error if error.is_interrupt() => Exit::INTERRUPTED,
            Self::Key { .. } | Self::NoHome | Self::File { .. } | Self::Build(BuildError::Problems(_)) => {
                Exit::USAGE
            }
            Self::Depot { source: InstallError::NotInstalled { .. } | InstallError::Name(_), .. } => {
                Exit::USAGE
            }
            _ => Exit::GENERAL,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Key { source: SignError::Password, path } => {
                format!("`minisign -C -W -s {}` takes the password away", path.display())
            }
            Self::Key { .. } => "`harness package keygen` makes a pair of keys".into(),
            Self::Unsigned { path } => format!("its signature should be {}.minisig", path.display()),
            Self::Signature { source: SignError::OtherKey { .. }, .. } => {
                "`--key` names whose signature counts".into()
            }
            Self::Signature { .. } => {
                "copy the package and its .minisig again, both from where they were made".into()
            }
            Self::Refused { source: UnpackError::Archive(ArchiveError::Truncated), .. }
            | Self::Install {
                source: InstallError::Package(UnpackError::Archive(ArchiveError::Truncated)),
                ..
            } => "copy it again".into(),
            Self::Refused { source: UnpackError::OtherName { found, .. }, .. }
            | Self::Install { source: InstallError::Package(UnpackError::OtherName { found, .. }), .. } => {
                format!("if it is what you want, name it {found}.tar.zst")
            }
            Self::Install { source, .. } | Self::Depot { source, .. } => return installing(source),
            Self::OfService { source, .. } => match source.as_ref() {
                Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                    "`harness package build FOLDER` makes it".into()
                }
                other => return other.hint(),
            },
            Self::Unmet { .. } => {
                "deploy a version of it that will do first; `harness package list` shows what is here".into()
            }
            Self::Build(BuildError::Problems(_)) => {
                "manifest.yaml and the files beside it are to be changed".into()
            }
            Self::After { stays: true, .. } => {
                "`harness rollback NAME` goes back, `--rollback-on-failure` does it by itself".into()
            }
            _ => return None,
        })
    }
}

fn installing(error: &InstallError) -> Option<String> {
    Some(match error {
        InstallError::OtherContents { .. } => {
            "raise `version` in its manifest, or install it elsewhere with `--prefix`".into()
        }
        InstallError::Held { .. } => "wait until it is done, and try again".into(),
        InstallError::Taken { path, .. } => {
            format!("move {} away, or install elsewhere with `--prefix`", path.display())
        }
        InstallError::NotInstalled { known, .. } if !known.is_empty() => {
            format!("there is: {}", known.join(", "))
        }
        InstallError::NotInstalled { .. } => "`harness deploy FILE` installs a package".into(),
        InstallError::NoEarlier { .. } => {
            "`harness package list` shows what is installed, `--version` names one of it".into()
        }
        InstallError::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            "run it as root, or install elsewhere with `--prefix FOLDER`".into()
        }
        _ => return None,
    })
}

impl From<PackageError> for CommandError {
    fn from(error: PackageError) -> Self {
        let plain = Self::from_error(error.exit(), &error);
        match error.hint() {
            Some(hint) => plain.hint(hint),
            None => plain,
        }
    }
}
