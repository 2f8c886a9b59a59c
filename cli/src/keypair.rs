//! Keys for a Peer, made on this machine. The private key is written into one file and nowhere else, a preshared key also into the
//! Secret from which leaders read it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use spanwire_kernel::PrivateKey;
use spanwire_topology::PublicKey;
use x25519_dalek::StaticSecret;

/// A key pair.
pub struct KeyPair {
    private: StaticSecret,
    /// The public half.
    pub public: PublicKey,
}

impl KeyPair {
    /// Makes one.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        let private = StaticSecret::from(bytes);
        let public = PublicKey::new(x25519_dalek::PublicKey::from(&private).to_bytes());
        Ok(Self { private, public })
    }

    /// Returns the private key, for the file alone.
    #[must_use]
    pub fn private(&self) -> String {
        STANDARD.encode(self.private.to_bytes())
    }

    /// Returns the private key, for the device of this machine alone.
    #[must_use]
    pub fn of_device(&self) -> PrivateKey {
        PrivateKey::new(self.private.to_bytes())
    }
}

/// Makes a preshared key, as `wg genpsk` does.
///
/// # Errors
/// Where the system gives no randomness.
pub fn preshared_key() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_another_and_its_halves_belong_together() {
        let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        assert_ne!(one.public, other.public);
        let bytes: [u8; 32] = STANDARD.decode(one.private()).unwrap().try_into().unwrap();
        let public = x25519_dalek::PublicKey::from(&StaticSecret::from(bytes));
        assert_eq!(public.as_bytes(), one.public.as_bytes());
    }

    #[test]
    fn every_preshared_key_is_another_one_of_32_bytes() {
        let (one, other) = (preshared_key().unwrap(), preshared_key().unwrap());
        assert_ne!(one, other);
        assert_eq!((one.len(), STANDARD.decode(&one).unwrap().len()), (44, 32));
    }
}
