//! From facts to the mesh.
//!
//! 1. Every node gets a location, every claim of a key or a network is judged.
//! 2. Members are put together, with the overlay addresses they had.
//! 3. Every location elects its leaders, keeping incumbents.
//! 4. Pairs of locations whose leaders both report the link become established, and stay so.
//! 5. Peers get a home, the one they had where it still serves.
//! 6. What differs from the decision before gets a new generation.
//!
//! Deciding again on the same facts changes nothing, generation included.

mod asks;
mod established;
mod members;
mod peers;
mod place;

use std::collections::BTreeSet;

use crate::{
    Decision, Facts, Generation, Location, LocationFact, LocationName, Mesh, MeshMode, Seats, Settings,
    claims::{self, By, Denied, Use},
    elect,
};
use place::Placed;

/// Decides the mesh. `previous` is what was published last; it only makes the answer steady.
#[must_use]
pub fn decide(facts: &Facts, previous: &Mesh) -> Decision {
    let mut rejected = Vec::new();
    let fallback = facts
        .cluster
        .default_location
        .clone()
        .unwrap_or_else(default_location);
    let placed = place::place(facts, previous, &fallback, &mut rejected);
    let keyless = claims::keys(asks::keys(facts, previous, &placed), &mut rejected);
    let limits = asks::Limits::new(&facts.cluster);
    let asks = asks::networks(facts, previous, &placed, &keyless);
    let denied = claims::networks(asks, |ask| limits.refusal(ask), &mut rejected);

    let mut mesh = Mesh {
        generation: later(previous),
        ..Mesh::default()
    };
    for name in facts
        .locations
        .keys()
        .chain(placed.iter().map(|node| node.location))
    {
        if !mesh.locations.contains_key(name) {
            let settings = settings(facts.locations.get(name));
            let location = Location {
                settings,
                ..Location::default()
            };
            mesh.locations.insert(name.clone(), location);
        }
    }
    grant_cidrs(facts, &placed, &denied, &mut mesh);
    members::enter(facts, &placed, &keyless, &denied, &mut mesh, &mut rejected);
    lead(facts, previous, &mut mesh);
    established::establish(facts, previous, &mut mesh);
    peers::attach(facts, previous, &keyless, &denied, &mut mesh, &mut rejected);

    if mesh.locations == previous.locations && mesh.peers == previous.peers {
        mesh.generation = previous.generation;
    }
    rejected.sort_unstable();
    rejected.dedup();
    Decision { mesh, rejected }
}

fn default_location() -> LocationName {
    "default".parse().expect("it is a name of lower-case letters")
}

/// The generation after everything in the mesh, also where the mesh was put together from several publications.
fn later(previous: &Mesh) -> Generation {
    let members = previous
        .locations
        .values()
        .flat_map(|location| location.members.values());
    let latest = members.map(|member| member.generation).max().unwrap_or_default();
    Generation(latest.max(previous.generation).0.saturating_add(1))
}

fn settings(fact: Option<&LocationFact>) -> Settings {
    fact.map_or_else(Settings::default, |fact| Settings {
        mode: fact.mode,
        endpoint: fact.endpoint.clone(),
        cidrs: BTreeSet::new(),
        keepalive: fact.keepalive,
    })
}

fn seats(fact: Option<&LocationFact>) -> Seats {
    fact.map_or(
        Seats {
            mode: MeshMode::Leaders,
            active: 1,
            standby: 1,
        },
        |fact| Seats {
            mode: fact.mode,
            active: fact.active,
            standby: fact.standby,
        },
    )
}

fn grant_cidrs(facts: &Facts, placed: &[Placed<'_>], denied: &Denied<'_>, mesh: &mut Mesh) {
    let named = facts
        .locations
        .iter()
        .map(|(name, fact)| (name, By::Location(name), &fact.cidrs));
    let annotated = placed
        .iter()
        .map(|node| (node.location, By::Node(node.name), &node.fact.cidrs));
    for (location, by, cidrs) in named.chain(annotated.filter(|(_, _, cidrs)| !cidrs.is_empty())) {
        let granted = cidrs.iter().filter(|cidr| denied.granted(by, Use::Cidr, **cidr));
        if let Some(location) = mesh.locations.get_mut(location) {
            location.settings.cidrs.extend(granted.copied());
        }
    }
}

fn lead(facts: &Facts, previous: &Mesh, mesh: &mut Mesh) {
    for (name, location) in &mut mesh.locations {
        let fact = facts.locations.get(name);
        let nodes = location.members.iter().filter_map(|(node, member)| {
            let fact = facts.nodes.get(node)?;
            Some((node, fact, member))
        });
        let candidates: Vec<_> = nodes
            .filter_map(|(node, node_fact, member)| place::candidate(node, node_fact, member, fact))
            .collect();
        let incumbents = previous
            .locations
            .get(name)
            .map_or(&[][..], |before| &before.leaders);
        location.leaders = elect(&candidates, incumbents, seats(fact));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LeaderRole, NodeFact, NodeName, PublicKey, Role, Via, plan};

    #[test]
    fn a_follower_sends_through_its_leader_once_the_locations_are_established() {
        let mut facts = facts();
        let first = decide(&facts, &Mesh::default());
        assert_eq!(first.rejected, []);
        let follower = follower(&first.mesh, "left");
        let remote = "10.244.3.0/24".parse().unwrap();
        assert!(!plan(&first.mesh, &follower).routes.contains_key(&remote));

        for node in facts.nodes.values_mut() {
            node.links = ["left", "right"]
                .map(|other| (other.parse().unwrap(), true))
                .into();
        }
        let second = decide(&facts, &first.mesh);
        let plan = plan(&second.mesh, &follower);
        assert_eq!(plan.role, Role::Follower);
        let route = &plan.routes[&remote];
        assert!(matches!(&route.via, Via::Hop { node, .. } if *node != follower));
        assert_eq!(decide(&facts, &second.mesh).mesh, second.mesh);
    }

    fn facts() -> Facts {
        let mut facts = Facts::default();
        facts.cluster.overlay.insert("10.4.0.0/16".parse().unwrap());
        for (index, location) in (1..).zip(["left", "left", "right", "right"]) {
            let node = NodeFact {
                region: Some(location.parse().unwrap()),
                addresses: [format!("192.168.0.{index}").parse().unwrap()].into(),
                prefixes: [format!("10.244.{index}.0/24").parse().unwrap()].into(),
                public_key: Some(PublicKey::new([index; 32])),
                alive: true,
                ..NodeFact::default()
            };
            facts.nodes.insert(format!("n{index}").parse().unwrap(), node);
        }
        for name in ["left", "right"] {
            facts
                .locations
                .insert(name.parse().unwrap(), LocationFact::default());
        }
        facts
    }

    fn follower(mesh: &Mesh, location: &str) -> NodeName {
        let location = &mesh.locations[&location.parse().unwrap()];
        assert_eq!(location.leaders.len(), 1);
        assert_eq!(location.leaders[0].role, LeaderRole::Active);
        let mut nodes = location.members.keys();
        nodes
            .find(|node| **node != location.leaders[0].node)
            .unwrap()
            .clone()
    }
}
