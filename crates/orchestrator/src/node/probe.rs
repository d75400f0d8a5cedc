//! Carries out one probe, within its time-out.

use super::NodeFact;
use super::http;
use super::user::user_ids;
use crate::network::{Resolved, ResolvedProbe};
use async_lock::Semaphore;
use async_net::TcpStream;
use command_executor::command::Command;
use command_executor::executor::{ExecuteError, Executor, Finished};
use command_executor::launcher::{
    DockerExec, DockerExecLauncher, LaunchError, LocalLauncher, PlaceErrorKind,
};
use command_executor::process::Exit;
use futures_lite::AsyncReadExt;
use futures_util::future::{BoxFuture, join_all};
use service_registry::model::Execution;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a message quotes of an output.
const MOST_QUOTED: usize = 200;

/// Where a run is, for the commands that ask it.
pub(super) struct Place {
    resolved: Resolved,
    execution: Execution,
}

impl Place {
    pub(super) fn new(resolved: Resolved, execution: Execution) -> Self {
        Self { resolved, execution }
    }
}

/// The answer to `probe`, at the latest after `timeout`. `commands` bounds how many commands run at the same time.
pub(super) async fn probe(
    probe: &ResolvedProbe,
    place: &Place,
    timeout: Duration,
    commands: &Semaphore,
) -> NodeFact {
    let begun = Instant::now();
    let late = async {
        async_io::Timer::after(timeout).await;
        Err(format!("no answer within {timeout:?} from {}", describe(probe)))
    };
    let answer = futures_lite::future::or(ask(probe, place, commands), late).await;
    let (ok, message) = match answer {
        Ok(message) => (true, message),
        Err(message) => (false, message),
    };
    NodeFact::Probed { ok, message, duration: begun.elapsed() }
}

fn describe(probe: &ResolvedProbe) -> String {
    match probe {
        ResolvedProbe::Command { argv, .. } => argv.first().cloned().unwrap_or_default(),
        ResolvedProbe::Http { url, method, .. } => format!("{method} {url}"),
        ResolvedProbe::Tcp { host, port, .. } => format!("{host}:{port}"),
        ResolvedProbe::All(_) => "all of its probes".into(),
    }
}

/// Words for people: what is good, or what is wrong.
fn ask<'a>(
    probe: &'a ResolvedProbe,
    place: &'a Place,
    commands: &'a Semaphore,
) -> BoxFuture<'a, Result<String, String>> {
    Box::pin(async move {
        match probe {
            ResolvedProbe::Tcp { host, port, proxied } => tcp(host, *port, *proxied).await,
            ResolvedProbe::Http { url, method, headers, expected_status, expected_body } => {
                let answer = http::request(url, method, headers)
                    .await
                    .map_err(|why| format!("{method} {url}: {why}"))?;
                judge_http(&answer, expected_status, expected_body.as_deref())
                    .map_err(|why| format!("{method} {url}: {why}"))
            }
            ResolvedProbe::Command { argv, expected_exit, expected_output } => {
                let _permit = commands.acquire().await;
                command(argv, *expected_exit, expected_output.as_deref(), place).await
            }
            ResolvedProbe::All(probes) => {
                let answers = join_all(probes.iter().map(|probe| ask(probe, place, commands))).await;
                let count = answers.len();
                answers.into_iter().collect::<Result<Vec<String>, String>>()?;
                Ok(format!("all {count} good"))
            }
        }
    })
}

/// How long a connection must stay open that a proxy has accepted: it is closed at once where the service refuses.
const STAYS: Duration = Duration::from_millis(100);

async fn tcp(host: &str, port: u16, proxied: bool) -> Result<String, String> {
    match TcpStream::connect((host, port)).await {
        Ok(mut stream) if proxied => {
            let mut first = [0];
            let closed = async { matches!(stream.read(&mut first).await, Ok(0) | Err(_)) };
            let open = async {
                async_io::Timer::after(STAYS).await;
                false
            };
            match futures_lite::future::or(closed, open).await {
                true => {
                    Err(format!("{host}:{port} closes connections at once: nothing listens in the container"))
                }
                false => Ok(format!("{host}:{port} accepts connections")),
            }
        }
        Ok(_) => Ok(format!("{host}:{port} accepts connections")),
        Err(error) => Err(format!("connect to {host}:{port}: {}", http::plain(&error))),
    }
}

fn judge_http(answer: &http::Answer, expected: &[u16], body: Option<&str>) -> Result<String, String> {
    let status = answer.status;
    let good = if expected.is_empty() { (200..400).contains(&status) } else { expected.contains(&status) };
    if !good {
        let wanted = match expected {
            [] => "200 to 399".into(),
            some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
        };
        return Err(format!("status {status}, expected {wanted}"));
    }
    match body {
        Some(text) if !contains(&answer.body, text) => {
            Err(format!("status {status}, but the body lacks {text:?}"))
        }
        _ => Ok(format!("status {status}")),
    }
}

async fn command(
    argv: &[String],
    expected_exit: i32,
    expected_output: Option<&str>,
    place: &Place,
) -> Result<String, String> {
    let program = argv.first().ok_or("an empty command")?;
    let finished = place.run(argv).await?;
    let output = || {
        let said = if finished.stderr.bytes.is_empty() { &finished.stdout } else { &finished.stderr };
        last_line(&said.bytes)
    };
    match finished.exit {
        Exit::Code(code) if code == expected_exit => {}
        Exit::Code(code) => return Err(format!("{program} exited with code {code}{}", output())),
        Exit::Signal(signal) => return Err(format!("{program} was killed by signal {signal}{}", output())),
    }
    match expected_output {
        Some(text) if !contains(&finished.stdout.bytes, text) => {
            Err(format!("{program} didn't print {text:?}{}", last_line(&finished.stdout.bytes)))
        }
        _ => Ok(format!("{program} exited with code {expected_exit}")),
    }
}

