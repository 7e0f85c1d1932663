//! The picture as text.

use std::time::Duration;

use super::super::grid::{Grid, wrap};
use super::super::human::{bytes, duration, printable};
use super::super::slot::view;
use super::super::table::Column;
use super::hosts::{Endpoint, Sighting};
use super::picture::{HostPicture, Picture, behind};
use super::topology::{Place, in_tree_order};
use crate::inspect::Survey;
use crate::inspect::replication::{BaseBackup, Downstream, missing_synchronous};

/// The longest name of a host or a program that is shown in full.
const MAX_NAME_LEN: usize = 63;

/// The longest reason why a host was not seen.
const MAX_REASON_LEN: usize = 300;

/// The picture as text: what is there, and what is to be said of it.
#[derive(Debug)]
pub(super) struct Shown {
    /// Servers, who receives from them, slots, base backups.
    pub(super) tables: String,
    /// Warnings, then notes.
    pub(super) remarks: String,
}

impl Shown {
    /// Both, below each other.
    pub(super) fn text(&self) -> String {
        let gap = if self.remarks.is_empty() { "" } else { "\n" };
        [&self.tables, gap, &self.remarks].concat()
    }
}

/// The whole picture; no line is longer than `width`, where one is given.
pub(super) fn show(picture: &Picture, width: Option<usize>) -> Shown {
    let places = picture.places();
    let order = in_tree_order(&places);
    let mut text = servers(picture, &places, &order).render(width);
    let sections = [
        ("standbys and receivers", downstreams(picture, &places, &order)),
        ("slots", slots(picture, &places, &order)),
        ("base backups", base_backups(picture, &places)),
    ];
    for (_, grid) in sections.into_iter().filter(|(_, grid)| !grid.is_empty()) {
        text.push('\n');
        text.push_str(&grid.render(width));
    }
    let mut remarks = remarks(picture, &places, &order);
    remarks.sort_by_key(|remark| !remark.starts_with("warning"));
    Shown { tables: text, remarks: remarks.iter().map(|remark| wrap(remark, width)).collect() }
}

/// `host:port`, as far as it can be printed.
pub(super) fn label(endpoint: &Endpoint) -> String {
    let host = printable(endpoint.host(), MAX_NAME_LEN);
    match host.contains(':') {
        true => format!("[{host}]:{}", endpoint.port),
        false => format!("{host}:{}", endpoint.port),
    }
}

fn branch(depth: usize) -> String {
    match depth {
        0 => String::new(),
        depth => format!("{}└ ", "  ".repeat(depth.min(16) - 1)),
    }
}

/// The hosts that answered and are no second way to one, in the order of the tree.
fn seen<'a>(
    picture: &'a Picture,
    places: &'a [Place],
    order: &'a [(usize, usize)],
) -> impl Iterator<Item = (usize, &'a HostPicture, &'a Sighting)> {
    let first = order.iter().filter(|(index, _)| places[*index].same_as.is_none());
    first.filter_map(|(index, _)| {
        let host = &picture.hosts[*index];
        Some((*index, host, host.sighting()?))
    })
}

fn servers(picture: &Picture, places: &[Place], order: &[(usize, usize)]) -> Grid {
    let mut grid = Grid::new(&[
        Column::Text("SERVER"),
        Column::Text("ROLE"),
        Column::Text("VERSION"),
        Column::Number("TIMELINE"),
        Column::Text("LSN"),
        Column::Number("WAL/S"),
        Column::Number("REPLAY DELAY"),
        Column::Text("FOLLOWS"),
        Column::Text("WHY"),
    ]);
    for (index, depth) in order {
        let (host, place) = (&picture.hosts[*index], &places[*index]);
        let name = branch(*depth) + &label(&host.endpoint);
        let sighting = match &host.sample {
            Some(Ok(sighting)) => sighting,
            Some(Err(error)) => {
                let why = printable(&error.reason(), MAX_REASON_LEN);
                grid.row(unseen(name, "no answer", why));
                continue;
            }
            None => {
                grid.row(unseen(name, "…", String::new()));
                continue;
            }
        };
        let server = &sighting.survey.server;
        let role = match (place.same_as, server.in_recovery) {
            (Some(first), _) => format!("same as {}", label(&picture.hosts[first].endpoint)),
            (None, true) => "standby".to_owned(),
            (None, false) => "primary".to_owned(),
        };
        let replay = server.replay.as_ref();
        let paused = replay.is_some_and(|replay| replay.paused);
        let delay = replay.and_then(|replay| replay.delay_seconds).map(span);
        let delay = match (delay, paused) {
            (Some(delay), true) => format!("{delay} (paused)"),
            (None, true) => "paused".to_owned(),
            (delay, false) => delay.unwrap_or_default(),
        };
        grid.row([
            name,
            role,
            sighting.version.to_string(),
            server.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
            server.lsn.map(|lsn| lsn.to_string()).unwrap_or_default(),
            sighting.wal_rate.map(|rate| bytes(rate as u64) + "/s").unwrap_or_default(),
            delay,
            follows(picture, sighting, place),
            String::new(),
        ]);
    }
    grid
}

