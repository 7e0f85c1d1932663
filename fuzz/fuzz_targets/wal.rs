#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::pg::fuzzing::fuzz_wal;

fuzz_target!(|data: &[u8]| fuzz_wal(data));
