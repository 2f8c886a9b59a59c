//! What nodes make of faults that others do not see, where a far leader takes a source from each leader of a group: with the kernel's
//! WireGuard, which has none, neither holds (docs/operations/failover.md).

use std::{thread, time::Instant};

use spanwire_testbed::{Family, lan, wait_until};

use crate::{
    failover::{self, LATE, SECOND, WAYS, missed},
    world::World,
};

/// What kube-proxy does (its chain KUBE-FORWARD) with what conntrack knows no beginning of.
const STATEFUL: &str = "table inet stateful {
  chain forward {
    type filter hook forward priority 0;
    ct state invalid drop
  }
}";

/// One side goes by another leader, the other, whose agents are gone, as before: packets come by other ways than they went.
#[test]
fn packets_arrive_by_whichever_leader_while_the_other_side_knows_nothing_of_the_cut() {
    let mut world = failover::world();
    for node in &world.nodes {
        node.host.nft(STATEFUL);
    }
    let mesh = world.folder.path().join("with-standby-leaders.json");
    let ways = [
        ("b1", "10.244.1.2"),
        ("b1", "10.244.2.2"),
        ("a2", "10.244.3.2"),
        WAYS[0],
        WAYS[1],
    ];
    // What b1 sends is lost and it hears all, then the other way round.
    for (blind, from, to) in [
        (["a1", "a2"], vec![3], vec![1, 2]),
        (["b1", "b2"], vec![1, 2], vec![3]),
    ] {
        for name in blind {
            world.node(name).kill_agent();
        }
        let addresses = |numbers: Vec<u8>| {
            let texts = numbers
                .into_iter()
                .map(|number| lan(number, Family::V4).to_string());
            texts.collect::<Vec<_>>().join(", ")
        };
        let cut = format!(
            "table inet cut {{
               chain forward {{
                 type filter hook forward priority -10;
                 ip saddr {{ {} }} ip daddr {{ {} }} drop
               }}
             }}",
            addresses(from),
            addresses(to)
        );
        missed(&mut world, &format!("{blind:?} blind"), &ways, |world| {
            world.network.router.nft(&cut)
        });
        world.network.router.run("nft delete table inet cut");
        for name in blind {
            world.node(name).start_agent(&mesh);
        }
        // Those that come back have to have answered for a while.
        thread::sleep(2 * LATE);
        world.wait_for_pods();
    }
}

#[test]
fn leaders_say_at_once_which_location_nothing_answers_from_any_more() {
    let mut world = failover::world();
    let is_ready = |world: &mut World, node| {
        world
            .node(node)
            .ask("/metrics")
            .contains("\nspanwire_agent_ready 1\n")
    };
    assert!(is_ready(&mut world, "a1") && is_ready(&mut world, "a2"));
    world
        .network
        .router
        .run("ip link set b1 down; ip link set b2 down");
    let begin = Instant::now();
    for node in ["a1", "a2"] {
        wait_until("the word of it", 20 * SECOND, || !is_ready(&mut world, node));
        eprintln!("{node} says so after {:?}", begin.elapsed());
        let said = "location b has not been reached since";
        assert!(world.node(node).agent_log().contains(said), "{node}");
    }
    world.network.router.run("ip link set b2 up");
    for node in ["a1", "a2"] {
        wait_until("all well", 20 * SECOND, || is_ready(&mut world, node));
    }
}
