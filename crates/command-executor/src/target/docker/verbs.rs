//! What can be done with a container that is there.

use super::environment::{Carried, carry};
use super::{CHANGE, ContainerSpecError, Docker, DockerError, QUERY, whole_seconds};
use crate::command::{Command, Stdin};
use crate::executor::Finished;
use crate::process::Exit;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A container by its name or id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    docker: Docker,
    name: String,
}

/// Which part of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Whether it goes on until the container ends.
    pub follow: bool,
    /// Only lines of this time or later.
    pub since: Option<Timestamp>,
    /// Only lines before this time.
    pub until: Option<Timestamp>,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Whether each line begins with its time: [`ContainerLog`](super::ContainerLog) reads that.
    pub timestamps: bool,
}

/// How a container is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Also while it runs: docker kills it, podman stops it first.
    pub force: bool,
    /// With its anonymous volumes, which nothing names any more without it.
    pub volumes: bool,
}

/// A command to run in a container.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ContainerExec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables besides those that the container has.
    pub env: BTreeMap<String, String>,
    /// The folder instead of the container's, absolute.
    pub working_dir: Option<String>,
    /// `USER` or `USER:GROUP` instead of the container's.
    pub user: Option<String>,
    /// Whether it reads what the docker client reads: what the caller's program reads, or what the command is given
    /// by [`Command::stdin`] afterwards.
    pub interactive: bool,
    /// Whether it gets a terminal; docker refuses where the client has none.
    pub tty: bool,
}

impl Container {
    pub(super) fn new(docker: Docker, name: String) -> Self {
        Self { docker, name }
    }

    /// Its name or id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which docker.
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    fn verb<'a>(&'a self, words: impl IntoIterator<Item = &'a str>) -> Command {
        self.docker.command(words).args(["--", &self.name])
    }

    /// Starts it; one that runs already is left as it is.
    pub fn start(&self) -> Command {
        self.verb(["start"]).timeout(CHANGE)
    }

    /// Sends its stop signal and kills it if it runs on after `grace`, in whole seconds.
    pub fn stop(&self, grace: Duration) -> Command {
        let seconds = whole_seconds(grace);
        self.verb(["stop", "-t", &seconds.to_string()]).timeout(Duration::from_secs(seconds) + CHANGE)
    }

    /// Sends a signal, by its number.
    pub fn kill(&self, signal: i32) -> Command {
        self.verb(["kill", "--signal", &signal.to_string()]).timeout(CHANGE)
    }

    /// Removes it. One that isn't there is [`DockerError::NoSuchContainer`](super::DockerError::NoSuchContainer), or no
    /// error, depending on docker's age.
    pub fn remove(&self, options: RemoveOptions) -> Command {
        let force = options.force.then_some("--force");
        let volumes = options.volumes.then_some("--volumes");
        self.verb(["rm"].into_iter().chain(force).chain(volumes)).timeout(CHANGE)
    }

    /// Looks at it: [`ContainerState::parse_one`](super::ContainerState::parse_one).
    pub fn inspect(&self) -> Command {
        self.verb(["container", "inspect"]).timeout(QUERY)
    }

    /// Waits until it doesn't run and prints its exit code: [`ContainerState::parse_exit`](super::ContainerState::parse_exit).
    pub fn wait(&self) -> Command {
        self.verb(["wait"])
    }

    /// Prints what it wrote, its standard error on standard error.
    pub fn logs(&self, options: &LogOptions) -> Command {
        let mut words = vec!["logs".to_owned()];
        if options.follow {
            words.push("--follow".to_owned());
        }
        if options.timestamps {
            words.push("--timestamps".to_owned());
        }
        let since = options.since.map(|time| time.to_string());
        let until = options.until.map(|time| time.to_string());
        let tail = options.tail.map(|lines| lines.to_string());
        for (option, value) in [("--since", since), ("--until", until), ("--tail", tail)] {
            words.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
        }
        self.verb(words.iter().map(String::as_str))
    }

    /// Runs a command in it: its exit code is the client's, and [`ContainerExec::refusal`] tells where it wasn't run at all.
    ///
    /// Ending the client doesn't end the command in the container.
    ///
    /// # Errors
    /// [`ContainerSpecError::Variable`].
    pub fn exec(&self, exec: &ContainerExec) -> Result<Command, ContainerSpecError> {
        let Carried { by_name, file } = carry(&exec.env, !exec.interactive)?;
        let mut command = self.docker.command(["exec"]);
        for (name, value) in by_name {
            command = command.args(["--env", name]).env(name, value);
        }
        if !file.is_empty() {
            command = command.args(["--env-file", "/dev/stdin"]).stdin(Stdin::Bytes(file));
        }
        for (option, value) in [("--workdir", &exec.working_dir), ("--user", &exec.user)] {
            if let Some(value) = value {
                command = command.args([option, value]);
            }
        }
        if exec.interactive {
            command = command.arg("--interactive").stdin(Stdin::Inherit);
        }
        if exec.tty {
            command = command.arg("--tty");
        }
        Ok(command.args(["--", &self.name]).args(&exec.argv))
    }
}

