//! A connection over the standard input and output of a child.

use crate::support::{OnSmol, OnTokio, TestMethods, in_memory, options, soon};
use futures_lite::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use service_registry::server::{Caller, Limits, Server, Spawner};
use service_registry::wire::Scope;
use smol::block_on;
use smol::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A client that speaks on its standard input and output, and says on its standard error what came of it.
const CLIENT: &str = r#"
import json, os, struct, sys
out, read = sys.stdout.buffer, sys.stdin.buffer
out.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
out.flush()
while read.readline() != b"\r\n":
    pass
for number, (method, params) in enumerate([("hello", {"protocol": 1, "client": "child"}), ("test.who", {})]):
    data = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()
    assert len(data) < 126
    mask = os.urandom(4)
    out.write(bytes([0x81, 0x80 | len(data)]) + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))
    out.flush()
    size = read.read(2)[1]
    if size == 126:
        size = struct.unpack(">H", read.read(2))[0]
    answer = json.loads(read.read(size))
print(answer["result"]["client"], "of", answer["result"]["who"], file=sys.stderr)
"#;

/// Both pipes as one stream.
struct Pipes(ChildStdout, ChildStdin);

impl AsyncRead for Pipes {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipes {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.1).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.1).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.1).poll_close(cx)
    }
}

#[test]
fn a_child_is_served_over_its_pipes_on_both_runtimes() {
    let tokio = tokio::runtime::Runtime::new().unwrap();
    for spawner in [Arc::new(OnSmol) as Spawner, Arc::new(OnTokio(tokio.handle().clone()))] {
        block_on(soon("it", async {
            let server =
                Server::new(in_memory(options()).await, Arc::new(TestMethods), spawner, Limits::default());
            let mut command = Command::new("python3");
            command.args(["-c", CLIENT]).kill_on_drop(true);
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let pipes = Pipes(child.stdout.take().unwrap(), child.stdin.take().unwrap());
            server.connect(pipes, Caller::host(Scope::Read)).unwrap();
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "child of the host\n");
            assert!(child.status().await.unwrap().success());
            while server.connections() > 0 {
                smol::Timer::after(std::time::Duration::from_millis(1)).await;
            }
        }));
    }
}
