//! What is done when to three machines and the ways between them: a pure function of the seed.

use super::super::rng::Rng;
use super::super::schedule::moments;
use super::stack::{HOSTS, Place, Service};

/// Something that is done at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// Milliseconds after the begin.
    pub(crate) at: u64,
    /// What.
    pub(crate) fault: Fault,
}

/// What can be done. Hosts and services are named by their positions; a duration is in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The cable of a host is pulled, for so long.
    Cut(usize, u64),
    /// A host hears nothing from another (or, without one, from this machine), for so long.
    Deaf(usize, Option<usize>, u64),
    /// Nothing but TCP comes through to a host, for so long.
    NoDatagrams(usize, u64),
    /// A fifth of the packets to a host are lost, for so long.
    Lossy(usize, u64),
    /// What leaves a host is slow, for so long.
    Slow(usize, u64),
    /// A host hangs, for so long.
    Pause(usize, u64),
    /// A host loses its power, and is booted again after so long.
    Crash(usize, u64),
    /// sshd of a host is restarted.
    Sshd(usize),
    /// SIGKILL to the agent of a host.
    KillAgent(usize),
    /// SIGKILL to the data plane of a place.
    KillPlane(Place),
    /// SIGKILL to the daemon, and somebody who calls soon after.
    KillDaemon(u64),
    /// SIGKILL to the keeper of a service.
    KillKeeper(usize),
    /// SIGKILL to the main process of a service.
    KillService(usize),
    /// A command.
    Call(Call),
    /// The other version of the package is deployed.
    Deploy,
}

/// A command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `start`.
    Start,
    /// `restart NAME`.
    Restart(usize),
    /// `stop NAME -y`, and `start NAME`.
    StopStart(usize),
    /// `status`.
    Status,
    /// `logs -n 20 NAME`.
    Logs(usize),
    /// `network show`.
    Show,
}

/// The groups of faults, by the names with which they can be left out, with their mean distance in milliseconds.
pub(crate) const GROUPS: &[(&str, u64)] = &[
    ("cut", 9_000),
    ("long", 30_000),
    ("deaf", 8_000),
    ("datagrams", 10_000),
    ("lossy", 12_000),
    ("slow", 15_000),
    ("pause", 12_000),
    ("crash", 25_000),
    ("sshd", 15_000),
    ("agent", 8_000),
    ("plane", 7_000),
    ("daemon", 12_000),
    ("keeper", 5_000),
    ("service", 2_500),
    ("calls", 3_000),
    ("deploy", 9_000),
];

/// The host that may hang: what must not live twice doesn't live there, since a keeper that is frozen can't end it.
pub(crate) const MAY_HANG: usize = 2;

/// The schedule of `seconds` seconds with this seed. Leaving out a group changes nothing of the others.
pub(crate) fn schedule(seed: u64, seconds: u64, services: &[Service], without: &[String]) -> Vec<Action> {
    let mut actions = Vec::new();
    moments(GROUPS, 101, seed, seconds, without, |group, rng, at| {
        actions.push(Action { at, fault: fault(group, rng, services) });
    });
    actions.sort_by_key(|action| action.at);
    actions
}

fn fault(group: &str, rng: &mut Rng, services: &[Service]) -> Fault {
    let host = rng.below(HOSTS.len());
    let service = rng.below(services.len());
    match group {
        "cut" => Fault::Cut(host, rng.between(300, 9_000)),
        // Longer than a lease and the time until a node counts as lost.
        "long" => Fault::Cut(rng.below(MAY_HANG), rng.between(24_000, 30_000)),
        "deaf" => {
            let other = (host + 1 + rng.below(HOSTS.len() - 1)) % HOSTS.len();
            Fault::Deaf(host, rng.chance(60).then_some(other), rng.between(500, 8_000))
        }
        "datagrams" => Fault::NoDatagrams(host, rng.between(2_000, 9_000)),
        "lossy" => Fault::Lossy(host, rng.between(1_000, 6_000)),
        "slow" => Fault::Slow(host, rng.between(1_000, 6_000)),
        "pause" => Fault::Pause(MAY_HANG, rng.between(300, 9_000)),
        "crash" => Fault::Crash(host, rng.between(0, 4_000)),
        "sshd" => Fault::Sshd(host),
        "agent" => Fault::KillAgent(host),
        "plane" => Fault::KillPlane(if rng.chance(40) { Place::Here } else { Place::Host(host) }),
        "daemon" => Fault::KillDaemon(rng.between(0, 2_000)),
        "keeper" => Fault::KillKeeper(service),
        "service" => Fault::KillService(service),
        "deploy" => Fault::Deploy,
        _ => Fault::Call(match rng.between(0, 100) {
            0..20 => Call::Start,
            20..40 => Call::Restart(service),
            40..60 => Call::StopStart(service),
            60..75 => Call::Status,
            75..90 => Call::Logs(service),
            _ => Call::Show,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::stack;
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_another() {
        let services = stack::services();
        let of = |seed| schedule(seed, 90, &services, &[]);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        assert!(of(7).is_sorted_by_key(|action| action.at));
    }

    #[test]
    fn a_minute_and_a_half_has_every_kind_of_fault() {
        let services = stack::services();
        let actions = schedule(1, 90, &services, &[]);
        let has = |is: fn(&Fault) -> bool| actions.iter().any(|action| is(&action.fault));
        assert!(has(|fault| matches!(fault, Fault::Cut(_, 0..10_000))));
        assert!(has(|fault| matches!(fault, Fault::Cut(_, 20_000..))));
        assert!(has(|fault| matches!(fault, Fault::Deaf(..))));
        assert!(has(|fault| matches!(fault, Fault::Crash(..))));
        assert!(has(|fault| matches!(fault, Fault::Deploy)));
        assert!(has(|fault| matches!(fault, Fault::KillPlane(_))));
        assert!(
            actions.iter().all(|action| !matches!(action.fault, Fault::Pause(host, _) if host != MAY_HANG))
        );
    }

    #[test]
    fn leaving_out_a_group_changes_nothing_of_the_others() {
        let services = stack::services();
        let all = schedule(3, 60, &services, &[]);
        let less = schedule(3, 60, &services, &["keeper".to_owned()]);
        let kept: Vec<Action> =
            all.into_iter().filter(|action| !matches!(action.fault, Fault::KillKeeper(_))).collect();
        assert_eq!(less, kept);
    }
}
