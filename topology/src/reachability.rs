//! What a node observes of the leaders: the one input of [`plan`](crate::plan()) that is not published.
//!
//! Observations of two nodes may differ, and may be wrong for a while. So they only choose among ways that the mesh
//! allows anyway: a location whose leaders form a group takes what any of them sends, whichever carries it.

use std::collections::BTreeSet;

use crate::{LocationName, NodeName};

/// What a node observes of the leaders of its own location. The default has observed nothing, and takes every location
/// for reachable through every leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reachability {
    /// The locations that a leader does not reach.
    lost: BTreeSet<(NodeName, LocationName)>,
}

impl Reachability {
    /// Records whether packets for a location arrive there through this leader. Returns whether that is news.
    pub fn observe(&mut self, leader: NodeName, location: LocationName, arrives: bool) -> bool {
        if arrives {
            self.lost.remove(&(leader, location))
        } else {
            self.lost.insert((leader, location))
        }
    }

    /// Returns whether a leader can be used towards a location.
    #[must_use]
    pub fn usable(&self, leader: &NodeName, location: &LocationName) -> bool {
        self.lost.is_empty() || !self.lost.contains(&(leader.clone(), location.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Facts, Mesh, NodeFact, PublicKey, Via, decide, plan};

    #[test]
    fn what_is_observed_is_news_once() {
        let mut seen = Reachability::default();
        assert!(!seen.observe(name("a1"), name("far"), true));
        assert!(seen.observe(name("a1"), name("far"), false) && !seen.usable(&name("a1"), &name("far")));
        assert!(!seen.observe(name("a1"), name("far"), false));
        assert!(seen.usable(&name("a1"), &name("near")) && seen.usable(&name("a2"), &name("far")));
        assert!(seen.observe(name("a1"), name("far"), true));
        assert_eq!(seen, Reachability::default());
    }

    #[test]
    fn the_way_out_is_the_first_usable_leader_for_each_location_on_its_own() {
        let mesh = mesh();
        let leaders: Vec<NodeName> = mesh.locations[&name("here")]
            .leaders
            .iter()
            .map(|leader| leader.node.clone())
            .collect();
        let [first, second] = &leaders[..] else {
            panic!("{leaders:?}")
        };
        let mut members = mesh.locations[&name("here")].members.keys();
        let follower = members.find(|node| !leaders.contains(node)).unwrap();
        let ways = |seen: &Reachability| {
            let plan = plan(&mesh, follower, seen);
            ["10.244.4.0/24", "10.244.5.0/24"].map(|remote| {
                match &plan.routes[&remote.parse().unwrap()].via {
                    Via::Hop { node, .. } => node.clone(),
                    other @ (Via::Tunnel | Via::Unreachable) => panic!("{other}"),
                }
            })
        };
        let mut seen = Reachability::default();
        assert_eq!(ways(&seen), [first, first].map(Clone::clone));
        seen.observe(first.clone(), name("far"), false);
        assert_eq!(ways(&seen), [second, first].map(Clone::clone));
        seen.observe(second.clone(), name("far"), false);
        assert_eq!(ways(&seen), [first, first].map(Clone::clone), "none is better");
        seen.observe(first.clone(), name("near"), false);
        assert_eq!(ways(&seen), [first, second].map(Clone::clone));
    }

    /// Three nodes `here`, two of which lead, and one each `far` and `near`, all established.
    fn mesh() -> Mesh {
        let mut facts = Facts::default();
        let places = ["here", "here", "here", "far", "near"];
        for (index, location) in (1..).zip(places) {
            let node = NodeFact {
                region: Some(name(location)),
                addresses: [format!("192.168.0.{index}").parse().unwrap()].into(),
                prefixes: [format!("10.244.{index}.0/24").parse().unwrap()].into(),
                public_key: Some(PublicKey::new([index; 32])),
                alive: true,
                links: places.map(|other| (name(other), true)).into(),
                ..NodeFact::default()
            };
            facts.nodes.insert(name(&format!("n{index}")), node);
        }
        decide(&facts, &Mesh::default()).mesh
    }

    fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }
}
