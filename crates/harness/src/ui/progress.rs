//! Live progress: one line for each service, redrawn in place without flicker.

use super::describe::count;
use super::style;
use super::table::{cut, visible};
use super::time::short;
use std::io::{self, Write};
use std::time::Duration;

/// More lines than this and the finished ones are folded into one.
const FOLD_ABOVE: usize = 20;

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// How far an item has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Something else has to come first.
    Waiting,
    /// On its way.
    Busy,
    /// As wanted.
    Done,
    /// Past its time, not given up.
    Late,
    /// It won't come.
    Failed,
}

/// A line of the progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Whose.
    pub(crate) name: String,
    /// How far.
    pub(crate) phase: Phase,
    /// In words: `ready`, `waiting for db to be healthy`.
    pub(crate) text: String,
    /// How long it took, or takes so far.
    pub(crate) time: Duration,
}

/// The lines to show: at most `height`, each at most `width` columns. `tick` turns the spinner.
pub(crate) fn frame(items: &[Item], tick: usize, width: usize, height: usize) -> Vec<String> {
    let done = items.iter().filter(|item| item.phase == Phase::Done).count();
    let room = height.saturating_sub(1).max(3);
    let fold = items.len() > FOLD_ABOVE || items.len() > room;
    let shown: Vec<&Item> = items.iter().filter(|item| !fold || item.phase != Phase::Done).collect();
    let names = shown.iter().map(|item| visible(&item.name)).max().unwrap_or(0).min(width / 3);
    let room = if fold { room - 2 } else { room };
    let mut order = shown.clone();
    if shown.len() > room {
        // What moves or failed is more telling than what waits.
        order.sort_by_key(|item| match item.phase {
            Phase::Failed => 0,
            Phase::Late => 1,
            Phase::Busy => 2,
            Phase::Waiting | Phase::Done => 3,
        });
    }
    let mut lines = Vec::new();
    if fold {
        let text = format!("✓ {done} of {} done", items.len());
        lines.push(style::paint(style::GOOD, text));
    }
    for item in order.iter().take(room) {
        lines.push(line(item, tick, names));
    }
    if order.len() > room {
        lines.push(style::paint(style::DIM, format_args!("… and {}", count(order.len() - room, "other"))));
    }
    lines.iter().map(|line| cut(line, width)).collect()
}

fn line(item: &Item, tick: usize, names: usize) -> String {
    let spinner = SPINNER.get(tick % SPINNER.len()).copied().unwrap_or("●");
    let (symbol, style) = match item.phase {
        Phase::Waiting => ("○", style::DIM),
        Phase::Busy => (spinner, style::BUSY),
        Phase::Done => ("✓", style::GOOD),
        Phase::Late => ("●", style::WARNING),
        Phase::Failed => ("✗", style::ERROR),
    };
    let name = cut(&item.name, names.max(1));
    let pad = " ".repeat(names.saturating_sub(visible(&name)));
    let text = match item.phase {
        Phase::Failed => style::paint(style::ERROR, &item.text),
        Phase::Waiting => style::paint(style::DIM, &item.text),
        _ => item.text.clone(),
    };
    let time = style::paint(style::DIM, short(item.time));
    format!("{} {name}{pad}  {text}  {time}", style::paint(style, symbol))
}

/// Which stream is drawn on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Screen {
    /// For data that is watched.
    Stdout,
    /// For talk.
    Stderr,
}

/// Draws frames over each other. Writes each frame at once, between the marks of synchronised output.
#[derive(Debug)]
pub(crate) struct Painter {
    screen: Screen,
    colour: bool,
    drawn: Vec<String>,
}

impl Painter {
    /// A painter for a terminal; nothing is drawn yet.
    pub(crate) fn new(screen: Screen) -> Self {
        let choice = match screen {
            Screen::Stdout => anstream::AutoStream::choice(&io::stdout()),
            Screen::Stderr => anstream::AutoStream::choice(&io::stderr()),
        };
        Self { screen, colour: choice != anstream::ColorChoice::Never, drawn: Vec::new() }
    }

