//! A node that has just booted: no device, no rule, no table, and nothing that the agent waits for comes.

use std::{net::TcpListener, time::Duration};

use spanwire_agent::{checkpoint::Checkpoint, guard::Guard};
use spanwire_testbed::wait_until;

use crate::world::{Node, World};

const SECOND: Duration = Duration::from_secs(1);

/// Ends agent and tunnel, and takes from the node what a boot takes.
fn shut_down(node: &mut Node) {
    wait_until("checkpoint", 5 * SECOND, || {
        node.state().join("ledger.json").exists()
    });
    node.kill_agent();
    node.kill_tunnel();
    node.host.run(
        "nft delete table inet spanwire; ip route flush table 51830
         for priority in $(ip rule | grep -o '^21[01][0-9]'); do ip rule delete priority $priority; done",
    );
}

#[test]
fn what_the_checkpoint_says_is_enforced_before_whatever_may_fail() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    for name in ["a1", "a2"] {
        let node = world.node(name);
        shut_down(node);
        let taken = node.host.inside(|| TcpListener::bind("127.0.0.1:9477").unwrap());
        node.start_agent("/nonexistent".as_ref());
        wait_until("the agent's end", 10 * SECOND, || {
            node.agent_log().contains("cannot listen on 127.0.0.1:9477")
        });
        drop(taken);
        let found = node
            .host
            .run("nft list tables; ip rule; ip route show table 51830");
        for wanted in ["inet spanwire", "lookup 51830", "unreachable 10.244.4.0/24"] {
            assert!(found.contains(wanted), "{name}: {found}");
        }
    }
}

/// Counts what the CNI sends to the nodes of location b, in plaintext.
const PLAINTEXT: &str = "table inet seen {
  chain out {
    type filter hook postrouting priority 300;
    oifname eth0 ip daddr 10.2.0.0/24 udp dport 8472 counter
  }
}";

fn plaintext(node: &Node) -> u32 {
    let listed = node.host.run("nft list table inet seen");
    let counted = listed.split("packets ").nth(1).unwrap();
    counted.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn with_the_guard_a_node_sends_no_plaintext_before_its_agent_runs() {
    let mut world = World::new(true);
    let mesh = world.mesh_file();
    for node in &mut world.nodes {
        node.flags = &["--guard"];
        node.start_agent(&mesh);
    }
    world.wait_for_pods();
    let node = world.node("a2");
    shut_down(node);
    // As half a minute after the locations were established.
    let mut checkpoint = Checkpoint::load(&node.state()).unwrap().unwrap();
    checkpoint.enforced = ["b".parse().unwrap()].into();
    Checkpoint::save(&node.state(), &checkpoint.bytes()).unwrap();
    node.start_tunnel();
    node.start_agent(&mesh);
    let guard = Guard::path(&node.state());
    wait_until("the guard", 10 * SECOND, || {
        std::fs::read_to_string(&guard).is_ok_and(|text| text.contains("set settled4"))
    });
    shut_down(node);

    node.host.nft(PLAINTEXT);
    let _answer = node.pod.pings("10.244.4.2");
    assert!(plaintext(node) > 0, "without the guard the CNI sends it");
    node.host.run("nft delete table inet seen");
    node.host.nft(PLAINTEXT);
    node.host.run(&format!("nft -f {}", guard.display()));
    assert!(!node.pod.pings("10.244.4.2"));
    assert_eq!(plaintext(node), 0);

    node.start_tunnel();
    node.start_agent(&mesh);
    world.wait_for_pods();
    let node = world.node("a2");
    assert!(
        !node.agent_log().contains("not Spanwire's"),
        "the agent takes the table for its own: {}",
        node.agent_log()
    );
    node.kill_agent();
    node.flags = &[];
    node.cleanup(false);
    assert!(!guard.exists());
}

/// Whether what is bound for the pods of b may be nowhere else than in the tunnel.
fn is_enforced(node: &Node) -> bool {
    let settled = "nft get element inet spanwire settled4 '{ 10.244.4.2 }'";
    node.host.try_run(settled).status.success()
}

#[test]
fn where_nothing_is_ever_plaintext_the_tunnel_is_enforced_at_once() {
    let mut world = World::new(false);
    let mesh = world.mesh_file();
    world.node("a2").flags = &["--tunnel-only"];
    world.nodes.iter_mut().for_each(|node| node.start_agent(&mesh));
    for node in &world.nodes {
        wait_until("ready", 10 * SECOND, || node.ask("/readyz").contains("200 OK"));
    }
    assert!(!is_enforced(world.node("a2")), "not established");
    world.publish(true, &[]);
    let node = world.node("a2");
    let took = wait_until("the tunnel to be enforced", 10 * SECOND, || is_enforced(node));
    eprintln!("enforced after {took:?}");
    assert!(
        !is_enforced(world.node("b2")),
        "without the flag others are waited for"
    );
    world.wait_for_pods();
}

#[test]
fn an_agent_that_is_started_again_and_again_enforces_the_tunnel_in_time() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let mesh = world.mesh_file();
    let node = world.node("a2");
    for _ in 0..3 {
        std::thread::sleep(11 * SECOND);
        node.kill_agent();
        node.start_agent(&mesh);
    }
    wait_until("the tunnel to be enforced", 10 * SECOND, || is_enforced(node));
}
