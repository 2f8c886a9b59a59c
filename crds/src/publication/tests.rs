use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use proptest::{collection::btree_map, option, prelude::*};
use spanwire_topology::{
    Endpoint, Generation, HopMode, Keepalive, Leader, LeaderRole, Location, LocationName, Member, Mesh,
    MeshMode, NodeName, Peer, PeerName, Prefix, PublicKey, SecretKeyRef, Settings,
};

use super::{Assembler, MEMBERS_PER_SLICE, accepted, assemble};
use crate::{AcceptedPeer, LocationSlice, LocationSliceSpec};

type Published = BTreeMap<String, LocationSliceSpec>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_published_mesh_is_read_back_as_it_was(mesh in mesh()) {
        prop_assert_eq!(read(&slices(&mesh, &Published::new()), &peers(&mesh)), mesh);
    }

    #[test]
    fn it_is_read_back_also_when_something_else_was_published_before(before in mesh(), after in mesh()) {
        let published = slices(&after, &slices(&before, &Published::new()));
        prop_assert!(published.values().all(|slice| slice.members.len() <= MEMBERS_PER_SLICE));
        let mut back = read(&published, &peers(&after));
        prop_assert!(back.generation <= after.generation || back.generation <= before.generation);
        back.generation = after.generation;
        prop_assert_eq!(back, after);
    }

    #[test]
    fn publishing_the_same_again_changes_nothing(before in mesh(), after in mesh()) {
        let published = slices(&after, &slices(&before, &Published::new()));
        prop_assert_eq!(slices(&after, &published), published);
    }

    #[test]
    fn what_is_read_survives_the_wire(mesh in mesh()) {
        for (name, slice) in slices(&mesh, &Published::new()) {
            let text = serde_json::to_string(&slice).unwrap();
            prop_assert_eq!(serde_json::from_str::<LocationSliceSpec>(&text).unwrap(), slice, "{}", name);
        }
        for accepted in peers(&mesh).values() {
            let text = serde_json::to_string(accepted).unwrap();
            prop_assert_eq!(&serde_json::from_str::<AcceptedPeer>(&text).unwrap(), accepted);
        }
    }

    #[test]
    fn any_mixture_is_read_with_every_node_at_most_once(
        old in mesh(), new in mesh(), keep in prop::collection::vec(any::<bool>(), 64),
    ) {
        let old = slices(&old, &Published::new());
        let mut mixed = slices(&new, &old);
        for ((name, slice), keep) in old.into_iter().zip(keep) {
            if keep {
                mixed.insert(name, slice);
            }
        }
        let back = read(&mixed, &BTreeMap::new());
        let all: Vec<_> = back.locations.values().flat_map(|location| location.members.keys()).collect();
        let once: std::collections::BTreeSet<_> = all.iter().collect();
        prop_assert_eq!(all.len(), once.len());
    }
}

#[test]
fn a_changed_member_changes_its_slice_alone_and_a_new_leader_the_head_alone() {
    let mut mesh = location_of(250);
    let before = slices(&mesh, &Published::new());
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        ["a-head", "a-m1", "a-m2", "a-m3"]
    );

    mesh.generation = Generation(8);
    let location = mesh.locations.get_mut(&name::<LocationName>("a")).unwrap();
    location
        .members_mut()
        .get_mut(&name::<NodeName>("n107"))
        .unwrap()
        .listen_port = 1;
    let after = slices(&mesh, &before);
    assert_eq!(changed(&before, &after), ["a-m2"]);

    let location = mesh.locations.get_mut(&name::<LocationName>("a")).unwrap();
    location.leaders.clear();
    let led = slices(&mesh, &after);
    assert_eq!(changed(&after, &led), ["a-head"]);
    assert_eq!(led["a-head"].head.as_ref().unwrap().mesh_generation, 8);
}

#[test]
fn a_new_member_takes_a_free_seat_and_the_others_stay() {
    let before = slices(&location_of(250), &Published::new());
    let mut mesh = location_of(251);
    assert_eq!(changed(&before, &slices(&mesh, &before)), ["a-m3"]);

    let location = mesh.locations.get_mut(&name::<LocationName>("a")).unwrap();
    location.members_mut().remove(&name::<NodeName>("n000"));
    let after = slices(&mesh, &before);
    assert_eq!(
        changed(&before, &after),
        ["a-m1"],
        "the slice that changes anyway takes the newcomer"
    );
    assert_eq!(after["a-m1"].members.len(), 100);
}

#[test]
fn an_emptied_slice_goes_and_its_name_is_taken_again() {
    let before = slices(&location_of(101), &Published::new());
    let fewer = slices(&location_of(100), &before);
    assert_eq!(fewer.keys().collect::<Vec<_>>(), ["a-head", "a-m1"]);
    assert_eq!(slices(&location_of(101), &fewer), before);
}

