//! Which remote locations a leader can reach through its tunnels, as reported in its MeshNode.
//!
//! A link comes up with the first answer, and goes down only when that is beyond doubt, so a report is rare: the operator
//! needs it to see that two locations can be moved into the tunnel, users need it to see what is cut off.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spanwire_topology::{LocationName, PublicKey};

use super::Sessions;

/// After the end of its session a link is up for so long still.
const GRACE: Duration = Duration::from_secs(20);
/// A leader that has not answered a stimulus for so long is gone, although its session may seem fresh.
const GONE: Duration = Duration::from_secs(60);

/// The remote locations, up or down.
#[derive(Debug, Default)]
pub struct Connectivity {
    leaders: BTreeMap<LocationName, BTreeSet<PublicKey>>,
    own: Option<LocationName>,
    up: BTreeMap<LocationName, bool>,
}

impl Connectivity {
    /// Takes the active leaders of every location to which this node has tunnels, and the location of this node: with
    /// `mesh: Nodes` it is among them, and its link is up when *all* of its nodes answer.
    pub fn handle_plan(
        &mut self,
        leaders: BTreeMap<LocationName, BTreeSet<PublicKey>>,
        own: Option<LocationName>,
    ) {
        self.up = leaders
            .keys()
            .map(|location| {
                (
                    location.clone(),
                    self.up.get(location).copied().unwrap_or_default(),
                )
            })
            .collect();
        self.leaders = leaders;
        self.own = own;
    }

    /// Takes the present sessions.
    pub fn handle_sessions(&mut self, sessions: &Sessions, now: Instant) {
        for (location, leaders) in &self.leaders {
            let was = self.up.get(location).copied().unwrap_or_default();
            let margin = if was { GRACE } else { Duration::ZERO };
            let reached = |key: &PublicKey| answers(sessions, key, margin, now);
            let up = if self.own.as_ref() == Some(location) {
                !leaders.is_empty() && leaders.iter().all(reached)
            } else {
                leaders.iter().any(reached)
            };
            self.up.insert(location.clone(), up);
        }
    }

    /// Returns every location to which this node has tunnels: up or not.
    #[must_use]
    pub fn links(&self) -> &BTreeMap<LocationName, bool> {
        &self.up
    }
}

/// Returns whether there is a session with a leader, which for a `margin` after its end counts still, and the leader is not gone.
pub(super) fn answers(sessions: &Sessions, key: &PublicKey, margin: Duration, now: Instant) -> bool {
    let gone = sessions.silence(key, now).is_some_and(|silence| silence >= GONE);
    sessions.fresh(key, margin) && !gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use spanwire_host::PeerStats;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(byte: u8) -> PublicKey {
        PublicKey::new([byte; 32])
    }

    fn location() -> LocationName {
        "b".parse().unwrap()
    }

    /// Two leaders, with the age of their handshakes.
    fn sessions(ages: [Option<u64>; 2], now: Instant) -> Sessions {
        let mut sessions = Sessions::default();
        let seen = |age: Option<u64>| PeerStats {
            endpoint: None,
            handshake: age.map(Duration::from_secs),
            handshake_at: age.map(|_| 100 * SECOND),
            received: u64::from(age.is_some()),
            sent: 0,
        };
        sessions.handle_stats(&[(key(1), seen(ages[0])), (key(2), seen(ages[1]))].into(), now);
        sessions
    }

    fn connectivity(own: Option<LocationName>) -> Connectivity {
        let mut connectivity = Connectivity::default();
        connectivity.handle_plan([(location(), [key(1), key(2)].into())].into(), own);
        connectivity
    }

    #[test]
    fn a_link_is_up_when_one_leader_answers_and_down_with_hysteresis() {
        let (mut links, now) = (connectivity(None), Instant::now());
        let mut up = |ages| {
            links.handle_sessions(&sessions(ages, now), now);
            links.links()[&location()]
        };
        assert!(!up([None, None]));
        assert!(!up([None, Some(181)]));
        assert!(up([None, Some(1)]));
        assert!(up([None, Some(199)]));
        assert!(!up([None, Some(200)]));
        assert!(!up([None, Some(199)]));
    }

    #[test]
    fn a_leader_that_answers_no_stimulus_is_gone_before_its_session_ends() {
        let (mut links, now) = (connectivity(None), Instant::now());
        let mut sessions = sessions([Some(1), None], now);
        links.handle_sessions(&sessions, now);
        sessions.handle_stimulated(&key(1), now);
        links.handle_sessions(&sessions, now + 59 * SECOND);
        assert!(links.links()[&location()]);
        links.handle_sessions(&sessions, now + 60 * SECOND);
        assert!(!links.links()[&location()]);
    }

    #[test]
    fn inside_the_own_location_every_node_must_answer() {
        let (mut links, now) = (connectivity(Some(location())), Instant::now());
        links.handle_sessions(&sessions([Some(1), None], now), now);
        assert!(!links.links()[&location()]);
        links.handle_sessions(&sessions([Some(1), Some(1)], now), now);
        assert!(links.links()[&location()]);
    }

    #[test]
    fn a_new_plan_keeps_what_is_known_and_forgets_what_is_gone() {
        let (mut links, now) = (connectivity(None), Instant::now());
        links.handle_sessions(&sessions([Some(1), None], now), now);
        let other: LocationName = "c".parse().unwrap();
        links.handle_plan(
            [(location(), [key(1)].into()), (other.clone(), BTreeSet::new())].into(),
            None,
        );
        assert_eq!(links.links(), &[(location(), true), (other, false)].into());
        links.handle_plan(BTreeMap::new(), None);
        assert!(links.links().is_empty());
    }
}
