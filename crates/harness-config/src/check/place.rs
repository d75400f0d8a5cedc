//! Nodes, networks, ports.

use super::Facts;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::lower::replicas;
use crate::source::Span;
use crate::syntax::network::NamedNode;
use crate::syntax::reader::shown;
use crate::syntax::service::Service;
use orchestrator::model::{OnNodeLoss, PortNumber, Protocol};
use orchestrator::plan::fits;
use std::collections::{HashMap, HashSet};

/// Whether the names of nodes and networks exist.
pub(super) fn places(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    let nodes: Vec<&str> = facts.file.nodes.iter().map(|node| node.name.as_str()).collect();
    let mut networks: Vec<&str> = facts.file.networks.iter().map(|network| network.name.as_str()).collect();
    if !networks.contains(&"local") {
        networks.push("local");
    }
    let mut unknown_network = |name: &str, span: Span| {
        if !networks.contains(&name) {
            out.push(
                Diagnostic::error("unknown-network", span, format!("there is no network `{}`", shown(name)))
                    .label("unknown network")
                    .maybe_help(did_you_mean(name, networks.iter().copied())),
            );
        }
    };
    for service in &facts.file.services {
        if let Some(network) = &service.network {
            unknown_network(&network.value, network.span);
        }
    }
    for node in &facts.file.nodes {
        for network in &node.networks {
            unknown_network(&network.value, network.span);
        }
    }
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for node in &facts.file.nodes {
        if node.name == "local" {
            out.push(
                Diagnostic::error("name", node.span, "`local` can't be the name of a node")
                    .label("this is what the machine itself is called")
                    .help("give it another name"),
            );
        }
        if let Some(first) = seen.insert(&node.name, node.span) {
            out.push(
                Diagnostic::error("name-clash", node.span, format!("there are two nodes `{}`", node.name))
                    .label("the second")
                    .related(first, "the first"),
            );
        }
    }
    jumps(facts, out);
    for service in &facts.file.services {
        if let Some(host) = &service.host
            && !nodes.contains(&host.value.as_str())
            && !is_address(&host.value)
        {
            let help = did_you_mean(&host.value, nodes.iter().copied())
                .unwrap_or_else(|| "declare it under `nodes:`, or give an address".into());
            out.push(
                Diagnostic::error(
                    "unknown-node",
                    host.span,
                    format!("there is no node `{}`", shown(&host.value)),
                )
                .label("unknown node")
                .help(help),
            );
        }
        reschedule(service, out);
        placement(facts, service, out);
    }
}

/// Labels that no node has.
fn placement(facts: &Facts<'_>, service: &Service, out: &mut Vec<Diagnostic>) {
    if service.placement.is_empty() || service.host.is_some() {
        return;
    }
    if !facts.file.nodes.iter().any(|node| fits(&node.node, &service.placement)) {
        let labels: Vec<String> =
            service.placement.iter().map(|(key, value)| format!("{key}={value}")).collect();
        out.push(
            Diagnostic::error(
                "unplaceable",
                service.span,
                format!(
                    "no node has the labels of the placement of `{}`: {}",
                    service.name,
                    labels.join(", ")
                ),
            )
            .label("no node may run it")
            .help("give a node these `labels:` (or `region:`), or take the placement away"),
        );
    }
}

/// Jump hosts that lead back to one that was passed already.
fn jumps(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    let nodes: HashMap<&str, &NamedNode> =
        facts.file.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    for first in &facts.file.nodes {
        let mut way = vec![first.name.as_str()];
        let mut next = first.node.jump.as_deref();
        while let Some((name, node)) = next.and_then(|jump| nodes.get_key_value(jump)) {
            let again = way.contains(name);
            way.push(name);
            if again {
                // Said once: of the circle's first node in the file, not of all that lead into it.
                let earliest = facts.file.nodes.iter().find(|node| way.contains(&node.name.as_str()));
                if *name == first.name && earliest.is_some_and(|node| node.name == first.name) {
                    let message = format!("the jump hosts go round in a circle: {}", way.join(" → "));
                    out.push(Diagnostic::error("cycle", first.span, message).label("reached through itself"));
                }
                break;
            }
            next = node.node.jump.as_deref();
        }
    }
}

/// What can be reached without being declared: it has a dot, a colon or an `@`, or it is this machine.
fn is_address(host: &str) -> bool {
    host == "localhost"
        || (host.contains(['.', ':', '@']) && !host.starts_with('-') && !host.contains(char::is_whitespace))
}

/// Only a keeper can promise that an instance is gone before another starts elsewhere.
fn reschedule(service: &Service, out: &mut Vec<Diagnostic>) {
    let Some(loss) = service.on_node_loss.as_ref().filter(|loss| loss.value == OnNodeLoss::Reschedule) else {
        return;
    };
    if let Some(kind) = service.kind
        && !matches!(kind, "process" | "remote" | "package")
    {
        out.push(
            Diagnostic::error(
                "reschedule",
                loss.span,
                format!("a service of type {kind} can't be rescheduled: nothing could end it on a node that is cut off"),
            )
            .label("expected keep"),
        );
        return;
    }
    if service.host.is_some() || service.placement.is_empty() {
        out.push(
            Diagnostic::error(
                "reschedule",
                loss.span,
                format!("`{}` can't be rescheduled: there is no other node that may run it", service.name),
            )
            .label("expected keep")
            .help("place it by labels that several nodes have (`placement:`), instead of by `host:`"),
        );
    }
}