#[test]
fn a_node_seen_twice_is_where_its_generation_is_higher() {
    let here = slices(&location_of(1), &Published::new());
    let mut there = here["a-m1"].clone();
    there.location = "b".to_owned();
    there.members[0].generation = 9;
    let mixed = Published::from([
        ("a-m1".to_owned(), here["a-m1"].clone()),
        ("b-m1".to_owned(), there),
    ]);
    let back = read(&mixed, &BTreeMap::new());
    assert_eq!(back.locations[&name::<LocationName>("a")].members.len(), 0);
    assert_eq!(back.locations[&name::<LocationName>("b")].members.len(), 1);
    assert_eq!(back.generation, Generation(9));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_is_assembled_in_steps_equals_what_is_assembled_at_once(
        meshes in prop::collection::vec(mesh(), 1..6),
        keep in prop::collection::vec(any::<bool>(), 64),
        strays in prop::collection::vec((0u8..6, any::<bool>()), 0..4),
    ) {
        let mut assembler = Assembler::default();
        let mut published = Published::new();
        let (mut objects, mut accepted) = (BTreeMap::new(), BTreeMap::new());
        for (step, mesh) in meshes.iter().enumerate() {
            let mut next = slices(mesh, &published);
            // Of the publication before some slices are left, some are missing, and some name another location.
            let old = published.iter().zip(keep.iter().skip(step)).filter(|(_, keep)| **keep);
            for ((name, slice), _) in old {
                next.entry(name.clone()).or_insert_with(|| slice.clone());
            }
            for ((name, slice), (stray, goes)) in next.clone().into_iter().zip(&strays) {
                let location = if *goes { "Not A Name".to_owned() } else { format!("l{stray}") };
                next.insert(name, LocationSliceSpec { location, ..slice });
            }
            published = next;
            share(&mut objects, published.iter().map(|(name, spec)| (name, LocationSlice::new(name, spec.clone()))));
            share(&mut accepted, peers(mesh).iter().map(|(name, accepted)| (name, peer_object(name, accepted))));
            let expected = read(&published, &peers(mesh));
            prop_assert_eq!(assembler.assemble(&objects, &accepted), &expected);
            let again = objects.iter().map(|(name, object)| (name.clone(), Arc::new((**object).clone())));
            prop_assert_eq!(assembler.assemble(&again.collect(), &accepted), &expected);
        }
        prop_assert_eq!(assembler.assemble(&BTreeMap::new(), &BTreeMap::new()), &Mesh::default());
    }
}

/// Enters objects as a watch does: one that is equal to what there is stays the same.
fn share<'a, T: PartialEq>(
    objects: &mut BTreeMap<String, Arc<T>>,
    new: impl Iterator<Item = (&'a String, T)>,
) {
    let mut before = std::mem::take(objects);
    for (name, object) in new {
        let same = before.remove(name).filter(|before| **before == object);
        objects.insert(name.clone(), same.unwrap_or_else(|| Arc::new(object)));
    }
}

fn peer_object(name: &str, accepted: &AcceptedPeer) -> crate::Peer {
    let mut peer = crate::Peer::new(
        name,
        crate::PeerSpec {
            public_key: accepted.public_key.clone(),
            allowed_ips: Vec::new(),
            endpoint: None,
            persistent_keepalive: None,
            location: None,
            preshared_key_secret_ref: None,
        },
    );
    peer.status = Some(crate::PeerStatus {
        accepted: Some(accepted.clone()),
        ..Default::default()
    });
    peer
}

#[test]
fn a_peer_whose_preshared_key_is_somewhere_unreadable_is_none() {
    let text = r#"{"publicKey": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=", "presharedKeySecretRef": {"name": "keys", "key": "a"}}"#;
    let mut published: AcceptedPeer = serde_json::from_str(text).unwrap();
    let read = Peer::try_from(&published).unwrap();
    assert_eq!(read.preshared, Some(name("keys/a")));
    assert_eq!(AcceptedPeer::from(&read), published);
    published.preshared_key_secret_ref.as_mut().unwrap().key = "a/b".to_owned();
    let problem = Peer::try_from(&published).unwrap_err().to_string();
    assert!(
        problem.starts_with("presharedKeySecretRef: \"keys/a/b\""),
        "{problem}"
    );
}

