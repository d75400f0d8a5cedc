//! A run that is a portable service: a unit that comes with its image.

use super::unit::Unit;
use super::{Change, Hosted, Progress, Seen, Up};
use crate::node::{StopHow, chain};
use command_executor::command::Command;
use command_executor::executor::{ExecuteError, Executor};
use command_executor::launcher::{LaunchError, LocalLauncher};
use command_executor::target::portable::{
    PortableAttachment, PortableError, PortableStep, SystemdPortable, check,
};
use futures_util::future::BoxFuture;
use service_registry::model::Exit;
use std::path::{Path, PathBuf};

/// A run that is a portable service.
pub(super) struct Portable {
    unit: Unit,
    portable: SystemdPortable,
    executor: Executor<LocalLauncher>,
}

impl Portable {
    /// The run of a unit of an image.
    pub(super) fn new(image: &str, unit: Unit, profile: Option<String>) -> Self {
        // A link would be attached under another name than it is asked for.
        let path = Path::new(image);
        let real = if path.is_absolute() { path.canonicalize().ok() } else { None };
        let mut portable =
            SystemdPortable::new(real.unwrap_or_else(|| PathBuf::from(image)), unit.service().clone());
        portable.profile = profile;
        Self { unit, portable, executor: Executor::new(LocalLauncher::new().killed_with_thread()) }
    }

    /// The unit that an image is called after: `hello_1.0.raw` has `hello.service`.
    pub(super) fn unit_of(image: &str) -> String {
        let name =
            Path::new(image).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = name.split(['_', '.']).next().unwrap_or_default();
        format!("{stem}.service")
    }

    async fn run(&self, command: &Command) -> Result<(), String> {
        let finished = self.executor.run(command).await.map_err(|error| match error {
            ExecuteError::Launch(LaunchError::NotFound { .. }) => {
                let missing = PortableError::NotInstalled;
                told(&missing)
            }
            error => chain(&error),
        })?;
        check(&finished).map_err(|error| told(&error))
    }

    async fn bring_up(&self, progress: Progress<'_>) -> Result<Up, String> {
        let state = self.unit.state().await?;
        let image = self.portable.image.display();
        match self.portable.step(&state) {
            PortableStep::Nothing => {}
            PortableStep::Attach => {
                progress(format!("attaching {image}"));
                self.run(&self.portable.attach()).await?;
            }
            // Until it is stopped it runs from the old image.
            PortableStep::Reattach(_) => {
                progress(format!("attaching {image} in the place of another version"));
                self.unit.end().await?;
                self.run(&self.portable.reattach()).await?;
            }
            PortableStep::Replace(attachment) => {
                progress(format!("attaching {image} anew"));
                self.unit.end().await?;
                self.run(&self.portable.detach(&attachment)).await?;
                self.run(&self.portable.attach()).await?;
            }
            PortableStep::Foreign => {
                return Err(format!(
                    "there is a unit {} already, which isn't of {image}",
                    self.portable.service.unit
                ));
            }
        }
        self.unit.bring_up().await
    }

    async fn take_down(&self, how: StopHow) -> Result<Exit, String> {
        let exit = self.unit.take_down(how).await?;
        let state = self.unit.state().await?;
        if let Some(attachment) = PortableAttachment::of(&state) {
            self.run(&self.portable.detach(&attachment)).await?;
        }
        Ok(exit)
    }
}

fn told(error: &PortableError) -> String {
    let text = chain(error);
    error.hint().map_or(text.clone(), |hint| format!("{text} ({hint})"))
}

impl Hosted for Portable {
    fn start<'a>(&'a self, progress: Progress<'a>) -> BoxFuture<'a, Result<Up, String>> {
        Box::pin(self.bring_up(progress))
    }

    fn find(&self) -> BoxFuture<'_, Result<Seen, String>> {
        self.unit.find()
    }

    fn next(&self) -> BoxFuture<'_, Change> {
        self.unit.next()
    }

    fn stop(&self, how: StopHow) -> BoxFuture<'_, Result<Exit, String>> {
        Box::pin(self.take_down(how))
    }
}
