use super::*;

fn fix(place: FixPlace, line: &str, needs: Needs, offer: Offer, before_line: Option<u32>) -> Fix {
    Fix { place, line: line.to_owned(), before_line, needs, offer }
}

fn finding(level: Level, fixes: Vec<Fix>) -> Finding {
    Finding {
        check: "max_wal_senders",
        object: None,
        level,
        found: "0".to_owned(),
        why:
            "No replication connection is possible at all, and this sentence goes on for longer than a line."
                .to_owned(),
        fixes,
    }
}

#[test]
fn a_finding_fits_a_narrow_terminal_and_its_line_is_whole() {
    let line = "ALTER SYSTEM SET max_wal_senders = '10';";
    let fix = fix(FixPlace::Sql, line, Needs::Restart, Offer::Apply, None);
    assert_eq!(
        paragraph(&finding(Level::Problem, vec![fix])),
        "problem  max_wal_senders: 0\n         \
         No replication connection is possible at all, and this sentence goes on\n         \
         for longer than a line.\n         \
         mend: ALTER SYSTEM SET max_wal_senders = '10';  (then restart)\n"
    );
}

#[test]
fn lines_for_psql_are_sql_or_comments() {
    let hba = fix(
        FixPlace::Hba,
        "host replication rose 10.0.0.1/32 scram-sha-256",
        Needs::Reload,
        Offer::Consider,
        Some(3),
    );
    let fixes = vec![
        fix(FixPlace::Sql, "ALTER SYSTEM SET wal_level = 'replica';", Needs::Restart, Offer::Apply, None),
        fix(FixPlace::Sql, "SELECT pg_drop_replication_slot('a');", Needs::Nothing, Offer::Consider, None),
        fix(FixPlace::Sql, "SELECT pg_reload_conf();", Needs::Nothing, Offer::Apply, None),
        hba,
        fix(FixPlace::Sql, "ALTER ROLE \"rose\" REPLICATION;", Needs::Nothing, Offer::Apply, None),
    ];
    assert_eq!(
        fix_sql(&[finding(Level::Problem, fixes)]),
        "ALTER SYSTEM SET wal_level = 'replica'; -- needs a restart\n\
         -- perhaps: SELECT pg_drop_replication_slot('a');\n\
         -- mend: pg_hba.conf, before line 3: host replication rose 10.0.0.1/32 scram-sha-256  (then reload)\n\
         ALTER ROLE \"rose\" REPLICATION;\n\
         SELECT pg_reload_conf();\n\
         -- then restart the server\n"
    );
    assert_eq!(fix_sql(&[finding(Level::Ok, Vec::new())]), "");
}

#[test]
fn the_sum_says_whether_it_is_fit() {
    let levels = |levels: &[Level]| {
        let findings: Vec<Finding> = levels.iter().map(|level| finding(*level, Vec::new())).collect();
        summary(Job::Archive, &findings)
    };
    assert_eq!(levels(&[Level::Ok]), "fit for an archive: nothing stands against it\n");
    assert_eq!(
        levels(&[Level::Problem, Level::Warning, Level::Problem, Level::Unknown]),
        "not fit for an archive: 2 problems, 1 warning, 1 thing not seen\n"
    );
}
