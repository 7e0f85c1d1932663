#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::pg::fuzzing::fuzz_control_file;

fuzz_target!(|data: &[u8]| fuzz_control_file(data));
