#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::backup::fuzzing::fuzz_chain_label;

fuzz_target!(|data: &[u8]| fuzz_chain_label(data));
