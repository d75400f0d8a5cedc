//! `harness network discover`: what is around that the stack could use, and what to write for it.
//!
//! Nothing is scanned: only what the kernel and the container engine of this machine know already is read.

use super::super::Context;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::ui::style::{self, paint};
use crate::ui::table::Table;
use command_executor::command::Command;
use command_executor::executor::Executor;
use command_executor::launcher::LocalLauncher;
use orchestrator::node::{PROJECT_LABEL, listening};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The time that the container engine may take for a question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that listens on this machine.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Listening {
    address: SocketAddr,
    /// Its program, where that can be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<String>,
}

/// A container that this stack didn't start, in a network of this machine's engine.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Container {
    name: String,
    image: String,
    network: String,
    /// Its address there.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    /// Ports that its image names: `5432/tcp`.
    ports: Vec<String>,
}

/// Another machine that this one has spoken with lately.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Neighbour {
    address: IpAddr,
    interface: String,
    /// The node of the file that has this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

#[derive(Serialize)]
struct Document {
    schema: u32,
    listening: Vec<Listening>,
    containers: Vec<Container>,
    neighbours: Vec<Neighbour>,
    /// Why the container engine couldn't be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_containers: Option<String>,
}

/// `own` are sockets of the stack itself, `nodes` the addresses of nodes by name.
pub(super) fn run(
    context: &Context,
    own: &[SocketAddr],
    nodes: &BTreeMap<String, String>,
) -> Result<Exit, CommandError> {
    LocalLauncher::prepare();
    let ours = |address: &SocketAddr| own.iter().any(|own| own.port() == address.port());
    let listening = listening().into_iter().filter(|(address, _)| !ours(address));
    let listening = listening.map(|(address, program)| Listening { address, program }).collect();
    let (containers, no_containers) = match async_io::block_on(containers()) {
        Ok(containers) => (containers, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let table = std::fs::read_to_string("/proc/net/arp").unwrap_or_default();
    let neighbours = neighbours(&table, nodes);
    let document = Document { schema: 1, listening, containers, neighbours, no_containers };
    if context.ui.is_table() {
        show(context, &document)?;
    } else {
        context.ui.document(&document)?;
    }
    Ok(Exit::OK)
}

fn show(context: &Context, document: &Document) -> Result<(), CommandError> {
    let section = |title: &str, table: &Table, empty: &str, rows: usize| {
        context.ui.out(paint(style::STRONG, title))?;
        match rows {
            0 => context.ui.out(format_args!("  {}", paint(style::DIM, empty)))?,
            _ => {
                for line in table.lines(context.ui.stdout_width().map(|width| width.saturating_sub(2))) {
                    context.ui.out(format_args!("  {line}"))?;
                }
            }
        }
        Ok::<_, CommandError>(())
    };
    let mut table = Table::new(&["ADDRESS", "PROGRAM"]);
    for one in &document.listening {
        table.row(vec![one.address.to_string(), one.program.clone().unwrap_or_default()]);
    }
    section("Listening on this machine", &table, "nothing", document.listening.len())?;
    let mut table = Table::new(&["CONTAINER", "IMAGE", "NETWORK", "ADDRESS", "PORTS"]);
    for one in &document.containers {
        let address = one.address.map(|address| address.to_string()).unwrap_or_default();
        let ports = one.ports.join(", ");
        table.row(vec![one.name.clone(), one.image.clone(), one.network.clone(), address, ports]);
    }
    let none = document.no_containers.as_deref().unwrap_or("none that this stack didn't start");
    section("Containers", &table, none, document.containers.len())?;
    let mut table = Table::new(&["ADDRESS", "INTERFACE", "NODE"]);
    for one in &document.neighbours {
        let node = one.node.clone().unwrap_or_default();
        table.row(vec![one.address.to_string(), one.interface.clone(), node]);
    }
    section("Machines spoken with lately", &table, "none", document.neighbours.len())?;
    context.ui.say(
        "To use one: `type: attach` with `external: {host: ADDRESS, port: PORT}`, or `container: NAME`.",
    );
    Ok(())
}

/// The machines of `/proc/net/arp` that have answered.
fn neighbours(table: &str, nodes: &BTreeMap<String, String>) -> Vec<Neighbour> {
    // IP address, HW type, flags, HW address, mask, device; flag 2 is "complete" (linux/include/uapi/linux/if_arp.h).
    let answered = |line: &&str| line.split_ascii_whitespace().nth(2) == Some("0x2");
    let lines = table.lines().skip(1).filter(answered);
    let mut found: Vec<Neighbour> = lines
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let text = fields.next()?;
            let node = nodes.iter().find(|(_, host)| host.as_str() == text).map(|(name, _)| name.clone());
            let interface = fields.nth(4)?.to_owned();
            Some(Neighbour { address: text.parse().ok()?, interface, node })
        })
        .collect();
    found.sort_by_key(|neighbour| neighbour.address);
    found
}

