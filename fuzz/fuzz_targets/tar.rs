#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::backup::fuzzing::fuzz_tar;

fuzz_target!(|data: &[u8]| fuzz_tar(data));
