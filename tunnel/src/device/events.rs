//! What happens to a device as a whole: its interface goes up or down, its port changes, the clock is set.

use std::time::{Instant, SystemTime};

use crate::{
    device::{Device, Wire, configure::settle},
    peer::{Peer, Wants},
};

impl Device {
    /// The interface came up, and what is sent leaves from now on: to peers that are to be kept alive or for which packets
    /// wait, and, when the device is eager ([`Self::set_eager`]), to all.
    pub fn handle_up(&mut self, now: Instant, wire: &mut impl Wire) {
        self.up = true;
        let eager = self.eager;
        self.prompt(now, wire, |peer| {
            let alive = peer.has_session();
            Wants {
                handshake: eager || (!alive && (peer.keepalive != 0 || peer.has_waiting())),
                keepalive: alive && peer.keepalive != 0,
            }
        });
    }

    /// The interface went down: nothing leaves any more.
    pub fn handle_down(&mut self) {
        self.up = false;
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
        let eager = self.eager;
        self.prompt(now, wire, |peer| Wants {
            handshake: false,
            keepalive: eager || peer.has_session(),
        });
    }

    /// Sends every peer what it wants now.
    fn prompt(&mut self, now: Instant, wire: &mut impl Wire, wants: impl Fn(&Peer) -> Wants) {
        for peer in self.peers.iter_mut().flatten() {
            self.due = Some(now);
            let Wants { handshake, keepalive } = wants(peer);
            peer.wants.handshake |= handshake;
            peer.wants.keepalive |= keepalive;
            settle(peer, now, self.up, &mut self.scratch, wire);
        }
    }

    /// Follows the wall clock; wanted about once a second, for a machine may learn the time after its start.
    pub fn handle_clock(&mut self, now: Instant, wall: SystemTime, wire: &mut impl Wire) {
        for peer in self.peers.iter_mut().flatten() {
            if peer
                .noise
                .as_mut()
                .is_some_and(|noise| noise.handle_clock(now, wall))
            {
                tracing::info!(peer = ?peer.public, "the clock was set, starting the handshake again");
                self.due = Some(now);
                peer.wants.handshake = true;
                settle(peer, now, self.up, &mut self.scratch, wire);
            }
        }
    }
}
