//! Waits between attempts. They differ from node to node, so that a thousand agents do not act at once.

use std::time::Duration;

/// A time from `least` up to twice that.
#[must_use]
pub fn jittered(least: Duration) -> Duration {
    let share = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    least.mul_f64(1.0 + share)
}

/// Longer and longer waits between attempts.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The first wait, and the longest.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// How long to wait before the next attempt.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = self.longest.min(wait * 2);
        wait
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit_and_begin_anew() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 3 * second);
        assert_eq!(
            [backoff.wait(), backoff.wait(), backoff.wait(), backoff.wait()],
            [second, 2 * second, 3 * second, 3 * second]
        );
        backoff.reset();
        assert_eq!(backoff.wait(), second);
    }

    #[test]
    fn jitter_stays_in_its_bounds() {
        let second = Duration::from_secs(1);
        for _ in 0..100 {
            assert!((second..=2 * second).contains(&jittered(second)));
        }
    }
}
