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
    workspace.claim_directory(outside).unwrap();
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
