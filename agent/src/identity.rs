//! The node's WireGuard key: generated here once, kept on disk, never sent anywhere.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use spanwire_topology::PublicKey;
use thiserror::Error;
use x25519_dalek::StaticSecret;

use crate::atomic_file::{self, FileError};

const FILE: &str = "key";

/// The private key and its public half.
pub struct Identity {
    private: StaticSecret,
    public: PublicKey,
}

/// Why there is no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("the node's key cannot be accessed")]
    Disk(#[source] FileError),
    /// What is in the file is no key. It is not replaced by another, since every other node would have to learn of a new peer.
    #[error("{} holds no key; put it back from a copy, or remove it to get a new one", .0.display())]
    Damaged(PathBuf),
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes")]
    Random(#[source] getrandom::Error),
}

impl Identity {
    /// Returns the identity kept in the state directory; `None` where there is none.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn load(state_directory: &Path) -> Result<Option<Self>, IdentityError> {
        let path = Self::path(state_directory);
        let Some(text) = atomic_file::read(&path).map_err(IdentityError::Disk)? else {
            return Ok(None);
        };
        close(&path);
        parse(&text).map(Some).ok_or(IdentityError::Damaged(path))
    }

    /// Returns the identity kept in the state directory; a new one, put there, where there is none.
    ///
    /// # Errors
    /// Where it can neither be read nor made.
    pub fn load_or_create(state_directory: &Path) -> Result<Self, IdentityError> {
        if let Some(identity) = Self::load(state_directory)? {
            return Ok(identity);
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(IdentityError::Random)?;
        let identity = Self::from_private(bytes);
        identity.save(state_directory)?;
        let path = Self::path(state_directory);
        tracing::info!(public_key = %identity.public, path = %path.display(), "generated the node's key");
        Ok(identity)
    }

    /// Returns the identity with this private key.
    #[must_use]
    pub fn from_private(bytes: [u8; 32]) -> Self {
        Self::new(StaticSecret::from(bytes))
    }

    /// Puts the key into the state directory, in place of what is there.
    ///
    /// # Errors
    /// Where the disk cannot be written.
    pub fn save(&self, state_directory: &Path) -> Result<(), IdentityError> {
        let text = format!("{}\n", STANDARD.encode(self.private.to_bytes()));
        atomic_file::write(&Self::path(state_directory), text.as_bytes()).map_err(IdentityError::Disk)
    }

    /// Returns where the key is kept.
    #[must_use]
    pub fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(FILE)
    }

    /// Removes the key for good.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(state_directory: &Path) -> Result<(), FileError> {
        atomic_file::remove(&Self::path(state_directory))
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Returns the private key, for the WireGuard device alone.
    #[must_use]
    pub fn private(&self) -> [u8; 32] {
        self.private.to_bytes()
    }

    fn new(private: StaticSecret) -> Self {
        let public = PublicKey::new(x25519_dalek::PublicKey::from(&private).to_bytes());
        Self { private, public }
    }
}

fn parse(text: &[u8]) -> Option<Identity> {
    let bytes: [u8; 32] = STANDARD.decode(text.trim_ascii()).ok()?.try_into().ok()?;
    (bytes != [0; 32]).then(|| Identity::new(StaticSecret::from(bytes)))
}

/// A disk that cannot be written keeps the key as it is.
fn close(path: &Path) {
    let closed = || -> io::Result<()> {
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "the key was open to others; closed it");
        }
        Ok(())
    };
    if let Err(error) = closed() {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, path = %path.display(), "cannot make the key readable by its owner alone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_survives_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(directory.path()).unwrap();
        let again = Identity::load_or_create(directory.path()).unwrap();
        assert_eq!(first.private(), again.private());
        assert_eq!(first.public(), again.public());
        let mode = fs::metadata(directory.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = Identity::load_or_create(tempfile::tempdir().unwrap().path()).unwrap();
        assert_ne!(first.public(), other.public());
    }

    #[test]
    fn the_file_is_what_wg_genkey_prints() {
        // The pair of RFC 7748, section 6.1 (Alice).
        let directory = tempfile::tempdir().unwrap();
        let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n";
        fs::write(directory.path().join(FILE), private).unwrap();
        let identity = Identity::load_or_create(directory.path()).unwrap();
        assert_eq!(
            identity.public().to_string(),
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        );
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
            fs::write(directory.path().join(FILE), text).unwrap();
            let error = Identity::load_or_create(directory.path()).err().unwrap();
            assert!(matches!(error, IdentityError::Damaged(_)), "{text:?}");
            assert_eq!(fs::read_to_string(directory.path().join(FILE)).unwrap(), text);
        }
    }

    #[test]
    fn an_open_key_file_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(directory.path()).unwrap();
        let path = directory.path().join(FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let again = Identity::load_or_create(directory.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(first.public(), again.public());
    }
}
