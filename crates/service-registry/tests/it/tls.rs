//! Server and client over TCP: certificates, tokens, and what strangers try.

use crate::support::{LONG, OnSmol, OnTokio, Stopwatch, TestMethods, entry, in_memory, options, soon};
use async_net::TcpStream;
use futures_lite::FutureExt as _;
use futures_lite::io::{AsyncReadExt as _, AsyncWriteExt as _};
use futures_rustls::TlsConnector;
use futures_util::task::Spawn as _;
use jiff::{Timestamp, ToSpan as _};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use service_registry::access::{NewToken, Secret, Tokens};
use service_registry::client::{Client, ClientError, ClientOptions, Remote};
use service_registry::registry::{Filter, Registry};
use service_registry::server::{Caller, Entrance, Limits, Server, Spawner, TcpListener};
use service_registry::tls::{Fingerprint, TlsClient, TlsFiles, TlsServer, Trust, make_once};
use service_registry::wire::{self, Scope, code};
use smol::block_on;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// A server on a free port of the loopback, with a certificate of its own.
pub(crate) struct Secured {
    pub(crate) server: Server,
    pub(crate) tokens: Tokens,
    pub(crate) entrance: Arc<Entrance>,
    pub(crate) address: SocketAddr,
    pub(crate) certificate: PathBuf,
    _accept: smol::Task<()>,
}

/// Certificate and key in the folder, made unless they are there.
fn files(folder: &Path, client_ca: Option<PathBuf>) -> TlsFiles {
    let files = TlsFiles { certificate: folder.join("tls.crt"), key: folder.join("tls.key"), client_ca };
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    make_once(&files.certificate, &files.key, &names, Timestamp::now()).unwrap();
    files
}

impl Secured {
    pub(crate) async fn start(folder: &Path, limits: Limits) -> Self {
        Self::start_on(folder, limits, None, Arc::new(OnSmol)).await
    }

    async fn start_on(folder: &Path, limits: Limits, client_ca: Option<PathBuf>, spawner: Spawner) -> Self {
        let registry: Registry = in_memory(options()).await;
        let files = files(folder, client_ca);
        let certificate = files.certificate.clone();
        let tokens = Tokens::open(registry.clone()).unwrap();
        let tls = TlsServer::open(files).unwrap();
        let entrance = Arc::new(Entrance::new(tls, tokens.clone(), Scope::Read));
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.address();
        let server = Server::new(registry, Arc::new(TestMethods), spawner, limits);
        let accept = smol::spawn({
            let (server, entrance) = (server.clone(), Arc::clone(&entrance));
            async move { server.serve_tcp(&listener, &entrance).await.unwrap() }
        });
        Self { server, tokens, entrance, address, certificate, _accept: accept }
    }

    pub(crate) fn token(&self, name: &str, scope: Scope, expires: Option<Timestamp>) -> Secret {
        let random = std::array::from_fn(|n| name.as_bytes().get(n).copied().unwrap_or(0));
        self.tokens.create(NewToken { name: name.into(), scope, expires }, random).unwrap().0
    }

    pub(crate) fn remote(&self, token: Option<Secret>) -> Remote {
        let trust = Trust::Certificate(self.entrance.fingerprint());
        Remote {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            tls: TlsClient::new(&trust, None).unwrap(),
            token,
        }
    }

    pub(crate) async fn client(&self, token: &Secret) -> Client {
        connect(&self.remote(Some(token.clone()))).await.unwrap()
    }

    /// TLS, and nothing said yet.
    async fn raw(&self) -> futures_rustls::client::TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.certificate).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// The status of the answer to a handshake with these headers.
    async fn status(&self, host: &str, headers: &str) -> String {
        let mut stream = self.raw().await;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[9..]).into_owned()
    }
}

async fn connect(remote: &Remote) -> Result<Client, ClientError> {
    let (client, driver) = Client::connect_tls(remote, &ClientOptions::default()).await?;
    OnSmol.spawn_obj(Box::pin(driver).into()).unwrap();
    Ok(client)
}

