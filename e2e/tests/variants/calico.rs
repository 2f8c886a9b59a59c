//! Calico in three modes: its hops, and what it and Spanwire do to each other.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Lab, Ping, Progress,
    expect::{FAST, SOON, all_reach_all, answers, leader, loses_nothing_between, pinging_between, pod_ip},
    reach, repair, size,
    traces::{keep, kept, main_routes, same, snapshot},
    wait_until,
};

use crate::{is_seen_in_plaintext, misses_other_locations};

/// Pairs of nodes between locations of different modes; b3 is in another subnet than the other nodes of b.
const PAIRS: [(&str, &str); 6] = [
    ("a1", "b1"),
    ("a2", "b3"),
    ("b3", "c2"),
    ("c1", "a2"),
    ("b2", "c1"),
    ("c2", "b2"),
];

/// What of Calico's on a node Felix takes care of.
const CALICO: &str = "ip -4 neigh show dev vxlan.calico 2>/dev/null | sort; bridge fdb show dev vxlan.calico 2>/dev/null | sort; \
     nft -s list table ip calico";

pub(crate) fn installs(lab: &Lab) -> Result<()> {
    misses_other_locations(lab)?;
    keep(lab, "before.json", &snapshot(lab)?)?;
    keep(lab, "main.json", &main_routes(lab)?)?;
    keep(lab, "calico.json", &calicos(lab)?)?;
    lab.install_spanwire(&Progress::shown())?;
    all_reach_all(lab)
}

fn calicos(lab: &Lab) -> Result<std::collections::BTreeMap<String, String>> {
    let read = |name: String| Ok((name.clone(), lab.node(&name)?.sh(CALICO)?));
    lab.node_names().into_iter().map(read).collect()
}

pub(crate) fn sources(lab: &Lab) -> Result<()> {
    reach::sources_are_preserved(lab, &PAIRS)
}

pub(crate) fn bulk(lab: &Lab) -> Result<()> {
    reach::bulk(lab, "b3", "a2", 10 << 20)?;
    reach::bulk(lab, "a2", "b2", 10 << 20)?;
    reach::bulk(lab, "c2", "b3", 10 << 20)
}

pub(crate) fn services(lab: &Lab) -> Result<()> {
    reach::services_answer(lab, "b3", &["a1", "a2", "b2", "c1", "c2"], "c2")
}

/// Calico's blocks are what is routed, and the hop is what the mode of the location makes of it.
pub(crate) fn hops(lab: &Lab) -> Result<()> {
    let hops: [(&str, &[(&str, &str)]); 3] = [
        ("a", &[("vxlan.calico", "CalicoRoute")]),
        ("b", &[("eth0", "CalicoRoute"), ("vxlan.calico", "CalicoRoute")]),
        ("c", &[("eth0", "ConnectedNetwork"), ("eth0", "CalicoRoute")]),
    ];
    for (location, possible) in hops {
        let leads = leader(lab, location)?;
        for node in lab
            .layout()
            .nodes()
            .filter(|node| node.location == location && node.name != leads)
        {
            wait_until(&format!("{} says its hop", node.name), SOON, || {
                let status = &lab.get(&["meshnode", &node.name])?["status"];
                let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                let (device, reason) = (text(&status["hop"]["device"]), text(&status["hop"]["reason"]));
                ensure!(possible.contains(&(device.as_str(), reason.as_str())), "{status}");
                // Those of b are two in each subnet, or are not.
                let here = lab.node_layout(&leads)?.addresses[0].to_string();
                let mine = node.addresses[0].to_string();
                let upper = |address: &str| address.ends_with(".141");
                let crosses = location == "b" && upper(&here) != upper(&mine);
                ensure!(
                    location != "b" || crosses == (device == "vxlan.calico"),
                    "{} to {leads}: {status}",
                    node.name
                );
                let routes = lab
                    .node(&node.name)?
                    .run(["ip", "route", "show", "table", "51830"])?;
                ensure!(
                    routes
                        .lines()
                        .any(|line| line.contains("/26 via") && line.contains(&device)),
                    "{}: {routes}",
                    node.name
                );
                Ok(true)
            })?;
        }
    }
    let routes = lab
        .node(&leader(lab, "a")?)?
        .run(["ip", "route", "show", "table", "51830"])?;
    ensure!(
        routes.contains("10.244.193.0/26") && !routes.contains("/24"),
        "not the blocks of the nodes are routed:\n{routes}"
    );
    let status = lab.get(&["meshnodes"])?;
    let items = status["items"].as_array().context("no list")?;
    let found: Vec<_> = items
        .iter()
        .filter_map(|node| node["status"]["cni"].as_str())
        .collect();
    let of = |kind: &str| found.iter().filter(|found| **found == kind).count();
    ensure!(
        (of("calico-vxlan"), of("calico-direct")) == (5, 2),
        "the CNIs are {found:?}"
    );
    Ok(())
}

