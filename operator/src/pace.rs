//! When the next decision is made: the first change is decided upon at once, a burst of them once per [`INTERVAL`].
//! Sans I/O.

use std::time::{Duration, Instant};

/// While changes go on, decisions are at least this far apart.
pub const INTERVAL: Duration = Duration::from_millis(200);
/// Events that belong together come within so long of each other …
const GATHER: Duration = Duration::from_millis(2);
/// … but no decision waits longer for more of them.
const LONGEST: Duration = Duration::from_millis(20);

/// Spaces decisions out.
#[derive(Debug, Default)]
pub struct Pace {
    /// The first and the latest event since the last decision.
    events: Option<(Instant, Instant)>,
    decided: Option<Instant>,
}

impl Pace {
    /// An event was entered.
    pub fn handle_event(&mut self, now: Instant) {
        let first = self.events.map_or(now, |(first, _)| first);
        self.events = Some((first, now));
    }

    /// A decision was made.
    pub fn handle_decided(&mut self, now: Instant) {
        self.decided = Some(now);
        self.events = None;
    }

    /// What was held back until the last decision was written can be decided upon now.
    pub fn handle_continued(&mut self) {
        self.decided = None;
    }

    /// Returns when the next decision may be made; `None`: at once.
    #[must_use]
    pub fn poll_due(&self) -> Option<Instant> {
        let gathered = self
            .events
            .map(|(first, latest)| (latest + GATHER).min(first + LONGEST));
        let spaced = self.decided.map(|decided| decided + INTERVAL);
        gathered.max(spaced)
    }

    /// Returns whether a decision may be made.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.poll_due().is_none_or(|due| due <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_decided_upon_at_once() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert!(pace.is_due(start));
        pace.handle_event(start);
        assert!(!pace.is_due(start));
        assert!(pace.is_due(start + GATHER));
        pace.handle_decided(start + GATHER);
        let later = start + 2 * INTERVAL;
        pace.handle_event(later);
        assert_eq!(pace.poll_due(), Some(later + GATHER), "the burst is over");
    }

    #[test]
    fn events_that_come_together_are_decided_upon_together_but_not_for_ever() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for millisecond in 0..100 {
            let now = start + Duration::from_millis(millisecond);
            if pace.is_due(now) && millisecond > 0 {
                assert_eq!(now, start + LONGEST);
                return;
            }
            pace.handle_event(now);
        }
        panic!("a decision waits for the end of the burst");
    }

    #[test]
    fn a_burst_is_decided_upon_once_per_interval() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut decisions = 0;
        for millisecond in 0..2000 {
            let now = start + Duration::from_millis(millisecond);
            pace.handle_event(now);
            if pace.is_due(now) {
                pace.handle_decided(now);
                decisions += 1;
            }
        }
        assert!((9..=11).contains(&decisions), "{decisions} in two seconds");
    }

    #[test]
    fn what_was_held_back_does_not_wait_for_the_interval() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.handle_event(start);
        pace.handle_decided(start + GATHER);
        assert!(!pace.is_due(start + 2 * GATHER));
        pace.handle_continued();
        assert!(pace.is_due(start + 2 * GATHER));
    }
}
