//! For other processes: talks to a data plane on its socket, on any runtime.

mod bridge;
mod service;
mod speed;

pub use bridge::{BridgeError, bridge};
pub use service::{Connected, ServiceStream};
pub use speed::Speed;

use crate::folder::Folder;
use crate::lines::LONGEST;
use async_io::Timer;
use async_net::unix::UnixStream;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, Stream, stream};
use orchestrator::network::plane::{Report, Table, Tell, Told};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a data plane may take to answer. It answers a connection after all it has tried: see [`Client::connect_service`].
const ANSWER: Duration = Duration::from_secs(30);

/// Why a data plane didn't do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: there is no data plane.
    #[error("no data plane answers in {}", path.display())]
    Connect {
        /// Its folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It didn't want to.
    #[error("the data plane refuses: {why}")]
    Refused {
        /// Why, for people.
        why: String,
    },
    /// The connection broke.
    #[error("the connection to the data plane broke")]
    Broken {
        /// What the system said.
        source: io::Error,
    },
    /// It took too long.
    #[error("the data plane didn't answer within {} s", ANSWER.as_secs())]
    Late,
    /// It said something that doesn't belong there: another version of the program.
    #[error("the data plane's answer isn't understood: use the same release on both sides")]
    Unexpected,
}

/// A connection to a data plane.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// What was read and isn't a whole line yet.
    read: Vec<u8>,
}

/// Connects to the data plane of a folder.
///
/// # Errors
///
/// There is none.
pub async fn connect(state: &Path) -> Result<Client, ClientError> {
    let failed = |source| ClientError::Connect { path: state.to_owned(), source };
    let folder = Folder::open(state).map_err(failed)?;
    let stream = UnixStream::connect(folder.socket()).await.map_err(failed)?;
    Ok(Client { stream, read: Vec::new() })
}

impl Client {
    /// Has a table served. Returns how it is once it is served; ports that couldn't be opened are in the report.
    ///
    /// # Errors
    ///
    /// It is refused: for another node, of another format, older than what is served.
    pub async fn serve(&mut self, table: &Table) -> Result<Report, ClientError> {
        self.ask_report(&Tell::Serve { table: Box::new(table.clone()) }).await
    }

    /// How it is.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    pub async fn show(&mut self) -> Result<Report, ClientError> {
        self.ask_report(&Tell::Show).await
    }

    /// How it is, now and at every change: five times a second at most, once if only counters changed. Ends after an
    /// error, which is how the end of the data plane is seen.
    pub fn watch(self) -> impl Stream<Item = Result<Report, ClientError>> + Send + Unpin {
        let asked = Some((self, false));
        Box::pin(stream::unfold(asked, |state| async {
            let (mut client, asked) = state?;
            let next = async {
                if !asked {
                    client.tell(&Tell::Watch).await?;
                }
                report(client.told().await?)
            };
            match next.await {
                Ok(report) => Some((Ok(report), Some((client, true)))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// Has it end. It still serves while it answers; its lock is free when it is gone.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    pub async fn end(mut self) -> Result<(), ClientError> {
        match self.ask(&Tell::End).await? {
            Told::Done { .. } => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Connects to a service as this node's services would: `port` is that of its listener, or the first.
    ///
    /// # Errors
    ///
    /// No instance answers, or the service isn't reached through this data plane.
    pub async fn connect_service(
        mut self,
        service: &str,
        port: Option<u16>,
    ) -> Result<Connected, ClientError> {
        match self.ask(&Tell::Connect { service: service.to_owned(), port }).await? {
            Told::Done { instance, node, way } => Ok(Connected {
                instance: instance.unwrap_or_default(),
                node,
                way,
                stream: ServiceStream::new(self.stream, self.read),
            }),
            other => Err(unexpected(other)),
        }
    }

    async fn ask_report(&mut self, tell: &Tell) -> Result<Report, ClientError> {
        report(self.ask(tell).await?)
    }

    async fn ask(&mut self, tell: &Tell) -> Result<Told, ClientError> {
        let late = async {
            Timer::after(ANSWER).await;
            Err(ClientError::Late)
        };
        let asked = async {
            self.tell(tell).await?;
            self.told().await
        };
        asked.or(late).await
    }

    async fn tell(&mut self, tell: &Tell) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(tell).map_err(|error| broken(io::Error::other(error)))?;
        line.push(b'\n');
        self.stream.write_all(&line).await.map_err(broken)
    }

    /// The next line. What comes behind it is kept.
    async fn told(&mut self) -> Result<Told, ClientError> {
        let mut searched = 0;
        let end = loop {
            let fresh = self.read.get(searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                break searched + at;
            }
            searched = self.read.len();
            if searched > LONGEST {
                return Err(ClientError::Unexpected);
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).await.map_err(broken)?;
            if count == 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
            self.read.extend_from_slice(buffer.get(..count).unwrap_or_default());
        };
        let line: Vec<u8> = self.read.drain(..=end).collect();
        serde_json::from_slice(&line).map_err(|_| ClientError::Unexpected)
    }
}

fn report(told: Told) -> Result<Report, ClientError> {
    match told {
        Told::Report { report } => Ok(*report),
        other => Err(unexpected(other)),
    }
}

fn unexpected(told: Told) -> ClientError {
    match told {
        Told::Refused { why } => ClientError::Refused { why },
        Told::Done { .. } | Told::Report { .. } => ClientError::Unexpected,
    }
}

fn broken(source: io::Error) -> ClientError {
    ClientError::Broken { source }
}
