//! The mesh on one screen.

mod screen;

use std::collections::BTreeMap;

use serde::Serialize;
use spanwire_cluster::observed::Observed;
use spanwire_crds::{Location, LocationStatus, Peer};
use spanwire_topology::{LeaderRole, Location as InMesh, Mesh, NodeName};

pub use self::screen::Size;

use crate::{
    figures::{Figures, TunnelFigures},
    findings::{Answers, Finding, findings, said},
    objects::{Kind, Objects},
    table::{few, table},
};

/// The mesh as it is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The decision that is published.
    pub generation: u64,
    /// The locations.
    pub locations: Vec<LocationRow>,
    /// From each location to each other one, by each of its active leaders: by location, and then by leader as published.
    pub links: Vec<LinkRow>,
    /// The Peers.
    pub peers: Vec<PeerRow>,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
}

/// A location.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocationRow {
    /// Its name.
    pub name: String,
    /// The active leaders.
    pub leaders: Vec<String>,
    /// The standby leaders.
    pub standby: Vec<String>,
    /// How many nodes it has.
    pub nodes: usize,
    /// With how many of the other locations its traffic is in the tunnel or nowhere.
    pub established: usize,
    /// How many other locations there are.
    pub others: usize,
    /// Where its first active leader is reached from outside.
    pub endpoint: Option<String>,
    /// The status of its condition Ready.
    pub ready: String,
}

/// The way from one location to another, as an active leader of it measures it. What is not known is left out.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkRow {
    /// From this location.
    pub from: String,
    /// To this one.
    pub to: String,
    /// The leader that measures.
    pub leader: String,
    /// The leader over there that is in use.
    pub far_leader: Option<String>,
    /// Whether a leader of it answers in the tunnel.
    pub up: Option<bool>,
    /// How many seconds ago the last handshake was.
    pub handshake_seconds: Option<u64>,
    /// The round-trip time in milliseconds.
    pub rtt_milliseconds: Option<f64>,
    /// The share of requests that were not answered in time.
    pub loss: Option<f64>,
    /// Bytes received from the leader in use.
    pub received: Option<u64>,
    /// Bytes sent to it.
    pub sent: Option<u64>,
    /// Bytes a second received, since the last look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receiving: Option<u64>,
    /// Bytes a second sent, since the last look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sending: Option<u64>,
    /// Leaders that were given up for another.
    pub failovers: Option<u64>,
}

/// A Peer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerRow {
    /// Its name.
    pub name: String,
    /// Through this location the locations without an attachment reach it.
    pub home: Option<String>,
    /// The status of its condition Ready.
    pub ready: String,
}

/// Returns the state of the mesh. `selected` are the locations that are shown; `None`: all.
#[must_use]
pub fn report(objects: &Objects, answers: &Answers, selected: Option<&[String]>) -> Report {
    let mesh = objects.published();
    let shown = |name: &str| selected.is_none_or(|names| names.iter().any(|selected| selected == name));
    let locations: Vec<Observed<Location>> = objects.observed(Kind::Location);
    let peers: Vec<Observed<Peer>> = objects.observed(Kind::Peer);
    let of_objects = locations.iter().map(|location| {
        let status = location.object.as_ref().and_then(|object| object.status.clone());
        (location.name().to_owned(), status.unwrap_or_default())
    });
    // What is published is there, too, where Locations may not be listed.
    let mut rows: BTreeMap<String, LocationStatus> = mesh
        .locations
        .keys()
        .map(|name| (name.to_string(), LocationStatus::default()))
        .collect();
    rows.extend(of_objects);
    let rows = rows.iter().filter(|(name, _)| shown(name));
    let peers = peers.iter().map(|peer| {
        let status = peer.object.as_ref().and_then(|peer| peer.status.as_ref());
        PeerRow {
            name: peer.name().to_owned(),
            home: status.and_then(|status| status.accepted.as_ref()?.home.clone()),
            ready: ready(status.map_or(&[], |status| &status.conditions)),
        }
    });
    Report {
        generation: mesh.generation.0,
        locations: rows
            .map(|(name, status)| location_row(name, status, &mesh))
            .collect(),
        links: links(&mesh, answers)
            .into_iter()
            .filter(|link| shown(&link.from))
            .collect(),
        peers: peers.collect(),
        findings: findings(objects, answers),
    }
}

