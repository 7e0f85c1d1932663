//! `-P`: a line when it begins, when it ends, and once a second in between (`progress_report`).

use std::io::{IsTerminal as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::backup::verify::{Progress, Stage};

/// When the last line was written.
#[derive(Debug)]
pub(super) struct ProgressLine {
    second: u64,
    on_terminal: bool,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        ProgressLine { second: 0, on_terminal: std::io::stderr().is_terminal() }
    }

    pub(super) fn show(&mut self, progress: Progress) {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second == self.second && progress.stage != Stage::End {
            return;
        }
        self.second = second;
        // stay on the line as long as there is more to come
        let end = if self.on_terminal && progress.stage != Stage::End { '\r' } else { '\n' };
        // when standard error is closed there is nobody to tell
        let _ = std::io::stderr().write_all(format!("{}{end}", text(progress)).as_bytes());
    }
}

fn text(progress: Progress) -> String {
    let Progress { done_len, total_len, .. } = progress;
    let percent = (u128::from(done_len) * 100).checked_div(total_len.into()).unwrap_or(0);
    let total = (total_len >> 10).to_string();
    format!("{:>width$}/{total} kB ({percent}%) verified", done_len >> 10, width = total.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_originals() {
        let line = |done_len, total_len| text(Progress { stage: Stage::UnderWay, done_len, total_len });
        assert_eq!(line(0, 0), "0/0 kB (0%) verified");
        assert_eq!(line(5 << 10, 2000 << 10), "   5/2000 kB (0%) verified");
        assert_eq!(line(2000 << 10, 2000 << 10), "2000/2000 kB (100%) verified");
        assert_eq!(line(u64::MAX, u64::MAX), "18014398509481983/18014398509481983 kB (100%) verified");
    }
}
