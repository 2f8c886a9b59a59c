//! Whom to ask when, and what follows from the answers: [`Assignment`] in, [`Judgement`] out.
//!
//! Everything watched ([`Subject`]) has its own [`Detector`](super::Detector), and is asked once in every interval: one of its
//! targets while that answers, else all of them, of which any may answer. What is asked is spread over the interval, and
//! the interval grows with what there is to ask, so that a node never sends more than a [ceiling](Settings::ceiling). Members of
//! the own location are asked within a tenth of that, and as often as all else once one has not answered.
//!
//! An answer counts when it comes from whom was asked and repeats the number of the question, which is drawn at random for
//! each: who does not see the question cannot answer it.
//!
//! # A location that is reached by no way
//!
//! That is said to people, so it has to last for a moment, nothing behind its leaders may answer either, and the first answer from
//! anywhere ends it. It is not remembered when the process ends: of what does not answer then it is not known whether it can.
//!
//! What is sent there is lost or refused until that answer, so its leaders are asked [more often](pace) for a while, as far as what all else is
//! asked leaves of the ceiling. So it is not where another way reaches it: there the next one in order is used.
//!
//! # A leader that lives and is of no use
//!
//! That nothing comes back from behind a leader is seen only while it is used. Once it is not any more it would have to be used to
//! know better, which costs what is sent meanwhile. So such trials become rare ([`Backoff`]), and the leaders of a mesh that all saw
//! the same do not try it at the same moment. They are not rare where the leader in use turns out to be of no use either: then a trial
//! costs nothing, unless the other one has only just been found out ([`AGAIN`]): it may be the members that died.

mod behind;
mod pace;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use spanwire_host::Hop;
use spanwire_topology::{Doubt, Family, LocationName, NodeName};

use crate::allowance::Allowance;

use super::{
    assignment::Assignment,
    backoff::Backoff,
    detector::{LATE, Round, THRESHOLD},
    judge::{Choices, Judgement, Subject, Trust},
};
use watch::Watch;

/// A process that comes to run so much later than it wanted to has stood still.
const STALL: Duration = Duration::from_millis(50);
/// How long a leader is left alone from behind which nothing answered: each trial costs what is sent until that is seen.
const USELESS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1800));
/// One that has been left alone for so long is tried again when the one in use instead of it is of no use either.
const AGAIN: Duration = Duration::from_secs(5);
/// On such a trial something has to have answered by then. So it has behind a leader that has just come into use, if any of it
/// answered shortly before, behind another one; not where WireGuard has no groups: what the far side sends by another leader is
/// lost there, which is no fault of this one.
const TRIAL: Duration = Duration::from_millis(1500);
/// What answered so long ago has answered shortly before.
const SHORTLY: Duration = Duration::from_secs(10);
/// For so long a location has to be reached by no way: what every way has in common may fail for a moment.
const HOLD: Duration = Duration::from_millis(400);
/// What is due so soon is asked together with what is due now: each time that a process wakes up costs.
const EARLY: Duration = Duration::from_millis(20);
/// How much of what may be sent in a second may be sent at once.
const BURST: f64 = 0.1;

/// How to watch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How often everything is asked, while that is little.
    pub interval: Duration,
    /// The suspicion at which a path is taken for dead, see [`Detector`](super::Detector).
    pub threshold: f64,
    /// How many questions are sent in a second at most.
    pub ceiling: u32,
}

impl Settings {
    /// How many questions are sent in a second at most, besides those that are sent at once.
    fn rate(&self) -> f64 {
        f64::from(self.ceiling.max(1)) * (1.0 - BURST)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            threshold: THRESHOLD,
            ceiling: 500,
        }
    }
}

/// How a question is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// As this node's routes have it, from the own overlay address.
    FromOverlay,
    /// To this node of the own location by the device of the hop, and by no other: where that is gone nothing is sent.
    Hop(NodeName),
    /// To this leader of the own location, whatever the routes are, and on from there.
    Through(NodeName),
}

/// A question to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who is asked.
    pub target: IpAddr,
    /// By what way.
    pub way: Way,
    /// What the answer has to repeat.
    pub number: u64,
}