fn ready(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> String {
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    ready.map_or_else(|| "Unknown".to_owned(), |ready| ready.status.clone())
}

fn location_row(name: &str, status: &LocationStatus, mesh: &Mesh) -> LocationRow {
    let decided = mesh.locations.iter().find(|(known, _)| known.as_str() == name);
    let leaders = |role| {
        let all = decided.iter().flat_map(|(_, location)| &location.leaders);
        let of_role = all.filter(|leader| leader.role == role);
        of_role.map(|leader| leader.node.to_string()).collect()
    };
    LocationRow {
        name: name.to_owned(),
        leaders: leaders(LeaderRole::Active),
        standby: leaders(LeaderRole::Standby),
        nodes: decided.map_or(0, |(_, location)| location.members.len()),
        established: decided.map_or(0, |(name, location)| {
            location.established.iter().filter(|other| *other != name).count()
        }),
        others: mesh.locations.len().saturating_sub(1),
        endpoint: status.endpoint.clone(),
        ready: ready(&status.conditions),
    }
}

/// Returns the first active leader of each location.
#[must_use]
pub fn first_leaders(mesh: &Mesh) -> Vec<String> {
    let firsts = mesh
        .locations
        .values()
        .filter_map(|location| location.active().next());
    firsts.map(ToString::to_string).collect()
}

/// Returns all active leaders.
#[must_use]
pub fn active_leaders(mesh: &Mesh) -> Vec<String> {
    let all = mesh.locations.values().flat_map(InMesh::active);
    all.map(ToString::to_string).collect()
}

fn links(mesh: &Mesh, answers: &Answers) -> Vec<LinkRow> {
    let mut rows = Vec::new();
    let figures = |leader: &NodeName| answers.get(leader.as_str())?.as_ref().ok();
    for (from, location) in &mesh.locations {
        let leaders: Vec<_> = location
            .active()
            .map(|leader| (leader, figures(leader)))
            .collect();
        for (to, far) in mesh
            .locations
            .iter()
            .filter(|(to, far)| *to != from && !far.leaders.is_empty())
        {
            let order: Vec<String> = far.leaders.iter().map(|leader| leader.node.to_string()).collect();
            let by = |(leader, figures): &(&NodeName, Option<&Figures>)| {
                link(from.as_str(), to.as_str(), leader.as_str(), *figures, &order)
            };
            rows.extend(leaders.iter().map(by));
        }
    }
    rows
}

fn link(from: &str, to: &str, leader: &str, figures: Option<&Figures>, order: &[String]) -> LinkRow {
    let measured = figures
        .and_then(|figures| figures.links.get(to))
        .copied()
        .unwrap_or_default();
    let tunnel: Option<&TunnelFigures> = figures.and_then(|figures| figures.tunnel_in_use(to, order));
    LinkRow {
        from: from.to_owned(),
        to: to.to_owned(),
        leader: leader.to_owned(),
        far_leader: tunnel.map(|tunnel| tunnel.leader.clone()),
        up: measured.up,
        handshake_seconds: tunnel.and_then(|tunnel| tunnel.handshake),
        rtt_milliseconds: measured.rtt.map(|seconds| seconds * 1000.0),
        loss: measured.loss,
        received: tunnel.map(|tunnel| tunnel.received),
        sent: tunnel.map(|tunnel| tunnel.sent),
        receiving: None,
        sending: None,
        // The counter begins with the first.
        failovers: figures.map(|_| measured.failovers.unwrap_or_default()),
    }
}

impl Report {
    /// Leaves of the links from one location to another the one that its first active leader measures.
    pub fn keep_first_leaders(&mut self) {
        self.links
            .dedup_by(|row, first| (&row.from, &row.to) == (&first.from, &first.to));
    }

    /// Enters how much went over each link since the report before, so many seconds ago.
    pub fn compare(&mut self, before: &Self, seconds: f64) {
        for link in &mut self.links {
            let same = |old: &&LinkRow| {
                (&old.from, &old.to, &old.leader, &old.far_leader)
                    == (&link.from, &link.to, &link.leader, &link.far_leader)
            };
            let Some(old) = before.links.iter().find(same) else {
                continue;
            };
            link.receiving = rate(old.received, link.received, seconds);
            link.sending = rate(old.sent, link.sent, seconds);
        }
    }

    /// Returns the report for people.
    #[must_use]
    pub fn text(&self, wide: bool) -> String {
        let mut parts = vec![
            of_locations(&self.locations.iter().collect::<Vec<_>>()),
            of_links(&self.links.iter().collect::<Vec<_>>()),
            of_peers(&self.peers.iter().collect::<Vec<_>>()),
            said(&self.findings, wide),
        ];
        if self.locations.is_empty() {
            parts.insert(0, "There is no location.\n".to_owned());
        }
        parts.retain(|part| !part.is_empty());
        parts.join("\n")
    }
}

fn of_locations(rows: &[&LocationRow]) -> String {
    let heading = [
        "LOCATION",
        "LEADERS",
        "STANDBY",
        "NODES",
        "ESTABLISHED",
        "ENDPOINT",
        "READY",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.name.clone(),
            few(&row.leaders),
            few(&row.standby),
            row.nodes.to_string(),
            format!("{} of {}", row.established, row.others),
            row.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
            row.ready.clone(),
        ]
    });
    table(&heading, &cells.collect::<Vec<_>>())
}

