//! Servers on every host and in every pod of two locations, and the services by which they are asked, as kube-proxy makes
//! them: cluster IPs, node ports on every node, node ports that only the server's own node serves. Each is asked by UDP and
//! TCP; each listens once on a wildcard socket and once on one that is bound to its address.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{Family, NODES, Namespace, World, lan, pod, world::pods as pods_of};

/// Long beside what an answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(2);
/// Where a server listens that leaves its address to the kernel.
const WILDCARD: u16 = 28081;
/// Where one listens that is bound to the address of its node or pod.
const BOUND: u16 = 28082;

/// A node, its pod, or the router of both LANs, which is no part of the mesh and runs no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Host(&'static str),
    Pod(&'static str),
    Outside,
}

fn at(world: &World, place: Place) -> &Namespace {
    match place {
        Place::Host(name) => &world.node(name).host,
        Place::Pod(name) => &world.node(name).pod,
        Place::Outside => &world.router,
    }
}

/// Every host and every pod.
fn places() -> impl Iterator<Item = (Place, u8)> {
    let both = |(_, name, number)| [(Place::Host(name), number), (Place::Pod(name), number)];
    NODES.into_iter().flat_map(both)
}

fn serving(place: Place, number: u8, family: Family) -> IpAddr {
    match place {
        Place::Host(_) => lan(number, family),
        Place::Pod(_) => pod(number, family),
        Place::Outside => unreachable!("no server is there"),
    }
}

/// The digit by which the services of nodes and of pods are known.
fn kind(server: Place) -> &'static str {
    match server {
        Place::Host(_) => "1",
        Place::Pod(_) => "2",
        Place::Outside => unreachable!("no server is there"),
    }
}

fn service(kind: &str, number: u8, family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => format!("10.96.{kind}.{number}"),
        Family::V6 => format!("fd00:96::{kind}:{number}"),
    };
    text.parse().expect("addresses are made here")
}

/// The node port, the same on every node, of a server on `number`; with `externalTrafficPolicy: Local` where that is the
/// node asked.
fn node_port(kind: &str, number: u8, port: u16) -> u16 {
    let digit = port - WILDCARD;
    let text = format!("31{kind}{number}{digit}");
    text.parse().expect("numbers have one digit")
}

/// What kube-proxy does on a node for all these services, and flannel for its pods.
fn kube_proxy(of: u8, family: Family) -> String {
    let (ip, pods) = match family {
        Family::V4 => ("ip", "10.244.0.0/16"),
        Family::V6 => ("ip6", "fd00:244::/32"),
    };
    let mark = "meta mark set mark or 0x4000";
    let mut rules = String::new();
    for (server, number) in places() {
        let (kind, backend) = (kind(server), serving(server, number, family));
        let service = service(kind, number, family);
        rules += &format!(
            "{ip} daddr {service} {ip} saddr != {pods} {mark}\n{ip} daddr {service} dnat {ip} to {backend}\n"
        );
        for port in [WILDCARD, BOUND] {
            let asked = node_port(kind, number, port);
            let to = SocketAddr::new(backend, port);
            let asked = format!("fib daddr type local meta l4proto {{ tcp, udp }} th dport {asked}");
            rules += &format!("{asked} {mark}\n{asked} dnat {ip} to {to}\n");
        }
    }
    for port in [WILDCARD, BOUND] {
        let (asked, to) = (node_port("3", of, port), SocketAddr::new(lan(of, family), port));
        rules +=
            &format!("fib daddr type local meta l4proto {{ tcp, udp }} th dport {asked} dnat {ip} to {to}\n");
    }
    format!(
        "table inet probe-services {{}}\ndelete table inet probe-services\ntable inet probe-services {{
           chain services {{ {rules} }}
           chain prerouting {{ type nat hook prerouting priority dstnat; meta nfproto {family} jump services; }}
           chain output {{ type nat hook output priority -100; meta nfproto {family} jump services; }}
           chain postrouting {{
             type nat hook postrouting priority srcnat
             meta mark & 0x4000 == 0 return
             meta mark set mark xor 0x4000
             masquerade fully-random
           }}
           chain flannel {{
             type nat hook postrouting priority srcnat
             {ip} saddr {pods} {ip} daddr {pods} return
             {ip} saddr {pods} masquerade fully-random
             {ip} daddr {own} return
             {ip} saddr != {pods} {ip} daddr {pods} masquerade fully-random
           }}
         }}",
        own = {
            let (network, length) = pods_of(of, family);
            format!("{network}/{length}")
        },
        family = match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        },
    )
}

