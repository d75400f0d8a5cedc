//! The HTTP/1.1 of health probes: one request, one answer, no more of it than a probe needs.

use async_net::TcpStream;
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status code.
    pub(super) status: u16,
    /// The body, up to [`MOST_BODY`] bytes.
    pub(super) body: Vec<u8>,
}

/// What of a body is looked at.
const MOST_BODY: usize = 256 << 10;
/// What a head may have.
const MOST_HEAD: usize = 64 << 10;

/// `http://HOST[:PORT]/PATH`, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Url<'a> {
    host: &'a str,
    port: u16,
    authority: &'a str,
    path: &'a str,
}

fn parse_url(url: &str) -> Result<Url<'_>, String> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(format!("{scheme}:// can't be probed, only http://")),
        None => return Err(format!("{url:?} is no URL: http://HOST[:PORT]/PATH")),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or("80")),
        None => authority.rsplit_once(':').unwrap_or((authority, "80")),
    };
    let port = port.parse().map_err(|_| format!("{port:?} in {url:?} is no port"))?;
    if host.is_empty() || authority.contains('@') {
        return Err(format!("{url:?} has no host"));
    }
    Ok(Url { host, port, authority, path })
}

/// Sends the request and reads the answer. The error is a sentence for people.
pub(super) async fn request(url: &str, method: &str, headers: &[(String, String)]) -> Result<Answer, String> {
    let url = parse_url(url)?;
    let broken = |text: &str| text.contains(['\r', '\n']);
    if broken(method) || broken(url.path) || headers.iter().any(|(name, value)| broken(name) || broken(value))
    {
        return Err("a line break in the request".into());
    }
    let mut stream = TcpStream::connect((url.host, url.port))
        .await
        .map_err(|error| format!("connect to {}:{}: {}", url.host, url.port, plain(&error)))?;
    let slash = if url.path.starts_with('/') { "" } else { "/" };
    let mut head = format!("{method} {slash}{} HTTP/1.1\r\n", url.path);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("Host: {}\r\n", url.authority));
    }
    head.push_str("User-Agent: harness-probe\r\nAccept: */*\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.map_err(|error| format!("send: {}", plain(&error)))?;
    let head_only = method == "HEAD";
    let mut received = Vec::new();
    let mut block = vec![0; 16 << 10];
    loop {
        if let Some(answer) = parse_answer(&received, head_only, false)? {
            return Ok(answer);
        }
        let count = match stream.read(&mut block).await {
            Ok(count) => count,
            // A server that closes with our bytes unread resets the connection; what came before still counts.
            Err(_) if !received.is_empty() => 0,
            Err(error) => return Err(format!("receive: {}", plain(&error))),
        };
        if count == 0 {
            return parse_answer(&received, head_only, true)?
                .ok_or_else(|| "the connection was closed before an answer".into());
        }
        received.extend_from_slice(&block[..count]);
    }
}

/// The system's words without "(os error N)".
pub(super) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// The answer, once enough of it is there.
fn parse_answer(received: &[u8], head_only: bool, closed: bool) -> Result<Option<Answer>, String> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if received.len() > MOST_HEAD {
            Err("the answer's head is too long".into())
        } else {
            Ok(None)
        };
    };
    let (head, body) = (&received[..end], &received[end + 4..]);
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let mut words = status_line.split(' ');
    let status = match (words.next(), words.next().map(str::parse::<u16>)) {
        (Some(version), Some(Ok(status))) if version.starts_with("HTTP/1.") => status,
        _ => {
            return Err(format!(
                "not an HTTP answer: {:?}",
                status_line.chars().take(60).collect::<String>()
            ));
        }
    };
    let header = |name: &str| {
        let mut headers = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        headers
            .find(|(found, _)| found.trim().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
    };
    let chunked =
        header("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked"));
    let length = header("content-length").and_then(|value| value.parse::<usize>().ok());
    if head_only || status == 204 || status == 304 {
        return Ok(Some(Answer { status, body: Vec::new() }));
    }
    if chunked {
        let (body, complete) = unchunk(body);
        let done = complete || closed || body.len() >= MOST_BODY;
        return Ok(done.then_some(Answer { status, body }));
    }
    let enough = length.map_or(MOST_BODY, |length| length.min(MOST_BODY));
    if body.len() >= enough || closed {
        return Ok(Some(Answer { status, body: body[..body.len().min(enough)].to_vec() }));
    }
    Ok(None)
}

/// The content of the chunks that are there, and whether the last one is.
fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = String::from_utf8_lossy(&rest[..end]);
        let Ok(size) = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16) else {
            return (content, true);
        };
        if size == 0 {
            return (content, true);
        }
        rest = &rest[end + 2..];
        content.extend_from_slice(&rest[..rest.len().min(size)]);
        if content.len() >= MOST_BODY {
            return (content, false);
        }
        let Some(next) = size.checked_add(2).and_then(|skip| rest.get(skip..)) else { break };
        rest = next;
    }
    (content, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls() {
        let url = |text| parse_url(text).map(|url| format!("{}|{}|{}", url.host, url.port, url.path));
        for (text, parts) in [
            ("http://localhost", "localhost|80|"),
            ("http://127.0.0.1:8080/health?x=1#y", "127.0.0.1|8080|/health?x=1"),
            ("http://[::1]:81/", "::1|81|/"),
            ("http://h?q", "h|80|?q"),
        ] {
            assert_eq!(url(text), Ok(parts.into()), "{text}");
        }
        for bad in
            ["", "x", "https://h/", "http://", "http://h:x/", "http://u@h/", "http://:80/", "http://h:99999/"]
        {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers() {
        let parse = |text: &str, closed| {
            parse_answer(text.as_bytes(), false, closed)
                .map(|answer| answer.map(|a| (a.status, String::from_utf8(a.body).unwrap())))
        };
        assert_eq!(parse("HTTP/1.1 200 OK\r\nContent-Le", false), Ok(None));
        assert_eq!(parse("HTTP/1.0 200 OK\r\n\r\nab", false), Ok(None));
        assert_eq!(parse("HTTP/1.0 200 OK\r\n\r\nab", true), Ok(Some((200, "ab".into()))));
        assert_eq!(
            parse("HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nabc", false),
            Ok(Some((404, "ab".into())))
        );
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(chunked, false), Ok(Some((200, "abcde".into()))));
        assert_eq!(parse(&chunked[..chunked.len() - 8], false), Ok(None));
        assert!(parse("SSH-2.0-OpenSSH\r\n\r\n", false).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes: Vec<u8>, closed: bool) {
            let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            answer.extend_from_slice(&bytes);
            let _ = parse_answer(&answer, false, closed);
            let _ = parse_answer(&bytes, false, closed);
        }
    }
}
