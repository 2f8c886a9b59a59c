//! How often something may be done: a token bucket.

use std::time::{Duration, Instant};

/// How much may be done at once, and in the long run.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// How many times in a second.
    rate: f64,
    /// How many times at once.
    most: f64,
    left: f64,
    since: Option<Instant>,
}

impl Allowance {
    /// Returns one of which nothing is used. `rate` is greater than 0, `most` is 1 or more.
    pub(crate) fn new(rate: f64, most: f64) -> Self {
        Self {
            rate,
            most,
            left: most,
            since: None,
        }
    }

    fn grow(&mut self, now: Instant) {
        let since = self.since.replace(now).unwrap_or(now);
        let grown = now.saturating_duration_since(since).as_secs_f64() * self.rate;
        self.left = (self.left + grown).min(self.most);
    }

    /// Returns how many times it may be done now.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole times, of which there are never less than none"
    )]
    pub(crate) fn left(&mut self, now: Instant) -> usize {
        self.grow(now);
        self.left as usize
    }

    /// Counts what has been done, no more often than [`Self::left`] said.
    #[expect(clippy::cast_precision_loss, reason = "a few times")]
    pub(crate) fn spend(&mut self, times: usize) {
        self.left -= times as f64;
    }

    /// Returns whether it may be done once more, and counts it.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let may = self.left(now) > 0;
        self.spend(usize::from(may));
        may
    }

    /// Returns when it may be done again.
    pub(crate) fn next(&mut self, now: Instant) -> Instant {
        self.grow(now);
        if self.left >= 1.0 {
            return now;
        }
        // Rounded up, so that it may be then.
        now + Duration::from_secs_f64((1.0 - self.left) / self.rate) + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unused_is_saved_up_to_what_may_be_done_at_once() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut allowance = Allowance::new(10.0, 3.0);
        assert_eq!((allowance.left(start), allowance.next(start)), (3, start));
        allowance.spend(2);
        assert!(allowance.take(start) && !allowance.take(start));
        let next = allowance.next(start);
        assert_eq!(next, at(101));
        assert!(!allowance.take(at(99)) && allowance.take(next) && !allowance.take(next));
        assert_eq!(allowance.left(at(60_000)), 3);
        assert_eq!(allowance.left(start), 3, "time does not go back");
    }
}