#[test]
fn locations_that_did_not_change_keep_their_members() {
    let mut mesh = location_of(250);
    let other = mesh.locations.values().next().unwrap().clone();
    mesh.locations.insert(name("b"), other);
    for member in mesh
        .locations
        .get_mut(&name::<LocationName>("b"))
        .unwrap()
        .members_mut()
        .values_mut()
    {
        member.generation = Generation(3);
    }
    let mut assembler = Assembler::default();
    let (mut objects, mut published) = (BTreeMap::new(), Published::new());
    let mut seen = |mesh: &Mesh| {
        published = slices(mesh, &published);
        share(
            &mut objects,
            published
                .iter()
                .map(|(name, spec)| (name, LocationSlice::new(name, spec.clone()))),
        );
        let mesh = assembler.assemble(&objects, &BTreeMap::new());
        ["a", "b"].map(|location| Arc::clone(&mesh.locations[&name::<LocationName>(location)].members))
    };
    // Every node of b is one of a too, where it is newer.
    let [a, b] = seen(&mesh);
    assert_eq!((a.len(), b.len()), (250, 0));
    mesh.generation = Generation(8);
    mesh.locations
        .get_mut(&name::<LocationName>("b"))
        .unwrap()
        .leaders
        .clear();
    let [same, also] = seen(&mesh);
    assert!(
        Arc::ptr_eq(&a, &same) && Arc::ptr_eq(&b, &also),
        "a head changes no members"
    );
    let there = mesh.locations.get_mut(&name::<LocationName>("b")).unwrap();
    there
        .members_mut()
        .get_mut(&name::<NodeName>("n007"))
        .unwrap()
        .generation = Generation(8);
    let [lost, won] = seen(&mesh);
    assert_eq!(
        (lost.len(), won.len()),
        (249, 1),
        "a node that moves leaves where it was"
    );
    mesh.locations
        .get_mut(&name::<LocationName>("b"))
        .unwrap()
        .members_mut()
        .clear();
    let [back, none] = seen(&mesh);
    assert_eq!((&back, none.len()), (&a, 0));
}

#[test]
fn of_two_slices_of_one_location_that_list_a_node_the_one_that_is_left_counts() {
    let slice = |generation: u64, port: u16| {
        let mut spec = slices(&location_of(2), &Published::new())["a-m1"].clone();
        spec.members[0].generation = generation;
        spec.members[0].listen_port = port;
        Arc::new(LocationSlice::new("any", spec))
    };
    let mut objects = BTreeMap::from([("a-m1".to_owned(), slice(7, 1)), ("a-m2".to_owned(), slice(9, 2))]);
    let mut assembler = Assembler::default();
    let mut port = |objects: &BTreeMap<String, Arc<LocationSlice>>| {
        let mesh = assembler.assemble(objects, &BTreeMap::new());
        mesh.locations[&name::<LocationName>("a")].members[&name::<NodeName>("n000")].listen_port
    };
    assert_eq!(port(&objects), 2);
    objects.remove("a-m2");
    assert_eq!(port(&objects), 1);
}

#[test]
fn what_cannot_be_read_is_left_out() {
    let mut published = slices(&location_of(2), &Published::new());
    let slice = published.get_mut("a-m1").unwrap();
    slice.members[0].node = "Not A Name".to_owned();
    slice.members[1].prefixes = vec!["x".to_owned(), "10.0.0.0/24".to_owned()];
    published.insert(
        "c".to_owned(),
        LocationSliceSpec {
            location: "C".to_owned(),
            ..Default::default()
        },
    );
    let bad_peer = BTreeMap::from([("p".to_owned(), AcceptedPeer::default())]);
    let back = read(&published, &bad_peer);
    assert_eq!(back.peers.len(), 0);
    assert_eq!(back.locations.len(), 1);
    let members = &back.locations[&name::<LocationName>("a")].members;
    assert_eq!(members.len(), 1);
    assert_eq!(members[&name::<NodeName>("n001")].prefixes.len(), 1);
}

fn slices(mesh: &Mesh, published: &Published) -> Published {
    let published = published.iter().map(|(name, slice)| (name.as_str(), slice));
    super::slices(mesh, &published.collect())
}

fn read(published: &Published, peers: &BTreeMap<String, AcceptedPeer>) -> Mesh {
    assemble(
        published.iter().map(|(name, slice)| (name.as_str(), slice)),
        peers.iter().map(|(name, peer)| (name.as_str(), peer)),
    )
}

fn peers(mesh: &Mesh) -> BTreeMap<String, AcceptedPeer> {
    let wire = |(name, peer): (&PeerName, &Peer)| (name.to_string(), accepted(peer));
    mesh.peers.iter().map(wire).collect()
}

fn changed<'a>(before: &'a Published, after: &'a Published) -> Vec<&'a str> {
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differs = |name: &&&String| before.get(**name) != after.get(**name);
    names.iter().filter(differs).map(|name| name.as_str()).collect()
}

