//! From what is published to the mesh, in proportion to what changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spanwire_topology::{Generation, Location, LocationName, Member, Mesh, NodeName, PeerName};

use crate::{AcceptedPeer, Head, LocationSlice, LocationSliceSpec, Peer, SliceMember};

/// Puts the mesh together as [`assemble`](super::assemble()) does, again and again, from objects of which few changed.
///
/// An object that is the same, or equal, is not decoded again; a location none of whose slices changed keeps its `Arc` of
/// members, and one whose members come out equal does too. So who keeps something for each location can compare with
/// [`Arc::ptr_eq`].
///
/// What goes wrong in such incremental puzzles, and must not here:
///
/// * A node that stands in two slices, while it moves: which one counts may change though neither location's own slices
///   did. So where each node stands is kept for all slices, and every location that lists a touched node is looked at.
/// * An object that is replaced by an equal one, as every new list does: it is compared, and nothing follows.
#[derive(Debug, Default)]
pub struct Assembler {
    slices: BTreeMap<Arc<str>, Known>,
    peers: BTreeMap<String, Arc<Peer>>,
    /// Of each location its slices and the latest generation in it.
    parts: BTreeMap<LocationName, Part>,
    /// In which slices each node stands, with which generation.
    places: BTreeMap<NodeName, Vec<(Generation, Arc<str>)>>,
    mesh: Mesh,
}

/// A slice that was entered.
#[derive(Debug)]
struct Known {
    object: Arc<LocationSlice>,
    /// `None`: its name cannot be read, and nothing of it counts.
    location: Option<LocationName>,
}

#[derive(Debug, Default)]
struct Part {
    slices: BTreeSet<Arc<str>>,
    latest: Generation,
}

/// What a change touches.
#[derive(Default)]
struct Touched {
    locations: BTreeSet<LocationName>,
    nodes: BTreeSet<NodeName>,
    slices: BTreeSet<Arc<str>>,
}

