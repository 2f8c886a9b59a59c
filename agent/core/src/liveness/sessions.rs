//! The liveness of WireGuard peers, judged from the device's counters.
//!
//! WireGuard itself reports nothing about a silent peer: it only handshakes when there is something to send. So the agent
//! sends leaders a [stimulus](super::Stimulus), a datagram through the tunnel, when they have been quiet. Whatever the
//! other kernel answers (a handshake, an ICMP error, WireGuard's own passive keepalive after 10 s, whitepaper section
//! 6.5) shows up as received bytes. A stimulus that stays without any answer for [`PATIENCE`] means that the peer cannot
//! be reached at its present endpoint.
//!
//! Two new leaders learn of each other at different times, so the first initiation is often lost, and WireGuard sends
//! the next only after 5 s (REKEY_TIMEOUT). A leader that has never answered is therefore recreated in the device
//! a few times, which loses nothing since there is no session, and lets WireGuard begin at once.
//!
//! WireGuard takes no initiation that is older than the newest one that it has taken from the same peer (whitepaper section
//! 5.1), for as long as it has that peer. A leader whose clock was ahead and is right again would be shut out for as long as
//! it was ahead, where it cannot be reached from here. So a leader that has been silent for long is recreated, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spanwire_host::PeerStats;
use spanwire_topology::PublicKey;

/// A session whose handshake is older has been given up by both sides (REJECT_AFTER_TIME, whitepaper section 6.1).
pub const FRESH: Duration = Duration::from_secs(180);
/// KEEPALIVE_TIMEOUT + REKEY_TIMEOUT (10 s + 5 s): by then a live peer has answered.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// A peer from which nothing came for so long gets a stimulus. Together with [`SELDOM`] it is no more than the 25 s that keep
/// the mapping of a NAT alive, many of which forget it after 30 s (wg(8), PersistentKeepalive): also a leader that is
/// reached by a port forward sends by such a mapping, under another port than that, and its peers follow it there.
const QUIET: Duration = Duration::from_secs(20);
const _: () = assert!(QUIET.as_secs() + SELDOM.as_secs() <= 25);
/// How often a peer that does not answer gets a stimulus: WireGuard does not initiate more often (REKEY_TIMEOUT).
const AGAIN: Duration = Duration::from_secs(5);
/// How long after its creation a peer that has never answered is recreated; further apart each time, since a handshake
/// that is in flight (one round trip) is lost by that.
const RECREATE: [Duration; 3] = [
    Duration::from_millis(400),
    Duration::from_millis(1_200),
    Duration::from_millis(2_800),
];
/// How long a leader that answered has to be silent before it is recreated, and how often it is while it stays so. There
/// is no session by then ([`FRESH`]).
const FORGOTTEN: Duration = Duration::from_secs(300);
const _: () = assert!(FORGOTTEN.as_secs() > FRESH.as_secs());
/// How often a leader that has answered and is taken for dead is recreated, and for how long: after that WireGuard itself begins a
/// handshake every five seconds. Before that it holds on to its session, of which a leader that has booted knows nothing: KEEPALIVE_TIMEOUT
/// and REKEY_TIMEOUT (whitepaper section 6.1). An uplink that is back sooner than a machine can boot finds its sessions as they were. Of many
/// dead ones each is recreated less often.
const REVIVE_AFTER: Duration = Duration::from_secs(4);
const REVIVE: Duration = Duration::from_secs(2);
const REVIVED_IN_A_SECOND: u32 = 50;
/// How long after a change the device is polled often.
const EAGER: Duration = Duration::from_secs(30);
/// How often the device is polled while a new peer has not answered yet.
const OFTEN: Duration = Duration::from_millis(250);
/// How often the device is polled otherwise.
pub const SELDOM: Duration = Duration::from_secs(5);

/// The sessions with every peer of the device.
#[derive(Debug, Default)]
pub struct Sessions {
    leaders: BTreeSet<PublicKey>,
    peers: BTreeMap<PublicKey, Session>,
    /// Leaders that are taken for dead.
    dead: BTreeMap<PublicKey, Dead>,
}

/// A leader that is taken for dead.
#[derive(Clone, Copy, Debug)]
struct Dead {
    since: Instant,
    /// The bytes received from it when the counters were first read after that: more only where it answers no echo requests and lives.
    received: Option<u64>,
}

