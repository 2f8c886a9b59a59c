//! What should happen between two places of a mesh, said without plans.

use spanwire_topology::{
    LeaderRole, Location, LocationName, Mesh, MeshMode, NodeName, carrier,
    trace::{Place, Spot, Verdict},
};

/// What should happen to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It arrives within three hops.
    Arrives,
    /// It is left to the CNI and the underlay.
    Plain,
    /// It goes nowhere.
    Stops,
}

impl Expected {
    pub(crate) fn met(self, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Arrived(hops) => self == Self::Arrives && *hops <= 3,
            Verdict::Underlay(_) => self == Self::Plain,
            Verdict::Dropped(..) => self == Self::Stops,
            Verdict::Misdelivered(..) | Verdict::Loop => false,
        }
    }
}

/// `None`: the design says nothing about this pair.
pub(crate) fn expected(mesh: &Mesh, from: &Spot, to: &Spot) -> Option<Expected> {
    let expected = wherever_it_begins(mesh, from, to)?;
    // What leaves a tunnel goes nowhere but into the mesh.
    let leaves_tunnel = matches!(from.place, Place::Peer(_));
    Some(match expected {
        Expected::Plain if leaves_tunnel => Expected::Stops,
        Expected::Plain | Expected::Arrives | Expected::Stops => expected,
    })
}

fn wherever_it_begins(mesh: &Mesh, from: &Spot, to: &Spot) -> Option<Expected> {
    if from.place == to.place || from.address.is_ipv4() != to.address.is_ipv4() {
        return None;
    }
    let Some(start) = entry(mesh, from, to) else {
        return Some(Expected::Stops);
    };
    let here = mesh.locations.get(&start)?;
    if enters_by_leader(from) && first(here).is_none() {
        return Some(Expected::Stops);
    }
    if from.overlay || to.overlay {
        return overlay(mesh, from, to, &start, here);
    }
    if let Place::Peer(name) = &to.place {
        let peer = &mesh.peers[name];
        let home = peer.home.as_ref();
        if peer.attachments.contains(&start) {
            return Some(attached(from, &start, here));
        }
        let Some(home) = home else {
            return Some(Expected::Plain);
        };
        return Some(remote(from, here, home, &mesh.locations[home], None));
    }
    let target = to.location.as_ref()?;
    let there = &mesh.locations[target];
    let node = match &to.place {
        Place::Node(node) => Some(node),
        Place::Lan(_) | Place::Peer(_) => None,
    };
    if *target == start {
        return inside(from, &start, here, node);
    }
    Some(remote(from, here, target, there, node))
}

/// Returns the location where a packet enters the mesh.
fn entry(mesh: &Mesh, from: &Spot, to: &Spot) -> Option<LocationName> {
    match &from.place {
        Place::Node(_) | Place::Lan(_) => from.location.clone(),
        Place::Peer(name) => {
            let near = to
                .location
                .clone()
                .filter(|near| mesh.peers[name].attachments.contains(near));
            near.or_else(|| from.location.clone())
        }
    }
}

fn enters_by_leader(from: &Spot) -> bool {
    matches!(from.place, Place::Lan(_) | Place::Peer(_))
}

fn first(location: &Location) -> Option<&NodeName> {
    location.active().next()
}

/// Returns whether the sender can use a leader of its location.
fn led(from: &Spot, here: &Location) -> bool {
    match &from.place {
        Place::Node(node) => carrier(here, node).is_some(),
        Place::Lan(_) | Place::Peer(_) => first(here).is_some(),
    }
}

/// To what another location carries.
fn remote(
    from: &Spot,
    here: &Location,
    target: &LocationName,
    there: &Location,
    node: Option<&NodeName>,
) -> Expected {
    let carried = node.map_or_else(|| first(there).is_some(), |node| carrier(there, node).is_some());
    match here.established.contains(target) {
        false => Expected::Plain,
        true if carried && led(from, here) => Expected::Arrives,
        true => Expected::Stops,
    }
}

fn alone(start: &LocationName, here: &Location) -> bool {
    here.settings.mode == MeshMode::Nodes && here.established.contains(start)
}

/// To a Peer attached to the location of the sender.
fn attached(from: &Spot, start: &LocationName, here: &Location) -> Expected {
    let reaches = if alone(start, here) {
        led(from, here)
    } else {
        first(here).is_some()
    };
    if reaches {
        Expected::Arrives
    } else {
        Expected::Stops
    }
}

/// Within one location.
fn inside(from: &Spot, start: &LocationName, here: &Location, to: Option<&NodeName>) -> Option<Expected> {
    let (Place::Node(_) | Place::Peer(_), Some(to)) = (&from.place, to) else {
        // Between a LAN and its own location Spanwire has no part, except that nodes go on reaching the LAN.
        return matches!(from.place, Place::Node(_) | Place::Peer(_)).then_some(Expected::Arrives);
    };
    if !alone(start, here) {
        return Some(Expected::Arrives);
    }
    Some(match carrier(here, to) {
        Some(_) if led(from, here) => Expected::Arrives,
        _ => Expected::Stops,
    })
}

/// From or to the overlay address of a leader. Standby leaders send only between overlay addresses.
fn overlay(mesh: &Mesh, from: &Spot, to: &Spot, start: &LocationName, here: &Location) -> Option<Expected> {
    let target = to.location.as_ref()?;
    let apart = target != start || here.settings.mode == MeshMode::Nodes;
    let (Place::Node(sender), true) = (&from.place, apart) else {
        return None;
    };
    let standby = here.role(sender) == Some(LeaderRole::Standby);
    match (from.overlay, to.overlay) {
        (true, true) => Some(Expected::Arrives),
        (false, false) => None,
        _ if standby => None,
        (false, true) if led(from, here) => Some(Expected::Arrives),
        (false, true) => Some(Expected::Plain),
        (true, false) if target == start => None,
        (true, false) => match &to.place {
            Place::Node(node) => Some(remote(from, here, target, &mesh.locations[target], Some(node))),
            Place::Lan(_) | Place::Peer(_) => None,
        },
    }
}
