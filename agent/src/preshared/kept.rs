//! The preshared keys that are known, in the state directory: a node that boots while no API server answers talks to its
//! Peers all the same.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use spanwire_cluster::backoff::Backoff;
use spanwire_host::PresharedKey;
use spanwire_topology::SecretKeyRef;
use thiserror::Error;
use tokio::sync::watch;

use crate::{
    atomic_file::{self, FileError},
    causes::chain,
};

const FILE: &str = "preshared-keys.json";
const VERSION: u32 = 1;

/// The keys that are known, by where they were read.
pub type Keys = BTreeMap<SecretKeyRef, PresharedKey>;

/// Why the keys are not known.
#[derive(Debug, Error)]
pub enum KeptError {
    /// The disk.
    #[error("the preshared keys cannot be accessed")]
    Disk(#[source] FileError),
    /// Not what this version writes. What exactly is not said: that could be a part of a key.
    #[error("{} is damaged or of another version; the keys are read from their Secrets again", .0.display())]
    Damaged(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct Body {
    version: u32,
    /// By `NAME/KEY`, in base64.
    keys: BTreeMap<String, String>,
}

/// Returns where the keys are kept.
#[must_use]
pub fn path(state_directory: &Path) -> PathBuf {
    state_directory.join(FILE)
}

/// Returns the keys that the state directory holds.
///
/// # Errors
/// Where they cannot be read.
pub fn load(state_directory: &Path) -> Result<Keys, KeptError> {
    let path = path(state_directory);
    let Some(bytes) = atomic_file::read(&path).map_err(KeptError::Disk)? else {
        return Ok(Keys::new());
    };
    let damaged = || KeptError::Damaged(path.clone());
    let body: Body = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
    if body.version != VERSION {
        return Err(damaged());
    }
    let keys = body.keys.iter();
    let key = |(reference, key): (&String, &String)| Some((reference.parse().ok()?, parse(key.as_bytes())?));
    keys.map(|entry| key(entry).ok_or_else(damaged)).collect()
}

/// Writes the keys, readable by the owner alone; without any there is no file.
///
/// # Errors
/// Where the disk cannot be written.
pub fn save(state_directory: &Path, keys: &Keys) -> Result<(), FileError> {
    if keys.is_empty() {
        return forget(state_directory);
    }
    atomic_file::write(&path(state_directory), &bytes(keys))
}

fn bytes(keys: &Keys) -> Vec<u8> {
    let text = |(reference, key): (&SecretKeyRef, &PresharedKey)| {
        (reference.to_string(), STANDARD.encode(key.as_bytes()))
    };
    let body = Body {
        version: VERSION,
        keys: keys.iter().map(text).collect(),
    };
    serde_json::to_vec(&body).expect("these types have only string keys")
}

/// Removes the keys.
///
/// # Errors
/// Where the file cannot be removed.
pub fn forget(state_directory: &Path) -> Result<(), FileError> {
    atomic_file::remove(&path(state_directory))
}

/// Keeps what is known, after each change, until there can be no more. `None`: it is not known yet what is needed.
pub async fn keep(state_directory: PathBuf, mut known: watch::Receiver<Option<Keys>>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    while known.changed().await.is_ok() {
        loop {
            let keys = known.borrow_and_update().clone();
            let directory = state_directory.clone();
            let Some(keys) = keys else { break };
            let saved = tokio::task::spawn_blocking(move || save(&directory, &keys)).await;
            let Ok(Err(error)) = saved else { break };
            let wait = backoff.wait();
            tracing::warn!(
                cause = chain(&error),
                ?wait,
                "the preshared keys are not kept, retrying"
            );
            tokio::time::sleep(wait).await;
        }
        backoff.reset();
    }
}

/// Returns the key that is written in base64.
pub(super) fn parse(text: &[u8]) -> Option<PresharedKey> {
    let bytes: [u8; 32] = STANDARD.decode(text).ok()?.try_into().ok()?;
    PresharedKey::new(bytes)
}