/// What is known of something that is watched, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What it is.
    pub subject: Subject,
    /// How far it can be relied upon.
    pub trust: Trust,
    /// It has answered at least once.
    pub answered: bool,
    /// The smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// The share of questions that were not answered in time while it was not taken for dead, from 0 to 1.
    pub loss: f64,
    /// -log10 of the likelihood that it is as silent as now although it works.
    pub suspicion: f64,
    /// How often it was taken for dead.
    pub deaths: u64,
}

/// Watches what it is given to watch.
pub struct Prober {
    settings: Settings,
    random: Box<dyn FnMut() -> u64 + Send>,
    watches: BTreeMap<u64, Watch>,
    ids: BTreeMap<Subject, u64>,
    /// How many of them are members of the own location.
    members: usize,
    next_id: u64,
    /// When to look at which.
    timetable: BTreeSet<(Instant, u64)>,
    asked: BTreeMap<u64, Asked>,
    /// The same in the order of time.
    order: VecDeque<(Instant, u64)>,
    questions: VecDeque<Question>,
    /// How many questions may be sent.
    allowance: Allowance,
    choices: Choices,
    /// When members behind a leader of another location last answered, behind whichever.
    heard: BTreeMap<IpAddr, Instant>,
    /// Leaders from behind which nothing came.
    useless: BTreeMap<(LocationName, NodeName), Backoff>,
    /// Since when no way has reached a location.
    silent: BTreeMap<LocationName, Instant>,
    /// How often the leaders of those are asked at first.
    haste: Duration,
    judgement: Judgement,
    is_news: bool,
}

/// A question that may be answered yet.
#[derive(Clone, Copy, Debug)]
struct Asked {
    watch: u64,
    round: Round,
    target: usize,
}

impl Prober {
    /// Returns a prober that watches nothing. `before` is what was judged before this process began: of leaders that were dead
    /// then it is not known whether they ever answered. `random` gives numbers that cannot be guessed.
    #[must_use]
    pub fn new(settings: Settings, before: Judgement, random: Box<dyn FnMut() -> u64 + Send>) -> Self {
        let most = (f64::from(settings.ceiling) * BURST).max(1.0);
        let allowance = Allowance::new(settings.rate(), most);
        Self {
            settings,
            random,
            watches: BTreeMap::new(),
            ids: BTreeMap::new(),
            members: 0,
            next_id: 0,
            timetable: BTreeSet::new(),
            asked: BTreeMap::new(),
            order: VecDeque::new(),
            questions: VecDeque::new(),
            allowance,
            choices: Choices::default(),
            heard: BTreeMap::new(),
            useless: BTreeMap::new(),
            silent: BTreeMap::new(),
            haste: settings.interval,
            judgement: before,
            is_news: false,
        }
    }

    /// Takes what is to be watched. Of what goes on to be watched everything is remembered.
    pub fn handle_assignment(&mut self, assignment: &Assignment, now: Instant) {
        self.choices = Choices::new(assignment);
        self.heard.retain(|_, at| now < *at + SHORTLY);
        let mut known = std::mem::take(&mut self.ids);
        for (subject, (way, targets)) in wanted(assignment) {
            let id = known
                .remove(&subject)
                .unwrap_or_else(|| self.begin(subject.clone(), &targets, now));
            if let Some(watch) = self.watches.get_mut(&id) {
                watch.handle_targets(way, targets, assignment.groups);
            }
            self.ids.insert(subject, id);
        }
        for id in known.into_values() {
            if let Some(watch) = self.watches.remove(&id) {
                self.timetable.remove(&(watch.wake, id));
            }
        }
        let ids = &self.ids;
        self.members = ids
            .keys()
            .filter(|subject| matches!(subject, Subject::Member(_)))
            .count();
        self.useless.retain(|(location, leader), _| {
            ids.contains_key(&Subject::Far(location.clone(), leader.clone()))
        });
        self.judge(now);
    }

