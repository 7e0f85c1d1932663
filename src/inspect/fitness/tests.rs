use super::*;
use crate::client::{Carrier, Protection};
use crate::inspect::hba::HbaRule;
use crate::inspect::overrides::Override;
use crate::inspect::replication::Downstream;
use crate::inspect::role::{Role, StoredPassword};
use crate::inspect::settings::{Origin, ServerSettings, Setting};
use crate::inspect::slots::ReplicationSlot;
use crate::inspect::wal_rate::{Rate, WalRate};
use crate::pg::{Lsn, ServerVersion};
use crate::wire::auth::AuthMethod;

/// A server against which nothing stands.
fn fit() -> Seen {
    let settings = [
        ("data_checksums", "on"),
        ("full_page_writes", "on"),
        ("hot_standby", "on"),
        ("idle_replication_slot_timeout", "0"),
        ("max_replication_slots", "10"),
        ("max_slot_wal_keep_size", "-1"),
        ("max_wal_senders", "10"),
        ("password_encryption", "scram-sha-256"),
        ("ssl", "on"),
        ("summarize_wal", "off"),
        ("synchronous_commit", "on"),
        ("synchronous_standby_names", ""),
        ("wal_keep_size", "0"),
        ("wal_level", "replica"),
    ];
    let rule = HbaRule {
        line: 7,
        kind: "host".to_owned(),
        databases: vec!["replication".to_owned()],
        roles: vec!["rose".to_owned()],
        address: Some("all".to_owned()),
        method: "scram-sha-256".to_owned(),
        ..HbaRule::default()
    };
    Seen {
        version: ServerVersion::new(18, 1),
        in_recovery: Some(false),
        user: "rose".to_owned(),
        address: "10.0.0.1".parse().ok(),
        role: Some(Role {
            name: "rose".to_owned(),
            replication: true,
            member_of: vec!["rose".to_owned()],
            address: "10.0.0.1".parse().ok(),
            sees_activity: true,
            sees_rules: true,
            ..Role::default()
        }),
        settings: ServerSettings::of(settings),
        overrides: Some(Vec::new()),
        walsenders: Some(Vec::new()),
        slots: Some(Vec::new()),
        wal_rate: WalRate { moment: Some(Rate { bytes_per_second: 1024.0, seconds: 0.1 }), average: None },
        first_sample: None,
        rules: Some(vec![rule]),
        protection: Protection {
            carrier: Carrier::Tls { version: "TLSv1.3" },
            method: AuthMethod::ScramSha256,
        },
        trial: Trial::LetIn,
        sql_refused: None,
    }
}

fn with(settings: &[(&str, &str)]) -> Seen {
    let mut seen = fit();
    for (name, text) in settings {
        let setting =
            Setting { text: (*text).to_owned(), origin: Origin::Configuration, pending_restart: false };
        seen.settings.insert(name, setting);
    }
    seen
}

fn refused(kind: RefusalKind) -> Seen {
    Seen { trial: Trial::Refused(Refusal { kind, message: "no".to_owned() }), ..fit() }
}

fn role(seen: &mut Seen) -> &mut Role {
    seen.role.as_mut().unwrap()
}

/// The one finding on `check`.
#[track_caller]
fn on(seen: &Seen, job: Job, check: &str) -> Finding {
    let mut found: Vec<Finding> =
        findings(seen, job).into_iter().filter(|found| found.check == check).collect();
    assert_eq!(found.len(), 1, "{check}: {found:?}");
    found.remove(0)
}

/// The level and the first line that mends it.
#[track_caller]
fn verdict(seen: &Seen, job: Job, check: &str) -> (Level, String) {
    let finding = on(seen, job, check);
    assert!(finding.level == Level::Ok || !finding.why.is_empty(), "{finding:?}");
    (finding.level, finding.fixes.first().map(|fix| fix.line.clone()).unwrap_or_default())
}

