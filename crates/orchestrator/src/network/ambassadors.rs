//! Which ambassadors there are to be in container networks, and what has to be done until it is so.
//!
//! There is one for each service in each network, so that no two ports clash, each has an address of its own, and another
//! service's comes and goes without touching it.

use crate::model::InstanceName;
use std::collections::{BTreeMap, BTreeSet};

/// The ports of services, by the services' names.
pub type Doors = BTreeMap<String, BTreeSet<u16>>;

/// A place for an ambassador.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Post {
    /// The container network, by its name in the engine.
    pub network: String,
    /// The service that it stands for, and its name there.
    pub service: String,
}

/// What the instances want whose containers call others by ambassadors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    /// Those that may have ambassadors: what they ask for, and whether they live.
    expected: BTreeMap<InstanceName, Caller>,
    /// In which networks they are, where that is known.
    networks: BTreeMap<InstanceName, BTreeSet<String>>,
    /// Whether all are told of that may have any. Before, nothing is taken away.
    complete: bool,
    /// Whether ambassadors were taken away though they are needed.
    down: bool,
}

/// An instance whose containers call others by ambassadors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Whether something of it is there: then it will tell its networks.
    pub lives: bool,
    /// What it asks for.
    pub doors: Doors,
}

/// An ambassador that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// By what the engine knows it.
    pub id: String,
    /// Where it stands; `None` if that can't be told.
    pub post: Option<Post>,
    /// The ports that it was started with.
    pub ports: BTreeSet<u16>,
    /// Whether it runs, or is about to.
    pub runs: bool,
}

/// What has to be done, removals first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// These go.
    pub remove: Vec<String>,
    /// These come.
    pub start: Vec<(Post, BTreeSet<u16>)>,
}

impl Callers {
    /// Takes who may have ambassadors. What is known of others is forgotten. The answer: whether that is news.
    pub fn expect(&mut self, expected: BTreeMap<InstanceName, Caller>, down: bool) -> bool {
        let news = (&self.expected, self.down) != (&expected, down);
        self.networks.retain(|instance, _| expected.contains_key(instance));
        (self.expected, self.down, self.complete) = (expected, down, true);
        news
    }

    /// An instance is in these networks, and asks for these.
    pub fn joined(&mut self, instance: &InstanceName, networks: BTreeSet<String>, doors: &Doors) {
        let caller = self.expected.entry(instance.clone()).or_default();
        caller.lives = true;
        caller.doors.clone_from(doors);
        self.networks.insert(instance.clone(), networks);
    }

    /// Nobody has any.
    pub fn forget(&mut self) {
        *self = Self { complete: true, ..Self::default() };
    }

    /// The ambassadors that there are to be. What several ask for has the ports of all.
    pub fn wanted(&self) -> BTreeMap<Post, BTreeSet<u16>> {
        let mut wanted: BTreeMap<Post, BTreeSet<u16>> = BTreeMap::new();
        if self.down {
            return wanted;
        }
        for (instance, networks) in &self.networks {
            for (service, ports) in self.expected.get(instance).into_iter().flat_map(|caller| &caller.doors) {
                for network in networks {
                    let post = Post { network: network.clone(), service: service.clone() };
                    wanted.entry(post).or_default().extend(ports);
                }
            }
        }
        wanted
    }

