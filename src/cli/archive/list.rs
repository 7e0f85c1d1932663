//! `pgwake list`.

use clap::Args;

use super::super::table::{Column, table};
use super::super::{block_on, human, report};
use super::ArchiveArgs;
use crate::archive::catalog::accepted_gaps;
use crate::archive::{Access, Catalog, Gap, Stretch, TimelineContent};
use crate::cli::Exit;
use crate::pg::{TimelineId, Timestamp};
use crate::repository::{
    BackupListing, BackupName, BackupRecord, RecoveryWindow, RepositoryError, WalMap, WalPlace, windows,
};

/// Show what an archive holds: its backups, the WAL of each timeline, and from when to when it can be restored
///
/// Reads names, lengths and the backups' records only; pgwake verify --archive reads what is in the objects.
#[derive(Debug, Args)]
#[command(after_help = "docs/json.md says what --json prints.")]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    archive: ArchiveArgs,

    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// Everything that is shown.
struct Contents {
    catalog: Catalog,
    listing: BackupListing,
    windows: Vec<RecoveryWindow>,
    useless: Vec<BackupName>,
    gaps: Vec<ShownGap>,
}

/// A gap, and whether an operator has accepted it.
struct ShownGap {
    gap: Gap,
    is_accepted: bool,
}

impl ShownGap {
    fn new(gap: Gap, accepted: &[(TimelineId, Stretch)]) -> Self {
        // of those that it spans, the acceptance names the one that its last byte is on
        let is_accepted = accepted.iter().any(|(timeline, accepted)| {
            (gap.timeline..=gap.goes_on_on).contains(timeline)
                && accepted.start_lsn <= gap.start_lsn
                && gap.end_lsn <= accepted.end_lsn
        });
        ShownGap { gap, is_accepted }
    }
}

/// Runs the command.
pub(in crate::cli) fn run(args: &ListArgs) -> Exit {
    block_on(args.json, async {
        let listed = async {
            let store = args.archive.open(Access::Read)?;
            let catalog = Catalog::read(&store).await?;
            let listing = BackupListing::read(&store).await?;
            let map = WalMap::read(&store, &catalog).await?;
            let (windows, useless) = windows(&listing, &map);
            let accepted = accepted_gaps(&store).await?;
            let histories = map.timelines().filter_map(|timeline| map.history(timeline));
            let gaps = catalog.gaps(histories).into_iter().map(|gap| ShownGap::new(gap, &accepted)).collect();
            Ok::<_, RepositoryError>(Contents { catalog, listing, windows, useless, gaps })
        };
        match listed.await {
            Ok(contents) if args.json => report::print_json(&json(&contents)),
            Ok(contents) => report::print(&text(&contents)),
            Err(error) => report::failure(&error, error.class(), args.json),
        }
    })
}

/// A backup's record, as `docs/json.md` has it.
pub(super) fn backup_json(record: &BackupRecord) -> serde_json::Value {
    serde_json::json!({
        "name": record.name,
        "parent": record.parent,
        "label": record.label,
        "server_version": record.server_version.to_string(),
        "timeline": record.stop.timeline,
        "start_lsn": record.start.lsn,
        "stop_lsn": record.stop.lsn,
        "start_time": record.start.at,
        "stop_time": record.stop.at,
        "wal_included": record.wal == WalPlace::Included,
        "files": record.file_count,
        "bytes": record.byte_count,
        "stored_bytes": record.stored_len(),
        "tablespaces": record.tablespaces().count(),
    })
}

fn json(contents: &Contents) -> serde_json::Value {
    let Contents { catalog, listing, windows, useless, gaps } = contents;
    let gaps: Vec<_> = gaps
        .iter()
        .map(|ShownGap { gap, is_accepted }| {
            serde_json::json!({
                "timeline": gap.timeline,
                "start_lsn": gap.start_lsn,
                "end_lsn": gap.end_lsn,
                "next_timeline": gap.goes_on_on,
                "accepted": is_accepted,
            })
        })
        .collect();
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
    let backups: Vec<_> = listing
        .backups
        .iter()
        .map(|record| {
            let mut backup = backup_json(record);
            backup["restorable"] = (!useless.contains(&record.name)).into();
            backup
        })
        .collect();
    let unfinished: Vec<_> = listing.unfinished.iter().map(|backup| &backup.name).collect();
    serde_json::json!({
        "system_identifier": catalog.identity.system_identifier,
        "postgresql_major": catalog.identity.major,
        "wal_segment_size": catalog.identity.segment_size.as_u64(),
        "timelines": timelines,
        "gaps": gaps,
        "backups": backups,
        "windows": windows,
        "unfinished_backups": unfinished,
        "unreadable_records": listing.unreadable,
    })
}

fn text(contents: &Contents) -> String {
    let Contents { catalog, listing, windows, useless, gaps } = contents;
    let identity = &catalog.identity;
    let mut text = format!(
        "system {}, PostgreSQL {}, segments of {} MB\n",
        identity.system_identifier,
        identity.major,
        identity.segment_size.as_u64() >> 20
    );
    if !listing.backups.is_empty() {
        let columns = [
            Column::Text("BACKUP"),
            Column::Text("TAKEN"),
            Column::Text("INCREMENTAL TO"),
            Column::Number("TIMELINE"),
            Column::Text("CONSISTENT AT"),
            Column::Number("SIZE"),
            Column::Number("STORED"),
        ];
        let rows: Vec<Vec<String>> = listing.backups.iter().map(backup_row).collect();
        text.push_str(&table(&columns, &rows, None));
        text.push('\n');
    }
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
    }
    text.extend(gaps.iter().map(gap_line));
    for window in windows {
        let RecoveryWindow { timeline, backup, from_lsn, from_time, to_lsn } = window;
        text.push_str(&format!(
            "can be restored on timeline {timeline}: from {} ({from_lsn}, backup {backup}) to {to_lsn}\n",
            shown(*from_time)
        ));
    }
    for name in useless {
        let sentence = match listing.find(name).map(|record| listing.chain_of(record)) {
            Some(Err(error)) => error.to_string(),
            _ => format!("backup {name} cannot be restored: the archive lacks WAL that makes it consistent"),
        };
        text.push_str(&format!("{sentence}\n"));
    }
    for backup in &listing.unfinished {
        text.push_str(&format!("backup {} is being taken, or was broken off\n", backup.name));
    }
    for key in &listing.unreadable {
        text.push_str(&format!(
            "object \"{key}\" is no record of a backup of this cluster, or of a later format\n"
        ));
    }
    text
}

fn gap_line(shown: &ShownGap) -> String {
    let Gap { timeline, goes_on_on, start_lsn, end_lsn } = shown.gap;
    let place = if goes_on_on == timeline { String::new() } else { format!(" on timeline {goes_on_on}") };
    let accepted = if shown.is_accepted { ", accepted" } else { "" };
    format!("timeline {timeline}: gap from {start_lsn} to {end_lsn}{place}{accepted}\n")
}

fn backup_row(record: &BackupRecord) -> Vec<String> {
    vec![
        record.name.to_string(),
        shown(record.stop.at),
        record.parent.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        record.stop.timeline.to_string(),
        record.stop.lsn.to_string(),
        human::bytes(record.byte_count),
        human::bytes(record.stored_len()),
    ]
}

/// To the second.
fn shown(moment: Timestamp) -> String {
    let seconds = moment.unix_micros() / 1_000_000;
    Timestamp::from_unix_micros(seconds * 1_000_000).to_string()
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
