//! What a node observes of the leaders: the one input of [`plan`](crate::plan()) that is not published.
//!
//! Observations of two nodes may differ, and may be wrong for a while. So they only choose among ways that the mesh
//! allows anyway: a location whose leaders form a group takes what any of them sends, whichever carries it.
//!
//! There are three kinds, for three choices. Every node chooses by which leader of its own location it sends to another one. A
//! leader chooses besides to which leader over there, and whether what comes for a member of its own location goes to it directly or
//! by another leader.
//!
//! Where the WireGuard of one of two leaders has no groups it takes a source from one leader alone, and what comes by another one
//! is lost. So leaders say which ones they use ([`Advice`]), which may be old or a lie like all else here, and chooses no other ways.
//!
//! A leader whose tunnels are about to end still works, and says so. It is passed by where another one can be used.

use std::collections::{BTreeMap, BTreeSet};

use crate::{LocationName, NodeName};

/// What a leader of another location says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// The leaders of the hearer's location to which it sends what is for there.
    pub uses: BTreeSet<NodeName>,
    /// Its WireGuard knows groups of peers: it takes what the others send, too.
    pub groups: bool,
    /// Its tunnels are about to end.
    pub draining: bool,
}

/// Why a node, as a leader, does not use a leader of another location that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It has only just begun to answer again.
    Returning,
    /// Nothing came from behind it.
    Useless,
}

/// What a node observes of leaders. The default has observed nothing, and takes every location for reachable through
/// every leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reachability {
    /// The locations that a leader of the own one does not reach.
    lost: BTreeSet<(NodeName, LocationName)>,
    /// The leaders of other locations that this node, as a leader, cannot use.
    forsaken: BTreeSet<(LocationName, NodeName)>,
    /// Those of them that answer all the same.
    answering: BTreeMap<(LocationName, NodeName), Doubt>,
    /// What the leaders of other locations say to this one, which is a leader.
    advice: BTreeMap<(LocationName, NodeName), Advice>,
    /// The leaders of other locations whose tunnels are about to end.
    draining: BTreeSet<(LocationName, NodeName)>,
    /// Those of this node are.
    is_draining: bool,
    /// The locations that this node, as a leader, reaches by no way.
    unreached: BTreeSet<LocationName>,
    /// The other nodes of the own location that this node, as a leader, does not reach.
    cut: BTreeSet<NodeName>,
}

impl Reachability {
    /// Records whether packets for a location arrive there through this leader of the own one. Returns whether that is
    /// news.
    pub fn observe(&mut self, leader: NodeName, location: LocationName, arrives: bool) -> bool {
        if arrives {
            self.lost.remove(&(leader, location))
        } else {
            self.lost.insert((leader, location))
        }
    }

    /// Records whether a leader of another location takes what this node, as a leader, sends it through its tunnel, and
    /// hands it on. Returns whether that is news.
    pub fn observe_far(&mut self, location: LocationName, leader: NodeName, usable: bool) -> bool {
        if usable {
            self.forsaken.remove(&(location, leader))
        } else {
            self.forsaken.insert((location, leader))
        }
    }

    /// Records which of the leaders of other locations that are not usable answer this node all the same. Returns whether that is
    /// news.
    pub fn observe_answering(&mut self, leaders: BTreeMap<(LocationName, NodeName), Doubt>) -> bool {
        let is_news = self.answering != leaders;
        self.answering = leaders;
        is_news
    }

    /// Records what leaders of other locations say to this node. What they say is of use only where the WireGuard of one of the
    /// two has no groups. Returns whether that is news.
    pub fn observe_advice(&mut self, advice: BTreeMap<(LocationName, NodeName), Advice>) -> bool {
        let is_news = self.advice != advice;
        self.advice = advice;
        is_news
    }

    /// Records which leaders of other locations say that their tunnels are about to end. Returns whether that is news.
    pub fn observe_draining(&mut self, leaders: BTreeSet<(LocationName, NodeName)>) -> bool {
        let is_news = self.draining != leaders;
        self.draining = leaders;
        is_news
    }