/// The tunnel address of a leader, and that of a follower, change while packets flow.
pub(crate) fn moved_tunnel_addresses(lab: &Lab) -> Result<()> {
    let leads = leader(lab, "a")?;
    let follows = if leads == "a1" { "a2" } else { "a1" };
    let move_to = |moved: Vec<String>| {
        let (_, pings) = pinging_between(lab, &[("a2", "b2"), ("c1", "a2"), ("a1", "c2")], || {
            lab.move_tunnel_addresses(&moved)?;
            // Each node's Calico looks once a second.
            std::thread::sleep(Duration::from_secs(4));
            all_reach_all(lab)
        })?;
        // Until the last of the two nodes has the other one's new address neither does Calico itself get through.
        let late: Vec<_> = pings.iter().filter(|(_, report)| report.lost() > 400).collect();
        ensure!(late.is_empty(), "moved {moved:?}: {pings:?}");
        Ok(())
    };
    let moved = move_to(vec![leads.clone()])
        .and_then(|()| move_to(vec![leads, follows.to_owned()]))
        .and_then(|()| move_to(Vec::new()));
    if moved.is_err() {
        // As they were, and seen by every node's Calico, or what comes next pings before that.
        lab.move_tunnel_addresses(&[])?;
        all_reach_all(lab)?;
    }
    moved
}

/// A block of a1 that no pod has an address of, and an address in it.
const BLOCK: &str = "10.244.192.0/26";
const IN_BLOCK: &str = "10.244.192.9";

/// A block goes from a node of one location to one of another: what is in other blocks of the two loses nothing, and what is in that
/// one is reached at its new place within a second.
pub(crate) fn moved_block(lab: &Lab) -> Result<()> {
    let there = leader(lab, "c")?;
    let address = |node: &str, verb: &str| {
        let node = lab.node(node)?;
        node.sh(&format!("ip address {verb} {IN_BLOCK}/32 dev lo"))
            .map(drop)
    };
    let asks = lab.pod_on("b3")?;
    let moved = IN_BLOCK.parse()?;
    address("a1", "add")?;
    wait_until("the block is reached where it is", SOON, || answers(&asks, moved))?;
    address("a1", "del")?;
    address(&there, "add")?;
    let followed = loses_nothing_between(lab, &[("b2", "a1"), ("a2", "c1"), ("c2", "a1")], || {
        let ping = Ping::start_unanswered(&asks, moved, FAST)?;
        give_block("a1", &there, lab)?;
        let given = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        wait_until("the block is reached where it went", SOON, || {
            answers(&asks, moved)
        })?;
        let first = ping.finish()?.first.context("no answer")?;
        Ok(first.saturating_sub(given))
    });
    // As it was, whatever came of it.
    give_block(&there, "a1", lab)?;
    address(&there, "del")?;
    all_reach_all(lab)?;
    let followed = followed?;
    ensure!(
        followed < Duration::from_secs(1),
        "the block is followed after {followed:?}"
    );
    Ok(())
}

/// As Calico does it, which has an object for each block of each node.
fn give_block(from: &str, to: &str, lab: &Lab) -> Result<()> {
    lab.kubectl(["delete", "blockaffinities.crd.projectcalico.org", &block_of(from)])?;
    lab.apply(&format!(
        r#"{{"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity", "metadata": {{"name": "{}"}},
            "spec": {{"cidr": "{BLOCK}", "node": "{to}", "state": "confirmed", "deleted": "false"}}}}"#,
        block_of(to)
    ))
    .map(drop)
}

fn block_of(node: &str) -> String {
    format!("{node}-{}", BLOCK.replace(['.', '/'], "-"))
}

