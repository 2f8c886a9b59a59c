//! The protocol with one peer: boringtun's `Tunn`, and around it what that crate lacks.
//!
//! Nothing here knows a socket or an address: datagrams come in as bytes and go out through a closure. What has gone or
//! will go wrong with a bare `Tunn`:
//!
//! * Its clock is the time of the last `update_timers`. Anything done to a `Tunn` that slept for minutes is dated back
//!   and may expire at once, so every entry point here refreshes first.
//! * It wants to be woken every 250 ms, and repeats handshakes without jitter (`ticks.rs`).
//! * Its keepalives count from the wrong packet; they are not sent (`timers.rs` has better ones).
//! * When the other side's initiation crosses one of ours, it forgets to repeat ours.
//! * It pads nothing; packets come here padded already (`device.rs`).
//! * Its queue for packets that wait for a session is bounded in number but not in bytes, and an expired handshake
//!   empties it. Waiting packets stand here instead.
//! * It takes any counter; one near 2^64 overflows its replay window.
//! * Its preshared key is fixed, and its clock is the one at its birth: another one means a new `Tunn` (`renewal.rs`).
//! * Making one costs an agreement on keys. It is made when there is something to say or to answer.
//! * It agrees on keys with a public key of low order: everybody knows the secret then.
//! * It counts indices up; those that are sent are drawn at random (`indexed.rs`).

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use boringtun::noise::{TunnResult, errors::WireGuardError};

use crate::{
    admission::ephemeral,
    clock::Moment,
    index::IndexSource,
    key::{PresharedKey, PrivateKey, PublicKey, is_low_order},
    noise::{calls::Calls, indexed::IndexedTunn, renewal::TunnParameters, ticks::Ticks, timers::Timers},
};

mod calls;
mod indexed;
mod macs;
#[cfg(spanwire_null_cipher)]
mod null;
mod renewal;
mod ticks;
mod timers;

/// The kernel lets 128 packets wait for a session; here their bytes count too, for hundreds of peers may be away.
const WAITING_PACKETS: usize = 128;
const WAITING_BYTES: usize = 64 * 1024;

/// Counters from here on are never accepted: 2^64 - 2^13 - 1, as the paper says.
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// A peer is answered at most 50 initiations a second, as by the kernel (INITIATIONS_PER_SECOND).
const PAUSE: Duration = Duration::from_millis(20);

/// Room for the largest datagram in either direction, with more than boringtun asks for.
pub const SCRATCH: usize = 65_536 + 256;

const DATA: u8 = 4;
const COOKIE: u8 = 3;
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;

/// A handshake initiation.
pub(crate) type Initiation = [u8; 148];

/// What a datagram turned out to be.
#[derive(Debug)]
pub enum Received<'a> {
    /// It is not from this peer, or not now.
    Rejected(WireGuardError),
    /// A cookie was kept; it says nothing about where the peer is.
    Cookie,
    /// A handshake message that wants this answer.
    Handshake(&'a [u8]),
    /// An empty packet.
    Keepalive,
    /// A packet, and the source address it claims.
    Packet(&'a mut [u8], IpAddr),
}

/// A datagram's meaning, and whether it completed a handshake.
#[derive(Debug)]
pub struct Intake<'a> {
    /// What it is.
    pub received: Received<'a>,
    /// Since this datagram there is a confirmed session: let waiting packets go.
    pub established: bool,
}

/// The protocol state shared with one peer.
pub struct Noise {
    /// None as long as there have been no handshakes with these parameters: it has room for eight sessions, eleven kilobytes.
    tunn: Option<Box<IndexedTunn>>,
    parameters: TunnParameters,
    /// When `tunn` began.
    born: Option<Moment>,
    /// When an initiation of the peer was accepted last.
    accepted: Option<Instant>,
    /// The newest initiation of the peer that was accepted, and the key it was made for.
    newest: Option<(PrivateKey, Initiation)>,
    /// The newest one that an earlier state accepted, for a key that is not known any more.
    recorded: Option<Initiation>,
    timers: Timers,
    ticks: Ticks,
    /// Whether packets can be encrypted now.
    session: bool,
    /// Our index in the newest session that the peer began and has not used yet.
    unconfirmed: Option<u32>,
    calls: Calls,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
}

