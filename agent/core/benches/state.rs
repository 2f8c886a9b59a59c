//! The state of a leader in a mesh of 5,000 nodes in 50 locations: a publication that changes one slice, and a survey that
//! finds nothing new.
//!
//! `make bench` shows the goals beside what was measured. What follows, the steps to the new target, is measured by the
//! benchmark of `agent/host`.
//!
//! | benchmark | goal |
//! |---|---|
//! | publication_that_changes_a_prefix | 15 ms |
//! | publication_that_changes_nothing_here | 10 ms |
//! | survey_that_finds_nothing_new | 1 ms |

#[path = "../../host/benches/large/mesh.rs"]
mod mesh;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use divan::{Bencher, black_box};
use spanwire_core::{DeviceReading, NodeState, Snapshot, Survey, Target};
use spanwire_crds::{Backend, LocationSlice, MeshNode, MeshNodeSpec, publication::slices};
use spanwire_host::{Inventory, Owned};
use spanwire_topology::{Member, Mesh, NodeName};

use mesh::{cni, links, location, member, mesh, name, prefix};

fn main() {
    divan::main();
}

/// Another prefix of a node far away: decoded, planned and rendered.
#[divan::bench]
fn publication_that_changes_a_prefix(bencher: Bencher<'_, '_>) {
    let mut changed = mesh();
    member_of(&mut changed, 7, 50).prefixes.insert(prefix(200, 1));
    let (mut state, snapshots) = leader(&changed);
    let mut turn = 0;
    bencher.bench_local(|| {
        turn += 1;
        assert!(state.handle_snapshot(&snapshots[turn % 2], now()));
        target(&state)
    });
}

/// Another endpoint of a node that does not lead: decoded and planned.
#[divan::bench]
fn publication_that_changes_nothing_here(bencher: Bencher<'_, '_>) {
    let mut changed = mesh();
    member_of(&mut changed, 7, 50).listen_port += 1;
    let (mut state, snapshots) = leader(&changed);
    let mut turn = 0;
    bencher.bench_local(|| {
        turn += 1;
        assert!(!state.handle_snapshot(&snapshots[turn % 2], now()));
        target(&state)
    });
}

/// What every reconcile begins with.
#[divan::bench]
fn survey_that_finds_nothing_new(bencher: Bencher<'_, '_>) {
    let (mut state, _) = leader(&mesh());
    bencher.bench_local(|| {
        state.handle_survey(black_box(survey()), now());
        target(&state)
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had from the clock alone"
)]
fn now() -> Instant {
    Instant::now()
}

fn target(state: &NodeState) -> Target {
    state.poll_target(now()).expect("mesh and machine are known")
}

/// The first node of location 0, which leads it, and its snapshot of the mesh: as it is, and as changed.
fn leader(changed: &Mesh) -> (NodeState, [Snapshot; 2]) {
    let me = name(0, 1);
    let mut state = NodeState::new(me.clone(), Owned::default(), BTreeSet::new());
    let before = snapshot(&me, &mesh(), None);
    let after = snapshot(&me, changed, Some(&before));
    state.handle_snapshot(&before, now());
    state.handle_survey(survey(), now());
    assert!(
        target(&state).host.routes.len() > 9_000,
        "the others' nodes and pods are routed"
    );
    (state, [before, after])
}

/// Objects that are the same as before are shared, as those that a watch did not touch.
fn snapshot(me: &NodeName, mesh: &Mesh, before: Option<&Snapshot>) -> Snapshot {
    let published = before.map(|before| &before.slices);
    let specs = published.into_iter().flatten();
    let specs = specs.map(|(name, slice)| (name.as_str(), &slice.spec)).collect();
    let object = |(name, spec): (String, spanwire_crds::LocationSliceSpec)| {
        let same = published
            .and_then(|slices| slices.get(&name))
            .filter(|slice| slice.spec == spec);
        let object = same.map_or_else(|| Arc::new(LocationSlice::new(&name, spec)), Arc::clone);
        (name, object)
    };
    let node = MeshNode::new(me.as_str(), MeshNodeSpec::default());
    Snapshot {
        slices: slices(mesh, &specs).into_iter().map(object).collect(),
        peers: BTreeMap::new(),
        node: Some(Arc::new(node)),
    }
}

fn survey() -> Survey {
    let inventory = Inventory {
        links: links(0, 1),
        cni: cni(),
        underlay_mtu: Some(1500),
        ..Inventory::default()
    };
    Survey {
        identity: member(0, 1).public_key.map(|key| (key, Backend::Kernel)),
        inventory: Some(inventory),
        device: DeviceReading::default(),
    }
}

fn member_of(mesh: &mut Mesh, l: u8, x: u8) -> &mut Member {
    let location = mesh.locations.get_mut(&location(l)).expect("it is there");
    location.members_mut().get_mut(&name(l, x)).expect("it is there")
}
