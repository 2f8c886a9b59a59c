//! Nothing leaves in plaintext, and the test would see it if it did.

use anyhow::{Result, ensure};
use spanwire_e2e::{Lab, scenario::Routers, wait_until};

use spanwire_e2e::expect::{SOON, all_reach_all, answers, node_ip, pod_ip};

/// Packets with a private address in the open.
const PLAIN: &str = "ip and not tcp port 6443 and (src net 10.244.0.0/16 or dst net 10.244.0.0/16 or \
                     (src net 192.168.0.0/16 and dst net 192.168.0.0/16))";

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
        lab.capture("internet", PLAIN, || {
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
    let ((), plain) = seen?;
    ensure!(plain.trim().is_empty(), "plaintext on the internet:\n{plain}");
    wait_until("all is well again", SOON, || all_reach_all(lab).map(|()| true))
}

/// Returns what ping says of a router's ICMP 'unreachable', and of the kernel's own EHOSTUNREACH or ENETUNREACH.
fn is_unreachable(said: &str) -> bool {
    let said = said.to_lowercase();
    said.contains("unreachable") || said.contains("no route to host")
}

pub(crate) fn inverse(lab: &Lab) -> Result<()> {
    lab.set_routers(Routers::Open)?;
    let seen = lab.capture("internet", PLAIN, || {
        let target = node_ip(lab, "b2")?;
        wait_until("the nodes reach each other by the open routers", SOON, || {
            answers(&lab.node("a2")?, target)
        })
    });
    lab.set_routers(Routers::Closed)?;
    let ((), plain) = seen?;
    ensure!(
        plain.contains("ICMP echo request"),
        "the capture does not see plaintext:\n{plain}"
    );
    Ok(())
}