    /// Records whether the tunnels of this node are about to end. Returns whether that is news.
    pub fn observe_own_end(&mut self, draining: bool) -> bool {
        std::mem::replace(&mut self.is_draining, draining) != draining
    }

    /// Records which locations this node, as a leader, reaches by no way at all: by no leader over there, and by none of its own
    /// location. Returns whether that is news.
    pub fn observe_unreached(&mut self, locations: BTreeSet<LocationName>) -> bool {
        let is_news = self.unreached != locations;
        self.unreached = locations;
        is_news
    }

    /// Records which other nodes of its location this node, as a leader, does not reach by the hop. Returns whether that is news.
    pub fn observe_cut(&mut self, nodes: BTreeSet<NodeName>) -> bool {
        let is_news = self.cut != nodes;
        self.cut = nodes;
        is_news
    }

    /// Returns the other nodes of the own location that are not reached by the hop.
    #[must_use]
    pub fn cut(&self) -> &BTreeSet<NodeName> {
        &self.cut
    }

    /// Returns whether a location may be reached by some way.
    #[must_use]
    pub fn reaches(&self, location: &LocationName) -> bool {
        !self.unreached.contains(location)
    }

    /// Returns the locations that are reached by no way.
    #[must_use]
    pub fn unreached(&self) -> &BTreeSet<LocationName> {
        &self.unreached
    }

    /// Returns whether a leader of the own location can be used towards another location.
    #[must_use]
    pub fn usable(&self, leader: &NodeName, location: &LocationName) -> bool {
        self.lost.is_empty() || !self.lost.contains(&(leader.clone(), location.clone()))
    }

    /// Returns whether this node, as a leader, can use a leader of another location.
    #[must_use]
    pub fn far_usable(&self, location: &LocationName, leader: &NodeName) -> bool {
        self.forsaken.is_empty() || !self.forsaken.contains(&(location.clone(), leader.clone()))
    }

    /// Returns whether the tunnels of a leader of another location are about to end.
    #[must_use]
    pub fn drains(&self, location: &LocationName, leader: &NodeName) -> bool {
        !self.draining.is_empty() && self.draining.contains(&(location.clone(), leader.clone()))
    }

    /// Returns whether those of this node are.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Returns why this node, as a leader, does not use a leader of another location that answers; `None` where it uses it, or has no
    /// answer.
    #[must_use]
    pub fn doubt(&self, location: &LocationName, leader: &NodeName) -> Option<Doubt> {
        if self.answering.is_empty() {
            return None;
        }
        self.answering.get(&(location.clone(), leader.clone())).copied()
    }

    /// Returns what a leader of another location says; `None` where it says nothing.
    #[must_use]
    pub fn advice(&self, location: &LocationName, leader: &NodeName) -> Option<&Advice> {
        if self.advice.is_empty() {
            return None;
        }
        self.advice.get(&(location.clone(), leader.clone()))
    }

    /// Returns whether the published leaders of other locations are to be used, whatever is observed of each.
    #[must_use]
    pub(crate) fn keeps_published_leaders(&self) -> bool {
        self.forsaken.is_empty() && self.advice.is_empty() && self.draining.is_empty()
    }

    /// Returns the leaders of the own location that cannot be used, each with the location towards which.
    pub fn lost(&self) -> impl Iterator<Item = (&NodeName, &LocationName)> {
        self.lost.iter().map(|(leader, location)| (leader, location))
    }

    /// Returns the leaders of other locations that cannot be used, each with its location.
    pub fn forsaken(&self) -> impl Iterator<Item = (&LocationName, &NodeName)> {
        self.forsaken.iter().map(|(location, leader)| (location, leader))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Facts, Holder, Mesh, NodeFact, PublicKey, Via, decide, plan};

