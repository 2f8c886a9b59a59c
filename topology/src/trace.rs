//! Follows a packet from node to node as their plans say, and explains each hop.
//!
//! What is true of the network is kept apart from what the nodes plan ([`GroundTruth`] knows nothing of plans): who has
//! which address, and who is whose neighbour. A node gives a packet to its neighbours as the CNI would; through the
//! tunnel only what its peers' allowed IPs say; and the receiver takes only what it allows the sender to send. So a trace
//! finds routing loops, misdelivery and asymmetric allowed IPs, also where nodes go by different publications.
//!
//! What leaves a tunnel goes nowhere but to what the location has, unless it comes from a Peer that is attached to it.
//!
//! What came through a hop and would leave through one counts as lost, for the next node may send it back; a host lets it
//! live for a few hops more. A leader sends it into its own tunnel, or, where there are no groups, to a leader that stands before
//! itself. While a new order of leaders spreads two may stand before each other: what comes back so counts as lost, too.

mod allowed;
mod ground;
mod text;

use std::{collections::BTreeMap, collections::BTreeSet, net::IpAddr};

use thiserror::Error;

use crate::{Family, Mesh, NodeName, Party, PeerName, Plan, Prefix, Reachability, Role, Via, plan};
use allowed::{accepts, owner};
pub use ground::{GroundTruth, Place, Spot};

/// More hops than any packet may need: a longer way is a loop.
const LONGEST: usize = 8;

/// What each node does.
pub type Plans = BTreeMap<NodeName, Plan>;

/// The way of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The nodes that see the packet, in order, with what each does.
    pub steps: Vec<TraceStep>,
    /// How it ends.
    pub verdict: Verdict,
}

/// What one node does with the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStep {
    /// The node.
    pub node: NodeName,
    /// Its part.
    pub role: Role,
    /// How the packet came to it.
    pub arrival: Arrival,
    /// What it does.
    pub action: Action,
}

/// How a packet came to the node where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It starts there.
    Origin,
    /// From the LAN of the location.
    Lan,
    /// From another node of the location.
    Hop,
    /// Out of the tunnel.
    Tunnel,
}

/// What a node does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It has the destination.
    Deliver,
    /// The CNI and the LAN carry it.
    Local,
    /// It goes by this route.
    Route(Prefix, Via, Option<Party>),
    /// Out of the tunnel to the address of another node of the location.
    Return(Via),
    /// A leader sends into its own tunnel what a hop brought to it.
    Relay(Option<Party>),
    /// The mesh has no route.
    NoRoute,
}

/// How a trace ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// At the right place, after so many hops between nodes.
    Arrived(usize),
    /// The mesh does not care: it leaves by the own routes of this node.
    Underlay(NodeName),
    /// It goes no further than this node; `None`: it never enters the mesh.
    Dropped(Option<NodeName>, DropReason),
    /// A Peer gets it, from this node, that does not have its destination.
    Misdelivered(NodeName, PeerName),
    /// It goes round.
    Loop,
}

/// Why a packet goes no further.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DropReason {
    /// The location that it enters by, or the Peer that it comes from, has no leader to take it.
    #[error("no leader takes it into the mesh")]
    NoEntry,
    /// The node has no plan.
    #[error("the node has no plan")]
    NoPlan,
    /// The route says so.
    #[error("unreachable: no leader carries the destination, or none carries this node")]
    Unreachable,
    /// What came out of a tunnel is for nothing that the location has.
    #[error("it came out of the tunnel, and the location has nothing with the destination")]
    NotHere,
    /// What a hop brought does not leave through a hop.
    #[error("came through a hop, and would leave through one")]
    HopToHop,
    /// The next hop is on no common LAN.
    #[error("its next hop {0} is no neighbour")]
    NoNeighbour(NodeName),
    /// The CNI is to deliver it, and none of its nodes has the destination.
    #[error("no neighbour has the destination")]
    NoLocalHost,
    /// The host has no part in the family of the destination, and forwards nothing of it.
    #[error("the node has no {0}")]
    NoFamily(Family),
    /// The mesh knows no address of the node in the family of the destination, which an established location has.
    #[error(
        "the mesh knows no {0} address or pods of the node, and what established locations have is not reached past the mesh"
    )]
    Barred(Family),
    /// A route points into a tunnel that is not there.
    #[error("a route points into a tunnel that is not there")]
    NoTunnel,
    /// The destination lies in the allowed IPs of no party.
    #[error("no WireGuard peer is allowed to have the destination")]
    NoPeer,
    /// The source does not lie in the allowed IPs that the receiver holds for the sender.
    #[error("{0} does not allow the source {1} from this node")]
    SourceRefused(NodeName, IpAddr),
}

/// Returns the plan of every node of one mesh, each with nothing observed.
#[must_use]
pub fn plans(mesh: &Mesh) -> Plans {
    let members = mesh
        .locations
        .values()
        .flat_map(|location| location.members.keys());
    members
        .map(|node| (node.clone(), plan(mesh, node, &Reachability::default())))
        .collect()
}

