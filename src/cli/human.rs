//! Sizes and times for people.

use std::time::Duration;

/// Bytes in binary units, two digits behind the point: `1.50 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A span of time in its two largest units: `850 ms`, `4.2 s`, `3 min 20 s`, `5 h 12 min`, `3 d 4 h`.
pub(super) fn duration(duration: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..MINUTE => format!("{:.1} s", duration.as_secs_f64()),
        MINUTE..HOUR => format!("{} min {} s", seconds / MINUTE, seconds % MINUTE),
        HOUR..DAY => format!("{} h {} min", seconds / HOUR, seconds % HOUR / MINUTE),
        _ => format!("{} d {} h", seconds / DAY, seconds % DAY / HOUR),
    }
}

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
    fn sizes_and_times_have_fitting_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(3 << 29), "1.50 GiB");
        let spans = [(0.85, "850 ms"), (4.24, "4.2 s"), (200.0, "3 min 20 s"), (18_720.0, "5 h 12 min")];
        for (seconds, text) in spans {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
        assert_eq!(duration(Duration::from_secs(3 * 86_400 + 4 * 3600)), "3 d 4 h");
    }

    #[test]
    fn no_name_commands_a_terminal() {
        assert_eq!(printable("it's \"C:\\\"", 63), "it's \"C:\\\"");
        assert_eq!(printable("a\x1b[2J\u{9b}1m\u{202e}\n", 63), "a\\u{1b}[2J\\u{9b}1m\\u{202e}\\n");
        assert_eq!(printable("äöüx", 3), "äöü…");
    }
}
