//! Every verb of the replication protocol, against a real server, in the syntax of its version.

use pgwake::client::conninfo::{ConnInfo, Settings, SystemEnvironment};
use pgwake::client::{BackupStep, Connection, Purpose, ReplicationStart, open};
use pgwake::pg::{ChecksumAlgorithm, Lsn, ServerVersion, SlotName, SystemIdentifier, TimelineId};
use pgwake::wire::command::{
    BaseBackup, CheckpointMode, DropWhenActive, ManifestOptions, SlotPersistence, WalReservation,
};
use pgwake::wire::replication::{PgTimestamp, ReplicationMessage, StandbyStatusUpdate};
use pgwake::wire::server_error::SqlState;

use crate::require_server;
use crate::support::{Cluster, servers};

async fn connect(cluster: &Cluster, purpose: Purpose) -> Connection {
    let conninfo = ConnInfo::parse(&cluster.conninfo()).expect("our own connection string");
    let settings = Settings::resolve(&conninfo, &SystemEnvironment).expect("options that make sense");
    open(&settings, purpose).await.expect("a server that lets us in")
}

fn slot(name: &str) -> SlotName {
    name.parse().expect("a slot's name")
}

fn base_backup(incremental: bool) -> BaseBackup {
    BaseBackup {
        label: "it's a \"label\"".to_owned(),
        estimate_size: true,
        checkpoint: CheckpointMode::Fast,
        include_wal: false,
        wait_for_archive: false,
        max_rate_kb: None,
        tablespace_map: false,
        verify_checksums: true,
        manifest: Some(ManifestOptions::with_checksums(ChecksumAlgorithm::Sha256)),
        target: None,
        compression: None,
        incremental,
    }
}

#[tokio::test]
async fn a_server_says_who_it_is() {
    for major in servers::majors() {
        require_server!(major);
        let cluster = Cluster::builder().major(major).wal_segsize(1).start();
        let mut connection = connect(&cluster, Purpose::PhysicalReplication).await;
        assert_eq!(u32::from(connection.version().major()), major);
        let identity = connection.identify_system().await.unwrap();
        let expected = cluster.sql("SELECT system_identifier FROM pg_control_system()").await;
        assert_eq!(identity.system_identifier.to_string(), expected);
        assert_eq!((identity.timeline, identity.database), (TimelineId::FIRST, None));
        assert!(identity.flush_lsn.is_valid());
        assert_eq!(connection.wal_segment_size().await.unwrap().as_u64(), 1 << 20);
        assert_eq!(connection.show("data_directory_mode").await.unwrap(), "0700");
        // no history for the first timeline; the connection survives the refusal
        let refused = connection.timeline_history(TimelineId::FIRST).await.unwrap_err();
        assert_eq!(refused.sqlstate(), Some(SqlState::UNDEFINED_FILE));
        assert!(connection.query("SELECT 1", "SELECT").await.unwrap_err().server_error().is_some());
        connection.identify_system().await.unwrap();
        let mut logical = connect(&cluster, Purpose::LogicalReplication).await;
        assert_eq!(logical.identify_system().await.unwrap().database.as_deref(), Some("postgres"));
        let sets = logical.query("SELECT 1, NULL; SELECT 'a' UNION ALL SELECT 'b'", "SELECT").await.unwrap();
        assert_eq!((sets[0].rows[0].text(0), sets[0].rows[0].text(1)), (Some("1"), None));
        assert_eq!((sets.len(), sets[1].rows.len()), (2, 2));
        connection.close().await;
    }
}

