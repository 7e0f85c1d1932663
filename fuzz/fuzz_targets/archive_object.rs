#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::archive::fuzzing::fuzz_archive_object;

fuzz_target!(|data: &[u8]| fuzz_archive_object(data));
