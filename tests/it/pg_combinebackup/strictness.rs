//! Where ours refuses what the original takes, or takes for ever: each of these gives the original a wrong result, a
//! crash or a full disk.

use std::fs;
use std::os::unix::fs::symlink;

use super::chain::Chain;
use super::ours;
use super::scene::{Scene, whole_name};
use crate::support::{Outcome, TestDir};

const MAGIC: u32 = 0xd3ae_1f0d;

fn incremental(truncation: u32, numbers: &[u32], blocks: usize) -> Vec<u8> {
    let words = [&[MAGIC, numbers.len() as u32, truncation], numbers].concat();
    let mut content: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    if !numbers.is_empty() {
        content.resize(content.len().next_multiple_of(8192), 0);
    }
    content.resize(content.len() + blocks * 8192, 7);
    content
}

fn run(chain: &Chain, dir: &TestDir, line: &str, prepare: impl FnOnce(&Scene<'_>)) -> Outcome {
    let scene = Scene::set(chain);
    prepare(&scene);
    let outcome = ours(dir).args(scene.words(line)).dir(&scene.dir).run();
    if outcome.code == Some(1) {
        for name in ["out", "ts.out"] {
            assert!(!scene.dir.join(name).exists(), "{name} was left behind\n{outcome}");
        }
    }
    scene.clear();
    outcome
}

pub(super) fn what_cannot_be_right_is_refused(chain: &Chain) {
    let dir = TestDir::new();
    let with_file = |content: Vec<u8>| {
        run(chain, &dir, "full inc1 -o out TS1 -N", |scene| {
            scene.write(&scene.incremental_file("inc1"), content);
        })
    };
    for (content, complaint) in [
        (
            incremental(9, &[131_072], 1),
            "has block number 131072, which is not less than segment size 131072",
        ),
        (incremental(9, &[u32::MAX], 1), "has block number 4294967295"),
        (incremental(9, &[4, 5, 4], 3), "has block 4 twice"),
        // nothing of the older backup's last block is needed
        (incremental(0, &[], 1), "is too long: expected 12, found 8204"),
        (incremental(2, &[0, 1], 3), "is too long: expected 24576, found 32768"),
        (incremental(1, &(0..131_072).collect::<Vec<_>>(), 0), "could not read from file"),
    ] {
        with_file(content).exited(1).complains(complaint);
    }
    let linked = run(chain, &dir, "full inc1 -o out TS1 -N", |scene| {
        let path = whole_name(&scene.incremental_file("inc1")).replace("inc1", "full");
        let away = scene.dir.join("away");
        fs::write(&away, scene.read(&path)).expect("write a file");
        scene.remove(&path);
        symlink(&away, scene.at(&path)).expect("make a link");
    });
    linked.exited(1).complains("Too many levels of symbolic links");
    let within = run(chain, &dir, "full inc1 -o inc1/base/out TS1 -N", |scene| drop(scene.at("inc1/base")));
    within.exited(1).complains("output directory \"inc1/base/out\" is within an input directory");
    let directory = run(chain, &dir, "full inc1 -o out TS1 -N", |scene| {
        let path = whole_name(&scene.incremental_file("inc1")).replace("inc1", "full");
        scene.remove(&path);
        fs::create_dir(scene.at(&path)).expect("make a directory");
    });
    directory.exited(1).complains("is not a regular file");
}

/// As large as a header can make it, all of it zeros.
pub(super) fn the_largest_file_is_made(chain: &Chain) {
    let dir = TestDir::new();
    let scene = Scene::set(chain);
    let path = scene.incremental_file("inc1");
    scene.write(&path, incremental(131_072, &[], 0));
    ours(&dir).args(scene.words("full inc1 -o out TS1 -N")).dir(&scene.dir).run().succeeded();
    let made = scene.dir.join(whole_name(&path).replacen("inc1", "out", 1));
    assert_eq!(fs::metadata(made).expect("stat the file").len(), 1 << 30);
    scene.clear();
}
