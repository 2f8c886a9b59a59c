//! When boringtun's own clock has to move, so that a peer at rest does not wake the device.
//!
//! boringtun wants its `update_timers` every 250 ms, for it repeats handshakes and drops keys in there and nowhere else.
//! Both are known in advance: an initiation is repeated after five seconds and a jitter (section 6.4 of the WireGuard
//! paper), which boringtun lacks; keys are dropped three and nine minutes after the newest session began. In between only
//! what is done with a peer moves its clock, at most once in 250 ms.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use crate::noise::timers::{REJECT_AFTER_TIME, REKEY_TIMEOUT};

/// How far boringtun's clock may be behind when something is done with it, and how soon is tried again what it found too
/// early by a hair.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// The longest jitter; the kernel has the same.
const JITTER: Duration = Duration::from_millis(333);

/// What boringtun has to be woken for.
#[derive(Debug)]
pub(crate) struct Ticks {
    refreshed: Instant,
    initiation: Option<Initiation>,
    /// When the newest session began, on either side.
    keyed: Option<Instant>,
    random: RandomState,
}

/// An initiation without a session yet.
#[derive(Clone, Copy, Debug)]
struct Initiation {
    /// When boringtun would repeat it.
    early: Instant,
    /// When it is repeated.
    repeat: Instant,
}

impl Ticks {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            refreshed: now,
            initiation: None,
            keyed: None,
            random: RandomState::new(),
        }
    }

    /// Records that boringtun's clock moved to this moment.
    pub(crate) fn refreshed(&mut self, now: Instant) {
        self.refreshed = now;
    }

    /// Returns whether boringtun's clock is too far behind for anything to be done.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.refreshed) >= TICK
    }

    /// Records that an initiation went out.
    pub(crate) fn initiated(&mut self, now: Instant) {
        let span = JITTER.as_micros() as u64 + 1;
        let early = now + REKEY_TIMEOUT;
        let jitter = Duration::from_micros(self.random.hash_one(now) % span);
        self.initiation = Some(Initiation {
            early,
            repeat: early + jitter,
        });
    }

    /// Records that another initiation went out before it was time to repeat the one before, which is not put off by that.
    pub(crate) fn initiated_again(&mut self, now: Instant) {
        if self.is_repetition_due(now) || self.initiation.is_none() {
            self.initiated(now);
        }
    }

    /// Keys were agreed on; both sides know it unless this is the answering one.
    pub(crate) fn keyed(&mut self, now: Instant) {
        self.keyed = Some(now);
    }

    /// Returns whether the keys of the newest session may be used.
    pub(crate) fn has_keys(&self, now: Instant) -> bool {
        self.keyed.is_some_and(|since| now < since + REJECT_AFTER_TIME)
    }

    /// Records that a session is known to both sides: nothing has to be repeated.
    pub(crate) fn established(&mut self) {
        self.initiation = None;
    }

    /// Forgets all keys and handshakes; returns whether there were any.
    pub(crate) fn clear(&mut self) -> bool {
        self.initiation.take().is_some() | self.keyed.take().is_some()
    }

    /// Returns whether boringtun's clock has to stand a moment, or it would repeat an initiation without jitter. Never
    /// when a key dies meanwhile.
    pub(crate) fn is_held(&self, now: Instant) -> bool {
        let held = self
            .initiation
            .is_some_and(|initiation| (initiation.early..initiation.repeat).contains(&now));
        held && self.keyed.is_none_or(|since| now < since + REJECT_AFTER_TIME)
    }

    /// Returns whether an initiation has to be repeated by now.
    pub(crate) fn is_repetition_due(&self, now: Instant) -> bool {
        self.initiation.is_some_and(|initiation| initiation.repeat <= now)
    }

    /// Returns when boringtun has to be woken next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let again = self.refreshed + TICK;
        let repeat = self
            .initiation
            .map(|Initiation { repeat, .. }| if repeat > self.refreshed { repeat } else { again });
        // A tick later than the moment, for boringtun dates a session back by up to one, and compares with `>`.
        let dies = self.keyed.map(|since| {
            [1, 3]
                .map(|times| since + times * REJECT_AFTER_TIME + TICK)
                .into_iter()
                .find(|at| *at > self.refreshed)
                .unwrap_or(again)
        });
        repeat.into_iter().chain(dies).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_initiation_is_repeated_after_five_seconds_and_up_to_a_third() {
        let start = Instant::now();
        let mut ticks = Ticks::new(start);
        let mut jitters: Vec<Duration> = (0..200)
            .map(|number| {
                let sent = start + seconds(number);
                ticks.initiated(sent);
                let repeat = ticks.poll_timeout().expect("it was sent");
                assert!(!ticks.is_repetition_due(repeat - Duration::from_micros(1)));
                assert!(ticks.is_repetition_due(repeat) && !ticks.is_held(repeat));
                repeat - sent - REKEY_TIMEOUT
            })
            .collect();
        jitters.sort_unstable();
        assert!(*jitters.last().expect("200") <= JITTER);
        assert!(
            jitters[20] < JITTER / 4 && jitters[180] > JITTER * 3 / 4,
            "{jitters:?}"
        );
        jitters.dedup();
        assert!(jitters.len() > 100, "{jitters:?}");
    }

    #[test]
    fn the_clock_stands_while_an_initiation_waits_for_its_jitter_but_not_for_a_dying_key() {
        let start = Instant::now();
        let mut ticks = Ticks::new(start);
        ticks.initiated(start);
        if let Some(initiation) = &mut ticks.initiation {
            initiation.repeat = start + seconds(5) + JITTER / 2;
        }
        assert!(!ticks.is_held(start + seconds(4)));
        assert!(ticks.is_held(start + seconds(5)));
        assert!(!ticks.is_held(start + seconds(5) + JITTER));
        ticks.keyed(start + seconds(5) - REJECT_AFTER_TIME);
        assert!(!ticks.is_held(start + seconds(5)));
        ticks.established();
        ticks.keyed(start);
        assert!(!ticks.is_held(start + seconds(5)));
    }

    #[test]
    fn a_session_at_rest_wakes_twice() {
        let start = Instant::now();
        let mut ticks = Ticks::new(start);
        ticks.initiated(start);
        ticks.keyed(start);
        ticks.established();
        for want in [180, 540] {
            let at = ticks.poll_timeout().expect("keys are to be dropped");
            assert_eq!(at, start + seconds(want) + TICK);
            ticks.refreshed(at);
        }
        assert!(ticks.clear());
        assert_eq!(ticks.poll_timeout(), None);
        assert!(!ticks.clear());
    }

    #[test]
    fn what_came_too_early_by_a_hair_is_tried_again() {
        let start = Instant::now();
        let mut ticks = Ticks::new(start);
        ticks.initiated(start);
        let at = ticks.poll_timeout().expect("it was sent");
        ticks.refreshed(at);
        assert_eq!(ticks.poll_timeout(), Some(at + TICK));
        assert!(ticks.is_stale(at + TICK) && !ticks.is_stale(at + TICK / 2));
    }
}
