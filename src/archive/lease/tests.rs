//! Holders against a store in memory, and one that is stopped.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::memory::InMemory;

use super::*;

const LEASE: Duration = Duration::from_millis(300);

struct Machine {
    _directory: tempfile::TempDir,
    path: PathBuf,
    store: ArchiveStore,
}

impl Machine {
    fn new(store: &ArchiveStore) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Machine { path: directory.path().to_owned(), _directory: directory, store: store.clone() }
    }

    async fn take(&self, patience: Patience) -> Result<(Keeper, Lease, Holder), ArchiveError> {
        let holder = Holder::of(&self.path)?;
        let (keeper, lease) =
            acquire(&self.store, &holder, LEASE, patience, |_| {}, async || Ok(true)).await?.unwrap();
        Ok((keeper, lease, holder))
    }
}

fn store() -> ArchiveStore {
    ArchiveStore::over(Arc::new(InMemory::new()), "db")
}

#[tokio::test]
async fn whoever_lives_keeps_it_and_is_named() {
    let store = store();
    let (first, second) = (Machine::new(&store), Machine::new(&store));
    let (mut keeper, lease, _holder) = first.take(Patience::UntilSilent).await.unwrap();
    let refused = tokio::select! {
        () = keeper.keep() => panic!("taken"),
        refused = second.take(Patience::UntilSilent) => refused.unwrap_err(),
    };
    assert!(lease.is_valid());
    let ArchiveError::Held { by, .. } = &refused else { panic!("{refused}") };
    assert_eq!(by.directory, first.path.display().to_string());
    assert!(refused.to_string().contains(&format!("process {} on", std::process::id())), "{refused}");
    assert!(refused.to_string().contains("since 20"), "{refused}");
}

#[tokio::test]
async fn one_that_has_gone_is_not_waited_for_nor_is_ones_own_past() {
    let store = store();
    let (first, second) = (Machine::new(&store), Machine::new(&store));
    let (keeper, _, holder) = first.take(Patience::UntilSilent).await.unwrap();
    keeper.release(true).await;
    drop(holder);
    let began = Instant::now();
    let (killed, lease, holder) = second.take(Patience::UntilSilent).await.unwrap();
    assert_eq!(lease.generation(), Generation::FIRST.next().unwrap());
    drop((killed, lease, holder));
    let (_keeper, lease, _holder) = second.take(Patience::UntilSilent).await.unwrap();
    assert!(began.elapsed() < LEASE, "{:?}", began.elapsed());
    assert_eq!(lease.generation().to_string(), "3");
    let listed = store.list(LEASE_PREFIX).await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
}

#[tokio::test]
async fn one_that_was_stopped_is_fenced_when_it_wakes() {
    let store = store();
    let (first, second) = (Machine::new(&store), Machine::new(&store));
    let (mut stopped, stopped_lease, _one) = first.take(Patience::UntilSilent).await.unwrap();
    stopped.beat().await.unwrap();
    let began = Instant::now();
    let (mut keeper, lease, _other) = second.take(Patience::UntilSilent).await.unwrap();
    assert!(began.elapsed() >= LEASE, "{:?}", began.elapsed());
    // it knows before it asks
    assert!(!stopped_lease.is_valid() && lease.is_valid());
    let fenced = tokio::select! {
        () = keeper.keep() => panic!("taken"),
        ((), fenced) = async { (stopped.keep().await, stopped_lease.valid().await) } => fenced.unwrap_err(),
    };
    let ArchiveError::Fenced { by, generation } = &fenced else { panic!("{fenced}") };
    assert_eq!((by.directory.clone(), *generation), (second.path.display().to_string(), lease.generation()));
    // and does not come back into the object that it may write
    stopped.release(true).await;
    keeper.beat().await.unwrap();
    assert!(lease.is_valid());
}

/// Both may not be right at any moment.
#[tokio::test]
async fn one_that_lives_can_be_made_to_leave() {
    let store = store();
    let (first, second) = (Machine::new(&store), Machine::new(&store));
    let (mut keeper, left, _one) = first.take(Patience::UntilSilent).await.unwrap();
    let taking = async {
        let taken = second.take(Patience::TakeOver).await;
        assert!(!left.is_valid(), "two have it");
        taken
    };
    let ((), taken) = tokio::join!(keeper.keep(), taking);
    let (_keeper, lease, _other) = taken.unwrap();
    assert!(lease.is_valid());
}

/// A beat that was on its way when the watcher looked last.
#[tokio::test]
async fn one_that_comes_back_at_the_last_moment_is_waited_out() {
    let store = store();
    let (first, second) = (Machine::new(&store), Machine::new(&store));
    let (mut late, late_lease, _one) = first.take(Patience::UntilSilent).await.unwrap();
    late.beat().await.unwrap();
    let taking = second.take(Patience::UntilSilent);
    let beating = async {
        // as near to the end of the wait as can be: whoever wins, only one may be right
        tokio::time::sleep(LEASE + LEASE / 4 - Duration::from_millis(5)).await;
        for _ in 0..10 {
            late.beat().await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (taken, ()) = tokio::join!(taking, beating);
    match taken {
        Ok((_, lease, _other)) => assert!(lease.is_valid() && !late_lease.is_valid()),
        Err(error) => assert!(matches!(error, ArchiveError::Held { .. }), "{error}"),
    }
}

#[tokio::test]
async fn of_many_that_want_it_one_gets_it() {
    let store = store();
    let machines: Vec<Machine> = (0..6).map(|_| Machine::new(&store)).collect();
    let taken = machines.iter().map(|machine| async {
        let (mut keeper, lease, _holder) = machine.take(Patience::UntilSilent).await.ok()?;
        let _ = tokio::time::timeout(2 * LEASE, keeper.keep()).await;
        Some(lease)
    });
    let taken: Vec<Lease> = futures_util::future::join_all(taken).await.into_iter().flatten().collect();
    assert_eq!(taken.iter().filter(|lease| lease.is_valid()).count(), 1, "{taken:?}");
}

#[tokio::test]
async fn what_cannot_be_understood_is_left_alone() {
    let store = store();
    let key = layout::lease_key(Generation::FIRST);
    store.create(&key, bytes::Bytes::from_static(b"{}")).await.unwrap();
    let refused = Machine::new(&store).take(Patience::TakeOver).await.unwrap_err();
    assert!(matches!(&refused, ArchiveError::Lease { key: found } if *found == key), "{refused}");
}

use std::time::Instant;
