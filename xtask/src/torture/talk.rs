//! Tempers that talk to each other, for the torture of nodes: who answers, who asks and writes down what came, and who beats as
//! long as it lives, so that two copies on different machines are found.
//!
//! Part of the program `temper`; the chore reads what is written here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The folder of what came of the questions.
pub(crate) const ANSWERS: &str = "answers";

/// The folder of beats.
pub(crate) const BEATS: &str = "beats";

/// How long a connection may take to come about, and an answer to come.
const PATIENCE: Duration = Duration::from_secs(15);

/// The pause between two questions to the same service.
const PAUSE: Duration = Duration::from_millis(100);

/// Milliseconds since boot: the same for all test hosts of a machine, since they share its kernel.
pub(crate) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let number = now.tv_sec * 1000 + now.tv_nsec / 1_000_000;
    u64::try_from(number).unwrap_or(0)
}

/// Answers everyone who connects with `NAME WHO`, for ever.
pub(crate) fn serve(name: &str, who: &str, address: Ipv4Addr, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((address, port))?;
    let answer = format!("{name} {who}\n");
    for stream in listener.incoming() {
        // One who went away before he was answered is nothing to us.
        let _ = stream.and_then(|mut stream| stream.write_all(answer.as_bytes()));
    }
    Ok(())
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The one who was asked.
    Right,
    /// Somebody else, and what he said.
    Wrong(String),
    /// Nobody, and why.
    Nobody(String),
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// When it was asked, in milliseconds since boot.
    pub(crate) at: u64,
    /// Until when.
    pub(crate) until: u64,
    /// Who was asked.
    pub(crate) whom: String,
    /// What came.
    pub(crate) outcome: Outcome,
}

impl Asked {
    /// As a line.
    fn line(&self) -> String {
        let (word, rest) = match &self.outcome {
            Outcome::Right => ("right", ""),
            Outcome::Wrong(said) => ("wrong", said.as_str()),
            Outcome::Nobody(why) => ("nobody", why.as_str()),
        };
        format!("{} {} {} {word} {}\n", self.at, self.until, self.whom, rest.replace('\n', " "))
    }

    /// From a line; `None` for one that wasn't finished.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let mut words = line.splitn(5, ' ');
        let (at, until) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (whom, word, rest) = (words.next()?.to_owned(), words.next()?, words.next()?.to_owned());
        let outcome = match word {
            "right" => Outcome::Right,
            "wrong" => Outcome::Wrong(rest),
            "nobody" => Outcome::Nobody(rest),
            _ => return None,
        };
        Some(Self { at, until, whom, outcome })
    }
}

/// Asks all of `whom` (`NAME=ADDRESS`, with blanks between), for ever, and writes down what comes.
pub(crate) fn ask(whom: &str, file: &Path) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).open(file)?;
    let file = Arc::new(Mutex::new(file));
    let mut threads = Vec::new();
    for pair in whom.split_ascii_whitespace() {
        let (name, address) = pair.split_once('=').ok_or_else(|| io::Error::other(format!("`{pair}`")))?;
        let (name, address, file) = (name.to_owned(), address.to_owned(), Arc::clone(&file));
        threads.push(std::thread::spawn(move || ask_one(&name, &address, &file)));
    }
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("one who asks has panicked"))??;
    }
    Ok(())
}

fn ask_one(name: &str, address: &str, file: &Mutex<File>) -> io::Result<()> {
    loop {
        let at = now();
        let outcome = match question(address) {
            Ok(said) if said.split(' ').next() == Some(name) && said.ends_with('\n') => Outcome::Right,
            Ok(said) if said.is_empty() => Outcome::Nobody("closed".into()),
            Ok(said) if name.starts_with(said.as_str()) => Outcome::Nobody("closed within the answer".into()),
            Ok(said) => Outcome::Wrong(said),
            Err(error) => Outcome::Nobody(error.to_string()),
        };
        let asked = Asked { at, until: now(), whom: name.to_owned(), outcome };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(asked.line().as_bytes())?;
        drop(file);
        std::thread::sleep(PAUSE);
    }
}

fn question(address: &str) -> io::Result<String> {
    let address: SocketAddr =
        address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// A life: from when to when a run was alive, in milliseconds since boot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life {
    /// Its first beat.
    pub(crate) from: u64,
    /// Its last one.
    pub(crate) to: u64,
    /// Where and which.
    pub(crate) whose: String,
}

/// Pairs of lives that were lived at the same time.
pub(crate) fn overlaps(mut lives: Vec<Life>) -> Vec<(Life, Life)> {
    lives.sort();
    let pairs = lives.iter().zip(lives.iter().skip(1));
    pairs.filter(|(first, second)| second.from <= first.to).map(|(a, b)| (a.clone(), b.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_read_as_it_was_written() {
        for outcome in [Outcome::Right, Outcome::Wrong("b b-1".into()), Outcome::Nobody("timed out".into())] {
            let asked = Asked { at: 7, until: 9, whom: "a".into(), outcome };
            assert_eq!(Asked::read(asked.line().trim_end_matches('\n')), Some(asked));
        }
        assert_eq!(Asked::read("7 9 a"), None);
    }

    #[test]
    fn lives_one_after_another_are_no_copies() {
        let life = |from, to| Life { from, to, whose: String::new() };
        assert!(overlaps(vec![life(30, 40), life(1, 20), life(21, 29)]).is_empty());
        assert_eq!(overlaps(vec![life(10, 30), life(1, 20)]).len(), 1);
    }
}
