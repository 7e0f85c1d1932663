//! What fits of a picture onto a terminal.

use super::super::grid::cut;
use super::screen::Shown;

/// As many lines as fit, with a last line that says how to leave. Where not all fit, warnings go before tables: they are
/// what somebody has to do something about.
pub(super) fn frame(shown: &Shown, footer: &str, width: usize, height: usize) -> String {
    let room = height.saturating_sub(1);
    let mut frame = String::from("\x1b[H");
    // cleared before it is written: behind a full line that would take its last character
    for line in fitting(shown, room) {
        frame.push_str(&format!("\x1b[2K{}\r\n", cut(&line, width)));
    }
    frame.push_str("\x1b[J");
    frame.push_str(&cut(footer, width));
    frame
}

fn fitting(shown: &Shown, room: usize) -> Vec<String> {
    let all = shown.text();
    let count = all.lines().count();
    if count <= room {
        return all.lines().map(str::to_owned).collect();
    }
    let (tables, remarks): (Vec<&str>, Vec<&str>) =
        (shown.tables.lines().collect(), shown.remarks.lines().collect());
    let below = remarks.len().min(room / 2);
    let above = room.saturating_sub(below + 1).min(tables.len());
    let hidden = tables.len() - above + remarks.len() - below;
    let more = format!("… {hidden} more lines: make the terminal taller");
    let lines =
        tables[..above].iter().copied().chain([more.as_str()]).chain(remarks[..below].iter().copied());
    lines.take(room).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(tables: &str, remarks: &str) -> Shown {
        Shown { tables: tables.to_owned(), remarks: remarks.to_owned() }
    }

    #[test]
    fn a_frame_fits_the_terminal() {
        let shown = shown("one\ntwo\nthree is long\nfour\n", "");
        assert_eq!(
            frame(&shown, "q quits", 8, 6),
            "\x1b[H\x1b[2Kone\r\n\x1b[2Ktwo\r\n\x1b[2Kthree i…\r\n\x1b[2Kfour\r\n\x1b[Jq quits"
        );
        assert_eq!(
            frame(&shown, "q quits", 40, 4),
            "\x1b[H\x1b[2Kone\r\n\x1b[2Ktwo\r\n\x1b[2K… 2 more lines: make the terminal taller\r\n\x1b[Jq quits"
        );
        assert_eq!(frame(&shown, "q quits", 40, 1), "\x1b[H\x1b[Jq quits");
    }

    #[test]
    fn a_warning_is_seen_whatever_does_not_fit() {
        let shown = shown("one\ntwo\nthree\nfour\n", "warning: a\n    b\nnote: c\n");
        assert_eq!(fitting(&shown, 8), ["one", "two", "three", "four", "", "warning: a", "    b", "note: c"]);
        let more = |count: usize| format!("… {count} more lines: make the terminal taller");
        assert_eq!(fitting(&shown, 6), ["one", "two", &more(2), "warning: a", "    b", "note: c"]);
        assert_eq!(fitting(&shown, 4), ["one", &more(4), "warning: a", "    b"]);
        assert_eq!(fitting(&shown, 2), [more(6), "warning: a".to_owned()]);
        assert_eq!(fitting(&shown, 1), [more(7)]);
        assert_eq!(fitting(&shown, 0), [""; 0]);
    }
}
