//! What happens to a device as a whole: its interface goes up or down, its port changes, the clock is set.

use std::time::Instant;

use crate::{
    clock::{Moment, SUSPENDED},
    device::{Device, Wire, peer_mut, peers_mut},
    id::PeerId,
    noise::Noise,
    path::Path,
    peer::{Peer, Wants},
};

impl Device {
    /// The interface came up, and what is sent leaves from now on: to peers that are to be kept alive or for which packets
    /// wait (those that came before the device could send), and, when it is eager ([`Self::set_eager`]), to all.
    pub fn handle_up(&mut self, now: Instant, wire: &mut impl Wire) {
        self.up = true;
        let peers = self.peers.iter_mut().flatten();
        for noise in peers.filter_map(|peer| peer.noise.as_mut()) {
            noise.start(now);
        }
        let eager = self.eager;
        self.prompt(now, wire, |peer| {
            let alive = peer.has_session();
            Wants {
                handshake: eager || (!alive && (peer.keepalive != 0 || peer.has_waiting())),
                keepalive: alive && peer.keepalive != 0,
            }
        });
    }

    /// The interface went down: nothing leaves any more, and all keys, handshakes and waiting packets are dropped, as by the
    /// kernel's WireGuard (`wg_stop`).
    pub fn handle_down(&mut self, now: Instant) {
        self.up = false;
        for peer in self.peers.iter_mut().flatten() {
            peer.wants = Wants::default();
            peer.local.rest();
            if let Some(noise) = &mut peer.noise {
                noise.stop(now);
            }
        }
    }

    /// Starts a handshake with every peer with an endpoint, for this process goes on with what another one had: the other
    /// sides still hold sessions that died with that, and WireGuard's own timers would notice after up to 15 seconds.
    pub fn handle_succession(&mut self, now: Instant, wire: &mut impl Wire) {
        self.up = true;
        self.prompt(now, wire, |_| Wants {
            handshake: true,
            keepalive: false,
        });
    }

    /// Sends a keepalive to every peer with a session: the device writes from another port, and what peers send goes to the
    /// old one until then.
    pub fn handle_moved(&mut self, now: Instant, wire: &mut impl Wire) {
        for peer in self.peers.iter_mut().flatten() {
            peer.local.unasked = true;
        }
        self.unasked = true;
        let eager = self.eager;
        self.prompt(now, wire, |peer| Wants {
            handshake: false,
            keepalive: eager || peer.has_session(),
        });
    }

