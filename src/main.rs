//! The `pgwake` program.

fn main() {}