/// Servers that say where they are, until this goes.
struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    fn start(world: &World, family: Family) -> Self {
        let mut servers = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for (place, number) in places() {
            let own = serving(place, number, family);
            let any: IpAddr = match family {
                Family::V4 => [0; 4].into(),
                Family::V6 => [0; 16].into(),
            };
            for address in [SocketAddr::new(any, WILDCARD), SocketAddr::new(own, BOUND)] {
                let sockets = move || {
                    (
                        UdpSocket::bind(address).expect("nothing else listens there"),
                        TcpListener::bind(address).expect("nothing else listens there"),
                    )
                };
                let (udp, tcp) = at(world, place).inside(sockets);
                let name = format!("{place:?}");
                let (stop, udp_name) = (Arc::clone(&servers.stop), name.clone());
                servers
                    .threads
                    .push(thread::spawn(move || answer(&udp, &udp_name, &stop)));
                let stop = Arc::clone(&servers.stop);
                servers
                    .threads
                    .push(thread::spawn(move || accept(&tcp, &name, &stop)));
            }
        }
        servers
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What it panicked of has been printed.
            let _ended = thread.join();
        }
    }
}

fn answer(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let limited = socket.set_read_timeout(Some(Duration::from_millis(100)));
    limited.expect("a socket has a time limit");
    let mut buffer = [0; 16];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, client)) = socket.recv_from(&mut buffer) {
            // The client judges.
            let _sent = socket.send_to(name.as_bytes(), client);
        }
    }
}

fn accept(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    listener.set_nonblocking(true).expect("a socket need not wait");
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut client, _)) => {
                let _sent = client.write_all(name.as_bytes());
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

type Ask = fn(SocketAddr) -> std::io::Result<String>;

/// Asks by UDP; returns who answers. The second datagram is no new connection, which NAT rules no longer see.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let any: IpAddr = if address.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(address)?;
    let mut answer = String::new();
    for _ in 0..2 {
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    }
    Ok(answer)
}

/// The same by TCP.
fn connect(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A server as it is asked: what it is called, its address, and who is to answer.
struct Question {
    what: String,
    to: SocketAddr,
    server: Place,
    /// By UDP too.
    datagrams: bool,
}

/// Every server as it is asked from one place.
///
/// From outside those are the node ports alone.
/// A pod does not ask a wildcard UDP socket of its own node for what goes on no other: with or without Spanwire that answers
/// from the bridge's address.
fn questions(from: Place, family: Family) -> Vec<Question> {
    let mut questions = Vec::new();
    for ((server, number), port) in places().flat_map(|server| [(server, WILDCARD), (server, BOUND)]) {
        let (kind, direct) = (kind(server), serving(server, number, family));
        let beside = matches!((from, server), (Place::Pod(pod), Place::Host(host)) if pod == host);
        let mut add = |way: &str, to: SocketAddr, elsewhere: bool| {
            questions.push(Question {
                what: format!("{way} {server:?} at {to}"),
                to,
                server,
                datagrams: elsewhere || port == BOUND || !beside,
            });
        };
        if from != Place::Outside {
            add("the address of", SocketAddr::new(direct, port), false);
        }
        // A pod that is its own service's only server needs a CNI that lets it ask itself.
        if from != server && from != Place::Outside {
            let service = SocketAddr::new(service(kind, number, family), port);
            add("the service of", service, false);
        }
        for (_, node, entry) in NODES {
            let at = SocketAddr::new(lan(entry, family), node_port(kind, number, port));
            let elsewhere = !matches!(from, Place::Pod(pod) if pod == node);
            add(&format!("the node port on {node} of"), at, elsewhere);
        }
        if matches!(server, Place::Host(_)) {
            let at = SocketAddr::new(direct, node_port("3", number, port));
            add("the local node port of", at, false);
        }
    }
    questions
}

/// Asks every server from every host, every pod and from outside, whichever way it can be asked.
///
/// # Panics
/// One does not answer, or another one does.
pub fn all_answer(world: &World, family: Family) {
    for node in &world.nodes {
        node.host.nft(&kube_proxy(node.number, family));
    }
    let _servers = Servers::start(world, family);
    let from = places().map(|(from, _)| from).chain([Place::Outside]);
    let clients = from.map(|from| {
        let namespace = at(world, from).clone();
        thread::spawn(move || {
            namespace.inside(move || {
                let mut lost = Vec::new();
                let questions = questions(from, family);
                let count = questions.len();
                for Question {
                    what,
                    to,
                    server,
                    datagrams,
                } in questions
                {
                    let server = format!("{server:?}");
                    for (protocol, ask) in [("TCP", connect as Ask), ("UDP", ask)] {
                        let answer = (datagrams || protocol == "TCP").then(|| ask(to));
                        if let Some(answer) = answer.filter(|answer| answer.as_ref().ok() != Some(&server)) {
                            lost.push(format!("{from:?} to {what}, {protocol}: {answer:?}"));
                        }
                    }
                }
                (count, lost)
            })
        })
    });
    let clients: Vec<_> = clients.collect();
    let (mut asked, mut lost) = (0, Vec::new());
    for client in clients {
        let (count, of_it) = client.join().expect("clients report what fails");
        asked += 2 * count;
        lost.extend(of_it);
    }
    assert!(
        lost.is_empty(),
        "{family:?}: {} of {asked}:\n{}",
        lost.len(),
        lost.join("\n")
    );
    assert!(asked > 1000, "{asked} questions");
    eprintln!("{family:?}: {asked} questions answered");
    for node in &world.nodes {
        node.host.run("nft delete table inet probe-services");
    }
}
