//! The integration tests: one binary, a module for each promise. `support` has what they stand on.

mod benching;
mod checking;
mod cloning;
mod command_line;
mod configuring;
mod connecting;
mod documented_json;
mod failover;
mod guide;
mod hostile_server;
mod metering;
mod one_server;
mod pg_basebackup;
mod pg_combinebackup;
mod pg_receivewal;
mod pg_verifybackup;
mod receiving;
mod refusals;
mod slot_command;
mod speaking;
mod support;
mod support_selftest;
mod troubles;
mod wal_verify;
mod watching;
mod whole_or_nothing;