fn problem(line: &str) -> (Level, String) {
    (Level::Problem, line.to_owned())
}

fn warning(line: &str) -> (Level, String) {
    (Level::Warning, line.to_owned())
}

const OK: (Level, String) = (Level::Ok, String::new());

fn streaming(name: &str, applies: bool) -> Downstream {
    let lsn = Some(Lsn::new(9));
    Downstream {
        application_name: name.to_owned(),
        state: Some("streaming".to_owned()),
        flush_lsn: lsn,
        replay_lsn: lsn.filter(|_| applies),
        ..Downstream::default()
    }
}

#[test]
fn nothing_stands_against_a_fit_server() {
    for job in [Job::Standby, Job::Archive] {
        let findings = findings(&fit(), job);
        assert!(
            findings.iter().all(|found| found.level == Level::Ok && found.fixes.is_empty()),
            "{findings:?}"
        );
        assert!(is_fit(&findings));
    }
    assert!(!is_fit(&findings(&fit(), Job::Synchronous)));
}

#[test]
fn settings_are_mended_by_a_line() {
    let set = |name: &str, value: &str| format!("ALTER SYSTEM SET {name} = '{value}';");
    for (name, value, level, fix, needs) in [
        ("wal_level", "minimal", Level::Problem, set("wal_level", "replica"), Needs::Restart),
        ("max_wal_senders", "0", Level::Problem, set("max_wal_senders", "10"), Needs::Restart),
        ("max_wal_senders", "1", Level::Problem, set("max_wal_senders", "10"), Needs::Restart),
        ("max_wal_senders", "2", Level::Warning, set("max_wal_senders", "10"), Needs::Restart),
        ("max_replication_slots", "0", Level::Problem, set("max_replication_slots", "10"), Needs::Restart),
        ("hot_standby", "off", Level::Warning, set("hot_standby", "on"), Needs::Restart),
        ("full_page_writes", "off", Level::Warning, set("full_page_writes", "on"), Needs::Reload),
        (
            "idle_replication_slot_timeout",
            "1min",
            Level::Warning,
            set("idle_replication_slot_timeout", "1d"),
            Needs::Reload,
        ),
        (
            "max_slot_wal_keep_size",
            "100kB",
            Level::Warning,
            set("max_slot_wal_keep_size", "4MB"),
            Needs::Reload,
        ),
    ] {
        let finding = on(&with(&[(name, value)]), Job::Standby, name);
        assert_eq!((finding.level, &finding.fixes[0].line, finding.fixes[0].needs), (level, &fix, needs));
    }
    // an archive needs one connection, and nobody queries it
    assert_eq!(verdict(&with(&[("max_wal_senders", "2")]), Job::Archive, "max_wal_senders"), OK);
    assert_eq!(verdict(&with(&[("hot_standby", "off")]), Job::Archive, "hot_standby"), OK);
    let mut full = with(&[("max_wal_senders", "12")]);
    full.walsenders = Some(vec![Downstream::default(); 12]);
    assert_eq!(verdict(&full, Job::Archive, "max_wal_senders"), problem(&set("max_wal_senders", "15")));
}

#[test]
fn a_setting_of_the_command_line_is_changed_there() {
    let mut seen = fit();
    let setting = Setting { text: "minimal".to_owned(), origin: Origin::CommandLine, pending_restart: true };
    seen.settings.insert("wal_level", setting);
    let finding = on(&seen, Job::Standby, "wal_level");
    assert_eq!(
        (finding.fixes[0].place, finding.fixes[0].line.as_str()),
        (Place::CommandLine, "wal_level=replica")
    );
    assert!(
        finding.why.contains("waits for a restart") && finding.why.contains("command line"),
        "{finding:?}"
    );
}

#[test]
fn checksums_are_turned_on_as_the_version_can() {
    let place = |major| {
        let mut seen = with(&[("data_checksums", "off")]);
        seen.version = ServerVersion::new(major, 0);
        let fix = on(&seen, Job::Standby, "data_checksums").fixes.remove(0);
        (fix.place, fix.offer)
    };
    assert_eq!([18, 19].map(place), [(Place::Shell, Offer::Consider), (Place::Sql, Offer::Consider)]);
}

