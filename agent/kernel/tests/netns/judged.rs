//! What firewalls do with a packet by the agent's reading of their rules, and what becomes of it.

use spanwire_host::{Judgement, Place, Protocol, Transport};
use spanwire_kernel::{Judged, Packet, Way};
use spanwire_testbed::Namespace;

use crate::lab::{Lab, lab, p, run};

/// A node between two neighbours, each in a network of its own.
struct Scene {
    left: Namespace,
    right: Namespace,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            left: Namespace::new(),
            right: Namespace::new(),
        };
        run("ip link set lo up; sysctl -qw net.ipv4.ip_forward=1");
        for (name, number, neighbour) in [("left", 1, &scene.left), ("right", 2, &scene.right)] {
            let pid = neighbour.pid();
            run(&format!(
                "ip link add {name} type veth peer name eth0 netns {pid} && ip link set {name} up && ip addr add 10.{number}.0.1/24 dev {name}"
            ));
            neighbour.run(&format!(
                "ip link set lo up && ip link set eth0 up && ip addr add 10.{number}.0.2/24 dev eth0 && ip route add default via 10.{number}.0.1"
            ));
        }
        scene.right.nft(
            "table ip seen { chain come { type filter hook prerouting priority -400; icmp type echo-request counter; }; }",
        );
        assert!(scene.comes_through());
        scene
    }

    /// Whether an echo request comes from the left to the right, answered or not.
    fn comes_through(&self) -> bool {
        let seen = || self.right.run("nft list chain ip seen come");
        let before = seen();
        // It ends with an error where there is no answer.
        let _finished = self.left.try_run("ping -n -c 1 -W 0.3 10.2.0.2");
        seen() != before
    }

    /// Whether what begins a connection to a port, or a datagram, comes from the left to the right.
    fn carries(&self, protocol: Protocol, port: u16) -> bool {
        let seen = || self.right.run("nft list chain ip arrived come");
        let before = seen();
        let address = match protocol {
            Protocol::Tcp => format!("TCP:10.2.0.2:{port},connect-timeout=0.3"),
            Protocol::Udp | Protocol::Icmp => format!("UDP:10.2.0.2:{port}"),
        };
        // Nothing listens there.
        let _refused = self.left.try_run(&format!("echo x | socat -t 0 - {address}"));
        seen() != before
    }
}

async fn judged(lab: &mut Lab, source: &str, destination: &str, answers: bool) -> Judgement {
    judged_of(lab, None, (source, destination), answers).await
}

async fn judged_of(
    lab: &mut Lab,
    transport: Option<Transport>,
    (source, destination): (&str, &str),
    answers: bool,
) -> Judgement {
    let packet = Packet {
        source: p(source),
        destination: p(destination),
        transport,
        from_tunnel: false,
        from_hop: false,
        answers,
    };
    let (way, judged): (Way, Option<Judged>) = lab.kernel.judged_way(&packet, None).await.unwrap();
    match judged {
        Some(Ok(judgement)) => judgement,
        other => panic!("{way:?}: {other:?}"),
    }
}

fn said(judgement: &Judgement) -> String {
    let (what, Place { stage, .. }) = match judgement {
        Judgement::Accepted => return "accepted".to_owned(),
        Judgement::Dropped(place) => ("dropped", place),
        Judgement::Unknown(place) => ("unknown", place),
    };
    let place = match judgement {
        Judgement::Accepted => String::new(),
        Judgement::Dropped(place) | Judgement::Unknown(place) => place.to_string(),
    };
    // Handles are the kernel's.
    let words = place
        .split(' ')
        .map(|word| if word.parse::<u64>().is_ok() { "N" } else { word });
    format!("{what} at {stage} by {}", words.collect::<Vec<_>>().join(" "))
}