    #[test]
    fn what_is_observed_is_news_once() {
        let mut seen = Reachability::default();
        assert!(!seen.observe(name("a1"), name("far"), true));
        assert!(seen.observe(name("a1"), name("far"), false) && !seen.usable(&name("a1"), &name("far")));
        assert!(!seen.observe(name("a1"), name("far"), false));
        assert!(seen.usable(&name("a1"), &name("near")) && seen.usable(&name("a2"), &name("far")));
        assert_eq!(seen.lost().collect::<Vec<_>>(), [(&name("a1"), &name("far"))]);
        assert!(seen.observe(name("a1"), name("far"), true));
        assert!(
            seen.observe_far(name("far"), name("b1"), false)
                && !seen.observe_far(name("far"), name("b1"), false)
        );
        assert!(!seen.far_usable(&name("far"), &name("b1")) && seen.far_usable(&name("near"), &name("b1")));
        assert_eq!(seen.forsaken().collect::<Vec<_>>(), [(&name("far"), &name("b1"))]);
        assert!(seen.observe_far(name("far"), name("b1"), true));
        assert!(
            seen.observe_unreached([name("far")].into()) && !seen.observe_unreached([name("far")].into())
        );
        assert!(!seen.reaches(&name("far")) && seen.reaches(&name("near")));
        assert!(seen.observe_unreached(BTreeSet::new()));
        assert!(seen.observe_cut([name("a3")].into()) && !seen.observe_cut([name("a3")].into()));
        assert_eq!(seen.cut(), &[name("a3")].into());
        assert!(seen.observe_cut(BTreeSet::new()));
        let far = (name::<LocationName>("far"), name::<NodeName>("b1"));
        let answering: BTreeMap<_, _> = [(far.clone(), Doubt::Useless)].into();
        assert!(seen.observe_answering(answering.clone()) && !seen.observe_answering(answering));
        assert_eq!(seen.doubt(&far.0, &far.1), Some(Doubt::Useless));
        assert_eq!(seen.doubt(&name("near"), &far.1), None);
        assert!(seen.observe_answering(BTreeMap::new()));
        let advice: BTreeMap<_, _> = [(far.clone(), Advice::default())].into();
        assert!(seen.observe_advice(advice.clone()) && !seen.observe_advice(advice));
        assert_eq!(seen.advice(&far.0, &far.1), Some(&Advice::default()));
        assert!(seen.observe_advice(BTreeMap::new()));
        assert!(seen.observe_draining([far.clone()].into()) && !seen.observe_draining([far.clone()].into()));
        assert!(seen.drains(&far.0, &far.1) && !seen.drains(&name("near"), &far.1));
        assert!(seen.observe_draining(BTreeSet::new()));
        assert!(seen.observe_own_end(true) && !seen.observe_own_end(true) && seen.is_draining());
        assert!(seen.observe_own_end(false));
        assert_eq!(seen, Reachability::default());
    }