#[test]
fn who_may_not_replicate_is_told_what_would_let_it() {
    let line = "hostssl replication rose 10.0.0.1/32 scram-sha-256";
    let mut no_rule = refused(RefusalKind::Rules);
    no_rule.rules = Some(Vec::new());
    assert_eq!(verdict(&no_rule, Job::Standby, "pg_hba.conf"), problem(line));
    no_rule.rules = None;
    assert_eq!(verdict(&no_rule, Job::Standby, "pg_hba.conf"), problem(line));
    // a rule that is there, and was not heeded
    let unread = refused(RefusalKind::Rules);
    assert_eq!(verdict(&unread, Job::Standby, "pg_hba.conf"), problem("SELECT pg_reload_conf();"));
    let mut rejects = refused(RefusalKind::Rules);
    rejects.rules.as_mut().unwrap()[0].method = "reject".to_owned();
    let finding = on(&rejects, Job::Standby, "pg_hba.conf");
    assert_eq!((finding.fixes[0].line.as_str(), finding.fixes[0].before_line), (line, Some(7)));
    rejects.trial = Trial::LetIn;
    assert_eq!(verdict(&rejects, Job::Standby, "pg_hba.conf"), warning(line));
    let mut not_permitted = refused(RefusalKind::NotPermitted);
    role(&mut not_permitted).replication = false;
    assert_eq!(verdict(&not_permitted, Job::Standby, "pg_hba.conf"), OK);
    assert_eq!(verdict(&not_permitted, Job::Standby, "role"), problem("ALTER ROLE \"rose\" REPLICATION;"));
    assert_eq!(on(&refused(RefusalKind::Full), Job::Standby, "pg_hba.conf").level, Level::Unknown);
    assert_eq!(on(&refused(RefusalKind::Full), Job::Standby, "max_wal_senders").level, Level::Problem);
    assert_eq!(on(&refused(RefusalKind::Password), Job::Standby, "pg_hba.conf").level, Level::Problem);
    assert_eq!(on(&refused(RefusalKind::Other), Job::Standby, "pg_hba.conf").level, Level::Problem);
}

#[test]
fn a_role_that_only_replicates_is_told_what_it_does_not_see() {
    let seen = Seen {
        role: None,
        walsenders: None,
        slots: None,
        rules: None,
        wal_rate: WalRate::default(),
        sql_refused: Some(Refusal { kind: RefusalKind::Rules, message: "no".to_owned() }),
        ..fit()
    };
    let findings = findings(&seen, Job::Standby);
    assert!(is_fit(&findings));
    let unknown = findings.iter().filter(|found| found.level == Level::Unknown).map(|found| found.check);
    assert_eq!(unknown.collect::<Vec<_>>(), ["SQL", "max_wal_senders", "max_replication_slots", "WAL rate"]);
}

#[test]
fn what_passes_in_the_clear_is_told() {
    let over = |carrier, method, address: &str| {
        let mut seen = fit();
        seen.protection = Protection { carrier, method };
        seen.address = address.parse().ok();
        let level = |check| on(&seen, Job::Standby, check).level;
        (level("encryption"), level("authentication"))
    };
    let tls = Carrier::Tls { version: "TLSv1.3" };
    for (carrier, method, address, expected) in [
        (Carrier::Local, AuthMethod::None, "", (Level::Ok, Level::Ok)),
        (Carrier::Tcp, AuthMethod::None, "127.0.0.1", (Level::Ok, Level::Ok)),
        (Carrier::Tcp, AuthMethod::None, "10.0.0.1", (Level::Warning, Level::Warning)),
        (Carrier::Tcp, AuthMethod::Password, "10.0.0.1", (Level::Warning, Level::Warning)),
        (Carrier::Tcp, AuthMethod::ScramSha256, "10.0.0.1", (Level::Warning, Level::Ok)),
        (tls, AuthMethod::Password, "10.0.0.1", (Level::Ok, Level::Ok)),
        (tls, AuthMethod::Md5, "10.0.0.1", (Level::Ok, Level::Warning)),
    ] {
        assert_eq!(over(carrier, method, address), expected, "{carrier:?} {method:?} {address}");
    }
}

