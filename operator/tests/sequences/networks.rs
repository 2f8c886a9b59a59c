//! Where pod networks come from.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use spanwire_cluster::{
    observed::Observed,
    optional::{ObservedNetworks, SourceEvent},
};
use spanwire_crds::translate::networks::{BlockAffinity, CiliumNode};
use spanwire_operator::state::Options;
use spanwire_topology::{PodSource, PodSources, Prefix};

use crate::world::{self, Change, World, now};

/// Blocks and CiliumNodes as the API server has them.
const BLOCK: &str = include_str!("../../../crds/tests/data/blockaffinity.json");
const CILIUM_NODE: &str = include_str!("../../../crds/tests/data/ciliumnode.json");

/// Whether an object was created or changed, or is gone.
type Kind = fn(ObservedNetworks) -> Event<ObservedNetworks>;

pub(crate) fn options(sources: PodSources) -> Options {
    Options {
        pod_sources: sources,
        ..world::options()
    }
}

/// The cluster of six nodes, of whose CNI nothing is known yet.
pub(crate) fn world_of(sources: PodSources) -> World {
    let mut world = World::with(options(sources));
    for change in world::cluster() {
        world.apply(change);
    }
    world.borrowed(SourceEvent::Absent, 0);
    world.settle();
    world
}

/// The same, where there is no kind of a CNI.
pub(crate) fn world_without_cni() -> World {
    let mut world = world_of(PodSources::auto());
    for source in [PodSource::Calico, PodSource::Cilium] {
        world
            .state
            .handle_networks(source, SourceEvent::Absent, now(0).monotonic);
    }
    world.settle();
    world
}

pub(crate) fn block(name: &str, node: &str, cidr: &str, state: &str) -> ObservedNetworks {
    let mut object: Value = serde_json::from_str(BLOCK).unwrap();
    object["metadata"]["name"] = json!(name);
    object["metadata"]["uid"] = json!(format!("uid of {name}"));
    object["spec"]["node"] = json!(node);
    object["spec"]["cidr"] = json!(cidr);
    object["spec"]["state"] = json!(state);
    let observed: Observed<BlockAffinity> = serde_json::from_value(object).unwrap();
    observed.into()
}

pub(crate) fn cilium_node(name: &str, networks: &[&str]) -> ObservedNetworks {
    let mut object: Value = serde_json::from_str(CILIUM_NODE).unwrap();
    object["metadata"]["name"] = json!(name);
    object["spec"]["ipam"]["podCIDRs"] = json!(networks);
    let observed: Observed<CiliumNode> = serde_json::from_value(object).unwrap();
    observed.into()
}

impl World {
    /// What is observed of who has addresses of blocks, in this second.
    pub(crate) fn borrowed(&mut self, event: SourceEvent, second: u64) {
        self.state.handle_borrowed(event, now(second).monotonic);
    }

    fn calico(&mut self, kind: Kind, object: ObservedNetworks) {
        let event = SourceEvent::Objects(kind(object));
        self.state
            .handle_networks(PodSource::Calico, event, now(0).monotonic);
        self.settle();
    }

    fn list_begins(&mut self) {
        let begins = SourceEvent::Objects(Event::Init);
        self.state
            .handle_networks(PodSource::Calico, begins, now(0).monotonic);
    }

    pub(crate) fn list_calico(&mut self, objects: Vec<ObservedNetworks>) {
        let events = [Event::Init]
            .into_iter()
            .chain(objects.into_iter().map(Event::InitApply))
            .chain([Event::InitDone]);
        for event in events {
            self.state
                .handle_networks(PodSource::Calico, SourceEvent::Objects(event), now(0).monotonic);
        }
        self.settle();
    }

