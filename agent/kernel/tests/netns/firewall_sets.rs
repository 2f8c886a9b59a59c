//! What firewalls ask by sets and maps.

use std::net::IpAddr;

use spanwire_host::{Direction, Filter, Pass, Sample, State};

use crate::lab::{Lab, lab, link, p, run};

async fn only_filter(lab: &mut Lab) -> Filter {
    let filters = lab.kernel.inventory(&[], false).await.unwrap().filters;
    assert_eq!(filters.len(), 1, "{filters:?}");
    filters[0].clone()
}

/// A packet of transit from a node of another location to one here, by the tunnel.
fn transit(source: &str) -> Sample {
    let ends: (IpAddr, IpAddr) = (
        p(source),
        p(if source.contains(':') {
            "fd00:1::2"
        } else {
            "192.168.1.2"
        }),
    );
    Sample {
        ends: Some(ends),
        state: Some(State::Untracked),
        marked: 0,
        way_back: Some(link("flannel.1")),
        ..Sample::new(Pass {
            direction: Direction::In,
            link: link("spanwire0"),
        })
    }
}

/// What a table of other programs is made of, besides the rule.
const NAMED: &str = r#"
    set blocked { type ipv4_addr; flags interval; elements = { 10.244.2.0/24, 192.168.2.1-192.168.2.3 } }
    set blocked6 { type ipv6_addr; flags interval; elements = { fd00:2::/64 } }
    set allowed { type ipv4_addr; elements = { 192.168.2.9 comment "one" } }
    set none { type ipv4_addr; }
    set names { type ifname; flags interval; elements = { "eth*", "spanwire0" } }
    set marks { type mark; elements = { 0x100, 0x200 } }
    set pairs { type ipv4_addr . ipv4_addr; flags interval; elements = { 192.168.2.0/24 . 192.168.1.0/24 } }
    set ports { type ipv4_addr . inet_service; elements = { 192.168.2.1 . 53 } }
    map by_source { type ipv4_addr : verdict; flags interval; elements = { 192.168.2.0/24 : jump refuse, 10.0.0.0/8 : accept } }
    map by_rest { type ipv4_addr : verdict; elements = { 192.168.2.9 : accept, * : drop } }
    map by_mark { type mark : verdict; elements = { 0 : goto refuse } }
    chain refuse { counter drop; }
    chain leave { return; }
"#;

#[test]
fn what_is_dropped_by_sets_and_maps_is_certain_where_their_elements_say_so() {
    lab(async |lab| {
        let from = |source: &'static str| move || transit(source);
        let node = from("192.168.2.1");
        for (rule, sample, drops) in [
            ("ip saddr @blocked drop", node, true),
            ("ip saddr @blocked drop", from("192.168.2.9"), false),
            ("ip saddr != @blocked drop", from("192.168.2.9"), true),
            ("ip6 saddr @blocked6 drop", from("fd00:2::1"), true),
            ("ip saddr != @blocked drop", from("fd00:2::1"), false),
            ("ip saddr != @none drop", node, true),
            ("ip saddr != @none drop", from("fd00:2::1"), false),
            ("ip saddr != @allowed drop", node, true),
            ("ip saddr != @allowed drop", from("192.168.2.9"), false),
            (
                "ip saddr { 10.0.0.0/8, 192.168.0.0-192.168.2.7 } drop",
                node,
                true,
            ),
            ("iifname @names drop", node, true),
            ("iifname != @names drop", node, false),
            ("meta mark @marks accept; drop", node, true),
            ("ip saddr . ip daddr @pairs drop", node, true),
            ("ip saddr . ip daddr @pairs drop", from("10.244.2.2"), false),
            // Of transit no port is known.
            ("ip saddr . tcp dport @ports drop", node, false),
            ("ip saddr . tcp dport @ports accept; drop", node, false),
            (
                "ip saddr . tcp dport @ports accept; drop",
                from("192.168.2.9"),
                true,
            ),
            ("ip saddr vmap @by_source", node, true),
            ("ip saddr vmap @by_source; drop", from("10.244.2.2"), false),
            ("ip saddr vmap @by_rest", node, true),
            ("ip saddr vmap @by_rest", from("192.168.2.9"), false),
            ("meta mark vmap @by_mark", node, true),
            (
                r#"iifname vmap { "spanwire0" : drop, "eth0" : accept }"#,
                node,
                true,
            ),
            (
                r#"iifname vmap { "spanwire0" : jump leave, "eth0" : accept }; drop"#,
                node,
                true,
            ),
            (
                r#"iifname vmap { "spanwire0" : continue, "eth0" : drop }"#,
                node,
                false,
            ),
            (r#"oifname vmap { "eth0" : accept }; drop"#, node, false),
            (
                r#"iifname . ip saddr vmap { "spanwire0" . 192.168.2.1 : drop }"#,
                node,
                true,
            ),
            (
                "ct state vmap { established : accept, related : accept, invalid : drop }",
                node,
                false,
            ),
            (
                "ct state vmap { established : accept, untracked : drop }",
                node,
                true,
            ),
            ("meta protocol ip drop", node, true),
            ("meta nfproto ipv6 drop", node, false),
            ("meta nfproto ipv4 ip saddr @blocked drop", node, true),
            ("fib saddr . iif oif missing drop", node, true),
            ("fib saddr . mark . iif oif exists accept; drop", node, true),
            ("fib saddr oif missing drop", node, false),
            ("fib saddr . iif oif exists drop", node, false),
            ("limit rate 5/second accept; drop", node, false),
            ("limit rate over 5/second drop", node, false),
            ("limit rate 5/second log; drop", node, true),
            ("ct mark 0x100 accept; drop", node, true),
            ("ct mark != 0x100 drop", node, false),
        ] {
            run(&format!(
                "nft 'add table inet f; delete table inet f'; nft 'table inet f {{
                    {NAMED}
                    chain forward {{ type filter hook forward priority 0; {rule}; }}
                }}'"
            ));
            let filter = only_filter(lab).await;
            let found = filter.certain_drop(&sample()).is_some();
            assert_eq!(found, drops, "{rule}: {:?}: {filter:#?}", sample().ends);
        }
    });
}

