//! A session that writes to the primary and reads what it wrote from a standby: docs/read-your-writes.md.
//!
//! ```text
//! read_your_writes PRIMARY_CONNINFO STANDBY_CONNINFO [PATIENCE_IN_SECONDS]
//! ```
//!
//! Says where it has read, and what: the standby if it has the write in time, or else the primary.

use std::error::Error;
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (primary, standby, patience) = match &args[..] {
        [primary, standby] => (primary, standby, 0.2),
        [primary, standby, patience] => (primary, standby, patience.parse()?),
        _ => return Err("usage: read_your_writes PRIMARY STANDBY [SECONDS]".into()),
    };
    let primary = connect(primary).await?;
    primary.batch_execute("CREATE TABLE IF NOT EXISTS notes (id bigserial PRIMARY KEY, text text)").await?;
    let note = primary.query_one("INSERT INTO notes (text) VALUES ('hello') RETURNING id", &[]).await?;
    let lsn = position(&primary).await?;
    let id: i64 = note.get(0);

    // a standby that cannot be reached is no reason to fail
    let standby = connect(standby).await.ok();
    let (name, client) = match &standby {
        Some(standby) => {
            let client = reader(standby, &primary, &lsn, Duration::from_secs_f64(patience)).await;
            (if std::ptr::eq(client, standby) { "standby" } else { "primary" }, client)
        }
        None => ("primary", &primary),
    };
    let text: String = client.query_one("SELECT text FROM notes WHERE id = $1", &[&id]).await?.get(0);
    println!("{name}: note {id} at {lsn} is {text:?}");
    Ok(())
}

async fn connect(conninfo: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Where everything lies that this session has committed: to be asked after the commit, on the same connection.
async fn position(primary: &Client) -> Result<String, tokio_postgres::Error> {
    Ok(primary.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0))
}

/// The standby if it has the LSN in time, or else the primary.
async fn reader<'a>(standby: &'a Client, primary: &'a Client, lsn: &str, patience: Duration) -> &'a Client {
    match tokio::time::timeout(patience, replayed(standby, lsn)).await {
        Ok(Ok(())) => standby,
        _ => primary,
    }
}

/// Asks again and again until the standby has replayed the LSN.
async fn replayed(standby: &Client, lsn: &str) -> Result<(), tokio_postgres::Error> {
    const QUESTION: &str = "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
    let mut pause = Duration::from_millis(5);
    while standby.query_one(QUESTION, &[&lsn]).await?.get::<_, Option<bool>>(0) != Some(true) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(())
}
