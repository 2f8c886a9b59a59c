//! What a leader reaches of another location that was broken into.

use std::time::Duration;

use spanwire_testbed::wait_until;

use crate::world::World;

/// A neighbour in the LAN of a that is in no mesh, its cloud's metadata service, and an address of a1 that the mesh does not
/// know.
const PRIVATE: [&str; 3] = ["10.1.0.254", "169.254.169.254", "10.77.0.1"];

#[test]
fn a_leader_that_was_taken_over_reaches_nothing_of_another_location_but_the_mesh() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    world
        .network
        .router
        .run("ip address add 169.254.169.254/32 dev lo");
    world.network.router.nft(
        "table inet seen {
           chain input {
             type filter hook input priority raw
             iifname lan1 ip saddr 10.2.0.0/16 icmp type echo-request counter
           }
         }",
    );
    let near = world.node("a1");
    near.host.run("ip address add 10.77.0.1/32 dev lo");
    wait_until("the address to be known", Duration::from_secs(5), || {
        let known = near
            .host
            .try_run("nft list set inet spanwire private4 | grep -q 10.77.0.1");
        known.status.success()
    });
    let hex: String = near
        .key()
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let far = world.node("b1");
    far.kill_agent();
    let allowed: String = PRIVATE
        .map(|address| format!("allowed_ip={address}/32\n"))
        .concat();
    far.configure_device(&format!("set=1\npublic_key={hex}\nupdate_only=true\n{allowed}\n"));
    for address in PRIVATE {
        far.host.run(&format!(
            "ip route add {address} dev spanwire0 src 10.2.0.3 table 51830"
        ));
        assert!(!far.host.pings(address), "{address} answers");
    }
    for address in [
        "10.1.0.1",
        "10.1.0.2",
        "10.244.1.1",
        "10.244.1.2",
        "10.244.2.2",
        "10.4.0.1",
    ] {
        assert!(far.host.pings(address), "{address}, which is in the mesh");
    }
    let seen = world.network.router.run("nft list chain inet seen input");
    assert!(seen.contains("packets 0 "), "in the LAN of a: {seen}");
    let dropped = world
        .node("a1")
        .host
        .run("nft list chain inet spanwire landed; nft list chain inet spanwire enter");
    let counted = |packets: &str| dropped.matches(&format!("counter packets {packets} ")).count();
    assert_eq!((counted("2"), counted("1")), (1, 1), "{dropped}");
}
