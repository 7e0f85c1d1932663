#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::backup::fuzzing::fuzz_tablespace_map;

fuzz_target!(|data: &[u8]| fuzz_tablespace_map(data));