    /// The pod networks of every node, as published.
    fn networks(&self) -> BTreeMap<String, Vec<String>> {
        let mesh = self.mesh();
        let members = mesh
            .locations
            .values()
            .flat_map(|location| location.members.iter());
        members
            .map(|(node, member)| {
                let texts = member.prefixes.iter().map(Prefix::to_string).collect();
                (node.to_string(), texts)
            })
            .collect()
    }

    pub(crate) fn has(&self, node: &str, networks: &[&str]) {
        assert_eq!(self.networks()[node], networks, "{node}");
    }
}

#[test]
fn nothing_is_decided_before_it_is_known_whether_a_cni_allocates_by_itself() {
    let mut world = world_of(PodSources::auto());
    assert_eq!(world.decisions, 0);
    world
        .state
        .handle_networks(PodSource::Cilium, SourceEvent::Absent, now(0).monotonic);
    world.settle();
    assert_eq!(
        world.decisions, 0,
        "whether there are blocks of Calico is not known"
    );
    world.list_calico(vec![block("n1-a", "n1", "10.245.1.0/26", "confirmed")]);
    world.has("n1", &["10.245.1.0/26"]);
    world.has("n2", &[]);
    let (status, message) = world.condition("left", "PodNetworks");
    assert_eq!(status, "True");
    assert!(message.contains("BlockAffinity"), "{message}");
}

#[test]
fn an_api_server_that_keeps_the_objects_back_is_not_waited_for() {
    let mut world = world_of(PodSources::auto());
    for source in [PodSource::Calico, PodSource::Cilium] {
        world
            .state
            .handle_networks(source, SourceEvent::Refused, now(0).monotonic);
    }
    world.settle();
    world.has("n1", &["10.244.1.0/24"]);
    let (status, message) = world.condition("left", "PodNetworks");
    assert!(status == "True" && message.contains("spec.podCIDRs"), "{message}");
    // It is tried again: kube says that a list begins before it is refused again.
    world.list_begins();
    world.apply(Change::Node("n9".to_owned(), Some((9, "left"))));
    world.settle();
    world.has("n9", &["10.244.9.0/24"]);
}

#[test]
fn what_is_known_of_blocks_stays_while_the_api_server_keeps_them_back_and_goes_with_their_definition() {
    let mut world = world_without_cni();
    world.has("n1", &["10.244.1.0/24"]);
    world.list_calico(vec![
        block("n1-a", "n1", "10.245.1.0/26", "confirmed"),
        block("n1-b", "n1", "10.245.9.64/26", "confirmed"),
        block("n4-a", "n4", "fd00:10:245::/122", "confirmed"),
    ]);
    let with_blocks = |world: &World| {
        world.has("n1", &["10.245.1.0/26", "10.245.9.64/26"]);
        world.has("n4", &["fd00:10:245::/122"]);
        world.has("n2", &[]);
    };
    with_blocks(&world);
    world
        .state
        .handle_networks(PodSource::Calico, SourceEvent::Refused, now(0).monotonic);
    world.settle();
    with_blocks(&world);
    // A list that is under way is none yet.
    world.state.handle_networks(
        PodSource::Calico,
        SourceEvent::Objects(Event::Init),
        now(0).monotonic,
    );
    world.settle();
    with_blocks(&world);
    world
        .state
        .handle_networks(PodSource::Calico, SourceEvent::Absent, now(0).monotonic);
    world.settle();
    for number in 1..=6 {
        world.has(&format!("n{number}"), &[&format!("10.244.{number}.0/24")]);
    }
    world.list_calico(vec![block("n1-a", "n1", "10.245.1.0/26", "confirmed")]);
    world.has("n1", &["10.245.1.0/26"]);
}

