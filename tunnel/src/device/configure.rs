//! Changes to a device. Each is complete by itself; what a changed peer has to send waits for [`Device::settle`], so that
//! a handshake never starts with half of a peer's new configuration.

use std::{net::SocketAddr, time::Instant};

use crate::{
    device::{
        Device, DeviceIdentity, Wire, peer_mut, peers_mut, schedule::Schedule, sending::sticking,
        sharding::Ids,
    },
    group::Group,
    id::PeerId,
    index::IndexSource,
    key::{PresharedKey, PrivateKey, PublicKey},
    noise::Noise,
    peer::{Peer, Wants},
    prefix::Prefix,
};

impl Device {
    /// Takes a new private key, or none. All sessions end; a peer that has the new public key is removed.
    pub fn set_private_key(&mut self, now: Instant, private: Option<PrivateKey>, wire: &mut impl Wire) {
        self.set_identity(now, private.map(DeviceIdentity::new), wire);
    }

    /// Does the same for one shard: all of them have to be given the same identity.
    pub(crate) fn set_identity(
        &mut self,
        now: Instant,
        identity: Option<DeviceIdentity>,
        wire: &mut impl Wire,
    ) {
        if self.private_key() == identity.as_ref().map(|identity| &identity.private) {
            return;
        }
        self.identity = identity;
        let me = self
            .identity
            .as_ref()
            .and_then(|identity| self.by_key.get(&identity.public).copied());
        if let Some(me) = me {
            self.remove_peer(me);
        }
        for (id, peer) in peers_mut(&mut self.peers) {
            match (&self.identity, &mut peer.noise) {
                (None, noise) => {
                    if let Some(noise) = noise.take() {
                        peer.newest = noise.newest();
                    }
                }
                (Some(identity), Some(noise)) => {
                    noise.set_private_key(now, &identity.private);
                }
                (Some(identity), None) => begin(now, identity, peer, self.indices.source(id)),
            }
        }
        let eager = self.eager;
        self.prompt(now, wire, |_| Wants {
            handshake: eager,
            keepalive: false,
        });
    }

    /// Returns the peer with this key, if there is one.
    pub fn peer(&self, key: PublicKey) -> Option<PeerId> {
        self.by_key.get(&key).copied()
    }

    /// Returns the first id that no peer has had.
    pub(crate) fn end(&self) -> u32 {
        u32::try_from(self.keys.len()).unwrap_or(u32::MAX)
    }

