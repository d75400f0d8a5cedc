//! Health checks with every hole filled.

use super::{Caller, Unresolved, View, fill};
use crate::model::{HttpProbe, Probe};

/// A probe with every hole filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolvedProbe {
    /// Run this.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
        /// The exit code of a healthy service.
        expected_exit: i32,
        /// Text that its standard output must contain.
        expected_output: Option<String>,
    },
    /// Ask this.
    Http {
        /// `http://HOST[:PORT]/PATH`.
        url: String,
        /// Method.
        method: String,
        /// Headers.
        headers: Vec<(String, String)>,
        /// Statuses of a healthy service; empty means any of 200 to 399.
        expected_status: Vec<u16>,
        /// Text that the body must contain.
        expected_body: Option<String>,
    },
    /// Connect to this.
    Tcp {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
        /// Whether somebody stands before the service who accepts for it: a container engine's proxy. Then a connection
        /// that is closed at once was accepted by nobody.
        proxied: bool,
    },
    /// All of these.
    All(Vec<ResolvedProbe>),
}

impl ResolvedProbe {
    /// The probe with every hole filled. A command looks from where the service runs; everything else is asked from the
    /// machine.
    ///
    /// # Errors
    /// See [`Unresolved`].
    pub fn new(caller: &Caller<'_, '_>, probe: &Probe) -> Result<Self, Unresolved> {
        let machine = Caller { view: View::Machine, inside: false, ..*caller };
        Ok(match probe {
            Probe::Command { argv, expected_exit, expected_output } => Self::Command {
                argv: argv.iter().map(|arg| fill(caller, arg)).collect::<Result<_, _>>()?,
                expected_exit: *expected_exit,
                expected_output: expected_output.clone(),
            },
            Probe::Http(http) => Self::http(&machine, http)?,
            Probe::Tcp { host, port } => Self::Tcp {
                proxied: View::of(caller.service) == View::Container,
                host: match host {
                    Some(host) => fill(&machine, host)?,
                    None => super::address::Asked::own(&machine)
                        .ip(&machine.sight())
                        .unwrap_or_else(|| "127.0.0.1".into()),
                },
                port: {
                    let text = fill(&machine, port)?;
                    text.parse()
                        .map_err(|_| Unresolved::BadPort { text, instance: caller.instance.clone() })?
                },
            },
            Probe::All(probes) => {
                Self::All(probes.iter().map(|probe| Self::new(caller, probe)).collect::<Result<_, _>>()?)
            }
        })
    }

    fn http(caller: &Caller<'_, '_>, http: &HttpProbe) -> Result<Self, Unresolved> {
        let headers = http.headers.iter().map(|(name, value)| Ok((name.clone(), fill(caller, value)?)));
        Ok(Self::Http {
            url: fill(caller, &http.url)?,
            method: http.method.clone(),
            headers: headers.collect::<Result<_, Unresolved>>()?,
            expected_status: http.expected_status.clone(),
            expected_body: http.expected_body.clone(),
        })
    }
}
