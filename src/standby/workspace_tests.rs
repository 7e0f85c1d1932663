//! A workspace through all that can happen to it.

use std::os::unix::fs::MetadataExt as _;

use super::*;

/// As root, everything must belong to somebody else.
fn sandbox() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(directory.path(), Some(1), Some(1)).unwrap();
    }
    directory
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn fill(workspace: &mut Workspace, outside: &Path) {
    fs::write(workspace.data().join("PG_VERSION"), "15").unwrap();
    fs::create_dir(workspace.data().join("base")).unwrap();
    workspace.claim_directories(&[outside.to_owned()]).unwrap();
    fs::write(outside.join("1259"), "rows").unwrap();
}

#[test]
fn a_new_directory_appears_whole() {
    let sandbox = sandbox();
    let (target, outside) = (sandbox.path().join("a/standby"), sandbox.path().join("ts/1"));
    let (mut workspace, leftover) = Workspace::claim(&target).unwrap();
    assert!(leftover.is_none());
    fill(&mut workspace, &outside);
    assert!(!target.exists());
    workspace.commit(0o700).unwrap();
    assert_eq!(names(&target), ["PG_VERSION", "base"]);
    assert_eq!(names(&sandbox.path().join("a")), ["standby"]);
    assert_eq!(names(&outside), ["1259"]);
}

#[test]
fn an_empty_directory_is_filled_in_place() {
    let sandbox = sandbox();
    let (target, outside) = (sandbox.path().join("mnt"), sandbox.path().join("ts"));
    for directory in [&target, &outside] {
        fs::create_dir(directory).unwrap();
        chown(directory, Some(Owner { uid: rustix::process::geteuid().as_raw().max(1), gid: 1 })).unwrap();
    }
    let (mut workspace, _) = Workspace::claim(&target).unwrap();
    fill(&mut workspace, &outside);
    assert_eq!(names(&target), [".pgwake"]);
    workspace.commit(0o750).unwrap();
    assert_eq!(names(&target), ["PG_VERSION", "base"]);
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o750);
    assert!(matches!(Workspace::claim(&target), Err(WorkspaceError::NotEmpty(_))));
}

#[test]
fn giving_up_leaves_nothing() {
    let sandbox = sandbox();
    let target = sandbox.path().join("a/b/standby");
    let (mut workspace, _) = Workspace::claim(&target).unwrap();
    fill(&mut workspace, &sandbox.path().join("ts/1"));
    workspace.abandon().unwrap();
    assert_eq!(names(sandbox.path()), Vec::<String>::new());
}

#[test]
fn two_runs_do_not_share_a_target() {
    let sandbox = sandbox();
    let target = sandbox.path().join("standby");
    let _first = Workspace::claim(&target).unwrap();
    assert!(matches!(Workspace::claim(&target), Err(WorkspaceError::Locked(_))));
}

#[test]
fn what_a_killed_run_left_is_taken_away_by_the_next() {
    for existing in [false, true] {
        let sandbox = sandbox();
        let (target, outside) = (sandbox.path().join("standby"), sandbox.path().join("ts/1"));
        if existing {
            fs::create_dir(&target).unwrap();
            let place = fs::metadata(sandbox.path()).unwrap();
            std::os::unix::fs::chown(&target, Some(place.uid()), Some(place.gid())).unwrap();
        }
        let (mut killed, _) = Workspace::claim(&target).unwrap();
        killed.record(|journal| journal.slot = Some("standby1".to_owned())).unwrap();
        fill(&mut killed, &outside);
        drop(killed);
        let (workspace, leftover) = Workspace::claim(&target).unwrap();
        let leftover = leftover.unwrap();
        assert_eq!(leftover.journal.slot.as_deref(), Some("standby1"));
        assert_eq!(names(&workspace.data()), Vec::<String>::new());
        workspace.discard_leftover(&leftover).unwrap();
        assert!(!outside.exists());
        workspace.abandon().unwrap();
        assert_eq!(names(sandbox.path()), if existing { vec!["standby"] } else { vec![] });
    }
}

#[test]
fn a_directory_that_found_another_use_is_left_alone() {
    let sandbox = sandbox();
    let (target, outside) = (sandbox.path().join("standby"), sandbox.path().join("ts"));
    let (mut killed, _) = Workspace::claim(&target).unwrap();
    fill(&mut killed, &outside);
    drop(killed);
    fs::remove_dir_all(&outside).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let (workspace, leftover) = Workspace::claim(&target).unwrap();
    workspace.discard_leftover(&leftover.unwrap()).unwrap();
    assert_eq!(names(&outside), ["precious"]);
}

