//! What would be decided: who leads, what is rejected and why, and what differs from now.

use std::fmt::Write as _;

use serde::Serialize;
use spanwire_topology::{
    Decision, Facts, LeaderRole, Location, LocationName, Member, Mesh, MeshMode, NodeName, Severity, decide,
    lint,
};

use crate::{
    answer::Verdict,
    changes::{Change, changes},
    objects::{Reading, Unread},
    table::{few, joined, table},
};

/// What would be decided.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The locations.
    pub locations: Vec<LocationRow>,
    /// The nodes.
    pub nodes: Vec<NodeRow>,
    /// The Peers that are accepted.
    pub peers: Vec<PeerRow>,
    /// Claims that would not be granted.
    pub rejected: Vec<Problem>,
    /// What cannot be read.
    pub unreadable: Vec<Problem>,
    /// Locations and Peers that would not be served.
    pub warnings: Vec<String>,
    /// What differs from what is published, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
}

/// A location as decided.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocationRow {
    /// Its name.
    pub name: String,
    /// `Leaders` or `Nodes`.
    pub mesh: &'static str,
    /// The active leaders.
    pub leaders: Vec<String>,
    /// The standby leaders.
    pub standby: Vec<String>,
    /// How many nodes it has.
    pub nodes: usize,
    /// Where the first active leader is reached from outside; `None`: it has to begin.
    pub endpoint: Option<String>,
    /// Other networks that are reachable here.
    pub cidrs: Vec<String>,
    /// The locations with which traffic is in the tunnel or nowhere.
    pub established: Vec<String>,
}

/// A node as decided.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Its location.
    pub location: String,
    /// `active leader`, `standby leader` or `follower`.
    pub role: &'static str,
    /// Its own addresses that the mesh routes.
    pub addresses: Vec<String>,
    /// The networks of its pods.
    pub pods: Vec<String>,
    /// Its overlay addresses.
    pub overlay: Vec<String>,
}

/// A Peer as accepted.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerRow {
    /// Its name.
    pub name: String,
    /// Through this location the locations without an attachment reach it.
    pub home: Option<String>,
    /// The locations that have a tunnel for it.
    pub attachments: Vec<String>,
    /// The networks behind it.
    #[serde(rename = "allowedIPs")]
    pub allowed_ips: Vec<String>,
}

/// Something that is not granted or cannot be read.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// The object.
    pub object: String,
    /// What of it.
    pub what: String,
    /// Why, and what to do.
    pub why: String,
}

/// Decides, and reports that. With `compare` the report says what differs from `previous`, which the decision is based upon
/// in any case.
#[must_use]
pub fn report(reading: &Reading, previous: &Mesh, compare: bool) -> Report {
    of_decision(
        &decide(&reading.facts, previous),
        &reading.facts,
        &reading.unread,
        compare.then_some(previous),
    )
}

/// Reports a decision that was made of these facts.
#[must_use]
pub fn of_decision(decision: &Decision, facts: &Facts, unread: &[Unread], previous: Option<&Mesh>) -> Report {
    let mesh = &decision.mesh;
    let rejected = decision.rejected.iter().map(|rejected| Problem {
        object: rejected.by.to_string(),
        what: rejected.claim.to_string(),
        why: rejected.reason.to_string(),
    });
    let unreadable = unread.iter().map(|unread| {
        let (what, why) = unread.problem.split_once(": ").unwrap_or(("", &unread.problem));
        Problem {
            object: format!("{} {}", unread.kind.name().to_lowercase(), unread.name),
            what: what.to_owned(),
            why: why.to_owned(),
        }
    });
    let found = lint(mesh).into_iter();
    let homeless = facts.peers.keys().filter(|name| !mesh.peers.contains_key(*name));
    let refused = homeless.map(|name| format!("peer {name} is not accepted"));
    Report {
        locations: mesh
            .locations
            .iter()
            .map(|(name, it)| location(name, it))
            .collect(),
        nodes: mesh
            .locations
            .iter()
            .flat_map(|(name, it)| nodes(name, it))
            .collect(),
        peers: mesh
            .peers
            .iter()
            .map(|(name, peer)| PeerRow {
                name: name.to_string(),
                home: peer.home.as_ref().map(ToString::to_string),
                attachments: texts(&peer.attachments),
                allowed_ips: texts(&peer.allowed_ips),
            })
            .collect(),
        rejected: rejected.collect(),
        unreadable: unreadable.collect(),
        warnings: found
            .filter(|diagnostic| diagnostic.severity() == Severity::Warning)
            .map(|diagnostic| diagnostic.to_string())
            .chain(refused)
            .collect(),
        changes: previous.map(|previous| changes(previous, mesh)),
    }
}

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