/// Running containers that are of no stack of this program.
async fn containers() -> Result<Vec<Container>, String> {
    let ids = docker(&["ps", "--quiet", "--no-trunc"]).await?;
    let ids: Vec<&str> = ids.split_ascii_whitespace().collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let inspected = docker(&[&["inspect"], ids.as_slice()].concat()).await?;
    let inspected: Value = serde_json::from_str(&inspected).map_err(|error| error.to_string())?;
    Ok(inspected.as_array().into_iter().flatten().flat_map(described).collect())
}

/// A container of `docker inspect`, once for each network that it is in.
fn described(container: &Value) -> Vec<Container> {
    let config = &container["Config"];
    if config["Labels"].get(PROJECT_LABEL).is_some() {
        return Vec::new();
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
    let ports: Vec<String> = keys(&config["ExposedPorts"]);
    let networks = container["NetworkSettings"]["Networks"].as_object();
    networks
        .into_iter()
        .flatten()
        .map(|(network, settings)| Container {
            name: text(&container["Name"]).trim_start_matches('/').to_owned(),
            image: text(&config["Image"]),
            network: network.clone(),
            address: settings["IPAddress"].as_str().and_then(|address| address.parse().ok()),
            ports: ports.clone(),
        })
        .collect()
}

async fn docker(arguments: &[&str]) -> Result<String, String> {
    let command = Command::new("docker").args(arguments).timeout(PATIENCE);
    let finished = Executor::new(LocalLauncher::new()).with_capture(8 << 20).run(&command).await;
    let finished = finished.map_err(|error| crate::error::chain(&error))?;
    if !finished.exit.is_success() {
        return Err(String::from_utf8_lossy(&finished.stderr.bytes).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&finished.stdout.bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn machines_that_answered() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.0.0.3         0x1         0x2         02:42:ac:11:00:03     *        eth0\n\
                     10.0.0.9         0x1         0x0         00:00:00:00:00:00     *        eth0\n\
                     junk\n";
        let nodes = BTreeMap::from([("eu-1".to_owned(), "10.0.0.3".to_owned())]);
        let expected = Neighbour {
            address: "10.0.0.3".parse().unwrap(),
            interface: "eth0".into(),
            node: Some("eu-1".into()),
        };
        assert_eq!(neighbours(table, &nodes), [expected]);
        assert_eq!(neighbours("", &nodes), []);
    }

    #[test]
    fn containers_of_others() {
        let container = json!({
            "Name": "/db", "Config": { "Image": "postgres:16", "Labels": {}, "ExposedPorts": { "5432/tcp": {} } },
            "NetworkSettings": { "Networks": { "bridge": { "IPAddress": "172.17.0.2" }, "none": { "IPAddress": "" } } }
        });
        let described = super::described(&container);
        let told: Vec<_> = described.iter().map(|one| (one.network.as_str(), one.address)).collect();
        assert_eq!(told, [("bridge", "172.17.0.2".parse().ok()), ("none", None)]);
        assert_eq!(
            described.first().map(|one| one.ports.as_slice()),
            Some(["5432/tcp".to_owned()].as_slice())
        );
        let mut own = container.clone();
        own["Config"]["Labels"][PROJECT_LABEL] = json!("shop-1");
        assert_eq!(super::described(&own), []);
        assert_eq!(super::described(&json!(null)), []);
    }
}
