//! The command line of `pg_verifybackup`: every option of 19, in the order that the original looks at it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::backup::verify::{AfterProblem, BackupFormat, ChecksumCheck, VerifyRequest, WalCheck};
use crate::cli::pg_tool::getopt::{LongOption, ShortOption, Value};
use crate::cli::pg_tool::{Failed, Invocation};
use crate::pg::canonical_path;

/// What was asked for.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) request: VerifyRequest,
    pub(super) output: Output,
}

/// What is said besides errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// `-q`: nothing.
    Quiet,
    /// That all is well.
    Verdict,
    /// `-P`: how far it is, too.
    Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    ExitOnError,
    Format,
    Ignore,
    ManifestPath,
    NoParseWal,
    Progress,
    Quiet,
    SkipChecksums,
    WalPath,
}

const fn short(letter: u8, value: Value, key: Key) -> ShortOption<Key> {
    ShortOption { letter, value, key }
}

const fn long(name: &'static str, value: Value, key: Key) -> LongOption<Key> {
    LongOption { name, value, key }
}

const SHORT: [ShortOption<Key>; 9] = [
    short(b'e', Value::None, Key::ExitOnError),
    short(b'F', Value::Required, Key::Format),
    short(b'i', Value::Required, Key::Ignore),
    short(b'm', Value::Required, Key::ManifestPath),
    short(b'n', Value::None, Key::NoParseWal),
    short(b'P', Value::None, Key::Progress),
    short(b'q', Value::None, Key::Quiet),
    short(b's', Value::None, Key::SkipChecksums),
    short(b'w', Value::Required, Key::WalPath),
];

/// In the original's order, which shows where a prefix is ambiguous.
const LONG: [LongOption<Key>; 10] = [
    long("exit-on-error", Value::None, Key::ExitOnError),
    long("ignore", Value::Required, Key::Ignore),
    long("manifest-path", Value::Required, Key::ManifestPath),
    long("format", Value::Required, Key::Format),
    long("no-parse-wal", Value::None, Key::NoParseWal),
    long("progress", Value::None, Key::Progress),
    long("quiet", Value::None, Key::Quiet),
    long("skip-checksums", Value::None, Key::SkipChecksums),
    long("wal-path", Value::Required, Key::WalPath),
    long("wal-directory", Value::Required, Key::WalPath),
];

/// As they were given, before it is known whether they go together.
#[derive(Debug, Default)]
struct Given {
    exit_on_error: bool,
    format: Option<BackupFormat>,
    ignored: Vec<Box<[u8]>>,
    manifest: Option<PathBuf>,
    no_parse_wal: bool,
    progress: bool,
    quiet: bool,
    skip_checksums: bool,
    wal: Option<PathBuf>,
}

impl Options {
    /// Reads the command line; what is wrong with it is said.
    pub(super) fn parse(tool: &Invocation) -> Result<Self, Failed> {
        let mut given = Given::default();
        let operands = tool.options(&SHORT, &LONG, |key, value| given.take(tool, key, &value))?;
        let directory = match &operands[..] {
            [] => return Err(tool.usage_error("no backup directory specified")),
            [directory] => canonical_path(directory),
            [_, second, ..] => {
                let text = format!("too many command-line arguments (first is \"{}\")", second.display());
                return Err(tool.usage_error(text));
            }
        };
        if given.progress && given.quiet {
            return Err(tool.error("cannot specify both -P/--progress and -q/--quiet"));
        }
        Ok(given.put_together(directory))
    }
}

impl Given {
    fn take(&mut self, tool: &Invocation, key: Key, value: &OsStr) -> Result<(), Failed> {
        match key {
            Key::ExitOnError => self.exit_on_error = true,
            Key::Format => {
                self.format = Some(match value.as_bytes() {
                    b"p" | b"plain" => BackupFormat::Plain,
                    b"t" | b"tar" => BackupFormat::Tar,
                    _ => {
                        let text = "must be \"plain\" or \"tar\"";
                        return Err(
                            tool.error(format!("invalid backup format \"{}\", {text}", value.display()))
                        );
                    }
                });
            }
            Key::Ignore => self.ignored.push(canonical_path(value).as_os_str().as_bytes().into()),
            Key::ManifestPath => self.manifest = Some(canonical_path(value)),
            Key::NoParseWal => self.no_parse_wal = true,
            Key::Progress => self.progress = true,
            Key::Quiet => self.quiet = true,
            Key::SkipChecksums => self.skip_checksums = true,
            Key::WalPath => self.wal = Some(canonical_path(value)),
        }
        Ok(())
    }

    fn put_together(self, directory: PathBuf) -> Options {
        let request = VerifyRequest {
            directory,
            manifest: self.manifest,
            format: self.format,
            ignored: self.ignored,
            checksums: if self.skip_checksums { ChecksumCheck::Skip } else { ChecksumCheck::Compare },
            wal: if self.no_parse_wal { WalCheck::Skip } else { WalCheck::Read },
            wal_path: self.wal,
            after_problem: if self.exit_on_error { AfterProblem::Stop } else { AfterProblem::GoOn },
            thread_count: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        };
        let output = match (self.quiet, self.progress) {
            (true, _) => Output::Quiet,
            (_, true) => Output::Progress,
            _ => Output::Verdict,
        };
        Options { request, output }
    }
}
