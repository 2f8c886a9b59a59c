//! Which Peers that are attached to this leader are connected, as reported in its MeshNode.
//!
//! WireGuard has no connections. What it has is handshakes: while packets go over a session there is one every two minutes
//! (REKEY_AFTER_TIME, whitepaper section 6.1), and where nothing is sent there is none. So a Peer that is there and silent, since neither side
//! sends it keepalives, looks like one that is gone. It is taken for connected from a handshake on, until there has been none for long.
//!
//! A report is a write to the API server. So what changes is gathered, and a Peer that comes and goes is taken for connected longer each
//! time: one without keepalives that says something every hour costs a few writes, and then none.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spanwire_host::PeerStats;
use spanwire_topology::PublicKey;

use super::{FRESH, Sessions};

/// So long a connected Peer has to be without a handshake before it is taken for gone: with keepalives there would have been seven.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// And at most so long, where it comes and goes.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// After so long without a change it is one that does not come and go.
const STEADY: Duration = Duration::from_secs(24 * 3600);
/// After a change that is reported others wait for so long, and are reported together.
const GATHERED: Duration = Duration::from_secs(30);

/// The Peers that are attached here.
#[derive(Debug, Default)]
pub struct AttachedPeers {
    peers: BTreeMap<PublicKey, Spell>,
    /// When it may change what is reported again.
    next: Option<Instant>,
}

/// What is reported of a Peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// It is connected.
    pub connected: bool,
    /// When its last handshake was, as it was at the time of the report, in whole seconds since 1970.
    pub handshake: Duration,
}

#[derive(Debug)]
struct Spell {
    /// `None`: there has been no handshake yet.
    reported: Option<Attached>,
    /// When that changed last, as far as this agent knows.
    changed: Option<Instant>,
    /// The last handshake: by a clock that is never set, and by the wall clock of that time.
    last: Option<(Instant, Duration)>,
    patience: Duration,
}

impl AttachedPeers {
    /// Takes the Peers to which this node has tunnels, each with what was reported of it before the agent started.
    pub fn handle_plan(&mut self, peers: &BTreeMap<PublicKey, Option<Attached>>) {
        let keys: BTreeSet<PublicKey> = peers.keys().copied().collect();
        self.peers.retain(|key, _| keys.contains(key));
        for (key, reported) in peers {
            let spell = self.peers.entry(*key).or_insert(Spell {
                reported: None,
                changed: None,
                last: None,
                patience: PATIENCE,
            });
            spell.reported = spell.reported.or(*reported);
        }
    }

    /// Takes the present sessions, and the counters from which they are known.
    pub fn handle_sessions(
        &mut self,
        sessions: &Sessions,
        stats: &BTreeMap<PublicKey, PeerStats>,
        now: Instant,
    ) {
        let mut is_news = false;
        let may_report = self.next.is_none_or(|next| next <= now);
        for (key, spell) in &mut self.peers {
            let handshake = stats.get(key).and_then(|stats| stats.handshake_at);
            let age = sessions.age(key);
            spell.observe(age.zip(handshake), now);
            if may_report && let Some(reported) = spell.news(now) {
                spell.report(reported, now);
                is_news = true;
            }
        }
        if is_news {
            self.next = Some(now + GATHERED);
        }
    }

    /// Returns what is to be reported of a Peer; nothing before its first handshake.
    #[must_use]
    pub fn reported(&self, key: &PublicKey) -> Option<Attached> {
        self.peers.get(key)?.reported
    }
}

impl Spell {
    /// Takes the age of the last handshake, and when that was. A device that was recreated knows of none: what was known before stays.
    fn observe(&mut self, handshake: Option<(Duration, Duration)>, now: Instant) {
        if let Some((age, at)) = handshake
            && let Some(instant) = now.checked_sub(age)
        {
            let seconds = Duration::from_secs(at.as_secs());
            self.last = Some((instant, seconds));
        }
        // What an agent reported before it started again it takes for as it was.
        if let Some(reported) = self.reported.filter(|reported| reported.connected) {
            self.last.get_or_insert((now, reported.handshake));
        }
    }

    /// Returns what has changed.
    fn news(&self, now: Instant) -> Option<Attached> {
        let (last, at) = self.last?;
        let silent = now.saturating_duration_since(last);
        let was = self.reported.is_some_and(|reported| reported.connected);
        let connected = silent < if was { self.patience } else { FRESH };
        // It was there before this node led.
        let is_new = self.reported.is_none();
        (connected != was || is_new).then_some(Attached {
            connected,
            handshake: at,
        })
    }