    fn begin(&mut self, subject: Subject, targets: &[IpAddr], now: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        // Neighbours in number are far apart in time, however many there will be (the golden section).
        let place = (id as f64 * 0.618_033_988_75).fract();
        let next = now + self.settings.interval.mul_f64(place);
        let was_lost = self.was_lost(&subject);
        self.remember_useless(&subject, now);
        let may_expect = self.choices.groups && matches!(subject, Subject::Behind(..));
        let mut watch = Watch::new(subject, self.settings.threshold, now, next);
        watch.is_expected = may_expect && targets.iter().any(|target| self.heard.contains_key(target));
        if was_lost {
            watch.detector.handle_lost_before();
            watch.handle_standing(now);
        }
        self.watches.insert(id, watch);
        self.timetable.insert((next, id));
        id
    }

    /// Returns whether something was taken for dead when it was judged last, in this process or the one before. All own tunnels to a
    /// location were where it is reached through another leader of the own one.
    fn was_lost(&self, subject: &Subject) -> bool {
        let is_relayed = |location: &LocationName| {
            let me = self.choices.me.clone();
            me.is_some_and(|me| self.judgement.lost.contains(&(me, location.clone())))
        };
        let is_relayed = matches!(subject, Subject::Far(location, _) if is_relayed(location));
        is_relayed || self.judgement.blames(subject)
    }

    /// Of what was found out before this process began it is not known when: the wait begins.
    fn remember_useless(&mut self, subject: &Subject, now: Instant) {
        if let Subject::Far(location, leader) = subject {
            let key = (location.clone(), leader.clone());
            if self.judgement.answering.get(&key) == Some(&Doubt::Useless) {
                let chance = self.chance();
                let useless = self.useless.entry(key);
                useless
                    .or_insert_with(|| Backoff::new(USELESS.0, USELESS.1))
                    .handle_wait(chance, now);
            }
        }
    }

    fn chance(&mut self) -> f64 {
        (self.random)() as f64 / u64::MAX as f64
    }

    /// Takes an answer. Returns whether it was one.
    pub fn handle_answer(&mut self, from: IpAddr, number: u64, now: Instant) -> bool {
        self.notice_stall(now);
        let Some(asked) = self.asked.get(&number).copied() else {
            return false;
        };
        let Some(watch) = self.watches.get_mut(&asked.watch) else {
            return false;
        };
        if watch.targets.get(asked.target) != Some(&from) {
            return false;
        }
        self.asked.remove(&number);
        if matches!(watch.subject, Subject::Behind(..)) {
            self.heard.insert(from, now);
        }
        watch.handle_answer(asked.target, asked.round, now);
        self.look_at(asked.watch, now);
        true
    }

