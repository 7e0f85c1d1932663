//! Promise: a script that calls `pg_verifybackup` cannot tell which one answers, except that ours finds more and needs
//! less; and no damage goes unnoticed.
//!
//! The real one and ours get the same argv and the same backup, whole or damaged; exit code and both streams are
//! compared.

mod backups;
mod flips;
mod hostile;
mod incremental;
mod manifests;
mod report;
mod table;
mod versions;

use std::path::Path;

use backups::{Backups, Form};
use table::{Case, Order};

use crate::require_server;
use crate::support::servers::{majors, missing, program};
use crate::support::{Outcome, TestDir, Tool};

/// Ours under the original's name, as a link to the program.
fn ours(dir: &TestDir) -> Tool {
    let link = dir.join("pg_verifybackup");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pgwake"), &link).expect("link the program");
    }
    Tool::new(link)
}

/// The real one of exactly this major; `None`, said aloud, where there is none.
fn original(major: u32) -> Option<Tool> {
    let found = program(major, "pg_verifybackup");
    if found.is_none() {
        missing(&format!("pg_verifybackup{major}"), "the program", "this build has none");
    }
    found.map(Tool::new)
}

/// What is compared of a run. The lines of the original's `pg_waldump` and the details that we say instead are left
/// out: what each says of WAL are its own words.
fn essence(outcome: &Outcome, program: &str, order: Order) -> String {
    let waldump = |line: &&str| line.starts_with("pg_waldump: ");
    let detail = |line: &&str| line.starts_with("pg_verifybackup: detail: ");
    // between the first and the last there is one where a second has passed
    let progress = |line: &&str| {
        line.ends_with("%) verified")
            && !line.trim_start().starts_with("0/")
            && !line.ends_with("(100%) verified")
    };
    let stderr = outcome.stderr.replace(program, "PROGRAM");
    let left_out = |line: &&str| waldump(line) || detail(line) || progress(line);
    let mut lines: Vec<&str> = stderr.lines().filter(|line| !left_out(line)).collect();
    if order == Order::Any {
        lines.sort_unstable();
    }
    format!("exit code {:?}\n{}--- stderr\n{}", outcome.code, outcome.stdout, lines.join("\n"))
}

/// Runs every case that both understand; each on a copy of the backup that its damage is done to.
fn compare(major: u32, tool: &Tool, tool_major: u32, backups: &Backups, cases: &[Case]) -> usize {
    let dir = TestDir::in_memory();
    let ours = ours(&dir);
    let (its_program, our_program) = (tool.to_string(), ours.to_string());
    let (mut different, mut count) = (Vec::new(), 0);
    for case in cases.iter().filter(|case| case.applies(major, tool_major)) {
        count += 1;
        // the same path for both, which is in their messages
        let copy = backups.copy(case.form, &dir, "backup");
        (case.damage)(&copy);
        let run = |tool: &Tool| {
            let words = case.args.iter().map(|word| word.replace("DIR", &copy.display().to_string()));
            let tool = tool.clone().args(words).dir(dir.path());
            if case.by_server_user { tool.by_server_user().run() } else { tool.run() }
        };
        let (its, our) = (run(tool), run(&ours));
        let expected = case.expected(tool_major, essence(&its, &its_program, case.order));
        let found = essence(&our, &our_program, case.order);
        // a copy of the program that another user can reach has another path
        if expected != found {
            different.push(format!(
                "{} ({:?})\n--- expected\n{expected}\n--- ours\n{found}\n--- all\n{its}\n{our}",
                case.name, case.args
            ));
        }
        backups::remove(&copy);
    }
    assert!(
        different.is_empty(),
        "{} of {count} differ on {major}\n{}",
        different.len(),
        different.join("\n")
    );
    count
}

#[test]
fn the_same_arguments_and_damage_are_told_the_same() {
    for major in majors() {
        require_server!(major);
        // the tool of 13 says "fatal:", and some things in other words; 14 has none here
        if major < 15 {
            continue;
        }
        let Some(tool) = original(major) else { continue };
        let backups = Backups::new(major);
        let cases = [table::command_lines(), table::damage(), manifests::cases(), table::archives()].concat();
        let mut count = compare(major, &tool, major, &backups, &cases);
        // options that are newer than the server's tool: the newest reads manifests of version 1, but not their WAL
        if major < 17
            && let Some(newest) = program(19, "pg_verifybackup").map(Tool::new)
        {
            let newer: Vec<Case> = cases.iter().filter(|case| case.for_newest_only(major)).cloned().collect();
            count += compare(major, &newest, 19, &backups, &newer);
        }
        assert!(count >= 60, "only {count} cases on {major}");
    }
}

/// A backup that is as it was made, except for what `damage` does to a copy of it.
fn damaged(backups: &Backups, form: Form, dir: &TestDir, damage: impl FnOnce(&Path)) -> std::path::PathBuf {
    let copy = backups.copy(form, dir, &format!("damaged-{:08x}", fastrand::u32(..)));
    damage(&copy);
    copy
}
