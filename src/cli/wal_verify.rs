//! `pgwake wal verify`.

use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use super::{archive, block_on, report};
use crate::archive::{Access, ArchiveUrl, ProblemKind, TimelineReport, VerifyReport, audit, verify};

/// Check received WAL, in a directory or an archive: every file, every record, every timeline
///
/// Reads finished and unfinished segments, plain or compressed (.gz, .lz4, .zst), and timeline histories. Checks
/// lengths, page headers, the checksum of every record, that no segment is missing, that all is one cluster's, and
/// that segments and histories of different timelines agree. Changes nothing. Ends with exit code 3 when something is
/// wrong.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The directory
    #[arg(value_name = "DIR", required_unless_present = "archive", conflicts_with = "archive")]
    directory: Option<PathBuf>,

    /// An archive in object storage instead: s3://BUCKET/PREFIX, gs://…, az://… or file:///DIR
    #[arg(long, value_name = "URL", value_parser = archive::parse_url)]
    archive: Option<ArchiveUrl>,

    #[command(flatten)]
    encryption: archive::EncryptionArgs,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &VerifyArgs) -> Exit {
    match (&args.directory, &args.archive) {
        (Some(directory), _) => {
            let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            match verify(directory, threads) {
                Ok(found) => tell(&found, args.json),
                Err(error) => report::failure(&error, error.class(), args.json),
            }
        }
        (None, Some(url)) => block_on(args.json, async {
            let audited = async { audit(&args.encryption.open(url, Access::Read)?).await };
            match audited.await {
                Ok(found) => tell(&found, args.json),
                Err(error) => report::failure(&error, error.class(), args.json),
            }
        }),
        // clap has seen to it that there is one
        (None, None) => Exit::Usage,
    }
}

fn tell(found: &VerifyReport, json: bool) -> Exit {
    let exit = if found.problems.is_empty() { Exit::Done } else { Exit::Integrity };
    exit.or(if json { print_json(found, exit) } else { print_text(found) })
}

fn print_json(found: &VerifyReport, exit: Exit) -> Exit {
    let problems: Vec<_> = found
        .problems
        .iter()
        .map(|problem| {
            serde_json::json!({
                "timeline": problem.timeline,
                "lsn": problem.lsn,
                "file": problem.file,
                "problem": problem.kind.to_string(),
                "hint": hint(&problem.kind),
            })
        })
        .collect();
    report::print_json(&serde_json::json!({
        "system_identifier": found.system_identifier,
        "wal_segment_size": found.segment_size.as_u64(),
        "files": found.file_count,
        "bytes": found.byte_count,
        "timelines": found.timelines,
        "problems": problems,
        "exit_code": exit.code(),
    }))
}

fn print_text(found: &VerifyReport) -> Exit {
    let VerifyReport { system_identifier, segment_size, timelines, problems, .. } = found;
    let mut text = format!("system {system_identifier}, segments of {} MB\n", segment_size.as_u64() >> 20);
    for timeline in timelines {
        text.push_str(&timeline_line(timeline));
    }
    for problem in problems {
        text.push_str(&format!("problem: {problem}\n  hint: {}\n", hint(&problem.kind)));
    }
    let verified = format!("{} files, {} MB of WAL", found.file_count, found.byte_count >> 20);
    match problems.len() {
        0 => text.push_str(&format!("{verified}: nothing is wrong\n")),
        1 => text.push_str(&format!("{verified}: 1 problem\n")),
        count => text.push_str(&format!("{verified}: {count} problems\n")),
    }
    report::print(&text)
}

pub(super) fn timeline_line(report: &TimelineReport) -> String {
    let ranges: Vec<String> =
        report.ranges.iter().map(|range| format!("{} to {}", range.start_lsn, range.end_lsn)).collect();
    let unfinished = match report.partial_count {
        0 => String::new(),
        count => format!(", {count} unfinished"),
    };
    let TimelineReport { timeline, finished_count, .. } = report;
    format!("timeline {timeline}: {}; {finished_count} segments complete{unfinished}\n", ranges.join(", "))
}

/// What to do about it.
pub(super) fn hint(kind: &ProblemKind) -> &'static str {
    match kind {
        ProblemKind::InvalidWal(_) | ProblemKind::WrongLength { .. } | ProblemKind::Compression { .. } => {
            "Recovery stops here. Move the file away and get the segment from another copy: the server, if its slot \
             still holds it, or another archive. Otherwise make a new base backup that begins later."
        }
        ProblemKind::Gap { .. } => {
            "Recovery cannot go past this. Get the segments from another copy, or make a new base backup that begins \
             later."
        }
        ProblemKind::UnfinishedInside | ProblemKind::UnfinishedBefore(_) => {
            "Recovery does not take a .partial file. Get the whole segment from another copy."
        }
        ProblemKind::CopiesDiffer { .. } => {
            "Two servers have written the same timeline, or one copy is damaged. Find out which one is right before \
             anything is recovered from here."
        }
        ProblemKind::HistoryMissing(_) => {
            "Recovery to this timeline needs it. Get it from pg_wal of a server on this timeline or a later one; \
             pgwake receive fetches it at its next start."
        }
        ProblemKind::History(_) | ProblemKind::HistoriesDiffer { .. } => {
            "Compare it with the same file in pg_wal of a server on this timeline or a later one."
        }
    }
}
