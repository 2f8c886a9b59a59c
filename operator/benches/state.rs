//! How long the operator's state takes with 5,000 nodes in 50 locations. `make bench` shows the goals beside what was measured; of
//! the 250 ms that a change may take, deciding upon it and finding what is to be written gets a small part:
//!
//! | benchmark | goal |
//! |---|---|
//! | decide_at_first | 500 ms |
//! | decide_after_one_change | 10 ms |
//! | take_a_heartbeat | 20 µs |
//! | take_a_second_of_a_rollout | 50 ms |
//! | decode_a_pod | 50 µs |
//!
//! In the rollout 200 of 10,000 Pods, which are the source of pod networks, are replaced by others. What is written for that is
//! printed first.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(clippy::print_stdout, reason = "a benchmark prints what it finds")]

use std::time::{Duration, Instant};

use divan::Bencher;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::OwnerReference, jiff::Timestamp};
use kube::runtime::watcher::Event;
use serde_json::json;
use spanwire_cluster::{
    observed::Observed,
    optional::{ObservedNetworks, SourceEvent},
};
use spanwire_crds::{
    Location, LocationSlice, MeshNode, MeshNodeStatus,
    translate::{
        Node,
        networks::{NodeNetworks, Pod},
    },
};
use spanwire_operator::{
    batch::Write,
    state::{Now, OperatorState, Options},
};
use spanwire_topology::{PodSource, PodSources, Prefix, PublicKey};

const NODES: u32 = 5000;
const LOCATIONS: u32 = 50;
const PODS: u32 = 10_000;
const REPLACED: u32 = 200;
/// As the API server has one.
const POD: &[u8] = include_bytes!("../../crds/tests/data/pod.json");

fn main() {
    print_rollout();
    divan::main();
}

#[divan::bench(sample_count = 10)]
fn decide_at_first(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(|| known(NODES))
        .bench_local_values(|mut state| state.decide(now()).unwrap());
}

#[divan::bench(sample_count = 20)]
fn decide_after_one_change(bencher: Bencher<'_, '_>) {
    let mut state = published();
    let mut cordoned = false;
    bencher.bench_local(|| {
        cordoned = !cordoned;
        state.handle_node(Event::Apply(node(0, cordoned).into()));
        state.decide(now()).unwrap()
    });
}

#[divan::bench(sample_count = 100)]
fn take_a_heartbeat(bencher: Bencher<'_, '_>) {
    let mut state = published();
    bencher
        .with_inputs(|| node(7, false))
        .bench_local_values(|node| state.handle_node(Event::Apply(node.into())));
    assert!(!state.poll_decide());
}

#[divan::bench(sample_count = 20)]
fn take_a_second_of_a_rollout(bencher: Bencher<'_, '_>) {
    let (mut state, mut second) = (with_pods(), 0);
    bencher.bench_local(|| {
        second += 1;
        roll_out(&mut state, second);
        state.decide(now()).unwrap()
    });
}

#[divan::bench(sample_count = 100)]
fn decode_a_pod() -> ObservedNetworks {
    let observed: Observed<Pod> = serde_json::from_slice(POD).unwrap();
    observed.into()
}

/// Prints what a second of the rollout has written.
fn print_rollout() {
    let mut state = with_pods();
    roll_out(&mut state, 1);
    let (mut slices, mut bytes) = (0, 0);
    for write in state.decide(now()).unwrap().into_writes() {
        if let Write::Slice { name, spec, .. } = write {
            slices += 1;
            bytes += serde_json::to_vec(&LocationSlice::new(&name, spec))
                .unwrap()
                .len();
        }
    }
    println!(
        "a second of a rollout: {REPLACED} of {PODS} Pods replaced, {slices} LocationSlices written, {} kB of JSON; a Pod \
         has {} bytes",
        bytes / 1000,
        POD.len()
    );
}

/// A mesh at rest whose pod networks are the addresses of Pods.
fn with_pods() -> OperatorState {
    let mut state = known_with(NODES, PodSources::only(PodSource::Pods));
    let events = (0..PODS).map(|number| Event::InitApply(pod(number, 0)));
    for event in [Event::Init].into_iter().chain(events).chain([Event::InitDone]) {
        take(&mut state, event);
    }
    while state.poll_decide() {
        write(&mut state);
    }
    state
}

/// Replaces pods, and lets the second pass after which that is decided upon.
fn roll_out(state: &mut OperatorState, second: u32) {
    for number in 0..REPLACED {
        let number = (second * REPLACED + number) % PODS;
        take(state, Event::Apply(pod(number, second)));
    }
    state.handle_timeout(Instant::now() + Duration::from_secs(2));
    assert!(state.poll_decide());
}

fn take(state: &mut OperatorState, event: Event<ObservedNetworks>) {
    state.handle_networks(PodSource::Pods, SourceEvent::Objects(event), Instant::now());
}

