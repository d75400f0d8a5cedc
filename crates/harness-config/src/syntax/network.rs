//! `networks`, `nodes` and `secrets`.

use super::keys::{NETWORK, NETWORK_NODE, NODE, SECRET, Table};
use super::reader::{Reader, Spanned};
use super::tree::Node as Yaml;
use crate::diagnostic::Diagnostic;
use crate::source::Span;
use orchestrator::model::{Network, NetworkKind, Node, SecretSource};

/// An IPv4 subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub(crate) address: u32,
    pub(crate) prefix: u32,
}

impl Subnet {
    /// `10.42.0.0/16`; bits behind the prefix may be set.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: std::net::Ipv4Addr = address.parse().ok()?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        Some(Self { address: address.into(), prefix })
    }

    fn mask(prefix: u32) -> u32 {
        u32::MAX.checked_shl(32 - prefix).unwrap_or(0)
    }

    /// Without the bits behind the prefix.
    pub(crate) fn trunc(self) -> Self {
        Self { address: self.address & Self::mask(self.prefix), ..self }
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        let mask = Self::mask(self.prefix.min(other.prefix));
        self.address & mask == other.address & mask
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", std::net::Ipv4Addr::from(self.address), self.prefix)
    }
}

/// A node and where its name stands.
pub(crate) struct NamedNode {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) node: Node,
    /// Where the names of its networks stand.
    pub(crate) networks: Vec<Spanned<String>>,
}

/// A network and where its parts stand.
pub(crate) struct NamedNetwork {
    pub(crate) name: String,
    pub(crate) network: Network,
    pub(crate) subnet: Option<Spanned<Subnet>>,
}

/// The networks of a file, and the nodes that are written inside them.
pub(crate) fn networks(reader: &mut Reader<'_>, node: &Yaml) -> (Vec<NamedNetwork>, Vec<NamedNode>) {
    const KINDS: [(&str, NetworkKind); 4] = [
        ("local", NetworkKind::Local),
        ("lan", NetworkKind::Lan),
        ("wireguard", NetworkKind::Wireguard),
        ("auto", NetworkKind::Auto),
    ];
    let (mut all, mut nodes) = (Vec::new(), Vec::new());
    for entry in reader.entries(node, "expected a map of networks") {
        check_name(reader, &entry.key, entry.span, "a network");
        let Some(fields) = reader.fields(&entry.value, &NETWORK) else { continue };
        let kind = fields.get("type").and_then(|node| reader.word(node, &KINDS)).map(|kind| kind.value);
        if kind.is_none() && fields.get("type").is_none() && entry.key != "local" {
            reader.report(
                Diagnostic::error(
                    "missing-key",
                    entry.span,
                    format!("the network `{}` has no `type`", entry.key),
                )
                .label("expected `type:` local, lan, wireguard or auto in here"),
            );
        }
        let subnet = fields.get("subnet").and_then(|node| subnet(reader, node));
        let interface = fields.get("interface").and_then(|node| {
            reader.parsed(node, "expected the name of an interface, at most 15 characters", |text| {
                let good =
                    (1..=15).contains(&text.len()) && !text.contains(|c: char| c.is_whitespace() || c == '/');
                good.then(|| text.to_string())
            })
        });
        let _ = fields.get("description").and_then(|node| reader.text(node));
        if let Some(list) = fields.get("nodes") {
            for item in reader.items(list, false, "expected a list of nodes") {
                nodes.extend(self::node(reader, item, &NETWORK_NODE, None, Some(&entry.key)));
            }
        }
        let network = Network {
            kind: kind.unwrap_or(NetworkKind::Local),
            subnet: subnet.as_ref().map(|subnet| subnet.value.to_string()),
            interface: interface.map(|interface| interface.value),
        };
        all.push(NamedNetwork { name: entry.key.clone(), network, subnet });
    }
    (all, nodes)
}

fn subnet(reader: &mut Reader<'_>, node: &Yaml) -> Option<Spanned<Subnet>> {
    const EXPECTED: &str = "expected an IPv4 subnet such as 10.42.0.0/16";
    let subnet = reader.parsed(node, EXPECTED, Subnet::parse)?;
    if subnet.value.trunc() != subnet.value {
        reader.report(
            Diagnostic::error("subnet", node.span, format!("{} is an address in a subnet", subnet.value))
                .label(EXPECTED)
                .help(format!("the subnet is {}", subnet.value.trunc())),
        );
        return None;
    }
    Some(subnet)
}

/// The nodes of a file.
pub(crate) fn nodes(reader: &mut Reader<'_>, yaml: &Yaml) -> Vec<NamedNode> {
    let entries = reader.entries(yaml, "expected a map of nodes");
    entries
        .iter()
        .filter_map(|entry| node(reader, &entry.value, &NODE, Some((&entry.key, entry.span)), None))
        .collect()
}

