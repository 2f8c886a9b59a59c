//! What a next run has to know when this one is killed: the Peer that was created, to delete it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};
use spanwire_topology::PublicKey;

/// The name of the file.
const FILE: &str = "peer.json";

/// The Peer of a run. Its private key is not among it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remembered {
    /// The API server that has it.
    pub server: String,
    /// Its name.
    pub name: String,
    /// Its key, by which it is known to be that one.
    pub public_key: String,
}

impl Remembered {
    /// Returns what is to be remembered of a Peer.
    #[must_use]
    pub fn new(server: &str, name: &str, key: &PublicKey) -> Self {
        Self {
            server: server.to_owned(),
            name: name.to_owned(),
            public_key: key.to_string(),
        }
    }

    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let (new, path) = (folder.join("peer.json.new"), folder.join(FILE));
        let mut options = File::options();
        let mut file = options
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        // Whole or not at all.
        fs::rename(new, path)
    }

    pub(super) fn remove(folder: &Path) {
        // What is left says of a Peer that is gone that it was there, which a next run finds out.
        let _left = fs::remove_file(folder.join(FILE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_until_it_is_removed_and_what_is_damaged_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(Remembered::read(folder), None);
        let peer = Remembered::new("https://a:6443", "laptop", &PublicKey::new([1; 32]));
        peer.write(folder).unwrap();
        assert_eq!(Remembered::read(folder), Some(peer));
        fs::write(folder.join(FILE), "{").unwrap();
        assert_eq!(Remembered::read(folder), None);
        Remembered::remove(folder);
        assert!(!folder.join(FILE).exists());
    }
}
