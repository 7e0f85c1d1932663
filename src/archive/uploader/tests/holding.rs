//! Whose the archive is, and what is said of it in the lease.

use super::*;
use crate::archive::ClusterIdentity;

#[tokio::test]
async fn another_clusters_archive_is_refused() {
    let mut scene = Scene::new();
    scene.write(1, 2, 100);
    let other = ClusterIdentity {
        system_identifier: SystemIdentifier::new(SYSTEM + 1),
        segment_size: size(),
        major: 15,
    };
    other.claim(&scene.store).await.unwrap();
    scene.start();
    scene.flushed(1, 2 * MIB + 100);
    let error = scene.finish().await.unwrap_err();
    assert!(matches!(error, ArchiveError::OtherSystem { .. }), "{error}");
    assert_eq!(scene.keys("").await, ["cluster.json"]);
}

/// Nothing of it has come, and nothing was taken.
#[tokio::test]
async fn a_run_that_ends_before_its_cluster_is_known_leaves_the_archive_alone() {
    let mut scene = Scene::new();
    scene.write(1, 2, 100);
    scene.start();
    scene.flushed(1, 2 * MIB + 100);
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    let before = scene.keys("").await;
    for take_over in [TakeOver::Never, TakeOver::Now] {
        let directory = tempfile::tempdir().unwrap();
        let options = UploadOptions { take_over, ..options() };
        let mut uploader = Uploader::start(scene.store.clone(), directory.path(), options).unwrap();
        let twenty = Duration::from_secs(20);
        assert_eq!(uploader.settled(twenty, twenty).await.unwrap(), Standing::Waiting);
        assert_eq!(uploader.finish(twenty).await.unwrap(), Some(0));
        assert_eq!(scene.keys("").await, before);
    }
}

/// Whoever has it goes on.
#[tokio::test]
async fn nobody_is_driven_out_of_another_clusters_archive() {
    let mut owner = Scene::new();
    owner.write(1, 2, 100);
    owner.start();
    owner.flushed(1, 2 * MIB + 100);
    owner.archived(1, 2 * MIB + 100).await;
    let leases = owner.keys("lease/").await;
    let other = ClusterStamp { system_identifier: SystemIdentifier::new(SYSTEM + 1), segment_size: size() };
    for is_stamped in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        if is_stamped {
            let stamp = format!(
                "{{\"format\":1,\"system_identifier\":\"{}\",\"wal_segment_size\":{MIB}}}",
                SYSTEM + 1
            );
            std::fs::write(directory.path().join(ClusterStamp::FILE_NAME), stamp).unwrap();
        }
        let options = UploadOptions { take_over: TakeOver::Now, ..options() };
        let mut uploader = Uploader::start(owner.store.clone(), directory.path(), options).unwrap();
        let twenty = Duration::from_secs(20);
        let refused = match uploader.settled(twenty, twenty).await {
            Ok(standing) => {
                assert_eq!((standing, is_stamped), (Standing::Waiting, false));
                uploader.feed.send_modify(|feed| feed.stamp = Some(other));
                uploader.finish(twenty).await.unwrap_err()
            }
            Err(error) => error,
        };
        assert!(matches!(refused, ArchiveError::OtherSystem { .. }), "{refused}");
    }
    assert_eq!(owner.keys("lease/").await, leases);
    owner.flushed(1, 2 * MIB + 100);
    assert_eq!(owner.finish().await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_lease_says_what_its_run_has_seen_to_be_archived() {
    let mut scene = Scene::new();
    scene.write(1, 3, 1000);
    // no stream came: nobody has looked at what is in the directory
    scene.start();
    scene.uploader.as_mut().unwrap().settled(Duration::from_secs(20), Duration::from_secs(20)).await.unwrap();
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    let holder = lease::last_holder(&scene.store).await.unwrap().unwrap();
    assert!(holder.ended && !holder.archived_all && holder.archived().is_none());
    scene.start();
    scene.flushed(1, 3 * MIB + 1000);
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    let reached = Some((timeline(1), Lsn::new(3 * MIB + 1000)));
    let holder = lease::last_holder(&scene.store).await.unwrap().unwrap();
    assert!(holder.ended && holder.archived_all && holder.archived() == reached);
    // what was reached once stays so, whoever comes
    scene.start();
    scene.uploader.as_mut().unwrap().settled(Duration::from_secs(20), Duration::from_secs(20)).await.unwrap();
    assert_eq!(scene.finish().await.unwrap(), Some(0));
    let holder = lease::last_holder(&scene.store).await.unwrap().unwrap();
    assert!(holder.ended && !holder.archived_all && holder.archived() == reached);
}
