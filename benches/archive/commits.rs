//! What commits wait for that wait for the archive.

use std::time::Duration;

use crate::support::object_store::ObjectStore;
use crate::support::{Direction, Proxy, Tool};
use crate::{end, primary, receive, resident_mb};

const CLIENTS: [usize; 4] = [1, 8, 32, 64];
const LATENCIES_MS: [u64; 3] = [1, 20, 50];

pub(crate) fn measure(seconds: usize) {
    println!("\ncommits/s with remote_apply, {seconds} s each (clients / 2 latencies)");
    for latency in LATENCIES_MS {
        let primary = primary(true);
        primary.psql("SET synchronous_commit = local; CREATE TABLE t (client int, note text)");
        let store = ObjectStore::start(primary.dir());
        let proxy = Proxy::tcp(([127, 0, 0, 1], store.port()).into());
        proxy.delay(Direction::ToClient, Duration::from_millis(latency));
        let url = format!("s3://wal/db1?endpoint=http://{}&region=us-east-1", proxy.addr());
        let directory = primary.dir().subdir("received", 0o700);
        let tool = receive(&primary, &directory);
        let tool = tool.args(["--start", "current", "--archive", &url, "--archive-delay", "0"]);
        let running = ObjectStore::credentials(tool).spawn();
        primary.wait_for("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", "1");
        primary.psql("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (0, '')");
        let script = primary.dir().join("insert.sql");
        let insert = "INSERT INTO t VALUES (:client_id, 'a row of some forty bytes, as many are');\n";
        std::fs::write(&script, insert).expect("write the script");
        let mut figures = String::new();
        for clients in CLIENTS {
            let tool =
                Tool::client(primary.major(), "pgbench").args(["-n", "-M", "prepared", "-j", "2", "-c"]);
            let tool = tool.args([&clients.to_string(), "-T", &seconds.to_string(), "-f"]).arg(&script);
            let tool = tool.args(["-d", &primary.conninfo()]);
            let tool = tool.env("PGOPTIONS", "-c synchronous_commit=remote_apply");
            let outcome = tool.timeout(Duration::from_secs(120)).run().succeeded();
            let tps = outcome.stdout.lines().find_map(|line| line.strip_prefix("tps = "));
            let tps: f64 = tps.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0.0);
            let floor = clients as f64 / (2.0 * latency as f64 / 1000.0);
            figures.push_str(&format!("   {clients} clients: {tps:.0} ({floor:.0})"));
        }
        println!("  store {latency:>2} ms{figures}; resident {} MB", resident_mb(&running));
        end(running);
    }
}
