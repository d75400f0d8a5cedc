//! The load of `bench/forwarder`: `forward_load serve` prints where it listens, and `forward_load WHAT ADDRESS CONNECTIONS
//! SECONDS` prints how many requests, connections or bytes there were in a second.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A small request and its answer.
const REQUEST: usize = 64;
const ANSWER: usize = 256;
/// Read and written at once in bulk.
const BULK: usize = 128 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.and_then(|runtime| runtime.block_on(run(&arguments)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[&str]) -> io::Result<()> {
    let usage =
        || io::Error::other("usage: serve | requests|connections|bulk|idle ADDRESS CONNECTIONS SECONDS");
    match arguments {
        ["serve"] => serve().await,
        [what, address, connections, seconds] => {
            let connections: usize = connections.parse().map_err(io::Error::other)?;
            let length = Duration::from_secs_f64(seconds.parse().map_err(io::Error::other)?);
            let mut tasks = JoinSet::new();
            for _ in 0..connections {
                let address = (*address).to_owned();
                match *what {
                    "requests" => tasks.spawn(async move { requests(&address, length).await }),
                    "connections" => tasks.spawn(async move { connect(&address, length).await }),
                    "bulk" => tasks.spawn(async move { bulk(&address, length).await }),
                    "idle" => tasks.spawn(async move { idle(&address, length).await }),
                    _ => return Err(usage()),
                };
            }
            let mut total = 0.0;
            while let Some(done) = tasks.join_next().await {
                total += done.map_err(io::Error::other)??;
            }
            println!("{total:.1}");
            Ok(())
        }
        _ => Err(usage()),
    }
}

async fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut request = vec![0; REQUEST];
            let answer = vec![b'a'; ANSWER];
            let bulk = vec![b'b'; BULK];
            while stream.read_exact(&mut request).await.is_ok() {
                if request.first() == Some(&b'B') {
                    while stream.write_all(&bulk).await.is_ok() {}
                    return;
                }
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn open(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn ask(stream: &mut TcpStream, answer: &mut [u8]) -> io::Result<()> {
    stream.write_all(&[b'r'; REQUEST]).await?;
    stream.read_exact(answer).await.map(drop)
}

async fn requests(address: &str, length: Duration) -> io::Result<f64> {
    let mut stream = open(address).await?;
    let mut answer = vec![0; ANSWER];
    ask(&mut stream, &mut answer).await?;
    let (began, mut count) = (Instant::now(), 0_u32);
    while began.elapsed() < length {
        ask(&mut stream, &mut answer).await?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

async fn connect(address: &str, length: Duration) -> io::Result<f64> {
    let mut answer = vec![0; ANSWER];
    let (began, mut count) = (Instant::now(), 0_u32);
    while began.elapsed() < length {
        let mut stream = open(address).await?;
        ask(&mut stream, &mut answer).await?;
        // No ports that linger: there are only so many.
        stream.set_zero_linger()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

async fn bulk(address: &str, length: Duration) -> io::Result<f64> {
    let mut stream = open(address).await?;
    stream.write_all(&[b'B'; REQUEST]).await?;
    let mut buffer = vec![0; BULK];
    stream.read_exact(&mut buffer).await?;
    let (began, mut count) = (Instant::now(), 0_u64);
    while began.elapsed() < length {
        count += stream.read(&mut buffer).await? as u64;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// One request, then nothing: what an idle connection costs the forwarder can be seen meanwhile.
async fn idle(address: &str, length: Duration) -> io::Result<f64> {
    let mut stream = open(address).await?;
    ask(&mut stream, &mut [0; ANSWER]).await?;
    tokio::time::sleep(length).await;
    Ok(0.0)
}
