use super::*;
use proptest::prelude::*;

const NOW: Duration = Duration::from_secs(100);

fn ways() -> Vec<Way> {
    vec![
        Way::Lan { address: "10.0.0.2".parse().unwrap() },
        Way::Wireguard,
        Way::Link,
        Way::Relay { via: "hub".to_owned() },
    ]
}

#[test]
fn what_failed_comes_last_for_a_while_and_one_caller_tries_it_again() {
    let mut memory = Memory::default();
    let ways = ways();
    assert_eq!(memory.order("b", &ways, NOW), ways);
    assert!(memory.failed("b", &ways[0], "no route".to_owned(), NOW));
    let avoiding: Vec<Way> = [&ways[1..], &ways[..1]].concat();
    assert_eq!(memory.order("b", &ways, NOW), avoiding);
    assert_eq!(memory.order("c", &ways, NOW), ways, "another node is another matter");

    // What was under way meanwhile doesn't make it longer.
    memory.failed("b", &ways[0], "no route".to_owned(), NOW + AVOIDED / 2);
    let later = NOW + AVOIDED;
    assert_eq!(memory.order("b", &ways, later), ways);
    assert_eq!(memory.order("b", &ways, later), avoiding);
    memory.failed("b", &ways[0], "no route".to_owned(), later);
    assert_eq!(memory.order("b", &ways, later + AVOIDED * 2 - Duration::from_millis(1)), avoiding);
    assert_eq!(memory.order("b", &ways, later + AVOIDED * 2), ways);

    assert!(memory.worked("b", &ways[0], "answered".to_owned(), Some(400)));
    assert!(!memory.worked("b", &ways[0], "answered".to_owned(), None));
    assert_eq!(memory.order("b", &ways, later), ways);
    let report = memory.report("b", &ways[0]);
    assert_eq!((report.works, report.rtt_us), (Some(true), Some(400)));
}

#[test]
fn what_stood_in_the_way_can_be_gone() {
    let mut memory = Memory::default();
    let ways = ways();
    memory.failed("b", &ways[0], "cut".to_owned(), NOW);
    memory.forgive("b", &ways[0]);
    assert_eq!(memory.order("b", &ways, NOW), ways);
    memory.retain(|node, _| node != "b");
    assert_eq!(memory.report("b", &ways[0]).works, None);
}

proptest! {
    /// Every way is in the order exactly once, whatever happened, and after the longest time all are as the table has them.
    #[test]
    fn an_order_is_a_permutation(steps in prop::collection::vec((0usize..4, 0u8..4, 0u64..10_000), 0..100)) {
        let ways = ways();
        let mut memory = Memory::default();
        let mut now = Duration::ZERO;
        for (at, what, millis) in steps {
            match what {
                0 => { memory.failed("b", &ways[at], "no".to_owned(), now); }
                1 => { memory.worked("b", &ways[at], "yes".to_owned(), None); }
                2 => memory.forgive("b", &ways[at]),
                _ => now += Duration::from_millis(millis),
            }
            let mut order = memory.order("b", &ways, now);
            order.sort();
            let mut all = ways.clone();
            all.sort();
            prop_assert_eq!(order, all);
        }
        prop_assert_eq!(memory.order("b", &ways, now + AVOIDED_LONGEST), ways);
    }
}
