//! Backups with something missing, damaged or added, and outputs that are there already: what both make of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::compare::Case;
use super::scene::{Scene, whole_name};

pub(super) fn cases() -> Vec<Case> {
    outputs().into_iter().chain(metadata()).chain(files()).collect()
}

fn outputs() -> Vec<Case> {
    vec![
        Case::with("full inc1 -o out TS1 -N", |scene| make_dir(scene, "out")),
        Case::with("full inc1 -o out TS1 -N -d", |scene| {
            make_dir(scene, "out");
            make_dir(scene, "ts.out");
        }),
        Case::with("full inc1 -o out TS1", |scene| {
            make_dir(scene, "out");
            scene.write("out/.hidden", "");
        }),
        Case::with("full inc1 -o out TS1", |scene| {
            make_dir(scene, "ts.out");
            scene.write("ts.out/file", "");
        }),
        Case::with("full inc1 -o out TS1", |scene| scene.write("out", "")),
        Case::with("full inc1 -o out/below TS1", |scene| scene.write("out", "")),
        // as the newest backup is, so is the result
        Case::with("full inc1 -o out TS1 -N", |scene| {
            let mode = fs::Permissions::from_mode(0o750);
            fs::set_permissions(scene.at("inc1"), mode).expect("let the group read");
        }),
        Case::with("full inc1 -o out -N -T SCENE/./else//where/=SCENE/./ts.out/", |scene| {
            move_tablespace(scene, "else/where");
        }),
        Case::with(
            "full inc1 -o out -N -T SCENE/elsewhere=SCENE/wrong -T SCENE/elsewhere=SCENE/ts.out",
            |scene| {
                move_tablespace(scene, "elsewhere");
            },
        ),
        Case::with("full inc1 -o out -N -d TS1", |scene| {
            scene.write("inc1/pg_tblspc/99999", "no tablespace");
            make_dir(scene, "inc1/pg_tblspc/other");
            scene.write("inc1/pg_tblspc/other/file", "content");
        }),
        Case::with("full inc1 -o out TS1", |scene| {
            symlink("relative", scene.at("inc1/pg_tblspc/77777")).expect("a link");
        }),
        Case::with("full inc1 -o out TS1 -T SCENE/second=SCENE/ts.out", |scene| {
            symlink(scene.dir.join("second"), scene.at("inc1/pg_tblspc/77777")).expect("a link");
        }),
        Case::with("full inc1 -o out", |scene| {
            fs::remove_dir_all(scene.at("inc1/pg_tblspc")).expect("remove a directory");
        }),
        // the servers' directories are what interrupted backups left
        Case::with("full inc1 -o out TS1", |scene| {
            scene.write("full/backup_manifest.tmp", "unfinished");
            scene.write("inc1/backup_manifest.tmp", "unfinished");
        }),
    ]
}

fn metadata() -> Vec<Case> {
    vec![
        Case::with("full inc1 -o out TS1", |scene| scene.remove("inc1/PG_VERSION")),
        Case::with("full inc1 -o out TS1", |scene| scene.write("inc1/PG_VERSION", "x\n")).since(19),
        Case::with("full inc1 -o out TS1", |scene| scene.write("inc1/PG_VERSION", "")).since(19),
        Case::with("full inc1 -o out TS1", |scene| scene.remove("full/global/pg_control")),
        Case::with("full inc1 -o out TS1", |scene| {
            scene.change("full/global/pg_control", |content| content[40] ^= 1);
        }),
        Case::with("full inc1 -o out TS1", |scene| {
            scene.change("inc1/global/pg_control", |content| content[290] ^= 1);
        }),
        Case::with("full inc1 -o out TS1", |scene| edit_control(scene, "full", |content| content[0] ^= 1)),
        Case::with("full inc1 -o out TS1", |scene| edit_control(scene, "inc1", |content| content[8] ^= 1)),
        Case::with("full inc1 -o out TS1 -N", |scene| {
            let offset = if scene.chain.cluster.major() < 19 { 252 } else { 268 };
            edit_control(scene, "full", |content| content[offset] = 0);
        }),
        Case::with("full inc1 -o out TS1", |scene| scene.remove("inc1/backup_label")),
        Case::with("full inc1 -o out TS1", |scene| scene.remove("full/backup_label")),
        Case::with("full inc1 -o out TS1", |scene| scene.write("full/backup_label", vec![b'x'; 20_000])),
        Case::with("full inc1 -o out TS1", |scene| scene.write("full/backup_label", "")),
        Case::with("full inc1 -o out TS1", |scene| {
            scene.replace("inc1/backup_label", "START TIMELINE: 1", "START TIMELINE: x");
        }),
        Case::with("full inc1 -o out TS1", |scene| {
            scene.replace("inc1/backup_label", "START TIMELINE: 1", "START TIMELINE: 0");
        }),
        Case::with("full inc1 -o out TS1", |scene| {
            scene.replace("inc1/backup_label", "INCREMENTAL FROM TLI: 1", "INCREMENTAL FROM TLI: 2");
        }),
        Case::with("full inc1 -o out TS1", |scene| {
            scene.replace("inc1/backup_label", "INCREMENTAL FROM TLI: 1\n", "");
        }),
        Case::with("full inc1 -o out TS1", |scene| {
            scene.replace("inc1/backup_label", "START WAL LOCATION: ", "START WAL LOCATION: z");
        }),
        Case::with("full inc1 -o out TS1 -N", |scene| {
            scene.replace("inc1/backup_label", "LABEL: pg", "LABEL: other\nUNKNOWN: pg");
        }),
        Case::with("full inc1 -o out TS1 -N", |scene| scene.remove("full/backup_manifest")),
        Case::with("full inc1 -o out TS1", |scene| scene.remove("inc1/backup_manifest")),
        Case::with("full inc1 -o out TS1 -n", |scene| scene.remove("inc1/backup_manifest")),
        Case::with("full inc1 -o out TS1 -N --no-manifest", |scene| scene.remove("inc1/backup_manifest")),
        Case::with("full inc1 -o out TS1", |scene| {
            scene.replace("full/backup_manifest", "\"Size\": 3,", "\"Size\": 4,");
        }),
    ]
}