/// Clouds hand addresses out in no order.
fn pod(number: u32, second: u32) -> ObservedNetworks {
    let [high, low] = u16::try_from((number * 7919 + second * 31) % 65536)
        .unwrap()
        .to_be_bytes();
    let networks = NodeNetworks {
        node: format!("node-{}", number % 400).parse().unwrap(),
        networks: [Prefix::host([172, 30, high, low].into())].into(),
    };
    ObservedNetworks {
        name: format!("shop/web-{number}"),
        uid: format!("uid-{number}"),
        networks: Ok(vec![networks]),
        set_aside: Vec::new(),
    }
}

fn now() -> Now {
    Now {
        monotonic: Instant::now(),
        wall: Timestamp::now(),
    }
}

fn node(number: u32, unschedulable: bool) -> Node {
    let [_, _, high, low] = number.to_be_bytes();
    let labels: serde_json::Map<_, _> = (0..12)
        .map(|label| {
            (
                format!("example.com/label-{label}"),
                json!("a value of usual length"),
            )
        })
        .collect();
    let object = json!({
        "metadata": {
            "name": format!("node-{number}"), "uid": format!("uid-{number}"), "labels": labels,
            "annotations": {"spanwire.dev/location": format!("location-{}", number % LOCATIONS)},
        },
        "spec": {"podCIDRs": [format!("10.{}.{low}.0/24", 64 + high)], "unschedulable": unschedulable},
        "status": {
            "addresses": [{"type": "InternalIP", "address": format!("172.16.{high}.{low}")}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    serde_json::from_value(object).unwrap()
}

fn report(number: u32) -> MeshNodeStatus {
    let mut key = [1; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    MeshNodeStatus {
        public_key: Some(PublicKey::new(key).to_string()),
        ..MeshNodeStatus::default()
    }
}

/// A cluster of which nothing is published yet.
fn known(nodes: u32) -> OperatorState {
    known_with(nodes, PodSources::default())
}

fn known_with(nodes: u32, pod_sources: PodSources) -> OperatorState {
    let mut options = Options {
        pod_sources,
        ..Options::default()
    };
    options.cluster.overlay = ["10.4.0.0/16".parse().unwrap(), "fd00:4::/64".parse().unwrap()].into();
    let mut state = OperatorState::new(options);
    state.handle_node(Event::Init);
    for number in 0..nodes {
        state.handle_node(Event::InitApply(node(number, false).into()));
    }
    state.handle_node(Event::InitDone);
    state.handle_mesh_node(Event::Init);
    for number in 0..nodes {
        let mut object = MeshNode::new(&format!("node-{number}"), spanwire_crds::MeshNodeSpec::default());
        object.status = Some(report(number));
        state.handle_mesh_node(Event::InitApply(object.into()));
    }
    state.handle_mesh_node(Event::InitDone);
    for event in [Event::Init, Event::InitDone] {
        state.handle_location(event);
    }
    for event in [Event::Init, Event::InitDone] {
        state.handle_peer(event);
    }
    for event in [Event::Init, Event::InitDone] {
        state.handle_slice(event);
    }
    for event in [Event::Init, Event::InitDone] {
        state.handle_lease(event, Instant::now());
    }
    state
}

/// A mesh at rest.
fn published() -> OperatorState {
    let mut state = known(NODES);
    while state.poll_decide() {
        write(&mut state);
    }
    state
}

/// Decides, and enters what is to be written as if it was.
fn write(state: &mut OperatorState) {
    let batch = state.decide(now()).unwrap();
    for write in batch.into_writes() {
        match write {
            Write::Slice { name, spec, .. } => {
                state.handle_slice(Event::Apply(LocationSlice::new(&name, spec).into()));
            }
            Write::MeshNode {
                name, node_uid, spec, ..
            } => {
                let mut object = MeshNode::new(&name, spec);
                object.metadata.owner_references = Some(vec![OwnerReference {
                    kind: "Node".to_owned(),
                    uid: node_uid,
                    ..OwnerReference::default()
                }]);
                let number = name.trim_start_matches("node-").parse().unwrap();
                object.status = Some(report(number));
                state.handle_mesh_node(Event::Apply(object.into()));
            }
            Write::CreateLocation { name } => {
                let object = Location::new(&name, spanwire_crds::LocationSpec::default());
                state.handle_location(Event::Apply(object.into()));
            }
            Write::LocationStatus { name, status, .. } => {
                let mut object = Location::new(&name, spanwire_crds::LocationSpec::default());
                object.status = Some(status);
                state.handle_location(Event::Apply(object.into()));
            }
            Write::DeleteSlice(_)
            | Write::DeleteMeshNode(_)
            | Write::DeleteLocation(_)
            | Write::PeerStatus { .. }
            | Write::MeshNodeStatus { .. } => {}
        }
    }
    state.handle_published(true);
}