#[tokio::test]
async fn slots_are_made_read_and_dropped() {
    for major in servers::majors() {
        require_server!(major);
        let cluster = Cluster::builder().major(major).start();
        let mut connection = connect(&cluster, Purpose::PhysicalReplication).await;
        let (reserved, idle, fleeting) = (slot("reserved"), slot("idle"), slot("fleeting"));
        let (permanent, temporary) = (SlotPersistence::Permanent, SlotPersistence::Temporary);
        connection.create_physical_slot(&reserved, permanent, WalReservation::Immediate).await.unwrap();
        connection.create_physical_slot(&idle, permanent, WalReservation::FirstUse).await.unwrap();
        connection.create_physical_slot(&fleeting, temporary, WalReservation::Immediate).await.unwrap();
        let rows =
            "SELECT slot_name, temporary, restart_lsn IS NOT NULL FROM pg_replication_slots ORDER BY 1";
        assert_eq!(cluster.sql(rows).await, "fleeting|t|t\nidle|f|f\nreserved|f|t");
        // an error takes the temporary ones away in older versions
        let again = connection.create_physical_slot(&idle, permanent, WalReservation::Immediate).await;
        assert_eq!(again.unwrap_err().sqlstate(), Some(SqlState::DUPLICATE_OBJECT));
        if connection.version().has_read_replication_slot() {
            let state = connection.read_slot(&reserved).await.unwrap().unwrap();
            let expected = cluster
                .sql("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'reserved'")
                .await;
            assert_eq!(state.restart_lsn, Some(expected.parse().unwrap()));
            assert_eq!(state.restart_timeline, Some(TimelineId::FIRST));
            let state = connection.read_slot(&idle).await.unwrap().unwrap();
            assert_eq!((state.restart_lsn, state.restart_timeline), (None, None));
            assert_eq!(connection.read_slot(&slot("none")).await.unwrap(), None);
        } else {
            assert!(connection.read_slot(&idle).await.unwrap_err().to_string().contains("does not support"));
        }
        connection.drop_slot(&idle, DropWhenActive::Fail).await.unwrap();
        connection.drop_slot(&reserved, DropWhenActive::Wait).await.unwrap();
        let missing = connection.drop_slot(&idle, DropWhenActive::Fail).await.unwrap_err();
        assert_eq!(missing.sqlstate(), Some(SqlState::UNDEFINED_OBJECT));
        connection.close().await;
        cluster.wait_for("SELECT count(*) FROM pg_replication_slots", "0");
    }
}

#[tokio::test]
async fn wal_streams_both_ways_and_ends_in_order() {
    for major in servers::majors() {
        require_server!(major);
        let cluster = Cluster::builder().major(major).wal_segsize(1).start();
        let mut connection = connect(&cluster, Purpose::PhysicalReplication).await;
        let identity = connection.identify_system().await.unwrap();
        let start_lsn =
            connection.wal_segment_size().await.unwrap().segment_at(identity.flush_lsn).start_lsn();
        let started = connection.start_replication(None, start_lsn, identity.timeline).await.unwrap();
        let ReplicationStart::Streaming(mut stream) = started else {
            panic!("timeline {} goes on", identity.timeline)
        };
        let mut next_lsn = start_lsn;
        while next_lsn < identity.flush_lsn {
            match stream.next().await.unwrap() {
                Some(ReplicationMessage::WalData(wal)) => {
                    assert_eq!(wal.start_lsn, next_lsn);
                    next_lsn = wal.end_lsn();
                }
                Some(_) => {}
                None => panic!("the stream ended at {next_lsn}"),
            }
        }
        // an update that asks for an answer gets one
        stream.queue_status_update(&StandbyStatusUpdate {
            write_lsn: next_lsn,
            flush_lsn: next_lsn,
            apply_lsn: Lsn::INVALID,
            sent_at: PgTimestamp::from_system_time(std::time::SystemTime::now()),
            reply_requested: true,
        });
        while !matches!(stream.next().await.unwrap(), Some(ReplicationMessage::PrimaryKeepalive(_))) {}
        // 19 pads the LSNs that it prints
        let reported =
            cluster.sql("SELECT write_lsn FROM pg_stat_replication WHERE replay_lsn IS NULL").await;
        assert_eq!(reported.parse(), Ok(next_lsn));
        assert_eq!(stream.finish().await.unwrap().next_timeline, None);
        // the same connection takes the next command, and another refusal after CopyBoth
        let far = Lsn::new(identity.flush_lsn.as_u64() + (1 << 40));
        match connection.start_replication(None, far, identity.timeline).await {
            Ok(ReplicationStart::Streaming(mut stream)) => {
                assert!(stream.next().await.unwrap_err().server_error().is_some());
            }
            other => assert!(other.is_err()),
        }
        let removed = connection.start_replication(None, Lsn::new(1 << 20), identity.timeline).await;
        if let Ok(ReplicationStart::Streaming(mut stream)) = removed {
            assert_eq!(stream.next().await.unwrap_err().sqlstate(), Some(SqlState::UNDEFINED_FILE));
        }
        assert_eq!(connection.identify_system().await.unwrap().system_identifier, identity.system_identifier);
    }
}

