//! A clone is the primary's copy, whole and checked, and it streams.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::support::{Cluster, Outcome, Port, Tool, tree, wait_until};
use crate::{require_root, require_server};

/// `pgwake standby create` on a cluster, as its server's user, with a directory and a slot.
pub(crate) fn create(primary: &Cluster, directory: &Path) -> Tool {
    let conninfo = primary.conninfo();
    let tool = Tool::pgwake().args(["standby", "create", "-d", &conninfo, "--slot", "standby1", "-D"]);
    tool.arg(directory).by_server_user()
}

/// The same hash on both says that all rows of all tables are the same.
pub(crate) fn hash_of_everything(cluster: &Cluster) -> String {
    let tables = cluster.psql(
        "SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND relpersistence = 'p' \
         AND relnamespace = 'public'::regnamespace ORDER BY 1",
    );
    let hash = |table: &str| {
        cluster.psql(&format!(
            "SELECT '{table}', count(*), md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM {table} t"
        ))
    };
    tables.lines().map(hash).collect::<Vec<_>>().join("\n")
}

/// Starts a clone and waits until the primary shows it streaming and it has replayed all.
pub(crate) fn catch_up(primary: &Cluster, standby: &Cluster) {
    standby.start();
    primary
        .wait_for("SELECT state FROM pg_stat_replication WHERE application_name = 'standby1'", "streaming");
    let lsn = primary.psql("SELECT pg_current_wal_lsn()");
    standby.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
}

