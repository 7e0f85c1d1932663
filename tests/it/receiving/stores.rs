//! The same promises on every kind of store that there is a server for: a directory, Amazon's protocol, Azure's, Google's.

use std::fs;
use std::path::{Path, PathBuf};

use super::harness::{
    assert_same_as, caught_up, directory, keeping_wal, make_wal, receive, streaming, without_slot,
};
use crate::require_server;
use crate::support::google_front;
use crate::support::object_store::{self, ObjectStore};
use crate::support::{Cluster, Port, Running, TestDir, Tool, servers, wait_until};

/// A store, as a user would name it.
struct Store {
    url: String,
    variables: Vec<(&'static str, String)>,
    _running: Option<Running>,
}

impl Store {
    fn tool(&self, mut tool: Tool) -> Tool {
        for (name, value) in &self.variables {
            tool = tool.env(name, value);
        }
        tool.args(["--archive", &self.url])
    }

    fn run(&self, args: &[&str]) -> crate::support::Outcome {
        self.tool(Tool::pgwake().args(args)).run()
    }
}

/// All that an archive asks of a store: creation that leaves alone what is there, reading, both ways to list, removal, writing over
/// a lease; a second writer, a killed one, one that goes on.
fn conform(primary: &Cluster, store: &Store) {
    let received = directory(primary);
    let receiver = || {
        let tool =
            receive(&primary.conninfo(), &received).args(["--archive-delay", "0", "--archive-lease", "2s"]);
        store.tool(tool)
    };
    let applied = || {
        let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
        let count = format!("SELECT count(*) > 0 FROM pg_stat_replication WHERE replay_lsn >= '{lsn}'");
        primary.wait_for(&count, "t");
    };
    let running = streaming(&receiver());
    make_wal(primary, 3);
    applied();
    let rival = primary.dir().subdir("rival", 0o700);
    let rival =
        without_slot(&primary.conninfo(), &rival).args(["--start", "current", "--archive-lease", "2s"]);
    store.tool(rival).run().exited(1).complains("the archive is held by another receiver");
    running.kill9();
    running.wait();
    // what was put up before is there, what was on its way may be
    let running = streaming(&receiver());
    make_wal(primary, 2);
    applied();
    caught_up(primary);
    running.terminate();
    running.wait().succeeded();
    let finished = assert_same_as(&[primary], &received);
    let target = primary.dir().subdir("fetched", 0o755);
    for name in &finished {
        let path = target.join(name);
        store.run(&["wal", "fetch", name, path.to_str().expect("a path")]).succeeded();
        let [there, here] = [path, received.join(name)].map(|path| fs::read(path).expect("a segment"));
        assert!(there == here, "{name}");
    }
    let missing = target.join("none");
    store.run(&["wal", "fetch", "0000000900000000000000AA", missing.to_str().expect("a path")]).exited(1);
    store.run(&["wal", "verify"]).succeeded().says("nothing is wrong");
    let listed: serde_json::Value =
        serde_json::from_str(&store.run(&["list", "--json"]).succeeded().stdout).expect("a listing");
    assert_eq!(listed["timelines"][0]["ranges"].as_array().map(Vec::len), Some(1), "{listed}");
    // parts of whole segments are removed, so removal works
    assert!(listed["timelines"][0]["segments"].as_u64() >= Some(finished.len() as u64), "{listed}");
}

fn primary() -> Cluster {
    keeping_wal(1).start()
}

/// A program that one of the project's scripts has fetched.
fn fetched(script: &str, below: &str, begins: &str) -> Option<PathBuf> {
    fn find(directory: &Path, begins: &str) -> Option<PathBuf> {
        let entries: Vec<_> = fs::read_dir(directory).ok()?.flatten().collect();
        let is_it = |path: &Path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begins)) && path.is_file()
        };
        let here = entries.iter().map(fs::DirEntry::path).find(|path| is_it(path));
        here.or_else(|| {
            let mut below = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            below.find_map(|entry| find(&entry.path(), begins))
        })
    }
    let cache =
        std::env::var_os("PGWAKE_CACHE").map_or_else(|| PathBuf::from("/var/cache/pgwake"), PathBuf::from);
    let found = find(&cache.join(below), begins);
    if found.is_none() {
        servers::missing(script, "the program", &format!("get it with scripts/{script}"));
    }
    found
}

/// Does something that only this test needs of a server's own protocol.
fn python(script: &str, args: &[&str]) {
    let tool = Tool::new("/usr/bin/python3").args(["-c", script]).args(args);
    wait_until("the store answers", || tool.run().code == Some(0));
}

fn serve(dir: &TestDir, program: &Path, args: &[&str]) -> Running {
    let tool = Tool::new(program).args(args).dir(dir.path()).env("PATH", "/usr/local/bin:/usr/bin:/bin");
    tool.timeout(std::time::Duration::from_secs(300)).spawn()
}

