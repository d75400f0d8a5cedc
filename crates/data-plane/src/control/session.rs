//! One client: what it says, one line at a time, and what it is answered.

use crate::forward::copy::both_ways;
use crate::forward::listener::Listener;
use crate::lines::{self, LONGEST, LineError};
use crate::link::Side;
use crate::link::hold::hold;
use crate::plane::{Plane, Reporting, lock};
use crate::ways;
use crate::ways::export::DISCARD;
use crate::ways::stream::Reset as _;
use orchestrator::network::plane::{Backend, Tell, Told, Way};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

/// How long a client may take for its first line.
const FIRST: Duration = Duration::from_secs(10);
/// How long a client may take to read an answer.
const READS: Duration = Duration::from_secs(10);
/// Read and written at once over a link.
const BUFFER: usize = 64 * 1024;

type Client = BufReader<UnixStream>;

/// The answer where nothing need be said.
const DONE: Told = Told::Done { instance: None, node: None, way: None };

/// Serves one client until it or the data plane ends.
pub(crate) async fn serve(plane: Arc<Plane>, stream: UnixStream, permit: OwnedSemaphorePermit) {
    let mut client = BufReader::with_capacity(BUFFER, stream);
    let mut first = true;
    loop {
        let line = lines::read(&mut client, LONGEST);
        let told = if first { timeout(FIRST, line).await.ok() } else { Some(line.await) };
        first = false;
        let tell = match told {
            Some(Ok(Some(tell))) => tell,
            Some(Ok(None)) | None => return,
            Some(Err(error)) => {
                let why = format!("that isn't understood: {error}");
                let goes_on = matches!(error, LineError::Invalid(_));
                if say(&mut client, Told::Refused { why }).await.is_err() || !goes_on {
                    return;
                }
                continue;
            }
        };
        let said = match tell {
            Tell::Serve { table } => match plane.serve(*table).await {
                Ok(()) => say(&mut client, report(&plane)).await,
                Err(why) => say(&mut client, Told::Refused { why }).await,
            },
            Tell::Show => say(&mut client, report(&plane)).await,
            Tell::Watch => return watch(&plane, client).await,
            Tell::Link { from } => return link(&plane, client, from, permit).await,
            Tell::Connect { service, port } => return connect(&plane, client, service, port, permit).await,
            Tell::Discard { node } => return discard(&plane, client, node, permit).await,
            Tell::End => {
                // Whoever said so may be gone already.
                let _ = say(&mut client, DONE).await;
                plane.end.cancel();
                return;
            }
        };
        if said.is_err() {
            return;
        }
    }
}

async fn say(client: &mut Client, told: Told) -> io::Result<()> {
    timeout(READS, lines::write(client, &told)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn report(plane: &Plane) -> Told {
    Told::Report { report: Box::new(plane.report()) }
}

/// Sends reports until the client says anything more, or ends.
async fn watch(plane: &Plane, mut client: Client) {
    let mut reporting = Reporting::new(plane);
    loop {
        if say(&mut client, report(plane)).await.is_err() {
            return;
        }
        tokio::select! {
            () = reporting.due() => {}
            read = client.fill_buf() => {
                if read.is_ok_and(|bytes| !bytes.is_empty()) {
                    let why = "this connection watches: use another one for anything else".to_owned();
                    // The connection ends either way.
                    let _ = say(&mut client, Told::Refused { why }).await;
                }
                return;
            }
        }
    }
}

/// Holds a link that came.
async fn link(plane: &Arc<Plane>, mut client: Client, from: String, permit: OwnedSemaphorePermit) {
    if from.is_empty() || from == plane.node {
        let why = format!("this is {}, and so is who makes the link", plane.node);
        // The connection ends either way.
        let _ = say(&mut client, Told::Refused { why }).await;
        return;
    }
    if say(&mut client, DONE).await.is_err() {
        return;
    }
    // Links don't keep clients out; a node has one, because a newer one takes the older one's place.
    drop(permit);
    let (reader, writer) = tokio::io::split(client);
    // Both buffers stay: what came behind the line is in the client's.
    let stream = tokio::io::join(reader, BufWriter::with_capacity(BUFFER, writer));
    let why = hold(plane, &from, stream, Side::Came, || {}).await;
    if plane.links.to(&from).is_none() {
        plane.way_failed(&from, &Way::Link, why);
    }
}

/// Connects the client to a service as a listener would.
async fn connect(
    plane: &Arc<Plane>,
    mut client: Client,
    service: String,
    port: Option<u16>,
    permit: OwnedSemaphorePermit,
) {
    let dialed = async {
        let listener = find(plane, &service, port)?;
        let carried = plane.connections.clone().try_acquire_owned();
        let carried = carried.map_err(|_| "too many connections are open".to_owned())?;
        let counted = listener.count(plane);
        let dialed = counted.dial().await.map_err(|error| error.to_string())?;
        Ok::<_, String>((carried, counted, dialed))
    };
    let (_carried, counted, dialed) = match dialed.await {
        Ok(dialed) => dialed,
        Err(why) => {
            // The connection ends either way.
            let _ = say(&mut client, Told::Refused { why }).await;
            return;
        }
    };
    let Backend { instance, node, .. } = &*dialed.picked.backend;
    let (instance, node) = (Some(instance.clone()), Some(node.clone()));
    let way = dialed.way.clone();
    if say(&mut client, Told::Done { instance, node, way }).await.is_ok() {
        drop(permit);
        counted.carry(client, dialed, std::future::pending()).await;
    }
}

/// Connects the client to where another node throws away what is sent.
async fn discard(plane: &Arc<Plane>, mut client: Client, node: String, permit: OwnedSemaphorePermit) {
    let table = plane.table();
    // As if it were an instance that listens on loopback: only by ways that end at the data plane beside it.
    let backend = Backend {
        instance: node.clone(),
        node: node.clone(),
        export: DISCARD.to_owned(),
        address: (Ipv4Addr::LOCALHOST, 0).into(),
        weight: 1,
        draining: false,
    };
    let dialed = match plane.connections.clone().try_acquire_owned() {
        Ok(carried) => ways::dial(plane, &table, &backend).await.map(|dialed| (carried, dialed)),
        Err(_) => Err("too many connections are open".to_owned()),
    };
    let (_carried, (mut stream, way)) = match dialed {
        Ok(dialed) => dialed,
        Err(why) => {
            // The connection ends either way.
            let _ = say(&mut client, Told::Refused { why }).await;
            return;
        }
    };
    if say(&mut client, Told::Done { instance: None, node: Some(node), way }).await.is_ok() {
        drop(permit);
        let uncounted = AtomicU64::default();
        if both_ways(&mut client, &mut stream, &uncounted, &uncounted).await.is_err() {
            stream.reset();
        }
    }
}

fn find(plane: &Plane, service: &str, port: Option<u16>) -> Result<Arc<Listener>, String> {
    let listeners = lock(&plane.listeners);
    let mut of_service = listeners.iter().filter(|listener| listener.service == service).peekable();
    if of_service.peek().is_none() {
        return Err(format!("{service} isn't reached through {}", plane.node));
    }
    let found = of_service.find(|listener| port.is_none_or(|port| listener.place.port() == port)).cloned();
    found.ok_or_else(|| format!("{service} has no port {}", port.unwrap_or_default()))
}
