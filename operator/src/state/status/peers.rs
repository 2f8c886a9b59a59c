//! The statuses of Peers.

use std::collections::BTreeMap;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use spanwire_crds::{
    AcceptedPeer, PeerStatus,
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
            let accepted = peer.map(accepted);
            // Of a Peer with another key the last handshake is another one's.
            let is_same = |before: &AcceptedPeer| {
                accepted
                    .as_ref()
                    .is_some_and(|now| now.public_key == before.public_key)
            };
            let before = previous
                .last_handshake
                .clone()
                .filter(|_| previous.accepted.as_ref().is_some_and(is_same));
            let (connected_to, handshake) = self.heard(name, peer, &decision.mesh, now);
            let before = before.map(|Time(before)| before);
            let status = PeerStatus {
                connected_to,
                last_handshake: handshake.max(before).map(Time),
                accepted,
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

    /// Returns the locations that are connected with a Peer, and when its last handshake was, as the leaders report that it is attached to.
    /// What others say of it means nothing, nor does a time that has not come yet.
    fn heard(
        &self,
        name: &PeerName,
        peer: Option<&Peer>,
        mesh: &Mesh,
        now: Now,
    ) -> (Vec<String>, Option<Timestamp>) {
        let attachments = peer.into_iter().flat_map(|peer| &peer.attachments);
        let said = attachments.filter_map(|location| {
            let leader = mesh.locations.get(location)?.active().next()?;
            let attached = self.mesh_nodes.get(leader)?.report.attached.get(name)?;
            Some((location, leader, *attached))
        });
        let mut connected = Vec::new();
        let mut last: Option<Timestamp> = None;
        for (location, leader, attached) in said {
            if attached.connected && self.is_alive(leader) {
                connected.push(location.to_string());
            }
            last = last.max(Some(attached.handshake).filter(|handshake| *handshake <= now.wall));
        }
        (connected, last)
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
