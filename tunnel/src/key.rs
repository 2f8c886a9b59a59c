//! The three kinds of key, as the UAPI writes them: 64 hex digits.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use boringtun::x25519;
use thiserror::Error;
use zeroize::Zeroize;

/// A text is not a key.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a key is 64 hexadecimal digits")]
pub struct KeyError;

/// Who a peer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// The secret of this device, clamped as Curve25519 wants it.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey([u8; 32]);

/// A secret shared with one peer beside the public keys; never all zeros.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey([u8; 32]);

impl PublicKey {
    /// Returns the key as the protocol library wants it.
    pub fn to_x25519(self) -> x25519::PublicKey {
        x25519::PublicKey::from(self.0)
    }
}

/// The u-coordinates of the points of low order on Curve25519 and its twist, canonical and not: with them every
/// Diffie–Hellman operation gives zeros (<https://cr.yp.to/ecdh.html#validate>).
const LOW_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    ends(1, 0, 0),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    // 2^255 - 19 less one, itself, and one more.
    ends(0xec, 0xff, 0x7f),
    ends(0xed, 0xff, 0x7f),
    ends(0xee, 0xff, 0x7f),
];

const fn ends(first: u8, between: u8, last: u8) -> [u8; 32] {
    let mut bytes = [between; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// Returns whether a secret agreed on with this public key would be known to everybody. The highest bit does not count.
pub fn is_low_order(key: &[u8; 32]) -> bool {
    let mut key = *key;
    key[31] &= 0x7f;
    LOW_ORDER.contains(&key)
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        encode(&self.0, f)
    }
}

/// As people see it: the first digits of what `wg` prints.
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", &STANDARD.encode(self.0)[..8])
    }
}

impl PrivateKey {
    /// Parses a key; all zeros mean "none".
    pub fn parse(text: &str) -> Result<Option<Self>, KeyError> {
        Ok(non_zero(decode(text)?).map(Self::from))
    }

    /// Returns the key as the protocol library wants it.
    pub fn to_x25519(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(self.0)
    }

    /// Returns the public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(*x25519::PublicKey::from(&self.to_x25519()).as_bytes())
    }
}

impl From<[u8; 32]> for PrivateKey {
    fn from(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Self(bytes)
    }
}

impl PresharedKey {
    /// Parses a key; all zeros mean "none".
    pub fn parse(text: &str) -> Result<Option<Self>, KeyError> {
        Ok(non_zero(decode(text)?).map(Self))
    }

    /// Returns the bytes, for the protocol library.
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

/// Written only into the answer to a UAPI `get`, which is for root.
macro_rules! secret {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                encode(&self.0, f)
            }
        }

        /// Memory that is used again does not show it.
        impl Drop for $name {
            fn drop(&mut self) {
                self.0.zeroize();
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("(secret)")
            }
        }
    };
}

secret!(PrivateKey);
secret!(PresharedKey);

fn non_zero(bytes: [u8; 32]) -> Option<[u8; 32]> {
    (bytes != [0; 32]).then_some(bytes)
}

/// Writes bytes in hexadecimal digits.
pub(crate) fn encode(bytes: &[u8], f: &mut impl fmt::Write) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads so many bytes in hexadecimal digits.
pub(crate) fn decode<const LENGTH: usize>(text: &str) -> Result<[u8; LENGTH], KeyError> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        b'A'..=b'F' => Ok(c - b'A' + 10),
        _ => Err(KeyError),
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return Err(KeyError);
    };
    let pairs: &[[u8; 2]; LENGTH] = pairs.try_into().map_err(|_| KeyError)?;
    let mut bytes = [0; LENGTH];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_the_way_to_text_and_back() {
        let text = "0a".repeat(31) + "ff";
        assert_eq!(text.parse::<PublicKey>().unwrap().to_string(), text);
        assert_eq!(
            text.to_uppercase().parse::<PublicKey>(),
            text.parse::<PublicKey>()
        );
    }

    #[test]
    fn what_is_not_64_hex_digits_is_no_key() {
        for text in [
            "",
            "00",
            &"0".repeat(63),
            &"0".repeat(65),
            &"g".repeat(64),
            &"é".repeat(32),
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError), "{text}");
        }
    }

    #[test]
    fn zeros_are_no_secret_and_private_keys_are_clamped() {
        let zeros = "0".repeat(64);
        assert_eq!(PrivateKey::parse(&zeros), Ok(None));
        assert_eq!(PresharedKey::parse(&zeros), Ok(None));
        let clamped = PrivateKey::parse(&"f".repeat(64)).unwrap().unwrap().to_string();
        assert!(clamped.starts_with("f8") && clamped.ends_with("7f"), "{clamped}");
    }

    #[test]
    fn what_is_of_low_order_gives_no_secret_and_everything_else_does() {
        let shared = |key: [u8; 32]| {
            let ours = PrivateKey::from([7; 32]).to_x25519();
            ours.diffie_hellman(&PublicKey(key).to_x25519()).to_bytes()
        };
        for mut key in LOW_ORDER {
            for bit in [0, 0x80] {
                key[31] |= bit;
                assert_eq!(shared(key), [0; 32], "{key:?}");
                assert!(is_low_order(&key), "{key:?}");
            }
        }
        for key in [
            [9; 32],
            ends(2, 0, 0),
            ends(0xeb, 0xff, 0x7f),
            ends(0xef, 0xff, 0x7f),
            PrivateKey::from([5; 32]).public().0,
        ] {
            assert_ne!(shared(key), [0; 32], "{key:?}");
            assert!(!is_low_order(&key), "{key:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed_by_debug() {
        let key = PrivateKey::from([7; 32]);
        assert_eq!(format!("{key:?}"), "(secret)");
    }
}