/// Rules, and what is said of a packet from the left to the right.
const FORWARDED: &[(&str, &str)] = &[
    ("true", "accepted"),
    (
        "iptables -P FORWARD DROP",
        "dropped at forward by the policy of the chain FORWARD (ip filter)",
    ),
    ("iptables -P FORWARD DROP; iptables -A FORWARD -s 10.1.0.0/16 -j ACCEPT", "accepted"),
    (
        "iptables -P FORWARD DROP; iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         iptables -A FORWARD -i left -o other -j ACCEPT",
        "dropped at forward by the policy of the chain FORWARD (ip filter)",
    ),
    (
        "iptables -N USER; iptables -A FORWARD -j USER; iptables -A USER -i left -o right -m comment --comment ours -j REJECT",
        "dropped at forward by rule N of the chain USER (ip filter) \"ours\"",
    ),
    (
        "iptables -P FORWARD DROP; iptables -A FORWARD -p tcp --dport 443 -j ACCEPT",
        "unknown at forward by rule N of the chain FORWARD (ip filter)",
    ),
    (
        "iptables-legacy -P FORWARD DROP",
        "dropped at forward by the policy of the chain FORWARD (iptables-legacy's table ip filter)",
    ),
    (
        "nft 'add table ip t; add chain ip t f { type filter hook forward priority 5; }'
         nft 'add rule ip t f ct state vmap { established : accept, related : accept }; add rule ip t f drop'",
        "dropped at forward by rule N of the chain f (ip t)",
    ),
    (
        "nft 'add table ip t; add chain ip t r { type filter hook prerouting priority raw; }; add rule ip t r notrack'
         nft 'add chain ip t f { type filter hook forward priority 5; policy drop; }; add rule ip t f ct state new accept'",
        "dropped at forward by the policy of the chain f (ip t)",
    ),
    (
        "nft 'add table ip t; add chain ip t f { type filter hook forward priority 5; policy drop; }'
         nft 'add rule ip t f ct state new,established accept'",
        "accepted",
    ),
    (
        "nft 'add table ip t; add set ip t bad { type ipv4_addr; flags interval; elements = { 10.1.0.0/28 } }'
         nft 'add chain ip t f { type filter hook forward priority 5; }; add rule ip t f ip saddr @bad drop'",
        "dropped at forward by rule N of the chain f (ip t)",
    ),
    (
        "nft 'add table netdev t; add chain netdev t i { type filter hook ingress device left priority 0; }'
         nft 'add rule netdev t i ip daddr 10.2.0.0/24 drop'",
        "dropped at ingress by rule N of the chain i (netdev t)",
    ),
    (
        "nft 'add table ip t; add chain ip t p { type filter hook prerouting priority raw; }'
         nft 'add rule ip t p fib daddr type local drop; add rule ip t p fib saddr type local drop'
         nft 'add rule ip t p fib saddr . iif oif missing drop'",
        "accepted",
    ),
    (
        "nft 'add table ip t; add chain ip t p { type filter hook postrouting priority 0; }'
         nft 'add rule ip t p rt nexthop 10.2.0.9 drop; add rule ip t p rt nexthop 10.2.0.2 drop'",
        "dropped at postrouting by rule N of the chain p (ip t)",
    ),
    (
        "nft 'add table ip t; add chain ip t f { type filter hook forward priority 5; }; add rule ip t f ip protocol icmp drop'",
        "unknown at forward by rule N of the chain f (ip t)",
    ),
    (
        "nft 'add table ip t; add chain ip t p { type filter hook prerouting priority raw; }'
         nft 'add rule ip t p ether saddr != 02:00:00:00:00:01 drop'",
        "unknown at prerouting by rule N of the chain p (ip t)",
    ),
    (
        "nft 'add table ip t; add chain ip t p { type filter hook prerouting priority raw; }; add rule ip t p meta mark set 7'
         nft 'add chain ip t f { type filter hook forward priority 5; }; add rule ip t f meta mark 7 drop'",
        "unknown at forward by rule N of the chain f (ip t)",
    ),
    (
        "nft 'add table inet spanwire; add chain inet spanwire f { type filter hook forward priority -5; }'
         nft 'add set inet spanwire far4 { type ipv4_addr; flags interval; elements = { 10.2.0.0/24 } }'
         nft 'add chain inet spanwire landed; add rule inet spanwire f iifname left jump landed'
         nft 'add rule inet spanwire landed ct status dnat return; add rule inet spanwire landed ip daddr @far4 counter drop'",
        "dropped at forward by rule N of the chain landed (inet spanwire)",
    ),
];

