//! `harness network forward`: a service as a port of this machine, for as long as the command runs.

use super::super::{Context, examples};
use super::live;
use crate::connect;
use crate::daemon::PLANE_FOLDER;
use crate::error::{CommandError, chain};
use crate::exit::Exit;
use crate::project::Project;
use crate::ui::style::{self, paint};
use crate::ui::suggest;
use async_executor::LocalExecutor;
use async_io::Timer;
use async_lock::Semaphore;
use async_net::{TcpListener, TcpStream};
use async_signal::{Signal, Signals};
use data_plane::client;
use futures_lite::{AsyncRead, AsyncWrite, AsyncWriteExt as _, FutureExt as _, StreamExt as _};
use orchestrator::supervisor::NetworkStatus;
use service_registry::model::{Entry, Location, State};
use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Connections at once; more wait.
const MOST: usize = 1024;
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Make a service a port of this machine, wherever it runs, until Ctrl-C
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness network forward db               127.0.0.1, at db's own port where that is free"
    "harness network forward db 15432         At another port"
    "harness network forward web --port admin The port of that name"
])]
pub(super) struct Args {
    /// The service
    name: String,
    /// The port of this machine; 0 for any
    #[arg(value_name = "PORT")]
    here: Option<u16>,
    /// Which port of the service, by name or number; else its first
    #[arg(long, value_name = "NAME|NUMBER")]
    port: Option<String>,
}

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    /// To the service, by the data plane.
    Plane { folder: PathBuf, service: String, port: u16 },
    /// To an instance that listens on this machine.
    Here(SocketAddr),
}

pub(super) fn run(context: &Context, project: &Project, args: &Args) -> Result<Exit, CommandError> {
    // Two for each connection.
    crate::daemon::raise_open_files();
    let (network, instances) = live(project)?;
    let (goal, port) = goal(project, &network, &instances, args)?;
    connect::block_on(async |executor| forward(context, executor, args, goal, port).await)
}

async fn forward(
    context: &Context,
    executor: &LocalExecutor<'static>,
    args: &Args,
    goal: Goal,
    port: u16,
) -> Result<Exit, CommandError> {
    let wanted = args.here.unwrap_or(port);
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).await {
        Ok(listener) => listener,
        // The service itself, or another one, has it here.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && args.here.is_none() => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| cant_listen(0, &error))?
        }
        Err(error) => return Err(cant_listen(wanted, &error)),
    };
    let address = listener.local_addr().map_err(|error| cant_listen(wanted, &error))?;
    let good = paint(style::GOOD, "✓");
    context.ui.say(format_args!("{good} {} is at {address}, until Ctrl-C", args.name));
    context.ui.out(address)?;
    let mut signals = Signals::new([Signal::Int, Signal::Term])
        .map_err(|error| CommandError::io("can't listen for Ctrl-C", &error))?;
    let turns = Arc::new(Semaphore::new(MOST));
    // The last failure that was told: a client that tries again and again is told of once.
    let told = Rc::new(RefCell::new(String::new()));
    let ui = context.ui;
    let accept = async {
        loop {
            let turn = turns.acquire_arc().await;
            let near = match listener.accept().await {
                Ok((near, _)) => near,
                Err(error) => {
                    // Mostly for want of descriptors: others end meanwhile, and Ctrl-C is heard.
                    let failed = format!("a connection can't be accepted: {error}");
                    if *told.borrow() != failed {
                        ui.warn(&failed);
                    }
                    told.replace(failed);
                    Timer::after(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (goal, told) = (goal.clone(), Rc::clone(&told));
            let one = async move {
                let _turn = turn;
                let failed = carry(near, &goal).await.err().unwrap_or_default();
                if !failed.is_empty() && *told.borrow() != failed {
                    ui.warn(&failed);
                }
                told.replace(failed);
            };
            executor.spawn(one).detach();
        }
    };
    let end = async {
        signals.next().await;
        Ok(Exit::OK)
    };
    accept.or(end).await
}

fn cant_listen(port: u16, error: &io::Error) -> CommandError {
    let holder = orchestrator::node::holder(port).map(|holder| format!(", which {holder} has"));
    CommandError::io(format!("can't listen at port {port}{}", holder.unwrap_or_default()), error)
        .hint("name another port, or 0 for any that is free")
}

/// One connection, to its end.
async fn carry(near: TcpStream, goal: &Goal) -> Result<(), String> {
    // Small messages go at once.
    let _ = near.set_nodelay(true);
    match goal {
        Goal::Plane { folder, service, port } => {
            let client = client::connect(folder).await.map_err(|error| chain(&error))?;
            let connected = client.connect_service(service, Some(*port)).await;
            join(near, connected.map_err(|error| chain(&error))?.stream).await;
        }
        Goal::Here(address) => {
            let far = TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
            let _ = far.set_nodelay(true);
            join(near, far).await;
        }
    }
    Ok(())
}

/// Copies in both directions until both have ended. What breaks off must not look as if it were complete.
async fn join(near: TcpStream, far: impl AsyncRead + AsyncWrite + Unpin) {
    let (far_in, far_out) = futures_lite::io::split(far);
    let both = futures_lite::future::try_zip(copy(near.clone(), far_out), copy(far_in, near.clone()));
    if both.await.is_err() {
        // Its end is a reset then. Fails only on a connection that is over.
        let _ = rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO));
    }
}

