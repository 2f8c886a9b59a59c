//! What the loop keeps over a restart: the checkpoint, and the guard that is written with it.

use std::{
    future::pending,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use tokio::task::JoinHandle;

use super::EventLoop;
use crate::{causes::chain, checkpoint::Checkpoint, guard::Guard};

/// How long a change waits to be written to the checkpoint, with those that come meanwhile.
pub(super) const CHECKPOINT_DELAY: Duration = Duration::from_secs(1);
/// The least time between two checkpoints: in a large mesh one is megabytes.
pub(super) const CHECKPOINT_PAUSE: Duration = Duration::from_secs(10);

/// What the loop keeps over a restart, besides what is in the kernel.
pub struct Storage {
    /// Where the checkpoint is.
    pub directory: PathBuf,
    /// What guards the node while it boots, where that is wanted.
    pub guard: Option<Guard>,
}

/// What came of writing the checkpoint: why it could not be written, and the guard, which was written with it.
pub(super) type Saved = (Option<String>, Option<Guard>);

impl EventLoop {
    pub(super) fn checkpoint_later(&mut self, now: Instant) {
        let earliest = self.saved_at.map_or(now, |at| at + CHECKPOINT_PAUSE);
        self.checkpoint_at
            .get_or_insert(earliest.max(now + CHECKPOINT_DELAY));
    }

    pub(super) fn save(&mut self) {
        self.checkpoint_at = None;
        let Some(snapshot) = self.snapshot.clone().filter(|_| !self.state.retire()) else {
            return;
        };
        let (now, clock) = (Self::now(), SystemTime::now());
        self.saved_at = Some(now);
        let enforced = self.state.enforced().clone();
        let due = |due: &Instant| clock + due.saturating_duration_since(now);
        let pending = self.state.pending().iter();
        let pending = pending
            .map(|(location, at)| (location.clone(), due(at)))
            .collect();
        let api_server = self.state.api_server();
        let judgement = self.judgement.clone();
        let directory = self.storage.directory.clone();
        let mut guard = self.storage.guard.take();
        let table = self.state.host().nft.clone();
        let save = move || {
            let checkpoint = Checkpoint {
                snapshot,
                enforced,
                pending,
                api_server,
                judgement,
            };
            let saved = Checkpoint::save(&directory, &checkpoint.bytes());
            let guarded = guard.as_mut().map(|guard| guard.save(table.as_ref()));
            let cause = saved.err().map(|error| chain(&error));
            let cause = cause.or(guarded.and_then(Result::err).map(|error| chain(&error)));
            (cause, guard)
        };
        self.saving = Some(tokio::task::spawn_blocking(save));
    }

    /// The checkpoint was written, or could not be; then it is tried again.
    pub(super) fn take_saved(&mut self, (cause, guard): Saved) {
        self.storage.guard = guard;
        if cause.is_some() && self.snapshot.is_some() && !self.state.retire() {
            self.checkpoint_later(Self::now());
        }
        self.state.handle_stored(cause);
        self.log_troubles();
    }

    pub(super) async fn saved(&mut self) {
        if self.saving.is_some() {
            let saved = finished(&mut self.saving).await;
            self.take_saved(saved);
        }
    }
}

/// Waits until the checkpoint is written; for ever where it is not being written.
pub(super) async fn finished(saving: &mut Option<JoinHandle<Saved>>) -> Saved {
    let saved = match saving {
        Some(handle) => handle.await,
        None => pending().await,
    };
    *saving = None;
    saved.unwrap_or_else(|error| (Some(error.to_string()), None))
}
