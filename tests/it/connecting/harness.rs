//! A table of connection strings, each given to `psql` and to pgwake.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use pgwake::client::conninfo::{Environment, FileStatus};
use pgwake::client::{ConnInfo, Connected, Purpose, Settings, SystemEnvironment, connect};

use crate::support::servers::program;
use crate::support::{TestDir, Tool};

/// Whose home it is, what the environment says, and what was checked.
pub(super) struct Lab {
    pub(super) dir: TestDir,
    home: PathBuf,
    failures: String,
    checked: usize,
    compared: usize,
}

/// One string and what comes of it.
pub(super) struct Row<'a> {
    conninfo: String,
    variables: Vec<(&'a str, String)>,
    expected: Expected<'a>,
    psql: Psql<'a>,
    purpose: Purpose,
}

#[derive(Debug, Clone, Copy)]
enum Expected<'a> {
    /// It connects, and [`QUESTION`] has this answer.
    Connects(&'a str),
    /// It does not, and the error contains this.
    Fails(&'a str),
}

/// What `psql` has to do with it.
#[derive(Debug, Clone, Copy)]
enum Psql<'a> {
    /// The system's does the same.
    Same,
    /// One of 17 or later does the same: 15 does not know the option.
    Newer,
    /// It does the opposite, on purpose.
    Opposite(#[allow(dead_code, reason = "says why, in the table")] &'a str),
    /// One of 17 or later does the opposite, on purpose.
    NewerOpposite(#[allow(dead_code, reason = "says why, in the table")] &'a str),
}

const QUESTION: &str = "SELECT current_user || ' ' || (CASE WHEN (SELECT ssl FROM pg_stat_ssl \
                        WHERE pid = pg_backend_pid()) THEN 'tls' ELSE 'plain' END) || ' ' || \
                        current_setting('cluster_name')";

pub(super) fn connects(conninfo: impl Into<String>, answer: &str) -> Row<'_> {
    row(conninfo, Expected::Connects(answer))
}

pub(super) fn fails(conninfo: impl Into<String>, error: &str) -> Row<'_> {
    row(conninfo, Expected::Fails(error))
}

