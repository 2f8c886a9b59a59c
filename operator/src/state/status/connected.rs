//! Whether a location has its tunnels with all others: by which leader, and between which leaders where not.

use spanwire_crds::conditions::{ConditionType, Finding, Reason};
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
    pub(super) fn connected(&self, name: &LocationName, location: &Location, mesh: &Mesh) -> Finding {
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
            match self.way((name, location), (other, there)) {
                Way::Direct => direct.push(*other),
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
