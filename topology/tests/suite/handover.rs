//! Roles pass in stages, and no packet is lost on the way.

use proptest::prelude::*;
use spanwire_topology::{
    Facts, Leaving, Location, LocationName, Mesh, MeshMode, NodeFact, NodeName, decide,
    trace::{GroundTruth, Place, Spot, Verdict, plans, trace},
};

use crate::{
    arbitrary::{PLACES, sound},
    mixtures::{led, mixed_plans, pairs, print, works},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_works_before_and_after_goes_on_in_every_mixture_of_two_stages(
        facts in sound(),
        changed in any::<u8>(),
        seed in any::<u64>(),
    ) {
        let mut world = Stages::of(facts);
        // One that is doubtful hands nothing over.
        world.facts.nodes.values_mut().for_each(|node| node.doubtful = false);
        world.settle();
        world.ask(changed);
        let mut stages = vec![world.mesh.clone()];
        for stage in 0..6 {
            world.decide();
            stages.push(world.mesh.clone());
            if stage % 2 == 0 { world.report() } else { world.release() }
        }
        for pair in stages.windows(2) {
            let (old, new) = (&pair[0], &pair[1]);
            let ground = GroundTruth::new([old, new]);
            let spots = ground.spots();
            let all = [plans(old), plans(new), mixed_plans(old, new, seed)];
            // An overlay address goes with the part of its node, and a Peer has a tunnel to one leader alone.
            let peer = |spot: &Spot| matches!(spot.place, Place::Peer(_));
            let node = |spot: &Spot| led(new, spot) && !spot.overlay && !peer(spot);
            for (from, to) in pairs(&spots).filter(|(from, to)| node(from) && node(to)) {
                let verdicts = [0, 1, 2].map(|view| trace(&ground, &all[view], from, to.address).verdict);
                if [0, 1].iter().all(|view| matches!(verdicts[*view], Verdict::Arrived(_))) {
                    let text = format!("{from} to {to}: {verdicts:?}\nold {old}new {new}{}", print(&all[2]));
                    prop_assert!(works(&verdicts[2]), "{}", text);
                }
            }
        }
    }

    #[test]
    fn a_leader_that_works_is_relieved_only_by_one_with_all_of_its_links(facts in sound(), changed in any::<u8>()) {
        let mut world = Stages::of(facts);
        world.settle();
        let old = world.mesh.clone();
        world.ask(changed);
        world.decide();
        for (name, was, is) in staged(&old, &world.mesh) {
            let [Some(first), Some(now)] = [was, is].map(|location| location.active().next()) else { continue };
            let before = &world.facts.nodes[first];
            if was.active().count() != 1 || is.active().count() != 1 || !before.alive || before.doubtful {
                continue;
            }
            let [needs, has] = [first, now].map(|node| up(&world.facts.nodes[node]));
            let lacks: Vec<_> = needs.iter().filter(|link| !has.contains(link)).collect();
            prop_assert!(lacks.is_empty(), "{}: {} lacks {:?} of {}", name, now, lacks, first);
        }
    }

    #[test]
    fn in_the_end_there_are_as_many_leaders_as_seats_and_none_is_leaving(facts in sound(), changed in any::<u8>()) {
        let mut world = Stages::of(facts);
        world.settle();
        world.ask(changed);
        world.settle();
        prop_assert_eq!(&world.leaving, &[]);
        for (name, location) in &world.mesh.locations {
            let seats = world.facts.locations.get(name).map_or(2, |fact| usize::from(fact.active.max(1) + fact.standby));
            let few = location.settings.mode == MeshMode::Leaders;
            prop_assert!(!few || location.leaders.len() <= seats, "{}", world.mesh);
            for leader in location.leaders.iter().filter(|_| few) {
                let refused = world.facts.nodes[&leader.node].leader == Some(false);
                prop_assert!(!refused, "{} may not lead {}", leader.node, name);
            }
        }
    }
}

/// Returns the locations of a few leaders, in both publications.
fn staged<'a>(
    old: &'a Mesh,
    new: &'a Mesh,
) -> impl Iterator<Item = (&'a LocationName, &'a Location, &'a Location)> {
    let few = |location: &Location| location.settings.mode == MeshMode::Leaders;
    let both = new
        .locations
        .iter()
        .filter_map(|(name, is)| Some((name, old.locations.get(name)?, is)));
    both.filter(move |(_, was, is)| few(was) && few(is))
}

fn up(fact: &NodeFact) -> Vec<&LocationName> {
    fact.links
        .iter()
        .filter(|(_, up)| **up)
        .map(|(name, _)| name)
        .collect()
}

/// A cluster whose agents follow what is published.
struct Stages {
    facts: Facts,
    mesh: Mesh,
    leaving: Vec<(NodeName, Leaving)>,
}

impl Stages {
    fn of(mut facts: Facts) -> Self {
        facts.nodes.values_mut().for_each(|node| node.links.clear());
        Self {
            facts,
            mesh: Mesh::default(),
            leaving: Vec::new(),
        }
    }

    fn decide(&mut self) {
        let decision = decide(&self.facts, &self.mesh);
        self.mesh = decision.mesh;
        self.leaving = decision.leaving.into_iter().collect();
    }

    /// Who leads has all tunnels, and reports so.
    fn report(&mut self) {
        for (name, node) in &mut self.facts.nodes {
            let leads = self
                .mesh
                .locations
                .values()
                .any(|location| location.role(name).is_some());
            let places = PLACES.iter().filter(|_| leads);
            node.links = places.map(|place| (place.parse().unwrap(), true)).collect();
        }
    }

    /// What nothing uses any more is waited for no longer.
    fn release(&mut self) {
        for (name, node) in &mut self.facts.nodes {
            node.released = self.leaving.iter().any(|(leaving, _)| leaving == name);
        }
    }

    fn settle(&mut self) {
        for _ in 0..4 {
            self.decide();
            self.report();
            self.decide();
            self.release();
        }
        self.decide();
    }

    /// A person wants something else of each node.
    fn ask(&mut self, changed: u8) {
        for (index, node) in self.facts.nodes.values_mut().enumerate() {
            match (usize::from(changed) + index * 5) % 7 {
                0 => node.cordoned = !node.cordoned,
                1 => node.leader = Some(true),
                2 => node.leader = Some(false),
                3 => node.leader = None,
                _ => {}
            }
        }
    }
}
