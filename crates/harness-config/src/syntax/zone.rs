//! `zone`: `shop.test`, or a map.

use super::keys::ZONE;
use super::reader::Reader;
use super::tree::{Kind, Node};
use crate::diagnostic::Diagnostic;
use orchestrator::model::Zone;
use std::net::SocketAddr;

const NAME: &str = "expected the name of a zone, such as shop.test";
const LISTEN: &str = "expected a loopback address with a port, such as 127.0.0.1:5300";

pub(super) fn zone(reader: &mut Reader<'_>, node: &Node) -> Option<Zone> {
    if !matches!(node.kind, Kind::Map(_)) {
        return Some(Zone { name: zone_name(reader, node)?, listen: None });
    }
    let fields = reader.fields(node, &ZONE)?;
    reader.require(&fields, node.span, "the zone");
    let name = fields.get("name").and_then(|node| zone_name(reader, node));
    let listen = fields.get("listen").map(|node| listen(reader, node));
    Some(Zone { name: name?, listen: listen.flatten() })
}

fn zone_name(reader: &mut Reader<'_>, node: &Node) -> Option<String> {
    let name = reader.parsed(node, NAME, parse)?.value;
    if name == "local" || name.ends_with(".local") {
        reader.report(
            Diagnostic::warning("zone", node.span, format!("`{name}` is multicast DNS's"))
                .label("many resolvers ask nobody but the link for names below `.local`")
                .help("names below `.test` and `.internal` are nobody else's"),
        );
    }
    Some(name)
}

/// A zone's name, in lower case. What stands before it has room: a port's, a protocol's and a service's name.
fn parse(text: &str) -> Option<String> {
    const LONGEST: usize = 100;
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..64).contains(&label.len())
            && label.bytes().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (text.len() <= LONGEST && text.split('.').all(is_label)).then(|| text.to_ascii_lowercase())
}

fn listen(reader: &mut Reader<'_>, node: &Node) -> Option<SocketAddr> {
    let address = reader.parsed(node, LISTEN, |text| text.parse::<SocketAddr>().ok())?.value;
    if address.ip().is_loopback() && address.port() != 0 {
        return Some(address);
    }
    reader.report(
        Diagnostic::error("zone", node.span, format!("{address} is no place to ask the zone at"))
            .label(LISTEN)
            .help("whoever asks isn't asked who they are: only the machine itself may"),
    );
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_zones() {
        for (text, name) in [
            ("shop.test", Some("shop.test")),
            ("Shop.Test.", Some("shop.test")),
            ("a", Some("a")),
            ("_x.y-z", Some("_x.y-z")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("-a.b", None),
            ("a b", None),
            ("ä.test", None),
        ] {
            assert_eq!(parse(text).as_deref(), name, "{text:?}");
        }
        assert!(parse(&"a.".repeat(50)).is_some() && parse(&"a.".repeat(51)).is_none());
        assert!(parse(&"a".repeat(63)).is_some() && parse(&"a".repeat(64)).is_none());
    }
}