impl Noise {
    /// Makes a fresh state, whose indices come from there.
    pub fn new(
        now: Instant,
        private: &PrivateKey,
        peer: PublicKey,
        preshared: Option<&PresharedKey>,
        source: IndexSource,
        keepalive: u16,
    ) -> Self {
        let parameters = TunnParameters {
            private: private.clone(),
            peer,
            preshared: preshared.cloned(),
            source,
        };
        let mut timers = Timers::default();
        timers.set_interval(now, keepalive);
        Self {
            tunn: None,
            parameters,
            born: None,
            accepted: None,
            newest: None,
            recorded: None,
            timers,
            ticks: Ticks::new(now),
            session: false,
            unconfirmed: None,
            calls: Calls::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Returns the newest initiation of the peer that was accepted: who accepts it again is deceived by a recording.
    pub(crate) fn newest(&self) -> Option<Initiation> {
        let newest = self.newest.as_ref().map(|(_, initiation)| *initiation);
        newest.or(self.recorded)
    }

    /// Takes a new persistent keepalive interval in seconds; zero is off.
    pub fn set_keepalive(&mut self, now: Instant, seconds: u16) {
        self.timers.set_interval(now, seconds);
    }

    /// Returns whether something may be overdue: then [`Self::is_ready`] does it.
    pub fn is_stale(&self, now: Instant) -> bool {
        self.ticks.is_stale(now)
    }

    /// Returns whether data has had no answer for so long that a handshake is due.
    pub fn is_unheard(&self, now: Instant) -> bool {
        self.timers.is_unheard(now)
    }

    /// Does what is overdue; returns whether packets can be encrypted now.
    pub fn is_ready(&mut self, now: Instant, scratch: &mut [u8], send: &mut dyn FnMut(&[u8])) -> bool {
        self.refresh(now, scratch, send);
        self.session
    }

    /// Keeps a padded packet from the tunnel and starts a handshake; another one when that under way began before there
    /// was a packet, as soon as an answer is overdue: perhaps the other side did not know this one then.
    /// With `force` also when one is under way.
    pub fn defer(
        &mut self,
        now: Instant,
        packet: &[u8],
        force: bool,
        scratch: &mut [u8],
        send: &mut dyn FnMut(&[u8]),
    ) {
        self.keep(packet);
        if !force && self.prompted_at().is_some_and(|at| at <= now) {
            self.initiate_again(now, scratch, send);
        } else {
            self.initiate(now, force, scratch, send);
        }
    }

    /// Returns when another initiation is to be sent for packets that wait, before it is time to repeat that under way.
    fn prompted_at(&self) -> Option<Instant> {
        self.calls.poll_timeout().filter(|_| self.has_waiting())
    }

    /// Returns whether packets could be encrypted at the last look.
    pub fn has_session(&self) -> bool {
        self.session
    }

    /// Returns whether the peer has begun the only session there is, and has not used it: perhaps it has not got the answer.
    pub fn is_unconfirmed(&self, now: Instant) -> bool {
        !self.session && self.unconfirmed.is_some() && self.ticks.has_keys(now)
    }

    /// Returns whether packets wait for a session.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Encrypts a padded packet into `room`, if there is a session; returns the datagram's length.
    pub fn seal_into(&mut self, now: Instant, packet: &[u8], room: &mut [u8]) -> Option<usize> {
        #[cfg(spanwire_null_cipher)]
        if !packet.is_empty() {
            self.timers.sent(now, true);
            return Some(null::seal(packet, room));
        }
        let TunnResult::WriteToNetwork(datagram) = self.tunn.as_mut()?.encapsulate(packet, room) else {
            return None;
        };
        self.timers.sent(now, !packet.is_empty());
        Some(datagram.len())
    }

    /// Sends an empty packet, or starts a handshake, whose end is as good.
    pub fn send_keepalive(&mut self, now: Instant, scratch: &mut [u8], send: &mut dyn FnMut(&[u8])) {
        self.refresh(now, scratch, send);
        if self.session {
            self.seal(now, &[], scratch, send);
        } else {
            self.initiate(now, false, scratch, send);
        }
    }

    /// Starts a handshake; with `force` even when one is under way.
    pub fn initiate(&mut self, now: Instant, force: bool, scratch: &mut [u8], send: &mut dyn FnMut(&[u8])) {
        if self.send_initiation(now, force, scratch, send) {
            self.ticks.initiated(now);
        }
    }

    /// Sends an initiation before it is time to repeat that under way, which is repeated in its time all the same: this one may
    /// be lost as well.
    fn initiate_again(&mut self, now: Instant, scratch: &mut [u8], send: &mut dyn FnMut(&[u8])) {
        if self.send_initiation(now, true, scratch, send) {
            self.ticks.initiated_again(now);
        }
    }

    fn send_initiation(
        &mut self,
        now: Instant,
        force: bool,
        scratch: &mut [u8],
        send: &mut dyn FnMut(&[u8]),
    ) -> bool {
        self.refresh(now, scratch, send);
        if self.parameters.is_weak() {
            return false;
        }
        let tunn = self.tunn(scratch);
        let Some(datagram) = tunn.initiate(now, force, scratch) else {
            return false;
        };
        send(datagram);
        let index = index(datagram);
        self.note_initiation(now, index);
        true
    }

    fn note_initiation(&mut self, now: Instant, index: Option<u32>) {
        self.calls.sent(now, index, self.has_waiting());
        self.timers.traversed(now);
    }

    /// Returns whether the newest initiation waits for an answer with this index.
    pub fn expects(&self, index: u32) -> bool {
        self.calls.expects(index)
    }

    /// Such an answer came and passed the first look. Forged ones may come before the real one; a few are waited for.
    pub fn note_answer(&mut self) {
        self.calls.note_answer();
    }

    /// Routes or addresses of this machine have changed: perhaps the newest initiation could not be sent, or not from an address
    /// where an answer arrives. If packets wait it is sent again, as soon as it has had time for an answer, and once more when
    /// they have settled: of initiations that waited for a neighbour and left in one go, the first is answered, and may be forgotten.
    pub fn handle_routes(&mut self, now: Instant) {
        self.calls.handle_routes(now);
    }

    /// What was sent last did not leave. If that was an initiation, the next change of routes finds it overdue.
    pub fn handle_unsent(&mut self) {
        if !self.session {
            self.calls.handle_unsent();
        }
    }

    /// Reads a datagram from the network, which may be forged. Its index may be another one afterwards.
    pub fn handle_datagram<'a>(
        &mut self,
        now: Instant,
        datagram: &mut [u8],
        scratch: &'a mut [u8],
        send: &mut dyn FnMut(&[u8]),
    ) -> Intake<'a> {
        let kind = datagram.first().copied().unwrap_or(0);
        let first = index(datagram);
        let refusal = match kind {
            DATA if field(datagram, 8).is_none_or(|counter| counter >= REJECT_AFTER_MESSAGES) => {
                Some(WireGuardError::InvalidCounter)
            }
            INITIATION
                if self
                    .accepted
                    .is_some_and(|at| now.saturating_duration_since(at) < PAUSE) =>
            {
                Some(WireGuardError::UnderLoad)
            }
            INITIATION | RESPONSE if self.is_weak(datagram) => Some(WireGuardError::WrongKey),
            _ => None,
        };
        if let Some(error) = refusal {
            return Intake {
                received: Received::Rejected(error),
                established: false,
            };
        }
        self.refresh(now, scratch, send);
        #[cfg(spanwire_null_cipher)]
        if null::is_one(datagram) {
            let Some((packet, source)) = null::open(datagram, scratch) else {
                return Intake {
                    received: Received::Rejected(WireGuardError::InvalidPacket),
                    established: false,
                };
            };
            self.timers.received(now, true);
            return Intake {
                received: Received::Packet(packet, source),
                established: false,
            };
        }
        if kind == INITIATION {
            self.tunn(scratch);
        }
        let Some(tunn) = &mut self.tunn else {
            return Intake {
                received: Received::Rejected(WireGuardError::NoCurrentSession),
                established: false,
            };
        };
        let received = match tunn.decapsulate(now, datagram, scratch) {
            TunnResult::Err(error) => Received::Rejected(error),
            TunnResult::WriteToNetwork(answer) => Received::Handshake(answer),
            TunnResult::WriteToTunnelV4(packet, source) => Received::Packet(packet, source.into()),
            TunnResult::WriteToTunnelV6(packet, source) => Received::Packet(packet, source.into()),
            TunnResult::Done if kind == DATA => Received::Keepalive,
            TunnResult::Done => Received::Cookie,
        };
        let established = match &received {
            Received::Rejected(_) | Received::Cookie => false,
            Received::Handshake(answer) => {
                self.timers.traversed(now);
                self.ticks.keyed(now);
                if kind == INITIATION {
                    self.unconfirmed = index(answer);
                    self.accepted = Some(now);
                    self.newest = datagram
                        .first_chunk()
                        .map(|initiation| (self.parameters.private.clone(), *initiation));
                    self.recorded = None;
                }
                if kind == RESPONSE {
                    self.calls.answered();
                    self.timers.established(now, true);
                }
                kind == RESPONSE
            }
            Received::Keepalive | Received::Packet(..) => {
                self.timers
                    .received(now, matches!(received, Received::Packet(..)));
                let confirmed = self.unconfirmed.is_some() && self.unconfirmed == first;
                if confirmed {
                    self.unconfirmed = None;
                    self.timers.established(now, false);
                }
                confirmed
            }
        };
        if established {
            self.session = true;
            self.calls.established();
            self.ticks.established();
        }
        Intake {
            received,
            established,
        }
    }

