//! From notices to news: a notice only says that it is worth looking.

use super::RUN_LABEL;
use super::engine::Notice;
use crate::node::hosted::{Change, Hosted, Seen, Up};
use async_channel::Receiver;
use async_io::Timer;
use command_executor::target::docker::ContainerAction;
use futures_lite::future;
use service_registry::model::Exit;
use std::time::Duration;

/// The pause before a look that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Waits until a look at `hosted` shows something new. `run` is the run whose containers carry its label; what is joined
/// may carry another's.
pub(super) async fn news(notices: &Receiver<Notice>, run: Option<&str>, hosted: &dyn Hosted) -> Change {
    loop {
        match notices.recv().await {
            Ok(Notice::Event(event)) => {
                let of_another =
                    run.is_some_and(|run| event.labels.get(RUN_LABEL).is_some_and(|other| other != run));
                let tells = matches!(
                    event.action,
                    ContainerAction::Health(_) | ContainerAction::Die { .. } | ContainerAction::Destroy
                );
                if of_another || !tells {
                    continue;
                }
            }
            Ok(Notice::Look) => {}
            // The engine's room is gone, and with it everything else.
            Err(_) => future::pending().await,
        }
        let mut told = false;
        let seen = loop {
            match hosted.find().await {
                Ok(seen) => break seen,
                // The notice may be the only one there will be: it is looked at until something is seen.
                Err(why) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(run, why, "can't look at a container");
                }
                Err(_) => {}
            }
            Timer::after(AGAIN).await;
        };
        match seen {
            Seen::Up(Up { health: Some(told), .. }) => return Change::Health(told),
            Seen::Up(_) => {}
            Seen::Ended(exit) => return Change::Ended(exit),
            Seen::Absent => return Change::Ended(removed()),
        }
    }
}

/// How something ended that was stopped.
pub(super) fn exit_after_stop(seen: Seen) -> Result<Exit, String> {
    match seen {
        Seen::Ended(exit) => Ok(exit),
        Seen::Absent => Ok(removed()),
        Seen::Up(_) => Err("it still runs".into()),
    }
}

/// The end of something that somebody took away.
pub(super) fn removed() -> Exit {
    Exit::unknown("it was removed from the container engine")
}