#[test]
fn a_run_cut_off_after_its_commit_is_only_tidied_up() {
    let sandbox = sandbox();
    let (target, outside) = (sandbox.path().join("standby"), sandbox.path().join("ts"));
    let (mut killed, _) = Workspace::claim(&target).unwrap();
    fill(&mut killed, &outside);
    killed.record(|journal| journal.committing = true).unwrap();
    fs::rename(killed.data(), &target).unwrap();
    drop(killed);
    assert!(matches!(Workspace::claim(&target), Err(WorkspaceError::NotEmpty(_))));
    assert_eq!(names(sandbox.path()), ["standby", "ts"]);
    assert_eq!(names(&outside), ["1259"]);
}

#[test]
fn after_a_finished_run_was_cut_off_and_its_result_moved_away_nothing_of_it_is_touched() {
    let sandbox = sandbox();
    let (target, outside) = (sandbox.path().join("standby"), sandbox.path().join("ts"));
    let (mut killed, _) = Workspace::claim(&target).unwrap();
    fill(&mut killed, &outside);
    killed.record(|journal| journal.slot = Some("in_use".to_owned())).unwrap();
    killed.record(|journal| journal.committing = true).unwrap();
    fs::rename(killed.data(), sandbox.path().join("moved away")).unwrap();
    drop(killed);
    let (workspace, leftover) = Workspace::claim(&target).unwrap();
    assert!(leftover.is_none(), "{leftover:?}");
    assert_eq!(names(&outside), ["1259"]);
    workspace.abandon().unwrap();
    assert_eq!(names(&outside), ["1259"]);
}

#[test]
fn a_commit_that_fails_can_be_taken_back() {
    let sandbox = sandbox();
    let (target, outside) = (sandbox.path().join("standby"), sandbox.path().join("ts"));
    let (mut workspace, _) = Workspace::claim(&target).unwrap();
    fill(&mut workspace, &outside);
    fs::create_dir(&target).unwrap();
    assert!(workspace.commit(0o700).is_err());
    assert!(!workspace.is_committed());
    workspace.abandon().unwrap();
    assert_eq!(names(sandbox.path()), ["standby"]);
    assert_eq!(names(&target), Vec::<String>::new());
}

#[test]
fn what_others_put_into_a_target_meanwhile_is_not_taken_away() {
    let sandbox = sandbox();
    let target = sandbox.path().join("mnt");
    fs::create_dir(&target).unwrap();
    let place = fs::metadata(sandbox.path()).unwrap();
    std::os::unix::fs::chown(&target, Some(place.uid()), Some(place.gid())).unwrap();
    let (mut killed, _) = Workspace::claim(&target).unwrap();
    fill(&mut killed, &sandbox.path().join("ts"));
    killed
        .record(|journal| {
            journal.committing = true;
            journal.moved_entries = vec![b"base".to_vec(), b"PG_VERSION".to_vec()];
        })
        .unwrap();
    fs::rename(killed.data().join("base"), target.join("base")).unwrap();
    drop(killed);
    fs::write(target.join("precious"), "x").unwrap();
    assert!(matches!(Workspace::claim(&target), Err(WorkspaceError::NotEmpty(_))));
    fs::remove_file(target.join("precious")).unwrap();
    let (workspace, leftover) = Workspace::claim(&target).unwrap();
    assert!(leftover.is_some());
    workspace.abandon().unwrap();
    assert_eq!(names(&target), Vec::<String>::new());
}

#[test]
fn looking_changes_nothing() {
    let sandbox = sandbox();
    let target = sandbox.path().join("a/b/standby");
    Workspace::examine(&target).unwrap();
    assert_eq!(names(sandbox.path()), Vec::<String>::new());
    assert!(matches!(
        Workspace::examine(&sandbox.path().join("x/../y")),
        Err(WorkspaceError::Unresolvable(_))
    ));
    let (killed, _) = Workspace::claim(&target).unwrap();
    drop(killed);
    Workspace::examine(&target).unwrap();
    assert_eq!(names(&sandbox.path().join("a/b")), [".standby.pgwake"]);
}

#[test]
fn somebody_elses_directory_is_not_used_as_a_workspace() {
    let sandbox = sandbox();
    let workspace = sandbox.path().join(".standby.pgwake");
    fs::create_dir(&workspace).unwrap();
    set_mode(&workspace, 0o777).unwrap();
    let claimed = Workspace::claim(&sandbox.path().join("standby"));
    assert!(matches!(claimed, Err(WorkspaceError::NotOwned(_))), "{claimed:?}");
    fs::remove_dir(&workspace).unwrap();
    std::os::unix::fs::symlink("/", &workspace).unwrap();
    let claimed = Workspace::claim(&sandbox.path().join("standby"));
    assert!(matches!(claimed, Err(WorkspaceError::NotOwned(_))), "{claimed:?}");
}

