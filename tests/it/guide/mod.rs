//! The documentation is what happens: every command in it is run, on machines of its own, and its output compared with
//! what is shown.
//!
//! `PGWAKE_GUIDE_RECORD=1` writes what came into the documents instead. Outputs are compared on the major version that they
//! are shown of; on others a command has to succeed or fail as shown, and `psql` to answer the same.

mod document;
mod machines;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::document::{Document, Step, is_shown, shows_failure};
use self::machines::{Machines, Ran};
use crate::require_server;
use crate::support::servers::{default_major, missing};

/// The version of the outputs that are shown.
const SHOWN_MAJOR: u32 = 15;

/// How long a look is repeated until it shows what is shown: servers take a moment to see each other.
const PATIENCE: Duration = Duration::from_secs(20);

/// Skips the test, visibly, where there can be no machines.
macro_rules! require_machines {
    () => {
        if let Some(component) = machines::missing() {
            missing(component, "the component", "root, iproute2 and util-linux make machines of namespaces");
            return;
        }
    };
}

/// Half a minute, on four machines.
#[test]
fn the_guide_is_what_happens() {
    require_server!();
    require_machines!();
    let not_run = Run::new("docs/guide.md", &["db1", "db2", "db3", "backup"], "db1").all();
    assert_eq!(not_run, Vec::<String>::new());
}

#[test]
fn the_readme_is_what_happens() {
    require_server!();
    require_machines!();
    let mut run = Run::new("README.md", &["db1", "db2", "here"], "here");
    let set_up = [
        "initdb -D /srv/pg --auth=trust",
        "echo \"listen_addresses = '*'\" >> /srv/pg/postgresql.conf",
        "echo 'host all,replication all 10.0.0.0/24 trust' >> /srv/pg/pg_hba.conf",
        "pg_ctl start -D /srv/pg -l /srv/pg.log",
        "psql -c 'CREATE ROLE replicator LOGIN REPLICATION IN ROLE pg_monitor' -c 'CREATE ROLE rose LOGIN SUPERUSER'",
        "pgwake slot create archive1",
    ];
    for command in set_up {
        let ran = run.machines.named("db1").run(command);
        assert_eq!(ran.code, 0, "{command}: {}", ran.output);
    }
    // each of these is run elsewhere
    let not_run = run.all();
    let elsewhere = [
        "the guide runs it",
        "tests/it/metering asks one",
        "archives to a store of its own",
        "in a directory and in a store of its own",
        "tests/it/benching has its own",
    ];
    assert_eq!(not_run.len(), elsewhere.len(), "{not_run:?}");
    assert!(not_run.iter().zip(elsewhere).all(|(reason, place)| reason.ends_with(place)), "{not_run:?}");
}

/// A document that is being run.
struct Run {
    path: PathBuf,
    text: String,
    document: Document,
    machines: Machines,
    home: &'static str,
    recorded: Vec<(std::ops::Range<usize>, String)>,
}

impl Run {
    fn new(path: &str, names: &[&str], home: &'static str) -> Run {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let text = std::fs::read_to_string(&path).expect("read a document");
        let document = document::read(&text);
        assert!(!document.steps.is_empty(), "{} has no commands", path.display());
        let machines = Machines::start(names, default_major());
        Run { path, text, document, machines, home, recorded: Vec::new() }
    }

    /// Runs all commands; returns why some blocks are not run.
    fn all(mut self) -> Vec<String> {
        for step in std::mem::take(&mut self.document.steps) {
            self.step(&step);
        }
        if is_recording() {
            self.record();
        }
        self.document.not_run
    }

    fn step(&mut self, step: &Step) {
        let place = format!("{}:{}", self.path.display(), step.line);
        let began_at = Instant::now();
        let machine = self.machines.named(step.machine.as_deref().unwrap_or(self.home));
        let mut ran = machine.run(&step.command);
        while !is_as_shown(&ran, step)
            && is_look(&step.command)
            && began_at.elapsed() < PATIENCE
            && !is_recording()
        {
            std::thread::sleep(Duration::from_millis(200));
            ran = machine.run(&step.command);
        }
        if is_recording() {
            eprintln!(
                "{place}: $ {} [{} after {:?}]\n{}",
                step.command,
                ran.code,
                began_at.elapsed(),
                ran.output
            );
            if !is_as_shown(&ran, step) {
                let shown = ran.output.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
                self.recorded.push((step.shown_at.clone(), shown));
            }
            return;
        }
        assert!(
            is_as_shown(&ran, step),
            "{place}: $ {}\nexit code {}, and what came is not what is shown\n--- shown\n{}\n--- came\n{}",
            step.command,
            ran.code,
            step.shown,
            ran.output
        );
    }

    /// Puts what came in place of what is shown, from the end on.
    fn record(&mut self) {
        let mut lines: Vec<String> = self.text.lines().map(|line| line.to_owned() + "\n").collect();
        for (range, shown) in self.recorded.drain(..).rev() {
            lines.splice(range, [shown]);
        }
        std::fs::write(&self.path, lines.concat()).expect("write a document");
    }
}

fn is_recording() -> bool {
    std::env::var_os("PGWAKE_GUIDE_RECORD").is_some()
}

fn is_as_shown(ran: &Ran, step: &Step) -> bool {
    let failed = ran.code != 0;
    // lines that mend something are printed of a server that is not fit
    let unfit = step.command.ends_with("--fix-sql") && !step.shown.is_empty();
    let compared = default_major() == SHOWN_MAJOR || step.command.starts_with("psql -c");
    failed == (unfit || shows_failure(&step.shown)) && (!compared || is_shown(&ran.output, &step.shown))
}

/// Whether a command changes nothing, so that it can be run again.
fn is_look(command: &str) -> bool {
    let looks = [
        "pgwake check",
        "pgwake status",
        "pgwake slot list",
        "pgwake standby status",
        "curl -s",
        "sed -n",
        "psql -c \"SELECT",
        "ls",
    ];
    looks.iter().any(|look| command.starts_with(look)) && !command.contains('|')
}
