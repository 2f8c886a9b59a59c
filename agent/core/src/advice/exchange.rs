//! What has been exchanged with one leader, and so what counts of what comes from it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::message::Stamp;

/// So many of the messages that were last sent may be repeated.
const REMEMBERED: usize = 64;

/// What is to be done about a message that its sender has sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts. The first one, also after a long silence, is to be answered, so that what is sent from here counts there.
    Counts { is_first: bool },
    /// It does not count, and is to be answered, so that the next one does.
    Answer,
    /// It was there before.
    Ignore,
}

/// The sessions of this node and of one leader.
#[derive(Debug)]
pub(super) struct Exchange {
    session: u128,
    counter: u64,
    /// When the messages were sent that may be repeated.
    sent: VecDeque<(u64, Instant)>,
    /// The last message that counted. Those of no other session count in this one.
    counted: Option<(Stamp, Instant)>,
    /// The last that did not.
    introduction: Option<Stamp>,
}

impl Exchange {
    /// Begins a session, with a number that cannot be guessed.
    pub(super) fn new(random: &mut dyn FnMut() -> u64) -> Self {
        // It is never 0, which names none.
        let session = (u128::from(random()) << 64) | u128::from(random()) | 1;
        Self {
            session,
            counter: 0,
            sent: VecDeque::new(),
            counted: None,
            introduction: None,
        }
    }

    /// Returns the stamp of the next message, and what it repeats: what it answers, or else the last that counted. `lasting` is how long
    /// a message may be repeated.
    pub(super) fn next(
        &mut self,
        answered: Option<Stamp>,
        lasting: Duration,
        now: Instant,
    ) -> (Stamp, Stamp) {
        self.counter += 1;
        self.forget(lasting, now);
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.counter, now));
        let stamp_of = |(stamp, _)| stamp;
        let counted = self.counted.filter(|(_, at)| now < *at + lasting);
        let echo = answered
            .or(counted.map(stamp_of))
            .or(self.introduction)
            .or(self.counted.map(stamp_of));
        let stamp = Stamp {
            session: self.session,
            counter: self.counter,
        };
        (stamp, echo.unwrap_or_default())
    }

    /// Takes a message that repeats another one.
    pub(super) fn take(
        &mut self,
        stamp: Stamp,
        echo: Stamp,
        lasting: Duration,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
    ) -> Verdict {
        self.forget(lasting, now);
        let counted = self.counted.map(|(counted, _)| counted);
        let is_known = counted.is_some_and(|counted| counted.session == stamp.session);
        if counted.is_some_and(|counted| is_known && counted.counter >= stamp.counter) {
            return Verdict::Ignore;
        }
        let mut sent = self.sent.iter();
        if echo.session != self.session || !sent.any(|(counter, _)| *counter == echo.counter) {
            self.introduction = Some(stamp);
            return Verdict::Answer;
        }
        if counted.is_some() && !is_known {
            // The sender has started again since. Nothing that repeats the present session is to count any more.
            *self = Self::new(random);
            self.introduction = Some(stamp);
            return Verdict::Answer;
        }
        let before = self.counted.replace((stamp, now));
        Verdict::Counts {
            is_first: before.is_none_or(|(_, at)| now >= at + lasting),
        }
    }

    fn forget(&mut self, lasting: Duration, now: Instant) {
        while self.sent.front().is_some_and(|(_, at)| now >= *at + lasting) {
            self.sent.pop_front();
        }
    }
}