impl Assembler {
    /// Returns the mesh of all LocationSlices and Peers that there are, by their names.
    pub fn assemble(
        &mut self,
        slices: &BTreeMap<String, Arc<LocationSlice>>,
        peers: &BTreeMap<String, Arc<Peer>>,
    ) -> &Mesh {
        let mut touched = Touched::default();
        let gone = self.slices.keys().filter(|name| !slices.contains_key(&***name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.leave(&name, &mut touched);
        }
        for (name, object) in slices {
            match self.slices.get_mut(name.as_str()) {
                Some(known) if Arc::ptr_eq(&known.object, object) => {}
                Some(known) if known.object.spec == object.spec => known.object = Arc::clone(object),
                Some(_) | None => {
                    let name: Arc<str> = name.as_str().into();
                    self.leave(&name, &mut touched);
                    self.enter(name, object, &mut touched);
                }
            }
        }
        // Where a touched node stands elsewhere too, that location may get it or lose it.
        for place in touched
            .nodes
            .iter()
            .flat_map(|node| self.places.get(node))
            .flatten()
        {
            let known = self.slices.get(&place.1);
            touched
                .locations
                .extend(known.and_then(|known| known.location.clone()));
        }
        for name in &touched.locations {
            self.rebuild(name, &touched);
        }
        let latest = self.parts.values().map(|part| part.latest);
        self.mesh.generation = latest.max().unwrap_or_default();
        self.enter_peers(peers);
        &self.mesh
    }

    fn leave(&mut self, name: &Arc<str>, touched: &mut Touched) {
        let Some(Known { object, location }) = self.slices.remove(name) else {
            return;
        };
        let Some(location) = location else { return };
        if let Some(part) = self.parts.get_mut(&location) {
            part.slices.remove(name);
        }
        for node in object
            .spec
            .members
            .iter()
            .filter_map(|member| member.node.parse::<NodeName>().ok())
        {
            if let Some(places) = self.places.get_mut(&node) {
                places.retain(|(_, slice)| slice != name);
                if places.is_empty() {
                    self.places.remove(&node);
                }
            }
            touched.nodes.insert(node);
        }
        touched.locations.insert(location);
    }

    fn enter(&mut self, name: Arc<str>, object: &Arc<LocationSlice>, touched: &mut Touched) {
        let location = object.spec.location.parse::<LocationName>().ok();
        if let Some(location) = &location {
            self.parts
                .entry(location.clone())
                .or_default()
                .slices
                .insert(Arc::clone(&name));
            for (node, member) in best(&object.spec) {
                let Ok(node) = node.parse::<NodeName>() else {
                    continue;
                };
                let place = (Generation(member.generation), Arc::clone(&name));
                self.places.entry(node.clone()).or_default().push(place);
                touched.nodes.insert(node);
            }
            touched.locations.insert(location.clone());
            touched.slices.insert(Arc::clone(&name));
        }
        let object = Arc::clone(object);
        self.slices.insert(name, Known { object, location });
    }

    /// Returns whether a node is taken from this slice: of those with the highest generation the first by name.
    fn taken(&self, node: &NodeName, slice: &str) -> bool {
        let places = self.places.get(node).into_iter().flatten();
        let first = places.max_by(|(one, a), (other, b)| one.cmp(other).then_with(|| b.cmp(a)));
        first.is_some_and(|(_, name)| **name == *slice)
    }

    /// Puts one location together.
    fn rebuild(&mut self, name: &LocationName, touched: &Touched) {
        let slices = self.parts.get(name).map(|part| &part.slices);
        let Some(slices) = slices.filter(|slices| !slices.is_empty()) else {
            self.parts.remove(name);
            self.mesh.locations.remove(name);
            return;
        };
        let before = self
            .mesh
            .locations
            .get(name)
            .map(|before| Arc::clone(&before.members));
        let before = before.unwrap_or_default();
        let mut head: Option<&Head> = None;
        let mut members: BTreeMap<NodeName, Member> = BTreeMap::new();
        for slice in slices {
            let spec = &self.slices[slice].object.spec;
            if let Some(here) = &spec.head
                && head.is_none_or(|seen| seen.mesh_generation < here.mesh_generation)
            {
                head = Some(here);
            }
            for (text, entry) in best(spec) {
                let Ok(node) = text.parse::<NodeName>() else {
                    continue;
                };
                if !self.taken(&node, slice) {
                    continue;
                }
                let same = !touched.slices.contains(slice) && !touched.nodes.contains(&node);
                let decoded = match before.get_key_value(&node).filter(|_| same) {
                    Some((node, member)) => Some((node.clone(), member.clone())),
                    None => entry.try_into().ok(),
                };
                members.extend(decoded);
            }
        }
        let in_members = members.values().map(|member| member.generation);
        let in_head = head.map(|head| Generation(head.mesh_generation));
        let latest = in_members.chain(in_head).max().unwrap_or_default();
        let location = Location {
            members: if *before == members {
                before
            } else {
                Arc::new(members)
            },
            ..head.map(Location::from).unwrap_or_default()
        };
        self.mesh.locations.insert(name.clone(), location);
        if let Some(part) = self.parts.get_mut(name) {
            part.latest = latest;
        }
    }

    fn enter_peers(&mut self, peers: &BTreeMap<String, Arc<Peer>>) {
        let gone = self.peers.keys().filter(|name| !peers.contains_key(*name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.peers.remove(&name);
            if let Ok(name) = name.parse::<PeerName>() {
                self.mesh.peers.remove(&name);
            }
        }
        for (name, object) in peers {
            let known = self.peers.insert(name.clone(), Arc::clone(object));
            let same = |known: Arc<Peer>| Arc::ptr_eq(&known, object) || accepted(&known) == accepted(object);
            if known.is_some_and(same) {
                continue;
            }
            let Ok(name) = name.parse::<PeerName>() else {
                continue;
            };
            match accepted(object).and_then(|accepted| accepted.try_into().ok()) {
                Some(peer) => drop(self.mesh.peers.insert(name, peer)),
                None => drop(self.mesh.peers.remove(&name)),
            }
        }
    }
}

fn accepted(peer: &Peer) -> Option<&AcceptedPeer> {
    peer.status.as_ref()?.accepted.as_ref()
}

/// Returns each node of a slice once: where it stands twice, the higher generation, else the first.
fn best(spec: &LocationSliceSpec) -> BTreeMap<&str, &SliceMember> {
    let mut best: BTreeMap<&str, &SliceMember> = BTreeMap::new();
    for member in &spec.members {
        let seen = best.entry(member.node.as_str()).or_insert(member);
        if seen.generation < member.generation {
            *seen = member;
        }
    }
    best
}
