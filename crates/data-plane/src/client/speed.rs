//! How fast the way to another node is.

use super::service::ServiceStream;
use super::{Client, ClientError, broken, unexpected};
use async_io::Timer;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};
use orchestrator::network::plane::{Tell, Told, Way};
use std::io;
use std::time::{Duration, Instant};

/// What is sent at once.
const BLOCK: usize = 64 * 1024;

/// How long the last of it may take to be there, after it was sent.
const REST: Duration = Duration::from_secs(30);

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    /// The way that was measured; never [`Way::Lan`], at whose end nobody throws away what comes.
    pub way: Option<Way>,
    /// Bytes that the other node has got.
    pub bytes: u64,
    /// From the first byte sent until the other node had said that it has the last.
    pub took: Duration,
}

impl Speed {
    /// Bits a second.
    pub fn bits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.took.as_secs_f64().max(1e-9)
    }
}

impl Client {
    /// Sends zeros to the data plane of another node, for `time`, in one stream, by the way that a connection to an instance
    /// there takes now.
    ///
    /// # Errors
    ///
    /// No way leads there, it breaks, or the data plane there is of a release that can't do this.
    pub async fn measure(mut self, node: &str, time: Duration) -> Result<Speed, ClientError> {
        let way = match self.ask(&Tell::Discard { node: node.to_owned() }).await? {
            Told::Done { way, .. } => way,
            other => return Err(unexpected(other)),
        };
        let mut stream = ServiceStream::new(self.stream, self.read);
        let began = Instant::now();
        let sent = async {
            let block = vec![0; BLOCK];
            while began.elapsed() < time {
                stream.write_all(&block).await?;
            }
            stream.close().await?;
            let mut said = String::new();
            stream.read_to_string(&mut said).await?;
            said.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        let late = async {
            Timer::after(time + REST).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let bytes = sent.or(late).await.map_err(broken)?;
        Ok(Speed { way, bytes, took: began.elapsed() })
    }
}
