//! Whether a location has its tunnels with all others: by which leader, and between which leaders where not.

use spanwire_crds::{
    conditions::{ConditionType, Finding, Reason},
    translate::Avoided,
};
use spanwire_topology::{Leader, LeaderRole, Location, LocationName, Mesh, NodeName};

use super::{NAMED, OperatorState, finding, list};

/// What carries the traffic with another location.
enum Way<'a> {
    /// An active leader here has a tunnel.
    Direct,
    /// None has, but these leaders that stand by: what is for there goes through them.
    StandBy(Vec<&'a NodeName>),
    /// Nothing.
    None,
    /// No leader is alive, on either side, that could say.
    Unknown,
}

impl OperatorState {
    /// `avoided`: which nodes of the location do not use which leaders.
    pub(super) fn connected(
        &self,
        name: &LocationName,
        location: &Location,
        mesh: &Mesh,
        avoided: &[(&NodeName, &Avoided)],
    ) -> Finding {
        let about = ConditionType::Connected;
        let led = mesh
            .locations
            .iter()
            .filter(|(_, other)| other.active().next().is_some());
        let others: Vec<(&LocationName, &Location)> = led.filter(|(other, _)| *other != name).collect();
        if others.is_empty() {
            let message = "no other location has a leader".to_owned();
            return finding(about, true, Reason::NothingToConnect, message);
        }
        let here = active(location);
        let (mut direct, mut detours, mut stopped, mut waiting) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (other, there) in &others {
            let established = location.established.contains(*other);
            match self.way((name, location), (other, there)) {
                Way::Direct => {
                    let around = self.ways_around((name, location), (other, there), avoided);
                    match around.is_empty() || !established {
                        true => direct.push(*other),
                        false => detours.extend(around),
                    }
                }
                Way::StandBy(through) if location.established.contains(*other) => detours.push(format!(
                    "no tunnel between {here} and {other} ({}), whose traffic goes through {}",
                    active(there),
                    nodes(through.into_iter())
                )),
                Way::None if location.established.contains(*other) => stopped.push(format!(
                    "the tunnel with {other} is down between {here} and {}, its traffic stopped",
                    active(there)
                )),
                Way::Unknown if location.established.contains(*other) => stopped.push(format!(
                    "nothing is known of the tunnel with {other}: no leader is alive, neither {here} nor {}",
                    active(there)
                )),
                Way::StandBy(_) | Way::None | Way::Unknown => waiting.push(*other),
            }
        }
        let settled = |other: &&LocationName| location.established.contains(*other);
        if direct.len() == others.len() && direct.iter().all(settled) {
            let message = format!("traffic with {} is in the tunnel of {here}", list(&direct));
            return finding(about, true, Reason::AllConnected, message);
        }
        let mut parts = Vec::new();
        for texts in [stopped, detours] {
            let more = texts.len().saturating_sub(NAMED);
            parts.extend(texts.into_iter().take(NAMED));
            parts.extend((more > 0).then(|| format!("and {more} more locations")));
        }
        if !waiting.is_empty() {
            parts.push(format!(
                "no tunnel with {} yet, traffic stays where it was; can the leaders reach each other's UDP port?",
                list(&waiting)
            ));
        }
        if parts.is_empty() {
            parts.push("the other side does not report the tunnel as up yet".to_owned());
        }
        finding(about, false, Reason::WaitingForTunnel, parts.join("; "))
    }

    /// Returns how the traffic with another location goes around what does not carry it, although there are tunnels: leaders of the
    /// two that do not use one another, and those through which others here get nothing. What one side alone says of a leader may be
    /// that it is about to fail, which all other locations would repeat.
    fn ways_around(
        &self,
        (name, location): (&LocationName, &Location),
        (other, there): (&LocationName, &Location),
        avoided: &[(&NodeName, &Avoided)],
    ) -> Vec<String> {
        let instead = |node: &NodeName, of: &LocationName, leaders: &Location| {
            let mut leaders = leaders.leaders.iter().map(|leader| &leader.node);
            let used = leaders.find(|leader| !self.avoids(node, of, leader));
            used.map_or_else(String::new, |used| format!(", and uses {used}"))
        };
        let mut ways = Vec::new();
        for (
            node,
            Avoided {
                location: of,
                leader,
                towards,
            },
        ) in avoided
        {
            if of == other && acts(location, node) && acts(there, leader) {
                if self.avoids(leader, name, node) || self.is_blamed(leader) {
                    let used = instead(node, of, there);
                    ways.push(format!("{node} gets nothing through {leader} of {other}{used}"));
                }
            } else if of == name && towards.as_ref() == Some(other) && acts(location, leader) {
                let used = instead(node, of, location);
                ways.push(format!("{node} gets nothing to {other} through {leader}{used}"));
            }
        }
        ways
    }

    /// Returns what carries the traffic of a location with another one, as its leaders report it. What one reported last that is not
    /// alive says nothing; where none is, those of the other one say whether they reach it.
    fn way<'a>(
        &self,
        (name, location): (&LocationName, &'a Location),
        (other, there): (&LocationName, &Location),
    ) -> Way<'a> {
        let alive = |leader: &&Leader| self.is_alive(&leader.node);
        let up = |leader: &NodeName, towards: &LocationName| {
            let record = self.mesh_nodes.get(leader);
            record.is_some_and(|record| record.report.links.get(towards) == Some(&true))
        };
        let here: Vec<&Leader> = location.leaders.iter().filter(alive).collect();
        if here.is_empty() {
            let others: Vec<&Leader> = there.leaders.iter().filter(alive).collect();
            return if others.is_empty() {
                Way::Unknown
            } else if others.iter().any(|leader| up(&leader.node, name)) {
                Way::Direct
            } else {
                Way::None
            };
        }
        let through: Vec<&Leader> = here
            .into_iter()
            .filter(|leader| up(&leader.node, other))
            .collect();
        if through.iter().any(|leader| leader.role == LeaderRole::Active) {
            Way::Direct
        } else if through.is_empty() {
            Way::None
        } else {
            Way::StandBy(through.into_iter().map(|leader| &leader.node).collect())
        }
    }
}

fn acts(location: &Location, node: &NodeName) -> bool {
    location.active().any(|active| active == node)
}

/// Returns the active leaders of a location; with `mesh: Nodes` there are as many as nodes.
fn active(location: &Location) -> String {
    nodes(location.active())
}

fn nodes<'a>(nodes: impl Iterator<Item = &'a NodeName>) -> String {
    let mut texts: Vec<String> = nodes.map(ToString::to_string).collect();
    if texts.len() > NAMED {
        let more = texts.len() - NAMED;
        texts.truncate(NAMED);
        texts.push(format!("{more} more"));
    }
    texts.join(", ")
}
