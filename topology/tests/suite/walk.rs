//! The packet walk: follows a packet from node to node as their plans say, on ground truth that knows nothing of plans.
//!
//! The ground knows who has which address and who is whose neighbour. A node gives a packet to its neighbours as the CNI
//! would; through the tunnel only what its peers' allowed IPs say; and the receiver takes only what it allows the sender
//! to send. What came through a hop and would leave through one is taken for lost here, for the next node may send it
//! back; a host lets it live for a few hops more. A standby leader sends it into its own tunnel.

mod expect;
mod ground;

use std::{collections::BTreeMap, net::IpAddr};

use spanwire_topology::{
    Family, Mesh, NodeName, Party, Plan, Prefix, PublicKey, Reachability, Tunnel, Via, plan,
};

pub(crate) use expect::{Expected, expected};
pub(crate) use ground::{Ground, Place, Spot};

/// More than any packet may need: a walk that takes longer is a loop.
const PATIENCE: usize = 8;

/// How a walk ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// At the right place, after so many hops between nodes.
    Arrived(usize),
    /// The mesh does not care: it leaves by the own routes of this node.
    Plain(NodeName),
    /// Nobody gets it.
    Stopped(String),
    /// Somebody gets it who must not.
    Astray(String),
    /// It goes round.
    Loop,
}

/// How a packet came to the node where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    Here,
    Hop,
    Tunnel,
}

/// What each node does.
pub(crate) type Plans = BTreeMap<NodeName, Plan>;

/// Every node's plan from one mesh.
pub(crate) fn plans(mesh: &Mesh) -> Plans {
    let nodes = mesh
        .locations
        .values()
        .flat_map(|location| location.members.keys());
    nodes
        .map(|node| (node.clone(), plan(mesh, node, &Reachability::default())))
        .collect()
}

/// Follows one packet.
pub(crate) fn walk(ground: &Ground<'_>, plans: &Plans, from: &Spot, to: IpAddr) -> Outcome {
    let (mut at, mut came) = match enter(ground, plans, from, to) {
        Ok(entered) => entered,
        Err(why) => return Outcome::Stopped(why),
    };
    let hosts = ground.hosts(to);
    for hops in 0..PATIENCE {
        if hosts.contains(&Place::Node(at.clone())) {
            return Outcome::Arrived(hops);
        }
        let Some(plan) = plans.get(&at) else {
            return Outcome::Stopped(format!("{at} has no plan"));
        };
        let back = plan
            .returns
            .get(&Prefix::host(to))
            .filter(|_| came == Came::Tunnel);
        let next = match back.map_or_else(|| choose(plan, to), |via| Choice::Via(via.clone())) {
            Choice::Via(Via::Unreachable) => return Outcome::Stopped(format!("unreachable at {at}")),
            Choice::Via(Via::Hop { .. }) if came == Came::Hop && stands_in(plan, to) => {
                through(ground, plans, plan, from.address, to)
            }
            Choice::Via(Via::Hop { .. }) if came == Came::Hop => {
                return Outcome::Stopped(format!("from hop to hop at {at}"));
            }
            Choice::Via(Via::Hop { node, .. }) if ground.near(&at, &node) => Ok((node, Came::Hop)),
            Choice::Via(Via::Hop { node, .. }) => {
                Err(Outcome::Stopped(format!("{node} is no neighbour of {at}")))
            }
            Choice::Via(Via::Tunnel) => through(ground, plans, plan, from.address, to),
            Choice::Local | Choice::Nothing if hosts.iter().any(|host| ground.delivers(&at, host)) => {
                return Outcome::Arrived(hops + 1);
            }
            // No kernel forwards a family that its host has no part in; by the own routes goes what starts here or enters.
            Choice::Nothing if came == Came::Hop && hops > 0 && !ground.speaks(&at, Family::of(to)) => {
                Err(Outcome::Stopped(format!("{at} has no part in its family")))
            }
            Choice::Local => Err(Outcome::Stopped(format!("no neighbour of {at} has it"))),
            Choice::Nothing => Err(Outcome::Plain(at.clone())),
        };
        match next {
            Ok(next) => (at, came) = next,
            Err(Outcome::Arrived(_)) => return Outcome::Arrived(hops + 1),
            Err(end) => return end,
        }
    }
    Outcome::Loop
}

/// The first node that sees the packet. A Peer sends to its attachment next to the destination, or to its home; a
/// machine in a LAN to the first active leader.
fn enter(ground: &Ground<'_>, plans: &Plans, from: &Spot, to: IpAddr) -> Result<(NodeName, Came), String> {
    match &from.place {
        Place::Node(node) => Ok((node.clone(), Came::Here)),
        Place::Lan(location) => {
            let first = ground.first(location).ok_or("its location has no leader")?;
            Ok((first, Came::Hop))
        }
        Place::Peer(name) => {
            let entry = ground.entry(name, to).ok_or("it has no home")?;
            let first = ground.first(&entry).ok_or("its home has no leader")?;
            let tunnel = plans.get(&first).and_then(|plan| plan.tunnel.as_ref());
            let key = ground.peer_key(name).ok_or("it is no peer any more")?;
            match tunnel.filter(|tunnel| accepts(tunnel, key, from.address)) {
                Some(_) => Ok((first, Came::Tunnel)),
                None => Err(format!("{first} does not allow it")),
            }
        }
    }
}

