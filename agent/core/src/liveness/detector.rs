//! Whether a path that answered still does: an accrual failure detector after Hayashibara, Défago, Yared and Katayama, "The φ
//! Accrual Failure Detector" (SRDS 2004).
//!
//! # The idea
//!
//! Nothing says of silence for sure what it means. So the detector does not say 'alive' or 'dead', but how unlikely the present
//! silence is on this path while it works: the suspicion is -log10 of that likelihood. At 1 a path that works would be taken for
//! dead at one probe in 10, at 8 at one in 10^8. What is acted upon is a threshold of it, and the time that takes follows from
//! what was seen: four probes in a row where hardly any was ever missed, nineteen at 20 % loss each way.
//!
//! The paper takes the time between heartbeats to be normally distributed. Where heartbeats get lost that is wrong: one lost
//! doubles the interval, which a normal tail takes for impossible. Here a probe is *missed* when its answer is not there by the
//! time that answers take ([`Rtt`]), and what counts is the likelihood of a run of misses ([`Odds`]): a late answer and a lost one
//! are the same, and a path with much jitter is one with some misses.
//!
//! # What must not go wrong
//!
//! * A path that never answered proves nothing: echo may be filtered on the way. It is not suspected. How one loses that answered only a
//!   few times is not known yet: it is taken for the worst there is, so that it takes eight seconds at ten a second. Where an answer now and
//!   then says nothing of the next one ([`Detector::handle_chance`]) it is not suspected at all.
//! * This process was not run for a while, or the whole machine was stopped: what it would have heard meanwhile it did not. Of all
//!   probes on their way then one counts, so that who hardly gets to run sees the dead, too.
//! * Nothing is learnt from misses that made a path be taken for dead, or that were before its first answer: a leader that was restarted a
//!   few times, that hung and answered all of them in the end, or whose first handshake was lost, would be trusted for longer.
//! * An answer that comes late proves that the path worked then, whatever had been concluded.

mod odds;
mod rtt;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use odds::Odds;
use rtt::Rtt;

/// The suspicion at which a path is taken for dead by default: on a path that works, wrong at one probe in a hundred
/// million, that is once in four months at ten a second.
pub const THRESHOLD: f64 = 8.0;
/// How a path loses that answered fewer probes is not known.
const ENOUGH: u32 = 10;
/// However good a path was, fewer misses in a row are no reason: on the other side another program has the processor for a moment.
const RUN: u32 = 4;
/// A path that was taken for dead is trusted after so many answers.
const AGAIN: u32 = 3;
/// Answers are matched to probes for so long.
pub(super) const LATE: Duration = Duration::from_secs(5);

/// One probe of a path, or several at once of which any may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(u64);

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It never answered, or not often enough to say how it does.
    Unknown,
    /// It answered the last probe that is due.
    Answers,
    /// It did not, which happens.
    Doubtful,
    /// It is taken for dead.
    Lost,
}

/// The detector of one path.
#[derive(Clone, Debug)]
pub struct Detector {
    threshold: f64,
    rounds: VecDeque<Probe>,
    next: u64,
    /// How many of the probes since the last that was answered are missed.
    run: u32,
    /// The newest probe that was answered.
    answered: Option<u64>,
    answers: u32,
    rtt: Rtt,
    odds: Odds,
    /// While it is taken for dead: how often it has answered again.
    lost: Option<u32>,
    /// A few answers may have come by chance.
    is_by_chance: bool,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    number: u64,
    sent: Instant,
    /// By when it should be answered.
    due: Instant,
    missed: bool,
    /// This process stood still meanwhile, so the time of its answer says nothing.
    is_disturbed: bool,
    /// And it is not to be missed for that.
    is_excused: bool,
}

impl Detector {
    /// Returns the detector of a path of which nothing is known. `threshold` is the suspicion at which it is taken for dead.
    #[must_use]
    pub fn new(threshold: f64) -> Self {
        Self {
            threshold,
            rounds: VecDeque::new(),
            next: 0,
            run: 0,
            answered: None,
            answers: 0,
            rtt: Rtt::default(),
            odds: Odds::default(),
            lost: None,
            is_by_chance: false,
        }
    }

    /// Says whether the path may have answered a few times though it does not work. Then it is not suspected until it has answered
    /// often enough.
    pub fn handle_chance(&mut self, is_by_chance: bool) {
        self.is_by_chance = is_by_chance;
    }

    /// Records that the path was taken for dead before anything is known of it here.
    pub fn handle_lost_before(&mut self) {
        self.lost = Some(0);
    }

