//! A WireGuard device without sockets, files or threads: packets and datagrams in, packets and datagrams out.
//!
//! The flow of a packet, in the order of the functions here:
//!
//! 1. [`Device::handle_packet`]: an IP packet left the tunnel interface. Its destination names the peer (`allowed_ips`),
//!    it is padded to 16 bytes, encrypted ([`crate::noise`]) and sent to the peer's endpoint, or kept while a handshake runs.
//! 2. [`Device::handle_datagram`]: a datagram came from the network. [`Admission`] finds the peer, `noise` decrypts, the
//!    sender's address becomes the endpoint, and a packet whose source belongs to that peer, or to another of its group,
//!    goes to the interface.
//! 3. [`Device::handle_timeout`]: handshakes, keepalives and rekeying that time made due.
//!
//! A device may be split into several, one for each thread that carries packets ([`ShardIndex`]).
//!
//! What the outside gets is handed to a [`Wire`], so that a batching data path can collect instead of sending.
//! Configuration is in `device/configure.rs`.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use boringtun::noise::Tunn;

use crate::{
    admission::{self, Admission, Verdict},
    allowed_ips::AllowedIps,
    clock::Moment,
    device::{
        drops::{Answers, Udp},
        remains::Remains,
        schedule::Schedule,
        sending::{counted, sticking},
        sharding::Ids,
    },
    ecn,
    group::{Group, Groups},
    id::{Addressee, PeerId},
    index::Indices,
    key::{PrivateKey, PublicKey},
    noise::{Intake, Noise, Received, SCRATCH},
    path::Path,
    peer::{Peer, Wants},
};

mod configure;
mod drops;
mod events;
mod remains;
mod schedule;
mod sending;
mod sharding;

pub use drops::Drops;
pub use sharding::ShardIndex;

/// Packets are padded to a multiple of this, so that their length tells less.
pub const PADDING: usize = 16;

/// Shorter packets fit every path, of both families, also with some tunnels around them.
const ALWAYS_FITS: usize = 1280;

/// Where a device's output goes. What is given may be kept a while, so that much goes in one call, but never overtaken.
pub trait Wire {
    /// Returns where the next datagram may be written: at least [`SCRATCH`] bytes.
    fn room(&mut self) -> &mut [u8];
    /// Sends the first `length` bytes of the room over the network, in this traffic class (DSCP and ECN).
    fn commit(&mut self, to: Path, tos: u8, length: usize);
    /// Hands an IP packet to the tunnel interface.
    fn deliver(&mut self, packet: &[u8]);
    /// Returns whether this is an address of this machine.
    fn is_own(&mut self, address: IpAddr) -> bool;
    /// Returns the longest packet that the route there takes, if it says so.
    fn route_mtu(&mut self, now: Instant, destination: IpAddr) -> Option<usize>;

    /// Sends a datagram over the network.
    fn send(&mut self, to: Path, datagram: &[u8]) {
        self.room()[..datagram.len()].copy_from_slice(datagram);
        self.commit(to, ecn::NONE, datagram.len());
    }
}

/// The device's own key and what follows from it.
#[derive(Clone, Debug)]
pub(crate) struct DeviceIdentity {
    private: PrivateKey,
    public: PublicKey,
    /// One for all shards, so that there is one limit and one secret for cookies. Only handshakes come here.
    admission: Arc<Mutex<Admission>>,
}

impl DeviceIdentity {
    pub(crate) fn new(private: PrivateKey) -> Self {
        Self {
            public: private.public(),
            admission: Arc::new(Mutex::new(Admission::new(&private))),
            private,
        }
    }
}

/// A WireGuard device, or one shard of it: then it has the tables of the whole, and the peers of its [`ShardIndex`].
#[derive(Debug)]
pub struct Device {
    index: ShardIndex,
    identity: Option<DeviceIdentity>,
    ids: Ids,
    /// Who has which id; ids are used again.
    keys: Vec<Option<PublicKey>>,
    /// The receiver indices of those that this shard serves.
    indices: Indices,
    /// What was looked for last among them, which is what comes next mostly.
    found: Option<(u32, PeerId)>,
    /// Those that this shard serves, by id. Those of other shards, and free ids, cost a pointer each.
    peers: Vec<Option<Box<Peer>>>,
    by_key: BTreeMap<PublicKey, PeerId>,
    allowed_ips: AllowedIps,
    groups: Groups,
    drops: Drops,
    answers: Answers,
    /// The port that datagrams leave from; zero when it is not known.
    port: u16,
    mtu: usize,
    copy_dscp: bool,
    /// Handshakes begin before there are packets.
    eager: bool,
    /// What is sent leaves.
    up: bool,
    /// For some peer the routes have not been asked yet.
    unasked: bool,
    looked_at_clocks: Option<Moment>,
    scratch: Vec<u8>,
    schedule: Schedule,
    /// What is left of peers that were removed.
    remains: Remains,
    /// How many more peers may be called while all threads wait.
    calls: usize,
    looks: u64,
}

