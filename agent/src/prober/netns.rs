//! The prober against real kernels, on which no agent runs: `me` has two leaders beside it, l1 and l2, which forward to the leader x
//! of another location. What x answers comes back through l2.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use spanwire_core::liveness::Trust;
use spanwire_host::{Hop, LinkName};
use spanwire_testbed::Namespace;
use spanwire_topology::{Far, Near, Probes};

use super::*;

struct World {
    me: Namespace,
    l1: Namespace,
    _others: [Namespace; 2],
}

fn p<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

impl World {
    fn new() -> Self {
        let [me, l1, l2, x] = [(); 4].map(|()| Namespace::new());
        for (number, leader) in [(1, &l1), (2, &l2)] {
            me.run(&format!(
                "ip link add l{number} type veth peer name eth0 netns {leader}
                 ip address add 192.168.{number}.1/24 dev l{number}
                 ip link set l{number} up",
                leader = leader.pid()
            ));
            x.run(&format!(
                "ip link add l{number} type veth peer name wan netns {leader}
                 ip address add 172.16.{number}.1/24 dev l{number}
                 ip link set l{number} up",
                leader = leader.pid()
            ));
            leader.run(&format!(
                "ip address add 192.168.{number}.2/24 dev eth0
                 ip address add 172.16.{number}.2/24 dev wan
                 ip link set eth0 up
                 ip link set wan up
                 ip route add 10.4.0.1/32 via 172.16.{number}.1
                 sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0 \
                     net.ipv4.conf.wan.rp_filter=0"
            ));
        }
        // Nothing of `me` is routed there: what gets through goes by the neighbours.
        let loose = "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.l1.rp_filter=0 net.ipv4.conf.l2.rp_filter=0";
        me.run(&format!("ip address add 192.168.9.9/32 dev lo\n{loose}"));
        x.run(&format!(
            "ip address add 10.4.0.1/32 dev lo\nip route add 192.168.9.9 via 172.16.2.2\n{loose}"
        ));
        l2.run("ip route add 192.168.9.9 via 192.168.2.1");
        l1.run("ip route add 192.168.9.9 via 192.168.1.1");
        Self {
            me,
            l1,
            _others: [l2, x],
        }
    }

    /// What `me` has to watch.
    fn assignment() -> Assignment {
        let near = |number: u8| Near {
            node: p(&format!("l{number}")),
            hop: BTreeSet::new().into(),
            addresses: [p::<IpAddr>(&format!("192.168.{number}.2"))]
                .into_iter()
                .collect::<BTreeSet<_>>()
                .into(),
        };
        let hop = |number: u8| {
            let hop = Hop {
                link: LinkName::new(&format!("l{number}")).unwrap(),
                neighbour: p(&format!("192.168.{number}.2")),
                answers_at: None,
                source: p("192.168.9.9"),
            };
            ((p(&format!("l{number}")), Family::V4), hop)
        };
        Assignment {
            probes: Probes {
                hops: vec![near(1), near(2)],
                through: vec![Far {
                    location: p("x"),
                    node: p("x"),
                    overlay: [p("10.4.0.1")].into(),
                }],
                ..Probes::default()
            },
            hops: [hop(1), hop(2)].into(),
            ..Assignment::default()
        }
    }

    /// Starts the prober there, and waits until everything answers.
    fn start(&self) -> Ends {
        let ends = self
            .me
            .inside(|| start(Settings::default(), Judgement::default()).unwrap());
        ends.assignments.send_replace(Arc::new(Self::assignment()));
        let begin = Instant::now();
        while !sight(&ends).seen.iter().all(|seen| seen.answered) {
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "{:?}",
                sight(&ends).seen
            );
            thread::sleep(Duration::from_millis(50));
        }
        thread::sleep(Duration::from_millis(1500));
        ends
    }
}

fn sight(ends: &Ends) -> Sight {
    let (sender, receiver) = oneshot::channel();
    ends.asks.try_send(sender).unwrap();
    receiver.blocking_recv().unwrap()
}

/// Waits until these are the leaders that are not to be used, and returns how long that took.
fn wait_for(ends: &Ends, unused: &[&str]) -> Duration {
    let begin = Instant::now();
    loop {
        let judgement = ends.judgements.borrow().clone();
        let found: Vec<&str> = judgement.lost.iter().map(|(leader, _)| leader.as_str()).collect();
        if found == unused {
            return begin.elapsed();
        }
        let patience = Duration::from_secs(10);
        assert!(
            begin.elapsed() < patience,
            "{judgement:?} {:#?}",
            sight(ends).seen
        );
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_leader_that_does_not_forward_or_is_dead_is_given_up_and_taken_back() {
    let world = World::new();
    let ends = world.start();
    assert!(ends.judgements.borrow().lost.is_empty());
    world.l1.run("sysctl -qw net.ipv4.ip_forward=0");
    println!("does not forward: {:?}", wait_for(&ends, &["l1"]));
    world.l1.run("sysctl -qw net.ipv4.ip_forward=1");
    println!("forwards again: {:?}", wait_for(&ends, &[]));
    world
        .l1
        .nft("table inet broken { chain any { type filter hook input priority 0; policy drop; }\n}");
    println!("dead: {:?}", wait_for(&ends, &["l1"]));
    world.l1.run("nft delete table inet broken");
    println!("lives again: {:?}", wait_for(&ends, &[]));
}

#[test]
fn loss_is_no_reason_to_give_a_leader_up() {
    let world = World::new();
    let ends = world.start();
    // Each way.
    world.l1.nft(
        "table inet lossy {
           chain any { type filter hook prerouting priority -400; meta l4proto icmp numgen random mod 100 < 5 drop; }
           chain out { type filter hook postrouting priority 400; meta l4proto icmp numgen random mod 100 < 5 drop; }
         }",
    );
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(15) {
        assert!(
            ends.judgements.borrow().lost.is_empty(),
            "{:#?}",
            sight(&ends).seen
        );
        thread::sleep(Duration::from_millis(10));
    }
    let losses: Vec<f64> = sight(&ends).seen.iter().map(|seen| seen.loss).collect();
    assert!(losses.iter().any(|loss| *loss > 0.02), "{losses:?}");
}

#[test]
fn what_the_sockets_cost_at_rest_is_little_and_nothing_without_anything_to_watch() {
    let world = World::new();
    let ends = world.start();
    let cost = |ends: &Ends| {
        let before = sight(ends).processor;
        thread::sleep(Duration::from_secs(3));
        (sight(ends).processor - before) / 3
    };
    println!("four paths: {:?} in a second", cost(&ends));
    assert!(sight(&ends).seen.iter().all(|seen| seen.trust == Trust::Sound));
    ends.assignments.send_replace(Arc::default());
    thread::sleep(Duration::from_millis(100));
    let at_rest = cost(&ends);
    assert!(at_rest < Duration::from_millis(1), "{at_rest:?}");
}