/// The row of a host that was not seen.
fn unseen(name: String, role: &str, why: String) -> [String; 9] {
    let mut cells: [String; 9] = Default::default();
    (cells[0], cells[1], cells[8]) = (name, role.to_owned(), why);
    cells
}

/// Whom a standby receives from, where the tree does not show it.
fn follows(picture: &Picture, sighting: &Sighting, place: &Place) -> String {
    let survey = &sighting.survey;
    if !survey.server.in_recovery {
        return String::new();
    }
    let status = match &survey.receiver {
        Some(receiver) => receiver.status.as_deref().map(|status| printable(status, 16)),
        None => Some("not connected".to_owned()),
    };
    let connected =
        survey.receiver.as_ref().and_then(|receiver| Some((receiver.host.as_deref()?, receiver.port?)));
    let configured = survey.server.configured_upstream.as_ref().map(|at| (at.host.as_str(), at.port));
    let told = connected.or(configured);
    let told = told.map(|(host, port)| label(&Endpoint { names: vec![host.to_owned()], port }));
    let place = place.upstream.map(|upstream| label(&picture.hosts[upstream].endpoint)).or(told);
    match (place, status) {
        (Some(place), Some(status)) => format!("{place} ({status})"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => String::new(),
    }
}

fn downstreams(picture: &Picture, places: &[Place], order: &[(usize, usize)]) -> Grid {
    let mut grid = Grid::new(&[
        Column::Text("STANDBY OR RECEIVER"),
        Column::Text("STATE"),
        Column::Text("SYNC"),
        Column::Number("BEHIND"),
        Column::Number("LAG"),
        Column::Text("TREND"),
        Column::Text("ADDRESS"),
        Column::Text("SENT"),
        Column::Text("WRITE"),
        Column::Text("FLUSH"),
        Column::Text("REPLAY"),
        Column::Text("WRITE LAG"),
        Column::Text("FLUSH LAG"),
        Column::Text("REPLAY LAG"),
        Column::Text("SERVER"),
    ]);
    // those of a server that is itself shown below another one follow its own row
    for (index, ..) in seen(picture, places, order) {
        let above = places[index].upstream.and_then(|upstream| picture.hosts[upstream].sighting());
        if above.is_none() || places[index].downstream.is_none() {
            push_downstreams(&mut grid, picture, places, index, 0);
        }
    }
    grid
}

fn push_downstreams(grid: &mut Grid, picture: &Picture, places: &[Place], index: usize, depth: usize) {
    let host = &picture.hosts[index];
    // no tree is deeper than there are hosts; a ring has no beginning, and is not entered
    let Some(sighting) = host.sighting().filter(|_| depth <= picture.hosts.len()) else { return };
    let survey = &sighting.survey;
    let several = picture.hosts.len() > 1;
    for (position, row) in survey.downstreams.iter().enumerate() {
        if survey.base_backups.iter().any(|backup| backup.pid == row.pid) {
            continue;
        }
        let lsn = |lsn: Option<crate::pg::Lsn>| lsn.map(|lsn| lsn.to_string()).unwrap_or_default();
        let lag = |lag: Option<f64>| lag.map(span).unwrap_or_default();
        // a receiver applies nothing, and the server counts that as a lag without end
        let replay_lag = row.replay_lag_seconds.filter(|_| row.replay_lsn.is_some());
        let far = behind(row, survey.server.lsn).map(bytes).unwrap_or_default();
        let is_child = |place: &Place| place.upstream == Some(index) && place.downstream == Some(position);
        let child = places.iter().position(is_child);
        let server = child.map(|child| label(&picture.hosts[child].endpoint));
        let trend = host.trends.get(&row.pid).map(super::trend::Trend::sparkline).unwrap_or_default();
        grid.row([
            branch(depth) + &printable(&row.application_name, MAX_NAME_LEN),
            row.state.as_deref().map(|state| printable(state, 16)).unwrap_or_default(),
            sync(row),
            far,
            lag(replay_lag.or(row.flush_lag_seconds).or(row.write_lag_seconds)),
            // one look makes no trend
            if trend.chars().count() > 1 { trend } else { String::new() },
            row.address.as_deref().map(|address| printable(address, MAX_NAME_LEN)).unwrap_or_default(),
            lsn(row.sent_lsn),
            lsn(row.write_lsn),
            lsn(row.flush_lsn),
            lsn(row.replay_lsn),
            lag(row.write_lag_seconds),
            lag(row.flush_lag_seconds),
            lag(replay_lag),
            server.filter(|_| several).unwrap_or_default(),
        ]);
        if let Some(child) = child {
            push_downstreams(grid, picture, places, child, depth + 1);
        }
    }
}

/// `async`, or the state and the turn: `sync 1`.
fn sync(row: &Downstream) -> String {
    let Some(state) = &row.sync_state else { return String::new() };
    let state = printable(state, 16);
    match row.sync_priority {
        Some(priority @ 1..) => format!("{state} {priority}"),
        _ => state,
    }
}

fn slots(picture: &Picture, places: &[Place], order: &[(usize, usize)]) -> Grid {
    let servers: Vec<_> = seen(picture, places, order).collect();
    let with_slots = servers.iter().filter(|(_, _, sighting)| !sighting.survey.slots.is_empty()).count();
    let mut all = view::new_grid();
    for (_, host, sighting) in servers {
        let on = if with_slots > 1 { label(&host.endpoint) } else { String::new() };
        sighting.survey.slots.iter().for_each(|slot| view::push(&mut all, slot, &on));
    }
    all
}

fn base_backups(picture: &Picture, places: &[Place]) -> Grid {
    let mut grid = Grid::new(&[
        Column::Text("BASE BACKUP"),
        Column::Text("PHASE"),
        Column::Number("SENT"),
        Column::Number("OF"),
        Column::Number("DONE"),
        Column::Text("TABLESPACES"),
        Column::Text("ADDRESS"),
        Column::Number("PROCESS"),
        Column::Text("ON"),
    ]);
    for (host, _) in picture.hosts.iter().zip(places).filter(|(_, place)| place.same_as.is_none()) {
        let Some(survey) = host.sighting().map(|seen| &seen.survey) else { continue };
        for backup in &survey.base_backups {
            let row = survey.downstreams.iter().find(|row| row.pid == backup.pid);
            let name = row.map(|row| printable(&row.application_name, MAX_NAME_LEN));
            let address = row.and_then(|row| row.address.as_deref());
            let tablespaces = backup.tablespaces_streamed.zip(backup.tablespaces);
            grid.row([
                name.unwrap_or_default(),
                backup.phase.as_deref().map(|phase| printable(phase, 40)).unwrap_or_default(),
                backup.streamed_bytes.map(bytes).unwrap_or_default(),
                backup.total_bytes.map(bytes).unwrap_or_default(),
                percent(backup),
                tablespaces.map(|(sent, all)| format!("{sent} of {all}")).unwrap_or_default(),
                address.map(|address| printable(address, MAX_NAME_LEN)).unwrap_or_default(),
                backup.pid.to_string(),
                if picture.hosts.len() > 1 { label(&host.endpoint) } else { String::new() },
            ]);
        }
    }
    grid
}

fn percent(backup: &BaseBackup) -> String {
    let part = backup.streamed_bytes.zip(backup.total_bytes).filter(|(_, total)| *total > 0);
    // the total is an estimate, and the cluster grows
    let part = part.map(|(sent, total)| (u128::from(sent) * 100 / u128::from(total)).min(100));
    part.map(|percent| format!("{percent} %")).unwrap_or_default()
}

/// Warnings, and what was not seen and why.
fn remarks(picture: &Picture, places: &[Place], order: &[(usize, usize)]) -> Vec<String> {
    let mut remarks = Vec::new();
    let several = picture.hosts.len() > 1;
    for (_, host, sighting) in seen(picture, places, order) {
        let on = if several { format!("{}: ", label(&host.endpoint)) } else { String::new() };
        let (survey, server) = (&sighting.survey, &sighting.survey.server);
        if let Some(warning) = commits_wait(survey) {
            remarks.push(format!("warning: {on}{warning}"));
        }
        let warnings = survey.slots.iter().filter_map(|slot| view::warning(slot, server));
        remarks.extend(warnings.map(|warning| format!("warning: {on}{warning}")));
        if survey.downstreams.is_empty() && !server.in_recovery {
            remarks.push(format!("note: {on}no standby and no receiver is connected"));
        }
        if let Some(hidden) = hidden(sighting) {
            remarks.push(format!("note: {on}{hidden}"));
        }
    }
    remarks
}

/// That commits wait for synchronous standbys that are not there.
fn commits_wait(survey: &Survey) -> Option<String> {
    let missing = missing_here(survey).filter(|missing| *missing > 0)?;
    let names = printable(&survey.server.synchronous_standby_names, MAX_REASON_LEN);
    Some(format!(
        "commits wait: synchronous_standby_names is \"{names}\", and {missing} of those are not there that have to be. Start \
         them, or change it: ALTER SYSTEM SET synchronous_standby_names = '...'; SELECT pg_reload_conf();"
    ))
}

/// How many synchronous standbys are missing on a primary.
pub(super) fn missing_here(survey: &Survey) -> Option<u32> {
    let server = &survey.server;
    (!server.in_recovery)
        .then(|| missing_synchronous(&server.synchronous_standby_names, &survey.downstreams))
        .flatten()
}

/// What the role may not see of this server.
pub(super) fn hidden(sighting: &Sighting) -> Option<String> {
    let server = &sighting.survey.server;
    let what = match server.in_recovery {
        true => "addresses, states, positions and lags, nor whom this standby follows",
        false => "addresses, states, positions and lags of standbys, receivers and base backups",
    };
    (!server.sees_all_statistics).then(|| view::may_not_see(server, what))
}

fn span(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map(duration).unwrap_or_default()
}

#[cfg(test)]
mod tests;
