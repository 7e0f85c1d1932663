//! What the integration tests stand on: throw-away servers, a proxy that misbehaves, programs run in a clean
//! environment, disks that fill up.
//!
//! Nothing outlives a test, not even one that was killed: see [`dir::TestDir`].

#![allow(dead_code, unused_imports, reason = "each test binary uses a part")]

pub(crate) mod calls;
pub(crate) mod cluster;
pub(crate) mod dir;
pub(crate) mod faults;
pub(crate) mod google_front;
pub(crate) mod http;
pub(crate) mod object_store;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod rewriting;
pub(crate) mod scripted;
pub(crate) mod servers;
pub(crate) mod store_proxy;
mod template;
pub(crate) mod tls;
pub(crate) mod tool;

pub(crate) use cluster::{Builder, Cluster, Stop};
pub(crate) use dir::TestDir;
pub(crate) use proxy::{Direction, Ending, Proxy};
pub(crate) use servers::Port;
pub(crate) use tls::{Authority, Credentials};
pub(crate) use tool::{Outcome, Running, Tool, tree};

use std::time::{Duration, Instant};

/// How long anything in a test may take before it counts as broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again, every 10 ms, until the answer is yes. Panics after [`PATIENCE`].
#[track_caller]
pub(crate) fn wait_until(what: &str, mut question: impl FnMut() -> bool) {
    let start = Instant::now();
    while !question() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