#[test]
fn a_directory() {
    require_server!();
    let primary = primary();
    let url = format!("file://{}", primary.dir().subdir("archive", 0o700).display());
    conform(&primary, &Store { url, variables: Vec::new(), _running: None });
}

#[test]
fn amazon() {
    require_server!();
    if object_store::program().is_none() {
        servers::missing("s3s-fs", "the program", "get it with scripts/object-store");
        return;
    }
    let primary = primary();
    let server = ObjectStore::start(primary.dir());
    let variables = ObjectStore::variables().map(|(name, value)| (name, value.to_owned())).to_vec();
    conform(&primary, &Store { url: server.url("a/b"), variables, _running: None });
}

/// A distributed store: RADOS Gateway, or whatever S3-compatible server is named.
#[test]
#[ignore = "needs a cluster; run by make test-ceph"]
fn ceph() {
    require_server!();
    let Ok(endpoint) = std::env::var("PGWAKE_TEST_S3") else {
        return servers::missing("ceph", "a cluster of", "run make test-ceph");
    };
    let primary = primary();
    let url = format!("s3://wal/run-{:08x}?endpoint={endpoint}&region=us-east-1", fastrand::u32(..));
    let variable = |name| (name, std::env::var(name).unwrap_or_default());
    let variables = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(variable).to_vec();
    conform(&primary, &Store { url, variables, _running: None });
}

#[test]
fn azure() {
    require_server!();
    let Some(program) = fetched("azurite", "azurite/node_modules/.bin", "azurite-blob") else { return };
    let primary = primary();
    let port = Port::reserve();
    let number = port.number().to_string();
    let data = primary.dir().subdir("azure", 0o755);
    let args =
        ["--silent", "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", &number, "--location"];
    let mut args: Vec<&str> = args.to_vec();
    args.push(data.to_str().expect("a path"));
    let running = serve(primary.dir(), &program, &args);
    python(MAKE_CONTAINER, &[&number]);
    let variables = vec![
        ("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()),
        ("AZURITE_BLOB_STORAGE_URL", format!("http://127.0.0.1:{number}")),
    ];
    conform(&primary, &Store { url: "az://wal/db1".into(), variables, _running: Some(running) });
}

/// With the account that Azurite's documentation gives to everybody.
const MAKE_CONTAINER: &str = r#"
import base64, hashlib, hmac, sys, urllib.error, urllib.request
from email.utils import formatdate
key = base64.b64decode("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")
date = formatdate(usegmt=True)
text = ("PUT" + "\n" * 12 + "x-ms-date:" + date + "\nx-ms-version:2021-08-06\n"
        "/devstoreaccount1/devstoreaccount1/wal\nrestype:container")
signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
request = urllib.request.Request(
    f"http://127.0.0.1:{sys.argv[1]}/devstoreaccount1/wal?restype=container", method="PUT", headers={
        "x-ms-date": date, "x-ms-version": "2021-08-06", "Authorization": "SharedKey devstoreaccount1:" + signature})
try:
    urllib.request.urlopen(request)
except urllib.error.HTTPError as error:
    if error.code != 409:
        sys.exit(error.read().decode())
"#;

#[test]
fn google() {
    require_server!();
    let Some(program) = fetched("fake-gcs", "fake-gcs", "fake-gcs-server-linux") else { return };
    let primary = primary();
    let port = Port::reserve();
    let number = port.number().to_string();
    // what the server does not know of the protocol that is spoken to it
    let public = format!("127.0.0.1:{}", google_front::front(port.number()));
    let args = [
        "-scheme",
        "http",
        "-host",
        "127.0.0.1",
        "-port",
        &number,
        "-backend",
        "memory",
        "-public-host",
        &public,
    ];
    let running = serve(primary.dir(), &program, &args);
    let make = "import sys, urllib.request\nurllib.request.urlopen(urllib.request.Request(f'http://127.0.0.1:{sys.argv[1]}\
                /storage/v1/b?project=x', data=b'{\"name\":\"wal\"}', headers={'Content-Type': 'application/json'}))";
    python(make, &[&number]);
    let account = format!(
        "{{\"gcs_base_url\":\"http://{public}\",\"disable_oauth\":true,\"client_email\":\"\",\"private_key\":\"\",\
         \"private_key_id\":\"\"}}"
    );
    let account = primary.dir().file("socket_account.json", 0o644, &account);
    let variables = vec![("GOOGLE_SERVICE_ACCOUNT", account.display().to_string())];
    conform(
        &primary,
        &Store { url: "gs://wal/db1?allow_http=true".into(), variables, _running: Some(running) },
    );
}
