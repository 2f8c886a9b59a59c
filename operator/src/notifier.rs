//! Which Events are written, and when; sans I/O. They are for people, so nothing waits for them: they are written beside the
//! queue, and decisions go on whatever becomes of them.
//!
//! A decision gives everything that is wrong, again and again. What has gone wrong with Events elsewhere, and must not here:
//!
//! * Thousands of bad values in one object: there is one Event per object and field.
//! * A value that changes all the time: an object has a budget, and so have all together.
//! * Events for what was mended meanwhile: what is no longer wrong when its turn comes is not written.
//! * An API server that takes no Events: one that is refused is not tried again, one without an answer pauses Events alone.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{batch::Notice, queue::Outcome};

/// Of all together so many are written at once, and one more each time.
const ALL: Rate = Rate {
    burst: 25,
    every: Duration::from_millis(200),
};
/// Of one object.
const OBJECT: Rate = Rate {
    burst: 20,
    every: Duration::from_secs(60),
};
/// How many are on their way at a time.
const IN_FLIGHT: usize = 2;
/// How long to wait where the API server gives no answer, at first and at last.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How often something may happen.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u32,
    every: Duration,
}

/// What is left of a rate.
#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    /// Takes one; where there is none, returns when there will be.
    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Instant> {
        self.gain(rate, now);
        if self.left == 0 {
            return Err(self.since + rate.every);
        }
        self.left -= 1;
        Ok(())
    }

    fn gain(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_millis() / rate.every.as_millis();
        let gained = u32::try_from(passed).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(gained).min(rate.burst);
        self.since = if self.left == rate.burst {
            now
        } else {
            self.since + rate.every * gained
        };
    }
}

/// An Event is about one field of one object.
type Key = (&'static str, String, String);
/// The object of an Event.
type Object = (&'static str, String);

#[derive(Debug)]
struct Tracked {
    notice: Notice,
    written: bool,
}

/// What is to be written about, and what was.
#[derive(Debug, Default)]
pub struct Notifier {
    wrong: BTreeMap<Key, Tracked>,
    waiting: VecDeque<Key>,
    /// Those whose object has used up its budget, by when there is more.
    later: BTreeMap<(Instant, u64), Key>,
    number: u64,
    budgets: BTreeMap<Object, Budget>,
    budget: Option<Budget>,
    in_flight: usize,
    paused_until: Option<Instant>,
    pause: Option<Duration>,
}

impl Notifier {
    /// Handles everything that is wrong now.
    pub fn handle_notices(&mut self, notices: Vec<Notice>) {
        let mut before = std::mem::take(&mut self.wrong);
        for notice in notices {
            let key = (notice.kind, notice.name.clone(), notice.field.clone());
            let known = before.remove(&key);
            let tracked = match known {
                Some(known) if known.notice == notice => known,
                Some(known) => {
                    // While it waits the newest text waits in its place.
                    if known.written {
                        self.waiting.push_back(key.clone());
                    }
                    Tracked {
                        notice,
                        written: false,
                    }
                }
                None => {
                    self.waiting.push_back(key.clone());
                    Tracked {
                        notice,
                        written: false,
                    }
                }
            };
            self.wrong.insert(key, tracked);
        }
    }

    /// Returns the next Event that may be written.
    pub fn poll_notice(&mut self, now: Instant) -> Option<Notice> {
        if self.in_flight >= IN_FLIGHT || self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            self.waiting.push_back(entry.remove());
        }
        self.budgets.retain(|_, budget| {
            budget.gain(OBJECT, now);
            budget.left < OBJECT.burst
        });
        while let Some(key) = self.waiting.pop_front() {
            let Some(tracked) = self.wrong.get_mut(&key).filter(|tracked| !tracked.written) else {
                continue; // mended meanwhile
            };
            let budget = self.budget.get_or_insert(Budget {
                left: ALL.burst,
                since: now,
            });
            budget.gain(ALL, now);
            if budget.left == 0 {
                self.waiting.push_front(key);
                return None;
            }
            let of_object = self.budgets.entry((key.0, key.1.clone())).or_insert(Budget {
                left: OBJECT.burst,
                since: now,
            });
            if let Err(due) = of_object.take(OBJECT, now) {
                self.later.insert((due, self.number), key);
                self.number += 1;
                continue;
            }
            budget.left -= 1;
            tracked.written = true;
            self.in_flight += 1;
            return Some(tracked.notice.clone());
        }
        None
    }

    /// Handles what became of an Event that [`poll_notice`](Self::poll_notice) returned.
    pub fn handle_outcome(&mut self, notice: &Notice, outcome: Outcome, now: Instant) {
        self.in_flight -= 1;
        match outcome {
            Outcome::Done => self.pause = None,
            // Nothing about it will change by asking again.
            Outcome::Refused | Outcome::Conflict => {}
            Outcome::Unanswered => {
                let pause = self.pause.map_or(PAUSE.0, |pause| (pause * 2).min(PAUSE.1));
                (self.paused_until, self.pause) = (Some(now + pause), Some(pause));
                let key = (notice.kind, notice.name.clone(), notice.field.clone());
                if let Some(tracked) = self.wrong.get_mut(&key)
                    && tracked.notice == *notice
                {
                    tracked.written = false;
                    self.waiting.push_back(key);
                }
            }
        }
    }

    /// Returns when [`poll_notice`](Self::poll_notice) may have something again.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.in_flight >= IN_FLIGHT {
            return None;
        }
        let more = self
            .budget
            .as_ref()
            .map_or(now, |budget| budget.since + ALL.every);
        let waiting = (!self.waiting.is_empty()).then_some(more);
        let later = self.later.first_key_value().map(|((due, _), _)| *due);
        let next = waiting.into_iter().chain(later).min()?;
        Some(self.paused_until.map_or(next, |until| next.max(until)))
    }
}

#[cfg(test)]
mod tests;
