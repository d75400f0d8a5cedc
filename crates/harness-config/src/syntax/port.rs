//! `ports`: `80`, `"8080:80"`, `"127.0.0.1:8080:80/tcp"`, or a map.

use super::keys::PORT;
use super::reader::{Reader, Spanned};
use super::tree::{Kind, Node};
use orchestrator::model::{Port, PortNumber, Protocol};

const EXPECTED: &str = "expected a port (80), PUBLISHED:TARGET (\"8080:80\"), or a map with `port`";
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

/// The ports of a service.
pub(crate) fn ports(reader: &mut Reader<'_>, node: &Node) -> Vec<Spanned<Port>> {
    let items = reader.items(node, false, "expected a list of ports");
    items.iter().filter_map(|item| port(reader, item)).collect()
}

fn port(reader: &mut Reader<'_>, node: &Node) -> Option<Spanned<Port>> {
    if !matches!(node.kind, Kind::Map(_)) {
        return reader.parsed(node, EXPECTED, parse);
    }
    let fields = reader.fields(node, &PORT)?;
    reader.require(&fields, node.span, "the port");
    let name = fields.get("name").and_then(|node| {
        reader.parsed(node, "expected a name of a-z, 0-9, - and _", |text| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (!text.is_empty() && text.bytes().all(plain)).then(|| text.to_string())
        })
    });
    let target = fields.get("target").and_then(|node| reader.port(node));
    let protocol = fields.get("protocol").and_then(|node| reader.word(node, &PROTOCOLS));
    let address = fields.get("address").and_then(|node| {
        reader.parsed(node, "expected an IP address", |text| {
            text.parse::<std::net::IpAddr>().ok().map(|_| text.to_string())
        })
    });
    let number = reader.parsed(fields.get("port")?, "expected a port from 1 to 65535, or auto", |text| {
        if text == "auto" { Some(PortNumber::Auto) } else { number(text).map(PortNumber::Fixed) }
    })?;
    Some(Spanned {
        value: Port {
            name: name.map(|name| name.value),
            number: number.value,
            target,
            protocol: protocol.map_or(Protocol::Tcp, |protocol| protocol.value),
            address: address.map(|address| address.value),
        },
        span: node.span,
    })
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|number| *number > 0)
}

/// `[ADDRESS:]PORT[:TARGET][/PROTOCOL]`
fn parse(text: &str) -> Option<Port> {
    let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = PROTOCOLS.iter().find(|(name, _)| *name == protocol)?.1;
    let port = |text: &str| {
        if text == "auto" { Some(PortNumber::Auto) } else { number(text).map(PortNumber::Fixed) }
    };
    let (rest, target) = match text.rsplit_once(':') {
        Some((rest, target)) => (rest, Some(number(target)?)),
        None => (text, None),
    };
    let (address, published) = match rest.rsplit_once(':') {
        Some((address, published)) => (Some(address), published),
        None => (None, rest),
    };
    let address = match address {
        Some(address) => {
            let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
            Some(bare.parse::<std::net::IpAddr>().ok()?.to_string())
        }
        None => None,
    };
    Some(Port { name: None, number: port(published)?, target, protocol, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_text() {
        let show = |text: &str| {
            parse(text).map(|port| {
                format!("{:?} {:?} {:?} {:?}", port.number, port.target, port.protocol, port.address)
            })
        };
        assert_eq!(show("80").as_deref(), Some("Fixed(80) None Tcp None"));
        assert_eq!(show("8080:80").as_deref(), Some("Fixed(8080) Some(80) Tcp None"));
        assert_eq!(show("auto:80").as_deref(), Some("Auto Some(80) Tcp None"));
        assert_eq!(
            show("127.0.0.1:8080:80/udp").as_deref(),
            Some("Fixed(8080) Some(80) Udp Some(\"127.0.0.1\")")
        );
        assert_eq!(show("[::1]:8080:80").as_deref(), Some("Fixed(8080) Some(80) Tcp Some(\"::1\")"));
        for bad in ["", "0", "65536", "-1", "a", "80:", ":80", "x:1:2", "80/sctp", "1-2", "8080:80:"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
