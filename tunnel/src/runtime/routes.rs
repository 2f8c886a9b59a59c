//! Which peers are written to by a way that the routes do not take any more.
//!
//! A peer is written to from the address of this machine that it wrote to last. When another route to it takes precedence, that
//! address may belong to an uplink that packets do not leave by any more, and a provider that filters sources drops them.
//! The kernel's WireGuard looks at the route of every datagram; here the kernel is asked after it said that something has
//! changed (links, addresses, routes, rules, nexthops), and when a peer writes by another way than before.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    path::Path,
    rtnetlink::{RouteSocket, Sender},
};

/// Changes come in swarms, and what is asked after the first of them sees half of what changes; it is asked again after this time.
const PAUSE: Duration = Duration::from_millis(50);
/// Asking takes one part in so many of this thread's time in the long run.
const SHARE: u32 = 20;
/// So much of its time it may take at once, that of seven rounds for ten thousand ways: only who changes routes without end waits.
const CREDIT: Duration = Duration::from_secs(1);

/// How long packets wait for questions.
const TURN: Duration = Duration::from_millis(4);

/// Changes to routes, and to ways, that no question followed yet; and the questions that follow them now.
#[derive(Debug, Default)]
pub(super) struct RouteChanges {
    changed: bool,
    unasked: bool,
    not_before: Option<Instant>,
    round: Option<Round>,
    budget: Budget,
}

/// How much time was spent on questions.
#[derive(Debug, Default)]
struct Budget {
    /// Without what may be spent in the time since then.
    spent: Duration,
    counted: Option<Instant>,
}

impl Budget {
    /// Counts the time of a round that ends now; returns how long to wait before the next.
    fn pause(&mut self, now: Instant, took: Duration) -> Duration {
        let before = self.counted.replace(now).unwrap_or(now);
        let earned = now.saturating_duration_since(before) / SHARE;
        self.spent = self.spent.saturating_sub(earned) + took;
        PAUSE.max(self.spent.saturating_sub(CREDIT) * SHARE)
    }
}

/// One question for each way.
#[derive(Debug)]
struct Round {
    /// All ways are asked for.
    changed: bool,
    left: Vec<Path>,
    lost: BTreeSet<Path>,
    /// Which addresses are this machine's, by the interface that peers' datagrams came in by, as far as that was asked.
    own: BTreeMap<(IpAddr, u32), bool>,
    took: Duration,
}

/// What the kernel says to the questions of a turn.
#[derive(Debug)]
pub(super) struct Answers {
    /// Those of the paths by which the kernel would not send any more: the local address is gone, or what is sent from it leaves
    /// by another interface than the one by which the peer's datagrams came in. Of those that were lost before, and have no
    /// local address, the ones for which there is a route.
    pub(super) lost: BTreeSet<Path>,
    /// When these were the last ones after a change: all that were lost since.
    pub(super) all_lost: Option<BTreeSet<Path>>,
}

impl RouteChanges {
    /// Something has changed.
    pub(super) fn handle_change(&mut self) {
        self.changed = true;
    }

    /// Some peer is written to in another way than before.
    pub(super) fn handle_unasked(&mut self) {
        self.unasked = true;
    }