#[test]
fn commits_that_wait_are_a_problem() {
    let named = |names: &str, commit: &str, there: Vec<Downstream>| {
        let mut seen = with(&[("synchronous_standby_names", names), ("synchronous_commit", commit)]);
        seen.walsenders = Some(there);
        on(&seen, Job::Standby, "synchronous_standby_names")
    };
    let nobody = named("ANY 1 (a, b)", "on", Vec::new());
    assert_eq!(nobody.level, Level::Problem);
    assert_eq!(
        (nobody.fixes[0].offer, nobody.fixes[0].line.as_str()),
        (Offer::Consider, "ALTER SYSTEM SET synchronous_standby_names = '';")
    );
    assert!(nobody.found.contains("there: nobody; not there: a, b"), "{nobody:?}");
    assert_eq!(named("ANY 1 (a, b)", "local", Vec::new()).level, Level::Warning);
    assert_eq!(named("ANY 1 (a, b)", "on", vec![streaming("a", true)]).level, Level::Warning);
    let both = named("ANY 1 (a, b)", "on", vec![streaming("a", true), streaming("b", true)]);
    assert_eq!((both.level, both.why.contains("1 can be spared")), (Level::Ok, true));
    let one_of_two = named("FIRST 2 (a, \"B c\")", "on", vec![streaming("b C", true)]);
    assert_eq!(one_of_two.fixes[0].line, "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (\"B c\")';");
    assert_eq!(named("*", "on", vec![streaming("x", true), streaming("y", true)]).level, Level::Ok);
}

#[test]
fn a_line_asks_for_a_password_as_the_server_keeps_it() {
    let method = |stored, spoken, encryption: &str| {
        let mut seen = refused(RefusalKind::Rules);
        seen.rules = Some(Vec::new());
        role(&mut seen).password = stored;
        seen.protection.method = spoken;
        let text =
            Setting { text: encryption.to_owned(), origin: Origin::Configuration, pending_restart: false };
        seen.settings.insert("password_encryption", text);
        verdict(&seen, Job::Standby, "pg_hba.conf").1.rsplit(' ').next().unwrap().to_owned()
    };
    let (scram, md5) = ("scram-sha-256", "md5");
    for (stored, spoken, encryption, expected) in [
        (Some(StoredPassword::Scram), AuthMethod::None, md5, scram),
        (Some(StoredPassword::Md5), AuthMethod::None, scram, md5),
        (Some(StoredPassword::Missing), AuthMethod::None, md5, md5),
        (Some(StoredPassword::Missing), AuthMethod::None, scram, scram),
        (None, AuthMethod::ScramSha256, md5, scram),
        (None, AuthMethod::Md5, scram, md5),
        (None, AuthMethod::None, scram, scram),
        (None, AuthMethod::Password, md5, md5),
    ] {
        assert_eq!(method(stored, spoken, encryption), expected, "{stored:?} {spoken:?} {encryption}");
    }
}

