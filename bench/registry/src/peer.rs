//! The two that are compared, seen by one who puts and one who watches.

use etcd_client::{Client as Etcd, WatchOptions};
use futures_util::task::{FutureObj, Spawn, SpawnError};
use service_registry::access::Secret;
use service_registry::client::{Client, ClientOptions, Remote};
use service_registry::model::{Endpoint, Entry, Scope, State};
use service_registry::registry::{Filter, Item};
use service_registry::tls::{TlsClient, Trust};
use service_registry::wire;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs, and how to reach it. It is killed when this is dropped.
pub(crate) struct Peer {
    child: Child,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Unix(PathBuf),
    Tls(Remote),
    Etcd(String),
}

pub(crate) struct OnTokio;

impl Spawn for OnTokio {
    fn spawn_obj(&self, future: FutureObj<'static, ()>) -> std::result::Result<(), SpawnError> {
        tokio::spawn(future);
        Ok(())
    }
}

/// What an entry of a web server looks like, some 450 bytes as JSON.
pub(crate) fn entry(service: &str, number: usize) -> Entry {
    let mut entry = Entry::new(service, format!("{service}-{number}"), jiff::Timestamp::UNIX_EPOCH);
    entry.status.state = State::Running;
    entry.ready = true;
    entry.version = Some("1.2.3".into());
    entry.endpoints.push(Endpoint {
        name: Some("http".into()),
        address: "127.0.0.1".into(),
        port: 8080,
        protocol: "tcp".into(),
        scope: Scope::Host,
    });
    entry
}

impl Peer {
    /// Our server, reached over its socket or over TLS.
    pub(crate) async fn ours(folder: &Path, durable: bool, tls: bool) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(if durable { "serve" } else { "serve-memory" })
            .arg(folder)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let line = BufReader::new(output).lines().next_line().await?.ok_or("it did not start")?;
        let mut words = line.split(' ');
        let mut word = || words.next().ok_or("it said too little");
        let (port, fingerprint, token) = (word()?.parse()?, word()?.parse()?, word()?);
        let way = match tls {
            false => Way::Unix(folder.join("registry.sock")),
            true => Way::Tls(Remote {
                host: "127.0.0.1".into(),
                port,
                tls: TlsClient::new(&Trust::Certificate(fingerprint), None)?,
                token: Some(Secret::new(token)),
            }),
        };
        Ok(Self { child, way })
    }

    /// etcd with its data in the folder.
    pub(crate) async fn etcd(program: &Path, folder: &Path, port: u16) -> Result<Self> {
        let client = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{}", port + 1);
        let log = std::fs::File::create(folder.join("etcd.log"))?;
        let child = Command::new(program)
            .args(["--name", "bench", "--data-dir"])
            .arg(folder.join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("bench={peer}"), "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let peer = Self { child, way: Way::Etcd(client) };
        let begun = tokio::time::Instant::now();
        // it listens before it has elected itself
        while let Err(error) = async { peer.writer(0).await?.put(0).await }.await {
            if begun.elapsed() > PATIENCE {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(peer)
    }

    /// Resident memory, in MiB.
    pub(crate) fn memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().ok_or("it ended")?))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse::<f64>()? / 1024.0)
    }

    pub(crate) async fn end(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }

    /// A connection of ours.
    pub(crate) async fn client(&self) -> Result<Client> {
        let options = ClientOptions::default();
        match &self.way {
            Way::Unix(path) => Ok(Client::connect_unix_on(path, &options, &OnTokio).await?),
            Way::Tls(remote) => {
                let (client, driver) = Client::connect_tls(remote, &options).await?;
                tokio::spawn(driver);
                Ok(client)
            }
            Way::Etcd(_) => Err("etcd is asked in its own way".into()),
        }
    }

    /// One that puts an entry of its own again and again, on a connection of its own.
    pub(crate) async fn writer(&self, number: usize) -> Result<Writer> {
        let entry = entry("load", number);
        if let Way::Etcd(url) = &self.way {
            return Ok(Writer::Etcd(Etcd::connect([url], None).await?, entry));
        }
        let client = self.client().await?;
        let new = wire::RegisterParams { entry: entry.clone(), lease: None };
        let registered = client.call::<_, serde_json::Value>(wire::REGISTRY_REGISTER, &new, PATIENCE).await;
        match registered {
            Err(error) if error.code() != Some(wire::code::EXISTS) => Err(error.into()),
            _ => Ok(Writer::Ours(client, entry)),
        }
    }

    /// One that sees every put, on a connection of its own; ready when this returns.
    pub(crate) async fn watcher(&self) -> Result<Watcher> {
        if let Way::Etcd(url) = &self.way {
            let mut client = Etcd::connect([url], None).await?;
            let stream = client.watch("load-", Some(WatchOptions::new().with_prefix())).await?;
            return Ok(Watcher::Etcd(client, stream));
        }
        let client = self.client().await?;
        let mut subscription = client.subscribe(&Filter::default(), None, PATIENCE).await?;
        subscription.next().await.ok_or("no snapshot")?;
        Ok(Watcher::Ours(client, subscription))
    }
}

pub(crate) enum Writer {
    Ours(Client, Entry),
    Etcd(Etcd, Entry),
}

impl Writer {
    /// Puts, with a number that watchers see, and waits for the answer.
    pub(crate) async fn put(&mut self, number: u32) -> Result<()> {
        match self {
            Self::Ours(client, entry) => {
                entry.restarts = number;
                let params = wire::UpdateParams { entry: entry.clone(), revision: None, lease: None };
                client.call::<_, wire::WriteResult>(wire::REGISTRY_UPDATE, &params, PATIENCE).await?;
            }
            Self::Etcd(client, entry) => {
                entry.restarts = number;
                client.put(entry.instance.as_str(), serde_json::to_vec(entry)?, None).await?;
            }
        }
        Ok(())
    }
}

pub(crate) enum Watcher {
    Ours(#[expect(dead_code, reason = "holds the connection")] Client, service_registry::client::Subscription),
    Etcd(#[expect(dead_code, reason = "holds the connection")] Etcd, etcd_client::WatchStream),
}

impl Watcher {
    /// The numbers of the puts that are seen next.
    pub(crate) async fn next(&mut self) -> Result<Vec<u32>> {
        match self {
            Self::Ours(_, subscription) => match subscription.next().await {
                Some(Item::Event(event)) => Ok(event.entry.iter().map(|entry| entry.restarts).collect()),
                other => Err(format!("the subscription is over: {other:?}").into()),
            },
            Self::Etcd(_, stream) => {
                let seen = stream.message().await?.ok_or("the watch is over")?;
                let entries = seen.events().iter().filter_map(|event| event.kv());
                entries.map(|kv| Ok(serde_json::from_slice::<Entry>(kv.value())?.restarts)).collect()
            }
        }
    }
}
