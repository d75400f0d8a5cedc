//! Which backend the next connection of a listener goes to. Pure: the time is passed in.

use orchestrator::network::plane::Backend;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Failures in a row after which a backend is left out.
pub(crate) const FAILURES: u32 = 3;
/// For how long it is left out the first time; doubles with each failure after that.
pub(crate) const EJECTED: Duration = Duration::from_secs(1);
/// The longest that it is left out.
pub(crate) const EJECTED_LONGEST: Duration = Duration::from_secs(30);

/// The backends of one listener, and how they did.
///
/// Weights that differ are served by smooth weighted round-robin, because least connections gives a small share nothing
/// while there is little to do; equal ones by least connections, in turn where these are equal too.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    backend: Arc<Backend>,
    /// What smooth weighted round-robin owes it; the highest is next.
    credit: i64,
    /// Held by each connection to it as well.
    open: Arc<()>,
    failures: u32,
    ejection: Option<Ejection>,
}

#[derive(Debug)]
struct Ejection {
    since: Duration,
    until: Duration,
    length: Duration,
    why: String,
}

/// The backend that was chosen for a connection, which counts as open while this is held.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) backend: Arc<Backend>,
    _open: Arc<()>,
}

impl Member {
    fn new(backend: &Backend) -> Self {
        Self {
            backend: Arc::new(backend.clone()),
            credit: 0,
            open: Arc::new(()),
            failures: 0,
            ejection: None,
        }
    }

    fn is_out(&self, now: Duration) -> bool {
        self.ejection.as_ref().is_some_and(|ejection| now < ejection.until)
    }

    /// How many connections to it are open.
    fn load(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }
}

impl Balance {
    /// Takes the backends of a new table. One that stays keeps its open connections and its turn, and if it listens where it did also what
    /// is known of its failures.
    pub(crate) fn update(&mut self, backends: &[Backend]) {
        let mut old = std::mem::take(&mut self.members);
        for backend in backends {
            if self.members.iter().any(|member| member.backend.instance == backend.instance) {
                continue;
            }
            let kept = old.iter().position(|member| member.backend.instance == backend.instance);
            let mut member = match kept {
                Some(at) => old.swap_remove(at),
                None => Member::new(backend),
            };
            let before = &member.backend;
            if (&before.node, &before.export, before.address)
                != (&backend.node, &backend.export, backend.address)
            {
                member.failures = 0;
                member.ejection = None;
            }
            if before.weight != backend.weight {
                member.credit = 0;
            }
            member.backend = Arc::new(backend.clone());
            self.members.push(member);
        }
    }

    /// Whether a new connection has anywhere to go.
    pub(crate) fn serves(&self) -> bool {
        self.members.iter().any(|member| !member.backend.draining)
    }

    /// The backend for the next connection; none of `tried`.
    pub(crate) fn pick(&mut self, now: Duration, tried: &[Arc<Backend>]) -> Option<Picked> {
        let may = |member: &Member| {
            !member.backend.draining && !tried.iter().any(|t| t.instance == member.backend.instance)
        };
        let serving: Vec<usize> = indices(&self.members, |m| may(m) && !m.is_out(now));
        let chosen = if serving.is_empty() {
            // All are out: the one that has been for longest is the likeliest to be back.
            let out = indices(&self.members, may).into_iter();
            out.min_by_key(|at| self.members.get(*at).and_then(|m| m.ejection.as_ref().map(|e| e.since)))?
        } else {
            self.next_of(&serving)?
        };
        let member = self.members.get_mut(chosen)?;
        // One connection tries a backend whose time is over; until that one is answered the others go elsewhere.
        if let Some(ejection) = &mut member.ejection {
            ejection.until = now + ejection.length;
        }
        Some(Picked { backend: member.backend.clone(), _open: member.open.clone() })
    }

    fn next_of(&mut self, serving: &[usize]) -> Option<usize> {
        let weight = |member: &Member| i64::from(member.backend.weight.max(1));
        let mut total = 0;
        let mut weights = Vec::new();
        for at in serving {
            let member = self.members.get_mut(*at)?;
            let own = weight(member);
            member.credit += own;
            total += own;
            weights.push(own);
        }
        let equal = weights.windows(2).all(|pair| pair.first() == pair.last());
        let members = &self.members;
        let rank = |at: &usize| {
            let member = members.get(*at);
            let open = if equal { member.map_or(0, Member::load) } else { 0 };
            (open, std::cmp::Reverse(member.map_or(0, |m| m.credit)))
        };
        let chosen = serving.iter().copied().min_by_key(rank)?;
        self.members.get_mut(chosen)?.credit -= total;
        // With least connections one may be passed over for long; what it is owed stays bounded all the same.
        for member in &mut self.members {
            member.credit = member.credit.clamp(-total, total);
        }
        Some(chosen)
    }

    /// A connection to the backend was made. Returns whether it was left out before.
    pub(crate) fn succeeded(&mut self, backend: &Backend) -> bool {
        let Some(member) = self.member(backend) else { return false };
        member.failures = 0;
        member.ejection.take().is_some()
    }

    /// A connection to the backend couldn't be made. Returns whether it is left out from now on and wasn't before.
    pub(crate) fn failed(&mut self, backend: &Backend, now: Duration, why: &str) -> bool {
        let Some(member) = self.member(backend) else { return false };
        member.failures = member.failures.saturating_add(1);
        if member.failures < FAILURES {
            return false;
        }
        let length = match &mut member.ejection {
            // Several that were under way at once fail together: that is one failure.
            Some(ejection) if now < ejection.since + ejection.length => {
                why.clone_into(&mut ejection.why);
                return false;
            }
            Some(ejection) => (ejection.length * 2).min(EJECTED_LONGEST),
            None => EJECTED,
        };
        let news = member.ejection.is_none();
        member.ejection = Some(Ejection { since: now, until: now + length, length, why: why.to_owned() });
        news
    }

    /// The backends that are left out, and why.
    pub(crate) fn ejected(&self) -> BTreeMap<String, String> {
        let out = self.members.iter().filter_map(|member| {
            let ejection = member.ejection.as_ref()?;
            Some((member.backend.instance.clone(), ejection.why.clone()))
        });
        out.collect()
    }

    fn member(&mut self, backend: &Backend) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.backend.instance == backend.instance)
    }
}

fn indices(members: &[Member], may: impl Fn(&Member) -> bool) -> Vec<usize> {
    members.iter().enumerate().filter(|(_, member)| may(member)).map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests;
