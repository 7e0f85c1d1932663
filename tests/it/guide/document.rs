//! A document's command blocks, and whether what came is what is shown.
//!
//! A block is fenced as `console`. A line with a prompt, `db1$ ` (or `$ `, for the document's own machine), is a command,
//! and goes on behind a backslash; what follows it is its output. Compared are the words: how they are broken into lines
//! and columns depends on their lengths. What differs from run to run is replaced on both sides by what it is
//! ([`PLACEHOLDERS`]). A line that is only `…` stands for any lines.
//!
//! A block that cannot be run has `<!-- not run: WHY -->` on the line before it. Other fences (`sh`, `sql`, `python` …) hold
//! no commands that are claimed to have been run.

use std::sync::OnceLock;

/// A command, and the output that is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Where it is in the document, from 1.
    pub(super) line: usize,
    /// The machine, if the prompt says so.
    pub(super) machine: Option<String>,
    pub(super) command: String,
    pub(super) shown: String,
    /// Where the output is in the document: lines from 0, half open.
    pub(super) shown_at: std::ops::Range<usize>,
}

/// What a document has in its blocks.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) steps: Vec<Step>,
    /// Why some blocks are not run.
    pub(super) not_run: Vec<String>,
}

/// Reads a document. Panics on a block that begins with no command.
pub(super) fn read(text: &str) -> Document {
    let lines: Vec<&str> = text.lines().collect();
    let mut document = Document::default();
    let mut at = 0;
    while at < lines.len() {
        if lines[at].trim_end() != "```console" {
            at += 1;
            continue;
        }
        let end = (at + 1..lines.len()).find(|line| lines[*line].starts_with("```")).expect("a closed block");
        let before = at.checked_sub(1).map_or("", |before| lines[before]);
        let reason = before.strip_prefix("<!-- not run: ").and_then(|rest| rest.strip_suffix(" -->"));
        match reason {
            Some(reason) => document.not_run.push(reason.to_owned()),
            None => document.steps.extend(steps(&lines, at + 1..end)),
        }
        at = end + 1;
    }
    document
}

fn steps(lines: &[&str], block: std::ops::Range<usize>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut at = block.start;
    while at < block.end {
        let Some((machine, first)) = prompt(lines[at]) else {
            let step = steps.last_mut().unwrap_or_else(|| panic!("line {}: no command", at + 1));
            step.shown.extend([lines[at], "\n"]);
            at += 1;
            step.shown_at.end = at;
            continue;
        };
        let line = at + 1;
        let mut command = first.to_owned();
        while command.ends_with('\\') {
            at += 1;
            command.extend(["\n", lines[at]]);
        }
        at += 1;
        let machine = Some(machine.to_owned()).filter(|name| !name.is_empty());
        steps.push(Step { line, machine, command, shown: String::new(), shown_at: at..at });
    }
    steps
}

/// The machine's name and the command.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (machine, command) = line.split_once("$ ")?;
    machine
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        .then_some((machine, command))
}

/// What differs from run to run, the longest first, and what stands for it. For a time nothing does: the lag of who is idle is
/// not told at all, nor a column of lags that all are idle in.
const PLACEHOLDERS: [(&str, &str); 10] = [
    (r"(WRITE|FLUSH|REPLAY) LAG", ""),
    (r"\b[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z?( UTC)?", "TIME"),
    (r"\b[0-9]{19}\b", "SYSTEM"),
    (r"\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b", "LSN"),
    (r"\b([0-9A-F]{8})[0-9A-F]{16}\b", "${1}SEGMENT"),
    (r"\b[0-9]+(\.[0-9]+)? ?(B|kB|KiB|MB|MiB|GB|GiB)(/s)?(\b|$)", "SIZE"),
    (r"\b[0-9]+(\.[0-9]+)? ?(µs|ms|s|min|h)( [0-9]+ (s|min))?\b", ""),
    (r"\b(process|PID) [0-9]+", "process N"),
    (r"\b[0-9]+ files\b", "N files"),
    (r"\b1[3-9](\.[0-9]+|beta[0-9]|rc[0-9]|devel)\b", "VERSION"),
];

