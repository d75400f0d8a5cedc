//! How far a long piece of work is: one line, redrawn in a terminal, said now and then elsewhere.

use super::progress::{Painter, Screen};
use super::{Ui, complain, style};
use std::time::{Duration, Instant};

/// From one drawing to the next.
const REDRAW: Duration = Duration::from_millis(100);
/// Nothing is silent for longer.
const SAY: Duration = Duration::from_secs(2);

/// The line. Dropped, it is gone from the terminal.
pub(crate) struct Meter {
    what: String,
    painter: Option<Painter>,
    quiet: bool,
    last: Instant,
}

impl Meter {
    /// A line about `what`: `packing web-1.0.0`.
    pub(crate) fn new(ui: &Ui, what: impl Into<String>) -> Self {
        let painter = (ui.stderr_terminal && !ui.quiet).then(|| Painter::new(Screen::Stderr));
        Self { what: what.into(), painter, quiet: ui.quiet, last: Instant::now() }
    }

    /// `done` of `total` bytes.
    pub(crate) fn at(&mut self, done: u64, total: u64) {
        let every = if self.painter.is_some() { REDRAW } else { SAY };
        if self.quiet || self.last.elapsed() < every {
            return;
        }
        self.last = Instant::now();
        let percent = done.saturating_mul(100) / total.max(1);
        let line = format!("{} {percent:3} %  {}", self.what, style::paint(style::DIM, bytes(done)));
        match &mut self.painter {
            // What can't be drawn isn't worth an error.
            Some(painter) => drop(painter.draw(vec![line])),
            None => complain(line),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(painter) = &mut self.painter {
            let _ = painter.draw(Vec::new());
        }
    }
}

/// `812 B`, `1.5 KiB`, `100.0 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in UNITS.into_iter().skip(1) {
        // What would be written as 1024.0 is one of the next.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_have_one_digit_after_the_point() {
        let told = [0, 1023, 1024, 1536, (1 << 20) - 1, 100 << 20, 5 << 30].map(bytes);
        assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "100.0 MiB", "5.0 GiB"]);
    }
}