    /// Replaces what was drawn before. Draws nothing if nothing changed.
    pub(crate) fn draw(&mut self, lines: Vec<String>) -> io::Result<()> {
        if lines == self.drawn {
            return Ok(());
        }
        let text = self.update(&lines);
        self.drawn = lines;
        self.write(text.as_bytes())
    }

    /// Leaves what is drawn where it is; the next frame begins below.
    pub(crate) fn leave(&mut self) {
        self.drawn.clear();
    }

    fn update(&self, lines: &[String]) -> String {
        let mut text = String::from("\u{1b}[?2026h");
        if !self.drawn.is_empty() {
            text.push_str(&format!("\u{1b}[{}F", self.drawn.len()));
        }
        for line in lines {
            if self.colour {
                text.push_str(line);
            } else {
                text.push_str(&anstream::adapter::strip_str(line).to_string());
            }
            text.push_str("\u{1b}[K\n");
        }
        text.push_str("\u{1b}[J\u{1b}[?2026l");
        text
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self.screen {
            Screen::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            }
            Screen::Stderr => io::stderr().lock().write_all(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, phase: Phase, text: &str, millis: u64) -> Item {
        Item { name: name.into(), phase, text: text.into(), time: Duration::from_millis(millis) }
    }

    fn plain(lines: &[String]) -> String {
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string() + "\n").collect()
    }

    #[test]
    fn one_line_for_each_service() {
        let items = [
            item("db", Phase::Done, "ready", 340),
            item("web", Phase::Waiting, "waiting for db to be healthy", 12_000),
            item("worker", Phase::Busy, "starting", 1_500),
            item("cache", Phase::Failed, "exit code 1", 20),
            item("slow", Phase::Late, "not ready after 5s", 6_000),
        ];
        insta::assert_snapshot!(plain(&frame(&items, 0, 80, 24)), @r"
        ✓ db      ready  340ms
        ○ web     waiting for db to be healthy  12s
        ⠋ worker  starting  1.5s
        ✗ cache   exit code 1  20ms
        ● slow    not ready after 5s  6.0s
        ");
    }

    #[test]
    fn finished_lines_fold_above_twenty() {
        let mut items: Vec<Item> =
            (0..30).map(|n| item(&format!("s{n}"), Phase::Done, "ready", 10)).collect();
        items.push(item("web", Phase::Busy, "starting", 10));
        insta::assert_snapshot!(plain(&frame(&items, 1, 80, 24)), @r"
        ✓ 30 of 31 done
        ⠙ web  starting  10ms
        ");
    }

    #[test]
    fn a_frame_never_exceeds_the_terminal() {
        let items: Vec<Item> =
            (0..300).map(|n| item(&format!("service-{n}"), Phase::Busy, &"x".repeat(200), 10)).collect();
        for (width, height) in [(80, 24), (20, 5), (10, 1), (1, 1)] {
            let lines = frame(&items, 0, width, height);
            assert!(lines.len() <= height.max(4), "{width}x{height}: {}", lines.len());
            assert!(lines.iter().all(|line| visible(line) <= width), "{width}x{height}");
        }
    }

    #[test]
    fn a_redraw_goes_up_by_what_was_drawn_and_clears_the_rest() {
        let mut painter =
            Painter { screen: Screen::Stderr, colour: false, drawn: vec!["a".into(), "b".into()] };
        assert_eq!(painter.update(&["c".into()]), "\u{1b}[?2026h\u{1b}[2Fc\u{1b}[K\n\u{1b}[J\u{1b}[?2026l");
        painter.leave();
        assert_eq!(painter.update(&["c".into()]), "\u{1b}[?2026hc\u{1b}[K\n\u{1b}[J\u{1b}[?2026l");
    }
}
