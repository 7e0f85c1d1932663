use super::*;

const MIB: u64 = 1 << 20;

fn size() -> WalSegmentSize {
    WalSegmentSize::from_bytes(MIB).unwrap()
}

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

/// A position as segment and thousandths of it: `at(5, 500)` is the middle of segment 5.
fn at(segment: u64, thousandths: u64) -> Lsn {
    Lsn::new(segment * MIB + thousandths * MIB / 1000)
}

/// `"1/5"` is finished, `"1/5+300"` unfinished with 300 thousandths, `"1/5+short"` finished and yet not, `"1/5+aside"` damaged
/// and moved aside.
fn directory(files: &[&str]) -> Vec<DiskEntry> {
    files
        .iter()
        .map(|text| {
            let (name, len) = text.split_once('+').unwrap_or((text, "full"));
            let (timeline, segment) = name.split_once('/').unwrap();
            let segment = size().segment_at(at(segment.parse().unwrap(), 0));
            let name = WalFileName { timeline: timeline.parse().unwrap(), segment };
            match len {
                "full" => DiskEntry { name: name.to_string(), len: Some(MIB) },
                "short" => DiskEntry { name: name.to_string(), len: Some(7) },
                "aside" => DiskEntry { name: format!("{name}.damaged"), len: None },
                _ => DiskEntry {
                    name: format!("{name}.partial"),
                    len: Some(len.parse::<u64>().unwrap() * MIB / 1000),
                },
            }
        })
        .collect()
}

fn history(timeline: u32, content: &[(u32, Lsn)]) -> TimelineHistory {
    let lines: String = content.iter().map(|(timeline, lsn)| format!("{timeline}\t{lsn}\tx\n")).collect();
    TimelineHistory::parse(tli(timeline), lines.as_bytes()).unwrap()
}

fn server(history: &TimelineHistory) -> ServerState<'_> {
    ServerState { segment_size: size(), history, flush_lsn: at(20, 0), slot: SlotHold::Nothing }
}

fn start(files: &[&str], history: &TimelineHistory) -> Result<(u32, Lsn), ResumeError> {
    find_start(&directory(files), &server(history), StartChoice::Refuse)
        .map(|point| (point.timeline.as_u32(), point.start_lsn))
}

#[test]
fn goes_on_after_the_last_finished_or_at_the_first_unfinished_file() {
    let one = history(1, &[]);
    assert_eq!(start(&["1/3", "1/4"], &one), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/3", "1/4", "1/5+1"], &one), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/5+0"], &one), Ok((1, at(5, 0))));
    // finished files may have been moved away
    assert_eq!(start(&["1/9+500"], &one), Ok((1, at(9, 0))));
    // a crash took back the rename that finished segment 5
    assert_eq!(start(&["1/4", "1/5+1000", "1/6+20"], &one), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/5", "1/5+1000"], &one), Ok((1, at(6, 0))));
}

/// Where to go on, and how far what is missing goes.
fn missing(files: &[&str], history: &TimelineHistory) -> Option<(u32, Lsn, Lsn)> {
    let point = find_start(&directory(files), &server(history), StartChoice::Refuse).unwrap();
    match point.wanted {
        Wanted::Missing { end_lsn } => Some((point.timeline.as_u32(), point.start_lsn, end_lsn)),
        _ => None,
    }
}

#[test]
fn a_hole_before_the_end_is_where_to_begin() {
    let one = history(1, &[]);
    assert_eq!(missing(&["1/3", "1/5+500"], &one), Some((1, at(4, 0), at(5, 0))));
    assert_eq!(missing(&["1/3", "1/9+500"], &one), Some((1, at(4, 0), at(9, 0))));
    assert_eq!(missing(&["1/3", "1/5+1000", "1/6+1"], &one), Some((1, at(4, 0), at(5, 0))));
    assert_eq!(missing(&["1/3", "1/5"], &one), Some((1, at(4, 0), at(5, 0))));
    // the first of several
    assert_eq!(missing(&["1/3", "1/5", "1/7", "1/8+1"], &one), Some((1, at(4, 0), at(5, 0))));
    // what was not finished is nothing that a hole could be behind: another program's leftover, say
    assert_eq!(missing(&["1/3+900", "1/5+500"], &one), None);
    assert_eq!(missing(&["1/3", "1/4+1", "1/6"], &one), Some((1, at(4, 0), at(6, 0))));
    // only the last few are looked at
    let many = |first: u64| (first..=19).map(|number| format!("1/{number}")).chain(["1/3".to_owned()]);
    let of = |first| {
        missing(&many(first).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>(), &one)
    };
    assert_eq!(of(13), Some((1, at(4, 0), at(13, 0))));
    assert_eq!(of(12), None);
}

