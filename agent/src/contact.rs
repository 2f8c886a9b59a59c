//! Which WireGuard peers answer, judged from what the device counts; sans I/O.
//!
//! WireGuard itself says nothing about a silent peer: it only handshakes when there is something to send. So the agent
//! *touches* leaders: it sends them a datagram through the tunnel when they have been quiet. Whatever the other kernel
//! answers (a handshake, an ICMP error, WireGuard's own passive keepalive after 10 s, whitepaper section 6.5) shows up
//! as received bytes. A touch that stays without any answer for [`PATIENCE`] means that the peer cannot be reached at
//! its present endpoint.
//!
//! Two new leaders learn of each other at different times, so the first initiation is often lost, and WireGuard sends
//! the next only after 5 s (REKEY_TIMEOUT). A leader that has never answered is therefore made anew in the device
//! a few times, which loses nothing since there is no session, and lets WireGuard begin at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use spanwire_topology::PublicKey;

/// A session whose handshake is older has been given up by both sides (REJECT_AFTER_TIME, whitepaper section 6.1).
pub const FRESH: Duration = Duration::from_secs(180);
/// KEEPALIVE_TIMEOUT + REKEY_TIMEOUT (10 s + 5 s): by then a peer that lives has answered.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// A peer from whom nothing came for so long is touched. Together with [`SELDOM`] it is no more than the 25 s that keep
/// the mapping of a NAT alive, many of which forget it after 30 s (wg(8), PersistentKeepalive): also a leader that is
/// reached by a port forward sends by such a mapping, under another port than that, and its peers follow it there.
const QUIET: Duration = Duration::from_secs(20);
const _: () = assert!(QUIET.as_secs() + SELDOM.as_secs() <= 25);
/// How often a peer that does not answer is touched: WireGuard does not initiate more often (REKEY_TIMEOUT).
const AGAIN: Duration = Duration::from_secs(5);
/// How long after its making a peer that has never answered is made anew; further apart each time, since a handshake
/// that is on its way (one round trip) is lost by that.
const ANEW: [Duration; 3] = [
    Duration::from_millis(400),
    Duration::from_millis(1_200),
    Duration::from_millis(2_800),
];
/// How long after a change the device is looked at often.
const EAGER: Duration = Duration::from_secs(30);
/// How often the device is looked at while a new peer has not answered yet.
const OFTEN: Duration = Duration::from_millis(250);
/// How often the device is looked at otherwise.
pub const SELDOM: Duration = Duration::from_secs(5);

/// What the device counts for one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Where it was last heard, or was told to be.
    pub endpoint: Option<SocketAddr>,
    /// Age of the last handshake.
    pub handshake: Option<Duration>,
    /// Bytes received from it.
    pub received: u64,
}

/// Everybody the device talks to.
#[derive(Debug, Default)]
pub struct Contacts {
    leaders: BTreeSet<PublicKey>,
    peers: BTreeMap<PublicKey, Contact>,
}

#[derive(Debug)]
struct Contact {
    seen: Seen,
    since: Instant,
    heard: Option<Instant>,
    /// The first touch since it was last heard.
    asked: Option<Instant>,
    touched: Option<Instant>,
    /// It is looked for elsewhere since it was last touched.
    moved: bool,
    /// How often it has been made anew.
    renewals: usize,
}

impl Contacts {
    /// The leaders among the peers; only these are touched.
    pub fn handle_leaders(&mut self, leaders: BTreeSet<PublicKey>) {
        self.leaders = leaders;
    }

    /// What the device counts now, for all of its peers.
    pub fn handle_seen(&mut self, seen: &BTreeMap<PublicKey, Seen>, now: Instant) {
        self.peers.retain(|key, _| seen.contains_key(key));
        for (key, seen) in seen {
            let contact = self.peers.entry(*key).or_insert_with(|| Contact::new(now));
            contact.observe(*seen, now);
        }
    }

    /// A touch is on its way.
    pub fn handle_touched(&mut self, key: &PublicKey, now: Instant) {
        if let Some(contact) = self.peers.get_mut(key) {
            contact.touched = Some(now);
            contact.moved = false;
            contact.asked.get_or_insert(now);
        }
    }

