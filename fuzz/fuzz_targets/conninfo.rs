#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::client::fuzzing::fuzz_conninfo;

fuzz_target!(|data: &[u8]| fuzz_conninfo(data));
