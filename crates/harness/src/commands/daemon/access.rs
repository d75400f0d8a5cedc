//! `harness daemon listen` and `harness daemon token`.

use super::super::{Context, examples};
use crate::api;
use crate::connect::{self, Daemon};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::ui::style;
use crate::ui::table::Table;
use crate::ui::time::parse_duration;
use jiff::Timestamp;
use service_registry::wire::Scope;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Listen on TCP too, behind TLS; remembered until told otherwise
///
/// Only who has a token (`harness daemon token create`) or a certificate of --client-ca comes in. Without --cert the
/// daemon makes a certificate; clients trust it by the fingerprint that is shown.
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness daemon listen 127.0.0.1:7443                    This machine only"
    "harness daemon listen 0.0.0.0:7443 --name box.example   Also reached by that name"
    "harness daemon listen off                               No more; connections that are open end"
])]
pub(super) struct Listen {
    /// Address and port, or `off`
    #[arg(value_name = "ADDRESS", value_parser = parse_address)]
    address: Address,
    /// A name by which the machine is reached, for the certificate (again for more)
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Your own certificate, a PEM file of the daemon's machine
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key, a PEM file
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Let in who has a certificate of an authority in this PEM file
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// What they may do: read, operate or admin
    #[arg(long, value_name = "SCOPE", default_value = "read", value_parser = parse_scope)]
    client_scope: Scope,
}

#[derive(Clone, Copy, Debug)]
enum Address {
    On(SocketAddr),
    Off,
}

fn parse_address(text: &str) -> Result<Address, String> {
    if text == "off" {
        return Ok(Address::Off);
    }
    text.parse().map(Address::On).map_err(|_| "expected ADDRESS:PORT, such as 127.0.0.1:7443, or off".into())
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    [Scope::Read, Scope::Operate, Scope::Admin]
        .into_iter()
        .find(|scope| scope.as_str() == text)
        .ok_or_else(|| "expected read, operate or admin".into())
}

/// Tokens: who may come in by TCP
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness daemon token create ci --scope operate --expires 30d   Shown once, kept as a hash only"
    "harness daemon token list                                      What is known of them"
    "harness daemon token revoke ci                                 Also ends its connections"
])]
pub(super) struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(clap::Subcommand, Debug)]
enum TokenCommand {
    /// Make a token and print it, this once
    Create {
        /// Its name
        name: String,
        /// read: look; operate: also stop and restart; admin: everything
        #[arg(long, value_name = "SCOPE", default_value = "read", value_parser = parse_scope)]
        scope: Scope,
        /// It ends after this time: 12h, 30d
        #[arg(long, value_name = "TIME", value_parser = parse_days)]
        expires: Option<Duration>,
    },
    /// List the tokens
    List,
    /// Revoke a token, and end the connections that it opened
    Revoke {
        /// Its name
        name: String,
    },
}

/// Longest life of a token that is given one: a hundred years.
const LONGEST: u64 = 36_500;

/// A duration as elsewhere, or days.
fn parse_days(text: &str) -> Result<Duration, String> {
    let Some(days) = text.strip_suffix('d') else { return parse_duration(text) };
    match days.parse::<u64>() {
        Ok(days @ 1..=LONGEST) => Ok(Duration::from_secs(days * 24 * 60 * 60)),
        _ => Err(format!("expected 1d to {LONGEST}d")),
    }
}

/// Asks the project's daemon, starting it if none runs.
fn ask<T>(
    context: &Context,
    with: impl AsyncFnOnce(Daemon) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let project = context.project()?;
    connect::block_on(async |executor| with(connect::or_start(executor, &project).await?).await)
}

pub(super) fn listen(context: &Context, args: Listen) -> Result<Exit, CommandError> {
    let remote = crate::remote::is_meant(context.global.host.as_deref());
    let whole = |path: PathBuf| {
        // The daemon reads them: on another machine, they are that machine's.
        if remote {
            return match path.is_absolute() {
                true => Ok(path),
                false => Err(CommandError::usage(format!("{}: that path is not absolute", path.display()))
                    .hint("with -H wss:// the files are on the daemon's machine: give their whole paths")),
            };
        }
        path.canonicalize().map_err(|error| {
            CommandError::io(format!("can't read {}", path.display()), &error).exit(Exit::USAGE)
        })
    };
    let own = match (args.cert, args.key) {
        (Some(certificate), Some(key)) => {
            Some(api::CertificateFiles { certificate: whole(certificate)?, key: whole(key)? })
        }
        _ => None,
    };
    let client_ca = args.client_ca.map(whole).transpose()?;
    let listen = match args.address {
        Address::Off => None,
        Address::On(address) => {
            Some(api::Listen { address, names: args.names, own, client_ca, client_scope: args.client_scope })
        }
    };
    let result: api::ListenResult = ask(context, async |daemon| {
        Ok(daemon.call(api::DAEMON_LISTEN, &api::ListenParams { listen }).await?)
    })?;
    match &result.listener {
        _ if !context.ui.is_table() => context.ui.document(&result)?,
        None => context.ui.say("The daemon doesn't listen on TCP."),
        Some(listener) => {
            context.ui.say(format_args!("Listening on {}", style::paint(style::STRONG, &listener.address)));
            context.ui.say(format_args!("Certificate {}", listener.certificate));
        }
    }
    Ok(Exit::OK)
}

pub(super) fn token(context: &Context, args: Token) -> Result<Exit, CommandError> {
    match args.command {
        TokenCommand::Create { name, scope, expires } => {
            let expires = expires.map(|after| Timestamp::now() + after);
            let params = api::NewTokenParams { name, scope, expires };
            let made: api::NewTokenResult =
                ask(context, async |daemon| Ok(daemon.call(api::TOKEN_CREATE, &params).await?))?;
            match context.ui.is_table() {
                true => context.ui.out(&made.token)?,
                false => context.ui.document(&made)?,
            }
            context.ui.say("Keep it: it isn't shown again.");
        }
        TokenCommand::List => {
            let list: api::TokenList = ask(context, async |daemon| {
                Ok(daemon.call(api::TOKEN_LIST, &serde_json::json!({})).await?)
            })?;
            if !context.ui.is_table() {
                context.ui.document(&list)?;
                return Ok(Exit::OK);
            }
            let time =
                |at: Option<Timestamp>, none: &str| at.map_or(none.to_owned(), |at| format!("{at:.0}"));
            let mut table = Table::new(&["NAME", "SCOPE", "CREATED", "EXPIRES", "LAST USED"]);
            for token in list.tokens {
                table.row(vec![
                    token.name,
                    token.scope.to_string(),
                    time(Some(token.created), ""),
                    time(token.expires, "never"),
                    time(token.last_used, "never"),
                ]);
            }
            context.ui.out(table.lines(context.ui.stdout_width()).join("\n"))?;
        }
        TokenCommand::Revoke { name } => {
            let params = api::TokenName { name };
            ask(context, async |daemon| {
                Ok(daemon.call::<serde_json::Value>(api::TOKEN_REVOKE, &params).await?)
            })?;
            context.ui.say(format_args!("{} opens nothing any more.", params.name));
        }
    }
    Ok(Exit::OK)
}
