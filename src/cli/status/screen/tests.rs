use super::super::fixtures::{endpoint, primary, standby_of};
use super::super::hosts::HostError;
use super::*;
use crate::pg::{Lsn, ServerVersion};

fn picture(hosts: Vec<(&str, Result<Survey, HostError>)>) -> Picture {
    let mut picture = Picture::new(hosts.iter().map(|(host, _)| endpoint(host, 5432)));
    for (index, (_, survey)) in hosts.into_iter().enumerate() {
        let sighting =
            |survey| Sighting { version: ServerVersion::new(15, 18), survey, wal_rate: Some(1_048_576.0) };
        picture.add(index, survey.map(sighting));
    }
    picture
}

fn text(picture: &Picture, width: Option<usize>) -> String {
    show(picture, width).text()
}

fn cascade() -> Picture {
    let mut middle = standby_of("db1", 5432, "standby1");
    middle.downstreams = primary(&["standby2"]).downstreams;
    let backup = BaseBackup {
        pid: 101,
        phase: Some("streaming database files".to_owned()),
        total_bytes: Some(4 << 20),
        streamed_bytes: Some(1 << 20),
        tablespaces: Some(1),
        tablespaces_streamed: Some(0),
    };
    let mut first = primary(&["standby1", "backup"]);
    first.base_backups.push(backup);
    let down = HostError::Silent(std::time::Duration::from_secs(5));
    picture(vec![
        ("db3", Ok(standby_of("db2", 5432, "standby2"))),
        ("db1", Ok(first)),
        ("db2", Ok(middle)),
        ("db4", Err(down)),
    ])
}

#[test]
fn a_cascade_at_200_columns() {
    let text = text(&cascade(), Some(200));
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let columns = |line: &str| {
        line.split("  ")
            .filter(|cell| !cell.is_empty())
            .map(|cell| cell.trim().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        columns(lines[0]),
        ["SERVER", "ROLE", "VERSION", "TIMELINE", "LSN", "WAL/S", "REPLAY DELAY", "FOLLOWS", "WHY"]
    );
    assert!(
        lines[1].starts_with("db1:5432      primary    15.18           1  0/3000060  1.00 MiB/s"),
        "{text}"
    );
    assert!(lines[2].starts_with("└ db2:5432    standby "), "{text}");
    assert!(lines[2].contains("1.5 s  db1:5432 (streaming)"), "{text}");
    assert!(lines[3].starts_with("  └ db3:5432  standby "), "{text}");
    assert!(lines[4].starts_with("db4:5432      no answer ") && lines[4].ends_with("within 5 s"), "{text}");
    assert!(lines[6].starts_with("STANDBY OR RECEIVER  STATE"), "{text}");
    assert!(
        lines[7].starts_with("standby1             streaming  sync 1  64.00 KiB  1.5 s  10.0.0.2"),
        "{text}"
    );
    assert!(
        lines[7].ends_with(
            "0/3000060  0/3000060  0/3000060  0/2FF0060  1 ms       3 ms       1.5 s       db2:5432"
        ),
        "{text}"
    );
    assert!(lines[8].starts_with("└ standby2  ") && lines[8].ends_with("db3:5432"), "{text}");
    assert!(!text.contains("\nbackup  ") || text.contains("BASE BACKUP"), "{text}");
    assert!(text.contains("streaming database files  1.00 MiB  4.00 MiB  25 %  0 of 1"), "{text}");
    assert!(text.contains("standby1_slot  physical  yes     64.00 KiB  reserved"), "{text}");
}

#[test]
fn nothing_is_lost_and_nothing_is_too_long_at_80_columns() {
    let narrow = text(&cascade(), Some(80));
    assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    for shown in [
        "write 0/3000060  flush 0/3000060",
        "  replay 0/2FF0060",
        "write lag 1 ms",
        "flush lag 3 ms",
        "follows db1:5432 (streaming)",
        "why server did not answer within 5 s",
        "used by standby1, process 100 from 10.0.0.2",
    ] {
        assert!(narrow.contains(shown), "{shown}\n{narrow}");
    }
}

#[test]
fn names_do_no_harm_at_any_width() {
    let mut hostile = primary(&["x\x1b[2J\u{9b}31m\r\n\u{202e}"]);
    let row = &mut hostile.downstreams[0];
    row.state = Some("\x1b]0;owned\x07".to_owned());
    row.address = Some("a".repeat(1000));
    row.sync_state = Some("\n\n".to_owned());
    hostile.server.role = "\x1bc".to_owned();
    hostile.server.sees_all_statistics = false;
    hostile.server.started_at = Some("\x1b[H".repeat(100));
    let picture = picture(vec![("db\x1b[1m", Ok(hostile))]);
    for width in [20, 80, 200] {
        let shown = text(&picture, Some(width));
        let is_plain = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
        assert!(shown.chars().all(is_plain), "{shown:?}");
        assert!(shown.lines().all(|line| line.chars().count() <= width || !line.contains("  ")), "{shown}");
    }
    assert!(text(&picture, None).chars().all(|c| c == '\n' || !c.is_control()));
}

#[test]
fn what_a_role_may_not_see_is_said() {
    let mut survey = primary(&["standby1"]);
    survey.server.sees_all_statistics = false;
    let row = &mut survey.downstreams[0];
    *row = Downstream { pid: row.pid, application_name: "standby1".to_owned(), ..Downstream::default() };
    let shown = text(&picture(vec![("db1", Ok(survey))]), None);
    assert!(shown.contains("note: role \"rose\" may not see addresses, states"), "{shown}");
    assert!(shown.contains("GRANT pg_monitor TO \"rose\";"), "{shown}");
    assert!(!shown.contains("ADDRESS"), "{shown}");
}

#[test]
fn a_second_way_to_a_server_is_not_a_second_server() {
    let one = picture(vec![("db1", Ok(primary(&["standby1"]))), ("alias", Ok(primary(&["standby1"])))]);
    let shown = text(&one, Some(200));
    assert!(shown.contains("alias:5432  same as db1:5432"), "{shown}");
    assert_eq!(shown.matches("\nstandby1 ").count(), 1, "{shown}");
    assert_eq!(shown.matches("\nstandby1_slot ").count(), 1, "{shown}");
}

#[test]
fn trends_are_shown_once_there_are_two_looks() {
    let mut watched = picture(vec![("db1", Ok(primary(&["standby1"])))]);
    assert!(!text(&watched, Some(200)).contains("TREND"));
    let mut later = primary(&["standby1"]);
    later.downstreams[0].replay_lsn = Some(Lsn::new(0x300_0060));
    watched.add(0, Ok(Sighting { version: ServerVersion::new(15, 18), survey: later, wal_rate: None }));
    let shown = text(&watched, Some(80));
    assert!(shown.contains("TREND") && shown.contains("█▁"), "{shown}");
}

#[test]
fn a_receiver_has_no_replay_lag() {
    let mut survey = primary(&["pgwake"]);
    survey.downstreams[0].replay_lsn = None;
    let shown = text(&picture(vec![("db1", Ok(survey))]), None);
    assert!(shown.contains("sync 1     0 B  3 ms  10.0.0.2") && !shown.contains("REPLAY LAG"), "{shown}");
}

#[test]
fn commits_that_wait_are_warned_of() {
    let mut survey = primary(&["standby1"]);
    survey.server.synchronous_standby_names = "FIRST 2 (standby1, standby2)".to_owned();
    assert!(commits_wait(&survey).unwrap().contains("and 1 of those are not there"));
    survey.server.synchronous_standby_names = "standby1".to_owned();
    assert_eq!(commits_wait(&survey), None);
}
