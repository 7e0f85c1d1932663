//! However many hosts the connection string has, a run deals with one server from its first question to its last.

use crate::require_server;
use crate::support::{Cluster, Direction, Proxy, Tool};

#[test]
fn every_connection_of_a_run_leads_to_the_same_server() {
    require_server!();
    let primary = Cluster::new();
    let (one, two) = (Proxy::to(&primary), Proxy::to(&primary));
    let conninfo = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=postgres load_balance_hosts=random",
        one.port(),
        two.port()
    );
    for round in 0..6 {
        let before = (one.connection_count(), two.connection_count());
        let directory = primary.dir().join(&format!("standby{round}"));
        let slot = format!("standby{round}");
        let tool = Tool::pgwake().args(["standby", "create", "-d", &conninfo, "--slot", &slot, "-D"]);
        tool.arg(&directory).by_server_user().run().succeeded();
        let made = (one.connection_count() - before.0, two.connection_count() - before.1);
        assert!(made == (3, 0) || made == (0, 3), "round {round}: {made:?}");
        let written = std::fs::read_to_string(directory.join("postgresql.auto.conf")).unwrap();
        assert!(written.contains(&format!("{},{}", one.port(), two.port())), "{written}");
    }
}

#[test]
fn a_slot_that_was_made_and_cannot_be_found_is_told_of() {
    require_server!();
    let primary = Cluster::new();
    let proxy = Proxy::to(&primary);
    let directory = primary.dir().join("standby");
    let tool = Tool::pgwake().args(["standby", "create", "-d", &proxy.conninfo(), "--slot", "standby1"]);
    let tool = tool.args(["--max-rate", "32k", "-D"]).arg(&directory).by_server_user();
    let mut run = tool.spawn();
    run.wait_for_stderr("base backup starts");
    primary.wait_for("SELECT active FROM pg_replication_slots", "t");
    // the run loses its connections, and finds the slot gone when it can connect again
    proxy.stall(Direction::ToServer);
    primary.psql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots");
    primary.wait_for("SELECT active FROM pg_replication_slots", "f");
    primary.psql("SELECT pg_drop_replication_slot('standby1')");
    proxy.resume(Direction::ToServer);
    run.wait().exited(1).complains("replication slot \"standby1\" is still on the server");
}
