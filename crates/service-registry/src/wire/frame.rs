//! Bulk data: binary WebSocket messages of a stream's number (u32, big-endian), a kind (u8), and up to [`PAYLOAD`] bytes.
//!
//! A call opens a stream: its result has the number as `stream`. From then on the client sends [`Kind::Data`] and at last
//! [`Kind::End`]; the server answers with [`Kind::End`], whose payload is a result in JSON, or with [`Kind::Error`], whose
//! payload is an error as JSON-RPC has it. Either may give up early with [`Kind::Error`].
//!
//! A sender may have [`WINDOW`] bytes on the way. [`Kind::Credit`] (a u32, big-endian) allows it so many more; without credit
//! it stops. Who sends more than it was allowed loses the stream. A sender sends its calls before its bulk data.

/// Bytes of data in one message at most.
pub const PAYLOAD: usize = 64 * 1024;

/// Bytes of data that a sender may have on the way before it is given credit.
pub const WINDOW: u32 = 1024 * 1024;

const HEAD: usize = 5;

/// What a binary message says. The numbers between are kept for the streams of terminals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// Data.
    Data = 0,
    /// There is no more data; from the receiver: all of it was taken.
    End = 5,
    /// The stream is given up.
    Error = 6,
    /// So many bytes more may be sent.
    Credit = 7,
}

/// A binary message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The stream's number on this connection.
    pub stream: u32,
    /// What it says.
    pub kind: Kind,
    /// Data, or what belongs to the kind.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a message.
    ///
    /// # Errors
    ///
    /// It is too short or too long, or of a kind that is unknown; the text says which.
    pub fn parse(message: &'a [u8]) -> Result<Self, String> {
        let Some(([a, b, c, d, kind], payload)) = message.split_first_chunk::<HEAD>() else {
            return Err(format!("a binary message has at least {HEAD} bytes"));
        };
        if payload.len() > PAYLOAD {
            return Err(format!("a binary message carries at most {PAYLOAD} bytes"));
        }
        let kind = match kind {
            0 => Kind::Data,
            5 => Kind::End,
            6 => Kind::Error,
            7 => Kind::Credit,
            other => return Err(format!("binary messages of kind {other} are unknown")),
        };
        Ok(Self { stream: u32::from_be_bytes([*a, *b, *c, *d]), kind, payload })
    }

    /// The message.
    pub fn write(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEAD + self.payload.len());
        message.extend(self.stream.to_be_bytes());
        message.push(self.kind as u8);
        message.extend(self.payload);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written_and_others_refused() {
        for (frame, bytes) in [
            (Frame { stream: 1, kind: Kind::Data, payload: b"ab" }, &b"\0\0\0\x01\0ab"[..]),
            (
                Frame { stream: 0x0102_0304, kind: Kind::Credit, payload: &[0, 0, 1, 0] },
                b"\x01\x02\x03\x04\x07\0\0\x01\0",
            ),
            (Frame { stream: u32::MAX, kind: Kind::End, payload: b"" }, b"\xff\xff\xff\xff\x05"),
        ] {
            assert_eq!(frame.write(), bytes);
            assert_eq!(Frame::parse(bytes), Ok(frame));
        }
        for bytes in [&b""[..], b"\0\0\0\x01", b"\0\0\0\x01\x01", b"\0\0\0\x01\xff", &[0; HEAD + PAYLOAD + 1]]
        {
            assert!(Frame::parse(bytes).is_err(), "{} bytes", bytes.len());
        }
    }
}
