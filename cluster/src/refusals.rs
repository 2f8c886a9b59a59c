//! When to believe an API server that says that there is no such kind, or that it may not be read; sans I/O.
//!
//! An API server that starts says so for a moment of everything: it does not know the roles yet (403), or serves the
//! definitions of others later than itself (404). A kind that was defined a moment ago is served a moment later. So it is
//! believed when it says so again after [`PATIENCE`], and nothing else meanwhile.

use std::time::{Duration, Instant};

use kube::{Error, runtime::watcher};

/// How long it may be mistaken.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What to make of an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Passing,
    /// The API server refuses, and means it. Said once, until an attempt succeeds.
    Refused,
    /// As said before.
    Still,
}

/// The refusals since the last attempt that succeeded.
#[derive(Debug, Default)]
pub struct Refusals {
    since: Option<Instant>,
    believed: bool,
}

impl Refusals {
    /// Handles an attempt that succeeded; returns whether the ones before were refused and that was believed.
    pub fn handle_success(&mut self) -> bool {
        std::mem::take(self).believed
    }

    /// Handles one that failed; `refused`: the API server answered so.
    pub fn handle_failure(&mut self, refused: bool, now: Instant) -> Verdict {
        if !refused {
            // It was away, and is mistaken for a moment again when it comes back.
            self.since = None;
            return Verdict::Passing;
        }
        let since = *self.since.get_or_insert(now);
        if self.believed {
            return Verdict::Still;
        }
        self.believed = now.saturating_duration_since(since) >= PATIENCE;
        if self.believed {
            Verdict::Refused
        } else {
            Verdict::Passing
        }
    }
}

/// Returns whether the API server answers that there is no such kind, or that it may not be read.
#[must_use]
pub fn refused(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::InitialListFailed(Error::Api(status))
        | watcher::Error::WatchStartFailed(Error::Api(status))
        | watcher::Error::WatchFailed(Error::Api(status)) => status.code,
        watcher::Error::WatchError(status) => status.code,
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => return false,
    };
    code == 403 || code == 404
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_refusal_is_believed_when_it_is_repeated_after_a_while_and_once() {
        let start = Instant::now();
        let mut refusals = Refusals::default();
        assert_eq!(refusals.handle_failure(true, start), Verdict::Passing);
        let soon = start + PATIENCE / 2;
        assert_eq!(refusals.handle_failure(true, soon), Verdict::Passing);
        let later = start + PATIENCE;
        assert_eq!(refusals.handle_failure(true, later), Verdict::Refused);
        assert_eq!(refusals.handle_failure(true, later + PATIENCE), Verdict::Still);
        assert!(refusals.handle_success());
        assert_eq!(refusals.handle_failure(true, later + PATIENCE), Verdict::Passing);
        assert!(!refusals.handle_success());
    }

    #[test]
    fn an_api_server_that_was_away_is_not_believed_for_what_it_said_before() {
        let start = Instant::now();
        let mut refusals = Refusals::default();
        refusals.handle_failure(true, start);
        assert_eq!(refusals.handle_failure(false, start + PATIENCE), Verdict::Passing);
        let back = start + 2 * PATIENCE;
        assert_eq!(refusals.handle_failure(true, back), Verdict::Passing);
        assert_eq!(refusals.handle_failure(true, back + PATIENCE), Verdict::Refused);
    }

    #[test]
    fn no_such_kind_and_not_allowed_are_refusals() {
        let answered = |code| {
            let status = Box::new(Status::failure("no", "Reason").with_code(code));
            watcher::Error::InitialListFailed(Error::Api(status))
        };
        assert!(refused(&answered(403)) && refused(&answered(404)));
        assert!(!refused(&answered(500)) && !refused(&answered(429)));
        assert!(!refused(&watcher::Error::NoResourceVersion));
    }
}
