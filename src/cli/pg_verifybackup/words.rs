//! What the original says of what is wrong, word for word.

use std::error::Error as _;
use std::io;

use crate::backup::manifest::json::JsonError;
use crate::backup::manifest::{ManifestError, SelfChecksumError};
use crate::backup::verify::{Problem, Shown, VerifyError};
use crate::cli::pg_tool::connection::plain;

/// One line, with the system's reason.
pub(super) fn problem(problem: &Problem) -> String {
    let reason = match problem {
        Problem::Wal { .. } | Problem::Archive { .. } => None,
        _ => problem.source().and_then(|source| source.downcast_ref::<io::Error>()),
    };
    with_reason(problem.to_string(), reason)
}

/// What is behind a problem that is not the system's: what the original's other program would say.
pub(super) fn detail(problem: &Problem) -> Option<String> {
    if !matches!(problem, Problem::Wal { .. } | Problem::Archive { .. }) {
        return None;
    }
    let mut messages = Vec::new();
    let mut link = problem.source();
    while let Some(cause) = link {
        let message = cause.downcast_ref::<io::Error>().map_or_else(|| cause.to_string(), plain);
        if messages.last() != Some(&message) {
            messages.push(message);
        }
        link = cause.source();
    }
    Some(messages.join(": "))
}

/// What kept the backup from being looked at.
pub(super) fn error(error: &VerifyError) -> String {
    match error {
        VerifyError::File { source, .. } | VerifyError::Directory { source, .. } => {
            with_reason(error.to_string(), Some(source))
        }
        VerifyError::Manifest(error) => manifest(error),
        _ => error.to_string(),
    }
}

fn with_reason(text: String, reason: Option<&io::Error>) -> String {
    match reason {
        Some(reason) => format!("{text}: {}", plain(reason)),
        None => text,
    }
}

/// `json_manifest_parse_failure` and the other errors of `parse_manifest.c`.
fn manifest(error: &ManifestError) -> String {
    let own = error.to_string();
    let text = match error {
        ManifestError::ChecksumAlgorithm(name) => {
            return format!("unrecognized checksum algorithm: \"{}\"", Shown(name));
        }
        ManifestError::FileChecksum { path, checksum } => {
            return format!("invalid checksum for file \"{}\": \"{}\"", Shown(path), Shown(checksum));
        }
        ManifestError::ManifestChecksum(text) => {
            return format!("invalid manifest checksum: \"{}\"", Shown(text));
        }
        ManifestError::SelfChecksumMismatch => return own,
        ManifestError::Json(JsonError::UnexpectedByte(b't' | b'f' | b'n' | b'-')) => "unexpected scalar",
        ManifestError::Json(error) => return format!("could not parse backup manifest: {error}"),
        ManifestError::Unexpected { found, .. } => match *found {
            "object" => "unexpected object start",
            "end of object" => "unexpected object end",
            "array" => "unexpected array start",
            "end of array" => "unexpected array end",
            "string" | "number" => "unexpected scalar",
            _ => &own,
        },
        ManifestError::UnknownField { place, .. } => match *place {
            "a file" => "unexpected file field",
            "a WAL range" => "unexpected WAL range field",
            _ => "unrecognized top-level field",
        },
        ManifestError::DuplicateField("Path") => "both path name and encoded path name",
        ManifestError::MissingField(field) => match *field {
            "Path" => "missing path name",
            "Size" => "missing size",
            "Checksum-Algorithm" => "checksum without algorithm",
            "Timeline" => "missing timeline",
            "Start-LSN" => "missing start LSN",
            "End-LSN" => "missing end LSN",
            "Manifest-Checksum" => "unexpected object end",
            _ => &own,
        },
        ManifestError::Value(field) => match *field {
            "PostgreSQL-Backup-Manifest-Version" => "manifest version not an integer",
            "System-Identifier" => "manifest system identifier not an integer",
            "Size" => "file size is not an integer",
            "Timeline" => "timeline is not an integer",
            "Start-LSN" => "could not parse start LSN",
            "End-LSN" => "could not parse end LSN",
            "Encoded-Path" => "could not decode file name",
            "Files" | "WAL-Ranges" => "unexpected scalar",
            _ => &own,
        },
        ManifestError::VersionNotFirst => "expected version indicator",
        ManifestError::Version(_) => "unexpected manifest version",
        ManifestError::UnexpectedEnd => "The input string ended unexpectedly.",
        ManifestError::SelfChecksum(SelfChecksumError::TooFewLines) => "expected at least 2 lines",
        ManifestError::SelfChecksum(SelfChecksumError::NoFinalNewline) => "last line not newline-terminated",
        ManifestError::DuplicateField(_) | ManifestError::TooManyWalRanges => &own,
    };
    format!("could not parse backup manifest: {text}")
}
