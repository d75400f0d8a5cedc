//! A host, and the options that reach it.

use crate::command::{Command, quote};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What a host's key must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostKeys {
    /// Known. The default.
    #[default]
    Known,
    /// Known, or of a host that was never seen: then it is learned. Only for those who accept that the first answer may
    /// come from somebody else.
    AcceptNew,
}

/// A host on the way. It shares keys and options with the host behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SshJump {
    /// A name, also of ssh_config, or an address.
    pub host: String,
    /// Who logs in there; `None` is what ssh_config says.
    pub user: Option<String>,
    /// The port; `None` is what ssh_config says.
    pub port: Option<u16>,
}

/// A host that is reached by ssh. What isn't said here is as the user's ssh_config and agent say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SshHost {
    pub(super) host: String,
    pub(super) user: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) identity: Option<PathBuf>,
    pub(super) jumps: Vec<SshJump>,
    pub(super) config: Option<PathBuf>,
    pub(super) known_hosts: Option<PathBuf>,
    pub(super) host_keys: HostKeys,
    pub(super) connect_timeout: Duration,
    pub(super) alive: (Duration, u32),
    pub(super) program: OsString,
}

impl SshHost {
    /// A name, also of ssh_config, or an address.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            user: None,
            port: None,
            identity: None,
            jumps: Vec::new(),
            config: None,
            known_hosts: None,
            host_keys: HostKeys::Known,
            connect_timeout: Duration::from_secs(10),
            alive: (Duration::from_secs(5), 3),
            program: "ssh".into(),
        }
    }

    /// Who logs in.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The port of sshd.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The file of the private key; no other key is offered then.
    #[must_use]
    pub fn identity(mut self, file: impl Into<PathBuf>) -> Self {
        self.identity = Some(file.into());
        self
    }

    /// A further host on the way, behind those named before.
    #[must_use]
    pub fn jump(mut self, jump: SshJump) -> Self {
        self.jumps.push(jump);
        self
    }

    /// Another file than the user's and the system's ssh_config (`ssh -F`).
    #[must_use]
    pub fn config(mut self, file: impl Into<PathBuf>) -> Self {
        self.config = Some(file.into());
        self
    }

    /// Another file than the user's known_hosts.
    #[must_use]
    pub fn known_hosts(mut self, file: impl Into<PathBuf>) -> Self {
        self.known_hosts = Some(file.into());
        self
    }

    /// What the host's key must be.
    #[must_use]
    pub fn host_keys(mut self, keys: HostKeys) -> Self {
        self.host_keys = keys;
        self
    }

    /// How long the host may take to answer, in whole seconds of at least one; 10 s unless told otherwise.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a silent host is asked for a sign of life, and how often before the connection is given up; every 5 s and 3
    /// times unless told otherwise.
    #[must_use]
    pub fn keep_alive(mut self, every: Duration, times: u32) -> Self {
        self.alive = (every, times);
        self
    }

    /// Another program than `ssh`.
    #[must_use]
    pub fn program(mut self, program: impl Into<OsString>) -> Self {
        self.program = program.into();
        self
    }

    /// The command that says, in this place and by the user's ssh_config, how ssh would reach it: lines of a key in small
    /// letters and a value (`ssh -G`).
    pub fn resolve(&self) -> Command {
        let mut words = self.client().into_iter();
        let program = words.next().unwrap_or_default();
        Command::new(program).args(words).arg("-G").args(self.destination())
    }

    /// As people know it.
    pub(super) fn label(&self) -> String {
        let mut label = "ssh ".to_owned();
        if let Some(user) = &self.user {
            label.push_str(user);
            label.push('@');
        }
        label.push_str(&self.host);
        if let Some(port) = self.port {
            label.push_str(&format!(":{port}"));
        }
        label
    }

    /// Why it can't be a host.
    pub(super) fn problem(&self) -> Option<String> {
        let bad = |text: &str| text.is_empty() || text.starts_with('-') || text.contains(['\0', '\n']);
        let jumps = self.jumps.iter().flat_map(|jump| [Some(&jump.host), jump.user.as_ref()]);
        let texts = [Some(&self.host), self.user.as_ref()].into_iter().chain(jumps).flatten();
        texts.into_iter().find(|text| bad(text)).map(|text| format!("{text:?} is no host's or user's name"))
    }

    /// Program and options for anything with that host. Those given here stand before those of ssh_config.
    pub(super) fn client(&self) -> Vec<OsString> {
        let mut client = self.options();
        if let Some(proxy) = self.proxy(&self.jumps) {
            client.extend(["-o".into(), concat("ProxyCommand=", proxy)]);
        }
        client
    }

    pub(super) fn options(&self) -> Vec<OsString> {
        let mut client = vec![self.program.clone()];
        let mut add = |words: &[OsString]| client.extend_from_slice(words);
        if let Some(file) = &self.config {
            add(&["-F".into(), file.into()]);
        }
        if let Some(file) = &self.identity {
            add(&["-i".into(), file.into(), "-o".into(), "IdentitiesOnly=yes".into()]);
        }
        if let Some(file) = &self.known_hosts {
            // ssh takes it apart into several names, unless it stands in quotes.
            let mut option = OsString::from("UserKnownHostsFile=\"");
            option.push(file);
            option.push("\"");
            add(&["-o".into(), option]);
        }
        let keys = match self.host_keys {
            HostKeys::Known => "yes",
            HostKeys::AcceptNew => "accept-new",
        };
        let seconds = |time: Duration| time.as_secs().max(1);
        let (every, times) = self.alive;
        for option in [
            format!("StrictHostKeyChecking={keys}"),
            "BatchMode=yes".to_owned(),
            format!("ConnectTimeout={}", seconds(self.connect_timeout)),
            format!("ServerAliveInterval={}", seconds(every)),
            format!("ServerAliveCountMax={}", times.max(1)),
            "LogLevel=ERROR".to_owned(),
            "ClearAllForwardings=yes".to_owned(),
            "RemoteCommand=none".to_owned(),
            "PermitLocalCommand=no".to_owned(),
        ] {
            add(&["-o".into(), option.into()]);
        }
        client
    }

    /// Where to, behind all options.
    pub(super) fn destination(&self) -> Vec<OsString> {
        let mut words = address(self.user.as_deref(), self.port);
        words.extend(["--".into(), self.host.clone().into()]);
        words
    }

    /// The command whose input and output are the connection to the host behind the jumps, with all our options, which
    /// ssh's own `-J` would leave out.
    fn proxy(&self, jumps: &[SshJump]) -> Option<OsString> {
        let (last, before) = jumps.split_last()?;
        let mut words = self.options();
        if let Some(proxy) = self.proxy(before) {
            words.extend(["-o".into(), concat("ProxyCommand=", proxy)]);
        }
        words.extend(address(last.user.as_deref(), last.port));
        words.push("-W".into());
        let (mut line, target) = (quote::sh(&words).ok()?, quote::sh(["--", &last.host]).ok()?);
        // What ssh would fill in belongs to this command only where it stands here.
        line = percent_doubled(line);
        line.push(" '[%h]:%p' ");
        line.push(percent_doubled(target));
        Some(line)
    }
}

