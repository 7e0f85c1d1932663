#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::backup::fuzzing::fuzz_manifest;

fuzz_target!(|data: &[u8]| fuzz_manifest(data));
