//! Entries from outside that must be renewed.

use crate::support::{LONG, Served, entry, in_memory, in_state, on_disk, options, soon};
use proptest::prelude::*;
use serde_json::{Value, json};
use service_registry::client::{ClientOptions, Registration, RegistrationNews};
use service_registry::model::{Entry, Health, HealthStatus, ReasonCode, State};
use service_registry::registry::{
    EventKind, Filter, Item, LeaseId, Options, Refused, Registry, Subscription,
};
use service_registry::server::Limits;
use service_registry::store::{MemoryStore, Store};
use service_registry::wire::{self, code};
use smol::block_on;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

thread_local! {
    /// Milliseconds since a boot of this test's own.
    static UPTIME: Cell<u64> = const { Cell::new(0) };
}

fn uptime() -> Duration {
    Duration::from_millis(UPTIME.get())
}

const GRACE: u64 = 5_000;

/// Options whose time since boot is [`UPTIME`].
fn by_hand() -> Options {
    Options { uptime, grace: Duration::from_millis(GRACE), ..options() }
}

fn ready(instance: &str) -> Entry {
    let mut entry = in_state(instance, State::Running);
    entry.ready = true;
    entry.health =
        Some(Health { status: HealthStatus::Healthy, since: jiff::Timestamp::UNIX_EPOCH, last: None });
    entry
}

fn pass(milliseconds: u64) {
    UPTIME.set(UPTIME.get() + milliseconds);
}

/// Carries out all that is due; in how many milliseconds something is due next.
fn lapse(registry: &Registry) -> Option<u64> {
    loop {
        match registry.lapse_leases() {
            Some(Duration::ZERO) => {}
            next => return next.map(|next| next.as_millis() as u64),
        }
    }
}

fn told(subscription: &mut Subscription) -> Vec<EventKind> {
    let mut kinds = Vec::new();
    while let Some(Some(item)) = block_on(futures_lite::future::poll_once(subscription.next())) {
        if let Item::Event(event) = item {
            kinds.push(event.kind);
        }
    }
    kinds
}

#[test]
fn what_is_not_renewed_is_lost_then_removed_and_each_is_told_once() {
    let registry = block_on(in_memory(by_hand()));
    let (id, ttl) = (LeaseId::new("secret"), Duration::from_secs(10));
    registry.register(ready("web-1"), Some((&id, ttl))).unwrap().forget();
    let mut seen = registry.subscribe(Filter::default(), None).unwrap();
    pass(9_999);
    assert_eq!(lapse(&registry), Some(1));
    assert_eq!(registry.renew("web-1", &id).unwrap().ttl, ttl);
    pass(9_999);
    assert_eq!((lapse(&registry), told(&mut seen)), (Some(1), vec![]), "renewing is no news");
    pass(1);
    assert_eq!(lapse(&registry), Some(GRACE));
    let lost = registry.get("web-1").unwrap();
    assert_eq!(lost.health.as_ref().unwrap().status, HealthStatus::Unknown);
    let reason = lost.status.reason.as_ref().unwrap();
    assert_eq!(
        (reason.code, reason.message.as_str()),
        (ReasonCode::Lost, "its lease of 10 s was not renewed")
    );
    assert!(!lost.ready);
    assert_eq!((lapse(&registry), told(&mut seen)), (Some(GRACE), vec![EventKind::HealthChanged]));

    // late, but in time for the grace: it is back as it was
    pass(GRACE - 1);
    assert!(registry.renew("web-1", &id).unwrap().written.unwrap().changed);
    let back = registry.get("web-1").unwrap();
    assert!(back.same_content(&ready("web-1")), "{back:?}");
    pass(10_000);
    lapse(&registry);
    pass(GRACE);
    assert_eq!(lapse(&registry), None);
    assert!(registry.get("web-1").is_none());
    use EventKind::{Deregistered, HealthChanged};
    assert_eq!(told(&mut seen), [HealthChanged, HealthChanged, Deregistered]);
    assert_eq!(registry.renew("web-1", &id).unwrap_err(), Refused::NotYourLease);
}

