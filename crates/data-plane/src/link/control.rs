//! The stream of a link over which tables go down and reports come up, and the one that shows that the other end is there.

use super::Side;
use super::hold::PING;
use super::mux::{Link, Stream};
use crate::lines::{self, LONGEST};
use crate::plane::{Plane, Reporting, lock};
use crate::ways::hello::{self, Hello};
use orchestrator::network::plane::{Report, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

/// How long the other end may take for its first report.
const FIRST: Duration = Duration::from_secs(15);

/// What goes down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Down {
    Serve(Box<Table>),
}

/// What comes up.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Up {
    Report(Box<Report>),
    /// The table isn't served.
    Refused(String),
}

/// The end that made the link. Returns why the link is of no use any more.
pub(crate) async fn near(plane: &Arc<Plane>, link: &Arc<Link>, lives: impl FnOnce()) -> String {
    let why = |error: io::Error| format!("the link broke: {error}");
    let stream = match begin(link, &Hello::Control).await {
        Ok(stream) => stream,
        Err(error) => return why(error),
    };
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    let first = match timeout(FIRST, next(&mut reader)).await {
        Ok(Ok(first)) => first,
        Ok(Err(why)) => return why,
        Err(_) => return format!("{} doesn't report", link.node),
    };
    if let Up::Report(report) = &first
        && report.node != link.node
    {
        return format!("{} was expected at the other end, {} is there", link.node, report.node);
    }
    lives();
    plane.links.add(Side::Made, link);
    plane.link_stands(&link.node, None);
    heard(plane, &link.node, first);
    tokio::select! {
        why = hear(plane, &link.node, reader) => why,
        error = hand_on(plane, &link.node, writer) => why(error),
        error = ping(plane, link) => why(error),
    }
}

async fn begin(link: &Link, hello: &Hello) -> io::Result<Stream> {
    let mut stream = link.open().await?;
    hello::write(&mut stream, hello).await?;
    Ok(stream)
}

async fn next(reader: &mut BufReader<ReadHalf<Stream>>) -> Result<Up, String> {
    match lines::read(reader, LONGEST).await {
        Ok(Some(up)) => Ok(up),
        Ok(None) => Err("the other end has ended".to_owned()),
        Err(error) => Err(format!("the link broke: {error}")),
    }
}

async fn hear(plane: &Plane, node: &str, mut reader: BufReader<ReadHalf<Stream>>) -> String {
    loop {
        match next(&mut reader).await {
            Ok(up) => heard(plane, node, up),
            Err(why) => return why,
        }
    }
}

fn heard(plane: &Plane, node: &str, up: Up) {
    match up {
        Up::Report(mut report) => {
            report.others = BTreeMap::new();
            if !plane.table().peers.contains_key(node) {
                return;
            }
            let news =
                lock(&plane.others).insert(node.to_owned(), *report.clone()).as_ref() != Some(&*report);
            if news {
                plane.changed();
            }
        }
        Up::Refused(why) => tracing::warn!(node, why, "a node refuses its table"),
    }
}

/// Hands the node its table, now and whenever it changes.
async fn hand_on(plane: &Plane, node: &str, mut writer: WriteHalf<Stream>) -> io::Error {
    let mut tables = plane.table.subscribe();
    let mut told = None;
    loop {
        let table = tables.borrow_and_update().others.get(node).cloned();
        if table != told
            && let Some(table) = table
        {
            let sent = lines::write(&mut writer, &Down::Serve(Box::new(table.clone()))).await;
            if let Err(error) = sent {
                return error;
            }
            told = Some(table);
        }
        if tables.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Asks every now and then, and notes how long the answer takes. That none comes is noticed by the silence.
async fn ping(plane: &Plane, link: &Link) -> io::Error {
    let asked = async {
        let mut stream = begin(link, &Hello::Ping).await?;
        for number in 0.. {
            let began = Instant::now();
            stream.write_u64(number).await?;
            if stream.read_u64().await? != number {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "another answer than asked for"));
            }
            plane.link_stands(&link.node, Some(began.elapsed()));
            tokio::time::sleep(PING).await;
        }
        Ok(())
    };
    match asked.await {
        Ok(()) => std::future::pending().await,
        Err(error) => error,
    }
}

/// The end that the link came to.
pub(crate) async fn far(plane: &Arc<Plane>, stream: Stream) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    let (refusals, mut refused) = tokio::sync::mpsc::channel(4);
    let obey = async {
        while let Ok(Some(Down::Serve(table))) = lines::read(&mut reader, LONGEST).await {
            if let Err(why) = plane.serve(*table).await
                && refusals.send(why).await.is_err()
            {
                return;
            }
        }
    };
    let tell = async {
        let mut reporting = Reporting::new(plane);
        loop {
            let mut report = plane.report();
            report.others = BTreeMap::new();
            let mut told = lines::write(&mut writer, &Up::Report(Box::new(report))).await;
            loop {
                tokio::select! {
                    () = reporting.due() => break,
                    Some(why) = refused.recv() => told = lines::write(&mut writer, &Up::Refused(why)).await,
                }
                if told.is_err() {
                    return;
                }
            }
            if told.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = obey => {}
        () = tell => {}
    }
}
