//! What came of it, for people.

use super::check::Findings;
use super::drive::Deeds;
use std::time::Duration;

/// Violations that are printed; the rest is counted.
const SHOWN: usize = 40;

/// All that is reported.
#[derive(Default)]
pub(crate) struct Report {
    /// What decides everything.
    pub(crate) seed: u64,
    seconds: u64,
    /// What must not be.
    pub(crate) violations: Vec<String>,
    /// What was done.
    pub(crate) deeds: Deeds,
    /// What the checker found.
    pub(crate) findings: Findings,
    /// Processes that were left after `stop`.
    pub(crate) orphans: usize,
    /// Copies that met another.
    pub(crate) copies: usize,
    /// Commands by exit code.
    pub(crate) codes: Vec<(String, usize)>,
    /// Lines whose order in merged logs was held against the files.
    pub(crate) merged: usize,
    /// Orders that had to hold at the end.
    pub(crate) orders: usize,
    /// From a daemon's start to its being ready, with 50 and with 100 services.
    pub(crate) adoptions_50: Vec<Duration>,
    /// The same with 100 quiet ones.
    pub(crate) adoptions_100: Vec<Duration>,
    /// KiB and descriptors of the first daemon.
    pub(crate) first_footprint: Option<(u64, u64)>,
    /// KiB and descriptors of the last one.
    pub(crate) last_footprint: Option<(u64, u64)>,
    /// Things worth knowing that are no violations.
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// Nothing found yet.
    pub(crate) fn new(seed: u64, seconds: u64) -> Self {
        Self { seed, seconds, ..Self::default() }
    }

    /// Something that must not be.
    pub(crate) fn violation(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    /// Whether nothing was found.
    pub(crate) fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// Prints all of it.
    pub(crate) fn print(&self) {
        println!("\ntorture, seed {}, {} s", self.seed, self.seconds);
        for (name, count) in &self.deeds.counts {
            println!("  {name:<28}{count:>8}");
        }
        let codes: Vec<String> = self.codes.iter().map(|(code, count)| format!("{code}: {count}")).collect();
        println!("  {:<28}{}", "exit codes of commands", codes.join(", "));
        let found = &self.findings;
        for (name, count) in [
            ("runs checked", found.runs),
            ("  forgotten by keep_runs", found.forgotten),
            ("  that could not start", found.failed_starts),
            ("  with unknown exit", found.unknown_exits),
            ("lines found", found.lines),
            ("  rotated out", found.rotated),
            ("  in gap records", found.gaps),
            ("  in order when merged", self.merged as u64),
            ("lines lost", found.lost),
            ("lines doubled", found.doubled),
            ("copies that met", self.copies as u64),
            ("orphans", self.orphans as u64),
            ("orders that had to hold", self.orders as u64),
        ] {
            println!("  {name:<28}{count:>8}");
        }
        println!("  {:<28}{:>8.0}", "service-seconds", found.seconds);
        for (name, times) in [("50 services", &self.adoptions_50), ("100 services", &self.adoptions_100)] {
            if !times.is_empty() {
                println!("  {:<28}{}", format!("adoption of {name}, ms"), milliseconds(times));
            }
        }
        for (name, footprint) in [("first", self.first_footprint), ("last", self.last_footprint)] {
            if let Some((memory, open)) = footprint {
                let name = format!("{name} daemon");
                println!("  {name:<28}{:>8.1} MiB, {open} descriptors", memory as f64 / 1024.0);
            }
        }
        for note in &self.notes {
            println!("  note: {note}");
        }
        if self.is_clean() {
            println!("withstood");
            return;
        }
        println!("\n{} VIOLATIONS, seed {}", self.violations.len(), self.seed);
        for violation in self.violations.iter().take(SHOWN) {
            println!("  {violation}");
        }
        if self.violations.len() > SHOWN {
            println!("  and {} more", self.violations.len() - SHOWN);
        }
    }
}

/// Median and all.
fn milliseconds(times: &[Duration]) -> String {
    let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
    sorted.sort_by(f64::total_cmp);
    let all: Vec<String> = sorted.iter().map(|time| format!("{time:.1}")).collect();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
    format!("{median:>8.1}  ({})", all.join(", "))
}
