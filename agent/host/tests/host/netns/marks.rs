//! What other programs do to marks keeps nothing of the mesh from its way.

use std::{thread, time::Duration};

use spanwire_testbed::{FAMILIES, Family, NODES, Ping, wait_until};

use super::{
    MOMENT, join, keep_pinging,
    network::{Network, Place, ping},
    services_and_streams,
    stages::{ESTABLISHED, Machines, SETTLED, Stage, TUNNELS},
};
use Place::{Host, Pod};

/// What marks all packets for a queue or for accounting, and what spreads connections over uplinks: it restores its bits from
/// the connection's mark, sets one where there is none, and saves them.
const SCRIPTS: [(&str, &str); 3] = [
    (
        "set",
        "for chain in PREROUTING OUTPUT POSTROUTING; do iptables -t mangle -A $chain -j MARK --set-mark 5; done",
    ),
    (
        "restored",
        "nft 'table ip uplinks {
            chain choose {
                meta mark set ct mark and 0xff00
                meta mark and 0xff00 == 0 meta mark set meta mark or 0x100
                ct mark set meta mark
            }
            chain pre { type filter hook prerouting priority mangle; jump choose; }
            chain out { type route hook output priority mangle; jump choose; }
        }'",
    ),
    (
        "saved whole",
        "for chain in PREROUTING OUTPUT; do
            iptables -t mangle -A $chain -j CONNMARK --restore-mark
            iptables -t mangle -A $chain -m mark --mark 0 -j MARK --set-mark 0x100
            iptables -t mangle -A $chain -j CONNMARK --save-mark
        done",
    ),
];

const CLEAR: &str = "nft 'table ip uplinks; delete table ip uplinks'; iptables -t mangle -F";

fn on_all(network: &Network, script: &str) {
    for (_, name, _) in NODES {
        network.node(name).host.run(script);
    }
}

/// The endpoints are addresses of the mesh.
#[test]
fn marks_that_others_change_keep_no_datagram_of_the_tunnel_from_its_way() {
    let network = Network::new();
    let mut machines = Machines::new();
    for stage in [TUNNELS, ESTABLISHED, SETTLED] {
        machines.bring(&network, Some(&stage.marked()));
    }
    network.close();
    for (what, script) in SCRIPTS {
        on_all(&network, script);
        // Sessions begin again, too.
        for (from, to) in [
            (Pod("a2"), Pod("b2")),
            (Host("b2"), Host("a2")),
            (Host("a1"), Host("b1")),
        ] {
            for family in FAMILIES {
                let target = network.address(to, family).to_string();
                wait_until(
                    &format!("{what}: {from:?} to {to:?} by {family:?}"),
                    Duration::from_secs(8),
                    || ping(network.at(from), &["-W", "1", &target]),
                );
            }
        }
        on_all(&network, CLEAR);
    }
}

/// What is saved of the first packet of a connection while traffic moves into the mesh is restored on all answers.
#[test]
fn marks_that_others_save_take_no_answer_past_the_mesh() {
    let network = Network::new();
    let mut machines = Machines::new();
    on_all(
        &network,
        "nft 'table ip uplinks {
            chain choose {
                ct mark != 0 meta mark set ct mark
                meta mark 0 meta mark set 0x100
                ct mark set meta mark
            }
            chain pre { type filter hook prerouting priority mangle; jump choose; }
            chain out { type route hook output priority mangle; jump choose; }
        }'",
    );
    machines.bring(&network, Some(&TUNNELS.marked()));
    let target = network.address(Host("a2"), Family::V4).to_string();
    let settled = std::sync::Barrier::new(2);
    let counts: Vec<(u32, u32)> = thread::scope(|scope| {
        // A program ends with the thread that started it.
        let connections = scope.spawn(|| {
            let begin = |_| {
                thread::sleep(MOMENT);
                network.at(Host("b2")).start_ping(&target)
            };
            let pings: Vec<Ping> = (0..12).map(begin).collect();
            settled.wait();
            pings.into_iter().map(Ping::stop).collect()
        });
        machines.bring(&network, Some(&ESTABLISHED.marked()));
        machines.bring(&network, Some(&SETTLED.marked()));
        thread::sleep(5 * MOMENT);
        settled.wait();
        connections.join().unwrap()
    });
    assert!(
        counts.iter().all(|(sent, answered)| *sent <= answered + 2),
        "{counts:?}"
    );
}

/// The tunnel's mark is lost, and kube-proxy's from all but the first packet of a connection.
#[test]
fn marks_that_others_set_before_routing_lose_nothing_while_traffic_moves_and_keep_every_connection() {
    let set = "for chain in PREROUTING OUTPUT; do iptables -t mangle -A $chain -j MARK --set-mark 5; done";
    let (_, restored) = SCRIPTS[1];
    for script in [set, restored] {
        let network = Network::new();
        let mut machines = Machines::new();
        on_all(&network, script);
        let pings = keep_pinging(&network);
        join(&network, &mut machines, pings, Stage::marked);
        // Chains of one priority are met in the order in which they were made.
        on_all(&network, CLEAR);
        on_all(&network, script);
        network.close();
        let _servers = services_and_streams(&network);
    }
}