#[test]
fn only_the_lease_changes_what_it_holds_and_nothing_is_said_about_others() {
    let registry = block_on(in_memory(by_hand()));
    let (mine, other) = (LeaseId::new("mine"), LeaseId::new("other"));
    let ttl = Duration::from_secs(10);
    registry.register(ready("web-1"), Some((&mine, ttl))).unwrap().forget();
    registry.register(ready("web-2"), Some((&other, ttl))).unwrap().forget();
    registry.register(ready("free-1"), None).unwrap().forget();
    registry.put(ready("db-1")).forget();
    for instance in ["web-2", "free-1", "db-1", "none-1"] {
        assert_eq!(registry.renew(instance, &mine).unwrap_err(), Refused::NotYourLease, "{instance}");
    }
    let revision = registry.revision();
    for lease in [None, Some(&other)] {
        let changed = registry.replace(ready("web-1"), None, lease).unwrap_err();
        assert_eq!(changed, Refused::NotYourLease);
        assert_eq!(registry.deregister("web-1", None, lease).unwrap_err(), Refused::NotYourLease);
    }
    assert_eq!(registry.deregister("free-1", None, Some(&mine)).unwrap_err(), Refused::NotYourLease);
    assert_eq!(registry.deregister("db-1", None, Some(&mine)).unwrap_err(), Refused::NotYours);
    let again = registry.register(ready("web-1"), Some((&other, ttl))).unwrap_err();
    assert!(matches!(again, Refused::Exists { .. }));
    assert_eq!(registry.revision(), revision);

    // a change of the entry is a sign of life too
    pass(9_000);
    let mut changed = ready("web-1");
    changed.restarts = 1;
    registry.replace(changed, None, Some(&mine)).unwrap().forget();
    pass(9_000);
    lapse(&registry);
    assert!(registry.get("web-1").unwrap().ready && !registry.get("web-2").unwrap().ready);
    // the host's word counts more than any lease
    registry.put(ready("web-1")).forget();
    assert_eq!(registry.renew("web-1", &mine).unwrap_err(), Refused::NotYourLease);
    // whoever comes back under a name that is lost takes it, and the old lease is void
    registry.register(ready("web-2"), Some((&mine, ttl))).unwrap().forget();
    assert_eq!(registry.renew("web-2", &other).unwrap_err(), Refused::NotYourLease);
    registry.deregister("web-2", None, Some(&mine)).unwrap().forget();
    assert_eq!(lapse(&registry), None);
    assert_eq!(format!("{mine:?}"), "LeaseId(…)");
}

/// What one entry is in the model.
#[derive(Clone, Debug)]
struct Expected {
    lease: LeaseId,
    ttl: u64,
    lost: bool,
    until: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever is registered, renewed, changed, restarted: nothing lapses before its time, everything after it, and each
    /// step makes one event.
    #[test]
    fn leases_lapse_in_their_time_and_never_before(
        steps in prop::collection::vec((0..6_u8, 0..3_u8, 1_000..8_000_u64), 1..80),
    ) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let open = || block_on(Registry::open(Arc::clone(&store), by_hand())).unwrap();
        let mut registry = open();
        let mut model: BTreeMap<String, Expected> = BTreeMap::new();
        for (number, (what, which, time)) in steps.into_iter().enumerate() {
            let name = format!("web-{which}");
            let before = registry.revision();
            let mut events = 0;
            match what {
                0 => {
                    let lease = LeaseId::new(format!("lease {number}"));
                    let ttl = Duration::from_millis(time);
                    let taken = model.get(&name).is_some_and(|known| !known.lost);
                    let registered = registry.register(ready(&name), Some((&lease, ttl)));
                    prop_assert_eq!(registered.is_err(), taken);
                    if !taken {
                        let until = UPTIME.get() + time;
                        model.insert(name, Expected { lease, ttl: time, lost: false, until });
                        events = 1;
                    }
                }
                1 => {
                    if let Some(known) = model.get_mut(&name) {
                        let renewed = registry.renew(&name, &known.lease).unwrap();
                        prop_assert_eq!(renewed.written.is_some(), known.lost);
                        events = u64::from(known.lost);
                        (known.lost, known.until) = (false, UPTIME.get() + known.ttl);
                    }
                    prop_assert!(registry.renew(&name, &LeaseId::new("guessed")).is_err());
                }
                2 if time < 2_000 => {
                    let gone = model.remove(&name);
                    let lease = gone.as_ref().map(|known| &known.lease);
                    prop_assert_eq!(registry.deregister(&name, None, lease).is_ok(), gone.is_some());
                    events = u64::from(gone.is_some());
                }
                3 if time < 3_000 => {
                    drop(block_on(registry.close()));
                    drop(registry);
                    // another boot: the old times mean nothing
                    UPTIME.set(time);
                    registry = open();
                    for known in model.values_mut() {
                        known.until = UPTIME.get() + if known.lost { GRACE } else { known.ttl };
                    }
                    prop_assert_eq!(registry.revision(), before);
                }
                _ => {
                    pass(time);
                    let now = UPTIME.get();
                    let next = lapse(&registry);
                    model.retain(|_, known| {
                        let due = known.until <= now;
                        events += u64::from(due);
                        if due && !known.lost {
                            (known.lost, known.until) = (true, now + GRACE);
                            return true;
                        }
                        !due
                    });
                    prop_assert_eq!(next, model.values().map(|known| known.until - now).min());
                }
            }
            prop_assert_eq!(registry.revision(), before + events);
            let listed: Vec<_> = registry.list().entries.iter().map(|e| (e.instance.clone(), e.ready)).collect();
            let expected: Vec<_> = model.iter().map(|(name, known)| (name.clone(), !known.lost)).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}

#[test]
fn a_program_registers_over_the_socket_renews_and_is_lost_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let quick = Options { grace: Duration::from_millis(200), ..options() };
        let served = Served::start(folder.path(), in_memory(quick).await, Limits::default());
        let client = served.client().await;
        for ttl_ms in [0, 999, 86_400_001, u64::MAX] {
            let lease = Some(wire::LeaseParams { ttl_ms });
            let params = wire::RegisterParams { entry: ready("web-1"), lease };
            let refused = client.call::<_, Value>(wire::REGISTRY_REGISTER, &params, LONG).await.unwrap_err();
            assert_eq!(refused.code(), Some(code::INVALID_PARAMS), "{ttl_ms}: {refused}");
        }
        let lease = Some(wire::LeaseParams { ttl_ms: 1_000 });
        let params = wire::RegisterParams { entry: ready("web-1"), lease };
        let registered: wire::RegisterResult =
            client.call(wire::REGISTRY_REGISTER, &params, LONG).await.unwrap();
        let lease = registered.lease.unwrap().id;
        let other = served.client().await;
        let mut seen = other.subscribe(&Filter::default(), None, LONG).await.unwrap();
        assert!(matches!(seen.next().await, Some(Item::Snapshot { .. })));