#[test]
fn what_is_said_of_a_forwarded_packet_is_what_becomes_of_it() {
    lab(async |lab| {
        let scene = Scene::new();
        for (rules, expected) in FORWARDED {
            run(rules);
            let judgement = judged(lab, "10.1.0.2", "10.2.0.2", false).await;
            assert_eq!(said(&judgement), *expected, "{rules}");
            let came = scene.comes_through();
            match &judgement {
                Judgement::Accepted => assert!(came, "{rules}"),
                Judgement::Dropped(place) => {
                    assert!(!came, "{rules}");
                    assert_eq!(place.is_own, rules.contains("spanwire"));
                }
                Judgement::Unknown(_) => {}
            }
            run("nft flush ruleset; iptables-legacy -P FORWARD ACCEPT");
        }
    });
}

/// Rules, a protocol with a port, and what is said of such a packet from the left to the right.
const CARRYING: &[(&str, (Protocol, u16), &str)] = &[
    (
        "iptables -P FORWARD DROP; iptables -A FORWARD -p tcp --dport 443 -j ACCEPT",
        (Protocol::Tcp, 443),
        "accepted",
    ),
    (
        "iptables -P FORWARD DROP; iptables -A FORWARD -p tcp --dport 443 -j ACCEPT",
        (Protocol::Tcp, 80),
        "dropped at forward by the policy of the chain FORWARD (ip filter)",
    ),
    (
        "iptables -P FORWARD DROP; iptables -A FORWARD -p tcp --dport 443 -j ACCEPT",
        (Protocol::Udp, 443),
        "dropped at forward by the policy of the chain FORWARD (ip filter)",
    ),
    (
        "iptables -A FORWARD -p udp -m multiport --dports 53,100:200 -m comment --comment names -j DROP",
        (Protocol::Udp, 150),
        "dropped at forward by rule N of the chain FORWARD (ip filter) \"names\"",
    ),
    (
        "iptables -A FORWARD -p udp -m multiport --dports 53,100:200 -j DROP",
        (Protocol::Udp, 99),
        "accepted",
    ),
    (
        "iptables -A FORWARD -p tcp -m multiport --ports 443,8443 -j DROP",
        (Protocol::Tcp, 443),
        "dropped at forward by rule N of the chain FORWARD (ip filter)",
    ),
    (
        "iptables-legacy -A FORWARD -p tcp --dport 443 -j DROP",
        (Protocol::Tcp, 443),
        "dropped at forward by a rule of the chain FORWARD (iptables-legacy's table ip filter)",
    ),
    (
        "iptables-legacy -A FORWARD -p tcp --dport 443 -j DROP",
        (Protocol::Tcp, 444),
        "accepted",
    ),
    (
        "iptables-legacy -A FORWARD -p tcp --tcp-flags ALL ALL --dport 443 -j DROP",
        (Protocol::Tcp, 443),
        "unknown at forward by a rule of the chain FORWARD (iptables-legacy's table ip filter)",
    ),
    (
        "nft 'add table ip t; add chain ip t f { type filter hook forward priority 5; policy drop; }'
         nft 'add rule ip t f meta l4proto { tcp, udp } th dport { 53, 443 } accept'",
        (Protocol::Udp, 53),
        "accepted",
    ),
    (
        "nft 'add table ip t; add chain ip t f { type filter hook forward priority 5; policy drop; }'
         nft 'add rule ip t f meta l4proto { tcp, udp } th dport { 53, 443 } accept'",
        (Protocol::Tcp, 54),
        "dropped at forward by the policy of the chain f (ip t)",
    ),
];

