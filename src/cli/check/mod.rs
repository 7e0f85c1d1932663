//! `pgwake check`.

mod output;

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::Instant;

use super::connection::{ConnectError, ConnectionArgs};
use super::exit::Exit;
use super::report;
use crate::ErrorClass;
use crate::client::conninfo::{HostAddress, HostSpec, Settings};
use crate::client::{OpenError, Purpose, open};
use crate::inspect::InspectError;
use crate::inspect::fitness::{self, Job, Refusal, RefusalKind, Seen, Trial};
use crate::inspect::wal_rate::MOMENT;

/// Is this server fit to feed a standby, an archive, a synchronous receiver?
///
/// Looks at settings, rights, pg_hba.conf, who receives WAL and what slots hold back, and opens a replication
/// connection for a moment. Changes nothing. Every warning and problem comes with why it matters and the line that
/// mends it. A role that may only replicate is enough; what it may not see is said. A standby is checked as the
/// upstream of a cascade. Exit code 0: fit, 1: not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples: pgwake check -d \"host=db1 user=rep\"
          pgwake check -d \"host=db1 user=rep\" --fix-sql | psql -h db1 -U postgres

JSON: fit, problems, warnings, unknown (counts), server, role, for, wal_rate \
(moment and average: bytes_per_second, seconds), and findings: check, object \
(a slot's name), level (ok, warning, problem, unknown), found, why, and fixes: \
in (sql, pg_hba.conf, server command line, shell, connection string), line, \
before_line, needs (nothing, reload, restart), offer (apply, consider).")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    connection: ConnectionArgs,

    /// What it is to feed
    #[arg(long = "for", value_enum, value_name = "WHAT", default_value_t = JobArg::Standby)]
    #[arg(help_heading = "Options")]
    job: JobArg,

    /// Print only the lines that mend what is wrong: SQL, and comments for what is not SQL
    ///
    /// What costs something, or only you can decide, is a comment too.
    #[arg(long, conflicts_with = "json", help_heading = "Options")]
    fix_sql: bool,

    /// Print the findings as JSON
    #[arg(long, help_heading = "Options")]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum JobArg {
    Standby,
    Archive,
    Synchronous,
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Inspect(#[from] InspectError),
}

impl CheckError {
    fn class(&self) -> ErrorClass {
        match self {
            CheckError::Connect(error) => error.class(),
            CheckError::Inspect(error) => error.class(),
        }
    }
}

/// How long the server may be silent, where `connect_timeout` does not say.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the command.
pub(super) fn run(args: &CheckArgs) -> Exit {
    let settings = match args.connection.settings("pgwake check") {
        Ok(settings) => settings,
        Err(error) => return report::usage(&error, args.json),
    };
    super::block_on(args.json, drive(args, settings))
}

async fn drive(args: &CheckArgs, mut settings: Settings) -> Exit {
    settings.connect_timeout = settings.connect_timeout.or(Some(ANSWER_TIMEOUT));
    let (seen, place) = match look(&args.connection, settings).await {
        Ok(seen) => seen,
        Err(error) => return report::failure(&error, error.class(), args.json),
    };
    let job = match args.job {
        JobArg::Standby => Job::Standby,
        JobArg::Archive => Job::Archive,
        JobArg::Synchronous => Job::Synchronous,
    };
    let findings = fitness::findings(&seen, job);
    let exit = if fitness::is_fit(&findings) { Exit::Done } else { Exit::Failed };
    exit.or(if args.json {
        output::print_json(&seen, &place, job, &findings, exit)
    } else if args.fix_sql {
        report::print(&output::fix_sql(&findings))
    } else {
        report::print(&output::text(&seen, &place, job, &findings))
    })
}

/// Where the server is, as it was written.
struct Place {
    host: String,
    port: u16,
}

impl Place {
    fn of(host: &HostSpec) -> Self {
        let address = match &host.address {
            HostAddress::Name(text) | HostAddress::Address(text) | HostAddress::SocketDir(text) => {
                text.as_str()
            }
            HostAddress::DefaultSocketDir => "the local socket",
        };
        Place { host: host.name.as_deref().unwrap_or(address).to_owned(), port: host.port }
    }
}

/// Asks in SQL first: a replication connection of ours would count among those in use.
async fn look(args: &ConnectionArgs, mut settings: Settings) -> Result<(Seen, Place), CheckError> {
    args.ask_password_if_told(&mut settings).await.map_err(ConnectError::from)?;
    let mut for_sql = settings.clone();
    let mut sql = match args.connect_sql(&mut for_sql).await {
        Ok(sql) => sql,
        Err(ConnectError::Open(error)) => {
            let refusal = Refusal::by_server(&error).ok_or(ConnectError::Open(error))?;
            return look_without_sql(args, settings, refusal).await;
        }
        Err(error) => return Err(error.into()),
    };
    // one that was typed
    settings.password = for_sql.password;
    sql.set_answer_timeout(settings.connect_timeout);
    let place = Place::of(sql.host());
    let mut seen = Seen::by_sql(&sql, &settings.user).await?;
    let enough = Instant::now() + MOMENT;
    seen.trial = match open(&settings.pinned_to(sql.host()), Purpose::PhysicalReplication).await {
        Ok(replication) => {
            replication.close().await;
            Trial::LetIn
        }
        Err(error) => Trial::Refused(refusal(&error)),
    };
    tokio::time::sleep_until(enough).await;
    seen.measure_wal_rate(&sql).await?;
    sql.close().await;
    Ok((seen, place))
}

/// Any reason is one; an ordinary connection to the same server was had.
fn refusal(error: &OpenError) -> Refusal {
    Refusal::by_server(error)
        .unwrap_or_else(|| Refusal { kind: RefusalKind::Other, message: report::one_line(error) })
}

async fn look_without_sql(
    args: &ConnectionArgs,
    mut settings: Settings,
    sql: Refusal,
) -> Result<(Seen, Place), CheckError> {
    let mut replication = args.connect(&mut settings, Purpose::PhysicalReplication).await?;
    replication.set_answer_timeout(settings.connect_timeout);
    let place = Place::of(replication.host());
    let address = match &replication.host().address {
        HostAddress::Address(text) => text.parse().ok(),
        _ => None,
    };
    let seen = Seen::by_replication(&mut replication, &settings.user, address, sql).await?;
    replication.close().await;
    Ok((seen, place))
}
