//! How a stream to another data plane begins: one short line that says what it is for, and one with the answer.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest of these lines, in bytes.
const LONGEST: usize = 1024;

/// What a stream is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "open", rename_all = "kebab-case")]
pub(crate) enum Hello {
    /// A connection to what a node exports.
    Export {
        /// The node: whoever is asked, or one that it has a link to.
        node: String,
        /// By what that node finds it.
        export: String,
    },
    /// Tables down, reports up.
    Control,
    /// What comes is sent back.
    Ping,
}

/// What is answered to [`Hello::Export`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The connection follows.
    Ok,
    /// The node was reached, and what it exports wasn't.
    Instance {
        /// Why, for people.
        why: String,
    },
    /// The node can't be reached from there.
    Way {
        /// Why, for people.
        why: String,
    },
}

/// Asks for a connection to what a node exports.
///
/// # Errors
///
/// The stream is broken.
pub(crate) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    node: &str,
    export: &str,
) -> io::Result<Answer> {
    write(stream, &Hello::Export { node: node.to_owned(), export: export.to_owned() }).await?;
    read(stream).await
}

/// Reads one line, and not a byte behind it. The stream is in memory: a byte at a time costs nothing.
///
/// # Errors
///
/// The stream is broken, the line too long or something else.
pub(crate) async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return serde_json::from_slice(&line).map_err(|error| invalid(error.to_string())),
            byte if line.len() < LONGEST => line.push(byte),
            _ => return Err(invalid(format!("the first line is longer than {LONGEST} bytes"))),
        }
    }
}

/// Writes one line. What is too long is cut off by who reads it.
///
/// # Errors
///
/// The stream is broken.
pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

impl Answer {
    /// With a reason that fits.
    pub(crate) fn instance(why: &str) -> Self {
        Self::Instance { why: short(why) }
    }

    /// With a reason that fits.
    pub(crate) fn way(why: &str) -> Self {
        Self::Way { why: short(why) }
    }
}

/// Leaves room for the line around it, escapes included.
fn short(why: &str) -> String {
    why.chars().filter(|c| !c.is_control()).take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_reason_fits() {
        let why = "\u{7f}\u{1f}\"\\ 😀".repeat(1000);
        assert!(serde_json::to_vec(&Answer::instance(&why)).unwrap().len() < LONGEST);
        assert!(serde_json::to_vec(&Answer::way(&why)).unwrap().len() < LONGEST);
    }
}
