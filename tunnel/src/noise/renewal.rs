//! A new `Tunn` in the place of one whose preshared key or clock is out of date, with what the old one knew of replays.
//!
//! * The timestamps of a `Tunn`'s handshakes count from the wall clock at its birth. On a machine that learns the time after
//!   the start they stay in the past, and who has seen later ones from an earlier process never answers again.
//! * A `Tunn` refuses initiations that are not newer than all it has seen, and a new one has seen none: a recorded one would
//!   be answered, and its sender would be taken for the peer. So a new one is given the newest that was accepted
//!   before anything else, and its answer is thrown away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use boringtun::noise::{Tunn, TunnResult, rate_limiter::RateLimiter};

use crate::{
    clock::Moment,
    index::IndexSource,
    key::{PresharedKey, PrivateKey, PublicKey, is_low_order},
    noise::{Initiation, Noise, calls::Calls, indexed::IndexedTunn},
};

/// How far the wall clock may run ahead of a `Tunn`'s timestamps.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// What makes a `Tunn`.
pub(super) struct TunnParameters {
    pub(super) private: PrivateKey,
    pub(super) peer: PublicKey,
    pub(super) preshared: Option<PresharedKey>,
    pub(super) source: IndexSource,
}

impl TunnParameters {
    fn begin(&self) -> Tunn {
        self.begin_as(&self.private)
    }

    fn begin_as(&self, private: &PrivateKey) -> Tunn {
        Tunn::new(
            private.to_x25519(),
            self.peer.to_x25519(),
            self.preshared.as_ref().map(PresharedKey::bytes),
            None,
            // None of its indices is sent.
            0,
            Some(unlimited(private)),
        )
    }

    /// Makes one that refuses what is not newer than this initiation, which was made for that key.
    fn begin_after(&self, newest: Option<&(PrivateKey, Initiation)>, scratch: &mut [u8]) -> Tunn {
        let Some((private, initiation)) = newest else {
            return self.begin();
        };
        let mut tunn = self.begin_as(private);
        tunn.decapsulate(None, initiation, scratch);
        if *private != self.private {
            let public = self.private.public().to_x25519();
            tunn.set_static_private(self.private.to_x25519(), public, Some(unlimited(&self.private)));
        }
        tunn
    }

    fn index(&self, tunn: Tunn) -> Box<IndexedTunn> {
        Box::new(IndexedTunn::new(
            tunn,
            self.source.clone(),
            self.private.public(),
            self.peer,
        ))
    }

    /// Returns whether everybody knows the secret shared with this peer.
    pub(super) fn is_weak(&self) -> bool {
        is_low_order(&self.peer.0)
    }
}

/// Returns no limit: the device admits handshakes (`admission.rs`), and a second limit in each `Tunn` would count every
/// message twice.
fn unlimited(private: &PrivateKey) -> Arc<RateLimiter> {
    Arc::new(RateLimiter::new(&private.public().to_x25519(), u64::MAX))
}

impl Noise {
    /// Takes another preshared key; all sessions end, and packets go on waiting.
    pub fn set_preshared(&mut self, now: Instant, preshared: Option<PresharedKey>) {
        self.parameters.preshared = preshared;
        self.renew(now);
    }

    /// Takes a new identity of this device; all sessions and handshakes end, and packets go on waiting.
    pub fn set_private_key(&mut self, now: Instant, private: &PrivateKey) {
        self.parameters.private = private.clone();
        self.renew(now);
    }

    /// Takes the newest initiation that an earlier state accepted. If that was for this identity, older ones are refused.
    pub(crate) fn remember(&mut self, initiation: Option<Initiation>) {
        self.recorded = initiation;
    }

    /// Returns the `Tunn`, which is made if there is none.
    pub(super) fn tunn(&mut self, scratch: &mut [u8]) -> &mut IndexedTunn {
        let Self {
            tunn,
            born,
            parameters,
            newest,
            recorded,
            ..
        } = self;
        tunn.get_or_insert_with(|| {
            *born = Some(Moment::now());
            if let Some(initiation) = *recorded {
                let mut tunn = parameters.begin();
                let answer = tunn.decapsulate(None, &initiation, scratch);
                if matches!(answer, TunnResult::WriteToNetwork(_)) {
                    *newest = Some((parameters.private.clone(), initiation));
                    *recorded = None;
                    return parameters.index(tunn);
                }
            }
            parameters.index(parameters.begin_after(newest.as_ref(), scratch))
        })
    }

    /// Follows the wall clock. When it was set ahead and there is no session to lose, starts over; returns whether a
    /// handshake under way has to be started again.
    pub fn handle_clock(&mut self, now: Instant, moment: Moment) -> bool {
        let is_late = |born| moment.set_ahead_since(born) > CLOCK_TOLERANCE;
        if self.session || !self.born.is_some_and(is_late) {
            return false;
        }
        self.renew(now)
    }

    /// Forgets all keys, for the machine was suspended and its memory may have been written somewhere.
    pub fn drop_keys(&mut self, now: Instant) {
        self.renew(now);
    }

    /// The interface came up. A keepalive that was due before is not sent late.
    pub fn start(&mut self, now: Instant) {
        self.timers.traversed(now);
    }

    /// Forgets all keys, handshakes and waiting packets, for the interface went down.
    pub fn stop(&mut self, now: Instant) {
        self.renew(now);
        self.discard_waiting();
    }

    /// Begins again with everything but replays; returns whether there were keys or handshakes.
    fn renew(&mut self, now: Instant) -> bool {
        (self.tunn, self.born) = (None, None);
        self.timers.reset();
        self.ticks.refreshed(now);
        self.session = false;
        self.unconfirmed = None;
        self.calls = Calls::default();
        self.ticks.clear()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::PeerId, index::Indices};

    #[test]
    fn a_wall_clock_that_jumps_ahead_makes_handshakes_start_over() {
        let (start, born) = (Instant::now(), Moment::now());
        let after = |wall: Duration, uptime: Duration| Moment {
            wall: born.wall + wall,
            uptime: born.uptime + uptime,
            ..born
        };
        let (moment, hour) = (Duration::from_millis(10), Duration::from_secs(3600));
        let (me, other) = (PrivateKey::from([1; 32]), PrivateKey::from([2; 32]).public());
        let mut noise = Noise::new(start, &me, other, None, Indices::new(0, 1).source(PeerId(5)), 0);
        // A fresh `Tunn` begins with the first of its own indices, which are not those that are sent.
        let initiate = |noise: &mut Noise, now| {
            let mut sent = 0;
            noise.initiate(now, true, &mut [0; 2048], &mut |_| sent += 1);
            assert_eq!(sent, 1);
            let newest = noise.tunn.as_ref().and_then(|tunn| tunn.calls[0].as_ref());
            newest.map(|call| call.inner)
        };
        assert_eq!(initiate(&mut noise, start), Some(1));
        let later = start + Duration::from_millis(10);
        assert!(!noise.handle_clock(later, after(moment, moment)));
        assert!(
            !noise.handle_clock(later, after(moment, hour)),
            "a step back changes nothing"
        );
        assert!(
            !noise.handle_clock(later, after(hour, hour)),
            "the machine was suspended, and boringtun knows"
        );
        assert_eq!(initiate(&mut noise, later), Some(2));
        assert!(
            noise.handle_clock(later, after(hour, moment)),
            "a handshake was under way"
        );
        assert_eq!(initiate(&mut noise, later), Some(1));
        noise.session = true;
        assert!(!noise.handle_clock(later, after(2 * hour, moment)));
        assert_eq!(initiate(&mut noise, later), Some(2), "a session is not given up");
    }
}
