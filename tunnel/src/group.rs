//! Groups of peers that vouch for each other.
//!
//! In WireGuard a source belongs to one peer at a time, so a network that moves from one gateway to another loses what
//! still comes through the other. Peers of one group may send each other's sources: one trusts them alike. To whom
//! packets are sent is not touched by groups.

use std::{collections::BTreeMap, fmt, str::FromStr};

use thiserror::Error;

use crate::id::PeerId;

/// As long as a DNS name may be.
const LONGEST: usize = 253;

/// The name of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(Box<str>);

/// A text is no name of a group.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the name of a group is 1 to {LONGEST} visible characters of ASCII")]
pub struct GroupError;

impl FromStr for Group {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        let valid = (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        valid.then(|| Self(text.into())).ok_or(GroupError)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The groups of all peers.
#[derive(Debug, Default)]
pub(crate) struct Groups(BTreeMap<PeerId, Group>);

impl Groups {
    /// Puts a peer into a group, or into none.
    pub(crate) fn set(&mut self, peer: PeerId, group: Option<Group>) {
        match group {
            Some(group) => self.0.insert(peer, group),
            None => self.0.remove(&peer),
        };
    }

    /// Returns all that they are made of, piece by piece.
    pub(crate) fn into_pieces(self) -> impl Iterator<Item = Group> + Send {
        self.0.into_values()
    }

    /// Returns the group of a peer.
    pub(crate) fn of(&self, peer: PeerId) -> Option<&Group> {
        self.0.get(&peer)
    }

    /// Returns whether both are in the same group.
    pub(crate) fn share(&self, one: PeerId, other: PeerId) -> bool {
        self.of(one).is_some_and(|group| self.of(other) == Some(group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_visible_and_not_too_long() {
        for good in ["a", "eu-west-1.example", "A_b=c", &"x".repeat(253)] {
            assert_eq!(good.parse::<Group>().unwrap().to_string(), good);
        }
        for bad in ["", " ", "a b", "a\tb", "a\u{7f}", "ä", &"x".repeat(254)] {
            assert_eq!(bad.parse::<Group>(), Err(GroupError), "{bad:?}");
        }
    }

    #[test]
    fn who_has_no_group_shares_none() {
        let [a, b, c] = [0, 1, 2].map(PeerId);
        let mut groups = Groups::default();
        assert!(!groups.share(a, b));
        groups.set(a, "one".parse().ok());
        assert!(!groups.share(a, b) && !groups.share(b, a));
        groups.set(b, "one".parse().ok());
        groups.set(c, "other".parse().ok());
        assert!(groups.share(a, b) && groups.share(b, a) && !groups.share(a, c));
        groups.set(a, None);
        assert!(!groups.share(a, b));
    }
}
