//! Nothing leaves in plaintext, and the test would see it if it did.

use anyhow::{Result, ensure};
use spanwire_e2e::{
    Lab,
    expect::{SOON, all_reach_all, answers, node_ip, pod_ip},
    plaintext::{nothing_plain, something_plain},
    scenario::Routers,
    wait_until,
};

fn select(lab: &Lab, node_selector: &str) -> Result<()> {
    let patch = format!(r#"{{"spec": {{"template": {{"spec": {{"nodeSelector": {node_selector}}}}}}}}}"#);
    lab.kubectl([
        "patch",
        "daemonset",
        "spanwire-tunnel",
        "--namespace",
        "spanwire",
        "--type=merge",
        "-p",
        &patch,
    ])?;
    Ok(())
}

pub(crate) fn tunnel_stopped(lab: &Lab) -> Result<()> {
    // Even a network that would carry it must see nothing.
    lab.set_routers(Routers::Open)?;
    select(lab, r#"{"no-node": "has-this"}"#)?;
    let stopped = wait_until("no node has the device", SOON, || {
        let has = |name: &str| {
            Ok::<_, anyhow::Error>(lab.node(name)?.finish(["ip", "link", "show", "spanwire0"])?.code == 0)
        };
        for node in lab.layout().nodes() {
            ensure!(!has(&node.name)?, "{} has it", node.name);
        }
        Ok(true)
    });
    let seen = stopped.and_then(|()| {
        nothing_plain(lab, || {
            for (from, to) in [("a1", "c2"), ("b1", "a2"), ("a3", "b2")] {
                for target in [pod_ip(lab, to)?, node_ip(lab, to)?] {
                    let asked =
                        lab.node(from)?
                            .finish(["ping", "-n", "-c", "2", "-W", "1", &target.to_string()])?;
                    let said = asked.stdout + &asked.stderr;
                    ensure!(is_unreachable(&said), "{from} to {target}: {said}");
                    ensure!(
                        !answers(&lab.pod_on(from)?, target)?,
                        "the pod on {from} reaches {target}"
                    );
                }
            }
            Ok(())
        })
    });
    select(lab, r#"{"no-node": null}"#)?;
    lab.set_routers(Routers::Closed)?;
    seen?;
    wait_until("all is well again", SOON, || all_reach_all(lab).map(|()| true))
}

/// Returns what ping says of a router's ICMP 'unreachable', and of the kernel's own EHOSTUNREACH or ENETUNREACH.
fn is_unreachable(said: &str) -> bool {
    let said = said.to_lowercase();
    said.contains("unreachable") || said.contains("no route to host")
}

pub(crate) fn inverse(lab: &Lab) -> Result<()> {
    lab.set_routers(Routers::Open)?;
    let seen = something_plain(lab, || {
        let target = node_ip(lab, "b2")?;
        wait_until("the nodes reach each other by the open routers", SOON, || {
            answers(&lab.node("a2")?, target)
        })
    });
    lab.set_routers(Routers::Closed)?;
    seen
}
