//! What is read of the firewalls of others.

use std::net::IpAddr;

use spanwire_host::{Direction, Elsewhere, Filter, Match, Pass, Sample, State, TableFamily, Verdict};

use crate::lab::{Lab, lab, link, p, run};

async fn forward(lab: &mut Lab) -> Vec<Filter> {
    lab.kernel.inventory(&[], false).await.unwrap().filters.to_vec()
}

fn from(name: &str) -> Sample {
    Sample::new(Pass {
        direction: Direction::In,
        link: link(name),
    })
}

/// A packet of a pod, transit or for a pod here.
fn pod(state: State) -> Sample {
    let ends: (IpAddr, IpAddr) = (p("10.244.2.2"), p("10.244.1.2"));
    Sample {
        ends: Some(ends),
        state: Some(state),
        ..from("spanwire0")
    }
}

#[test]
fn a_table_of_iptables_legacy_is_read_as_iptables_wrote_it() {
    lab(async |lab| {
        assert!(forward(lab).await.is_empty());
        run("iptables-legacy -N USER
             iptables-legacy -N EMPTY
             iptables-legacy -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
             iptables-legacy -A FORWARD -j USER
             iptables-legacy -A FORWARD -g EMPTY ! -i eth+
             iptables-legacy -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
             iptables-legacy -A USER -s 10.244.0.0/16 ! -d 10.96.0.0/12 -m comment --comment flannel -j ACCEPT
             iptables-legacy -A USER -m state --state INVALID -j REJECT
             iptables-legacy -A USER -p udp --dport 53:99 -j LOG
             iptables-legacy -A USER -p udp --sport 53 -m limit --limit 1/s -j LOG
             iptables-legacy -P FORWARD DROP");
        let filters = forward(lab).await;
        let [filter] = filters.as_slice() else {
            panic!("{filters:?}")
        };
        assert!(filter.is_legacy && filter.drops);
        assert_eq!(filter.name.to_string(), "ip filter FORWARD");
        let states = |states: &[State]| Match::State {
            states: states.iter().copied().collect(),
            not: false,
        };
        let device = |direction, name: &str, not| Match::Device {
            direction,
            names: vec![name.to_owned()],
            not,
        };
        let read = |rules: &[spanwire_host::FilterRule]| -> Vec<(Vec<Match>, Verdict)> {
            rules
                .iter()
                .map(|rule| (rule.matches.clone(), rule.verdict.clone()))
                .collect()
        };
        assert_eq!(
            read(&filter.rules),
            [
                (
                    vec![states(&[State::Established, State::Related])],
                    Verdict::Accept
                ),
                (vec![], Verdict::Jump("USER".to_owned())),
                (
                    vec![device(Direction::In, "eth*", true)],
                    Verdict::Goto("EMPTY".to_owned())
                ),
                (
                    vec![
                        device(Direction::In, "docker0", false),
                        device(Direction::Out, "docker0", true)
                    ],
                    Verdict::Accept
                ),
            ]
        );
        let range = |source, first: &str, last: &str, not| Match::Address {
            source,
            ranges: vec![(p(first), p(last))],
            not,
        };
        let udp = Match::Protocol {
            protocols: vec![17],
            not: false,
        };
        let port = |source, first, last| Match::Port {
            protocol: Some(17),
            source,
            ranges: vec![(first, last)],
            not: false,
        };
        // The last is the end of the chain.
        assert_eq!(
            read(&filter.chains["USER"]),
            [
                (
                    vec![
                        range(true, "10.244.0.0", "10.244.255.255", false),
                        range(false, "10.96.0.0", "10.111.255.255", true)
                    ],
                    Verdict::Accept
                ),
                (vec![states(&[State::Invalid])], Verdict::Drop),
                (vec![udp.clone(), port(false, 53, 99)], Verdict::Continue),
                (vec![udp, port(true, 53, 53), Match::Unknown], Verdict::Continue),
                (vec![], Verdict::Return),
            ]
        );
        let nodes = Sample {
            ends: Some((p("192.168.2.1"), p("192.168.1.2"))),
            ..pod(State::Untracked)
        };
        assert_eq!(filter.certain_drop(&pod(State::Untracked)), None);
        assert_eq!(filter.certain_drop(&nodes), Some(None), "by the policy");
    });
}

#[test]
fn of_ipv6_too_and_of_other_tables_that_filter() {
    lab(async |lab| {
        run("ip6tables-legacy -A FORWARD -s fd00:244::/48 -j ACCEPT
             ip6tables-legacy -A FORWARD -i spanwire0 -g GONE || true
             ip6tables-legacy -A FORWARD -j REJECT
             iptables-legacy -t mangle -A FORWARD -i spanwire0 -j DROP
             iptables-legacy -t nat -A PREROUTING -j RETURN");
        let filters = forward(lab).await;
        let names: Vec<String> = filters.iter().map(|filter| filter.name.to_string()).collect();
        assert_eq!(names, ["ip mangle FORWARD", "ip6 filter FORWARD"]);
        assert!(filters[0].certain_drop(&pod(State::New)).is_some());
        let node = |source: &str| Sample {
            ends: Some((p(source), p("fd00:1::1"))),
            ..from("spanwire0")
        };
        assert_eq!(filters[1].certain_drop(&node("fd00:244::7")), None);
        assert!(filters[1].certain_drop(&node("fd00:245::7")).is_some());
        assert_eq!(filters[1].name.family, TableFamily::Ip6);
    });
}

#[test]
fn what_iptables_nft_asks_of_connections_is_known() {
    lab(async |lab| {
        run(
            "iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
             iptables -A FORWARD -m conntrack ! --ctstate NEW,INVALID -j RETURN
             iptables -A FORWARD -m state --state NEW -j DROP
             iptables -A FORWARD -m conntrack --ctstate DNAT -j DROP
             iptables -A FORWARD -m conntrack --ctproto 6 -j DROP",
        );
        let filters = forward(lab).await;
        let states = |states: &[State], not| {
            vec![Match::State {
                states: states.iter().copied().collect(),
                not,
            }]
        };
        let matches: Vec<Vec<Match>> = filters[0].rules.iter().map(|rule| rule.matches.clone()).collect();
        assert_eq!(
            matches,
            [
                states(&[State::Established, State::Related], false),
                states(&[State::New, State::Invalid], true),
                states(&[State::New], false),
                vec![Match::Unknown],
                vec![Match::Unknown],
            ]
        );
    });
}

#[test]
fn what_filters_for_the_machine_is_read_on_a_leader_alone() {
    lab(async |lab| {
        run("nft add table inet host
             nft add chain inet host in '{ type filter hook input priority 0; policy drop; }'
             iptables-legacy -P INPUT DROP
             ip link add up0 type bridge; ip address add 192.0.2.2/24 dev up0; ip link set up0 up
             ip route add default via 192.0.2.1");
        let other = lab.kernel.inventory(&[], false).await.unwrap();
        assert!(other.inputs.is_empty());
        let leader = lab.kernel.inventory(&[], true).await.unwrap();
        let names: Vec<String> = leader
            .inputs
            .iter()
            .map(|filter| filter.name.to_string())
            .collect();
        assert_eq!(names, ["inet host in", "ip filter INPUT"]);
        assert!(leader.inputs.iter().all(|filter| filter.drops));
        assert_eq!(leader.uplinks, [link("up0")].into());
    });
}

#[test]
fn a_table_that_its_maker_alone_may_change_is_known_to_be_so() {
    lab(async |lab| {
        run("nft add table inet other
             nft add chain inet other f '{ type filter hook forward priority 0; }'
             (echo 'add table inet firewalld { flags owner; }'
              echo 'add chain inet firewalld f { type filter hook forward priority 10; policy drop; }'
              sleep 3) 2>/dev/null | nft -i >/dev/null 2>&1 &
             for i in $(seq 50); do nft list chain inet firewalld f >/dev/null 2>&1 && break; sleep 0.05; done");
        let filters = forward(lab).await;
        let locked: Vec<(&str, bool)> = filters
            .iter()
            .map(|filter| (filter.name.table.as_str(), filter.is_locked))
            .collect();
        assert_eq!(locked, [("firewalld", true), ("other", false)]);
    });
}

/// As NixOS and firewalld's old back-end have it.
#[test]
fn what_iptables_asks_of_ways_back_is_known() {
    lab(async |lab| {
        for iptables in ["iptables", "iptables-legacy"] {
            run(&format!(
                "{iptables} -t raw -A PREROUTING -m rpfilter --validmark -j RETURN
                 {iptables} -t raw -A PREROUTING -m rpfilter --loose --invert -j DROP"
            ));
            let found = lab.kernel.inventory(&[], false).await.unwrap();
            let rules = &found.elsewhere[&Elsewhere::Prerouting][0].rules;
            let back = |by_its_device, exists| {
                vec![Match::WayBack {
                    by_its_device,
                    exists,
                }]
            };
            let matches: Vec<_> = rules.iter().map(|rule| rule.matches.clone()).collect();
            assert_eq!(matches, [back(true, true), back(false, false)], "{iptables}");
            assert!(found.unread.is_empty(), "{:?}", found.unread);
            run(&format!("{iptables} -t raw -F"));
            run("nft flush ruleset");
        }
    });
}

/// As wg-quick(8) advises for a kill switch.
#[test]
fn what_iptables_and_nft_ask_of_what_is_for_this_machine_is_known() {
    lab(async |lab| {
        for rules in [
            "iptables -A OUTPUT -m addrtype ! --dst-type LOCAL -j REJECT; iptables -A OUTPUT -m addrtype --dst-type LOCAL -j ACCEPT",
            "iptables-legacy -A OUTPUT -m addrtype ! --dst-type LOCAL -j REJECT
             iptables-legacy -A OUTPUT -m addrtype --dst-type LOCAL -j ACCEPT",
            "nft 'table ip o { chain o { type filter hook output priority 0; fib daddr type != local drop; fib daddr type local accept; }; }'",
        ] {
            run("nft flush ruleset; iptables-legacy -F");
            run(rules);
            let found = lab.kernel.inventory(&[], false).await.unwrap().elsewhere;
            let rules_of = &found[&Elsewhere::Output][0].rules;
            let matches: Vec<_> = rules_of.iter().map(|rule| rule.matches.clone()).collect();
            let here = |not| vec![Match::ForHere { not }];
            assert_eq!(matches, [here(true), here(false)], "{rules}");
        }
        run("nft flush ruleset; iptables-legacy -F
             iptables -A OUTPUT -m addrtype --src-type LOCAL -j ACCEPT
             iptables -A OUTPUT -m addrtype --dst-type UNICAST -j ACCEPT
             iptables -A OUTPUT -m addrtype --dst-type LOCAL --limit-iface-out -j ACCEPT");
        let found = lab.kernel.inventory(&[], false).await.unwrap().elsewhere;
        for rule in &found[&Elsewhere::Output][0].rules {
            assert_eq!(rule.matches, [Match::Unknown]);
        }
    });
}