impl Device {
    /// Makes a device without key and peers, on an interface of that MTU.
    pub fn new(mtu: usize) -> Self {
        Self::shard(ShardIndex::WHOLE, mtu)
    }

    /// Makes one shard of a device. All of them have to be configured alike.
    pub fn shard(index: ShardIndex, mtu: usize) -> Self {
        Self {
            index,
            identity: None,
            ids: Ids::new(index),
            keys: Vec::new(),
            indices: index.indices(),
            found: None,
            peers: Vec::new(),
            by_key: BTreeMap::new(),
            allowed_ips: AllowedIps::default(),
            groups: Groups::default(),
            drops: Drops::default(),
            answers: Answers::default(),
            port: 0,
            mtu,
            copy_dscp: false,
            eager: false,
            up: true,
            unasked: false,
            looked_at_clocks: None,
            scratch: vec![0; SCRATCH],
            schedule: Schedule::default(),
            remains: Remains::default(),
            calls: schedule::calls(index),
            looks: 0,
        }
    }

    /// Returns which other shard has to take this IP packet; `None` when it is this one's, or belongs to no peer.
    pub fn is_elsewhere(&self, packet: &[u8]) -> Option<usize> {
        if self.index == ShardIndex::WHOLE {
            return None;
        }
        let id = self.allowed_ips.lookup(Tunn::dst_address(packet)?)?;
        self.index.other(id)
    }

    /// Takes an IP packet of `length` bytes at the start of `buffer`, which has [`PADDING`] more bytes of room.
    pub fn handle_packet(&mut self, now: Instant, buffer: &mut [u8], length: usize, wire: &mut impl Wire) {
        let Some(destination) = Tunn::dst_address(&buffer[..length]) else {
            self.drops.not_ip += 1;
            return;
        };
        let found = self
            .allowed_ips
            .lookup(destination)
            .and_then(|id| Some((id, peer_mut(&mut self.peers, id)?)));
        let Some((id, peer)) = found else {
            self.drops.no_peer += 1;
            self.refuse(now, &buffer[..length], wire);
            return;
        };
        let Peer {
            noise: Some(noise),
            endpoint,
            configured,
            local,
            tx_bytes,
            wants,
            scheduled,
            ..
        } = peer
        else {
            self.drops.no_peer += 1;
            return;
        };
        let Some(remote) = *endpoint else {
            self.drops.no_endpoint += 1;
            self.refuse(now, &buffer[..length], wire);
            return;
        };
        let mut hops = 0;
        if let Some(udp) = Udp::read(&buffer[..length]) {
            let packet = &buffer[..length];
            let own = drops::looks_own(packet, udp, self.port, [*endpoint, *configured]);
            let left = drops::hops(packet, udp);
            if left.is_none() || own.is_some_and(|source| wire.is_own(source)) {
                self.drops.looped += 1;
                return;
            }
            hops = left.unwrap_or_default();
        }
        let padded = padded(length, self.mtu, || wire.route_mtu(now, destination));
        buffer[length..padded].fill(0);
        if !self.up {
            // The interface is up again, which this device follows in a moment.
            noise.keep(&buffer[..padded]);
            return;
        }
        let ready = if noise.is_stale(now) {
            if noise.is_unheard(now) {
                local.doubt();
            }
            let mut send = sticking(now, wire, remote, *configured, local, tx_bytes);
            noise.is_ready(now, &mut self.scratch, &mut send)
        } else {
            noise.has_session()
        };
        if ready && let Some(sealed) = noise.seal_into(now, &buffer[..padded], wire.room()) {
            *tx_bytes += sealed as u64;
            let tos = if self.copy_dscp {
                ecn::class(&buffer[..length])
            } else {
                ecn::of(&buffer[..length])
            };
            let to = Path {
                local: local.addr,
                hops,
                peer: local.peer,
                ..Path::from(remote)
            };
            wire.commit(to, tos, sealed);
        } else {
            let mut send = sticking(now, wire, remote, *configured, local, tx_bytes);
            let force = std::mem::take(&mut wants.handshake);
            noise.defer(now, &buffer[..padded], force, &mut self.scratch, &mut send);
        }
        self.schedule.note(id, noise.poll_timeout(now), scheduled);
    }

    /// Counts what came from the interface and cannot be understood.
    pub fn handle_malformed(&mut self) {
        self.drops.malformed += 1;
    }

