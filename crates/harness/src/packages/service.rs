//! Packages that services are made of: what their manifests say for a service, and how they are installed for it.

use super::{KEEP, Opened, Options, PackageError, READ, SCRIPT, Step, depot};
use crate::error::chain;
use async_io::Timer;
use async_lock::Mutex;
use command_executor::command::Command;
use command_executor::executor::{Executor, Finished};
use command_executor::launcher::LocalLauncher;
use futures_util::future::BoxFuture;
use orchestrator::model::{
    HealthCheck, HttpProbe, Port, PortNumber, Probe, Protocol, Service, ServiceName, Stack, Target, Template,
};
use orchestrator::network::PackageSpec;
use orchestrator::node::{Installed, Installer};
use semver::Version;
use service_registry::package::install::{Depot, InstallError};
use service_registry::package::manifest::{self, Health, Manifest};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time that a package is waited for which somebody else installs, and the pause between two looks.
const HELD: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(200));
/// From one check to the next, and how long one may take, where the manifest doesn't say.
const HEALTH: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));

/// Fills in what the file leaves to the packages of its services: ports, and how one tells that they are well. Packages that
/// can't be read are left out: [`check`] tells.
pub(crate) fn complete(stack: &mut Stack) {
    for service in stack.services.values_mut() {
        let Some(file) = package_file(service) else { continue };
        let Ok(Some(manifest)) = wanted(service, &file) else { continue };
        let here = service.host.is_none() && service.placement.is_empty();
        let service = Arc::make_mut(service);
        ports(service, &manifest);
        if here || !asks_a_command(&manifest) {
            // Without a home folder nothing is installed either, which is told then.
            let _ = health(service, &manifest);
        }
    }
}

/// Whether the packages of these services can be read.
pub(crate) fn check<'a>(
    stack: &Stack,
    services: impl IntoIterator<Item = &'a ServiceName>,
) -> Result<(), PackageError> {
    for service in services.into_iter().filter_map(|name| stack.services.get(name)) {
        let Some(file) = package_file(service) else { continue };
        if let Err(source) = Opened::new(&file, None).and_then(|mut package| package.peek()) {
            return Err(PackageError::OfService {
                service: service.name.to_string(),
                source: Box::new(source),
            });
        }
    }
    Ok(())
}

/// The same on the machine that runs it.
pub(crate) fn complete_here(service: &mut Service) -> Result<(), PackageError> {
    let Some(file) = package_file(service) else { return Ok(()) };
    wanted(service, &file)?.map_or(Ok(()), |manifest| health(service, &manifest))
}

/// The manifest of the version that is to run: that of the file, unless another one is named. `None` if that isn't
/// installed here, which is told when it is to be run.
fn wanted(service: &Service, file: &Path) -> Result<Option<Manifest>, PackageError> {
    let manifest = Opened::new(file, None)?.peek()?;
    let Target::Package { version: Some(text), .. } = &service.target else { return Ok(Some(manifest)) };
    let version = text.as_literal().and_then(|text| Version::parse(&text).ok());
    match version.filter(|version| *version != manifest.version) {
        Some(version) => Ok(read_installed(&folder(service, &manifest.name, &version)?).ok()),
        None => Ok(Some(manifest)),
    }
}

/// The manifest of a version that is installed in that folder.
fn read_installed(folder: &Path) -> Result<Manifest, PackageError> {
    let path = folder.join(manifest::FILE);
    let text =
        std::fs::read_to_string(&path).map_err(|source| PackageError::File { path: path.clone(), source })?;
    READ(&text).map_err(|problem| PackageError::File { path, source: std::io::Error::other(problem) })
}

/// Where the package of a service is on this machine, also if it runs on another.
fn package_file(service: &Service) -> Option<PathBuf> {
    let Target::Package { package, .. } = &service.target else { return None };
    let text = PathBuf::from(package.as_literal()?);
    let brought = service.files.iter().find(|file| file.destination == text).map(|file| file.source.clone());
    brought.or_else(|| Some(text).filter(|text| text.is_absolute() && service.host.is_none()))
}

