//! What is reported in the MeshNode's status.

use std::collections::BTreeSet;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use spanwire_crds::{
    Backend, HopInUse, HopReason, LONGEST_CAUSE, Link, MeshNodeStatus, UnkeyedPeer, annotations,
    conditions::{ConditionType, Finding, Reason, conditions},
};
use spanwire_host::{ClosedPort, Cni, Encapsulation, LinkName, PeerStats, hop_device, hop_in_use};
use spanwire_topology::{Family, LocationName, NodeName, Party, PeerName};

use super::{InMesh, NodeState, preshared, silent};
use crate::trouble::Trouble;

/// A longer message is cut off.
const LONGEST: usize = 1000;

/// What the status needs besides what follows from the plan.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) backend: Option<Backend>,
    pub(super) retired: bool,
    /// What of the last target could not be done; `None` before the first outcome.
    pub(super) undone: Option<Vec<Trouble>>,
    /// The last target could not be reached.
    pub(super) failed: bool,
    /// Why the checkpoint is not written.
    pub(super) storage: Option<Trouble>,
    /// That the source shows what is older than what is followed.
    pub(super) older: Option<Trouble>,
    /// Why no leader is watched.
    pub(super) unwatched: Option<Trouble>,
    /// What is wrong with the clock.
    pub(super) clock: Option<Trouble>,
    /// Why the API server does not take the Lease by which this node is known to lead.
    lease_refused: Option<String>,
    /// All that is wrong; `None` before the first outcome.
    pub(super) troubles: Option<Vec<Trouble>>,
    conditions: Vec<Condition>,
}

impl NodeState {
    /// Takes why the API server does not take this leader's Lease; `None` when it does.
    pub fn handle_lease(&mut self, refused: Option<String>) {
        self.status.lease_refused = refused;
    }

    /// Returns what is to be reported; nothing before the first outcome, or while there is no object to report to.
    pub fn poll_status(&mut self, now: Timestamp) -> Option<MeshNodeStatus> {
        let node = self.node.clone()?;
        let mut findings = vec![ready(self.status.troubles.as_deref()?)];
        findings.extend(past_mesh(self.in_mesh()).filter(|_| !self.retire));
        findings.extend(self.closed_port().map(unreached));
        let refused = self.status.lease_refused.as_deref().filter(|_| !self.retire);
        findings.extend(refused.map(lease_refused));
        findings.extend(tunnel_missing(&self.missing_leaders()).filter(|_| !self.retire));
        let unread = self.preshared_problems();
        findings.extend(preshared::finding(&unread));
        let silent_members = self.silent_members();
        findings.extend(silent::finding(&silent_members));
        let observed = node.status.as_ref();
        if self.status.conditions.is_empty() {
            self.status.conditions = observed
                .map(|status| status.conditions.clone())
                .unwrap_or_default();
        }
        let generation = node.metadata.generation;
        self.status.conditions = conditions(findings, &self.status.conditions, generation, now);
        let mut status = MeshNodeStatus {
            observed_generation: generation,
            conditions: self.status.conditions.clone(),
            retired: self.status.retired,
            unkeyed_peers: preshared::unkeyed(&unread).into_iter().map(bounded).collect(),
            silent_members,
            ..MeshNodeStatus::default()
        };
        if !self.retire {
            status.avoided_leaders = self.avoided_leaders();
            status.attached_peers = self.attached_peers();
            self.describe(&mut status);
        }
        Some(status)
    }

    /// Returns the counters of the tunnels to leaders.
    #[must_use]
    pub fn leader_stats(&self) -> Vec<(LocationName, NodeName, PeerStats)> {
        let tunnels = self.tunnel().into_iter().flat_map(|tunnel| &tunnel.peers);
        let stats = tunnels.filter_map(|(key, peer)| match &peer.party {
            Party::Leader(location, node) => Some((location.clone(), node.clone(), *self.peers.get(key)?)),
            Party::Peer(_) => None,
        });
        stats.collect()
    }

