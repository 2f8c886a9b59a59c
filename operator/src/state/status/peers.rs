//! The statuses of Peers.

use std::collections::BTreeMap;

use spanwire_crds::{
    PeerStatus,
    conditions::{ConditionType, Finding, Reason, conditions},
    publication::accepted,
};
use spanwire_topology::{Claimant, Decision, LocationName, Mesh, NodeName, Peer, PeerName};

use super::{NAMED, Now, OperatorState, Problems, accepted_finding, finding, list};
use crate::batch::Write;

impl OperatorState {
    /// The writes of statuses of Peers that are not as they are to be: those that agents follow, and those in which only
    /// people see a difference.
    pub(in crate::state) fn peer_status_writes(
        &mut self,
        decision: &Decision,
        problems: &Problems,
        now: Now,
    ) -> (Vec<Write>, Vec<Write>) {
        let (mut followed, mut rest) = (Vec::new(), Vec::new());
        let mut statuses = BTreeMap::new();
        for (name, record) in self.peers.objects() {
            let peer = decision.mesh.peers.get(name);
            let own = problems.get(&Claimant::Peer(name.clone()));
            let findings = vec![
                self.attached(name, peer, &decision.mesh),
                accepted_finding(own.into_iter().flatten()),
            ];
            let previous = record.status.clone().unwrap_or_default();
            let generation = record.revision.generation;
            let status = PeerStatus {
                accepted: peer.map(accepted),
                conditions: conditions(findings, &previous.conditions, generation, now.wall),
            };
            if record.status.as_ref() != Some(&status) {
                let phase = if previous.accepted == status.accepted {
                    &mut rest
                } else {
                    &mut followed
                };
                phase.push(Write::PeerStatus {
                    name: name.to_string(),
                    version: Some(record.revision.version()),
                    status: status.clone(),
                });
            }
            statuses.insert(name.clone(), status);
        }
        self.peer_statuses = statuses;
        (followed, rest)
    }

    /// Whether the Peer has its tunnels.
    fn attached(&self, name: &PeerName, peer: Option<&Peer>, mesh: &Mesh) -> Finding {
        let about = ConditionType::Ready;
        let Some(peer) = peer else {
            return finding(about, false, Reason::NotYet, "was not accepted".to_owned());
        };
        let first = |location: &LocationName| mesh.locations.get(location)?.active().next();
        if peer.home.as_ref().and_then(first).is_none() {
            let remedy = "name a location that has one in spec.location, or give a location an endpoint";
            let message = format!("no location with a leader that it could reach; {remedy}");
            return finding(about, false, Reason::NoHome, message);
        }
        let leaders = peer
            .attachments
            .iter()
            .filter_map(|location| Some((location, first(location)?)));
        let (mut talking, mut unkeyed, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        for (location, leader) in leaders {
            if !self.is_alive(leader) {
                dead.push(format!(
                    "{location} does not talk to it: its leader {leader} is not alive"
                ));
                continue;
            }
            match self.unkeyed(leader, name).filter(|_| peer.preshared.is_some()) {
                Some(cause) => {
                    unkeyed.push(format!("{location} does not talk to it: node {leader}: {cause}"))
                }
                None => talking.push(location),
            }
        }
        let tunnels = format!("has a tunnel with {}", list(&talking));
        let reason = match (unkeyed.is_empty(), dead.is_empty()) {
            (true, true) => return finding(about, true, Reason::Attached, tunnels),
            (false, _) => Reason::PresharedKeyUnknown,
            (true, false) => Reason::Degraded,
        };
        let mut silent = [unkeyed, dead].concat();
        let more = silent.len().saturating_sub(NAMED);
        silent.truncate(NAMED);
        silent.extend((more > 0).then(|| format!("and {more} more")));
        silent.extend((!talking.is_empty()).then_some(tunnels));
        finding(about, false, reason, silent.join("; "))
    }

    /// Why a leader does not talk to a Peer for want of its preshared key, where that is so. What others say of it means nothing.
    fn unkeyed(&self, leader: &NodeName, peer: &PeerName) -> Option<&str> {
        let report = &self.mesh_nodes.get(leader)?.report;
        report.unkeyed.get(peer).map(String::as_str)
    }
}