#[derive(Debug)]
struct Session {
    stats: PeerStats,
    /// The last handshake, and when the counters were last read.
    handshake: Option<Handshake>,
    read: Option<Instant>,
    since: Instant,
    heard: Option<Instant>,
    /// The first stimulus since it was last heard.
    asked: Option<Instant>,
    stimulated: Option<Instant>,
    /// It has another endpoint since its last stimulus.
    moved: bool,
    /// How often it has been recreated, and when last.
    renewals: usize,
    renewed: Option<Instant>,
}

/// A handshake as it was first seen: when that was by the wall clock of that time, when it was seen, and how old it was then.
/// From there its age is counted by a clock that is never set.
#[derive(Clone, Copy, Debug)]
struct Handshake {
    at: Duration,
    seen: Instant,
    age: Duration,
}

impl Sessions {
    /// Takes the leaders among the peers; only these get a stimulus.
    pub fn handle_leaders(&mut self, leaders: BTreeSet<PublicKey>) {
        self.leaders = leaders;
    }

    /// Takes the leaders that have answered and are taken for dead. What was sent to them is lost, and so nothing is by a new session.
    pub fn handle_dead(&mut self, dead: &BTreeSet<PublicKey>, now: Instant) {
        self.dead.retain(|key, _| dead.contains(key));
        for key in dead {
            self.dead.entry(*key).or_insert(Dead {
                since: now,
                received: None,
            });
        }
    }

    /// Takes the present counters of all peers of the device.
    pub fn handle_stats(&mut self, stats: &BTreeMap<PublicKey, PeerStats>, now: Instant) {
        self.peers.retain(|key, _| stats.contains_key(key));
        for (key, stats) in stats {
            let session = self.peers.entry(*key).or_insert_with(|| Session::new(now));
            session.observe(*stats, now);
            if let Some(dead) = self.dead.get_mut(key) {
                dead.received.get_or_insert(stats.received);
            }
        }
    }

    /// Records that a stimulus has been sent.
    pub fn handle_stimulated(&mut self, key: &PublicKey, now: Instant) {
        if let Some(session) = self.peers.get_mut(key) {
            session.stimulated = Some(now);
            session.moved = false;
            session.asked.get_or_insert(now);
        }
    }

    /// Records that these have another endpoint from now on. They learn of that by the first packet from here.
    pub fn handle_given<'a>(&mut self, keys: impl IntoIterator<Item = &'a PublicKey>) {
        for key in keys {
            if let Some(session) = self.peers.get_mut(key) {
                session.moved = true;
            }
        }
    }

    /// Returns the peers to send a stimulus to now.
    #[must_use]
    pub fn poll_stimuli(&self, now: Instant) -> Vec<PublicKey> {
        let due = |key: &&PublicKey| self.peers.get(key).is_some_and(|session| session.due(now));
        self.leaders.iter().filter(due).copied().collect()
    }

    /// Returns the peers to recreate in the device, each with the bytes received from it until the counters were last read.
    #[must_use]
    pub fn poll_renewals(&self, now: Instant) -> BTreeMap<PublicKey, u64> {
        let due = |key: &PublicKey| {
            let session = self.peers.get(key)?;
            let is_due = session.renewal_due(now) || self.revival(key, session).is_some_and(|at| at <= now);
            is_due.then_some((*key, session.stats.received))
        };
        self.leaders.iter().filter_map(due).collect()
    }

    /// Returns when to recreate a leader that is taken for dead.
    fn revival(&self, key: &PublicKey, session: &Session) -> Option<Instant> {
        let Dead { since, received } = *self.dead.get(key)?;
        let count = u32::try_from(self.dead.len()).unwrap_or(u32::MAX);
        let pause = REVIVE.max(Duration::from_secs(1) * count / REVIVED_IN_A_SECOND);
        let renewed = session.renewed.filter(|renewed| *renewed >= since);
        let at = renewed.map_or(since + REVIVE_AFTER, |renewed| renewed + pause);
        let is_silent = received == Some(session.stats.received);
        (is_silent && session.stats.endpoint.is_some() && at < since + PATIENCE.max(pause)).then_some(at)
    }

    /// Records that these have been recreated.
    pub fn handle_renewed(&mut self, renewed: &BTreeSet<PublicKey>, now: Instant) {
        for key in renewed {
            if let Some(session) = self.peers.get_mut(key) {
                session.renewals += 1;
                session.renewed = Some(now);
                session.stimulated = None;
                // Its counter begins again, and the device is the same.
                session.stats.received = 0;
            }
            if let Some(dead) = self.dead.get_mut(key) {
                dead.received = Some(0);
            }
        }
    }

    /// Returns when the device should be polled again.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        let eager = self.leaders.iter().any(|key| {
            self.peers
                .get(key)
                .is_some_and(|session| session.heard.is_none() && now < session.since + EAGER)
        });
        let at = now + if eager { OFTEN } else { SELDOM };
        let revivals = self.dead.iter().filter_map(|(key, dead)| match dead.received {
            None => Some(now),
            Some(_) => self.revival(key, self.peers.get(key)?),
        });
        revivals.fold(at, |at, revival| at.min(revival.max(now + OFTEN)))
    }

    /// Returns whether there is no session with a peer of the device, as it was last read.
    #[must_use]
    pub fn lacks(&self, key: &PublicKey) -> bool {
        self.peers.contains_key(key) && !self.fresh(key, Duration::ZERO)
    }

    /// Returns whether there is a session with the peer: a handshake that is fresh.
    #[must_use]
    pub fn fresh(&self, key: &PublicKey, margin: Duration) -> bool {
        self.peers
            .get(key)
            .and_then(Session::age)
            .is_some_and(|age| age < FRESH + margin)
    }

    /// Returns how old the last handshake with a peer was when the counters were last read.
    #[must_use]
    pub fn age(&self, key: &PublicKey) -> Option<Duration> {
        self.peers.get(key).and_then(Session::age)
    }

    /// Returns for how long a stimulus has been without an answer.
    #[must_use]
    pub fn silence(&self, key: &PublicKey, now: Instant) -> Option<Duration> {
        let asked = self.peers.get(key)?.asked?;
        Some(now.saturating_duration_since(asked))
    }
}

