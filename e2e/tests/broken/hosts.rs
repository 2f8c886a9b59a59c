//! Hosts, firewalls and networks that are broken.

use anyhow::{Context, Result};
use spanwire_e2e::{Background, Lab, expect::pod_ip};

use crate::{Broken, Explained, Found, Warns};

/// Every one of them.
pub(crate) const BROKEN: &[Broken] = &[
    Broken {
        name: "a firewall lets no wireguard in",
        inflict: |lab| {
            let port = "udp dport 51820 drop";
            table(
                lab,
                "a1",
                &format!("chain in {{ type filter hook input priority 0; {port}; }}"),
            )?;
            // It was open once, and what has begun goes on.
            table(
                lab,
                "b1",
                "chain out { type filter hook output priority 0; udp sport 51820 drop; }",
            )
        },
        mend: |lab| no_table(lab, "a1").and(no_table(lab, "b1")),
        found: Found {
            object: "meshnode a1",
            reason: "WireGuardPortClosed",
            words: &["inet site in", "51820"],
        },
        explained: None,
        warns: &[
            Warns::Agent("of this node's firewall drops"),
            Warns::Agent("has not been reached since"),
        ],
    },
    Broken {
        name: "a firewall drops what has no mark of its own",
        inflict: |lab| {
            let rule = "udp sport 51820 meta mark != 0x1bd21 drop";
            table(
                lab,
                "b1",
                &format!("chain out {{ type filter hook output priority 0; {rule}; }}"),
            )
        },
        mend: |lab| no_table(lab, "b1"),
        found: Found {
            object: "meshnode b1",
            reason: "Degraded",
            words: &["inet site out", "drops what the tunnel sends"],
        },
        explained: None,
        warns: &[Warns::Agent(
            "of this node's firewall drops what the tunnel sends",
        )],
    },
    Broken {
        name: "no network lets wireguard through",
        inflict: |lab| lab.block_udp(51_820).map(|()| None),
        mend: Lab::heal,
        found: Found {
            object: "location b",
            reason: "WaitingForTunnel",
            words: &[],
        },
        explained: Some(Explained {
            code: 4,
            from: "a2",
            to: "b2",
            words: &[],
        }),
        warns: &[],
    },
    Broken {
        name: "an administrator forbids what is forwarded",
        inflict: |lab| {
            let (from, to) = (address(lab, "a2")?, address(lab, "b2")?);
            let rule = format!("ip saddr {from} ip daddr {to} drop comment \"of the site\"");
            table(
                lab,
                "b1",
                &format!("chain f {{ type filter hook forward priority 5; {rule}; }}"),
            )
        },
        mend: |lab| no_table(lab, "b1"),
        found: Found {
            object: "meshnode b1",
            reason: "Degraded",
            words: &["inet site f", "of the site"],
        },
        explained: Some(Explained {
            code: 4,
            from: "a2",
            to: "b2",
            words: &["is dropped by the firewall of b1", "\"of the site\""],
        }),
        warns: &[Warns::Agent(
            "the chain inet site f of this node's firewall drops",
        )],
    },
    Broken {
        name: "the only leader of a location forwards nothing",
        inflict: |lab| {
            // A drop in the hook that forwards would be seen by its agent, and mended.
            let devices = "{ \"spanwire0\", \"flannel.1\", \"flannel-v6.1\" }";
            let rule = format!("iifname {devices} oifname {devices} drop");
            table(
                lab,
                "b1",
                &format!("chain out {{ type filter hook postrouting priority 0; {rule}; }}"),
            )
        },
        mend: |lab| no_table(lab, "b1"),
        found: Found {
            object: "location a",
            reason: "Degraded",
            words: &["of location b only leaders answer since", "nothing behind b1"],
        },
        explained: Some(Explained {
            code: 3,
            from: "a2",
            to: "b2",
            words: &["its firewall: not known", "of the chain out (inet site)"],
        }),
        warns: &[],
    },
    Broken {
        name: "a network of a host has the pods of another location",
        inflict: |lab| {
            let network = pod_network(lab, "b2")?;
            let address = network.replace(".0/", ".99/");
            host(
                lab,
                "a2",
                &format!(
                    "ip link add wide0 type veth peer name wide1; ip link set wide0 up; ip link set wide1 up; \
                     ip addr add {address} dev wide0"
                ),
            )
        },
        mend: |lab| host(lab, "a2", "ip link del wide0").map(drop),
        found: Found {
            object: "meshnode a2",
            reason: "Degraded",
            words: &["of location b is connected here, too, by wide0"],
        },
        explained: None,
        warns: &[Warns::Agent("is connected here, too, by wide0")],
    },
    Broken {
        name: "a vpn's rule comes before all others",
        inflict: |lab| {
            host(
                lab,
                "a2",
                "ip route add default dev lo table 7000; ip rule add to 10.244.0.0/16 priority 5 table 7000",
            )
        },
        mend: |lab| host(lab, "a2", "ip rule del priority 5; ip route flush table 7000").map(drop),
        found: Found {
            object: "meshnode a2",
            reason: "Degraded",
            words: &["has the priority 5 and takes packets of the mesh"],
        },
        explained: None,
        warns: &[Warns::Agent("has the priority 5")],
    },
    Broken {
        name: "a policy of ipsec takes what is for the mesh",
        inflict: |lab| {
            let (from, to) = (pod_network(lab, "a2")?, pod_network(lab, "b2")?);
            host(
                lab,
                "a2",
                &format!("ip xfrm policy add src {from} dst {to} dir out action block"),
            )
        },
        mend: |lab| host(lab, "a2", "ip xfrm policy flush").map(drop),
        found: Found {
            object: "meshnode a2",
            reason: "Degraded",
            words: &["an IPsec policy of this node", "location b"],
        },
        explained: None,
        warns: &[Warns::Agent("an IPsec policy of this node")],
    },
    Broken {
        name: "a local route takes an address of another location",
        inflict: |lab| {
            let pod = pod_ip(lab, "b2")?;
            host(
                lab,
                "a2",
                &format!("ip route add local {pod}/32 dev lo table local"),
            )
        },
        mend: |lab| {
            let pod = pod_ip(lab, "b2")?;
            host(
                lab,
                "a2",
                &format!("ip route del local {pod}/32 dev lo table local"),
            )
            .map(drop)
        },
        found: Found {
            object: "meshnode a2",
            reason: "Degraded",
            words: &["is a local route of this node"],
        },
        explained: None,
        warns: &[Warns::Agent("is a local route of this node")],
    },
    Broken {
        name: "a follower does not reach its leader",
        inflict: |lab| {
            table(
                lab,
                "b2",
                "chain out { type filter hook output priority 0; udp dport 8472 drop; }",
            )
        },
        mend: |lab| no_table(lab, "b2"),
        found: Found {
            object: "meshnode b2",
            reason: "Degraded",
            words: &["no leader of its own location has answered this node since"],
        },
        explained: None,
        warns: &[],
    },
];

fn host(lab: &Lab, node: &str, script: &str) -> Result<Option<Background>> {
    lab.node(node)?.sh(&format!("set -e; {script}"))?;
    Ok(None)
}

fn table(lab: &Lab, node: &str, chains: &str) -> Result<Option<Background>> {
    let table = format!("table inet site {{\n{chains}\n}}\n");
    lab.node(node)?.cmd(["nft", "-f", "-"])?.input(table).run()?;
    Ok(None)
}

fn no_table(lab: &Lab, node: &str) -> Result<()> {
    host(lab, node, "nft delete table inet site").map(drop)
}

fn address(lab: &Lab, node: &str) -> Result<String> {
    Ok(spanwire_e2e::expect::node_ip(lab, node)?.to_string())
}

/// Returns the IPv4 network of the pods of a node.
fn pod_network(lab: &Lab, node: &str) -> Result<String> {
    let found = lab.get(&["node", node])?;
    let networks = found["spec"]["podCIDRs"].as_array().context("it has none")?;
    let mut networks = networks.iter().filter_map(|network| network.as_str());
    let found = networks.find(|network| network.contains('.'));
    Ok(found
        .with_context(|| format!("{node} has no network for pods"))?
        .to_owned())
}