/// Follows one packet from a spot to an address.
#[must_use]
pub fn trace(ground: &GroundTruth<'_>, plans: &Plans, from: &Spot, to: IpAddr) -> Trace {
    let walk = Walk {
        ground,
        plans,
        source: from.address,
        to,
        hosts: ground.hosts(to),
    };
    let mut steps = Vec::new();
    let verdict = walk.follow(from, &mut steps);
    Trace { steps, verdict }
}

/// One packet on its way.
struct Walk<'a> {
    ground: &'a GroundTruth<'a>,
    plans: &'a Plans,
    source: IpAddr,
    to: IpAddr,
    /// Who has the destination.
    hosts: BTreeSet<Place>,
}

/// The next node, or how it ends.
type Next = Result<(NodeName, Arrival), Verdict>;

impl Walk<'_> {
    fn follow(&self, from: &Spot, steps: &mut Vec<TraceStep>) -> Verdict {
        let Some((mut at, mut arrival)) = self.enter(from) else {
            return Verdict::Dropped(None, DropReason::NoEntry);
        };
        for hops in 0..LONGEST {
            let Some(plan) = self.plans.get(&at) else {
                return match self.hosts.contains(&Place::Node(at.clone())) {
                    true => Verdict::Arrived(hops),
                    false => Verdict::Dropped(Some(at), DropReason::NoPlan),
                };
            };
            let (action, next) = self.step(plan, arrival);
            steps.push(TraceStep {
                node: at.clone(),
                role: plan.role,
                arrival,
                action,
            });
            match next {
                Ok(next) => {
                    (at, arrival) = next;
                    let again = |step: &TraceStep| step.node == at && step.arrival == arrival;
                    if let Some(first) = steps.iter().position(again) {
                        return circle(at, &steps[first..]);
                    }
                }
                // The node that delivers counts the hop to the destination, except where that is the node itself.
                Err(Verdict::Arrived(more)) => return Verdict::Arrived(hops + more),
                Err(verdict) => return verdict,
            }
        }
        Verdict::Loop
    }

    /// Returns the first node that sees the packet. A Peer sends to its attachment next to the destination, or to its
    /// home; a machine in a LAN to the first active leader.
    fn enter(&self, from: &Spot) -> Option<(NodeName, Arrival)> {
        match &from.place {
            Place::Node(node) => Some((node.clone(), Arrival::Origin)),
            Place::Lan(location) => Some((self.ground.first(location)?, Arrival::Lan)),
            Place::Peer(name) => {
                let first = self.ground.first(&self.ground.entry(name, self.to)?)?;
                let tunnel = self.plans.get(&first)?.tunnel.as_ref()?;
                let key = self.ground.peer_key(name)?;
                accepts(tunnel, self.ground.has_groups(&first), key, self.source)
                    .then_some((first, Arrival::Tunnel))
            }
        }
    }

    fn step(&self, plan: &Plan, arrival: Arrival) -> (Action, Next) {
        if self.hosts.contains(&Place::Node(plan.me.clone())) {
            return (Action::Deliver, Err(Verdict::Arrived(0)));
        }
        if arrival == Arrival::Tunnel && !lands(plan, self.source, self.to) {
            return (Action::NoRoute, dropped(plan, DropReason::NotHere));
        }
        let mut returns = plan.returns.iter().filter(|_| arrival == Arrival::Tunnel);
        // What lies in another sorts behind it, and what another location has borrowed of it goes there.
        let borrowed =
            |around: &Prefix| plan.routes.contains_key(&Prefix::host(self.to)) && !around.is_host();
        let back = returns.rfind(|(prefix, _)| prefix.contains(self.to));
        if let Some((_, via)) = back.filter(|(prefix, _)| !borrowed(prefix)) {
            return (Action::Return(via.clone()), self.send(plan, via, arrival).1);
        }
        match choose(plan, self.to) {
            Choice::Via(prefix, Via::Hop { .. }) if from_hop(arrival) && self.takes_on(plan, &prefix) => {
                let (party, next) = self.tunnel(plan);
                (Action::Relay(party), next)
            }
            Choice::Via(prefix, via) => {
                let (party, next) = self.send(plan, via, arrival);
                (Action::Route(prefix, via.clone(), party), next)
            }
            Choice::Local => (
                Action::Local,
                self.nearby(plan)
                    .unwrap_or_else(|| dropped(plan, DropReason::NoLocalHost)),
            ),
            Choice::Barred => {
                let reason = DropReason::Barred(Family::of(self.to));
                (Action::NoRoute, dropped(plan, reason))
            }
            Choice::Nothing => {
                let family = Family::of(self.to);
                // No kernel forwards a family that its host has no part in.
                let outsider = arrival == Arrival::Hop && !self.ground.speaks(&plan.me, family);
                let lost = || match outsider {
                    true => dropped(plan, DropReason::NoFamily(family)),
                    false => Err(Verdict::Underlay(plan.me.clone())),
                };
                (Action::NoRoute, self.nearby(plan).unwrap_or_else(lost))
            }
        }
    }

    /// Returns how it ends where the CNI or the LAN bring it to its destination.
    fn nearby(&self, plan: &Plan) -> Option<Next> {
        let delivers = self.hosts.iter().any(|host| self.ground.delivers(&plan.me, host));
        delivers.then_some(Err(Verdict::Arrived(1)))
    }

    fn send(&self, plan: &Plan, via: &Via, arrival: Arrival) -> (Option<Party>, Next) {
        match via {
            Via::Tunnel => self.tunnel(plan),
            Via::Unreachable => (None, dropped(plan, DropReason::Unreachable)),
            Via::Hop { .. }
                if from_hop(arrival) && !plan.passes_on(via, self.ground.has_groups(&plan.me)) =>
            {
                (None, dropped(plan, DropReason::HopToHop))
            }
            Via::Hop { node, .. } if self.ground.near(&plan.me, node) => {
                (None, Ok((node.clone(), Arrival::Hop)))
            }
            Via::Hop { node, .. } => (None, dropped(plan, DropReason::NoNeighbour(node.clone()))),
        }
    }

    /// Returns whether a leader has a tunnel towards the destination, and sends there what a hop brought to it.
    fn takes_on(&self, plan: &Plan, prefix: &Prefix) -> bool {
        let tunnel = plan.tunnel.as_ref();
        let location = plan.routes.get(prefix).map(|route| &route.location);
        let groups = self.ground.has_groups(&plan.me);
        location.is_some_and(|location| plan.takes_on(location, groups))
            && tunnel.is_some_and(|tunnel| owner(tunnel, self.to).is_some())
    }

    /// Through the tunnel to the next leader, or to a Peer.
    fn tunnel(&self, plan: &Plan) -> (Option<Party>, Next) {
        let Some(tunnel) = &plan.tunnel else {
            return (None, dropped(plan, DropReason::NoTunnel));
        };
        let Some(peer) = owner(tunnel, self.to).and_then(|key| tunnel.peers.get(&key)) else {
            return (None, dropped(plan, DropReason::NoPeer));
        };
        let next = match &peer.party {
            Party::Peer(name) if self.hosts.contains(&Place::Peer(name.clone())) => Err(Verdict::Arrived(1)),
            Party::Peer(name) => Err(Verdict::Misdelivered(plan.me.clone(), name.clone())),
            Party::Leader(_, next) => {
                let receiver = self.plans.get(next).and_then(|plan| plan.tunnel.as_ref());
                let sender = self.ground.key(&plan.me);
                match receiver.zip(sender).filter(|(tunnel, sender)| {
                    accepts(tunnel, self.ground.has_groups(next), *sender, self.source)
                }) {
                    Some(_) => Ok((next.clone(), Arrival::Tunnel)),
                    None => dropped(plan, DropReason::SourceRefused(next.clone(), self.source)),
                }
            }
        };
        (Some(peer.party.clone()), next)
    }
}

