#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::archive::fuzzing::fuzz_encrypted_object;

fuzz_target!(|data: &[u8]| fuzz_encrypted_object(data));