/// With which status a client was refused.
fn refused(outcome: Result<Client, ClientError>) -> u16 {
    match outcome {
        Err(ClientError::Refused { status, .. }) => status,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_token_opens_what_its_scope_allows_on_both_runtimes() {
    let tokio = tokio::runtime::Runtime::new().unwrap();
    for spawner in [Arc::new(OnSmol) as Spawner, Arc::new(OnTokio(tokio.handle().clone()))] {
        let folder = tempfile::tempdir().unwrap();
        block_on(soon("it", async {
            let secured = Secured::start_on(folder.path(), Limits::default(), None, spawner).await;
            let reader = secured.client(&secured.token("reader", Scope::Read, None)).await;
            let operator = secured.client(&secured.token("operator", Scope::Operate, None)).await;
            let who: Value = reader.call("test.who", &json!({}), LONG).await.unwrap();
            assert_eq!(who["who"], "token reader");
            let mut changes = reader.subscribe(&Filter::default(), None, LONG).await.unwrap();
            changes.next().await.unwrap();
            let new = wire::RegisterParams { entry: entry("web-1"), lease: None };
            let refused = reader.call::<_, Value>(wire::REGISTRY_REGISTER, &new, LONG).await.unwrap_err();
            assert_eq!(refused.code(), Some(code::FORBIDDEN));
            operator.call::<_, Value>(wire::REGISTRY_REGISTER, &new, LONG).await.unwrap();
            changes.next().await.unwrap();
            // a message of many TLS records, both ways
            let large = json!({"x": "x".repeat(3_000_000)});
            assert_eq!(reader.call::<_, Value>("test.echo", &large, LONG).await.unwrap(), large);
            assert_eq!(secured.server.connections(), 2);
        }));
    }
}

#[test]
fn the_key_is_only_for_its_owner_and_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let made = files(folder.path(), None);
    for file in [&made.certificate, &made.key] {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let print = TlsServer::open(made).unwrap().fingerprint();
    assert_eq!(TlsServer::open(files(folder.path(), None)).unwrap().fingerprint(), print);
}

#[test]
fn only_the_trusted_server_is_believed() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    block_on(soon("it", async {
        let secured = Secured::start(folder.path(), Limits::default()).await;
        let token = secured.token("t", Scope::Read, None);
        let with = |host: &str, trust: Trust| Remote {
            host: host.into(),
            tls: TlsClient::new(&trust, None).unwrap(),
            ..secured.remote(Some(token.clone()))
        };
        let own = Trust::Authorities(secured.certificate.clone());
        connect(&with("127.0.0.1", own.clone())).await.unwrap();
        connect(&with("localhost", own.clone())).await.unwrap();
        let stranger = files(other.path(), None);
        let print = TlsServer::open(stranger.clone()).unwrap().fingerprint();
        for (remote, says) in [
            (with("127.0.0.1", Trust::Certificate(print)), "another certificate"),
            (with("127.0.0.1", Trust::Authorities(stranger.certificate)), "invalid peer certificate"),
            // the right certificate, asked for by a name that isn't in it
            (with("127.0.0.2", own), "invalid peer certificate"),
        ] {
            match connect(&remote).await {
                Err(ClientError::Tls { source, .. }) => {
                    assert!(source.to_string().contains(says), "{source}")
                }
                // the listener is on 127.0.0.1 only
                Err(ClientError::ConnectTcp { .. }) if remote.host == "127.0.0.2" => {}
                other => panic!("{other:?}"),
            }
        }
    }));
}

#[test]
fn who_has_no_valid_token_is_refused_and_slowed_down() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let secured = Secured::start(folder.path(), Limits::default()).await;
        let old = secured.token("old", Scope::Admin, Some(Timestamp::now() - 1.second()));
        let mut times = Vec::new();
        for token in [None, Some(Secret::new("harness_guess")), Some(old)] {
            let begun = std::time::Instant::now();
            let outcome = connect(&secured.remote(token)).await;
            times.push(begun.elapsed());
            assert_eq!(refused(outcome), 401);
        }
        assert!(times[2] >= Duration::from_millis(200), "not slowed: {times:?}");
        // a token ends the connections that it opened: when it expires, and when it is revoked
        let brief = secured.token("brief", Scope::Read, Some(Timestamp::now() + 1.second()));
        let lasting = secured.token("lasting", Scope::Operate, None);
        let (one, other) = (secured.client(&brief).await, secured.client(&lasting).await);
        let mut events = one.subscribe(&Filter::default(), Some(0), LONG).await.unwrap();
        while events.next().await.is_some_and(|item| !format!("{item:?}").contains("Lost")) {}
        assert!(matches!(
            one.call::<_, Value>("test.echo", &json!({}), LONG).await,
            Err(ClientError::Closed { .. })
        ));
        other.call::<_, Value>("test.echo", &json!({}), LONG).await.unwrap();
        let nothing = json!({});
        let hang = other.call::<_, Value>("test.hang", &nothing, LONG);
        let revoke = async {
            secured.tokens.revoke("lasting").unwrap().await.unwrap();
            std::future::pending().await
        };
        assert!(hang.or(revoke).await.is_err());
        assert_eq!(refused(connect(&secured.remote(Some(lasting))).await), 401);
    }));
}

