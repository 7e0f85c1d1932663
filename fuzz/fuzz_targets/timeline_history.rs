#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::pg::fuzzing::fuzz_timeline_history;

fuzz_target!(|data: &[u8]| fuzz_timeline_history(data));
