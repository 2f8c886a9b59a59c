//! What nodes observe of leaders, right or wrong, and where packets go then.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::select};
use spanwire_topology::{
    Advice, Doubt, Facts, Location, LocationName, Mesh, MeshMode, NodeName, Party, Prefix, Reachability, Via,
    carrier, decide, plan,
    scenario::World,
    trace::{Arrival, GroundTruth, Place, Plans, Spot, Trace, Verdict, trace},
};

use crate::{
    advice,
    arbitrary::{Stack, link, sound, sound_of},
    mixtures::coin,
    walk,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn where_leaders_vouch_for_each_other_a_wrong_suspicion_costs_nothing(facts in alike(), seed in any::<u64>()) {
        let mesh = linked(facts);
        let plans = suspicious(&mesh, seed);
        for (from, to, expected, outcome) in walk::pairs_by(&mesh, &plans) {
            // One hop more than without: a leader here, one there, and the one that has the Peer.
            let met = expected.met(&outcome) || expected.met(&shorter(&outcome));
            prop_assert!(met, "{from} to {to}: {expected:?}, but {outcome:?}\n{mesh}");
        }
    }

    #[test]
    fn whatever_nodes_observe_nothing_goes_round_or_leaves_in_plaintext(
        facts in sound(),
        seed in any::<u64>(),
        backends in backends(),
    ) {
        let mesh = linked(facts);
        let plans = refusing(&mesh, seed);
        let ground = GroundTruth::new([&mesh]).without_groups(groupless(&mesh, seed, backends));
        // Without groups a leader may get back what it has sent to one that still takes it for usable: once.
        let most = if backends == Backends::Groups { 1 } else { 2 };
        for (from, to) in apart(&mesh, &ground.spots()) {
            let found = trace(&ground, &plans, &from, to.address);
            let about = || format!("{from} to {to}: {found}{mesh}");
            prop_assert!(!matches!(found.verdict, Verdict::Loop | Verdict::Misdelivered(..)), "{}", about());
            prop_assert!(!matches!(found.verdict, Verdict::Underlay(_)), "{}", about());
            prop_assert!(visits(&found) <= most, "{}", about());
        }
    }

    #[test]
    fn where_all_know_what_is_broken_a_packet_arrives_by_whatever_way_there_is(
        facts in alike(),
        seed in any::<u64>(),
        backends in backends(),
        cuts in any::<bool>(),
    ) {
        let mesh = linked(facts);
        // Without groups the far side has to see that a node cannot reach its leader, which it does not.
        let faults = Faults::new(&mesh, seed, cuts && backends == Backends::Groups);
        let groupless = groupless(&mesh, seed, backends);
        let mut plans = planned(&mesh, |node| faults.seen_by(&mesh, node));
        // The first time one side follows, the second time the other one hears of that.
        let exchanges = if coin(seed, "they say whom they use") { 2 } else { 0 };
        for _ in 0..exchanges {
            let said = advice::said(&plans, &groupless);
            plans = planned(&mesh, |node| {
                let mut seen = faults.seen_by(&mesh, node);
                seen.observe_advice(advice::heard(&said, node));
                seen
            });
        }
        let ground = GroundTruth::new([&mesh]).without_groups(groupless);
        for (from, to) in apart(&mesh, &ground.spots()) {
            let found = trace(&ground, &plans, &from, to.address);
            if faults.way(&mesh, &from, &to) {
                let arrives = matches!(found.verdict, Verdict::Arrived(_)) && faults.pass(&found, &to);
                prop_assert!(arrives, "{from} to {to}: {found}{faults:?}\n{mesh}");
            }
        }
    }
}

/// Clusters whose nodes have the same families, and that of all else: a leader that lacks one stands in for none that
/// has it.
fn alike() -> impl Strategy<Value = Facts> {
    select(&[Stack::V4, Stack::Dual][..]).prop_flat_map(|stack| sound_of(vec![stack; 12]))
}

