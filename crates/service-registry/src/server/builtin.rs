//! The registry's own methods.

use super::session::decode;
use crate::model::{Entry, check_name};
use crate::registry::{Change, Filter, Origin, Registry, RegistryError, Written};
use crate::wire::{self, Id, RpcError, code, failure, success};
use futures_util::future::{BoxFuture, ready};
use serde::Serialize;
use serde_json::{Value, json};

/// From so many entries on, an answer is written on a thread of its own.
const MANY: usize = 500;
/// Events in one answer unless fewer are asked for.
const EVENTS: usize = 1_000;

type Answer = Result<BoxFuture<'static, String>, RpcError>;

/// Begins a method; what it changes is changed when this returns, the future only waits until it is durable. `None` if
/// it isn't the registry's.
pub(super) fn call(registry: &Registry, id: &Id, method: &str, params: &Value) -> Option<Answer> {
    let params = || params.clone();
    Some(match method {
        wire::REGISTRY_LIST => decode(params()).map(|filter| list(registry, id, &filter)),
        wire::REGISTRY_GET => decode(params()).and_then(|params| get(registry, id, params)),
        wire::REGISTRY_REGISTER => decode(params()).and_then(|params| register(registry, id, params)),
        wire::REGISTRY_UPDATE => decode(params()).and_then(|params| update(registry, id, params)),
        wire::REGISTRY_DEREGISTER => decode(params()).and_then(|params| deregister(registry, id, params)),
        wire::REGISTRY_RESOLVE => decode(params()).map(|params| resolve(registry, id, &params)),
        wire::EVENTS_LIST => decode(params()).map(|params| events(registry, id, &params)),
        _ => return None,
    })
}

/// The error of the registry as it goes over the wire.
pub(super) fn registry_error(error: RegistryError) -> RpcError {
    match error {
        RegistryError::RevisionGone { oldest, current, .. } => {
            RpcError::new(code::REVISION_GONE, error.to_string())
                .with_data(json!({ "oldest": oldest, "current": current }))
        }
        RegistryError::Closed => RpcError::new(code::SHUTTING_DOWN, error.to_string()),
        error => RpcError::internal(error),
    }
}

fn now<R: Serialize>(id: &Id, result: &R) -> BoxFuture<'static, String> {
    Box::pin(ready(success(id, result)))
}

fn list(registry: &Registry, id: &Id, filter: &Filter) -> BoxFuture<'static, String> {
    let listing = registry.list_matching(filter);
    let result = wire::ListResult { revision: listing.revision, entries: listing.entries };
    if result.entries.len() < MANY {
        return now(id, &result);
    }
    let id = id.clone();
    Box::pin(blocking::unblock(move || success(&id, &result)))
}

fn get(registry: &Registry, id: &Id, params: wire::InstanceParams) -> Answer {
    match registry.get(&params.instance) {
        Some(entry) => Ok(now(id, &entry)),
        None => Err(not_found(&params.instance)),
    }
}

fn register(registry: &Registry, id: &Id, params: wire::RegisterParams) -> Answer {
    let entry = checked(params.entry)?;
    let instance = entry.instance.clone();
    let written = registry.change(&instance, |current| match current {
        Some((current, _)) => {
            Err(RpcError::new(code::EXISTS, format!("{} is registered already", current.instance))
                .with_data(json!({ "revision": current.revision })))
        }
        None => Ok(Change::Put(Box::new(entry), Origin::Outside)),
    })?;
    Ok(when_durable(id, written))
}

fn update(registry: &Registry, id: &Id, params: wire::UpdateParams) -> Answer {
    let entry = checked(params.entry)?;
    let instance = entry.instance.clone();
    let written = registry.change(&instance, |current| {
        let current = theirs(current, &instance, params.revision)?;
        let (from, to) = (current.status.state, entry.status.state);
        if from != to && !from.can_become(to) {
            let text = format!("{instance} is {from} and can't become {to}");
            return Err(RpcError::new(code::NOT_ALLOWED, text).with_data(json!({ "from": from, "to": to })));
        }
        Ok(Change::Put(Box::new(entry), Origin::Outside))
    })?;
    Ok(when_durable(id, written))
}

