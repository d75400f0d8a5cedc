//! What a container said, saved before the container goes.

use super::engine::Engine;
use super::{INSTANCE_LABEL, PROJECT_LABEL, RUN_LABEL};
use crate::model::InstanceName;
use crate::node::chain;
use crate::node::hosted::HostedRecord;
use crate::node::hosted::record::folder;
use command_executor::keeper::LogLimits;
use command_executor::log::{Archive, CommandLog, LineForm, LogRecord};
use command_executor::target::docker::{ContainerRow, LogOptions};
use futures_lite::future;
use service_registry::model::Exit;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// How long the log of a container that has ended may take to be saved.
const SAVING: Duration = Duration::from_secs(60);
/// Lines that are saved of a log that can't be saved whole in that time.
const NEWEST: usize = 10_000;

impl Engine {
    /// Saves the log of a container that has ended as that of a run. Without it the engine's copy would go with the
    /// container.
    pub(super) async fn save(&self, id: &str, folder: &Path, run: &str, limits: LogLimits) -> bool {
        self.save_all(&[(id.to_owned(), String::new())], folder, run, limits).await
    }

    /// Saves the logs of several containers that have ended as that of one run, merged by time. Each is given with what
    /// stands before its lines.
    pub(super) async fn save_all(
        &self,
        containers: &[(String, String)],
        folder: &Path,
        run: &str,
        limits: LogLimits,
    ) -> bool {
        let late = async {
            async_io::Timer::after(SAVING).await;
            Err(format!("it took longer than {SAVING:?}"))
        };
        match future::or(self.copy(containers, folder, run, limits, None), late).await {
            Ok(()) => return true,
            Err(why) => tracing::warn!(run, why, "its log can't be saved whole"),
        }
        // The newest says most.
        let late = async {
            async_io::Timer::after(SAVING).await;
            Err(format!("it took longer than {SAVING:?}"))
        };
        match future::or(self.copy(containers, folder, run, limits, Some(NEWEST)), late).await {
            Ok(()) => true,
            Err(why) => {
                tracing::warn!(run, why, "its log can't be saved");
                false
            }
        }
    }

    /// Whether the log of a run was saved.
    pub(super) fn is_saved(&self, folder: &Path, run: &str) -> bool {
        folder.join(format!("{run}.log")).exists()
    }

    async fn copy(
        &self,
        containers: &[(String, String)],
        folder: &Path,
        run: &str,
        limits: LogLimits,
        tail: Option<usize>,
    ) -> Result<(), String> {
        let options = LogOptions { timestamps: true, tail, ..LogOptions::default() };
        let mut parts = Vec::new();
        for (id, prefix) in containers {
            let command = self.docker().container(id).logs(&options);
            let log = CommandLog::start(&self.launcher(), &command, LineForm::Container);
            let mut part = Part { log: log.map_err(|error| chain(&error))?, ready: VecDeque::new(), prefix };
            part.fill().await?;
            parts.push(part);
        }
        let mut archive = Archive::create(folder, run, limits).map_err(|error| error.to_string())?;
        let earliest = |parts: &[Part<'_>]| {
            let heads =
                parts.iter().enumerate().filter_map(|(at, part)| Some((part.ready.front()?.time, at)));
            heads.min().map(|(_, at)| at)
        };
        while let Some(part) = earliest(&parts).and_then(|at| parts.get_mut(at)) {
            let Some(mut record) = part.ready.pop_front() else { break };
            if !part.prefix.is_empty() {
                record.text.splice(0..0, part.prefix.bytes());
            }
            archive.write(&[record]).map_err(|error| error.to_string())?;
            if part.ready.is_empty() {
                part.fill().await?;
            }
        }
        archive.finish().map_err(|error| error.to_string())
    }

    /// Removes a container of ours that nobody wants, once its log is saved.
    pub(super) async fn discard(&self, id: &str, instance: Option<&str>, run: Option<&str>) {
        let instance = instance.and_then(|name| name.parse::<InstanceName>().ok());
        if let (Some(instance), Some(run)) = (instance, run.filter(|run| is_run(run))) {
            let folder = folder(&self.project().state, &instance);
            let made = std::fs::create_dir_all(&folder).is_ok();
            if made && self.save(id, &folder, run, LogLimits::default()).await {
                let exit = Exit::unknown("nobody waited for it");
                HostedRecord::note_saved(&self.project().state, &instance, run, exit);
            }
        }
        if let Err(error) = self.remove(id).await {
            tracing::warn!(container = id, why = error.told(), "it can't be removed");
        }
    }

    /// Removes what is left of the project's containers when nothing is to run any more.
    pub(super) async fn discard_all(&self) {
        let label = format!("{PROJECT_LABEL}={}", self.project().id);
        let rows = match self.ask(&self.docker().list([label.as_str()])).await {
            Ok(finished) => ContainerRow::parse(&finished.stdout.bytes).unwrap_or_default(),
            Err(error) => {
                tracing::info!(why = error.told(), "can't look for containers that are left");
                return;
            }
        };
        for row in rows {
            let label = |name: &str| row.labels.get(name).map(String::as_str);
            self.discard(&row.id, label(INSTANCE_LABEL), label(RUN_LABEL)).await;
        }
    }
}

/// The log of one container, on its way.
struct Part<'a> {
    log: CommandLog,
    ready: VecDeque<LogRecord>,
    prefix: &'a str,
}

impl Part<'_> {
    /// Takes what comes next; nothing is the end, which must be a good one.
    async fn fill(&mut self) -> Result<(), String> {
        self.ready.extend(self.log.next().await.map_err(|error| chain(&error))?);
        match self.log.exit() {
            Some(exit) if self.ready.is_empty() && !exit.is_success() => {
                Err(format!("docker logs ended with {exit}"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a label can be the name of a run's files.
pub(super) fn is_run(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