#[test]
fn web_pages_and_other_names_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let secured = Secured::start(folder.path(), Limits::default()).await;
        let token = secured.token("t", Scope::Read, None);
        let bearer = format!("Authorization: Bearer {}\r\n", token.reveal());
        for (host, headers, status) in [
            ("localhost", bearer.clone(), "101"),
            ("localhost:7443", bearer.replace("Bearer", "bearer"), "101"),
            ("[::1]:7443", bearer.clone(), "101"),
            // an address can't be made to mean something else, a name can
            ("192.0.2.7:7443", bearer.clone(), "101"),
            ("rebound.example", bearer.clone(), "421"),
            ("rebound.example:7443", bearer.clone(), "421"),
            ("", bearer.clone(), "421"),
            ("localhost", format!("{bearer}Origin: https://localhost\r\n"), "403"),
            ("localhost", bearer.replace("Bearer", "Basic"), "401"),
        ] {
            assert_eq!(secured.status(host, &headers).await, status, "{host} {headers}");
        }
    }));
}

#[test]
fn a_certificate_of_a_trusted_authority_opens_too() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (authority(folder.path(), "ca"), authority(folder.path(), "stranger"));
    block_on(soon("it", async {
        let ca = Some(folder.path().join("ca.crt"));
        let secured = Secured::start_on(folder.path(), Limits::default(), ca, Arc::new(OnSmol)).await;
        let with = |own: Option<&(PathBuf, PathBuf)>| {
            let trust = Trust::Certificate(secured.entrance.fingerprint());
            let own = own.map(|(certificate, key)| (certificate.as_path(), key.as_path()));
            Remote { tls: TlsClient::new(&trust, own).unwrap(), ..secured.remote(None) }
        };
        let client = connect(&with(Some(&authority))).await.unwrap();
        let print = Fingerprint::of(&CertificateDer::from_pem_file(&authority.0).unwrap());
        let who: Value = client.call("test.who", &json!({}), LONG).await.unwrap();
        assert_eq!(who["who"], format!("certificate {print}"));
        let forbidden = client.call::<_, Value>("test.panic", &json!({}), LONG).await.unwrap_err();
        assert_eq!(forbidden.code(), Some(code::FORBIDDEN));
        // TLS 1.3 tells a client after its own handshake that its certificate was refused
        let outcome = connect(&with(Some(&stranger))).await;
        assert!(
            matches!(outcome, Err(ClientError::Tls { .. } | ClientError::Handshake { .. })),
            "{outcome:?}"
        );
        assert_eq!(refused(connect(&with(None)).await), 401);
        connect(&Remote { token: Some(secured.token("t", Scope::Read, None)), ..with(None) }).await.unwrap();
    }));
}

