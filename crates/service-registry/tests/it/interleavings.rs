//! The store's writer and those who wait for it, in many orders (shuttle: randomised, with priorities that change).

use self::progress::Progress;
use service_registry::store::StoreError;
use shuttle::future::block_on;
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

mod sync {
    pub(super) use shuttle::sync::{Arc, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

#[path = "../../src/store/progress.rs"]
mod progress;

/// Orders that are tried of each meeting, in each of two ways.
const ORDERS: usize = 2_000;

fn in_many_orders(meeting: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(meeting.clone(), ORDERS);
    shuttle::check_pct(meeting, ORDERS, 3);
}

fn failure() -> StoreError {
    StoreError::InUse { path: "x".into() }
}

#[test]
fn whoever_waits_hears_the_outcome_of_the_own_batch() {
    in_many_orders(|| {
        let progress = Arc::new(Progress::default());
        let waiting: Vec<_> = (1..=4)
            .map(|number| {
                let progress = Arc::clone(&progress);
                thread::spawn(move || block_on(progress.wait(number)))
            })
            .collect();
        progress.settle(1, Ok(()));
        progress.settle(3, Err(failure()));
        progress.settle(4, Ok(()));
        let outcomes: Vec<bool> = waiting.into_iter().map(|thread| thread.join().unwrap().is_ok()).collect();
        assert_eq!(outcomes, [true, false, false, true]);
    });
}

#[test]
fn nobody_waits_for_ever_for_a_writer_that_is_gone() {
    in_many_orders(|| {
        let progress = Arc::new(Progress::default());
        let waiting: Vec<_> = (1..=3)
            .map(|number| {
                let progress = Arc::clone(&progress);
                thread::spawn(move || block_on(progress.wait(number)))
            })
            .collect();
        progress.settle(1, Ok(()));
        progress.close();
        let outcomes: Vec<_> = waiting.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(outcomes[0].is_ok());
        assert!(
            outcomes[1..].iter().all(|outcome| matches!(outcome, Err(StoreError::Closed))),
            "{outcomes:?}"
        );
    });
}

#[test]
fn one_that_gives_up_takes_nobody_along() {
    in_many_orders(|| {
        let progress = Arc::new(Progress::default());
        let given_up = Arc::new(Mutex::new(Some(progress.wait(1))));
        let dropping = {
            let given_up = Arc::clone(&given_up);
            thread::spawn(move || drop(given_up.lock().unwrap().take()))
        };
        let waiting = {
            let progress = Arc::clone(&progress);
            thread::spawn(move || block_on(progress.wait(1)))
        };
        progress.settle(1, Ok(()));
        dropping.join().unwrap();
        assert!(waiting.join().unwrap().is_ok());
    });
}
