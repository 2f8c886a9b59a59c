//! What is planned and rendered, done to Linux: the testbed's two locations of two nodes, both families, with flannel,
//! kube-proxy and strict rp_filter, and wireguard-go between the leaders. Needs root.

mod marks;
mod network;
mod plaintext;
mod stages;

use std::{
    net::{IpAddr, UdpSocket},
    process::{Child, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use spanwire_testbed::{FAMILIES, Family, NODES, Namespace, Node, Ping, hop, services, wait_until};

use self::{
    network::{Network, Place, counter, ping},
    stages::{CUT_OFF, ESTABLISHED, MOVED, Machines, SETTLED, Stage, TUNNELS, device, overlay},
};
use Place::{Host, Pod};

/// Long beside what a ping takes.
const MOMENT: Duration = Duration::from_millis(200);
const SERVICE: &str = "10.96.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ip4(number: u8) -> IpAddr {
    ip(&overlay(number, Family::V4))
}

/// Everything of a node that Spanwire might change. Link-local addresses take a moment, and are the kernel's own.
fn everything(node: &Node) -> String {
    let text = node.host.run(
        "ip -br link; ip addr; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list tables",
    );
    text.lines()
        .filter(|line| !line.contains("fe80:"))
        .map(|line| line.split("valid_lft").next().unwrap())
        .map(|line| line.split("expires").next().unwrap().trim_end().to_owned() + "\n")
        .collect()
}

/// An iperf3 server; it ends with this.
struct Server(Child);

impl Server {
    fn start(on: &Namespace, port: u16) -> Self {
        let server = on.command("iperf3").args(["-s", "-p", &port.to_string()]);
        let server = Self(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn());
        let listens = format!("ss -Htln 'sport = :{port}' | grep -q .");
        wait_until("iperf3", Duration::from_secs(10), || {
            on.try_run(&listens).status.success()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A transfer succeeds. The server is busy for a moment after each client.
#[track_caller]
fn stream(what: &str, from: &Namespace, arguments: &str) {
    let limited = format!("timeout 20 iperf3 {arguments}");
    wait_until(what, Duration::from_secs(60), || {
        from.try_run(&limited).status.success()
    });
}

/// From each node and pod of a location to each of the other, in both families.
fn matrix(network: &Network) {
    let all = NODES
        .iter()
        .flat_map(|from| NODES.iter().map(move |to| (from, to)));
    for ((_, from, _), (_, to, _)) in all.filter(|(from, to)| from.0 != to.0) {
        for family in FAMILIES {
            for near in [Pod(from), Host(from)] {
                for far in [Pod(to), Host(to)] {
                    let (target, source) = (network.address(far, family), network.address(near, family));
                    network.reach(near, far, target, source);
                }
            }
        }
    }
}

/// What a standby leader sends from its overlay address goes through its own tunnel.
fn stands_by(network: &Network, name: &'static str) {
    let node = network.node(name);
    let (own, far) = (ip4(node.number), ip4(3));
    let options = ["-W", "2", "-I", &own.to_string(), &far.to_string()];
    assert!(ping(&node.host, &options), "{name} stands by");
    let sessions = node
        .host
        .run(&format!("wg show {} latest-handshakes", device(node.number)));
    let sessions = sessions.lines().filter(|line| !line.ends_with("\t0"));
    assert_eq!(sessions.count(), 1, "{name} has a session of its own");
    for from in [Pod(name), Host(name)] {
        network.reach(from, Host("b1"), far, network.address(from, Family::V4));
    }
}

/// Pings every 10 ms between any two.
fn keep_pinging(network: &Network) -> Vec<(String, Ping)> {
    let pairs = [
        (Pod("a2"), Pod("b2"), Family::V4),
        (Pod("a2"), Pod("b2"), Family::V6),
        (Host("a2"), Host("b2"), Family::V4),
        (Host("b2"), Host("a2"), Family::V6),
        (Host("b1"), Pod("a2"), Family::V4),
        (Pod("b2"), Host("a1"), Family::V4),
    ];
    pairs
        .map(|(from, to, family)| {
            let target = network.address(to, family).to_string();
            let what = format!("{from:?} to {target}");
            // IPv6 is ready when the kernel has noticed the carrier.
            wait_until(&what, Duration::from_secs(10), || network.at(from).pings(&target));
            (what, network.at(from).start_ping(&target))
        })
        .into()
}

/// The devices of all tests have the same names, and their sockets one folder.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn what_is_rendered_carries_packets_with_their_source_and_none_in_the_open() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let network = Network::new();
    let mut machines = Machines::new();
    let pings = keep_pinging(&network);
    let found: Vec<String> = network.world.nodes.iter().map(everything).collect();
    join(&network, &mut machines, pings, |stage| stage);
    network.close();
    let before = network.plaintext();
    matrix(&network);
    network.reach(Host("a1"), Host("b1"), ip4(3), ip4(1));
    for family in FAMILIES {
        let (far, source) = (ip(&overlay(1, family)), network.address(Host("b2"), family));
        network.reach(Host("b2"), Host("a1"), far, source);
    }
    stands_by(&network, "a2");
    let _servers = services_and_streams(&network);
    strangers(&network);
    assert_eq!(network.plaintext(), before, "plaintext at the closed router");
    assert_eq!(network.foreign(), 0, "foreign packets in the LANs");

    // The other node of a leads; the router is still closed.
    machines.bring(&network, Some(&MOVED));
    matrix(&network);
    assert_eq!(
        network.plaintext(),
        before,
        "plaintext at the closed router, moved"
    );
    stands_by(&network, "a1");

    // From here on everything is open again, so what is not seen was not sent.
    network.open();
    without_the_rule(&network);
    spoofed(&network);
    machines.bring(&network, None);
    for (node, found) in network.world.nodes.iter().zip(found) {
        assert_eq!(everything(node), found, "left on {}", node.name);
    }
    let [from, to] = [Pod("a2"), Pod("b2")];
    let [source, target] = [from, to].map(|place| network.address(place, Family::V4));
    network.reach(from, to, target, source);
    without_the_tunnel(&network, &mut machines);
}

#[test]
fn every_server_answers_whichever_service_and_node_it_is_asked_by() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let network = Network::new();
    let mut machines = Machines::new();
    network.close();
    for stage in [SETTLED, MOVED] {
        machines.bring(&network, Some(&stage));
        for family in FAMILIES {
            all_answer(&network, family);
        }
    }
    assert_eq!(network.foreign(), 0, "foreign packets in the LANs");
}

/// There, what asks a node from outside the mesh comes in by the same device as what a node of the location sends here.
#[test]
fn every_server_answers_where_the_cni_has_no_device_of_its_own() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (network, mut machines) = (Network::new(), Machines::new());
    network.world.route_pods_in_lans();
    network.close_router();
    for stage in [SETTLED, MOVED] {
        machines.bring(&network, Some(&stage.direct()));
        all_answer(&network, Family::V4);
    }
    assert_eq!(network.plaintext(), 0, "plaintext between the LANs");
}

/// The WireGuard of these nodes has no groups: the relay works where both sides see what is cut.
#[test]
fn a_leader_that_is_cut_off_sends_and_is_sent_to_through_the_one_that_is_not() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (network, mut machines) = (Network::new(), Machines::new());
    network.close();
    machines.bring(&network, Some(&SETTLED));
    matrix(&network);
    let before = network.plaintext();
    let [near, far] = ["a1", "b1"].map(|name| network.node(name).lan(Family::V4));
    network.world.router.nft(&format!(
        "table inet cut {{
           chain forward {{
             type filter hook forward priority -10;
             ip saddr {near} ip daddr {far} drop
             ip saddr {far} ip daddr {near} drop
           }}
         }}"
    ));
    let target = network.address(Pod("b2"), Family::V4).to_string();
    assert!(
        !network.at(Pod("a2")).pings(&target),
        "what is cut carries nothing"
    );
    machines.bring(&network, Some(&CUT_OFF));
    matrix(&network);
    network.world.router.run("nft delete table inet cut");
    machines.bring(&network, Some(&SETTLED));
    matrix(&network);
    assert_eq!(network.plaintext(), before, "plaintext at the closed router");
    assert_eq!(network.foreign(), 0, "foreign packets in the LANs");
}