/// An authority's certificate as NAME.crt, and certificate and key of a client that it vouches for.
fn authority(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(folder.join(format!("{name}.crt")), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let signed = CertificateParams::new(["client".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let files = (folder.join(format!("{name}.client.crt")), folder.join(format!("{name}.client.key")));
    std::fs::write(&files.0, signed.pem()).unwrap();
    std::fs::write(&files.1, own.serialize_pem()).unwrap();
    files
}

#[test]
fn a_new_certificate_is_shown_to_who_comes_next_and_a_broken_one_to_nobody() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    block_on(soon("it", async {
        let secured = Secured::start(folder.path(), Limits::default()).await;
        let token = secured.token("t", Scope::Read, None);
        let before = secured.remote(Some(token.clone()));
        let client = connect(&before).await.unwrap();
        let new = files(other.path(), None);
        let put = |from: &Path, name: &str| {
            let draft = folder.path().join("draft");
            std::fs::copy(from, &draft).unwrap();
            std::fs::rename(&draft, folder.path().join(name)).unwrap();
        };
        let old_key = other.path().join("old.key");
        std::fs::copy(folder.path().join("tls.key"), &old_key).unwrap();
        // the certificate alone doesn't fit the old key
        put(&new.certificate, "tls.crt");
        connect(&before).await.unwrap();
        std::fs::write(folder.path().join("tls.key"), "junk").unwrap();
        connect(&before).await.unwrap();
        put(&new.key, "tls.key");
        assert!(matches!(connect(&before).await, Err(ClientError::Tls { .. })));
        connect(&secured.remote(Some(token))).await.unwrap();
        client.call::<_, Value>("test.echo", &json!({}), LONG).await.unwrap();
    }));
}

#[test]
fn strangers_who_say_nothing_or_junk_disturb_nobody() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        // far longer than the test: nobody is put out because time is over
        let limits = Limits { handshake: LONG, ..Limits::default() };
        let secured = Secured::start(folder.path(), limits).await;
        let token = secured.token("t", Scope::Read, None);
        let client = secured.client(&token).await;
        let mut silent = Vec::new();
        for _ in 0..1_000 {
            silent.push(TcpStream::connect(secured.address).await.unwrap());
        }
        let mut junk = Vec::new();
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
            b"\0\xff\xfe junk",
            // half of a TLS record that claims to be a client's hello of 16 KiB
            b"\x16\x03\x01\x40\x00\x01\x00",
            b"SSH-2.0-OpenSSH\r\n",
        ] {
            let mut stream = TcpStream::connect(secured.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            junk.push(stream);
        }
        let watch = Stopwatch::start();
        client.call::<_, Value>("test.echo", &json!({}), LONG).await.unwrap();
        let late = secured.client(&token).await;
        late.call::<_, Value>("test.echo", &json!({}), LONG).await.unwrap();
        assert!(watch.elapsed() < Duration::from_secs(1), "delayed by strangers: {:?}", watch.elapsed());
        assert!(secured.entrance.waiting() <= 256, "{}", secured.entrance.waiting());
        drop((silent, junk));
        while secured.entrance.waiting() > 0 {
            smol::Timer::after(Duration::from_millis(5)).await;
        }
        assert_eq!(secured.server.connections(), 2);
    }));
}

/// What `openssl s_client` says of a handshake with these options.
async fn openssl(secured: &Secured, options: &[&str]) -> String {
    let mut command = std::process::Command::new("openssl");
    command.args(["s_client", "-connect", &secured.address.to_string(), "-brief", "-verify_return_error"]);
    command.arg("-CAfile").arg(&secured.certificate).args(options).stdin(std::process::Stdio::null());
    let output = smol::unblock(move || command.output()).await;
    let output = output.expect("openssl must be there: apt-get install openssl");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn openssl_shakes_hands_and_old_versions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let secured = Secured::start(folder.path(), Limits::default()).await;
        for (options, version) in [(&["-tls1_2"][..], "TLSv1.2"), (&["-tls1_3"], "TLSv1.3")] {
            let said = openssl(&secured, options).await;
            assert!(said.contains(&format!("Protocol version: {version}")), "{said}");
            assert!(said.contains("Verification: OK"), "{said}");
        }
        // the level at which openssl itself would still speak them
        for options in [
            &["-tls1", "-cipher", "ALL:@SECLEVEL=0"][..],
            &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
            &["-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"],
        ] {
            let said = openssl(&secured, options).await;
            assert!(said.contains("alert"), "not refused by the server: {said}");
            assert!(!said.contains("CONNECTION ESTABLISHED"), "{said}");
        }
    }));
}

