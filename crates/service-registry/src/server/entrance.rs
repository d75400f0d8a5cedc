//! The way in by TCP: TLS first, then a token or a certificate, and only then the protocol.
//!
//! Each connection passes it in a task of its own, with a bound on its time. Those on the way are counted by themselves: a
//! thousand that say nothing take no place from those that are in, and one more on the way puts the oldest of them out.

use super::{Caller, Limits, Signal, Who, connection};
use crate::access::{Denied, Pass, Slowdown, Tokens};
use crate::tls::{Fingerprint, TlsServer};
use crate::wire::Scope;
use async_channel::{Receiver, Sender};
use async_io::Timer;
use async_net::TcpStream;
use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use async_tungstenite::tungstenite::http::header::{
    AUTHORIZATION, HOST, HeaderValue, ORIGIN, WWW_AUTHENTICATE,
};
use async_tungstenite::tungstenite::http::{HeaderMap, StatusCode};
use futures_lite::FutureExt as _;
use futures_rustls::TlsAcceptor;
use futures_rustls::server::TlsStream;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Connections on the way in at the same time.
const ON_THE_WAY: usize = 256;

/// What stands between TCP and the methods.
#[derive(Debug)]
pub struct Entrance {
    tls: TlsServer,
    tokens: Tokens,
    certificates: Scope,
    slow: Mutex<Slowdown>,
    waiting: Mutex<Waiting>,
    closed: Signal,
    /// How long open requests may take once it is closed.
    grace: OnceLock<Duration>,
}

/// Connections on the way in, oldest first. Dropping a sender puts one out.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    all: BTreeMap<u64, Sender<Infallible>>,
}

/// A connection's place on the way in.
struct Place<'a> {
    entrance: &'a Entrance,
    number: u64,
    put_out: Receiver<Infallible>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.entrance.waiting).all.remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who was let in, and for how long.
pub(super) struct Admission {
    pub(super) caller: Caller,
    pass: Option<Pass>,
}

impl Admission {
    /// Resolves when what let it in doesn't hold any more: the token is revoked or has expired.
    pub(super) async fn over(self) -> &'static str {
        let Some(Pass { expires, revoked, .. }) = self.pass else { return std::future::pending().await };
        let expired = async {
            let Some(expires) = expires else { return std::future::pending().await };
            loop {
                let left = Timestamp::now().duration_until(expires);
                match Duration::try_from(left) {
                    Ok(left) if !left.is_zero() => Timer::after(left).await,
                    _ => return "its token has expired",
                };
            }
        };
        let revoked = async {
            let _ = revoked.recv().await;
            "its token was revoked"
        };
        expired.or(revoked).await
    }
}

