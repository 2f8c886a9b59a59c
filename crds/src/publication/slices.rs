//! From the mesh to what is published.

use std::collections::{BTreeMap, BTreeSet};

use spanwire_topology::{Generation, Location, LocationName, Member, Mesh, NodeName, Peer};

use super::MEMBERS_PER_SLICE;
use crate::{AcceptedPeer, Head, LocationSliceSpec, SliceMember};

/// Returns what is to be published for `mesh`, by the names of the LocationSlices, given what `published` is. What did
/// not change equals what is published.
#[must_use]
pub fn slices(
    mesh: &Mesh,
    published: &BTreeMap<&str, &LocationSliceSpec>,
) -> BTreeMap<String, LocationSliceSpec> {
    let mut by_location: BTreeMap<&str, Vec<(&str, &LocationSliceSpec)>> = BTreeMap::new();
    for (name, slice) in published {
        by_location
            .entry(slice.location.as_str())
            .or_default()
            .push((name, slice));
    }
    let of = |(name, location): (&LocationName, &Location)| {
        let published = by_location.get(name.as_str()).into_iter().flatten().copied();
        location_slices(name, location, mesh.generation, published)
    };
    mesh.locations.iter().flat_map(of).collect()
}

/// Returns what is to be published of one location, as [`slices`] does for all. `published` are the slices whose spec
/// names this location. What a location's slices are depends on nothing else, so who keeps them renders them again only
/// when the location or one of these slices changed; `generation` is that of the mesh, and goes into a head that differs.
#[must_use]
pub fn location_slices<'a>(
    name: &LocationName,
    location: &Location,
    generation: Generation,
    published: impl IntoIterator<Item = (&'a str, &'a LocationSliceSpec)>,
) -> BTreeMap<String, LocationSliceSpec> {
    let head_name = format!("{name}-head");
    let mut old_head = None;
    let mut seats: Seats<'_> = Vec::new();
    for (slice_name, spec) in published {
        match &spec.head {
            Some(head) if slice_name == head_name => old_head = Some(head),
            Some(_) => {}
            None => {
                let nodes = spec.members.iter().map(|member| member.node.as_str());
                seats.push((slice_name, nodes.collect()));
            }
        }
    }
    let seated = seat(name, location, seats);
    let names = seated.keys().cloned().collect();
    let head = head(generation, location, names, old_head);
    let mut wanted = BTreeMap::from([(head_name, slice(name, Some(head), Vec::new()))]);
    for (slice_name, members) in seated {
        let members = members.into_iter().map(SliceMember::from).collect();
        wanted.insert(slice_name, slice(name, None, members));
    }
    wanted
}

/// Returns what of a Peer stands, for its status.
#[must_use]
pub fn accepted(peer: &Peer) -> AcceptedPeer {
    AcceptedPeer::from(peer)
}

/// The member slices of a location as published: name and nodes.
type Seats<'a> = Vec<(&'a str, Vec<&'a str>)>;

/// Returns which member sits in which slice: where it was, else in the first one with room, one that changes anyway
/// before others, else in a new one.
fn seat<'a>(
    name: &LocationName,
    location: &'a Location,
    published: Seats<'_>,
) -> BTreeMap<String, BTreeMap<&'a NodeName, &'a Member>> {
    let mut unseated: BTreeMap<&str, (&NodeName, &Member)> = location
        .members
        .iter()
        .map(|(node, member)| (node.as_str(), (node, member)))
        .collect();
    let mut seated: BTreeMap<String, BTreeMap<&NodeName, &Member>> = BTreeMap::new();
    let mut changed: BTreeSet<String> = BTreeSet::new();
    for (slice, nodes) in published {
        let stay: BTreeMap<_, _> = nodes
            .iter()
            .take(MEMBERS_PER_SLICE)
            .filter_map(|node| unseated.remove(node))
            .collect();
        if stay.len() < nodes.len() {
            changed.insert(slice.to_owned());
        }
        if !stay.is_empty() {
            seated.insert(slice.to_owned(), stay);
        }
    }
    for (node, member) in unseated.into_values() {
        let room =
            |seated: &BTreeMap<String, BTreeMap<_, _>>, changed: &BTreeSet<String>, only_changed: bool| {
                seated
                    .iter()
                    .find(|(slice, members)| {
                        members.len() < MEMBERS_PER_SLICE && (!only_changed || changed.contains(*slice))
                    })
                    .map(|(slice, _)| slice.clone())
            };
        let slice = room(&seated, &changed, true)
            .or_else(|| room(&seated, &changed, false))
            .unwrap_or_else(|| free_name(name, &seated));
        changed.insert(slice.clone());
        seated.entry(slice).or_default().insert(node, member);
    }
    seated
}

/// Returns the first free of `NAME-m1`, `NAME-m2`, …. No two locations share such a name, nor that of a head, because
/// the part behind the last dash tells which it is.
fn free_name<T>(location: &LocationName, seated: &BTreeMap<String, T>) -> String {
    (1usize..)
        .map(|number| format!("{location}-m{number}"))
        .find(|name| !seated.contains_key(name))
        .expect("there are more numbers than slices")
}

fn slice(location: &LocationName, head: Option<Head>, members: Vec<SliceMember>) -> LocationSliceSpec {
    LocationSliceSpec {
        location: location.to_string(),
        head,
        members,
    }
}

/// Returns the head, with the generation that it had where nothing else differs.
fn head(
    generation: Generation,
    location: &Location,
    member_slices: Vec<String>,
    published: Option<&Head>,
) -> Head {
    let mut head = Head {
        member_slices,
        ..Head::from((generation, location))
    };
    if let Some(old) = published {
        let fresh = std::mem::replace(&mut head.mesh_generation, old.mesh_generation);
        if head != *old {
            head.mesh_generation = fresh;
        }
    }
    head
}
