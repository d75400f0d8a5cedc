//! A container as it is wanted.

use super::environment::{Carried, carry};
use super::{CHANGE, Container, ContainerSpecError, Docker, PortBinding, Volume};
use crate::command::{Command, Stdin};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// The network that a container starts in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerNetwork {
    /// Its name, or one of docker's modes: `bridge`, `host`, `none`, `container:NAME`.
    pub name: String,
    /// Further names of the container there. Docker's default bridge has none.
    pub aliases: Vec<String>,
    /// A fixed address there.
    pub address: Option<IpAddr>,
}

/// A container that is made anew for each start.
///
/// Docker never restarts it by itself: whoever runs it decides that.
#[derive(Clone, PartialEq)]
pub struct DockerContainer {
    /// Which docker.
    pub docker: Docker,
    /// The container's name.
    pub name: String,
    /// The image.
    pub image: String,
    /// Arguments instead of the image's own; empty is as `None`.
    pub command: Option<Vec<String>>,
    /// What is run instead of the image's own, which also takes away the image's arguments. Empty: nothing, the command
    /// is run itself.
    pub entrypoint: Option<Vec<String>>,
    /// Its environment, over the image's.
    pub env: BTreeMap<String, String>,
    /// What is mounted.
    pub volumes: Vec<Volume>,
    /// What the machine listens on for it.
    pub ports: Vec<PortBinding>,
    /// Where it is; `None` is docker's default.
    pub network: Option<ContainerNetwork>,
    /// Name or number of the user instead of the image's.
    pub user: Option<String>,
    /// Name or number of the group; only with a user.
    pub group: Option<String>,
    /// The folder it runs in instead of the image's, absolute.
    pub working_dir: Option<String>,
    /// Labels. They stand in an argv: nothing secret.
    pub labels: BTreeMap<String, String>,
    /// Whether docker's init is its first process, which passes signals on and reaps.
    pub init: bool,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processors, in parts too.
    pub cpus: Option<f64>,
    /// Limit of open files.
    pub open_files: Option<u64>,
    /// The number of the signal that asks it to end, instead of the image's.
    pub stop_signal: Option<i32>,
    /// How long a stop waits before it kills, in whole seconds, where the stop doesn't say.
    pub stop_timeout: Option<Duration>,
    /// Whether the image's own health check is left out.
    pub no_healthcheck: bool,
    /// Names that it can resolve besides docker's; docker takes `host-gateway` as an address too.
    pub extra_hosts: Vec<(String, String)>,
    /// Whether it is kept from everything that it isn't given: nothing can be written to but what is mounted, it has no
    /// capabilities and can't gain any; and it is the engine that starts it again when it fails.
    pub confined: bool,
}

