//! Servers for the tests of what is shown of them.

use super::hosts::Endpoint;
use crate::inspect::Survey;
use crate::inspect::replication::{Downstream, WalReceiver};
use crate::inspect::server::{ReplayState, ServerState};
use crate::inspect::slots::{ReplicationSlot, SlotUser, WalStatus};
use crate::pg::{Lsn, SystemIdentifier, TimelineId};

pub(super) fn endpoint(host: &str, port: u16) -> Endpoint {
    Endpoint { names: vec![host.to_owned()], port }
}

/// A server at 0/3000060 that sends WAL to these, each of which uses a slot.
pub(super) fn primary(names: &[&str]) -> Survey {
    let lsn = Some(Lsn::new(0x300_0060));
    let downstream = |(index, name): (usize, &&str)| Downstream {
        pid: 100 + i32::try_from(index).unwrap(),
        role: Some("rep".to_owned()),
        application_name: (*name).to_owned(),
        address: Some("10.0.0.2".to_owned()),
        port: Some(40_000),
        state: Some("streaming".to_owned()),
        sent_lsn: lsn,
        write_lsn: lsn,
        flush_lsn: lsn,
        replay_lsn: Some(Lsn::new(0x2ff_0060)),
        write_lag_seconds: Some(0.0012),
        flush_lag_seconds: Some(0.0034),
        replay_lag_seconds: Some(1.5),
        sync_priority: Some(1),
        sync_state: Some("sync".to_owned()),
        reply_age_seconds: Some(0.1),
    };
    let slot = |(index, name): (usize, &&str)| ReplicationSlot {
        name: format!("{name}_slot"),
        slot_type: "physical".to_owned(),
        database: None,
        temporary: false,
        active: true,
        used_by: Some(SlotUser {
            pid: 100 + i32::try_from(index).unwrap(),
            application_name: Some((*name).to_owned()),
            address: Some("10.0.0.2".to_owned()),
        }),
        restart_lsn: lsn,
        held_bytes: Some(65_536),
        wal_status: Some(WalStatus::Reserved),
        safe_wal_size: None,
        inactive_since: None,
        inactive_seconds: None,
        invalidation_reason: None,
        synced: false,
    };
    Survey {
        server: ServerState {
            role: "rose".to_owned(),
            sees_all_statistics: true,
            in_recovery: false,
            system_identifier: Some(SystemIdentifier::new(7)),
            timeline: TimelineId::new(1),
            lsn,
            time: Some("2026-01-02T03:04:05.678Z".to_owned()),
            clock: Some(1.0),
            started_at: Some("2026-01-01T00:00:00.000000Z".to_owned()),
            max_slot_wal_keep_size: None,
            idle_replication_slot_timeout: None,
            synchronous_standby_names: String::new(),
            replay: None,
            configured_upstream: None,
        },
        downstreams: names.iter().enumerate().map(downstream).collect(),
        receiver: None,
        base_backups: Vec::new(),
        slots: names.iter().enumerate().map(slot).collect(),
    }
}

/// A standby that receives from a host under this name.
pub(super) fn standby_of(host: &str, port: u16, name: &str) -> Survey {
    let mut survey = primary(&[]);
    survey.server.in_recovery = true;
    survey.server.started_at = Some(format!("2026-01-01T00:00:01Z {name}"));
    survey.server.replay = Some(ReplayState {
        received_lsn: Some(Lsn::new(0x300_0060)),
        replayed_lsn: Some(Lsn::new(0x2ff_0060)),
        delay_seconds: Some(1.5),
        paused: false,
    });
    survey.receiver = Some(WalReceiver {
        status: Some("streaming".to_owned()),
        host: Some(host.to_owned()),
        port: Some(port),
        slot: None,
        application_name: Some(name.to_owned()),
        timeline: TimelineId::new(1),
        upstream_lsn: Some(Lsn::new(0x300_0060)),
        silence_seconds: Some(0.1),
    });
    survey
}
