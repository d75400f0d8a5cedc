//! A service for `cargo xtask torture`, of the temper that its first argument names.
//!
//! Each copy holds the lock of its instance, together with everything that it forks, and screams into the file of
//! violations if another copy lives. Lines are numbered, and how far each writer came is written down beside them.

#[path = "../torture/line.rs"]
#[allow(dead_code, reason = "shared with the chore: each uses its half")]
mod line;
#[path = "../torture/rng.rs"]
#[allow(dead_code, reason = "shared with the chore")]
mod rng;
#[path = "../torture/talk.rs"]
#[allow(dead_code, reason = "shared with the chore: each uses its half")]
mod talk;

use line::{ERROR_WRITER, FOLDER, Truth};
use rng::Rng;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["probe"] => return probe(),
        // In a container there is neither truth nor lock.
        ["serve", name, "anywhere", port] => port
            .parse()
            .map_err(io::Error::other)
            .and_then(|port| talk::serve(name, name, Ipv4Addr::UNSPECIFIED, port)),
        ["serve", name] => Temper::first().and_then(|temper| temper.serve(name)),
        ["ask"] => Temper::first().and_then(|temper| temper.ask()),
        ["note", path, code] => return note(Path::new(path), code),
        ["child", name, milliseconds] => Temper::child().and_then(|mut temper| {
            let life = Duration::from_millis(milliseconds.parse().unwrap_or(1000));
            temper.lines(name, Some(life), Duration::from_millis(50))
        }),
        [kind] => Temper::first().and_then(|mut temper| temper.live(kind)),
        _ => Err(io::Error::other("usage: temper KIND")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Its reader is gone: a keeper was killed.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "temper: {error}");
            ExitCode::from(2)
        }
    }
}

/// A check that hangs every other time.
fn probe() -> ExitCode {
    let mut rng = Rng::new(u64::from(std::process::id()) ^ nanoseconds());
    if rng.chance(50) {
        std::thread::sleep(Duration::from_secs(3600));
    }
    ExitCode::SUCCESS
}

/// Writes down the milliseconds since boot, and ends with `code`.
fn note(path: &Path, code: &str) -> ExitCode {
    let line = format!("{}\n", talk::now());
    let written = OpenOptions::new().append(true).create(true).open(path);
    match written.and_then(|mut file| file.write_all(line.as_bytes())) {
        Ok(()) => ExitCode::from(code.parse().unwrap_or(2)),
        Err(_) => ExitCode::from(2),
    }
}

fn nanoseconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map(|now| now.as_nanos() as u64).unwrap_or(0)
}

struct Temper {
    folder: PathBuf,
    instance: String,
    run: String,
    rng: Rng,
    /// Held as long as this process or anything that it forked lives.
    lock: Option<File>,
}

impl Temper {
    /// The first process of a run.
    fn first() -> io::Result<Self> {
        let mut temper = Self::child()?;
        let path = temper.folder.join("locks").join(&temper.instance);
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        temper.take(&lock)?;
        temper.scream_at_others()?;
        lock.set_len(0)?;
        (&lock).write_all(format!("run {} pid {}\n", temper.run, std::process::id()).as_bytes())?;
        temper.lock = Some(lock);
        fs::create_dir_all(temper.truth_folder())?;
        fs::write(temper.truth_folder().join(format!("{}.start", temper.run)), "")?;
        Ok(temper)
    }

