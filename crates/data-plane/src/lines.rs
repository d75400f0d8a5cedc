//! JSON values, one a line, of a limited length.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest line on the socket and on links' control streams: a table with thousands of services fits.
pub(crate) const LONGEST: usize = 16 << 20;

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("the line is longer than {0} bytes")]
    TooLong(usize),
    #[error("the line isn't valid: {0}")]
    Invalid(serde_json::Error),
    #[error("the line has no end")]
    Cut,
    #[error(transparent)]
    Io(io::Error),
}

/// The next line's value; `None` at the end. What stands behind the line stays in `reader`.
pub(crate) async fn read<T: DeserializeOwned>(
    reader: &mut (impl AsyncBufRead + Unpin),
    longest: usize,
) -> Result<Option<T>, LineError> {
    let mut line = Vec::new();
    loop {
        let available = reader.fill_buf().await.map_err(LineError::Io)?;
        if available.is_empty() {
            return if line.is_empty() { Ok(None) } else { Err(LineError::Cut) };
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        if line.len() + part.len() > longest {
            return Err(LineError::TooLong(longest));
        }
        line.extend_from_slice(part);
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return serde_json::from_slice(&line).map(Some).map_err(LineError::Invalid);
        }
    }
}

/// Writes a value and its line's end, at once.
///
/// # Errors
///
/// The stream is broken.
pub(crate) async fn write(writer: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.flush().await
}
