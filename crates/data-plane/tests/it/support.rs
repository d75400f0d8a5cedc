//! Data planes, instances and tables for the tests.

use data_plane::client::{self, Client};
use futures_lite::StreamExt as _;
use orchestrator::network::plane::{Backend, FORMAT, Listener, Peer, Report, Table, Way};
use smol::future::FutureExt as _;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// No wait of a test is longer.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// The program of `examples/plane.rs`, which cargo builds with the tests.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/plane");
    assert!(program.exists(), "{} is missing: cargo build -p data-plane --examples", program.display());
    program
}

/// A data plane, killed when dropped.
pub(crate) struct Plane {
    pub(crate) node: String,
    pub(crate) state: PathBuf,
    child: Child,
    _folder: Arc<tempfile::TempDir>,
}

impl Plane {
    pub(crate) fn start(node: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let state = folder.path().join("plane");
        Self::start_in(node, state, folder)
    }

    fn start_in(node: &str, state: PathBuf, folder: Arc<tempfile::TempDir>) -> Self {
        let mut command = Command::new(program());
        command.arg("run").arg(&state).arg(node).stdin(Stdio::null());
        let child = command.spawn().unwrap();
        let plane = Self { node: node.to_owned(), state, child, _folder: folder };
        plane.client();
        plane
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its own end.
    pub(crate) fn ended(&mut self) -> bool {
        within("the data plane's end", || self.child.try_wait().unwrap()).success()
    }

    /// Another life in the same folder.
    pub(crate) fn again(mut self) -> Self {
        self.kill();
        Self::start_in(&self.node.clone(), self.state.clone(), self._folder.clone())
    }

    pub(crate) fn client(&self) -> Client {
        within("the data plane's socket", || smol::block_on(client::connect(&self.state)).ok())
    }

    pub(crate) fn serve(&self, table: &Table) -> Report {
        smol::block_on(self.client().serve(table)).unwrap()
    }

    pub(crate) fn show(&self) -> Report {
        smol::block_on(self.client().show()).unwrap()
    }

    /// Watches until a report is as wanted.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let mut reports = self.client().watch();
        let mut last = None;
        let found = smol::block_on(
            async {
                while let Some(report) = reports.next().await {
                    let report = report.unwrap();
                    if wanted(&report) {
                        return Some(report);
                    }
                    last = Some(report);
                }
                None
            }
            .or(async {
                smol::Timer::after(BOUND).await;
                None
            }),
        );
        found.unwrap_or_else(|| panic!("{what}: {last:#?}"))
    }

    /// The argv of a link to this data plane.
    pub(crate) fn link(&self) -> Vec<String> {
        vec![program().display().to_string(), "bridge".to_owned(), self.state.display().to_string()]
    }

    /// Processes that it has started.
    pub(crate) fn children(&self) -> Vec<u32> {
        let pid = self.child.id();
        // Each thread has those that it made.
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        lists
            .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
            .collect()
    }

    /// The child that is the link to `other`.
    pub(crate) fn bridge_to(&self, other: &Plane) -> u32 {
        within("the link's process", || {
            self.children().into_iter().find(|pid| {
                let argv = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&argv).contains(&other.state.display().to_string())
            })
        })
    }

    /// Bytes of memory that are its own.
    pub(crate) fn memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills a process that is a child of a data plane of this test.
pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Halts a process that is a child of a data plane of this test: its streams stay open and nothing comes.
pub(crate) fn stop(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
}

/// Asks until there is an answer.
pub(crate) fn within<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < BOUND, "{what} didn't come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An instance: says its name in a line, then sends back what comes, and ends when the other side has.
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Where it listens; a test may say something else of it.
    listens: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Instance {
    pub(crate) fn start(name: &str) -> Self {
        Self::start_at(name, SocketAddr::new(own(), 0))
    }

    pub(crate) fn start_at(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (said, stopped) = (name.to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (mut stream, said) = (stream.unwrap(), said.clone());
                std::thread::spawn(move || {
                    let mut copy = || {
                        stream.write_all(format!("{said}\n").as_bytes())?;
                        let mut buffer = vec![0; 64 * 1024];
                        loop {
                            match stream.read(&mut buffer)? {
                                0 => return stream.shutdown(Shutdown::Both),
                                count => stream.write_all(&buffer[..count])?,
                            }
                        }
                    };
                    let _: std::io::Result<()> = copy();
                });
            }
        });
        Self { name: name.to_owned(), address, listens: address, stop, thread: Some(thread) }
    }

    pub(crate) fn backend(&self, node: &str) -> Backend {
        Backend {
            instance: self.name.clone(),
            node: node.to_owned(),
            export: export(&self.name),
            address: self.address,
            weight: 1,
            draining: false,
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.listens));
        self.thread.take().unwrap().join().unwrap();
    }
}

pub(crate) fn export(instance: &str) -> String {
    format!("{instance}:80")
}

/// An address of loopback that nobody else takes: what is closed there stays closed.
pub(crate) fn own() -> IpAddr {
    static TAKEN: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    IpAddr::from([127, 128 + high % 64, low, TAKEN.fetch_add(1, Ordering::SeqCst)])
}

/// Such an address with a port that is free.
pub(crate) fn free() -> SocketAddr {
    TcpListener::bind(SocketAddr::new(own(), 0)).unwrap().local_addr().unwrap()
}

pub(crate) fn table(node: &str, version: u64) -> Table {
    Table { format: FORMAT, version, node: node.to_owned(), ..Table::default() }
}

pub(crate) fn listener(service: &str, address: SocketAddr, backends: Vec<Backend>) -> Listener {
    Listener { service: service.to_owned(), address, backends }
}

pub(crate) fn exports(instances: &[&Instance]) -> BTreeMap<String, SocketAddr> {
    instances.iter().map(|instance| (export(&instance.name), instance.address)).collect()
}

pub(crate) fn peer(ways: &[Way], link: Vec<String>) -> Peer {
    Peer { ways: ways.to_vec(), link }
}

/// Connects, and returns the name of who answered with the connection.
pub(crate) fn ask(address: SocketAddr) -> std::io::Result<(String, BufReader<TcpStream>)> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(BOUND))?;
    let mut reader = BufReader::new(stream);
    let mut name = String::new();
    if reader.read_line(&mut name)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok((name.trim_end().to_owned(), reader))
}

/// The name of who answers.
pub(crate) fn who(address: SocketAddr) -> String {
    ask(address).unwrap().0
}

/// Sends `count` bytes and the end, and checks that the same come back, and then the end.
pub(crate) fn there_and_back(address: SocketAddr, count: usize) -> String {
    let (name, mut reader) = ask(address).unwrap();
    let sent: Vec<u8> = (0..count).map(|at| (at % 251) as u8).collect();
    let mut writer = reader.get_ref().try_clone().unwrap();
    let to_send = sent.clone();
    let sending = std::thread::spawn(move || {
        writer.write_all(&to_send).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).unwrap();
    sending.join().unwrap();
    assert!(received == sent, "{} of {count} bytes came back as they were", received.len());
    name
}

pub(crate) fn way<'a>(
    report: &'a Report,
    node: &str,
    way: &Way,
) -> &'a orchestrator::network::plane::WayReport {
    report.peers[node].ways.iter().find(|known| known.way == *way).unwrap()
}

pub(crate) fn socket(state: &Path) -> PathBuf {
    state.join("plane.sock")
}
