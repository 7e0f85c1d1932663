#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::client::fuzzing::fuzz_certificate;

fuzz_target!(|data: &[u8]| fuzz_certificate(data));
