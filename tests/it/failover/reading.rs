//! The recipe of docs/read-your-writes.md, run.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{standby_of, write_and_replay};
use crate::require_server;
use crate::support::{Cluster, Stop, Tool};

/// The example program. `make test` has built it, and so has `cargo test`; a run of these tests alone builds it here.
fn example() -> PathBuf {
    let directory = Path::new(env!("CARGO_BIN_EXE_pgwake")).parent().expect("a target directory");
    let (root, program) =
        (Path::new(env!("CARGO_MANIFEST_DIR")), directory.join("examples/read_your_writes"));
    let changed_at = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    if changed_at(&program)
        .is_some_and(|at| Some(at) > changed_at(&root.join("examples/read_your_writes.rs")))
    {
        return program;
    }
    let profile = if directory.ends_with("release") { "release" } else { "dev" };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--example", "read_your_writes", "--profile", profile, "--target-dir"]);
    cargo.arg(directory.with_file_name("")).current_dir(root);
    assert!(cargo.status().is_ok_and(|status| status.success()), "the example does not build");
    program
}

#[test]
fn the_example_reads_from_the_standby_and_falls_back() {
    require_server!();
    let example = example();
    let primary = Cluster::new();
    let standby = standby_of(&primary, "standby1");
    write_and_replay(&primary, &[&standby]);
    let (one, two) = (primary.conninfo(), standby.conninfo());
    let run = |patience: &str| Tool::new(&example).args([&one, &two, patience]).run().succeeded();
    for id in 1..=3 {
        run("30").says(&format!("standby: note {id} at "));
    }
    standby.psql("SELECT pg_wal_replay_pause()");
    standby.wait_for("SELECT pg_is_wal_replay_paused()", "t");
    run("0.1").says("primary: note 4 at ");
    standby.psql("SELECT pg_wal_replay_resume()");
    run("30").says("standby: note 5 at ");
    standby.stop(Stop::Fast);
    run("30").says("primary: note 6 at ");
}

#[test]
fn the_recipe_shows_what_the_example_does() {
    let read =
        |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let (recipe, example) = (read("docs/read-your-writes.md"), read("examples/read_your_writes.rs"));
    let (_, rest) = recipe.split_once("```rust,ignore\n").unwrap();
    let (snippet, _) = rest.split_once("```").unwrap();
    assert!(example.contains(snippet.trim_end()), "{snippet}");
}
