//! The command lines and the damage. `DIR` stands for the copy of a backup.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::rc::Rc;

use super::Form;
use super::backups::{create, edit, edit_manifest, first_segment, some_file};

/// Whether the order of what is told is the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// It is.
    Same,
    /// The original's is that of `readdir`, or of a hash table.
    Any,
}

/// A command line, and what was done to the backup.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) form: Form,
    pub(super) args: Vec<String>,
    pub(super) damage: Rc<dyn Fn(&Path)>,
    pub(super) order: Order,
    pub(super) by_server_user: bool,
    /// The first major whose tool takes these arguments, or says this.
    since: u32,
    /// Whether the tool has to be of the backup's major.
    needs_its_tool: bool,
    difference: Option<Difference>,
}

/// What ours says otherwise, and for which tools.
#[derive(Debug, Clone, Copy)]
struct Difference {
    majors: fn(u32) -> bool,
    original: &'static str,
    ours: &'static str,
}

impl Case {
    pub(super) fn new(name: &str, line: &str) -> Case {
        Case {
            name: name.to_owned(),
            form: Form::Plain,
            args: line
                .split(' ')
                .filter(|word| !word.is_empty())
                .map(|word| word.replace("EMPTY", ""))
                .collect(),
            damage: Rc::new(|_| {}),
            order: Order::Same,
            by_server_user: false,
            since: 13,
            needs_its_tool: false,
            difference: None,
        }
    }

    fn damaged(name: &str, line: &str, damage: impl Fn(&Path) + 'static) -> Case {
        Case { damage: Rc::new(damage), ..Case::new(name, line) }
    }

    pub(super) fn with_damage(self, damage: impl Fn(&Path) + 'static) -> Case {
        Case { damage: Rc::new(damage), ..self }
    }

    pub(super) fn since(self, since: u32) -> Case {
        Case { since, ..self }
    }

    fn any_order(self) -> Case {
        Case { order: Order::Any, ..self }
    }

    fn form(self, form: Form) -> Case {
        Case { form, ..self }
    }

    fn by_server_user(self) -> Case {
        Case { by_server_user: true, ..self }
    }

    /// For those tools ours says something else.
    pub(super) fn but(self, majors: fn(u32) -> bool, original: &'static str, ours: &'static str) -> Case {
        Case { difference: Some(Difference { majors, original, ours }), ..self }
    }

    pub(super) fn applies(&self, major: u32, tool_major: u32) -> bool {
        // an archive's WAL is read by tools of 19 only, and control files by those of their own major
        let reads_tar = self.form == Form::Plain || tool_major >= 18;
        tool_major >= self.since && reads_tar && (!self.needs_its_tool || major == tool_major)
    }

    /// Whether only a newer tool than the server's takes this, and can verify such a backup: without its WAL.
    pub(super) fn for_newest_only(&self, major: u32) -> bool {
        let skips_wal = self.args.iter().any(|word| word.starts_with("-n") || word == "--no-parse-wal");
        (self.since > major || self.form != Form::Plain) && (skips_wal || self.args.is_empty())
    }

    pub(super) fn expected(&self, tool_major: u32, original: String) -> String {
        match self.difference.filter(|difference| (difference.majors)(tool_major)) {
            Some(difference) => {
                assert!(
                    original.contains(difference.original),
                    "{}: the original does not say {:?}\n{original}",
                    self.name,
                    difference.original
                );
                original.replace(difference.original, difference.ours)
            }
            None => original,
        }
    }
}