impl ContainerExec {
    /// Why the command wasn't run, if it wasn't: its own bad exit is none. Docker says so with codes that a command can
    /// have too, and partly on standard output; so this looks for docker's words.
    pub fn refusal(finished: &Finished) -> Option<DockerError> {
        let codes = [1, 125, 126, 127, 255];
        if !codes.iter().any(|code| finished.exit == Exit::Code(*code)) {
            return None;
        }
        let words = [
            "OCI runtime exec failed",
            "unable to find user",
            "Error response from daemon: ",
            "Error: No such container: ",
            "Cannot connect to the Docker daemon",
            "permission denied while trying to connect",
            "error during connect: ",
            // podman
            "Error: runc: exec failed",
            "Error: crun: exec",
            "Error: OCI runtime",
            "Error: no container with",
            "Error: can only create exec sessions",
            "Error: unable to find user",
        ];
        [&finished.stderr, &finished.stdout].into_iter().find_map(|output| {
            let text = output.to_text();
            let is_dockers = text.lines().any(|line| words.iter().any(|word| line.starts_with(word)));
            is_dockers.then(|| DockerError::classify(finished.exit, &text))
        })
    }
}

impl fmt::Debug for ContainerExec {
    /// Variables by their names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerExec")
            .field("argv", &self.argv)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("working_dir", &self.working_dir)
            .field("user", &self.user)
            .field("interactive", &self.interactive)
            .field("tty", &self.tty)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(command: &Command) -> String {
        command.argv().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn verbs_lower_to_docker() {
        let docker = Docker::new();
        let web = docker.container("web-1");
        let second = Duration::from_millis(900);
        let at = Timestamp::from_second(1_795_555_628).unwrap();
        let join = crate::target::docker::NetworkJoin {
            network: "n".into(),
            aliases: vec!["x".into()],
            address: Some([10, 1, 0, 5].into()),
        };
        let log =
            LogOptions { follow: true, since: Some(at), until: Some(at), tail: Some(5), timestamps: true };
        let table = [
            (web.start(), "docker start -- web-1"),
            (web.stop(second), "docker stop -t 1 -- web-1"),
            (web.kill(15), "docker kill --signal 15 -- web-1"),
            (web.remove(RemoveOptions::default()), "docker rm -- web-1"),
            (
                web.remove(RemoveOptions { force: true, volumes: true }),
                "docker rm --force --volumes -- web-1",
            ),
            (web.inspect(), "docker container inspect -- web-1"),
            (web.wait(), "docker wait -- web-1"),
            (web.logs(&LogOptions::default()), "docker logs -- web-1"),
            (
                web.logs(&log),
                "docker logs --follow --timestamps --since 2026-11-24T21:27:08Z --until 2026-11-24T21:27:08Z \
                 --tail 5 -- web-1",
            ),
            (docker.version(), "docker version --format {{json .}}"),
            (
                docker.list(["a", "b=1"]),
                "docker ps --all --no-trunc --filter label=a --filter label=b=1 --format {{json .}}",
            ),
            (docker.inspect(["a", "b"]), "docker container inspect -- a b"),
            (
                docker.events(["a=1"], Some(at)),
                "docker events --filter type=container --filter label=a=1 --since 2026-11-24T21:27:08Z \
                 --format {{json .}}",
            ),
            (docker.network_inspect("n"), "docker network inspect -- n"),
            (docker.network_remove("n"), "docker network rm -- n"),
            (docker.network_join(&join, "c"), "docker network connect --alias x --ip 10.1.0.5 -- n c"),
        ];
        for (command, expected) in table {
            assert_eq!(text(&command), expected);
        }
    }

    #[test]
    fn exec_keeps_values_out_of_its_arguments() {
        let mut exec = ContainerExec {
            argv: vec!["sh".into(), "-c".into(), "exit 3".into()],
            env: [("A".to_owned(), "s3cret".to_owned())].into(),
            working_dir: Some("/srv".into()),
            user: Some("www".into()),
            interactive: true,
            tty: true,
        };
        let web = Docker::new().container("web-1");
        let command = web.exec(&exec).unwrap();
        assert_eq!(
            text(&command),
            "docker exec --env A --workdir /srv --user www --interactive --tty -- web-1 sh -c exit 3"
        );
        assert_eq!(command.get_stdin(), &Stdin::Inherit);
        assert!(!format!("{exec:?}").contains("s3cret"));
        exec.env.insert("PATH".into(), "/x".into());
        assert!(web.exec(&exec).is_err());
        exec.interactive = false;
        assert_eq!(web.exec(&exec).unwrap().get_stdin(), &Stdin::Bytes(b"PATH=/x\n".to_vec()));
    }
}