impl Session {
    fn new(now: Instant) -> Self {
        Self {
            stats: PeerStats::default(),
            handshake: None,
            read: None,
            since: now,
            heard: None,
            asked: None,
            stimulated: None,
            moved: false,
            renewals: 0,
            renewed: None,
        }
    }

    fn renewal_due(&self, now: Instant) -> bool {
        let long_since = |since: Instant| now >= since + FORGOTTEN;
        let due = if self.heard.is_some() {
            self.asked.is_some_and(long_since) && self.renewed.is_none_or(long_since)
        } else {
            let after = RECREATE.get(self.renewals);
            after.is_some_and(|after| now >= self.since + *after)
        };
        due && self.stats.endpoint.is_some()
    }

    fn observe(&mut self, stats: PeerStats, now: Instant) {
        // A counter that runs backwards is a device that was recreated.
        let reset = stats.received < self.stats.received;
        if reset {
            *self = Self::new(now);
        }
        if stats.received > self.stats.received {
            self.heard = Some(now);
            self.asked = None;
        }
        self.observe_handshake(stats, now);
        self.stats = stats;
        self.read = Some(now);
    }

    /// The wall clock may have been set since the handshake. It is asked for the age of one that was there before the
    /// counters were first read; every other was after the reading before.
    fn observe_handshake(&mut self, stats: PeerStats, now: Instant) {
        let was_heard = self.read.is_some() && stats.received > self.stats.received;
        let known = self
            .handshake
            .filter(|known| stats.handshake_at == Some(known.at));
        let new = || {
            let (at, age) = stats.handshake_at.zip(stats.handshake)?;
            let longest = self.read.map(|read| now.saturating_duration_since(read));
            let age = longest.map_or(age, |longest| age.min(longest));
            Some(Handshake { at, seen: now, age })
        };
        self.handshake = known.or_else(new);
        // Whatever the clocks say: of an older session nothing is accepted.
        if let Some(handshake) = self.handshake.as_mut().filter(|_| was_heard)
            && handshake.age + now.saturating_duration_since(handshake.seen) >= FRESH
        {
            (handshake.seen, handshake.age) = (now, FRESH / 2);
        }
    }

    /// Returns the age of the last handshake when the counters were last read.
    fn age(&self) -> Option<Duration> {
        let (handshake, read) = self.handshake.zip(self.read)?;
        Some(handshake.age + read.saturating_duration_since(handshake.seen))
    }

    fn due(&self, now: Instant) -> bool {
        let past = |since: Option<Instant>, wait| since.is_none_or(|since| now >= since + wait);
        if self.moved {
            true
        } else if self.asked.is_some() || self.heard.is_none() {
            past(self.stimulated, AGAIN)
        } else {
            past(self.heard, QUIET)
        }
    }
}

#[cfg(test)]
mod tests;
