//! A cluster without IPv6 leaves each node's own IPv6 as it is, whatever that is.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Lab,
    advertise::{Advertiser, learned_default},
    wait_until,
};

use spanwire_e2e::expect::{SOON, all_reach_all, condition, leader};

/// As the scenario has it: a node on which IPv6 is switched off.
const WITHOUT_IPV6: &str = "c1";

const FORWARDING: &str = "cat /proc/sys/net/ipv6/conf/all/forwarding";

/// The lab's nodes do not forward IPv6 to begin with, nor does flannel make them.
pub(crate) fn stays_as_it_was(lab: &Lab) -> Result<()> {
    for name in lab.node_names() {
        let node = lab.node(&name)?;
        let forwarding = node.sh(FORWARDING)?;
        ensure!(forwarding.trim() == "0", "{name} forwards IPv6: {forwarding}");
        let addresses = node.sh("ip -6 -o address show scope global")?;
        ensure!(
            !addresses.contains("spanwire0"),
            "{name} has an IPv6 address in the mesh: {addresses}"
        );
        let routes = node.sh("ip -6 route show table 51830; ip -6 rule | grep -E '51830|51831' || true")?;
        ensure!(routes.trim().is_empty(), "{name} routes IPv6: {routes}");
    }
    Ok(())
}

pub(crate) fn switched_off(lab: &Lab) -> Result<()> {
    let node = lab.node(WITHOUT_IPV6)?;
    let off =
        node.sh("cd /proc/sys/net/ipv6/conf; cat all/disable_ipv6 default/disable_ipv6 eth0/disable_ipv6")?;
    ensure!(
        off.split_whitespace().all(|value| value == "1"),
        "it is on: {off}"
    );
    let leads = leader(lab, "c")?;
    node.run(["ip", "link", "show", "dev", "spanwire0"])
        .with_context(|| format!("{WITHOUT_IPV6} is to lead or to stand by, and {leads} leads"))?;
    wait_until("a node without IPv6 is Ready", SOON, || {
        let (status, message) = condition(lab, &["meshnode", WITHOUT_IPV6], "Ready")?;
        ensure!(status == "True", "{status}: {message}");
        Ok(true)
    })?;
    all_reach_all(lab)
}

/// A leader that forwarded IPv6 would not listen to advertisements (ip-sysctl, `accept_ra`).
pub(crate) fn learned_route(lab: &Lab) -> Result<()> {
    let advertiser = Advertiser::start(lab, "a", Path::new(env!("CARGO_BIN_EXE_lab")))?;
    let learned = || {
        for name in ["a1", "a2", "a3"] {
            learned_default(&lab.node(name)?)?
                .with_context(|| format!("{name} has learned no default route"))?;
        }
        Ok(true)
    };
    let kept = wait_until("every node of a has the router's route", SOON, learned).and_then(|()| {
        // Longer than what is learned lives, unless it is renewed.
        thread::sleep(Duration::from_secs(12));
        learned()
    });
    advertiser.stop()?;
    kept.map(drop)
}