impl DockerContainer {
    /// A container of that name from that image, with nothing special.
    pub fn new(docker: Docker, name: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            docker,
            name: name.into(),
            image: image.into(),
            command: None,
            entrypoint: None,
            env: BTreeMap::new(),
            volumes: Vec::new(),
            ports: Vec::new(),
            network: None,
            user: None,
            group: None,
            working_dir: None,
            labels: BTreeMap::new(),
            init: false,
            memory: None,
            cpus: None,
            open_files: None,
            stop_signal: None,
            stop_timeout: None,
            no_healthcheck: false,
            extra_hosts: Vec::new(),
            confined: false,
        }
    }

    /// Its verbs, once it is made.
    pub fn container(&self) -> Container {
        self.docker.container(&self.name)
    }

    /// Fetches its image: see [`Docker::pull`].
    pub fn pull(&self) -> Command {
        self.docker.pull(&self.image)
    }

    /// Looks whether its image is there: see [`Docker::image`].
    pub fn image(&self) -> Command {
        self.docker.image(&self.image)
    }

    /// Makes it without starting it; prints its id. The image must be there: it isn't pulled.
    ///
    /// # Errors
    /// [`ContainerSpecError`] if docker can't be told something of it.
    pub fn create(&self) -> Result<Command, ContainerSpecError> {
        self.lower(&["create"])
    }

    /// Makes and starts it; prints its id. If the start fails the container is there all the same, as created.
    ///
    /// # Errors
    /// [`ContainerSpecError`] if docker can't be told something of it.
    pub fn run(&self) -> Result<Command, ContainerSpecError> {
        self.lower(&["run", "--detach"])
    }

    fn lower(&self, verb: &[&str]) -> Result<Command, ContainerSpecError> {
        let Carried { by_name, file } = carry(&self.env, true)?;
        let mut command = self.docker.command(verb.iter().copied()).args(self.options()?);
        for (name, value) in by_name {
            command = command.args(["--env", name]).env(name, value);
        }
        if !file.is_empty() {
            command = command.args(["--env-file", "/dev/stdin"]).stdin(Stdin::Bytes(file));
        }
        Ok(command.arg("--").arg(&self.image).args(self.arguments()).timeout(CHANGE))
    }

    fn options(&self) -> Result<Vec<String>, ContainerSpecError> {
        if !is_name(&self.name) {
            return Err(ContainerSpecError::Name { what: "a container's name", text: self.name.clone() });
        }
        if self.image.is_empty() || self.image.contains(char::is_whitespace) {
            return Err(ContainerSpecError::Name { what: "an image", text: self.image.clone() });
        }
        let mut options = Options(Vec::new());
        options.add("--name", &self.name);
        options.add("--pull", "never");
        options.add("--restart", if self.confined { "on-failure" } else { "no" });
        for (name, value) in &self.labels {
            options.add("--label", format!("{name}={value}"));
        }
        for volume in &self.volumes {
            options.add("--volume", volume.option()?);
        }
        for port in &self.ports {
            options.add("--publish", port.to_string());
        }
        if let Some(ContainerNetwork { name, aliases, address }) = &self.network {
            options.add("--network", name);
            aliases.iter().for_each(|alias| options.add("--network-alias", alias));
            match address {
                Some(IpAddr::V4(address)) => options.add("--ip", address.to_string()),
                Some(IpAddr::V6(address)) => options.add("--ip6", address.to_string()),
                None => {}
            }
        }
        for (name, address) in &self.extra_hosts {
            options.add("--add-host", format!("{name}:{address}"));
        }
        if self.confined {
            options.0.extend(CONFINED.iter().map(|word| (*word).to_owned()));
        }
        self.process(&mut options)?;
        Ok(options.0)
    }

    /// Options of its first process.
    fn process(&self, options: &mut Options) -> Result<(), ContainerSpecError> {
        match (&self.user, &self.group) {
            (Some(user), Some(group)) => options.add("--user", format!("{user}:{group}")),
            (Some(user), None) => options.add("--user", user),
            (None, Some(group)) => {
                return Err(ContainerSpecError::GroupWithoutUser { group: group.clone() });
            }
            (None, None) => {}
        }
        if let Some(folder) = &self.working_dir {
            options.add("--workdir", folder);
        }
        if self.init {
            options.0.push("--init".to_owned());
        }
        if self.no_healthcheck {
            options.0.push("--no-healthcheck".to_owned());
        }
        if let Some(bytes) = self.memory {
            options.add("--memory", bytes.to_string());
        }
        if let Some(cpus) = self.cpus {
            options.add("--cpus", cpus.to_string());
        }
        if let Some(limit) = self.open_files {
            options.add("--ulimit", format!("nofile={limit}:{limit}"));
        }
        if let Some(signal) = self.stop_signal {
            options.add("--stop-signal", signal.to_string());
        }
        if let Some(timeout) = self.stop_timeout {
            options.add("--stop-timeout", whole_seconds(timeout).to_string());
        }
        if let Some(entrypoint) = &self.entrypoint {
            options.add("--entrypoint", entrypoint.first().map_or("", String::as_str));
        }
        Ok(())
    }

    /// What follows the image. `--entrypoint` takes one word: the rest of it comes first here.
    fn arguments(&self) -> impl Iterator<Item = &String> {
        let entrypoint = self.entrypoint.iter().flatten().skip(1);
        entrypoint.chain(self.command.iter().flatten())
    }
}

impl fmt::Debug for DockerContainer {
    /// Variables by their names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerContainer")
            .field("docker", &self.docker)
            .field("name", &self.name)
            .field("image", &self.image)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

/// Ports below 1024 are no privilege in a network of its own. SELinux would keep what is confined so from sockets that it is
/// given on purpose.
const CONFINED: &[&str] = &[
    "--read-only",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--security-opt",
    "label=disable",
    "--sysctl",
    "net.ipv4.ip_unprivileged_port_start=0",
];

struct Options(Vec<String>);

impl Options {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.extend([option.to_owned(), value.into()]);
    }
}

