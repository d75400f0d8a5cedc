//! `-H wss://HOST:PORT`: the daemon of another machine is asked over TLS, by who has a token of it or a certificate that it
//! trusts.

use crate::cli::{Global, Pass};
use crate::error::CommandError;
use crate::exit::Exit;
use service_registry::access::Secret;
use service_registry::client::Remote;
use service_registry::tls::{TlsClient, Trust};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The token.
pub(crate) const TOKEN: &str = "HARNESS_TOKEN";
/// The fingerprint of the daemon's certificate.
const FINGERPRINT: &str = "HARNESS_FINGERPRINT";
/// A PEM file with the daemon's certificate, or with that of the authority that signed it.
const CA: &str = "HARNESS_CA";
/// How an address of such a daemon begins.
const SCHEME: &str = "wss://";

/// Bytes that a file with a token may have.
const MOST: u64 = 4096;

/// Whether `-H` means a daemon that is asked over TLS.
pub(crate) fn is_meant(host: Option<&str>) -> bool {
    host.is_some_and(|host| host.starts_with(SCHEME))
}

/// The daemon that `-H` means, if it is one of these. Whom to trust is said by the environment, what opens it by the
/// environment or by files, so that no secret stands in an argument.
pub(crate) fn meant(global: &Global) -> Result<Option<Remote>, CommandError> {
    let Some(authority) = global.host.as_deref().and_then(|host| host.strip_prefix(SCHEME)) else {
        return Ok(None);
    };
    let Some((host, port)) = address(authority.trim_end_matches('/')) else {
        return Err(CommandError::usage(format!("-H wss://{authority}: that isn't an address"))
            .hint("expected wss://HOST:PORT, as `harness daemon status` shows it over there"));
    };
    let wrong = |error: &dyn std::error::Error| CommandError::from_error(Exit::USAGE, error);
    let trust = match (set(FINGERPRINT), set(CA)) {
        (Some(text), _) => Trust::Certificate(text.parse().map_err(|error| wrong(&error))?),
        (None, Some(file)) => Trust::Authorities(PathBuf::from(file)),
        (None, None) => {
            return Err(CommandError::usage("it isn't known which certificate to trust").hint(format!(
                "set {FINGERPRINT} to what `harness daemon status` shows over there, or {CA} to a PEM file"
            )));
        }
    };
    let own = own_certificate(&global.pass)?;
    let token = token(&global.pass)?;
    if own.is_none() && token.is_none() {
        return Err(CommandError::usage(format!(
            "nothing opens that daemon: neither {TOKEN} nor --token-file nor --client-cert is given"
        ))
        .hint("`harness daemon token create NAME` makes a token over there"));
    }
    let tls = TlsClient::new(&trust, own).map_err(|error| wrong(&error))?;
    Ok(Some(Remote { host, port, tls, token }))
}

fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A file that was named.
fn given(file: Option<&PathBuf>) -> Option<&Path> {
    file.map(PathBuf::as_path).filter(|file| !file.as_os_str().is_empty())
}

/// Certificate and key.
fn own_certificate(pass: &Pass) -> Result<Option<(&Path, &Path)>, CommandError> {
    match (given(pass.client_cert.as_ref()), given(pass.client_key.as_ref())) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => {
            Err(CommandError::usage("--client-cert needs --client-key, the file with its key"))
        }
        (None, Some(_)) => Err(CommandError::usage("--client-key needs --client-cert, the certificate")),
    }
}

/// The token of the file, else of the environment.
fn token(pass: &Pass) -> Result<Option<Secret>, CommandError> {
    let Some(file) = given(pass.token_file.as_ref()) else {
        return Ok(set(TOKEN).map(Secret::new));
    };
    let shown = file.display();
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(MOST + 1).read_to_string(&mut text));
    let read = read.map_err(|error| {
        CommandError::io(format!("can't read the token in {shown}"), &error).exit(Exit::USAGE)
    })?;
    let token = text.trim();
    let fits = u64::try_from(read).is_ok_and(|read| read <= MOST);
    if token.is_empty() || !fits || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(CommandError::usage(format!("{shown} doesn't hold a token"))
            .hint("expected the one word that `harness daemon token create NAME` prints"));
    }
    Ok(Some(Secret::new(token.to_owned())))
}

fn address(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then_some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_port() {
        for (text, host) in
            [("box:7443", Some("box")), ("[::1]:7443", Some("::1")), ("box", None), (":1", None)]
        {
            assert_eq!(address(text).map(|(host, _)| host).as_deref(), host, "{text}");
        }
    }
}
