#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::wire::fuzzing::fuzz_backend;

fuzz_target!(|data: &[u8]| fuzz_backend(data));
