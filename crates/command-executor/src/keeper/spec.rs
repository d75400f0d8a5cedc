//! What a keeper is asked to run: a value, and how it is written for the way to the zygote.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{ffi::OsString, fmt, path::PathBuf, str::FromStr, time::Duration};
use thiserror::Error;
use uuid::Uuid;

/// One run of one instance: a UUIDv7, so that the names of runs sort by the time of their start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(Uuid);

/// The text isn't the name of a run: a UUID, lower-case with hyphens.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` isn't the id of a run (a UUID)")]
pub struct InvalidRunId(String);

impl RunId {
    /// A new one, from the clock and the kernel's randomness.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// A new one that sorts after `earlier`, also where the clock was set back since: then it is of the millisecond
    /// after that one's (RFC 9562, 6.2).
    pub fn after(earlier: Option<Self>) -> Self {
        let fresh = Uuid::now_v7();
        let Some(Self(earlier)) = earlier.filter(|earlier| fresh <= earlier.0) else { return Self(fresh) };
        let mut random = [0; 10];
        random.copy_from_slice(fresh.as_bytes().last_chunk::<10>().unwrap_or(&[0; 10]));
        let millis = earlier.as_u128() >> 80;
        let next = u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1);
        Self(uuid::Builder::from_unix_timestamp_millis(next, &random).into_uuid())
    }
}

impl FromStr for RunId {
    type Err = InvalidRunId;

    fn from_str(text: &str) -> Result<Self, InvalidRunId> {
        match Uuid::try_parse(text) {
            // Only the canonical form: a run's name is also the name of its files.
            Ok(uuid) if uuid.hyphenated().to_string() == text => Ok(Self(uuid)),
            _ => Err(InvalidRunId(text.to_owned())),
        }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What is kept of a run's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes after which the file is rotated (at the end of a line).
    pub max_size: u64,
    /// Rotated files kept for each run, besides the current one.
    pub keep_files: u32,
    /// Runs kept for each instance, with the current one (0 counts as 1).
    pub keep_runs: u32,
}

impl Default for LogLimits {
    /// 16 MiB, 4 rotated files, 5 runs.
    fn default() -> Self {
        Self { max_size: 16 << 20, keep_files: 4, keep_runs: 5 }
    }
}

/// A program to run under a keeper, and everything it needs to know about it.
///
/// `Debug` shows the names of the environment, never its values.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The instance, which is also the name of its folder: `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
    pub instance: String,
    /// This run of it.
    pub run: RunId,
    /// The program (searched in the `PATH` of `env` if it has no `/`) and its arguments; not empty.
    #[serde(with = "lossless::list")]
    pub argv: Vec<OsString>,
    /// The whole environment; `HARNESS_RUN` is added.
    #[serde(with = "lossless::pairs")]
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, entered as `user`.
    #[serde(with = "lossless::path")]
    pub cwd: PathBuf,
    /// A user's name or number; it gets that user's groups.
    pub user: Option<String>,
    /// A group's name or number, instead of the user's own.
    pub group: Option<String>,
    /// The signal that asks the main process to end, where none is named and when the keeper itself is asked to end.
    pub stop_signal: i32,
    /// How long it may take to end before the whole tree is killed.
    pub stop_timeout: Duration,
    /// A command that asks it to end, run as it is: same user, environment and folder, `HARNESS_PID` besides; what it prints goes
    /// to the log. The signal follows when it has ended, however it did, and at the latest at half of the time-out. Empty: none.
    #[serde(with = "lossless::list", default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<OsString>,
    /// The limit of open files, soft and hard; `None` restores the soft limit of [`super::KeeperOptions`].
    pub open_files: Option<u64>,
    /// Niceness, -20 to 19.
    pub nice: Option<i32>,
    /// A folder of cgroup v2 that exists, which the service joins and which is killed with it.
    #[serde(with = "lossless::maybe_path", default)]
    pub cgroup: Option<PathBuf>,
    /// A file that it sees at `/etc/hosts`, absolute: it gets a mount namespace of its own, within a user namespace where the
    /// keeper may not make one otherwise. Written in place while it runs, a change is seen; replaced, it isn't.
    #[serde(with = "lossless::maybe_path", default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<PathBuf>,
    /// What is kept of its output.
    pub logs: LogLimits,
    /// Whether it has a standard input that can be written to; else `/dev/null`.
    pub stdin: bool,
    /// It runs on a lease: at this time since boot, sleep included (CLOCK_BOOTTIME), the whole tree is killed unless the lease
    /// is renewed before ([`super::Keepers::renew`]). `None`: as long as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<Duration>,
}

impl RunSpec {
    /// A run with nothing special: the empty environment, SIGTERM and ten seconds, no limits.
    pub fn new(instance: impl Into<String>, argv: Vec<OsString>, cwd: impl Into<PathBuf>) -> Self {
        Self {
            instance: instance.into(),
            run: RunId::generate(),
            argv,
            env: Vec::new(),
            cwd: cwd.into(),
            user: None,
            group: None,
            stop_signal: libc::SIGTERM,
            stop_timeout: Duration::from_secs(10),
            stop: Vec::new(),
            open_files: None,
            nice: None,
            cgroup: None,
            hosts: None,
            logs: LogLimits::default(),
            stdin: false,
            lease_until: None,
        }
    }
}

