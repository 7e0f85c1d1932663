//! Which of the servers that were asked follows which other, as far as what they say fits together.
//!
//! A standby names the server that it receives from, and the slot and the name it has there. The host may be spelt in
//! another way than ours, so that these are tried one after the other, and nothing is guessed: only servers of one cluster
//! (system identifier) are matched, and only where exactly one fits.

use super::hosts::Endpoint;
use crate::inspect::Survey;
use crate::inspect::replication::Downstream;

/// A server's place among those that were asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// The server that it receives from.
    pub(super) upstream: Option<usize>,
    /// Which of that server's downstreams it is.
    pub(super) downstream: Option<usize>,
    /// An earlier host that leads to the same server.
    pub(super) same_as: Option<usize>,
}

/// Finds each server's place. `None` stands for one that did not answer.
pub(super) fn places(servers: &[(&Endpoint, Option<&Survey>)]) -> Vec<Place> {
    let mut places = vec![Place::default(); servers.len()];
    for index in 0..servers.len() {
        let Some(survey) = servers[index].1 else { continue };
        let earlier = |other: &usize| servers[*other].1.is_some_and(|other| is_same(other, survey));
        places[index].same_as = (0..index).find(earlier);
    }
    for index in 0..servers.len() {
        let Some(survey) = servers[index].1.filter(|_| places[index].same_as.is_none()) else { continue };
        if !survey.server.in_recovery {
            continue;
        }
        let others: Vec<usize> = (0..servers.len())
            .filter(|&other| other != index && places[other].same_as.is_none())
            .filter(|&other| servers[other].1.is_some_and(|other| is_one_cluster(other, survey)))
            .collect();
        let hosts: Vec<usize> = (0..servers.len()).filter(|host| *host != index).collect();
        let Some(upstream) = upstream(survey, servers, &others, &hosts, &places) else { continue };
        let row = servers[upstream].1.and_then(|upstream| row_of(survey, upstream));
        let is_taken = |row: &usize| {
            places.iter().any(|place| place.upstream == Some(upstream) && place.downstream == Some(*row))
        };
        let row = row.filter(|row| !is_taken(row));
        places[index].upstream = Some(upstream);
        places[index].downstream = row;
    }
    places
}

/// The servers in the order of a tree, each with its depth; one that leads nowhere (a ring, which only servers that say
/// what is not so can make) stands at the end.
pub(super) fn in_tree_order(places: &[Place]) -> Vec<(usize, usize)> {
    let mut order = Vec::new();
    let mut seen = vec![false; places.len()];
    let roots = (0..places.len()).filter(|index| places[*index].upstream.is_none());
    for root in roots.chain(0..places.len()) {
        let mut open = vec![(root, 0)];
        while let Some((index, depth)) = open.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            order.push((index, depth));
            let below = (0..places.len()).rev().filter(|below| places[*below].upstream == Some(index));
            open.extend(below.map(|below| (below, depth + 1)));
        }
    }
    order
}

fn is_same(one: &Survey, other: &Survey) -> bool {
    one.server.system_identifier.is_some()
        && one.server.system_identifier == other.server.system_identifier
        && one.server.started_at.is_some()
        && one.server.started_at == other.server.started_at
        && one.server.in_recovery == other.server.in_recovery
}

fn is_one_cluster(one: &Survey, other: &Survey) -> bool {
    one.server.system_identifier.is_some() && one.server.system_identifier == other.server.system_identifier
}

fn upstream(
    standby: &Survey,
    servers: &[(&Endpoint, Option<&Survey>)],
    others: &[usize],
    hosts: &[usize],
    places: &[Place],
) -> Option<usize> {
    let receiver = standby.receiver.as_ref();
    let connected = receiver.and_then(|receiver| Some((receiver.host.clone()?, receiver.port?)));
    let configured = || standby.server.configured_upstream.as_ref().map(|at| (at.host.clone(), at.port));
    let at = connected.or_else(configured);
    let is_there = |index: &usize| {
        let endpoint = servers[*index].0;
        at.as_ref().is_some_and(|(host, port)| endpoint.port == *port && endpoint.names.contains(host))
    };
    // a host that is down is an upstream too, and so is one that another host's name leads to
    let by_place = only(hosts.iter().copied().filter(is_there));
    if let Some(found) = by_place {
        return Some(places[found].same_as.unwrap_or(found))
            .filter(|found| servers[*found].1.is_none_or(|survey| is_one_cluster(survey, standby)));
    }
    let slot = receiver.and_then(|receiver| receiver.slot.as_deref());
    let has_slot = |index: &usize| {
        let slots = servers[*index].1.map(|survey| &survey.slots[..]).unwrap_or_default();
        slots.iter().any(|found| found.active && Some(found.name.as_str()) == slot)
    };
    let has_name = |index: &usize| {
        let name = receiver.and_then(|receiver| receiver.application_name.as_deref());
        // what every standby is called that nobody has named
        let own = name.filter(|name| *name != "walreceiver");
        let rows = servers[*index].1.map(|survey| &survey.downstreams[..]).unwrap_or_default();
        own.is_some_and(|name| rows.iter().any(|row| row.application_name == name))
    };
    let port = at.as_ref().map(|(_, port)| *port);
    let has_port = |index: &usize| Some(servers[*index].0.port) == port;
    only(others.iter().copied().filter(has_slot))
        .or_else(|| only(others.iter().copied().filter(|index| has_slot(index) && has_port(index))))
        .or_else(|| only(others.iter().copied().filter(|index| has_port(index) && has_name(index))))
}

