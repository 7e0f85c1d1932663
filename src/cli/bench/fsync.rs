//! What a disk acknowledges, beside what a server sends.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::human;
use crate::cli::signals::Signals;
use crate::cli::table::{Column, table};
use crate::measure::{DiskError, DiskMeasured, DiskProbe, FileKind, Latencies, Series};
use crate::observe::progress::CopyProgress;

#[derive(Debug, Args)]
pub(super) struct FsyncArgs {
    /// Measure besides how long the disk of this directory takes for a durable write
    ///
    /// 8 KiB and 128 KiB, each into a file that grows and into one that was filled with zeros and synced before: write,
    /// fdatasync, and again. Takes 64 MiB there for as long as --duration says (10 seconds unless it does), in files that are
    /// removed at the end, also at that of a signal (kill -9 leaves a directory .pgwake-bench-*).
    #[arg(long, value_name = "DIR")]
    fsync: Option<PathBuf>,
}

/// How long a disk is measured unless it is said.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// A disk to be measured.
pub(super) struct Disk {
    probe: DiskProbe,
    directory: PathBuf,
    duration: Duration,
}

impl FsyncArgs {
    /// Makes sure that the directory can be written to, before the server is troubled.
    pub(super) fn prepare(&self, duration: Option<Duration>) -> Result<Option<Disk>, DiskError> {
        let Some(directory) = &self.fsync else { return Ok(None) };
        let probe = DiskProbe::create(directory)?;
        let duration = duration.unwrap_or(DEFAULT_DURATION);
        Ok(Some(Disk { probe, directory: directory.clone(), duration }))
    }
}

impl Disk {
    pub(super) async fn measure(
        self,
        signals: &mut Signals,
        progress: &CopyProgress,
    ) -> Result<FsyncOutcome, DiskError> {
        progress.set_phase("measuring the disk");
        progress.set_total(0);
        progress.set_done(0);
        let measured = self.probe.measure(self.duration, signals.received()).await?;
        Ok(FsyncOutcome::new(self.directory.display().to_string(), measured))
    }
}

/// What a disk acknowledges, for people and programs.
#[derive(Debug, Serialize)]
pub(super) struct FsyncOutcome {
    directory: String,
    seconds: f64,
    zero_fill_seconds: Option<f64>,
    writes: Vec<Writes>,
}

/// One kind of write.
#[derive(Debug, Serialize)]
struct Writes {
    write_bytes: usize,
    file: &'static str,
    count: usize,
    p50_seconds: f64,
    p90_seconds: f64,
    p99_seconds: f64,
    max_seconds: f64,
}

impl FsyncOutcome {
    fn new(directory: String, measured: DiskMeasured) -> Self {
        FsyncOutcome {
            directory,
            seconds: measured.elapsed.as_secs_f64(),
            zero_fill_seconds: measured.zero_fill.map(|span| span.as_secs_f64()),
            writes: measured
                .series
                .into_iter()
                .map(|(series, latencies)| Writes::new(series, &latencies))
                .collect(),
        }
    }

    pub(super) fn to_text(&self) -> String {
        let columns = [
            Column::Text("DURABLE WRITE"),
            Column::Text("INTO A FILE"),
            Column::Number("COUNT"),
            Column::Number("P50 MS"),
            Column::Number("P90 MS"),
            Column::Number("P99 MS"),
            Column::Number("MAX MS"),
        ];
        let rows: Vec<_> = self.writes.iter().map(Writes::row).collect();
        let filled = self.zero_fill_seconds.map_or_else(String::new, |seconds| {
            format!("filling 16 MiB with zeros, and syncing them, took {:.0} ms\n", seconds * 1000.0)
        });
        format!("\ndisk of \"{}\"\n{}{filled}", self.directory, table(&columns, &rows, None))
    }
}

impl Writes {
    fn new(series: Series, latencies: &Latencies) -> Self {
        Writes {
            write_bytes: series.write_len,
            file: match series.file {
                FileKind::Growing => "growing",
                FileKind::ZeroFilled => "zero-filled",
            },
            count: latencies.count,
            p50_seconds: latencies.p50.as_secs_f64(),
            p90_seconds: latencies.p90.as_secs_f64(),
            p99_seconds: latencies.p99.as_secs_f64(),
            max_seconds: latencies.max.as_secs_f64(),
        }
    }

    fn row(&self) -> Vec<String> {
        let millis = |seconds: f64| format!("{:.3}", seconds * 1000.0);
        vec![
            human::bytes(self.write_bytes as u64),
            self.file.to_owned(),
            self.count.to_string(),
            millis(self.p50_seconds),
            millis(self.p90_seconds),
            millis(self.p99_seconds),
            millis(self.max_seconds),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_told_in_milliseconds() {
        let latencies = Latencies::of([170, 180, 5000].map(Duration::from_micros).into()).unwrap();
        let series = Series { write_len: 8192, file: FileKind::ZeroFilled };
        let measured = DiskMeasured {
            elapsed: Duration::from_secs(1),
            zero_fill: Some(Duration::from_millis(12)),
            series: vec![(series, latencies)],
        };
        let outcome = FsyncOutcome::new("/srv".to_owned(), measured);
        assert_eq!(
            outcome.to_text(),
            "\ndisk of \"/srv\"\n\
             DURABLE WRITE  INTO A FILE  COUNT  P50 MS  P90 MS  P99 MS  MAX MS\n\
             8.00 KiB       zero-filled      3   0.180   5.000   5.000   5.000\n\
             filling 16 MiB with zeros, and syncing them, took 12 ms\n"
        );
    }
}
