//! One peer of a device: what was configured and what was seen.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    id::PeerId,
    key::{PresharedKey, PublicKey},
    noise::{Initiation, Noise},
    path::Path,
};

/// One peer. Its allowed IPs stand in the device's trie.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub public: PublicKey,
    /// The key shared with it.
    pub preshared: Option<PresharedKey>,
    /// Where its last authentic message came from, or what was configured since.
    pub endpoint: Option<SocketAddr>,
    /// The endpoint that was configured last.
    pub(crate) configured: Option<SocketAddr>,
    /// Which of this machine's addresses it is written to from.
    pub(crate) local: Local,
    /// Seconds between keepalives; zero is none.
    pub keepalive: u16,
    /// When the newest session was confirmed.
    pub last_handshake: Option<SystemTime>,
    /// Bytes of authentic datagrams received.
    pub rx_bytes: u64,
    /// Bytes of datagrams that the kernel took.
    pub tx_bytes: u64,
    /// The protocol, as soon as the device has a private key.
    pub(crate) noise: Option<Noise>,
    /// The newest initiation that was accepted before the device had no private key, while it has none.
    pub(crate) newest: Option<Initiation>,
    /// A handshake is to be started, and a keepalive to be sent, when the configuration of this peer is complete.
    pub(crate) wants: Wants,
    /// When the device looks next whether the protocol wants something.
    pub(crate) scheduled: Option<Instant>,
}

/// What a change of configuration leaves to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) handshake: bool,
    pub(crate) keepalive: bool,
}

impl Peer {
    pub(crate) fn new(id: PeerId, public: PublicKey) -> Self {
        Self {
            public,
            preshared: None,
            endpoint: None,
            configured: None,
            local: Local {
                peer: Some(id),
                ..Local::default()
            },
            keepalive: 0,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            noise: None,
            newest: None,
            wants: Wants::default(),
            scheduled: None,
        }
    }

    /// Returns the newest initiation of its that was accepted.
    pub(crate) fn newest(&self) -> Option<Initiation> {
        self.noise.as_ref().map_or(self.newest, Noise::newest)
    }

    /// Takes the newest initiation that was accepted by a process before this one.
    pub(crate) fn remember(&mut self, newest: Initiation) {
        match &mut self.noise {
            Some(noise) => noise.remember(Some(newest)),
            None => self.newest = Some(newest),
        }
    }

    /// Returns whether packets can be encrypted for it now.
    pub(crate) fn has_session(&self) -> bool {
        self.noise.as_ref().is_some_and(Noise::has_session)
    }

    /// Returns whether packets wait for a session with it.
    pub(crate) fn has_waiting(&self) -> bool {
        self.noise.as_ref().is_some_and(Noise::has_waiting)
    }

    /// Returns whether it wants something, and can be reached.
    pub(crate) fn is_waiting_to_be_called(&self) -> bool {
        self.wants != Wants::default() && self.noise.is_some() && self.endpoint.is_some()
    }

    /// Returns how it is reached, if that is known.
    pub(crate) fn path(&self) -> Option<Path> {
        Some(Path {
            local: self.local.addr,
            ..Path::from(self.endpoint?)
        })
    }
}

/// An initiation that had no answer for so long (REKEY_TIMEOUT) is repeated.
const REPEATED_AFTER: Duration = Duration::from_secs(5);
/// The first byte of a handshake initiation.
const INITIATION: u8 = 1;

/// Which of this machine's addresses a peer's last authentic message was sent to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Local {
    /// Whose it is.
    pub(crate) peer: Option<PeerId>,
    /// None also since the endpoint was configured, and while the peer does not answer.
    pub(crate) addr: Option<IpAddr>,
    /// By which interface that came in; zero when it is not known.
    pub(crate) interface: u32,
    /// The peer was written to from an address that leads nowhere any more and has not written since: perhaps no message
    /// has left that would let it learn another one.
    pub(crate) adrift: bool,
    /// Whether the routes lead this way has not been asked yet.
    pub(crate) unasked: bool,
    /// Where the peer wrote to when the routes did not lead back that way. Until they change it is not written to from there,
    /// though it may go on.
    pub(crate) given_up: Option<Path>,
    /// When the first initiation was sent since an authentic message came.
    called: Option<Instant>,
    /// Whether an initiation was sent since the peer sent anything that proves that it receives what is sent to it.
    unanswered: bool,
}

impl Local {
    /// Records that an authentic message came; `before` is where the peer was until now. Returns whether the routes have to be
    /// asked. An initiation does not say that its sender can be reached where it came from.
    pub(crate) fn received(&mut self, before: Option<SocketAddr>, source: Path, datagram: &[u8]) -> bool {
        self.called = None;
        if datagram.first() != Some(&INITIATION) {
            self.unanswered = false;
        }
        if before == Some(source.remote) && self.addr == source.local && self.interface == source.interface {
            self.adrift = false;
            return false;
        }
        self.interface = source.interface;
        if self.given_up == Some(source) {
            return false;
        }
        self.addr = source.local;
        self.adrift = false;
        self.unasked = source.local.is_some() && source.interface != 0;
        self.unasked
    }

    /// Returns the way back of what came this way.
    pub(crate) fn way_back(&self, source: Path) -> Path {
        let local = source.local.filter(|_| self.given_up != Some(source));
        Path {
            local,
            peer: self.peer,
            ..source.reversed()
        }
    }

    /// The routes do not lead this way any more.
    pub(crate) fn give_up(&mut self, path: Path) {
        self.addr = None;
        self.adrift = path.local.is_some();
        if path.local.is_some() {
            self.given_up = Some(path);
        }
    }

    /// Forgets which address the peer wrote to.
    pub(crate) fn forget(&mut self) {
        self.addr = None;
        self.given_up = None;
    }

    /// The device was down: what is sent next is no repetition.
    pub(crate) fn rest(&mut self) {
        self.called = None;
        self.unanswered = false;
    }

    /// The peer has not answered what was sent to it: perhaps it is out of reach from the address that it wrote to last.
    pub(crate) fn doubt(&mut self) {
        self.addr = None;
    }

    /// Returns how this datagram is to be sent to a peer with this endpoint, which was learned if another is configured, and how
    /// else. When an initiation is repeated, it and what follows are sent from wherever the kernel chooses, as by the kernel's
    /// WireGuard (`wg_expired_retransmit_handshake`); the first one after a rest is not. An initiation that follows one
    /// without an answer goes to the configured endpoint as well: a peer whose address was not usable yet writes from one that
    /// leads nowhere. The copy that arrives second is a replay, and gets no answer.
    pub(crate) fn choose(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        configured: Option<SocketAddr>,
        datagram: &[u8],
    ) -> (Path, Option<Path>) {
        let mut other = None;
        if datagram.first() == Some(&INITIATION) {
            let called = *self.called.get_or_insert(now);
            if now.saturating_duration_since(called) >= REPEATED_AFTER {
                self.doubt();
            }
            if std::mem::replace(&mut self.unanswered, true) {
                other = configured.filter(|configured| *configured != remote);
            }
        }
        let to = |remote, local| Path {
            local,
            peer: self.peer,
            ..Path::from(remote)
        };
        let path = to(remote, self.addr);
        let other = other.map(|remote| to(remote, None));
        (path, other)
    }
}