/// Command lines, on a whole backup.
pub(super) fn command_lines() -> Vec<Case> {
    const ANY: [&str; 30] = [
        "",
        "-x DIR",
        "--foo DIR",
        "--foo=1 DIR",
        "-i",
        "--ignore",
        "--quiet=1 DIR",
        "DIR more",
        "DIR more yet",
        "DIR --version",
        "DIR --help",
        "DIR -V",
        "DIR",
        "DIR/",
        "DIR/../backup//.",
        "-q DIR",
        "-n DIR",
        "-s DIR",
        "-e DIR",
        "-neqs DIR",
        "--exit-on DIR --no",
        "--skip --quiet DIR",
        "-i base -i global/ -i ./pg_xact/../pg_multixact DIR",
        "-i EMPTY DIR",
        "-m DIR/backup_manifest DIR",
        "-m /nonexistent DIR",
        "-m DIR DIR",
        "-w DIR/pg_wal DIR",
        "-w /nonexistent DIR",
        "/nonexistent",
    ];
    const SINCE_16: [&str; 4] = ["-P -q DIR", "-n -P DIR", "-nPs DIR", "-n --prog DIR"];
    const SINCE_18: [&str; 7] = [
        "-n -F p DIR",
        "-n -Fplain DIR",
        "-F x DIR -n",
        "-F EMPTY DIR -n",
        "-F",
        "--form=p DIR -n",
        "-nFp -Ft -Fp DIR",
    ];
    const SINCE_19: [&str; 4] =
        ["--wal-path=DIR/pg_wal DIR", "--wal DIR/pg_wal DIR", "-n --wal-path x DIR", "-w DIR DIR"];
    let mut cases = Vec::new();
    for (since, lines) in [(13, &ANY[..]), (16, &SINCE_16), (18, &SINCE_18), (19, &SINCE_19)] {
        cases.extend(lines.iter().map(|line| Case::new(line, line).since(since)));
    }
    // 13 to 18 have -w under one name only, which is one of two in 19
    cases.push(Case::new("deprecated", "--wal-directory=DIR/pg_wal DIR"));
    cases.push(Case::new("no directory", "-m DIR/backup_manifest /nonexistent"));
    cases.push(Case::new("a file as directory", "-m DIR/backup_manifest DIR/backup_label -n"));
    cases
}

fn flip(path: &Path, at: usize) {
    edit(path, |bytes| bytes[at] ^= 1);
}

