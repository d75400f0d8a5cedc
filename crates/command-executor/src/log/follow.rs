//! A log that is written on, without polling: the kernel says when a file of an instance's folder changes.
//!
//! Watches are set before the first file is read, so that nothing falls between the two. An event only says that it
//! is worth looking; what is there is found by reading on from where reading ended. Losing events (the kernel's
//! queue is limited) therefore costs nothing but a look at every instance.

use super::merge::Merge;
use super::source::Source;
use super::{LogError, LogLine, LogQuery, run};
use async_io::{Async, Timer};
use jiff::Timestamp;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Most lines that are given out at once.
const BATCH: usize = 4096;
/// Most bytes of text that are given out at once, if they are more than one line.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Bytes for the kernel's events.
const EVENTS: usize = 16 * 1024;

/// The lines of a query and then those that are written later.
///
/// New runs, instances that don't exist yet, rotation and deleted files are followed; every line comes once. It uses
/// one descriptor for all instances and one for the file of each. Files are read in the calling task: they are
/// local, and one call reads a bounded number of lines.
#[derive(Debug)]
pub struct Follower {
    state: PathBuf,
    folders: Vec<Arc<Path>>,
    inotify: Async<OwnedFd>,
    /// Which instance a watch is for.
    watches: HashMap<i32, usize>,
    /// Instances whose folder doesn't exist yet.
    unwatched: BTreeSet<usize>,
    merge: Merge,
    /// The source whose line was given out last.
    last: Option<usize>,
    failed: VecDeque<LogError>,
    until: Option<Timestamp>,
}

impl Follower {
    /// Opens the logs under the state folder and begins to watch them.
    ///
    /// With `tail: Some(0)` only what is written from now on comes.
    ///
    /// # Errors
    /// [`LogError::Watch`] if the state folder isn't there or the user's limit of inotify instances or watches is
    /// reached; what [`read`](super::read) fails with.
    pub fn new(state: &Path, query: &LogQuery) -> Result<Self, LogError> {
        let failed = |source: io::Error| LogError::Watch { path: state.to_owned(), source };
        let descriptor = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(|errno| failed(errno.into()))?;
        let folders: Result<Vec<_>, LogError> =
            query.instances.iter().map(|instance| run::folder(state, instance)).collect();
        let folders = folders?;
        let mut follower = Self {
            state: state.to_owned(),
            inotify: Async::new_nonblocking(descriptor).map_err(failed)?,
            watches: HashMap::new(),
            unwatched: (0..folders.len()).collect(),
            folders,
            merge: Merge::new(Vec::new()),
            last: None,
            failed: VecDeque::new(),
            until: query.until,
        };
        follower.watch()?;
        let sources: Result<Vec<_>, LogError> =
            query.instances.iter().map(|instance| Source::open(state, instance, query, true)).collect();
        follower.merge = Merge::new(sources?);
        (0..follower.folders.len()).for_each(|index| follower.wake(index));
        Ok(follower)
    }

    /// The next lines, at least one, earliest first; waits until there are some. None at all means that the time
    /// `until` is over.
    ///
    /// Cancelling it loses no line.
    ///
    /// # Errors
    /// Those of [`read`](super::read). The other instances go on with the next call.
    pub async fn next(&mut self) -> Result<Vec<LogLine>, LogError> {
        loop {
            let lines = self.batch();
            if !lines.is_empty() {
                return Ok(lines);
            }
            if let Some(error) = self.failed.pop_front() {
                return Err(error);
            }
            let changed = match self.until {
                None => self.inotify.readable().await.map(|()| true),
                Some(until) => {
                    let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
                    let over = async {
                        Timer::after(left).await;
                        Ok(false)
                    };
                    futures_lite::future::or(async { self.inotify.readable().await.map(|()| true) }, over)
                        .await
                }
            };
            match changed {
                Ok(true) => self.look()?,
                Ok(false) => {
                    // What was written up to that time may have come with it.
                    (0..self.folders.len()).for_each(|index| self.wake_renamed(index));
                    return Ok(self.batch());
                }
                Err(source) => return Err(LogError::Watch { path: self.state.clone(), source }),
            }
        }
    }

    fn batch(&mut self) -> Vec<LogLine> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        while lines.len() < BATCH && bytes < BATCH_BYTES {
            if let Some(index) = self.last.take() {
                self.wake(index);
            }
            let Some((index, line)) = self.merge.pop() else { break };
            self.last = Some(index);
            bytes += line.text.len();
            lines.push(line);
        }
        lines
    }

    fn wake(&mut self, index: usize) {
        if let Err(error) = self.merge.wake(index) {
            self.failed.push_back(error);
        }
    }

    fn wake_renamed(&mut self, index: usize) {
        if let Some(source) = self.merge.source(index) {
            source.names_changed();
        }
        self.wake(index);
    }

    /// Sets the watches that are missing and whose folder exists.
    fn watch(&mut self) -> Result<Vec<usize>, LogError> {
        let parents = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        add(&self.inotify, &self.state, parents)?;
        match add(&self.inotify, &self.state.join("instances"), parents) {
            Err(LogError::Watch { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Vec::new());
            }
            added => added?,
        };
        let own = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        let mut added = Vec::new();
        for &index in &self.unwatched {
            let Some(folder) = self.folders.get(index) else { continue };
            match add(&self.inotify, folder, own) {
                Ok(watch) => {
                    self.watches.insert(watch, index);
                    added.push(index);
                }
                Err(LogError::Watch { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for index in &added {
            self.unwatched.remove(index);
        }
        Ok(added)
    }

    /// Takes the kernel's events and wakes the sources that they are about.
    fn look(&mut self) -> Result<(), LogError> {
        let mut changed: BTreeSet<usize> = BTreeSet::new();
        let mut renamed: BTreeSet<usize> = BTreeSet::new();
        let mut parents = false;
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let mut events = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    let kind = event.events();
                    if kind.contains(ReadFlags::QUEUE_OVERFLOW) {
                        renamed.extend(0..self.folders.len());
                        parents = true;
                        continue;
                    }
                    let Some(&index) = self.watches.get(&event.wd()) else {
                        parents = true;
                        continue;
                    };
                    if kind.contains(ReadFlags::IGNORED) {
                        // The folder is gone. A new one of that name may be there already.
                        self.watches.remove(&event.wd());
                        self.unwatched.insert(index);
                        parents = true;
                    }
                    if kind == ReadFlags::MODIFY {
                        changed.insert(index);
                    } else {
                        renamed.insert(index);
                    }
                }
                Err(Errno::WOULDBLOCK) => break,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(LogError::Watch { path: self.state.clone(), source: errno.into() });
                }
            }
        }
        if parents {
            renamed.extend(self.watch()?);
        }
        for index in changed {
            self.wake(index);
        }
        for index in renamed {
            self.wake_renamed(index);
        }
        Ok(())
    }
}

fn add(inotify: &Async<OwnedFd>, path: &Path, flags: WatchFlags) -> Result<i32, LogError> {
    inotify::add_watch(inotify.get_ref(), path, flags)
        .map_err(|errno| LogError::Watch { path: path.to_owned(), source: errno.into() })
}