fn location_of(nodes: usize) -> Mesh {
    let member = |index: usize| {
        let member = Member {
            generation: Generation(7),
            listen_port: 51820,
            ..Member::default()
        };
        (name(&format!("n{index:03}")), member)
    };
    let location = Location {
        leaders: vec![Leader {
            node: name("n000"),
            role: LeaderRole::Active,
        }],
        members: Arc::new((0..nodes).map(member).collect()),
        ..Location::default()
    };
    Mesh {
        generation: Generation(7),
        locations: [(name("a"), location)].into(),
        peers: BTreeMap::new(),
    }
}

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// Meshes over a few names, so that two of them share some; each with its generation in some head.
fn mesh() -> impl Strategy<Value = Mesh> {
    let locations = btree_map((0u8..6).prop_map(|n| name(&format!("l{n}"))), location(), 1..5);
    let peers = btree_map((0u8..4).prop_map(|n| name(&format!("p{n}"))), peer(), 0..3);
    (10u64..20, locations, peers).prop_map(|(generation, locations, peers)| {
        let mut mesh = Mesh {
            generation: Generation(generation),
            locations,
            peers,
        };
        let mut seen = std::collections::BTreeSet::new();
        for location in mesh.locations.values_mut() {
            location.members_mut().retain(|node, _| seen.insert(node.clone()));
        }
        mesh
    })
}

fn location() -> impl Strategy<Value = Location> {
    let leader = (node(), any::<bool>()).prop_map(|(node, active)| Leader {
        node,
        role: if active {
            LeaderRole::Active
        } else {
            LeaderRole::Standby
        },
    });
    let settings = (
        any::<bool>(),
        option::of(endpoint()),
        sets(prefix()),
        (any::<bool>(), any::<bool>()),
        option::of(keepalive()),
    )
        .prop_map(
            |(nodes, endpoint, cidrs, (masquerade, vxlan), keepalive)| Settings {
                mode: if nodes { MeshMode::Nodes } else { MeshMode::Leaders },
                endpoint,
                cidrs,
                masquerade,
                hop: if vxlan { HopMode::Vxlan } else { HopMode::Cni },
                keepalive,
            },
        );
    let established = sets((0u8..6).prop_map(|n| name::<LocationName>(&format!("l{n}"))));
    let members = btree_map(node(), member(), 0..140).prop_map(Arc::new);
    (
        prop::collection::vec(leader, 0..3),
        settings,
        established,
        members,
    )
        .prop_map(|(leaders, settings, established, members)| Location {
            leaders,
            settings,
            established,
            members,
        })
}

fn member() -> impl Strategy<Value = Member> {
    let lists = (sets(address()), sets(prefix()), sets(address()), sets(address()));
    let rest = (
        1u64..10,
        option::of(key()),
        prop::collection::vec(endpoint(), 0..3),
        any::<u16>(),
        option::of(keepalive()),
        option::of(any::<u16>()),
    );
    (lists, rest).prop_map(
        |(
            (addresses, prefixes, overlay, hop),
            (generation, public_key, endpoints, listen_port, keepalive, mtu),
        )| Member {
            generation: Generation(generation),
            addresses,
            prefixes,
            overlay,
            hop,
            mtu,
            public_key,
            endpoints,
            listen_port,
            keepalive,
        },
    )
}

fn peer() -> impl Strategy<Value = Peer> {
    let home = option::of((0u8..6).prop_map(|n| name::<LocationName>(&format!("l{n}"))));
    let attachments = sets((0u8..6).prop_map(|n| name::<LocationName>(&format!("l{n}"))));
    (
        key(),
        sets(prefix()),
        option::of(endpoint()),
        option::of(keepalive()),
        option::of((0u8..3).prop_map(|n| name::<SecretKeyRef>(&format!("keys/p{n}")))),
        home,
        attachments,
    )
        .prop_map(
            |(public_key, allowed_ips, endpoint, keepalive, preshared, home, attachments)| Peer {
                public_key,
                allowed_ips,
                endpoint,
                keepalive,
                preshared,
                home,
                attachments,
            },
        )
}

fn node() -> impl Strategy<Value = NodeName> {
    (0u16..400).prop_map(|n| name(&format!("n{n}")))
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ]
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (address(), 0u8..=128).prop_map(|(address, length)| {
        Prefix::new(address, length.min(if address.is_ipv4() { 32 } else { 128 })).unwrap()
    })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    prop_oneof![
        Just(name("192.0.2.1:51820")),
        Just(name("[2001:db8::1]:51820")),
        Just(name("vpn.example.com:1")),
    ]
}

fn key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>()
        .prop_filter("the zero key is none", |bytes| *bytes != [0; 32])
        .prop_map(PublicKey::new)
}

fn keepalive() -> impl Strategy<Value = Keepalive> {
    (1u16..).prop_map(Keepalive)
}

fn sets<T: Ord + std::fmt::Debug>(
    item: impl Strategy<Value = T>,
) -> impl Strategy<Value = std::collections::BTreeSet<T>> {
    prop::collection::btree_set(item, 0..3)
}
