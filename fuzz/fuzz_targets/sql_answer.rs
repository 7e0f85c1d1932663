#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwake::client::sql::fuzzing::fuzz_sql_answer;

fuzz_target!(|data: &[u8]| fuzz_sql_answer(data));