    /// What is sent has another mark, and other routes perhaps: peers are written to from whatever address the kernel chooses,
    /// as by the kernel's WireGuard (`wg_socket_clear_peer_endpoint_src`), until they write to one again.
    pub fn handle_mark(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            peer.local.forget();
        }
    }

    /// Returns whether since the last call a peer began to be written to in a way for which the routes have not been asked.
    pub fn take_unasked(&mut self) -> bool {
        std::mem::take(&mut self.unasked)
    }

    /// Returns by which ways peers are written to from a certain address of this machine, or were until it was lost, with no
    /// word from them since: those have no local address. After a change of routes these are all such ways, and those that were
    /// given up; otherwise the ones that have not been asked for.
    pub fn paths(&mut self, changed: bool) -> impl Iterator<Item = Path> {
        self.peers.iter_mut().flatten().flat_map(move |peer| {
            let unasked = std::mem::take(&mut peer.local.unasked);
            let given_up = peer.local.given_up.filter(|_| changed);
            let watched = watched(peer).filter(|_| changed || unasked);
            watched.into_iter().chain(given_up)
        })
    }

    /// Ways that were given up and are none of the lost ones any more are used again when the peer writes by them.
    pub fn handle_found(&mut self, lost: &dyn Fn(Path) -> bool) {
        for peer in self.peers.iter_mut().flatten() {
            peer.local.given_up = peer.local.given_up.filter(|path| lost(*path));
        }
    }

    /// These ways lead nowhere any more: the peers are written to from whatever address the kernel chooses, until they write
    /// to another one or routes change. Those with a session are sent a keepalive, so that they learn it, and those that
    /// began one an initiation, for the answer to theirs may be lost. Where that could not leave, it is sent again when the
    /// way is among these once more, without a local address.
    pub fn handle_lost(&mut self, now: Instant, lost: &dyn Fn(Path) -> bool, wire: &mut impl Wire) {
        for id in self.ids() {
            let Some(peer) = self.peer_mut(id) else { continue };
            let Some(path) = watched(peer).filter(|path| lost(*path)) else {
                continue;
            };
            tracing::debug!(peer = ?peer.public, local = ?path.local, "not written to from this address any more");
            peer.local.give_up(path);
            peer.wants.keepalive |= peer.has_session();
            let begun = |noise: &Noise| noise.is_unconfirmed(now);
            peer.wants.handshake |= peer.noise.as_ref().is_some_and(begun);
            self.settle(now, id, wire);
        }
    }

    /// So many bytes that were sent to a peer did not leave. Returns whether it is a peer of this shard.
    pub fn handle_unsent(&mut self, now: Instant, id: PeerId, bytes: u64) -> bool {
        if self.index.other(id).is_some() {
            return false;
        }
        if let Some(peer) = peer_mut(&mut self.peers, id) {
            peer.tx_bytes = peer.tx_bytes.saturating_sub(bytes);
            if let Some(noise) = &mut peer.noise {
                noise.handle_unsent();
                self.schedule
                    .note(id, noise.poll_timeout(now), &mut peer.scheduled);
            }
        }
        true
    }

    /// Routes or addresses of this machine have changed: initiations that got no answer are sent again to peers for which
    /// packets wait, also before their time, and again when nothing has changed for a second.
    pub fn handle_routes(&mut self, now: Instant) {
        for (id, peer) in peers_mut(&mut self.peers) {
            if let Some(noise) = &mut peer.noise {
                noise.handle_routes(now);
                self.schedule
                    .note(id, noise.poll_timeout(now), &mut peer.scheduled);
            }
        }
    }

    /// Sends every peer what it wants.
    pub(super) fn prompt(&mut self, now: Instant, wire: &mut impl Wire, wants: impl Fn(&Peer) -> Wants) {
        for id in self.ids() {
            let Some(peer) = self.peer_mut(id) else { continue };
            let Wants { handshake, keepalive } = wants(peer);
            peer.wants.handshake |= handshake;
            peer.wants.keepalive |= keepalive;
            self.settle(now, id, wire);
        }
    }

    /// Returns the ids of all peers, and perhaps some that none has.
    fn ids(&self) -> impl Iterator<Item = PeerId> + use<> {
        (0..).map(PeerId).take(self.peers.len())
    }

    /// Follows the clocks; wanted about once a second, for a machine may learn the time after its start, or be suspended.
    pub fn handle_clock(&mut self, now: Instant, moment: Moment, wire: &mut impl Wire) {
        let last = self.looked_at_clocks.replace(moment).unwrap_or(moment);
        let suspended = moment.suspended_since(last) >= SUSPENDED;
        if suspended {
            tracing::info!("the machine was suspended, all keys are dropped");
        }
        let eager = self.eager;
        for id in self.ids() {
            let Some(peer) = self.peer_mut(id) else { continue };
            let Some(noise) = &mut peer.noise else { continue };
            let again = if suspended {
                noise.drop_keys(now);
                eager
            } else {
                noise.handle_clock(now, moment)
            };
            if again || suspended {
                tracing::debug!(peer = ?peer.public, "protocol state made new");
                peer.wants.handshake |= again;
                self.settle(now, id, wire);
            }
        }
    }
}

/// Returns the way to a peer that changed routes can make another.
fn watched(peer: &Peer) -> Option<Path> {
    let path = peer.path()?;
    (path.local.is_some() || peer.local.adrift).then_some(Path {
        interface: peer.local.interface,
        ..path
    })
}
