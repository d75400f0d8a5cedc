//! What RFC 6455 says of frames, fragments, text and closing, byte by byte: the groups of cases of the Autobahn test suite
//! (1 framing, 2 pings, 3 reserved bits, 4 opcodes, 5 fragmentation, 6 UTF-8, 7 closing), which can't be had for every
//! machine.

use crate::support::{LONG, Served, in_memory, options, soon};
use serde_json::Value;
use service_registry::server::Limits;
use smol::block_on;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A connection whose frames are made by hand.
struct Wire(UnixStream);

impl Wire {
    fn open(path: &Path) -> Self {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        // RFC 6455, 1.3: the accept value of this very key
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        Self(stream)
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![first];
        match u16::try_from(payload.len()) {
            Ok(length @ 0..=125) => frame.push(0x80 | length as u8),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn send(&mut self, first: u8, payload: &[u8]) {
        self.0.write_all(&Self::frame(first, payload)).unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).ok()?;
        assert_eq!(head[1] & 0x80, 0, "a server masks nothing");
        let mut length = u64::from(head[1]);
        if length == 126 {
            let mut bytes = [0; 2];
            self.0.read_exact(&mut bytes).ok()?;
            length = u16::from_be_bytes(bytes).into();
        } else if length == 127 {
            let mut bytes = [0; 8];
            self.0.read_exact(&mut bytes).ok()?;
            length = u64::from_be_bytes(bytes);
        }
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[0], payload))
    }

    /// The id of the next answer.
    fn answered(&mut self) -> Value {
        let (first, payload) = self.read().expect("closed");
        assert_eq!(first, FIN | TEXT, "{}", String::from_utf8_lossy(&payload));
        serde_json::from_slice::<Value>(&payload).unwrap()["id"].clone()
    }

    /// The code with which it is closed; 0 for none. Nothing comes after.
    fn closed(&mut self) -> u16 {
        let (first, payload) = self.read().expect("no close frame");
        assert_eq!(first, FIN | CLOSE, "{}", String::from_utf8_lossy(&payload));
        assert_eq!(self.read(), None, "the connection ends");
        payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code))
    }
}

/// A request of this id, `size` bytes long where it is shorter. It is answered, whatever with.
fn request(id: &str, size: usize) -> Vec<u8> {
    let text = format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"registry.list"}}"#);
    let padding = " ".repeat(size.saturating_sub(text.len()));
    (text + &padding).into_bytes()
}

/// Runs a test with a server, on a thread that may block.
fn with_server(test: impl FnOnce(&Path) + Send + 'static) {
    let folder = tempfile::tempdir().unwrap();
    block_on(soon("it", async {
        let served = Served::start(folder.path(), in_memory(options()).await, Limits::default());
        let path = served.path.clone();
        smol::unblock(move || test(&path)).await;
        served.client().await;
    }));
}

#[test]
fn frames_of_every_length_form_are_read_whatever_pieces_they_come_in() {
    with_server(|path| {
        let mut wire = Wire::open(path);
        for size in [0, 124, 125, 126, 127, 128, 65_534, 65_535, 65_536, 65_537, 200_000] {
            wire.send(FIN | TEXT, &request("a", size));
            assert_eq!(wire.answered(), "a", "{size}");
        }
        for byte in Wire::frame(FIN | TEXT, &request("b", 300)) {
            wire.0.write_all(&[byte]).unwrap();
        }
        assert_eq!(wire.answered(), "b", "byte by byte");
        let several: Vec<u8> =
            ["c", "d", "e"].iter().flat_map(|id| Wire::frame(FIN | TEXT, &request(id, 0))).collect();
        wire.0.write_all(&several).unwrap();
        assert_eq!([wire.answered(), wire.answered(), wire.answered()], ["c", "d", "e"]);
        // Empty text is no request, and no mistake of the protocol.
        wire.send(FIN | TEXT, b"");
        assert_eq!(wire.answered(), Value::Null);
    });
}

#[test]
fn pings_are_answered_with_what_they_brought_and_pongs_are_taken() {
    with_server(|path| {
        let mut wire = Wire::open(path);
        for payload in [&b""[..], b"Hello", &[0xff; 125]] {
            wire.send(FIN | PING, payload);
            assert_eq!(wire.read(), Some((FIN | PONG, payload.to_vec())));
        }
        wire.send(FIN | PONG, b"unasked");
        wire.send(FIN | TEXT, &request("a", 0));
        assert_eq!(wire.answered(), "a");
        wire.send(FIN | PING, &[0; 126]);
        assert_eq!(wire.closed(), 1002, "a control frame has at most 125 bytes");
    });
}

