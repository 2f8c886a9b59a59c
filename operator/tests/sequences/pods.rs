//! Pods as the source of pod networks.

use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use spanwire_cluster::{
    observed::Observed,
    optional::{ObservedNetworks, SourceEvent},
};
use spanwire_crds::translate::networks::Pod;
use spanwire_operator::state::OperatorState;
use spanwire_topology::{PodSource, PodSources};

use crate::{
    networks::{options, world_of},
    world::{self, Change, World, now},
};

/// A Pod as the API server has it.
const POD: &str = include_str!("../../../crds/tests/data/pod.json");

fn pod(name: &str, node: &str, addresses: &[&str]) -> ObservedNetworks {
    let mut object: Value = serde_json::from_str(POD).unwrap();
    object["metadata"]["name"] = json!(name);
    object["spec"]["nodeName"] = json!(node);
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    object["status"]["podIPs"] = json!(addresses);
    let observed: Observed<Pod> = serde_json::from_value(object).unwrap();
    observed.into()
}

/// The cluster of six nodes with these pods.
fn world_of_pods(pods: Vec<ObservedNetworks>) -> World {
    let mut world = world_of(PodSources::only(PodSource::Pods));
    world
        .state
        .handle_networks(PodSource::Pods, SourceEvent::Absent, now(0).monotonic);
    world.settle();
    assert!(world.state.wants_pods());
    assert_eq!(world.decisions, 0, "which pods there are is not known");
    let events = pods.into_iter().map(Event::InitApply);
    for event in [Event::Init].into_iter().chain(events).chain([Event::InitDone]) {
        world.pods(event, 0);
    }
    world.settle();
    world
}

impl World {
    /// An event of Pods, in this second.
    fn pods(&mut self, event: Event<ObservedNetworks>, second: u64) {
        let event = SourceEvent::Objects(event);
        self.state
            .handle_networks(PodSource::Pods, event, now(second).monotonic);
    }
}

#[test]
fn addresses_of_pods_count_where_a_node_works_and_none_has_a_network() {
    let mut state = OperatorState::new(options(PodSources::auto()));
    world::list_all(&mut state, |kind| kind > 0);
    for source in [PodSource::Calico, PodSource::Cilium] {
        state.handle_networks(source, SourceEvent::Absent, now(0).monotonic);
    }
    state.handle_borrowed(SourceEvent::Absent, now(0).monotonic);
    let node = |name: &str, ready: &str, networks: &[&str]| -> spanwire_crds::translate::Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name}, "spec": {"podCIDRs": networks},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    };
    state.handle_node(Event::Init);
    state.handle_node(Event::InitApply(node("c1", "False", &[]).into()));
    assert!(!state.wants_pods());
    state.handle_node(Event::InitDone);
    assert!(
        !state.wants_pods() && state.poll_decide(),
        "its CNI is not there yet"
    );
    state.handle_node(Event::Apply(node("c1", "True", &[]).into()));
    assert!(state.wants_pods() && !state.poll_decide(), "pods are waited for");
    state.handle_node(Event::Apply(node("c2", "True", &["10.244.2.0/24"]).into()));
    assert!(
        !state.wants_pods() && state.poll_decide(),
        "networks are allocated"
    );
}

#[test]
fn addresses_of_pods_are_joined_and_host_networks_do_not_count() {
    let mut pods: Vec<ObservedNetworks> = (4..8)
        .map(|low| {
            pod(
                &format!("p{low}"),
                "n1",
                &[&format!("10.1.4.{low}"), &format!("fd00:1::{low}")],
            )
        })
        .collect();
    pods.push(pod("p9", "n1", &["10.1.4.9"]));
    pods.push(pod("p8", "n4", &["10.1.4.8"]));
    let mut host = pod("host", "n1", &["192.168.7.1"]);
    host.networks = Ok(Vec::new());
    pods.push(host);
    let mut world = world_of_pods(pods);
    world.has("n1", &["10.1.4.4/30", "10.1.4.9/32", "fd00:1::4/126"]);
    world.has("n4", &["10.1.4.8/32"]);
    world.has("n2", &[]);
    let (status, message) = world.condition("left", "PodNetworks");
    assert!(status == "True" && message.contains("status.podIPs"), "{message}");

    // A pod that ends gives its address to one of another node.
    world.renew(5);
    world.pods(Event::Delete(pod("p5", "n1", &["10.1.4.5", "fd00:1::5"])), 5);
    world.pods(Event::Apply(pod("q5", "n4", &["10.1.4.5"])), 5);
    world.renew(6);
    world.settle();
    world.has(
        "n1",
        &[
            "10.1.4.4/32",
            "10.1.4.6/31",
            "10.1.4.9/32",
            "fd00:1::4/128",
            "fd00:1::6/127",
        ],
    );
    world.has("n4", &["10.1.4.5/32", "10.1.4.8/32"]);
}

