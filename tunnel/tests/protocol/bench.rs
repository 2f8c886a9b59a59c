//! A device on a workbench: what it sends and delivers is kept, what it is given comes from the test.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use spanwire_tunnel::{
    clock::Moment,
    device::{Device, PADDING, Wire},
    ecn,
    key::{PrivateKey, PublicKey},
    noise::SCRATCH,
    path::Path,
    peer::Peer,
    uapi::{Ports, Reply, Session},
};

use crate::sim;

/// What a device let out.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) sent: Vec<(SocketAddr, Vec<u8>)>,
    pub(crate) delivered: Vec<Vec<u8>>,
    pub(crate) port: u16,
    pub(crate) mark: u32,
    /// The traffic class of what was sent last.
    pub(crate) tos: u8,
    /// Where it was sent from.
    pub(crate) local: Option<IpAddr>,
    /// An address that is not this machine's.
    pub(crate) foreign: Option<IpAddr>,
    /// What all routes say.
    pub(crate) route_mtu: Option<usize>,
    room: Vec<u8>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            sent: Vec::new(),
            delivered: Vec::new(),
            port: 0,
            mark: 0,
            tos: 0,
            local: None,
            foreign: None,
            route_mtu: None,
            room: vec![0; SCRATCH],
        }
    }
}

impl Wire for Kept {
    fn room(&mut self) -> &mut [u8] {
        &mut self.room
    }

    fn commit(&mut self, to: Path, tos: u8, length: usize) {
        self.tos = tos;
        self.local = to.local;
        self.sent.push((to.remote, self.room[..length].to_vec()));
    }

    fn deliver(&mut self, packet: &[u8]) {
        self.delivered.push(packet.to_vec());
    }

    fn is_own(&mut self, address: IpAddr) -> bool {
        self.foreign != Some(address)
    }

    fn route_mtu(&mut self, _: Instant, _: IpAddr) -> Option<usize> {
        self.route_mtu
    }
}

impl Ports for Kept {
    fn listen_port(&self) -> u16 {
        self.port
    }

    fn is_open(&self) -> bool {
        true
    }

    fn set_listen_port(&mut self, port: u16) -> io::Result<()> {
        self.port = port;
        Ok(())
    }

    fn fwmark(&self) -> u32 {
        self.mark
    }

    fn set_fwmark(&mut self, mark: u32) -> io::Result<()> {
        self.mark = mark;
        Ok(())
    }
}

/// A device with number `n` has the private key `[n; 32]`, lives at 192.0.2.n:51820 and owns 10.0.n.0/24.
pub(crate) struct Bench {
    pub(crate) device: Device,
    pub(crate) kept: Kept,
    pub(crate) at: SocketAddr,
    pub(crate) now: Instant,
    number: u8,
}

impl Bench {
    /// An eager one: it starts handshakes by itself.
    pub(crate) fn new(number: u8) -> Self {
        let mut bench = Self::quiet(number);
        bench.set(&["eager=true"]);
        bench
    }

    /// One that starts a handshake when there is a packet.
    pub(crate) fn quiet(number: u8) -> Self {
        let mut bench = Self {
            device: Device::new(1420),
            kept: Kept::default(),
            at: SocketAddr::new([192, 0, 2, number].into(), 51820),
            now: Instant::now(),
            number,
        };
        bench.set(&[&format!("private_key={}", format!("{number:02x}").repeat(32))]);
        bench
    }

    pub(crate) fn key(&self) -> PublicKey {
        PrivateKey::from([self.number; 32]).public()
    }

    /// Does a `set` that succeeds.
    pub(crate) fn set(&mut self, lines: &[&str]) {
        assert_eq!(self.try_set(lines), "errno=0\n\n", "{lines:?}");
    }

    pub(crate) fn try_set(&mut self, lines: &[&str]) -> String {
        let mut session = Session::default();
        for line in ["set=1"].iter().chain(lines).chain(&[""]) {
            let reply = session.handle_line(self.now, line, &mut [&mut self.device], &mut self.kept);
            if let Reply::Answer(answer) = reply {
                return answer;
            }
        }
        panic!("no answer to {lines:?}");
    }

    pub(crate) fn get(&mut self) -> String {
        let mut session = Session::default();
        session.handle_line(self.now, "get=1", &mut [&mut self.device], &mut self.kept);
        loop {
            match session.handle_line(self.now, "", &mut [&mut self.device], &mut self.kept) {
                Reply::Answer(answer) => return answer,
                Reply::Again => {}
                reply @ (Reply::More | Reply::Wait | Reply::HangUp | Reply::HandOver(_)) => {
                    panic!("{reply:?}")
                }
            }
        }
    }