#[test]
fn what_is_said_of_a_packet_to_a_port_is_what_becomes_of_it() {
    lab(async |lab| {
        let scene = Scene::new();
        scene.right.nft(
            "table ip arrived { chain come { type filter hook prerouting priority -400; ip protocol { tcp, udp } counter; }; }",
        );
        for (rules, (protocol, port), expected) in CARRYING {
            run(rules);
            let transport = Transport {
                protocol: *protocol,
                source_port: None,
                destination_port: Some(*port),
            };
            let ends = ("10.1.0.2", "10.2.0.2");
            let judgement = judged_of(lab, Some(transport), ends, false).await;
            assert_eq!(said(&judgement), *expected, "{rules}, {transport}");
            let came = scene.carries(*protocol, *port);
            match &judgement {
                Judgement::Accepted => assert!(came, "{rules}, {transport}"),
                Judgement::Dropped(_) => assert!(!came, "{rules}, {transport}"),
                Judgement::Unknown(_) => {}
            }
            run("nft flush ruleset; iptables-legacy -F; iptables-legacy -P FORWARD ACCEPT");
        }
    });
}

#[test]
fn what_begins_or_ends_here_meets_other_chains_and_an_answer_is_known_as_one() {
    lab(async |lab| {
        let scene = Scene::new();
        let base = |hook: &str| {
            run(&format!(
                "nft 'add table ip t; add chain ip t c {{ type filter hook {hook} priority 5; }}'"
            ));
        };
        for (hook, source, destination) in [
            ("input", "10.1.0.2", "10.1.0.1"),
            ("output", "10.1.0.1", "10.2.0.2"),
            ("forward", "10.1.0.2", "10.2.0.2"),
        ] {
            base(hook);
            run("nft add rule ip t c ip saddr 10.1.0.0/24 drop");
            for (other, source, destination) in [
                ("input", "10.1.0.2", "10.1.0.1"),
                ("output", "10.1.0.1", "10.2.0.2"),
                ("forward", "10.1.0.2", "10.2.0.2"),
            ] {
                let said = said(&judged(lab, source, destination, false).await);
                assert_eq!(said != "accepted", other == hook, "{hook}, {other}: {said}");
            }
            let expected = format!("dropped at {hook} by rule N of the chain c (ip t)");
            assert_eq!(said(&judged(lab, source, destination, false).await), expected);
            run("nft flush ruleset");
        }
        base("forward");
        run("nft add rule ip t c ct direction reply drop");
        assert!(!scene.left.pings("10.2.0.2"));
        let there = judged(lab, "10.1.0.2", "10.2.0.2", false).await;
        let back = judged(lab, "10.2.0.2", "10.1.0.2", true).await;
        assert_eq!(there, Judgement::Accepted);
        assert_eq!(said(&back), "dropped at forward by rule N of the chain c (ip t)");
        run("nft 'flush chain ip t c; add rule ip t c ct state new drop'");
        let [there, back] = [("10.1.0.2", "10.2.0.2", false), ("10.2.0.2", "10.1.0.2", true)];
        let there = judged(lab, there.0, there.1, there.2).await;
        assert!(matches!(there, Judgement::Dropped(_)));
        assert_eq!(judged(lab, back.0, back.1, back.2).await, Judgement::Accepted);
        run("ip route add unreachable 10.3.0.0/24");
        let packet = Packet {
            source: p("10.1.0.2"),
            destination: p("10.3.0.1"),
            transport: None,
            from_tunnel: false,
            from_hop: false,
            answers: false,
        };
        let (way, judged) = lab.kernel.judged_way(&packet, None).await.unwrap();
        assert!(matches!(way, Way::Nowhere(_)) && judged.is_none());
    });
}
