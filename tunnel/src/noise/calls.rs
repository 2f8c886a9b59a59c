//! The newest initiation, while there is no answer, and when it is sent again before it is time to repeat it.

use std::time::{Duration, Instant};

/// An answer that takes longer than around the world is lost, or there was no peer to answer.
const ANSWERED_BY_NOW: Duration = Duration::from_millis(250);

/// When routes have not changed for so long, what was sent while a neighbour was looked for has left.
const SETTLED: Duration = Duration::from_secs(1);

/// So many answers to an initiation are worked on whatever else there is to do.
const ANSWERS: u8 = 4;

/// What is known of initiations.
#[derive(Default)]
pub(super) struct Calls {
    /// The newest one, while there is no answer.
    newest: Option<Call>,
    /// When one was sent for which no packet waited, if that is the one under way.
    unprompted: Option<Instant>,
    /// When routes will have settled since they changed last while there was no answer.
    settled: Option<Instant>,
}

/// An initiation that was sent.
struct Call {
    /// Our index in it.
    index: u32,
    at: Instant,
    /// For how many answers it may still be taken to wait.
    left: u8,
    /// Routes have changed since.
    outdated: bool,
    /// It did not leave.
    unsent: bool,
}

impl Call {
    /// Returns when an answer is overdue, and the initiation is to be sent again because something has changed.
    fn overdue_at(&self) -> Instant {
        if self.unsent {
            return self.at;
        }
        self.at + 2 * ANSWERED_BY_NOW
    }
}

impl Calls {
    /// Records that an initiation with this index was sent, `prompted` by packets that wait or not.
    pub(super) fn sent(&mut self, now: Instant, index: Option<u32>, prompted: bool) {
        self.newest = index.map(|index| Call {
            index,
            at: now,
            left: ANSWERS,
            outdated: false,
            unsent: false,
        });
        self.unprompted = (!prompted).then_some(now);
    }

    /// Records that the newest one has been answered.
    pub(super) fn answered(&mut self) {
        self.newest = None;
    }

    /// Records that there is a session.
    pub(super) fn established(&mut self) {
        self.unprompted = None;
    }

    /// Returns whether the newest one waits for an answer with this index.
    pub(super) fn expects(&self, index: u32) -> bool {
        let waits = |call: &Call| call.index == index && call.left > 0;
        self.newest.as_ref().is_some_and(waits)
    }

    /// Such an answer came and passed the first look. Forged ones may come before the real one; a few are waited for.
    pub(super) fn note_answer(&mut self) {
        if let Some(call) = &mut self.newest {
            call.left = call.left.saturating_sub(1);
        }
    }

    /// The newest one did not leave: there is no answer to wait for.
    pub(super) fn handle_unsent(&mut self) {
        if let Some(call) = &mut self.newest {
            call.unsent = true;
        }
    }

    /// Routes or addresses of this machine have changed.
    pub(super) fn handle_routes(&mut self, now: Instant) {
        if let Some(call) = &mut self.newest {
            call.outdated = true;
            self.settled = Some(now + SETTLED);
        }
    }

    /// Returns when packets that wait want another one: none did when that under way was sent, or routes have changed since, or
    /// have settled since.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let unprompted = self.unprompted.map(|at| at + ANSWERED_BY_NOW);
        let changed = self.newest.as_ref().and_then(|call| {
            let outdated = call.outdated.then_some(call.at);
            let settled = self.settled.filter(|at| *at > call.at);
            let changed = outdated.into_iter().chain(settled).min();
            changed.map(|at| at.max(call.overdue_at()))
        });
        unprompted.into_iter().chain(changed).min()
    }
}
