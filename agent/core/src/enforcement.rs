//! The locations for which the tunnel is enforced: plaintext from and to them is dropped.
//!
//! When two locations become established their nodes learn it one after the other. A node that enforced at once would
//! drop what a slower one still sends in plaintext. So a location is enforced some time after it was established.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spanwire_topology::LocationName;

/// How long the slowest node has to follow.
const TRANSITION: Duration = Duration::from_secs(30);

/// The established locations, enforced or pending.
#[derive(Debug, Default)]
pub struct Enforcement {
    enforced: BTreeSet<LocationName>,
    pending: BTreeMap<LocationName, Instant>,
}

impl Enforcement {
    /// Takes over what was enforced before the agent started.
    #[must_use]
    pub fn new(enforced: BTreeSet<LocationName>) -> Self {
        Self {
            enforced,
            pending: BTreeMap::new(),
        }
    }

    /// Takes the locations that are established with this node's own.
    pub fn handle_established(&mut self, established: &BTreeSet<LocationName>, now: Instant) {
        self.enforced.retain(|location| established.contains(location));
        self.pending.retain(|location, _| established.contains(location));
        for location in established.difference(&self.enforced) {
            self.pending.entry(location.clone()).or_insert(now + TRANSITION);
        }
        self.handle_timeout(now);
    }

    /// Enforces what has been pending for long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Self { enforced, pending } = self;
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
}