fn dropped(plan: &Plan, reason: DropReason) -> Next {
    Err(Verdict::Dropped(Some(plan.me.clone()), reason))
}

/// Returns whether a packet that leaves the tunnel may go on.
fn lands(plan: &Plan, source: IpAddr, to: IpAddr) -> bool {
    let is_guest = || plan.guests().any(|prefix| prefix.contains(source));
    let is_of_mesh = || matches!(choose(plan, to), Choice::Via(..));
    let is_here = || plan.here().any(|prefix| prefix.contains(to)) && !plan.lends(to);
    is_here() || (is_of_mesh() && is_guest())
}

/// Returns how it ends where a packet is at this node again, as it was before the first of these steps: a host lets what goes from hop to
/// hop live for a few hops more.
fn circle(at: NodeName, steps: &[TraceStep]) -> Verdict {
    let passed_on = |step: &TraceStep| {
        from_hop(step.arrival) && matches!(step.action, Action::Route(_, Via::Hop { .. }, _))
    };
    match steps.iter().any(passed_on) {
        true => Verdict::Dropped(Some(at), DropReason::HopToHop),
        false => Verdict::Loop,
    }
}

fn from_hop(arrival: Arrival) -> bool {
    match arrival {
        Arrival::Hop | Arrival::Lan => true,
        Arrival::Origin | Arrival::Tunnel => false,
    }
}

enum Choice<'a> {
    Via(Prefix, &'a Via),
    Local,
    /// Nothing must go there, by whatever route.
    Barred,
    Nothing,
}

/// Returns the longest match.
fn choose(plan: &Plan, to: IpAddr) -> Choice<'_> {
    if plan.lends(to) {
        return Choice::Nothing;
    }
    let routes = plan
        .routes
        .iter()
        .map(|(prefix, route)| (prefix, Some(&route.via)));
    let local = plan.local.iter().map(|prefix| (prefix, None));
    let matching = routes.chain(local).filter(|(prefix, _)| prefix.contains(to));
    match matching.max_by_key(|(prefix, _)| prefix.length()) {
        Some((prefix, Some(via))) => Choice::Via(*prefix, via),
        Some((_, None)) => Choice::Local,
        None if plan.unsent.bars(to) => Choice::Barred,
        None => Choice::Nothing,
    }
}
