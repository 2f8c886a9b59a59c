//! Where the mesh comes from. Every source publishes whole snapshots; a partial one is never shown, so that what is
//! missing from a snapshot is really gone.

pub mod file;
pub mod kubernetes;

use std::sync::Arc;

use spanwire_core::Snapshot;
use tokio::sync::watch;

/// The newest snapshot; `None` until there is one.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// The side of a source that publishes.
#[derive(Debug)]
pub struct Publisher(watch::Sender<Option<Arc<Snapshot>>>);

/// A place for snapshots.
#[must_use]
pub fn channel() -> (Publisher, Snapshots) {
    let (sender, receiver) = watch::channel(None);
    (Publisher(sender), receiver)
}

impl Publisher {
    /// Publishes a snapshot unless it is the one that is known.
    pub fn publish(&self, snapshot: Snapshot) {
        self.0.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&snapshot);
            if changed {
                *known = Some(Arc::new(snapshot));
            }
            changed
        });
    }
}