/// A policy for the pod of b2, made as Felix makes them (rules for the pod's device, by the state of connections and by sources): it lets the pod
/// of a2 in and no other. Pods of another location are judged by their own addresses, and the answers to what the pod itself asks come in.
pub(crate) fn policy(lab: &Lab) -> Result<()> {
    let (node, pod) = (lab.node("b2")?, pod_ip(lab, "b2")?);
    let far = pod_ip(lab, "a1")?;
    let let_in = pod_ip(lab, "a2")?;
    node.sh(&format!(
        "nft -f - <<END\ntable ip by_source {{\n chain forward {{\n  type filter hook forward priority filter;\n  \
         oifname \"cali*\" ip daddr {pod} jump to_pod\n }}\n chain to_pod {{\n  ct state established,related accept\n  \
         ct state invalid drop\n  ip saddr {let_in} accept\n  drop\n }}\n}}\nEND"
    ))?;
    let judged = judged(lab, SocketAddr::new(pod, 7001), far);
    node.sh("nft delete table ip by_source")?;
    judged?;
    all_reach_all(lab)
}

fn judged(lab: &Lab, pod: SocketAddr, far: IpAddr) -> Result<()> {
    let servers = [
        reach::echo(&lab.pod_on("b2")?, pod.ip(), pod.port())?,
        reach::echo(&lab.pod_on("a1")?, far, pod.port())?,
    ];
    let seen = reach::seen_by(&lab.pod_on("a2")?, pod).context("whom the policy lets in")?;
    ensure!(seen == pod_ip(lab, "a2")?, "the pod of a2 is seen as {seen}");
    for other in ["a1", "b1"] {
        let answered = reach::seen_by(&lab.pod_on(other)?, pod);
        ensure!(
            answered.is_err(),
            "the policy lets in the pod of {other}: {answered:?}"
        );
    }
    let seen = reach::seen_by(&lab.pod_on("b2")?, SocketAddr::new(far, pod.port()));
    let seen = seen.context("what the pod itself asks")?;
    ensure!(seen == pod.ip(), "the pod of b2 is seen as {seen}");
    drop(servers);
    Ok(())
}

/// a's LAN takes 1,500 bytes, that of b less, that of c more.
pub(crate) fn sizes(lab: &Lab) -> Result<()> {
    size::promises_are_kept(lab, &PAIRS, 1 << 20)
}

pub(crate) fn untouched(lab: &Lab) -> Result<()> {
    for name in lab.node_names() {
        let deleted = lab.deleted_by_calico(&name)?;
        let ours = deleted
            .iter()
            .filter(|line| line.contains("151") || line.contains("10.4."));
        ensure!(
            ours.count() == 0,
            "Calico has deleted what Spanwire made on {name}: {deleted:?}"
        );
    }
    let main = kept(lab, "main.json")?;
    let calico = kept(lab, "calico.json")?;
    wait_until("Calico's state is as it was", SOON, || {
        same(&main, &main_routes(lab)?)?;
        same(&calico, &calicos(lab)?)?;
        Ok(true)
    })
}

/// Calico's agent deletes what is foreign, or this suite would not see what it does to Spanwire's.
pub(crate) fn inverse(lab: &Lab) -> Result<()> {
    let node = lab.node("a1")?;
    node.sh("ip route add 10.250.0.0/24 via 10.244.128.64 dev vxlan.calico onlink")?;
    node.sh("ip neigh add 10.250.0.1 lladdr 66:ca:11:c0:00:ff dev vxlan.calico nud permanent")?;
    wait_until("Calico deletes both", SOON, || {
        let said = node.sh("ip route show table main; ip neigh show dev vxlan.calico")?;
        ensure!(!said.contains("10.250.0."), "{said}");
        Ok(lab.deleted_by_calico("a1")?.len() >= 2)
    })
}

pub(crate) fn repaired(lab: &Lab) -> Result<()> {
    for name in ["a1", "a2", "b3", "c2"] {
        repair::on_every_node(&lab.node(name)?).with_context(|| format!("on {name}"))?;
    }
    all_reach_all(lab)
}

pub(crate) fn uninstalls(lab: &Lab) -> Result<()> {
    lab.helm(["uninstall", "spanwire", "--namespace", "spanwire", "--wait"])?;
    let before = kept(lab, "before.json")?;
    wait_until("every node is as it was", SOON, || {
        same(&before, &snapshot(lab)?)?;
        Ok(true)
    })?;
    untouched(lab)?;
    is_seen_in_plaintext(lab)
}
