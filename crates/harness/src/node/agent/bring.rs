//! The near side of bringing an agent up and of removing it: what is said to the scripts, and what is heard of them.

use super::program::{Program, ProgramError, Programs};
use super::{Progress, Up, word};
use crate::ui::meter::bytes;
use async_io::Timer;
use command_executor::command::quote;
use futures_lite::{AsyncRead, AsyncWrite, AsyncWriteExt};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Where the agent is: comes before each of the two others.
const PLACE: &str = include_str!("place.sh");

/// What is run there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// Brings the agent up, and becomes its bridge.
    Bring,
    /// Removes it.
    Remove,
}

impl Script {
    fn text(self) -> &'static str {
        match self {
            Self::Bring => include_str!("bring.sh"),
            Self::Remove => include_str!("remove.sh"),
        }
    }
}

/// Time until the script says its first word: the login, with all hosts on the way.
const LOGIN: Duration = Duration::from_secs(60);
/// Time that it has to look around.
const LOOK: Duration = Duration::from_secs(30);
/// Time in which a part of the program must have gone on its way.
const STALLED: Duration = Duration::from_secs(30);
/// Time to compare the hash, to try the program, and until it is safe on the disk.
const CHECK: Duration = Duration::from_secs(60);
/// Time for the daemon there: 30 s to start, 10 s for one of another build to end.
const START: Duration = Duration::from_secs(60);

/// Time for all that runs under an agent to stop.
const STOP: Duration = Duration::from_secs(300);

/// Bytes of the program in a part.
const PART: usize = 64 * 1024;
/// From one report of progress to the next.
const REPORT: Duration = Duration::from_millis(250);
/// Bytes of a line at most, and of those that are kept of noise.
const LINE: usize = 64 * 1024;
const NOISE: usize = 600;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Logging in.
    Login,
    /// Seeing whether the agent's program is there, and can be.
    Look,
    /// Copying it.
    Copy,
    /// Starting the daemon, or taking over from one of another build.
    Start,
    /// Stopping what runs, and removing the folder.
    Remove,
}

impl Step {
    /// For people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Login => "log in",
            Self::Look => "look around",
            Self::Copy => "copy the agent",
            Self::Start => "start the agent",
            Self::Remove => "remove the agent",
        }
    }
}

/// Why it went no further.
#[derive(Debug)]
pub(super) enum Stop {
    /// The script said why.
    Said { step: Step, kind: String, text: String },
    /// The stream ended or broke.
    Ended { step: Step },
    /// Nothing more came.
    Late { step: Step, after: Duration },
    /// It said what nobody understands.
    Odd { step: Step, line: String },
    /// There is less room than the program needs, in bytes.
    NoRoom { free: u64, needed: u64 },
    /// The program can't be read here.
    Program(ProgramError),
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) up: Up,
    /// Bytes that the program took on the way.
    pub(super) copied: Option<u64>,
}

/// Both directions of the stream, while lines are spoken on it.
pub(super) struct Talk<S> {
    stream: S,
    mark: String,
    /// What was read and not looked at yet.
    read: Vec<u8>,
    ended: bool,
    /// The last of what others printed.
    noise: Vec<u8>,
    step: Step,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    pub(super) fn new(stream: S) -> Self {
        let mark = uuid::Uuid::new_v4().simple().to_string();
        Self { stream, mark, read: Vec::new(), ended: false, noise: Vec::new(), step: Step::Login }
    }

    /// The stream that follows the last word.
    pub(super) fn into_stream(self) -> After<S> {
        After { stream: self.stream, read: self.read, given: 0 }
    }

    /// The stream, and the last that others printed.
    pub(super) fn into_parts(self) -> (S, String) {
        let noise = String::from_utf8_lossy(&self.noise);
        let lines: Vec<&str> = noise.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        (self.stream, lines.join("; ").chars().filter(|letter| !letter.is_control()).collect())
    }

