//! All hosts as they were last seen.

use std::collections::BTreeMap;

use super::hosts::{Endpoint, Sample, Sighting};
use super::topology::{Place, places};
use super::trend::Trend;
use crate::inspect::replication::Downstream;
use crate::pg::Lsn;

/// All hosts, in the order in which they were written.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) hosts: Vec<HostPicture>,
}

/// A host as it was last seen.
#[derive(Debug)]
pub(super) struct HostPicture {
    pub(super) endpoint: Endpoint,
    /// `None` before the first look has ended.
    pub(super) sample: Option<Sample>,
    /// By the process that sends to it.
    pub(super) trends: BTreeMap<i32, Trend>,
}

impl Picture {
    pub(super) fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let host = |endpoint| HostPicture { endpoint, sample: None, trends: BTreeMap::new() };
        Picture { hosts: endpoints.into_iter().map(host).collect() }
    }

    /// Takes a look into the picture.
    pub(super) fn add(&mut self, index: usize, sample: Sample) {
        let Some(host) = self.hosts.get_mut(index) else { return };
        let mut trends = BTreeMap::new();
        if let Ok(sighting) = &sample {
            for row in &sighting.survey.downstreams {
                let mut trend = host.trends.remove(&row.pid).unwrap_or_default();
                if let Some(behind) = behind(row, sighting.survey.server.lsn) {
                    trend.push(behind);
                }
                trends.insert(row.pid, trend);
            }
        }
        host.trends = trends;
        host.sample = Some(sample);
    }

    /// Whether every host was looked at, whatever came of it.
    pub(super) fn is_complete(&self) -> bool {
        self.hosts.iter().all(|host| host.sample.is_some())
    }

    pub(super) fn places(&self) -> Vec<Place> {
        let servers =
            self.hosts.iter().map(|host| (&host.endpoint, host.sighting().map(|seen| &seen.survey)));
        places(&servers.collect::<Vec<_>>())
    }
}

impl HostPicture {
    pub(super) fn sighting(&self) -> Option<&Sighting> {
        self.sample.as_ref()?.as_ref().ok()
    }
}

/// How many bytes of WAL a downstream has not applied, or not made durable where it applies nothing.
pub(super) fn behind(row: &Downstream, lsn: Option<Lsn>) -> Option<u64> {
    Some(lsn?.saturating_since(row.done_lsn()?))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{endpoint, primary};
    use super::super::hosts::HostError;
    use super::*;
    use crate::pg::ServerVersion;

    #[test]
    fn trends_follow_the_process_and_end_with_it() {
        let mut picture = Picture::new([endpoint("db1", 1)]);
        assert!(!picture.is_complete());
        let seen = |survey| Ok(Sighting { version: ServerVersion::new(15, 1), survey, wal_rate: None });
        picture.add(0, seen(primary(&["a", "b"])));
        picture.add(0, seen(primary(&["a"])));
        let trends = &picture.hosts[0].trends;
        assert_eq!(trends.keys().copied().collect::<Vec<_>>(), [100]);
        assert_eq!(trends[&100].sparkline(), "██");
        picture.add(0, Err(HostError::BrokenOff));
        assert!(picture.is_complete() && picture.hosts[0].trends.is_empty());
    }
}
