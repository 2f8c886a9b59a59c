//! The two MACs at the end of a handshake message, and the cookie that goes into the second one (WireGuard whitepaper,
//! sections 5.4.4 and 5.4.7).
//!
//! boringtun writes them over the index that it gave; the index that is sent instead is covered by both.

use std::time::{Duration, Instant};

use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{FixedOutput, KeyInit, Update, consts::U16},
};
use boringtun::noise::errors::WireGuardError;
use chacha20poly1305::{AeadInPlace, XChaCha20Poly1305};

use crate::key::PublicKey;

/// A cookie is good for 120 seconds, of which the kernel, too, leaves five for the way.
const COOKIE_LIFETIME: Duration = Duration::from_secs(120 - 5);

/// The length of a cookie reply: type, receiver, nonce, cookie, tag.
const REPLY: usize = 4 + 4 + 24 + MAC + 16;

const MAC: usize = 16;
type Mac = [u8; MAC];

/// What is needed for the MACs of messages to one side, and what is known of its cookies.
pub(super) struct Macs {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    /// The index and first MAC of the newest message: a cookie reply answers those, and one reply counts.
    last: Option<(u32, Mac)>,
    cookie: Option<(Instant, Mac)>,
}

impl Macs {
    /// Makes those of messages to the side with this key.
    pub(super) fn new(to: PublicKey) -> Self {
        Self {
            mac1_key: keyed(b"mac1----", to),
            cookie_key: keyed(b"cookie--", to),
            last: None,
            cookie: None,
        }
    }

    /// Writes both MACs of a handshake message with this index.
    pub(super) fn sign(&mut self, now: Instant, index: u32, message: &mut [u8]) {
        let Some(mac1) = self.sign_first(message) else {
            return;
        };
        self.last = Some((index, mac1));
        let cookie = self
            .cookie
            .filter(|(since, _)| now.saturating_duration_since(*since) < COOKIE_LIFETIME);
        if let Some((covered, mac2)) = message.split_last_chunk_mut::<MAC>() {
            *mac2 = cookie.map_or([0; MAC], |(_, cookie)| mac(&cookie, covered));
        }
    }

    /// Writes the first MAC alone, and returns it.
    pub(super) fn sign_first(&self, message: &mut [u8]) -> Option<Mac> {
        let (rest, _) = message.split_last_chunk_mut::<MAC>()?;
        let (covered, mac1) = rest.split_last_chunk_mut::<MAC>()?;
        *mac1 = mac(&self.mac1_key, covered);
        Some(*mac1)
    }

    /// Takes a cookie reply to the newest message.
    pub(super) fn take_cookie(&mut self, now: Instant, reply: &[u8]) -> Result<(), WireGuardError> {
        let reply: &[u8; REPLY] = reply.try_into().map_err(|_| WireGuardError::InvalidPacket)?;
        let (nonce, sealed) = reply[8..].split_at(24);
        let (cookie, tag) = sealed.split_at(MAC);
        let Some((index, mac1)) = self.last else {
            return Err(WireGuardError::UnexpectedPacket);
        };
        if reply[4..8] != index.to_le_bytes() {
            return Err(WireGuardError::WrongIndex);
        }
        let mut opened: Mac = cookie.try_into().map_err(|_| WireGuardError::InvalidPacket)?;
        XChaCha20Poly1305::new(&self.cookie_key.into())
            .decrypt_in_place_detached(nonce.into(), &mac1, &mut opened, tag.into())
            .map_err(|_| WireGuardError::InvalidAeadTag)?;
        self.last = None;
        self.cookie = Some((now, opened));
        Ok(())
    }
}

fn keyed(label: &[u8; 8], key: PublicKey) -> [u8; 32] {
    Blake2s256::new()
        .chain_update(label)
        .chain_update(key.0)
        .finalize()
        .into()
}

fn mac(key: &[u8], data: &[u8]) -> Mac {
    // It refuses only keys that are longer than 32 bytes.
    let Ok(mut mac) = Blake2sMac::<U16>::new_from_slice(key) else {
        unreachable!("a key of 16 or 32 bytes")
    };
    Update::update(&mut mac, data);
    mac.finalize_fixed().into()
}