    /// Has the shell there run a script. The answer: what sshd says of the connection.
    pub(super) async fn begin(
        &mut self,
        what: Script,
        project_id: &str,
        known: &[Program],
        root: bool,
    ) -> Result<String, Stop> {
        let line = line_of(what, &self.mark, project_id, known, root);
        self.write(line.as_bytes(), LOGIN).await?;
        self.expect(word::LINK, LOGIN).await
    }

    /// Brings the agent up, with [`Script::Bring`].
    pub(super) async fn bring(
        &mut self,
        known: &[Program],
        programs: &Programs,
        progress: Progress<'_>,
    ) -> Result<Done, Stop> {
        self.step = Step::Look;
        let (verb, rest) = self.next(LOOK).await?;
        let copied = match verb.as_str() {
            word::HAVE => None,
            word::NEED => Some(self.copy(&rest, known, programs, progress).await?),
            _ => return Err(Stop::Odd { step: self.step, line: format!("{verb} {rest}") }),
        };
        self.step = Step::Start;
        let up = self.expect(word::READY, START).await?;
        let up = serde_json::from_str(&up).map_err(|_| Stop::Odd { step: self.step, line: up })?;
        Ok(Done { up, copied })
    }

    /// Stops what runs under the agent, and removes it, with [`Script::Remove`]. The answer: what was said about that; `None`
    /// if there is none.
    pub(super) async fn remove(&mut self) -> Result<Option<String>, Stop> {
        self.step = Step::Remove;
        match self.next(STOP).await? {
            (verb, said) if verb == word::REMOVED => Ok(Some(said)),
            (verb, _) if verb == word::NONE => Ok(None),
            (verb, rest) => Err(Stop::Odd { step: self.step, line: format!("{verb} {rest}") }),
        }
    }