/// Damage to a plain backup.
pub(super) fn damage() -> Vec<Case> {
    let mut cases = vec![
        Case::damaged("extra file", "DIR", |b| create(&b.join("extra"), b"x")),
        Case::damaged("extra file, -q", "-q DIR", |b| create(&b.join("extra"), b"x")),
        Case::damaged("extra file, ignored", "-i extra DIR", |b| create(&b.join("extra"), b"x")),
        Case::damaged("extra file below", "DIR", |b| create(&b.join("base/1/99999"), b"")),
        Case::damaged("extra directory", "DIR", |b| fs::create_dir(b.join("base/9")).expect("make it")),
        Case::damaged("extra file in pg_wal", "DIR", |b| create(&b.join("pg_wal/extra"), b"x")),
        Case::damaged("files that change", "DIR", |b| {
            edit(&b.join("postgresql.auto.conf"), |bytes| bytes.extend(b"work_mem = '1MB'\n"));
            create(&b.join("standby.signal"), b"");
            create(&b.join("recovery.signal"), b"");
        }),
        Case::damaged("missing file", "DIR", |b| fs::remove_file(some_file(b)).expect("remove it")),
        Case::damaged("missing file, ignored", "-i base/1 DIR", |b| {
            fs::remove_file(some_file(b)).expect("remove it");
        }),
        Case::damaged("missing directory", "DIR", |b| fs::remove_dir_all(b.join("base/1")).expect("remove it"))
            .any_order(),
        Case::damaged("missing manifest", "DIR", |b| {
            fs::remove_file(b.join("backup_manifest")).expect("remove it");
        }),
        Case::damaged("missing PG_VERSION", "DIR -n", |b| {
            fs::remove_file(b.join("PG_VERSION")).expect("remove it");
        })
        .since(19)
        .any_order(),
        Case::damaged("missing PG_VERSION, plain", "DIR -n -Fp", |b| {
            fs::remove_file(b.join("PG_VERSION")).expect("remove it");
        })
        .since(18),
        Case::damaged("shorter", "DIR", |b| edit(&some_file(b), |bytes| bytes.truncate(bytes.len() - 1))),
        Case::damaged("longer", "DIR", |b| edit(&some_file(b), |bytes| bytes.push(0))),
        Case::damaged("empty", "DIR", |b| edit(&some_file(b), Vec::clear)),
        Case::damaged("flipped", "DIR", |b| flip(&some_file(b), 100)),
        Case::damaged("flipped at the end", "DIR", |b| {
            edit(&some_file(b), |bytes| *bytes.last_mut().expect("bytes") ^= 0x80);
        }),
        Case::damaged("flipped, checksums skipped", "-s DIR", |b| flip(&some_file(b), 100)),
        Case::damaged("flipped, ignored", "-i base/1/1259 DIR", |b| flip(&some_file(b), 100)),
        Case::damaged("PG_VERSION is another", "DIR", |b| edit(&b.join("PG_VERSION"), |v| v[0] ^= 1)),
        Case::damaged("a directory for a file", "DIR", |b| {
            fs::remove_file(some_file(b)).expect("remove it");
            fs::create_dir(some_file_path(b)).expect("make a directory");
        }),
        Case::damaged("a file for a directory", "DIR", |b| {
            fs::remove_dir_all(b.join("pg_xact")).expect("remove it");
            create(&b.join("pg_xact"), b"x");
        }),
        Case::damaged("a pipe", "DIR", |b| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, b.join("base/1/pipe"), rustix::fs::FileType::Fifo, mode, 0)
                .expect("make a pipe");
        })
        .but(|major| major < 18, "is not a file or directory", "is not a regular file or directory"),
        Case::damaged("a pipe for a file", "DIR", |b| {
            fs::remove_file(some_file(b)).expect("remove it");
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, some_file_path(b), rustix::fs::FileType::Fifo, mode, 0)
                .expect("make a pipe");
        })
        .but(|major| major < 18, "is not a file or directory", "is not a regular file or directory"),
        // links are followed by the original
        Case::damaged("a link", "DIR", |b| {
            let file = some_file(b);
            fs::rename(&file, b.join("../elsewhere")).expect("move it");
            symlink(b.join("../elsewhere"), &file).expect("link it");
        })
        .but(
            |_| true,
            "exit code Some(0)\nbackup successfully verified\n--- stderr\n",
            "exit code Some(1)\n--- stderr\npg_verifybackup: error: \"base/1/1259\" is not a regular file or directory\n\
             pg_verifybackup: error: \"base/1/1259\" is present in the manifest but not on disk",
        ),
        Case::damaged("a link that dangles", "DIR", |b| {
            symlink("/nonexistent", b.join("base/1/link")).expect("make a link");
        })
        .but(
            |_| true,
            "could not stat file or directory \"base/1/link\": No such file or directory",
            "\"base/1/link\" is not a regular file or directory",
        ),
        Case::damaged("a tablespace's link dangles", "DIR -n", |b| {
            symlink("/nonexistent", b.join("pg_tblspc/9")).expect("make a link");
        }),
        Case::damaged("a tablespace's file is flipped", "DIR -n", |b| {
            let tablespace = only_entry(&b.join("pg_tblspc"));
            let version = only_entry(&tablespace);
            let database = only_entry(&version);
            edit(&database_file(&database), |bytes| bytes[7] ^= 4);
        }),
        Case::damaged("a tablespace is gone", "DIR -n", |b| {
            fs::remove_file(only_entry(&b.join("pg_tblspc"))).expect("remove it");
        })
        .any_order(),
        Case::damaged("a directory that cannot be opened", "DIR -n", |b| {
            fs::set_permissions(b.join("pg_xact"), fs::Permissions::from_mode(0o000)).expect("close it");
        })
        .by_server_user(),
        Case::damaged("a file that cannot be opened", "DIR -n", |b| {
            edit(&some_file(b), |_| {});
            fs::set_permissions(some_file(b), fs::Permissions::from_mode(0o000)).expect("close it");
        })
        .by_server_user(),
        Case::damaged("several", "DIR", several).any_order(),
        Case::damaged("several, -e", "-e -i extra -i base DIR", several),
        // the control file
        Case::damaged("control file flipped", "DIR", |b| flip(&b.join("global/pg_control"), 100)),
        Case::damaged("control file flipped, ignored", "-i global/pg_control DIR", |b| {
            flip(&b.join("global/pg_control"), 100);
        }),
        Case::damaged("control file shorter", "DIR", |b| {
            edit(&b.join("global/pg_control"), |bytes| bytes.truncate(4096));
        }),
        Case::damaged("control file cut", "DIR", |b| {
            edit(&b.join("global/pg_control"), |bytes| bytes.truncate(100));
        })
        .but(|major| (17..19).contains(&major), "read 100 of 296", "read 100 of 312"),
        Case::damaged("control file of another version", "DIR", |b| {
            edit_control_file(b, |bytes| bytes[8..12].copy_from_slice(&9999u32.to_ne_bytes()));
        }),
        Case::damaged("control file of another cluster", "DIR", |b| {
            edit_control_file(b, |bytes| bytes[..8].copy_from_slice(&42u64.to_ne_bytes()));
        })
        // a CRC over something and its own CRC is always the same, so the manifest's says nothing; the WAL does
        .but(
            |major| major < 17,
            "exit code Some(0)\nbackup successfully verified\n--- stderr\n",
            "exit code Some(1)\n--- stderr\npg_verifybackup: error: WAL parsing failed for timeline 1",
        ),
        // WAL
        Case::damaged("a segment is missing", "DIR", |b| {
            fs::remove_file(first_segment(&b.join("pg_wal"))).expect("remove it");
        }),
        Case::damaged("a segment is missing, -n", "-n DIR", |b| {
            fs::remove_file(first_segment(&b.join("pg_wal"))).expect("remove it");
        }),
        Case::damaged("a segment is missing, -q", "-q DIR", |b| {
            fs::remove_file(first_segment(&b.join("pg_wal"))).expect("remove it");
        }),
        Case::damaged("a segment is empty", "DIR", |b| edit(&first_segment(&b.join("pg_wal")), Vec::clear)),
        Case::damaged("a segment is zeros", "DIR", |b| {
            edit(&first_segment(&b.join("pg_wal")), |bytes| bytes.fill(0));
        }),
        Case::damaged("a segment is cut", "DIR", |b| {
            edit(&first_segment(&b.join("pg_wal")), |bytes| bytes.truncate(30));
        }),
        Case::damaged("a record is flipped", "DIR", |b| flip(&first_segment(&b.join("pg_wal")), 0x50)),
        Case::damaged("WAL behind the end is flipped", "DIR", |b| {
            edit(&first_segment(&b.join("pg_wal")), |bytes| bytes[(1 << 20) - 1] ^= 1);
        }),
        Case::damaged("no pg_wal", "DIR", |b| fs::remove_dir_all(b.join("pg_wal")).expect("remove it")),
        Case::damaged("WAL elsewhere", "-w DIR-wal DIR", |b| {
            let elsewhere = format!("{}-wal", b.display());
            let _ = fs::remove_dir_all(&elsewhere);
            fs::rename(b.join("pg_wal"), elsewhere).expect("move it");
        }),
        Case::damaged("pg_wal is a link", "DIR", |b| {
            let elsewhere = format!("{}-wal", b.display());
            let _ = fs::remove_dir_all(&elsewhere);
            fs::rename(b.join("pg_wal"), &elsewhere).expect("move it");
            symlink(elsewhere, b.join("pg_wal")).expect("link it");
        }),
    ];
    for case in &mut cases {
        // a control file and WAL are read by the tool of their own major only
        case.needs_its_tool = true;
    }
    cases
}

