//! The registry's own methods.

use super::resolve::choose;
use super::session::decode;
use crate::model::{Entry, check_name};
use crate::registry::{
    Clashes, Filter, Imported, LONGEST_LEASE, LeaseId, Listing, Refused, Registry, RegistryError,
    SHORTEST_LEASE, Written,
};
use crate::wire::{self, Id, RpcError, code, failure, success};
use futures_util::future::{BoxFuture, ready};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

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
        wire::REGISTRY_RENEW => decode(params()).and_then(|params| renew(registry, id, params)),
        wire::REGISTRY_UPDATE => decode(params()).and_then(|params| update(registry, id, params)),
        wire::REGISTRY_DEREGISTER => decode(params()).and_then(|params| deregister(registry, id, params)),
        wire::REGISTRY_RESOLVE => decode(params()).map(|params| resolve(registry, id, &params)),
        wire::REGISTRY_EXPORT => decode(params()).map(|params| export(registry, id, params)),
        wire::REGISTRY_IMPORT => decode(params()).and_then(|params| import(registry, id, params)),
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
    let grant = params.lease.map(granted).transpose()?;
    let lease = grant.as_ref().map(|grant| (&grant.id, Duration::from_millis(grant.ttl_ms)));
    let written = registry.register(entry, lease).map_err(|refused| refusal(&instance, refused))?;
    Ok(when_durable(id, written, |revision, changed| wire::RegisterResult {
        revision,
        changed,
        lease: grant,
    }))
}

/// A lease for who asks for one.
fn granted(wire::LeaseParams { ttl_ms }: wire::LeaseParams) -> Result<wire::LeaseGrant, RpcError> {
    let (ttl, bounds) = (Duration::from_millis(ttl_ms), SHORTEST_LEASE..=LONGEST_LEASE);
    if !bounds.contains(&ttl) {
        let (least, most) = (bounds.start().as_millis(), bounds.end().as_millis());
        let text = format!("invalid parameters: lease.ttl_ms: expected {least} to {most}, found {ttl_ms}");
        return Err(RpcError::new(code::INVALID_PARAMS, text));
    }
    // 122 random bits from the system
    Ok(wire::LeaseGrant { id: LeaseId::new(Uuid::new_v4().simple().to_string()), ttl_ms })
}

fn renew(registry: &Registry, id: &Id, params: wire::RenewParams) -> Answer {
    let renewed = registry.renew(&params.instance, &params.lease);
    let renewed = renewed.map_err(|refused| refusal(&params.instance, refused))?;
    let ttl_ms = u64::try_from(renewed.ttl.as_millis()).unwrap_or(u64::MAX);
    match renewed.written {
        Some(written) => {
            Ok(when_durable(id, written, move |_, _| wire::RenewResult { ttl_ms, was_lost: true }))
        }
        None => Ok(now(id, &wire::RenewResult { ttl_ms, was_lost: false })),
    }
}

fn update(registry: &Registry, id: &Id, params: wire::UpdateParams) -> Answer {
    let entry = checked(params.entry)?;
    let instance = entry.instance.clone();
    let written = registry.replace(entry, params.revision, params.lease.as_ref());
    let written = written.map_err(|refused| refusal(&instance, refused))?;
    Ok(when_durable(id, written, write_result))
}

fn deregister(registry: &Registry, id: &Id, params: wire::DeregisterParams) -> Answer {
    check_name("instance", &params.instance)
        .map_err(|problem| RpcError::new(code::INVALID_PARAMS, problem.to_string()))?;
    let written = registry.deregister(&params.instance, params.revision, params.lease.as_ref());
    let written = written.map_err(|refused| refusal(&params.instance, refused))?;
    Ok(when_durable(id, written, write_result))
}

fn export(registry: &Registry, id: &Id, _: wire::Empty) -> BoxFuture<'static, String> {
    let Listing { entries, revision } = registry.export();
    let result = wire::ExportResult { schema: wire::EXPORT_SCHEMA, revision, entries };
    let id = id.clone();
    Box::pin(blocking::unblock(move || success(&id, &result)))
}