#[test]
fn a_hole_is_seen_along_the_history() {
    let two = history(2, &[(1, at(5, 500))]);
    assert_eq!(missing(&["1/4", "2/5", "2/7+1"], &two), Some((2, at(6, 0), at(7, 0))));
    assert_eq!(missing(&["1/3", "2/5+1"], &two), Some((1, at(4, 0), at(5, 0))));
    assert_eq!(missing(&["1/4", "2/5+1"], &two), None);
    // timeline 1's own segment 5 has another end, and what timeline 2 has of it is missing
    assert_eq!(start(&["1/4", "1/5", "2/6+1"], &two), Ok((2, at(5, 0))));
    assert_eq!(missing(&["1/4", "1/5", "2/6"], &two), Some((1, at(5, 0), at(6, 0))));
    // what a mover of finished segments leaves
    assert_eq!(missing(&["1/5+500", "2/9+1"], &two), None);
    let boundary = history(2, &[(1, at(5, 0))]);
    assert_eq!(missing(&["1/4", "2/6+1"], &boundary), Some((2, at(5, 0), at(6, 0))));
}

#[test]
fn a_damaged_segment_is_received_again() {
    let one = history(1, &[]);
    // as long as it is there it is in the way, and the sink says so
    assert_eq!(start(&["1/4", "1/5+short", "1/6+300"], &one), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/5+short", "1/6+300"], &one), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/4", "1/5+aside", "1/6+300"], &one), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/5+aside", "1/6+300"], &one), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/5+aside"], &one), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/4", "1/5+aside", "1/6"], &one), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/5+aside", "1/6"], &one), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/5+aside", "1/6", "1/7", "1/8+1"], &one), Ok((1, at(5, 0))));
    // and then it is there
    assert_eq!(start(&["1/4", "1/5+aside", "1/5", "1/6+300"], &one), Ok((1, at(6, 0))));
    assert_eq!(start(&["1/4", "1/5+aside", "1/5+20"], &one), Ok((1, at(5, 0))));
    // what was interrupted is begun once more
    assert_eq!(start(&["1/5+aside", "1/5+20", "1/6", "1/7+1"], &one), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/4", "1/5+aside", "1/5+20", "1/6", "1/7+1"], &one), Ok((1, at(5, 0))));
    let two = history(2, &[(1, at(5, 500))]);
    assert_eq!(start(&["2/5+aside", "1/5+500", "2/5+600", "2/6", "2/7+1"], &two), Ok((2, at(5, 0))));
    assert_eq!(start(&["1/5+aside", "1/5+500", "2/5+600", "2/6", "2/7+1"], &two), Ok((2, at(5, 0))));
    let files = directory(&["1/5+aside"]);
    let point = find_start(&files, &server(&one), StartChoice::Refuse).unwrap();
    assert_eq!(point.flush_floor, at(6, 0), "it was acknowledged once");
}

#[test]
fn follows_the_servers_history() {
    let two = history(2, &[(1, at(5, 500))]);
    assert_eq!(start(&["1/4", "1/5+400"], &two), Ok((1, at(5, 0))));
    assert_eq!(start(&["1/4", "1/5+400", "2/5+600"], &two), Ok((2, at(5, 0))));
    assert_eq!(start(&["1/4", "1/5+400", "2/5", "2/6"], &two), Ok((2, at(7, 0))));
    // timeline 1 went on where the history left it: its segment 5 has another end than timeline 2's
    assert_eq!(start(&["1/4", "1/5", "1/6", "1/7+300"], &two), Ok((2, at(5, 0))));
    let boundary = history(2, &[(1, at(5, 0))]);
    assert_eq!(start(&["1/3", "1/4"], &boundary), Ok((2, at(5, 0))));
    let several = history(4, &[(1, at(5, 100)), (2, at(5, 200)), (3, at(8, 0))]);
    assert_eq!(start(&["1/5"], &several), Ok((3, at(5, 0))));
    assert_eq!(start(&["3/7"], &several), Ok((4, at(8, 0))));
    let same = history(3, &[(1, at(5, 0)), (2, at(5, 0))]);
    assert_eq!(start(&["1/4"], &same), Ok((3, at(5, 0))));
}

#[test]
fn strays_are_told_and_left_alone() {
    let three = history(3, &[(1, at(5, 500))]);
    let files = directory(&["1/4", "1/5+900", "2/5", "2/9+1", "1/6", "3/4"]);
    let point = find_start(&files, &server(&three), StartChoice::Refuse).unwrap();
    assert_eq!((point.timeline, point.start_lsn), (tli(1), at(5, 0)));
    let names: Vec<&str> = point.strays.iter().map(|stray| &stray.name[..]).collect();
    assert_eq!(
        names,
        [
            "000000010000000000000006",
            "000000020000000000000005",
            "000000020000000000000009.partial",
            "000000030000000000000004",
        ]
    );
    let short = [DiskEntry { name: "000000010000000000000005".into(), len: Some(7) }];
    let files = [&directory(&["1/4"])[..], &short].concat();
    let point = find_start(&files, &server(&three), StartChoice::Refuse).unwrap();
    assert_eq!(point.start_lsn, at(5, 0));
    assert_eq!(point.strays[0].reason, StrayReason::WrongLength(7));
    let result = find_start(&short, &server(&three), StartChoice::Current);
    assert_eq!(result, Err(ResumeError::OnlyDamaged { len: 7 }));
}