    /// Takes the present time. What came in the meantime has to be taken before.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.notice_stall(now);
        while self.order.front().is_some_and(|(at, _)| *at + LATE <= now) {
            if let Some((_, number)) = self.order.pop_front() {
                self.asked.remove(&number);
            }
        }
        let due: Vec<u64> = self
            .timetable
            .iter()
            .take_while(|(at, _)| *at <= now + EARLY)
            .map(|(_, id)| *id)
            .collect();
        for id in due {
            if let Some(watch) = self.watches.get_mut(&id) {
                watch.detector.handle_timeout(now);
            }
            self.ask(id, now);
            self.look_at(id, now);
        }
        let is_due = |(location, since): (&LocationName, &Instant)| {
            now >= *since + HOLD && !self.judgement.is_gone(location)
        };
        if self.silent.iter().any(is_due) {
            self.judge(now);
        }
    }

    /// Returns a question to send.
    pub fn poll_question(&mut self) -> Option<Question> {
        self.questions.pop_front()
    }

    /// Returns when to call [`Self::handle_timeout`] again; `None` while nothing is watched.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timetable.first().map(|(at, _)| *at)
    }

    /// Returns which leaders are not to be used, where that is news.
    pub fn poll_judgement(&mut self) -> Option<Judgement> {
        std::mem::take(&mut self.is_news).then(|| self.judgement.clone())
    }

    /// Returns what is known of everything that is watched.
    #[must_use]
    pub fn seen(&self, now: Instant) -> Vec<Seen> {
        let seen = |watch: &Watch| Seen {
            subject: watch.subject.clone(),
            trust: self.trust(watch, now),
            answered: watch.answered,
            rtt: watch.detector.rtt(),
            loss: watch.detector.loss(),
            suspicion: watch.detector.suspicion(),
            deaths: watch.deaths,
        };
        self.watches.values().map(seen).collect()
    }

    fn notice_stall(&mut self, now: Instant) {
        let is_late = |(at, _): &(Instant, u64)| now >= *at + STALL;
        if !self.timetable.first().is_some_and(is_late) {
            return;
        }
        self.timetable.clear();
        for (id, watch) in &mut self.watches {
            watch.detector.handle_stall();
            watch.wake = now;
            self.timetable.insert((now, *id));
        }
    }

    /// Asks once more, if that is due and may be done.
    fn ask(&mut self, id: u64, now: Instant) {
        let pace = |watch: &Watch| self.interval_of(watch, now);
        let Some(interval) = self.watches.get(&id).map(pace) else {
            return;
        };
        let (allowed, may_again) = (self.allowance.left(now), self.allowance.next(now));
        let Some(watch) = self
            .watches
            .get_mut(&id)
            .filter(|watch| watch.next <= now + EARLY.min(interval / 4))
        else {
            return;
        };
        if watch.targets.is_empty() {
            return watch.schedule(interval, now);
        }
        if allowed == 0 {
            watch.next = may_again;
            return;
        }
        let (round, targets) = watch.handle_round(allowed, now);
        watch.schedule(interval, now);
        self.allowance.spend(targets.len());
        for target in targets {
            let number = (self.random)();
            let asked = Asked {
                watch: id,
                round,
                target,
            };
            self.asked.insert(number, asked);
            self.order.push_back((now, number));
            self.questions.push_back(Question {
                target: watch.targets[target],
                way: watch.way.clone(),
                number,
            });
        }
    }

    /// Notes what became of something watched, and when to look at it again.
    fn look_at(&mut self, id: u64, now: Instant) {
        let soon = now + self.interval();
        let Some(watch) = self.watches.get_mut(&id) else {
            return;
        };
        watch.handle_standing(now);
        if watch.is_doubtful_member() {
            watch.hasten(soon);
        }
        self.timetable.remove(&(watch.wake, id));
        watch.wake = watch.poll_timeout();
        self.timetable.insert((watch.wake, id));
        let is_news = self.prove(id, now) | self.trust_changed(id, now) | self.is_barren_no_more(id, now);
        if is_news {
            self.judge(now);
        }
    }

    fn trust_changed(&mut self, id: u64, now: Instant) -> bool {
        let trust = self.watches.get(&id).map(|watch| self.trust(watch, now));
        let watch = self.watches.get_mut(&id).zip(trust);
        watch.is_some_and(|(watch, trust)| std::mem::replace(&mut watch.judged, trust) != trust)
    }

    /// Notes whether a leader is of use, by what is behind it. Returns whether that is news.
    fn prove(&mut self, id: u64, now: Instant) -> bool {
        let Some(watch) = self.watches.get(&id) else {
            return false;
        };
        let Subject::Behind(location, leader) = &watch.subject else {
            return false;
        };
        let key = (location.clone(), leader.clone());
        let known = self.useless.get_mut(&key);
        if watch.trust(now) == Trust::Sound && watch.answered {
            let proved = known.filter(|known| known.waits(now));
            return proved.map(|known| known.handle_proved(now)).is_some();
        }
        let waits = known.as_ref().is_some_and(|known| known.waits(now));
        let is_trial = known.is_some() || watch.is_expected;
        let failed_trial = is_trial && !watch.answered && now >= watch.since + TRIAL;
        let is_useless = watch.trust(now) == Trust::Lost || failed_trial;
        if waits || !is_useless || !self.answers(&Subject::Far(key.0.clone(), key.1.clone()), now) {
            return false;
        }
        let chance = self.chance();
        let known = self.useless.entry(key.clone());
        known
            .or_insert_with(|| Backoff::new(USELESS.0, USELESS.1))
            .handle_wait(chance, now);
        for (other, known) in &mut self.useless {
            let is_beside = other.0 == key.0 && *other != key;
            if is_beside && known.waited(now).is_some_and(|waited| waited >= AGAIN) {
                known.handle_proved(now);
            }
        }
        true
    }

    /// Returns whether the last question to it that was due was answered. If it has only just come back, what is behind it has yet to
    /// have the time to.
    fn answers(&self, subject: &Subject, now: Instant) -> bool {
        let watch = self.ids.get(subject).and_then(|id| self.watches.get(id));
        watch.is_some_and(|watch| watch.answers_for(TRIAL, now))
    }

    fn trust(&self, watch: &Watch, now: Instant) -> Trust {
        let trust = watch.trust(now);
        match &watch.subject {
            Subject::Far(location, leader) => {
                let key = (location.clone(), leader.clone());
                let useless = self.useless.get(&key);
                if useless.is_some_and(|useless| useless.waits(now)) {
                    trust.max(Trust::Useless)
                } else if trust == Trust::Unproven && self.choices.unconnected.contains(&key) {
                    Trust::Unconnected
                } else {
                    trust
                }
            }
            Subject::Hop(_) | Subject::Through(..) | Subject::Behind(..) | Subject::Member(_) => trust,
        }
    }

    fn judge(&mut self, now: Instant) {
        let trust = |subject: &Subject| {
            let watch = self.ids.get(subject).and_then(|id| self.watches.get(id));
            watch.map_or(Trust::Sound, |watch| self.trust(watch, now))
        };
        let mut judgement = self.choices.judge(&trust, &self.judgement);
        let [heard, barren] = self.heard_behind(&trust, now);
        judgement.barren = barren;
        let mut gone = self.choices.unreached(&trust);
        gone.retain(|location, _| !heard.contains(location));
        self.silent.retain(|location, _| gone.contains_key(location));
        for (location, gone) in gone {
            let since = *self.silent.entry(location.clone()).or_insert(now);
            if now >= since + HOLD {
                judgement.note_gone(location, gone);
            }
        }
        self.haste = self.hasty_interval();
        if judgement != self.judgement {
            self.judgement = judgement;
            self.is_news = true;
        }
    }
}

