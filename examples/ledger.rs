//! The writing load and the SQL checks of `make demo`, so that it needs no client program of PostgreSQL.
//!
//! ```text
//! ledger write  CONNINFO [ROWS_PER_SECOND]   append rows until SIGTERM or SIGINT, then say how many
//! ledger count  CONNINFO                     how many rows there are
//! ledger hash   CONNINFO                     a hash over all of them, in order
//! ledger wait   CONNINFO STANDBY_CONNINFO    until the standby has replayed what the primary has written by now
//! ledger status CONNINFO                     pg_stat_replication, a line for each follower
//! ```

use std::error::Error;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::{Client, NoTls};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", conninfo] => write(conninfo, 200).await,
        ["write", conninfo, rate] => write(conninfo, rate.parse()?).await,
        ["count", conninfo] => print(conninfo, "SELECT count(*)::text FROM ledger").await,
        ["hash", conninfo] => print(conninfo, HASH).await,
        ["wait", primary, standby] => wait(primary, standby).await,
        ["status", conninfo] => print(conninfo, STATUS).await,
        _ => Err("usage: ledger write|count|hash|wait|status CONNINFO …".into()),
    }
}

const HASH: &str = "SELECT md5(string_agg(id || ':' || note, ',' ORDER BY id)) FROM ledger";

const STATUS: &str = "SELECT format('%-12s %-10s sent %s, written %s, flushed %s, replayed %s', application_name, state, \
                      sent_lsn, write_lsn, flush_lsn, coalesce(replay_lsn::text, '-')) \
                      FROM pg_stat_replication ORDER BY backend_start";

async fn connect(conninfo: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Each row is a transaction of its own, with a note of a kilobyte that does not compress.
async fn write(conninfo: &str, rows_per_second: u64) -> Result<()> {
    let client = connect(conninfo).await?;
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS ledger (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), note text)",
        )
        .await?;
    let insert = client
        .prepare("INSERT INTO ledger (note) SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 32)")
        .await?;
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / rows_per_second.max(1)));
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut written = 0u64;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = tick.tick() => written += client.execute(&insert, &[]).await?,
        }
    }
    println!("{written} rows written");
    Ok(())
}

/// Prints the text column of every row.
async fn print(conninfo: &str, sql: &str) -> Result<()> {
    for row in connect(conninfo).await?.query(sql, &[]).await? {
        println!("{}", row.get::<_, Option<&str>>(0).unwrap_or("nothing"));
    }
    Ok(())
}

async fn wait(primary: &str, standby: &str) -> Result<()> {
    let primary = connect(primary).await?;
    let target: String = primary.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    let standby = connect(standby).await?;
    let question = format!("SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= '{target}'::pg_lsn");
    for _ in 0..600 {
        if standby.query_one(&question, &[]).await?.get::<_, Option<bool>>(0) == Some(true) {
            println!("the standby has replayed up to {target}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("the standby has not replayed up to {target} within 30 seconds").into())
}
