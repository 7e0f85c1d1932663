//! What was found, for people, for psql, and for programs.

use serde_json::json;

use super::{Exit, Place, report};
use crate::inspect::fitness::{Finding, Fix, Job, Level, Needs, Offer, Place as FixPlace, Seen};

/// Lines for people are broken here; those to be typed are not.
const WIDTH: usize = 80;

/// Below what stands in the first column.
const INDENT: &str = "         ";

/// One paragraph a finding.
pub(super) fn text(seen: &Seen, place: &Place, job: Job, findings: &[Finding]) -> String {
    let Place { host, port } = place;
    let mut text = format!(
        "server {}, port {port}, as {} for {}:\n",
        host.escape_debug(),
        seen.user.escape_debug(),
        job.fed()
    );
    for finding in findings {
        text.push_str(&paragraph(finding));
    }
    text.push_str(&summary(job, findings));
    text
}

fn paragraph(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Problem => "problem",
        Level::Unknown => "unknown",
    };
    let object = finding.object.as_ref().map(|name| format!(" \"{name}\"")).unwrap_or_default();
    let found = format!("{level:<9}{}{object}: {}", finding.check, finding.found);
    let mut text = wrapped(&found, "");
    text.push_str(&wrapped(&finding.why, INDENT));
    for fix in &finding.fixes {
        let (line, needs) = fix_parts(fix);
        let len = INDENT.len() + line.chars().count() + needs.chars().count();
        // a line is to be copied, and what is to be done then stands below one that is long
        let apart = if len > WIDTH && !needs.is_empty() { format!("\n{INDENT}") } else { String::new() };
        let needs = if apart.is_empty() { needs } else { needs.trim_start() };
        text.push_str(&format!("{INDENT}{line}{apart}{needs}\n"));
    }
    text
}

fn fix_line(fix: &Fix) -> String {
    let (line, needs) = fix_parts(fix);
    line + needs
}

/// What to type, and what it takes to count.
fn fix_parts(fix: &Fix) -> (String, &'static str) {
    let verb = match fix.offer {
        Offer::Consider if fix.place == FixPlace::Sql => "perhaps: ",
        _ => "mend: ",
    };
    let needs = match fix.needs {
        Needs::Nothing => "",
        Needs::Reload => "  (then reload)",
        Needs::Restart => "  (then restart)",
    };
    (format!("{verb}{}{}", where_to(fix), fix.line), needs)
}

/// Where a line is typed, when it is not SQL.
fn where_to(fix: &Fix) -> String {
    match (fix.place, fix.before_line) {
        (FixPlace::Sql, _) => String::new(),
        (FixPlace::Hba, Some(line)) => format!("pg_hba.conf, before line {line}: "),
        (FixPlace::Hba, None) => "pg_hba.conf: ".to_owned(),
        (FixPlace::CommandLine, _) => "server's command line: ".to_owned(),
        (FixPlace::Shell, _) => "shell: ".to_owned(),
        (FixPlace::Client, _) => "connection string: ".to_owned(),
    }
}

/// Words on lines of [`WIDTH`], the first after `first`, the others below the text.
fn wrapped(text: &str, first: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut is_begun = false;
    for word in text.split(' ') {
        if is_begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(line.trim_end());
            lines.push('\n');
            line = INDENT.to_owned();
        } else if is_begun {
            line.push(' ');
        }
        line.push_str(word);
        is_begun = true;
    }
    lines + line.trim_end() + "\n"
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

fn summary(job: Job, findings: &[Finding]) -> String {
    let some = |count: usize, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{count} {many}")),
    };
    let counts = [
        some(count(findings, Level::Problem), "problem", "problems"),
        some(count(findings, Level::Warning), "warning", "warnings"),
        some(count(findings, Level::Unknown), "thing not seen", "things not seen"),
    ];
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    let counts = if counts.is_empty() { "nothing stands against it".to_owned() } else { counts.join(", ") };
    let fit = if count(findings, Level::Problem) == 0 { "fit" } else { "not fit" };
    format!("{fit} for {}: {counts}\n", job.fed())
}

/// Lines for psql, as a superuser. What is not SQL, or not to be done without a thought, is a comment.
pub(super) fn fix_sql(findings: &[Finding]) -> String {
    const RELOAD: &str = "SELECT pg_reload_conf();";
    let fixes: Vec<&Fix> = findings.iter().flat_map(|finding| &finding.fixes).collect();
    let mut lines: Vec<String> = Vec::new();
    for fix in &fixes {
        let line = match (fix.place, fix.offer, fix.needs) {
            (FixPlace::Sql, Offer::Apply, Needs::Restart) => format!("{} -- needs a restart", fix.line),
            (FixPlace::Sql, Offer::Apply, _) => fix.line.clone(),
            _ => format!("-- {}", fix_line(fix)),
        };
        if line != RELOAD && !lines.contains(&line) {
            lines.push(line);
        }
    }
    let is_applied = |fix: &Fix| fix.place == FixPlace::Hba || fix.offer == Offer::Apply;
    let needed = |needs| fixes.iter().any(|fix| fix.needs == needs && is_applied(fix));
    if needed(Needs::Reload) || fixes.iter().any(|fix| fix.line == RELOAD) {
        lines.push(RELOAD.to_owned());
    }
    if needed(Needs::Restart) {
        lines.push("-- then restart the server".to_owned());
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// One line for a program.
pub(super) fn print_json(seen: &Seen, place: &Place, job: Job, findings: &[Finding], exit: Exit) -> Exit {
    report::print_json(&json!({
        "fit": exit == Exit::Done,
        "for": job,
        "server": {
            "host": place.host,
            "port": place.port,
            "version": seen.version.to_string(),
            "in_recovery": seen.in_recovery,
        },
        "role": seen.user,
        "problems": count(findings, Level::Problem),
        "warnings": count(findings, Level::Warning),
        "unknown": count(findings, Level::Unknown),
        "wal_rate": { "moment": seen.wal_rate.moment, "average": seen.wal_rate.average },
        "findings": findings,
        "exit_code": exit.code(),
    }))
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
