#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::wire::fuzzing::fuzz_replication_message;

fuzz_target!(|data: &[u8]| fuzz_replication_message(data));