/// As root: whoever owns the place could have anything removed by us, or moved.
#[test]
fn what_the_places_owner_puts_in_its_place_is_not_touched() {
    for existing in [false, true] {
        let sandbox = sandbox();
        let (target, victim) = (sandbox.path().join("standby"), sandbox.path().join("victim"));
        if existing {
            fs::create_dir(&target).unwrap();
            let place = fs::metadata(sandbox.path()).unwrap();
            std::os::unix::fs::chown(&target, Some(place.uid()), Some(place.gid())).unwrap();
        }
        fs::create_dir_all(victim.join("data")).unwrap();
        set_mode(&victim, 0o700).unwrap();
        for precious in ["precious", "data/precious"] {
            fs::write(victim.join(precious), "x").unwrap();
        }
        let untouched = || (names(&victim), names(&victim.join("data")));
        let before = untouched();
        let plant = |workspace: &Workspace| {
            fs::rename(workspace.path(), sandbox.path().join("moved")).unwrap();
            std::os::unix::fs::symlink(&victim, workspace.path()).unwrap();
        };
        let (mut workspace, _) = Workspace::claim(&target).unwrap();
        fs::write(workspace.data().join("PG_VERSION"), "15").unwrap();
        plant(&workspace);
        workspace.record(|journal| journal.slot = Some("standby1".to_owned())).unwrap();
        let (path, moved) = (workspace.path().to_owned(), sandbox.path().join("moved"));
        let given_up = workspace.abandon();
        assert!(matches!(given_up, Err(WorkspaceError::NotOwned(_))), "{given_up:?}");
        assert_eq!(names(&moved), ["journal.json", "lock"]);
        assert_eq!(untouched(), before);

        fs::remove_file(&path).unwrap();
        fs::remove_dir_all(&moved).unwrap();
        let (mut workspace, _) = Workspace::claim(&target).unwrap();
        fs::write(workspace.data().join("PG_VERSION"), "15").unwrap();
        plant(&workspace);
        workspace.commit(0o700).unwrap_err();
        assert!(workspace.is_committed());
        assert!(names(&target).contains(&"PG_VERSION".to_owned()));
        assert_eq!(untouched(), before);
    }
}

/// The same for a target that is filled, and for a directory that a run was filling.
#[test]
fn what_is_put_in_the_place_of_a_directory_is_neither_filled_nor_emptied() {
    let sandbox = sandbox();
    let (target, victim, outside) =
        (sandbox.path().join("mnt"), sandbox.path().join("victim"), sandbox.path().join("ts"));
    fs::create_dir(&target).unwrap();
    fs::create_dir(&victim).unwrap();
    let place = fs::metadata(sandbox.path()).unwrap();
    std::os::unix::fs::chown(&target, Some(place.uid()), Some(place.gid())).unwrap();
    let (mut workspace, _) = Workspace::claim(&target).unwrap();
    fill(&mut workspace, &outside);
    for name in ["base", "PG_VERSION"] {
        fs::write(victim.join(name), "precious").unwrap();
    }
    fs::rename(&target, sandbox.path().join("moved")).unwrap();
    std::os::unix::fs::symlink(&victim, &target).unwrap();
    workspace.commit(0o700).unwrap_err();
    assert_eq!(fs::read_to_string(victim.join("PG_VERSION")).unwrap(), "precious");
    assert_eq!(names(&sandbox.path().join("moved")), [".pgwake", "PG_VERSION", "base"]);

    if rustix::process::geteuid().is_root() {
        let (mut killed, _) = Workspace::claim(&sandbox.path().join("other")).unwrap();
        let outside = sandbox.path().join("ts2");
        killed.claim_directories(std::slice::from_ref(&outside)).unwrap();
        // he can read the mark, and put it where anybody can put something
        fs::copy(outside.join(MARK_NAME), victim.join(MARK_NAME)).unwrap();
        chown(&victim.join(MARK_NAME), killed.owner()).unwrap();
        fs::remove_dir_all(&outside).unwrap();
        std::os::unix::fs::symlink(&victim, &outside).unwrap();
        // nor is it what is filled: that is the directory that was claimed
        let held = killed.held_places();
        assert_ne!(fs::canonicalize(held.leading_to(&outside)).ok(), Some(victim.clone()));
        killed.abandon().unwrap();
        assert_eq!(names(&victim), [MARK_NAME, "PG_VERSION", "base"]);

        // a directory of another user's is nobody's to give files in
        let (mut workspace, _) = Workspace::claim(&sandbox.path().join("third")).unwrap();
        let foreign = sandbox.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        let owner = workspace.owner();
        chown(&foreign, Some(Owner { uid: 3, gid: 3 })).unwrap();
        let claimed = workspace.claim_directories(std::slice::from_ref(&foreign));
        assert_eq!(claimed.is_err(), owner.is_some(), "{claimed:?}");
    }
}