#[test]
fn a_block_that_moves_is_given_up_by_the_one_and_had_by_the_other_and_nothing_else_changes() {
    let mut world = world_without_cni();
    world.list_calico(vec![
        block("n1-a", "n1", "10.245.1.0/26", "confirmed"),
        block("n1-b", "n1", "10.245.1.64/26", "confirmed"),
        block("n2-a", "n2", "10.245.2.0/26", "confirmed"),
        block("n4-a", "n4", "10.245.4.0/26", "confirmed"),
    ]);
    let before = world.mesh();
    // Calico lets it go first: `pendingDeletion`, deleted, and then the other has it.
    world.calico(
        Event::Apply,
        block("n1-b", "n1", "10.245.1.64/26", "pendingDeletion"),
    );
    world.has("n1", &["10.245.1.0/26"]);
    world.calico(
        Event::Delete,
        block("n1-b", "n1", "10.245.1.64/26", "pendingDeletion"),
    );
    world.calico(Event::Apply, block("n4-b", "n4", "10.245.1.64/26", "pending"));
    world.has("n4", &["10.245.4.0/26"]);
    world.calico(Event::Apply, block("n4-b", "n4", "10.245.1.64/26", "confirmed"));
    world.has("n4", &["10.245.1.64/26", "10.245.4.0/26"]);
    // The watch tells of the two in the other order: the one that had it keeps it until it lets go.
    world.calico(Event::Apply, block("n1-c", "n1", "10.245.1.64/26", "confirmed"));
    world.has("n1", &["10.245.1.0/26"]);
    world.calico(Event::Delete, block("n4-b", "n4", "10.245.1.64/26", "confirmed"));
    world.has("n4", &["10.245.4.0/26"]);
    world.has("n1", &["10.245.1.0/26", "10.245.1.64/26"]);
    let now = world.mesh();
    for (name, location) in &before.locations {
        let moved = ["n1", "n4"];
        for (node, member) in location
            .members
            .iter()
            .filter(|(node, _)| !moved.contains(&node.as_str()))
        {
            assert_eq!(now.locations[name].members[node], *member, "generation included");
        }
        assert_eq!(now.locations[name].leaders, location.leaders);
    }
}

#[test]
fn blocks_that_no_node_has_yet_are_enough_for_the_networks_of_nodes_not_to_count() {
    let mut world = world_without_cni();
    world.calico(Event::Apply, block("n1-a", "n1", "10.245.1.0/26", "pending"));
    world.list_calico(vec![block("n1-a", "n1", "10.245.1.0/26", "pending")]);
    world.has("n1", &[]);
    world.has("n2", &[]);
}

#[test]
fn a_block_that_cannot_be_read_is_named_and_counts_as_none() {
    let mut world = world_without_cni();
    world.list_calico(vec![
        block("n1-a", "n1", "10.245.1.0/26", "confirmed"),
        block("n2-a", "n2", "10.245.2.0/26", "confirmed"),
    ]);
    world.take_notices();
    world.calico(Event::Apply, block("n1-a", "n1", "10.245.1.7/26", "confirmed"));
    world.has("n1", &[]);
    world.has("n2", &["10.245.2.0/26"]);
    let notices = world.take_notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(
        (notices[0].api_version, notices[0].kind, notices[0].name.as_str()),
        ("crd.projectcalico.org/v1", "BlockAffinity", "n1-a")
    );
    assert!(
        notices[0].note.contains("write 10.245.1.0/26"),
        "{}",
        notices[0].note
    );
    world.calico(Event::Apply, block("n1-a", "n1", "10.245.1.0/26", "confirmed"));
    world.has("n1", &["10.245.1.0/26"]);
}

