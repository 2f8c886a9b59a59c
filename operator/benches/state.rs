//! How long the operator's state takes with 5,000 nodes in 50 locations. `make bench` shows the goals beside what was measured; of
//! the 250 ms that a change may take, deciding upon it and finding what is to be written gets a small part:
//!
//! | benchmark | goal |
//! |---|---|
//! | decide_at_first | 500 ms |
//! | decide_after_one_change | 10 ms |
//! | take_a_heartbeat | 20 µs |

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::time::Instant;

use divan::Bencher;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::OwnerReference, jiff::Timestamp};
use kube::runtime::watcher::Event;
use serde_json::json;
use spanwire_crds::{Location, LocationSlice, MeshNode, MeshNodeStatus, translate::Node};
use spanwire_operator::{
    batch::Write,
    state::{Now, OperatorState, Options},
};
use spanwire_topology::PublicKey;

const NODES: u32 = 5000;
const LOCATIONS: u32 = 50;

fn main() {
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
    let mut options = Options::default();
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
