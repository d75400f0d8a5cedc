//! The way to a node.

use command_executor::executor::Executor;
use command_executor::launcher::{LocalLauncher, SshHost, SshJump};
use indexmap::IndexMap;
use orchestrator::model::Node;
use std::ffi::OsString;
use std::time::Duration;

/// Time for ssh to read its configuration.
const RESOLVE: Duration = Duration::from_secs(5);

/// Why there is no way to a node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoWay {
    /// The file has no such node.
    #[error("there is no node '{name}'")]
    Unknown {
        /// The name.
        name: String,
    },
    /// Jump hosts lead back to one that was there before.
    #[error("the jump hosts go round in a circle: {}", .way.join(" → "))]
    Circle {
        /// From the node on, to the one that is met again.
        way: Vec<String>,
    },
}

/// The host that a node is, with the jump hosts before it. `ssh_config` is another file than the user's own.
pub(crate) fn host_of(
    nodes: &IndexMap<String, Node>,
    name: &str,
    ssh_config: Option<OsString>,
) -> Result<SshHost, NoWay> {
    let Some(node) = nodes.get(name) else { return Err(NoWay::Unknown { name: name.to_owned() }) };
    let mut host = SshHost::new(&node.host);
    if let Some(user) = &node.user {
        host = host.user(user);
    }
    if let Some(port) = node.port {
        host = host.port(port);
    }
    if let Some(file) = &node.identity_file {
        host = host.identity(file);
    }
    if let Some(file) = ssh_config {
        host = host.config(file);
    }
    Ok(jumps(nodes, name, node)?.into_iter().fold(host, SshHost::jump))
}

/// Whether ssh goes to that host without another in between, also by the user's ssh_config: only then the ends of its
/// connection are addresses of the two machines.
pub(crate) async fn is_direct(host: &SshHost) -> bool {
    let asked = Executor::new(LocalLauncher::new()).run(&host.resolve().timeout(RESOLVE)).await;
    asked.is_ok_and(|done| done.exit.is_success() && goes_straight(&done.stdout.to_text()))
}

fn goes_straight(resolved: &str) -> bool {
    let mut lines = resolved.lines().filter_map(|line| line.split_once(' '));
    lines.all(|(key, value)| !matches!(key, "proxyjump" | "proxycommand") || value.trim() == "none")
}

/// The jump hosts before a node, the nearest to us first: each node may stand behind another.
fn jumps(nodes: &IndexMap<String, Node>, name: &str, node: &Node) -> Result<Vec<SshJump>, NoWay> {
    let mut way = vec![name.to_owned()];
    let mut jumps = Vec::new();
    let mut next = node.jump.as_deref();
    while let Some(jump) = next {
        let again = way.iter().any(|passed| passed == jump);
        way.push(jump.to_owned());
        if again {
            return Err(NoWay::Circle { way });
        }
        let (host, node) = match nodes.get(jump) {
            Some(node) => (node.host.clone(), Some(node)),
            // Any name that ssh knows.
            None => (jump.to_owned(), None),
        };
        let (user, port) = (node.and_then(|node| node.user.clone()), node.and_then(|node| node.port));
        jumps.push(SshJump { host, user, port });
        next = node.and_then(|node| node.jump.as_deref());
    }
    jumps.reverse();
    Ok(jumps)
}

/// A node's address as people write it: `deploy@eu1.example.com:22`.
pub(crate) fn label(node: &Node) -> String {
    let user = node.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
    let port = node.port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{user}{}{port}", node.host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nodes(nodes: serde_json::Value) -> IndexMap<String, Node> {
        serde_json::from_value(nodes).unwrap()
    }

    fn node(host: &str, user: Option<&str>, jump: Option<&str>) -> serde_json::Value {
        json!({ "host": host, "port": null, "user": user, "identity_file": null, "jump": jump, "region": null })
    }

    #[test]
    fn a_node_is_reached_through_the_nodes_and_hosts_before_it() {
        let nodes = nodes(json!({
            "inner": node("10.0.0.3", Some("app"), Some("outer")),
            "outer": node("outer.example.com", Some("ops"), Some("bastion")),
        }));
        let jump = |host: &str, user: Option<&str>| SshJump {
            host: host.into(),
            user: user.map(str::to_owned),
            port: None,
        };
        let expected = SshHost::new("10.0.0.3")
            .user("app")
            .jump(jump("bastion", None))
            .jump(jump("outer.example.com", Some("ops")));
        assert_eq!(host_of(&nodes, "inner", None), Ok(expected.clone()));
        assert_eq!(host_of(&nodes, "inner", Some("cfg".into())), Ok(expected.config("cfg")));
        assert_eq!(host_of(&nodes, "x", None), Err(NoWay::Unknown { name: "x".into() }));
    }

    #[test]
    fn a_host_behind_another_of_ssh_config_isnt_reached_directly() {
        test_hosts::require!(test_hosts::program("ssh", "openssh-client"));
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        let text =
            "Host far\n  ProxyJump near\nHost odd\n  ProxyCommand nc %h %p\nHost none\n  ProxyJump none\n";
        std::fs::write(&config, text).unwrap();
        let direct = |host: SshHost| async_io::block_on(is_direct(&host.config(&config)));
        assert!(direct(SshHost::new("other")) && direct(SshHost::new("none").user("x").port(2)));
        assert!(!direct(SshHost::new("far")) && !direct(SshHost::new("odd")));
        let jump = SshJump { host: "near".into(), user: None, port: None };
        assert!(!direct(SshHost::new("other").jump(jump)));
    }

    #[test]
    fn jump_hosts_that_lead_back_are_refused() {
        let nodes = nodes(
            json!({ "a": node("a.example.com", None, Some("b")), "b": node("b.example.com", None, Some("a")) }),
        );
        let error = host_of(&nodes, "a", None).unwrap_err();
        assert_eq!(error.to_string(), "the jump hosts go round in a circle: a → b → a");
    }
}
