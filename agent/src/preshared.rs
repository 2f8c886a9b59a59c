//! Reads the preshared keys of Peers in the background, periodically, and keeps them over a restart. A Secret that cannot be
//! read affects no other.
//!
//! Nothing here prints what it reads: neither logs nor errors quote a value, nor the text around it.

pub mod kept;
mod secret;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use spanwire_cluster::backoff::{Backoff, jittered};
use spanwire_core::preshared::Unread;
use spanwire_host::PresharedKey;
use spanwire_topology::SecretKeyRef;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::timeout,
};

pub use secret::Source;

/// How long the API server has for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure a Secret is read again, later and later up to a bound: people create a Peer before its Secret.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];

/// What came of reading one key.
pub type Read = (SecretKeyRef, Result<PresharedKey, Unread>);

/// One task per Secret.
#[derive(Debug)]
pub struct Reader {
    tasks: BTreeMap<String, Task>,
    source: watch::Receiver<Option<Source>>,
    sender: mpsc::Sender<Read>,
}

#[derive(Debug)]
struct Task {
    keys: BTreeSet<SecretKeyRef>,
    handle: AbortHandle,
}

impl Reader {
    /// Returns a reader that has nothing to read, and the receiver of what changes. It reads once there is a source.
    #[must_use]
    pub fn new(source: watch::Receiver<Option<Source>>) -> (Self, mpsc::Receiver<Read>) {
        let (sender, receiver) = mpsc::channel(16);
        let reader = Self {
            tasks: BTreeMap::new(),
            source,
            sender,
        };
        (reader, receiver)
    }

    /// Reads these keys from now on, and no others. A Secret of which other keys than before are wanted is read at once.
    pub fn want(&mut self, references: &BTreeSet<SecretKeyRef>) {
        let mut secrets: BTreeMap<&str, BTreeSet<SecretKeyRef>> = BTreeMap::new();
        for reference in references {
            secrets
                .entry(reference.name())
                .or_default()
                .insert(reference.clone());
        }
        self.tasks.retain(|secret, task| {
            let is_wanted = secrets.get(secret.as_str()) == Some(&task.keys);
            if !is_wanted {
                task.handle.abort();
            }
            is_wanted
        });
        for (secret, keys) in secrets {
            let (source, sender) = (&self.source, &self.sender);
            let start = || Task {
                keys: keys.clone(),
                handle: tokio::spawn(read(keys.clone(), source.clone(), sender.clone())).abort_handle(),
            };
            self.tasks.entry(secret.to_owned()).or_insert_with(start);
        }
    }
}

/// Reads keys of one Secret again and again.
async fn read(
    keys: BTreeSet<SecretKeyRef>,
    mut source: watch::Receiver<Option<Source>>,
    sender: mpsc::Sender<Read>,
) {
    let Ok(source) = source
        .wait_for(Option::is_some)
        .await
        .map(|source| source.clone())
    else {
        return;
    };
    let Some(source) = source else { return };
    let [first, longest] = RETRY;
    let mut backoff = Backoff::new(first, longest.min(source.pace()));
    let mut reported = BTreeMap::new();
    loop {
        let found = timeout(PATIENCE, source.read(&keys)).await.unwrap_or_else(|_| {
            let unread = || Unread::Unanswered("the API server does not answer".to_owned());
            keys.iter().map(|key| (key.clone(), Err(unread()))).collect()
        });
        let wait = if found.values().all(Result::is_ok) {
            backoff.reset();
            source.pace()
        } else {
            backoff.wait()
        };
        for (key, result) in found {
            if reported.get(&key) != Some(&result) {
                reported.insert(key.clone(), result.clone());
                if sender.send((key, result)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(jittered(wait)).await;
    }
}

#[cfg(test)]
mod tests;
