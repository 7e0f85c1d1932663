use proptest::prelude::*;

use super::*;

fn read(text: &str) -> SyncStandbys {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn walsender(name: &str, state: &str, flush: Option<u64>, replay: Option<u64>) -> Downstream {
    Downstream {
        application_name: name.to_owned(),
        state: Some(state.to_owned()),
        flush_lsn: flush.map(Lsn::new),
        replay_lsn: replay.map(Lsn::new),
        ..Downstream::default()
    }
}

fn standby(name: &str) -> Downstream {
    walsender(name, "streaming", Some(9), Some(9))
}

use crate::pg::Lsn;

#[test]
fn every_way_to_write_it_is_read() {
    for (text, method, count, names) in [
        ("FIRST 2 (a, b)", SyncMethod::First, 2, &["a", "b"][..]),
        ("first 2(a,b)", SyncMethod::First, 2, &["a", "b"]),
        ("ANY 1 (a, b)", SyncMethod::Any, 1, &["a", "b"]),
        ("any\t3\n(a)", SyncMethod::Any, 3, &["a"]),
        ("2 (a, b)", SyncMethod::First, 2, &["a", "b"]),
        ("a, b", SyncMethod::First, 1, &["a", "b"]),
        ("*", SyncMethod::First, 1, &["*"]),
        ("\"*\"", SyncMethod::First, 1, &["*"]),
        ("ANY 2 (\"x y\", \"say \"\"hi\"\"\")", SyncMethod::Any, 2, &["x y", "say \"hi\""]),
        ("\"any\", anything, first_one", SyncMethod::First, 1, &["any", "anything", "first_one"]),
        ("5", SyncMethod::First, 1, &["5"]),
        ("2 (1, 22)", SyncMethod::First, 2, &["1", "22"]),
        ("größe, a$b", SyncMethod::First, 1, &["größe", "a$b"]),
        ("\"\"", SyncMethod::First, 1, &[""]),
    ] {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(read(text), SyncStandbys { method, count, names }, "{text}");
    }
}

#[test]
fn what_a_server_refuses_is_no_list() {
    for text in [
        "",
        " ",
        ",",
        "a,",
        ",a",
        "a b",
        "()",
        "1 ()",
        "ANY (a)",
        "FIRST (a)",
        "ANY 1 a",
        "0 (a)",
        "ANY 0 (a)",
        "-1 (a)",
        "a-b",
        "\"a",
        "1 (a",
        "1 a)",
        "any",
        "12abc",
        "1 (a) b",
        "FIRST ANY 1 (a)",
        "99999999999 (a)",
    ] {
        assert!(text.parse::<SyncStandbys>().is_err(), "{text:?} was taken");
    }
}

#[test]
fn who_counts_is_who_streams_and_is_named() {
    let walsenders = [
        standby("B"),
        walsender("c", "catchup", Some(1), Some(1)),
        standby("other"),
        standby("a"),
        standby("a"),
    ];
    let names = read("FIRST 2 (a, b, c)");
    let standing = names.standing(&walsenders);
    let there: Vec<&str> =
        standing.there.iter().map(|walsender| walsender.application_name.as_str()).collect();
    assert_eq!((there, &standing.absent[..]), (vec!["a", "a", "B"], &["c"][..]));
    assert_eq!(names.spare(&standing), 1);
    assert_eq!(names.waited_for(&standing).len(), 2);
    let anybody = read("*");
    assert_eq!(anybody.spare(&anybody.standing(&walsenders)), 3);
    assert!(anybody.standing(&[]).absent.is_empty());
    assert_eq!(anybody.spare(&anybody.standing(&[])), -1);
}

#[test]
fn a_receiver_never_applies_but_may_not_be_needed() {
    let receiver = walsender("archive", "streaming", Some(9), None);
    assert!(receiver.never_applies() && !standby("pgwake").never_applies());
    assert!(walsender("pgwake", "streaming", None, None).never_applies());
    assert!(!walsender("a", "streaming", None, None).never_applies());
    let walsenders = [receiver, standby("a")];
    for (text, can_apply) in [
        ("ANY 1 (archive, a)", true),
        ("ANY 2 (archive, a)", false),
        ("FIRST 1 (archive, a)", false),
        ("FIRST 1 (a, archive)", true),
        ("a", true),
    ] {
        let names = read(text);
        assert_eq!(names.can_apply(&names.standing(&walsenders)), can_apply, "{text}");
    }
}

fn any_list() -> impl Strategy<Value = SyncStandbys> {
    let method = prop_oneof![Just(SyncMethod::First), Just(SyncMethod::Any)];
    let name = prop_oneof![
        "[a-z_][a-z0-9_$]{0,8}",
        "[ -~]{0,8}",
        "[0-9]{1,4}",
        Just("*".to_owned()),
        Just("Any".to_owned())
    ];
    (method, 1..=i32::MAX as u32, prop::collection::vec(name, 1..6))
        .prop_map(|(method, count, names)| SyncStandbys { method, count, names })
}

proptest! {
    #[test]
    fn print_and_parse_round_trip(names in any_list()) {
        prop_assert_eq!(read(&names.to_string()), names);
    }

    #[test]
    fn no_text_panics(text in "(any|first|[0-9]|[(),*\"]|\\PC| ){0,12}") {
        if let Ok(names) = text.parse::<SyncStandbys>() {
            prop_assert_eq!(read(&names.to_string()), names);
        }
    }

    #[test]
    fn one_more_that_goes_is_one_less_to_spare(names in any_list(), there in prop::collection::vec("[a-c*]", 1..6)) {
        let mut walsenders: Vec<Downstream> = there.iter().map(|name| standby(name)).collect();
        let before = names.standing(&walsenders);
        let counted = before.there.len();
        prop_assert_eq!(names.spare(&before), counted as i64 - i64::from(names.count));
        prop_assert!(names.waited_for(&before).len() <= counted);
        let last = walsenders.pop().expect("one at least");
        let less = usize::from(names.place(&last.application_name).is_some());
        prop_assert_eq!(names.standing(&walsenders).there.len(), counted - less);
    }
}
