//! Nodes in network namespaces of their own, without root: what happens to networks happens to these.

mod faults;
mod interface;
mod interoperation;
mod liar;
mod nat;
mod process;
mod size;

use crate::world::{Flow, Node};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::Command;
use test_hosts::{namespaces, require};
use tokio::runtime::Runtime;

/// The port that all nodes have.
const PORT: u16 = 40_000;
/// Says that the test is in namespaces of its own already.
const INSIDE: &str = "TUNNEL_LABORATORY";

/// Makes those namespaces, which are 203.0.113.1, .2 and so on at one switch, by a device of that name.
fn switch(namespaces: &str, device: &str) {
    sh(&format!(
        "set -e
        mount -t tmpfs tmpfs /run
        ip link set lo up
        ip link add sw type bridge
        ip link set sw up
        n=1
        for ns in {namespaces}; do
            ip netns add $ns
            ip link add s$ns type veth peer name {device} netns $ns
            ip link set s$ns master sw up
            ip -n $ns link set lo up
            ip -n $ns link set {device} up
            ip -n $ns addr add 203.0.113.$n/24 dev {device}
            n=$((n + 1))
        done"
    ));
}

/// Runs the test that calls this in namespaces of its own: the test is started once more there.
pub(crate) fn alone<Scene: FnOnce()>(scene: Scene) {
    if std::env::var_os(INSIDE).is_some() {
        return scene();
    }
    require!(namespaces());
    let name = std::any::type_name::<Scene>();
    let name = name.split_once("::").unwrap().1.trim_end_matches("::{{closure}}");
    let ran = Command::new("unshare")
        .arg("-Urnm")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    eprintln!("{said}");
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

/// Runs that in a shell.
pub(crate) fn sh(script: &str) {
    let ran = Command::new("sh").args(["-c", script]).output().unwrap();
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// A runtime whose threads are in that namespace.
pub(crate) fn runtime(namespace: &'static str) -> Runtime {
    let enter = move || {
        let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().on_thread_start(enter).build().unwrap()
}

/// Where the node with that number is at the switch.
fn place(n: u8) -> SocketAddr {
    ([203, 0, 113, n], PORT).into()
}

/// Two nodes and a hub at one switch.
struct Switch {
    hub: Node,
    a: Node,
    b: Node,
}

/// Has a scene with two nodes that know the hub; each other's place too, if `near`.
fn at_switch(near: bool, scene: impl AsyncFnOnce(Switch)) {
    switch("a b h", "eth0");
    let (a, b, h) = (runtime("a"), runtime("b"), runtime("h"));
    Runtime::new().unwrap().block_on(async {
        let mut hub = Node::start_in(h.handle(), 0, "hub", PORT).await;
        let mut a = Node::start_in(a.handle(), 1, "a", PORT).await;
        let mut b = Node::start_in(b.handle(), 2, "b", PORT).await;
        for node in [&mut a, &mut b] {
            node.config.hub = Some("hub".to_owned());
            node.knows_at(&hub, &[place(3)]);
            hub.knows(node, false);
        }
        let places = |n: u8| if near { vec![place(n)] } else { Vec::new() };
        a.knows_at(&b, &places(2));
        b.knows_at(&a, &places(1));
        hub.set().await;
        for node in [&a, &b] {
            node.set().await;
            hub.until(node, |tunnel| tunnel.endpoint.is_some()).await;
            node.until(&hub, |tunnel| tunnel.endpoint.is_some()).await;
        }
        scene(Switch { hub, a, b }).await;
    });
}

impl Switch {
    /// A stream of requests from `a` to `b` that has gone straight for a while.
    async fn straight(&self) -> Flow {
        let mut flow = Flow::start(self.a.open(&self.b).await);
        self.a.until(&self.b, |tunnel| !tunnel.through_hub).await;
        self.b.until(&self.a, |tunnel| !tunnel.through_hub).await;
        // What is measured is a way that has been in use for longer than the engines look back.
        flow.goes_on_for(std::time::Duration::from_secs(2)).await;
        flow
    }
}