#[test]
fn a_dead_leader_of_several_active_ones_moves_its_own_members_and_no_others() {
    let mut world = World::default();
    let script = "overlay 10.4.0.0/16
        location paris active=2 standby=1
        node b1 region=rome addresses=192.168.2.1 pods=10.245.1.0/24 key=21 up=paris
        node b2 region=rome addresses=192.168.2.2 pods=10.245.2.0/24 key=22 up=paris";
    let nodes = (1..=9).map(|number| {
        format!(
            "node a{number} region=paris addresses=192.168.1.{number} pods=10.244.{number}.0/24 key={number} up=rome"
        )
    });
    let script = script
        .lines()
        .map(str::to_owned)
        .chain(nodes)
        .chain(["decide".to_owned()]);
    script.for_each(|line| drop(world.line(&line).unwrap()));
    let mesh = world.mesh;
    let [paris, rome] = ["paris", "rome"].map(|name| name.parse::<LocationName>().unwrap());
    let led = &mesh.locations[&paris];
    let order: Vec<&NodeName> = led.leaders.iter().map(|leader| &leader.node).collect();
    for (dead, heir) in [(order[0], order[1]), (order[1], order[0])] {
        let mut seen = Reachability::default();
        seen.observe(dead.clone(), rome.clone(), false);
        seen.observe_far(paris.clone(), dead.clone(), false);
        let far = plan(&mesh, &"b1".parse().unwrap(), &seen).tunnel.unwrap();
        let receives = |leader: &NodeName, prefix: &Prefix| {
            let mut peers = far.peers.values();
            let peer = peers.find(|peer| peer.party == Party::Leader(paris.clone(), leader.clone()));
            peer.is_some_and(|peer| peer.allowed_ips.contains(prefix))
        };
        let mut moved = 0;
        for (node, member) in led.members.iter().filter(|(node, _)| *node != dead) {
            let carrier = carrier(led, node).unwrap();
            moved += usize::from(carrier == dead);
            let by = if carrier == dead { heir } else { carrier };
            assert!(
                member.prefixes.iter().all(|prefix| receives(by, prefix)),
                "{node} by {by}"
            );
            let own = plan(&mesh, node, &seen);
            let out = match &own.ways[&rome] {
                Via::Hop { node, .. } => node,
                Via::Tunnel => node,
                Via::Unreachable => panic!("{own}"),
            };
            assert_eq!(out, by, "{node}");
        }
        assert!((1..8).contains(&moved), "{moved} of eight");
    }
}

/// Whose WireGuard knows groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backends {
    Groups,
    None,
    Mixed,
}

fn backends() -> impl Strategy<Value = Backends> {
    select(&[Backends::Groups, Backends::None, Backends::Mixed][..])
}

fn groupless(mesh: &Mesh, seed: u64, backends: Backends) -> Vec<NodeName> {
    let nodes = mesh
        .locations
        .values()
        .flat_map(|location| location.members.keys());
    let without = |node: &&NodeName| match backends {
        Backends::Groups => false,
        Backends::None => true,
        Backends::Mixed => coin(seed, &format!("backend of {node}")),
    };
    nodes.filter(without).cloned().collect()
}

fn linked(mut facts: Facts) -> Mesh {
    link(&mut facts);
    decide(&facts, &Mesh::default()).mesh
}

/// Returns what nodes do of which each suspects whom it likes.
fn suspicious(mesh: &Mesh, seed: u64) -> Plans {
    planned(mesh, |node| suspicion(mesh, node, seed))
}

/// As [`suspicious`], and each takes what locations it likes for unreached.
fn refusing(mesh: &Mesh, seed: u64) -> Plans {
    planned(mesh, |node| {
        let mut seen = suspicion(mesh, node, seed);
        let refused = |name: &&LocationName| {
            coin(seed, &format!("{node} refuses {name}")) && coin(seed, &format!("{node} does refuse {name}"))
        };
        seen.observe_unreached(mesh.locations.keys().filter(refused).cloned().collect());
        seen
    })
}

fn planned(mesh: &Mesh, observed: impl Fn(&NodeName) -> Reachability) -> Plans {
    let nodes = mesh
        .locations
        .values()
        .flat_map(|location| location.members.keys());
    nodes
        .map(|node| (node.clone(), plan(mesh, node, &observed(node))))
        .collect()
}