    /// These are looked for elsewhere from now on. They learn of that by the first packet from here.
    pub fn handle_given<'a>(&mut self, keys: impl IntoIterator<Item = &'a PublicKey>) {
        for key in keys {
            if let Some(contact) = self.peers.get_mut(key) {
                contact.moved = true;
            }
        }
    }

    /// Whom to touch now.
    #[must_use]
    pub fn poll_touch(&self, now: Instant) -> Vec<PublicKey> {
        let due = |key: &&PublicKey| self.peers.get(key).is_some_and(|contact| contact.due(now));
        self.leaders.iter().filter(due).copied().collect()
    }

    /// Who is to be made anew in the device.
    #[must_use]
    pub fn poll_renewals(&self, now: Instant) -> BTreeSet<PublicKey> {
        let due = |key: &&PublicKey| {
            self.peers
                .get(key)
                .is_some_and(|contact| contact.renewal_due(now))
        };
        self.leaders.iter().filter(due).copied().collect()
    }

    /// These have been made anew.
    pub fn handle_renewed(&mut self, renewed: &BTreeSet<PublicKey>) {
        for key in renewed {
            if let Some(contact) = self.peers.get_mut(key) {
                contact.renewals += 1;
                contact.touched = None;
            }
        }
    }

    /// When the device should be looked at again.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        let eager = self.leaders.iter().any(|key| {
            self.peers
                .get(key)
                .is_some_and(|contact| contact.heard.is_none() && now < contact.since + EAGER)
        });
        now + if eager { OFTEN } else { SELDOM }
    }

    /// Whether there is a session with the peer: a handshake that is fresh.
    #[must_use]
    pub fn fresh(&self, key: &PublicKey, margin: Duration) -> bool {
        self.peers
            .get(key)
            .and_then(|contact| contact.seen.handshake)
            .is_some_and(|age| age < FRESH + margin)
    }

    /// For how long a touch has been without an answer.
    #[must_use]
    pub fn silence(&self, key: &PublicKey, now: Instant) -> Option<Duration> {
        let asked = self.peers.get(key)?.asked?;
        Some(now.saturating_duration_since(asked))
    }

    /// What was last seen of every peer.
    pub fn seen(&self) -> impl Iterator<Item = (&PublicKey, &Seen)> {
        self.peers.iter().map(|(key, contact)| (key, &contact.seen))
    }
}

impl Contact {
    fn new(now: Instant) -> Self {
        Self {
            seen: Seen::default(),
            since: now,
            heard: None,
            asked: None,
            touched: None,
            moved: false,
            renewals: 0,
        }
    }

    fn renewal_due(&self, now: Instant) -> bool {
        let due = ANEW
            .get(self.renewals)
            .is_some_and(|after| now >= self.since + *after);
        due && self.heard.is_none() && self.seen.endpoint.is_some()
    }

    fn observe(&mut self, seen: Seen, now: Instant) {
        // A counter that runs backwards is a device that was made anew.
        let reset = seen.received < self.seen.received;
        if reset {
            *self = Self::new(now);
        }
        if seen.received > self.seen.received {
            self.heard = Some(now);
            self.asked = None;
        }
        self.seen = seen;
    }