/// An Event of a Pod would lie in its namespace, where the operator writes none.
#[test]
fn a_pod_that_cannot_be_read_is_named_at_its_namespace_until_it_can_be() {
    let odd = |name: &str, change: &dyn Fn(&mut Value)| -> ObservedNetworks {
        let mut object: Value = serde_json::from_str(POD).unwrap();
        object["metadata"]["name"] = json!(name);
        object["spec"]["nodeName"] = json!("n1");
        object["status"]["podIPs"] = json!([{"ip": "10.1.4.9"}]);
        change(&mut object);
        let observed: Observed<Pod> = serde_json::from_value(object).unwrap();
        observed.into()
    };
    let whole = odd("whole", &|pod| pod["spec"]["hostNetwork"] = json!("maybe"));
    let part = odd("part", &|pod| {
        pod["status"]["podIPs"] = json!([{"ip": "10.1.4.5"}, {"ip": "ten"}]);
    });
    let mut world = world_of_pods(vec![pod("web", "n1", &["10.1.4.1"]), whole]);
    let named = |world: &mut World| {
        let notices = world.take_notices().into_iter();
        let named = notices.map(|notice| (notice.kind, notice.name, notice.note));
        named.collect::<Vec<_>>()
    };
    let notices = named(&mut world);
    assert_eq!(notices.len(), 1, "{notices:?}");
    let (kind, name, note) = &notices[0];
    assert_eq!((*kind, name.as_str()), ("Namespace", "shop"));
    for part in ["Pod shop/whole", "spec", "cannot be read", "nothing of it counts"] {
        assert!(note.contains(part), "{part}: {note}");
    }
    world.has("n1", &["10.1.4.1/32"]);

    world.renew(5);
    world.pods(Event::Apply(part), 5);
    world.renew(6);
    world.settle();
    world.has("n1", &["10.1.4.1/32", "10.1.4.5/32"]);
    let notices = named(&mut world);
    assert!(notices.iter().all(|(_, name, _)| name == "shop"), "{notices:?}");
    let of_part = |note: &String| note.contains("Pod shop/part") && note.contains("podIPs[1]");
    let note = notices
        .iter()
        .map(|(.., note)| note)
        .find(|note| of_part(note))
        .unwrap();
    assert!(note.contains("the rest of it counts"), "{note}");

    world.pods(Event::Delete(odd("whole", &|_| ())), 7);
    world.pods(Event::Apply(odd("part", &|_| ())), 7);
    world.renew(8);
    world.settle();
    assert_eq!(named(&mut world), []);
    world.has("n1", &["10.1.4.1/32", "10.1.4.9/32"]);
}

#[test]
fn a_rollout_is_decided_upon_once_a_second_whatever_else_happens() {
    let mut world = world_of_pods(vec![pod("p0", "n1", &["10.1.4.1"])]);
    world.renew(10);
    world.settle();
    let decisions = world.decisions;
    let start = now(10).monotonic;
    let mut versions = 0;
    for tick in 0..30_u32 {
        let time = start + std::time::Duration::from_millis(100) * tick;
        for number in 0..20_u32 {
            let low = (tick * 20 + number) % 250;
            let name = format!("p{}", tick * 20 + number);
            let event =
                SourceEvent::Objects(Event::Apply(pod(&name, "n1", &[&format!("10.1.{tick}.{low}")])));
            world.state.handle_networks(PodSource::Pods, event, time);
        }
        // A heartbeat of the node takes nothing over before its time.
        world.apply(Change::Ready("n1".to_owned(), true));
        world.state.handle_timeout(time);
        if world.state.poll_decide() {
            versions += 1;
            world.second_is(10 + u64::from(tick / 10));
        }
        world.settle();
    }
    assert!((1..=4).contains(&versions), "{versions}");
    assert!(
        world.decisions - decisions <= 4,
        "{}",
        world.decisions - decisions
    );
}

#[test]
fn what_a_kubelet_says_of_its_pods_takes_no_node_its_address_and_no_other_pod_its_own() {
    let mut world = world_of_pods(vec![
        pod("a", "n1", &["10.1.4.1"]),
        // Of a node that is not there yet, and of one that is.
        pod("b", "n4", &["192.168.7.9"]),
        pod("c", "n4", &["192.168.7.2"]),
    ]);
    world.has("n1", &["10.1.4.1/32"]);
    world.renew(5);
    world.pods(Event::Apply(pod("d", "n4", &["10.1.4.1"])), 5);
    world.pods(Event::Apply(pod("e", "n4", &["8.8.8.8"])), 5);
    world.apply(Change::Node("n9".to_owned(), Some((9, "right"))));
    world.renew(6);
    world.settle();
    world.has("n1", &["10.1.4.1/32"]);
    world.has("n4", &[]);
    let mesh = world.mesh();
    let right = &mesh.locations[&"right".parse().unwrap()];
    let member = &right.members[&"n9".parse().unwrap()];
    assert_eq!(member.addresses, ["192.168.7.9".parse().unwrap()].into());
    let (_, message) = world.condition("right", "Accepted");
    for part in ["8.8.8.8/32", "192.168.7.2/32", "status.podIPs of its pods"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}
