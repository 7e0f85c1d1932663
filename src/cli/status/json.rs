//! The picture for programs. What is in it is described in the command's help, and only ever added to.

use serde::Serialize;

use super::super::slot::SlotWithWarning;
use super::picture::{HostPicture, Picture, behind};
use super::screen::{hidden, missing_here};
use super::topology::Place;
use crate::inspect::Survey;
use crate::inspect::replication::{BaseBackup, Downstream, WalReceiver};
use crate::inspect::server::ServerState;

/// All hosts.
#[derive(Debug, Serialize)]
pub(super) struct PictureJson<'a> {
    servers: Vec<HostJson<'a>>,
}

#[derive(Debug, Serialize)]
struct HostJson<'a> {
    host: &'a str,
    port: u16,
    error: Option<String>,
    same_as: Option<usize>,
    upstream_server: Option<usize>,
    version: Option<String>,
    wal_bytes_per_second: Option<u64>,
    may_not_see: Option<String>,
    synchronous_standbys_missing: Option<u32>,
    #[serde(flatten)]
    server: Option<&'a ServerState>,
    receiver: Option<&'a WalReceiver>,
    downstreams: Vec<DownstreamJson<'a>>,
    slots: Vec<SlotWithWarning<'a>>,
    base_backups: &'a [BaseBackup],
}

#[derive(Debug, Serialize)]
struct DownstreamJson<'a> {
    #[serde(flatten)]
    row: &'a Downstream,
    behind_bytes: Option<u64>,
    server: Option<usize>,
}

impl<'a> PictureJson<'a> {
    pub(super) fn new(picture: &'a Picture) -> Self {
        let places = picture.places();
        let hosts = picture.hosts.iter().enumerate();
        PictureJson { servers: hosts.map(|(index, host)| host_json(index, host, &places)).collect() }
    }
}

fn host_json<'a>(index: usize, host: &'a HostPicture, places: &[Place]) -> HostJson<'a> {
    let sighting = host.sighting();
    let survey = sighting.map(|seen| &seen.survey);
    let place = &places[index];
    HostJson {
        host: host.endpoint.host(),
        port: host.endpoint.port,
        error: match &host.sample {
            Some(Err(error)) => Some(error.reason()),
            Some(Ok(_)) => None,
            None => Some("not looked at yet".to_owned()),
        },
        same_as: place.same_as,
        upstream_server: place.upstream,
        version: sighting.map(|seen| seen.version.to_string()),
        wal_bytes_per_second: sighting.and_then(|seen| seen.wal_rate).map(|rate| rate as u64),
        may_not_see: sighting.and_then(hidden),
        synchronous_standbys_missing: survey.and_then(missing_here),
        server: survey.map(|survey| &survey.server),
        receiver: survey.and_then(|survey| survey.receiver.as_ref()),
        downstreams: survey.map(|survey| downstreams(survey, index, places)).unwrap_or_default(),
        slots: survey.map(slots).unwrap_or_default(),
        base_backups: survey.map(|survey| &survey.base_backups[..]).unwrap_or_default(),
    }
}

fn downstreams<'a>(survey: &'a Survey, index: usize, places: &[Place]) -> Vec<DownstreamJson<'a>> {
    let json = |(position, row)| {
        let is_child = |place: &Place| place.upstream == Some(index) && place.downstream == Some(position);
        let server = places.iter().position(is_child);
        DownstreamJson { row, behind_bytes: behind(row, survey.server.lsn), server }
    };
    survey.downstreams.iter().enumerate().map(json).collect()
}

fn slots(survey: &Survey) -> Vec<SlotWithWarning<'_>> {
    survey.slots.iter().map(|slot| SlotWithWarning::new(slot, &survey.server)).collect()
}