/// Which of an upstream's downstreams a standby is: the one that uses its slot, or the only one of its name.
fn row_of(standby: &Survey, upstream: &Survey) -> Option<usize> {
    let receiver = standby.receiver.as_ref()?;
    let slot = receiver.slot.as_deref();
    let pid = upstream.slots.iter().find(|found| Some(found.name.as_str()) == slot);
    let pid = pid.and_then(|slot| slot.used_by.as_ref()).map(|user| user.pid);
    let rows = || upstream.downstreams.iter().enumerate();
    let by_slot = rows().find(|(_, row)| Some(row.pid) == pid);
    let is_named = |row: &Downstream| receiver.application_name.as_ref() == Some(&row.application_name);
    by_slot
        .map(|(index, _)| index)
        .or_else(|| only(rows().filter(|(_, row)| is_named(row)).map(|(index, _)| index)))
}

/// The one, if there is exactly one.
fn only(mut candidates: impl Iterator<Item = usize>) -> Option<usize> {
    candidates.next().filter(|_| candidates.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{endpoint, primary, standby_of};
    use super::*;

    fn placed(servers: &[(Endpoint, Option<Survey>)]) -> Vec<Place> {
        let servers: Vec<_> = servers.iter().map(|(endpoint, survey)| (endpoint, survey.as_ref())).collect();
        places(&servers)
    }

    #[test]
    fn a_cascade_is_a_tree() {
        let servers = [
            (endpoint("db3", 1), Some(standby_of("db2", 1, "standby2"))),
            (endpoint("db1", 1), Some(primary(&["standby1", "pgwake"]))),
            (endpoint("db2", 1), Some(standby_of("db1", 1, "standby1"))),
        ];
        let found = placed(&servers);
        assert_eq!(found[0].upstream, Some(2));
        assert_eq!(found[2], Place { upstream: Some(1), downstream: Some(0), same_as: None });
        assert_eq!(in_tree_order(&found), [(1, 0), (2, 1), (0, 2)]);
    }

    #[test]
    fn another_spelling_is_matched_by_what_else_is_known() {
        let mut follower = standby_of("10.0.0.1", 1, "standby1");
        let servers = |follower: &Survey| {
            [(endpoint("db1", 1), Some(primary(&["standby1"]))), (endpoint("db2", 2), Some(follower.clone()))]
        };
        assert_eq!(placed(&servers(&follower))[1].upstream, Some(0));
        // a name that says nothing: it may follow a server that was not asked
        let mut nameless = standby_of("10.0.0.1", 1, "walreceiver");
        assert_eq!(placed(&servers(&nameless))[1].upstream, None);
        nameless.receiver = None;
        assert_eq!(placed(&servers(&nameless))[1].upstream, None);
        // another port, and nothing else known: not guessed
        follower.receiver.as_mut().unwrap().port = Some(77);
        assert_eq!(placed(&servers(&follower))[1].upstream, None);
        follower.receiver.as_mut().unwrap().slot = Some("standby1_slot".to_owned());
        assert_eq!(placed(&servers(&follower))[1].upstream, Some(0));
    }

    #[test]
    fn another_cluster_is_never_an_upstream() {
        let mut follower = standby_of("db1", 1, "standby1");
        follower.server.system_identifier = Some(crate::pg::SystemIdentifier::new(99));
        let servers =
            [(endpoint("db1", 1), Some(primary(&["standby1"]))), (endpoint("db2", 1), Some(follower))];
        assert_eq!(placed(&servers)[1].upstream, None);
    }

    #[test]
    fn an_upstream_that_is_down_keeps_its_place() {
        let servers =
            [(endpoint("db1", 1), None), (endpoint("db2", 1), Some(standby_of("db1", 1, "standby1")))];
        let found = placed(&servers);
        assert_eq!((found[1].upstream, found[1].downstream), (Some(0), None));
    }

    #[test]
    fn two_ways_to_one_server_are_one() {
        let servers = [
            (endpoint("db1", 1), Some(primary(&[]))),
            (endpoint("alias", 1), Some(primary(&[]))),
            (endpoint("db2", 1), Some(standby_of("alias", 1, "standby1"))),
        ];
        let found = placed(&servers);
        assert_eq!(found[1].same_as, Some(0));
        assert_eq!(found[2].upstream, Some(0));
    }

    #[test]
    fn no_two_servers_are_the_same_downstream() {
        let servers = [
            (endpoint("db1", 1), Some(primary(&["twin"]))),
            (endpoint("db2", 1), Some(standby_of("db1", 1, "twin"))),
            (
                endpoint("db3", 1),
                Some({
                    let mut second = standby_of("db1", 1, "twin");
                    second.server.started_at = Some("later".to_owned());
                    second
                }),
            ),
        ];
        let found = placed(&servers);
        assert_eq!((found[1].downstream, found[2].downstream), (Some(0), None));
        assert_eq!(found[2].upstream, Some(0));
    }

    #[test]
    fn a_ring_is_shown_and_ends() {
        let servers = [
            (endpoint("a", 1), Some(standby_of("b", 1, "x"))),
            (endpoint("b", 1), Some(standby_of("a", 1, "y"))),
        ];
        assert_eq!(in_tree_order(&placed(&servers)), [(0, 0), (1, 1)]);
    }
}