#[test]
fn a_primary_under_load_is_cloned_started_and_followed() {
    require_server!();
    let primary = Cluster::builder().data_checksums().start();
    primary.pgbench(&["-i", "-s", "5"]).run().succeeded();
    let load =
        primary.pgbench(&["-T", "600", "-c", "2"]).timeout(std::time::Duration::from_secs(600)).spawn();
    let directory = primary.dir().join("standby");
    let port = Port::reserve();
    let sockets = primary.socket_dir();
    let outcome = create(&primary, &directory)
        .args(["--start", "--json", "--set", "hot_standby_feedback=on", "--set"])
        .arg(format!("port={}", port.number()))
        .arg("--bindir")
        .arg(primary.bin_dir())
        .arg("--set")
        .arg(format!("unix_socket_directories={}", sockets.display()))
        .run()
        .succeeded();
    assert!(!outcome.output_held_open, "the server holds our output: {outcome}");
    assert!(outcome.stdout.contains("\"streaming\":\"streaming\""), "{outcome}");
    load.terminate();
    let _ = load.wait();
    let standby = |sql: &str| {
        let psql = Tool::psql().args(["-XAtq", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres", "-p"]);
        psql.arg(port.number().to_string()).args(["-c", sql]).run().succeeded().stdout.trim().to_owned()
    };
    let lsn = primary.psql("SELECT pg_current_wal_lsn()");
    wait_until("the standby has replayed all", || {
        standby(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")) == "t"
    });
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT count(*) FROM pgbench_history)";
    assert_eq!(standby(sums), primary.psql(sums));
    assert_eq!(standby("SHOW hot_standby_feedback"), "on");
    assert_eq!(standby("SELECT slot_name FROM pg_stat_wal_receiver"), "standby1");
    assert_eq!(primary.psql("SELECT application_name FROM pg_stat_replication"), "standby1");
    assert_no_traces(primary.dir().path());
}

/// Nothing of the work is left beside the result.
pub(crate) fn assert_no_traces(directory: &Path) {
    let left: Vec<_> =
        tree(directory).lines().filter(|line| line.contains(".pgwake")).map(str::to_owned).collect();
    assert_eq!(left, Vec::<String>::new(), "left behind in {}", directory.display());
}

/// Everything in the cluster's directory but its own data: what a run may have left.
pub(crate) fn beside_the_primary(primary: &Cluster) -> Vec<String> {
    let is_the_primarys = |line: &&str| {
        let name = line.split(' ').find(|word| word.starts_with("data") || word.starts_with("socket"));
        name.is_none()
    };
    tree(primary.dir().path()).lines().filter(is_the_primarys).map(str::to_owned).collect()
}

#[test]
fn a_clone_passes_the_original_verification() {
    require_server!();
    let Some(verify) =
        crate::support::servers::program(crate::support::servers::default_major(), "pg_verifybackup")
    else {
        return;
    };
    for checksums in ["none", "crc32c", "sha224", "sha256", "sha384", "SHA512"] {
        let primary = Cluster::new();
        let directory = primary.dir().join("standby");
        create(&primary, &directory).args(["--manifest-checksums", checksums]).run().succeeded();
        Tool::new(&verify).arg(&directory).by_server_user().run().succeeded();
    }
}

#[test]
fn segment_sizes_modes_and_empty_files_are_kept() {
    require_server!();
    for (segment_mb, group) in [(1, true), (64, false), (1024, false)] {
        let builder = Cluster::builder().wal_segsize(segment_mb);
        let builder = if segment_mb == 1024 {
            builder.setting("min_wal_size", "2GB").setting("max_wal_size", "4GB")
        } else {
            builder
        };
        let primary = if group { builder.group_access() } else { builder }.start();
        // an empty table has a file of no length
        primary
            .psql("CREATE TABLE empty (i int); CREATE TABLE full_one AS SELECT generate_series(1, 100000) i");
        let directory = primary.dir().join("standby");
        create(&primary, &directory).run().succeeded();
        let mode = std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if group { 0o750 } else { 0o700 });
        let unlike: Vec<_> = tree(&directory)
            .lines()
            .filter(|line| line.starts_with("f ") && line.contains(" base/"))
            .filter(|line| !line.starts_with(if group { "f 0640" } else { "f 0600" }))
            .map(str::to_owned)
            .collect();
        assert_eq!(unlike, Vec::<String>::new());
        let standby = primary.adopt(&directory);
        catch_up(&primary, &standby);
        assert_eq!(hash_of_everything(&standby), hash_of_everything(&primary));
        assert_eq!(standby.psql("SHOW wal_segment_size"), primary.psql("SHOW wal_segment_size"));
    }
}

#[test]
fn tablespaces_go_where_they_are_mapped_and_wal_where_it_is_sent() {
    require_server!();
    let primary = Cluster::new();
    let there = primary.dir().subdir("ts there", 0o700);
    primary.psql(&format!("CREATE TABLESPACE far LOCATION '{}'", there.display()));
    primary.psql("CREATE TABLE distant TABLESPACE far AS SELECT generate_series(1, 10000) i");
    let (directory, here, wal) =
        (primary.dir().join("standby"), primary.dir().join("ts=here/1"), primary.dir().join("wal"));
    let mapping = format!("{}={}", there.display(), here.display().to_string().replace('=', "\\="));
    create(&primary, &directory).arg("-T").arg(mapping).arg("--waldir").arg(&wal).run().succeeded();
    assert_eq!(std::fs::read_link(directory.join("pg_wal")).unwrap(), wal);
    assert_no_traces(primary.dir().path());
    let standby = primary.adopt(&directory);
    catch_up(&primary, &standby);
    let location = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'far'";
    assert_eq!(standby.psql(location), here.display().to_string());
    assert_eq!(hash_of_everything(&standby), hash_of_everything(&primary));
    assert!(!standby.psql("SELECT pg_ls_waldir()").is_empty());
}

#[test]
fn a_tablespace_without_a_place_of_its_own_is_refused_and_nothing_is_left() {
    require_server!();
    let primary = Cluster::new();
    let there = primary.dir().subdir("there", 0o700);
    primary.psql(&format!("CREATE TABLESPACE far LOCATION '{}'", there.display()));
    let before = beside_the_primary(&primary);
    let directory = primary.dir().join("standby");
    // on the same machine the primary's own directory is taken
    let outcome = create(&primary, &directory).run().exited(1).complains("is not empty");
    assert!(outcome.stderr.contains("tablespace"), "{outcome}");
    create(&primary, &directory)
        .args(["-T", "/nowhere=/elsewhere"])
        .run()
        .exited(1)
        .complains("there is no tablespace in");
    let inside = format!("{}={}", there.display(), directory.join("ts").display());
    create(&primary, &directory)
        .args(["-T", &inside])
        .run()
        .exited(1)
        .complains("is within another one of this standby");
    assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    assert_eq!(beside_the_primary(&primary), before);
}

#[test]
fn files_that_come_and_go_under_the_copy_do_no_harm() {
    require_server!();
    let primary = Cluster::new();
    primary.pgbench(&["-i", "-s", "3"]).run().succeeded();
    for number in 0..15 {
        primary.psql(&format!("CREATE TABLE doomed{number} AS SELECT generate_series(1, 2000) i"));
    }
    let directory = primary.dir().join("standby");
    // slowed down, so that much happens under it
    let copy = create(&primary, &directory).args(["--max-rate", "16M"]).spawn();
    for number in 0..15 {
        primary.psql(&format!(
            "DROP TABLE doomed{number}; CREATE TABLE born{number} AS SELECT generate_series(1, 500) i; \
             TRUNCATE pgbench_history; UPDATE pgbench_branches SET bbalance = {number}"
        ));
    }
    primary.psql("VACUUM FULL pgbench_accounts; CHECKPOINT");
    copy.wait().succeeded();
    let standby = primary.adopt(&directory);
    catch_up(&primary, &standby);
    assert_eq!(hash_of_everything(&standby), hash_of_everything(&primary));
}

#[test]
fn the_password_goes_to_a_private_file_and_nowhere_else() {
    require_server!();
    let primary = Cluster::builder()
        .hba("host replication rose 127.0.0.1/32 scram-sha-256")
        .hba("host all rose 127.0.0.1/32 reject")
        .start();
    let password = "s3cr:et\\ \\o'q";
    primary.create_role("rose", "REPLICATION", Some(password));
    let directory = primary.dir().join("standby");
    let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
    let conninfo = format!("host=127.0.0.1 port={} user=rose password='{quoted}'", primary.port());
    let outcome: Outcome = Tool::pgwake()
        .args(["standby", "create", "-vv", "-d", &conninfo, "--slot", "standby1", "-D"])
        .arg(&directory)
        .by_server_user()
        .run()
        .succeeded();
    assert!(!outcome.stderr.contains("s3cr") && !outcome.stdout.contains("s3cr"), "{outcome}");
    let passfile = directory.join("primary.passfile");
    let metadata = std::fs::metadata(&passfile).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o600);
    let configuration = std::fs::read_to_string(directory.join("postgresql.auto.conf")).unwrap();
    assert!(!configuration.contains("s3cr"), "{configuration}");
    assert!(configuration.contains(&passfile.display().to_string()), "{configuration}");
    for line in tree(&directory).lines().filter(|line| line.starts_with("f ")) {
        let name = line.splitn(4, ' ').nth(3).unwrap();
        let content = std::fs::read(directory.join(name)).unwrap();
        let found = content.windows(4).any(|window| window == b"s3cr");
        assert_eq!(found, name == "primary.passfile", "{name}");
    }
    let standby = primary.adopt(&directory);
    catch_up(&primary, &standby);
}

