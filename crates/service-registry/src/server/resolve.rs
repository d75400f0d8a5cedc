//! Which endpoints are for whoever asks, and in which order. Pure.

use crate::model::{HealthStatus, Known, Location, Place, Scope};
use crate::wire::{ResolveParams, Resolved};

/// Endpoints of these entries that can be used and reached from where the caller is, nearest first; of equally near ones
/// in the order of the listing. With a scope the caller has chosen by itself what it can reach.
pub(super) fn choose(entries: &[Known], params: &ResolveParams) -> Vec<Resolved> {
    let from = params.from.clone().unwrap_or_default();
    let mut chosen = Vec::new();
    for entry in entries.iter().filter(|entry| params.all || is_usable(entry)) {
        for endpoint in &entry.endpoints {
            if params.port.is_some() && endpoint.name != params.port {
                continue;
            }
            let far = match params.scope {
                Some(scope) if scope == endpoint.scope => u8::from(entry.location != from.location),
                Some(_) => continue,
                None => match distance(&from, &entry.location, endpoint.scope) {
                    Some(far) => far,
                    None => continue,
                },
            };
            let resolved = Resolved {
                instance: entry.instance.clone(),
                ready: entry.ready,
                location: entry.location.clone(),
                endpoint: endpoint.clone(),
            };
            chosen.push((far, resolved));
        }
    }
    chosen.sort_by_key(|(far, _)| *far);
    chosen.into_iter().map(|(_, resolved)| resolved).collect()
}

/// Entries from outside say by themselves that they are ready; whatever they say, an unhealthy one isn't.
fn is_usable(entry: &Known) -> bool {
    entry.ready && entry.health.as_ref().is_none_or(|health| health.status != HealthStatus::Unhealthy)
}

/// How far an address is, 0 being nearest; `None` if it can't be reached.
fn distance(from: &Place, location: &Location, scope: Scope) -> Option<u8> {
    let same = from.location == *location;
    match scope {
        Scope::Host => (same && !from.container).then_some(0),
        Scope::ContainerNetwork => (same && from.container).then_some(0),
        Scope::Lan => Some(if same { 1 } else { 3 }),
        Scope::Wireguard => Some(if same { 2 } else { 4 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Entry, Health, State};
    use jiff::Timestamp;

    fn web(number: u32, location: Location, scopes: &[Scope]) -> Entry {
        let mut entry = Entry::new("web", format!("web-{number}"), Timestamp::UNIX_EPOCH);
        entry.status.state = State::Running;
        entry.ready = true;
        entry.location = location;
        let endpoint = |scope: &Scope| Endpoint {
            name: (*scope == Scope::Lan).then(|| "admin".to_owned()),
            address: format!("{scope:?}"),
            port: 80,
            protocol: "tcp".into(),
            scope: *scope,
        };
        entry.endpoints = scopes.iter().map(endpoint).collect();
        entry
    }

    /// Instance and scope of what is chosen.
    fn chosen(entries: Vec<Entry>, params: ResolveParams) -> Vec<String> {
        let entries: Vec<Known> = entries.into_iter().map(Known::from).collect();
        let chosen = choose(&entries, &ResolveParams { name: "web".into(), ..params });
        chosen.iter().map(|r| format!("{} {}", r.instance, r.endpoint.address)).collect()
    }

    fn node(name: &str) -> Location {
        Location::Node(name.into())
    }

    fn from(location: Location, container: bool) -> ResolveParams {
        ResolveParams { from: Some(Place { location, container }), ..ResolveParams::default() }
    }

    #[test]
    fn what_is_near_and_can_be_reached_comes_first() {
        use Scope::{ContainerNetwork, Host, Lan, Wireguard};
        let entries = || {
            vec![
                web(1, node("eu-1"), &[Host, Wireguard, Lan]),
                web(2, Location::Local, &[ContainerNetwork, Lan, Host]),
                web(3, node("eu-2"), &[ContainerNetwork, Wireguard]),
            ]
        };
        let local = ["web-2 Host", "web-2 Lan", "web-1 Lan", "web-1 Wireguard", "web-3 Wireguard"];
        assert_eq!(chosen(entries(), ResolveParams::default()), local, "this machine, unless it says so");
        assert_eq!(chosen(entries(), from(Location::Local, false)), local);
        assert_eq!(
            chosen(entries(), from(Location::Local, true)),
            ["web-2 ContainerNetwork", "web-2 Lan", "web-1 Lan", "web-1 Wireguard", "web-3 Wireguard"]
        );
        assert_eq!(
            chosen(entries(), from(node("eu-1"), false)),
            ["web-1 Host", "web-1 Lan", "web-1 Wireguard", "web-2 Lan", "web-3 Wireguard"]
        );
        assert_eq!(
            chosen(entries(), from(node("us-1"), true)),
            ["web-1 Lan", "web-2 Lan", "web-1 Wireguard", "web-3 Wireguard"],
            "where nothing of it runs"
        );
        // who names a scope knows what it wants
        let named = ResolveParams { scope: Some(ContainerNetwork), ..from(node("eu-2"), false) };
        assert_eq!(chosen(entries(), named), ["web-3 ContainerNetwork", "web-2 ContainerNetwork"]);
        let port = ResolveParams { port: Some("admin".into()), ..ResolveParams::default() };
        assert_eq!(chosen(entries(), port), ["web-2 Lan", "web-1 Lan"]);
    }

    #[test]
    fn only_what_is_ready_and_not_unhealthy_is_given_unless_all_is_asked_for() {
        let mut entries =
            vec![web(1, Location::Local, &[Scope::Host]), web(2, Location::Local, &[Scope::Host])];
        entries[0].ready = false;
        let health = |status| Some(Health { status, since: Timestamp::UNIX_EPOCH, last: None });
        entries[1].health = health(HealthStatus::Unhealthy);
        assert_eq!(chosen(entries.clone(), ResolveParams::default()), [""; 0]);
        let all = ResolveParams { all: true, ..ResolveParams::default() };
        assert_eq!(chosen(entries.clone(), all), ["web-1 Host", "web-2 Host"]);
        entries[1].health = health(HealthStatus::Healthy);
        assert_eq!(chosen(entries, ResolveParams::default()), ["web-2 Host"]);
    }
}
