//! Addresses that nodes have of Calico's blocks of others.

use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use spanwire_cluster::{
    observed::Observed,
    optional::{ObservedNetworks, SourceEvent},
};
use spanwire_crds::translate::networks::IpamBlock;
use spanwire_topology::{PodSource, PodSources};

use crate::{
    networks::{block, world_of, world_without_cni},
    world::{Change, World, now},
};

/// An IPAMBlock as the API server has it.
const BLOCK: &str = include_str!("../../../crds/tests/data/ipamblock.json");

/// A block of eight addresses with the pods of these nodes, from its first address on.
fn ipam_block(cidr: &str, affine: Option<&str>, pods: &[Option<&str>]) -> ObservedNetworks {
    let mut object: Value = serde_json::from_str(BLOCK).unwrap();
    let name = cidr.replace(['.', ':', '/'], "-");
    object["metadata"]["name"] = json!(name);
    object["metadata"]["uid"] = json!(format!("uid of {name}"));
    object["spec"]["cidr"] = json!(cidr);
    object["spec"]["affinity"] = json!(affine.map(|node| format!("host:{node}")));
    let attributes = pods
        .iter()
        .flatten()
        .map(|node| json!({"secondary": {"node": node}}));
    object["spec"]["attributes"] = attributes.collect();
    let mut next = 0..;
    let allocations = pods.iter().map(|pod| pod.and_then(|_| next.next()));
    object["spec"]["allocations"] = json!(allocations.collect::<Vec<Option<u32>>>());
    let observed: Observed<IpamBlock> = serde_json::from_value(object).unwrap();
    observed.into()
}

/// Two nodes of each location have blocks, the third ones have none; whose addresses are whose is not known.
fn world_of_blocks() -> World {
    let mut world = world_without_cni();
    world.list_calico(
        [1, 2, 4, 5]
            .map(|number| {
                let (name, node) = (format!("n{number}-a"), format!("n{number}"));
                block(&name, &node, &format!("10.245.{number}.0/29"), "confirmed")
            })
            .into(),
    );
    world
}

impl World {
    fn allocate(&mut self, block: ObservedNetworks, second: u64) {
        self.borrowed(SourceEvent::Objects(Event::Apply(block)), second);
    }

    fn list_borrowed(&mut self, blocks: Vec<ObservedNetworks>) {
        let objects = blocks.into_iter().map(Event::InitApply);
        for event in [Event::Init].into_iter().chain(objects).chain([Event::InitDone]) {
            self.borrowed(SourceEvent::Objects(event), 0);
        }
        self.settle();
    }

    /// A second later, when single addresses may be taken over.
    fn later(&mut self, second: u64) {
        self.renew(second);
        self.settle();
    }
}

#[test]
fn an_address_of_a_block_of_another_node_is_where_its_pod_runs() {
    let mut world = world_of_blocks();
    world.list_borrowed(vec![
        ipam_block(
            "10.245.1.0/29",
            Some("n1"),
            &[Some("n1"), Some("n6"), Some("n3"), None],
        ),
        ipam_block("10.245.4.0/29", Some("n4"), &[Some("n4"), Some("n4")]),
    ]);
    world.later(5);
    world.has("n1", &["10.245.1.0/29"]);
    world.has("n3", &["10.245.1.2/32"]);
    world.has("n6", &["10.245.1.1/32"]);
    world.has("n4", &["10.245.4.0/29"]);
    assert_eq!(world.condition("right", "Accepted").0, "True");
    // A change of the node itself leaves it.
    world.apply(Change::Cordon("n6".to_owned(), true));
    world.settle();
    world.has("n6", &["10.245.1.1/32"]);
}

#[test]
fn an_address_that_another_node_gets_is_had_by_that_one_alone() {
    let mut world = world_of_blocks();
    world.list_borrowed(vec![ipam_block("10.245.1.0/29", Some("n1"), &[Some("n6")])]);
    world.later(5);
    world.has("n6", &["10.245.1.0/32"]);
    // Its pod goes, and a pod of another location has it in the same second.
    world.allocate(ipam_block("10.245.1.0/29", Some("n1"), &[None]), 5);
    world.allocate(ipam_block("10.245.1.0/29", Some("n1"), &[Some("n3")]), 5);
    world.later(7);
    world.has("n6", &[]);
    world.has("n3", &["10.245.1.0/32"]);
    // A pod of the node of the block has it.
    world.allocate(ipam_block("10.245.1.0/29", Some("n1"), &[Some("n1")]), 7);
    world.later(9);
    world.has("n3", &[]);
    // The node gives the block up while the pods of others go on, and it is gone with the last of them.
    world.allocate(ipam_block("10.245.1.0/29", None, &[Some("n6")]), 9);
    world.list_calico(vec![block("n2-a", "n2", "10.245.2.0/29", "confirmed")]);
    world.later(11);
    world.has("n1", &[]);
    world.has("n6", &["10.245.1.0/32"]);
    let gone = ipam_block("10.245.1.0/29", None, &[Some("n6")]);
    world.borrowed(SourceEvent::Objects(Event::Delete(gone)), 11);
    world.later(13);
    world.has("n6", &[]);
}

