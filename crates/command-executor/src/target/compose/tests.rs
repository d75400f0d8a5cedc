use super::*;
use crate::process::Exit;
use crate::target::docker::DockerError;
use proptest::prelude::*;

fn text(command: &Command) -> String {
    command.argv().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
}

fn shop(cli: ComposeCli) -> ComposeProject {
    ComposeProject::new(cli, "shop", "/srv/compose.yaml")
}

#[test]
fn verbs_lower_to_compose() {
    let docker = Docker::new().with_context("far");
    let [plugin, standalone] = ComposeCli::candidates(&docker);
    assert_eq!(text(&plugin.version()), "docker --context far compose version --short");
    assert_eq!(text(&standalone.version()), "docker-compose version --short");
    let context: Vec<_> = standalone.version().get_envs().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(context, ["DOCKER_CONTEXT"]);

    let [plugin, standalone] = ComposeCli::candidates(&Docker::new());
    let second = Duration::from_millis(900);
    for (cli, begin) in [(plugin, "docker compose"), (standalone, "docker-compose")] {
        let project = shop(cli);
        let web = project.service("web");
        let table = [
            (project.config(), "config --quiet"),
            (project.services(), "config --services"),
            (project.up(), "up --detach"),
            (project.pull(), "pull"),
            (project.stop(second), "stop --timeout 1"),
            (project.down(second, false), "down --timeout 1"),
            (project.down(second, true), "down --timeout 1 --volumes"),
            (web.up(), "up --detach --no-deps web"),
            (web.create(), "up --no-start --no-deps web"),
            (web.pull(), "pull web"),
            (web.stop(second), "stop --timeout 1 web"),
            (web.remove(false), "rm --force web"),
            (web.remove(true), "rm --force -v web"),
        ];
        for (command, end) in table {
            assert_eq!(text(&command), format!("{begin} --file /srv/compose.yaml --project-name shop {end}"));
        }
    }
}

#[test]
fn values_go_by_the_environment_and_files_by_options() {
    let [plugin, _] = ComposeCli::candidates(&Docker::new());
    let mut project = shop(plugin);
    project.files.push("/srv/over.yaml".into());
    project.env_file = Some("/srv/live.env".into());
    project.profiles = vec!["debug".into()];
    project.env = [("PASSWORD".to_owned(), "s3cret".to_owned())].into();
    let command = project.up();
    assert_eq!(
        text(&command),
        "docker compose --file /srv/compose.yaml --file /srv/over.yaml --project-name shop --env-file \
         /srv/live.env --profile debug up --detach"
    );
    assert_eq!(command.get_envs().collect::<Vec<_>>(), [("PASSWORD".as_ref(), Some("s3cret".as_ref()))]);
    assert!(!format!("{project:?}{command:?}").contains("s3cret"));
}