fn ports(service: &mut Service, manifest: &Manifest) {
    if service.ports.is_empty() {
        let port = |port: &manifest::Port| Port {
            name: port.name.clone(),
            number: PortNumber::Fixed(port.port),
            target: None,
            protocol: match port.protocol {
                manifest::Protocol::Tcp => Protocol::Tcp,
                manifest::Protocol::Udp => Protocol::Udp,
            },
            address: None,
        };
        service.ports = manifest.service.ports.iter().map(port).collect();
    }
}

fn has(manifest: &Manifest, path: &str) -> bool {
    manifest.files.iter().any(|file| file.path == path)
}

fn asks_a_command(manifest: &Manifest) -> bool {
    match &manifest.health {
        Some(health) => !health.command.is_empty(),
        None => has(manifest, manifest::HEALTH),
    }
}

fn health(service: &mut Service, manifest: &Manifest) -> Result<(), PackageError> {
    if service.health_check.is_some() {
        return Ok(());
    }
    let default = Health { command: vec![manifest::HEALTH.into()], ..Health::default() };
    let written = manifest.health.as_ref().or(Some(&default).filter(|_| has(manifest, manifest::HEALTH)));
    let Some(written) = written else { return Ok(()) };
    let probe = if let Some(url) = &written.http {
        Probe::Http(HttpProbe {
            url: Template::literal(url),
            method: "GET".into(),
            headers: Vec::new(),
            expected_status: Vec::new(),
            expected_body: None,
        })
    } else if let Some(port) = written.tcp {
        Probe::Tcp { host: None, port: Template::literal(port.to_string()) }
    } else {
        let folder = folder(service, &manifest.name, &manifest.version)?;
        let argv = argv(&folder, &written.command).into_iter().map(Template::literal).collect();
        Probe::Command { argv, expected_exit: 0, expected_output: None }
    };
    let interval = written.interval.unwrap_or(HEALTH.0);
    service.health_check = Some(HealthCheck {
        probe,
        interval,
        timeout: written.timeout.unwrap_or(HEALTH.1),
        retries: written.retries.unwrap_or(3),
        start_period: written.start_period.unwrap_or_default(),
        start_interval: Duration::from_millis(20).min(interval),
        success_threshold: 1,
    });
    Ok(())
}

/// Where the package of a service is installed on this machine.
fn folder(service: &Service, name: &str, version: &Version) -> Result<PathBuf, PackageError> {
    let prefix = match &service.target {
        Target::Package { install_path: Some(path), .. } => path.as_literal().map(PathBuf::from),
        _ => None,
    };
    Ok(depot(prefix.as_deref())?.folder(name, version))
}

/// A command of a manifest: a program with a `/` is one of the package.
fn argv(folder: &Path, command: &[String]) -> Vec<String> {
    let mut argv = command.to_vec();
    if let Some(program) = argv.first_mut().filter(|program| program.contains('/')) {
        *program = folder.join(program.strip_prefix("./").unwrap_or(program)).to_string_lossy().into_owned();
    }
    argv
}

/// Installs the packages of services, one after the other.
#[derive(Default)]
pub(crate) struct Packages {
    turn: Mutex<()>,
}

impl Installer for Packages {
    fn install<'a>(
        &'a self,
        package: &'a PackageSpec,
        progress: &'a (dyn Fn(String) + Send + Sync),
    ) -> BoxFuture<'a, Result<Installed, String>> {
        Box::pin(async move {
            let _turn = self.turn.lock().await;
            let begun = Instant::now();
            loop {
                progress(format!("installing {}", package.file.display()));
                let wanted = package.clone();
                match blocking::unblock(move || install(&wanted)).await {
                    Err(PackageError::Depot { source: InstallError::Held { holder, .. }, .. })
                        if begun.elapsed() < HELD.0 =>
                    {
                        progress(format!("waiting for whoever installs it: {holder}"));
                        Timer::after(HELD.1).await;
                    }
                    other => return other.map_err(|error| chain(&error)),
                }
            }
        })
    }
}