/// A connection that was not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("no TLS")]
    Tls(#[source] io::Error),
    #[error("no WebSocket")]
    WebSocket(#[source] Box<async_tungstenite::tungstenite::Error>),
    #[error("{0}")]
    Denied(String),
    #[error("it was not done in time")]
    Late,
    #[error("too many others are on the way")]
    PutOut,
}

impl Entrance {
    /// Lets in who has one of these tokens, or a certificate of an authority that `tls` names; the latter with the scope
    /// `certificates`.
    pub fn new(tls: TlsServer, tokens: Tokens, certificates: Scope) -> Self {
        let (slow, waiting) = (Mutex::default(), Mutex::default());
        let (closed, grace) = (Signal::new(), OnceLock::new());
        Self { tls, tokens, certificates, slow, waiting, closed, grace }
    }

    /// The certificate that is shown now.
    pub fn fingerprint(&self) -> Fingerprint {
        self.tls.fingerprint()
    }

    /// How many connections are on the way in.
    pub fn waiting(&self) -> usize {
        lock(&self.waiting).all.len()
    }

    /// Lets nobody in any more, and ends the connections of those whom it let in: their open requests are answered, for as
    /// long as `grace`, and they are told why. Comes back at once.
    pub fn close(&self, grace: Duration) {
        // Err: it is closed already, and the first word counts
        let _ = self.grace.set(grace);
        self.closed.raise();
    }

    /// Resolves when it is closed.
    pub(super) async fn closed(&self) {
        self.closed.raised().await;
    }

    /// Resolves when it has been closed for so long that connections must end now.
    pub(super) async fn cut(&self) {
        self.closed().await;
        Timer::after(self.grace.get().copied().unwrap_or_default()).await;
    }

    fn place(&self) -> Place<'_> {
        let (sender, put_out) = async_channel::bounded(1);
        let mut waiting = lock(&self.waiting);
        if waiting.all.len() >= ON_THE_WAY {
            waiting.all.pop_first();
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.all.insert(number, sender);
        Place { entrance: self, number, put_out }
    }

    /// Takes a connection through TLS and the WebSocket's handshake.
    pub(super) async fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        limits: &Limits,
    ) -> Result<(WebSocketStream<TlsStream<TcpStream>>, Admission), Refused> {
        let place = self.place();
        let put_out = async {
            let _ = place.put_out.recv().await;
            Err(Refused::PutOut)
        };
        let wait = lock(&self.slow).wait(peer.ip(), Instant::now());
        let late = async {
            Timer::after(limits.handshake + wait).await;
            Err(Refused::Late)
        };
        let way = async {
            if !wait.is_zero() {
                Timer::after(wait).await;
            }
            let acceptor = TlsAcceptor::from(self.tls.config());
            let stream = acceptor.accept(stream).await.map_err(Refused::Tls)?;
            let shown = stream.get_ref().1.peer_certificates();
            let certificate = shown.and_then(<[_]>::first).map(Fingerprint::of);
            let mut verdict = Err("it asked for nothing".to_owned());
            let gate = Gate { entrance: self, peer: peer.ip(), certificate, verdict: &mut verdict };
            let opened = connection::handshake(stream, limits, gate).await;
            match (opened, verdict) {
                (Ok(websocket), Ok(admission)) => Ok((websocket, admission)),
                (_, Err(denied)) => Err(Refused::Denied(denied)),
                (Err(error), Ok(_)) => Err(Refused::WebSocket(Box::new(error))),
            }
        };
        way.or(late).or(put_out).await
    }

    /// Who a request is from, or why it may not come in.
    fn judge(
        &self,
        headers: &HeaderMap,
        certificate: Option<Fingerprint>,
    ) -> Result<Admission, (StatusCode, String)> {
        refuse_web_pages(headers)?;
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !self.is_own(host) {
            let text = format!("this listener is not {:?}: its certificate names it", short(host));
            return Err((StatusCode::MISDIRECTED_REQUEST, text));
        }
        let denied = |denied: Denied| (StatusCode::UNAUTHORIZED, denied.to_string());
        match (headers.get(AUTHORIZATION), certificate) {
            (Some(value), _) => {
                let token = bearer(value).ok_or((StatusCode::UNAUTHORIZED, "no bearer token".to_owned()))?;
                let pass = self.tokens.admit(token).map_err(denied)?;
                let who = Who::Token { name: Arc::clone(&pass.name) };
                Ok(Admission { caller: Caller { who, scope: pass.scope }, pass: Some(pass) })
            }
            (None, Some(fingerprint)) => {
                let caller = Caller { who: Who::Certificate { fingerprint }, scope: self.certificates };
                Ok(Admission { caller, pass: None })
            }
            (None, None) => Err((StatusCode::UNAUTHORIZED, "neither token nor certificate".to_owned())),
        }
    }

    /// Whether a `Host` header means this listener. A page whose name was made to point here brings its own name; an address
    /// can't be made to mean something else.
    fn is_own(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        address.parse::<IpAddr>().is_ok() || self.tls.is_for(name)
    }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// The token of `Bearer TOKEN`.
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A browser always says where a page comes from, other clients don't.
pub(super) fn refuse_web_pages(headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
    if headers.contains_key(ORIGIN) {
        return Err((StatusCode::FORBIDDEN, "web pages may not connect here".to_owned()));
    }
    Ok(())
}

/// The answer to who may not come in.
pub(super) fn refusal(status: StatusCode, text: &str) -> ErrorResponse {
    let mut refusal = ErrorResponse::new(Some(format!("{text}\n")));
    *refusal.status_mut() = status;
    if status == StatusCode::UNAUTHORIZED {
        refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    refusal
}

/// Judges the request of one connection, and leaves word of it.
struct Gate<'a> {
    entrance: &'a Entrance,
    peer: IpAddr,
    certificate: Option<Fingerprint>,
    verdict: &'a mut Result<Admission, String>,
}

impl Callback for Gate<'_> {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        match self.entrance.judge(request.headers(), self.certificate) {
            Ok(admission) => {
                *self.verdict = Ok(admission);
                Ok(response)
            }
            Err((status, text)) => {
                let told = if status == StatusCode::UNAUTHORIZED {
                    lock(&self.entrance.slow).refused(self.peer, Instant::now());
                    // whether a token was ever known is nobody's business
                    "a valid token or certificate is needed"
                } else {
                    &text
                };
                let answer = refusal(status, told);
                *self.verdict = Err(text);
                Err(answer)
            }
        }
    }
}