#[test]
fn a_role_without_a_database_of_its_own_is_asked_in_another() {
    require_server!();
    let primary = Cluster::builder().setting("max_replication_slots", "1").start();
    primary.create_role("rose", "REPLICATION", None);
    primary.psql("SELECT pg_create_physical_replication_slot('other')");
    let conninfo = format!("host={} port={} user=rose", primary.socket_dir().display(), primary.port());
    let tool =
        Tool::pgwake().args(["standby", "create", "-d", &conninfo, "--slot", "standby1", "--dry-run", "-D"]);
    // only SQL tells how many slots are taken
    let outcome = tool.arg(primary.dir().join("standby")).by_server_user().run().exited(1);
    assert!(outcome.stderr.contains("no replication slot is free"), "{outcome}");
}

#[test]
fn a_role_that_may_only_replicate_suffices() {
    require_server!();
    let primary = Cluster::builder().hba("local replication rose trust").hba("local all rose reject").start();
    primary.create_role("rose", "REPLICATION", None);
    let directory = primary.dir().join("standby");
    let port = Port::reserve();
    let conninfo = format!("{} user=rose", primary.conninfo());
    let outcome = Tool::pgwake()
        .args(["standby", "create", "-d", &conninfo, "--slot", "standby1", "--start", "--set"])
        .arg(format!("port={}", port.number()))
        .arg("--set")
        .arg(format!("unix_socket_directories={}", primary.socket_dir().display()))
        .arg("--bindir")
        .arg(primary.bin_dir())
        .arg("-D")
        .arg(&directory)
        .by_server_user()
        .run()
        .succeeded();
    assert!(outcome.stdout.contains("its slot in use"), "{outcome}");
}

