#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::backup::fuzzing::fuzz_archive_stream;

fuzz_target!(|data: &[u8]| fuzz_archive_stream(data));
