//! When to send what no packet asks for: section 6 of the WireGuard paper, as pure state.
//!
//! boringtun keeps timers of its own, but rounds them to its last tick, forgets a passive keepalive when a packet was
//! sent in the same tick, rekeys only for data, and fixes the persistent interval for a tunnel's life. So the tunnel's
//! timers stand here and boringtun's are left the retransmission of handshakes and the expiry of keys.

use std::time::{Duration, Instant};

const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
pub(crate) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What has to be sent now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// An empty packet.
    pub(crate) keepalive: bool,
    /// A handshake initiation, unless one is under way.
    pub(crate) handshake: bool,
}

/// The timers of one peer.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    interval: Option<Duration>,
    persistent_at: Option<Instant>,
    /// Data came in and nothing went out since.
    passive_at: Option<Instant>,
    /// More data came in while `passive_at` was running: one more keepalive after the next.
    passive_again: bool,
    /// Data went out and nothing came in since.
    silence_at: Option<Instant>,
    /// When this side, as the initiator, got its newest session.
    initiated: Option<Instant>,
    rekey: bool,
}

impl Timers {
    /// Takes a new persistent interval; zero is off.
    pub(crate) fn set_interval(&mut self, now: Instant, seconds: u16) {
        self.interval = (seconds != 0).then(|| Duration::from_secs(seconds.into()));
        self.traversed(now);
    }

    /// Records that a handshake completed.
    pub(crate) fn established(&mut self, now: Instant, initiator: bool) {
        self.initiated = initiator.then_some(now);
        self.rekey = false;
        self.silence_at = None;
    }

    /// Forgets all sessions.
    pub(crate) fn reset(&mut self) {
        *self = Self {
            interval: self.interval,
            persistent_at: self.persistent_at,
            ..Self::default()
        };
    }

    /// Records that a packet under a session key went out; `data` unless it was empty.
    pub(crate) fn sent(&mut self, now: Instant, data: bool) {
        self.traversed(now);
        self.passive_at = None;
        self.passive_again = false;
        if data {
            self.silence_at
                .get_or_insert(now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT);
        }
        self.rekey |= self
            .initiated
            .is_some_and(|since| now >= since + REKEY_AFTER_TIME);
    }

    /// Records that a packet under a session key came in; `data` unless it was empty.
    pub(crate) fn received(&mut self, now: Instant, data: bool) {
        self.traversed(now);
        self.silence_at = None;
        if data {
            self.passive_again = self.passive_at.is_some();
            self.passive_at.get_or_insert(now + KEEPALIVE_TIMEOUT);
        }
        let too_old = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT;
        self.rekey |= self.initiated.is_some_and(|since| now >= since + too_old);
    }

    /// Records that a handshake message went out or came in.
    pub(crate) fn traversed(&mut self, now: Instant) {
        self.persistent_at = self.interval.map(|interval| now + interval);
    }

    /// Returns whether data has had no answer for so long that a handshake is due.
    pub(crate) fn is_unheard(&self, now: Instant) -> bool {
        self.silence_at.is_some_and(|at| at <= now)
    }

    /// Returns what is due; asking rearms.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Due {
        let mut due = Due {
            keepalive: false,
            handshake: std::mem::take(&mut self.rekey),
        };
        if self.passive_at.is_some_and(|at| at <= now) {
            self.passive_at = std::mem::take(&mut self.passive_again).then(|| now + KEEPALIVE_TIMEOUT);
            due.keepalive = true;
        }
        if self.is_unheard(now) {
            self.silence_at = None;
            due.handshake = true;
        }
        if self.persistent_at.is_some_and(|at| at <= now) {
            self.traversed(now);
            due.keepalive = true;
        }
        due
    }

    /// Returns when something is due next.
    pub(crate) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let rekey = self.rekey.then_some(now);
        [self.persistent_at, self.passive_at, self.silence_at, rekey]
            .into_iter()
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Due = Due {
        keepalive: false,
        handshake: false,
    };
    const KEEPALIVE: Due = Due {
        keepalive: true,
        handshake: false,
    };
    const HANDSHAKE: Due = Due {
        keepalive: false,
        handshake: true,
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_idle_peer_wants_nothing() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.established(start, true);
        assert_eq!(timers.poll_timeout(start), None);
        assert_eq!(timers.handle_timeout(start + seconds(1000)), NOTHING);
    }

    #[test]
    fn data_without_an_answer_is_acknowledged_by_a_keepalive_after_ten_seconds() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.sent(start, true);
        timers.received(start, true);
        assert_eq!(timers.handle_timeout(start + seconds(9)), NOTHING);
        assert_eq!(timers.handle_timeout(start + seconds(10)), KEEPALIVE);
        assert_eq!(timers.handle_timeout(start + seconds(60)), NOTHING);
    }

    #[test]
    fn an_answer_stands_for_the_keepalive() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.received(start, true);
        timers.sent(start + seconds(3), false);
        assert_eq!(timers.handle_timeout(start + seconds(60)), NOTHING);
    }

    #[test]
    fn a_stream_without_answers_is_acknowledged_again_and_again() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.received(start, true);
        timers.received(start + seconds(1), true);
        assert_eq!(timers.handle_timeout(start + seconds(10)), KEEPALIVE);
        assert_eq!(timers.poll_timeout(start), Some(start + seconds(20)));
    }

    #[test]
    fn silence_after_data_starts_a_handshake_after_fifteen_seconds() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.sent(start, true);
        timers.sent(start + seconds(10), true);
        assert_eq!(timers.handle_timeout(start + seconds(14)), NOTHING);
        assert_eq!(timers.handle_timeout(start + seconds(15)), HANDSHAKE);
        timers.sent(start + seconds(20), true);
        timers.received(start + seconds(21), false);
        assert_eq!(timers.handle_timeout(start + seconds(60)), NOTHING);
    }

    #[test]
    fn only_the_initiator_rekeys_when_it_sends_on_an_old_key() {
        let start = Instant::now();
        for (initiator, want) in [(true, HANDSHAKE), (false, NOTHING)] {
            let mut timers = Timers::default();
            timers.established(start, initiator);
            timers.sent(start + seconds(119), false);
            assert_eq!(timers.handle_timeout(start + seconds(119)), NOTHING);
            timers.sent(start + seconds(120), false);
            assert_eq!(timers.handle_timeout(start + seconds(120)), want);
        }
    }

    #[test]
    fn the_initiator_rekeys_when_it_receives_on_a_key_about_to_die() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.established(start, true);
        timers.received(start + seconds(164), false);
        assert_eq!(timers.handle_timeout(start + seconds(164)), NOTHING);
        timers.received(start + seconds(165), false);
        assert_eq!(timers.handle_timeout(start + seconds(165)), HANDSHAKE);
    }

    #[test]
    fn the_persistent_interval_counts_from_the_last_packet_and_can_be_changed() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set_interval(start, 25);
        timers.received(start + seconds(20), false);
        assert_eq!(timers.handle_timeout(start + seconds(44)), NOTHING);
        assert_eq!(timers.handle_timeout(start + seconds(45)), KEEPALIVE);
        assert_eq!(timers.poll_timeout(start), Some(start + seconds(70)));
        timers.set_interval(start + seconds(50), 0);
        assert_eq!(timers.poll_timeout(start), None);
    }
}
