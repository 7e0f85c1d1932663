#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::client::fuzzing::fuzz_configuration_files;

fuzz_target!(|data: &[u8]| fuzz_configuration_files(data));