    /// Sends the program that is needed there. The answer: the bytes that it took.
    async fn copy(
        &mut self,
        need: &str,
        known: &[Program],
        programs: &Programs,
        progress: Progress<'_>,
    ) -> Result<u64, Stop> {
        let odd = || Stop::Odd { step: Step::Look, line: format!("{} {need}", word::NEED) };
        let [arch, free, form] = need.split(' ').collect::<Vec<_>>()[..] else { return Err(odd()) };
        let program = known.iter().find(|program| program.arch == arch).ok_or_else(odd)?;
        let free = free.parse::<u64>().ok().map(|kib| kib.saturating_mul(1024));
        if let Some(free) = free.filter(|free| *free < program.size) {
            return Err(Stop::NoRoom { free, needed: program.size });
        }
        self.step = Step::Copy;
        progress(format!("copying the agent, {}", bytes(program.size)));
        let payload = programs.load(program, form == "gzip").await.map_err(Stop::Program)?;
        self.write(format!("{} {form}\n", payload.len()).as_bytes(), STALLED).await?;
        let total = payload.len() as u64;
        let (mut sent, mut reported) = (0, Instant::now());
        for part in payload.chunks(PART) {
            self.write(part, STALLED).await?;
            sent += part.len() as u64;
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                progress(format!("copying the agent, {} of {}", bytes(sent), bytes(total)));
            }
        }
        progress("checking the agent".to_owned());
        self.expect(word::COPIED, CHECK).await?;
        progress("starting the agent".to_owned());
        Ok(total)
    }

    /// The rest of the next word, which must be this one.
    async fn expect(&mut self, wanted: &str, within: Duration) -> Result<String, Stop> {
        let (verb, rest) = self.next(within).await?;
        if verb == wanted {
            Ok(rest)
        } else {
            Err(Stop::Odd { step: self.step, line: format!("{verb} {rest}") })
        }
    }

    /// The next word: its verb, and the rest.
    async fn next(&mut self, within: Duration) -> Result<(String, String), Stop> {
        let step = self.step;
        let heard = async {
            loop {
                if let Some(line) = self.line() {
                    return Ok(line);
                }
                if self.ended || poll_fn(|cx| self.poll_fill(cx)).await.is_err() {
                    return Err(Stop::Ended { step });
                }
            }
        };
        let line = limited(heard, within, step).await?;
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        if verb == word::FAIL {
            let (kind, text) = rest.split_once(' ').unwrap_or((rest, ""));
            let (kind, text) = (kind.to_owned(), text.trim().to_owned());
            return Err(Stop::Said { step, kind, text });
        }
        Ok((verb.to_owned(), rest.trim().to_owned()))
    }

    /// Writes, and listens meanwhile: whoever can't take it says so, and then nothing more need be written.
    async fn write(&mut self, mut left: &[u8], within: Duration) -> Result<(), Stop> {
        let step = self.step;
        let written = async {
            while !left.is_empty() {
                let count = poll_fn(|cx| {
                    if let Poll::Ready(Err(error)) = self.poll_listen(cx) {
                        return Poll::Ready(Err(error));
                    }
                    Pin::new(&mut self.stream).poll_write(cx, left)
                });
                match count.await {
                    Ok(count) if count > 0 => left = left.get(count..).unwrap_or_default(),
                    _ => return Err(()),
                }
            }
            self.stream.flush().await.map_err(drop)
        };
        match limited(async { Ok(written.await) }, within, step).await? {
            Ok(()) => Ok(()),
            // Why is in what it said last, if it said anything.
            Err(()) => match self.next(within).await {
                Err(stop) => Err(stop),
                Ok((verb, rest)) => Err(Stop::Odd { step, line: format!("{verb} {rest}") }),
            },
        }
    }

    /// Reads while there is something; an error once a word has come, or the end.
    fn poll_listen(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_fill(cx))?;
            let begin = format!("\n{} ", self.mark);
            if self.ended || memchr_in(&self.read, begin.as_bytes()) {
                return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut block = [0; 4096];
        let count = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut block))?;
        self.ended |= count == 0;
        self.read.extend_from_slice(block.get(..count).unwrap_or_default());
        if self.read.len() > LINE && !self.read.contains(&b'\n') {
            // A line without an end is noise.
            let noise = std::mem::take(&mut self.read);
            self.keep(&noise);
        }
        Poll::Ready(Ok(()))
    }

    /// The next line that begins with the mark, without it, if it is there.
    fn line(&mut self) -> Option<String> {
        while let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.read.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            if let Some(word) = text.strip_prefix(&self.mark).and_then(|rest| rest.strip_prefix(' ')) {
                return Some(word.trim_end().to_owned());
            }
            self.keep(&line);
        }
        if self.ended {
            let rest = std::mem::take(&mut self.read);
            self.keep(&rest);
        }
        None
    }

    fn keep(&mut self, noise: &[u8]) {
        self.noise.extend_from_slice(noise);
        let over = self.noise.len().saturating_sub(NOISE);
        self.noise.drain(..over);
    }
}

fn memchr_in(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

async fn limited<T>(
    what: impl Future<Output = Result<T, Stop>>,
    after: Duration,
    step: Step,
) -> Result<T, Stop> {
    let late = async {
        Timer::after(after).await;
        Err(Stop::Late { step, after })
    };
    futures_lite::future::or(what, late).await
}

/// The line that the shell there evaluates: the script behind the one that finds the place.
pub(super) fn line_of(what: Script, mark: &str, project_id: &str, known: &[Program], root: bool) -> String {
    let programs: Vec<String> = known.iter().map(|it| format!("{}={}", it.arch, it.hash)).collect();
    let root = if root { "y" } else { "" };
    // Marks, ids, hashes and names of machines have no byte that can't be quoted.
    let quoted =
        |text: &str| quote::sh([text]).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    let mut line = format!(
        "mark={mark}; id={}; programs={}; root={root};",
        quoted(project_id),
        quoted(&programs.join(" "))
    );
    let parts = PLACE.lines().chain(what.text().lines()).map(str::trim);
    for part in parts.filter(|part| !part.is_empty() && !part.starts_with('#')) {
        line.push(' ');
        line.push_str(part);
    }
    line.push('\n');
    line
}

/// The stream behind the words: first what was read too much.
pub(super) struct After<S> {
    stream: S,
    read: Vec<u8>,
    given: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for After<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let left = this.read.get(this.given..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let count = left.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(left) {
            *to = *from;
        }
        this.given += count;
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for After<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}
