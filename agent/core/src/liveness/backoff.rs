//! How long what failed is left alone: the longer, the more often it failed, and not as long on every node.

use std::time::{Duration, Instant};

/// Failures are forgotten when so long nothing failed, and so many times the wait that they brought.
const FORGIVEN: (Duration, u32) = (Duration::from_secs(600), 8);

/// By up to this share of itself a wait is longer: what many nodes gave up at one time they would else try again at one time.
const JITTER: f64 = 0.25;

/// Waits that double with every failure.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    /// How much longer the present wait is, as a share of itself.
    jitter: f64,
    /// When the last failure ended.
    ended: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
            jitter: 0.0,
            ended: None,
        }
    }

    /// Records a failure. It lasts until [`Self::handle_ended`]. `chance` is from 0 to 1.
    pub(super) fn handle_failure(&mut self, chance: f64, now: Instant) {
        let (least, waits) = FORGIVEN;
        let forgiven = least.max(waits * self.wait());
        let is_forgiven = self.until().is_some_and(|until| now >= until + forgiven);
        self.failures = if is_forgiven {
            1
        } else {
            self.failures.saturating_add(1)
        };
        self.jitter = chance * JITTER;
        self.ended = None;
    }

    /// Records that the failure has ended; then the wait begins.
    pub(super) fn handle_ended(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// Records a failure that is over as soon as it is seen.
    pub(super) fn handle_wait(&mut self, chance: f64, now: Instant) {
        self.handle_failure(chance, now);
        self.handle_ended(now);
    }

    /// Records that there is nothing to wait for, though the failures are remembered.
    pub(super) fn handle_proved(&mut self, now: Instant) {
        if self.waits(now) {
            self.ended = now.checked_sub(self.wait());
        }
    }

    /// Returns whether what failed is still left alone after its failure ended.
    pub(super) fn waits(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// Returns for how long it has been left alone; `None` where it never failed, or still does.
    pub(super) fn waited(&self, now: Instant) -> Option<Duration> {
        self.ended.map(|ended| now.saturating_duration_since(ended))
    }

    /// Returns until when it is left alone; `None` where it never failed, or still does.
    pub(super) fn until(&self) -> Option<Instant> {
        self.ended.map(|ended| ended + self.wait())
    }

    fn wait(&self) -> Duration {
        let doubled = self.failures.saturating_sub(1).min(20);
        let wait = (self.first * (1 << doubled)).min(self.longest);
        wait + wait.mul_f64(self.jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_failure_doubles_the_wait_until_it_is_long_past() {
        let (mut backoff, mut now) = (Backoff::new(SECOND, 10 * SECOND), Instant::now());
        assert!(!backoff.waits(now));
        for wait in [1, 2, 4, 8, 10, 10] {
            backoff.handle_failure(0.0, now);
            assert!(!backoff.waits(now) && backoff.until().is_none());
            now += 100 * SECOND;
            backoff.handle_ended(now);
            assert!(backoff.waits(now + (wait - 1) * SECOND));
            now += wait * SECOND;
            assert!(!backoff.waits(now));
        }
        now += 600 * SECOND;
        backoff.handle_failure(0.0, now);
        backoff.handle_ended(now);
        assert_eq!(backoff.until(), Some(now + SECOND));
    }

    #[test]
    fn what_is_proved_is_not_waited_for_and_not_forgotten() {
        let (mut backoff, now) = (Backoff::new(SECOND, 60 * SECOND), Instant::now() + 60 * SECOND);
        backoff.handle_failure(0.0, now);
        backoff.handle_ended(now);
        backoff.handle_proved(now);
        assert!(!backoff.waits(now));
        backoff.handle_failure(0.0, now);
        backoff.handle_ended(now);
        assert_eq!(backoff.until(), Some(now + 2 * SECOND));
    }

    #[test]
    fn a_wait_is_longer_by_chance_and_never_shorter() {
        let now = Instant::now();
        for (chance, wait) in [(0.0, 4.0), (0.5, 4.5), (1.0, 5.0)] {
            let mut backoff = Backoff::new(SECOND, 60 * SECOND);
            for _ in 0..3 {
                backoff.handle_failure(chance, now);
                backoff.handle_ended(now);
            }
            assert_eq!(backoff.until(), Some(now + SECOND.mul_f64(wait)), "{chance}");
        }
    }
}
