#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::stream::fuzzing::fuzz_receiver;

fuzz_target!(|data: &[u8]| fuzz_receiver(data));