fn import(registry: &Registry, id: &Id, params: wire::ImportParams) -> Answer {
    let wire::ImportParams { schema, entries, replace } = params;
    if schema > wire::EXPORT_SCHEMA {
        let newest = wire::EXPORT_SCHEMA;
        let text =
            format!("invalid parameters: schema: {schema} is newer than {newest}, which this server reads");
        return Err(RpcError::new(code::INVALID_PARAMS, text));
    }
    let invalid: Vec<_> = entries
        .iter()
        .flat_map(|entry| entry.problems().into_iter().map(move |problem| (entry, problem)))
        .map(|(entry, p)| json!({ "instance": short(&entry.instance), "field": p.field, "problem": p.problem }))
        .collect();
    if !invalid.is_empty() {
        let text = format!("{} problems in the entries: nothing was imported", invalid.len());
        return Err(RpcError::new(code::INVALID_ENTRY, text).with_data(json!({ "problems": invalid })));
    }
    let imported = entries.len();
    let Imported { written, replaced } =
        registry.import(entries, replace).map_err(|clashes| in_the_way(&clashes))?;
    Ok(when_durable(id, written, move |revision, _| wire::ImportResult { revision, imported, replaced }))
}

/// The first reason why nothing was imported, and in its data all of them.
fn in_the_way(clashes: &Clashes) -> RpcError {
    let Clashes { twice, not_yours, leased, exist } = clashes;
    let (code, what, which) = match (twice.as_slice(), not_yours.as_slice(), leased.as_slice()) {
        (twice @ [_, ..], ..) => (code::INVALID_ENTRY, "come twice", twice),
        (_, not_yours @ [_, ..], _) => {
            (code::NOT_YOURS, "are looked after by the server's own program", not_yours)
        }
        (.., leased @ [_, ..]) => (code::NOT_YOUR_LEASE, "are held by leases", leased),
        _ => (code::EXISTS, "are registered already", exist.as_slice()),
    };
    let text = format!("nothing was imported: {} {what}", which.join(", "));
    RpcError::new(code, text)
        .with_data(json!({ "twice": twice, "not_yours": not_yours, "leased": leased, "exist": exist }))
}

fn write_result(revision: u64, changed: bool) -> wire::WriteResult {
    wire::WriteResult { revision, changed }
}

/// Why an entry from outside isn't changed, as it goes over the wire.
fn refusal(instance: &str, refused: Refused) -> RpcError {
    let text = format!("{}: {refused}", short(instance));
    match refused {
        Refused::Exists { revision } | Refused::Conflict { current: revision, .. } => {
            let code = if matches!(refused, Refused::Exists { .. }) { code::EXISTS } else { code::CONFLICT };
            RpcError::new(code, text).with_data(json!({ "revision": revision }))
        }
        Refused::NotFound => not_found(instance),
        Refused::NotYours => RpcError::new(code::NOT_YOURS, text),
        Refused::NotAllowed { from, to } => {
            RpcError::new(code::NOT_ALLOWED, text).with_data(json!({ "from": from, "to": to }))
        }
        Refused::NotYourLease => RpcError::new(code::NOT_YOUR_LEASE, text),
    }
}

fn resolve(registry: &Registry, id: &Id, params: &wire::ResolveParams) -> BoxFuture<'static, String> {
    let listing = registry.list_matching(&Filter::names([params.name.as_str()]));
    let endpoints = choose(&listing.entries, params);
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
    RpcError::new(code::NOT_FOUND, format!("there is no instance {:?}", short(instance)))
}

fn short(name: &str) -> String {
    name.chars().take(80).collect()
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

/// Answers with the revision and whether anything changed, once that is durable.
fn when_durable<R: Serialize>(
    id: &Id,
    written: Written,
    result: impl FnOnce(u64, bool) -> R + Send + 'static,
) -> BoxFuture<'static, String> {
    let id = id.clone();
    Box::pin(async move {
        match written.durable.await {
            Ok(()) => success(&id, &result(written.revision, written.changed)),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|e| format!(": {e}")).unwrap_or_default();
                failure(Some(&id), &RpcError::new(code::NOT_DURABLE, format!("{error}{cause}")))
            }
        }
    })
}
