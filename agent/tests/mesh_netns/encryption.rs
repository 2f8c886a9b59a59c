//! What agents count on the wires of their nodes: all of it encrypted where the mesh works, and not where a node is without it.

use serde_json::Value;

use crate::world::World;

/// Has an agent count while something runs.
fn counted(world: &mut World, node: &str, during: impl FnOnce(&World)) -> Value {
    let node = world.node(node).counting();
    during(world);
    let answer = node.join().unwrap();
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer:?}"));
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))
}

/// Returns how many packets were counted from one location to another, in WireGuard and in plaintext.
fn packets(found: &Value, from: &str, to: &str) -> [u64; 2] {
    let pairs = found["pairs"].as_array().unwrap();
    let pair = pairs.iter().find(|pair| pair["from"] == from && pair["to"] == to);
    ["wireguard", "plaintext"].map(|how| pair.map_or(0, |pair| pair[how]["packets"].as_u64().unwrap()))
}

fn sample(found: &Value, from: &str, to: &str) -> String {
    let mut pairs = found["pairs"].as_array().unwrap().iter();
    let pair = pairs
        .find(|pair| pair["from"] == from && pair["to"] == to)
        .unwrap();
    pair["sample"].as_str().unwrap_or_default().to_owned()
}

/// Takes Spanwire off a node, and has the internet let everything through.
fn strip(world: &mut World, node: &str) {
    world.network.router.run("nft flush ruleset");
    let node = world.node(node);
    node.kill_agent();
    node.host.run(
        "nft flush ruleset
         ip rule | grep 'lookup 5183' | cut -d: -f1 | while read -r priority; do ip rule delete priority $priority; done",
    );
}

fn ping(world: &World, from: &str, to: &str) {
    let from = world.network.node(from);
    let _answered = from.pod.try_run(&format!("ping -q -c 10 -i 0.05 -W 1 {to}"));
}

/// Of what is sent by these, nothing is in plaintext.
fn all_encrypted(world: &mut World, node: &str, during: impl FnOnce(&World)) {
    let found = counted(world, node, during);
    let seen = [packets(&found, "a", "b"), packets(&found, "b", "a")];
    let [[out, out_plain], [come, come_plain]] = seen;
    assert!(out >= 10 && come >= 10, "{node}: {found}");
    assert_eq!([out_plain, come_plain], [0, 0], "{node}: {found}");
    let bytes = |pair: &Value| pair["wireguard"]["bytes"].as_u64().unwrap();
    assert!(
        found["pairs"]
            .as_array()
            .unwrap()
            .iter()
            .all(|pair| bytes(pair) > 100)
    );
    assert_eq!(found["missed"]["rest"], 0, "{found}");
    assert_eq!(found["troubles"].as_array().unwrap().len(), 0, "{found}");
    assert_eq!(found["devices"], serde_json::json!(["eth0"]));
}

#[test]
fn leaders_see_that_all_is_encrypted_and_what_is_not() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    // What followers send comes to the leader in the CNI's VXLAN, inside the location.
    for node in ["a1", "b1"] {
        all_encrypted(&mut world, node, |world| {
            ping(world, "a2", "10.244.4.2");
            ping(world, "a1", "10.244.3.2");
        });
    }

    // Without Spanwire a node sends what the CNI's routes say, and here the internet lets it through.
    strip(&mut world, "a1");
    let found = counted(&mut world, "b1", |world| ping(world, "a1", "10.244.3.2"));
    let [_, plaintext] = packets(&found, "a", "b");
    assert!(plaintext >= 10, "{found}");
    let expected = "10.244.1.2 to 10.244.3.2, ICMP in VXLAN, received by eth0";
    assert_eq!(sample(&found, "a", "b"), expected);
}

/// There packets go from leader to leader of a location as they are, and so do the agents' echo requests: by their neighbours
/// they are known to be inside the location.
#[test]
fn without_a_device_of_the_cni_what_stays_in_the_lan_does_not_count() {
    let mut world = World::without_cni_device();
    for (node, order) in [
        ("a1", ["a1", "a2"]),
        ("a2", ["a1", "a2"]),
        ("b1", ["a1", "a2"]),
        ("b2", ["a1", "a2"]),
    ] {
        world.publish_to(node, order);
        let mesh = world.mesh_of(node);
        world.node(node).start_agent(&mesh);
    }
    world.wait_for_pods();
    for node in ["a1", "a2"] {
        let found = counted(&mut world, node, |world| {
            ping(world, "a2", "10.244.4.2");
            ping(world, "a1", "10.244.4.2");
        });
        for (from, to) in [("a", "b"), ("b", "a")] {
            assert_eq!(packets(&found, from, to)[1], 0, "{node}: {found}");
        }
        // The one that stands by is probed through its tunnels, at least.
        assert!(packets(&found, "a", "b")[0] > 0, "{node}: {found}");
    }
    // By the router, not by a leader.
    strip(&mut world, "b1");
    let found = counted(&mut world, "a1", |world| {
        let b1 = &world.network.node("b1").host;
        let _answered = b1.try_run("ping -q -c 10 -i 0.05 -W 1 10.1.0.1");
    });
    assert!(packets(&found, "b", "a")[1] >= 10, "{found}");
    // The answers to the echo requests of a1, which went through the tunnel, are among these.
    let sample = sample(&found, "b", "a");
    assert!(
        sample.ends_with(" to 10.1.0.1, ICMP, received by eth0"),
        "{sample}"
    );
}
