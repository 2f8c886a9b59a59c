//! The locations for which the tunnel is enforced: plaintext from and to them is dropped.
//!
//! When two locations become established their nodes learn it one after the other. A node that enforced at once would
//! drop what a slower one still sends in plaintext. So a location is enforced some time after it was established, however often the
//! agent is started meanwhile. Where a cluster says that nothing is ever to be sent in plaintext there is nothing to wait for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spanwire_topology::LocationName;

/// How long the slowest node has to follow.
const TRANSITION: Duration = Duration::from_secs(30);

/// The established locations, enforced or pending.
#[derive(Debug)]
pub struct Enforcement {
    transition: Duration,
    enforced: BTreeSet<LocationName>,
    pending: BTreeMap<LocationName, Instant>,
}

impl Default for Enforcement {
    fn default() -> Self {
        Self::new(BTreeSet::new())
    }
}

impl Enforcement {
    /// Takes over what was enforced before the agent started.
    #[must_use]
    pub fn new(enforced: BTreeSet<LocationName>) -> Self {
        Self {
            transition: TRANSITION,
            enforced,
            pending: BTreeMap::new(),
        }
    }

    /// Takes over what was pending before the agent started, and for how long it still was.
    pub fn remember_pending(&mut self, left: BTreeMap<LocationName, Duration>, now: Instant) {
        // A clock that was set back meanwhile makes it longer.
        let due = |left: Duration| now + left.min(self.transition);
        self.pending = left
            .into_iter()
            .map(|(location, left)| (location, due(left)))
            .collect();
    }

    /// No location has to be waited for.
    pub fn wait_for_none(&mut self) {
        self.transition = Duration::ZERO;
    }

    /// Takes the locations that are established with this node's own.
    pub fn handle_established(&mut self, established: &BTreeSet<LocationName>, now: Instant) {
        self.enforced.retain(|location| established.contains(location));
        self.pending.retain(|location, _| established.contains(location));
        for location in established.difference(&self.enforced) {
            self.pending
                .entry(location.clone())
                .or_insert(now + self.transition);
        }
        self.handle_timeout(now);
    }

    /// Enforces what has been pending for long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Self {
            enforced, pending, ..
        } = self;
        pending.retain(|location, due| {
            let over = *due <= now;
            if over {
                enforced.insert(location.clone());
            }
            !over
        });
    }

    /// Returns when the next location is enforced.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pending.values().min().copied()
    }

    /// Returns the locations that are not enforced yet, and when they will be.
    #[must_use]
    pub fn pending(&self) -> &BTreeMap<LocationName, Instant> {
        &self.pending
    }

    /// Returns the enforced locations.
    #[must_use]
    pub fn enforced(&self) -> &BTreeSet<LocationName> {
        &self.enforced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<LocationName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_location_is_enforced_half_a_minute_after_it_was_first_seen_established() {
        let (mut enforced, start) = (Enforcement::default(), Instant::now());
        enforced.handle_established(&names(&["b"]), start);
        let later = start + Duration::from_secs(10);
        enforced.handle_established(&names(&["b", "c"]), later);
        assert_eq!(enforced.poll_timeout(), Some(start + TRANSITION));
        enforced.handle_timeout(start + TRANSITION - Duration::from_millis(1));
        assert!(enforced.enforced().is_empty());
        enforced.handle_timeout(start + TRANSITION);
        assert_eq!(enforced.enforced(), &names(&["b"]));
        enforced.handle_timeout(later + TRANSITION);
        assert_eq!(enforced.enforced(), &names(&["b", "c"]));
        assert_eq!(enforced.poll_timeout(), None);
    }

    #[test]
    fn what_was_enforced_stays_so_over_a_restart_and_ends_with_established() {
        let (mut enforced, start) = (Enforcement::new(names(&["b", "x"])), Instant::now());
        enforced.handle_established(&names(&["b"]), start);
        assert_eq!(enforced.enforced(), &names(&["b"]));
        enforced.handle_established(&names(&[]), start);
        enforced.handle_established(&names(&["b"]), start);
        assert!(enforced.enforced().is_empty());
    }
    #[test]
    fn what_was_pending_is_so_for_no_longer_over_a_restart() {
        let left = |seconds| BTreeMap::from([("b".parse().unwrap(), Duration::from_secs(seconds))]);
        for (seconds, waits) in [(0, 0), (12, 12), (30, 30), (90_000, 30)] {
            let (mut enforced, start) = (Enforcement::default(), Instant::now());
            enforced.remember_pending(left(seconds), start);
            enforced.handle_established(&names(&["b"]), start);
            let due = start + Duration::from_secs(waits);
            if waits > 0 {
                assert_eq!(
                    enforced.pending(),
                    &[("b".parse().unwrap(), due)].into(),
                    "{seconds}"
                );
                enforced.handle_timeout(due - Duration::from_millis(1));
                assert!(enforced.enforced().is_empty(), "{seconds}");
            }
            enforced.handle_timeout(due);
            assert_eq!(enforced.enforced(), &names(&["b"]), "{seconds}");
        }
    }

    #[test]
    fn where_nothing_is_ever_plaintext_what_is_established_is_enforced_at_once() {
        let (mut enforced, start) = (Enforcement::default(), Instant::now());
        enforced.wait_for_none();
        let left = BTreeMap::from([("b".parse().unwrap(), TRANSITION)]);
        enforced.remember_pending(left, start);
        enforced.handle_established(&names(&["b", "c"]), start);
        assert_eq!(enforced.enforced(), &names(&["b", "c"]));
        assert_eq!(enforced.poll_timeout(), None);
    }
}
