//! Is this primary fit to be copied by this role, here and now?
//!
//! Asked before anything is made. What can only be known by doing it (a free walsender, a free slot) is done by the
//! caller for real right after; where ordinary SQL is allowed, it is counted here first, so that `--dry-run` can tell.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::client::sql::RawText;
use crate::client::{ClientError, Connection, Sql, SystemIdentity, Tablespace};
use crate::pg::{ServerVersion, SlotName, WalSegmentSize};

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
    sql: Option<&Sql>,
    slot: &SlotName,
    existing_slot: ExistingSlot,
) -> Result<Preflight, PreflightError> {
    let version = replication.version();
    if !version.is_supported() {
        return Err(PreflightError::TooOld(version));
    }
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
        let state = state.map_err(query("the replication slot"))?;
        found.slot_exists = state.is_some();
        refuse_existing(slot, existing_slot, found)?;
        if state.is_some_and(|state| state.restart_lsn.is_none()) {
            return Err(PreflightError::SlotEmpty(slot.clone()));
        }
    }
    Ok(())
}

async fn ask_by_sql(
    sql: &Sql,
    slot: &SlotName,
    existing_slot: ExistingSlot,
    found: &mut Preflight,
) -> Result<(), PreflightError> {
    let room = room(sql).await.map_err(query("free replication connections and slots"))?;
    if room.wal_senders_used.saturating_add(MORE_WAL_SENDERS) > room.max_wal_senders {
        let (max, used) = (room.max_wal_senders, room.wal_senders_used);
        return Err(PreflightError::NoFreeWalSenders { max, used, needed: MORE_WAL_SENDERS });
    }
    let holding = inspect_slot(sql, slot, found).await?;
    refuse_existing(slot, existing_slot, found)?;
    if holding == Holding::Nothing {
        return Err(PreflightError::SlotEmpty(slot.clone()));
    }
    if !found.slot_exists && room.slots_used >= room.max_slots {
        return Err(PreflightError::NoFreeSlots { max: room.max_slots });
    }
    // a large cluster's size may take long to find out; that is no reason to wait, or to refuse
    let timeout = format!("SET statement_timeout = '{}s'", SIZE_TIMEOUT.as_secs());
    sql.execute(&timeout).await.map_err(query("the cluster's size"))?;
    let sizes = sizes(sql).await;
    found.size = sizes.as_ref().map(|sizes| sizes.values().fold(0u64, |sum, size| sum.saturating_add(*size)));
    let tablespaces = tablespaces(sql, &sizes.unwrap_or_default()).await;
    found.tablespaces = Some(tablespaces.map_err(query("its tablespaces"))?);
    Ok(())
}

fn query(what: &'static str) -> impl Fn(ClientError) -> PreflightError {
    move |source| PreflightError::Query { what, source }
}

/// How many replication connections and slots there are.
struct Room {
    max_wal_senders: u64,
    wal_senders_used: u64,
    max_slots: u64,
    slots_used: u64,
}

async fn room(sql: &Sql) -> Result<Room, ClientError> {
    let question = "SELECT current_setting('max_wal_senders')::bigint, \
                    (SELECT count(*) FROM pg_stat_get_wal_senders()), \
                    current_setting('max_replication_slots')::bigint, (SELECT count(*) FROM pg_replication_slots)";
    let rows = sql.rows(question, &[]).await?;
    let row = rows.first().ok_or(ClientError::Answer { command: "SELECT", problem: "no row" })?;
    let count = |column| row.get::<i64>(column).map(|count| u64::try_from(count).unwrap_or_default());
    Ok(Room {
        max_wal_senders: count(0)?,
        wal_senders_used: count(1)?,
        max_slots: count(2)?,
        slots_used: count(3)?,
    })
}

/// Bytes in each tablespace, by its object id. Not every role may know; that is no reason to refuse.
async fn sizes(sql: &Sql) -> Option<BTreeMap<u32, u64>> {
    let rows = sql.rows("SELECT oid, pg_tablespace_size(oid) FROM pg_tablespace", &[]).await.ok()?;
    rows.iter().map(|row| Some((row.get(0).ok()?, u64::try_from(row.get::<i64>(1).ok()?).ok()?))).collect()
}

/// The tablespaces as `BASE_BACKUP` is going to announce them.
async fn tablespaces(sql: &Sql, sizes: &BTreeMap<u32, u64>) -> Result<Vec<Tablespace>, ClientError> {
    let question = "SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace ORDER BY oid";
    let (mut tablespaces, mut rest) = (Vec::new(), 0u64);
    for row in sql.rows(question, &[]).await? {
        let (oid, location): (u32, Option<RawText>) = (row.get(0)?, row.get(1)?);
        let bytes = sizes.get(&oid).copied().unwrap_or(0);
        match location.filter(|location| !location.0.is_empty()) {
            Some(RawText(location)) => {
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

async fn inspect_slot(sql: &Sql, slot: &SlotName, found: &mut Preflight) -> Result<Holding, PreflightError> {
    let question = "SELECT slot_type, active_pid::text, wal_status, restart_lsn::text FROM pg_replication_slots \
                    WHERE slot_name = $1";
    let failed = query("the replication slot");
    let rows = sql.rows(question, &[slot.as_str()]).await.map_err(&failed)?;
    let Some(row) = rows.first() else { return Ok(Holding::Something) };
    found.slot_exists = true;
    let text = |column| row.get::<Option<String>>(column).map_err(&failed);
    if let Some(pid) = text(1)? {
        return Err(PreflightError::SlotActive { slot: slot.clone(), pid });
    }
    let unusable = [text(0)?.filter(|kind| kind != "physical"), text(2)?.filter(|status| status == "lost")];
    match unusable.into_iter().flatten().next() {
        Some(state) => Err(PreflightError::SlotUnusable { slot: slot.clone(), state }),
        None if text(3)?.is_none() => Ok(Holding::Nothing),
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
