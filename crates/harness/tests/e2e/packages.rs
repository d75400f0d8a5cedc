//! `package`, `deploy`, `rollback`: from a folder to what is current, and back.

use crate::support::{PATIENCE, Project, alive, done, until};
use serde_json::Value;
use service_registry::client::{Client, ClientError, ClientOptions};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A project with a package's folder `web`.
struct Place {
    project: Project,
}

impl Place {
    fn new() -> Self {
        let place = Self { project: Project::new("services: {}\n") };
        place.source("1.0.0");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.project.path().join(name)
    }

    /// Makes the folder one of this version.
    fn source(&self, version: &str) {
        self.file("web/manifest.yaml", &format!("name: web\nversion: {version}\ndescription: Answers.\n"));
        self.script("web/scripts/start.sh", "exec bin/web");
        self.script("web/bin/web", &format!("echo {version}"));
    }

    fn file(&self, name: &str, content: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    fn script(&self, name: &str, command: &str) {
        self.file(name, &format!("#!/bin/sh\n{command}\n"));
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Builds this version; the file's name.
    fn build(&self, version: &str) -> String {
        self.source(version);
        self.project.ok(&["package", "build", "web"]);
        format!("web-{version}.tar.zst")
    }

    fn deploy(&self, version: &str) -> crate::support::Done {
        self.project.run(&["deploy", &format!("web-{version}.tar.zst"), "--prefix", "opt"])
    }

    fn current(&self) -> Option<String> {
        let target = fs::read_link(self.path("opt/web-current")).ok()?;
        Some(target.to_str().unwrap().strip_prefix("web-").unwrap().to_owned())
    }

    fn installed(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path("opt"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !matches!(name.as_str(), ".harness" | "web-current"))
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_package_whose_dependency_is_here_in_another_version_is_refused() {
    let place = Place::new();
    let deploy =
        |file: &str, more: &[&str]| place.project.run(&[&["deploy", file, "--prefix", "opt"], more].concat());
    place.file(
        "app/manifest.yaml",
        "name: app\nversion: 1.0.0\ndependencies: {web: '>=1.1, <2', db: '>=3'}\n",
    );
    place.script("app/scripts/start.sh", "exec sleep 1000");
    place.project.ok(&["package", "build", "app"]);
    let app = "app-1.0.0.tar.zst";
    for version in ["1.0.0", "2.0.0"] {
        place.build(version);
        assert_eq!(place.deploy(version).code, 0);
        for more in [&[][..], &["--dry-run"]] {
            let refused = deploy(app, more);
            let says = format!("app-1.0.0 depends on web >=1.1, <2, and {version} is current");
            assert!(refused.code != 0 && refused.stderr.contains(&says), "{}", refused.stderr);
        }
        assert!(!place.path("opt/app-current").exists() && !place.path("opt/app-1.0.0").exists());
    }
    place.build("1.4.0");
    assert_eq!(place.deploy("1.4.0").code, 0);
    // db is no package here: it may be anything else
    let done = deploy(app, &[]);
    assert_eq!(done.code, 0, "{}", done.stderr);
}

#[test]
fn from_a_folder_to_what_is_current_and_back() {
    let place = Place::new();
    let project = &place.project;
    place.file("web/.env", "SECRET=1");
    let built = project.ok(&["package", "build", "web"]);
    assert!(built.stdout.is_empty());
    assert!(
        built.stderr.contains("web-1.0.0.tar.zst: 2 files") && built.stderr.contains("left out: .env"),
        "{}",
        built.stderr
    );
    let inspected = project.json(&["package", "inspect", "web-1.0.0.tar.zst"]);
    assert_eq!(
        (&inspected["schema"], &inspected["manifest"]["files"][0]["path"]),
        (&1.into(), &"bin/web".into())
    );
    assert!(project.ok(&["package", "inspect", "web-1.0.0.tar.zst"]).stdout.contains("scripts/start.sh"));
    project.ok(&["package", "verify", "web-1.0.0.tar.zst"]);
    let deployed = place.deploy("1.0.0");
    assert_eq!(deployed.code, 0, "{}", deployed.stderr);
    assert!(deployed.stderr.contains("web 1.0.0 is current"), "{}", deployed.stderr);
    place.build("1.1.0");
    let document = project.json(&["deploy", "web-1.1.0.tar.zst", "--prefix", "opt"]);
    let told = &document["deployed"];
    assert_eq!(
        (&told["version"], &told["previous"], &told["changed"]),
        (&"1.1.0".into(), &"1.0.0".into(), &true.into())
    );
    assert_eq!(place.current().as_deref(), Some("1.1.0"));
    assert!(place.deploy("1.1.0").stderr.contains("unchanged"));
    let listed = project.json(&["package", "list", "--prefix", "opt"]);
    assert_eq!(listed["packages"][0]["versions"], serde_json::json!(["1.0.0", "1.1.0"]));
    assert!(project.ok(&["package", "list", "--prefix", "opt"]).stdout.contains("web   1.1.0    1.0.0"));
    let planned = project.ok(&["rollback", "web", "--prefix", "opt", "--dry-run"]);
    assert!(planned.stdout.contains("to 1.0.0"), "{}", planned.stdout);
    assert_eq!(place.current().as_deref(), Some("1.1.0"));
    project.ok(&["rollback", "web", "--prefix", "opt"]);
    assert_eq!(place.current().as_deref(), Some("1.0.0"));
    let output = std::process::Command::new(place.path("opt/web-current/bin/web")).output().unwrap();
    assert_eq!(output.stdout, b"1.0.0\n");
    let again = project.run(&["rollback", "web", "--prefix", "opt"]);
    assert_eq!(again.code, 1);
    assert!(
        again.stderr.contains("no version of web to go back to") && again.stderr.contains("package list"),
        "{}",
        again.stderr
    );
    // Without a prefix, who isn't root installs below the home folder; root to /opt, which no test touches.
    assert!(
        project.ok(&["rollback", "web", "--version", "1.1.0", "--prefix", "opt"]).stderr.contains("1.1.0")
    );
}

#[test]
fn old_versions_are_removed() {
    let place = Place::new();
    for version in ["1.0.0", "1.1.0", "1.2.0", "1.3.0"] {
        place.build(version);
        assert_eq!(place.deploy(version).code, 0);
    }
    assert_eq!(place.installed(), ["web-1.1.0", "web-1.2.0", "web-1.3.0"]);
    place.build("1.4.0");
    let done = place.project.ok(&["deploy", "web-1.4.0.tar.zst", "--prefix", "opt", "--keep", "1"]);
    assert!(done.stderr.contains("removed: 1.1.0, 1.2.0"), "{}", done.stderr);
    assert_eq!(place.installed(), ["web-1.3.0", "web-1.4.0"], "what a rollback leads to stays");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_touches_nothing() {
    let place = Place::new();
    place.script("web/scripts/setup.sh", "touch ran");
    place.script("web/scripts/post_install.sh", "touch ran");
    let planned = place.project.ok(&["package", "build", "web", "--dry-run"]);
    assert!(planned.stdout.contains("scripts/setup.sh"), "{}", planned.stdout);
    assert!(!place.path("web-1.0.0.tar.zst").exists());
    place.build("1.0.0");
    let planned = place.project.ok(&["deploy", "web-1.0.0.tar.zst", "--prefix", "opt", "--dry-run"]);
    let steps: Vec<&str> = planned.stdout.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(steps, ["unpack", "run", "switch", "run"], "{}", planned.stdout);
    assert!(!place.path("opt").exists());
}

#[test]
fn signatures_are_verified_before_anything_is_unpacked() {
    let place = Place::new();
    let project = &place.project;
    project.ok(&["package", "keygen", "web.key"]);
    project.ok(&["package", "keygen", "other.key"]);
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("web.key"), 0o600);
    let again = project.run(&["package", "keygen", "web.key"]);
    assert_eq!(again.code, 2);
    assert!(again.stderr.contains("exists already"), "{}", again.stderr);
    project.ok(&["package", "build", "web", "--sign", "web.key"]);
    let verified = project.ok(&["package", "verify", "web-1.0.0.tar.zst", "--key", "web.key.pub"]);
    assert!(verified.stderr.contains("signed: web-1.0.0 sha256:"), "{}", verified.stderr);
    let line = fs::read_to_string(place.path("web.key.pub")).unwrap().lines().nth(1).unwrap().to_owned();
    project.ok(&["package", "verify", "web-1.0.0.tar.zst", "--key", &line]);
    let refused = |args: &[&str], reason: &str| {
        let mut args = [&["deploy", "web-1.0.0.tar.zst", "--prefix", "opt"], args].concat();
        let done = project.run(&args);
        assert_eq!(done.code, 1, "{}", done.stderr);
        assert!(done.stderr.contains(reason) && done.stderr.contains("hint"), "{}", done.stderr);
        args.extend(["-o", "json"]);
        let error: Value = serde_json::from_str(&project.run(&args).stderr).unwrap();
        assert_eq!(error["error"]["exit_code"], 1);
        assert!(!place.path("opt").exists());
    };
    refused(&["--key", "other.key.pub"], "signed with the key");
    let bytes = fs::read(place.path("web-1.0.0.tar.zst")).unwrap();
    fs::write(place.path("web-1.0.0.tar.zst"), [&bytes[..], b"x"].concat()).unwrap();
    refused(&["--key", "web.key.pub"], "the signature is not of this file");
    fs::write(place.path("web-1.0.0.tar.zst"), &bytes[..bytes.len() - 1]).unwrap();
    refused(&[], "truncated");
    fs::write(place.path("web-1.0.0.tar.zst"), &bytes).unwrap();
    fs::remove_file(place.path("web-1.0.0.tar.zst.minisig")).unwrap();
    refused(&["--key", "web.key.pub"], "is not signed");
    project.ok(&["deploy", "web-1.0.0.tar.zst", "--prefix", "opt"]);
}

#[test]
fn scripts_run_around_the_switch() {
    let place = Place::new();
    let note = |name: &str| {
        format!(
            "echo {name} $HARNESS_PACKAGE $HARNESS_PACKAGE_VERSION $HARNESS_PACKAGE_PREVIOUS >> ../../ran"
        )
    };
    for script in ["pre_install", "setup", "post_install"] {
        place.script(&format!("web/scripts/{script}.sh"), &note(script));
    }
    place.build("1.0.0");
    assert_eq!(place.deploy("1.0.0").code, 0);
    assert_eq!(place.project.read("ran"), "pre_install web 1.0.0\nsetup web 1.0.0\npost_install web 1.0.0\n");
    place.deploy("1.0.0");
    assert_eq!(place.project.read("ran").lines().count(), 3, "what is current isn't installed again");
    // Before the switch: nothing is switched, and nothing is left.
    place.script("web/scripts/setup.sh", "echo no room for the database; exit 7");
    place.build("2.0.0");
    let done = place.deploy("2.0.0");
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("scripts/setup.sh ended with")
            && done.stderr.contains("| no room for the database"),
        "{}",
        done.stderr
    );
    assert_eq!(
        (place.current().as_deref(), place.installed()),
        (Some("1.0.0"), vec!["web-1.0.0".to_owned()])
    );
    // After it: it stays, unless it is asked to be taken back.
    place.script("web/scripts/setup.sh", "true");
    place.script("web/scripts/post_install.sh", "echo nobody answers >&2; exit 1");
    place.build("3.0.0");
    let done =
        place.project.run(&["deploy", "web-3.0.0.tar.zst", "--prefix", "opt", "--rollback-on-failure"]);
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("the switch was taken back") && done.stderr.contains("| nobody answers"),
        "{}",
        done.stderr
    );
    assert_eq!(
        (place.current().as_deref(), place.installed()),
        (Some("1.0.0"), vec!["web-1.0.0".to_owned()])
    );
    let done = place.deploy("3.0.0");
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("is current, but") && done.stderr.contains("harness rollback"),
        "{}",
        done.stderr
    );
    assert_eq!(place.current().as_deref(), Some("3.0.0"));
    // One that hangs.
    place.script("web/scripts/post_install.sh", "sleep 1000");
    place.build("4.0.0");
    let done = place.project.run(&["deploy", "web-4.0.0.tar.zst", "--prefix", "opt", "--timeout", "200ms"]);
    assert!(done.code == 1 && done.stderr.contains("was not done after 200ms"), "{}", done.stderr);
}

#[test]
fn what_is_wrong_is_told_with_the_way_out() {
    let place = Place::new();
    let project = &place.project;
    let told = |args: &[&str], code: i32, parts: &[&str]| {
        let done = project.run(args);
        assert_eq!(done.code, code, "{args:?}: {}", done.stderr);
        for part in parts {
            assert!(done.stderr.contains(part), "{args:?} should say {part}: {}", done.stderr);
        }
        assert!(done.stdout.is_empty());
    };
    place.file("bad/manifest.yaml", "name: Web\nversion: 1.0\nnmae: x\n");
    told(
        &["package", "build", "bad"],
        2,
        &["bad/manifest.yaml:1:7", "bad/manifest.yaml:2:10", "did you mean `name`", "3 errors"],
    );
    told(&["package", "build", "nowhere"], 2, &["nowhere/manifest.yaml"]);
    place.file("bad/manifest.yaml", "name: web\nversion: 1.0.0\nservice: {command: bin/none}\n");
    told(&["package", "build", "bad"], 2, &["there is no bin/none in the package"]);
    let file = place.build("1.0.0");
    told(&["deploy", &file, "--to", "eu-1"], 2, &["declares no services"]);
    told(&["deploy", "nowhere.tar.zst"], 2, &["nowhere.tar.zst"]);
    told(&["rollback", "web", "--prefix", "opt"], 2, &["web is not installed", "harness deploy"]);
    told(&["rollback", "../web", "--prefix", "opt"], 2, &["not the name of a package"]);
    fs::rename(place.path(&file), place.path("web-9.9.9.tar.zst")).unwrap();
    told(
        &["deploy", "web-9.9.9.tar.zst", "--prefix", "opt"],
        1,
        &["it is web-1.0.0 by its manifest", "name it web-1.0.0.tar.zst"],
    );
    place.file(
        "web/manifest.yaml",
        "name: web\nversion: 1.0.0\nrequires: {commands: [no-such-program, sh]}\n",
    );
    project.ok(&["package", "build", "web"]);
    told(
        &["deploy", &file, "--prefix", "opt"],
        1,
        &["requires no-such-program, which is not in the search path"],
    );
    assert!(place.installed().is_empty());
    place.build("1.0.0");
    project.ok(&["deploy", &file, "--prefix", "opt"]);
    place.script("web/bin/web", "echo other");
    project.ok(&["package", "build", "web"]);
    told(&["deploy", &file, "--prefix", "opt"], 1, &["with other contents", "raise `version`"]);
}

/// SIGKILL at moments that nobody chose: the program, with its script, is killed after so many lines of its own making.
#[test]
fn killed_at_any_moment_the_next_deploy_goes_on() {
    let place = Place::new();
    place.script("web/bin/big", &"# filler\n".repeat(200_000));
    place.script("web/scripts/setup.sh", "echo > ../../at-setup; sleep 0.01");
    for version in ["1.0.0", "2.0.0"] {
        place.build(version);
    }
    assert_eq!(place.deploy("1.0.0").code, 0);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..24 {
        let mut command = place.project.command(&["deploy", "web-2.0.0.tar.zst", "--prefix", "opt"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // From at once to well after its end, 5 ms apart.
        let deadline = std::time::Instant::now() + std::time::Duration::from_millis(round * 5);
        until("its moment", || std::time::Instant::now() >= deadline);
        let _ = child.kill();
        child.wait().unwrap();
        let now = place.current().unwrap();
        let output = std::process::Command::new(place.path("opt/web-current/bin/web")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), now);
        seen.insert(now);
        let done = place.deploy("2.0.0");
        assert_eq!(done.code, 0, "{}", done.stderr);
        let left: Vec<_> = fs::read_dir(place.path("opt/.harness/web"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "the lock and the history: {left:?}");
        place.project.ok(&["rollback", "web", "--prefix", "opt"]);
        if round % 3 == 0 {
            fs::remove_dir_all(place.path("opt/web-2.0.0")).unwrap();
        }
    }
    assert!(seen.contains("1.0.0"), "{seen:?}");
}

#[test]
fn two_deploys_at_once_the_second_is_told_who_is_at_it() {
    let place = Place::new();
    place.script(
        "web/scripts/setup.sh",
        "echo > ../../at-setup; while ! [ -e ../../go ]; do sleep 0.01; done",
    );
    place.build("1.0.0");
    let child = place
        .project
        .command(&["deploy", "web-1.0.0.tar.zst", "--prefix", "opt"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    place.project.wait_for("at-setup");
    let second = place.deploy("1.0.0");
    assert_eq!(second.code, 1);
    let holder = format!("pid {}", child.id());
    assert!(
        second.stderr.contains(&holder) && second.stderr.contains("deploy web-1.0.0.tar.zst"),
        "{}",
        second.stderr
    );
    assert!(alive(child.id()));
    place.project.write("go", "");
    assert_eq!(done(child.wait_with_output().unwrap()).code, 0);
    assert_eq!(place.current().as_deref(), Some("1.0.0"));
}

#[test]
fn ctrl_c_leaves_all_as_it_was() {
    let place = Place::new();
    place.script(
        "web/scripts/setup.sh",
        "echo > ../../at-setup; while ! [ -e ../../go ]; do sleep 0.01; done",
    );
    place.script("web/scripts/post_install.sh", "echo > ../../after");
    place.script("web/scripts/pre_install.sh", "true");
    place.build("1.0.0");
    let mut command = place.project.command(&["deploy", "web-1.0.0.tar.zst", "--prefix", "opt"]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    place.project.wait_for("at-setup");
    crate::support::kill(child.id(), "INT");
    place.project.write("go", "");
    let ended = done(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 130, "{}", ended.stderr);
    assert!(!place.path("after").exists());
    assert!(!place.path("opt").exists());
}

/// What the page of the guide shows is typed in its order, beside a folder with its manifest.
#[test]
fn what_the_guide_types_works() {
    let place = Place::new();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/packages.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = |info: &str| -> Vec<String> {
        let begin = format!("```{info}\n");
        page.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
    };
    place.file("web/manifest.yaml", &blocks("yaml manifest")[0]);
    let mut typed = 0;
    for line in blocks("console").iter().flat_map(|block| block.lines()) {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[0], "harness", "{line}");
        place.project.ok(&words[1..]);
        typed += 1;
    }
    assert!(typed >= 8, "{typed}");
    assert_eq!(place.current().as_deref(), Some("1.2.0"));
}

/// The answer to a call, or its error.
fn ask(socket: &Path, method: &str, params: &Value) -> Value {
    smol::block_on(async {
        let (client, driver) = Client::connect_unix(socket, &ClientOptions::default()).await.unwrap();
        let _driver = smol::spawn(driver);
        match client.call(method, params, PATIENCE).await {
            Ok(answer) => answer,
            Err(ClientError::Rpc { source, .. }) => {
                serde_json::json!({ "code": source.code, "message": source.message })
            }
            Err(error) => panic!("{method}: {error}"),
        }
    })
}

/// The daemon does the same for whoever asks it over its socket.
#[test]
fn the_daemon_deploys_what_its_socket_is_asked_for() {
    let place = Place::new();
    place.project.write_services("services:\n  one: { type: process, command: [sleep, \"1000\"] }\n");
    place.project.ok(&["start"]);
    for version in ["1.0.0", "1.1.0"] {
        place.build(version);
    }
    let socket = place.project.state_dir().join("run/harness.sock");
    let file = |version: &str| place.path(&format!("web-{version}.tar.zst"));
    let prefix = place.path("opt");
    let answers: Vec<Value> = [
        ("package.deploy", serde_json::json!({ "file": file("1.0.0"), "prefix": prefix })),
        ("package.deploy", serde_json::json!({ "file": file("1.1.0"), "prefix": prefix, "keep": 2 })),
        ("package.list", serde_json::json!({ "prefix": prefix })),
        ("package.rollback", serde_json::json!({ "name": "web", "prefix": prefix })),
        ("package.rollback", serde_json::json!({ "name": "web", "prefix": prefix })),
        ("package.deploy", serde_json::json!({ "file": "web-1.0.0.tar.zst" })),
        ("package.deploy", serde_json::json!({ "file": "/proc/self/environ", "prefix": prefix })),
    ]
    .into_iter()
    .map(|(method, params)| ask(&socket, method, &params))
    .collect();
    assert_eq!(answers[0]["version"], "1.0.0", "{answers:?}");
    assert_eq!(answers[1]["previous"], "1.0.0", "{answers:?}");
    assert_eq!(answers[2]["packages"][0]["current"], "1.1.0", "{answers:?}");
    assert_eq!(answers[3]["version"], "1.0.0", "{answers:?}");
    assert_eq!(answers[4]["code"], -32017, "{answers:?}");
    assert_eq!(answers[5]["code"], -32602, "{answers:?}");
    assert!(answers[6]["message"].as_str().unwrap().contains("neither zstd nor gzip"), "{answers:?}");
    assert_eq!(place.current().as_deref(), Some("1.0.0"));
}

/// What an upload sends, and its outcome.
async fn upload(
    client: &Client,
    params: &Value,
    bytes: &[u8],
    whole: bool,
) -> (u64, Result<Value, ClientError>) {
    let opened = client.open_stream::<_, Value>("package.upload", params, PATIENCE).await;
    let (opened, mut stream) = match opened {
        Ok(opened) => opened,
        Err(error) => return (0, Err(error)),
    };
    let offset = opened["offset"].as_u64().unwrap();
    let rest = bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
    let sent = if whole { rest } else { &rest[..rest.len() / 2] };
    if let Err(error) = stream.send(sent).await {
        return (offset, Err(error));
    }
    (offset, stream.finish(PATIENCE).await)
}

#[test]
fn a_package_is_uploaded_in_pieces_checked_and_deployed() {
    let place = Place::new();
    place.project.write_services("services:\n  one: { type: process, command: [sleep, \"1000\"] }\n");
    place.project.ok(&["start"]);
    // More than fits on the way at once.
    place.source("1.0.0");
    let noise: Vec<u8> = (0..3_000_000_u64)
        .flat_map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40).to_le_bytes())
        .collect();
    fs::write(place.path("web/bin/noise"), &noise).unwrap();
    place.project.ok(&["package", "build", "web"]);
    let file = place.path("web-1.0.0.tar.zst");
    let bytes = fs::read(&file).unwrap();
    let inspected = place.project.json(&["package", "inspect", "web-1.0.0.tar.zst"]);
    let digest = inspected["sha256"].as_str().unwrap().to_owned();
    let params = serde_json::json!({ "name": "web-1.0.0.tar.zst", "size": bytes.len(), "sha256": digest });
    let socket = place.project.state_dir().join("run/harness.sock");
    let state = place.project.state_dir().join("uploads");
    smol::block_on(async {
        let connect = || async {
            let (client, driver) = Client::connect_unix(&socket, &ClientOptions::default()).await.unwrap();
            (client, smol::spawn(driver))
        };
        let (client, _driver) = connect().await;
        let message = |outcome: &Result<Value, ClientError>| {
            outcome.as_ref().unwrap_err().rpc().unwrap().message.clone()
        };
        let code = |outcome: &Result<Value, ClientError>| outcome.as_ref().unwrap_err().code();
        // Half of it, ended too early; the rest from there on, over another connection.
        let (offset, broken) = upload(&client, &params, &bytes, false).await;
        assert_eq!((offset, code(&broken)), (0, Some(-32017)), "{broken:?}");
        let (other, _other_driver) = connect().await;
        let (offset, done) = upload(&other, &params, &bytes, true).await;
        assert_eq!(offset, bytes.len() as u64 / 2);
        let done = done.unwrap();
        let there = PathBuf::from(done["file"].as_str().unwrap());
        assert_eq!(fs::read(&there).unwrap(), bytes);
        assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o077, 0);
        // Again: it is there.
        let (offset, again) = upload(&client, &params, &bytes, true).await;
        assert_eq!((offset, again.unwrap()), (bytes.len() as u64, done));
        let deploy = serde_json::json!({ "file": there, "prefix": place.path("opt") });
        let deployed: Value = client.call("package.deploy", &deploy, PATIENCE).await.unwrap();
        assert_eq!(deployed["version"], "1.0.0");

        let with = |key: &str, value: Value| {
            let mut params = params.clone();
            params[key] = value;
            params
        };
        // Another content than was announced isn't kept; one that goes on longer ends.
        let wrong = with("sha256", "00".repeat(32).into());
        let (_, refused) = upload(&client, &wrong, &bytes, true).await;
        assert!(message(&refused).contains("announced was 0000"), "{refused:?}");
        assert!(!state.join("00".repeat(32)).exists());
        let mut short = with("size", 1000.into());
        short["sha256"] = "11".repeat(32).into();
        assert_eq!(code(&upload(&client, &short, &bytes, true).await.1), Some(-32017));
        for bad in
            ["../x.tar.zst", "/etc/x.tar.zst", "x.tar.zst/..", ".x.tar.zst", "part", "x\u{202e}.tar.zst", ""]
        {
            assert_eq!(
                code(&upload(&client, &with("name", bad.into()), &bytes, true).await.1),
                Some(-32602),
                "{bad:?}"
            );
        }
        assert_eq!(
            code(&upload(&client, &with("size", (1_u64 << 60).into()), b"", true).await.1),
            Some(-32602)
        );
        // Nobody else sends the same meanwhile; and no more than a few are kept.
        let mut coming = with("sha256", "22".repeat(32).into());
        let (_, stream) = client.open_stream::<_, Value>("package.upload", &coming, PATIENCE).await.unwrap();
        let (_, refused) = upload(&other, &coming, &bytes, true).await;
        assert!(message(&refused).contains("another connection"), "{refused:?}");
        for n in 3..9 {
            coming["sha256"] = format!("{n}{n}").repeat(32).into();
            assert_eq!(code(&upload(&other, &coming, &bytes, false).await.1), Some(-32017));
        }
        assert_eq!(fs::read_dir(&state).unwrap().count(), 5, "four, and the one that comes");
        assert!(state.join("22".repeat(32)).exists());
        drop(stream);
    });
    assert_eq!(place.current().as_deref(), Some("1.0.0"));
}