fn row(conninfo: impl Into<String>, expected: Expected<'_>) -> Row<'_> {
    let conninfo = conninfo.into();
    Row { conninfo, variables: Vec::new(), expected, psql: Psql::Same, purpose: Purpose::Sql }
}

impl<'a> Row<'a> {
    pub(super) fn variable(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    pub(super) fn newer(mut self) -> Self {
        self.psql = Psql::Newer;
        self
    }

    pub(super) fn unlike_psql(mut self, why: &'a str) -> Self {
        self.psql = Psql::Opposite(why);
        self
    }

    pub(super) fn newer_and_unlike(mut self, why: &'a str) -> Self {
        self.psql = Psql::NewerOpposite(why);
        self
    }

    /// As a physical walsender; the answer is "walsender".
    pub(super) fn physical(mut self) -> Self {
        self.purpose = Purpose::PhysicalReplication;
        self
    }
}

impl Lab {
    pub(super) fn new() -> Lab {
        let dir = TestDir::new();
        let home = dir.join("home");
        std::fs::create_dir_all(home.join(".postgresql")).expect("make a home");
        Lab { dir, home, failures: String::new(), checked: 0, compared: 0 }
    }

    /// Writes a file that only we can read, or with another mode.
    pub(super) fn file(&self, name: &str, mode: u32, contents: impl AsRef<[u8]>) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.join(name);
        std::fs::write(&path, contents).expect("write a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set its mode");
        path.display().to_string()
    }

    pub(super) fn check<'a>(&mut self, rows: impl IntoIterator<Item = Row<'a>>) {
        for row in rows {
            self.check_row(&row);
        }
    }

    fn check_row(&mut self, row: &Row<'_>) {
        self.checked += 1;
        let ours = self.ours(row);
        let as_expected = match (row.expected, &ours) {
            (Expected::Connects(answer), Ok(given)) => given == answer,
            (Expected::Fails(text), Err(error)) => error.contains(text),
            _ => false,
        };
        if !as_expected {
            let _ = writeln!(
                self.failures,
                "{}\n  pgwake: {ours:?}\n  expected {:?}",
                row.conninfo, row.expected
            );
        }
        let Some(theirs) = self.theirs(row) else { return };
        self.compared += 1;
        let agree = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            (Err(_), Err(_)) => true,
            _ => false,
        };
        if agree == matches!(row.psql, Psql::Opposite(_) | Psql::NewerOpposite(_)) {
            let _ = writeln!(
                self.failures,
                "{}\n  pgwake: {ours:?}\n  psql: {theirs:?}\n  wanted {:?}",
                row.conninfo, row.psql
            );
        }
    }

    fn ours(&self, row: &Row<'_>) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let connected = self.connect(&row.conninfo, &row.variables, row.purpose).await?;
            let mut connection = connected.into_connection().map_err(|error| error.to_string())?;
            if row.purpose == Purpose::PhysicalReplication {
                connection.identify_system().await.map_err(|error| error.to_string())?;
                return Ok("walsender".to_owned());
            }
            let sets = connection.query(QUESTION, "question").await.map_err(|error| error.to_string())?;
            connection.close().await;
            Ok(sets[0].rows[0].text(0).unwrap_or("").to_owned())
        })
    }

    /// Through our connector, in this home.
    pub(super) async fn connect(
        &self,
        conninfo: &str,
        variables: &[(&str, String)],
        purpose: Purpose,
    ) -> Result<Connected, String> {
        let environment = LabEnvironment { home: &self.home, variables };
        let conninfo = ConnInfo::parse(conninfo).map_err(|error| error.to_string())?;
        let settings = Settings::resolve(&conninfo, &environment).map_err(|error| error.to_string())?;
        connect(&settings, purpose).await.map_err(|error| error.to_string())
    }

    fn theirs(&self, row: &Row<'_>) -> Option<Result<String, String>> {
        let mut psql = match row.psql {
            Psql::Same | Psql::Opposite(_) => Tool::psql(),
            Psql::Newer | Psql::NewerOpposite(_) => {
                Tool::new((17..=19).rev().find_map(|major| program(major, "psql"))?)
            }
        };
        let mut conninfo = row.conninfo.clone();
        let physical = row.purpose == Purpose::PhysicalReplication;
        if physical {
            conninfo += " replication=true";
        }
        for (name, value) in &row.variables {
            psql = psql.env(name, value);
        }
        let question = if physical { "IDENTIFY_SYSTEM" } else { QUESTION };
        let outcome = psql.env("HOME", &self.home).args(["-XAtw", "-c", question, "-d", &conninfo]).run();
        Some(match outcome.code {
            Some(0) if physical => Ok("walsender".to_owned()),
            Some(0) => Ok(outcome.stdout.trim_end().to_owned()),
            _ => Err(outcome.stderr),
        })
    }

    /// Fails the test if any row was wrong.
    #[track_caller]
    pub(super) fn verdict(&self) {
        println!("{} connection strings, {} of them compared with psql", self.checked, self.compared);
        assert!(self.failures.is_empty(), "\n{}", self.failures);
    }
}

/// Our own variables and home; the real files.
pub(super) struct LabEnvironment<'a> {
    home: &'a Path,
    variables: &'a [(&'a str, String)],
}

impl Environment for LabEnvironment<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        SystemEnvironment.read(path)
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        SystemEnvironment.status(path)
    }

    fn home_dir(&self) -> Option<PathBuf> {
        Some(self.home.to_owned())
    }

    fn user_name(&self) -> io::Result<String> {
        SystemEnvironment.user_name()
    }

    fn current_dir(&self) -> io::Result<PathBuf> {
        SystemEnvironment.current_dir()
    }
}
