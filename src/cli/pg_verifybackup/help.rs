//! `pg_verifybackup --help`: the original's, but for where to report bugs.

pub(super) const HELP: &str = "\
pg_verifybackup verifies a backup against the backup manifest.

Usage:
  pg_verifybackup [OPTION]... BACKUPDIR

Options:
  -e, --exit-on-error         exit immediately on error
  -F, --format=p|t            backup format (plain, tar)
  -i, --ignore=RELATIVE_PATH  ignore indicated path
  -m, --manifest-path=PATH    use specified path for manifest
  -n, --no-parse-wal          do not try to parse WAL files
  -P, --progress              show progress information
  -q, --quiet                 do not print any output, except for errors
  -s, --skip-checksums        skip checksum verification
  -w, --wal-path=PATH         use specified path for WAL files
      --wal-directory=PATH    (same as --wal-path, deprecated)
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

This is pgwake under the name of PostgreSQL's tool; see pgwake --help.
PostgreSQL home page: <https://www.postgresql.org/>
";
