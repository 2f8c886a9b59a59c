//! One thing that is watched: whom to ask, and what became of it.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::super::{
    backoff::Backoff,
    detector::{Detector, Round, Standing},
    judge::{Subject, Trust},
};
use super::Way;

/// What answers again after it was taken for dead is not relied upon for so long: less than a second would flap with a leader
/// that is just starting, and after a minute it is worth a trial.
const PROBATION: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What never answered is asked at every so many intervals, once it has been asked [`PATIENCE`] times.
const SELDOM: u32 = 10;
const PATIENCE: u32 = 20;
/// What has been asked so many times, and never answered, is no better than what answers.
const UNHEARD: u32 = 10;

#[derive(Debug)]
pub(super) struct Watch {
    pub(super) subject: Subject,
    pub(super) way: Way,
    /// Any of them may answer.
    pub(super) targets: Vec<IpAddr>,
    pub(super) detector: Detector,
    /// Which of the targets answered last.
    witness: Option<usize>,
    rotation: usize,
    /// How often it was asked since it last answered.
    silent: u32,
    pub(super) since: Instant,
    pub(super) answered: bool,
    /// It answers unless something has happened to it, though it never did as it is asked now.
    pub(super) is_expected: bool,
    pub(super) next: Instant,
    probation: Backoff,
    was_lost: bool,
    /// When it last began to answer again after it was taken for dead.
    back: Option<Instant>,
    /// How often it was taken for dead.
    pub(super) deaths: u64,
    /// What was last made of it.
    pub(super) judged: Trust,
    /// When it is to be looked at next, as the prober has it in its timetable.
    pub(super) wake: Instant,
}

impl Watch {
    pub(super) fn new(subject: Subject, threshold: f64, now: Instant, next: Instant) -> Self {
        Self {
            subject,
            way: Way::FromOverlay,
            targets: Vec::new(),
            detector: Detector::new(threshold),
            witness: None,
            rotation: 0,
            silent: 0,
            since: now,
            answered: false,
            is_expected: false,
            next,
            probation: Backoff::new(PROBATION.0, PROBATION.1),
            was_lost: false,
            back: None,
            deaths: 0,
            judged: Trust::Sound,
            wake: next,
        }
    }

    /// Whether it is one of many.
    pub(super) fn is_member(&self) -> bool {
        matches!(self.subject, Subject::Member(_))
    }

    /// Whether it is one of many, and has just not answered.
    pub(super) fn is_doubtful_member(&self) -> bool {
        self.is_member() && self.detector.standing() == Standing::Doubtful
    }

    /// How many questions it takes to ask it once.
    pub(super) fn cost(&self) -> u32 {
        let one = self.witness.is_some() && self.detector.standing() == Standing::Answers;
        if one {
            1
        } else {
            u32::try_from(self.targets.len()).unwrap_or(u32::MAX)
        }
    }

    /// Takes whom to ask and how, and whether leaders have groups of peers. Without them, what is behind a leader, or beyond one, answers
    /// for a moment while leaders change, and then no more.
    pub(super) fn handle_targets(&mut self, way: Way, targets: Vec<IpAddr>, groups: bool) {
        let is_beyond = matches!(self.subject, Subject::Behind(..) | Subject::Through(..));
        self.detector.handle_chance(is_beyond && !groups);
        if self.targets != targets {
            self.targets = targets;
            self.witness = None;
        }
        self.way = way;
    }

    /// Returns the targets to ask now: the one that answered last while it does, else all, as far as `allowed` goes.
    pub(super) fn handle_round(&mut self, allowed: usize, now: Instant) -> (Round, Vec<usize>) {
        let all = self.targets.len();
        let asked = match self.witness {
            Some(witness) if self.detector.standing() == Standing::Answers => vec![witness],
            _ if allowed >= all => (0..all).collect(),
            _ => {
                let from = self.rotation;
                (from..from + allowed).map(|target| target % all.max(1)).collect()
            }
        };
        self.rotation = (self.rotation + asked.len()) % all.max(1);
        self.silent = self.silent.saturating_add(1);
        (self.detector.handle_sent(now), asked)
    }

    pub(super) fn handle_answer(&mut self, target: usize, round: Round, now: Instant) {
        self.witness = Some(target);
        self.silent = 0;
        self.answered = true;
        self.detector.handle_answer(round, now);
    }

    /// Says when to ask again.
    pub(super) fn schedule(&mut self, interval: Duration, now: Instant) {
        let is_unknown = self.detector.standing() == Standing::Unknown;
        let is_mute = is_unknown && !self.answered && self.silent >= PATIENCE;
        let interval = if is_mute { interval * SELDOM } else { interval };
        self.next += interval;
        if self.next <= now {
            // What was missed meanwhile is not made up for.
            let late = now.saturating_duration_since(self.next).as_nanos();
            let skipped = late / interval.as_nanos().max(1) + 1;
            self.next += interval * u32::try_from(skipped).unwrap_or(u32::MAX);
        }
    }

    /// Returns whether the last question that was due was answered, and it was not taken for dead for so long.
    pub(super) fn answers_for(&self, time: Duration, now: Instant) -> bool {
        let is_long_back = self.back.is_none_or(|back| now >= back + time);
        self.answered && is_long_back && self.detector.standing() == Standing::Answers
    }

    /// Has it asked by then, if that is sooner: what was asked seldom has not answered.
    pub(super) fn hasten(&mut self, by: Instant) {
        self.next = self.next.min(by);
    }

    /// Notes whether it was lost or found.
    pub(super) fn handle_standing(&mut self, now: Instant) {
        let is_lost = self.detector.standing() == Standing::Lost;
        let was_lost = std::mem::replace(&mut self.was_lost, is_lost);
        if is_lost && !was_lost {
            self.deaths += 1;
            self.probation.handle_failure(0.0, now);
        } else if was_lost && !is_lost {
            self.probation.handle_ended(now);
            self.back = Some(now);
        }
    }

    pub(super) fn trust(&self, now: Instant) -> Trust {
        match self.detector.standing() {
            Standing::Lost if self.detector.is_returning() => Trust::OnProbation,
            Standing::Lost => Trust::Lost,
            _ if self.probation.waits(now) => Trust::OnProbation,
            Standing::Doubtful => Trust::Doubtful,
            Standing::Unknown if !self.answered && self.silent >= UNHEARD => Trust::Unproven,
            Standing::Answers | Standing::Unknown => Trust::Sound,
        }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let due = self.detector.poll_timeout();
        due.map_or(self.next, |due| due.min(self.next))
    }
}