fn all_answer(network: &Network, family: Family) {
    // A handshake may take a second try.
    for (from, to) in [("b2", "a1"), ("b2", "a2"), ("a1", "b2"), ("a2", "b1")] {
        let to = network.address(Pod(to), family).to_string();
        wait_until("a session", Duration::from_secs(20), || {
            network.at(Pod(from)).pings(&to)
        });
    }
    for node in &network.world.nodes {
        node.host.nft(INHERITED);
    }
    services::all_answer(&network.world, family);
    for node in &network.world.nodes {
        let seen = node
            .host
            .run("nft list table inet inherited; nft delete table inet inherited");
        assert!(seen.contains("packets 0 "), "on {}: {seen}", node.name);
    }
}

/// Counts what comes after the first packet of a masqueraded connection and leaves with kube-proxy's mark.
const INHERITED: &str = "table inet inherited {
  chain out {
    type filter hook postrouting priority -140;
    ct status & (snat | dnat) == (snat | dnat) meta mark & 0x4000 != 0 counter
  }
}";

/// Moves into the mesh, while pings flow and the router is open.
fn join(
    network: &Network,
    machines: &mut Machines,
    pings: Vec<(String, Ping)>,
    with: impl Fn(Stage) -> Stage,
) {
    machines.bring(network, Some(&with(TUNNELS)));
    network.reach(Host("a1"), Host("b1"), ip4(3), ip4(1));
    let before = network.plaintext();
    thread::sleep(MOMENT);
    assert!(
        network.plaintext() > before,
        "the router sees plaintext where there is some"
    );
    machines.bring(network, Some(&with(ESTABLISHED)));
    thread::sleep(MOMENT);
    let before = network.plaintext();
    thread::sleep(MOMENT);
    assert_eq!(
        network.plaintext(),
        before,
        "plaintext at the open router, established"
    );
    machines.bring(network, Some(&with(SETTLED)));
    let lost = |(what, ping): (String, Ping)| {
        let (sent, answered) = ping.stop();
        // A gap between two steps costs three and more.
        (sent > answered + 2).then(|| format!("{what}: {answered} of {sent} answered"))
    };
    let lost: Vec<String> = pings.into_iter().filter_map(lost).collect();
    assert!(lost.is_empty(), "while moving into the mesh: {lost:#?}");
}

