//! The way in by TCP: where the daemon listens, and the tokens that open it.

use super::methods::safe;
use crate::api::{self, code};
use crate::error::chain;
use async_channel::{Receiver, Sender};
use futures_lite::FutureExt;
use futures_util::task::FutureObj;
use jiff::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};
use service_registry::access::{NewToken, TokenError, Tokens};
use service_registry::registry::Registry;
use service_registry::server::{Entrance, Server, Spawner, TcpListener};
use service_registry::tls::{TlsError, TlsFiles, TlsServer, make_once};
use service_registry::wire::{self, Empty, RpcError};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Where it is kept where to listen.
const LISTEN: (&str, &str) = ("daemon", "listen");

/// How long open requests may take after their listener is gone.
const GRACE: Duration = Duration::from_secs(5);

/// Tokens, and the listener on TCP.
pub(super) struct Access {
    registry: Registry,
    tokens: Tokens,
    state: PathBuf,
    spawner: Spawner,
    server: OnceLock<Server>,
    /// Held while the listener changes.
    turn: async_lock::Mutex<()>,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    shown: Option<api::Listener>,
    running: Option<Running>,
}

/// A listener's task: closing `stop` ends it, `gone` is closed when its socket is.
struct Running {
    entrance: Arc<Entrance>,
    address: std::net::SocketAddr,
    stop: Sender<Infallible>,
    gone: Receiver<Infallible>,
}

impl Access {
    pub(super) fn new(registry: Registry, state: PathBuf, spawner: Spawner) -> Result<Self, TokenError> {
        let tokens = Tokens::open(registry.clone())?;
        let (server, turn) = (OnceLock::new(), async_lock::Mutex::new(()));
        Ok(Self { registry, tokens, state, spawner, server, turn, now: Mutex::default() })
    }

