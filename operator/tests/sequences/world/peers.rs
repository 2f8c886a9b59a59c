//! Peers, and what of them agents follow; and what MeshNodes say of claims.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{ResourceExt as _, runtime::watcher::Event};
use spanwire_crds::{AcceptedPeer, MeshNodeStatus, Peer, PeerSpec, PeerStatus};

use super::World;

impl World {
    /// A user writes a Peer.
    pub(crate) fn put_peer(&mut self, name: &str, spec: PeerSpec) {
        let mut object = Peer::new(name, spec);
        if let Some(known) = self.peers.get(name) {
            object.metadata = known.metadata.clone();
            object.status.clone_from(&known.status);
        }
        self.send_peer(object);
    }

    pub(super) fn put_peer_status(&mut self, name: &str, status: PeerStatus) {
        let mut object = self.peers[name].clone();
        object.status = Some(status);
        self.send_peer(object);
    }

    /// What a MeshNode says: its agent's report, and the operator's condition.
    pub(super) fn status(&self, name: &str) -> Option<MeshNodeStatus> {
        let (report, answer) = (self.reports.get(name), self.answers.get(name));
        let mut status = report
            .cloned()
            .or_else(|| answer.map(|_| MeshNodeStatus::default()))?;
        status.conditions.extend(answer.cloned());
        Some(status)
    }

    pub(crate) fn put_answer(&mut self, name: &str, condition: Condition) {
        self.answers.insert(name.to_owned(), condition);
        self.send_report(name);
    }

    /// What the MeshNode of a node says of the node's claims.
    pub(crate) fn answer(&self, name: &str) -> Option<(String, String)> {
        let condition = self.answers.get(name)?;
        Some((condition.status.clone(), condition.message.clone()))
    }

    fn send_peer(&mut self, mut object: Peer) {
        self.stamp(&mut object.metadata);
        self.peers.insert(object.name_any(), object.clone());
        self.state.handle_peer(Event::Apply(object.into()));
    }

    /// What agents follow of a Peer.
    pub(crate) fn accepted(&self, name: &str) -> Option<AcceptedPeer> {
        self.peers[name].status.clone()?.accepted
    }

    /// Whether all of a Peer is accepted, and if not, why.
    pub(crate) fn peer_condition(&self, name: &str) -> (String, String) {
        let found = self.condition_of_peer(name, "Accepted");
        (found.status.clone(), found.message.clone())
    }

    pub(crate) fn status_of_peer(&self, name: &str) -> &PeerStatus {
        self.peers[name].status.as_ref().unwrap()
    }

    pub(crate) fn condition_of_peer(&self, name: &str, about: &str) -> &Condition {
        let conditions = &self.peers[name].status.as_ref().unwrap().conditions;
        let mut conditions = conditions.iter();
        conditions.find(|condition| condition.type_ == about).unwrap()
    }
}
