//! Ways that lose what is large, without telling.

use super::{Switch, alone, at_switch, sh};
use crate::world::bulk;
use std::time::Duration;

/// Bytes of a packet, the IP header included, that the way still carries: what IPv6 promises, and what tunnels of
/// providers leave.
const CARRIED: u16 = 1280;
const LENGTH: usize = 8 << 20;

/// From now on that node loses what is larger on its way to that address.
fn loses_what_is_large(node: &str, to: &str) {
    sh(&format!(
        "ip netns exec {node} nft 'add table inet large;
         add chain inet large o {{ type filter hook output priority -300 ; }};
         add rule inet large o ip daddr {to} meta length > {CARRIED} drop'"
    ));
}

#[test]
fn a_straight_way_that_loses_large_packets_carries_a_bulk_transfer() {
    alone(|| {
        at_switch(true, async |nodes| {
            loses_what_is_large("a", "203.0.113.2");
            loses_what_is_large("b", "203.0.113.1");
            let mut flow = nodes.straight().await;
            transfer(&nodes).await;
            flow.gap().await;
            assert!(!nodes.a.tunnel(&nodes.b).await.through_hub);
        });
    });
}

#[test]
fn a_straight_way_that_begins_to_lose_large_packets_carries_a_bulk_transfer() {
    alone(|| {
        at_switch(true, async |nodes| {
            let mut flow = nodes.straight().await;
            loses_what_is_large("a", "203.0.113.2");
            loses_what_is_large("b", "203.0.113.1");
            transfer(&nodes).await;
            flow.gap().await;
        });
    });
}

#[test]
fn a_way_through_the_hub_that_loses_large_packets_carries_a_bulk_transfer() {
    alone(|| {
        at_switch(false, async |nodes| {
            for to in ["203.0.113.1", "203.0.113.2"] {
                loses_what_is_large("h", to);
            }
            loses_what_is_large("b", "203.0.113.3");
            transfer(&nodes).await;
            assert!(nodes.a.tunnel(&nodes.b).await.through_hub);
        });
    });
}

async fn transfer(nodes: &Switch) {
    let took = bulk(nodes.a.open(&nodes.b).await, LENGTH).await;
    eprintln!("{} MiB there and back over a way of {CARRIED} bytes in {took:?}", LENGTH >> 20);
    assert!(took < Duration::from_secs(20), "{took:?}");
}
