//! Is this primary fit to be copied by this role, here and now?
//!
//! Asked before anything is made. What can only be known by doing it (a free walsender, a free slot) is done by the
//! caller for real right after; where ordinary SQL is allowed, it is counted here first, so that `--dry-run` can tell.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::client::{ClientError, Connection, SystemIdentity, Tablespace};
use crate::pg::{ServerVersion, SlotName, WalSegmentSize};
use crate::wire::command::quote_string;

/// What was found.
#[derive(Debug, Clone)]
pub struct Preflight {
    /// The server's version.
    pub version: ServerVersion,
    /// Which cluster it is, and where it stands.
    pub system: SystemIdentity,
    /// How its WAL is cut.
    pub segment_size: WalSegmentSize,
    /// Whether the data directory is open to its group (`initdb --allow-group-access`).
    pub group_access: bool,
    /// Its size in bytes, all tablespaces together, as far as this role may know.
    pub size: Option<u64>,
    /// The tablespaces, the data directory last; `None` where nobody could be asked.
    pub tablespaces: Option<Vec<Tablespace>>,
    /// Whether the slot is there already.
    pub slot_exists: bool,
}

/// Why a standby cannot be made from this server.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Older than what pgwake speaks.
    #[error("server version {0} is too old: pgwake supports PostgreSQL 13 and newer")]
    TooOld(ServerVersion),
    /// A setting under which no standby can follow.
    #[error("wal_level is \"{}\" on the server, which does not suffice for a standby", .0.escape_debug())]
    WalLevel(String),
    /// All connections for replication are taken.
    #[error(
        "no replication connection is free on the server: {used} of {max} are in use, and this needs {needed} more"
    )]
    NoFreeWalSenders {
        /// `max_wal_senders`.
        max: u64,
        /// Those in use, ours among them.
        used: u64,
        /// How many more this needs.
        needed: u64,
    },
    /// All slots are taken.
    #[error("no replication slot is free on the server: all {max} are in use")]
    NoFreeSlots {
        /// `max_replication_slots`.
        max: u64,
    },
    /// The slot's name is taken, and it was not said that it may be.
    #[error("replication slot \"{0}\" already exists on the server")]
    SlotExists(SlotName),
    /// Somebody is streaming from the slot.
    #[error("replication slot \"{slot}\" is in use on the server by process {}", .pid.escape_debug())]
    SlotActive {
        /// The slot.
        slot: SlotName,
        /// The walsender that holds it.
        pid: String,
    },
    /// The slot is there, but cannot be used for a standby.
    #[error("replication slot \"{slot}\" cannot be used: it is {}", .state.escape_debug())]
    SlotUnusable {
        /// The slot.
        slot: SlotName,
        /// `logical` or `lost`.
        state: String,
    },
    /// The slot is there, and was never used: until the standby streams, the server would keep no WAL for it.
    #[error("replication slot \"{0}\" cannot be used: it holds no WAL until somebody has streamed from it")]
    SlotEmpty(SlotName),
    /// A question was not answered.
    #[error("could not ask the server for {what}")]
    Query {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        #[source]
        source: ClientError,
    },
}

/// What this run is allowed to do with a slot that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExistingSlot {
    /// Its existence is an error: it may be another standby's.
    Refuse,
    /// It is meant for this standby.
    Use,
}

/// How many replication connections a run needs beyond the one that asks: the WAL stream's.
const MORE_WAL_SENDERS: u64 = 1;

/// How long the question for the size may take: less than a connection is waited for.
const SIZE_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks. `replication` is a physical replication connection, `sql` an ordinary one where the role may have it.
pub async fn preflight(
    replication: &mut Connection,
    sql: Option<&mut Connection>,
    slot: &SlotName,
    existing_slot: ExistingSlot,
) -> Result<Preflight, PreflightError> {
    let version = replication.version();
    if !version.is_supported() {
        return Err(PreflightError::TooOld(version));
    }
    let query = |what| move |source| PreflightError::Query { what, source };
    let wal_level = replication.show("wal_level").await.map_err(query("wal_level"))?;
    if !matches!(wal_level.as_str(), "replica" | "logical") {
        return Err(PreflightError::WalLevel(wal_level));
    }
    let mode = replication.show("data_directory_mode").await.map_err(query("data_directory_mode"))?;
    let mut found = Preflight {
        version,
        system: replication.identify_system().await.map_err(query("its identity"))?,
        segment_size: replication.wal_segment_size().await.map_err(query("wal_segment_size"))?,
        group_access: mode == "0750",
        size: None,
        tablespaces: None,
        slot_exists: false,
    };
    match sql {
        Some(sql) => ask_by_sql(sql, slot, existing_slot, &mut found).await?,
        None => ask_for_slot(replication, slot, existing_slot, &mut found).await?,
    }
    Ok(found)
}

/// Where only the replication connection is there: the slot, from version 15 on.
async fn ask_for_slot(
    replication: &mut Connection,
    slot: &SlotName,
    existing_slot: ExistingSlot,
    found: &mut Preflight,
) -> Result<(), PreflightError> {
    if found.version.has_read_replication_slot() {
        let state = replication.read_slot(slot).await;
        let state = state.map_err(|source| PreflightError::Query { what: "the replication slot", source })?;
        found.slot_exists = state.is_some();
        refuse_existing(slot, existing_slot, found)?;
        if state.is_some_and(|state| state.restart_lsn.is_none()) {
            return Err(PreflightError::SlotEmpty(slot.clone()));
        }
    }
    Ok(())
}

