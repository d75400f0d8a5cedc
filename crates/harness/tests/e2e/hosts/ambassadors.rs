//! Ambassadors on several machines: for what is elsewhere, and beside what is elsewhere.

use super::nodes::{left, project};
use crate::containers::has_compose;
use crate::support::until;
use test_hosts::{BB, Network, Suite, require};

/// Answers with its name, on loopback alone.
const SERVER: &str = r#"[perl, "-MIO::Socket::INET", -e, 'my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ENV{PORT}, Listen => 64, ReuseAddr => 1) or die; while (my $c = $s->accept) { print $c "$ENV{HARNESS_INSTANCE}\n"; close $c }']"#;

#[test]
fn what_is_on_another_machine_is_called_by_its_name_in_containers_here_and_there() {
    let docker = require!(test_hosts::Docker::here());
    if !has_compose(&docker) {
        assert!(!test_hosts::in_ci(), "Compose has to be here in CI");
        eprintln!("skipped: neither docker compose nor docker-compose is here");
        return;
    }
    let network = require!(Network::create("ambassadors"));
    let [one] = require!(network.boot_all([(Suite::Trixie, "one")]));
    one.start_docker().unwrap();
    one.load_bb().unwrap();
    let scope = docker.scope("ambassadors elsewhere").unwrap();
    let services = format!(
        "nodes:
  one: {{host: {}, user: app}}
services:
  api: {{type: process, command: {SERVER}, ports: [18948], health_check: {{tcp: '${{self.port}}', interval: 1s}}}}
  far: {{type: remote, host: one, command: {SERVER}, ports: [18948], health_check: {{tcp: '${{self.port}}', interval: 1s}}}}
  there: {{type: docker, host: one, image: {BB}, init: true, names: ambassador, dependencies: {{api: {{condition: healthy}}}}, command: [sh, -c, 'nc api 18948; exec sleep 1000']}}
  here: {{type: compose, file: compose.yaml, dependencies: {{api: {{condition: healthy}}, far: {{condition: healthy}}}}, shutdown_timeout: 2s}}
",
        one.name()
    );
    let project = project(&one, &services);
    let compose = "
version: '3.7'
services:
  it: {image: BB, init: true, command: sh -c \"nc api 18948; nc far 18948; exec sleep 1000\"}
";
    project.write("compose.yaml", &compose.replace("BB", BB));
    let done = project.run(&["start"]);
    let id = project.state_dir().file_name().unwrap().to_str().unwrap().to_owned();
    scope.also(&format!("harness.project={id}")).unwrap();
    assert_eq!(done.code, 0, "{}", done.stderr);
    // The same port for both: an ambassador for each.
    until("both are called from here", || project.logs("here") == ["it | api-1", "it | far-1"]);
    until("this machine is called from there", || {
        project.ok(&["logs", "--no-prefix", "there"]).stdout.trim() == "api-1"
    });
    project.ok(&["stop", "-y"]);
    until("nothing of it runs there", || left(&one).is_empty());
    assert_eq!(one.sh("docker ps -aq --filter label=harness.ambassador").unwrap(), "");
    let label = format!("label=harness.project={id}");
    assert_eq!(docker.output(&["ps", "-aq", "--filter", &label]).unwrap(), "");
}
