//! `harness network show`: what is reached where, and by which way.

use super::super::Context;
use super::{kind, live};
use crate::error::CommandError;
use crate::exit::Exit;
use crate::project::Project;
use crate::ui::meter::bytes;
use crate::ui::style::{self, paint};
use crate::ui::table::Table;
use crate::ui::time::{fine, short};
use orchestrator::network::plane::{Report, Way};
use orchestrator::network::topology::{Class, Pair};
use orchestrator::supervisor::{NetworkNode, NetworkService, NetworkStatus};
use serde::Serialize;
use std::time::Duration;

pub(super) fn run(context: &Context, project: &Project) -> Result<Exit, CommandError> {
    #[derive(Serialize)]
    struct Document {
        schema: u32,
        #[serde(flatten)]
        network: NetworkStatus,
    }
    let (network, _) = live(project)?;
    if !context.ui.is_table() {
        context.ui.document(&Document { schema: 1, network })?;
        return Ok(Exit::OK);
    }
    for line in lines(&network, context.ui.stdout_width()) {
        context.ui.out(line)?;
    }
    if network.version == 0 {
        context.ui.say("Every service is reached at its own address: nothing here needs a data plane.");
    }
    Ok(Exit::OK)
}

/// All of it, as text.
pub(super) fn lines(network: &NetworkStatus, width: Option<usize>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut section = |title: &str, table: Table, rows: usize| {
        if rows > 0 {
            lines.push(paint(style::STRONG, title).to_string());
            let room = width.map(|width| width.saturating_sub(2));
            lines.extend(table.lines(room).into_iter().map(|line| format!("  {line}")));
        }
    };
    let own = network.reports.get(&network.node);
    let mut table =
        Table::new(&["SERVICE", "NETWORK", "ADDRESS", "FROM CONTAINERS", "OPEN", "TAKEN", "TROUBLE"]);
    let mut rows = 0;
    for service in &network.services {
        for row in service_rows(service, own) {
            table.row(row);
            rows += 1;
        }
    }
    let title = match &network.virtuals {
        Some(subnet) => format!("Services, at virtual addresses of {subnet} on every node"),
        None => "Services".to_owned(),
    };
    section(&title, table, rows);
    if let Some(zone) = &network.zone {
        let mut table = Table::new(&["NODE", "ANSWERED", "TROUBLE"]);
        let mut rows = 0;
        for node in &network.nodes {
            let report = network.reports.get(&node.node).and_then(|report| report.zone.as_ref());
            let trouble = report.and_then(|report| report.error.as_ref());
            table.row(vec![
                node.node.clone(),
                report.map(|report| report.answered.to_string()).unwrap_or_default(),
                trouble.map(|why| paint(style::ERROR, why).to_string()).unwrap_or_default(),
            ]);
            rows += 1;
        }
        let (name, at) = (&zone.name, zone.address);
        let how = format!("dig @{} -p {} SERVICE.{name}", at.ip(), at.port());
        let title = format!("Zone {name}, asked at {at} on every node: {how}");
        section(&title, table, rows);
    }
    let mut table = Table::new(&["NODE", "DATA PLANE", "TUNNEL END", "UDP PORT", "ADDRESSES"]);
    for node in &network.nodes {
        table.row(node_row(node, network));
    }
    section("Nodes", table, network.nodes.len());
    let pairs: Vec<&Pair> = network.pairs.iter().filter(|pair| pair.from != pair.to).collect();
    let mut table = Table::new(&["FROM", "WAY", "TO", "ROUND TRIP", "EVIDENCE", "ELSE"]);
    for pair in &pairs {
        table.row(pair_row(pair, network));
    }
    section("Ways", table, pairs.len());
    let mut table = Table::new(&["FROM", "TO", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT"]);
    let mut rows = 0;
    for (from, report) in &network.reports {
        for (to, state) in report.tunnel.iter().flat_map(|tunnel| &tunnel.tunnels) {
            let endpoint = match (state.through_hub, state.endpoint) {
                (true, _) => "through the hub".to_owned(),
                (false, Some(endpoint)) => endpoint.to_string(),
                (false, None) => String::new(),
            };
            let handshake = state.handshake_s.map(|s| format!("{} ago", short(Duration::from_secs(s))));
            let handshake = handshake.unwrap_or_else(|| "none yet".to_owned());
            table.row(vec![from.clone(), to.clone(), endpoint, handshake, bytes(state.rx), bytes(state.tx)]);
            rows += 1;
        }
    }
    section("Tunnels", table, rows);
    let mut table = Table::new(&["NODE", "INTERFACE", "ADDRESS", ""]);
    let mut rows = 0;
    for (node, report) in &network.reports {
        if let Some(interface) = report.tunnel.as_ref().and_then(|tunnel| tunnel.interface.as_ref()) {
            let state = match &interface.error {
                None => paint(style::GOOD, "✓").to_string(),
                Some(why) => paint(style::ERROR, format_args!("✗ {why}")).to_string(),
            };
            table.row(vec![node.clone(), interface.name.clone(), interface.address.clone(), state]);
            rows += 1;
        }
    }
    section("Interfaces", table, rows);
    if let Some(conflict) = &network.conflict {
        lines.push(format!(
            "{} the tunnels' addresses overlap {conflict}, which a node is in",
            paint(style::ERROR, "✗")
        ));
    }
    lines
}

fn service_rows(service: &NetworkService, own: Option<&Report>) -> Vec<Vec<String>> {
    service
        .ports
        .iter()
        .map(|port| {
            let at = service.address.zip(port.number).map(|(address, number)| format!("{address}:{number}"));
            let door = port.at_name.map(|port| format!("{}:{port}", service.service));
            let is_it = |address: &String| at.as_ref().or(door.as_ref()) == Some(address);
            let report = own.and_then(|report| {
                let mut listeners = report.listeners.iter();
                listeners.find(|it| it.service == service.service.as_str() && is_it(&it.address))
            });
            let mut trouble: Vec<String> = report.iter().filter_map(|report| report.error.clone()).collect();
            trouble.extend(
                report.iter().flat_map(|report| &report.ejected).map(|(who, why)| format!("{who}: {why}")),
            );
            vec![
                match &port.name {
                    Some(name) => format!("{}.{name}", service.service),
                    None => service.service.to_string(),
                },
                kind(service.kind).to_owned(),
                at.unwrap_or_default(),
                match (port.at_name, port.at_gateway) {
                    (Some(port), _) => format!("{}:{port}", service.service),
                    (None, Some(port)) => format!("gateway:{port}"),
                    (None, None) => String::new(),
                },
                report.map(|report| report.open.to_string()).unwrap_or_default(),
                report.map(|report| report.accepted.to_string()).unwrap_or_default(),
                match trouble.is_empty() {
                    true => String::new(),
                    false => paint(style::ERROR, trouble.join("; ")).to_string(),
                },
            ]
        })
        .collect()
}

fn node_row(node: &NetworkNode, network: &NetworkStatus) -> Vec<String> {
    let plane = match network.reports.get(&node.node) {
        Some(report) if report.version == network.version => paint(style::GOOD, "✓ serves").to_string(),
        Some(report) if report.version > 0 => paint(style::BUSY, "● serves an older table").to_string(),
        Some(_) => paint(style::BUSY, "● serves nothing yet").to_string(),
        None => paint(style::ERROR, "✗ not heard").to_string(),
    };
    let facts = node.facts.as_ref();
    let addresses =
        facts.map(|facts| facts.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    vec![
        node.node.clone(),
        plane,
        node.overlay.map(|address| address.to_string()).unwrap_or_default(),
        facts.filter(|facts| facts.port > 0).map(|facts| facts.port.to_string()).unwrap_or_default(),
        addresses.unwrap_or_default(),
    ]
}

fn pair_row(pair: &Pair, network: &NetworkStatus) -> Vec<String> {
    let told = network.reports.get(&pair.from).and_then(|report| report.peers.get(&pair.to));
    let rtt = told
        .and_then(|peer| peer.ways.iter().filter(|way| way.works == Some(true)).find_map(|way| way.rtt_us));
    let others: Vec<&str> =
        pair.ways.iter().map(way).filter(|way| pair.class.map(class) != Some(way)).collect();
    vec![
        pair.from.clone(),
        match pair.class {
            Some(found) => paint(style::GOOD, format_args!("── {} ─▶", class(found))).to_string(),
            None => paint(style::DIM, "·· not used yet ··").to_string(),
        },
        pair.to.clone(),
        rtt.map(|us| fine(Duration::from_micros(us))).unwrap_or_default(),
        pair.evidence.clone(),
        others.join(", "),
    ]
}

/// A class in words.
pub(super) fn class(class: Class) -> &'static str {
    match class {
        Class::Local => "the same node",
        Class::Lan => "straight",
        Class::Wireguard => "tunnel",
        Class::Hub => "tunnel, through the hub",
        Class::Link => "ssh",
        Class::Relay => "ssh, handed on",
    }
}

/// A way in words.
pub(super) fn way(way: &Way) -> &'static str {
    match way {
        Way::Lan { .. } => class(Class::Lan),
        Way::Wireguard => class(Class::Wireguard),
        Way::Link => class(Class::Link),
        Way::Relay { .. } => class(Class::Relay),
    }
}