fn some_file_path(backup: &Path) -> std::path::PathBuf {
    backup.join("base/1/1259")
}

fn several(backup: &Path) {
    create(&backup.join("extra"), b"x");
    edit(&some_file(backup), |bytes| bytes.push(0));
    flip(&backup.join("base/1/1249"), 9);
    flip(&backup.join("global/1262"), 9);
    fs::remove_file(backup.join("base/1/1247")).expect("remove it");
}

fn only_entry(directory: &Path) -> std::path::PathBuf {
    let mut entries = fs::read_dir(directory).expect("list a directory");
    entries.next().expect("an entry").expect("an entry").path()
}

/// The largest: an index of nothing is nothing to flip.
fn database_file(directory: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(directory).expect("list a directory").map(|entry| entry.expect("an entry"));
    entries.max_by_key(|entry| entry.metadata().expect("stat").len()).expect("a file").path()
}

/// Changes a field of the control file, and makes its checksum right again.
fn edit_control_file(backup: &Path, change: impl FnOnce(&mut [u8])) {
    edit(&backup.join("global/pg_control"), |bytes| {
        let word =
            |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("a word"));
        let at = (200..512)
            .step_by(4)
            .find(|at| crc32c::crc32c(&bytes[..*at]) == word(bytes, *at))
            .expect("a control file's checksum");
        change(&mut bytes[..at]);
        let crc = crc32c::crc32c(&bytes[..at]);
        bytes[at..at + 4].copy_from_slice(&crc.to_ne_bytes());
    });
}