    fn due(&self, now: Instant) -> bool {
        let past = |since: Option<Instant>, wait| since.is_none_or(|since| now >= since + wait);
        if self.moved {
            true
        } else if self.asked.is_some() || self.heard.is_none() {
            past(self.touched, AGAIN)
        } else {
            past(self.heard, QUIET)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key() -> PublicKey {
        PublicKey::new([1; 32])
    }

    fn seen(received: u64, handshake: Option<u64>) -> BTreeMap<PublicKey, Seen> {
        let handshake = handshake.map(Duration::from_secs);
        [(
            key(),
            Seen {
                endpoint: None,
                handshake,
                received,
            },
        )]
        .into()
    }

    fn contacts() -> Contacts {
        let mut contacts = Contacts::default();
        contacts.handle_leaders([key()].into());
        contacts
    }

    #[test]
    fn a_new_leader_is_touched_at_once_and_every_five_seconds_until_it_answers() {
        let (mut contacts, start) = (contacts(), Instant::now());
        contacts.handle_seen(&seen(0, None), start);
        assert_eq!(contacts.poll_touch(start), [key()]);
        contacts.handle_touched(&key(), start);
        assert!(contacts.poll_touch(start + 4 * SECOND).is_empty());
        assert_eq!(contacts.poll_touch(start + 5 * SECOND), [key()]);
        contacts.handle_touched(&key(), start + 5 * SECOND);
        assert_eq!(contacts.silence(&key(), start + 16 * SECOND), Some(16 * SECOND));
        contacts.handle_seen(&seen(92, Some(0)), start + 17 * SECOND);
        assert_eq!(contacts.silence(&key(), start + 18 * SECOND), None);
        assert!(contacts.poll_touch(start + 18 * SECOND).is_empty());
    }

    #[test]
    fn a_quiet_leader_is_touched_and_one_that_talks_is_not() {
        let (mut contacts, start) = (contacts(), Instant::now());
        contacts.handle_seen(&seen(92, Some(0)), start);
        contacts.handle_seen(&seen(900, Some(20)), start + 20 * SECOND);
        assert!(contacts.poll_touch(start + 31 * SECOND).is_empty());
        assert_eq!(contacts.poll_touch(start + 50 * SECOND), [key()]);
    }

    #[test]
    fn a_leader_that_is_looked_for_elsewhere_is_touched_at_once() {
        let (mut contacts, start) = (contacts(), Instant::now());
        contacts.handle_seen(&seen(92, Some(0)), start);
        assert!(contacts.poll_touch(start + SECOND).is_empty());
        contacts.handle_given([&key()]);
        assert_eq!(contacts.poll_touch(start + SECOND), [key()]);
        contacts.handle_touched(&key(), start + SECOND);
        assert!(contacts.poll_touch(start + 2 * SECOND).is_empty());
        assert_eq!(contacts.silence(&key(), start + 3 * SECOND), Some(2 * SECOND));
    }

    #[test]
    fn a_peer_that_is_no_leader_is_never_touched() {
        let (mut contacts, start) = (Contacts::default(), Instant::now());
        contacts.handle_seen(&seen(0, None), start);
        assert!(contacts.poll_touch(start + 100 * SECOND).is_empty());
    }

    #[test]
    fn the_device_is_looked_at_often_only_while_something_new_is_silent() {
        let (mut contacts, start) = (contacts(), Instant::now());
        assert_eq!(contacts.poll_timeout(start), start + SELDOM);
        contacts.handle_seen(&seen(0, None), start);
        assert_eq!(contacts.poll_timeout(start), start + OFTEN);
        let late = start + 31 * SECOND;
        assert_eq!(contacts.poll_timeout(late), late + SELDOM);
        contacts.handle_seen(&seen(92, Some(0)), start);
        assert_eq!(contacts.poll_timeout(start), start + SELDOM);
    }

    #[test]
    fn a_leader_that_never_answered_is_made_anew_a_few_times() {
        let (mut contacts, start) = (contacts(), Instant::now());
        let mut looked_for = seen(0, None);
        contacts.handle_seen(&looked_for, start);
        assert!(
            contacts.poll_renewals(start + SECOND).is_empty(),
            "it has to begin itself"
        );
        looked_for.get_mut(&key()).unwrap().endpoint = Some("192.0.2.1:1".parse().unwrap());
        contacts.handle_seen(&looked_for, start);
        let mut at = Vec::new();
        for tenth in 0..100_u32 {
            let now = start + tenth * SECOND / 10;
            let due = contacts.poll_renewals(now);
            contacts.handle_renewed(&due);
            at.extend(due.iter().map(|_| tenth));
        }
        assert_eq!(at, [4, 12, 28]);
    }

    #[test]
    fn a_leader_that_answered_is_never_made_anew() {
        let (mut contacts, start) = (contacts(), Instant::now());
        contacts.handle_seen(&seen(92, None), start);
        assert!(contacts.poll_renewals(start + SECOND).is_empty());
    }

    #[test]
    fn a_device_made_anew_is_a_new_contact() {
        let (mut contacts, start) = (contacts(), Instant::now());
        contacts.handle_seen(&seen(900, Some(0)), start);
        contacts.handle_seen(&seen(0, None), start + SECOND);
        assert_eq!(contacts.poll_touch(start + SECOND), [key()]);
        assert!(!contacts.fresh(&key(), Duration::ZERO));
    }

    #[test]
    fn a_session_is_fresh_for_three_minutes() {
        let (mut contacts, start) = (contacts(), Instant::now());
        contacts.handle_seen(&seen(92, Some(179)), start);
        assert!(contacts.fresh(&key(), Duration::ZERO));
        contacts.handle_seen(&seen(92, Some(180)), start);
        assert!(!contacts.fresh(&key(), Duration::ZERO));
        assert!(contacts.fresh(&key(), SECOND));
    }
}