/// Returns what a node observes that suspects whom it likes.
pub(crate) fn suspicion(mesh: &Mesh, node: &NodeName, seed: u64) -> Reachability {
    let mut seen = Reachability::default();
    for (name, location) in &mesh.locations {
        for leader in location.leaders.iter().map(|leader| &leader.node) {
            for other in mesh.locations.keys() {
                let arrives = coin(seed, &format!("{node} through {leader} to {other}"));
                seen.observe(leader.clone(), other.clone(), arrives);
            }
            let usable = coin(seed, &format!("{node} by {leader}"));
            seen.observe_far(name.clone(), leader.clone(), usable);
        }
    }
    let members = mesh
        .locations
        .values()
        .flat_map(|location| location.members.keys());
    let cut = members.filter(|other| coin(seed, &format!("{node} cut off from {other}")));
    seen.observe_cut(cut.cloned().collect());
    let lies = lies(mesh, node, seed);
    let draining = lies.iter().filter(|(_, advice)| advice.draining);
    seen.observe_draining(draining.map(|(leader, _)| leader.clone()).collect());
    seen.observe_own_end(coin(seed, &format!("{node} is about to end")));
    seen.observe_advice(lies);
    let forsaken = seen.forsaken();
    let answering = forsaken.filter_map(|(location, leader)| {
        let heads = |text: &str| coin(seed, &format!("{leader} {text} {node}"));
        let doubt = match heads("is useless to") {
            true => Doubt::Useless,
            false => Doubt::Returning,
        };
        heads("answers").then(|| ((location.clone(), leader.clone()), doubt))
    });
    let answering = answering.collect();
    seen.observe_answering(answering);
    seen
}

/// Returns what leaders say to a node that say whatever they like, or nothing.
fn lies(mesh: &Mesh, node: &NodeName, seed: u64) -> BTreeMap<(LocationName, NodeName), Advice> {
    let everyone = mesh.locations.values();
    let everyone: Vec<&NodeName> = everyone.flat_map(|location| location.members.keys()).collect();
    let mut lies = BTreeMap::new();
    for (name, location) in &mesh.locations {
        for leader in location.leaders.iter().map(|leader| &leader.node) {
            let heads = |text: &str| coin(seed, &format!("{leader} to {node}: {text}"));
            let said = everyone.iter().filter(|other| heads(&format!("I use {other}")));
            let advice = Advice {
                uses: said.map(|other| (*other).clone()).collect(),
                groups: heads("any of you"),
                draining: heads("I am about to end"),
            };
            if heads("I say something") {
                lies.insert((name.clone(), leader.clone()), advice);
            }
        }
    }
    lies
}

fn shorter(outcome: &Verdict) -> Verdict {
    match outcome {
        Verdict::Arrived(hops) => Verdict::Arrived(hops.saturating_sub(1)),
        other @ (Verdict::Underlay(_) | Verdict::Dropped(..) | Verdict::Misdelivered(..) | Verdict::Loop) => {
            other.clone()
        }
    }
}

/// Returns how often a packet was on the node where it was most often.
fn visits(trace: &Trace) -> usize {
    let times = |node| trace.steps.iter().filter(|step| step.node == node).count();
    trace
        .steps
        .iter()
        .map(|step| times(step.node.clone()))
        .max()
        .unwrap_or_default()
}

/// Returns pairs of places on nodes of established locations with a few leaders each, by the addresses that they have in
/// the mesh.
fn apart(mesh: &Mesh, spots: &[Spot]) -> Vec<(Spot, Spot)> {
    let all = spots
        .iter()
        .flat_map(|from| spots.iter().map(move |to| (from, to)));
    let wanted = |(from, to): &(&Spot, &Spot)| {
        let (Some(here), Some(there)) = (&from.location, &to.location) else {
            return false;
        };
        let [start, end] = [here, there].map(|name| &mesh.locations[name]);
        let nodes = [from, to].map(|spot| matches!(spot.place, Place::Node(_)) && !spot.overlay);
        let led = [start, end].map(|location| location.settings.mode == MeshMode::Leaders);
        let established = here != there && start.established.contains(there);
        let family = from.address.is_ipv4() == to.address.is_ipv4();
        established && family && nodes == [true; 2] && led == [true; 2]
    };
    all.filter(wanted)
        .map(|(from, to)| (from.clone(), to.clone()))
        .collect()
}

/// What is broken.
#[derive(Debug)]
struct Faults {
    seed: u64,
    /// Some nodes cannot reach some leader of their own location.
    cuts: bool,
    dead: BTreeSet<NodeName>,
    /// Alive, but of no use to others.
    idle: BTreeSet<NodeName>,
}