/// Returns whom to ask, and how.
fn wanted(assignment: &Assignment) -> BTreeMap<Subject, (Way, Vec<IpAddr>)> {
    let probes = &assignment.probes;
    let families: BTreeSet<Family> = assignment
        .overlay
        .iter()
        .map(|address| Family::of(*address))
        .collect();
    let speaks = |address: &&IpAddr| families.contains(&Family::of(**address));
    let neighbours = |node: &NodeName| -> Vec<IpAddr> {
        let hops = [Family::V4, Family::V6].map(|family| assignment.hop(node, family));
        let answers = |hop: &Hop| hop.answers_at.map_or(hop.neighbour, |(address, _)| address);
        hops.into_iter().flatten().map(answers).collect()
    };
    let mut wanted = BTreeMap::new();
    for far in &probes.far {
        let subject = Subject::Far(far.location.clone(), far.node.clone());
        let targets = far.overlay.iter().filter(speaks).copied().collect();
        wanted.insert(subject, (Way::FromOverlay, targets));
    }
    for near in &probes.hops {
        let targets = neighbours(&near.node);
        let way = Way::Hop(near.node.clone());
        wanted.insert(Subject::Hop(near.node.clone()), (way, targets));
        for far in &probes.through {
            let subject = Subject::Through(near.node.clone(), far.location.clone());
            let way = Way::Through(near.node.clone());
            let (_, targets) = wanted.entry(subject).or_insert((way, Vec::new()));
            targets.extend(far.overlay.iter().copied());
        }
    }
    for near in &probes.members {
        let targets = neighbours(&near.node);
        let way = Way::Hop(near.node.clone());
        wanted.insert(Subject::Member(near.node.clone()), (way, targets));
    }
    for behind in &probes.behind {
        let subject = Subject::Behind(behind.location.clone(), behind.leader.clone());
        let addresses = behind.members.iter().flat_map(|(_, addresses)| addresses);
        let targets = addresses.filter(speaks).copied().collect();
        wanted.insert(subject, (Way::FromOverlay, targets));
    }
    wanted
}

#[cfg(test)]
mod tests;
