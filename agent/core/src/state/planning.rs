//! The plan of the node, and who follows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use spanwire_crds::Backend;
use spanwire_topology::{
    LeaderRole, LocationName, NodeName, Party, PublicKey, Reachability, TunnelPeer, Via, plan,
};

use super::NodeState;
use crate::liveness::{Judgement, Subject};

impl NodeState {
    /// Takes by which leaders packets arrive. Returns whether this node may have to change.
    pub fn handle_reachability(&mut self, mut reachability: Reachability) -> bool {
        reachability.observe_unreached(self.unreached.refused());
        reachability.observe_own_end(self.facts.draining);
        if self.reachability == reachability {
            return false;
        }
        self.reachability = reachability;
        let changed = self.renew_plan();
        if changed {
            self.forget_rendered();
            self.follow_plan();
        }
        changed
    }

    /// Takes whether the process of the tunnels is about to end. Returns whether this node may have to change.
    pub fn handle_draining(&mut self, draining: bool) -> bool {
        // Where the kernel carries the tunnels that process may end as it likes.
        let draining = draining && self.status.backend == Some(Backend::Userspace);
        let changed = self.handle_facts(|facts| facts.draining = draining);
        changed | self.handle_reachability(self.reachability.clone())
    }

    /// Makes the plan. Returns whether it is another one.
    pub(super) fn renew_plan(&mut self) -> bool {
        let plan = plan(&self.mesh, &self.me, &self.reachability);
        let changed = plan != self.plan;
        self.plan = plan;
        changed
    }

    /// Gives the plan to those that watch the parties that it names.
    pub(super) fn follow_plan(&mut self) {
        let no_peers = BTreeMap::new();
        let tunnel = self.plan.tunnel.as_ref().filter(|_| !self.retire);
        let peers = tunnel.map_or(&no_peers, |tunnel| &tunnel.peers);
        self.endpoints.handle_plan(peers);
        self.preshared.handle_plan(peers);
        self.follow_preshared();
        let leaders: BTreeSet<PublicKey> = self.leaders().into_values().flatten().collect();
        self.missing.handle_plan(&leaders);
        self.follow_attached();
        self.sessions.handle_leaders(leaders);
        self.connectivity
            .handle_plan(self.leaders_in_use(), self.plan.location.clone());
    }

    /// Takes which leaders of other locations have answered and are taken for dead.
    pub fn handle_dead(&mut self, judgement: &Judgement, now: Instant) {
        let tunnels = self.tunnel().into_iter().flat_map(|tunnel| &tunnel.peers);
        let dead = tunnels.filter(|(_, peer)| match &peer.party {
            Party::Leader(location, node) => judgement.dead.contains(&(location.clone(), node.clone())),
            Party::Peer(_) => false,
        });
        let dead = dead.map(|(key, _)| *key).collect();
        self.sessions.handle_dead(&dead, now);
    }

    /// The leaders of other locations with which WireGuard has no session.
    pub(super) fn unconnected(&self) -> BTreeSet<(LocationName, NodeName)> {
        let tunnels = self.tunnel().into_iter().flat_map(|tunnel| &tunnel.peers);
        let lacking = tunnels.filter(|(key, _)| self.sessions.lacks(key));
        let lacking = lacking.filter_map(|(_, peer)| match &peer.party {
            Party::Leader(location, node) => Some((location.clone(), node.clone())),
            Party::Peer(_) => None,
        });
        lacking.collect()
    }

    fn leaders(&self) -> BTreeMap<LocationName, BTreeSet<PublicKey>> {
        self.leaders_where(|_, _, _| true)
    }

    /// The active leaders, and those that this node sends to instead of one.
    fn leaders_in_use(&self) -> BTreeMap<LocationName, BTreeSet<PublicKey>> {
        let in_use = |location: &LocationName, node: &NodeName, peer: &TunnelPeer| {
            let location = self.mesh.locations.get(location);
            let role = location.and_then(|location| location.role(node));
            role == Some(LeaderRole::Active) || peer.carries()
        };
        self.leaders_where(in_use)
    }

    /// Returns what is watched of the leaders that are in use towards each location: those of it that this node sends to through
    /// its own tunnels, or the one of its own location by which it sends.
    #[must_use]
    pub fn in_use(&self) -> BTreeSet<Subject> {
        let mut in_use = BTreeSet::new();
        for (location, way) in &self.plan.ways {
            if let Via::Hop { node, .. } = way {
                in_use.insert(Subject::Through(node.clone(), location.clone()));
            }
        }
        for peer in self.tunnel().into_iter().flat_map(|tunnel| tunnel.peers.values()) {
            if let Party::Leader(location, node) = &peer.party
                && peer.carries()
                && self.plan.ways.get(location) == Some(&Via::Tunnel)
            {
                in_use.insert(Subject::Far(location.clone(), node.clone()));
            }
        }
        in_use
    }

    fn leaders_where(
        &self,
        wanted: impl Fn(&LocationName, &NodeName, &TunnelPeer) -> bool,
    ) -> BTreeMap<LocationName, BTreeSet<PublicKey>> {
        let mut leaders: BTreeMap<LocationName, BTreeSet<PublicKey>> = BTreeMap::new();
        for (key, peer) in self.tunnel().into_iter().flat_map(|tunnel| &tunnel.peers) {
            if let Party::Leader(location, node) = &peer.party {
                let of_location = leaders.entry(location.clone()).or_default();
                if wanted(location, node, peer) {
                    of_location.insert(*key);
                }
            }
        }
        leaders
    }
}