    /// A process that shares the lock of the one that started it: its standard input.
    fn child() -> io::Result<Self> {
        let variable =
            |name: &str| std::env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}")));
        let folder = PathBuf::from(variable(FOLDER)?);
        let (instance, run) = (variable("HARNESS_INSTANCE")?, variable("HARNESS_RUN")?);
        let rng = Rng::new(nanoseconds() ^ u64::from(std::process::id()) << 32);
        Ok(Self { folder, instance, run, rng, lock: None })
    }

    fn truth_folder(&self) -> PathBuf {
        self.folder.join("truth").join(&self.instance)
    }

    /// Takes the lock. A process on its very way out holds it for a moment longer than it lives.
    fn take(&self, lock: &File) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if begin.elapsed() < Duration::from_millis(50) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => {
                    let path = self.folder.join("locks").join(&self.instance);
                    let holder = fs::read_to_string(path).unwrap_or_default();
                    self.scream(&format!("the lock is held by {}", holder.trim()))?;
                    return lock.lock();
                }
            }
        }
    }

    /// Looks for processes of another run of this instance, also those that hold no lock.
    fn scream_at_others(&self) -> io::Result<()> {
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
            let value = |name: &str| {
                let pairs = environment.split(|byte| *byte == 0);
                let mut values = pairs.filter_map(|pair| {
                    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec)
                });
                values.next()
            };
            let same = value("HARNESS_INSTANCE").is_some_and(|instance| instance == self.instance.as_bytes())
                && value(FOLDER).is_some_and(|folder| folder == self.folder.as_os_str().as_encoded_bytes());
            if let (true, Some(run)) = (same, value("HARNESS_RUN"))
                && run != self.run.as_bytes()
            {
                let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                self.scream(&format!(
                    "process {pid} of run {} lives ({}; {})",
                    String::from_utf8_lossy(&run),
                    String::from_utf8_lossy(&command).replace('\0', " ").trim(),
                    stat.trim(),
                ))?;
            }
        }
        Ok(())
    }

    fn scream(&self, what: &str) -> io::Result<()> {
        let path = self.folder.join("violations");
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        let text = format!("{}: run {} starts while {what}\n", self.instance, self.run);
        file.write_all(text.as_bytes())
    }

    /// Lives as its temper is.
    fn live(&mut self, kind: &str) -> io::Result<()> {
        match kind {
            "quiet" => loop {
                std::thread::park();
            },
            "stable" => self.lines("o", None, Duration::from_millis(40)),
            "fast" => self.lines("o", None, Duration::from_millis(8)),
            "crash" => self.crash(),
            "fork" => self.fork(),
            "chatty" => self.chatty(),
            "beat" => self.beat(),
            "long" => self.long(),
            other => Err(io::Error::other(format!("there is no temper `{other}`"))),
        }
    }

    fn writer(&self, name: &str) -> io::Result<Writer> {
        Writer::open(&self.truth_folder(), &self.run, name)
    }

    /// Answers under this name, at the port that it was given, on loopback alone.
    fn serve(&self, name: &str) -> io::Result<()> {
        let port = std::env::var("PORT").map_err(io::Error::other)?.parse().map_err(io::Error::other)?;
        talk::serve(name, &format!("{} {}", self.instance, self.run), Ipv4Addr::LOCALHOST, port)
    }

    /// Asks those whom `ASK` names.
    fn ask(&self) -> io::Result<()> {
        let whom = std::env::var("ASK").map_err(io::Error::other)?;
        let folder = self.folder.join(talk::ANSWERS);
        fs::create_dir_all(&folder)?;
        talk::ask(&whom, &folder.join(&self.instance))
    }

    /// Writes down when it began to live, and until when it did.
    fn beat(&mut self) -> io::Result<()> {
        let folder = self.folder.join(talk::BEATS);
        fs::create_dir_all(&folder)?;
        let beats = Truth::create(&folder.join(format!("{}.{}", self.instance, self.run)))?;
        beats.attempt(talk::now())?;
        loop {
            beats.written(talk::now())?;
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A line now and then, some on standard error if it is the main writer; for ever, or for `life`.
    fn lines(&mut self, name: &str, life: Option<Duration>, pause: Duration) -> io::Result<()> {
        let mut out = self.writer(name)?;
        let mut err = if name == "o" { Some(self.writer(ERROR_WRITER)?) } else { None };
        let begin = Instant::now();
        loop {
            let length = self.rng.between(1, 150) as usize;
            out.write(1, |_| length)?;
            if let Some(err) = err.as_mut().filter(|_| self.rng.chance(20)) {
                err.write(2, |seq| (seq % 60) as usize)?;
            }
            if life.is_some_and(|life| begin.elapsed() >= life) {
                return Ok(());
            }
            std::thread::sleep(pause.mul_f64(0.5 + self.rng.between(0, 100) as f64 / 100.0));
        }
    }

    /// Ends in one of many ways after a while.
    fn crash(&mut self) -> io::Result<()> {
        let life = match self.rng.chance(30) {
            true => self.rng.between(1, 900),
            false => self.rng.between(1_000, 9_000),
        };
        self.lines("o", Some(Duration::from_millis(life)), Duration::from_millis(25))?;
        let code = [0, 1, 3, 42, 255].get(self.rng.below(7)).copied();
        let own = code.map_or_else(|| "signal 6".to_owned(), |code| format!("code {code}"));
        self.declare(&own)?;
        match code {
            Some(code) => std::process::exit(code),
            None => std::process::abort(),
        }
    }

    /// Says how it is about to end.
    fn declare(&self, exit: &str) -> io::Result<()> {
        fs::write(self.truth_folder().join(format!("{}.exit", self.run)), exit)
    }

    /// Has children all the time: of its own session, of another, and such that ignore SIGTERM.
    fn fork(&mut self) -> io::Result<()> {
        let mut out = self.writer("o")?;
        let mut children: Vec<Child> = Vec::new();
        for number in 1u64.. {
            children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            if children.len() < 6 {
                let life = self.rng.between(300, 4_000);
                children.push(self.spawn(number, life)?);
            }
            out.write(1, |_| 30)?;
            std::thread::sleep(Duration::from_millis(self.rng.between(100, 600)));
        }
        Ok(())
    }

    fn spawn(&mut self, number: u64, life: u64) -> io::Result<Child> {
        let own = std::env::current_exe()?;
        let words: [OsString; 3] = ["child".into(), format!("c{number}").into(), life.to_string().into()];
        let mut command = match number % 4 {
            // A session of its own, and no parent: as daemons do.
            1 => {
                let mut command = Command::new("setsid");
                command.arg("--fork").arg(own);
                command
            }
            2 => {
                let mut command = Command::new("sh");
                command.args(["-c", "trap '' TERM HUP; exec \"$0\" \"$@\""]).arg(own);
                command
            }
            3 => {
                let mut command = Command::new("setsid");
                command.args(["--fork", "sh", "-c", "trap '' TERM HUP; exec \"$0\" \"$@\""]).arg(own);
                command
            }
            _ => Command::new(own),
        };
        let lock = self.lock.as_ref().map(File::try_clone).transpose()?;
        command.args(words).stdin(lock.map_or_else(Stdio::null, Stdio::from)).spawn()
    }

    /// Bursts of many lines.
    fn chatty(&mut self) -> io::Result<()> {
        let mut out = self.writer("o")?;
        loop {
            for _ in 0..self.rng.between(1, 12) {
                out.write(self.rng.between(1, 600), |seq| 40 + (seq % 80) as usize)?;
            }
            std::thread::sleep(Duration::from_millis(self.rng.between(20, 700)));
        }
    }

    /// Lines of any length; ends now and then in the middle of one.
    fn long(&mut self) -> io::Result<()> {
        let mut out = self.writer("o")?;
        loop {
            let length = match self.rng.between(0, 100) {
                0 => self.rng.between(1 << 20, 3 << 19),
                1..20 => self.rng.between(60_000, 300_000),
                20..60 => self.rng.between(4_000, 20_000),
                _ => self.rng.between(0, 200),
            };
            if self.rng.chance(1) {
                out.half(length as usize + 10)?;
                self.declare("code 7")?;
                std::process::exit(7);
            }
            out.write(1, |_| length as usize)?;
            std::thread::sleep(Duration::from_millis(self.rng.between(50, 250)));
        }
    }
}

/// One numbered sequence of lines.
struct Writer {
    name: String,
    to: File,
    truth: Truth,
    seq: u64,
    block: Vec<u8>,
}

impl Writer {
    fn open(folder: &Path, run: &str, name: &str) -> io::Result<Self> {
        // A duplicate of the descriptor: without the buffer of std, so that a line is written when it says so.
        let to = match name == ERROR_WRITER {
            true => io::stderr().as_fd().try_clone_to_owned()?,
            false => io::stdout().as_fd().try_clone_to_owned()?,
        };
        let truth = Truth::create(&folder.join(format!("{run}.{name}")))?;
        Ok(Self { name: name.to_owned(), to: to.into(), truth, seq: 0, block: Vec::new() })
    }

    /// Writes `count` lines with payloads of the lengths that `length` gives for their numbers. Writers that share a pipe
    /// stay below PIPE_BUF (pipe(7)), so that their lines don't mix.
    fn write(&mut self, count: u64, length: impl Fn(u64) -> usize) -> io::Result<()> {
        self.block.clear();
        for seq in self.seq + 1..=self.seq + count {
            line::compose(&mut self.block, &self.name, seq, length(seq));
        }
        let last = self.seq + count;
        self.truth.attempt(last)?;
        self.to.write_all(&self.block)?;
        self.truth.written(last)?;
        self.seq = last;
        Ok(())
    }

    /// Writes a line without its second half.
    fn half(&mut self, length: usize) -> io::Result<()> {
        self.block.clear();
        line::compose(&mut self.block, &self.name, self.seq + 1, length);
        self.truth.attempt(self.seq + 1)?;
        let half = self.block.len() - length / 2 - 1;
        self.to.write_all(self.block.get(..half).unwrap_or_default())
    }
}