impl fmt::Debug for RunSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("RunSpec")
            .field("instance", &self.instance)
            .field("run", &self.run)
            .field("argv", &self.argv)
            .field("env", &names)
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .field("group", &self.group)
            .field("stop_signal", &self.stop_signal)
            .field("stop_timeout", &self.stop_timeout)
            .field("stop", &self.stop)
            .field("open_files", &self.open_files)
            .field("nice", &self.nice)
            .field("cgroup", &self.cgroup)
            .field("hosts", &self.hosts)
            .field("logs", &self.logs)
            .field("stdin", &self.stdin)
            .field("lease_until", &self.lease_until)
            .finish()
    }
}

/// Whether `name` can be the name of a folder among the instances.
pub(super) fn is_instance_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 128
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// Strings of the operating system in JSON: text where they are text, else their bytes as a list of numbers.
mod lossless {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    use std::{
        ffi::{OsStr, OsString},
        fmt,
        os::unix::ffi::{OsStrExt, OsStringExt},
    };

    struct Out<'a>(&'a OsStr);

    impl Serialize for Out<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self.0.to_str() {
                Some(text) => serializer.serialize_str(text),
                None => serializer.collect_seq(self.0.as_bytes()),
            }
        }
    }

    struct In(OsString);

    impl<'de> Deserialize<'de> for In {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> de::Visitor<'de> for Visitor {
                type Value = In;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("text, or a list of bytes")
                }

                fn visit_str<E: de::Error>(self, text: &str) -> Result<In, E> {
                    Ok(In(text.into()))
                }

                fn visit_string<E: de::Error>(self, text: String) -> Result<In, E> {
                    Ok(In(text.into()))
                }

                fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<In, A::Error> {
                    let mut bytes = Vec::new();
                    while let Some(byte) = items.next_element::<u8>()? {
                        bytes.push(byte);
                    }
                    Ok(In(OsString::from_vec(bytes)))
                }
            }
            deserializer.deserialize_any(Visitor)
        }
    }

    pub(super) mod list {
        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(list: &[OsString], s: S) -> Result<S::Ok, S::Error> {
            s.collect_seq(list.iter().map(|item| Out(item)))
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            d: D,
        ) -> Result<Vec<OsString>, D::Error> {
            Ok(Vec::<In>::deserialize(d)?.into_iter().map(|item| item.0).collect())
        }
    }

    pub(super) mod pairs {
        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(
            pairs: &[(OsString, OsString)],
            s: S,
        ) -> Result<S::Ok, S::Error> {
            s.collect_seq(pairs.iter().map(|(name, value)| (Out(name), Out(value))))
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            d: D,
        ) -> Result<Vec<(OsString, OsString)>, D::Error> {
            Ok(Vec::<(In, In)>::deserialize(d)?.into_iter().map(|(name, value)| (name.0, value.0)).collect())
        }
    }

    pub(super) mod path {
        use super::*;
        use std::path::{Path, PathBuf};

        pub(in super::super) fn serialize<S: Serializer>(path: &Path, s: S) -> Result<S::Ok, S::Error> {
            Out(path.as_os_str()).serialize(s)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
            Ok(In::deserialize(d)?.0.into())
        }
    }

    pub(super) mod maybe_path {
        use super::*;
        use std::path::PathBuf;

        pub(in super::super) fn serialize<S: Serializer>(
            path: &Option<PathBuf>,
            s: S,
        ) -> Result<S::Ok, S::Error> {
            path.as_ref().map(|path| Out(path.as_os_str())).serialize(s)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            d: D,
        ) -> Result<Option<PathBuf>, D::Error> {
            Ok(Option::<In>::deserialize(d)?.map(|path| path.0.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn a_spec_survives_the_way_with_any_bytes() {
        let odd = OsString::from_vec(vec![b'a', 0xff, b'"', b'\n']);
        let mut spec = RunSpec::new("web-1", vec!["sh".into(), odd.clone()], PathBuf::from(odd.clone()));
        spec.env.push((odd.clone(), odd.clone()));
        spec.cgroup = Some(odd.clone().into());
        spec.hosts = Some(odd.into());
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<RunSpec>(&text).unwrap(), spec);
    }

    #[test]
    fn debug_shows_no_values_of_the_environment() {
        let mut spec = RunSpec::new("web-1", vec!["sh".into()], "/");
        spec.env.push(("PASSWORD".into(), "hunter2".into()));
        let text = format!("{spec:?}");
        assert!(text.contains("PASSWORD") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn runs_have_one_spelling_and_sort_by_time() {
        let first = RunId::generate();
        assert_eq!(first.to_string().parse::<RunId>().unwrap(), first);
        assert!(first.to_string().to_uppercase().parse::<RunId>().is_err());
        assert!("../../etc/passwd".parse::<RunId>().is_err());
        let second = RunId::generate();
        assert!(first.to_string() < second.to_string());
    }

    #[test]
    fn a_new_run_sorts_after_the_earlier_ones_though_the_clock_went_back() {
        let future: RunId = "03900000-0000-7fff-bfff-ffffffffffff".parse().unwrap();
        let mut last = future;
        for _ in 0..1000 {
            let next = RunId::after(Some(last));
            assert!(next > last && next.to_string() > last.to_string(), "{next} after {last}");
            assert_eq!((next.0.get_version_num(), next.0.get_variant()), (7, uuid::Variant::RFC4122));
            last = next;
        }
        // A second at the most for a thousand runs: it isn't driven into the future.
        assert_eq!((last.0.as_u128() >> 80) - (future.0.as_u128() >> 80), 1000);
        let earlier = RunId::generate();
        assert!(RunId::after(Some(earlier)) > earlier);
        assert!(RunId::after(None) > earlier);
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for (name, good) in [
            ("web-1", true),
            ("a.b_c-9", true),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("é", false),
        ] {
            assert_eq!(is_instance_name(name), good, "{name}");
        }
    }
}