fn node(
    reader: &mut Reader<'_>,
    yaml: &Yaml,
    table: &'static Table,
    name: Option<(&str, Span)>,
    network: Option<&str>,
) -> Option<NamedNode> {
    let fields = reader.fields(yaml, table)?;
    reader.require(&fields, name.map_or(yaml.span, |(_, span)| span), "the node");
    let text = |reader: &mut Reader<'_>, key| fields.get(key).and_then(|node| reader.text(node));
    let host = text(reader, "host");
    let user = text(reader, "user").or_else(|| text(reader, "ssh_user"));
    let key = text(reader, "identity_file").or_else(|| text(reader, "ssh_key"));
    let jump = text(reader, "jump");
    let region = text(reader, "region");
    let port = fields.get("port").and_then(|node| reader.port(node));
    let sudo = fields.get("sudo").and_then(|node| reader.bool(node)).unwrap_or(false);
    let networks = fields.get("networks").map(|node| reader.texts(node)).unwrap_or_default();
    let labels = fields.get("labels").map(|node| reader.labels(node)).unwrap_or_default();
    let (name, span) = match name {
        Some((name, span)) => (name.to_string(), span),
        None => match text(reader, "name") {
            Some(name) => (name.value, name.span),
            None => host.as_ref().map(|host| (host.value.clone(), host.span))?,
        },
    };
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        check_name(reader, &name, span, "a node");
    }
    let host = host?;
    // A host that begins with a dash would be an option of ssh.
    for (what, value) in [("host", Some(&host)), ("user", user.as_ref()), ("jump", jump.as_ref())] {
        if let Some(value) = value
            && (value.value.is_empty()
                || value.value.starts_with('-')
                || value.value.contains(char::is_whitespace))
        {
            reader.report(
                Diagnostic::error("type", value.span, format!("this can't be the {what} of a node"))
                    .label("expected a name or an address"),
            );
        }
    }
    let mut all: Vec<String> = networks.iter().map(|network| network.value.clone()).collect();
    if let Some(network) = network
        && !all.iter().any(|name| name == network)
    {
        all.push(network.into());
    }
    let node = Node {
        host: host.value,
        port,
        user: user.map(|user| user.value),
        identity_file: key.map(|key| reader.absolute(&key.value)),
        sudo,
        jump: jump.map(|jump| jump.value),
        networks: all,
        region: region.map(|region| region.value),
        labels,
    };
    Some(NamedNode { name, span, node, networks })
}

fn check_name(reader: &mut Reader<'_>, name: &str, span: Span, what: &str) {
    if let Err(error) = orchestrator::model::ServiceName::new(name) {
        reader.report(
            Diagnostic::error(
                "name",
                span,
                format!("`{}` can't be the name of {what}", super::reader::shown(name)),
            )
            .label(error.to_string()),
        );
    }
}

/// A secret's source and where its name stands.
pub(crate) fn secrets(reader: &mut Reader<'_>, node: &Yaml) -> Vec<(String, SecretSource)> {
    let mut all = Vec::new();
    for entry in reader.entries(node, "expected a map of secrets") {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if entry.key.is_empty() || !entry.key.bytes().all(plain) {
            reader.report(
                Diagnostic::error("name", entry.span, "this can't be the name of a secret")
                    .label("expected letters, digits, - and _"),
            );
        }
        let Some(fields) = reader.fields(&entry.value, &SECRET) else { continue };
        let file = fields.get("file").and_then(|node| reader.text(node));
        let env = fields.get("env").and_then(|node| reader.text(node));
        let command = fields.get("command").and_then(|node| reader.words(node));
        if fields.count(&["file", "env", "command"]) != 1 {
            reader.report(
                Diagnostic::error("secret", entry.span, format!("the secret `{}` has one source", entry.key))
                    .label("expected exactly one of file, env, command"),
            );
            continue;
        }
        let source = match (file, env, command) {
            (Some(file), ..) => SecretSource::File(reader.absolute(&file.value)),
            (_, Some(env), _) => SecretSource::Env(env.value),
            (.., Some(command)) => SecretSource::Command(command),
            _ => continue,
        };
        all.push((entry.key.clone(), source));
    }
    // A secret's command runs before anything is there that it could refer to.
    for used in std::mem::take(&mut reader.uses) {
        reader.report(
            Diagnostic::error("reference", used.span, format!("{} can't be used here", used.reference))
                .label("expected a text or ${NAME}"),
        );
    }
    reader.needs.clear();
    all
}

#[cfg(test)]
mod tests {
    use super::Subnet;

    #[test]
    fn subnets() {
        let parse = |text| Subnet::parse(text).unwrap();
        assert!(parse("10.0.0.0/8").overlaps(parse("10.42.0.0/16")));
        assert!(parse("0.0.0.0/0").overlaps(parse("192.168.1.0/24")));
        assert!(!parse("10.0.0.0/16").overlaps(parse("10.1.0.0/16")));
        assert_eq!(parse("10.1.2.3/16").trunc().to_string(), "10.1.0.0/16");
        for bad in
            ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "x/8", "10.0.0.0/", "256.0.0.0/8"]
        {
            assert_eq!(Subnet::parse(bad), None, "{bad}");
        }
    }
}