#[test]
fn containers_are_found_by_their_labels() {
    let [plugin, _] = ComposeCli::candidates(&Docker::new());
    assert_eq!(
        shop(plugin).service("web").labels(),
        [
            "com.docker.compose.project=shop",
            "com.docker.compose.oneoff=False",
            "com.docker.compose.service=web"
        ]
    );
    let mut labels: BTreeMap<String, String> =
        [(PROJECT, "shop"), (SERVICE, "web"), (NUMBER, "2"), (ONE_OFF, "False")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let web = ComposeIdentity { project: "shop".into(), service: "web".into(), number: 2 };
    assert_eq!(ComposeIdentity::of(&labels), Some(web));
    labels.insert(ONE_OFF.to_owned(), "True".to_owned());
    assert_eq!(ComposeIdentity::of(&labels), None);
    assert_eq!(ComposeIdentity::of(&BTreeMap::new()), None);
}

#[test]
fn versions_and_services_are_read() {
    let generation = |text: &[u8]| ComposeVersion::parse(text).unwrap().generation;
    assert_eq!((generation(b"1.29.2\n"), generation(b"2.26.1-4\n"), generation(b"v2.1\n")), (1, 2, 2));
    assert!(ComposeVersion::parse(b"no").is_err());
    assert_eq!(ComposeProject::parse_services(b"db\nweb\n"), ["db", "web"]);
}

#[test]
fn what_compose_wrote_is_told_apart() {
    let texts = include_str!("../../../tests/samples/compose/errors.txt");
    let mut told = String::new();
    for text in texts.split("\n====\n") {
        let error = ComposeError::classify(Exit::Code(1), text);
        let kind = match &error {
            ComposeError::Docker(error) => format!("{error:?}"),
            error => format!("{error:?}"),
        };
        told.push_str(&format!("{}: {error}\n", kind.split([' ', '{']).next().unwrap()));
    }
    insta::assert_snapshot!(told, @r#"
    InvalidFile: the Compose file is wrong: The Compose file './bad.yaml' is invalid because:
    Unsupported config option for services.a: 'imag'
    InvalidFile: the Compose file is wrong: yaml.parser.ParserError: while parsing a flow node
    expected the node content, but found '<stream end>'
      in "./bad2.yaml", line 2, column 1
    InvalidFile: the Compose file is wrong: Missing mandatory value for "image" option interpolating ${X:?must be set} in service "a": must be set
    InvalidFile: the Compose file is wrong: Service 'a' depends on service 'zz' which is undefined.
    NoEnvFile: there is no env file /srv/shop/nosuch.env
    NoFile: there is no Compose file ./nosuch.yaml
    NoSuchService: the Compose file has no service nosvc
    ProgramNotFound: the container has no program nosuch
    PullFailed: can't pull the image: Get "https://registry.example.com/v2/": dial tcp: lookup registry.example.com on 192.0.2.1:53: no such host
    PortInUse: 0.0.0.0:18090 is in use
    NotReachable: docker can't be reached at 127.0.0.1: nobody answers there
    InvalidFile: the Compose file is wrong: validating /srv/shop/bad.yaml: services.a Additional property imag is not allowed
    InvalidFile: the Compose file is wrong: yaml: line 1: did not find expected node content
    InvalidFile: the Compose file is wrong: error while interpolating services.a.image: required variable X is missing a value: must be set
    InvalidFile: the Compose file is wrong: service "a" depends on undefined service "zz": invalid compose project
    NoEnvFile: there is no env file /srv/shop/nosuch.env
    NoFile: there is no Compose file /srv/shop/nosuch.yaml
    InvalidName: not a project's name: invalid project name "BAD NAME": must consist only of lowercase alphanumeric characters, hyphens, and underscores as well as start with a letter or number
    NoSuchService: the Compose file has no service nosvc
    ProgramNotFound: the container has no program nosuch
    PullFailed: can't pull the image: Get "https://registry.example.com/v2/": dial tcp: lookup registry.example.com on 192.0.2.1:53: no such host
    PortInUse: 0.0.0.0:18090 is in use
    NoSuchService: the Compose file has no service nosvc
    NotReachable: docker can't be reached at tcp://127.0.0.1:1: nobody answers there
    NotInstalled: Compose isn't installed
    NotInstalled: Compose isn't installed
    NotInstalled: Compose isn't installed
    "#);
}

#[test]
fn an_unreachable_engine_is_transient_and_a_wrong_file_is_not() {
    let unreachable = DockerError::NotReachable { endpoint: String::new(), why: String::new() };
    assert!(ComposeError::from(unreachable).is_transient());
    assert!(!ComposeError::classify(Exit::Code(15), "yaml: line 1: no").is_transient());
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>(), cut in 0usize..4000) {
        let _ = ComposeError::classify(Exit::Code(1), &text).hint();
        let _ = ComposeVersion::parse(text.as_bytes());
        let sample = include_str!("../../../tests/samples/compose/errors.txt");
        let rest: String = sample.chars().skip(cut).collect();
        let _ = ComposeError::classify(Exit::Code(1), &rest).hint();
    }
}
