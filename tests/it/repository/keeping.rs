//! Verifying and pruning: damage is named, and nothing goes that is needed.

use std::fs;

use super::harness::{Archive, fill, fingerprint, json, text};
use crate::documented_json::assert_as_documented;
use crate::require_server;
use crate::support::{Cluster, Stop, Tool, wait_until};

#[test]
fn damage_is_named_wherever_it_is() {
    require_server!();
    let primary = Cluster::builder().wal_segsize(1).start();
    let archive = Archive::beside(&primary);
    fill(&primary, "t", 300_000);
    let name = text(&archive.take(&primary, &[])["name"]);
    let verify = || archive.tool("verify").run();
    verify().succeeded().says("nothing is wrong").says(&name);
    assert_as_documented("pgwake verify --archive", {
        let path = archive.root.join("backups/20200101T000000Z-00000000.json");
        fs::write(&path, "{}").expect("write");
        let damaged = archive.tool("verify").arg("--json").run().exited(3);
        fs::remove_file(&path).expect("remove");
        serde_json::from_str(&damaged.stdout).expect("JSON")
    });
    let objects = archive.objects(&format!("backups/{name}"));
    let restored = primary.dir().join("restored");
    let mut seen = 0;
    for object in objects {
        let file_name = object.file_name().expect("a name").to_string_lossy().into_owned();
        if matches!(&file_name[..], "begun.json" | "start.json") {
            continue;
        }
        seen += 1;
        let content = fs::read(&object).expect("read an object");
        for at in [0, content.len() / 2, content.len() - 1] {
            let mut damaged = content.clone();
            damaged[at] ^= 0x10;
            fs::write(&object, damaged).expect("damage an object");
            verify().exited(3).says(&file_name).says("hint: ");
        }
        let refused = archive.tool("restore").arg("-D").arg(&restored).run();
        refused.exited(3).complains(&file_name).complains("pgwake verify --archive");
        fs::write(&object, &content[..content.len() - 1]).expect("cut an object");
        verify().exited(3).says(&file_name);
        fs::remove_file(&object).expect("lose an object");
        verify().exited(3).says(&file_name).says("is missing");
        fs::write(&object, content).expect("mend an object");
        assert!(!restored.exists());
    }
    assert!(seen > 3, "{seen} objects");
    verify().succeeded().says("nothing is wrong");
}

#[test]
fn what_is_pruned_is_what_nobody_needs() {
    require_server!();
    let primary = Cluster::builder().wal_segsize(1).start();
    let archive = Archive::beside(&primary);
    let receiver = archive.receiver(&primary);
    let mut names = Vec::new();
    for _ in 0..3 {
        fill(&primary, "t", 30_000);
        // in order, as their names are: those tell seconds
        std::thread::sleep(std::time::Duration::from_millis(1100));
        names.push(text(&archive.take(&primary, &[])["name"]));
    }
    // one that was broken off, a while ago
    let begun = archive.root.join("backups/20200101T000000Z-00000000/begun.json");
    fs::create_dir(begun.parent().expect("a directory")).expect("make a directory");
    fs::write(&begun, "{}").expect("write");
    Tool::new("touch").args(["-d", "2 days ago"]).arg(&begun).run().succeeded();
    Tool::new("chown")
        .args(["-R", "--reference"])
        .arg(&archive.root)
        .arg(archive.root.join("backups"))
        .run()
        .succeeded();

    let before = (archive.objects("backups"), archive.objects("wal"));
    let dry = json(&archive.tool("prune").args(["--keep-count", "2", "--dry-run", "--json"]));
    assert_as_documented("pgwake prune", dry.clone());
    assert_eq!((archive.objects("backups"), archive.objects("wal")), before);
    archive
        .tool("prune")
        .args(["--keep-window", "1d"])
        .run()
        .succeeded()
        .says("what is left of backup 20200101T000000Z-00000000 removed");
    assert_eq!(archive.names(), names);
    archive.tool("prune").run().exited(2);
    archive
        .tool("prune")
        .args(["--keep-count", "2"])
        .run()
        .succeeded()
        .says(&format!("backup {} removed", names[0]));
    assert_eq!(archive.names(), names[1..]);
    assert!(archive.objects("wal").len() < before.1.len());
    assert_eq!(archive.list()["unfinished_backups"].as_array().map(Vec::len), Some(0));
    assert!(!archive.objects("backups").iter().any(|path| path.to_string_lossy().contains(&names[0])));
    archive.tool("verify").run().succeeded().says("nothing is wrong");

    // a receiver that begins anew puts back no more of what its directory still has than may have been on its way
    receiver.terminate();
    receiver.wait().succeeded();
    let kept = archive.objects("wal");
    let receiver = archive.receiver(&primary);
    // archiving goes on, and both backups that stayed lead to the end
    fill(&primary, "t", 30_000);
    let (end, expected) = (primary.psql("SELECT pg_current_wal_flush_lsn()"), fingerprint(&primary, "t"));
    wait_until("all of it is archived", || {
        let reached = text(&archive.list()["windows"][0]["to_lsn"]);
        primary.psql(&format!("SELECT '{reached}'::pg_lsn >= '{end}'::pg_lsn")) == "t"
    });
    receiver.terminate();
    receiver.wait().succeeded();
    let put_back = archive.objects("wal").iter().position(|object| *object == kept[0]);
    assert!(put_back.is_some_and(|count| count <= 4), "{put_back:?} before {:?}", kept[0]);
    primary.stop(Stop::Fast);
    for name in &names[1..] {
        let directory = primary.dir().join(name);
        archive.tool("restore").args(["--backup", name, "-D"]).arg(&directory).run().succeeded();
        let server = primary.adopt(&directory);
        server.start();
        wait_until("recovery has ended", || server.psql("SELECT pg_is_in_recovery()") == "f");
        assert_eq!(fingerprint(&server, "t"), expected);
        server.stop(Stop::Fast);
    }
}

/// A disk that is not mounted is no empty archive.
#[test]
fn a_directory_that_is_not_there_is_not_made_to_be_read() {
    let dir = crate::support::TestDir::new();
    let root = dir.join("missing/archive");
    let url = format!("file://{}", root.display());
    let tool = |words: &[&str]| Tool::pgwake().args(words).args(["--archive", &url]);
    for words in [&["list"][..], &["verify"], &["wal", "verify"], &["prune", "--keep-count", "1"]] {
        tool(words).run().exited(1).complains("does not exist").complains("Is its disk mounted?");
    }
    let restored = dir.join("restored");
    tool(&["restore", "-D", restored.to_str().expect("a path")]).run().exited(1).complains("does not exist");
    let fetched = dir.join("fetched");
    let name = "000000010000000000000001";
    tool(&["wal", "fetch", name, fetched.to_str().expect("a path")]).run().exited(200);
    assert!(!root.parent().expect("a parent").exists());
}