fn location(name: &LocationName, location: &Location) -> LocationRow {
    let of = |role| {
        let leaders = location.leaders.iter().filter(move |leader| leader.role == role);
        leaders.map(|leader| leader.node.to_string()).collect::<Vec<_>>()
    };
    let first = location
        .active()
        .next()
        .and_then(|node| location.members.get(node));
    let public = |member: &Member| {
        member
            .endpoints
            .iter()
            .find(|endpoint| endpoint.is_public())
            .cloned()
    };
    let endpoint = location.settings.endpoint.clone();
    LocationRow {
        name: name.to_string(),
        mesh: mode(location.settings.mode),
        leaders: of(LeaderRole::Active),
        standby: of(LeaderRole::Standby),
        nodes: location.members.len(),
        endpoint: endpoint
            .or_else(|| first.and_then(public))
            .map(|endpoint| endpoint.to_string()),
        cidrs: texts(&location.settings.cidrs),
        established: texts(&location.established),
    }
}

/// Returns the mode as the field `mesh` of a Location has it.
#[must_use]
pub fn mode(mode: MeshMode) -> &'static str {
    match mode {
        MeshMode::Leaders => "Leaders",
        MeshMode::Nodes => "Nodes",
    }
}

fn nodes(name: &LocationName, location: &Location) -> Vec<NodeRow> {
    let row = |(node, member): (&NodeName, &Member)| NodeRow {
        name: node.to_string(),
        location: name.to_string(),
        role: match location.role(node) {
            Some(LeaderRole::Active) => "active leader",
            Some(LeaderRole::Standby) => "standby leader",
            None => "follower",
        },
        addresses: texts(&member.addresses),
        pods: texts(&member.prefixes),
        overlay: texts(&member.overlay),
    };
    location.members.iter().map(row).collect()
}

impl Report {
    /// Returns how bad it is.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.rejected.is_empty() || !self.unreadable.is_empty() {
            Verdict::Errors
        } else if !self.warnings.is_empty() {
            Verdict::Warnings
        } else if self.changes.as_ref().is_some_and(|changes| !changes.is_empty()) {
            Verdict::Differs
        } else {
            Verdict::Clean
        }
    }

    /// Returns the objects that it is about, like `location a`: the locations and Peers, or what would change where that was asked for.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        if let Some(changes) = &self.changes {
            return changes.iter().map(|change| change.object.clone()).collect();
        }
        let locations = self.locations.iter().map(|row| format!("location {}", row.name));
        let peers = self.peers.iter().map(|row| format!("peer {}", row.name));
        locations.chain(peers).collect()
    }

    /// Returns the report for people; `wide` with every node.
    #[must_use]
    pub fn text(&self, wide: bool) -> String {
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let locations = self.locations.iter().map(|row| {
            let mut cells = vec![
                row.name.clone(),
                few(&row.leaders),
                few(&row.standby),
                row.nodes.to_string(),
                dash(&row.endpoint),
            ];
            if wide {
                cells.extend([row.mesh.to_owned(), joined(&row.cidrs), joined(&row.established)]);
            }
            cells
        });
        let locations: Vec<_> = locations.collect();
        let mut heading = vec!["LOCATION", "LEADERS", "STANDBY", "NODES", "ENDPOINT"];
        if wide {
            heading.extend(["MESH", "CIDRS", "ESTABLISHED"]);
        }
        let mut parts = vec![table(&heading, &locations)];
        if wide {
            let rows = self.nodes.iter().map(|row| {
                vec![
                    row.name.clone(),
                    row.location.clone(),
                    row.role.to_owned(),
                    joined(&row.addresses),
                    joined(&row.pods),
                    joined(&row.overlay),
                ]
            });
            let heading = ["NODE", "LOCATION", "ROLE", "ADDRESSES", "PODS", "OVERLAY"];
            parts.push(table(&heading, &rows.collect::<Vec<_>>()));
        }
        let rows = self.peers.iter().map(|row| {
            let (at, allowed) = (joined(&row.attachments), joined(&row.allowed_ips));
            vec![row.name.clone(), dash(&row.home), at, allowed]
        });
        let heading = ["PEER", "HOME", "ATTACHED TO", "ALLOWED IPS"];
        parts.push(table(&heading, &rows.collect::<Vec<_>>()));
        parts.push(problems("Not granted:", &self.rejected));
        parts.push(problems("Cannot be read, and is set aside:", &self.unreadable));
        if !self.warnings.is_empty() {
            parts.push(format!("Not served:\n  {}\n", self.warnings.join("\n  ")));
        }
        if let Some(changes) = &self.changes {
            parts.push(differences(changes));
        }
        parts.retain(|part| !part.is_empty());
        if parts.is_empty() {
            return "There is no location: no Node, Location or Peer was read.\n".to_owned();
        }
        parts.join("\n")
    }
}

fn problems(heading: &str, problems: &[Problem]) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let mut text = format!("{heading}\n");
    for problem in problems {
        let Problem { object, what, why } = problem;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {object}: {what}: {why}");
    }
    text
}

fn differences(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "Nothing would change in the cluster.\n".to_owned();
    }
    let rows = changes.iter().map(|change| {
        vec![
            change.object.clone(),
            change.field.to_owned(),
            change.now.clone(),
            change.planned.clone(),
        ]
    });
    let rows: Vec<_> = rows.collect();
    format!(
        "Would change in the cluster:\n{}",
        table(&["OBJECT", "FIELD", "NOW", "PLANNED"], &rows)
    )
}