    /// Lets go the packets that waited for a session.
    pub fn send_waiting(&mut self, now: Instant, scratch: &mut [u8], send: &mut dyn FnMut(&[u8])) {
        self.waiting_bytes = 0;
        for packet in std::mem::take(&mut self.waiting) {
            self.seal(now, &packet, scratch, send);
        }
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant, scratch: &mut [u8], send: &mut dyn FnMut(&[u8])) {
        self.ticks.refreshed(now);
        if !self.ticks.is_held(now) {
            self.update(now, scratch, send);
        }
        let age = self
            .tunn
            .as_deref()
            .and_then(IndexedTunn::time_since_last_handshake);
        let had = std::mem::replace(&mut self.session, age.is_some());
        if had && !self.session {
            self.timers.reset();
        }
        let due = self.timers.handle_timeout(now);
        let repeat = self.ticks.is_repetition_due(now);
        let overdue = self.prompted_at().is_some_and(|at| at <= now);
        if repeat || due.handshake {
            // boringtun counts from the newest initiation, which may not be the one that is repeated.
            self.initiate(now, repeat || overdue, scratch, send);
        } else if overdue {
            self.initiate_again(now, scratch, send);
        }
        if due.keepalive {
            self.send_keepalive(now, scratch, send);
        }
    }

