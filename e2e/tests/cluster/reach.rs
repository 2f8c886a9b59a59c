//! Who reaches whom, and with which source address.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{Lab, Machine, wait_until};

use spanwire_e2e::expect::{SOON, all_reach_all, answers, node_ip, pod_ip};

/// Answers each TCP connection with the address it came from.
const ECHO: &str = "socat -T 5 TCP-LISTEN:PORT,reuseaddr,fork SYSTEM:'echo $SOCAT_PEERADDR'";

fn echo(machine: &Machine<'_>, port: u16) -> Result<spanwire_e2e::Background> {
    let server = machine.spawn(["sh", "-c", &ECHO.replace("PORT", &port.to_string())])?;
    let listening = format!("ss -Htln 'sport = :{port}' | grep -q .");
    wait_until("the echo listens", SOON, || {
        Ok(machine.finish(["sh", "-c", &listening])?.code == 0)
    })?;
    Ok(server)
}

/// Whom the far end sees when one asks it.
fn seen_by(from: &Machine<'_>, to: SocketAddr) -> Result<String> {
    let target = format!("TCP:{to},connect-timeout=3");
    Ok(from
        .run(["socat", "-T", "5", "-u", &target, "-"])?
        .trim()
        .to_owned())
}

pub(crate) fn hosts_and_pods(lab: &Lab) -> Result<()> {
    let nodes: Vec<String> = lab.layout().nodes().map(|node| node.name.clone()).collect();
    let mut silent = Vec::new();
    for from in &nodes {
        for to in &nodes {
            let (host, pod) = (lab.node(from)?, lab.pod_on(from)?);
            let (far_host, far_pod) = (node_ip(lab, to)?, pod_ip(lab, to)?);
            let ways = [
                ("host", &host, "host", far_host),
                ("host", &host, "pod", far_pod),
                ("pod", &pod, "host", far_host),
            ];
            for (kind, machine, far, address) in ways {
                if !answers(machine, address)? {
                    silent.push(format!("{kind} {from} to {far} {to} ({address})"));
                }
            }
        }
    }
    ensure!(silent.is_empty(), "no answer: {silent:#?}");
    Ok(())
}

pub(crate) fn source_is_preserved(lab: &Lab) -> Result<()> {
    for (near, far) in [
        ("a2", "c2"),
        ("c2", "a2"),
        ("b2", "c1"),
        ("a1", "b2"),
        ("c1", "b1"),
    ] {
        let (pod, host) = (lab.pod_on(near)?, lab.node(near)?);
        let (far_pod, far_host) = (lab.pod_on(far)?, lab.node(far)?);
        let (port, host_port) = (7001, 7002);
        let _servers = [echo(&far_pod, port)?, echo(&far_host, host_port)?];
        let to_pod = SocketAddr::new(pod_ip(lab, far)?, port);
        let to_host = SocketAddr::new(node_ip(lab, far)?, host_port);
        let cases = [
            ("pod to pod", &pod, to_pod, pod_ip(lab, near)?),
            ("pod to host", &pod, to_host, pod_ip(lab, near)?),
            ("host to pod", &host, to_pod, node_ip(lab, near)?),
            ("host to host", &host, to_host, node_ip(lab, near)?),
        ];
        for (what, from, to, expected) in cases {
            let seen = seen_by(from, to).with_context(|| format!("{what}, {near} to {far}"))?;
            ensure!(
                seen == expected.to_string(),
                "{what}, {near} to {far}: the far end sees {seen}, not {expected}"
            );
        }
    }
    Ok(())
}

pub(crate) fn bulk(lab: &Lab) -> Result<()> {
    for (from, to) in [("a2", "c2"), ("c2", "a2")] {
        let (near, far) = (lab.pod_on(from)?, lab.pod_on(to)?);
        let receiver = far.spawn(["sh", "-c", "socat -u TCP-LISTEN:7003,reuseaddr - | sha256sum"])?;
        wait_until("the receiver listens", SOON, || {
            Ok(far
                .finish(["sh", "-c", "ss -Htln 'sport = :7003' | grep -q ."])?
                .code
                == 0)
        })?;
        let target = SocketAddr::new(pod_ip(lab, to)?, 7003);
        let sent = near.sh(&format!(
            "head -c 104857600 /dev/urandom > /tmp/bulk && timeout 120 socat -u OPEN:/tmp/bulk TCP:{target} && \
             sha256sum < /tmp/bulk; rm -f /tmp/bulk"
        ))?;
        let received = receiver.wait()?.0;
        ensure!(
            !sent.is_empty() && sent == received,
            "{from} sent {sent}, {to} received {received}"
        );
    }
    Ok(())
}

/// A service whose only endpoint is the pod on one node.
fn service_to(lab: &Lab, node: &str) -> Result<(String, u16)> {
    let pod = pod_ip(lab, node)?;
    lab.apply(&format!(
        r#"{{"apiVersion": "v1", "kind": "List", "items": [
        {{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "far", "namespace": "lab"}},
          "spec": {{"type": "NodePort", "ports": [{{"port": 80, "targetPort": 7004, "name": "echo"}}]}}}},
        {{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
          "metadata": {{"name": "far", "namespace": "lab", "labels": {{"kubernetes.io/service-name": "far"}}}},
          "endpoints": [{{"addresses": ["{pod}"]}}], "ports": [{{"name": "echo", "port": 7004}}]}}]}}"#
    ))?;
    let service = lab.get(&["service", "far", "--namespace", "lab"])?;
    let ip = service["spec"]["clusterIP"]
        .as_str()
        .context("no cluster IP")?
        .to_owned();
    let port = service["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("no node port")?;
    Ok((ip, u16::try_from(port)?))
}

pub(crate) fn service(lab: &Lab) -> Result<()> {
    let _server = echo(&lab.pod_on("c2")?, 7004)?;
    let (ip, node_port) = service_to(lab, "c2")?;
    let cluster = SocketAddr::new(ip.parse()?, 80);
    for node in ["a2", "b1", "c1"] {
        let pod = lab.pod_on(node)?;
        wait_until("the service answers a pod", SOON, || {
            let seen = seen_by(&pod, cluster)?;
            ensure!(
                seen == pod_ip(lab, node)?.to_string(),
                "a pod on {node} is seen as {seen}"
            );
            Ok(true)
        })?;
        seen_by(&lab.node(node)?, cluster).with_context(|| format!("from node {node}"))?;
    }
    // The router of a is no part of the mesh: it asks a follower in its LAN.
    let follower = SocketAddr::new(node_ip(lab, "a2")?, node_port);
    let seen = seen_by(&lab.network("a")?, follower)
        .context("NodePort on a follower, asked from outside the mesh")?;
    let own = lab.node("a2")?.run(["ip", "-br", "address"])?;
    let hidden = own.split([' ', '/', '\n']).any(|address| address == seen);
    ensure!(
        hidden,
        "kube-proxy hides outsiders behind an address of the node, but {seen} was seen, not one of\n{own}"
    );
    lab.kubectl(["delete", "service,endpointslice", "far", "--namespace", "lab"])?;
    Ok(())
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