    /// What has to be done, as these are there. While somebody lives who hasn't told its networks, nothing that it may need
    /// is taken away.
    pub fn steps(&self, standing: &[Standing]) -> Steps {
        let mut missing = self.wanted();
        let untold = !self.complete
            || self.expected.iter().any(|(instance, caller)| {
                caller.lives && !caller.doors.is_empty() && !self.networks.contains_key(instance)
            });
        let mut steps = Steps::default();
        for one in standing {
            let post = one.post.as_ref();
            let wanted = post.and_then(|post| missing.get(post));
            // Whoever hasn't told may need the ports that it has besides.
            let serves = |ports: &BTreeSet<u16>| *ports == one.ports || untold && ports.is_subset(&one.ports);
            let fits = one.runs && wanted.is_some_and(serves);
            if fits {
                if let Some(post) = post {
                    missing.remove(post);
                }
                continue;
            }
            let unknown = one.runs && !self.down && wanted.is_none();
            if !(untold && unknown) {
                steps.remove.push(one.id.clone());
            }
        }
        steps.start = missing.into_iter().collect();
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;
    use proptest::prelude::*;

    fn doors(text: &str) -> Doors {
        let each = text.split_whitespace().map(|door| door.split_once(':').unwrap());
        let mut doors = Doors::new();
        for (service, port) in each {
            doors.entry(service.to_owned()).or_default().insert(port.parse().unwrap());
        }
        doors
    }

    fn expected(callers: &[(&str, bool, &str)]) -> BTreeMap<InstanceName, Caller> {
        let caller = |(name, lives, text): &(&str, bool, &str)| {
            (instance(name), Caller { lives: *lives, doors: doors(text) })
        };
        callers.iter().map(caller).collect()
    }

    fn standing(id: &str, network: &str, service: &str, ports: &[u16], runs: bool) -> Standing {
        let post = Some(Post { network: network.into(), service: service.into() });
        Standing { id: id.into(), post, ports: ports.iter().copied().collect(), runs }
    }

    fn told(steps: &Steps) -> String {
        let start =
            steps.start.iter().map(|(post, ports)| format!("+{}/{} {ports:?}", post.network, post.service));
        steps.remove.iter().map(|id| format!("-{id}")).chain(start).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn one_for_each_service_in_each_network_as_long_as_somebody_needs_it() {
        let mut callers = Callers::default();
        let net = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        callers.joined(&instance("web-1"), net(&["front", "back"]), &doors("db:5432 db:80"));
        callers.joined(&instance("api-1"), net(&["back"]), &doors("db:81 mq:5672"));
        assert_eq!(
            told(&callers.steps(&[])),
            "+back/db {80, 81, 5432}, +back/mq {5672}, +front/db {80, 5432}"
        );
        let there = [
            standing("a", "back", "db", &[80, 81, 5432], true),
            standing("b", "front", "db", &[80, 5432], false),
            standing("c", "front", "mq", &[1], true),
            standing("d", "back", "mq", &[5672], true),
            standing("e", "back", "mq", &[5672], true),
        ];
        assert_eq!(told(&callers.steps(&there)), "-b, +front/db {80, 5432}", "others may come yet");
        callers.expect(callers.expected.clone(), false);
        assert_eq!(
            told(&callers.steps(&there)),
            "-b, -c, -e, +front/db {80, 5432}",
            "dead, unneeded, doubled"
        );
        // A caller is between two runs: what it needs stays. When it is no longer wanted, its own go.
        let both = [("web-1", false, "db:5432 db:80"), ("api-1", true, "db:81 mq:5672")];
        assert!(callers.expect(expected(&both), false) && !callers.expect(expected(&both), false));
        assert_eq!(told(&callers.steps(&there[..1])), "+back/mq {5672}, +front/db {80, 5432}");
        callers.expect(expected(&both[1..]), false);
        assert_eq!(told(&callers.steps(&there[3..4])), "+back/db {81}");
        // One that lives and hasn't told where: nothing that may be its own is taken away.
        callers.expect(expected(&[("api-1", true, "db:81"), ("web-1", true, "mq:5672")]), false);
        let kept = [standing("a", "back", "db", &[81], true), standing("d", "x", "mq", &[5672], true)];
        assert_eq!(told(&callers.steps(&kept)), "");
        callers.expect(expected(&[("api-1", true, "db:81"), ("web-1", true, "mq:5672")]), true);
        assert_eq!(told(&callers.steps(&kept)), "-a, -d", "the network is down");
        callers.expect(expected(&[("api-1", true, "db:81")]), false);
        assert_eq!(told(&callers.steps(&kept)), "-d", "and up again");
    }

    proptest! {
        #[test]
        fn once_the_steps_are_done_nothing_is_left_to_do(
            callers in prop::collection::btree_map("[a-c]-1", (prop::collection::btree_set("[x-z]", 0..3), prop::collection::btree_map("[s-u]", prop::collection::btree_set(1u16..4, 1..3), 0..3)), 0..4),
            there in prop::collection::vec(("[x-z]", "[s-u]", prop::collection::btree_set(1u16..4, 1..3), any::<bool>()), 0..6),
            down: bool,
        ) {
            let mut known = Callers::default();
            for (name, (networks, doors)) in callers {
                known.joined(&instance(&name), networks, &doors);
            }
            known.expect(known.expected.clone(), down);
            let mut standing: Vec<Standing> = there.into_iter().enumerate().map(|(at, (network, service, ports, runs))| {
                Standing { id: at.to_string(), post: Some(Post { network, service }), ports, runs }
            }).collect();
            let steps = known.steps(&standing);
            standing.retain(|one| !steps.remove.contains(&one.id));
            for (at, (post, ports)) in steps.start.into_iter().enumerate() {
                prop_assert!(!standing.iter().any(|one| one.post.as_ref() == Some(&post)), "never two at one post");
                standing.push(Standing { id: format!("new-{at}"), post: Some(post), ports, runs: true });
            }
            prop_assert_eq!(known.steps(&standing), Steps::default());
            let posts: BTreeMap<Post, BTreeSet<u16>> = standing.into_iter().map(|one| (one.post.unwrap(), one.ports)).collect();
            prop_assert_eq!(posts, known.wanted());
        }
    }
}
