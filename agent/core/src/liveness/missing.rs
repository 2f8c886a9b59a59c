//! Leaders of other locations with which this leader has had no session for long, or never.
//!
//! Where another leader answers instead, all packets get through, and the [link](super::Connectivity) is up. But a spare that
//! is not there is missed when it is needed: two NATs that keep ports, for example, may give two leaders that stand by addresses
//! at which they never find each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spanwire_topology::PublicKey;

use super::{Sessions, connectivity::answers};

/// So long there has to be no session before that is reported: a leader that boots, or has just been elected, is not missing.
const LONG: Duration = Duration::from_secs(300);
/// So long there has to be one again before that is: a path that comes and goes would have leaders write to the API server
/// each time.
const CALM: Duration = Duration::from_secs(60);

/// The leaders that are watched.
#[derive(Debug, Default)]
pub struct Missing(BTreeMap<PublicKey, Spell>);

#[derive(Debug, Default)]
struct Spell {
    answers: bool,
    /// Since when; `None` before the first look.
    since: Option<Instant>,
    missing: bool,
}

impl Missing {
    /// Takes the leaders to which this node has tunnels.
    pub fn handle_plan(&mut self, leaders: &BTreeSet<PublicKey>) {
        self.0.retain(|key, _| leaders.contains(key));
        for key in leaders {
            self.0.entry(*key).or_default();
        }
    }

    /// Takes the present sessions.
    pub fn handle_sessions(&mut self, sessions: &Sessions, now: Instant) {
        for (key, spell) in &mut self.0 {
            let answers = answers(sessions, key, Duration::ZERO, now);
            if answers != spell.answers {
                *spell = Spell {
                    answers,
                    since: Some(now),
                    missing: spell.missing,
                };
            }
            let since = *spell.since.get_or_insert(now);
            if now.saturating_duration_since(since) >= if answers { CALM } else { LONG } {
                spell.missing = !answers;
            }
        }
    }

    /// Returns whether a leader is missing.
    #[must_use]
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.0.get(key).is_some_and(|spell| spell.missing)
    }
}

#[cfg(test)]
mod tests {
    use spanwire_host::PeerStats;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_leader_is_missing_when_it_has_not_answered_for_long_until_it_has_done_so_for_a_while() {
        let (start, key) = (Instant::now(), PublicKey::new([1; 32]));
        let mut missing = Missing::default();
        missing.handle_plan(&[key].into());
        let mut look = |second: u32, age: Option<u64>| {
            let stats = PeerStats {
                endpoint: None,
                handshake: age.map(Duration::from_secs),
                handshake_at: age.map(|_| (1_000 + second) * SECOND),
                received: u64::from(second),
                sent: 0,
            };
            let mut sessions = Sessions::default();
            sessions.handle_stats(&[(key, stats)].into(), start + second * SECOND);
            missing.handle_sessions(&sessions, start + second * SECOND);
            missing.contains(&key)
        };
        assert!(!look(0, None) && !look(299, None));
        assert!(look(300, None), "it never answered");
        assert!(look(310, Some(1)) && look(369, Some(60)), "it may go again");
        assert!(!look(370, Some(61)));
        assert!(!look(600, Some(180)) && !look(899, None));
        assert!(look(900, None), "it does not answer any more");
        missing.handle_plan(&BTreeSet::new());
        assert!(!missing.contains(&key));
    }
}