    /// Returns the counters of the tunnels to Peers that are attached here.
    #[must_use]
    pub fn attached_stats(&self) -> Vec<(PeerName, PeerStats)> {
        let tunnels = self.tunnel().into_iter().flat_map(|tunnel| &tunnel.peers);
        let stats = tunnels.filter_map(|(key, peer)| match &peer.party {
            Party::Peer(name) => Some((name.clone(), *self.peers.get(key)?)),
            Party::Leader(..) => None,
        });
        stats.collect()
    }

    /// Returns the leaders with which there has been no session for long, of locations that others answer for.
    fn missing_leaders(&self) -> Vec<String> {
        let tunnels = self.tunnel().into_iter().flat_map(|tunnel| &tunnel.peers);
        let missing = tunnels.filter(|(key, _)| self.missing.contains(key));
        let missing = missing.filter_map(|(_, peer)| match &peer.party {
            Party::Leader(location, node) => Some((location, node)),
            Party::Peer(_) => None,
        });
        let up = |location: &LocationName| self.links().get(location) == Some(&true);
        let missing: BTreeSet<_> = missing.filter(|(location, _)| up(location)).collect();
        missing
            .iter()
            .map(|(location, node)| format!("{node} of {location}"))
            .collect()
    }

    /// Returns what the API server has as this node's status.
    #[must_use]
    pub fn observed_status(&self) -> Option<&MeshNodeStatus> {
        self.node.as_ref()?.status.as_ref()
    }

    /// Returns the device by which this node exchanges packets of a family with the others of its location, where that is one alone.
    #[must_use]
    pub fn hop_device(&self, family: Family) -> Option<LinkName> {
        hop_device(&self.plan, &self.facts, family)
    }

    fn describe(&self, status: &mut MeshNodeStatus) {
        status.cni = cni(&self.facts.cni).map(str::to_owned);
        let links = self.facts.cni.links();
        status.hop_addresses = links
            .filter_map(|link| self.facts.links.get(link))
            .flat_map(|link| &link.addresses)
            .filter(|(address, _)| !is_link_local(address))
            .map(|(address, _)| address.to_string())
            .collect();
        let hop = hop_in_use(&self.plan, &self.facts);
        status.hop = hop.map(|(device, reason)| HopInUse {
            device: device.to_string(),
            reason: match reason {
                spanwire_host::HopReason::CalicoRoute => HopReason::CalicoRoute,
                spanwire_host::HopReason::CniDevice => HopReason::CniDevice,
                spanwire_host::HopReason::OwnVxlan => HopReason::OwnVxlan,
                spanwire_host::HopReason::ConnectedNetwork => HopReason::ConnectedNetwork,
            },
        });
        self.describe_tunnel(status);
    }

    fn describe_tunnel(&self, status: &mut MeshNodeStatus) {
        status.public_key = self.facts.public_key.map(|key| key.to_string());
        status.backend = self.status.backend;
        // A device with a larger one carries no larger packets of IP.
        status.mtu = self
            .facts
            .underlay_mtu
            .map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX));
        status.listen_port = self.plan.tunnel.as_ref().map(|tunnel| tunnel.listen_port);
        let link = |(location, up): (&spanwire_topology::LocationName, &bool)| Link {
            location: location.to_string(),
            up: *up,
        };
        status.links = self.connectivity.links().iter().map(link).collect();
    }
}

/// Returns how the CNI carries traffic; nothing where it has not been recognised.
fn cni(cni: &Cni) -> Option<&'static str> {
    match cni {
        Cni::Direct | Cni::Unsupported { .. } => None,
        Cni::Overlay { .. } => Some("flannel-vxlan"),
        Cni::Calico { links, .. } => {
            let has = |encapsulation| links.values().any(|other| *other == encapsulation);
            Some(match (has(Encapsulation::Vxlan), has(Encapsulation::Ipip)) {
                (true, _) => "calico-vxlan",
                (false, true) => "calico-ipip",
                (false, false) => "calico-direct",
            })
        }
    }
}

