//! The registry beside etcd: durable and volatile puts, put to event, memory; and what only the registry is asked for.
//!
//! `bench-registry ETCD FOLDER RESULTS`: FOLDER is on the disk that durable writes go to.

mod peer;
mod serve;

use peer::{PATIENCE, Peer, Result, entry};
use service_registry::wire;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long puts are counted.
const SECONDS: u64 = 4;
/// Puts whose way to the watchers is timed.
const TIMED: u32 = 400;
const SYSTEMS: [&str; 3] = ["harness, Unix socket", "harness, TLS", "etcd"];
const FIRST_PORT: u16 = 22_790;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", folder] => serve::serve(Path::new(folder), true).map_err(|error| error.to_string().into()),
        ["serve-memory", folder] => {
            serve::serve(Path::new(folder), false).map_err(|error| error.to_string().into())
        }
        [etcd, folder, results, only @ ..] => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(compare(Path::new(etcd), Path::new(folder), Path::new(results), only))
        }
        _ => Err("usage: bench-registry ETCD FOLDER RESULTS [puts|watch|many]...".into()),
    }
}

/// Rows of figures, one for each system.
#[derive(Default)]
struct Table(Vec<(String, [String; 3])>);

impl Table {
    fn set(&mut self, row: &str, system: usize, figure: String) {
        println!("{row}, {}: {figure}", SYSTEMS[system]);
        let at = self.0.iter().position(|(name, _)| name == row).unwrap_or_else(|| {
            self.0.push((row.to_owned(), Default::default()));
            self.0.len() - 1
        });
        self.0[at].1[system] = figure;
    }

    fn markdown(&self) -> String {
        let mut text = format!("| | {} |\n|---|---|---|---|\n", SYSTEMS.join(" | "));
        for (row, figures) in &self.0 {
            text.push_str(&format!("| {row} | {} |\n", figures.join(" | ")));
        }
        text
    }
}

struct Bench<'a> {
    etcd: &'a Path,
    disk: &'a Path,
    next: u16,
}

impl Bench<'_> {
    /// A fresh server; its folder is on the disk, or in memory.
    async fn start(&mut self, system: usize, durable: bool) -> Result<(Peer, PathBuf)> {
        self.next += 2;
        let parent = if durable { self.disk } else { Path::new("/dev/shm") };
        let folder = parent.join(format!("bench-registry-{}-{}", std::process::id(), self.next));
        std::fs::create_dir(&folder)?;
        let peer = match system {
            0 => Peer::ours(&folder, durable, false).await?,
            1 => Peer::ours(&folder, durable, true).await?,
            _ => Peer::etcd(self.etcd, &folder, self.next).await?,
        };
        Ok((peer, folder))
    }
}

