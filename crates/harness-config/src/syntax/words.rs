//! A command as one text: split into words as a shell would, and nothing else that a shell does.

use orchestrator::model::{Segment, Template};

pub(crate) const EXPECTED: &str = "expected a command: words in a text, or a list";

/// Why a text can't be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unclosed {
    /// A `'` or `"` without its partner.
    Quote(char),
    /// A `\` at the end.
    Backslash,
}

/// The words of a command. What came from a variable or a reference is never split and its quotes are characters.
pub(crate) fn split(template: &Template) -> Result<Vec<Template>, Unclosed> {
    let mut splitter = Splitter::default();
    for segment in &template.segments {
        match segment {
            Segment::Text(text) => splitter.text(text)?,
            other => splitter.put(other.clone()),
        }
    }
    if let Some(quote) = splitter.quote {
        return Err(Unclosed::Quote(quote));
    }
    splitter.end();
    Ok(splitter.words)
}

#[derive(Default)]
struct Splitter {
    words: Vec<Template>,
    /// The word that is being read; `None` between words.
    word: Option<Template>,
    quote: Option<char>,
}

impl Splitter {
    fn text(&mut self, text: &str) -> Result<(), Unclosed> {
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (self.quote, c) {
                (Some(quote), c) if c == quote => self.quote = None,
                (Some('\''), c) => self.char(c),
                (Some(_), '\\') => match chars.next() {
                    Some(c @ ('"' | '\\' | '$' | '`')) => self.char(c),
                    Some('\n') => {}
                    Some(c) => {
                        self.char('\\');
                        self.char(c);
                    }
                    None => return Err(Unclosed::Backslash),
                },
                (Some(_), c) => self.char(c),
                (None, '\'' | '"') => {
                    self.word.get_or_insert_default();
                    self.quote = Some(c);
                }
                (None, '\\') => match chars.next() {
                    Some('\n') => {}
                    Some(c) => self.char(c),
                    None => return Err(Unclosed::Backslash),
                },
                (None, c) if c.is_whitespace() => self.end(),
                (None, c) => self.char(c),
            }
        }
        Ok(())
    }

    fn char(&mut self, c: char) {
        let word = self.word.get_or_insert_default();
        match word.segments.last_mut() {
            Some(Segment::Text(text)) => text.push(c),
            _ => word.segments.push(Segment::Text(c.into())),
        }
    }

    fn put(&mut self, segment: Segment) {
        self.word.get_or_insert_default().segments.push(segment);
    }

    fn end(&mut self) {
        self.words.extend(self.word.take());
    }
}

/// A word that only a shell would understand, where there is one.
pub(crate) fn shell_word(words: &[Template]) -> Option<&'static str> {
    const SHELL: [&str; 10] = ["&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1", "2>"];
    words
        .iter()
        .filter_map(Template::as_literal)
        .find_map(|word| SHELL.into_iter().find(|shell| **shell == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let words = split(&Template::literal(text)).unwrap();
        let words: Vec<String> = words.iter().map(|word| word.display(true)).collect();
        assert_eq!(words, expected, "{text}");
    }

    #[test]
    fn words_as_in_a_shell() {
        check("", &[]);
        check("  a  b\tc\n", &["a", "b", "c"]);
        check(r#"a 'b c' "d e" f\ g"#, &["a", "b c", "d e", "f g"]);
        check(r#"x"y"'z' "" '"' "\"" "\n""#, &["xyz", "", "\"", "\"", "\\n"]);
        check("sh -c 'a && b | c'", &["sh", "-c", "a && b | c"]);
        check("ä 'ö ü'", &["ä", "ö ü"]);
    }

    #[test]
    fn what_is_not_closed_is_an_error() {
        assert_eq!(split(&"a 'b".into()), Err(Unclosed::Quote('\'')));
        assert_eq!(split(&"a \"b".into()), Err(Unclosed::Quote('"')));
        assert_eq!(split(&"a \\".into()), Err(Unclosed::Backslash));
    }

    #[test]
    fn values_are_never_split() {
        let value = Segment::Value { name: "A".into(), value: "x ' y".into() };
        let template = Template {
            segments: vec![Segment::Text("run --a=".into()), value.clone(), Segment::Text(" z".into())],
        };
        let words = split(&template).unwrap();
        assert_eq!(words.len(), 3);
        assert_eq!(words[1].as_literal().as_deref(), Some("--a=x ' y"));
    }
}
