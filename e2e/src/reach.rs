//! Who reaches whom, and with which source address, in every IP family of the lab.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};

use crate::{
    expect::{SOON, answers},
    lab::Lab,
    machine::{Background, Machine},
    wait::wait_until,
};

/// Returns the address of the test pod on a node in each family of the lab, the preferred one first.
pub fn pod_ips(lab: &Lab, node: &str) -> Result<Vec<IpAddr>> {
    let mut pods = lab.pods()?;
    pods.remove(node).with_context(|| format!("no pod on {node}"))
}

/// Returns the address of a node in each family of the lab, the preferred one first.
pub fn node_ips(lab: &Lab, node: &str) -> Result<Vec<IpAddr>> {
    Ok(lab.node_layout(node)?.addresses.clone())
}

/// Answers each TCP connection in the family of an address with the address that the connection came from.
pub fn echo(machine: &Machine<'_>, family: IpAddr, port: u16) -> Result<Background> {
    let listen = match family {
        IpAddr::V4(_) => format!("TCP4-LISTEN:{port}"),
        IpAddr::V6(_) => format!("TCP6-LISTEN:{port},ipv6only=1"),
    };
    let server = machine.spawn([
        "socat",
        "-T",
        "5",
        &format!("{listen},reuseaddr,fork"),
        "SYSTEM:echo $SOCAT_PEERADDR",
    ])?;
    listens(machine, port)?;
    Ok(server)
}

/// Waits until something listens on a TCP port.
pub fn listens(machine: &Machine<'_>, port: u16) -> Result<()> {
    let listening = format!("ss -Htln 'sport = :{port}' | grep -q .");
    wait_until(&format!("a program listens on port {port}"), SOON, || {
        Ok(machine.finish(["sh", "-c", &listening])?.code == 0)
    })
}

/// Whom the far end sees when one asks it.
pub fn seen_by(from: &Machine<'_>, to: SocketAddr) -> Result<IpAddr> {
    let target = format!("TCP:{to},connect-timeout=3");
    let said = from.run(["socat", "-T", "5", "-u", &target, "-"])?;
    let address = said.trim().trim_matches(['[', ']']);
    address
        .parse()
        .with_context(|| format!("{to} said {said:?}, no address"))
}

/// Every host and every pod reaches every host, and every host every pod.
pub fn hosts_and_pods(lab: &Lab) -> Result<()> {
    let nodes: Vec<String> = lab.layout().nodes().map(|node| node.name.clone()).collect();
    let pods = lab.pods()?;
    let mut silent = Vec::new();
    for from in &nodes {
        let (host, pod) = (lab.node(from)?, lab.pod_on(from)?);
        for to in &nodes {
            let hosts = node_ips(lab, to)?;
            let far_pods = pods.get(to).with_context(|| format!("no pod on {to}"))?;
            let ways = [
                ("host", &host, "host", &hosts),
                ("host", &host, "pod", far_pods),
                ("pod", &pod, "host", &hosts),
            ];
            for (kind, machine, far, addresses) in ways {
                for &address in addresses {
                    if !answers(machine, address)? {
                        silent.push(format!("{kind} {from} to {far} {to} ({address})"));
                    }
                }
            }
        }
    }
    ensure!(silent.is_empty(), "no answer: {silent:#?}");
    Ok(())
}

/// Between these pairs of nodes, hosts and pods are seen by hosts and pods with their own address.
pub fn sources_are_preserved(lab: &Lab, pairs: &[(&str, &str)]) -> Result<()> {
    let (port, host_port) = (7001, 7002);
    for &(near, far) in pairs {
        let (pod, host) = (lab.pod_on(near)?, lab.node(near)?);
        let (far_pod, far_host) = (lab.pod_on(far)?, lab.node(far)?);
        let own = pod_ips(lab, near)?.into_iter().zip(node_ips(lab, near)?);
        let theirs = pod_ips(lab, far)?.into_iter().zip(node_ips(lab, far)?);
        for ((pod_ip, host_ip), (far_pod_ip, far_host_ip)) in own.zip(theirs) {
            let _servers = [
                echo(&far_pod, far_pod_ip, port)?,
                echo(&far_host, far_host_ip, host_port)?,
            ];
            let to_pod = SocketAddr::new(far_pod_ip, port);
            let to_host = SocketAddr::new(far_host_ip, host_port);
            let cases = [
                ("pod to pod", &pod, to_pod, pod_ip),
                ("pod to host", &pod, to_host, pod_ip),
                ("host to pod", &host, to_pod, host_ip),
                ("host to host", &host, to_host, host_ip),
            ];
            for (what, from, to, expected) in cases {
                let seen = seen_by(from, to).with_context(|| format!("{what}, {near} to {far}"))?;
                ensure!(
                    seen == expected,
                    "{what}, {near} to {far}: the far end sees {seen}, not {expected}"
                );
            }
        }
    }
    Ok(())
}

