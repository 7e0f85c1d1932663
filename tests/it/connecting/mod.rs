//! Connecting as libpq does: the same string through the real `psql` and through pgwake has the same outcome.

mod authentication;
mod certificates;
mod harness;
mod hostile;
mod hosts;
mod tls;
