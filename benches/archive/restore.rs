//! How fast a backup becomes a data directory.

use std::time::Duration;

use crate::side_by_side::{self, Cost, clear, pgwake, report};
use crate::support::Tool;
use crate::{end, local_archive, primary, receive};

/// The same cluster out of an archive, and out of archives of `tar`: as they are, compressed as the archive is, and with all of it
/// made durable at the end, as a restore is.
pub(crate) fn measure(size_mb: u64, rounds: usize) {
    let primary = primary(false);
    side_by_side::fill(&primary, size_mb as usize);
    let url = local_archive(&primary, "archive");
    let received = primary.dir().subdir("received", 0o700);
    let tool = receive(&primary, &received).args(["--slot", "bench", "--create-slot", "--archive", &url]);
    let running = tool.spawn();
    primary.wait_for("SELECT count(*) FROM pg_stat_replication", "1");
    let backup = pgwake().args(["--quiet", "backup", "-d", &primary.conninfo(), "--archive", &url]);
    backup.by_server_user().timeout(Duration::from_secs(500)).run().succeeded();
    end(running);
    let tars = primary.dir().join("tars");
    let copy =
        Tool::client(primary.major(), "pg_basebackup").args(["-F", "tar", "-X", "none", "-c", "fast", "-d"]);
    copy.arg(primary.conninfo())
        .arg("-D")
        .arg(&tars)
        .by_server_user()
        .timeout(Duration::from_secs(500))
        .run()
        .succeeded();
    let tar = tars.join("base.tar").display().to_string();
    let mb = std::fs::metadata(&tar).expect("an archive").len() as f64 / 1e6;
    Tool::new("zstd").args(["-q", "-T2", &tar]).timeout(Duration::from_secs(500)).run().succeeded();

    let target = primary.dir().subdir("socket_restored", 0o777).join("data");
    let at = target.display();
    let shell = |script: String| Tool::new("sh").args(["-c", &script]).timeout(Duration::from_secs(500));
    let restore = pgwake().args(["--quiet", "restore", "--archive", &url, "-D"]).arg(&target);
    let contenders: [(&str, Tool); 4] = [
        ("tar x", shell(format!("mkdir {at} && tar x -C {at} -f {tar}"))),
        ("tar x, sync", shell(format!("mkdir {at} && tar x -C {at} -f {tar} && sync -f {at}"))),
        (
            "zstd -d | tar x, sync",
            shell(format!("mkdir {at} && zstd -dc {tar}.zst | tar x -C {at} && sync -f {at}")),
        ),
        ("pgwake restore", restore.by_server_user().timeout(Duration::from_secs(500))),
    ];
    let mut runs: Vec<(&str, Vec<Cost>)> = contenders.iter().map(|(name, _)| (*name, Vec::new())).collect();
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let index = (turn + round) % contenders.len();
            runs[index].1.push(side_by_side::measure(&contenders[index].1));
            clear(std::slice::from_ref(&target));
        }
    }
    report(&format!("restore of {mb:.0} MB"), &runs);
    for (name, costs) in &runs {
        let mut walls: Vec<f64> = costs.iter().map(|cost| cost.wall.as_secs_f64()).collect();
        walls.sort_by(f64::total_cmp);
        println!("  {name:<34} {:.0} MB/s", mb / walls[walls.len() / 2]);
    }
}
