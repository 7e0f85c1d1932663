//! `pgwake verify`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::exit::Exit;
use super::{archive, human, report};
use crate::ErrorClass;
use crate::archive::ArchiveUrl;
use crate::backup::verify::{
    AfterProblem, BackupFormat, ChecksumCheck, Problem, Progress, VerifyObserver, VerifyReport,
    VerifyRequest, WalCheck, WalFault, verify,
};
use crate::pg::canonical_path;

/// How many problems are printed; the others are counted.
const MAX_SHOWN: usize = 1000;

/// Check a base backup, or an archive: every file against the manifest, and the WAL that it needs
///
/// With --archive every object of an archive is read: checksums, the files of every backup against its manifest, every
/// record of the WAL, and whether each backup can be restored.
///
/// Reads backups of PostgreSQL 13 to 19 in plain and in tar format (.gz, .lz4, .zst too), on all processors. Every
/// file has to be there, listed, as long as it was and with the right checksum; the control file has to be the
/// manifest's cluster's; and every record of the WAL that recovery needs has to be there and whole. Changes nothing.
/// Ends with exit code 3 when the backup is damaged, and with 1 when it could not be looked at.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The backup's directory
    #[arg(value_name = "DIR", required_unless_present = "archive")]
    directory: Option<PathBuf>,

    /// An archive in object storage instead: s3://BUCKET/PREFIX, gs://…, az://… or file:///DIR
    #[arg(long, value_name = "URL", value_parser = archive::parse_url)]
    #[arg(conflicts_with_all = ["directory", "format", "manifest", "ignore", "wal_path", "no_wal", "no_checksums", "threads"])]
    archive: Option<ArchiveUrl>,

    #[command(flatten)]
    encryption: archive::EncryptionArgs,

    /// How it is stored; plain where there is a PG_VERSION, unless said
    #[arg(long, value_name = "FORMAT")]
    format: Option<FormatArg>,

    /// The manifest, where it is not in DIR
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,

    /// Pass over this path in the backup, with all that lies below it; may be repeated
    #[arg(long, value_name = "PATH")]
    ignore: Vec<PathBuf>,

    /// The directory or archive with the WAL, where that is not in the backup
    #[arg(long, value_name = "PATH", conflicts_with = "no_wal")]
    wal_path: Option<PathBuf>,

    /// Do not look at WAL
    #[arg(long)]
    no_wal: bool,

    /// Do not read files; names and sizes have to do
    #[arg(long)]
    no_checksums: bool,

    /// On how many threads; as many as there are processors, unless said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    Plain,
    Tar,
}