#[test]
fn nothing_is_decided_before_it_is_known_who_has_addresses_of_others() {
    let mut world = World::with(crate::networks::options(PodSources::only(PodSource::Calico)));
    for change in crate::world::cluster() {
        world.apply(change);
    }
    world.list_calico(vec![block("n1-a", "n1", "10.245.1.0/29", "confirmed")]);
    world.borrowed(SourceEvent::Objects(Event::Init), 0);
    world.settle();
    assert_eq!(
        world.decisions, 0,
        "what is published of them would go for a moment"
    );
    world.borrowed(SourceEvent::Refused, 0);
    world.settle();
    world.has("n1", &["10.245.1.0/29"]);
    // What was known stays while the API server keeps it back, and goes with the definition.
    world.list_borrowed(vec![ipam_block("10.245.1.0/29", Some("n1"), &[Some("n6")])]);
    world.later(5);
    world.borrowed(SourceEvent::Refused, 5);
    world.later(7);
    world.has("n6", &["10.245.1.0/32"]);
    world.borrowed(SourceEvent::Absent, 7);
    world.later(9);
    world.has("n6", &[]);
}

#[test]
fn they_count_with_blocks_alone() {
    let mut world = world_without_cni();
    world.list_borrowed(vec![ipam_block("10.245.1.0/29", None, &[Some("n6")])]);
    world.later(5);
    world.has("n6", &["10.244.6.0/24"]);
    world.list_calico(vec![block("n1-a", "n1", "10.245.1.0/29", "confirmed")]);
    world.has("n6", &["10.245.1.0/32"]);
    world.list_calico(Vec::new());
    world.has("n6", &["10.244.6.0/24"]);
    let mut world = world_of(PodSources::only(PodSource::Nodes));
    world.list_borrowed(vec![ipam_block("10.245.1.0/29", None, &[Some("n6")])]);
    world.has("n6", &["10.244.6.0/24"]);
}

#[test]
fn who_writes_them_takes_no_address_that_is_no_pods() {
    let mut world = world_of_blocks();
    world.list_borrowed(vec![
        // Of a node, of the API server's LAN, a public one, and one of nodes that are there no more.
        ipam_block(
            "192.168.7.0/29",
            Some("n1"),
            &[None, Some("n6"), None, None, Some("n6")],
        ),
        ipam_block("8.8.8.8/29", None, &[Some("n6")]),
        ipam_block("10.245.2.0/29", Some("n2"), &[Some("n77"), Some("n6")]),
    ]);
    world.later(5);
    world.has("n6", &["10.245.2.1/32"]);
    let (status, message) = world.condition("right", "Accepted");
    assert_eq!(status, "False");
    for part in [
        "192.168.7.1",
        "192.168.7.4",
        "8.8.8.8",
        "spec.allocations of an IPAMBlock",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    // Of two objects that name two nodes for one, the standing one counts.
    let mut second = ipam_block("10.245.2.0/29", Some("n2"), &[None, Some("n3")]);
    second.name = "of-no-calico".to_owned();
    world.allocate(second, 5);
    world.later(7);
    world.has("n6", &["10.245.2.1/32"]);
    world.has("n3", &[]);
}

#[test]
fn of_one_node_so_many_count_and_the_rest_is_reported() {
    let mut world = world_of_blocks();
    let pods = vec![Some("n6"); 64];
    let of = |low: u32| {
        let cidr = format!("10.245.{}.{}/26", 16 + low / 4, low % 4 * 64);
        ipam_block(&cidr, None, &pods)
    };
    world.list_borrowed((0..9).map(of).collect());
    world.later(5);
    let mesh = world.mesh();
    let right = &mesh.locations[&"right".parse().unwrap()];
    assert_eq!(right.members[&"n6".parse().unwrap()].prefixes.len(), 512);
    let (_, message) = world.condition("right", "Accepted");
    assert!(message.contains("576") && message.contains("512"), "{message}");
}

#[test]
fn one_that_cannot_be_read_is_named_and_counts_as_none() {
    let mut world = world_of_blocks();
    world.list_borrowed(vec![ipam_block("10.245.1.0/29", Some("n1"), &[Some("n6")])]);
    world.later(5);
    world.take_notices();
    world.allocate(ipam_block("10.245.1.0/29", Some("n1"), &[Some("N 6")]), 5);
    world.later(7);
    world.has("n6", &[]);
    let notices = world.take_notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    let notice = (notices[0].api_version, notices[0].kind, notices[0].name.as_str());
    assert_eq!(notice, ("crd.projectcalico.org/v1", "IPAMBlock", "10-245-1-0-29"));
}

#[test]
fn a_rollout_is_decided_upon_once_a_second() {
    let mut world = world_of_blocks();
    world.list_borrowed(Vec::new());
    world.later(10);
    let decisions = world.decisions;
    let start = now(10).monotonic;
    for tick in 0..30_u32 {
        let time = start + std::time::Duration::from_millis(100) * tick;
        let mut pods = [None; 8];
        pods[usize::try_from(tick % 8).unwrap()] = Some("n6");
        let event = SourceEvent::Objects(Event::Apply(ipam_block("10.245.1.0/29", Some("n1"), &pods)));
        world.state.handle_borrowed(event, time);
        world.state.handle_timeout(time);
        if world.state.poll_decide() {
            world.second_is(10 + u64::from(tick / 10));
        }
        world.settle();
    }
    let decided = world.decisions - decisions;
    assert!((2..=4).contains(&decided), "{decided}");
}
