//! The Peers that are attached to this leader, as the MeshNode's status has them.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use spanwire_crds::{AttachedPeer, MOST_ATTACHED_PEERS};
use spanwire_topology::{Party, PeerName, PublicKey};

use super::NodeState;
use crate::liveness::Attached;

impl NodeState {
    /// Gives the Peers of the plan to what watches them, with what is reported of them already.
    pub(super) fn follow_attached(&mut self) {
        let observed = self
            .observed_status()
            .map(|status| status.attached_peers.as_slice());
        let observed = observed.unwrap_or_default();
        let known = |name: &PeerName| {
            let found = observed.iter().find(|entry| entry.peer == name.as_str())?;
            Some(Attached {
                connected: found.connected,
                handshake: Duration::from_secs(u64::try_from(found.last_handshake.0.as_second()).ok()?),
            })
        };
        let peers: BTreeMap<PublicKey, Option<Attached>> = self
            .attached_to()
            .map(|(key, name)| (*key, known(name)))
            .collect();
        self.attached.handle_plan(&peers);
    }

    fn attached_to(&self) -> impl Iterator<Item = (&PublicKey, &PeerName)> {
        let tunnels = self.tunnel().into_iter().flat_map(|tunnel| &tunnel.peers);
        tunnels.filter_map(|(key, peer)| match &peer.party {
            Party::Peer(name) => Some((key, name)),
            Party::Leader(..) => None,
        })
    }

    /// The Peers with which there has been a handshake, by their names. Of more than the schema takes the connected ones come first.
    pub(super) fn attached_peers(&self) -> Vec<AttachedPeer> {
        let entry = |(key, name): (&PublicKey, &PeerName)| {
            let reported = self.attached.reported(key)?;
            let second = i64::try_from(reported.handshake.as_secs()).ok()?;
            Some(AttachedPeer {
                peer: name.to_string(),
                connected: reported.connected,
                last_handshake: Time(Timestamp::from_second(second).ok()?),
            })
        };
        let mut peers: Vec<AttachedPeer> = self.attached_to().filter_map(entry).collect();
        peers.sort_by(|one, other| (!one.connected, &one.peer).cmp(&(!other.connected, &other.peer)));
        peers.truncate(MOST_ATTACHED_PEERS);
        peers.sort_by(|one, other| one.peer.cmp(&other.peer));
        peers
    }
}
