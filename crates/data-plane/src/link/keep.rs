//! Keeps a link to a node: starts its command, and starts it again when it has ended.

use super::Side;
use super::backoff::Backoff;
use super::hold::hold;
use crate::lines;
use crate::plane::{Plane, lock};
use orchestrator::network::plane::{Tell, Told, Way};
use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader, BufWriter};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long it may take until the other data plane answers: logins can be slow.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the command may take to end after its link has.
const END: Duration = Duration::from_secs(1);
/// What is kept of what the command says on stderr: lines, and bytes of each.
const LINES: usize = 4;
const LINE: u64 = 400;
/// Read and written at once.
const BUFFER: usize = 64 * 1024;

/// Keeps the link to `node` until it is dropped; the command ends with it.
pub(crate) async fn keep(plane: Arc<Plane>, node: String, argv: Vec<String>) {
    let mut backoff = Backoff::default();
    loop {
        let why = once(&plane, &node, &argv, &mut backoff).await;
        plane.way_failed(&node, &Way::Link, why);
        tokio::time::sleep(backoff.next(fastrand::f64())).await;
    }
}

/// Makes the link once and holds it. Why it isn't there any more, for people.
async fn once(plane: &Arc<Plane>, node: &str, argv: &[String], backoff: &mut Backoff) -> String {
    let Some((program, arguments)) = argv.split_first() else { return "the link has no command".to_owned() };
    let started = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return format!("{program} can't be started: {error}"),
    };
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return format!("{program} has no streams");
    };
    let said = Arc::new(Mutex::new(VecDeque::new()));
    let mut reader = BufReader::with_capacity(BUFFER, stdout);
    let mut writer = BufWriter::with_capacity(BUFFER, stdin);
    let linked = async {
        let tell = Tell::Link { from: plane.node.clone() };
        let asked = async {
            lines::write(&mut writer, &tell).await.map_err(|error| error.to_string())?;
            lines::read::<Told>(&mut reader, lines::LONGEST).await.map_err(|error| error.to_string())
        };
        match timeout(ANSWER, asked).await {
            Ok(Ok(Some(Told::Done { .. }))) => {}
            Ok(Ok(Some(Told::Refused { why }))) => return format!("{node} refuses the link: {why}"),
            Ok(Ok(Some(Told::Report { .. }))) => return format!("{node} answers something else"),
            Ok(Ok(None)) => return "the link's command has ended".to_owned(),
            Ok(Err(error)) => return error,
            Err(_) => return format!("no answer within {} s", ANSWER.as_secs()),
        }
        let stream = tokio::io::join(&mut reader, &mut writer);
        hold(plane, node, stream, Side::Made, || backoff.reset()).await
    };
    let mut listening = JoinSet::new();
    listening.spawn(listen(stderr, said.clone()));
    let why = linked.await;
    // Its input ends, and so does it; what it says last is mostly the reason.
    drop((reader, writer));
    let ended = async { tokio::join!(ending(&mut child), listening.join_next()).0 };
    let status = timeout(END, ended).await.ok().flatten();
    let lines: Vec<String> = lock(&said).iter().cloned().collect();
    describe(why, status, &lines)
}

async fn ending(child: &mut Child) -> Option<String> {
    let status = child.wait().await.ok()?;
    (!status.success()).then(|| status.to_string())
}

fn describe(why: String, status: Option<String>, lines: &[String]) -> String {
    let mut text = why;
    if let Some(status) = status {
        text.push_str(&format!(" ({status})"));
    }
    if !lines.is_empty() {
        text.push_str(": ");
        text.push_str(&lines.join("; "));
    }
    text
}

/// Keeps the last lines of what comes.
async fn listen(stderr: impl AsyncRead + Unpin, said: Arc<Mutex<VecDeque<String>>>) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
        let text = text.trim();
        if !text.is_empty() {
            let mut said = lock(&said);
            if said.len() == LINES {
                said.pop_front();
            }
            said.push_back(text.to_owned());
        }
    }
}
