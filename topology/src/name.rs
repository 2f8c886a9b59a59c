//! Names of the objects Spanwire deals with, each a type of its own so that they cannot be confused.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use thiserror::Error;

/// Why a text is no name. Names are Kubernetes object names: RFC 1123 subdomains of at most 253 characters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// The text is empty.
    #[error("is empty; write a name of lower-case letters, digits, '-' and '.'")]
    Empty,
    /// The text has more than 253 characters.
    #[error("has {0} characters; at most 253 are allowed")]
    TooLong(usize),
    /// A character that RFC 1123 subdomains do not have.
    #[error("has the character {0:?}; only lower-case letters, digits, '-' and '.' are allowed")]
    Character(char),
    /// A label is empty, or begins or ends with '-'.
    #[error("must begin and end each part between dots with a letter or a digit")]
    Edge,
}

pub(crate) fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > 253 {
        return Err(NameError::TooLong(text.len()));
    }
    let foreign = |c: &char| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '.');
    if let Some(c) = text.chars().find(foreign) {
        return Err(NameError::Character(c));
    }
    let bad_edge = |part: &str| part.is_empty() || part.starts_with('-') || part.ends_with('-');
    if text.split('.').any(bad_edge) {
        return Err(NameError::Edge);
    }
    Ok(())
}

// A mesh of thousands of nodes names each of them many times, so a copy has to be cheap, and so does telling a copy
// from its original.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.0.hash(state);
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                if Arc::ptr_eq(&self.0, &other.0) {
                    return Ordering::Equal;
                }
                self.0.cmp(&other.0)
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text).map(|()| Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a Kubernetes node.
    NodeName
);
name!(
    /// The name of a location.
    LocationName
);
name!(
    /// The name of a Peer object.
    PeerName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_rfc_1123_subdomains() {
        for good in ["a", "a1", "eu-west-1", "node.example.com", "0"] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        assert_eq!("".parse::<NodeName>(), Err(NameError::Empty));
        assert_eq!("A".parse::<NodeName>(), Err(NameError::Character('A')));
        assert_eq!("a_b".parse::<LocationName>(), Err(NameError::Character('_')));
        for bad in ["-a", "a-", "a..b", ".", "a.-b"] {
            assert_eq!(bad.parse::<PeerName>(), Err(NameError::Edge), "{bad}");
        }
        assert_eq!("x".repeat(254).parse::<NodeName>(), Err(NameError::TooLong(254)));
    }
}