async fn ask_by_sql(
    sql: &mut Connection,
    slot: &SlotName,
    existing_slot: ExistingSlot,
    found: &mut Preflight,
) -> Result<(), PreflightError> {
    let counts = "SELECT current_setting('max_wal_senders'), (SELECT count(*) FROM pg_stat_get_wal_senders()), \
                  current_setting('max_replication_slots'), (SELECT count(*) FROM pg_replication_slots)";
    let counts = numbers(sql, counts, "free replication connections and slots").await?;
    if let [Some(max), Some(used), Some(max_slots), Some(slots)] = counts[..] {
        if used.saturating_add(MORE_WAL_SENDERS) > max {
            return Err(PreflightError::NoFreeWalSenders { max, used, needed: MORE_WAL_SENDERS });
        }
        let holding = inspect_slot(sql, slot, found).await?;
        refuse_existing(slot, existing_slot, found)?;
        if holding == Holding::Nothing {
            return Err(PreflightError::SlotEmpty(slot.clone()));
        }
        if !found.slot_exists && slots >= max_slots {
            return Err(PreflightError::NoFreeSlots { max: max_slots });
        }
    }
    // a large cluster's size may take long to find out; that is no reason to wait, or to refuse
    let timeout = format!("SET statement_timeout = '{}s'", SIZE_TIMEOUT.as_secs());
    let query = |source| PreflightError::Query { what: "the cluster's size", source };
    sql.query(&timeout, "SET").await.map_err(query)?;
    let sizes = sizes(sql).await;
    found.size = sizes.as_ref().map(|sizes| sizes.values().fold(0u64, |sum, size| sum.saturating_add(*size)));
    found.tablespaces = Some(tablespaces(sql, &sizes.unwrap_or_default()).await?);
    Ok(())
}

/// Bytes in each tablespace, by its object id. Not every role may know; that is no reason to refuse.
async fn sizes(sql: &mut Connection) -> Option<BTreeMap<u32, u64>> {
    let sets = sql.query("SELECT oid, pg_tablespace_size(oid) FROM pg_tablespace", "SELECT").await.ok()?;
    let rows = &sets.first()?.rows;
    rows.iter().map(|row| Some((row.text(0)?.parse().ok()?, row.text(1)?.parse().ok()?))).collect()
}

/// The tablespaces as `BASE_BACKUP` is going to announce them.
async fn tablespaces(
    sql: &mut Connection,
    sizes: &BTreeMap<u32, u64>,
) -> Result<Vec<Tablespace>, PreflightError> {
    let text = "SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace ORDER BY oid";
    let sets = sql.query(text, "SELECT").await;
    let sets = sets.map_err(|source| PreflightError::Query { what: "its tablespaces", source })?;
    let (mut tablespaces, mut rest) = (Vec::new(), 0u64);
    for row in sets.first().iter().flat_map(|set| &set.rows) {
        let Some(oid) = row.text(0).and_then(|oid| oid.parse().ok()) else { continue };
        let bytes = sizes.get(&oid).copied().unwrap_or(0);
        match row.values.get(1).cloned().flatten().filter(|location| !location.is_empty()) {
            Some(location) => {
                tablespaces.push(Tablespace {
                    oid: Some(oid),
                    location: Some(location),
                    size_kb: Some(bytes / 1024),
                });
            }
            None => rest = rest.saturating_add(bytes),
        }
    }
    tablespaces.push(Tablespace { oid: None, location: None, size_kb: Some(rest / 1024) });
    Ok(tablespaces)
}

/// Whether a slot holds WAL that a standby could begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holding {
    Nothing,
    /// Some, or there is no slot.
    Something,
}

async fn inspect_slot(
    sql: &mut Connection,
    slot: &SlotName,
    found: &mut Preflight,
) -> Result<Holding, PreflightError> {
    let text = format!(
        "SELECT slot_type, active_pid, wal_status, restart_lsn FROM pg_replication_slots WHERE slot_name = {}",
        quote_string(slot.as_str())
    );
    let sets = sql.query(&text, "SELECT").await;
    let sets = sets.map_err(|source| PreflightError::Query { what: "the replication slot", source })?;
    let Some(row) = sets.first().and_then(|set| set.rows.first()) else { return Ok(Holding::Something) };
    found.slot_exists = true;
    if let Some(pid) = row.text(1) {
        return Err(PreflightError::SlotActive { slot: slot.clone(), pid: pid.to_owned() });
    }
    let unusable =
        [row.text(0).filter(|kind| *kind != "physical"), row.text(2).filter(|status| *status == "lost")];
    match unusable.into_iter().flatten().next() {
        Some(state) => Err(PreflightError::SlotUnusable { slot: slot.clone(), state: state.to_owned() }),
        None if row.text(3).is_none() => Ok(Holding::Nothing),
        None => Ok(Holding::Something),
    }
}

fn refuse_existing(
    slot: &SlotName,
    existing_slot: ExistingSlot,
    found: &Preflight,
) -> Result<(), PreflightError> {
    if found.slot_exists && existing_slot == ExistingSlot::Refuse {
        return Err(PreflightError::SlotExists(slot.clone()));
    }
    Ok(())
}

/// The first row's values as numbers; `None` where one is NULL or no number.
async fn numbers(
    sql: &mut Connection,
    text: &str,
    what: &'static str,
) -> Result<Vec<Option<u64>>, PreflightError> {
    let sets = sql.query(text, "SELECT").await.map_err(|source| PreflightError::Query { what, source })?;
    let row = sets.first().and_then(|set| set.rows.first());
    let row = row.map(|row| (0..row.values.len()).map(|column| row.text(column)?.parse().ok()).collect());
    Ok(row.unwrap_or_default())
}
