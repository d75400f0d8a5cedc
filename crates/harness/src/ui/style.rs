//! Colours and symbols. Meaning never rests on colour alone, and red means error and nothing else.

use anstyle::{AnsiColor, Style};

/// Something is wrong.
pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();
/// Something may be wrong.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// All is well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// On its way.
pub(crate) const BUSY: Style = AnsiColor::Cyan.on_default();
/// Less important.
pub(crate) const DIM: Style = Style::new().dimmed();
/// More important.
pub(crate) const STRONG: Style = Style::new().bold();
/// Something to type.
pub(crate) const TYPE: Style = AnsiColor::Cyan.on_default();
/// A piece of advice.
pub(crate) const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// The text in that style.
pub(crate) fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// The colours of log prefixes; no red among them.
const NAMES: [AnsiColor; 10] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightCyan,
    AnsiColor::BrightYellow,
    AnsiColor::BrightGreen,
    AnsiColor::BrightMagenta,
    AnsiColor::BrightBlue,
];

/// The colour that belongs to a name, the same in every run.
pub(crate) fn of_name(name: &str) -> Style {
    // FNV-1a: small, and the same for ever.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let index = usize::try_from(hash % NAMES.len() as u64).unwrap_or(0);
    NAMES.get(index).copied().unwrap_or(AnsiColor::Cyan).on_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_colour_and_none_is_red() {
        assert_eq!(of_name("web"), of_name("web"));
        assert!(!NAMES.contains(&AnsiColor::Red) && !NAMES.contains(&AnsiColor::BrightRed));
    }
}
