//! What leaders say which ones of another location they use, where their WireGuard has no groups.

use std::collections::{BTreeMap, BTreeSet};

use spanwire_topology::{
    Advice, Doubt, LocationName, Mesh, NodeName, Reachability, Via, plan,
    scenario::World,
    trace::{GroundTruth, Place, Plans, Verdict, trace},
};

type Said = BTreeMap<NodeName, (LocationName, BTreeMap<LocationName, BTreeSet<NodeName>>, bool)>;

/// Returns what each leader says that tells the truth.
pub(crate) fn said(plans: &Plans, groupless: &[NodeName]) -> Said {
    let leaders = plans.iter().filter(|(_, plan)| plan.tunnel.is_some());
    let said = leaders.filter_map(|(node, plan)| {
        let groups = !groupless.contains(node);
        Some((node.clone(), (plan.location.clone()?, plan.in_use(), groups)))
    });
    said.collect()
}

/// Returns what of that a node takes account of.
pub(crate) fn heard(said: &Said, node: &NodeName) -> BTreeMap<(LocationName, NodeName), Advice> {
    let Some((here, _, own_groups)) = said.get(node) else {
        return BTreeMap::new();
    };
    let others = said
        .iter()
        .filter(|(_, (location, _, groups))| location != here && !(*own_groups && *groups));
    let heard = others.map(|(leader, (location, uses, groups))| {
        let advice = Advice {
            uses: uses.get(here).cloned().unwrap_or_default(),
            groups: *groups,
            draining: false,
        };
        ((location.clone(), leader.clone()), advice)
    });
    heard.collect()
}

/// Two locations with a standby leader and a follower each.
struct Scene {
    mesh: Mesh,
    /// What each node observes itself.
    seen: BTreeMap<NodeName, Reachability>,
    /// What the leaders have last said.
    said: Said,
}

impl Scene {
    fn new() -> Self {
        let script = "overlay 10.4.0.0/16
            location x standby=1
            location y standby=1
            node x1 region=x addresses=192.168.1.1 pods=10.244.1.0/24 key=1 up=y leader=true
            node x2 region=x addresses=192.168.1.2 pods=10.244.2.0/24 key=2 up=y leader=true
            node x3 region=x addresses=192.168.1.3 pods=10.244.3.0/24 key=3 leader=false
            node y1 region=y addresses=192.168.2.1 pods=10.244.4.0/24 key=4 up=x leader=true
            node y2 region=y addresses=192.168.2.2 pods=10.244.5.0/24 key=5 up=x leader=true
            node y3 region=y addresses=192.168.2.3 pods=10.244.6.0/24 key=6 leader=false
            decide";
        let mut world = World::default();
        script.lines().for_each(|line| drop(world.line(line).unwrap()));
        Self {
            mesh: world.mesh,
            seen: BTreeMap::new(),
            said: Said::new(),
        }
    }

    /// The leader of a location that is published first, or second.
    fn leader(&self, location: &str, place: usize) -> NodeName {
        self.mesh.locations[&location.parse().unwrap()].leaders[place]
            .node
            .clone()
    }

    /// Has a leader not use one of another location, that answers or does not.
    fn forsakes(&mut self, who: &NodeName, location: &str, leader: &NodeName, doubt: Option<Doubt>) {
        let seen = self.seen.entry(who.clone()).or_default();
        let location: LocationName = location.parse().unwrap();
        seen.observe_far(location.clone(), leader.clone(), false);
        let answering = doubt.map(|doubt| ((location, leader.clone()), doubt));
        seen.observe_answering(answering.into_iter().collect());
    }

    fn nodes(&self) -> Vec<NodeName> {
        let locations = self.mesh.locations.values();
        locations
            .flat_map(|location| location.members.keys().cloned())
            .collect()
    }

    fn plans(&self) -> Plans {
        let plan = |node: NodeName| {
            let mut seen = self.seen.get(&node).cloned().unwrap_or_default();
            seen.observe_advice(heard(&self.said, &node));
            (node.clone(), plan(&self.mesh, &node, &seen))
        };
        self.nodes().into_iter().map(plan).collect()
    }

    /// Has all leaders say what they do.
    fn exchange(&mut self) {
        self.said = said(&self.plans(), &self.nodes());
    }

    fn used_by(&self, who: &NodeName) -> BTreeSet<NodeName> {
        self.plans()[who].in_use().into_values().flatten().collect()
    }

    /// Returns the nodes between which packets are lost.
    fn lost(&self) -> Vec<(NodeName, NodeName)> {
        let plans = self.plans();
        let ground = GroundTruth::new([&self.mesh]).without_groups(self.nodes());
        let spots = ground.spots();
        let mut lost = Vec::new();
        for from in &spots {
            for to in spots
                .iter()
                .filter(|to| to.location != from.location && !to.overlay && !from.overlay)
            {
                let (Place::Node(start), Place::Node(end)) = (&from.place, &to.place) else {
                    continue;
                };
                let verdict = trace(&ground, &plans, from, to.address).verdict;
                if !matches!(verdict, Verdict::Arrived(_)) {
                    lost.push((start.clone(), end.clone()));
                }
            }
        }
        lost
    }
}