    /// Returns whether it is time to ask.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_asking() || (self.is_wanted() && self.not_before.is_none_or(|at| at <= now))
    }

    /// Returns when it is time to ask, if that is not now.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.is_asking() {
            return Some(now);
        }
        self.not_before.filter(|_| self.is_wanted())
    }

    fn is_wanted(&self) -> bool {
        self.changed || self.unasked
    }

    /// Returns whether questions are left that were begun.
    pub(super) fn is_asking(&self) -> bool {
        self.round.is_some()
    }

    /// Begins to ask for the paths that `collect` returns, which is given whether something has changed, so that every way has
    /// to be asked for; returns that, too.
    pub(super) fn begin(&mut self, collect: impl FnOnce(bool) -> BTreeSet<Path>) -> bool {
        let changed = std::mem::take(&mut self.changed);
        self.unasked = false;
        self.round = Some(Round {
            changed,
            left: collect(changed).into_iter().collect(),
            lost: BTreeSet::new(),
            own: BTreeMap::new(),
            took: Duration::ZERO,
        });
        changed
    }

    /// Asks for as many paths as there is time for.
    pub(super) fn ask(&mut self, sender: Sender) -> Answers {
        let mut answers = Answers {
            lost: BTreeSet::new(),
            all_lost: None,
        };
        let Some(round) = &mut self.round else {
            return answers;
        };
        let start = Instant::now();
        match RouteSocket::open() {
            Ok(mut socket) => {
                while let Some(path) = round.left.pop() {
                    if round.is_lost(&mut socket, path, sender) {
                        answers.lost.insert(path);
                    }
                    if start.elapsed() >= TURN {
                        break;
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot ask for routes");
                round.left.clear();
            }
        }
        round.lost.extend(&answers.lost);
        round.took += start.elapsed();
        if let Some(round) = self.round.take_if(|round| round.left.is_empty()) {
            let now = Instant::now();
            self.not_before = Some(now + self.budget.pause(now, round.took));
            answers.all_lost = round.changed.then_some(round.lost);
        }
        answers
    }
}

impl Round {
    fn is_lost(&mut self, socket: &mut RouteSocket, path: Path, sender: Sender) -> bool {
        if path.interface == 0 || !is_asked_for(path.remote, path.local) {
            return false;
        }
        let way = socket.way_out(path.remote, path.local, sender).ok().flatten();
        let Some(local) = path.local else {
            return way.is_some();
        };
        // Without any route for a moment the address stays the right one.
        way.is_some_and(|interface| interface != path.interface)
            || !*self
                .own
                .entry((local, path.interface))
                .or_insert_with(|| socket.is_own(local, &[sender.device, path.interface]))
    }
}

/// A link-local address has its interface in it.
fn is_asked_for(remote: SocketAddr, local: Option<IpAddr>) -> bool {
    match (remote, local) {
        (SocketAddr::V4(_), None | Some(IpAddr::V4(_))) => true,
        (SocketAddr::V6(remote), None | Some(IpAddr::V6(_))) => remote.scope_id() == 0,
        (SocketAddr::V4(_), Some(IpAddr::V6(_))) | (SocketAddr::V6(_), Some(IpAddr::V4(_))) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ways that the loopback interface takes, which peers did not write by.
    fn ways(count: u16) -> BTreeSet<Path> {
        let way = |port| Path {
            local: "127.0.0.1".parse().ok(),
            interface: 7,
            ..Path::from(SocketAddr::from(([127, 0, 0, 1], port)))
        };
        (1..=count).map(way).collect()
    }

    #[test]
    fn ten_thousand_ways_are_asked_for_in_turns_and_all_once() {
        let mut changes = RouteChanges::default();
        changes.handle_change();
        assert!(changes.begin(|changed| {
            assert!(changed);
            ways(10_000)
        }));
        let (mut turns, mut lost) = (0, 0);
        let all = loop {
            assert!(changes.is_due(Instant::now()));
            let answers = changes.ask(Sender::default());
            turns += 1;
            lost += answers.lost.len();
            if let Some(all) = answers.all_lost {
                break all;
            }
        };
        assert!(turns > 2, "{turns} turns");
        assert_eq!((lost, all), (10_000, ways(10_000)));
        assert!(!changes.is_asking() && !changes.is_due(Instant::now()));
    }

    /// What ten thousand ways take where there is nothing else to do.
    const TEN_THOUSAND: Duration = Duration::from_millis(130);

    #[test]
    fn a_second_change_does_not_wait_long_for_ten_thousand_ways() {
        let mut changes = RouteChanges::default();
        for _ in 0..3 {
            changes.handle_change();
            changes.begin(|_| ways(10_000));
            changes.handle_change();
            while let Some(round) = &mut changes.round {
                // However busy this machine is.
                round.took = TEN_THOUSAND;
                changes.ask(Sender::default());
            }
            let now = Instant::now();
            let wait = changes.poll_timeout(now).unwrap() - now;
            assert!(wait <= Duration::from_millis(250), "{wait:?}");
        }
    }

    #[test]
    fn changes_without_end_take_a_small_part_of_the_time() {
        let mut budget = Budget::default();
        let start = Instant::now();
        let (mut now, mut asked) = (start, Duration::ZERO);
        while now < start + Duration::from_secs(3600) {
            now += TEN_THOUSAND;
            asked += TEN_THOUSAND;
            now += budget.pause(now, TEN_THOUSAND);
        }
        let most = CREDIT + TEN_THOUSAND + now.duration_since(start) / SHARE;
        assert!(asked <= most, "{asked:?}");
        now += Duration::from_secs(60);
        assert_eq!(budget.pause(now, TEN_THOUSAND), PAUSE, "after a rest");
    }

    #[test]
    fn what_changes_meanwhile_is_asked_after_a_pause() {
        let mut changes = RouteChanges::default();
        changes.handle_unasked();
        assert!(!changes.begin(|_| ways(1)));
        changes.handle_change();
        let answers = changes.ask(Sender::default());
        assert_eq!((answers.lost, answers.all_lost), (ways(1), None));
        let now = Instant::now();
        assert!(!changes.is_due(now));
        let then = changes.poll_timeout(now).unwrap();
        assert!(then > now && changes.is_due(then));
    }
}
