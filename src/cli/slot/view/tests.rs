use super::*;
use crate::pg::Lsn;

fn server(max_slot_wal_keep_size: Option<u64>) -> ServerState {
    ServerState {
        role: "rose".to_owned(),
        sees_all_statistics: true,
        in_recovery: false,
        system_identifier: None,
        timeline: None,
        lsn: None,
        time: None,
        clock: None,
        started_at: None,
        max_slot_wal_keep_size,
        idle_replication_slot_timeout: None,
        synchronous_standby_names: String::new(),
        replay: None,
        configured_upstream: None,
    }
}

fn slot(name: &str, status: WalStatus) -> ReplicationSlot {
    ReplicationSlot {
        name: name.to_owned(),
        slot_type: "physical".to_owned(),
        database: None,
        temporary: false,
        active: false,
        used_by: None,
        restart_lsn: Some(Lsn::new(0x300_0060)),
        held_bytes: Some(3 << 30),
        wal_status: Some(status),
        safe_wal_size: None,
        inactive_since: None,
        inactive_seconds: None,
        invalidation_reason: None,
        synced: false,
    }
}

#[test]
fn a_narrow_terminal_shows_as_much_as_a_wide_one() {
    let mut used = slot("standby1", WalStatus::Reserved);
    used.active = true;
    used.used_by = Some(SlotUser {
        pid: 4711,
        application_name: Some("stand\x1b[2Jby".to_owned()),
        address: Some("10.0.0.2".to_owned()),
    });
    let mut idle = slot("archive_of_the_whole_company", WalStatus::Extended);
    idle.inactive_since = Some("2026-01-02T03:04:05.678901Z".to_owned());
    idle.inactive_seconds = Some(90_061.0);
    idle.safe_wal_size = Some(-5);
    let slots = [used, idle];
    let grid = || {
        let mut grid = new_grid();
        slots.iter().for_each(|slot| push(&mut grid, slot, ""));
        grid
    };
    let wide = grid().render(Some(200));
    assert_eq!(
        wide,
        "SLOT                          TYPE      ACTIVE     HOLDS  STATUS    SAFE  RESTART LSN  \
         INACTIVE SINCE                  USED BY\n\
         standby1                      physical  yes     3.00 GiB  reserved        0/3000060    \
         \x20                               stand\\u{1b}[2Jby, process 4711 from 10.0.0.2\n\
         archive_of_the_whole_company  physical  no      3.00 GiB  extended   0 B  0/3000060    \
         2026-01-02T03:04:05Z (1 d 1 h)\n"
    );
    let narrow = grid().render(Some(80));
    assert_eq!(
        narrow,
        "SLOT                          TYPE      ACTIVE     HOLDS  STATUS    SAFE\n\
         standby1                      physical  yes     3.00 GiB  reserved\n    \
             restart lsn 0/3000060  used by stand\\u{1b}[2Jby, process 4711 from 10.0.0.2\n\
         archive_of_the_whole_company  physical  no      3.00 GiB  extended   0 B\n    \
             restart lsn 0/3000060  inactive since 2026-01-02T03:04:05Z (1 d 1 h)\n"
    );
}

#[test]
fn what_is_lost_or_soon_will_be_is_warned_of() {
    let text = |slot: &ReplicationSlot, bound| warning(slot, &server(bound)).unwrap_or_default();
    let bound = Some(4u64 << 30);
    let lost = text(&slot("a", WalStatus::Lost), bound);
    assert!(lost.contains("\"a\" is lost") && lost.ends_with("pgwake slot drop a"), "{lost}");
    let soon = text(&slot("a", WalStatus::Unreserved), bound);
    assert!(soon.contains("about to be lost") && soon.contains("is 4.00 GiB"), "{soon}");
    let mut close = slot("a", WalStatus::Extended);
    close.active = true;
    close.safe_wal_size = Some(100 << 20);
    let close_text = text(&close, bound);
    assert!(
        close_text.contains("lost after 100.00 MiB more") && close_text.contains("too slow"),
        "{close_text}"
    );
    close.safe_wal_size = Some(3 << 30);
    assert_eq!(text(&close, bound), "");
    let mut idle = slot("a", WalStatus::Reserved);
    idle.invalidation_reason = Some("idle_timeout".to_owned());
    assert!(text(&idle, None).contains("invalidated (idle_timeout)"));
}

#[test]
fn a_forgotten_slot_is_warned_of_and_one_in_use_is_not() {
    let unbounded = server(None);
    let mut forgotten = slot("old", WalStatus::Extended);
    let text = warning(&forgotten, &unbounded).unwrap();
    assert!(text.contains("used by nobody and makes the server keep 3.00 GiB"), "{text}");
    assert!(text.contains("the disk fills"), "{text}");
    let text = warning(&forgotten, &server(Some(4 << 30))).unwrap();
    assert!(text.contains("up to 4.00 GiB, then it is lost"), "{text}");
    forgotten.active = true;
    assert_eq!(warning(&forgotten, &unbounded), None);

    let mut idle = slot("idle", WalStatus::Reserved);
    assert_eq!(warning(&idle, &unbounded), None);
    idle.inactive_seconds = Some(FORGOTTEN_AFTER + 1.0);
    assert!(warning(&idle, &unbounded).unwrap().contains("for 1 d 0 h and holds"));
    idle.restart_lsn = None;
    assert_eq!(warning(&idle, &unbounded), None);

    let mut timed = slot("timed", WalStatus::Reserved);
    timed.inactive_seconds = Some(3300.0);
    let mut impatient = server(None);
    impatient.idle_replication_slot_timeout = Some(3600.0);
    assert!(warning(&timed, &impatient).unwrap().contains("invalidates it soon"));
    timed.synced = true;
    assert_eq!(warning(&timed, &impatient), None);
}

#[test]
fn what_a_role_may_not_see_is_said_where_there_is_something() {
    let mut blind = server(None);
    blind.sees_all_statistics = false;
    let mut used = slot("a", WalStatus::Reserved);
    assert_eq!(hidden(&[used.clone()], &blind), None);
    used.active = true;
    assert!(hidden(&[used.clone()], &blind).unwrap().contains("GRANT pg_monitor TO \"rose\""));
    assert_eq!(hidden(&[used], &server(None)), None);
}
