//! Another process takes over a running device.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, UdpSocket},
    os::unix::net::UnixStream,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use boringtun::noise::{Tunn, TunnResult};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spanwire_tunnel::key::{PrivateKey, PublicKey};

use crate::{
    conformance::{ask, hex},
    traffic::{Until, transfer},
    world::{Engine, OURS, Side, World, ends, other, terminate, wait_for},
};

/// Starts a process for the same device, which writes to the same log.
pub(crate) fn spawn(side: &Side, options: &[&str]) -> Child {
    let log = || fs::OpenOptions::new().append(true).open(side.log.path()).unwrap();
    let threads: &[&str] = if options.contains(&"--threads") {
        &[]
    } else {
        &["--threads", "2"]
    };
    side.command(&[&[OURS, "-f"], threads, options, &[&side.device]].concat())
        .stdout(log())
        .stderr(log())
        .spawn()
}

/// Starts a process that takes over, and waits until the one before has ended well.
pub(crate) fn upgrade(side: &mut Side, options: &[&str]) {
    let next = spawn(side, &[&["--take-over"], options].concat());
    let mut before = side.process.replace(next).expect("one is running");
    assert!(ends(&mut before), "the old process ends badly");
}

pub(crate) fn has_link(side: &Side) -> bool {
    side.try_run(&["ip", "link", "show", "dev", &side.device])
        .status
        .success()
}

/// Gives the interface an address and routes beyond the usual.
pub(crate) fn decorate(side: &Side) {
    side.run(&["ip", "address", "add", "10.78.0.1/32", "dev", &side.device]);
    side.run(&["ip", "route", "add", "10.99.0.0/16", "dev", &side.device]);
    side.run(&["ip", "-6", "route", "add", "fd99::/64", "dev", &side.device]);
}

