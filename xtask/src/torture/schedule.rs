//! What is done when: a pure function of the seed, so that a seed that found something can be run again.

use super::rng::Rng;
use super::stack::{DISKS, Service, Temper};

/// Something that is done at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// Milliseconds after the begin.
    pub(crate) at: u64,
    /// What.
    pub(crate) attack: Attack,
}

/// What can be done. Services are named by their position in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    /// SIGKILL to the daemon.
    KillDaemon,
    /// SIGTERM to the daemon.
    EndDaemon,
    /// SIGKILL to the keeper of a service.
    KillKeeper(usize),
    /// SIGKILL to the zygote.
    KillZygote,
    /// SIGKILL to the zygote and, in the same moment, to keepers.
    KillZygoteAndKeepers(Vec<usize>),
    /// SIGKILL to the main process of a service.
    KillService(usize),
    /// SIGSTOP to the main process of a service, and SIGCONT after so many milliseconds.
    Pause(usize, u64),
    /// Commands, all at once.
    Calls(Vec<Call>),
    /// A change of one service in the file, and `start --apply`.
    Edit(usize),
    /// One more service in the file, or that one taken out, and `start --apply --remove-orphans`.
    Extra,
    /// No descriptors for the daemon, for so many milliseconds.
    Starve(u64),
    /// A full disk for the log of a service, for so many milliseconds.
    FillDisk(usize, u64),
    /// The wall clock set to so many milliseconds after the machine's.
    SetClock(i64),
    /// A full disk for the daemon's store, for so many milliseconds.
    FillStore(u64),
}

/// A command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `start NAME…`; without names all.
    Start(Vec<usize>),
    /// `stop NAME -y`.
    Stop(usize),
    /// `stop NAME --force`.
    Kill(usize),
    /// `stop`: everything, and the daemon.
    StopAll,
    /// `restart NAME`.
    Restart(usize),
    /// `status`.
    Status,
    /// `list`.
    List,
    /// `logs -n 20 NAME`.
    Logs(usize),
    /// `daemon status`.
    DaemonStatus,
}

/// The groups of attacks, by the names with which they can be left out, with their mean distance in milliseconds.
pub(crate) const GROUPS: &[(&str, u64)] = &[
    ("daemon", 3_000),
    ("keeper", 2_500),
    ("zygote", 7_000),
    ("service", 900),
    ("pause", 1_200),
    ("calls", 900),
    ("edit", 5_000),
    ("starve", 9_000),
    ("disk", 6_000),
    ("all", 25_000),
    ("clock", 2_500),
    ("store", 16_000),
];

/// The schedule of `seconds` seconds with this seed. Leaving out a group changes nothing of the others.
pub(crate) fn schedule(seed: u64, seconds: u64, services: &[Service], without: &[String]) -> Vec<Action> {
    let mut actions = Vec::new();
    moments(GROUPS, 1, seed, seconds, without, |group, rng, at| {
        actions.extend(attacks(group, rng, services, at));
    });
    actions.retain(|action| action.at < seconds * 1000);
    actions.sort_by_key(|action| action.at);
    actions
}

/// The moments at which something of each group is done, each group with numbers of its own: `first` is that of the first one.
pub(super) fn moments(
    groups: &[(&str, u64)],
    first: u64,
    seed: u64,
    seconds: u64,
    without: &[String],
    mut each: impl FnMut(&str, &mut Rng, u64),
) {
    for (number, (group, mean)) in (first..).zip(groups) {
        if without.iter().any(|name| name == group) {
            continue;
        }
        let mut rng = Rng::new(seed ^ number.wrapping_mul(0xa076_1d64_78bd_642f));
        let mut at = rng.between(mean / 4, *mean);
        while at < seconds * 1000 {
            each(group, &mut rng, at);
            at += rng.between(mean / 2, mean * 3 / 2);
        }
    }
}

