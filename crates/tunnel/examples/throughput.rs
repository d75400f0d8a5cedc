//! How much one stream carries between two processes, straight or through a third one.
//!
//! ```console
//! $ throughput FOLDER sink & throughput FOLDER source 10           # straight
//! $ throughput FOLDER hub & throughput FOLDER sink hub & throughput FOLDER source 10 hub
//! ```
//!
//! The processes find each other's key and port in FOLDER. The source prints the Mbit/s of as many seconds as it was told,
//! and the median round trip of one byte. `sink` and `hub` end when they are killed.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tunnel::{Config, Engine, Options, Peer};

const ROLES: [&str; 3] = ["hub", "sink", "source"];
const BOUND: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, role, rest @ ..] = words.as_slice() else {
        return Err("throughput FOLDER hub | sink [hub] | source SECONDS [hub]".into());
    };
    let through_hub = role == "hub" || rest.iter().any(|word| word == "hub");
    let folder = Path::new(folder);
    let engine = Engine::start(Options { state: folder.join(role), port: 0 }).await?;
    let me = engine.report().await?;
    std::fs::write(folder.join(format!("{role}.new")), format!("{} {}", me.public_key, me.port))?;
    std::fs::rename(folder.join(format!("{role}.new")), folder.join(format!("{role}.node")))?;

    let mut peers = BTreeMap::new();
    for (n, name) in ROLES.iter().enumerate() {
        if name == role || (*name == "hub" && !through_hub) {
            continue;
        }
        let (public_key, port) = node(folder, name).await?;
        let reachable = !through_hub || *name == "hub" || role == "hub";
        let candidates = if reachable { vec![([127, 0, 0, 1], port).into()] } else { Vec::new() };
        peers.insert(
            (*name).to_owned(),
            Peer { public_key, address: address(n)?, interface: None, candidates },
        );
    }
    let own = ROLES.iter().position(|name| name == role).ok_or("no such role")?;
    let hub = (through_hub && role != "hub").then(|| "hub".to_owned());
    let config = Config {
        node: role.clone(),
        address: address(own)?,
        probe_key: [7; 32],
        key_epoch: 0,
        hub,
        interface: None,
        peers,
    };
    engine.set(config).await?;
    match role.as_str() {
        "source" => source(&engine, rest.first().and_then(|s| s.parse().ok()).unwrap_or(10)).await,
        "sink" => sink(&engine).await,
        _ => std::future::pending().await,
    }
}

fn address(n: usize) -> Result<std::net::Ipv4Addr, Box<dyn Error>> {
    Ok([10, 210, u8::try_from(n)?, 1].into())
}

/// Key and port of a node, once it has written them.
async fn node(folder: &Path, name: &str) -> Result<(String, u16), Box<dyn Error>> {
    let file = folder.join(format!("{name}.node"));
    let deadline = Instant::now() + BOUND;
    loop {
        if let Ok(text) = std::fs::read_to_string(&file) {
            let (key, port) = text.split_once(' ').ok_or("not a node")?;
            return Ok((key.to_owned(), port.parse()?));
        }
        if Instant::now() > deadline {
            return Err(format!("{} didn't appear", file.display()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Takes what comes and answers with its length; answers a byte with itself as long as it comes alone.
async fn sink(engine: &Engine) -> Result<(), Box<dyn Error>> {
    loop {
        let (_, mut stream) = engine.accept().await?;
        let mut buffer = vec![0; 256 << 10];
        let mut total = 0u64;
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => break,
                Ok(1) if total < 2000 => {
                    total += 1;
                    stream.write_all(b"x").await?;
                }
                Ok(n) => total += n as u64,
                Err(_) => break,
            }
        }
        let _ = stream.write_all(&total.to_be_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

async fn source(engine: &Engine, seconds: u64) -> Result<(), Box<dyn Error>> {
    let mut stream = engine.open("sink", BOUND).await?;
    let mut trips = Vec::new();
    for _ in 0..1000 {
        let begun = Instant::now();
        stream.write_all(b"x").await?;
        stream.read_exact(&mut [0; 1]).await?;
        trips.push(begun.elapsed());
    }
    trips.sort_unstable();
    let bytes = vec![7; 256 << 10];
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        stream.write_all(&bytes).await?;
    }
    stream.shutdown().await?;
    let mut total = [0; 8];
    stream.read_exact(&mut total).await?;
    let megabits = u64::from_be_bytes(total) as f64 * 8.0 / 1e6 / begun.elapsed().as_secs_f64();
    let trip = trips.get(trips.len() / 2).copied().unwrap_or_default();
    println!("{megabits:.0} Mbit/s, round trip {trip:?}");
    println!("{:?}", engine.report().await?.tunnels.get("sink"));
    Ok(())
}
