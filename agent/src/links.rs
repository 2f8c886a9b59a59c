//! Which remote locations a leader can reach through its tunnels, as reported in its MeshNode; sans I/O.
//!
//! A link comes up with the first answer, and goes down only when that is beyond doubt, so a report is rare: the operator
//! needs it to see that two locations can be moved into the tunnel, people need it to see what is cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spanwire_topology::{LocationName, PublicKey};

use crate::contact::Contacts;

/// After the end of its session a link is up for so long still.
const GRACE: Duration = Duration::from_secs(20);
/// A leader that has not answered touches for so long is gone, although its session may seem fresh.
const GONE: Duration = Duration::from_secs(60);

/// The remote locations, up or down.
#[derive(Debug, Default)]
pub struct Links {
    leaders: BTreeMap<LocationName, BTreeSet<PublicKey>>,
    own: Option<LocationName>,
    up: BTreeMap<LocationName, bool>,
}

impl Links {
    /// The active leaders of every location to which this node has tunnels, and the location of this node: with
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

    /// What has been heard of the peers.
    pub fn handle_contacts(&mut self, contacts: &Contacts, now: Instant) {
        for (location, leaders) in &self.leaders {
            let was = self.up.get(location).copied().unwrap_or_default();
            let margin = if was { GRACE } else { Duration::ZERO };
            let reached = |key: &PublicKey| {
                let gone = contacts.silence(key, now).is_some_and(|silence| silence >= GONE);
                contacts.fresh(key, margin) && !gone
            };
            let up = if self.own.as_ref() == Some(location) {
                !leaders.is_empty() && leaders.iter().all(reached)
            } else {
                leaders.iter().any(reached)
            };
            self.up.insert(location.clone(), up);
        }
    }

    /// Every location to which this node has tunnels: up or not.
    #[must_use]
    pub fn links(&self) -> &BTreeMap<LocationName, bool> {
        &self.up
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contact::Seen;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(byte: u8) -> PublicKey {
        PublicKey::new([byte; 32])
    }

    fn location() -> LocationName {
        "b".parse().unwrap()
    }

    /// Two leaders, with the age of their handshakes.
    fn contacts(ages: [Option<u64>; 2], now: Instant) -> Contacts {
        let mut contacts = Contacts::default();
        let seen = |age: Option<u64>| Seen {
            endpoint: None,
            handshake: age.map(Duration::from_secs),
            received: u64::from(age.is_some()),
        };
        contacts.handle_seen(&[(key(1), seen(ages[0])), (key(2), seen(ages[1]))].into(), now);
        contacts
    }

    fn links(own: Option<LocationName>) -> Links {
        let mut links = Links::default();
        links.handle_plan([(location(), [key(1), key(2)].into())].into(), own);
        links
    }

    #[test]
    fn a_link_is_up_when_one_leader_answers_and_down_with_hysteresis() {
        let (mut links, now) = (links(None), Instant::now());
        let mut up = |ages| {
            links.handle_contacts(&contacts(ages, now), now);
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
    fn a_leader_that_answers_no_touch_is_gone_before_its_session_ends() {
        let (mut links, now) = (links(None), Instant::now());
        let mut contacts = contacts([Some(1), None], now);
        links.handle_contacts(&contacts, now);
        contacts.handle_touched(&key(1), now);
        links.handle_contacts(&contacts, now + 59 * SECOND);
        assert!(links.links()[&location()]);
        links.handle_contacts(&contacts, now + 60 * SECOND);
        assert!(!links.links()[&location()]);
    }

    #[test]
    fn inside_the_own_location_every_node_must_answer() {
        let (mut links, now) = (links(Some(location())), Instant::now());
        links.handle_contacts(&contacts([Some(1), None], now), now);
        assert!(!links.links()[&location()]);
        links.handle_contacts(&contacts([Some(1), Some(1)], now), now);
        assert!(links.links()[&location()]);
    }

    #[test]
    fn a_new_plan_keeps_what_is_known_and_forgets_what_is_gone() {
        let (mut links, now) = (links(None), Instant::now());
        links.handle_contacts(&contacts([Some(1), None], now), now);
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