    /// Makes another device a peer; with its endpoint if `reach`.
    pub(crate) fn know(&mut self, other: &Self, reach: bool) {
        let mut lines = vec![
            format!("public_key={}", other.key()),
            format!("allowed_ip=10.0.{}.0/24", other.number),
        ];
        if reach {
            lines.push(format!("endpoint={}", other.at));
        }
        self.set(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Takes an IP packet that leaves the interface.
    pub(crate) fn emit(&mut self, packet: &[u8]) {
        let mut buffer = packet.to_vec();
        buffer.resize(packet.len() + PADDING, 0xff);
        self.device
            .handle_packet(self.now, &mut buffer, packet.len(), &mut self.kept);
    }

    pub(crate) fn hear(&mut self, source: SocketAddr, datagram: &[u8]) {
        self.device.handle_datagram(
            self.now,
            source,
            ecn::NONE,
            &mut datagram.to_vec(),
            &mut self.kept,
        );
    }

    /// Takes a datagram that was sent to this address of the machine.
    pub(crate) fn hear_at(&mut self, local: IpAddr, remote: SocketAddr, datagram: &[u8]) {
        let local = Some(local);
        self.device.handle_datagram(
            self.now,
            Path {
                local,
                ..Path::from(remote)
            },
            ecn::NONE,
            &mut datagram.to_vec(),
            &mut self.kept,
        );
    }

    /// Time passes for this device, and for boringtun if the clock is frozen.
    pub(crate) fn wait(&mut self, time: Duration) {
        sim::pass(time);
        self.now += time;
        self.device.handle_timeout(self.now, &mut self.kept);
        self.catch_up();
    }

    /// Does what is due, of which there may be more than one step; returns how many more steps it were.
    pub(crate) fn catch_up(&mut self) -> usize {
        let mut steps = 0;
        while self.device.poll_timeout().is_some_and(|at| at <= self.now) {
            self.device.handle_timeout(self.now, &mut self.kept);
            steps += 1;
        }
        steps
    }

    /// Looks at the clocks, as a running device does once a second.
    pub(crate) fn look_at_clocks(&mut self) {
        self.device.handle_clock(self.now, Moment::now(), &mut self.kept);
    }

    /// Returns the only peer.
    pub(crate) fn peer(&self) -> &Peer {
        self.device.peers().next().expect("there is one").1
    }

    pub(crate) fn delivered(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.kept.delivered)
    }
}

/// Carries datagrams between two devices until both are silent.
pub(crate) fn converse(a: &mut Bench, b: &mut Bench) {
    while !a.kept.sent.is_empty() || !b.kept.sent.is_empty() {
        for (to, datagram) in std::mem::take(&mut a.kept.sent) {
            if to == b.at {
                b.hear(a.at, &datagram);
            }
        }
        for (to, datagram) in std::mem::take(&mut b.kept.sent) {
            if to == a.at {
                a.hear(b.at, &datagram);
            }
        }
    }
}

/// Two devices with a session between them.
pub(crate) fn pair() -> (Bench, Bench) {
    let (mut a, mut b) = (Bench::new(1), Bench::new(2));
    b.know(&a, false);
    a.know(&b, true);
    converse(&mut a, &mut b);
    (a, b)
}

/// Two devices of which the first has called the second, and what that answers, which has not arrived yet.
pub(crate) fn answered() -> (Bench, Bench, Vec<u8>) {
    let (mut a, mut b) = (Bench::new(1), Bench::quiet(2));
    b.know(&a, false);
    a.know(&b, true);
    let (_, call) = a.kept.sent.remove(0);
    b.hear(a.at, &call);
    let (_, answer) = b.kept.sent.remove(0);
    (a, b, answer)
}

/// Returns an IPv4 packet whose length is `20 + payload`.
pub(crate) fn packet(source: &str, destination: &str, payload: usize) -> Vec<u8> {
    let mut packet = vec![0x45; 20];
    // No fragment.
    packet[6..8].fill(0);
    packet[2..4].copy_from_slice(&u16::try_from(20 + payload).unwrap().to_be_bytes());
    for (at, address) in [(12, source), (16, destination)] {
        let IpAddr::V4(address) = address.parse().unwrap() else {
            panic!("IPv4 here")
        };
        packet[at..at + 4].copy_from_slice(&address.octets());
    }
    packet.extend((0..payload).map(|at| at as u8));
    packet
}