    /// Listens where the last daemon did. What hinders it is told by `daemon status`: the daemon does its work without.
    pub(super) async fn begin(&self, server: &Server) {
        let _ = self.server.set(server.clone());
        let kept = self.registry.kv_get(LISTEN.0, LISTEN.1);
        let Some(listen) = kept.and_then(|bytes| serde_json::from_slice::<api::Listen>(&bytes).ok()) else {
            return;
        };
        if let Err(error) = self.start(&listen).await {
            tracing::error!(error = error.message, address = %listen.address, "can't listen");
            let address = listen.address.to_string();
            self.now().shown =
                Some(api::Listener { address, certificate: String::new(), problem: Some(error.message) });
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it listens, and with which certificate.
    pub(super) fn listener(&self) -> Option<api::Listener> {
        let now = self.now();
        let mut shown = now.shown.clone()?;
        if let Some(running) = &now.running {
            // It may have changed with its files.
            shown.certificate = running.entrance.fingerprint().to_string();
        }
        Some(shown)
    }

    pub(super) async fn listen(&self, params: api::ListenParams) -> Result<api::ListenResult, RpcError> {
        let _turn = self.turn.lock().await;
        let durable = match params.listen {
            Some(mut listen) => {
                listen.address = self.start(&listen).await?;
                let bytes = serde_json::to_vec(&listen).map_err(RpcError::internal)?;
                self.registry.kv_put(LISTEN.0, LISTEN.1, &bytes)
            }
            None => {
                self.stop().await;
                self.now().shown = None;
                self.registry.kv_delete(LISTEN.0, LISTEN.1)
            }
        };
        safe(Some(durable)).await?;
        Ok(api::ListenResult { listener: self.listener() })
    }

    /// Ends the listener that there is, and waits until its address is free. Connections that it let in end as soon as their
    /// open requests are answered: what it stood for (certificate, who may do what) holds no more.
    async fn stop(&self) {
        let running = self.now().running.take();
        if let Some(running) = running {
            running.entrance.close(GRACE);
            running.stop.close();
            let _ = running.gone.recv().await;
        }
    }

    /// Listens there instead of where it does. The answer: the address with its real port.
    async fn start(&self, listen: &api::Listen) -> Result<std::net::SocketAddr, RpcError> {
        let refused = |error: &dyn std::error::Error| RpcError::new(code::LISTEN, chain(error));
        let Some(server) = self.server.get().cloned() else {
            return Err(RpcError::internal("the daemon isn't ready"));
        };
        let tls = self.tls(listen).map_err(|error| refused(&error))?;
        let same = self.now().running.as_ref().is_some_and(|running| running.address == listen.address);
        if same {
            self.stop().await;
        }
        let listener = TcpListener::bind(listen.address).await.map_err(|error| refused(&error))?;
        self.stop().await;
        let address = listener.address();
        let entrance = Arc::new(Entrance::new(tls, self.tokens.clone(), listen.client_scope));
        let (stop, stopped) = async_channel::bounded(1);
        let (alive, gone) = async_channel::bounded(1);
        let task = {
            let entrance = Arc::clone(&entrance);
            async move {
                let serve = async {
                    if let Err(error) = server.serve_tcp(&listener, &entrance).await {
                        tracing::error!(%error, %address, "the listener is broken");
                    }
                };
                let stopped = async {
                    let _: Result<Infallible, _> = stopped.recv().await;
                };
                serve.or(stopped).await;
                drop(listener);
                drop::<Sender<Infallible>>(alive);
            }
        };
        self.spawner.spawn_obj(FutureObj::new(Box::new(task))).map_err(RpcError::internal)?;
        tracing::info!(%address, certificate = %entrance.fingerprint(), "listening");
        let mut now = self.now();
        now.shown =
            Some(api::Listener { address: address.to_string(), certificate: String::new(), problem: None });
        now.running = Some(Running { entrance, address, stop, gone });
        Ok(address)
    }

    /// The certificate: the user's, or one in the state folder that is made anew when it lacks a name.
    fn tls(&self, listen: &api::Listen) -> Result<TlsServer, TlsError> {
        let client_ca = listen.client_ca.clone();
        if let Some(own) = &listen.own {
            let api::CertificateFiles { certificate, key } = own.clone();
            return TlsServer::open(TlsFiles { certificate, key, client_ca });
        }
        let (certificate, key) = (self.state.join("tls.crt"), self.state.join("tls.key"));
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let address = listen.address.ip();
        names.extend((!address.is_unspecified()).then(|| address.to_string()));
        names.extend(
            std::iter::once(host).chain(listen.names.iter().cloned()).filter(|name| !name.is_empty()),
        );
        names.sort();
        names.dedup();
        let files = TlsFiles { certificate, key, client_ca };
        make_once(&files.certificate, &files.key, &names, Timestamp::now())?;
        let tls = TlsServer::open(files.clone())?;
        if listen.names.iter().all(|name| tls.is_for(name)) {
            return Ok(tls);
        }
        std::fs::remove_file(&files.certificate)
            .map_err(|source| TlsError::Write { path: files.certificate.clone(), source })?;
        make_once(&files.certificate, &files.key, &names, Timestamp::now())?;
        TlsServer::open(files)
    }

    pub(super) async fn create(&self, params: api::NewTokenParams) -> Result<api::NewTokenResult, RpcError> {
        let mut random = [0; 32];
        getrandom(&mut random, GetRandomFlags::empty()).map_err(RpcError::internal)?;
        let api::NewTokenParams { name, scope, expires } = params;
        let made = self.tokens.create(NewToken { name, scope, expires }, random);
        let (token, durable) = made.map_err(|error| {
            let code = match error {
                TokenError::Exists { .. } => wire::code::EXISTS,
                _ => wire::code::INVALID_PARAMS,
            };
            RpcError::new(code, error.to_string())
        })?;
        safe(Some(durable)).await?;
        Ok(api::NewTokenResult { token: token.reveal().to_owned() })
    }

    pub(super) fn list(&self) -> api::TokenList {
        api::TokenList { tokens: self.tokens.list() }
    }

    pub(super) async fn revoke(&self, params: api::TokenName) -> Result<Empty, RpcError> {
        let Some(durable) = self.tokens.revoke(&params.name) else {
            let text = format!("there is no token {:?}", params.name);
            return Err(RpcError::new(wire::code::NOT_FOUND, text));
        };
        safe(Some(durable)).await?;
        Ok(Empty {})
    }
}