#[test]
fn an_entrance_that_is_closed_ends_who_came_in_by_it_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let secured = Secured::start(folder.path(), Limits { handshake: LONG, ..Limits::default() }).await;
        let token = secured.token("t", Scope::Operate, None);
        let idle = secured.client(&token).await;
        let mut events = idle.subscribe(&Filter::default(), None, LONG).await.unwrap();
        events.next().await.unwrap();
        // one that the server hands in itself, one that waits for an answer, two that are on their way
        let (own, far) = smol::net::unix::UnixStream::pair().unwrap();
        secured.server.connect(far, Caller::host(Scope::Admin)).unwrap();
        let (own, driver) = Client::connect(own, &ClientOptions::default()).await.unwrap();
        let _driver = smol::spawn(driver);
        let waiting = secured.client(&token).await;
        let nothing = json!({});
        let mut hang = pin!(waiting.call::<_, Value>("test.hang", &nothing, LONG));
        assert!(futures_lite::future::poll_once(hang.as_mut()).await.is_none());
        waiting.call::<_, Value>("test.echo", &nothing, LONG).await.unwrap();
        let mut silent = TcpStream::connect(secured.address).await.unwrap();
        let mut half = secured.raw().await;
        while secured.entrance.waiting() < 2 {
            smol::Timer::after(Duration::from_millis(1)).await;
        }

        let begun = std::time::Instant::now();
        let grace = Duration::from_millis(300);
        secured.entrance.close(grace);
        for stream in [&mut silent as &mut (dyn futures_lite::AsyncRead + Unpin), &mut half] {
            // the end, or that it was hung up on
            let _: Result<usize, _> = stream.read(&mut [0; 64]).await;
        }
        while events.next().await.is_some_and(|item| !format!("{item:?}").contains("Lost")) {}
        let closed = idle.call::<_, Value>("test.echo", &nothing, LONG).await.unwrap_err();
        assert!(closed.to_string().contains("the listener was closed"), "{closed}");
        assert!(hang.await.is_err());
        assert!(begun.elapsed() >= grace, "who waits for an answer has time: {:?}", begun.elapsed());
        own.call::<_, Value>("test.echo", &nothing, LONG).await.unwrap();
        while secured.server.connections() > 1 {
            smol::Timer::after(Duration::from_millis(1)).await;
        }
        assert!(connect(&secured.remote(Some(token))).await.is_err(), "it lets nobody in any more");
    }));
}

#[test]
fn who_takes_too_long_is_put_out() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let limits = Limits { handshake: Duration::from_millis(200), ..Limits::default() };
        let secured = Secured::start(folder.path(), limits).await;
        // before TLS, in the middle of it, before the WebSocket's handshake, and in the middle of that
        let mut streams = Vec::new();
        for bytes in [&b""[..], b"\x16\x03\x01\x02"] {
            let mut stream = TcpStream::connect(secured.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            streams.push(stream);
        }
        let mut later = Vec::new();
        for bytes in [&b""[..], b"GET / HTTP/1.1\r\nHost: local"] {
            let mut stream = secured.raw().await;
            stream.write_all(bytes).await.unwrap();
            later.push(stream);
        }
        let mut rest = Vec::new();
        for stream in &mut streams {
            drop(stream.read_to_end(&mut rest).await);
        }
        for stream in &mut later {
            drop(stream.read_to_end(&mut rest).await);
        }
        while secured.entrance.waiting() > 0 {
            smol::Timer::after(Duration::from_millis(1)).await;
        }
    }));
}
