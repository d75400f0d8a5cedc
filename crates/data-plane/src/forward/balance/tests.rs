use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn backend(instance: &str, weight: u32) -> Backend {
    Backend {
        instance: instance.to_owned(),
        node: "here".to_owned(),
        export: format!("{instance}:80"),
        address: "127.0.0.1:80".parse().unwrap(),
        weight,
        draining: false,
    }
}

fn balance(backends: &[Backend]) -> Balance {
    let mut balance = Balance::default();
    balance.update(backends);
    balance
}

const NOW: Duration = Duration::from_secs(100);

fn names(balance: &mut Balance, times: usize) -> Vec<String> {
    (0..times).map(|_| balance.pick(NOW, &[]).unwrap().backend.instance.clone()).collect()
}

#[test]
fn shares_follow_weights_smoothly() {
    let mut balance = balance(&[backend("a", 5), backend("b", 1), backend("c", 1)]);
    assert_eq!(names(&mut balance, 7), ["a", "a", "b", "a", "c", "a", "a"]);
}

#[test]
fn equal_ones_take_turns_and_the_idle_one_is_preferred() {
    let mut balance = balance(&[backend("a", 1), backend("b", 1), backend("c", 1)]);
    assert_eq!(names(&mut balance, 4), ["a", "b", "c", "a"]);
    let mut held: Vec<Picked> = (0..3).map(|_| balance.pick(NOW, &[]).unwrap()).collect();
    held.retain(|picked| picked.backend.instance != "b");
    assert_eq!(names(&mut balance, 2), ["b", "b"]);
}

#[test]
fn a_draining_backend_gets_nothing_new() {
    let mut drained = backend("a", 1);
    drained.draining = true;
    let mut balance = balance(&[drained.clone(), backend("b", 1)]);
    assert_eq!(names(&mut balance, 3), ["b", "b", "b"]);
    balance.update(&[drained]);
    assert!(!balance.serves());
    assert!(balance.pick(NOW, &[]).is_none());
}

#[test]
fn failures_in_a_row_eject_for_longer_each_time_and_success_forgives() {
    let (a, b) = (backend("a", 1), backend("b", 1));
    let mut balance = balance(&[a.clone(), b]);
    assert!(!balance.failed(&a, NOW, "refused"));
    assert!(!balance.failed(&a, NOW, "refused"));
    assert!(!balance.succeeded(&a));
    assert!(!balance.failed(&a, NOW, "refused"));
    assert!(!balance.failed(&a, NOW, "refused"));
    assert!(balance.failed(&a, NOW, "refused"));
    assert_eq!(balance.ejected(), BTreeMap::from([("a".to_owned(), "refused".to_owned())]));
    assert_eq!(names(&mut balance, 3), ["b", "b", "b"]);

    // What was under way meanwhile doesn't make it longer.
    assert!(!balance.failed(&a, NOW, "refused"));
    let mut now = NOW;
    let mut length = EJECTED;
    for _ in 0..7 {
        now += length;
        // One tries it, the others go on avoiding it.
        let tried: Vec<_> =
            (0..4).map(|_| balance.pick(now, &[]).unwrap().backend.instance.clone()).collect();
        assert_eq!(tried.iter().filter(|name| *name == "a").count(), 1, "{tried:?}");
        assert!(!balance.failed(&a, now, "refused"));
        length = (length * 2).min(EJECTED_LONGEST);
        let tried: Vec<_> = (0..4)
            .map(|_| {
                balance.pick(now + length - Duration::from_millis(1), &[]).unwrap().backend.instance.clone()
            })
            .collect();
        assert!(!tried.contains(&"a".to_owned()), "{tried:?}");
    }
    assert_eq!(length, EJECTED_LONGEST);
    assert!(balance.succeeded(&a));
    assert!(balance.ejected().is_empty());
}

