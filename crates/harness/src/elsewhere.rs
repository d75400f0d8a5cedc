//! `-H ssh://…`: the command is carried out over there, by the harness of that machine.
//!
//! Logs, folders and the daemon's socket are all over there, so the whole command goes, not its calls: every command works,
//! and none needs to know. What can't be told apart from here, whether ssh failed or the command ended with 255, is ssh's
//! own exit code.

use crate::error::CommandError;
use crate::exit::Exit;
use command_executor::command::quote::{self, QuoteError};
use command_executor::command::{self, Command};
use command_executor::launcher::{Launcher, LocalLauncher, SshHost, SshLauncher};
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Another file than ~/.ssh/config, as for `ssh -F`.
const SSH_CONFIG: &str = "HARNESS_SSH_CONFIG";

/// What runs there: in the folder $1, if it isn't empty, with the arguments that $2 is the text of. Logins by ssh often miss
/// the folders of programs that a user has installed.
const RUN: &str = r#"[ -z "$1" ] || cd -- "$1" || exit 2; eval "set -- $(printf %b "$2")"; PATH=$PATH:$HOME/.local/bin:$HOME/.cargo/bin; export PATH; exec harness "$@""#;

/// Where a command is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    /// The project's folder there: absolute, or below the home folder; empty is the home folder.
    folder: String,
}

/// The file that ssh is configured by, where it isn't the user's own.
pub(crate) fn ssh_config() -> Option<OsString> {
    std::env::var_os(SSH_CONFIG).filter(|file| !file.is_empty())
}

impl Elsewhere {
    /// Reads `ssh://[USER@]HOST[:PORT][/FOLDER]`; a FOLDER that begins with `~/` is below the home folder. `None` if it is no
    /// such address; `Err` says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, &'static str>> {
        let rest = text.strip_prefix("ssh://")?;
        let (authority, folder) = match rest.split_once('/') {
            Some((authority, folder)) if folder.starts_with("~/") => (authority, folder[2..].to_owned()),
            Some((authority, "" | "~")) => (authority, String::new()),
            Some((authority, folder)) => (authority, format!("/{folder}")),
            None => (rest, String::new()),
        };
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        let (host, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
        };
        let Ok(port) = port.map(str::parse::<u16>).transpose() else {
            return Some(Err("the port is no number"));
        };
        let bad = |word: &str| word.is_empty() || word.starts_with('-') || word.contains(char::is_whitespace);
        if bad(host) || user.as_deref().is_some_and(bad) {
            return Some(Err("the host or user is no name"));
        }
        Some(Ok(Self { user, host: host.to_owned(), port, folder }))
    }

    /// User, host and port.
    pub(crate) fn address(&self) -> (Option<&str>, &str, Option<u16>) {
        (self.user.as_deref(), &self.host, self.port)
    }

    /// Carries out what was typed, over there, in the place of this program. Returns only if that can't be.
    pub(crate) fn run(&self, arguments: &[OsString]) -> CommandError {
        let mut host = SshHost::new(&self.host);
        if let Some(user) = &self.user {
            host = host.user(user);
        }
        if let Some(port) = self.port {
            host = host.port(port);
        }
        if let Some(file) = ssh_config() {
            host = host.config(file);
        }
        let tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let typed = match encoded(&without_host(arguments)) {
            Ok(typed) => typed,
            Err(error) => return CommandError::from_error(Exit::USAGE, &error),
        };
        let wanted = Command::new("sh").args(["-c", RUN, "sh", &self.folder]).arg(typed);
        match SshLauncher::new(LocalLauncher::new(), host).rewrite_to_replace(wanted, tty) {
            Ok(client) => {
                let error = command::replace(&client);
                CommandError::io("can't run ssh", &error.source)
                    .exit(Exit::UNREACHABLE)
                    .hint("install it: `sudo apt-get install openssh-client`")
            }
            Err(error) => CommandError::from_error(Exit::USAGE, &error),
        }
    }
}

/// Arguments as one text for printf(1)'s `%b`: login shells of some kinds see more in backslashes and exclamation marks than
/// stands there, also in single quotes.
fn encoded(arguments: &[OsString]) -> Result<OsString, QuoteError> {
    let text = quote::sh(arguments)?;
    let mut encoded = Vec::with_capacity(text.len());
    for byte in text.as_bytes() {
        match byte {
            b'\\' | b'!' | b'\n' => encoded.extend_from_slice(format!("\\0{byte:03o}").as_bytes()),
            other => encoded.push(*other),
        }
    }
    Ok(OsString::from_vec(encoded))
}