    fn report(&mut self, reported: Attached, now: Instant) {
        let is_steady = self
            .changed
            .is_none_or(|changed| now.saturating_duration_since(changed) >= STEADY);
        if is_steady {
            self.patience = PATIENCE;
        } else if reported.connected {
            self.patience = (self.patience * 2).min(LONGEST);
        }
        (self.reported, self.changed) = (Some(reported), Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn key() -> PublicKey {
        PublicKey::new([1; 32])
    }

    /// Peers whose handshakes a test makes; it looks every five seconds, as the agent does.
    struct World {
        start: Instant,
        /// Seconds since then.
        now: u64,
        sessions: Sessions,
        attached: AttachedPeers,
        handshakes: BTreeMap<PublicKey, u64>,
        /// How often what is reported changed.
        changes: usize,
    }

    impl World {
        fn new(peers: &[(PublicKey, Option<Attached>)]) -> Self {
            let mut attached = AttachedPeers::default();
            attached.handle_plan(&peers.iter().copied().collect());
            Self {
                start: Instant::now(),
                now: 0,
                sessions: Sessions::default(),
                attached,
                handshakes: BTreeMap::new(),
                changes: 0,
            }
        }

        fn look(&mut self) {
            let stats = self.handshakes.iter().map(|(key, at)| {
                let stats = PeerStats {
                    endpoint: None,
                    handshake: Some(Duration::from_secs(self.now - at)),
                    handshake_at: Some(Duration::from_secs(1_000_000 + at)),
                    received: *at,
                    sent: 0,
                };
                (*key, stats)
            });
            let stats: BTreeMap<_, _> = stats.collect();
            let now = self.start + Duration::from_secs(self.now);
            let before = self.reported();
            self.sessions.handle_stats(&stats, now);
            self.attached.handle_sessions(&self.sessions, &stats, now);
            self.changes += usize::from(self.reported() != before);
        }

        fn reported(&self) -> Vec<Option<Attached>> {
            let keys = self.attached.peers.keys();
            keys.map(|key| self.attached.reported(key)).collect()
        }

        /// Lets so much time pass, with a handshake of these every so often.
        fn pass(&mut self, time: Duration, every: Option<Duration>, keys: &[PublicKey]) {
            let end = self.now + time.as_secs();
            while self.now < end {
                self.now += 5;
                if every.is_some_and(|every| self.now.is_multiple_of(every.as_secs())) {
                    self.handshakes.extend(keys.iter().map(|key| (*key, self.now)));
                }
                self.look();
            }
        }

        fn connected(&self) -> Option<bool> {
            self.attached.reported(&key()).map(|reported| reported.connected)
        }
    }

    #[test]
    fn a_peer_is_connected_from_its_first_handshake_on_until_there_has_been_none_for_long() {
        let mut world = World::new(&[(key(), None)]);
        world.pass(10 * MINUTE, None, &[]);
        assert_eq!(
            (world.connected(), world.changes),
            (None, 0),
            "it was never there"
        );
        world.pass(60 * MINUTE, Some(2 * MINUTE), &[key()]);
        assert_eq!((world.connected(), world.changes), (Some(true), 1));
        let first = world.attached.reported(&key()).unwrap().handshake;
        assert!(
            first < Duration::from_secs(1_000_000 + 13 * 60),
            "of the change: {first:?}"
        );
        world.pass(PATIENCE - MINUTE, None, &[]);
        assert_eq!(world.connected(), Some(true));
        world.pass(2 * MINUTE, None, &[]);
        assert_eq!((world.connected(), world.changes), (Some(false), 2));
        let last = world.attached.reported(&key()).unwrap().handshake;
        assert_eq!(last, Duration::from_secs(1_000_000 + 70 * 60));
        world.pass(300 * MINUTE, None, &[]);
        assert_eq!(world.changes, 2, "at rest nothing is reported");
    }

    #[test]
    fn a_peer_without_keepalives_that_talks_now_and_then_is_soon_connected_throughout() {
        let mut world = World::new(&[(key(), None)]);
        world.pass(24 * 60 * MINUTE, Some(60 * MINUTE), &[key()]);
        // Fifteen minutes, half an hour; an hour has one handshake in it, and two hours have.
        assert!(world.changes <= 7, "{}", world.changes);
        assert_eq!(world.connected(), Some(true));
        let before = world.changes;
        world.pass(24 * 60 * MINUTE, Some(60 * MINUTE), &[key()]);
        assert_eq!(world.changes, before);
        // One that talks more seldom than is waited for at most.
        world.pass(10 * 24 * 60 * MINUTE, Some(6 * 60 * MINUTE), &[key()]);
        let a_day = (world.changes - before) / 10;
        assert!(a_day <= 9, "{a_day}");
    }

    #[test]
    fn peers_that_come_together_are_reported_together() {
        let keys: Vec<PublicKey> = (1..=100).map(|number| PublicKey::new([number; 32])).collect();
        let peers: Vec<_> = keys.iter().map(|key| (*key, None)).collect();
        let mut world = World::new(&peers);
        for key in &keys {
            world.handshakes.insert(*key, world.now);
            world.pass(Duration::from_secs(5), Some(2 * MINUTE), &keys[..1]);
        }
        world.pass(MINUTE, Some(2 * MINUTE), &keys);
        let all = keys.iter().all(|key| world.attached.reported(key).is_some());
        // 500 seconds, and one of thirty each time.
        assert!(all && world.changes <= 19, "{all} {}", world.changes);
    }

    #[test]
    fn an_agent_that_starts_again_says_what_it_said_before() {
        let before = |connected| Attached {
            connected,
            handshake: Duration::from_secs(1_000_000),
        };
        for connected in [true, false] {
            let mut world = World::new(&[(key(), Some(before(connected)))]);
            world.pass(PATIENCE - MINUTE, None, &[]);
            assert_eq!(
                (world.attached.reported(&key()), world.changes),
                (Some(before(connected)), 0),
                "{connected}"
            );
        }
        let mut world = World::new(&[(key(), Some(before(true)))]);
        world.pass(5 * MINUTE, Some(2 * MINUTE), &[key()]);
        assert_eq!((world.connected(), world.changes), (Some(true), 0), "it is there");
    }

    #[test]
    fn a_device_that_was_recreated_does_not_disconnect_what_was_connected() {
        let mut world = World::new(&[(key(), None)]);
        world.pass(4 * MINUTE, Some(2 * MINUTE), &[key()]);
        world.handshakes.clear();
        world.pass(10 * MINUTE, None, &[]);
        assert_eq!((world.connected(), world.changes), (Some(true), 1));
        world.attached.handle_plan(&BTreeMap::new());
        assert_eq!(world.attached.reported(&key()), None, "it is attached elsewhere");
    }
}