        // somebody else's lease, by whichever method, and what was never leased: the same answer
        let stolen = json!({"instance": "web-1", "lease": "00000000000000000000000000000000"});
        let nothing = json!({"instance": "web-7", "lease": "00000000000000000000000000000000"});
        for (method, params) in [
            (wire::REGISTRY_RENEW, &stolen),
            (wire::REGISTRY_DEREGISTER, &stolen),
            (wire::REGISTRY_DEREGISTER, &json!({"instance": "web-1"})),
            (wire::REGISTRY_UPDATE, &json!({"entry": ready("web-1"), "lease": "guess"})),
            (wire::REGISTRY_RENEW, &nothing),
        ] {
            let refused = other.call::<_, Value>(method, params, LONG).await.unwrap_err();
            assert_eq!(refused.code(), Some(code::NOT_YOUR_LEASE), "{method}: {refused}");
            assert_eq!(refused.rpc().unwrap().data, None, "nothing is revealed");
        }
        let params = wire::RenewParams { instance: "web-1".into(), lease };
        let renewed: wire::RenewResult = client.call(wire::REGISTRY_RENEW, &params, LONG).await.unwrap();
        assert_eq!(renewed, wire::RenewResult { ttl_ms: 1_000, was_lost: false });

        let begun = std::time::Instant::now();
        for kind in [EventKind::HealthChanged, EventKind::Deregistered] {
            let Some(Item::Event(event)) = seen.next().await else { panic!("no event") };
            assert_eq!(event.kind, kind);
            assert!(begun.elapsed() > Duration::from_millis(900), "it lapsed before its time");
        }
        let late = client.call::<_, Value>(wire::REGISTRY_RENEW, &params, LONG).await.unwrap_err();
        assert_eq!(late.code(), Some(code::NOT_YOUR_LEASE));
    }));
}

#[test]
fn a_registration_lives_through_restarts_of_the_server_and_ends_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.redb");
    let socket = folder.path().join("registry.sock");
    block_on(soon("it", async {
        let (told, news) = async_channel::bounded(64);
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let registration =
            Registration::unix(socket, ClientOptions::default(), ready("web-1"), Duration::from_secs(3));
        let running = smol::spawn(registration.run(
            async move {
                // Err: that is the sign
                let _ = stopped.recv().await;
            },
            move |item| told.try_send(item).unwrap(),
        ));
        // nobody is there yet
        assert!(matches!(news.recv().await, Ok(RegistrationNews::Lost(error)) if error.is_absent()));
        let mut first = None;
        for round in 0..3 {
            let served = Served::start(folder.path(), on_disk(&state).await, Limits::default());
            let Ok(RegistrationNews::Registered(lease)) = news.recv().await else { panic!("round {round}") };
            assert_eq!(first.get_or_insert(lease.clone()), &lease, "the lease survives");
            assert!(served.registry.get("web-1").unwrap().ready);
            served.registry.close().await.unwrap();
            served.stop(LONG).await;
            assert!(matches!(news.recv().await, Ok(RegistrationNews::Lost(_))), "round {round}");
        }
        // a server that has forgotten everything: it is registered anew
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        let Ok(RegistrationNews::Registered(lease)) = news.recv().await else { panic!("not again") };
        assert_ne!(first, Some(lease));
        drop(stop);
        running.await.unwrap();
        assert!(served.registry.get("web-1").is_none(), "it took itself back");

        // what can never work is said at once
        let mut bad = entry("web-1");
        bad.service = "../x".into();
        let options = ClientOptions::default();
        let registration = Registration::unix(served.path.clone(), options, bad, Duration::from_secs(3));
        let refused = registration.run(std::future::pending(), |_| ()).await.unwrap_err();
        assert_eq!(refused.code(), Some(code::INVALID_ENTRY));
    }));
}
