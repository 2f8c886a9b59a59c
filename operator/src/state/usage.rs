//! When leaders that are about to leave may go: once nothing uses them, or after a bounded time; sans I/O.
//!
//! Nothing on the API server says what each node has learnt of, and nothing there is to: it would cost a write of every node for
//! every change. So time says it. What is published reaches agents within a second, and one that is cut off from the API
//! server finds another leader in the data path when this one goes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use spanwire_topology::{Leaving, NodeName};

/// For so long its successors have been published, and had all of its links, when a leader goes.
const SETTLED: Duration = Duration::from_secs(10);
/// A leader that is to go is kept no longer than this.
const LONGEST: Duration = Duration::from_secs(600);

/// The leaders that are about to leave.
#[derive(Debug, Default)]
pub(super) struct Usage(BTreeMap<NodeName, Spell>);

#[derive(Clone, Copy, Debug)]
struct Spell {
    begun: Instant,
    state: Leaving,
    /// Since when it is known to be replaced by what is published.
    settled: Option<Instant>,
    released: bool,
}

impl Spell {
    fn end(&self) -> Instant {
        let settled = self.settled.map(|since| since + SETTLED);
        settled.unwrap_or(self.begun + LONGEST).min(self.begun + LONGEST)
    }
}

impl Usage {
    /// Takes over who is leaving by a decision. Returns the nodes that had been released, and are no longer leaving.
    pub(super) fn handle_decision(
        &mut self,
        leaving: &BTreeMap<NodeName, Leaving>,
        now: Instant,
    ) -> Vec<NodeName> {
        let gone = self.0.extract_if(.., |node, _| !leaving.contains_key(node));
        let gone = gone
            .filter(|(_, spell)| spell.released)
            .map(|(node, _)| node)
            .collect();
        for (node, state) in leaving {
            let spell = self.0.entry(node.clone()).or_insert(Spell {
                begun: now,
                state: *state,
                settled: None,
                released: false,
            });
            spell.state = *state;
        }
        gone
    }

    /// Takes the present time, and which of these are published as decided. Returns the nodes that may go from now on.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        published: impl Fn(&NodeName) -> bool,
    ) -> Vec<NodeName> {
        let mut released = Vec::new();
        for (node, spell) in self.0.iter_mut().filter(|(_, spell)| !spell.released) {
            if spell.state == Leaving::Replaced && published(node) {
                spell.settled.get_or_insert(now);
            } else {
                spell.settled = None;
            }
            if spell.end() <= now {
                spell.released = true;
                released.push(node.clone());
            }
        }
        released
    }

    /// Returns when a leader may go at the earliest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.0.values().filter(|spell| !spell.released);
        waiting.map(Spell::end).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn leaving(state: Leaving) -> BTreeMap<NodeName, Leaving> {
        [(name(), state)].into()
    }

    fn name() -> NodeName {
        "a1".parse().unwrap()
    }

    #[test]
    fn a_leader_goes_when_its_successors_have_been_published_and_connected_for_a_while() {
        let (mut usage, start) = (Usage::default(), Instant::now());
        let at = |second: u32| start + second * SECOND;
        usage.handle_decision(&leaving(Leaving::InUse), at(0));
        assert_eq!(usage.handle_timeout(at(30), |_| true), []);
        usage.handle_decision(&leaving(Leaving::Replaced), at(30));
        assert_eq!(
            usage.handle_timeout(at(45), |_| false),
            [],
            "what is decided is not written yet"
        );
        assert_eq!(usage.handle_timeout(at(50), |_| true), []);
        assert_eq!(usage.poll_timeout(), Some(at(60)));
        usage.handle_decision(&leaving(Leaving::InUse), at(55));
        assert_eq!(
            usage.handle_timeout(at(60), |_| true),
            [],
            "a link of its successor is down"
        );
        usage.handle_decision(&leaving(Leaving::Replaced), at(61));
        assert_eq!(usage.handle_timeout(at(61), |_| true), []);
        assert_eq!(usage.handle_timeout(at(70), |_| true), []);
        assert_eq!(usage.handle_timeout(at(71), |_| true), [name()]);
        assert_eq!(usage.handle_timeout(at(72), |_| true), [], "once");
        assert_eq!(usage.poll_timeout(), None);
        assert_eq!(usage.handle_decision(&BTreeMap::new(), at(73)), [name()]);
        assert_eq!(usage.handle_decision(&BTreeMap::new(), at(73)), []);
    }

    #[test]
    fn no_leader_that_is_to_go_stays_for_ever() {
        let (mut usage, start) = (Usage::default(), Instant::now());
        usage.handle_decision(&leaving(Leaving::InUse), start);
        assert_eq!(usage.poll_timeout(), Some(start + LONGEST));
        assert_eq!(usage.handle_timeout(start + LONGEST - SECOND, |_| true), []);
        assert_eq!(usage.handle_timeout(start + LONGEST, |_| true), [name()]);
    }
}
