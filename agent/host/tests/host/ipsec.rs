//! Policies of IPsec beside the mesh.

use std::collections::BTreeSet;

use spanwire_host::{Conflict, HostFacts, IpsecPolicy, conflicts, render};
use spanwire_topology::Plan;

use crate::samples::{self, location, prefix};

fn policy(priority: u32, from: &str, to: &str, takes: bool) -> IpsecPolicy {
    IpsecPolicy {
        priority,
        from: prefix(from),
        to: prefix(to),
        takes,
    }
}

fn with(node: &(Plan, HostFacts), policies: &[IpsecPolicy]) -> Vec<Conflict> {
    let (plan, mut facts) = node.clone();
    facts.ipsec = BTreeSet::from_iter(policies.iter().cloned());
    conflicts(&plan, &facts)
}

#[test]
fn a_policy_that_takes_what_a_follower_sends_is_named_with_its_networks() {
    for node in [samples::follower(), samples::direct_follower()] {
        for (from, to) in [
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.244.0.0/16", "10.244.22.0/24"),
            ("10.244.12.7/32", "10.244.22.7/32"),
            ("192.168.1.0/24", "192.168.2.0/24"),
        ] {
            let expected = Conflict::Ipsec {
                from: prefix(from),
                to: prefix(to),
                location: location("b"),
            };
            let takes = policy(100, from, to, true);
            assert_eq!(
                with(&node, std::slice::from_ref(&takes)),
                std::slice::from_ref(&expected)
            );
            // What lets the same pass before it, and what would behind it.
            let (before, behind) = (policy(50, from, to, false), policy(150, from, to, false));
            assert_eq!(with(&node, &[before, takes.clone()]), []);
            assert_eq!(with(&node, &[takes, behind]), [expected]);
        }
        for (from, to) in [
            // The packets of a VPN's client, those of the LAN, and what lets pass.
            ("172.29.0.7/32", "0.0.0.0/0"),
            ("192.168.1.0/24", "192.168.1.0/24"),
            ("10.244.21.0/24", "10.244.22.0/24"),
        ] {
            assert_eq!(with(&node, &[policy(100, from, to, true)]), [], "{from} {to}");
        }
        assert_eq!(with(&node, &[policy(100, "0.0.0.0/0", "0.0.0.0/0", false)]), []);
    }
}

#[test]
fn spanwires_own_devices_are_past_policies_where_linux_lets_them_be() {
    let all = [
        policy(100, "0.0.0.0/0", "0.0.0.0/0", true),
        policy(100, "::/0", "::/0", true),
    ];
    let (plan, facts) = samples::leader();
    let host = render(&plan, &facts);
    for name in [
        "ipv4/conf/spanwire0/disable_xfrm",
        "ipv4/conf/spanwire0/disable_policy",
    ] {
        let sysctl = host
            .sysctls
            .iter()
            .find(|(sysctl, _)| sysctl.0 == format!("net/{name}"));
        assert_eq!(sysctl.map(|(_, value)| value.as_str()), Some("1"), "{name}");
    }
    assert_eq!(with(&(plan, facts), &all), []);
    let both = samples::dual_stack();
    assert!(matches!(&with(&both, &all)[..], [Conflict::Ipsec { from, .. }] if from.address().is_ipv6()));
}