#[test]
fn elements_that_are_added_or_end_are_seen() {
    lab(async |lab| {
        run("nft 'table inet f {
                set blocked { type ipv4_addr; flags timeout; }
                set whole { type ipv4_addr; flags interval; }
                chain forward { type filter hook forward priority 0; ip saddr @blocked drop; ip saddr @whole drop; }
            }'");
        let mut drops = async || {
            only_filter(lab)
                .await
                .certain_drop(&transit("192.168.2.1"))
                .is_some()
        };
        assert!(!drops().await);
        run("nft add element inet f whole '{ 192.168.0.0/16 }'");
        assert!(drops().await);
        run("nft flush set inet f whole");
        assert!(!drops().await);
        run("nft add element inet f blocked '{ 192.168.2.1 timeout 1s }'");
        assert!(drops().await);
        run("sleep 1.5");
        assert!(!drops().await, "it has ended, which moves no generation");
        // Lists of the internet's bad addresses.
        let many: Vec<String> = (0..10_001)
            .map(|n| format!("{}.0.{}.{}", 1 + n / 65_536, n / 256 % 256, n % 256))
            .collect();
        run(&format!(
            "nft -f - <<'END'\nadd element inet f whole {{ 192.168.2.1, {} }}\nEND",
            many.join(", ")
        ));
        assert!(!drops().await, "too many are not looked at");
    });
}

#[test]
fn chains_with_names_that_are_words_of_nft_are_read() {
    lab(async |lab| {
        run(
            "iptables -N all; iptables -N 1log; iptables -A FORWARD -j all; iptables -A all -j 1log; iptables -A 1log -j DROP",
        );
        let filter = only_filter(lab).await;
        assert!(
            filter.certain_drop(&transit("192.168.2.1")).is_some(),
            "{filter:#?}"
        );
    });
}

#[test]
fn a_map_that_leads_to_many_chains_is_not_followed() {
    lab(async |lab| {
        let chains: String = (0..9).map(|n| format!("chain c{n} {{ drop; }}\n")).collect();
        let with = |first: u32| {
            let pairs: Vec<String> = (first..9).map(|n| format!("192.168.2.{n} : goto c{n}")).collect();
            format!(
                "nft 'add table inet f; delete table inet f'; nft 'table inet f {{
                    {chains}
                    chain forward {{ type filter hook forward priority 0; ip saddr vmap {{ {} }}; }}
                }}'",
                pairs.join(", ")
            )
        };
        for (first, drops) in [(1, true), (0, false)] {
            run(&with(first));
            let found = only_filter(lab).await.certain_drop(&transit("192.168.2.1"));
            assert_eq!(found.is_some(), drops, "from {first} on");
        }
    });
}
