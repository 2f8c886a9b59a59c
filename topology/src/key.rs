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
    /// A point of low order, with which any private key gives the same shared secret.
    #[error("is a point of low order, which protects nothing; write what `wg pubkey` prints")]
    LowOrder,
}

/// The points of low order of Curve25519 and its twist, in little-endian order, with the encodings that are not reduced
/// (Bernstein, "Curve25519: new Diffie-Hellman speed records", and <https://cr.yp.to/ecdh.html>, "Validate"). The zero
/// point has an error of its own, since WireGuard takes it for "no key".
const LOW_ORDER: [[u8; 32]; 11] = [
    // 1
    edge(0x01, 0x00, 0x00),
    // Of order 8, both of them.
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    // p - 1, p, p + 1, with p = 2^255 - 19.
    edge(0xec, 0xff, 0x7f),
    edge(0xed, 0xff, 0x7f),
    edge(0xee, 0xff, 0x7f),
    // The points of order 8 plus p.
    [
        0xcd, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x80,
    ],
    [
        0x4c, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0xd7,
    ],
    // 2p - 1, 2p, 2p + 1.
    edge(0xd9, 0xff, 0xff),
    edge(0xda, 0xff, 0xff),
    edge(0xdb, 0xff, 0xff),
];

/// Returns the 32 bytes of which only the first and the last differ from the others.
const fn edge(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

impl PublicKey {
    /// Returns the key with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns whether it is a point of low order or of none: whatever private key it meets, the shared secret is one that
    /// everybody knows. X25519 ignores the highest bit (RFC 7748 section 5), so a point has an encoding with it too.
    #[must_use]
    pub fn is_low_order(&self) -> bool {
        let mut masked = self.0;
        masked[31] &= 0x7f;
        let low = |bytes: &[u8; 32]| *bytes == [0; 32] || LOW_ORDER.contains(bytes);
        low(&self.0) || low(&masked)
    }

    /// Returns all encodings of points of low order, that of zeroes first.
    #[must_use]
    pub fn low_order() -> Vec<Self> {
        let mut all = vec![[0; 32]];
        all.extend(LOW_ORDER);
        let flipped = |bytes: &[u8; 32]| {
            let mut bytes = *bytes;
            bytes[31] |= 0x80;
            bytes
        };
        let canonical = all.iter().filter(|bytes| bytes[31] & 0x80 == 0);
        let flipped: Vec<_> = canonical.map(flipped).collect();
        all.extend(flipped);
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(Self).collect()
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
        let key = Self(bytes);
        if bytes == [0; 32] {
            Err(KeyError::Zero)
        } else if key.is_low_order() {
            Err(KeyError::LowOrder)
        } else {
            Ok(key)
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

    #[test]
    fn points_of_low_order_are_no_keys_in_any_encoding() {
        // 1, both points of order 8, p - 1, p, p + 1, as base64, each with and without the bit that X25519 ignores.
        let texts = [
            "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIA=",
            "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
            "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuIA=",
            "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
            "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEdc=",
            "7P///////////////////////////////////////38=",
            "7P////////////////////////////////////////8=",
            "7f///////////////////////////////////////38=",
            "7v///////////////////////////////////////38=",
            "2f////////////////////////////////////////8=",
            "2v////////////////////////////////////////8=",
            "2/////////////////////////////////////////8=",
        ];
        for text in texts {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::LowOrder), "{text}");
        }
        for key in PublicKey::low_order() {
            assert!(key.to_string().parse::<PublicKey>().is_err(), "{key}");
        }
        assert_eq!(PublicKey::low_order().len(), 19);
        assert!(!PublicKey::new([9; 32]).is_low_order());
    }
}