/// A port that is used on a machine.
type Used<'a> = (&'a Service, Span, Option<&'a str>);

/// Ports that are used twice on one node.
pub(super) fn ports(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    let mut used: HashMap<(Option<&str>, bool, u16), Vec<Used<'_>>> = HashMap::new();
    for service in facts.active {
        let mut names = HashSet::new();
        let host = service.host.as_ref().map(|host| host.value.as_str());
        let copies = replicas(service).max(service.scaling.as_ref().map_or(0, |scaling| scaling.max));
        for port in &service.ports {
            if let Some(name) = &port.value.name
                && !names.insert(name)
            {
                out.push(
                    Diagnostic::error(
                        "duplicate",
                        port.span,
                        format!("`{}` has two ports named `{name}`", service.name),
                    )
                    .label("the second"),
                );
            }
            let PortNumber::Fixed(number) = port.value.number else { continue };
            if !is_on_the_machine(service, port.value.target.is_some() || port.value.address.is_some()) {
                continue;
            }
            if copies > 1 {
                out.push(
                    Diagnostic::error(
                        "port",
                        port.span,
                        format!(
                            "`{}` has up to {copies} instances, and they can't all have port {number}",
                            service.name
                        ),
                    )
                    .label("used by every instance")
                    .help("let each have a port of its own: `port: auto`"),
                );
                continue;
            }
            let address = port.value.address.as_deref();
            let others = used.entry((host, port.value.protocol == Protocol::Udp, number)).or_default();
            if let Some((other, span, _)) =
                others.iter().find(|(_, _, theirs)| same_address(address, *theirs))
            {
                let message = if other.name == service.name {
                    format!("`{}` uses port {number} twice", service.name)
                } else {
                    format!("`{}` and `{}` both use port {number}", other.name, service.name)
                };
                out.push(
                    Diagnostic::error("port", port.span, message)
                        .label("used again")
                        .related(*span, "used here")
                        .help("choose another port, or `port: auto`"),
                );
            }
            others.push((service, port.span, address));
        }
    }
}

/// Ports that the DNS zone has, by TCP and UDP on every node, and a service has too.
pub(super) fn zone(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    let Some(zone) = &facts.file.zone else { return };
    let number = orchestrator::network::zone::port(zone);
    // One of the stack's own is met by what takes all addresses only.
    let listens = zone.listen.map_or("its own".to_owned(), |listen| listen.ip().to_string());
    for service in facts.active {
        for port in &service.ports {
            let published = port.value.target.is_some() || port.value.address.is_some();
            let meets = port.value.number == PortNumber::Fixed(number);
            // Containers' ports are published at loopback unless told otherwise.
            let by_default = (service.kind == Some("docker")).then_some("127.0.0.1");
            let address = port.value.address.as_deref().or(by_default);
            if meets && is_on_the_machine(service, published) && same_address(address, Some(&listens)) {
                out.push(
                    Diagnostic::error(
                        "port",
                        port.span,
                        format!("`{}` and the zone both use port {number}", service.name),
                    )
                    .label("used by the zone on every node")
                    .help(format!(
                        "have the zone asked at another: `zone: {{name: {}, listen: '127.0.0.1:PORT'}}`",
                        zone.name
                    )),
                );
            }
        }
    }
}

/// Whether a port of the service is one of its machine: what a container exposes without publishing it isn't.
fn is_on_the_machine(service: &Service, published: bool) -> bool {
    match service.kind {
        Some("docker") => published,
        // They listen by themselves; what is written tells where.
        Some("attach") => false,
        _ => true,
    }
}

/// Whether two listeners would meet: an absent address is every address.
fn same_address(a: Option<&str>, b: Option<&str>) -> bool {
    let any = |address: Option<&str>| matches!(address, None | Some("0.0.0.0" | "::"));
    any(a) || any(b) || a == b
}

/// Subnets that overlap.
pub(super) fn subnets(facts: &Facts<'_>, out: &mut Vec<Diagnostic>) {
    let all: Vec<_> = facts
        .file
        .networks
        .iter()
        .filter_map(|network| network.subnet.as_ref().map(|subnet| (network, subnet)))
        .collect();
    for (at, (network, subnet)) in all.iter().enumerate() {
        if let Some((other, theirs)) =
            all.iter().take(at).find(|(_, theirs)| subnet.value.overlaps(theirs.value))
        {
            out.push(
                Diagnostic::error(
                    "subnet",
                    subnet.span,
                    format!(
                        "{} of `{}` overlaps {} of `{}`",
                        subnet.value, network.name, theirs.value, other.name
                    ),
                )
                .label("overlaps")
                .related(theirs.span, "with this one"),
            );
        }
    }
}
