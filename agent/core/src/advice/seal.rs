//! The keys that two nodes alone can have.
//!
//! Both come from the static secret of Curve25519 that the two share, which WireGuard's handshakes use as well, but through another
//! derivation and with a label of its own. There is a key for each direction and each session: a message cannot be sent back to
//! where it came from, and no counter is used twice with one key.

use std::fmt;

use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use spanwire_topology::PublicKey;
use x25519_dalek::{SharedSecret, StaticSecret};

const LABEL: &[u8] = b"spanwire advice 1";

/// How many bytes sealing adds.
pub(super) const TAG: usize = 16;

/// A node's key. It is wiped from memory when dropped, and never printed.
pub struct OwnKey {
    private: StaticSecret,
    public: PublicKey,
}

impl OwnKey {
    /// Returns the key with these private bytes.
    #[must_use]
    pub fn new(private: [u8; 32]) -> Self {
        let private = StaticSecret::from(private);
        let public = PublicKey::new(x25519_dalek::PublicKey::from(&private).to_bytes());
        Self { private, public }
    }

    /// Returns its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Returns what this node shares with another one; `None` where everyone could compute it, because the other key is of low
    /// order (RFC 7748, section 6.1).
    pub(super) fn pair(&self, other: PublicKey) -> Option<Pair> {
        let theirs = x25519_dalek::PublicKey::from(*other.as_bytes());
        let shared = self.private.diffie_hellman(&theirs);
        shared.was_contributory().then(|| Pair {
            shared,
            own: self.public,
            other,
        })
    }
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnKey(…)")
    }
}

/// What this node shares with another one.
pub(super) struct Pair {
    shared: SharedSecret,
    own: PublicKey,
    other: PublicKey,
}

impl Pair {
    /// Seals a body in place, and returns its tag. A session must not use a counter twice.
    pub(super) fn seal(
        &self,
        session: u128,
        counter: u64,
        header: &[u8],
        body: &mut [u8],
    ) -> Option<[u8; TAG]> {
        let key = self.key(session, self.own, self.other)?;
        let tag = key.seal_in_place_separate_tag(nonce(counter), Aad::from(header), body);
        tag.ok()?.as_ref().try_into().ok()
    }

    /// Opens what the other node has sealed, in place, and returns the body.
    pub(super) fn open<'b>(
        &self,
        session: u128,
        counter: u64,
        header: &[u8],
        sealed: &'b mut [u8],
    ) -> Option<&'b [u8]> {
        let key = self.key(session, self.other, self.own)?;
        let body = key.open_in_place(nonce(counter), Aad::from(header), sealed);
        body.ok().map(|body| &*body)
    }

    fn key(&self, session: u128, sender: PublicKey, receiver: PublicKey) -> Option<LessSafeKey> {
        let salt = Salt::new(HKDF_SHA256, &session.to_be_bytes());
        let info = [LABEL, sender.as_bytes(), receiver.as_bytes()];
        let secret = salt.extract(self.shared.as_bytes());
        let key = secret.expand(&info, &CHACHA20_POLY1305).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - size_of::<u64>()..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}