/// So many bytes from a pod to a pod, in each family, arrive as they were sent.
pub fn bulk(lab: &Lab, from: &str, to: &str, bytes: u64) -> Result<()> {
    let (near, far) = (lab.pod_on(from)?, lab.pod_on(to)?);
    for address in pod_ips(lab, to)? {
        let listen = match address {
            IpAddr::V4(_) => "TCP4-LISTEN:7003",
            IpAddr::V6(_) => "TCP6-LISTEN:7003",
        };
        let receiver = far.spawn(["sh", "-c", &format!("socat -u {listen},reuseaddr - | sha256sum")])?;
        listens(&far, 7003)?;
        let target = SocketAddr::new(address, 7003);
        let sent = near.sh(&format!(
            "head -c {bytes} /dev/urandom > /tmp/bulk && timeout 120 socat -u OPEN:/tmp/bulk TCP:{target} && \
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

/// Services, one for each family, whose only endpoint is the pod on a node, which must echo on port 7004.
pub fn services_to(lab: &Lab, node: &str) -> Result<Vec<Service>> {
    pod_ips(lab, node)?
        .into_iter()
        .map(|pod| service_to(lab, pod))
        .collect()
}

/// A service that one pod stands behind.
#[derive(Debug)]
pub struct Service {
    /// Address and port in the cluster.
    pub cluster: SocketAddr,
    /// Port on every node.
    pub node_port: u16,
}

fn service_to(lab: &Lab, pod: IpAddr) -> Result<Service> {
    let family = if pod.is_ipv4() { "IPv4" } else { "IPv6" };
    let name = format!("far-{}", family.to_lowercase());
    lab.apply(&format!(
        r#"{{"apiVersion": "v1", "kind": "List", "items": [
        {{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "{name}", "namespace": "lab"}},
          "spec": {{"type": "NodePort", "ipFamilies": ["{family}"], "ipFamilyPolicy": "SingleStack",
                    "ports": [{{"port": 80, "targetPort": 7004, "name": "echo"}}]}}}},
        {{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "{family}",
          "metadata": {{"name": "{name}", "namespace": "lab", "labels": {{"kubernetes.io/service-name": "{name}"}}}},
          "endpoints": [{{"addresses": ["{pod}"]}}], "ports": [{{"name": "echo", "port": 7004}}]}}]}}"#
    ))?;
    let service = lab.get(&["service", &name, "--namespace", "lab"])?;
    let ip = service["spec"]["clusterIP"]
        .as_str()
        .context("no cluster IP")?
        .parse()?;
    let port = service["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("no node port")?;
    Ok(Service {
        cluster: SocketAddr::new(ip, 80),
        node_port: u16::try_from(port)?,
    })
}

/// The services to a far pod answer pods and nodes, which are seen as themselves; and, on a node's port, who is no part
/// of the mesh, which kube-proxy hides behind an address of that node.
pub fn services_answer(lab: &Lab, far: &str, near: &[&str], asked: &str) -> Result<()> {
    let far_ips = pod_ips(lab, far)?;
    let echo = |ip: &IpAddr| echo(&lab.pod_on(far)?, *ip, 7004);
    let _servers: Vec<_> = far_ips.iter().map(echo).collect::<Result<_>>()?;
    for (family, service) in services_to(lab, far)?.iter().enumerate() {
        for node in near {
            let (pod, own) = (lab.pod_on(node)?, pod_ips(lab, node)?[family]);
            wait_until("the service answers a pod", SOON, || {
                let seen = seen_by(&pod, service.cluster)?;
                ensure!(seen == own, "a pod on {node} is seen as {seen}");
                Ok(true)
            })?;
            seen_by(&lab.node(node)?, service.cluster).with_context(|| format!("from node {node}"))?;
        }
        // The router of the location is no part of the mesh.
        let router = lab.network(&lab.node_layout(asked)?.location)?;
        let follower = SocketAddr::new(node_ips(lab, asked)?[family], service.node_port);
        let seen =
            seen_by(&router, follower).context("NodePort on a follower, asked from outside the mesh")?;
        let own = lab.node(asked)?.run(["ip", "-br", "address"])?;
        let hidden = own
            .split([' ', '/', '\n'])
            .any(|address| address == seen.to_string());
        ensure!(
            hidden,
            "kube-proxy hides outsiders behind an address of the node, but {seen} was seen, not one of\n{own}"
        );
    }
    let delete = [
        "delete",
        "service,endpointslice",
        "--namespace",
        "lab",
        "--ignore-not-found",
    ];
    lab.kubectl(delete.into_iter().chain(["far-ipv4", "far-ipv6"]))
        .map(drop)
}
