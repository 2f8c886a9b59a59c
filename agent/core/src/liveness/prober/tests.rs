//! In a world whose clock is simulated.

mod gone;
mod hangs;
mod members;
mod useless;

use std::{cell::RefCell, sync::Arc};

use spanwire_host::{Hop, LinkName};
use spanwire_topology::{Behind, Far, Near};

use super::*;
use crate::liveness::chance::Chance;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn far(node: &str, overlay: &str) -> Far {
    Far {
        location: name("b"),
        node: name(node),
        overlay: [name(overlay)].into(),
    }
}

/// Gives a node these leaders beside it.
fn beside(assignment: &mut Assignment, leaders: &[(&str, &str)]) {
    for (node, address) in leaders {
        let node: NodeName = name(node);
        assignment.probes.hops.push(Near {
            node: node.clone(),
            hop: Arc::default(),
            addresses: Arc::default(),
        });
        let hop = Hop {
            link: LinkName::new("flannel.1").unwrap(),
            neighbour: name(address),
            answers_at: None,
            source: name("10.0.0.3"),
        };
        assignment.hops.insert((node, Family::V4), hop);
    }
}

/// b1 and b2 lead b, b3 and b4 are members there; a1 leads a, with a2 beside it.
fn leader(judgement: &Judgement) -> Assignment {
    let leaders = [far("b1", "10.4.0.11"), far("b2", "10.4.0.12")];
    let is_used = |far: &&Far| !judgement.forsaken.contains(&(name("b"), far.node.clone()));
    let used = leaders.iter().find(is_used).unwrap();
    let mut assignment = Assignment {
        leads_as: Some(name("a1")),
        overlay: [name("10.4.0.1")].into(),
        groups: true,
        ..Assignment::default()
    };
    assignment.probes.behind = vec![Behind {
        location: name("b"),
        leader: used.node.clone(),
        members: vec![
            (name("b3"), [name("192.168.2.3")].into()),
            (name("b4"), [name("192.168.2.4")].into()),
        ],
    }];
    assignment.probes.through = leaders.to_vec();
    assignment.probes.far = leaders.into();
    beside(&mut assignment, &[("a2", "10.0.0.2")]);
    assignment
}

/// a3 follows a1 or a2 there.
fn follower(_: &Judgement) -> Assignment {
    let mut assignment = Assignment::default();
    beside(&mut assignment, &[("a1", "10.0.0.1"), ("a2", "10.0.0.2")]);
    assignment.probes.through = vec![far("b1", "10.4.0.11"), far("b2", "10.4.0.12")];
    assignment
}

/// How a question is written: `10.4.0.11`, or `10.4.0.11 through a1`.
fn text(question: &Question) -> String {
    match &question.way {
        Way::Hop(_) | Way::FromOverlay => question.target.to_string(),
        Way::Through(leader) => format!("{} through {leader}", question.target),
    }
}

/// Whether a question is not answered, at a time since the beginning, while this is judged.
type Silent = Box<dyn Fn(&str, Duration, &Judgement) -> bool>;

/// A prober in a simulated world in which everything answers in time but what is silent.
struct World {
    prober: Prober,
    assignment: fn(&Judgement) -> Assignment,
    start: Instant,
    now: Instant,
    rtt: Duration,
    /// In the order of time, and of the questions.
    answers: BTreeMap<(Instant, usize), (u64, IpAddr)>,
    silent: Silent,
    /// Until when what answers at that time since the beginning, and hangs, keeps a question.
    hangs: fn(&str, Duration) -> Option<Duration>,
    judgement: Judgement,
    /// When b came to be unreached or reached.
    unreached: Vec<(Duration, bool)>,
    /// When what came to be not used.
    changes: Vec<(Duration, String)>,
    sent: Vec<(Duration, String)>,
}

impl World {
    fn new(
        assignment: fn(&Judgement) -> Assignment,
        silent: impl Fn(&str, Duration, &Judgement) -> bool + 'static,
    ) -> Self {
        Self::after(Judgement::default(), assignment, silent)
    }