#[test]
fn four_leaders_that_use_each_other_in_a_ring_are_two_pairs_after_one_exchange() {
    let mut scene = Scene::new();
    let [x1, x2] = [0, 1].map(|place| scene.leader("x", place));
    let [y1, y2] = [0, 1].map(|place| scene.leader("y", place));
    scene.forsakes(&x1, "y", &y1, Some(Doubt::Useless));
    scene.forsakes(&y2, "x", &x1, Some(Doubt::Returning));
    let ring = [(&x1, &y2), (&y2, &x2), (&x2, &y1), (&y1, &x1)];
    for (who, used) in ring {
        assert_eq!(scene.used_by(who), [used.clone()].into(), "{who}");
    }
    assert!(
        !scene.lost().is_empty(),
        "x1 sends to y2, which takes it from x2 alone"
    );
    scene.exchange();
    for _ in 0..3 {
        for (who, used) in [(&x1, &y1), (&y1, &x1), (&x2, &y2), (&y2, &x2)] {
            assert_eq!(scene.used_by(who), [used.clone()].into(), "{who}");
        }
        assert_eq!(scene.lost(), []);
        scene.exchange();
    }
    // What it says is forgotten after a while.
    scene.said.clear();
    assert_eq!(scene.used_by(&x1), [y2].into());
}

#[test]
fn the_location_with_the_lower_name_alone_follows() {
    let mut scene = Scene::new();
    let [x1, x2] = [0, 1].map(|place| scene.leader("x", place));
    let [y1, y2] = [0, 1].map(|place| scene.leader("y", place));
    // Both would look for the other one's way, and find it left.
    scene.forsakes(&x2, "y", &y1, None);
    scene.forsakes(&y1, "x", &x1, None);
    scene.exchange();
    assert_eq!(
        scene.used_by(&y1),
        [x2.clone()].into(),
        "it does as if x2 said nothing"
    );
    assert_eq!(scene.used_by(&x2), [y2.clone()].into(), "y1 does not answer it");
    assert_eq!(scene.used_by(&x1), [y2].into(), "y1 does not use it");
    scene.forsakes(&x2, "y", &y1, Some(Doubt::Useless));
    assert_eq!(scene.used_by(&x2), [y1].into(), "y2 loses what it sends");
}

#[test]
fn a_leader_that_is_not_used_sends_by_the_one_beside_it_that_is() {
    let mut scene = Scene::new();
    let [x1, x2] = [0, 1].map(|place| scene.leader("x", place));
    let [y1, y2] = [0, 1].map(|place| scene.leader("y", place));
    for who in [&y1, &y2] {
        scene.forsakes(who, "x", &x1, None);
    }
    let y: LocationName = "y".parse().unwrap();
    let way = |scene: &Scene| scene.plans()[&x1].ways[&y].clone();
    assert_eq!(way(&scene), Via::Tunnel);
    scene.exchange();
    assert!(matches!(way(&scene), Via::Hop { node, .. } if node == x2));
    // But not by one through which nothing arrives.
    scene
        .seen
        .entry(x1.clone())
        .or_default()
        .observe(x2, y.clone(), false);
    assert_eq!(way(&scene), Via::Tunnel);
    scene.seen.clear();
    let others = scene.said.values_mut().filter(|(location, ..)| *location == y);
    others.for_each(|(_, _, groups)| *groups = true);
    assert_eq!(way(&scene), Via::Tunnel, "it takes what any leader sends");
}

#[test]
fn silence_of_the_leader_in_use_changes_nothing_whatever_another_one_says() {
    let mut scene = Scene::new();
    let x1 = scene.leader("x", 0);
    let [y1, y2] = [0, 1].map(|place| scene.leader("y", place));
    let before = scene.plans();
    scene.exchange();
    assert_eq!(scene.plans(), before, "all is as published");
    scene.said.remove(&y1);
    assert!(scene.said[&y2].1.values().all(|uses| uses.contains(&x1)));
    assert_eq!(scene.plans(), before);
}

/// The side that the other one follows has taken its first leader back, which the other side has not yet.
#[test]
fn a_leader_that_has_come_back_and_uses_this_one_is_followed_at_once_but_not_one_that_forwards_nothing() {
    let mut scene = Scene::new();
    let x1 = scene.leader("x", 0);
    let [y1, y2] = [0, 1].map(|place| scene.leader("y", place));
    for (doubt, used) in [
        (Some(Doubt::Returning), &y1),
        (Some(Doubt::Useless), &y2),
        (None, &y2),
    ] {
        scene.forsakes(&x1, "y", &y1, doubt);
        scene.exchange();
        assert_eq!(scene.said[&y1].1, scene.said[&y2].1, "both use x1");
        assert_eq!(scene.used_by(&x1), [used.clone()].into(), "{doubt:?}");
        scene.said.remove(&y1);
        assert_eq!(scene.used_by(&x1), [y2.clone()].into(), "it says nothing");
    }
    // One that has come back is taken though the usable one is silent: it says so itself.
    scene.forsakes(&x1, "y", &y1, Some(Doubt::Returning));
    scene.exchange();
    scene.said.remove(&y2);
    assert_eq!(scene.used_by(&x1), [y1].into());
}
