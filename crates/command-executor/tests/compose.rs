//! Compose of both generations: the plugin on a newer host, and Debian's `docker-compose` where this machine has it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests are tests")]

mod place;

use command_executor::attacher::{AttachError, AttachStatus, Attacher, ComposeAttacher};
use command_executor::command::Command;
use command_executor::target::compose::{
    ComposeCli, ComposeError, ComposeIdentity, ComposeProject, ComposeVersion, check,
};
use command_executor::target::docker::{ContainerRow, Docker, DockerError};
use place::{Place, here, on, on_smol, run, until};
use std::time::Duration;
use test_hosts::{BB, Host, Suite, require};

const FILE: &str = r#"
version: "3"
services:
  db:
    image: BB
    command: ["sh", "-c", "echo db $VALUE; trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    environment: {VALUE: "${VALUE:-none}"}
    labels: {harness-test: "1"}
  web:
    image: BB
    command: ["sh", "-c", "echo web; trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    depends_on: [db]
    labels: {harness-test: "1"}
  broken:
    image: BB
    command: ["nosuch"]
    labels: {harness-test: "1"}
"#;

/// A project of one test, which is gone when this is dropped.
struct Project {
    place: Place,
    project: ComposeProject,
    remove: Box<dyn Fn()>,
}

impl Drop for Project {
    fn drop(&mut self) {
        (self.remove)();
    }
}

async fn cli(place: &Place) -> Option<(ComposeCli, ComposeVersion)> {
    for cli in ComposeCli::candidates(&Docker::new()) {
        if let Ok(finished) = place.run(&cli.version()).await
            && check(&finished).is_ok()
        {
            return Some((cli, ComposeVersion::parse(&finished.stdout.bytes).unwrap()));
        }
    }
    None
}

fn on_trixie(test: &str) -> Result<Project, test_hosts::Error> {
    let host = Host::shared(Suite::Trixie)?;
    host.start_docker()?;
    host.load_bb()?;
    let name = format!("{test}-{}", std::process::id());
    let folder = format!("/tmp/{name}");
    host.write(&format!("{folder}/compose.yaml"), &FILE.replace("BB", BB))?;
    host.write(&format!("{folder}/bad.yaml"), "services:\n  a: {imag: x}\n")?;
    let place = on(&host);
    let (cli, version) = smol::block_on(cli(&place)).unwrap();
    assert_eq!((version.generation, matches!(cli, ComposeCli::Plugin(_))), (2, true));
    let project = ComposeProject::new(cli, name.clone(), format!("{folder}/compose.yaml"));
    let script = format!("docker compose -p {name} down -v -t 0; rm -rf {folder}");
    let remove = Box::new(move || drop(host.sh(&script)));
    Ok(Project { place, project, remove })
}

/// Version 1 is where a machine has it: there is none for newer systems.
fn on_this_machine(test: &str) -> Result<Option<Project>, test_hosts::Error> {
    let scope = test_hosts::Docker::here()?.scope(test)?;
    let name = format!("{test}-{}", std::process::id());
    let label = format!("com.docker.compose.project={name}");
    scope.also(&label)?;
    let file = scope.folder().join("compose.yaml");
    std::fs::write(&file, FILE.replace("BB", BB)).unwrap();
    std::fs::write(scope.folder().join("bad.yaml"), "version: '3'\nservices:\n  a: {imag: x}\n").unwrap();
    let place = here();
    let Some((cli, version)) = smol::block_on(cli(&place)) else {
        println!("skipped: this machine has no Compose");
        return Ok(None);
    };
    println!("Compose {}", version.text);
    let project = ComposeProject::new(cli, name, file);
    // The scope removes containers and networks by the label.
    let remove = Box::new(move || {
        let _ = &scope;
    });
    Ok(Some(Project { place, project, remove }))
}

async fn try_run(project: &Project, command: Command) -> Result<(), ComposeError> {
    check(&project.place.run(&command).await.unwrap())
}

async fn names(project: &Project, labels: &[String]) -> Vec<(String, bool)> {
    let list = project.project.cli.docker().list(labels.iter().map(String::as_str));
    let rows = ContainerRow::parse(&run(&project.place, list).await.stdout.bytes).unwrap();
    let mut names: Vec<_> = rows
        .iter()
        .map(|row| {
            let identity = ComposeIdentity::of(&row.labels).unwrap();
            assert_eq!((identity.project, identity.number), (project.project.name.clone(), 1));
            (identity.service, row.status.is_running())
        })
        .collect();
    names.sort();
    names
}

async fn a_life(project: &mut Project) {
    project.project.env = [("VALUE".to_owned(), "of the caller".to_owned())].into();
    let wanted = project.project.clone();
    try_run(project, wanted.config()).await.unwrap();
    let listed = run(&project.place, wanted.services()).await.stdout.bytes;
    let mut services = ComposeProject::parse_services(&listed);
    services.sort();
    assert_eq!(services, ["broken", "db", "web"]);

    let (db, web) = (wanted.service("db"), wanted.service("web"));
    try_run(project, web.up()).await.unwrap();
    assert_eq!(names(project, &wanted.labels()).await, [("web".to_owned(), true)], "alone");
    try_run(project, db.create()).await.unwrap();
    assert_eq!(names(project, &db.labels()).await, [("db".to_owned(), false)]);
    try_run(project, db.up()).await.unwrap();
    assert_eq!(names(project, &wanted.labels()).await, [("db".to_owned(), true), ("web".to_owned(), true)]);

    let attacher = ComposeAttacher::new(project.place.clone(), db.clone());
    assert!(matches!(attacher.status().await.unwrap(), AttachStatus::Running { .. }));
    until(|| async { !attacher.logs(10).await.unwrap().is_empty() }).await;
    assert_eq!(attacher.logs(10).await.unwrap()[0].text, b"db of the caller");
    let mut lines = attacher.follow(10).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().text, b"db of the caller");
    let stop = async { attacher.stop(Duration::from_secs(5)).await.unwrap() };
    futures_lite::future::zip(attacher.exited(), stop).await.0.unwrap();
    assert_eq!(lines.next().await.unwrap(), None);
    assert_eq!(names(project, &wanted.labels()).await, [("db".to_owned(), false), ("web".to_owned(), true)]);
    let AttachStatus::NotRunning { reason } = attacher.status().await.unwrap() else { panic!("it runs") };
    assert!(reason.starts_with("1 of 1 containers don't run: "), "{reason}");
    attacher.start().await.unwrap();
    assert!(matches!(attacher.status().await.unwrap(), AttachStatus::Running { .. }));

    try_run(project, db.stop(Duration::from_secs(5))).await.unwrap();
    try_run(project, db.remove(true)).await.unwrap();
    assert_eq!(names(project, &db.labels()).await, []);
    try_run(project, wanted.stop(Duration::from_secs(5))).await.unwrap();
    try_run(project, wanted.down(Duration::from_secs(5), true)).await.unwrap();
    assert_eq!(names(project, &wanted.labels()).await, []);
    let AttachStatus::NotRunning { reason } = attacher.status().await.unwrap() else { panic!("it runs") };
    assert!(reason.ends_with("has no container"), "{reason}");
}

async fn refusals(project: &Project) {
    let wanted = &project.project;
    let error = try_run(project, wanted.service("nosuch").up()).await.unwrap_err();
    assert!(matches!(&error, ComposeError::NoSuchService { service } if service == "nosuch"), "{error:?}");
    let error = try_run(project, wanted.service("broken").up()).await.unwrap_err();
    let is_missing = |error: &DockerError| matches!(error, DockerError::ProgramNotFound { program } if program == "nosuch");
    assert!(matches!(&error, ComposeError::Docker(error) if is_missing(error)), "{error:?}");

    let with = |file: &str| {
        let mut other = wanted.clone();
        other.files = vec![wanted.files[0].with_file_name(file)];
        other
    };
    let error = try_run(project, with("bad.yaml").config()).await.unwrap_err();
    assert!(matches!(&error, ComposeError::InvalidFile { why } if why.contains("imag")), "{error:?}");
    let error = try_run(project, with("nosuch.yaml").config()).await.unwrap_err();
    assert!(matches!(&error, ComposeError::NoFile { path } if path.ends_with("/nosuch.yaml")), "{error:?}");
    let mut other = wanted.clone();
    other.env_file = Some(wanted.files[0].with_file_name("nosuch.env"));
    let error = try_run(project, other.config()).await.unwrap_err();
    assert!(matches!(&error, ComposeError::NoEnvFile { path } if path.ends_with("/nosuch.env")), "{error:?}");

    let mut elsewhere = wanted.clone();
    let closed = Docker::new().with_host("tcp://127.0.0.1:1");
    elsewhere.cli = match wanted.cli.clone() {
        ComposeCli::Plugin(_) => ComposeCli::Plugin(closed),
        ComposeCli::Standalone { program, .. } => ComposeCli::Standalone { program, docker: closed },
    };
    let error = try_run(project, elsewhere.service("db").up()).await.unwrap_err();
    assert!(
        error.is_transient() && matches!(error, ComposeError::Docker(DockerError::NotReachable { .. })),
        "{error:?}"
    );
}

#[test]
fn a_service_of_compose_lives_alone_and_with_the_others() {
    let mut project = require!(on_trixie("life"));
    on_smol(async { a_life(&mut project).await });
}

#[test]
fn a_service_of_this_machines_compose_lives_alone_and_with_the_others() {
    let Some(mut project) = require!(on_this_machine("life")) else { return };
    on_smol(async { a_life(&mut project).await });
}

#[test]
fn what_compose_refuses_is_typed() {
    let project = require!(on_trixie("refusals"));
    on_smol(async { refusals(&project).await });
}

#[test]
fn what_this_machines_compose_refuses_is_typed() {
    let Some(project) = require!(on_this_machine("refusals")) else { return };
    on_smol(async { refusals(&project).await });
}

#[test]
fn a_host_without_compose_has_none() {
    let host = require!(Host::shared(Suite::Bookworm));
    on_smol(async {
        let place = on(&host);
        assert!(cli(&place).await.is_none());
        let [plugin, standalone] = ComposeCli::candidates(&Docker::new());
        let error = check(&place.run(&plugin.version()).await.unwrap()).unwrap_err();
        assert!(matches!(error, ComposeError::NotInstalled), "{error:?}");
        assert!(!place.run(&standalone.version()).await.is_ok_and(|finished| finished.exit.is_success()));
        let attacher = ComposeAttacher::new(place, ComposeProject::new(plugin, "x", "/x").service("x"));
        assert!(matches!(attacher.start().await, Err(AttachError::Compose(ComposeError::NotInstalled))));
    });
}
