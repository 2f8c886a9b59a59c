//! What a node has that Spanwire may change: it is to be the same after Spanwire as before.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;

/// What must be the same before the installation and after the removal, apart from timers, and from hardware addresses,
/// which are others after a reboot.
const TRACES: [(&str, &str); 9] = [
    (
        "links",
        "ip -d -o link | sed -E 's/^[0-9]+: //; s/@if[0-9]+//; /^veth|^cali|^eni/d; s/_timer +[0-9.]+//g; s/8000\\.[0-9a-f:]+//g'",
    ),
    (
        "addresses",
        "ip -o addr | sed -E 's/^[0-9]+: //; /^veth|^cali|^eni/d; s/valid_lft.*//; s/fe80::[0-9a-f:]+/fe80/'",
    ),
    // The numbers are those of the rules that a cloud's CNI has for each pod.
    ("rules", "ip rule | grep -vE '^(512|1536):'; ip -6 rule"),
    (
        "routes",
        "ip route show table all | grep -vE 'dev (veth|cali|eni)' | sed -E 's/fe80::[0-9a-f:]+/fe80/' | sort",
    ),
    (
        "nft",
        "nft -s list ruleset | grep spanwire || true; nft list tables | sort",
    ),
    ("lib", "ls -A /var/lib | sort"),
    ("run", "ls -A /run | grep -i -E 'spanwire|wireguard' || true"),
    (
        "sysctls",
        "cd /proc/sys/net && grep -r . ipv4/ip_forward ipv4/conf/all ipv4/conf/default ipv4/conf/eth0 \
      ipv4/conf/flannel.1 ipv4/conf/vxlan.calico ipv4/conf/cni0 ipv6/conf/all/forwarding ipv6/conf/eth0 2>/dev/null | grep -v stable_secret",
    ),
    ("cni", "cat /etc/cni/net.d/*"),
];

/// The routes of the main table, which are the CNI's and the LAN's.
const MAIN: &str =
    "(ip route show table main; ip -6 route show table main) | grep -vE 'dev (veth|cali|eni)' || true";

/// Returns the traces of all nodes, by node and kind.
pub fn snapshot(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for node in lab.layout().nodes() {
        for (what, command) in TRACES {
            let text = lab.node(&node.name)?.sh(command)?;
            all.insert(format!("{} {what}", node.name), without_hardware_addresses(&text));
        }
    }
    Ok(all)
}

fn without_hardware_addresses(text: &str) -> String {
    let hardware = |word: &str| word.len() == 17 && word.bytes().filter(|b| *b == b':').count() == 5;
    let line = |line: &str| {
        line.split(' ')
            .filter(|word| !hardware(word))
            .collect::<Vec<_>>()
            .join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Returns the main tables of all nodes.
pub fn main_routes(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let read = |name: &String| Ok((name.clone(), lab.node(name)?.sh(MAIN)?));
    lab.layout().nodes().map(|node| read(&node.name)).collect()
}

/// Keeps traces in a file of the lab.
pub fn keep(lab: &Lab, file: &str, what: &BTreeMap<String, String>) -> Result<()> {
    Ok(fs::write(lab.folder().join(file), serde_json::to_string(what)?)?)
}

/// Returns the traces that were kept in a file.
pub fn kept(lab: &Lab, file: &str) -> Result<BTreeMap<String, String>> {
    Ok(serde_json::from_str(&fs::read_to_string(
        lab.folder().join(file),
    )?)?)
}

/// Compares traces; what is there afterwards alone is none of these.
pub fn same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Result<()> {
    for (what, old) in before {
        let new = after.get(what).with_context(|| format!("{what} is gone"))?;
        ensure!(
            old == new,
            "{what} has changed:\n--- before\n{old}\n--- after\n{new}"
        );
    }
    Ok(())
}