fn deregister(registry: &Registry, id: &Id, params: wire::DeregisterParams) -> Answer {
    check_name("instance", &params.instance)
        .map_err(|problem| RpcError::new(code::INVALID_PARAMS, problem.to_string()))?;
    let written = registry.change(&params.instance, |current| {
        theirs(current, &params.instance, params.revision).map(|_| Change::Remove)
    })?;
    Ok(when_durable(id, written))
}

/// The entry, if it is there, of theirs, and at the revision that they think.
fn theirs<'a>(
    current: Option<(&'a Entry, Origin)>,
    instance: &str,
    revision: Option<u64>,
) -> Result<&'a Entry, RpcError> {
    let (entry, origin) = current.ok_or_else(|| not_found(instance))?;
    if origin == Origin::Host {
        let text = format!("{instance} is looked after by the server's own program");
        return Err(RpcError::new(code::NOT_YOURS, text));
    }
    match revision {
        Some(revision) if revision != entry.revision => {
            let text = format!("{instance} is at revision {}, not {revision}", entry.revision);
            Err(RpcError::new(code::CONFLICT, text).with_data(json!({ "revision": entry.revision })))
        }
        _ => Ok(entry),
    }
}

fn resolve(registry: &Registry, id: &Id, params: &wire::ResolveParams) -> BoxFuture<'static, String> {
    let listing = registry.list_matching(&Filter::names([params.name.as_str()]));
    let mut endpoints = Vec::new();
    for entry in listing.entries.iter().filter(|entry| entry.ready || params.all) {
        let wanted = entry.endpoints.iter().filter(|endpoint| {
            params.port.as_ref().is_none_or(|name| endpoint.name.as_ref() == Some(name))
                && params.scope.is_none_or(|scope| endpoint.scope == scope)
        });
        endpoints.extend(wanted.map(|endpoint| wire::Resolved {
            instance: entry.instance.clone(),
            ready: entry.ready,
            endpoint: endpoint.clone(),
        }));
    }
    now(id, &wire::ResolveResult { revision: listing.revision, endpoints })
}

fn events(registry: &Registry, id: &Id, params: &wire::EventsListParams) -> BoxFuture<'static, String> {
    let limit = params.limit.unwrap_or(EVENTS);
    let events = registry.events(&params.filter, params.since, limit);
    let result = wire::EventsListResult { revision: registry.revision(), events };
    if result.events.len() < MANY {
        return now(id, &result);
    }
    let id = id.clone();
    Box::pin(blocking::unblock(move || success(&id, &result)))
}

fn not_found(instance: &str) -> RpcError {
    let short: String = instance.chars().take(80).collect();
    RpcError::new(code::NOT_FOUND, format!("there is no instance {short:?}"))
}

fn checked(entry: Entry) -> Result<Entry, RpcError> {
    let problems = entry.problems();
    if problems.is_empty() {
        return Ok(entry);
    }
    let first = problems.first().map(ToString::to_string).unwrap_or_default();
    let all: Vec<_> = problems.iter().map(|p| json!({ "field": p.field, "problem": p.problem })).collect();
    Err(RpcError::new(code::INVALID_ENTRY, first).with_data(json!({ "problems": all })))
}

fn when_durable(id: &Id, written: Written) -> BoxFuture<'static, String> {
    let id = id.clone();
    Box::pin(async move {
        match written.durable.await {
            Ok(()) => {
                success(&id, &wire::WriteResult { revision: written.revision, changed: written.changed })
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|e| format!(": {e}")).unwrap_or_default();
                failure(Some(&id), &RpcError::new(code::NOT_DURABLE, format!("{error}{cause}")))
            }
        }
    })
}