#[test]
fn blocks_are_claims_like_any_others() {
    let mut world = world_without_cni();
    world.list_calico(vec![
        block("n1-a", "n1", "10.245.1.0/26", "confirmed"),
        block("n4-a", "n4", "10.245.4.0/26", "confirmed"),
    ]);
    world.take_notices();
    for (name, cidr) in [
        ("n4-all", "0.0.0.0/0"),
        ("n4-public", "8.8.8.0/24"),
        ("n4-theirs", "10.245.1.0/27"),
        ("n4-nodes", "192.168.7.0/24"),
    ] {
        world.calico(Event::Apply, block(name, "n4", cidr, "confirmed"));
    }
    world.has("n1", &["10.245.1.0/26"]);
    world.has("n4", &["10.245.4.0/26"]);
    let (_, message) = world.condition("right", "Accepted");
    for part in [
        "0.0.0.0/0",
        "8.8.8.0/24",
        "10.245.1.0/27",
        "spec.cidr of its BlockAffinity",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn more_networks_than_count_are_reported_and_the_first_of_them_count() {
    let mut world = world_without_cni();
    let blocks = (0..70).map(|n| block(&format!("n1-{n}"), "n1", &format!("10.245.{n}.0/26"), "confirmed"));
    world.list_calico(blocks.collect());
    assert_eq!(world.networks()["n1"].len(), 64);
    let (_, message) = world.condition("left", "Accepted");
    assert!(message.contains("70"), "{message}");
    world.list_calico(vec![block("n1-1", "n1", "10.245.1.0/26", "confirmed")]);
    assert_eq!(world.condition("left", "Accepted").0, "True");
}

#[test]
fn networks_of_cilium_nodes_go_before_those_of_nodes_and_count_only_where_there_are_any() {
    let mut world = world_without_cni();
    let apply = |world: &mut World, object| {
        let event = SourceEvent::Objects(Event::Apply(object));
        world
            .state
            .handle_networks(PodSource::Cilium, event, now(0).monotonic);
        world.settle();
    };
    for event in [Event::Init, Event::InitDone] {
        world
            .state
            .handle_networks(PodSource::Cilium, SourceEvent::Objects(event), now(0).monotonic);
    }
    // With addresses of a cloud there are such objects without networks.
    apply(&mut world, cilium_node("n1", &[]));
    world.has("n1", &["10.244.1.0/24"]);
    apply(&mut world, cilium_node("n1", &["10.0.1.0/24", "fd00::100/120"]));
    world.has("n1", &["10.0.1.0/24", "fd00::100/120"]);
    world.has("n2", &[]);
    let (status, message) = world.condition("left", "PodNetworks");
    assert_eq!(status, "False");
    assert!(
        message.contains("n2, n3") && message.contains("CiliumNodes"),
        "{message}"
    );
    for number in 2..=3 {
        let networks = format!("10.0.{number}.0/24");
        apply(&mut world, cilium_node(&format!("n{number}"), &[&networks]));
    }
    assert_eq!(world.condition("left", "PodNetworks").0, "True");
}

#[test]
fn a_source_that_is_named_counts_whatever_there_is() {
    let mut world = world_of(PodSources::only(PodSource::Nodes));
    world.list_calico(vec![block("n1-a", "n1", "10.245.1.0/26", "confirmed")]);
    world.has("n1", &["10.244.1.0/24"]);
    let mut world = world_of(PodSources::only(PodSource::Calico));
    assert_eq!(world.decisions, 0);
    world.list_calico(Vec::new());
    world.has("n1", &[]);
    assert!(world.condition("left", "PodNetworks").1.contains("podNetworks"));
}

#[test]
fn a_node_that_changes_or_comes_keeps_the_networks_of_its_cni() {
    let mut world = world_without_cni();
    world.list_calico(vec![
        block("n1-a", "n1", "10.245.1.0/26", "confirmed"),
        block("n9-a", "n9", "10.245.9.0/26", "confirmed"),
    ]);
    world.apply(Change::Cordon("n1".to_owned(), true));
    world.apply(Change::Node("n9".to_owned(), Some((9, "left"))));
    world.settle();
    world.has("n1", &["10.245.1.0/26"]);
    world.has("n9", &["10.245.9.0/26"]);
    let decisions = world.decisions;
    world.calico(Event::Apply, block("n1-a", "n1", "10.245.1.0/26", "confirmed"));
    assert_eq!(world.decisions, decisions, "an event that changes nothing");
}
