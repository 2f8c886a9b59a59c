//! When the first thread looks at the interface, the socket's file and the clocks: once a second, and when the kernel says that
//! something has changed. Where a routing daemon changes routes all the time, it says so a thousand times a second.

use std::time::{Duration, Instant};

use crate::runtime::INSPECTION;

/// A look follows a notification after this time at the latest.
const PAUSE: Duration = Duration::from_millis(10);

/// When there was a look last, and whether another is wanted.
#[derive(Debug)]
pub(super) struct Pace {
    looked: Instant,
    clocks: Option<Instant>,
    wanted: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            looked: now,
            clocks: None,
            wanted: false,
        }
    }

    /// Something has changed.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Returns whether it is time to look.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next() <= now
    }

    /// Returns when it is time to look.
    pub(super) fn next(&self) -> Instant {
        self.looked + if self.wanted { PAUSE } else { INSPECTION }
    }

    /// There is a look now; returns whether at the clocks, too, which concerns every peer.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        (self.looked, self.wanted) = (now, false);
        let clocks = self
            .clocks
            .is_none_or(|at| now.saturating_duration_since(at) >= INSPECTION);
        if clocks {
            self.clocks = Some(now);
        }
        clocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_change_after_a_rest_is_looked_at_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let now = start + 300 * MS;
        assert!(!pace.is_due(now));
        pace.want();
        assert!(pace.is_due(now));
    }

    #[test]
    fn of_changes_without_end_some_are_looked_at_and_the_last_one() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let (mut looks, mut clocks) = (Vec::new(), 0);
        let mut now = start;
        for _ in 0..10_000 {
            now += MS;
            pace.want();
            if pace.is_due(now) {
                clocks += u32::from(pace.look(now));
                looks.push(now);
            }
        }
        assert_eq!((looks.len(), clocks), (1000, 10));
        pace.want();
        let next = pace.next();
        assert!(next <= now + PAUSE && pace.is_due(next), "it is not lost");
        pace.look(next);
        assert_eq!(pace.next(), next + INSPECTION);
    }
}
