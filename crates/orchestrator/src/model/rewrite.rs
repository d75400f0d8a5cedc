//! A definition with each of its texts rewritten.

use super::{Attach, HealthCheck, HttpProbe, ManagedCommands, Probe, Service, Target, Template};

/// Rewrites texts; the first error ends it.
type Rewrite<'f, E> = &'f mut dyn FnMut(&Template) -> Result<Template, E>;

impl Service {
    /// The same service with every text of it rewritten, those of its health check by `check`.
    ///
    /// # Errors
    /// The first of `text` and `check`.
    pub fn rewritten<E>(
        &self,
        mut text: impl FnMut(&Template) -> Result<Template, E>,
        mut check: impl FnMut(&Template) -> Result<Template, E>,
    ) -> Result<Self, E> {
        let text: Rewrite<'_, E> = &mut text;
        let mut env = self.env.clone();
        for value in env.values_mut() {
            *value = text(value)?;
        }
        let health_check = match &self.health_check {
            Some(old) => Some(HealthCheck { probe: probe(&old.probe, &mut check)?, ..old.clone() }),
            None => None,
        };
        Ok(Self {
            target: target(&self.target, text)?,
            env,
            health_check,
            user: maybe(&self.user, text)?,
            group: maybe(&self.group, text)?,
            working_dir: maybe(&self.working_dir, text)?,
            ..self.clone()
        })
    }
}

fn maybe<E>(template: &Option<Template>, text: Rewrite<'_, E>) -> Result<Option<Template>, E> {
    template.as_ref().map(text).transpose()
}

fn words<E>(templates: &[Template], text: Rewrite<'_, E>) -> Result<Vec<Template>, E> {
    templates.iter().map(text).collect()
}

fn maybe_words<E>(
    templates: &Option<Vec<Template>>,
    text: Rewrite<'_, E>,
) -> Result<Option<Vec<Template>>, E> {
    templates.as_ref().map(|templates| words(templates, text)).transpose()
}

fn target<E>(target: &Target, text: Rewrite<'_, E>) -> Result<Target, E> {
    Ok(match target {
        Target::Process { program, args } => {
            Target::Process { program: text(program)?, args: words(args, text)? }
        }
        Target::Docker { image, command, entrypoint, volumes, pull } => Target::Docker {
            image: text(image)?,
            command: maybe_words(command, text)?,
            entrypoint: maybe_words(entrypoint, text)?,
            volumes: words(volumes, text)?,
            pull: pull.clone(),
        },
        Target::Compose { file, service } => {
            Target::Compose { file: text(file)?, service: maybe(service, text)? }
        }
        Target::Systemd { unit } => Target::Systemd { unit: text(unit)? },
        Target::Portable { image, unit, profile } => {
            Target::Portable { image: text(image)?, unit: maybe(unit, text)?, profile: maybe(profile, text)? }
        }
        Target::Package { package, version, install_path, pre_install, post_install } => Target::Package {
            package: text(package)?,
            version: maybe(version, text)?,
            install_path: maybe(install_path, text)?,
            pre_install: maybe_words(pre_install, text)?,
            post_install: maybe_words(post_install, text)?,
        },
        Target::Attach(attach) => Target::Attach(match attach {
            Attach::PidFile(path) => Attach::PidFile(text(path)?),
            Attach::ProcessName(name) => Attach::ProcessName(text(name)?),
            Attach::Container(name) => Attach::Container(text(name)?),
            Attach::Unit(unit) => Attach::Unit(text(unit)?),
            Attach::Managed(ManagedCommands { start, stop, status, logs }) => {
                Attach::Managed(ManagedCommands {
                    start: maybe_words(start, text)?,
                    stop: maybe_words(stop, text)?,
                    status: maybe_words(status, text)?,
                    logs: maybe_words(logs, text)?,
                })
            }
            Attach::External { host, port } => Attach::External { host: text(host)?, port: *port },
        }),
    })
}

fn probe<E>(probe: &Probe, text: Rewrite<'_, E>) -> Result<Probe, E> {
    Ok(match probe {
        Probe::Command { argv, expected_exit, expected_output } => Probe::Command {
            argv: words(argv, text)?,
            expected_exit: *expected_exit,
            expected_output: expected_output.clone(),
        },
        Probe::Http(http) => {
            let mut headers = http.headers.clone();
            for (_, value) in &mut headers {
                *value = text(value)?;
            }
            Probe::Http(HttpProbe { url: text(&http.url)?, headers, ..http.clone() })
        }
        Probe::Tcp { host, port } => Probe::Tcp { host: maybe(host, text)?, port: text(port)? },
        Probe::All(probes) => {
            let mut all = Vec::with_capacity(probes.len());
            for one in probes {
                all.push(self::probe(one, text)?);
            }
            Probe::All(all)
        }
    })
}
