//! Sizes and times for people.

pub(super) use crate::observe::human::{bytes, duration};

/// A text that a server, or somebody through it, has chosen, so that it commands no terminal: what is not printable is
/// written as in Rust, and no more than `max` characters of it are shown.
pub(super) fn printable(text: &str, max: usize) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == max {
            shown.push('…');
            break;
        }
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_commands_a_terminal() {
        assert_eq!(printable("it's \"C:\\\"", 63), "it's \"C:\\\"");
        assert_eq!(printable("a\x1b[2J\u{9b}1m\u{202e}\n", 63), "a\\u{1b}[2J\\u{9b}1m\\u{202e}\\n");
        assert_eq!(printable("äöüx", 3), "äöü…");
    }
}