#[test]
fn with_all_ejected_the_least_recently_ejected_is_tried() {
    let (a, b) = (backend("a", 1), backend("b", 1));
    let mut balance = balance(&[a.clone(), b.clone()]);
    for _ in 0..FAILURES {
        balance.failed(&b, NOW, "refused");
    }
    for _ in 0..FAILURES {
        balance.failed(&a, NOW + Duration::from_millis(500), "refused");
    }
    let now = NOW + Duration::from_millis(600);
    let first = balance.pick(now, &[]).unwrap();
    assert_eq!(first.backend.instance, "b");
    let second = balance.pick(now, std::slice::from_ref(&first.backend)).unwrap();
    assert_eq!(second.backend.instance, "a");
    assert!(balance.pick(now, &[first.backend, second.backend]).is_none());
}

#[test]
fn an_instance_that_moved_starts_without_its_failures() {
    let mut a = backend("a", 1);
    let mut balance = balance(&[a.clone()]);
    for _ in 0..FAILURES {
        balance.failed(&a, NOW, "refused");
    }
    balance.update(&[a.clone()]);
    assert_eq!(balance.ejected().len(), 1);
    a.address = "127.0.0.1:81".parse().unwrap();
    balance.update(&[a]);
    assert!(balance.ejected().is_empty());
}

proptest! {
    #[test]
    fn each_gets_its_share(weights in prop::collection::vec(1u32..20, 1..6)) {
        let backends: Vec<Backend> =
            weights.iter().enumerate().map(|(at, weight)| backend(&format!("i{at}"), *weight)).collect();
        let mut balance = balance(&backends);
        let total: u32 = weights.iter().sum();
        let rounds = 3;
        let mut counts = BTreeMap::<String, u32>::new();
        for name in names(&mut balance, (total * rounds) as usize) {
            *counts.entry(name).or_default() += 1;
        }
        if weights.iter().all(|weight| *weight == weights[0]) {
            let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
            prop_assert!(most - least <= 1);
        } else {
            for (at, weight) in weights.iter().enumerate() {
                prop_assert_eq!(counts[&format!("i{at}")], weight * rounds);
            }
        }
    }

    /// Whatever happens, whoever may be picked is picked, never one that drains or was tried, and nobody for ever.
    #[test]
    fn whatever_happens_it_goes_on(
        steps in prop::collection::vec((0usize..4, 0u8..6, 0u64..3000), 1..200),
        weights in prop::collection::vec(1u32..4, 4),
    ) {
        let mut backends: Vec<Backend> =
            (0..4).map(|at| backend(&format!("i{at}"), weights[at])).collect();
        let mut balance = balance(&backends);
        let mut held = Vec::new();
        let mut now = Duration::ZERO;
        for (at, what, millis) in steps {
            match what {
                0 => { balance.failed(&backends[at], now, "no"); }
                1 => { balance.succeeded(&backends[at]); }
                2 => {
                    backends[at].draining = !backends[at].draining;
                    balance.update(&backends);
                }
                3 => now += Duration::from_millis(millis),
                4 if !held.is_empty() => { held.remove(at % held.len()); }
                _ => {
                    let tried: Vec<_> = held.iter().take(at).map(|p: &Picked| p.backend.clone()).collect();
                    let picked = balance.pick(now, &tried);
                    let any = backends
                        .iter()
                        .any(|b| !b.draining && !tried.iter().any(|t| t.instance == b.instance));
                    prop_assert_eq!(picked.is_some(), any);
                    if let Some(picked) = picked {
                        prop_assert!(!picked.backend.draining);
                        prop_assert!(!tried.iter().any(|t| t.instance == picked.backend.instance));
                        held.push(picked);
                    }
                }
            }
        }
        // After the longest ejection everybody who doesn't drain gets something again, if it is answered.
        now += EJECTED_LONGEST;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let Some(picked) = balance.pick(now, &[]) else { break };
            balance.succeeded(&picked.backend);
            seen.insert(picked.backend.instance.clone());
            held.push(picked);
        }
        let serving: std::collections::BTreeSet<String> =
            backends.iter().filter(|b| !b.draining).map(|b| b.instance.clone()).collect();
        prop_assert_eq!(seen, serving);
    }
}
