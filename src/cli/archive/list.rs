//! `pgwake list`.

use clap::Args;

use super::super::table::{Column, table};
use super::super::{block_on, human, report};
use super::ArchiveArgs;
use crate::archive::{ArchiveStore, Catalog, TimelineContent};
use crate::cli::Exit;

/// Show what an archive holds: the WAL of each timeline, and where it has gaps
///
/// Reads names and lengths only; pgwake wal verify --archive reads what is in the objects.
#[derive(Debug, Args)]
#[command(after_help = "docs/json.md says what --json prints.")]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    archive: ArchiveArgs,

    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(in crate::cli) fn run(args: &ListArgs) -> Exit {
    block_on(args.json, async {
        let listed = async { Catalog::read(&ArchiveStore::open(&args.archive.archive)?).await };
        match listed.await {
            Ok(catalog) if args.json => report::print_json(&json(&catalog)),
            Ok(catalog) => report::print(&text(&catalog)),
            Err(error) => report::failure(&error, error.class(), args.json),
        }
    })
}

fn json(catalog: &Catalog) -> serde_json::Value {
    let timelines: Vec<_> = catalog
        .timelines
        .iter()
        .map(|content| {
            let ranges: Vec<_> = content
                .stretches()
                .iter()
                .map(|range| serde_json::json!({ "start_lsn": range.start_lsn, "end_lsn": range.end_lsn }))
                .collect();
            serde_json::json!({
                "timeline": content.timeline,
                "history": content.has_history,
                "segments": content.segments.len(),
                "parts": content.ranges.len(),
                "stored_bytes": content.stored_len,
                "ranges": ranges,
            })
        })
        .collect();
    serde_json::json!({
        "system_identifier": catalog.identity.system_identifier,
        "postgresql_major": catalog.identity.major,
        "wal_segment_size": catalog.identity.segment_size.as_u64(),
        "timelines": timelines,
    })
}

fn text(catalog: &Catalog) -> String {
    let identity = &catalog.identity;
    let mut text = format!(
        "system {}, PostgreSQL {}, segments of {} MB\n",
        identity.system_identifier,
        identity.major,
        identity.segment_size.as_u64() >> 20
    );
    let columns = [
        Column::Number("TIMELINE"),
        Column::Text("FROM"),
        Column::Text("TO"),
        Column::Number("SEGMENTS"),
        Column::Number("PARTS"),
        Column::Number("STORED"),
    ];
    let rows: Vec<Vec<String>> = catalog.timelines.iter().map(row).collect();
    text.push_str(&table(&columns, &rows, None));
    for content in &catalog.timelines {
        let timeline = content.timeline;
        if !content.has_history && timeline.as_u32() > 1 {
            text.push_str(&format!("timeline {timeline}: its history is missing\n"));
        }
        for pair in content.stretches().windows(2) {
            let (from, to) = (pair[0].end_lsn, pair[1].start_lsn);
            text.push_str(&format!("timeline {timeline}: gap from {from} to {to}\n"));
        }
    }
    text
}

fn row(content: &TimelineContent) -> Vec<String> {
    let stretches = content.stretches();
    let edge = |stretch: Option<String>| stretch.unwrap_or_else(|| "-".to_owned());
    vec![
        content.timeline.to_string(),
        edge(stretches.first().map(|first| first.start_lsn.to_string())),
        edge(stretches.last().map(|last| last.end_lsn.to_string())),
        content.segments.len().to_string(),
        content.ranges.len().to_string(),
        human::bytes(content.stored_len),
    ]
}