async fn copy(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    futures_lite::io::copy(from, &mut to).await?;
    to.close().await
}

/// Where connections to the service go, and the port that it has for others.
fn goal(
    project: &Project,
    network: &NetworkStatus,
    instances: &[Entry],
    args: &Args,
) -> Result<(Goal, u16), CommandError> {
    let name = args.name.as_str();
    let wanted = |name: Option<&str>, number: Option<u16>| match &args.port {
        None => true,
        Some(port) => name == Some(port) || number.map(|number| number.to_string()).as_ref() == Some(port),
    };
    let no_port = || match &args.port {
        Some(port) => CommandError::usage(format!("{name} has no port {port}")),
        None => CommandError::usage(format!("{name} has no port")),
    };
    // An address that nobody asks for just now has nobody who listens.
    let own = network.nodes.iter().find(|node| node.node == network.node);
    let listens = own.is_some_and(|node| node.listeners.iter().any(|(_, service)| service == name));
    if let Some(service) = network.services.iter().find(|service| service.service.as_str() == name)
        && service.address.is_some()
        && listens
    {
        let port = service.ports.iter().find(|port| wanted(port.name.as_deref(), port.number));
        let port = port.and_then(|port| port.number).ok_or_else(no_port)?;
        let folder = project.state_dir.join(PLANE_FOLDER);
        return Ok((Goal::Plane { folder, service: name.to_owned(), port }, port));
    }
    let mut own = instances.iter().filter(|entry| entry.service == name || entry.instance == name).peekable();
    if own.peek().is_none() {
        let names = instances.iter().map(|entry| entry.service.as_str());
        return Err(CommandError::usage(format!("there is no service '{name}' that runs"))
            .hint(suggest::did_you_mean(name, names.collect::<Vec<_>>())));
    }
    let running = own.find(|entry| entry.status.state == State::Running && entry.location == Location::Local);
    let entry = running.ok_or_else(|| {
        CommandError::new(
            Exit::UNREACHABLE,
            format!("{name} doesn't run on this machine, and nothing here asks for it"),
        )
        .hint(
            "a service here that depends on it makes it reachable: `dependencies`, or a `${…}` that names it",
        )
    })?;
    let endpoint =
        entry.endpoints.iter().find(|it| wanted(it.name.as_deref(), Some(it.port))).ok_or_else(no_port)?;
    let address = format!("{}:{}", endpoint.address, endpoint.port).parse().map_err(|_| no_port())?;
    Ok((Goal::Here(address), endpoint.port))
}