fn of_links(rows: &[&LinkRow]) -> String {
    let rates = rows.iter().any(|link| link.receiving.is_some());
    let heading = [
        "FROM",
        "TO",
        "BY",
        "LINK",
        "HANDSHAKE",
        "RTT",
        "LOSS",
        if rates { "IN/S" } else { "IN" },
        if rates { "OUT/S" } else { "OUT" },
        "FAILOVERS",
    ];
    let cells: Vec<_> = rows.iter().map(|link| cells(link, rates)).collect();
    table(&heading, &cells)
}

fn of_peers(rows: &[&PeerRow]) -> String {
    let cells = rows.iter().map(|row| {
        let home = row.home.clone().unwrap_or_else(|| "-".to_owned());
        vec![row.name.clone(), home, row.ready.clone()]
    });
    table(&["PEER", "HOME", "READY"], &cells.collect::<Vec<_>>())
}

fn cells(link: &LinkRow, rates: bool) -> Vec<String> {
    let unknown = || "?".to_owned();
    let (received, sent) = if rates {
        (link.receiving, link.sending)
    } else {
        (link.received, link.sent)
    };
    let by = link.far_leader.as_ref().map_or_else(unknown, Clone::clone);
    vec![
        link.from.clone(),
        link.to.clone(),
        format!("{} > {by}", link.leader),
        link.up
            .map_or_else(unknown, |up| if up { "up" } else { "down" }.to_owned()),
        link.handshake_seconds
            .map_or_else(unknown, |seconds| format!("{seconds} s")),
        link.rtt_milliseconds
            .map_or_else(unknown, |rtt| format!("{rtt:.1} ms")),
        link.loss
            .map_or_else(unknown, |loss| format!("{:.1} %", loss * 100.0)),
        received.map_or_else(unknown, bytes),
        sent.map_or_else(unknown, bytes),
        link.failovers.map_or_else(unknown, |count| count.to_string()),
    ]
}

/// A counter that went back counts from nothing.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people, and never negative"
)]
fn rate(before: Option<u64>, now: Option<u64>, seconds: f64) -> Option<u64> {
    let grown = now?.checked_sub(before?)?;
    (seconds > 0.0).then(|| (grown as f64 / seconds) as u64)
}

/// Returns a number of bytes as people read it.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_unit_that_fits() {
        let shown = [0, 999, 1000, 1_234_567, 5_000_000_000_000_000].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "1.2 MB", "5000.0 TB"]);
    }

    #[test]
    fn what_a_counter_grew_by_is_a_rate_and_what_it_fell_by_is_not() {
        assert_eq!(rate(Some(100), Some(300), 2.0), Some(100));
        assert_eq!(rate(Some(300), Some(100), 2.0), None);
        assert_eq!(
            (rate(None, Some(1), 2.0), rate(Some(1), Some(2), 0.0)),
            (None, None)
        );
    }
}