fn attacks(group: &str, rng: &mut Rng, services: &[Service], at: u64) -> Vec<Action> {
    let any = |rng: &mut Rng| rng.below(services.len());
    let attack = match group {
        "daemon" => {
            let attack = if rng.chance(75) { Attack::KillDaemon } else { Attack::EndDaemon };
            // Somebody calls soon, so that there is a daemon to kill again.
            let call = Call::Start(vec![any(rng)]);
            let soon = Action { at: at + rng.between(0, 1_200), attack: Attack::Calls(vec![call]) };
            return vec![Action { at, attack }, soon];
        }
        "keeper" => Attack::KillKeeper(any(rng)),
        "zygote" if rng.chance(60) => Attack::KillZygote,
        "zygote" => {
            let count = rng.between(1, 4);
            Attack::KillZygoteAndKeepers((0..count).map(|_| any(rng)).collect())
        }
        "service" => Attack::KillService(any(rng)),
        "pause" => Attack::Pause(any(rng), rng.between(100, 4_000)),
        "calls" => {
            let count = if rng.chance(40) { rng.between(2, 6) } else { 1 };
            // Half of the times all of them are about the same service.
            let same = rng.chance(50).then(|| any(rng));
            Attack::Calls((0..count).map(|_| call(rng, same, services.len())).collect())
        }
        "edit" if rng.chance(75) => Attack::Edit(any(rng)),
        "edit" => Attack::Extra,
        "starve" => Attack::Starve(rng.between(300, 2_500)),
        "disk" => {
            let first = services.iter().position(|service| service.temper == Temper::Disk).unwrap_or(0);
            Attack::FillDisk(first + rng.below(DISKS), rng.between(500, 3_000))
        }
        "clock" => Attack::SetClock(offset(rng)),
        "store" => Attack::FillStore(rng.between(500, 4_000)),
        _ => {
            let again = Action {
                at: at + rng.between(0, 1_500),
                attack: Attack::Calls(vec![Call::Start(Vec::new())]),
            };
            return vec![Action { at, attack: Attack::Calls(vec![Call::StopAll]) }, again];
        }
    };
    vec![Action { at, attack }]
}

/// What the clock is set to: right, a little wrong as ntpd finds it, or wrong by as much as machines without a battery.
fn offset(rng: &mut Rng) -> i64 {
    let most = [0, 1_000, 120_000, 5 * 3_600_000, 60 * 86_400_000].get(rng.below(5)).copied().unwrap_or(0);
    let size = i64::try_from(rng.between(0, most)).unwrap_or(0);
    if rng.chance(50) { size } else { -size }
}

fn call(rng: &mut Rng, same: Option<usize>, count: usize) -> Call {
    let service = same.unwrap_or_else(|| rng.below(count));
    match rng.between(0, 100) {
        0..25 => Call::Start(vec![service]),
        25..32 => Call::Start(Vec::new()),
        32..50 => Call::Stop(service),
        50..55 => Call::Kill(service),
        55..75 => Call::Restart(service),
        75..85 => Call::Status,
        85..90 => Call::List,
        90..97 => Call::Logs(service),
        _ => Call::DaemonStatus,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torture::stack;

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_another() {
        let services = stack::services();
        let of = |seed| schedule(seed, 60, &services, &[]);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        assert!(of(7).is_sorted_by_key(|action| action.at));
        assert!(of(7).iter().all(|action| action.at < 60_000));
    }

    #[test]
    fn a_minute_has_every_kind_of_attack() {
        let services = stack::services();
        let actions = schedule(1, 60, &services, &[]);
        let count = |is: fn(&Attack) -> bool| actions.iter().filter(|action| is(&action.attack)).count();
        assert!(count(|attack| *attack == Attack::KillDaemon) >= 5);
        assert!(count(|attack| *attack == Attack::EndDaemon) >= 1);
        assert!(count(|attack| matches!(attack, Attack::KillKeeper(_))) >= 15);
        assert!(count(|attack| matches!(attack, Attack::KillZygote | Attack::KillZygoteAndKeepers(_))) >= 5);
        assert!(count(|attack| matches!(attack, Attack::KillService(_))) >= 40);
        assert!(count(|attack| matches!(attack, Attack::Pause(..))) >= 30);
        assert!(count(|attack| matches!(attack, Attack::Calls(calls) if calls.len() > 1)) >= 10);
        assert!(count(|attack| matches!(attack, Attack::Edit(_) | Attack::Extra)) >= 8);
        assert!(count(|attack| matches!(attack, Attack::Starve(_))) >= 3);
        assert!(count(|attack| matches!(attack, Attack::FillDisk(..))) >= 5);
        assert!(count(|attack| matches!(attack, Attack::SetClock(offset) if *offset < 0)) >= 3);
        assert!(count(|attack| matches!(attack, Attack::SetClock(offset) if *offset > 0)) >= 3);
        assert!(count(|attack| matches!(attack, Attack::FillStore(_))) >= 2);
    }

    #[test]
    fn leaving_out_a_group_changes_nothing_of_the_others() {
        let services = stack::services();
        let all = schedule(3, 60, &services, &[]);
        let less = schedule(3, 60, &services, &["keeper".to_owned()]);
        let kept: Vec<Action> =
            all.into_iter().filter(|action| !matches!(action.attack, Attack::KillKeeper(_))).collect();
        assert_eq!(less, kept);
    }
}