/// The words of an output, with placeholders; what it was broken into lines or columns with is left out.
fn words(text: &str) -> Vec<String> {
    static PATTERNS: OnceLock<Vec<(regex::Regex, &str)>> = OnceLock::new();
    let patterns = PATTERNS.get_or_init(|| {
        PLACEHOLDERS.map(|(pattern, by)| (regex::Regex::new(pattern).expect("a pattern"), by)).into()
    });
    // progress is told of what takes longer than a few seconds
    let told = text.lines().filter(|line| !line.contains("%), "));
    let mut text = told.collect::<Vec<_>>().join("\n");
    for (pattern, by) in patterns {
        text = pattern.replace_all(&text, *by).into_owned();
    }
    text.split_whitespace().map(str::to_owned).collect()
}

/// Whether what came is what is shown.
pub(super) fn is_shown(came: &str, shown: &str) -> bool {
    let came = words(came);
    let parts: Vec<Vec<String>> = split_at_ellipses(shown).iter().map(|part| words(part)).collect();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return came.is_empty() };
    if parts.len() == 1 {
        return came == *first;
    }
    if !came.starts_with(first) || !came[first.len()..].ends_with(last) {
        return false;
    }
    let mut rest = &came[first.len()..came.len() - last.len()];
    for part in &parts[1..parts.len() - 1] {
        let found = (0..=rest.len()).find(|at| rest[*at..].starts_with(part));
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

fn split_at_ellipses(shown: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in shown.lines() {
        match (line.trim(), parts.last_mut()) {
            ("…", _) => parts.push(String::new()),
            (_, Some(part)) => part.extend([line, "\n"]),
            (_, None) => {}
        }
    }
    parts
}

/// Whether a failure is what is shown.
pub(super) fn shows_failure(shown: &str) -> bool {
    shown
        .lines()
        .any(|line| ["error: ", "not fit for ", "psql: error: "].iter().any(|start| line.starts_with(start)))
}

#[test]
fn blocks_are_read_as_they_are_written() {
    let text = "a\n```console\ndb1$ one \\\n  two\nshown\n$ three\n```\n<!-- not run: no -->\n```console\n$ x\n```\n```sh\n$ y\n```\n";
    let Document { steps, not_run } = read(text);
    let seen: Vec<_> =
        steps.iter().map(|step| (step.line, step.machine.as_deref(), &*step.command, &*step.shown)).collect();
    assert_eq!(seen, [(3, Some("db1"), "one \\\n  two", "shown\n"), (6, None, "three", "")]);
    assert_eq!((steps[0].shown_at.clone(), steps[1].shown_at.clone()), (4..5, 6..6));
    assert_eq!(not_run, ["no"]);
}

#[test]
fn what_differs_from_run_to_run_is_passed_over_and_nothing_else() {
    for (came, shown, same) in [
        ("at 0/3000060 after 1.2 s", "at 1F/4 after\n  300 ms", true),
        ("at 0/3000060 on timeline 2", "at 0/3000060 on timeline 1", false),
        ("000000020000000000000007", "00000002000000000000000A", true),
        ("000000020000000000000007", "000000010000000000000007", false),
        ("holds 16.00 MiB, 12 kB/s", "holds 1 B, 3.4 MiB/s", true),
        ("a b c d", "a\n…\nd", true),
        ("a b c d", "…\nc\n…", true),
        ("a b c d", "…\nx\n…", false),
        ("a b c d", "a\n…\nc", false),
        ("a", "a\n…\na", false),
        ("", "", true),
        ("a", "", false),
        ("2026-01-02T03:04:05.6Z (3 s)", "2027-11-12T13:14:15Z (40 ms)", true),
    ] {
        assert_eq!(is_shown(came, shown), same, "{came:?} {shown:?}");
    }
}