/// Damage to a backup in tar format. WAL in archives is read by the tool of 19 only.
pub(super) fn archives() -> Vec<Case> {
    let tar = |name: &str, line: &str, damage: fn(&Path)| {
        Case::damaged(name, line, damage).form(Form::Tar).since(18)
    };
    let mut cases = vec![
        tar("tar", "DIR -n", |_| {}),
        tar("tar, as plain", "-Fp DIR -n", |_| {}).any_order(),
        tar("tar, progress", "-P DIR -n", |_| {}),
        tar("tar, skip", "-sq DIR -n", |_| {}),
        tar("tar: extra file", "DIR -n", |b| create(&b.join("extra"), b"x")),
        tar("tar: extra archive", "DIR -n", |b| create(&b.join("base.tar.bz2"), b"x")),
        tar("tar: extra directory", "DIR -n", |b| fs::create_dir(b.join("base")).expect("make it")),
        tar("tar: extra file, ignored", "DIR -n -i extra", |b| create(&b.join("extra"), b"x")),
        tar("tar: a member is flipped", "DIR -n", |b| {
            edit(&b.join("base.tar"), |bytes| {
                let at = find_member(bytes, "base/1/1259");
                bytes[at + 512 + 77] ^= 1;
            });
        }),
        tar("tar: a member is flipped, skip", "DIR -ns", |b| {
            edit(&b.join("base.tar"), |bytes| {
                let at = find_member(bytes, "base/1/1259");
                bytes[at + 512 + 77] ^= 1;
            });
        }),
        tar("tar: a member is not listed", "DIR -n", |b| {
            edit_manifest(b, |text| without_line(&text, "\"base/1/1259\""));
        }),
        tar("tar: a listed file is missing", "DIR -n", |b| {
            edit_manifest(b, |text| text.replace("\"base/1/1259\"", "\"base/1/125999\""));
        })
        .any_order(),
        tar("tar: a member has another size", "DIR -n", |b| {
            edit_manifest(b, |text| with_size(&text, "\"base/1/1259\"", 5));
        }),
        tar("tar: a tablespace is missing", "DIR -n", |b| {
            let tablespace = fs::read_dir(b).expect("list").map(|entry| entry.expect("an entry").path());
            let mut tablespace = tablespace.filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(|c: char| c.is_ascii_digit()))
            });
            fs::remove_file(tablespace.next().expect("a tablespace")).expect("remove it");
        })
        .any_order(),
        tar("tar: no archive", "DIR", |b| {
            for name in ["base.tar", "pg_wal.tar"] {
                fs::remove_file(b.join(name)).expect("remove it");
            }
        })
        .since(19)
        .any_order(),
        tar("tar: the control file is flipped", "DIR -n", |b| {
            edit(&b.join("base.tar"), |bytes| {
                let at = find_member(bytes, "global/pg_control");
                bytes[at + 512 + 77] ^= 1;
            });
        })
        .any_order(),
        tar("tar: -e", "-e DIR -n", |b| create(&b.join("extra"), b"x")),
        Case::new("gzip", "DIR -n").form(Form::Gzip).since(18),
        Case::new("gzip, progress", "DIR -nP").form(Form::Gzip).since(18),
        Case::damaged("gzip: a listed file is missing", "DIR -n", |b| {
            edit_manifest(b, |text| text.replace("\"base/1/1259\"", "\"base/1/125999\""));
        })
        .form(Form::Gzip)
        .since(18)
        .any_order(),
        Case::new("fetch", "DIR -n").form(Form::Fetch).since(18),
    ];
    // with their WAL
    let with_wal = [
        Case::new("tar, WAL", "DIR").form(Form::Tar),
        Case::new("gzip, WAL", "DIR").form(Form::Gzip),
        Case::new("fetch, WAL", "DIR").form(Form::Fetch),
        Case::new("tar, WAL named", "-w DIR/pg_wal.tar DIR").form(Form::Tar),
        Case::new("tar, WAL named wrongly", "-w DIR/16 DIR").form(Form::Tar),
        tar("tar, WAL is missing", "DIR", |b| fs::remove_file(b.join("pg_wal.tar")).expect("remove it")),
        tar("tar, WAL is flipped", "DIR", |b| {
            edit(&b.join("pg_wal.tar"), |bytes| bytes[512 + 0x50] ^= 1);
        }),
        Case::damaged("fetch, WAL is flipped", "DIR", |b| {
            edit(&b.join("base.tar"), |bytes| {
                let at = find_member(bytes, "pg_wal/0000000100000000000000");
                bytes[at + 512 + 0x50] ^= 1;
            });
        })
        .form(Form::Fetch),
    ];
    cases.extend(with_wal.into_iter().map(|case| Case { needs_its_tool: true, ..case.since(19) }));
    cases
}

/// Where the header of a member begins whose name begins so.
pub(super) fn find_member(archive: &[u8], name: &str) -> usize {
    (0..archive.len())
        .step_by(512)
        .find(|at| {
            archive[*at..].starts_with(name.as_bytes()) && archive[*at..].get(257..262) == Some(b"ustar")
        })
        .unwrap_or_else(|| panic!("no member {name}"))
}

pub(super) fn without_line(text: &str, pattern: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains(pattern)).collect();
    lines.join("\n") + "\n"
}

fn with_size(text: &str, pattern: &str, size: u64) -> String {
    let line = |line: &str| {
        if !line.contains(pattern) {
            return line.to_owned();
        }
        let (front, rest) = line.split_once("\"Size\": ").expect("a size");
        let (_, rest) = rest.split_once(',').expect("more behind it");
        format!("{front}\"Size\": {size},{rest}")
    };
    text.lines().map(|text| line(text) + "\n").collect()
}