impl Place {
    /// Runs a command where the run is.
    async fn run(&self, argv: &[String]) -> Result<Finished, String> {
        let Some((program, args)) = argv.split_first() else { return Err("an empty command".into()) };
        // One that hangs while this program is killed must not stay behind; the loop's thread lives as long as the program.
        let here = LocalLauncher::new().killed_with_thread();
        let command = Command::new(program).args(args.iter().cloned());
        let Execution::Container { id, .. } = &self.execution else {
            let command = self.as_the_run(command)?;
            return Executor::new(here).run(&command).await.map_err(|error| super::chain(&error));
        };
        // Through a shell in the container, so that what it starts ends with it; where there is none, without.
        let inside = DockerExec::new(id);
        let done = Executor::new(DockerExecLauncher::new(here, inside.clone())).run(&command).await;
        let done = match done {
            Err(ExecuteError::Launch(LaunchError::Place(error))) if error.kind == PlaceErrorKind::NoShell => {
                Executor::new(DockerExecLauncher::new(here, inside.without_shell())).run(&command).await
            }
            done => done,
        };
        done.map_err(|error| super::chain(&error))
    }

    /// The command in the folder and the environment of a process, as its user.
    fn as_the_run(&self, command: Command) -> Result<Command, String> {
        let resolved = &self.resolved;
        let mut command = command
            .env_clear()
            .envs(resolved.env.iter().cloned())
            .current_dir(resolved.working_dir.as_deref().unwrap_or(Path::new("/")));
        if let Some(user) = user_ids(resolved.user.as_deref(), resolved.group.as_deref())? {
            command = command.user(user);
        }
        Ok(command)
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// `: last line`, without what isn't text.
fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.trim_end().lines().next_back().unwrap_or_default();
    let line: String = line.chars().filter(|c| !c.is_control()).take(MOST_QUOTED).collect();
    if line.is_empty() { String::new() } else { format!(": {line}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_net::TcpListener;
    use futures_lite::io::AsyncWriteExt;

    fn place() -> Place {
        let path = std::env::var("PATH").unwrap_or_default();
        let resolved = Resolved {
            target: crate::network::ResolvedTarget::Process(vec![]),
            env: vec![("PATH".into(), path), ("WHO".into(), "me".into())],
            working_dir: Some("/".into()),
            user: None,
            group: None,
            names: Default::default(),
            ambassadors: Default::default(),
        };
        Place::new(resolved, Execution::None)
    }

    fn run(asked: &ResolvedProbe, timeout: Duration) -> (bool, String) {
        let commands = Semaphore::new(1);
        match smol::block_on(probe(asked, &place(), timeout, &commands)) {
            NodeFact::Probed { ok, message, .. } => (ok, message),
            _ => unreachable!(),
        }
    }

    fn sh(script: &str, expected_exit: i32, output: Option<&str>) -> ResolvedProbe {
        ResolvedProbe::Command {
            argv: ["sh", "-c", script].map(String::from).to_vec(),
            expected_exit,
            expected_output: output.map(Into::into),
        }
    }

    #[test]
    fn commands() {
        let second = Duration::from_secs(10);
        assert_eq!(run(&sh("exit 0", 0, None), second), (true, "sh exited with code 0".into()));
        assert!(run(&sh("exit 3", 3, None), second).0);
        assert_eq!(
            run(&sh("echo bad >&2; exit 1", 0, None), second),
            (false, "sh exited with code 1: bad".into())
        );
        assert!(run(&sh("echo I am $WHO", 0, Some("am me")), second).0);
        assert_eq!(
            run(&sh("echo no", 0, Some("yes")), second),
            (false, "sh didn't print \"yes\": no".into())
        );
        let missing =
            ResolvedProbe::Command { argv: vec!["/no/such".into()], expected_exit: 0, expected_output: None };
        assert!(!run(&missing, second).0);
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let (ok, message) = run(&sh(&script, 0, None), Duration::from_millis(500));
        assert_eq!((ok, message.as_str()), (false, "no answer within 500ms from sh"));
        let pid: u32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !gone() {
            assert!(Instant::now() < deadline, "the child of the probe lives on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn http_and_tcp_against_a_real_server() {
        smol::block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = smol::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut request = [0; 1024];
                    let count = stream.read(&mut request).await.unwrap_or(0);
                    let good = request[..count].starts_with(b"GET /ok ");
                    let status = if good { "200 OK" } else { "503 Busy" };
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
            let commands = Semaphore::new(1);
            let http = |path: &str, body: Option<&str>| ResolvedProbe::Http {
                url: format!("http://127.0.0.1:{port}{path}"),
                method: "GET".into(),
                headers: vec![],
                expected_status: vec![],
                expected_body: body.map(Into::into),
            };
            let tcp = ResolvedProbe::Tcp { host: "127.0.0.1".into(), port, proxied: false };
            for (asked, good) in [
                (http("/ok", None), true),
                (http("/ok", Some("ell")), true),
                (http("/ok", Some("bye")), false),
                (http("/bad", None), false),
                (ResolvedProbe::All(vec![tcp.clone(), http("/ok", None)]), true),
                (ResolvedProbe::All(vec![tcp.clone(), http("/bad", None)]), false),
                (tcp, true),
            ] {
                let fact = probe(&asked, &place(), Duration::from_secs(10), &commands).await;
                assert!(matches!(&fact, NodeFact::Probed { ok, .. } if *ok == good), "{asked:?}: {fact:?}");
            }
            server.cancel().await;
        });
    }
}
