//! Where a preshared key is written down. The key itself is no part of the mesh: it goes from the Secret to the leaders' devices.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;

use crate::{NameError, name::check};

/// A key of a Secret in Spanwire's namespace, written `NAME/KEY`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKeyRef {
    name: Arc<str>,
    key: Arc<str>,
}

/// Why a text names no key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SecretKeyRefError {
    /// The name is none.
    #[error("has {0:?} as the name of a Secret, which {1}")]
    Name(String, NameError),
    /// The key is none.
    #[error(
        "has {0:?} as the key in a Secret; write 1 to 253 letters, digits, '-', '_' and '.', not '.' alone, and not two of them first"
    )]
    Key(String),
    /// There is no '/'.
    #[error("does not name a Secret and a key in it; write NAME/KEY")]
    Shape,
}

impl SecretKeyRef {
    /// Returns the reference to this key of this Secret.
    ///
    /// # Errors
    /// Where one of the two cannot be one.
    pub fn new(name: &str, key: &str) -> Result<Self, SecretKeyRefError> {
        check(name).map_err(|error| SecretKeyRefError::Name(name.to_owned(), error))?;
        // `IsConfigMapKey` of Kubernetes.
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_key = (1..=253).contains(&key.len()) && key.chars().all(allowed);
        if !is_key || key == "." || key.starts_with("..") {
            return Err(SecretKeyRefError::Key(key.to_owned()));
        }
        Ok(Self {
            name: name.into(),
            key: key.into(),
        })
    }

    /// Returns the name of the Secret.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the key in it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl FromStr for SecretKeyRef {
    type Err = SecretKeyRefError;

    fn from_str(text: &str) -> Result<Self, SecretKeyRefError> {
        let (name, key) = text.split_once('/').ok_or(SecretKeyRefError::Shape)?;
        Self::new(name, key)
    }
}

impl fmt::Display for SecretKeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_as_it_is_written() {
        let reference: SecretKeyRef = "spanwire-preshared-keys/laptop_1.key".parse().unwrap();
        assert_eq!(
            (reference.name(), reference.key()),
            ("spanwire-preshared-keys", "laptop_1.key")
        );
        assert_eq!(reference.to_string().parse(), Ok(reference));
    }

    #[test]
    fn what_kubernetes_takes_for_no_name_or_key_is_refused() {
        let long = "k".repeat(254);
        for bad in [
            "keys",
            "Keys/a",
            "/a",
            "a/",
            "a/b/c",
            "a/.",
            "a/..b",
            "a/b c",
            &format!("a/{long}"),
        ] {
            assert!(bad.parse::<SecretKeyRef>().is_err(), "{bad}");
        }
        assert!(format!("a/{}", &long[1..]).parse::<SecretKeyRef>().is_ok());
    }
}
