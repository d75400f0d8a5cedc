//! `harness config resolve`: what references mean now, as seen from this machine.

use crate::commands::{Context, load, status};
use crate::connect;
use crate::error::CommandError;
use crate::exit::Exit;
use orchestrator::model::{PortNumber, Stack};
use service_registry::model::{Endpoint, Entry, Scope};

pub(super) fn run(context: &Context, text: &str) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let stack = load::look(context, &project)?.stack;
    let entries = connect::block_on(async |executor| {
        let Some(daemon) = connect::existing(executor, &project).await? else { return Ok(Vec::new()) };
        Ok(status::facts(context, &project, Some(&daemon), &[]).await?.entries)
    })?;
    let world = World { stack: &stack, entries: &entries };
    if text.contains("${") {
        let resolved = world.text(text)?;
        if context.ui.is_table() {
            context.ui.out(resolved)?;
        } else {
            context.ui.document(&serde_json::json!({ "schema": 1, "text": text, "resolved": resolved }))?;
        }
        return Ok(Exit::OK);
    }
    load::check_names(&stack, &[text.to_owned()])?;
    let endpoints = world.endpoints(text);
    if !context.ui.is_table() {
        context.ui.document(&serde_json::json!({ "schema": 1, "name": text, "endpoints": endpoints }))?;
    } else if endpoints.is_empty() {
        context.ui.say(format_args!("{text} has no ports, or none is known before it is started"));
    } else {
        for endpoint in endpoints {
            let name = endpoint.name.map(|name| format!("  {name}")).unwrap_or_default();
            context.ui.out(format_args!("{}:{}{name}", endpoint.address, endpoint.port))?;
        }
    }
    Ok(Exit::OK)
}

struct World<'a> {
    stack: &'a Stack,
    entries: &'a [Entry],
}

impl World<'_> {
    /// Where a service or an instance can be reached: where it is, else where the file says that it will be.
    fn endpoints(&self, name: &str) -> Vec<Endpoint> {
        let own = self.entries.iter().filter(|entry| entry.service == name || entry.instance == name);
        let known: Vec<Endpoint> = own.flat_map(|entry| entry.endpoints.iter().cloned()).collect();
        if !known.is_empty() {
            return known;
        }
        let service = crate::commands::plan::service_of(self.stack, name);
        let ports =
            service.and_then(|name| self.stack.services.get(&name)).into_iter().flat_map(|s| &s.ports);
        ports
            .filter_map(|port| match port.number {
                PortNumber::Fixed(number) => Some(Endpoint {
                    name: port.name.clone(),
                    address: port.address.clone().unwrap_or_else(|| "127.0.0.1".into()),
                    port: number,
                    protocol: "tcp".into(),
                    scope: Scope::Host,
                }),
                PortNumber::Auto => None,
            })
            .collect()
    }

    fn text(&self, text: &str) -> Result<String, CommandError> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, tail)) = rest.split_once('$') {
            out.push_str(before);
            if let Some(after) = tail.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(inside) = tail.strip_prefix('{') {
                let (hole, after) = inside
                    .split_once('}')
                    .ok_or_else(|| CommandError::usage(format!("'${{' is never closed in '{text}'")))?;
                out.push_str(&self.hole(hole)?);
                rest = after;
            } else {
                out.push('$');
                rest = tail;
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Whether the service has a port of this name.
    fn check_port(&self, name: &str, port: &str) -> Result<(), CommandError> {
        let service = crate::commands::plan::service_of(self.stack, name);
        let ports = service.and_then(|name| self.stack.services.get(&name)).map(|service| &service.ports);
        let known: Vec<&str> = ports.into_iter().flatten().filter_map(|port| port.name.as_deref()).collect();
        if known.contains(&port) {
            return Ok(());
        }
        let near = crate::ui::suggest::did_you_mean(port, known.iter().copied());
        Err(CommandError::usage(format!("{name} has no port '{port}'")).hint(near))
    }

    fn hole(&self, hole: &str) -> Result<String, CommandError> {
        let parts: Vec<&str> = hole.split('.').collect();
        let unknown = || {
            CommandError::usage(format!("'${{{hole}}}' is no reference to a service"))
                .hint("expected ${NAME.ip}, ${NAME.port}, ${NAME.port.PORT}, ${NAME.host}, ${NAME.url} or ${NAME.name}")
        };
        let (name, field, port) = match parts.as_slice() {
            [name, field] => (*name, *field, None),
            [name, "port", port] => (*name, "port", Some(*port)),
            _ => return Err(unknown()),
        };
        if !matches!(field, "ip" | "port" | "host" | "url" | "name") {
            return Err(unknown());
        }
        load::check_names(self.stack, &[name.to_owned()])?;
        if let Some(port) = port {
            self.check_port(name, port)?;
        }
        if field == "name" {
            return Ok(name.to_owned());
        }
        let endpoints = self.endpoints(name);
        let wanted = endpoints.iter().find(|e| port.is_none_or(|port| e.name.as_deref() == Some(port)));
        let endpoint = wanted.ok_or_else(|| {
            CommandError::new(Exit::GENERAL, format!("'${{{hole}}}' is not known before {name} is started"))
                .hint(format!("`harness start {name}` gives it its port"))
        })?;
        let address = match endpoint.address.as_str() {
            "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            address => address,
        };
        match field {
            "ip" => Ok(address.to_owned()),
            "host" if address == "127.0.0.1" => Ok("localhost".to_owned()),
            "host" => Ok(address.to_owned()),
            "port" => Ok(endpoint.port.to_string()),
            // As the planner fills it: the name of the first port is what is spoken there.
            "url" => {
                let first = endpoints.first().and_then(|endpoint| endpoint.name.as_deref());
                Ok(format!("{}://{address}:{}", first.unwrap_or("http"), endpoint.port))
            }
            _ => Err(unknown()),
        }
    }
}