fn files() -> Vec<Case> {
    vec![
        Case::with("full inc1 -o out TS1 -N", |scene| {
            scene.write("inc1/added", "by somebody");
            scene.write("inc1/INCREMENTAL.conf", "no incremental file");
            scene.write("full/of_no_interest", "not copied");
            symlink("/etc", scene.at("inc1/away")).expect("a link");
        }),
        Case::with("full inc1 -o out TS1 -N -d", |scene| {
            let status = std::process::Command::new("mkfifo").arg(scene.at("inc1/base/pipe")).status();
            assert!(status.expect("run mkfifo").success());
            fs::set_permissions(scene.at("inc1/PG_VERSION"), fs::Permissions::from_mode(0o644))
                .expect("a mode");
        }),
        Case::with("full inc1 -o out TS1 -N", |scene| {
            let path = scene.incremental_file("inc1");
            scene.remove(&whole_name(&path.replace("inc1", "full")));
        }),
        Case::with("full inc1 -o out TS1 -N", |scene| {
            let path = scene.incremental_file("inc1");
            let content = scene.read(&path);
            let older = path.replace("inc1", "full");
            scene.remove(&whole_name(&older));
            scene.write(&older, content);
        }),
        Case::with("full inc1 -o out TS1 -n -d", |scene| damage(scene, |content| content.truncate(9000))),
        Case::with("full inc1 -o out TS1", |scene| damage(scene, |content| content.truncate(9000))),
        Case::with("full inc1 -o out TS1", |scene| damage(scene, |content| content.truncate(0))),
        Case::with("full inc1 -o out TS1", |scene| damage(scene, |content| content.truncate(2))),
        Case::with("full inc1 -o out TS1", |scene| damage(scene, |content| content.truncate(10))),
        Case::with("full inc1 -o out TS1", |scene| damage(scene, |content| content.truncate(14))),
        Case::with("full inc1 -o out TS1", |scene| damage(scene, |content| content[1] ^= 0xff)),
        Case::with("full inc1 -o out TS1", |scene| damage(scene, |content| content[7] = 0xff)),
        Case::with("full inc1 -o out TS1", |scene| damage(scene, |content| content[11] = 0x7f)),
        // shorter than the blocks that are needed of it
        Case::with("full inc1 -o out TS1", |scene| {
            let path = whole_name(&scene.incremental_file("inc1")).replace("inc1", "full");
            scene.change(&path, |content| content.truncate(8192 + 100));
        }),
        Case::with("full inc1 inc2 -o out TS2 -N", |scene| {
            // the walk ends at the first full copy
            let path = whole_name(&scene.incremental_file("inc1"));
            let content = scene.read(&path.replace("inc1", "full"));
            scene.remove(&scene.incremental_file("inc1"));
            scene.write(&path, content);
        }),
    ]
}

fn make_dir(scene: &Scene<'_>, path: &str) {
    fs::create_dir(scene.at(path)).expect("make a directory");
}

/// Lets the tablespace of `inc1` lie elsewhere.
fn move_tablespace(scene: &Scene<'_>, to: &str) {
    let place = scene.dir.join(to);
    fs::create_dir_all(place.parent().expect("a parent")).expect("make a directory");
    let (_, old) = scene.chain.tablespaces(1).remove(0);
    let status = std::process::Command::new("cp").arg("-al").arg(&old).arg(&place).status();
    assert!(status.expect("run cp").success());
    for entry in fs::read_dir(scene.at("inc1/pg_tblspc")).expect("list tablespaces") {
        let path = entry.expect("an entry").path();
        if path.is_symlink() {
            fs::remove_file(&path).expect("remove a link");
            symlink(&place, &path).expect("make a link");
        }
    }
}

/// Changes a control file, and its checksum with it.
fn edit_control(scene: &Scene<'_>, backup: &str, edit: impl FnOnce(&mut Vec<u8>)) {
    scene.change(&format!("{backup}/global/pg_control"), |content| {
        let is_crc = |offset: &usize| {
            content[*offset..*offset + 4] == crc32c::crc32c(&content[..*offset]).to_ne_bytes()
        };
        let offset = (200..400).step_by(4).find(is_crc).expect("a checksum");
        edit(content);
        let crc = crc32c::crc32c(&content[..offset]).to_ne_bytes();
        content[offset..offset + 4].copy_from_slice(&crc);
    });
}

/// Damages an incremental file of `inc1`.
fn damage(scene: &Scene<'_>, how: impl FnOnce(&mut Vec<u8>)) {
    scene.change(&scene.incremental_file("inc1"), how);
}