    /// Takes a datagram that came from `source`, whose outer header had these ECN bits. `Some` when it is admitted, but
    /// its peer is that other shard's: [`Self::handle_admitted`] has to take it there. Its index may be another one
    /// afterwards.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        source: impl Into<Path>,
        outer: u8,
        datagram: &mut [u8],
        wire: &mut impl Wire,
    ) -> Option<(usize, Addressee)> {
        let source = source.into();
        if !self.up {
            self.drops.down += 1;
            return None;
        }
        let to = self.admit(now, source, datagram, wire)?;
        if let Some(other) = self.index.elsewhere(to) {
            return Some((other, to));
        }
        self.handle_admitted(now, source, outer, to, datagram, wire);
        None
    }

    /// Returns whose datagram it is, as far as can be seen without the peer.
    fn admit(
        &mut self,
        now: Instant,
        source: Path,
        datagram: &[u8],
        wire: &mut impl Wire,
    ) -> Option<Addressee> {
        let entry = match (admission::receiver(datagram), &self.identity) {
            (Some(index), Some(_)) => Verdict::For(index),
            (None, Some(identity)) => {
                let mut admission = identity.admission.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(noise) = awaits(&self.indices, &mut self.peers, datagram) {
                    let verdict = admission.admit_awaited(datagram);
                    if verdict != Verdict::Unknown {
                        noise.note_answer();
                    }
                    verdict
                } else {
                    let is_peer = |key| self.by_key.contains_key(&key);
                    admission.admit(now, source.remote, datagram, is_peer, &mut self.scratch)
                }
            }
            (_, None) => Verdict::Unknown,
        };
        let to = match entry {
            Verdict::From(key) => self.by_key.get(&key).copied().map(Addressee::Peer),
            Verdict::For(index) => Some(Addressee::Index(index)),
            Verdict::Cookie(reply) => {
                wire.send(source.reversed(), reply);
                return None;
            }
            Verdict::TooMany => {
                self.drops.too_many += 1;
                return None;
            }
            Verdict::Unknown => None,
        };
        if to.is_none() {
            self.drops.unknown += 1;
        }
        to
    }

    /// Returns who has an index. Mostly that is one comparison, for datagrams come in runs.
    fn owner_of(&mut self, index: u32) -> Option<PeerId> {
        match self.found {
            Some((found, id)) if found == index => Some(id),
            _ => {
                let id = self.indices.owner(index)?;
                self.found = Some((index, id));
                Some(id)
            }
        }
    }

    /// Takes a datagram for or from this peer that [`Self::handle_datagram`] of any shard has admitted.
    pub fn handle_admitted(
        &mut self,
        now: Instant,
        source: Path,
        outer: u8,
        to: Addressee,
        datagram: &mut [u8],
        wire: &mut impl Wire,
    ) {
        if !self.up {
            self.drops.down += 1;
            return;
        }
        let id = match to {
            Addressee::Peer(id) => Some(id),
            Addressee::Index(index) => self.owner_of(index),
        };
        let found = id.and_then(|id| Some((id, peer_mut(&mut self.peers, id)?)));
        let Some((
            id,
            Peer {
                noise: Some(noise),
                endpoint,
                configured,
                local,
                tx_bytes,
                rx_bytes,
                last_handshake,
                wants,
                scheduled,
                ..
            },
        )) = found
        else {
            self.drops.unknown += 1;
            return;
        };

        let back = local.way_back(source);
        let mut send_overdue = |datagram: &[u8]| {
            if let Some(remote) = *endpoint {
                sticking(now, wire, remote, *configured, local, tx_bytes)(datagram);
            }
        };
        let Intake {
            received,
            established,
        } = noise.handle_datagram(now, datagram, &mut self.scratch, &mut send_overdue);
        // Even a rejected one may have made a handshake overdue.
        self.schedule.note(id, noise.poll_timeout(now), scheduled);
        match received {
            Received::Rejected(error) => {
                tracing::trace!(?error, source = %source.remote, "datagram rejected");
                self.drops.rejected += 1;
                // Perhaps the index is another peer's by now.
                self.found = None;
                if wants.handshake {
                    // Its session died with an earlier process perhaps: it does not wait until all others are called.
                    self.schedule.note_first(now, id, scheduled);
                }
                return;
            }
            Received::Cookie => return,
            Received::Handshake(answer) => counted(wire, back, tx_bytes)(answer),
            Received::Keepalive => {}
            Received::Packet(packet, address) => {
                let owner = self.allowed_ips.lookup(address);
                // A packet from its own peer, which nearly every one is, costs no look at the groups.
                if owner != Some(id) && !owner.is_some_and(|owner| self.groups.share(owner, id)) {
                    self.drops.wrong_source += 1;
                } else if ecn::decapsulate(outer, packet) {
                    wire.deliver(packet);
                } else {
                    self.drops.congested += 1;
                }
            }
        }
        *rx_bytes += datagram.len() as u64;
        let earlier = endpoint.replace(source.remote);
        self.unasked |= local.received(earlier, source, datagram);
        if established {
            *last_handshake = Some(SystemTime::now());
            *wants = Wants::default();
            noise.send_waiting(now, &mut self.scratch, &mut counted(wire, back, tx_bytes));
        }
        self.schedule.note(id, noise.poll_timeout(now), scheduled);
    }

    /// Does what has become due: what takes long step by step, between which packets are to have their turn. While the device is
    /// down no peer has anything due.
    pub fn handle_timeout(&mut self, now: Instant, wire: &mut impl Wire) {
        let due = if self.up {
            self.schedule.take_due(now)
        } else {
            Vec::new()
        };
        for id in due {
            let Some(peer) = peer_mut(&mut self.peers, id) else {
                continue;
            };
            peer.scheduled = None;
            self.looks += 1;
            if peer.is_waiting_to_be_called() {
                configure::settle(peer, now, self.up, &mut self.scratch, wire);
            }
            let Peer {
                noise: Some(noise),
                endpoint,
                configured,
                local,
                tx_bytes,
                scheduled,
                ..
            } = peer
            else {
                continue;
            };
            if noise.poll_timeout(now).is_some_and(|at| at <= now) {
                if noise.is_unheard(now) {
                    local.doubt();
                }
                let mut send = |datagram: &[u8]| {
                    if let Some(remote) = *endpoint {
                        sticking(now, wire, remote, *configured, local, tx_bytes)(datagram);
                    }
                };
                noise.handle_timeout(now, &mut self.scratch, &mut send);
            }
            self.schedule.note(id, noise.poll_timeout(now), scheduled);
        }
        self.remains.free();
        self.calls = schedule::calls(self.index);
    }

    /// Returns when [`Self::handle_timeout`] wants to be called next; it may be a little early.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let scheduled = self.schedule.next().filter(|_| self.up);
        scheduled.into_iter().chain(self.remains.next()).min()
    }

    /// Sets which port datagrams leave from.
    pub fn set_port(&mut self, port: u16) {
        self.port = port;
    }

    /// Sets the interface's MTU.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    /// Returns the interface's MTU as this device knows it.
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// Sets whether a packet's DSCP shows outside: routers there can treat it as it deserves, and read what it is.
    pub fn set_copy_dscp(&mut self, copy: bool) {
        self.copy_dscp = copy;
    }

    /// Returns what was dropped so far.
    pub fn drops(&self) -> Drops {
        self.drops
    }

    /// Returns how often a peer was looked at for what is due. It must grow neither with the number of packets nor with that of
    /// other peers.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// Returns the device's private key.
    pub fn private_key(&self) -> Option<&PrivateKey> {
        self.identity.as_ref().map(|identity| &identity.private)
    }

    /// Returns the peers that this shard serves, in the order of their ids.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        (0..)
            .map(PeerId)
            .zip(&self.peers)
            .filter_map(|(id, peer)| Some((id, peer.as_deref()?)))
    }

    /// Returns the allowed IPs of all peers.
    pub fn allowed_ips(&self) -> &AllowedIps {
        &self.allowed_ips
    }

    /// Returns the group of a peer.
    pub fn group(&self, id: PeerId) -> Option<&Group> {
        self.groups.of(id)
    }

    /// Returns whose source or destination this address may be.
    pub fn owner(&self, address: IpAddr) -> Option<PeerId> {
        self.allowed_ips.lookup(address)
    }
}

