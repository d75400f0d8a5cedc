//! The listing of instances: one row type, printed as table, JSON and YAML.

use super::describe::{self, Labels};
use super::style;
use super::table::Table;
use super::time::age;
use crate::api::DaemonInfo;
use jiff::Timestamp;
use serde::Serialize;
use service_registry::model::{Endpoint, Entry, Execution, Exit, Health, Location, Reason, State};

/// An instance as listings show it. Its JSON form is API.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) instance: String,
    pub(crate) service: String,
    pub(crate) role: String,
    pub(crate) state: &'static str,
    /// The word of the table, which tells apart what one state may mean.
    pub(crate) summary: &'static str,
    pub(crate) ready: bool,
    pub(crate) reason: Option<Reason>,
    pub(crate) health: Option<Health>,
    pub(crate) pid: Option<u32>,
    pub(crate) execution: Execution,
    pub(crate) since: Timestamp,
    pub(crate) uptime_seconds: Option<i64>,
    pub(crate) restarts: u32,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) exit: Option<Exit>,
    pub(crate) stale: Vec<String>,
    pub(crate) location: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lost_since: Option<Timestamp>,
    #[serde(skip)]
    entry: Entry,
}

impl Row {
    /// The row of an instance at the moment `now`.
    pub(crate) fn new(entry: Entry, now: Timestamp) -> Self {
        let pid = entry.execution.pid();
        let up = entry.status.state == State::Running;
        Self {
            instance: entry.instance.clone(),
            service: entry.service.clone(),
            role: entry.role.clone(),
            state: entry.status.state.as_str(),
            summary: describe::look(&entry).word,
            ready: entry.ready,
            reason: entry.status.reason.clone(),
            health: entry.health.clone(),
            pid,
            execution: entry.execution.clone(),
            since: entry.status.since,
            uptime_seconds: up.then(|| (now.as_second() - entry.status.since.as_second()).max(0)),
            restarts: entry.restarts,
            endpoints: entry.endpoints.clone(),
            exit: entry.status.exit.clone(),
            stale: entry.stale.clone(),
            location: entry.location.to_string(),
            lost_since: entry.lost_since,
            entry,
        }
    }
}

/// The document of `status -o json`.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    pub(crate) schema: u32,
    pub(crate) project: &'a str,
    /// `null` when no daemon runs and the state was read from the keepers' files.
    pub(crate) daemon: Option<&'a DaemonInfo>,
    pub(crate) instances: &'a [Row],
    pub(crate) not_started: Vec<String>,
}

/// The lines of the table.
pub(crate) fn table(rows: &[Row], not_started: &[String], width: Option<usize>) -> Vec<String> {
    let labels = Labels::new(rows.iter().map(|row| row.service.as_str()));
    // Where everything is here, nobody asks where.
    let elsewhere = rows.iter().any(|row| row.entry.location != Location::Local);
    let mut table =
        Table::new(&["NAME", "NODE", "STATE", "HEALTH", "PID", "UP", "RESTARTS", "PORTS", "REASON"]);
    for row in rows {
        let health = describe::health(row.health.as_ref());
        let health_style = match health {
            "healthy" => style::GOOD,
            "unhealthy" => style::ERROR,
            _ => style::DIM,
        };
        let uptime = row.uptime_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        table.row(vec![
            labels.of(&row.service, &row.instance).to_owned(),
            if elsewhere { row.location.clone() } else { String::new() },
            describe::look(&row.entry).painted(),
            if health.is_empty() { String::new() } else { style::paint(health_style, health) },
            row.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            uptime.map(|seconds| age(std::time::Duration::from_secs(seconds))).unwrap_or_default(),
            if row.restarts == 0 { String::new() } else { row.restarts.to_string() },
            ports(&row.endpoints),
            describe::reason(&row.entry),
        ]);
    }
    for name in not_started {
        let mut cells = vec![name.clone(), String::new(), style::paint(style::DIM, "○ not started")];
        cells.resize(9, String::new());
        table.row(cells);
    }
    table.lines(width)
}

/// `8080, metrics:9090`; the address too where it isn't this machine.
pub(crate) fn ports(endpoints: &[Endpoint]) -> String {
    let mut shown: Vec<String> = Vec::new();
    for endpoint in endpoints {
        let local = endpoint.address.starts_with("127.") || endpoint.address == "::1";
        let name = endpoint.name.as_ref().map(|name| format!("{name}:")).unwrap_or_default();
        let address = if local { String::new() } else { format!("{}:", endpoint.address) };
        let protocol = if endpoint.protocol == "udp" { "/udp" } else { "" };
        let text = format!("{name}{address}{}{protocol}", endpoint.port);
        if !shown.contains(&text) {
            shown.push(text);
        }
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_registry::model::{HealthStatus, ReasonCode, Scope};

    fn rows() -> Vec<Row> {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut db = Entry::new("db", "db-1", at(0));
        db.status.state = State::Running;
        db.ready = true;
        db.execution = Execution::Process { pid: Some(4242), run: None };
        db.health = Some(Health { status: HealthStatus::Healthy, since: at(0), last: None });
        db.endpoints = vec![Endpoint {
            name: None,
            address: "127.0.0.1".into(),
            port: 5432,
            protocol: "tcp".into(),
            scope: Scope::Host,
        }];
        let mut web = Entry::new("web", "web-2", at(0));
        web.status.state = State::Failed;
        web.status.exit = Some(Exit::with_code(1));
        web.status.reason = Some(Reason::new(ReasonCode::GaveUp, "gave up after 5 quick deaths"));
        web.restarts = 5;
        let mut other = Entry::new("web", "web-1", at(0));
        other.status.reason = Some(Reason::new(ReasonCode::Waiting, "waiting for db to be healthy"));
        [db, web, other].map(|entry| Row::new(entry, at(200))).into()
    }

    #[test]
    fn a_table_of_all_kinds() {
        let lines = table(&rows(), &["cron".into()], None).join("\n");
        insta::assert_snapshot!(anstream::adapter::strip_str(&lines).to_string(), @r"
        NAME   STATE          HEALTH   PID   UP      RESTARTS  PORTS  REASON
        db     ✓ running      healthy  4242  3m 20s            5432
        web-2  ✗ failed                              5                gave up after 5 quick deaths; exit code 1
        web-1  ● waiting                                              waiting for db to be healthy
        cron   ○ not started
        ");
    }

    #[test]
    fn the_json_of_a_row_is_api() {
        let rows = rows();
        let document =
            Document { schema: 1, project: "shop", daemon: None, instances: &rows[..1], not_started: vec![] };
        insta::assert_snapshot!(serde_json::to_string(&document).unwrap(), @r#"{"schema":1,"project":"shop","daemon":null,"instances":[{"instance":"db-1","service":"db","role":"service","state":"running","summary":"running","ready":true,"reason":null,"health":{"status":"healthy","since":"1970-01-01T00:00:00Z"},"pid":4242,"execution":{"kind":"process","pid":4242},"since":"1970-01-01T00:00:00Z","uptime_seconds":200,"restarts":0,"endpoints":[{"address":"127.0.0.1","port":5432,"protocol":"tcp","scope":"host"}],"exit":null,"stale":[],"location":"local"}],"not_started":[]}"#);
    }
}
