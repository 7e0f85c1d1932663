#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::wire::fuzzing::fuzz_authentication;

fuzz_target!(|data: &[u8]| fuzz_authentication(data));