/// Docker's own rule, `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
fn is_name(text: &str) -> bool {
    text.len() > 1
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// Seconds, rounded up: docker takes no parts, and a grace is never cut short.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::docker::Protocol;

    fn text(command: &Command) -> String {
        command.argv().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_plain_container_says_only_what_must_be_said() {
        let plain = DockerContainer::new(Docker::new(), "web-1", "nginx:1");
        assert_eq!(
            text(&plain.run().unwrap()),
            "docker run --detach --name web-1 --pull never --restart no -- nginx:1"
        );
        assert_eq!(
            text(&plain.create().unwrap()),
            "docker create --name web-1 --pull never --restart no -- nginx:1"
        );
        assert_eq!(text(&plain.pull()), "docker pull -- nginx:1");
        assert_eq!(text(&plain.image()), "docker image inspect -- nginx:1");
    }

    #[test]
    fn what_is_confined_can_write_nothing_and_gain_nothing_and_is_started_again_by_the_engine() {
        let mut confined = DockerContainer::new(Docker::new(), "db", "empty");
        confined.confined = true;
        assert_eq!(
            text(&confined.run().unwrap()),
            "docker run --detach --name db --pull never --restart on-failure --read-only --cap-drop ALL \
             --security-opt no-new-privileges --security-opt label=disable \
             --sysctl net.ipv4.ip_unprivileged_port_start=0 -- empty"
        );
        let image = Docker::new().empty_image("empty");
        assert_eq!(text(&image), "docker import - empty");
        assert_eq!(image.get_stdin(), &Stdin::Bytes(vec![0; 1024]));
    }

    #[test]
    fn everything_becomes_an_option() {
        let docker = Docker::new().with_program("podman").with_context("far");
        let mut full = DockerContainer::new(docker, "web-1", "nginx");
        full.command = Some(vec!["-g".into(), "daemon off;".into()]);
        full.entrypoint = Some(vec!["/bin/sh".into(), "-x".into()]);
        full.env =
            [("A", "s3cret"), ("PATH", "/hidden")].map(|(name, value)| (name.into(), value.into())).into();
        full.volumes = vec![Volume::new("/srv", "/srv")];
        full.ports = vec![PortBinding {
            address: Some([127, 0, 0, 1].into()),
            host: Some(8080),
            container: 80,
            protocol: Protocol::Tcp,
        }];
        full.network = Some(ContainerNetwork {
            name: "shop".into(),
            aliases: vec!["web".into()],
            address: Some([10, 0, 0, 9].into()),
        });
        (full.user, full.group) = (Some("www".into()), Some("33".into()));
        full.working_dir = Some("/srv".into());
        full.labels = [("harness.instance".to_owned(), "web-1".to_owned())].into();
        full.init = true;
        full.memory = Some(64 << 20);
        full.cpus = Some(1.5);
        full.open_files = Some(4096);
        full.stop_signal = Some(3);
        full.stop_timeout = Some(Duration::from_millis(1500));
        full.extra_hosts = vec![("db".into(), "10.0.0.5".into())];
        let command = full.run().unwrap();
        insta::assert_snapshot!(text(&command).replace(" --", "\n--"), @r"
        podman
        --context far run
        --detach
        --name web-1
        --pull never
        --restart no
        --label harness.instance=web-1
        --volume /srv:/srv
        --publish 127.0.0.1:8080:80/tcp
        --network shop
        --network-alias web
        --ip 10.0.0.9
        --add-host db:10.0.0.5
        --user www:33
        --workdir /srv
        --init
        --memory 67108864
        --cpus 1.5
        --ulimit nofile=4096:4096
        --stop-signal 3
        --stop-timeout 2
        --entrypoint /bin/sh
        --env A
        --env-file /dev/stdin
        -- nginx -x -g daemon off;
        ");
        let values: Vec<_> = command.get_envs().collect();
        assert_eq!(values, [("A".as_ref(), Some("s3cret".as_ref()))]);
        assert_eq!(command.get_stdin(), &Stdin::Bytes(b"PATH=/hidden\n".to_vec()));
        assert!(!format!("{full:?}{command:?}").contains("s3cret"));
    }

    #[test]
    fn what_docker_cannot_be_told_is_refused() {
        let refused = |change: fn(&mut DockerContainer)| {
            let mut container = DockerContainer::new(Docker::new(), "web-1", "nginx");
            change(&mut container);
            container.create().err().unwrap()
        };
        let group = refused(|container| container.group = Some("33".into()));
        assert_eq!(group, ContainerSpecError::GroupWithoutUser { group: "33".into() });
        for error in [
            refused(|container| container.name = "-x".into()),
            refused(|container| container.name = "a b".into()),
            refused(|container| container.image = String::new()),
        ] {
            assert!(matches!(error, ContainerSpecError::Name { .. }), "{error}");
        }
    }
}
