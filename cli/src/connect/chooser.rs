//! By which leader of a location, at which endpoint, this machine sends: the first that is published, and where that does not
//! answer, the next. A leader that is not the first of its location does not talk to Peers, so another one answers only when the
//! operator has made it the first: trying it matters where that is not known here yet, because the API server is away.

use std::time::Duration;

use spanwire_host::PeerStats;
use spanwire_topology::{Endpoint, NodeName, PublicKey};

/// How long a first handshake may take: two initiations (WireGuard whitepaper, section 6.1: REKEY_TIMEOUT is 5 s).
const FIRST: Duration = Duration::from_secs(10);
/// How long nothing may come after something was sent: who receives data has an answer or a keepalive for it within 10 s
/// (KEEPALIVE_TIMEOUT), and 5 s later a handshake has begun (REKEY_TIMEOUT).
const SILENCE: Duration = Duration::from_secs(15);
/// How old a session may be (REJECT_AFTER_TIME).
const EXPIRY: Duration = Duration::from_secs(180);
/// When a way that was just published is begun again, as long as it has not answered: its leader learns of this machine at the same time
/// as this machine of it, and WireGuard would repeat an initiation that came too early after 5 s.
const HURRY: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(750),
    Duration::from_millis(1500),
    Duration::from_secs(3),
];
/// The length of a keepalive, to which nothing is answered (section 5.4.6).
const KEEPALIVE_LENGTH: u64 = 32;

/// A leader at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The leader.
    pub leader: NodeName,
    /// Its key.
    pub key: PublicKey,
    /// Where it is reached.
    pub endpoint: Endpoint,
}

/// The choice for one location. Time is what has passed since any one moment.
#[derive(Clone, Debug)]
pub struct Chooser {
    /// At least one.
    ways: Vec<Way>,
    chosen: usize,
    /// How many ways were given up.
    given_up: usize,
    since: Duration,
    answered: bool,
    /// How often it was begun again.
    hurried: usize,
    /// The counters at the last look.
    before: Option<(u64, u64)>,
    /// Since when an answer to something is due.
    waiting: Option<Duration>,
}

impl Chooser {
    /// Begins with the first; `None`: there is no way.
    #[must_use]
    pub fn new(ways: Vec<Way>, now: Duration) -> Option<Self> {
        (!ways.is_empty()).then_some(Self {
            ways,
            chosen: 0,
            given_up: 0,
            since: now,
            answered: false,
            hurried: 0,
            before: None,
            waiting: None,
        })
    }

    /// Returns the way in use.
    #[must_use]
    pub fn way(&self) -> &Way {
        &self.ways[self.chosen]
    }

    /// Whether anything has come by the way in use.
    #[must_use]
    pub const fn answered(&self) -> bool {
        self.answered
    }

    /// Returns which of the addresses of a name is to be used: another one when all ways were given up.
    #[must_use]
    pub fn turn(&self) -> usize {
        self.given_up / self.ways.len()
    }

    /// Takes over what is published; returns whether another way is in use. A first one that has changed is used at once.
    pub fn publish(&mut self, ways: Vec<Way>, now: Duration) -> bool {
        let Some(first) = ways.first() else {
            return false;
        };
        let current = self.way();
        let stays = first == &self.ways[0] || first == current;
        let place = ways.iter().position(|way| way == current).filter(|_| stays);
        self.ways = ways;
        match place {
            Some(place) => self.chosen = place,
            None => self.begin(0, now),
        }
        place.is_none()
    }

    /// Takes the counters of the peer in use; returns whether the way is given up, and the next one is in use, which is the same
    /// where there is one alone.
    pub fn look(&mut self, stats: &PeerStats, now: Duration) -> bool {
        let (received, sent) = (stats.received, stats.sent);
        let (received_before, sent_before) =
            self.before.replace((received, sent)).unwrap_or((received, sent));
        let in_use = now.saturating_sub(self.since);
        if received > received_before || stats.handshake.is_some_and(|age| age < in_use) && !self.answered {
            self.answered = true;
            self.waiting = None;
        } else if sent.saturating_sub(sent_before) > KEEPALIVE_LENGTH {
            self.waiting.get_or_insert(now);
        }
        let since = |moment: Duration| now.saturating_sub(moment);
        let lost = if self.answered {
            self.waiting.is_some_and(|moment| since(moment) >= SILENCE)
                || stats.handshake.is_none_or(|age| age >= EXPIRY)
        } else {
            in_use >= FIRST
        };
        if lost {
            self.given_up += 1;
            self.begin((self.chosen + 1) % self.ways.len(), now);
            // It is tried, and nothing says that it is about to answer.
            self.hurried = HURRY.len();
        }
        lost
    }

    /// Returns whether the session with the leader in use is to be begun again now.
    pub fn is_to_hurry(&mut self, now: Duration) -> bool {
        let due = HURRY
            .get(self.hurried)
            .is_some_and(|after| now.saturating_sub(self.since) >= *after);
        let hurries = due && !self.answered;
        self.hurried += usize::from(hurries);
        hurries
    }

