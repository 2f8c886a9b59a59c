//! What is left of peers that were removed all at once. To free it takes a microsecond for each, and for each of their prefixes, so
//! that is done step by step: packets have their turn between.

use std::{fmt, time::Instant};

/// So many pieces are freed in a step, in a fifth of a millisecond.
const STEP: usize = 256;

/// Iterators that free a piece with each step.
type Pieces = Box<dyn Iterator<Item = ()> + Send>;

/// What is to be freed.
#[derive(Default)]
pub(super) struct Remains {
    pieces: Vec<Pieces>,
    since: Option<Instant>,
}

impl Remains {
    /// Takes what is freed as it is iterated over.
    pub(super) fn add<T: 'static>(&mut self, now: Instant, pieces: impl Iterator<Item = T> + Send + 'static) {
        self.pieces.push(Box::new(pieces.map(drop)));
        self.since = Some(now);
    }

    /// Frees a step's worth.
    pub(super) fn free(&mut self) {
        for _ in 0..STEP {
            let Some(pieces) = self.pieces.last_mut() else {
                self.since = None;
                return;
            };
            if pieces.next().is_none() {
                self.pieces.pop();
            }
        }
    }

    /// Returns when the next step is wanted.
    pub(super) fn next(&self) -> Option<Instant> {
        self.since
    }
}

impl fmt::Debug for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remains")
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}