impl VerifyArgs {
    fn request(&self, directory: &Path) -> VerifyRequest {
        let ignored = self.ignore.iter().map(|path| canonical_path(path).as_os_str().as_bytes().into());
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        VerifyRequest {
            directory: directory.to_owned(),
            manifest: self.manifest.clone(),
            format: self.format.map(|format| match format {
                FormatArg::Plain => BackupFormat::Plain,
                FormatArg::Tar => BackupFormat::Tar,
            }),
            ignored: ignored.collect(),
            checksums: if self.no_checksums { ChecksumCheck::Skip } else { ChecksumCheck::Compare },
            wal: if self.no_wal { WalCheck::Skip } else { WalCheck::Read },
            wal_path: self.wal_path.clone(),
            after_problem: AfterProblem::GoOn,
            thread_count: self.threads.map_or_else(processors, usize::from),
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &VerifyArgs) -> Exit {
    if let Some(url) = &args.archive {
        return archive::run_verify(url, &args.encryption, args.json);
    }
    // clap has seen to it that there is one
    let Some(directory) = &args.directory else { return Exit::Usage };
    let began = Instant::now();
    let found = Found::default();
    let verified = match verify(&args.request(directory), &found) {
        Ok(verified) => verified,
        Err(error) => return report::failure(&error, error.class(), args.json),
    };
    let mut problems = found.problems.into_inner().unwrap_or_else(PoisonError::into_inner);
    // threads find them in any order
    problems.list.sort_by_cached_key(|problem| (order(problem), problem.to_string()));
    let exit = problems.exit();
    exit.or(match args.json {
        true => print_json(directory, &verified, &problems, exit),
        false => print_text(&verified, &problems, began.elapsed()),
    })
}

/// The problems, gathered.
#[derive(Debug, Default)]
struct Found {
    problems: Mutex<Problems>,
}

#[derive(Debug, Default)]
struct Problems {
    list: Vec<Problem>,
    /// Whether one of them is the backup's own.
    is_damaged: bool,
}

impl VerifyObserver for Found {
    fn problem(&self, problem: Problem) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.is_damaged |= problem.class() == ErrorClass::Integrity;
        if problems.list.len() < MAX_SHOWN {
            problems.list.push(problem);
        }
    }

    fn progress(&self, _: Progress) {}
}

impl Problems {
    fn exit(&self) -> Exit {
        match (self.is_damaged, self.list.is_empty()) {
            (true, _) => Exit::Integrity,
            (false, true) => Exit::Done,
            (false, false) => Exit::Failed,
        }
    }
}

/// What is there, then content, then WAL; at the end what ended it.
fn order(problem: &Problem) -> u8 {
    match problem {
        problem if problem.is_final() => 3,
        Problem::Wal { .. } => 2,
        Problem::Checksum { .. } | Problem::ChecksumLen { .. } | Problem::LenRead { .. } => 1,
        _ => 0,
    }
}

fn print_json(directory: &Path, verified: &VerifyReport, problems: &Problems, exit: Exit) -> Exit {
    let list: Vec<_> = problems
        .list
        .iter()
        .map(|problem| {
            serde_json::json!({
                "problem": problem.to_string(),
                "cause": cause(problem),
                "file": problem.path(),
                "hint": hint(problem),
            })
        })
        .collect();
    let ranges: Vec<_> = verified
        .manifest
        .wal_ranges
        .iter()
        .map(|range| {
            serde_json::json!({
                "timeline": range.timeline,
                "start_lsn": range.start_lsn,
                "end_lsn": range.end_lsn,
            })
        })
        .collect();
    report::print_json(&serde_json::json!({
        "directory": directory.to_string_lossy(),
        "format": format_name(verified.format),
        "manifest_version": verified.manifest.version,
        "system_identifier": verified.manifest.system_identifier,
        "listed_files": verified.manifest.file_count,
        "files": verified.file_count,
        "bytes": verified.byte_count,
        "wal_ranges": ranges,
        "wal_bytes": verified.wal_byte_count,
        "problems": list,
        "problem_count": verified.problem_count,
        "exit_code": exit.code(),
    }))
}

fn print_text(verified: &VerifyReport, problems: &Problems, took: Duration) -> Exit {
    let manifest = &verified.manifest;
    let mut text = format!("{} backup, manifest version {}", format_name(verified.format), manifest.version);
    if let Some(identifier) = manifest.system_identifier {
        text.push_str(&format!(", system {identifier}"));
    }
    text.push('\n');
    for range in &manifest.wal_ranges {
        text.push_str(&format!(
            "timeline {}: needs WAL from {} to {}\n",
            range.timeline, range.start_lsn, range.end_lsn
        ));
    }
    for problem in &problems.list {
        let cause = cause(problem).map_or_else(String::new, |cause| format!(": {cause}"));
        text.push_str(&format!("problem: {problem}{cause}\n"));
        if let Some(hint) = hint(problem) {
            text.push_str(&format!("  hint: {hint}\n"));
        }
    }
    let shown = problems.list.len() as u64;
    if verified.problem_count > shown {
        text.push_str(&format!("and {} more\n", verified.problem_count - shown));
    }
    let read = human::bytes(verified.byte_count);
    let wal = human::bytes(verified.wal_byte_count);
    let (files, listed) = (verified.file_count, manifest.file_count);
    let verdict = match verified.problem_count {
        0 => "nothing is wrong".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    let took = human::duration(took);
    text.push_str(&format!("{files} of {listed} files, {read} and {wal} of WAL read in {took}: {verdict}\n"));
    report::print(&text)
}

fn format_name(format: BackupFormat) -> &'static str {
    match format {
        BackupFormat::Plain => "plain",
        BackupFormat::Tar => "tar",
    }
}

/// What is behind a problem.
fn cause(problem: &Problem) -> Option<String> {
    let source = std::error::Error::source(problem)?;
    Some(report::one_line(source))
}

/// What to do about it.
fn hint(problem: &Problem) -> Option<&'static str> {
    Some(match problem {
        Problem::Unlisted { .. } => {
            "It was not part of the backup. If you put it there, pass it over with --ignore; otherwise find out who did."
        }
        Problem::NotRegular { .. } => {
            "No backup holds such a thing, and a link that leads out of the backup is not followed."
        }
        Problem::Missing { .. }
        | Problem::Size { .. }
        | Problem::Checksum { .. }
        | Problem::LenRead { .. } => {
            "The backup is damaged, or has been used or changed since it was made. Get the file from another copy of \
             the same backup, or make a new one."
        }
        Problem::NotAnArchive { .. } | Problem::NotAFile { .. } => {
            "In a tar-format backup only base.tar, pg_wal.tar and the tablespaces' archives belong. For a plain one \
             say --format plain."
        }
        Problem::NoWalArchive => "Say where the WAL is with --wal-path, or pass it over with --no-wal.",
        Problem::Wal { fault: WalFault::Missing { .. } | WalFault::NoSegments { .. }, .. } => {
            "Recovery stops here. If the WAL is in an archive, name a directory of it with --wal-path."
        }
        Problem::Wal { fault: WalFault::Invalid(_) | WalFault::Short { .. }, .. } => {
            "Recovery stops here. Get the segment from a WAL archive, or make a new backup."
        }
        Problem::OpenDirectory { .. }
        | Problem::Stat { .. }
        | Problem::Open { .. }
        | Problem::Read { .. }
            if problem.class() == ErrorClass::Operator =>
        {
            "Run this as the user who owns the backup."
        }
        Problem::ControlFile { .. } => "This is not the control file of the backup, or it is damaged.",
        _ => return None,
    })
}
