//! Who reaches whom, and with which source address.

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{Lab, reach, wait_until};

use spanwire_e2e::expect::{SOON, all_reach_all, pod_ip};

/// Both ways between standby leaders, and between an ordinary follower and others; to a leader, and from leaders.
const PAIRS: [(&str, &str); 9] = [
    ("a2", "c2"),
    ("c2", "a2"),
    ("a3", "b2"),
    ("b1", "a3"),
    ("a3", "c1"),
    ("c2", "a3"),
    ("b2", "c1"),
    ("a1", "b2"),
    ("c1", "b1"),
];

pub(crate) fn hosts_and_pods(lab: &Lab) -> Result<()> {
    reach::hosts_and_pods(lab)
}

pub(crate) fn source_is_preserved(lab: &Lab) -> Result<()> {
    reach::sources_are_preserved(lab, &PAIRS)
}

pub(crate) fn bulk(lab: &Lab) -> Result<()> {
    reach::bulk(lab, "a3", "c2", 100 << 20)?;
    reach::bulk(lab, "c2", "a3", 100 << 20)
}

pub(crate) fn service(lab: &Lab) -> Result<()> {
    reach::services_answer(lab, "c2", &["a2", "a3", "b1", "c1"], "a3")?;
    reach::services_answer(lab, "a3", &["a2", "b1", "c2"], "b2")
}

pub(crate) fn udp_to_the_wireguard_port(lab: &Lab) -> Result<()> {
    let far = lab.pod_on("c2")?;
    let server = "socat -T 5 UDP-RECVFROM:51820,fork SYSTEM:'echo $SOCAT_PEERADDR'";
    let _server = far.spawn(["sh", "-c", server])?;
    let target = format!("UDP:{}:51820", pod_ip(lab, "c2")?);
    let near = lab.pod_on("a2")?;
    let expected = pod_ip(lab, "a2")?.to_string();
    wait_until("UDP to port 51820 of a far pod is answered", SOON, || {
        let seen = near.sh(&format!("echo hello | socat -t 2 - {target}"))?;
        ensure!(
            seen.trim() == expected,
            "the far pod sees {seen:?}, not {expected}"
        );
        Ok(true)
    })
}

pub(crate) fn logs_and_exec(lab: &Lab) -> Result<()> {
    let list = lab.get(&[
        "pods",
        "--namespace",
        "lab",
        "--field-selector",
        "spec.nodeName=c2",
    ])?;
    let name = list["items"][0]["metadata"]["name"]
        .as_str()
        .context("no pod on c2")?;
    let out = lab.kubectl([
        "exec",
        "--namespace",
        "lab",
        name,
        "--",
        "sh",
        "-c",
        "echo said > /proc/1/fd/1; echo done",
    ])?;
    ensure!(out.trim() == "done", "exec said {out:?}");
    let log = lab.kubectl(["logs", "--namespace", "lab", name])?;
    ensure!(log.contains("said"), "the log is {log:?}");
    Ok(())
}

pub(crate) fn strict_reverse_path(lab: &Lab) -> Result<()> {
    let mut found = Vec::new();
    for node in lab.layout().nodes() {
        let machine = lab.node(&node.name)?;
        found.push((
            node.name.clone(),
            machine.sh("cd /proc/sys/net/ipv4/conf && grep -H . */rp_filter")?,
        ));
        // Spanwire asserts what it needs on its own device and on the hop's; everything else is strict from now on.
        machine.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done")?;
    }
    let result = all_reach_all(lab)
        .and_then(|()| hosts_and_pods(lab))
        .and_then(|()| source_is_preserved(lab))
        .and_then(|()| service(lab));
    for (node, values) in found {
        let put_back =
            "cd /proc/sys/net/ipv4/conf && while IFS=: read -r f v; do [ -e $f ] && echo $v > $f; done";
        lab.node(&node)?
            .cmd(["sh", "-c", put_back])?
            .input(values)
            .finish()?;
    }
    result.context("with rp_filter strict on every device")
}
