//! Preshared keys of WireGuard.

use std::fmt;

use zeroize::Zeroizing;

/// A preshared key: who talks to a peer that has one has to have the same. It is wiped from memory when dropped, and never
/// printed.
#[derive(Clone)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

impl PresharedKey {
    /// Returns the key with these bytes. 32 zeroes stand for no key (wireguard.h, `WGPEER_A_PRESHARED_KEY`).
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Option<Self> {
        let key = Self(Zeroizing::new(bytes));
        (*key.0 != [0; 32]).then_some(key)
    }

    /// Returns the bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// All bytes are compared, wherever two keys differ.
impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(other.0.iter());
        pairs.fold(0, |differing, (mine, theirs)| differing | (mine ^ theirs)) == 0
    }
}

impl Eq for PresharedKey {}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_and_never_printed() {
        let key = |byte| PresharedKey::new([byte; 32]);
        assert_eq!(key(0), None);
        assert_eq!(key(1), key(1));
        for place in 0..32 {
            let mut bytes = [1; 32];
            bytes[place] = 2;
            assert_ne!(PresharedKey::new(bytes), key(1), "{place}");
        }
        assert_eq!(format!("{:?}", key(77)), "Some(PresharedKey(…))");
    }
}