#[test]
fn other_files_mean_nothing() {
    let names = ["00000002.history", ".pgwake.stamp", "000000010000000000000005.xz", "x", "1.partial"];
    let files: Vec<DiskEntry> = names.map(|name| DiskEntry { name: name.into(), len: Some(1) }).into();
    let one = history(1, &[]);
    let result = find_start(&files, &server(&one), StartChoice::Refuse);
    assert_eq!(result, Err(ResumeError::NoStart));
}

#[test]
fn servers_that_cannot_go_on_are_refused() {
    let one = history(1, &[]);
    let three = history(3, &[(1, at(5, 0))]);
    assert_eq!(
        start(&["1/4", "2/5"], &one),
        Err(ResumeError::TimelineAheadOfServer { found: tli(2), current: tli(1) })
    );
    assert_eq!(
        start(&["2/5"], &three),
        Err(ResumeError::TimelineNotInHistory { found: tli(2), current: tli(3) })
    );
    assert_eq!(
        start(&["1/20"], &one),
        Err(ResumeError::AheadOfServer { start_lsn: at(21, 0), flush_lsn: at(20, 0) })
    );
    assert_eq!(start(&["1/19"], &one), Ok((1, at(20, 0))));
}

#[test]
fn an_empty_directory_begins_at_the_slot_or_where_somebody_said() {
    let two = history(2, &[(1, at(5, 500))]);
    let mut state = server(&two);
    let begin = |state: &ServerState<'_>, choice| {
        find_start(&[], state, choice).map(|p| (p.timeline.as_u32(), p.start_lsn, p.flush_floor))
    };
    assert_eq!(begin(&state, StartChoice::Refuse), Err(ResumeError::NoStart));
    assert_eq!(begin(&state, StartChoice::Current), Ok((2, at(20, 0), Lsn::INVALID)));
    assert_eq!(begin(&state, StartChoice::At(at(4, 7))), Ok((1, at(4, 0), Lsn::INVALID)));
    let beyond = begin(&state, StartChoice::At(at(21, 7))).unwrap_err();
    assert_eq!(beyond, ResumeError::StartBeyondServer { start_lsn: at(21, 0), flush_lsn: at(20, 0) });
    assert_eq!(beyond.class(), ErrorClass::Operator);
    state.slot = SlotHold::Unknown;
    assert_eq!(begin(&state, StartChoice::At(at(4, 7))), Ok((1, at(4, 0), at(20, 0))));
    state.slot = SlotHold::From(SlotPosition { restart_lsn: at(7, 300), timeline: tli(2) });
    assert_eq!(begin(&state, StartChoice::Current), Ok((2, at(7, 0), at(7, 300))));
    state.slot = SlotHold::From(SlotPosition { restart_lsn: at(7, 300), timeline: tli(9) });
    assert_eq!(
        begin(&state, StartChoice::Current),
        Err(ResumeError::SlotTimelineNotInHistory { found: tli(9), current: tli(2) })
    );
}

#[test]
fn the_floor_is_what_may_have_been_acknowledged() {
    let one = history(1, &[]);
    let mut state = server(&one);
    let files = directory(&["1/4", "1/5+400"]);
    let floor = |state: &ServerState<'_>| {
        let point = find_start(&files, state, StartChoice::Refuse).unwrap();
        (point.flush_floor, point.slot_ahead.is_some())
    };
    // all of the unfinished segment may have been: what looks like zeros may be the blank pages behind a log switch
    assert_eq!(floor(&state), (at(6, 0), false));
    let two = history(2, &[(1, at(5, 500))]);
    let switched = directory(&["1/5+400", "2/5+100"]);
    let point = find_start(&switched, &server(&two), StartChoice::Refuse).unwrap();
    assert_eq!(point.flush_floor, at(6, 0));
    state.flush_lsn = at(5, 300);
    assert_eq!(floor(&state), (at(5, 300), false));
    state.flush_lsn = at(9, 0);
    state.slot = SlotHold::From(SlotPosition { restart_lsn: at(5, 200), timeline: tli(1) });
    assert_eq!(floor(&state), (at(5, 200), false));
    // never begun at: the WAL from 5.4 on would be missing
    state.slot = SlotHold::From(SlotPosition { restart_lsn: at(7, 0), timeline: tli(1) });
    assert_eq!(floor(&state), (at(7, 0), true));
}

#[test]
fn a_name_beyond_every_log_is_no_wal_file() {
    let one = history(1, &[]);
    let mut entries = directory(&["1/3"]);
    entries.extend(
        ["00000001FFFFFFFF00000FFF.partial", "00000001FFFFFFFF00000FFF"]
            .map(|name| DiskEntry { name: name.to_owned(), len: Some(MIB) }),
    );
    let point = find_start(&entries, &server(&one), StartChoice::Refuse).unwrap();
    assert_eq!((point.start_lsn, point.strays), (at(4, 0), Vec::new()));
}
