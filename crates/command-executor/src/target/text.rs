//! The little that reading other programs' messages needs.

/// Characters of an unknown text that are passed on.
const TEXT: usize = 2000;

/// Whether it has one of them.
pub(super) fn contains(text: &str, any: &[&str]) -> bool {
    any.iter().any(|part| text.contains(part))
}

/// What stands between two texts, on one line; not nothing.
pub(super) fn between<'a>(text: &'a str, before: &str, behind: &str) -> Option<&'a str> {
    let found = after(text, before)?.split_once(behind)?.0;
    (!found.is_empty()).then_some(found)
}

/// What stands behind a text, to the end of the line; not nothing.
pub(super) fn after<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.lines().next().filter(|line| !line.is_empty())
}

/// The word behind a text, which quotes end too; not nothing.
pub(super) fn word_after<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    let word = rest.split(|c: char| c.is_whitespace() || c == '"').next()?;
    (!word.is_empty()).then_some(word)
}

/// The word before a text, which a blank or colon begins; not nothing.
pub(super) fn word_before<'a>(text: &'a str, behind: &str) -> Option<&'a str> {
    let (before, _) = text.split_once(behind)?;
    before.rsplit([' ', ':', '\n']).find(|word| !word.is_empty())
}

/// The beginning of a text, if it is long.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{} …", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