/// The arguments after the program's name, without `-H` and its value. What stands behind `--` isn't ours.
fn without_host(arguments: &[OsString]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "--" {
            kept.push(word.clone());
            break;
        }
        match cut(word) {
            Cut::Nothing => kept.push(word.clone()),
            Cut::Rest(before) => kept.extend(before),
            Cut::Next(before) => {
                kept.extend(before);
                words.next();
            }
        }
    }
    kept.extend(words.cloned());
    kept
}

/// What of a word is about the host.
enum Cut {
    Nothing,
    /// This much stays, and the word has the value.
    Rest(Option<OsString>),
    /// This much stays, and the next word is the value.
    Next(Option<OsString>),
}

fn cut(word: &OsStr) -> Cut {
    /// Short options that take the rest of their word as a value.
    const WITH_VALUE: &[u8] = b"ceoCfn";
    let bytes = word.as_bytes();
    if bytes == b"--host" {
        return Cut::Next(None);
    }
    if bytes.starts_with(b"--host=") {
        return Cut::Rest(None);
    }
    let [b'-', letters @ ..] = bytes else { return Cut::Nothing };
    if letters.starts_with(b"-") {
        return Cut::Nothing;
    }
    let Some(at) = letters.iter().position(|letter| *letter == b'H' || WITH_VALUE.contains(letter)) else {
        return Cut::Nothing;
    };
    let (before, from) = letters.split_at(at);
    if from.first() != Some(&b'H') {
        return Cut::Nothing;
    }
    let before = (!before.is_empty()).then(|| OsString::from_vec([b"-", before].concat()));
    if from.len() > 1 { Cut::Rest(before) } else { Cut::Next(before) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_user_host_port_and_folder() {
        let parsed = |text: &str| {
            Elsewhere::parse(text).map(|parsed| parsed.map(|e| (e.user, e.host, e.port, e.folder)))
        };
        let good = |user: Option<&str>, host: &str, port, folder: &str| {
            Some(Ok((user.map(str::to_owned), host.to_owned(), port, folder.to_owned())))
        };
        assert_eq!(parsed("ssh://web"), good(None, "web", None, ""));
        assert_eq!(parsed("ssh://ops@web:2222/srv/shop"), good(Some("ops"), "web", Some(2222), "/srv/shop"));
        assert_eq!(parsed("ssh://ops@web/~/shop"), good(Some("ops"), "web", None, "shop"));
        assert_eq!(parsed("ssh://web/~"), good(None, "web", None, ""));
        assert_eq!(parsed("ssh://[fd00::1]:22/"), good(None, "fd00::1", Some(22), ""));
        assert_eq!(parsed("ssh://[fd00::1]"), good(None, "fd00::1", None, ""));
        for bad in
            ["ssh://", "ssh://web:x", "ssh://-oProxyCommand=x", "ssh://@web", "ssh://-l@web", "ssh://a b"]
        {
            assert!(matches!(parsed(bad), Some(Err(_))), "{bad}");
        }
        assert_eq!(parsed("wss://web"), None);
    }

    #[test]
    fn only_the_host_is_taken_from_what_was_typed() {
        let without = |typed: &str| {
            let words: Vec<OsString> = typed.split(' ').map(OsString::from).collect();
            let kept = without_host(&words);
            kept.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        for (typed, kept) in [
            ("harness -H ssh://a status", "status"),
            ("harness status -Hssh://a -o json", "status -o json"),
            ("harness --host ssh://a logs -f", "logs -f"),
            ("harness --host=ssh://a", ""),
            ("harness -qH ssh://a stop -y", "-q stop -y"),
            ("harness -qHssh://a stop", "-q stop"),
            ("harness -eHOME=x -cH.yaml -H ssh://a start", "-eHOME=x -cH.yaml start"),
            ("harness exec web -H ssh://a -- curl -H x", "exec web -- curl -H x"),
            ("harness status -H", "status"),
        ] {
            assert_eq!(without(typed), kept, "{typed}");
        }
    }
}
