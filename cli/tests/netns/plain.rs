//! A plain WireGuard client, with the files that `showconf peer` writes for two leaders.

use std::{
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use spanwire_cli::showconf::{Config, ConfigFormat, of_peer};
use spanwire_testbed::{Command, wait_until};
use spanwire_topology::{Generation, Leader, LeaderRole, Location, Member, Mesh, NodeName, Peer};

use crate::world::{OWN, POD, SOON, World, by_kernel, pings, run, tunnel, world};

const PEER: &str = "laptop";

fn node(index: usize) -> NodeName {
    format!("a{}", index + 1).parse().unwrap()
}

/// The mesh of the two leaders, with this machine as a Peer.
fn mesh(world: &World) -> Mesh {
    let mut location = Location::default();
    for (index, leader) in world.leaders.iter().enumerate() {
        location.leaders.push(Leader {
            node: node(index),
            role: if index == 0 {
                LeaderRole::Active
            } else {
                LeaderRole::Standby
            },
        });
        let member = Member {
            generation: Generation(1),
            prefixes: [format!("10.244.{}.0/24", index + 1).parse().unwrap()].into(),
            public_key: Some(leader.key),
            endpoints: vec![format!("{}:51820", leader.address).parse().unwrap()],
            listen_port: 51_820,
            ..Member::default()
        };
        location.members_mut().insert(node(index), member);
    }
    let mut mesh = Mesh::default();
    mesh.locations.insert("a".parse().unwrap(), location);
    let peer = Peer {
        public_key: world.pair.public,
        allowed_ips: [OWN.parse().unwrap()].into(),
        endpoint: None,
        keepalive: None,
        preshared: None,
        home: Some("a".parse().unwrap()),
        attachments: ["a".parse().unwrap()].into(),
    };
    mesh.peers.insert(PEER.parse().unwrap(), peer);
    mesh
}

/// Writes the file for a leader, as `wg` takes it.
fn file(world: &World, mesh: &Mesh, leader: usize) -> String {
    let config: Config = of_peer(mesh, &PEER.parse().unwrap(), &[node(leader)]).unwrap();
    assert_eq!(config.other_leaders().count(), 1);
    let text = config.formatted(ConfigFormat::Wg).unwrap();
    let private = format!("PrivateKey = {}", world.pair.private());
    let text = text.replace("# PrivateKey = … is on the machine alone", &private);
    let path = world.folder.path().join(format!("leader{leader}.conf"));
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Carries packets of a device until the test ends.
fn serve(device: &str) -> Child {
    let process = Command::new(tunnel())
        .args(["-f", device])
        .stderr(Stdio::null())
        .spawn();
    let socket = Path::new("/var/run/wireguard").join(format!("{device}.sock"));
    wait_until("the device", SOON, || socket.exists());
    process
}

#[test]
fn a_plain_client_changes_to_the_file_of_the_leader_that_has_taken_over() {
    world(async |world: &World| {
        let [first, second] = &world.leaders[..] else {
            panic!("two leaders")
        };
        let mesh = mesh(world);
        let files = [file(world, &mesh, 0), file(world, &mesh, 1)];
        // Only the first leader knows it.
        second.forget(&world.pair.public);
        let device = format!("laptop{}", std::process::id());
        let _process = (!by_kernel()).then(|| serve(&device));
        if by_kernel() {
            run(&format!("ip link add {device} type wireguard"));
        }
        run(&format!(
            "wg setconf {device} {}; ip address add {OWN} dev {device}; ip link set {device} up
             ip route add 10.244.0.0/16 dev {device}",
            files[0]
        ));
        wait_until("the pod answers by the first leader", SOON, || pings(POD));
        first.forget(&world.pair.public);
        second.know(&world.pair.public);
        assert!(!pings(POD), "it does not follow");
        let before = run(&format!(
            "ip -o address show {device}; ip route show dev {device}"
        ));
        let begun = Instant::now();
        run(&format!("wg syncconf {device} {}", files[1]));
        wait_until("the pod answers by the second leader", SOON, || pings(POD));
        let took = begun.elapsed();
        println!("the pod answered {took:?} after the file was changed");
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert!(second.received() > 0);
        let after = run(&format!(
            "ip -o address show {device}; ip route show dev {device}"
        ));
        assert_eq!(before, after, "its address and its routes stay");
        run(&format!("ip link delete {device}"));
    });
}