fn services_and_streams(network: &Network) -> [Server; 2] {
    let (near, far) = (network.node("a2"), network.node("b2"));
    let servers = [
        Server::start(&far.pod, 5201),
        Server::start(&network.node("b1").host, 6443),
    ];
    far.pod.run(
        "nft add rule inet probe input 'tcp flags & (syn | rst) == syn tcp option maxseg size > 1380 counter name large'",
    );
    let masqueraded = hop(2, Family::V4);
    for (from, source) in [
        (Pod("a2"), near.pod_address(Family::V4)),
        // kube-proxy hides the source of a host, behind the address that its route prefers.
        (Host("a2"), masqueraded),
        // The device of the route is the tunnel's, whose overlay address servers on leaders do not answer.
        (Host("a1"), network.address(Host("a1"), Family::V4)),
    ] {
        network.reach(from, Pod("b2"), ip(SERVICE), source);
    }
    let [pod4, pod6] = FAMILIES.map(|family| far.pod_address(family));
    for name in ["a2", "a1"] {
        let target = network.node(name).lan(Family::V4);
        let what = format!("a node port of {name}, from outside");
        stream(
            &what,
            &network.world.router,
            &format!("-c {target} -p 30080 -n 100K"),
        );
    }
    stream("10 MB from pod to pod", &near.pod, &format!("-c {pod4} -n 10M"));
    stream("10 MB back", &near.pod, &format!("-c {pod4} -n 10M -R"));
    stream(
        "10 MB from pod to pod, IPv6",
        &near.pod,
        &format!("-c {pod6} -n 10M"),
    );
    stream("10 MB from host to pod", &near.host, &format!("-c {pod4} -n 10M"));
    let large = counter(&far.pod, "inet probe large");
    assert_eq!(large, 0, "connections whose segments do not fit the tunnel");
    servers
}

