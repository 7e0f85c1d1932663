//! `-P`: how far the backup is, in the original's lines (`progress_report`).

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a file's name may be; a longer one loses its beginning.
const NAME_LEN: usize = 35;

/// How often a line is written at most, unless it has to be.
const INTERVAL: Duration = Duration::from_secs(1);

/// What is shown.
#[derive(Debug)]
pub(super) struct ProgressReport {
    style: Option<Style>,
    on_terminal: bool,
    total_kb: u64,
    done: u64,
    tablespace_count: usize,
    last: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    /// With the name of the file.
    Verbose,
}

/// Whether a line has to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// When the last one is old enough.
    Sometimes,
    Now,
    /// It is the last one.
    Finished,
}

impl ProgressReport {
    pub(super) fn new(show: bool, verbose: bool) -> Self {
        let style = if verbose { Style::Verbose } else { Style::Plain };
        ProgressReport {
            style: show.then_some(style),
            on_terminal: std::io::stderr().is_terminal(),
            total_kb: 0,
            done: 0,
            tablespace_count: 0,
            last: None,
        }
    }

    /// Whether names of files are shown.
    pub(super) fn names_files(&self) -> bool {
        self.style == Some(Style::Verbose)
    }

    /// Before there is anything to count.
    pub(super) fn waiting_for_checkpoint(&self) {
        if self.style == Some(Style::Plain) {
            self.write("waiting for checkpoint", Urgency::Now);
        }
    }

    /// How much there is to come.
    pub(super) fn expect(&mut self, tablespace_count: usize, total_kb: u64) {
        (self.tablespace_count, self.total_kb) = (tablespace_count, total_kb);
    }

    /// How much has come.
    pub(super) fn set_done(&mut self, bytes: u64) {
        self.done = bytes;
    }

    /// So much more has come.
    pub(super) fn add_done(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
    }

    /// Writes a line, if it is time to; `tablespace` is the number of those that are complete.
    pub(super) fn report(&mut self, tablespace: usize, file: Option<&Path>, urgency: Urgency) {
        let Some(style) = self.style else { return };
        let now = Instant::now();
        let is_recent = self.last.is_some_and(|last| now.duration_since(last) < INTERVAL);
        if is_recent && urgency == Urgency::Sometimes {
            return;
        }
        self.last = Some(now);
        let line = self.line(style, tablespace, file);
        self.write(&line, urgency);
    }

    fn line(&mut self, style: Style, tablespace: usize, file: Option<&Path>) -> String {
        let done_kb = self.done / 1024;
        let percent = match self.total_kb {
            0 => 0,
            total_kb => (u128::from(done_kb) * 100 / u128::from(total_kb)).min(100),
        };
        self.total_kb = self.total_kb.max(done_kb);
        let total = self.total_kb.to_string();
        let count = self.tablespace_count;
        let noun = if count == 1 { "tablespace" } else { "tablespaces" };
        let start = format!("{done_kb:>width$}/{total} kB", width = total.len());
        match (style, file) {
            (Style::Plain, _) => format!("{start} ({percent}%), {tablespace}/{count} {noun}"),
            (Style::Verbose, None) => {
                format!("{start} (100%), {tablespace}/{count} {noun} {:width$}", "", width = NAME_LEN + 5)
            }
            (Style::Verbose, Some(file)) => {
                let name = shortened(&file.to_string_lossy());
                format!("{start} ({percent}%), {tablespace}/{count} {noun} ({name:NAME_LEN$})")
            }
        }
    }

    fn write(&self, line: &str, urgency: Urgency) {
        let end = if self.on_terminal && urgency != Urgency::Finished { '\r' } else { '\n' };
        // when standard error is closed there is nobody to tell
        let _ = std::io::stderr().write_all(format!("{line}{end}").as_bytes());
    }
}

/// The end of a name that is too long, behind dots.
fn shortened(name: &str) -> String {
    if name.len() <= NAME_LEN {
        return name.to_owned();
    }
    let mut start = name.len() - NAME_LEN + 3;
    while !name.is_char_boundary(start) {
        start += 1;
    }
    format!("...{}", &name[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(style: Style, done: u64, file: Option<&str>) -> String {
        let mut report = ProgressReport::new(true, style == Style::Verbose);
        report.expect(1, 2000);
        report.set_done(done * 1024);
        report.line(style, 0, file.map(Path::new))
    }

    #[test]
    fn lines_are_the_originals() {
        assert_eq!(line(Style::Plain, 100, None), " 100/2000 kB (5%), 0/1 tablespace");
        assert_eq!(line(Style::Plain, 2100, None), "2100/2100 kB (100%), 0/1 tablespace");
        assert_eq!(
            line(Style::Verbose, 100, Some("/b/base/1/1259")),
            " 100/2000 kB (5%), 0/1 tablespace (/b/base/1/1259                     )"
        );
        assert_eq!(
            line(Style::Verbose, 100, Some("/srv/backups/today/of/everything/base/16384/16385")),
            " 100/2000 kB (5%), 0/1 tablespace (...y/of/everything/base/16384/16385)"
        );
        assert_eq!(
            line(Style::Verbose, 2000, None),
            format!("2000/2000 kB (100%), 0/1 tablespace {}", " ".repeat(40))
        );
    }
}
