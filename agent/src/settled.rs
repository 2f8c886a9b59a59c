//! Which locations have been established for so long that their traffic may be nowhere but in the tunnel; sans I/O.
//!
//! When two locations become established their nodes learn it one after the other. A node that enforced at once would
//! drop what a slower one still sends in plaintext.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spanwire_topology::LocationName;

/// How long the slowest node has to follow.
const TRANSITION: Duration = Duration::from_secs(30);

/// The established locations, settled or on the way.
#[derive(Debug, Default)]
pub struct Settled {
    settled: BTreeSet<LocationName>,
    on_the_way: BTreeMap<LocationName, Instant>,
}

impl Settled {
    /// What was settled before the agent started.
    #[must_use]
    pub fn new(settled: BTreeSet<LocationName>) -> Self {
        Self {
            settled,
            on_the_way: BTreeMap::new(),
        }
    }

    /// The locations that are established with this node's own.
    pub fn handle_established(&mut self, established: &BTreeSet<LocationName>, now: Instant) {
        self.settled.retain(|location| established.contains(location));
        self.on_the_way
            .retain(|location, _| established.contains(location));
        for location in established.difference(&self.settled) {
            self.on_the_way
                .entry(location.clone())
                .or_insert(now + TRANSITION);
        }
        self.handle_timeout(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Self { settled, on_the_way } = self;
        on_the_way.retain(|location, due| {
            let over = *due <= now;
            if over {
                settled.insert(location.clone());
            }
            !over
        });
    }

    /// When the next location is settled.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.on_the_way.values().min().copied()
    }

    /// The settled locations.
    #[must_use]
    pub fn settled(&self) -> &BTreeSet<LocationName> {
        &self.settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<LocationName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_location_is_settled_half_a_minute_after_it_was_first_seen_established() {
        let (mut settled, start) = (Settled::default(), Instant::now());
        settled.handle_established(&names(&["b"]), start);
        let later = start + Duration::from_secs(10);
        settled.handle_established(&names(&["b", "c"]), later);
        assert_eq!(settled.poll_timeout(), Some(start + TRANSITION));
        settled.handle_timeout(start + TRANSITION - Duration::from_millis(1));
        assert!(settled.settled().is_empty());
        settled.handle_timeout(start + TRANSITION);
        assert_eq!(settled.settled(), &names(&["b"]));
        settled.handle_timeout(later + TRANSITION);
        assert_eq!(settled.settled(), &names(&["b", "c"]));
        assert_eq!(settled.poll_timeout(), None);
    }

    #[test]
    fn what_was_settled_stays_so_over_a_restart_and_ends_with_established() {
        let (mut settled, start) = (Settled::new(names(&["b", "x"])), Instant::now());
        settled.handle_established(&names(&["b"]), start);
        assert_eq!(settled.settled(), &names(&["b"]));
        settled.handle_established(&names(&[]), start);
        settled.handle_established(&names(&["b"]), start);
        assert!(settled.settled().is_empty());
    }
}