/// What is not of the mesh, or for the tunnel itself.
fn strangers(network: &Network) {
    let (near, far) = (network.node("a2"), network.node("b2"));
    let [source, target] = [near, far].map(|node| node.pod_address(Family::V4));
    network.forget(Pod("b2"));
    near.pod.inside(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"x", (target, 51820)).unwrap();
    });
    wait_until(
        "UDP to the WireGuard port of a remote pod",
        Duration::from_secs(5),
        || network.seen(Pod("b2")) == [source].into(),
    );

    near.host.run("ip addr add 172.31.0.1/32 dev lo");
    network.forget(Pod("b2"));
    let options = ["-W", "2", "-I", "172.31.0.1", &target.to_string()];
    assert!(ping(&near.host, &options), "a source of no member");
    assert_eq!(
        network.seen(Pod("b2")),
        [near.lan(Family::V4)].into(),
        "a source of no member becomes the node's"
    );

    let tracked = network.node("a1").host.run("conntrack -L 2>/dev/null || true");
    let source = format!("={source} ");
    let transit = tracked.lines().filter(|line| {
        line.contains(&source) && (line.contains("=10.244.3.") || line.contains("=10.244.4."))
    });
    assert_eq!(transit.count(), 0, "transit in the leader's conntrack: {tracked}");
}

fn without_the_rule(network: &Network) {
    let (near, far) = (network.node("a2"), network.node("b2"));
    let before = network.plaintext();
    near.host.run("ip rule del priority 2108");
    for (from, target) in [
        (&near.pod, far.pod_address(Family::V4)),
        (&near.host, far.lan(Family::V4)),
    ] {
        let answered = ping(from, &["-W", "0.5", &target.to_string()]);
        assert!(!answered, "without the rule {target} answers");
    }
    assert_eq!(
        network.plaintext(),
        before,
        "plaintext at the open router without the rule"
    );
    near.host
        .run("ip rule add priority 2108 lookup 51830 protocol 151");
}

/// A source of the other location that comes from the LAN.
fn spoofed(network: &Network) {
    let (near, router) = (network.node("a2"), &network.world.router);
    router.run(&format!(
        "ip addr add 10.244.4.9/32 dev lo; ip route add 10.244.2.0/24 via {}",
        near.lan(Family::V4)
    ));
    let filter = |value: u8| {
        format!("sysctl -qw net.ipv4.conf.all.rp_filter={value} net.ipv4.conf.eth0.rp_filter={value}")
    };
    near.host.run(&filter(0));
    network.forget(Pod("a2"));
    let target = near.pod_address(Family::V4).to_string();
    assert!(
        !ping(router, &["-W", "0.5", "-I", "10.244.4.9", &target]),
        "a spoofed source is answered"
    );
    assert_eq!(network.seen(Pod("a2")), [].into(), "a spoofed source arrives");
    near.host.run(&filter(1));
    near.host.run("ip addr del 172.31.0.1/32 dev lo");
}

/// In the mesh once more, and then the tunnel's process ends.
fn without_the_tunnel(network: &Network, machines: &mut Machines) {
    for stage in [TUNNELS, ESTABLISHED, SETTLED] {
        machines.bring(network, Some(&stage));
    }
    let before = network.plaintext();
    machines.delete_device(network.node("a1"));
    for family in FAMILIES {
        for (from, to) in [(Host("a2"), Host("b2")), (Pod("a1"), Pod("b2"))] {
            let target = network.address(to, family);
            let output = network.at(from).try_run(&format!("ping -c 1 -W 2 {target}"));
            let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
            assert!(!output.status.success(), "without the tunnel {target} answers");
            let reported = text.matches("unreachable").count();
            assert_eq!(
                reported, 1,
                "{from:?} learns that {target} is unreachable: {text}"
            );
        }
    }
    assert_eq!(
        network.plaintext(),
        before,
        "plaintext at the open router without the tunnel"
    );
    let api = network.address(Host("b1"), Family::V4);
    for from in [Host("a2"), Pod("a2")] {
        let what = format!("the API server past the mesh, from {from:?}");
        stream(&what, network.at(from), &format!("-c {api} -p 6443 -n 100K"));
    }
}