fn address(user: Option<&str>, port: Option<u16>) -> Vec<OsString> {
    let mut words = Vec::new();
    if let Some(user) = user {
        words.extend(["-l".into(), user.into()]);
    }
    if let Some(port) = port {
        words.extend(["-p".into(), port.to_string().into()]);
    }
    words
}

fn concat(name: &str, value: OsString) -> OsString {
    let mut text = OsString::from(name);
    text.push(value);
    text
}

fn percent_doubled(text: OsString) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    let doubled = text
        .into_vec()
        .into_iter()
        .flat_map(|byte| std::iter::repeat_n(byte, if byte == b'%' { 2 } else { 1 }));
    OsString::from_vec(doubled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_nest_with_all_options_and_each_level_of_percent_signs() {
        let jump = |host: &str| SshJump { host: host.into(), user: None, port: None };
        let host = SshHost::new("c").identity("/k%1").jump(jump("a")).jump(jump("b"));
        let client = host.client();
        let proxy = client.last().unwrap().to_str().unwrap();
        assert!(proxy.ends_with("-W '[%h]:%p' -- b"), "{proxy}");
        assert!(proxy.contains("/k%%1") && proxy.contains("/k%%%%1"), "{proxy}");
        assert!(proxy.contains("'[%%h]:%%p'"), "{proxy}");
        assert_eq!(proxy.matches("BatchMode=yes").count(), 2);
    }
}