#[test]
fn what_the_protocol_reserves_or_forbids_ends_the_connection() {
    with_server(|path| {
        let reserved = [0x10, 0x20, 0x40, 0x70].map(|bits| FIN | bits | TEXT);
        let opcodes = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map(|opcode| FIN | opcode);
        let broken_control = [PING, PONG, CLOSE];
        let alone = [CONTINUATION, FIN | CONTINUATION];
        for first in reserved.iter().chain(&opcodes).chain(&broken_control).chain(&alone) {
            let mut wire = Wire::open(path);
            wire.send(*first, b"x");
            assert_eq!(wire.closed(), 1002, "{first:#x}");
        }
        // Not masked (5.1).
        let mut wire = Wire::open(path);
        wire.0.write_all(&[FIN | TEXT, 2, b'{', b'}']).unwrap();
        assert_eq!(wire.closed(), 1002);
    });
}

#[test]
fn fragments_are_put_together_with_pings_between_and_never_mixed() {
    with_server(|path| {
        let mut wire = Wire::open(path);
        let text = request("a", 0);
        for cuts in [1, 2, 5, text.len()] {
            let parts: Vec<&[u8]> = text.chunks(text.len().div_ceil(cuts)).collect();
            for (n, part) in parts.iter().enumerate() {
                let opcode = if n == 0 { TEXT } else { CONTINUATION };
                let fin = if n + 1 == parts.len() { FIN } else { 0 };
                wire.send(fin | opcode, part);
                if fin == 0 {
                    wire.send(FIN | PING, b"between");
                    assert_eq!(wire.read(), Some((FIN | PONG, b"between".to_vec())));
                }
            }
            assert_eq!(wire.answered(), "a", "{cuts}");
        }
        wire.send(TEXT, &text);
        wire.send(CONTINUATION, b"");
        wire.send(FIN | CONTINUATION, b"");
        assert_eq!(wire.answered(), "a", "empty fragments");
        for second in [FIN | TEXT, TEXT, FIN | BINARY] {
            let mut wire = Wire::open(path);
            wire.send(TEXT, &text);
            wire.send(second, &text);
            assert_eq!(wire.closed(), 1002, "{second:#x} amid another message");
        }
    });
}

#[test]
fn text_is_utf_8_wherever_it_is_cut() {
    with_server(|path| {
        let mut wire = Wire::open(path);
        let text = request("κόσμε 🦀", 0);
        for cut in 0..=text.len() {
            let (head, tail) = text.split_at(cut);
            wire.send(TEXT, head);
            wire.send(FIN | CONTINUATION, tail);
            assert_eq!(wire.answered(), "κόσμε 🦀", "cut at {cut}");
        }
        let invalid: [&[u8]; 6] = [
            b"\xc3(",
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", // a surrogate
            b"\xf4\x90\x80\x80",                                               // beyond U+10FFFF
            b"\xc0\xaf",                                                       // longer than needed
            b"\xfe\xff",
            b"{\"id\":\"\xf0\x9f\xa6", // ends in the middle
        ];
        for bytes in invalid {
            let mut wire = Wire::open(path);
            wire.send(FIN | TEXT, bytes);
            assert_eq!(wire.closed(), 1007, "{bytes:?}");
            let mut wire = Wire::open(path);
            // in one write: the first byte alone may be enough for the server to hang up
            let frames = [Wire::frame(TEXT, &bytes[..1]), Wire::frame(FIN | CONTINUATION, &bytes[1..])];
            wire.0.write_all(&frames.concat()).unwrap();
            assert_eq!(wire.closed(), 1007, "{bytes:?} in fragments");
        }
    });
}

#[test]
fn a_close_is_answered_and_its_code_and_reason_are_looked_at() {
    with_server(|path| {
        let close = |payload: &[u8]| {
            let mut wire = Wire::open(path);
            wire.send(FIN | CLOSE, payload);
            wire.closed()
        };
        let coded = |code: u16, reason: &[u8]| [&code.to_be_bytes()[..], reason].concat();
        assert_eq!(close(b""), 0);
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
            assert_eq!(close(&coded(code, b"bye")), code);
        }
        assert_eq!(close(&coded(1000, &[b'x'; 123])), 1000);
        assert_eq!(close(b"x"), 1002, "half a code");
        assert_eq!(close(&coded(1000, &[b'x'; 124])), 1002, "too long");
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert_eq!(close(&coded(code, b"")), 1002, "{code} isn't for the wire");
        }
        assert!(matches!(close(&coded(1000, b"\xc3(")), 1002 | 1007), "a reason is UTF-8");
        // What comes after a close isn't answered.
        let mut wire = Wire::open(path);
        let after =
            [Wire::frame(FIN | CLOSE, &coded(1000, b"")), Wire::frame(FIN | TEXT, &request("a", 0))].concat();
        wire.0.write_all(&after).unwrap();
        assert_eq!(wire.closed(), 1000);
    });
}