    /// Records that a probe is being sent, and returns its number.
    pub fn handle_sent(&mut self, now: Instant) -> Round {
        let number = self.next;
        self.next += 1;
        self.rounds.push_back(Probe {
            number,
            sent: now,
            due: now + self.rtt.patience(),
            missed: false,
            is_disturbed: false,
            is_excused: false,
        });
        Round(number)
    }

    /// Records the first answer to a probe. Any further one changes nothing.
    pub fn handle_answer(&mut self, round: Round, now: Instant) {
        let Some(at) = self.rounds.iter().position(|probe| probe.number == round.0) else {
            return;
        };
        let Some(probe) = self.rounds.remove(at) else {
            return;
        };
        if !probe.is_disturbed {
            self.rtt.handle_sample(now.saturating_duration_since(probe.sent));
        }
        self.answers = self.answers.saturating_add(1);
        if self.answered.is_some_and(|answered| answered > probe.number) {
            return;
        }
        let begins = self.answered.replace(probe.number).is_none();
        let later = self
            .rounds
            .iter()
            .filter(|other| other.missed && other.number > probe.number);
        let later = u32::try_from(later.count()).unwrap_or(u32::MAX);
        // A probe whose answer was late was missed.
        let ended = self.run.saturating_sub(later);
        self.run = later;
        match &mut self.lost {
            // Until it answered there may have been no path.
            None if begins => {}
            None => self.odds.handle_run(ended),
            Some(answers) => {
                *answers += 1;
                if *answers >= AGAIN {
                    self.handle_return();
                }
            }
        }
    }

    /// Records that the path is trusted again. What it missed until then is settled, though answers to it may come yet: a process
    /// that hung answers all that its queues have kept when it goes on.
    fn handle_return(&mut self) {
        self.lost = None;
        self.run = 0;
        self.rounds.retain(|probe| !probe.missed);
    }

    /// Takes the present time: probes that are due by now are missed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |probe: &&mut Probe| probe.is_awaited() && probe.due <= now;
        for probe in self.rounds.iter_mut().filter(due) {
            probe.missed = true;
            if self.answered.is_none_or(|answered| answered < probe.number) {
                self.run = self.run.saturating_add(1);
            }
        }
        while self.rounds.front().is_some_and(|probe| probe.sent + LATE <= now) {
            self.rounds.pop_front();
        }
        let enough = if self.is_by_chance { ENOUGH } else { 1 };
        if self.answers < enough {
            return;
        }
        let suspicion = self.suspicion();
        let is_enough = match self.lost {
            None => self.run >= RUN && suspicion >= self.threshold,
            // A single answer now and then is no path.
            Some(_) => suspicion >= self.threshold / 2.0,
        };
        if is_enough {
            self.lost = Some(0);
        }
    }

    /// Records that this process stood still until now, or the machine did. To be called before anything that happened
    /// meanwhile is taken, and the time.
    pub fn handle_stall(&mut self) {
        let awaited = self.rounds.iter_mut().filter(|probe| probe.is_awaited());
        for (newer, probe) in awaited.rev().enumerate() {
            probe.is_disturbed = true;
            probe.is_excused = newer > 0;
        }
    }

    /// Returns when a probe is missed unless it is answered by then.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let awaited = self.rounds.iter().filter(|probe| probe.is_awaited());
        awaited.map(|probe| probe.due).min()
    }

    /// Returns what is known of the path.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if self.lost.is_some() {
            Standing::Lost
        } else if self.answers < ENOUGH {
            Standing::Unknown
        } else if self.run > 0 {
            Standing::Doubtful
        } else {
            Standing::Answers
        }
    }

    /// Returns whether the path has begun to answer again, though not often enough to be trusted.
    #[must_use]
    pub fn is_returning(&self) -> bool {
        self.lost.is_some_and(|answers| answers > 0)
    }

    /// Returns -log10 of the likelihood that the path is silent as it is now although it works.
    #[must_use]
    pub fn suspicion(&self) -> f64 {
        if self.answers < ENOUGH {
            Odds::least_suspicion(self.run)
        } else {
            self.odds.suspicion(self.run)
        }
    }

    /// Returns the share of probes that were missed while the path was not taken for dead, from 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.odds.loss()
    }

    /// Returns the smoothed round-trip time; `None` before the first answer.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }
}

impl Probe {
    fn is_awaited(&self) -> bool {
        !self.missed && !self.is_excused
    }
}

#[cfg(test)]
mod tests;