async fn compare(etcd: &Path, disk: &Path, results: &Path, only: &[&str]) -> Result<()> {
    let wanted = |part| only.is_empty() || only.contains(&part);
    let mut table = Table::default();
    let mut bench = Bench { etcd, disk, next: FIRST_PORT };
    let kinds = [(true, "durable puts/s"), (false, "puts/s in memory")];
    for (durable, what) in kinds.into_iter().filter(|_| wanted("puts")) {
        for clients in [1, 16, 64] {
            for system in 0..SYSTEMS.len() {
                let (peer, folder) = bench.start(system, durable).await?;
                let rate = puts(&peer, clients).await?;
                table.set(&format!("{what}, {clients} clients"), system, format!("{rate:.0}"));
                peer.end().await?;
                std::fs::remove_dir_all(folder)?;
            }
        }
    }
    for watchers in [1, 100].into_iter().filter(|_| wanted("watch")) {
        for system in 0..SYSTEMS.len() {
            let (peer, folder) = bench.start(system, true).await?;
            let (p50, p99) = watched(&peer, watchers).await?;
            let row = format!("durable put → event, {watchers} watchers, p50 / p99 ms");
            table.set(&row, system, format!("{p50:.2} / {p99:.2}"));
            puts(&peer, 64).await?;
            let row = format!("… resident after {SECONDS} s of puts by 64 clients, with {watchers} watchers before, MiB");
            table.set(&row, system, format!("{:.1}", peer.memory()?));
            peer.end().await?;
            std::fs::remove_dir_all(folder)?;
        }
    }
    for system in (0..2).filter(|_| wanted("many")) {
        let (peer, folder) = bench.start(system, true).await?;
        many(&peer, system, &mut table).await?;
        peer.end().await?;
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(results)?;
    std::fs::write(results.join("registry.md"), table.markdown())?;
    println!("\n{}", table.markdown());
    Ok(())
}

/// Puts in a second, by so many clients that each wait for the answer before the next.
async fn puts(peer: &Peer, clients: usize) -> Result<f64> {
    let mut writers = Vec::new();
    for number in 0..clients {
        writers.push(peer.writer(number).await?);
    }
    let (over, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let tasks: Vec<_> = writers
        .into_iter()
        .map(|mut writer| {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                let mut number = 0;
                while !over.load(Ordering::Relaxed) {
                    number += 1;
                    writer.put(number).await?;
                }
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(number)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    over.store(true, Ordering::Relaxed);
    let mut all = 0;
    for task in tasks {
        all += task.await??;
    }
    Ok(f64::from(all) / begun.elapsed().as_secs_f64())
}

/// Milliseconds from before a put to each watcher's event: the median and the 99th of 100.
async fn watched(peer: &Peer, watchers: usize) -> Result<(f64, f64)> {
    let mut writer = peer.writer(0).await?;
    writer.put(0).await?;
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..watchers {
        let mut watcher = peer.watcher().await?;
        tasks.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            loop {
                for number in watcher.next().await? {
                    seen.push((number, begun.elapsed()));
                    if number == TIMED {
                        return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(seen);
                    }
                }
            }
        }));
    }
    let mut put = vec![Duration::ZERO];
    for number in 1..=TIMED {
        put.push(begun.elapsed());
        writer.put(number).await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut times = Vec::new();
    for task in tasks {
        let seen = tokio::time::timeout(PATIENCE, task).await???;
        let timed = seen.into_iter().filter(|(number, _)| *number > 0);
        times.extend(timed.map(|(number, at)| (at - put[number as usize]).as_secs_f64() * 1000.0));
    }
    if times.len() != watchers * TIMED as usize {
        return Err(format!("{} events for {TIMED} puts and {watchers} watchers", times.len()).into());
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
}

/// 10,000 entries: memory and listing; then 1,000 subscribers beside them.
async fn many(peer: &Peer, system: usize, table: &mut Table) -> Result<()> {
    let client = peer.client().await?;
    table.set("resident when empty, MiB", system, format!("{:.1}", peer.memory()?));
    for block in 0..200 {
        let calls = (block * 50..(block + 1) * 50).map(|number| {
            let (client, entry) = (client.clone(), entry("many", number));
            async move {
                let new = wire::RegisterParams { entry, lease: None };
                client.call::<_, serde_json::Value>(wire::REGISTRY_REGISTER, &new, PATIENCE).await
            }
        });
        for called in futures_util::future::join_all(calls).await {
            called?;
        }
    }
    table.set("resident with 10,000 entries, MiB", system, format!("{:.1}", peer.memory()?));
    let (mut received, mut bytes) = (Vec::new(), 0);
    for _ in 0..21 {
        let begun = Instant::now();
        let text: Box<serde_json::value::RawValue> =
            client.call(wire::REGISTRY_LIST, &serde_json::json!({}), PATIENCE).await?;
        received.push(begun.elapsed().as_secs_f64() * 1000.0);
        bytes = text.get().len();
    }
    received.sort_by(f64::total_cmp);
    let row = "`registry.list` of 10,000 entries, received, ms";
    table.set(row, system, format!("{:.1} ({:.1} MB)", received[10], bytes as f64 / 1e6));
    table.set("resident after 21 of them, MiB", system, format!("{:.1}", peer.memory()?));
    let begun = Instant::now();
    let calls = (0..50).map(|n| {
        let client = client.clone();
        async move {
            let params = wire::InstanceParams { instance: format!("many-{n}") };
            client.call::<_, serde_json::Value>(wire::REGISTRY_GET, &params, PATIENCE).await
        }
    });
    let failed = futures_util::future::join_all(calls).await.iter().filter(|call| call.is_err()).count();
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    table.set("50 pipelined requests, ms", system, format!("{took:.1} ({failed} refused)"));
    subscribers(peer, system, table).await
}

/// 1,000 connections that subscribe to what happens from now on, and a put that all of them see.
async fn subscribers(peer: &Peer, system: usize, table: &mut Table) -> Result<()> {
    let mut writer = peer.writer(0).await?;
    let revision = peer.client().await?.server().revision;
    let (mut watching, begun) = (Vec::new(), Instant::now());
    for _ in 0..1_000 {
        let client = peer.client().await?;
        let filter = service_registry::registry::Filter::names(["load"]);
        watching.push((client.subscribe(&filter, Some(revision), PATIENCE).await?, client));
    }
    let row = "1,000 subscribers connected one after the other, s";
    table.set(row, system, format!("{:.2}", begun.elapsed().as_secs_f64()));
    let begun = Instant::now();
    writer.put(7).await?;
    for (subscription, _) in &mut watching {
        let seen = tokio::time::timeout(PATIENCE, subscription.next()).await?;
        if !matches!(&seen, Some(service_registry::registry::Item::Event(_))) {
            return Err(format!("not an event: {seen:?}").into());
        }
    }
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    table.set("… until all have seen a put, ms", system, format!("{took:.1}"));
    table.set("… resident then, MiB", system, format!("{:.1}", peer.memory()?));
    Ok(())
}
