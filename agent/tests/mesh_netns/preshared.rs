//! A Peer that has to have a preshared key, with it and without.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use spanwire_crds::{Peer, PresharedKeySecretRef};
use spanwire_testbed::wait_until;
use spanwire_topology::PublicKey;

use crate::{
    landing::{Laptop, accepted},
    world::{Node, World},
};

const SOON: Duration = Duration::from_secs(10);
const FIRST: [u8; 32] = [0x51; 32];
const SECOND: [u8; 32] = [0x52; 32];

/// As `wg genpsk` prints it.
fn base64(key: [u8; 32]) -> String {
    PublicKey::new(key).to_string()
}

fn hex(key: [u8; 32]) -> String {
    key.map(|byte| format!("{byte:02x}")).concat()
}

fn with_reference() -> Peer {
    let mut peer = accepted();
    peer.status
        .as_mut()
        .unwrap()
        .accepted
        .as_mut()
        .unwrap()
        .preshared_key_secret_ref = Some(PresharedKeySecretRef {
        name: "keys".to_owned(),
        key: "laptop".to_owned(),
    });
    peer
}

/// The Secrets beside the mesh.
struct Secrets(PathBuf);

impl Secrets {
    fn of(world: &World) -> Self {
        let folder = world.folder.path().join("secrets");
        fs::create_dir_all(folder.join("keys")).unwrap();
        Self(folder)
    }

    fn write(&self, key: [u8; 32]) {
        let fresh = self.0.join("fresh");
        fs::write(&fresh, base64(key) + "\n").unwrap();
        fs::rename(fresh, self.0.join("keys/laptop")).unwrap();
    }
}

/// Nothing that the agent shows or logs has a key in it, but that it is there.
fn assert_hidden(node: &Node) {
    let pages =
        ["wanted", "actual", "diff", "plan", "snapshot"].map(|page| node.ask(&format!("/debug/{page}")));
    let shown = pages.concat() + &node.ask("/metrics") + &node.agent_log();
    assert!(shown.contains("preshared-key (hidden)"), "{shown}");
    for key in [FIRST, SECOND] {
        let list = format!("{key:?}");
        for text in [&base64(key), &hex(key), &hex(key).to_uppercase(), &list] {
            assert!(!shown.contains(text.as_str()), "{text} in {shown}");
        }
    }
}

fn kept(node: &Node) -> PathBuf {
    node.state().join("preshared-keys.json")
}

#[test]
fn a_peer_gets_in_with_its_preshared_key_and_never_without() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let leader = hex(*world.node("a1").key().as_bytes());
    let secrets = Secrets::of(&world);
    world.publish_with(&with_reference());
    let laptop = Laptop::with_tunnel_to(&world, &leader);
    let said = "cannot read a preshared key secret=\"keys\" key=\"laptop\"";
    wait_until("the trouble", SOON, || {
        world.node("a1").agent_log().contains(said)
    });
    for key in [Some(FIRST), None] {
        assert!(
            !laptop.gets_in_with(key),
            "the key is not known; {}",
            key.is_some()
        );
    }
    assert!(
        !world.node("b1").agent_log().contains("preshared"),
        "it is attached elsewhere"
    );

    secrets.write(FIRST);
    let took = wait_until("the laptop's tunnel", SOON, || laptop.gets_in_with(Some(FIRST)));
    eprintln!("with its key it is in after {took:?}");
    wait_until("a pod elsewhere", SOON, || laptop.pings("10.244.4.2"));
    assert_hidden(world.node("a1"));
    let mode = fs::metadata(kept(world.node("a1"))).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Who has its private key alone does not get in.
    assert!(!laptop.gets_in_with(None), "without its key");
    wait_until("the laptop's tunnel", SOON, || laptop.gets_in_with(Some(FIRST)));

    // Another key ends the session.
    secrets.write(SECOND);
    let took = wait_until("the end of the session", SOON, || !laptop.pings("10.1.0.1"));
    eprintln!("with the key from before it is out after {took:?}");
    assert!(!laptop.gets_in_with(Some(FIRST)), "with the key from before");
    wait_until("the laptop's tunnel", SOON, || laptop.gets_in_with(Some(SECOND)));

    // What another program does to it is put right.
    let public = accepted().spec.public_key;
    let peer = hex(*public.parse::<PublicKey>().unwrap().as_bytes());
    let near = world.node("a1");
    let recreated = format!("peer set {public} dev spanwire0 recreated");
    let repairs = || near.agent_log().matches(&recreated).count();
    let before = repairs();
    near.configure_device(&format!(
        "set=1\npublic_key={peer}\npreshared_key={}\n\n",
        hex([0; 32])
    ));
    wait_until("the repair", SOON, || repairs() > before);
    assert!(!laptop.gets_in_with(None));
    wait_until("the laptop's tunnel", SOON, || laptop.gets_in_with(Some(SECOND)));

    // The key is taken out of the Secret.
    fs::remove_file(secrets.0.join("keys/laptop")).unwrap();
    wait_until("the end of the session", SOON, || !laptop.pings("10.1.0.1"));
    assert!(!laptop.gets_in_with(Some(SECOND)) && !laptop.gets_in_with(None));
    let near = world.node("a1");
    wait_until("the key to be forgotten", SOON, || !kept(near).exists());
    assert_hidden(near);
}

#[test]
fn a_node_that_boots_without_an_api_server_lets_a_peer_in_by_the_key_that_it_knew() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let leader = hex(*world.node("a1").key().as_bytes());
    let secrets = Secrets::of(&world);
    secrets.write(FIRST);
    world.publish_with(&with_reference());
    let laptop = Laptop::with_tunnel_to(&world, &leader);
    wait_until("the laptop's tunnel", SOON, || laptop.gets_in_with(Some(FIRST)));
    let near = world.node("a1");
    // The checkpoint follows later.
    let checkpoint = near.state().join("ledger.json");
    let has = |path: &Path| fs::read_to_string(path).is_ok_and(|text| text.contains("presharedKeySecretRef"));
    wait_until("the checkpoint", 2 * SOON, || {
        has(&checkpoint) && kept(near).exists()
    });

    near.kill_agent();
    near.kill_tunnel();
    near.start_tunnel();
    near.start_agent("/nonexistent/mesh.json".as_ref());
    wait_until("the laptop's tunnel", SOON, || laptop.gets_in_with(Some(FIRST)));
    assert!(!laptop.gets_in_with(None), "without its key");

    // Nor does an agent that knows no key take away what its device has.
    let near = world.node("a1");
    near.kill_agent();
    fs::remove_file(kept(near)).unwrap();
    near.start_agent("/nonexistent/mesh.json".as_ref());
    wait_until("ready", SOON, || near.ask("/readyz").contains("200 OK"));
    wait_until("the laptop's tunnel", SOON, || laptop.gets_in_with(Some(FIRST)));
    assert!(!laptop.gets_in_with(None), "without its key");

    // After another boot that is gone too: the Peer is out, with its key and without.
    let near = world.node("a1");
    near.kill_agent();
    near.kill_tunnel();
    near.start_tunnel();
    near.start_agent("/nonexistent/mesh.json".as_ref());
    wait_until("ready", SOON, || near.ask("/readyz").contains("200 OK"));
    for key in [Some(FIRST), None] {
        assert!(!laptop.gets_in_with(key), "{}", key.is_some());
    }
    near.kill_agent();
    let mesh = world.mesh_file();
    world.publish_with(&accepted());
    world.node("a1").start_agent(&mesh);
    wait_until("a Peer that is to have none any more", SOON, || {
        laptop.gets_in_with(None)
    });
}