    fn begin(&mut self, chosen: usize, now: Duration) {
        self.chosen = chosen;
        self.since = now;
        self.answered = false;
        self.hurried = 0;
        self.before = None;
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn way(leader: &str, number: u8) -> Way {
        Way {
            leader: leader.parse().unwrap(),
            key: PublicKey::new([number; 32]),
            endpoint: format!("203.0.113.{number}:51820").parse().unwrap(),
        }
    }

    fn ways() -> Vec<Way> {
        vec![way("a1", 1), way("a2", 2)]
    }

    fn stats(received: u64, sent: u64, handshake: Option<u64>) -> PeerStats {
        PeerStats {
            received,
            sent,
            handshake: handshake.map(at),
            ..PeerStats::default()
        }
    }

    /// One that has answered at once, and was looked at each second up to this one.
    fn answered(until: u64) -> Chooser {
        let mut chooser = Chooser::new(ways(), at(0)).unwrap();
        for second in 1..=until {
            assert!(!chooser.look(&stats(92, 148, Some(second - 1)), at(second)));
        }
        assert!(chooser.answered());
        chooser
    }

    #[test]
    fn one_that_never_answers_is_given_up_after_two_initiations_and_after_the_last_comes_the_first() {
        let mut chooser = Chooser::new(ways(), at(0)).unwrap();
        assert!(!chooser.look(&stats(0, 148, None), at(9)));
        assert!(chooser.look(&stats(0, 296, None), at(10)));
        assert_eq!((chooser.way(), chooser.turn()), (&ways()[1], 0));
        assert!(!chooser.look(&stats(0, 148, None), at(19)));
        assert!(chooser.look(&stats(0, 296, None), at(20)));
        assert_eq!(
            (chooser.way(), chooser.turn(), chooser.answered()),
            (&ways()[0], 1, false)
        );
        assert!(Chooser::new(Vec::new(), at(0)).is_none());
    }

    #[test]
    fn one_that_was_just_published_is_begun_again_until_it_answers_and_one_that_is_tried_is_not() {
        let mut chooser = Chooser::new(ways(), at(0)).unwrap();
        let hurries = |chooser: &mut Chooser, from: u64| -> Vec<u64> {
            let moments = (0..40).map(|quarter| from + 250 * quarter);
            moments
                .filter(|moment| chooser.is_to_hurry(Duration::from_millis(*moment)))
                .collect()
        };
        assert_eq!(hurries(&mut chooser, 0), [250, 750, 1500, 3000]);
        assert!(chooser.look(&stats(0, 148, None), at(10)));
        assert!(hurries(&mut chooser, 10_000).is_empty());
        chooser.publish(vec![way("a3", 3)], at(20));
        assert_eq!(hurries(&mut chooser, 20_000), [20_250, 20_750, 21_500, 23_000]);
        let mut answered = answered(2);
        assert!(hurries(&mut answered, 2_000).is_empty());
    }

    #[test]
    fn one_that_has_nothing_to_say_is_kept() {
        let mut chooser = answered(2);
        let mut sent = 148;
        for second in 3..=120 {
            sent += if second % 25 == 0 { 32 } else { 0 };
            assert!(
                !chooser.look(&stats(92, sent, Some(second)), at(second)),
                "{second}"
            );
        }
    }

    #[test]
    fn silence_after_something_was_sent_gives_it_up_and_any_answer_keeps_it() {
        let mut chooser = answered(2);
        assert!(!chooser.look(&stats(92, 300, Some(2)), at(3)));
        assert!(!chooser.look(&stats(92, 450, Some(16)), at(17)));
        assert!(!chooser.clone().look(&stats(124, 450, Some(17)), at(18)));
        assert!(chooser.look(&stats(92, 450, Some(17)), at(18)));
        assert_eq!(chooser.way(), &ways()[1]);

        let mut kept = answered(2);
        kept.look(&stats(92, 300, Some(2)), at(3));
        kept.look(&stats(124, 300, Some(12)), at(13));
        assert!(!kept.look(&stats(124, 300, Some(29)), at(30)));
    }

    #[test]
    fn a_session_that_is_not_renewed_is_over() {
        let mut chooser = answered(2);
        assert!(!chooser.look(&stats(92, 148, Some(179)), at(179)));
        assert!(chooser.look(&stats(92, 148, Some(180)), at(180)));
    }

    #[test]
    fn a_handshake_with_one_that_was_used_before_is_no_answer() {
        let mut chooser = answered(2);
        chooser.look(&stats(92, 300, Some(2)), at(3));
        assert!(chooser.look(&stats(92, 300, Some(17)), at(18)));
        chooser.publish(ways(), at(18));
        // The same key at another endpoint: its last handshake is from before.
        assert!(!chooser.look(&stats(92, 300, Some(18)), at(19)) && !chooser.answered());
    }

    #[test]
    fn a_first_one_that_is_published_is_used_at_once_and_what_stays_is_not_disturbed() {
        let mut chooser = answered(2);
        assert!(!chooser.publish(vec![way("a1", 1), way("a3", 3)], at(3)));
        assert_eq!((chooser.way(), chooser.answered()), (&way("a1", 1), true));
        assert!(chooser.publish(vec![way("a2", 2), way("a1", 1)], at(4)));
        assert_eq!((chooser.way(), chooser.answered()), (&way("a2", 2), false));
        assert!(!chooser.publish(Vec::new(), at(5)));

        // It had moved on before that was published.
        let mut ahead = Chooser::new(ways(), at(0)).unwrap();
        assert!(ahead.look(&stats(0, 148, None), at(10)));
        ahead.look(&stats(92, 148, Some(0)), at(11));
        assert!(!ahead.publish(vec![way("a2", 2), way("a1", 1)], at(12)));
        assert_eq!((ahead.way(), ahead.answered()), (&way("a2", 2), true));
    }
}
