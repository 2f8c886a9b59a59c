//! One device, several threads: every peer is served, by whatever thread a packet comes in.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{
    traffic::{Until, transfer},
    world::{Engine, Side, World, unique, wait_for},
};

const THREADS: u8 = 3;
/// One more than threads: two peers share one.
const PEERS: u8 = 4;

/// A device with three threads, and its peers: one across the wire and others beside that one, whose interfaces are in
/// network namespaces of their own.
struct Crowd {
    world: World,
    others: Vec<Side>,
}

impl Crowd {
    fn new() -> Self {
        let world = World::joined(Engine::Threads(THREADS), Engine::Plain, false);
        world.a.hurry();
        assert!(world.a.pings(world.b.inner[0], 1));
        let others = (3..2 + PEERS).map(|number| beside(&world, number)).collect();
        Self { world, others }
    }

    fn peers(&self) -> impl Iterator<Item = &Side> {
        [&self.world.b].into_iter().chain(&self.others)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for side in &mut self.others {
            side.crash();
            let _ = fs::remove_file(side.socket());
        }
    }
}

/// Makes a device whose sockets are on the far side of the wire.
fn beside(world: &World, number: u8) -> Side {
    let mut side = Side::prepare(&unique(), Engine::Threads(1), number);
    let inside = std::mem::replace(&mut side.namespace, world.b.namespace.clone());
    side.outer = world.b.outer;
    side.start();
    let port = (51820 + u16::from(number)).to_string();
    side.wg_with_stdin(
        &["listen-port", &port, "private-key", "/dev/stdin"],
        &side.private,
    );
    let pid = inside.pid().to_string();
    side.run(&["ip", "link", "set", &side.device, "netns", &pid]);
    side.namespace = inside;
    for address in side.inner {
        side.add_address(&side.device, address);
    }
    side.run(&["ip", "link", "set", &side.device, "up"]);
    side.know(&world.a, Some(world.a.outer[usize::from(number % 2)]));
    world.a.know(&side, None);
    // It takes a moment to see its interface again. It has to speak first, for only it knows where the other is.
    wait_for("the tunnel of a peer", || side.reaches(world.a.inner[0]));
    side
}

/// Nanoseconds that each thread of a process was on a core, by name.
fn work(side: &Side) -> Vec<(String, u64)> {
    let pid = side.process.as_ref().unwrap().id();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut work: Vec<_> = tasks
        .map(|task| {
            let read = |file| fs::read_to_string(task.as_ref().unwrap().path().join(file)).unwrap();
            let on = read("schedstat").split(' ').next().unwrap().parse().unwrap();
            (read("comm").trim().to_owned(), on)
        })
        .collect();
    work.sort();
    work
}

#[test]
fn every_peer_is_reached_both_ways_and_every_thread_works() {
    let crowd = Crowd::new();
    let a = &crowd.world.a;
    for peer in crowd.peers() {
        assert!(
            peer.pings(a.inner[0], 3) && a.pings(peer.inner[1], 3),
            "{}",
            peer.device
        );
    }
    let before = work(a);
    let names: Vec<_> = before.iter().map(|(name, _)| name.as_str()).collect();
    assert!(
        names.contains(&"shard 1") && names.contains(&"shard 2"),
        "{names:?}"
    );
    thread::scope(|scope| {
        for peer in crowd.peers() {
            scope.spawn(|| transfer(a, peer, peer.inner[1], 10));
        }
    });
    for peer in crowd.peers() {
        transfer(peer, a, a.inner[0], 10);
    }
    for ((name, before), (_, after)) in before.into_iter().zip(work(a)) {
        // Ten megabytes cost more than ten milliseconds.
        assert!(
            after - before > 10_000_000,
            "{name} did {} ns of work",
            after - before
        );
    }
}

#[test]
fn datagrams_of_one_direction_arrive_whatever_queue_the_kernel_gives_them() {
    // All of them fit into the receiver's buffer.
    const FLOWS: u16 = 32;
    const EACH: u16 = 6;
    let crowd = Crowd::new();
    let a = &crowd.world.a;
    for peer in crowd.peers() {
        assert!(peer.pings(a.inner[0], 1));
        let address = SocketAddr::new(peer.inner[0], 9000);
        let receiver = peer.namespace.inside(move || UdpSocket::bind(address).unwrap());
        receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        a.namespace.inside(move || {
            let flows: Vec<_> = (0..FLOWS)
                .map(|_| UdpSocket::bind(SocketAddr::new(unspecified(address.ip()), 0)).unwrap())
                .collect();
            for number in 0..EACH {
                for flow in &flows {
                    flow.send_to(&number.to_be_bytes(), address).unwrap();
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let mut seen = std::collections::BTreeMap::<SocketAddr, Vec<u16>>::new();
        for count in 0..FLOWS * EACH {
            let mut number = [0; 2];
            let arrived = receiver.recv_from(&mut number);
            let (_, from) =
                arrived.unwrap_or_else(|error| panic!("{count} of {} arrived: {error}", FLOWS * EACH));
            seen.entry(from).or_default().push(u16::from_be_bytes(number));
        }
        assert_eq!(seen.len(), usize::from(FLOWS));
        assert!(seen.values().all(|numbers| numbers.is_sorted()), "{seen:?}");
    }
}

/// How often the kernel of a side heard that a host is not reached.
fn unreachable_hosts(side: &Side) -> u64 {
    let read = || fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let text = side.namespace.inside(read);
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp: "));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = names.split(' ').zip(numbers.split(' '));
    let (_, number) = fields.find(|(name, _)| *name == "InDestUnreachs").unwrap();
    number.parse().unwrap()
}

/// A packet that one thread has handed to another, which has lost the prefix to a third meanwhile.
#[test]
fn a_prefix_that_moves_to_a_peer_of_another_thread_belongs_to_one_of_them_all_the_while() {
    let crowd = Crowd::new();
    let a = &crowd.world.a;
    a.run(&["ip", "route", "add", "10.99.0.1", "dev", &a.device]);
    let give = |peer: &Side| {
        let [v4, v6] = peer.inner;
        let prefixes = format!("{v4}/32,{v6}/128,10.99.0.1/32");
        a.wg(&["peer", &peer.public, "allowed-ips", &prefixes]);
    };
    let everywhere = "10.99.0.1".parse().unwrap();
    let take = |peer: &Side| {
        peer.add_address(&peer.device, everywhere);
        // A receive buffer that is full drops datagrams without an ICMP error.
        peer.namespace
            .inside(move || UdpSocket::bind((everywhere, 9)).unwrap())
    };
    let _bound: Vec<_> = crowd.peers().map(take).collect();
    give(&crowd.world.b);
    let (done, before) = (AtomicBool::new(false), unreachable_hosts(a));
    thread::scope(|scope| {
        let until = Until(&done);
        scope.spawn(|| {
            let flows: Vec<_> = (0..16)
                .map(|_| a.namespace.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap()))
                .collect();
            while !done.load(Ordering::Relaxed) {
                for flow in &flows {
                    // A full queue is no loss here.
                    let _ = flow.send_to(&[0], "10.99.0.1:9");
                }
                thread::sleep(Duration::from_micros(100));
            }
        });
        for _ in 0..100 {
            crowd.peers().for_each(give);
        }
        drop(until);
    });
    assert_eq!(unreachable_hosts(a) - before, 0);
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