fn ready(troubles: &[Trouble]) -> Finding {
    let texts: Vec<String> = troubles.iter().map(ToString::to_string).collect();
    let message = shortened(texts.join("; "), LONGEST);
    let holds = troubles.is_empty();
    Finding {
        about: ConditionType::Ready,
        holds,
        reason: match (holds, troubles.iter().any(Trouble::stops_traffic)) {
            (true, _) => Reason::AllWell,
            (false, true) => Reason::Degraded,
            (false, false) => Reason::Limited,
        },
        message,
    }
}

/// Returns the same with a cause that the schema takes.
fn bounded(peer: UnkeyedPeer) -> UnkeyedPeer {
    UnkeyedPeer {
        // With the mark of what is cut off.
        cause: shortened(peer.cause, LONGEST_CAUSE - 4),
        ..peer
    }
}

fn shortened(mut message: String, longest: usize) -> String {
    if message.len() > longest {
        let end = (0..=longest)
            .rev()
            .find(|at| message.is_char_boundary(*at))
            .unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

/// What is said of a Lease that the API server does not take. Nothing else is wrong with the node.
fn lease_refused(cause: &str) -> Finding {
    Finding {
        about: ConditionType::LeaseRenewed,
        holds: false,
        reason: Reason::LeaseRefused,
        message: format!(
            "{}: so the API server does not take the Lease of this node as a leader; may agents create and patch Leases in \
             their namespace (the chart's Role for them), and does a quota, a policy or a webhook forbid it?",
            shortened(cause.to_owned(), LONGEST / 2)
        ),
    }
}

/// What is said of leaders that do not answer while others do.
fn tunnel_missing(leaders: &[String]) -> Option<Finding> {
    /// The first so many are named.
    const FEW: usize = 5;
    let (named, others) = leaders.split_at(leaders.len().min(FEW));
    if named.is_empty() {
        return None;
    }
    let others = match others.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    Some(Finding {
        about: ConditionType::TunnelsUp,
        holds: false,
        reason: Reason::TunnelMissing,
        message: format!(
            "for five minutes there has been no session with {}{others}: packets get through by another leader of the location, \
             and would not if that one failed; does UDP from one of the two nodes reach the WireGuard port of the other? Where \
             both are behind NAT, forward the port to one of them and name it with {}",
            named.join(", "),
            annotations::ENDPOINT
        ),
    })
}

/// What is said of a port that other leaders cannot reach. A port that something may let in is none to speak of: what is in front of
/// this machine is not known.
fn unreached(closed: &ClosedPort) -> Finding {
    Finding {
        about: ConditionType::PortOpen,
        holds: false,
        reason: Reason::WireGuardPortClosed,
        message: closed.to_string(),
    }
}

/// Whether the endpoints of the API server that lie in prefixes of other locations are reached past the mesh; nothing where
/// none does.
fn past_mesh(in_mesh: &[InMesh]) -> Option<Finding> {
    let text = |of: &InMesh| format!("{} in {} of location {}", of.endpoint, of.prefix, of.location);
    let (exempt, routed): (Vec<&InMesh>, Vec<&InMesh>) = in_mesh.iter().partition(|of| of.exempt);
    let named = if routed.is_empty() { &exempt } else { &routed };
    let (first, others) = named.split_first()?;
    let others = match others.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let holds = routed.is_empty();
    let message = if holds {
        format!("{}{others} is reached past the mesh", text(first))
    } else {
        format!(
            "the API server's endpoint {}{others} is reached through the mesh: programs on this node's network that use the \
             service kubernetes depend on the mesh; where it is reached without the mesh too, leave the chart's apiServer \
             empty or name it there",
            text(first)
        )
    };
    Some(Finding {
        about: ConditionType::ApiServerPastMesh,
        holds,
        reason: if holds {
            Reason::Exempt
        } else {
            Reason::EndpointInMesh
        },
        message,
    })
}

fn is_link_local(address: &std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(address) => address.is_link_local(),
        std::net::IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
