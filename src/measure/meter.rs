//! What came in a span of time, and what it cost at both ends.

use std::time::{Duration, Instant};

use super::cpu::{HiddenCpu, ProcessClock};
use crate::client::Backend;

/// What came in a span of time, and what it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// How long it was.
    pub elapsed: Duration,
    /// The bytes that came, without what the protocol puts around them.
    pub bytes: u64,
    /// The messages that brought them.
    pub messages: u64,
    /// How long this process was busy, to a hundredth of a second.
    pub client_cpu: Option<Duration>,
    /// How long the server's process was busy; `None` where that is not seen.
    pub server_cpu: Option<Duration>,
}

impl Span {
    /// A count by the second; `None` when no time passed.
    pub fn per_second(&self, count: u64) -> Option<f64> {
        let seconds = self.elapsed.as_secs_f64();
        (seconds > 0.0).then(|| count as f64 / seconds)
    }
}

/// Measures spans that follow one another.
#[derive(Debug)]
pub(super) struct Meter {
    client: Option<ProcessClock>,
    server: Result<ProcessClock, HiddenCpu>,
    began: Instant,
    client_began: Option<Duration>,
    server_began: Option<Duration>,
    bytes: u64,
    messages: u64,
}

impl Meter {
    pub(super) fn start(backend: Backend) -> Self {
        let mut meter = Meter {
            client: ProcessClock::own(),
            server: ProcessClock::of_backend(backend),
            began: Instant::now(),
            client_began: None,
            server_began: None,
            bytes: 0,
            messages: 0,
        };
        let _ = meter.lap();
        meter
    }

    /// Why the server's part is not seen.
    pub(super) fn hidden_cpu(&self) -> Option<HiddenCpu> {
        self.server.as_ref().err().copied()
    }

    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.messages += 1;
    }

    /// The bytes since the last span ended.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends a span; the next one begins.
    pub(super) fn lap(&mut self) -> Span {
        let client = self.client.as_ref().and_then(ProcessClock::busy);
        let server = self.server.as_ref().ok().and_then(ProcessClock::busy);
        let spent = |now: Option<Duration>, began: Option<Duration>| Some(now?.saturating_sub(began?));
        let now = Instant::now();
        let span = Span {
            elapsed: now - self.began,
            bytes: std::mem::take(&mut self.bytes),
            messages: std::mem::take(&mut self.messages),
            client_cpu: spent(client, self.client_began),
            server_cpu: spent(server, self.server_began),
        };
        (self.began, self.client_began, self.server_began) = (now, client, server);
        span
    }
}