impl Faults {
    fn new(mesh: &Mesh, seed: u64, cuts: bool) -> Self {
        let leaders = mesh.locations.values().flat_map(|location| &location.leaders);
        let leaders: Vec<&NodeName> = leaders.map(|leader| &leader.node).collect();
        let quarter = |what: &str, node: &NodeName| {
            coin(seed, &format!("{what} {node}")) && coin(seed, &format!("and {what} {node}"))
        };
        let some = |what| leaders.iter().filter(move |node| quarter(what, node));
        Self {
            seed,
            cuts,
            dead: some("dead").map(|node| (*node).clone()).collect(),
            idle: some("idle").map(|node| (*node).clone()).collect(),
        }
    }

    fn tunnel(&self, one: &NodeName, other: &NodeName) -> bool {
        let (one, other) = (one.min(other), one.max(other));
        let both = format!("between {one} and {other}");
        !(coin(self.seed, &both) && coin(self.seed, &format!("tunnel {both}")))
    }

    fn hop(&self, one: &NodeName, other: &NodeName) -> bool {
        let (one, other) = (one.min(other), one.max(other));
        let near = format!("near {one} and {other}");
        let cut = coin(self.seed, &near) && coin(self.seed, &format!("hop {near}"));
        one == other || !(self.cuts && cut)
    }

    fn works(&self, node: &NodeName) -> bool {
        !self.dead.contains(node) && !self.idle.contains(node)
    }

    /// Returns whether a node gets something to a location through a leader of its own.
    fn through(&self, node: &NodeName, leader: &NodeName, there: &Location) -> bool {
        let near = node == leader || (self.hop(node, leader) && self.works(leader));
        let far = |other: &NodeName| self.works(other) && self.tunnel(leader, other);
        near && there.leaders.iter().any(|other| far(&other.node))
    }

    /// Returns what a node observes when there has been time to.
    fn seen_by(&self, mesh: &Mesh, node: &NodeName) -> Reachability {
        let mut seen = Reachability::default();
        let home = mesh
            .locations
            .values()
            .find(|location| location.members.contains_key(node));
        for (name, there) in &mesh.locations {
            for leader in home.iter().flat_map(|home| &home.leaders) {
                let arrives = self.through(node, &leader.node, there);
                seen.observe(leader.node.clone(), name.clone(), arrives);
            }
            for other in &there.leaders {
                let usable = self.works(&other.node) && self.tunnel(node, &other.node);
                seen.observe_far(name.clone(), other.node.clone(), usable);
            }
        }
        let leaders = || home.iter().flat_map(|home| &home.leaders);
        let unreached = |(_, there): &(&LocationName, &Location)| {
            !leaders().any(|leader| self.through(node, &leader.node, there))
        };
        if leaders().any(|leader| leader.node == *node) {
            let unreached = mesh.locations.iter().filter(unreached);
            seen.observe_unreached(unreached.map(|(name, _)| name.clone()).collect());
        }
        seen
    }

    /// Returns whether there is any way between the nodes of two places.
    fn way(&self, mesh: &Mesh, from: &Spot, to: &Spot) -> bool {
        let (Some(here), Some(there)) = (&from.location, &to.location) else {
            return false;
        };
        let [here, there] = [here, there].map(|name| &mesh.locations[name]);
        let (Place::Node(from), Place::Node(to)) = (&from.place, &to.place) else {
            return false;
        };
        // What a leader does not get to a member no other one does for it.
        let delivers = || there.leaders.iter().all(|leader| self.hop(&leader.node, to));
        let mut leaders = here.leaders.iter();
        self.works(from)
            && self.works(to)
            && delivers()
            && leaders.any(|leader| self.through(from, &leader.node, there))
    }

    /// Returns whether a packet passes all the nodes of a trace.
    fn pass(&self, trace: &Trace, to: &Spot) -> bool {
        let Place::Node(end) = &to.place else { return false };
        let mut hops = trace.steps.windows(2);
        let passes = hops.all(|pair| {
            let [before, step] = [&pair[0].node, &pair[1].node];
            match pair[1].arrival {
                Arrival::Tunnel => self.tunnel(before, step),
                Arrival::Hop | Arrival::Lan | Arrival::Origin => self.hop(before, step),
            }
        });
        let last = trace.steps.last().is_some_and(|step| self.hop(&step.node, end));
        passes && last && trace.steps.iter().all(|step| self.works(&step.node))
    }
}
