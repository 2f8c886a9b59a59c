//! A mesh of 5,000 nodes in 50 locations as an agent puts it together: at first, and after one slice changed.
//!
//! `make bench` shows the goals beside what was measured:
//!
//! | benchmark | goal |
//! |---|---|
//! | assemble_all | 50 ms |
//! | assemble_after_one_slice | 1 ms |
//! | slices_of_one_location | 1 ms |

use std::{collections::BTreeMap, sync::Arc};

use divan::{Bencher, black_box};
use spanwire_crds::{
    LocationSlice, LocationSliceSpec,
    publication::{Assembler, location_slices, slices},
};
use spanwire_topology::{
    Generation, Leader, LeaderRole, Location, LocationName, Member, Mesh, NodeName, PublicKey,
};

type Objects = BTreeMap<String, Arc<LocationSlice>>;

fn main() {
    divan::main();
}

#[divan::bench]
fn assemble_all(bencher: Bencher<'_, '_>) {
    let objects = objects(&mesh());
    bencher.bench(|| {
        let mut assembler = Assembler::default();
        assembler
            .assemble(black_box(&objects), &BTreeMap::new())
            .locations
            .len()
    });
}

#[divan::bench]
fn assemble_after_one_slice(bencher: Bencher<'_, '_>) {
    let before = objects(&mesh());
    let mut after = before.clone();
    let mut changed = (*before["location-17-m1"]).clone();
    changed.spec.members[42].generation = 2;
    changed.spec.members[42].prefixes.push("10.250.0.0/24".to_owned());
    after.insert("location-17-m1".to_owned(), Arc::new(changed));
    let mut assembler = Assembler::default();
    let mut turn = false;
    bencher.bench_local(|| {
        turn = !turn;
        let objects = if turn { &after } else { &before };
        let mesh = assembler.assemble(black_box(objects), &BTreeMap::new());
        assert_eq!(mesh.generation, Generation(1 + u64::from(turn)));
    });
}

#[divan::bench]
fn slices_of_one_location(bencher: Bencher<'_, '_>) {
    let mesh = mesh();
    let objects = objects(&mesh);
    let (name, location) = mesh.locations.iter().nth(17).expect("there are fifty");
    let published: Vec<(&str, &LocationSliceSpec)> = objects
        .iter()
        .filter(|(_, slice)| slice.spec.location == name.as_str())
        .map(|(name, slice)| (name.as_str(), &slice.spec))
        .collect();
    bencher.bench(|| {
        location_slices(
            name,
            black_box(location),
            mesh.generation,
            published.iter().copied(),
        )
    });
}

fn objects(mesh: &Mesh) -> Objects {
    let slices = slices(mesh, &BTreeMap::new()).into_iter();
    let object = |(name, spec): (String, _)| (name.clone(), Arc::new(LocationSlice::new(&name, spec)));
    slices.map(object).collect()
}

fn mesh() -> Mesh {
    let place = |index: u8| -> LocationName { format!("location-{index}").parse().expect("a name") };
    let established = (0..50).map(place).collect();
    let location = |index: u8| {
        let members: BTreeMap<NodeName, Member> = (0..100).map(|node| member(index, node)).collect();
        let leaders = members.keys().take(2).map(|node| Leader {
            node: node.clone(),
            role: LeaderRole::Active,
        });
        let location = Location {
            leaders: leaders.collect(),
            established: std::collections::BTreeSet::clone(&established),
            members: Arc::new(members),
            ..Location::default()
        };
        (place(index), location)
    };
    Mesh {
        generation: Generation(1),
        locations: (0..50).map(location).collect(),
        peers: BTreeMap::new(),
    }
}

fn member(location: u8, index: u8) -> (NodeName, Member) {
    let mut key = [100; 32];
    (key[0], key[31]) = (index, location);
    let member = Member {
        generation: Generation(1),
        addresses: [format!("192.168.{location}.{index}").parse().expect("an address")].into(),
        prefixes: [
            format!("10.{}.{index}.0/24", 100 + location)
                .parse()
                .expect("a network"),
            format!("fd10:{location}:{index}::/64")
                .parse()
                .expect("a network"),
        ]
        .into(),
        overlay: [format!("10.4.{location}.{index}").parse().expect("an address")].into(),
        public_key: Some(PublicKey::new(key)),
        listen_port: 51820,
        ..Member::default()
    };
    let name = format!("ip-192-168-{location}-{index}.compute.internal");
    (name.parse().expect("a name"), member)
}