    /// Returns when [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        [
            self.ticks.poll_timeout(),
            self.timers.poll_timeout(now),
            self.prompted_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Brings boringtun's clock up to date.
    fn refresh(&mut self, now: Instant, scratch: &mut [u8], send: &mut dyn FnMut(&[u8])) {
        if self.is_stale(now) {
            self.handle_timeout(now, scratch, send);
        }
    }

    /// Lets boringtun repeat a handshake and drop keys.
    fn update(&mut self, now: Instant, scratch: &mut [u8], send: &mut dyn FnMut(&[u8])) {
        let Some(tunn) = &mut self.tunn else { return };
        match tunn.update_timers(now, scratch) {
            TunnResult::WriteToNetwork(datagram) if datagram[0] == INITIATION => {
                send(datagram);
                let index = index(datagram);
                self.note_initiation(now, index);
                self.ticks.initiated(now);
            }
            TunnResult::Err(WireGuardError::ConnectionExpired) => {
                self.ticks.clear();
                self.discard_waiting();
            }
            // A keepalive, and what cannot be.
            TunnResult::WriteToNetwork(_)
            | TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => {}
        }
    }

    pub(super) fn discard_waiting(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    fn seal(&mut self, now: Instant, packet: &[u8], scratch: &mut [u8], send: &mut dyn FnMut(&[u8])) {
        if let Some(length) = self.seal_into(now, packet, scratch) {
            send(&scratch[..length]);
        }
    }

    /// Returns whether a handshake message would give keys that everybody knows.
    fn is_weak(&self, handshake: &[u8]) -> bool {
        self.parameters.is_weak() || ephemeral(handshake).is_none_or(is_low_order)
    }

    /// Keeps a padded packet from the tunnel until there is a session: the newest that fit.
    pub fn keep(&mut self, packet: &[u8]) {
        if self.parameters.is_weak() {
            return;
        }
        self.waiting_bytes += packet.len();
        self.waiting.push_back(packet.to_vec());
        while self.waiting.len() > WAITING_PACKETS || self.waiting_bytes > WAITING_BYTES {
            let oldest = self.waiting.pop_front().map_or(0, |packet| packet.len());
            self.waiting_bytes -= oldest;
        }
    }
}

/// Returns the index at bytes 4 to 7: of the sender in a handshake message, of the receiver in a data message.
fn index(datagram: &[u8]) -> Option<u32> {
    datagram
        .get(4..8)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes)
}

fn field(datagram: &[u8], at: usize) -> Option<u64> {
    datagram
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_le_bytes)
}

impl std::fmt::Debug for Noise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Noise")
            .field("session", &self.session)
            .field("timers", &self.timers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::PeerId, index::Indices};

    #[test]
    fn a_counter_near_its_end_is_refused_before_boringtun_sees_it() {
        let now = Instant::now();
        let (me, other) = (PrivateKey::from([1; 32]), PrivateKey::from([2; 32]).public());
        let mut noise = Noise::new(now, &me, other, None, Indices::new(0, 1).source(PeerId(0)), 0);
        let mut reject = |counter: u64| {
            let mut datagram = [&[DATA, 0, 0, 0, 1, 0, 0, 0][..], &counter.to_le_bytes(), &[0; 16]].concat();
            let mut scratch = [0; 2048];
            let intake = noise.handle_datagram(now, &mut datagram, &mut scratch, &mut |_| {});
            let Received::Rejected(error) = intake.received else {
                panic!("{intake:?}")
            };
            format!("{error:?}")
        };
        assert_eq!(reject(REJECT_AFTER_MESSAGES - 1), "NoCurrentSession");
        assert_eq!(reject(REJECT_AFTER_MESSAGES), "InvalidCounter");
        assert_eq!(reject(u64::MAX), "InvalidCounter");
    }
}