    #[test]
    fn what_is_reached_by_no_way_is_unreachable_but_for_the_overlay_addresses_of_its_leaders() {
        let mesh = mesh();
        let leader = &mesh.locations[&name("here")].leaders[0].node;
        let mut seen = Reachability::default();
        let published = plan(&mesh, leader, &seen);
        seen.observe_unreached([name("far")].into());
        let plan = plan(&mesh, leader, &seen);
        assert_eq!(
            plan.ways,
            [(name("far"), Via::Unreachable), (name("near"), Via::Tunnel)].into()
        );
        assert!(plan.routes.values().any(|route| route.holder == Holder::Overlay));
        for (prefix, route) in &plan.routes {
            let is_refused = route.location == name("far") && route.holder != Holder::Overlay;
            let expected = if is_refused {
                &Via::Unreachable
            } else {
                &Via::Tunnel
            };
            assert_eq!(route.via, *expected, "{prefix}");
        }
        assert_eq!(plan.probes, published.probes, "it is asked on");
        assert_eq!(plan.tunnel, published.tunnel);
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

    #[test]
    fn leaders_whose_tunnels_are_about_to_end_are_passed_by_where_another_one_works() {
        let mesh = mesh();
        let [here, far] = ["here", "far"].map(name::<LocationName>);
        let leaders: Vec<NodeName> = mesh.locations[&here]
            .leaders
            .iter()
            .map(|leader| leader.node.clone())
            .collect();
        let [me, other] = [&leaders[0], &leaders[1]];
        let mut seen = Reachability::default();
        let way = |seen: &Reachability| match plan(&mesh, me, seen).ways[&far].clone() {
            Via::Tunnel => me.clone(),
            Via::Hop { node, .. } => node,
            Via::Unreachable => panic!("it is reached"),
        };
        seen.observe_own_end(true);
        assert_eq!(way(&seen), *other);
        seen.observe(other.clone(), far.clone(), false);
        assert_eq!(way(&seen), *me, "the other one does not work");

        // From `far`, whose one leader sees two of `here`.
        let receiver = |seen: &Reachability| {
            let [from] = &mesh.locations[&far].leaders[..] else {
                panic!("one leads")
            };
            let in_use = plan(&mesh, &from.node, seen).in_use();
            in_use[&here].iter().next().unwrap().clone()
        };
        let key = |leader: &NodeName| (here.clone(), leader.clone());
        let mut seen = Reachability::default();
        assert_eq!(receiver(&seen), *me);
        seen.observe_draining([key(me)].into());
        assert_eq!(receiver(&seen), *other);
        seen.observe_draining([key(me), key(other)].into());
        assert_eq!(receiver(&seen), *me, "it still works");
        seen.observe_far(here.clone(), me.clone(), false);
        assert_eq!(receiver(&seen), *other);
        seen.observe_draining([key(other)].into());
        assert_eq!(
            receiver(&seen),
            *other,
            "what ends later is better than what is lost"
        );
    }

    #[test]
    fn pods_of_a_node_that_a_leader_does_not_reach_get_what_leaves_its_tunnel_by_another_leader() {
        let mesh = mesh();
        let leaders = &mesh.locations[&name("here")].leaders;
        let [me, other] = [0, 1].map(|place| leaders[place].node.clone());
        let mut members = mesh.locations[&name("here")].members.iter();
        let (cut, member) = members.find(|(node, _)| ![&me, &other].contains(node)).unwrap();
        let pods = *member.prefixes.first().unwrap();
        let by = |seen: &Reachability| {
            let via = plan(&mesh, &me, seen).returns.get(&pods).cloned();
            via.map(|via| match via {
                Via::Hop { node, .. } => node,
                via @ (Via::Tunnel | Via::Unreachable) => panic!("{via}"),
            })
        };
        let mut seen = Reachability::default();
        assert_eq!(by(&seen), None, "the CNI brings it there");
        let published = plan(&mesh, &me, &seen);
        seen.observe_cut([cut.clone()].into());
        assert_eq!(by(&seen), Some(other.clone()));
        let mut changed = plan(&mesh, &me, &seen);
        changed.returns.retain(|prefix, _| *prefix != pods);
        assert_eq!(
            changed, published,
            "its own addresses, and all else, are as before"
        );
        seen.observe_cut([cut.clone(), other].into());
        assert_eq!(by(&seen), None, "none is better");
        assert!(
            plan(&mesh, cut, &seen).returns.is_empty(),
            "leaders alone hand on"
        );
        seen.observe_cut([cut.clone()].into());
        let standby = plan(&mesh, &leaders[1].node, &seen);
        assert!(!standby.returns.contains_key(&pods), "it might come back");
    }

    /// Three nodes `here`, two of which lead, and one each `far` and `near`, all established.
    fn mesh() -> Mesh {
        let mut facts = Facts::default();
        facts.cluster.overlay = ["10.4.0.0/16".parse().unwrap()].into();
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
