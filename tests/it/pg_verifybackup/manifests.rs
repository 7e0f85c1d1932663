//! Manifests that nobody should believe, and what is said of them.

use std::fs;

use super::backups::{edit, edit_manifest, seal};
use super::table::Case;

/// Files, and what stands around them.
fn manifest(files: &str, ranges: &str) -> String {
    seal(&format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [{files}],\n\"WAL-Ranges\": [{ranges}],\n"
    ))
}

/// Texts that are no manifests. What is no JSON at all is told in other words.
pub(super) fn cases() -> Vec<Case> {
    const VERSION: &str = "{\"PostgreSQL-Backup-Manifest-Version\": 1";
    let mut texts: Vec<(&str, String)> = vec![
        ("nothing", String::new()),
        ("an object that does not end", "{".to_owned()),
        ("an array", "[]".to_owned()),
        ("an empty object", "{}".to_owned()),
        ("no version", "{\"Files\": []}".to_owned()),
        ("a version that is a word", "{\"PostgreSQL-Backup-Manifest-Version\": \"phooey\"}".to_owned()),
        ("version 9", "{\"PostgreSQL-Backup-Manifest-Version\": 9}".to_owned()),
        ("an unknown field", format!("{VERSION}, \"x\": 1}}")),
        ("files that are a word", format!("{VERSION}, \"Files\": \"x\"}}")),
        ("files that are an object", format!("{VERSION}, \"Files\": {{}}}}")),
        ("a file that is a number", format!("{VERSION}, \"Files\": [1]}}")),
        (
            "one line",
            format!("{VERSION}, \"Files\": [], \"WAL-Ranges\": [], \"Manifest-Checksum\": \"00\"}}"),
        ),
        (
            "no newline at the end",
            format!("{VERSION},\n\"Files\": [],\n\"WAL-Ranges\": [], \"Manifest-Checksum\": \"00\"}}"),
        ),
        (
            "a checksum of zeros",
            format!(
                "{VERSION},\n\"Files\": [],\n\"WAL-Ranges\": [],\n\"Manifest-Checksum\": \"{}\"}}\n",
                "00".repeat(32)
            ),
        ),
    ];
    const FILE: &str = "\"Path\": \"x\", \"Size\": 1";
    for (name, file) in [
        ("no path", String::new()),
        ("an unknown field of a file", "\"y\": 1".to_owned()),
        ("no size", "\"Path\": \"x\"".to_owned()),
        ("no path but a size", "\"Size\": 1".to_owned()),
        ("a size that is a word", "\"Path\": \"x\", \"Size\": \"Oops\"".to_owned()),
        ("two paths", "\"Path\": \"x\", \"Encoded-Path\": \"6162\", \"Size\": 1".to_owned()),
        ("half a byte", "\"Encoded-Path\": \"123\", \"Size\": 1".to_owned()),
        ("a path that is not hexadecimal", "\"Encoded-Path\": \"zz\", \"Size\": 1".to_owned()),
        ("a checksum of nothing", format!("{FILE}, \"Checksum\": \"00\"")),
        ("an unknown algorithm", format!("{FILE}, \"Checksum-Algorithm\": \"MD5\", \"Checksum\": \"00\"")),
        (
            "a checksum that is not hexadecimal",
            format!("{FILE}, \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"zz\""),
        ),
        ("a file twice", format!("{FILE}}}, {{{FILE}")),
    ] {
        texts.push((name, manifest(&format!("{{{file}}}"), "")));
    }
    for (name, range) in [
        ("no timeline", ""),
        ("no timeline, but a start", "\"Start-LSN\": \"0/1\""),
        ("no start", "\"Timeline\": 1, \"End-LSN\": \"0/1\""),
        ("no end", "\"Timeline\": 1, \"Start-LSN\": \"0/1\""),
        ("a timeline that is a word", "\"Timeline\": \"x\", \"Start-LSN\": \"0/1\", \"End-LSN\": \"0/1\""),
        ("a start that is a word", "\"Timeline\": 1, \"Start-LSN\": \"x\", \"End-LSN\": \"0/1\""),
        ("an end that is a word", "\"Timeline\": 1, \"Start-LSN\": \"0/1\", \"End-LSN\": \"x\""),
        ("an unknown field of a range", "\"y\": 1"),
    ] {
        texts.push((name, manifest("", &format!("{{{range}}}"))));
    }
    let mut cases: Vec<Case> = texts
        .into_iter()
        .map(|(name, text)| {
            let case = Case::new(&format!("manifest: {name}"), "DIR").with_damage(move |backup| {
                edit(&backup.join("backup_manifest"), |bytes| *bytes = text.clone().into_bytes());
            });
            // JSON was read in other words, and versions as other numbers are, before 17
            match name {
                "nothing" | "an object that does not end" => {
                    case.but(|major| major < 17, "parsing failed", "The input string ended unexpectedly.")
                }
                "a version that is a word" => case.but(
                    |major| major < 17,
                    "unexpected manifest version",
                    "manifest version not an integer",
                ),
                _ => case,
            }
        })
        .collect();
    cases.push(Case::new("manifest: flipped", "DIR").with_damage(|backup| {
        edit(&backup.join("backup_manifest"), |bytes| {
            let text = String::from_utf8(std::mem::take(bytes)).expect("a manifest in UTF-8");
            *bytes = text.replacen("GMT", "GMS", 1).into_bytes();
        });
    }));
    cases.push(Case::new("manifest: a shorter checksum", "DIR -n").with_damage(|backup| {
        edit_manifest(backup, |text| {
            let (front, rest) = text.split_once("\"base/1/1259\"").expect("that file");
            let (middle, rest) = rest.split_once("\"Checksum\": \"").expect("its checksum");
            format!("{front}\"base/1/1259\"{middle}\"Checksum\": \"{}", &rest[2..])
        });
    }));
    cases.push(Case::new("manifest: elsewhere", "DIR -n -m DIR-manifest").with_damage(|backup| {
        let elsewhere = format!("{}-manifest", backup.display());
        fs::rename(backup.join("backup_manifest"), elsewhere).expect("move it");
    }));
    cases
}