#[test]
fn who_has_another_synchronous_commit_is_named() {
    let own = |role: Option<&str>, database: Option<&str>, value: &str| Override {
        role: role.map(str::to_owned),
        database: database.map(str::to_owned),
        value: value.to_owned(),
    };
    let mut seen = with(&[("synchronous_standby_names", "pgwake")]);
    seen.walsenders = Some(vec![streaming("pgwake", false)]);
    seen.overrides = Some(vec![
        own(None, Some("logs"), "off"),
        own(Some("rose"), None, "on"),
        own(Some("bulk"), Some("app"), "local"),
        own(Some("Reader"), None, "remote_apply"),
    ]);
    let all = findings(&seen, Job::Synchronous);
    let fixes: Vec<(&str, Level, &str, Offer)> = all
        .iter()
        .filter(|found| {
            matches!(found.check, "synchronous_commit" | "remote_apply") && !found.fixes.is_empty()
        })
        .map(|found| (found.found.as_str(), found.level, found.fixes[0].line.as_str(), found.fixes[0].offer))
        .collect();
    let (off, local) = ("off, of database \"logs\"", "local, of role \"bulk\" in database \"app\"");
    assert_eq!(
        fixes[..2],
        [
            (off, Level::Warning, "ALTER DATABASE \"logs\" RESET synchronous_commit;", Offer::Consider),
            (
                local,
                Level::Warning,
                "ALTER ROLE \"bulk\" IN DATABASE \"app\" RESET synchronous_commit;",
                Offer::Consider
            ),
        ]
    );
    assert_eq!((fixes[2].1, fixes[2].2), (Level::Problem, "ALTER ROLE \"Reader\" RESET synchronous_commit;"));
    // nobody waits for anybody: then it is no matter
    seen.settings = with(&[]).settings;
    assert_eq!(verdict(&seen, Job::Standby, "synchronous_commit"), OK);
    // a value that is the session's own is not mended for the server
    let setting = Setting { text: "local".to_owned(), origin: Origin::Session, pending_restart: false };
    seen.settings.insert("synchronous_commit", setting);
    seen.overrides = Some(Vec::new());
    assert_eq!(verdict(&seen, Job::Synchronous, "synchronous_commit"), problem(""));
}

#[test]
fn what_a_role_may_not_see_is_not_guessed() {
    let mut seen = with(&[("synchronous_standby_names", "a")]);
    seen.walsenders = Some(vec![Downstream { application_name: "a".to_owned(), ..Downstream::default() }]);
    role(&mut seen).sees_activity = false;
    let finding = on(&seen, Job::Synchronous, "synchronous_standby_names");
    assert_eq!(
        (finding.level, finding.fixes[0].line.as_str()),
        (Level::Unknown, "GRANT pg_monitor TO \"rose\";")
    );
}

#[test]
fn a_receiver_that_never_applies_is_not_waited_for_with_remote_apply() {
    let seen = |names: &str, commit: &str| {
        let mut seen = with(&[("synchronous_standby_names", names), ("synchronous_commit", commit)]);
        seen.walsenders = Some(vec![streaming("pgwake", false), streaming("a", true)]);
        on(&seen, Job::Synchronous, "remote_apply")
    };
    assert_eq!(seen("pgwake", "remote_apply").level, Level::Problem);
    assert_eq!(seen("ANY 2 (pgwake, a)", "on").level, Level::Warning);
    assert_eq!(seen("ANY 1 (pgwake, a)", "remote_apply").level, Level::Ok);
}

#[test]
fn nobody_is_waited_for_unless_named_and_asked_for() {
    let unnamed = on(&fit(), Job::Synchronous, "synchronous_standby_names");
    assert_eq!((unnamed.level, unnamed.fixes[0].offer), (Level::Problem, Offer::Consider));
    let mut there = fit();
    there.walsenders = Some(vec![streaming("pgwake", false), streaming("pgwake", false)]);
    assert_eq!(
        verdict(&there, Job::Synchronous, "synchronous_standby_names"),
        problem("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (pgwake)';")
    );
    let local = with(&[("synchronous_commit", "local"), ("synchronous_standby_names", "a")]);
    let fix = "ALTER SYSTEM SET synchronous_commit = 'on';";
    assert_eq!(verdict(&local, Job::Synchronous, "synchronous_commit"), problem(fix));
    assert_eq!(verdict(&local, Job::Standby, "synchronous_commit"), warning(fix));
    let standby = Seen { in_recovery: Some(true), ..fit() };
    assert_eq!(on(&standby, Job::Synchronous, "synchronous_standby_names").level, Level::Problem);
    assert!(is_fit(&findings(&standby, Job::Standby)));
}

