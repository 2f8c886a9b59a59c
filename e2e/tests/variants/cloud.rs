//! LANs that deliver by who owns an address, and pods with addresses of these: what reaches others does so over Spanwire's own
//! VXLAN, and without it nothing does.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Lab, Progress,
    expect::{SOON, all_reach_all, answers, leader, node_ip, pod_ip},
    reach, repair,
    traces::{keep, kept, main_routes, same, snapshot},
    wait_until,
};

use crate::{is_seen_in_plaintext, misses_other_locations};

/// Between all kinds of nodes: a3, whose pods are behind its second card, never leads if it can be helped.
const PAIRS: [(&str, &str); 6] = [
    ("a1", "b1"),
    ("a3", "b2"),
    ("b2", "a3"),
    ("a3", "c2"),
    ("c1", "a2"),
    ("c2", "b2"),
];

pub(crate) fn installs(lab: &Lab) -> Result<()> {
    let nodes = lab.get(&["nodes"])?;
    let nodes = nodes["items"].as_array().context("no nodes")?;
    let networks = nodes
        .iter()
        .filter(|node| !node["spec"]["podCIDRs"].is_null() || !node["spec"]["podCIDR"].is_null());
    ensure!(networks.count() == 0, "a node has a network for its pods");
    for node in lab.layout().nodes() {
        let (pod, host) = (pod_ip(lab, &node.name)?, node.addresses[0]);
        let lan = |ip: IpAddr| ip.to_string().rsplit_once('.').map(|(lan, _)| lan.to_owned());
        ensure!(lan(pod) == lan(host), "{} has the pod {pod}", node.name);
    }
    misses_other_locations(lab)?;
    keep(lab, "before.json", &snapshot(lab)?)?;
    keep(lab, "main.json", &main_routes(lab)?)?;
    lab.install_spanwire(&Progress::shown())?;
    all_reach_all(lab)
}

/// Nothing says that it is to be the VXLAN, and it is: on followers and on leaders.
pub(crate) fn hops(lab: &Lab) -> Result<()> {
    for location in &lab.layout().locations {
        let found = lab.get(&["location", &location.name])?;
        ensure!(
            found["spec"]["hop"].as_str().is_none_or(|hop| hop == "Auto"),
            "{found}"
        );
        let conditions = found["status"]["conditions"].as_array().context("conditions")?;
        let source = conditions.iter().find(|one| one["type"] == "PodNetworks");
        ensure!(
            source.is_some_and(|one| one["reason"] == "PodAddresses"),
            "{}: {source:?}",
            location.name
        );
    }
    for node in lab.layout().nodes() {
        let leads = leader(lab, &node.location)? == node.name;
        wait_until(&format!("{} says its hop", node.name), SOON, || {
            let status = &lab.get(&["meshnode", &node.name])?["status"];
            let hop = &status["hop"];
            let own = hop["device"] == "spanwire-hop" && hop["reason"] == "OwnVxlan";
            ensure!(own || (leads && hop.is_null()), "{status}");
            ensure!(status["cni"].is_null(), "{status}");
            Ok(true)
        })?;
        let routes = lab
            .node(&node.name)?
            .run(["ip", "route", "show", "table", "51830"])?;
        let bare: Vec<_> = routes.lines().filter(|line| line.contains("dev eth")).collect();
        ensure!(bare.is_empty(), "{} sends to the LAN: {bare:?}", node.name);
        ensure!(
            leads || routes.contains(" dev spanwire-hop proto 151 "),
            "{}: {routes}",
            node.name
        );
    }
    before_the_rules_of_the_second_card(lab)
}

/// Pods behind a second card have a rule with a table of their own, which knows of the LAN's router alone.
fn before_the_rules_of_the_second_card(lab: &Lab) -> Result<()> {
    let rules = lab.node("a3")?.run(["ip", "rule"])?;
    let numbers = |words: &str| -> Vec<u32> {
        let with = rules.lines().filter(|line| line.contains(words));
        with.filter_map(|line| line.split(':').next()?.parse().ok())
            .collect()
    };
    let own = pod_ip(lab, "a3")?;
    let (to, ours) = (numbers(&format!("to {own} lookup main")), numbers("lookup 51830"));
    let from = numbers(&format!("from {own} lookup 2"));
    let marked = numbers("fwmark 0x80/0x80 lookup main");
    ensure!(
        (to.as_slice(), marked.as_slice(), from.as_slice()) == (&[512], &[1024], &[1536]),
        "not the rules of a cloud's CNI:\n{rules}"
    );
    ensure!(
        !ours.is_empty() && ours.iter().all(|ours| (513..1024).contains(ours)),
        "{rules}"
    );
    Ok(())
}

pub(crate) fn sources(lab: &Lab) -> Result<()> {
    reach::sources_are_preserved(lab, &PAIRS)
}

