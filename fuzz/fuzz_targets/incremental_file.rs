#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::backup::fuzzing::fuzz_incremental_file;

fuzz_target!(|data: &[u8]| fuzz_incremental_file(data));
