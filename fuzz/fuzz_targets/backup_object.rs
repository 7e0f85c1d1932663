#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::repository::fuzzing::fuzz_backup_object;

fuzz_target!(|data: &[u8]| fuzz_backup_object(data));