#[test]
fn as_root_everything_belongs_to_the_directorys_owner_and_the_server_runs_as_that_user() {
    require_server!();
    require_root!();
    let primary = Cluster::new();
    let there = primary.dir().subdir("socket_ts", 0o700);
    primary.psql(&format!("CREATE TABLESPACE far LOCATION '{}'", there.display()));
    primary.psql("CREATE TABLE distant TABLESPACE far AS SELECT generate_series(1, 1000) i");
    let (directory, port) = (primary.dir().join("standby"), Port::reserve());
    let mapping = format!("{}={}", there.display(), primary.dir().join("ts").display());
    let conninfo = primary.conninfo();
    let outcome = Tool::pgwake()
        .args(["standby", "create", "-d", &conninfo, "--slot", "standby1", "--start", "-T", &mapping])
        .args([
            "--bindir",
            &primary.bin_dir().display().to_string(),
            "--set",
            &format!("port={}", port.number()),
        ])
        .args(["--set", &format!("unix_socket_directories={}", primary.socket_dir().display()), "-D"])
        .arg(&directory)
        .arg("--waldir")
        .arg(primary.dir().join("wal"))
        .run()
        .succeeded();
    assert!(outcome.stdout.contains("the primary shows it streaming"), "{outcome}");
    let owner = std::fs::metadata(primary.data_dir()).unwrap().uid();
    for place in ["standby", "ts", "wal"] {
        let place = primary.dir().join(place);
        for line in tree(&place).lines().filter(|line| !line.starts_with("l ")) {
            let name = line.splitn(if line.starts_with("f ") { 4 } else { 3 }, ' ').last().unwrap();
            let metadata = std::fs::symlink_metadata(place.join(name)).unwrap();
            assert_eq!(metadata.uid(), owner, "{line} in {}", place.display());
        }
    }
}

#[test]
fn root_is_not_sent_anywhere_by_a_server() {
    require_server!();
    require_root!();
    let primary = Cluster::new();
    let there = primary.dir().subdir("socket_ts", 0o700);
    primary.psql(&format!("CREATE TABLESPACE far LOCATION '{}'", there.display()));
    // the same path on another machine would lie in a directory of root's
    let elsewhere = primary.dir().join("socket_roots");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::remove_dir_all(&there).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &there).unwrap();
    let outcome = Tool::pgwake()
        .args(["standby", "create", "-d", &primary.conninfo(), "--slot", "standby1", "-D"])
        .arg(primary.dir().join("standby"))
        .run()
        .exited(1);
    assert!(outcome.stderr.contains("--tablespace-mapping"), "{outcome}");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn a_standby_can_be_cloned_from_a_standby() {
    require_server!();
    let primary = Cluster::new();
    primary.pgbench(&["-i", "-s", "1"]).run().succeeded();
    let (first, second) = (primary.dir().join("first"), primary.dir().join("second"));
    create(&primary, &first).run().succeeded();
    let first = primary.adopt(&first);
    catch_up(&primary, &first);
    let load = primary.pgbench(&["-T", "600"]).timeout(std::time::Duration::from_secs(600)).spawn();
    create(&first, &second).run().succeeded();
    load.terminate();
    let _ = load.wait();
    let second = primary.adopt(&second);
    second.start();
    let lsn = primary.psql("SELECT pg_current_wal_lsn()");
    second.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
    assert_eq!(first.psql("SELECT state FROM pg_stat_replication"), "streaming");
    assert_eq!(hash_of_everything(&second), hash_of_everything(&primary));
}

#[test]
fn a_dry_run_makes_nothing() {
    require_server!();
    let primary = Cluster::new();
    let before = beside_the_primary(&primary);
    let outcome = create(&primary, &primary.dir().join("standby")).arg("--dry-run").run().succeeded();
    assert!(outcome.stdout.contains("would create replication slot \"standby1\""), "{outcome}");
    assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    assert_eq!(beside_the_primary(&primary), before);
}

/// 8.1 GiB, sparse on the primary: its size does not fit into the octal digits of a tar header.
#[test]
#[ignore = "writes 8 GiB; run by make torture"]
fn a_file_over_8_gib_is_cloned() {
    require_server!();
    let primary = Cluster::new();
    let big = primary.data_dir().join("base/1/99999999");
    std::fs::File::create(&big).unwrap().set_len((8 << 30) + (100 << 20)).unwrap();
    crate::support::dir::own(&big);
    let directory = primary.dir().join("standby");
    create(&primary, &directory).timeout(std::time::Duration::from_secs(300)).run().succeeded();
    assert_eq!(std::fs::metadata(directory.join("base/1/99999999")).unwrap().len(), (8 << 30) + (100 << 20));
}
