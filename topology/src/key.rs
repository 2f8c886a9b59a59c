//! WireGuard public keys.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use thiserror::Error;

/// A WireGuard public key: a Curve25519 point of 32 bytes, written in base64 (WireGuard whitepaper, section 2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// Why a text is no public key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not base64, or not 32 bytes of it.
    #[error("is not the base64 of 32 bytes; write what `wg pubkey` prints")]
    Malformed,
    /// The key of all zeroes, which WireGuard takes for "no key".
    #[error("is the key of all zeroes; write what `wg pubkey` prints")]
    Zero,
}

impl PublicKey {
    /// Returns the key with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text).map_err(|_| KeyError::Malformed)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyError::Malformed)?;
        if bytes == [0; 32] {
            Err(KeyError::Zero)
        } else {
            Ok(Self(bytes))
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_are_the_same_key() {
        let key = PublicKey::new([7; 32]);
        assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!("".parse::<PublicKey>(), Err(KeyError::Malformed));
        assert_eq!("AAAA".parse::<PublicKey>(), Err(KeyError::Malformed));
        assert_eq!(STANDARD.encode([0; 32]).parse::<PublicKey>(), Err(KeyError::Zero));
    }
}
