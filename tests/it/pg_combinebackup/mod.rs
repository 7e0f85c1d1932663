//! Promise: a script that calls `pg_combinebackup` cannot tell which one answers, and what comes out starts with every
//! row. The real one and ours get the same argv and the same backups; exit code, both streams, names, modes and bytes of
//! the result are compared.
//!
//! Incremental backups came with 17. Where only older majors are tested, 17 stands in.

mod chain;
mod compare;
mod faults;
mod scene;
mod situations;
mod starting;
mod strictness;
mod table;

use crate::support::{TestDir, Tool, servers};
use crate::{require_program, require_root, require_server};
use chain::Chain;

/// The majors to test against.
fn majors() -> Vec<u32> {
    let majors: Vec<u32> = servers::majors().into_iter().filter(|major| *major >= 17).collect();
    if majors.is_empty() { vec![17] } else { majors }
}

/// Ours under the original's name, as a link to the program.
fn ours(dir: &TestDir) -> Tool {
    let link = dir.join("pg_combinebackup");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pgwake"), &link).expect("link the program");
    }
    Tool::new(link)
}

#[test]
fn the_same_arguments_in_the_same_situation_do_the_same() {
    let cases: Vec<_> = table::cases().into_iter().chain(situations::cases()).collect();
    assert!(cases.len() >= 110, "only {} cases", cases.len());
    // where 17 only stands in, every third: the run that asks for it has them all
    let step = if servers::majors().iter().any(|major| *major >= 17) { 1 } else { 3 };
    let cases: Vec<_> = cases.into_iter().step_by(step).collect();
    for major in majors() {
        require_server!(major);
        compare::compare(&Chain::make(major), &cases);
    }
}

#[test]
fn chains_of_every_depth_start_with_every_row() {
    for major in majors() {
        require_server!(major);
        starting::chains_of_every_depth_start_with_every_row(&Chain::make(major));
    }
}

/// Where files can share blocks, what is whole costs none.
#[test]
fn clones_cost_nothing() {
    require_root!();
    require_program!("mkfs.xfs");
    let major = majors()[0];
    require_server!(major);
    starting::clones_cost_nothing(major);
}

#[test]
#[ignore = "two hundred backups; run by make torture"]
fn a_chain_of_two_hundred_starts() {
    let major = majors()[0];
    require_server!(major);
    starting::a_chain_of_two_hundred_starts(major);
}

#[test]
#[ignore = "a gigabyte of zeros; run by make torture"]
fn the_largest_file_is_made() {
    let major = majors()[0];
    require_server!(major);
    strictness::the_largest_file_is_made(&Chain::make(major));
}

/// On one major: what is tried is ours alone.
#[test]
fn what_fails_or_cannot_be_right_leaves_nothing() {
    require_program!("strace");
    let major = majors()[0];
    require_server!(major);
    let chain = Chain::make(major);
    strictness::what_cannot_be_right_is_refused(&chain);
    faults::signals_take_everything_away(&chain);
    faults::what_a_killed_run_leaves_passes_for_no_backup(&chain);
    faults::failing_system_calls_leave_nothing(&chain);
    if servers::is_root() {
        faults::a_full_disk_leaves_nothing(&chain);
    }
}