enum Choice {
    Via(Via),
    Local,
    Nothing,
}

/// Whether a standby leader has a tunnel towards an address: it sends there what a hop brought to it.
fn stands_in(plan: &Plan, to: IpAddr) -> bool {
    plan.tunnel
        .as_ref()
        .is_some_and(|tunnel| owner(tunnel, to).is_some())
}

/// The longest match.
fn choose(plan: &Plan, to: IpAddr) -> Choice {
    let routes = plan.routes.iter().map(|(prefix, route)| (prefix, Some(route)));
    let local = plan.local.iter().map(|prefix| (prefix, None));
    let matching = routes.chain(local).filter(|(prefix, _)| prefix.contains(to));
    match matching.max_by_key(|(prefix, _)| prefix.length()) {
        Some((_, Some(route))) => Choice::Via(route.via.clone()),
        Some((_, None)) => Choice::Local,
        None => Choice::Nothing,
    }
}

/// Whether a device takes a packet with this source from a party: its own, or of its group.
fn accepts(tunnel: &Tunnel, from: PublicKey, source: IpAddr) -> bool {
    let Some(owner) = owner(tunnel, source) else {
        return false;
    };
    let group = |key| tunnel.peers.get(key)?.group.as_ref();
    owner == from || group(&owner).is_some_and(|of_owner| group(&from) == Some(of_owner))
}

/// To whom a device sends, and whose source an address is: the longest match.
fn owner(tunnel: &Tunnel, address: IpAddr) -> Option<PublicKey> {
    let allowed = tunnel
        .peers
        .iter()
        .flat_map(|(key, peer)| peer.allowed_ips.iter().map(move |ip| (ip, key)));
    let matching = allowed.filter(|(prefix, _)| prefix.contains(address));
    matching
        .max_by_key(|(prefix, _)| prefix.length())
        .map(|(_, key)| *key)
}

/// Through the tunnel to the next leader.
fn through(
    ground: &Ground<'_>,
    plans: &Plans,
    plan: &Plan,
    source: IpAddr,
    to: IpAddr,
) -> Result<(NodeName, Came), Outcome> {
    let stop = |why: &str| Err(Outcome::Stopped(format!("{why} at {}", plan.me)));
    let Some(tunnel) = &plan.tunnel else {
        return stop("a route into a tunnel that is not there");
    };
    let Some(key) = owner(tunnel, to) else {
        return stop("nobody is allowed to have it");
    };
    match &tunnel.peers[&key].party {
        Party::Peer(peer) if ground.hosts(to).contains(&Place::Peer(peer.clone())) => {
            Err(Outcome::Arrived(0))
        }
        Party::Peer(peer) => Err(Outcome::Astray(format!("to peer {peer} from {}", plan.me))),
        Party::Leader(_, next) => {
            let receiver = plans.get(next).and_then(|plan| plan.tunnel.as_ref());
            let mine = ground.key(&plan.me);
            match receiver.filter(|tunnel| mine.is_some_and(|mine| accepts(tunnel, mine, source))) {
                Some(_) => Ok((next.clone(), Came::Tunnel)),
                None => stop(&format!("{next} does not allow {source}")),
            }
        }
    }
}

/// Walks every ordered pair, as text: how many arrive, and what is not as it should be.
pub(crate) fn report(mesh: &Mesh) -> String {
    let (mut arrived, mut stopped, mut plain, mut longest) = (0, 0, 0, 0);
    let mut faults = String::new();
    for (from, to, expected, outcome) in pairs(mesh) {
        match &outcome {
            Outcome::Arrived(hops) => (arrived, longest) = (arrived + 1, longest.max(*hops)),
            Outcome::Stopped(_) => stopped += 1,
            Outcome::Plain(_) => plain += 1,
            Outcome::Astray(_) | Outcome::Loop => {}
        }
        if !expected.met(&outcome) {
            faults += &format!("FAULT {from} to {to}: {expected:?}, but {outcome:?}\n");
        }
    }
    format!(
        "{arrived} pairs arrive within {longest} hops, {stopped} stop, {plain} are left to the CNI\n{faults}"
    )
}

/// Every ordered pair that the design speaks about, with what should happen and what does.
pub(crate) fn pairs(mesh: &Mesh) -> Vec<(Spot, Spot, Expected, Outcome)> {
    let ground = Ground::new([mesh]);
    let plans = plans(mesh);
    let spots = ground.spots();
    let all = spots
        .iter()
        .flat_map(|from| spots.iter().map(move |to| (from, to)));
    let judged = all.filter_map(|(from, to)| Some((from, to, expected(mesh, from, to)?)));
    judged
        .map(|(from, to, expected)| {
            (
                from.clone(),
                to.clone(),
                expected,
                walk(&ground, &plans, from, to.address),
            )
        })
        .collect()
}
