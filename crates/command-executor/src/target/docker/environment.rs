//! How a container's environment reaches the engine without standing in an argv.
//!
//! `--env NAME` takes the value from the docker client's own environment. A name that would change the client itself,
//! or what runs it, goes through `--env-file /dev/stdin` instead, whose lines end at line breaks.

use std::collections::BTreeMap;

/// Names that mean something to the docker client, its helpers, the dynamic linker, or a shell on the way.
const NAMES: [&str; 33] = [
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "ENV",
    "FPATH",
    "HARNESS_RUN",
    "HOME",
    "HOSTALIASES",
    "HOSTNAME",
    "IFS",
    "LOCALDOMAIN",
    "LOCPATH",
    "LOGNAME",
    "MAIL",
    "NLSPATH",
    "NOTIFY_SOCKET",
    "OLDPWD",
    "PATH",
    "POSIXLY_CORRECT",
    "PWD",
    "SHELL",
    "SHELLOPTS",
    "SHLVL",
    "TEMP",
    "TERM",
    "TMP",
    "TMPDIR",
    "TZ",
    "TZDIR",
    "USER",
    "ZDOTDIR",
    "KUBECONFIG",
    "NO_COLOR",
];

/// The same, by their beginnings.
const PREFIXES: [&str; 27] = [
    "BASH_FUNC_",
    "BUILDKIT_",
    "BUILDX_",
    "COMPOSE_",
    "CONTAINERS_",
    "CONTAINER_",
    "DBUS_",
    "DOCKER_",
    "GCONV_",
    "GLIBC_",
    "GO",
    "GRPC_",
    "LANG",
    "LC_",
    "LD_",
    "LISTEN_",
    "MALLOC_",
    "NSS_",
    "OTEL_",
    "PODMAN_",
    "PS",
    "RES_",
    "SSH_",
    "SSL_",
    "STORAGE_",
    "SUDO_",
    "XDG_",
];

/// Bytes of a line that docker's reader of such files takes (64 KiB with the break), with some to spare.
const LINE: usize = 60 * 1024;
/// Bytes that the kernel takes as one variable (128 KiB with its name), with some to spare.
const VARIABLE: usize = 127 * 1024;

/// Why a container can't be described to docker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerSpecError {
    /// A variable has no way into the container.
    #[error("docker can't be given the variable {name}: {why}")]
    Variable {
        /// Its name.
        name: String,
        /// Why, for people.
        why: &'static str,
    },
    /// A volume can't be mounted like that.
    #[error("docker can't mount {volume}: {why}")]
    Volume {
        /// The volume as `--volume` would take it.
        volume: String,
        /// Why, for people.
        why: &'static str,
    },
    /// Docker takes a group only together with a user: alone it would make the user root.
    #[error("docker takes the group {group:?} only together with a user")]
    GroupWithoutUser {
        /// The group.
        group: String,
    },
    /// A name or image that can't be one.
    #[error("{text:?} can't be {what}")]
    Name {
        /// What it should be, with its article.
        what: &'static str,
        /// What it is.
        text: String,
    },
}

/// A container's environment on its way.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Carried<'a> {
    /// In the client's environment.
    pub(super) by_name: Vec<(&'a str, &'a str)>,
    /// As the file.
    pub(super) file: Vec<u8>,
}

/// Decides how each variable travels; `can_read` says whether the client's standard input is free for the file.
pub(super) fn carry(
    variables: &BTreeMap<String, String>,
    can_read: bool,
) -> Result<Carried<'_>, ContainerSpecError> {
    let mut carried = Carried::default();
    for (name, value) in variables {
        let refuse = |why| Err(ContainerSpecError::Variable { name: name.clone(), why });
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return refuse("no process can have it");
        }
        if is_identifier(name) && !changes_the_client(name) {
            if name.len() + value.len() > VARIABLE {
                return refuse("it is longer than the kernel lets a variable be");
            }
            carried.by_name.push((name, value));
            continue;
        }
        if !can_read {
            return refuse("it would change docker's client, and the command reads standard input itself");
        }
        if name.contains(char::is_whitespace) || name.starts_with('#') {
            return refuse("a name with blanks fits neither docker's client nor its env file");
        }
        if value.contains('\n') || value.ends_with('\r') {
            return refuse(
                "it would change docker's client, and a line of an env file can't hold its line break",
            );
        }
        if name.len() + value.len() > LINE {
            return refuse("it is longer than docker lets a line of an env file be");
        }
        carried.file.extend_from_slice(format!("{name}={value}\n").as_bytes());
    }
    Ok(carried)
}

/// Whether a shell on the way can export it.
fn is_identifier(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether a variable of that name means something to the docker client itself, or to what runs it.
pub(crate) fn changes_the_client(name: &str) -> bool {
    NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name.to_ascii_uppercase().ends_with("_PROXY")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_would_change_the_client_goes_through_the_file() {
        let given = variables(&[
            ("A", "1"),
            ("CERT", "two\nlines"),
            ("DOCKER_HOST", "tcp://x"),
            ("PATH", "/app/bin"),
            ("http_proxy", "http://p"),
            ("my.name", "v"),
        ]);
        let carried = carry(&given, true).unwrap();
        assert_eq!(carried.by_name, [("A", "1"), ("CERT", "two\nlines")]);
        assert_eq!(carried.file, b"DOCKER_HOST=tcp://x\nPATH=/app/bin\nhttp_proxy=http://p\nmy.name=v\n");
    }

    #[test]
    fn what_has_no_way_is_refused_by_its_name() {
        let long = "x".repeat(LINE);
        let table = [
            ("", "x"),
            ("A=B", "x"),
            ("A", "x\0"),
            ("PATH", "/a\n/b"),
            ("PATH", "/a\r"),
            ("a b", "x"),
            ("#a", "x"),
            ("PATH", &long),
        ];
        for (name, value) in table {
            let error = carry(&variables(&[(name, value)]), true).err().unwrap();
            assert!(matches!(&error, ContainerSpecError::Variable { name: said, .. } if said == name));
            assert!(!error.to_string().contains("/a"), "a value in {error}");
        }
        assert!(carry(&variables(&[("PATH", "/a")]), false).is_err());
        assert!(carry(&variables(&[("A", "/a")]), false).is_ok());
    }
}
