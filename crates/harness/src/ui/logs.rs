//! Lines of output: an aligned prefix in the colour of the name, and the text.

use super::style;
use super::table::visible;
use command_executor::log::{LogLine, Stream};
use jiff::Timestamp;
use serde::Serialize;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Columns of the longest name.
    pub(crate) names: usize,
    /// `name │` in front.
    pub(crate) prefix: bool,
    /// The time in front.
    pub(crate) times: bool,
    /// Colours of the prefix, and the service's own.
    pub(crate) colour: bool,
}

impl Shape {
    /// Writes a line with its line break to `out`.
    pub(crate) fn write(&self, name: &str, line: &LogLine, out: &mut Vec<u8>) {
        if self.prefix {
            let pad = " ".repeat(self.names.saturating_sub(visible(name)));
            let text = if self.colour {
                format!("{} ", style::paint(style::of_name(name), format_args!("{name}{pad} │")))
            } else {
                format!("{name}{pad} │ ")
            };
            out.extend_from_slice(text.as_bytes());
        }
        if self.times {
            let time = millis(line.time);
            let text = if self.colour { style::paint(style::DIM, &time) } else { time };
            out.extend_from_slice(text.as_bytes());
            out.push(b' ');
        }
        if !line.text.contains(&0x1b) && !line.text.contains(&b'\r') {
            out.extend_from_slice(&line.text);
        } else if self.colour {
            for byte in &line.text {
                // A carriage return would overwrite the prefix.
                if *byte != b'\r' {
                    out.push(*byte);
                }
            }
            out.extend_from_slice(b"\x1b[0m");
        } else {
            out.extend(strip(&line.text).into_iter().filter(|byte| *byte != b'\r'));
        }
        out.push(b'\n');
    }
}

fn strip(text: &[u8]) -> Vec<u8> {
    anstream::adapter::strip_bytes(text).into_vec()
}

/// RFC 3339 in UTC, to the millisecond.
pub(crate) fn millis(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// A line as JSON: one document on each line.
#[derive(Debug, Serialize)]
pub(crate) struct Record<'a> {
    schema: u32,
    instance: &'a str,
    run: &'a str,
    time: String,
    stream: &'static str,
    text: std::borrow::Cow<'a, str>,
}

impl<'a> Record<'a> {
    /// The JSON form; bytes that aren't UTF-8 become replacement characters.
    pub(crate) fn new(line: &'a LogLine) -> Self {
        Self {
            schema: 1,
            instance: &line.instance,
            run: &line.run,
            time: line.time.to_string(),
            stream: match line.stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            },
            text: String::from_utf8_lossy(&line.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &[u8]) -> LogLine {
        LogLine {
            instance: "web-1".into(),
            time: Timestamp::from_millisecond(1_500).unwrap(),
            stream: Stream::Stdout,
            text: text.into(),
            run: "r".into(),
        }
    }

    fn written(shape: Shape, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        shape.write("web", &line(text), &mut out);
        out
    }

    #[test]
    fn pipes_get_no_colours_and_any_bytes() {
        let shape = Shape { names: 6, prefix: true, times: false, colour: false };
        assert_eq!(written(shape, b"\x1b[31mred\x1b[0m\r"), b"web    \xe2\x94\x82 red\n");
        assert_eq!(written(Shape { prefix: false, ..shape }, b"a\xffb"), b"a\xffb\n");
        assert_eq!(
            written(Shape { times: true, ..shape }, b"x"),
            "web    │ 1970-01-01T00:00:01.500Z x\n".as_bytes()
        );
    }

    #[test]
    fn a_terminal_keeps_the_services_colours_and_closes_them() {
        let shape = Shape { names: 3, prefix: false, times: false, colour: true };
        assert_eq!(written(shape, b"\x1b[31mred"), b"\x1b[31mred\x1b[0m\n");
    }
}