fn install(spec: &PackageSpec) -> Result<Installed, PackageError> {
    let depot = depot(spec.install_path.as_deref())?;
    let mut package = Opened::new(&spec.file, None)?;
    let manifest = package.peek()?;
    let version = match &spec.version {
        Some(text) => Version::parse(text).map_err(|_| PackageError::NoVersion { text: text.clone() })?,
        None => manifest.version.clone(),
    };
    if version != manifest.version {
        let known = depot.status(&manifest.name, READ).ok().map(|status| status.versions).unwrap_or_default();
        if !known.contains(&version) {
            let package = format!("{} {version}", manifest.name);
            return Err(PackageError::OtherVersion {
                package,
                file: spec.file.clone(),
                found: manifest.version,
            });
        }
        if depot.current(&manifest.name).map_err(PackageError::depot(&depot))?.as_ref() != Some(&version) {
            super::rollback(&depot, &manifest.name, Some(&version), false)?;
        }
        return started(&depot, &manifest.name, &version);
    }
    if depot.current(&manifest.name).map_err(PackageError::depot(&depot))?.as_ref() != Some(&version) {
        script("pre_install", spec.pre_install.as_ref(), &spec.file)?;
    }
    let options = Options { keep: KEEP, rollback_on_failure: true, timeout: SCRIPT };
    let deployed = super::deploy(&mut package, &depot, &options, &mut |_: Step<'_>| true)?;
    if deployed.changed {
        script("post_install", spec.post_install.as_ref(), &spec.file)?;
    }
    started(&depot, &manifest.name, &version)
}

/// A command that the file names, run in the folder of the package's file. It doesn't outlive the daemon.
fn script(key: &str, command: Option<&Vec<String>>, file: &Path) -> Result<(), PackageError> {
    let Some((program, args)) = command.and_then(|command| command.split_first()) else { return Ok(()) };
    let folder = file.parent().unwrap_or(Path::new("/"));
    let command = Command::new(program).args(args).current_dir(folder).timeout(SCRIPT);
    LocalLauncher::prepare();
    match async_io::block_on(Executor::new(LocalLauncher::new().killed_with_thread()).run(&command)) {
        Ok(Finished { exit, .. }) if exit.is_success() => Ok(()),
        Ok(Finished { exit, stdout, stderr, .. }) => Err(PackageError::Script {
            script: key.to_owned(),
            how: format!("ended with {exit}"),
            output: format!("{}{}", stdout.to_text(), stderr.to_text()),
        }),
        Err(source) => Err(PackageError::Start { script: key.to_owned(), source }),
    }
}

/// What runs of a version that is installed.
fn started(depot: &Depot, name: &str, version: &Version) -> Result<Installed, PackageError> {
    let folder = depot.folder(name, version);
    let manifest = read_installed(&folder)?;
    let start = [manifest::START.to_owned()];
    let command = Some(&manifest.service.command[..]).filter(|command| !command.is_empty()).unwrap_or(&start);
    let ending = [manifest::STOP.to_owned()];
    let script = Some(&ending[..]).filter(|_| has(&manifest, manifest::STOP)).unwrap_or_default();
    let stop = Some(&manifest.service.stop[..]).filter(|stop| !stop.is_empty()).unwrap_or(script);
    let working = manifest.service.working_dir.as_ref().map_or(folder.clone(), |path| folder.join(path));
    let mut env: Vec<(String, String)> = vec![
        ("HARNESS_PACKAGE".into(), manifest.name.clone()),
        ("HARNESS_PACKAGE_VERSION".into(), version.to_string()),
    ];
    env.extend(manifest.service.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    let stop = argv(&folder, stop);
    Ok(Installed { argv: argv(&folder, command), stop, folder: working, env })
}