#[test]
fn slots_are_told_apart() {
    let slot = |status: &str, active| ReplicationSlot {
        name: "s".to_owned(),
        active,
        held_bytes: Some(1 << 30),
        wal_status: status.parse().ok(),
        ..ReplicationSlot::default()
    };
    let found = |slot: ReplicationSlot| {
        let seen = Seen { slots: Some(vec![slot]), ..fit() };
        let finding = on(&seen, Job::Standby, "slot");
        let fix = finding.fixes.first().map(|fix| (fix.offer, fix.line.clone()));
        (finding.level, fix, on(&seen, Job::Standby, "max_slot_wal_keep_size").level)
    };
    let drop = |offer| Some((offer, "SELECT pg_drop_replication_slot('s');".to_owned()));
    assert_eq!(found(slot("reserved", true)), (Level::Ok, None, Level::Ok));
    assert_eq!(found(slot("extended", false)), (Level::Warning, drop(Offer::Consider), Level::Warning));
    assert_eq!(found(slot("lost", false)), (Level::Warning, drop(Offer::Consider), Level::Ok));
    assert_eq!(found(slot("unreserved", true)), (Level::Warning, None, Level::Ok));
    let never_used = ReplicationSlot { held_bytes: None, wal_status: None, ..slot("", false) };
    assert_eq!(found(never_used), (Level::Ok, None, Level::Ok));
    // 1 KiB a second are written
    let mut limited = with(&[("max_slot_wal_keep_size", "1GB")]);
    let level = |seen: &Seen| on(seen, Job::Standby, "slot").level;
    limited.slots = Some(vec![ReplicationSlot { safe_wal_size: Some(1 << 20), ..slot("extended", true) }]);
    assert_eq!(level(&limited), Level::Warning);
    limited.slots = Some(vec![ReplicationSlot { safe_wal_size: Some(1 << 30), ..slot("extended", true) }]);
    assert_eq!(level(&limited), Level::Ok);
}

#[test]
fn nothing_that_a_server_says_makes_two_lines_or_commands_a_terminal() {
    let evil = "a\n'; DROP TABLE t; --\u{1b}[2J\u{202e}";
    let mut seen = with(&[("wal_level", evil), ("synchronous_standby_names", "a"), ("data_checksums", evil)]);
    role(&mut seen).name = evil.to_owned();
    seen.walsenders = Some(vec![streaming(evil, true); 3]);
    seen.slots = Some(vec![ReplicationSlot {
        name: evil.to_owned(),
        invalidation_reason: Some(evil.to_owned()),
        ..ReplicationSlot::default()
    }]);
    seen.rules.as_mut().unwrap()[0].roles = vec!["all".to_owned(), evil.to_owned()];
    for kind in [RefusalKind::Rules, RefusalKind::NotPermitted, RefusalKind::Full, RefusalKind::Password] {
        seen.trial = Trial::Refused(Refusal { kind, message: evil.repeat(1000) });
        for names in ["a", "*", "", evil] {
            let text =
                Setting { text: names.to_owned(), origin: Origin::Configuration, pending_restart: false };
            seen.settings.insert("synchronous_standby_names", text);
            for finding in findings(&seen, Job::Synchronous) {
                let mut texts = vec![finding.found, finding.why, finding.object.unwrap_or_default()];
                texts.extend(finding.fixes.into_iter().map(|fix| fix.line));
                for text in texts {
                    assert!(
                        !text.chars().any(|c| c.is_control() || c == '\u{202e}'),
                        "{}: {text:?}",
                        finding.check
                    );
                    assert!(text.chars().count() < 2000, "{}: {text:?}", finding.check);
                }
            }
        }
    }
}