/// Returns everything about the interface that an upgrade must not change.
pub(crate) fn link_facts(side: &Side) -> Vec<String> {
    let name = &side.device;
    let index = side.run(&["ip", "-o", "link", "show", "dev", name]);
    let [index, _] = index.splitn(2, ':').collect::<Vec<_>>()[..] else {
        panic!("{index}");
    };
    let mut facts = vec![index.to_owned()];
    for command in [
        &["ip", "-o", "address", "show", "dev", name][..],
        &["ip", "route", "show", "table", "all", "dev", name],
        &["ip", "-6", "route", "show", "table", "all", "dev", name],
    ] {
        let said = side.run(command).replace(" linkdown", "");
        facts.push(said.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    facts
}

/// Returns the configuration by `wg`: all but when the last handshake was and what was counted.
fn wg_facts(side: &Side) -> Vec<String> {
    let dump = side.run(&["wg", "show", &side.device, "dump"]);
    dump.lines()
        .map(|line| {
            let words: Vec<_> = line.split('\t').collect();
            let counted = if words.len() == 8 { 4..7 } else { 0..0 };
            let kept = words.iter().enumerate().filter(|(at, _)| !counted.contains(at));
            kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

/// Returns the kernel's numbers of the sockets on the port: of each family one for each of two threads.
fn sockets(side: &Side) -> BTreeSet<String> {
    let all = side.run(&["ss", "-H", "-ulne", "sport", "=", ":51820"]);
    let numbers = all.split_whitespace().filter(|word| word.starts_with("ino:"));
    let numbers: BTreeSet<_> = numbers.map(str::to_owned).collect();
    assert_eq!(numbers.len(), 4, "{all}");
    numbers
}

/// Those of the first thread are the same before and after, those of the other are recreated.
fn assert_handed(before: &BTreeSet<String>, after: &BTreeSet<String>) {
    assert_eq!(before.intersection(after).count(), 2, "{before:?} {after:?}");
}

/// Returns how often this side's kernel has said by ICMP that a port is closed.
fn refusals(side: &Side) -> Vec<String> {
    let v4 = side.run(&["cat", "/proc/net/snmp"]);
    let v6 = side.run(&["cat", "/proc/net/snmp6"]);
    let lines: Vec<_> = v4.lines().filter(|line| line.starts_with("Icmp:")).collect();
    let place = lines[0].split(' ').position(|word| word == "OutDestUnreachs");
    let v4 = lines[1].split(' ').nth(place.unwrap()).unwrap().to_owned();
    let v6 = v6.lines().find(|line| line.starts_with("Icmp6OutDestUnreachs"));
    vec![v4, v6.unwrap().to_owned()]
}

pub(crate) fn joined(a: Engine, b: Engine) -> World {
    let world = World::joined(a, b, false);
    assert!(world.a.pings(world.b.inner[0], 3));
    world
}

#[test]
fn an_upgrade_changes_nothing_that_was_configured() {
    let mut world = joined(Engine::Ours, other());
    let World { a, b } = &mut world;
    decorate(a);
    a.run(&["ip", "link", "set", &a.device, "mtu", "1400"]);
    a.wg(&[
        "fwmark",
        "0x1234",
        "peer",
        &b.public,
        "persistent-keepalive",
        "17",
    ]);
    let stranger = crate::world::run(&["wg", "genkey"]);
    let stranger = crate::world::pipe(&["wg", "pubkey"], &stranger);
    a.wg_with_stdin(
        &[
            "peer",
            stranger.trim(),
            "allowed-ips",
            "10.1.0.0/16,fd01::/64",
            "preshared-key",
            "/dev/stdin",
        ],
        &crate::world::run(&["wg", "genpsk"]),
    );
    let group = format!("set=1\npublic_key={}\ngroup=paris\n\n", hex(&b.public));
    assert_eq!(ask(a, &group), "errno=0\n\n");
    let before = (link_facts(a), wg_facts(a), refusals(a));
    let open = sockets(a);
    let received = |side: &Side| {
        let transfer = side.run(&["wg", "show", &side.device, "transfer"]);
        let line = transfer.lines().find_map(|line| line.strip_prefix(&b.public));
        let bytes = line.and_then(|line| line.split_whitespace().next());
        bytes.unwrap().parse::<u64>().unwrap()
    };
    let before_it = received(a);
    upgrade(a, &[]);
    assert!(
        received(a) >= before_it && before_it > 0,
        "the counters start over"
    );
    assert!(a.pings(b.inner[0], 3) && b.pings(a.inner[1], 3));
    assert_eq!((link_facts(a), wg_facts(a), refusals(a)), before);
    assert_handed(&open, &sockets(a));
    let mtu = a.run(&["ip", "link", "show", "dev", &a.device]);
    assert!(mtu.contains("mtu 1400"), "{mtu}");
    assert!(ask(a, "get=1\n\n").contains("\ngroup=paris\n"));
}

#[test]
fn a_peer_at_rest_hears_of_an_upgrade_at_once() {
    let mut world = joined(Engine::Ours, Engine::Ours);
    let World { a, b } = &mut world;
    // It would notice by itself after some time, and begin.
    let peer = Pid::from_raw(b.process.as_ref().unwrap().id().try_into().unwrap());
    kill(peer, Signal::SIGSTOP).unwrap();
    let sent = |side: &Side| side.peer_dump()[6].parse::<u64>().unwrap();
    let before = sent(a);
    upgrade(a, &[]);
    wait_for("a handshake initiation", || sent(a) >= before + 148);
    kill(peer, Signal::SIGCONT).unwrap();
    assert!(b.pings(a.inner[0], 3));
}

/// Returns when the newest session was confirmed, to the nanosecond.
pub(crate) fn handshake(side: &Side) -> u64 {
    let mut uapi = UnixStream::connect(side.socket()).unwrap();
    uapi.write_all(b"get=1\n\n").unwrap();
    let lines = BufReader::new(uapi).lines().map(Result::unwrap);
    let lines: Vec<_> = lines.take_while(|line| line != "errno=0").collect();
    let value = |key: &str| -> u64 {
        let value = lines.iter().find_map(|line| line.strip_prefix(key));
        value.unwrap().parse().unwrap()
    };
    value("last_handshake_time_sec=") * 1_000_000_000 + value("last_handshake_time_nsec=")
}

#[test]
fn streams_survive_upgrades_and_no_byte_of_them_changes() {
    let mut world = joined(Engine::Ours, other());
    let World { a, b } = &mut world;
    let (facts, open) = ((link_facts(a), refusals(a)), sockets(a));
    let done = &AtomicBool::new(false);
    thread::scope(|scope| {
        // Both directions: what waits in the interface, and what waits in the sockets.
        for (from, to) in [(view(a), view(b)), (view(b), view(a))] {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    transfer(&from, &to, to.inner[0], 20);
                }
            });
        }
        let _until = Until(done);
        wait_for("the streams to flow", || a.received() > 5_000_000);
        for _ in 0..3 {
            upgrade(a, &[]);
            let before = a.received();
            wait_for("the streams to go on", || a.received() > before + 5_000_000);
        }
    });
    assert_eq!((link_facts(a), refusals(a)), facts);
    assert_handed(&open, &sockets(a));
}

/// Returns what a thread needs of a side.
fn view(side: &Side) -> Side {
    Side {
        namespace: side.namespace.clone(),
        device: side.device.clone(),
        engine: side.engine,
        private: side.private.clone(),
        public: side.public.clone(),
        outer: side.outer,
        inner: side.inner,
        by_second_thread: false,
        process: None,
        log: tempfile::NamedTempFile::new().unwrap(),
    }
}

#[test]
fn pings_miss_a_handshake_and_no_more() {
    let mut world = joined(Engine::Ours, other());
    let World { a, b } = &mut world;
    let before = handshake(a);
    let to = b.inner[0].to_string();
    let pinging = a
        .command(&["ping", "-q", "-c", "100", "-i", "0.02", "-W", "5", &to])
        .stdout(Stdio::piped())
        .spawn();
    let start = b.received();
    wait_for("pings to flow", || b.received() > start + 1000);
    upgrade(a, &[]);
    let said = String::from_utf8(pinging.wait_with_output().unwrap().stdout).unwrap();
    let received = said
        .split(", ")
        .find_map(|part| part.strip_suffix(" received"))
        .unwrap();
    assert!(received.parse::<u32>().unwrap() >= 50, "{said}");
    assert!(handshake(a) > before, "the old session cannot have moved");
}

#[test]
fn an_upgrade_may_change_the_offloads() {
    let mut world = joined(Engine::Ours, Engine::Ours);
    let World { a, b } = &mut world;
    for options in [&["--no-offload"][..], &[], &["--no-offload"]] {
        upgrade(a, options);
        transfer(a, b, b.inner[0], 5);
        transfer(b, a, a.inner[1], 5);
    }
    a.crash();
    a.engine = Engine::Plain;
    a.start();
    a.dress();
    a.know(b, Some(b.outer[0]));
    upgrade(a, &[]);
    transfer(a, b, b.inner[0], 5);
    transfer(b, a, a.inner[1], 5);
}

#[test]
fn a_device_that_is_down_can_be_taken_over() {
    let mut world = joined(Engine::Ours, Engine::Ours);
    let World { a, b } = &mut world;
    a.run(&["ip", "link", "set", &a.device, "down"]);
    let open = |side: &Side| side.run(&["ss", "-uln"]).contains(":51820");
    wait_for("the port to close", || !open(a));
    let facts = wg_facts(a);
    upgrade(a, &[]);
    assert_eq!(wg_facts(a), facts);
    assert!(!open(a));
    a.run(&["ip", "link", "set", &a.device, "up"]);
    wait_for("the port to open", || open(a));
    assert!(a.pings(b.inner[0], 3));
}

#[test]
fn without_a_process_to_take_over_from_it_starts_as_usual() {
    let mut world = joined(Engine::Ours, Engine::Ours);
    let World { a, b } = &mut world;
    // A crash leaves a dead socket; an end leaves nothing.
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        terminate(a.process.as_mut().unwrap(), signal);
        assert_eq!(a.socket().exists(), signal == Signal::SIGKILL);
        a.process = Some(spawn(a, &["--take-over"]));
        wait_for("the device", || {
            a.try_run(&["wg", "show", &a.device]).status.success()
        });
        a.dress();
        a.know(b, Some(b.outer[0]));
        assert!(a.pings(b.inner[0], 3));
    }
}

/// A peer that only begins handshakes.
struct Caller {
    tunn: Tunn,
    from: [UdpSocket; 3],
    to: SocketAddr,
}

impl Caller {
    /// Makes one beside `b` that `a` knows.
    fn new(a: &Side, b: &Side) -> Self {
        let private = PrivateKey::from([7; 32]);
        let public = STANDARD.encode(private.public().0);
        a.wg(&["peer", &public, "allowed-ips", "10.9.0.1/32"]);
        let key: [u8; 32] = STANDARD.decode(&a.public).unwrap().try_into().unwrap();
        let local = SocketAddr::new(b.outer[0], 0);
        let from = [(); 3].map(|()| {
            let socket = b.namespace.inside(move || UdpSocket::bind(local).unwrap());
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket
        });
        Self {
            tunn: Tunn::new(
                private.to_x25519(),
                PublicKey(key).to_x25519(),
                None,
                None,
                7,
                None,
            ),
            from,
            to: SocketAddr::new(a.outer[0], 51820),
        }
    }

    fn initiation(&mut self) -> Vec<u8> {
        let mut buffer = [0; 148];
        let TunnResult::WriteToNetwork(datagram) = self.tunn.format_handshake_initiation(&mut buffer, true)
        else {
            panic!("it is forced");
        };
        datagram.to_vec()
    }

    fn send(&self, from: usize, datagram: &[u8]) {
        self.from[from].send_to(datagram, self.to).unwrap();
    }

    /// Waits for the response to an initiation.
    fn is_answered(&self, at: usize) {
        let mut buffer = [0; 2048];
        let mut received = || self.from[at].recv(&mut buffer).map(|_| buffer[0]).unwrap();
        while received() != 2 {}
    }
}

#[test]
fn a_recorded_initiation_is_refused_after_upgrades() {
    let mut world = World::new(Engine::Ours, Engine::Ours);
    let World { a, b } = &mut world;
    let mut caller = Caller::new(a, b);
    let recorded = caller.initiation();
    caller.send(0, &recorded);
    caller.is_answered(0);
    for _ in 0..2 {
        upgrade(a, &[]);
    }
    caller.send(1, &recorded);
    // The real one is heard behind it.
    let next = caller.initiation();
    caller.send(2, &next);
    caller.is_answered(2);
    caller.from[1].set_nonblocking(true).unwrap();
    let answer = caller.from[1].recv(&mut [0; 2048]);
    assert!(answer.is_err(), "the recorded one is answered: {answer:?}");
    assert_eq!(a.endpoint(), caller.from[2].local_addr().unwrap().to_string());
}

#[test]
fn one_that_lingers_ends_on_a_signal_and_takes_nothing_along() {
    let mut world = joined(Engine::Ours, Engine::Ours);
    let World { a, b } = &mut world;
    upgrade(a, &["--linger"]);
    let next = spawn(a, &["--take-over"]);
    let mut lingering = a.process.replace(next).unwrap();
    let taken = || {
        fs::read_to_string(a.log.path())
            .unwrap()
            .matches("another process has taken over")
            .count()
    };
    wait_for("the device to be handed over twice", || taken() == 2);
    assert!(a.pings(b.inner[0], 3));
    assert!(lingering.try_wait().unwrap().is_none(), "it ends by itself");
    assert!(terminate(&mut lingering, Signal::SIGTERM));
    assert!(has_link(a) && a.socket().exists() && a.pings(b.inner[0], 3));
}
