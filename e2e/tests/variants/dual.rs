//! Both families: a Peer, and a location whose nodes all lead themselves.

use std::{net::IpAddr, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Lab, Laptop, Progress,
    advertise::{Advertiser, learned_default},
    ask::Everyone,
    expect::{SOON, all_reach_all, answers, condition, leader},
    plaintext::{Watch, nothing_plain},
    reach::pod_ips,
    scenario::Routers,
    wait_until,
};

use crate::misses_other_locations;

/// The node's own route, with which it reaches the world. The CNI makes nodes of such a cluster forward IPv6, so that they
/// listen to advertisements with `accept_ra=2` alone (ip-sysctl), which has to be there before.
pub(crate) fn learned_route(lab: &Lab) -> Result<()> {
    let nodes = ["a1", "a2", "a3"];
    for name in nodes {
        lab.node(name)?
            .sh("echo 2 > /proc/sys/net/ipv6/conf/eth0/accept_ra")?;
    }
    let advertiser = Advertiser::start(lab, "a", Path::new(env!("CARGO_BIN_EXE_lab")))?;
    let learned = || {
        for name in nodes {
            learned_default(&lab.node(name)?)?
                .with_context(|| format!("{name} has learned no default route"))?;
        }
        Ok(true)
    };
    let kept = wait_until("every node of a has the router's route", SOON, learned).and_then(|()| {
        crate::installs(lab)?;
        for name in nodes {
            let settings = lab
                .node(name)?
                .sh("cd /proc/sys/net/ipv6/conf; cat all/forwarding eth0/accept_ra")?;
            ensure!(
                settings.split_whitespace().eq(["1", "2"]),
                "{name} forwards and listens: {settings}"
            );
        }
        // Longer than what was learned before lives, unless it is renewed.
        thread::sleep(Duration::from_secs(12));
        learned()
    });
    advertiser.stop()?;
    kept.map(drop)
}

/// By TCP and UDP in both families, directly and through services, with kube-proxy's rules of nftables.
pub(crate) fn everyone(lab: &Lab) -> Result<()> {
    Everyone::start(lab, Path::new(env!("CARGO_BIN_EXE_lab")))?.all_answer()
}

pub(crate) fn peer(lab: &Lab) -> Result<()> {
    let addresses: [IpAddr; 2] = ["10.99.0.1".parse()?, "fd00:99::1".parse()?];
    let laptop = Laptop::start(lab, &addresses)?;
    lab.apply(&laptop.manifest("laptop"))?;
    // b has no port that is forwarded.
    laptop.meet(lab, &leader(lab, "a")?, &["a", "b"])?;
    for node in lab.layout().nodes() {
        for pod in pod_ips(lab, &node.name)? {
            wait_until(
                &format!("the laptop reaches {pod} on {}", node.name),
                SOON,
                || answers(&laptop.host, pod),
            )?;
        }
    }
    let far = lab.pod_on("b2")?;
    for address in addresses {
        wait_until(&format!("a pod reaches {address}"), SOON, || {
            answers(&far, address)
        })?;
    }
    lab.kubectl(["delete", "peer", "laptop"])?;
    for pod in pod_ips(lab, "b2")? {
        wait_until("the laptop no longer reaches b2", SOON, || {
            Ok(!answers(&laptop.host, pod)?)
        })?;
    }
    Ok(())
}

const VXLAN: &str = "udp port 8472";
const WIREGUARD: &str = "udp port 51820";

pub(crate) fn mesh_of_nodes(lab: &Lab) -> Result<()> {
    let crosses = |lab: &Lab, filter: &str| -> Result<bool> {
        let (answered, seen) = lab.capture("b", filter, || {
            let mut answered = true;
            for pod in pod_ips(lab, "b2")? {
                answered &= answers(&lab.pod_on("b1")?, pod)?;
            }
            Ok(answered)
        })?;
        ensure!(answered, "b1 does not reach b2");
        // The far location is kept warm meanwhile; only what the two exchange between them counts.
        let (one, other) = (lab.node_layout("b1")?, lab.node_layout("b2")?);
        let between = |line: &str| {
            let has = |ips: &[IpAddr]| ips.iter().any(|ip| line.contains(&format!("{ip}.")));
            has(&one.addresses) && has(&other.addresses)
        };
        Ok(seen.lines().any(between))
    };
    ensure!(crosses(lab, VXLAN)?, "flannel carries nothing to begin with");
    lab.kubectl([
        "patch",
        "location",
        "b",
        "--type=merge",
        "-p",
        r#"{"spec":{"mesh":"Nodes"}}"#,
    ])?;
    wait_until("both nodes of b lead", SOON, || {
        let found = lab.get(&["location", "b"])?;
        Ok(found["status"]["leaders"].as_array().map(Vec::len) == Some(2))
    })?;
    wait_until("what passes inside b is encrypted", SOON, || {
        Ok(!crosses(lab, VXLAN)? && crosses(lab, WIREGUARD)?)
    })?;
    all_reach_all(lab)?;
    lab.kubectl([
        "patch",
        "location",
        "b",
        "--type=merge",
        "-p",
        r#"{"spec":{"mesh":"Leaders"}}"#,
    ])?;
    wait_until("flannel carries what stays inside b again", SOON, || {
        crosses(lab, VXLAN)
    })?;
    all_reach_all(lab)
}

/// Into a cluster whose locations reach each other already, and where no tunnel gets through yet. (Without the setting traffic stays
/// where it was: the suite `open`.)
pub(crate) fn tunnel_only(lab: &Lab) -> Result<()> {
    lab.helm(["uninstall", "spanwire", "--namespace", "spanwire", "--wait"])?;
    // Nor is anything left from which a pair could be known to be established.
    let kinds = "locations.spanwire.dev,meshnodes.spanwire.dev,locationslices.spanwire.dev";
    lab.kubectl(["delete", kinds, "--all"])?;
    lab.set_routers(Routers::Open)?;
    let both = ["ICMP echo request", "ICMP6, echo request"].map(str::to_owned);
    Watch::internet().something(lab, &both, || all_reach_all(lab))?;
    lab.block_udp(51820)?;
    lab.install_spanwire_alone(&["tunnelOnly=true"], &Progress::shown())?;
    // A new operator waits until the old installation is sure to be gone; before that nothing is published.
    for location in ["a", "b"] {
        wait_until("the location waits for its tunnel", SOON, || {
            let (status, message) = condition(lab, &["location", location], "Connected")?;
            ensure!(
                status == "False" && message.contains("its traffic stopped"),
                "{status}: {message}"
            );
            Ok(true)
        })?;
    }
    nothing_plain(lab, || misses_other_locations(lab))?;
    lab.heal()?;
    nothing_plain(lab, || all_reach_all(lab))
}