#[tokio::test]
async fn a_promotion_is_told_as_the_next_timeline() {
    require_server!();
    let cluster = Cluster::new();
    std::fs::File::create(cluster.data_dir().join("standby.signal")).unwrap();
    crate::support::dir::own(&cluster.data_dir().join("standby.signal"));
    cluster.restart();
    let before = cluster.psql("SELECT pg_last_wal_replay_lsn()");
    cluster.promote();
    let mut connection = connect(&cluster, Purpose::PhysicalReplication).await;
    let second = TimelineId::new(2).unwrap();
    assert_eq!(connection.identify_system().await.unwrap().timeline, second);
    let history = connection.timeline_history(second).await.unwrap();
    let on_disk = std::fs::read(cluster.data_dir().join("pg_wal/00000002.history")).unwrap();
    assert_eq!(&history.content[..], &on_disk[..]);
    // exactly at the switch point there is nothing to stream, and no CopyBoth either
    let switch_lsn: Lsn = before.parse().unwrap();
    match connection.start_replication(None, switch_lsn, TimelineId::FIRST).await.unwrap() {
        ReplicationStart::TimelineEnded(next) => {
            assert_eq!((next.timeline, next.start_lsn), (second, switch_lsn));
        }
        ReplicationStart::Streaming(_) => panic!("timeline 1 has ended"),
    }
    // from the segment's start the server streams up to it, and says where history goes on
    let segment_lsn = connection.wal_segment_size().await.unwrap().segment_at(switch_lsn).start_lsn();
    let started = connection.start_replication(None, segment_lsn, TimelineId::FIRST).await.unwrap();
    let ReplicationStart::Streaming(mut stream) = started else { panic!("there is WAL before {switch_lsn}") };
    while stream.next().await.unwrap().is_some() {}
    let next = stream.finish().await.unwrap().next_timeline.unwrap();
    assert_eq!((next.timeline, next.start_lsn), (second, switch_lsn));
}

#[tokio::test]
async fn a_manifest_is_uploaded_for_an_incremental_backup() {
    for major in servers::majors() {
        require_server!(major);
        let builder = Cluster::builder().major(major);
        let cluster = if major >= 17 { builder.setting("summarize_wal", "on") } else { builder }.start();
        let mut connection = connect(&cluster, Purpose::PhysicalReplication).await;
        let manifest = back_up(&mut connection, &base_backup(false)).await;
        assert!(manifest.starts_with(b"{ \"PostgreSQL-Backup-Manifest-Version\""), "{major}");
        let mut rest = &manifest[..];
        let uploaded = connection.upload_manifest(|piece| std::io::Read::read(&mut rest, piece)).await;
        if !ServerVersion::new(u16::try_from(major).unwrap(), 0).has_incremental_backup() {
            assert!(uploaded.is_err());
            continue;
        }
        uploaded.unwrap();
        cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i").await;
        let second = back_up(&mut connection, &base_backup(true)).await;
        assert!(String::from_utf8_lossy(&second).contains("INCREMENTAL."));
        // what the server refuses leaves the connection usable
        let mut nonsense = &b"{}"[..];
        let refused = connection.upload_manifest(|piece| std::io::Read::read(&mut nonsense, piece)).await;
        assert!(refused.is_err());
        let _: SystemIdentifier = connection.identify_system().await.unwrap().system_identifier;
    }
}

/// Takes a backup to nowhere, and returns its manifest.
async fn back_up(connection: &mut Connection, request: &BaseBackup) -> Vec<u8> {
    let tagged = connection.version().major() >= 15;
    let mut stream = connection.base_backup(request).await.expect("a backup");
    assert!(stream.start().lsn.is_valid());
    assert_eq!(stream.tablespaces().len(), 1);
    assert!(stream.tablespaces()[0].size_kb.is_some_and(|kb| kb > 1000));
    let (mut copies, mut in_manifest, mut manifest) = (0, false, Vec::new());
    loop {
        match stream.next().await.expect("the rest of the backup") {
            BackupStep::CopyBegin => copies += 1,
            BackupStep::CopyData(payload) if tagged && payload[0] == b'm' => in_manifest = true,
            BackupStep::CopyData(payload) if tagged && payload[0] == b'd' && in_manifest => {
                manifest.extend(&payload[1..]);
            }
            BackupStep::CopyData(payload) if !tagged && copies == 2 => manifest.extend(&payload[..]),
            BackupStep::CopyData(_) | BackupStep::CopyEnd | BackupStep::EndPosition(_) => {}
            BackupStep::Completed(end) => {
                assert!(end.lsn.is_valid());
                assert_eq!(copies, if tagged { 1 } else { 2 });
                return manifest;
            }
        }
    }
}