pub(crate) fn bulk(lab: &Lab) -> Result<()> {
    reach::bulk(lab, "b2", "a3", 5 << 20)?;
    reach::bulk(lab, "a3", "c2", 5 << 20)
}

pub(crate) fn services(lab: &Lab) -> Result<()> {
    reach::services_answer(lab, "a3", &["a1", "a2", "b1", "b2", "c2"], "b2")?;
    reach::services_answer(lab, "c2", &["a3"], "a3")
}

/// A pod that is made again gets another address, of which only its Pod tells.
pub(crate) fn new_addresses(lab: &Lab) -> Result<()> {
    let far = lab.pod_on("b2")?;
    let old = pod_ip(lab, "a3")?;
    let selector = "--field-selector=spec.nodeName=a3";
    lab.kubectl([
        "delete",
        "pods",
        "--namespace",
        "lab",
        "--selector=app=test",
        selector,
    ])?;
    lab.wait_ready()?;
    let new = pod_ip(lab, "a3")?;
    ensure!(new != old, "the pod has {old} as before");
    wait_until("the new address is reached", SOON, || answers(&far, new))?;
    all_reach_all(lab)
}

/// The inverse: with the CNI's own way, which is the LAN, what followers send to other locations does not arrive.
pub(crate) fn nothing_without_the_vxlan(lab: &Lab) -> Result<()> {
    let hop = |hop: &str| -> Result<()> {
        for location in &lab.layout().locations {
            let patch = format!(r#"{{"spec":{{"hop":"{hop}"}}}}"#);
            lab.kubectl(["patch", "location", &location.name, "--type=merge", "-p", &patch])?;
        }
        Ok(())
    };
    hop("CNI")?;
    let seen = without_the_vxlan(lab);
    // Whatever came of it, as it was.
    hop("Auto")?;
    seen?;
    all_reach_all(lab)
}

fn without_the_vxlan(lab: &Lab) -> Result<()> {
    let leads = leader(lab, "a")?;
    let plain = format!("via {} dev eth0", node_ip(lab, &leads)?);
    wait_until("no node has a VXLAN, and a3 sends by the LAN", SOON, || {
        for name in lab.node_names() {
            let links = lab.node(&name)?.run(["ip", "-br", "link"])?;
            ensure!(!links.contains("spanwire-hop"), "{name}: {links}");
        }
        let routes = lab.node("a3")?.run(["ip", "route", "show", "table", "51830"])?;
        ensure!(routes.contains(&plain), "{routes}");
        Ok(true)
    })?;
    let far = leader(lab, "b")?;
    // The tunnels work. More than their own addresses does not stay with leaders of which none hands anything on.
    let overlay = lab.get(&["meshnode", &far])?["spec"]["overlay"][0].clone();
    let overlay: IpAddr = overlay.as_str().context("an overlay address")?.parse()?;
    wait_until("leaders reach each other", SOON, || {
        answers(&lab.node(&leads)?, overlay)
    })?;
    let follower = lab.pod_on("a3")?;
    // Inside the location as ever.
    ensure!(
        answers(&follower, pod_ip(lab, &leads)?)?,
        "a3 does not reach {leads}"
    );
    for to in ["b1", "b2", "c1", "c2"] {
        ensure!(
            !answers(&follower, pod_ip(lab, to)?)?,
            "a3 reaches {to} by the LAN"
        );
    }
    // What the leader hands on to the LAN comes from elsewhere.
    let back = answers(&lab.pod_on(&far)?, pod_ip(lab, "a3")?)?;
    ensure!(!back, "{far} reaches a3 by the LAN");
    Ok(())
}

pub(crate) fn repaired(lab: &Lab) -> Result<()> {
    for name in ["a3", &leader(lab, "a")?] {
        let node = lab.node(name)?;
        repair::comes_back(
            &node,
            "the VXLAN",
            "ip link del spanwire-hop",
            "ip -o addr show dev spanwire-hop | sed -E 's/^[0-9]+: //; s/fe80:[^ ]*//'; bridge fdb show dev spanwire-hop | sort; \
             ip -o route show table 51830 dev spanwire-hop | sed -E 's/ via [^ ]+//' | sort",
            repair::SOON_REPAIRED,
        )
        .with_context(|| format!("on {name}"))?;
    }
    repair::on_every_node(&lab.node("a3")?).context("on a3")?;
    all_reach_all(lab)
}

pub(crate) fn uninstalls(lab: &Lab) -> Result<()> {
    lab.helm(["uninstall", "spanwire", "--namespace", "spanwire", "--wait"])?;
    let (before, main) = (kept(lab, "before.json")?, kept(lab, "main.json")?);
    wait_until("every node is as it was", SOON, || {
        same(&before, &snapshot(lab)?)?;
        same(&main, &main_routes(lab)?)?;
        Ok(true)
    })?;
    misses_other_locations(lab)?;
    is_seen_in_plaintext(lab)
}