    /// With an agent that starts when this has been judged.
    fn after(
        before: Judgement,
        assignment: fn(&Judgement) -> Assignment,
        silent: impl Fn(&str, Duration, &Judgement) -> bool + 'static,
    ) -> Self {
        let start = Instant::now();
        let chance = RefCell::new(Chance::new(7));
        let mut prober = Prober::new(
            Settings::default(),
            before.clone(),
            Box::new(move || chance.borrow_mut().number()),
        );
        prober.handle_assignment(&assignment(&before), start);
        Self {
            prober,
            assignment,
            start,
            now: start,
            rtt: MS,
            answers: BTreeMap::new(),
            silent: Box::new(silent),
            hangs: |_, _| None,
            judgement: before,
            unreached: Vec::new(),
            changes: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn run(mut self, time: Duration) -> Self {
        let end = self.now + time;
        loop {
            let answer = self.answers.first_key_value().map(|((at, _), _)| *at);
            let wake = answer.into_iter().chain(self.prober.poll_timeout()).min();
            let Some(wake) = wake.filter(|wake| *wake <= end) else {
                self.now = end;
                return self;
            };
            self.now = self.now.max(wake);
            self.wake();
        }
    }

    fn stall(mut self, time: Duration) -> Self {
        self.now += time;
        self.wake();
        self
    }

    fn wake(&mut self) {
        while let Some(entry) = self.answers.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (number, from) = entry.remove();
            // What was asked may not be watched any more.
            self.prober.handle_answer(from, number, self.now);
        }
        self.prober.handle_timeout(self.now);
        let at = self.now - self.start;
        while let Some(question) = self.prober.poll_question() {
            let text = text(&question);
            if !(self.silent)(&text, at, &self.judgement) {
                let taken = (self.hangs)(&text, at).map_or(self.now, |until| self.start + until);
                let key = (taken + self.rtt, self.sent.len());
                self.answers.insert(key, (question.number, question.target));
            }
            self.sent.push((at, text));
        }
        if let Some(judgement) = self.prober.poll_judgement() {
            let is_unreached = judgement.unreached.contains(&name("b"));
            if is_unreached != self.judgement.unreached.contains(&name("b")) {
                self.unreached.push((at, is_unreached));
            }
            let own = judgement.lost.iter().map(|(node, _)| node.to_string());
            let far = judgement.forsaken.iter().map(|(_, node)| node.to_string());
            let used = (&self.judgement.lost, &self.judgement.forsaken);
            if used != (&judgement.lost, &judgement.forsaken) {
                self.changes
                    .push((at, own.chain(far).collect::<Vec<_>>().join(" ")));
            }
            self.judgement = judgement;
            self.prober
                .handle_assignment(&(self.assignment)(&self.judgement), self.now);
        }
    }

    /// What was not used any more, in order.
    fn unused(&self) -> Vec<&str> {
        self.changes.iter().map(|(_, names)| names.as_str()).collect()
    }

    fn count(&self, what: &str, from: Duration) -> usize {
        self.sent
            .iter()
            .filter(|(at, text)| *at >= from && text == what)
            .count()
    }
}

#[test]
fn who_has_nothing_to_watch_never_wakes_up() {
    let world = World::new(|_| Assignment::default(), |_, _, _| false);
    assert_eq!(world.prober.poll_timeout(), None);
}

#[test]
fn a_dead_leader_is_not_used_within_half_a_second_and_used_again_a_second_after_its_return() {
    let dead = |text: &str, at: Duration, _: &Judgement| {
        let dead = at > 10 * SECOND && at < 20 * SECOND;
        dead && (text.starts_with("10.4.0.11") || text.starts_with("192.168"))
    };
    let world = World::new(leader, move |text, at, judgement| {
        dead(text, at, judgement) && (text.starts_with("10.4") || judgement.forsaken.is_empty())
    });
    let world = world.run(40 * SECOND);
    assert_eq!(world.unused(), ["b1", ""], "{:?}", world.changes);
    assert!(world.changes[0].0 < 10_500 * MS, "{:?}", world.changes);
    assert!(
        world.changes[1].0 > 21 * SECOND && world.changes[1].0 < 22 * SECOND,
        "{:?}",
        world.changes
    );
}

#[test]
fn a_leader_that_comes_and_goes_is_taken_back_more_and_more_slowly() {
    let world = World::new(leader, |text, at, judgement| {
        let down = at.as_secs() % 20 >= 15;
        down && (text.starts_with("10.4.0.11") || (text.starts_with("192") && judgement.forsaken.is_empty()))
    });
    let world = world.run(300 * SECOND);
    let taken_back = world.changes.iter().filter(|(_, names)| names.is_empty());
    let taken_back: Vec<u64> = taken_back.map(|(at, _)| at.as_secs()).collect();
    assert_eq!(taken_back[..4], [21, 42, 64, 88], "{:?}", world.changes);
    assert!(taken_back.len() <= 4, "{taken_back:?}");
}

#[test]
fn a_node_that_is_cut_off_changes_nothing() {
    for assignment in [leader, follower] {
        let world = World::new(assignment, |_, at, _| at > 10 * SECOND && at < 40 * SECOND);
        let world = world.run(60 * SECOND);
        // What answers first is used first then.
        assert!(
            world
                .changes
                .iter()
                .all(|(at, _)| *at > 40 * SECOND && *at < 42 * SECOND),
            "{:?}",
            world.changes
        );
        assert!(
            world.changes.len() <= 4 && world.judgement == Judgement::default(),
            "{:?}",
            world.changes
        );
    }
}

#[test]
fn a_follower_leaves_the_leader_that_does_not_forward_and_the_one_that_is_dead() {
    for dead in ["10.4.0.11 through a1 10.4.0.12 through a1", "10.0.0.1"] {
        let world = World::new(follower, move |text, at, _| {
            at > 10 * SECOND && dead.contains(text)
        });
        let world = world.run(20 * SECOND);
        assert_eq!(world.unused(), ["a1"], "{dead}");
        assert!(world.changes[0].0 < 10_500 * MS, "{:?}", world.changes);
    }
}

#[test]
fn a_leader_that_reaches_no_leader_of_a_location_sends_through_the_one_beside_it() {
    let world = World::new(leader, |text, at, _| {
        at > 10 * SECOND && ["10.4.0.11", "10.4.0.12", "192.168.2.3", "192.168.2.4"].contains(&text)
    });
    let world = world.run(20 * SECOND);
    assert_eq!(world.unused().last(), Some(&"a1"), "{:?}", world.changes);
    assert!(world.changes[0].0 < 10_600 * MS, "{:?}", world.changes);
}

#[test]
fn a_location_of_which_nothing_answers_any_more_is_unreached_within_a_second_until_anything_does() {
    let world = |assignment| {
        let world = World::new(assignment, |text, at, _| {
            let down = at > 10 * SECOND && at < 20 * SECOND;
            down && (text.starts_with("10.4.0") || text.starts_with("192.168"))
        });
        world.run(30 * SECOND).unreached
    };
    let unreached = world(leader);
    let [(began, true), (ended, false)] = unreached[..] else {
        panic!("{unreached:?}")
    };
    assert!(began > 10_400 * MS && began < 11 * SECOND, "{began:?}");
    assert!(ended < 20_300 * MS, "{ended:?}");
    assert_eq!(world(follower), [], "that is its leaders' to say");
}

#[test]
fn whatever_answers_or_never_did_keeps_a_location_from_being_unreached() {
    let silent: [(&str, Silent); 4] = [
        (
            "by the one beside it",
            Box::new(|text, at, _| {
                at > 10 * SECOND && !text.contains("through") && !text.starts_with("10.0")
            }),
        ),
        (
            "what is behind its leaders",
            Box::new(|text, at, _| at > 10 * SECOND && !text.starts_with("192.168")),
        ),
        (
            "b2 never did",
            Box::new(|text, at, _| at > 10 * SECOND || text.starts_with("10.4.0.12")),
        ),
        (
            "for a moment",
            Box::new(|_, at, _| at > 10 * SECOND && at < 10_700 * MS),
        ),
    ];
    for (what, silent) in silent {
        let world = World::new(leader, silent).run(30 * SECOND);
        assert!(world.unreached.is_empty(), "{what}: {:?}", world.unreached);
        let is_unheard = world.judgement.unheard.contains(&name("b"));
        assert_eq!(is_unheard, what == "b2 never did", "{what}");
    }
}

/// Of what does not answer after a restart it is not known whether it can.
#[test]
fn an_agent_that_starts_while_nothing_answers_takes_no_location_for_unreached() {
    let before = Judgement {
        unreached: [name("b")].into(),
        ..Judgement::default()
    };
    let world = World::after(before, leader, |_, _, _| true).run(60 * SECOND);
    assert!(world.judgement.unreached.is_empty(), "{:?}", world.judgement);
}

#[test]
fn one_that_answers_is_asked_and_the_others_when_it_does_not() {
    let world = World::new(leader, |text, at, _| {
        // b3 dies, of which nothing follows.
        text == "192.168.2.3" && at > 10 * SECOND
    });
    let world = world.run(20 * SECOND);
    assert!(world.changes.is_empty(), "{:?}", world.changes);
    let at_rest = world
        .sent
        .iter()
        .filter(|(at, _)| *at > 5 * SECOND && *at < 6 * SECOND);
    let (mut ways, mut all) = (BTreeSet::new(), 0);
    for (_, text) in at_rest {
        ways.insert(text.clone());
        all += 1;
    }
    assert_eq!(
        ways.len(),
        5,
        "two far, one hop, one through it, one behind: {ways:?}"
    );
    assert!((48..=52).contains(&all), "{all} in a second");
    assert!(world.count("192.168.2.4", 11 * SECOND) > 80);
    assert!(world.count("192.168.2.3", 11 * SECOND) < 3);
}

#[test]
fn what_never_answered_proves_nothing_and_is_asked_seldom() {
    let world = World::new(follower, |text, _, _| text.contains("a1") || text == "10.0.0.1");
    let world = world.run(60 * SECOND);
    assert!(world.changes.is_empty());
    assert!(world.count("10.0.0.1", 30 * SECOND) <= 31);
    assert!(world.count("10.0.0.2", 30 * SECOND) >= 299);
}

/// Two NATs may keep a tunnel between two leaders from coming up for good, and then nothing that is sent there arrives.
#[test]
fn what_never_answered_is_not_used_instead_of_what_answers_again() {
    let down = |at: Duration| at > 10 * SECOND && at < 13 * SECOND;
    // Nothing comes from behind b1 for a while, and nothing ever came by b2.
    let world = World::new(leader, move |text, at, judgement| {
        let never = text.starts_with("10.4.0.12") || text.contains("through");
        let behind = text.starts_with("192.168");
        never || (behind && (down(at) || !judgement.forsaken.is_empty()))
    });
    let world = world.run(60 * SECOND);
    assert!(world.changes.is_empty(), "{:?}", world.changes);

    let world = World::new(follower, move |text, at, _| {
        text.ends_with("through a2") || (down(at) && text.ends_with("through a1"))
    });
    let world = world.run(60 * SECOND);
    assert_eq!(world.unused(), ["a1", ""], "{:?}", world.changes);
    assert!(world.changes[1].0 < 13_200 * MS, "{:?}", world.changes);
}

#[test]
fn a_leader_that_has_lost_the_only_tunnel_it_had_sends_through_the_one_beside_it() {
    let world = World::new(leader, |text, at, _| {
        let down = at > 10 * SECOND && at < 20 * SECOND;
        text == "10.4.0.12" || (down && ["10.4.0.11", "192.168.2.3", "192.168.2.4"].contains(&text))
    });
    let world = world.run(30 * SECOND);
    assert_eq!(world.unused(), ["a1 b1", ""], "{:?}", world.changes);
    assert!(world.changes[1].0 < 20_200 * MS, "{:?}", world.changes);
}

#[test]
fn only_who_was_asked_can_answer_and_only_once() {
    let mut world = World::new(follower, |_, _, _| true).run(SECOND);
    let now = world.now;
    let questions = |world: &mut World| {
        let watched = world.prober.watches.values_mut();
        watched.for_each(|watch| watch.next = now);
        let due: Vec<u64> = world.prober.watches.keys().copied().collect();
        due.iter().for_each(|id| world.prober.ask(*id, now));
        world.prober.poll_question().unwrap()
    };
    let question = questions(&mut world);
    let other = name("10.9.9.9");
    assert!(!world.prober.handle_answer(other, question.number, now));
    assert!(
        !world
            .prober
            .handle_answer(question.target, question.number ^ 1, now)
    );
    assert!(world.prober.handle_answer(question.target, question.number, now));
    assert!(!world.prober.handle_answer(question.target, question.number, now));
}

#[test]
fn an_agent_that_was_not_run_suspects_nobody() {
    for assignment in [leader, follower] {
        let mut world = World::new(assignment, |_, _, _| false);
        world.rtt = 450 * MS;
        world = world.run(10 * SECOND);
        for _ in 0..30 {
            world = world.stall(SECOND).run(2 * SECOND);
            // The machine stood still: what was on its way is lost.
            world.answers.clear();
            world = world.stall(60 * SECOND).run(2 * SECOND);
        }
        assert!(world.changes.is_empty(), "{:?}", world.changes);
        let lost = world
            .prober
            .seen(world.now)
            .iter()
            .filter(|seen| seen.deaths > 0)
            .count();
        assert_eq!(lost, 0);
    }
}

#[test]
fn five_hundred_leaders_are_watched_within_the_ceiling_also_when_they_all_fall_silent() {
    fn many(judgement: &Judgement) -> Assignment {
        let mut assignment = leader(judgement);
        assignment.probes.far = (0..500)
            .map(|leader| Far {
                location: name(&format!("l{}", leader / 2)),
                ..far(
                    &format!("n{leader}"),
                    &format!("10.5.{}.{}", leader / 250, leader % 250),
                )
            })
            .collect();
        assignment
    }
    let world = World::new(many, |_, at, _| at > 20 * SECOND && at < 40 * SECOND).run(60 * SECOND);
    let at: Vec<Duration> = world.sent.iter().map(|(at, _)| *at).collect();
    for (index, begin) in at.iter().enumerate() {
        let end = at.partition_point(|at| *at < *begin + SECOND);
        assert!(end - index <= 500, "{} from {begin:?} on", end - index);
    }
    assert!(at.len() > 400 * 50, "{}", at.len());
    let asked: BTreeSet<&str> = world.sent.iter().map(|(_, text)| text.as_str()).collect();
    assert!(asked.len() >= 505, "{}", asked.len());
    assert!(
        world.changes.iter().all(|(at, _)| *at > 40 * SECOND),
        "{:?}",
        world.changes.first()
    );
}

#[test]
fn what_is_watched_no_more_is_forgotten() {
    let mut world = World::new(leader, |_, _, _| false).run(SECOND);
    world.prober.handle_assignment(&Assignment::default(), world.now);
    assert_eq!(world.prober.poll_timeout(), None);
    assert!(world.prober.seen(world.now).is_empty());
    // Late answers find nothing.
    let answer = world.answers.pop_first();
    let (number, from) = answer.map_or((1, name("10.0.0.2")), |(_, answer)| answer);
    assert!(!world.prober.handle_answer(from, number, world.now));
}

#[test]
fn an_agent_that_starts_while_a_leader_is_dead_goes_on_without_it_until_it_answers() {
    let before = Judgement {
        forsaken: [(name("b"), name("b1"))].into(),
        ..Judgement::default()
    };
    let world = World::after(before, leader, |text, at, _| {
        text.starts_with("10.4.0.11") && at < 20 * SECOND
    });
    let world = world.run(30 * SECOND);
    assert_eq!(world.unused(), [""], "{:?}", world.changes);
    assert!(
        world.changes[0].0 > 21 * SECOND && world.changes[0].0 < 22 * SECOND,
        "{:?}",
        world.changes
    );
}

/// Its own tunnels are silent, so that it sends through the leader beside it.
#[test]
fn an_agent_that_starts_goes_on_relaying_until_its_own_tunnels_answer() {
    let before = Judgement {
        lost: [(name("a1"), name("b"))].into(),
        ..Judgement::default()
    };
    let world = World::after(before, leader, |text, at, _| {
        let is_own = text.starts_with("10.4.0") && !text.contains("through");
        is_own && at < 20 * SECOND
    });
    let world = world.run(30 * SECOND);
    assert_eq!(world.judgement, Judgement::default());
    // Of its tunnels the first that answers is used first.
    assert_eq!(world.unused(), ["b1", ""], "{:?}", world.changes);
    assert!(world.changes[0].0 > 20 * SECOND, "{:?}", world.changes);
}

#[test]
fn what_was_judged_of_leaders_that_are_none_any_more_is_forgotten() {
    let before = Judgement {
        forsaken: [(name("b"), name("b9"))].into(),
        lost: [(name("a9"), name("b"))].into(),
        ..Judgement::default()
    };
    let world = World::after(before, leader, |_, _, _| false).run(SECOND);
    assert_eq!(world.unused(), [""]);
}