    /// Returns a peer that this shard serves.
    pub(crate) fn peer_at(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0 as usize)?.as_deref()
    }

    /// Returns a peer that this shard serves, for its counters.
    pub(crate) fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        peer_mut(&mut self.peers, id)
    }

    /// Returns whether this is the device's own key.
    pub fn is_own_key(&self, key: PublicKey) -> bool {
        self.identity
            .as_ref()
            .is_some_and(|identity| identity.public == key)
    }

    /// Adds a peer, or finds it. `None` when there are as many as there may be.
    pub fn add_peer(&mut self, now: Instant, key: PublicKey) -> Option<PeerId> {
        if let Some(id) = self.peer(key) {
            return Some(id);
        }
        let id = self.ids.take(self.index)?;
        let index = id.0 as usize;
        if index >= self.keys.len() {
            self.keys.resize(index + 1, None);
            self.peers.resize_with(index + 1, || None);
        }
        self.keys[index] = Some(key);
        self.by_key.insert(key, id);
        if self.index.other(id).is_none() {
            let mut peer = Box::new(Peer::new(id, key));
            if let Some(identity) = &self.identity {
                begin(now, identity, &mut peer, self.indices.source(id));
            }
            self.peers[index] = Some(peer);
        }
        Some(id)
    }

    /// Removes a peer with its allowed IPs and its group.
    pub fn remove_peer(&mut self, id: PeerId) {
        let index = id.0 as usize;
        if let Some(key) = self.keys.get_mut(index).and_then(Option::take) {
            if let Some(peer) = self.peers[index].take() {
                self.schedule.forget(id, peer.scheduled);
            }
            self.ids.give_back(self.index, id);
            self.by_key.remove(&key);
            self.allowed_ips.remove_all(id);
            self.groups.set(id, None);
        }
    }

    /// Removes all peers at once. What is left of them is freed step by step by [`Self::handle_timeout`].
    pub fn remove_all_peers(&mut self, now: Instant) {
        self.keys = Vec::new();
        self.ids = Ids::new(self.index);
        self.schedule = Schedule::default();
        let Self { remains, .. } = self;
        remains.add(now, std::mem::take(&mut self.groups).into_pieces());
        remains.add(now, std::mem::take(&mut self.by_key).into_iter());
        remains.add(now, std::mem::take(&mut self.allowed_ips).into_pieces());
        remains.add(now, std::mem::take(&mut self.peers).into_iter());
    }

    /// Sets a peer's preshared key. A changed one ends its sessions: boringtun takes the key only at the start.
    pub fn set_preshared(&mut self, now: Instant, id: PeerId, preshared: Option<PresharedKey>) {
        let Some(peer) = peer_mut(&mut self.peers, id).filter(|peer| peer.preshared != preshared) else {
            return;
        };
        peer.preshared = preshared.clone();
        if let Some(noise) = &mut peer.noise {
            noise.set_preshared(now, preshared);
            peer.wants.handshake |= self.eager;
        }
    }

    /// Sets where a peer is, and forgets from which address of this machine it was written to.
    pub fn set_endpoint(&mut self, id: PeerId, endpoint: SocketAddr) {
        let Some(peer) = peer_mut(&mut self.peers, id) else {
            return;
        };
        peer.wants.handshake |= self.eager && peer.endpoint != Some(endpoint);
        peer.local.forget();
        (peer.endpoint, peer.configured) = (Some(endpoint), Some(endpoint));
    }

    /// Sets whether a handshake begins as soon as a peer can be reached: when it gets an endpoint or another key, and when
    /// the device comes up. Otherwise, as in every WireGuard, the first packet begins it.
    pub fn set_eager(&mut self, eager: bool) {
        self.eager = eager;
    }

    /// Returns whether handshakes begin before there are packets.
    pub fn is_eager(&self) -> bool {
        self.eager
    }

    /// Sets the seconds between a peer's keepalives; zero is none.
    pub fn set_keepalive(&mut self, now: Instant, id: PeerId, seconds: u16) {
        let Some(peer) = peer_mut(&mut self.peers, id).filter(|peer| peer.keepalive != seconds) else {
            return;
        };
        peer.wants.keepalive = peer.keepalive == 0;
        peer.keepalive = seconds;
        if let Some(noise) = &mut peer.noise {
            noise.set_keepalive(now, seconds);
        }
    }

    /// Gives a prefix to a peer, whichever had it before.
    pub fn allow(&mut self, id: PeerId, prefix: Prefix) {
        self.allowed_ips.insert(prefix, id);
    }

    /// Takes a prefix from a peer, if it has it.
    pub fn disallow(&mut self, id: PeerId, prefix: Prefix) {
        self.allowed_ips.remove(prefix, id);
    }

    /// Takes all prefixes from a peer.
    pub fn disallow_all(&mut self, id: PeerId) {
        self.allowed_ips.remove_all(id);
    }

    /// Puts a peer into a group, or into none. Its session goes on.
    pub fn set_group(&mut self, id: PeerId, group: Option<Group>) {
        self.groups.set(id, group);
    }

    /// Sends what the changes of a peer's configuration made due, now that it is complete. Of many peers that are to be called the
    /// later ones are when packets have had their turn.
    pub fn settle(&mut self, now: Instant, id: PeerId, wire: &mut impl Wire) {
        let Some(peer) = peer_mut(&mut self.peers, id) else {
            return;
        };
        if self.up && peer.is_waiting_to_be_called() {
            if self.calls == 0 {
                self.schedule.note(id, Some(now), &mut peer.scheduled);
                return;
            }
            self.calls -= 1;
        }
        settle(peer, now, self.up, &mut self.scratch, wire);
        self.schedule.note_peer(now, id, peer);
    }
}

/// Sends what a peer wants, and starts the handshake that packets wait for. One without a key of this device or without an
/// endpoint keeps wanting until it has both and the device is `up`.
pub(super) fn settle(peer: &mut Peer, now: Instant, up: bool, scratch: &mut [u8], wire: &mut impl Wire) {
    let (true, Some(remote), Some(noise)) = (up, peer.endpoint, &mut peer.noise) else {
        return;
    };
    let Wants { handshake, keepalive } = std::mem::take(&mut peer.wants);
    if noise.is_unheard(now) {
        peer.local.doubt();
    }
    let mut send = sticking(
        now,
        wire,
        remote,
        peer.configured,
        &mut peer.local,
        &mut peer.tx_bytes,
    );
    if handshake {
        noise.initiate(now, true, scratch, &mut send);
    } else if keepalive {
        noise.send_keepalive(now, scratch, &mut send);
    } else if noise.has_waiting() {
        noise.initiate(now, false, scratch, &mut send);
    }
}

fn begin(now: Instant, identity: &DeviceIdentity, peer: &mut Peer, source: IndexSource) {
    let mut noise = Noise::new(
        now,
        &identity.private,
        peer.public,
        peer.preshared.as_ref(),
        source,
        peer.keepalive,
    );
    noise.remember(peer.newest.take());
    peer.noise = Some(noise);
}