/// Returns how long a packet is when it is padded: never longer than the interface's MTU allows, nor the route that it takes.
fn padded(length: usize, mtu: usize, route_mtu: impl FnOnce() -> Option<usize>) -> usize {
    let padded = length.next_multiple_of(PADDING).min(mtu.max(length));
    if padded == length || padded <= ALWAYS_FITS {
        return padded;
    }
    route_mtu().map_or(padded, |mtu| padded.min(mtu.max(length)))
}

fn peer_mut(peers: &mut [Option<Box<Peer>>], id: PeerId) -> Option<&mut Peer> {
    peers.get_mut(id.0 as usize)?.as_deref_mut()
}

/// Returns the peers that a shard serves, with their ids.
fn peers_mut(peers: &mut [Option<Box<Peer>>]) -> impl Iterator<Item = (PeerId, &mut Peer)> {
    (0..)
        .map(PeerId)
        .zip(peers)
        .filter_map(|(id, peer)| Some((id, peer.as_deref_mut()?)))
}

/// Returns the state of the peer whose initiation a datagram answers, if it says so and that one waits for it.
fn awaits<'a>(
    indices: &Indices,
    peers: &'a mut [Option<Box<Peer>>],
    datagram: &[u8],
) -> Option<&'a mut Noise> {
    let index = admission::answered(datagram)?;
    let noise = peer_mut(peers, indices.owner(index)?)?.noise.as_mut()?;
    noise.expects(index).then_some(noise)
}
