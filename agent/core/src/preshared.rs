//! The preshared keys of the Peers that this node talks to.
//!
//! A Peer that is to have one is in the device with it or not at all. What is known of a key:
//!
//! * it was read from its Secret, now or, as the state directory has it, before this start;
//! * its Secret says that there is none: then there is none, whatever was known before;
//! * nothing answers: then what was known stays, and where this process has never known one, what the device has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use spanwire_host::{PresharedKey, WireGuard};
use spanwire_topology::{Party, PeerName, PublicKey, SecretKeyRef, TunnelPeer};

/// Why a preshared key could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// There is no such Secret, no such key in it, or what stands there is no key; why, and what would help.
    Withdrawn(String),
    /// The API server does not let this node read it; why, and what would help.
    Forbidden(String),
    /// The API server did not answer, or could not; why.
    Unanswered(String),
}

impl Unread {
    /// Returns why, and what would help.
    #[must_use]
    pub fn cause(&self) -> &str {
        match self {
            Self::Withdrawn(cause) | Self::Forbidden(cause) | Self::Unanswered(cause) => cause,
        }
    }
}

/// What is known of the preshared keys.
#[derive(Debug, Default)]
pub struct PresharedKeys {
    /// The Peers that are to have one.
    wanted: BTreeMap<PublicKey, (PeerName, SecretKeyRef)>,
    keys: BTreeMap<SecretKeyRef, PresharedKey>,
    /// The keys that the device had for Peers when the agent started, where nothing else is known of them.
    adopted: BTreeMap<PublicKey, (SecretKeyRef, PresharedKey)>,
    problems: BTreeMap<SecretKeyRef, Unread>,
    /// The device has been looked at.
    has_looked: bool,
}

/// A key that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The Peer that is to have it.
    pub peer: PeerName,
    /// Where it is.
    pub reference: SecretKeyRef,
    /// Why it is not read.
    pub unread: Unread,
    /// It is known all the same.
    pub is_known: bool,
}

impl PresharedKeys {
    /// Takes the keys that were known before the agent started.
    pub fn remember(&mut self, keys: BTreeMap<SecretKeyRef, PresharedKey>) {
        self.keys = keys;
    }

    /// Takes the peers that the plan wants.
    pub fn handle_plan(&mut self, peers: &BTreeMap<PublicKey, TunnelPeer>) {
        let wanted = peers
            .iter()
            .filter_map(|(key, peer)| match (&peer.party, &peer.preshared) {
                (Party::Peer(name), Some(reference)) => Some((*key, (name.clone(), reference.clone()))),
                (Party::Peer(_) | Party::Leader(..), _) => None,
            });
        self.wanted = wanted.collect();
        let references = self.references();
        self.problems
            .retain(|reference, _| references.contains(reference));
        let same = |key: &PublicKey, (reference, _): &mut (SecretKeyRef, PresharedKey)| {
            self.wanted
                .get(key)
                .is_some_and(|(_, wanted)| wanted == reference)
        };
        self.adopted.retain(same);
        // Before the device has been looked at: by what it was known, its key is recognised.
        if self.has_looked {
            self.keys.retain(|reference, _| references.contains(reference));
        }
    }

    /// Takes the device as it was found when the agent started.
    pub fn handle_device(&mut self, device: Option<&WireGuard>) {
        if std::mem::replace(&mut self.has_looked, true) {
            return;
        }
        for (key, (_, reference)) in &self.wanted {
            let peer = device.and_then(|device| device.peers.get(key));
            let Some(found) = peer.and_then(|peer| peer.preshared.clone()) else {
                continue;
            };
            // The reference may be another one by now.
            let is_of_another = self
                .keys
                .iter()
                .any(|(other, known)| other != reference && *known == found);
            let is_settled = self.keys.contains_key(reference)
                || matches!(self.problems.get(reference), Some(Unread::Withdrawn(_)));
            if !is_of_another && !is_settled {
                self.adopted.insert(*key, (reference.clone(), found));
            }
        }
        let references = self.references();
        self.keys.retain(|reference, _| references.contains(reference));
    }

    /// Takes what came of reading a key.
    pub fn handle_read(&mut self, reference: SecretKeyRef, read: Result<PresharedKey, Unread>) {
        if !self.references().contains(&reference) {
            return;
        }
        match read {
            Ok(key) => {
                self.problems.remove(&reference);
                self.adopted.retain(|_, (of, _)| *of != reference);
                self.keys.insert(reference, key);
            }
            Err(unread) => {
                if matches!(unread, Unread::Withdrawn(_)) {
                    self.adopted.retain(|_, (of, _)| *of != reference);
                    self.keys.remove(&reference);
                }
                self.problems.insert(reference, unread);
            }
        }
    }

    /// Returns what is to be read.
    #[must_use]
    pub fn references(&self) -> BTreeSet<SecretKeyRef> {
        let references = self.wanted.values().map(|(_, reference)| reference);
        references.cloned().collect()
    }

    /// Returns the key of each Peer that is to have one, as far as it is known.
    #[must_use]
    pub fn known(&self) -> BTreeMap<PublicKey, PresharedKey> {
        let known = self.wanted.iter().filter_map(|(peer, (_, reference))| {
            let adopted = || self.adopted.get(peer).map(|(_, key)| key);
            let key = self.keys.get(reference).or_else(adopted)?;
            Some((*peer, key.clone()))
        });
        known.collect()
    }

    /// Returns whether the Peer may be talked to: it needs no key, or its key is known.
    #[must_use]
    pub fn admits(&self, peer: &PublicKey) -> bool {
        let Some((_, reference)) = self.wanted.get(peer) else {
            return true;
        };
        self.keys.contains_key(reference) || self.adopted.contains_key(peer)
    }

    /// Returns what is to be there after a restart: the keys that were read, of Peers that still are to have them.
    #[must_use]
    pub fn to_remember(&self) -> BTreeMap<SecretKeyRef, PresharedKey> {
        let references = self.references();
        let wanted = self
            .keys
            .iter()
            .filter(|(reference, _)| references.contains(*reference));
        wanted
            .map(|(reference, key)| (reference.clone(), key.clone()))
            .collect()
    }

    /// Returns what could not be read and is not known, or may not be read any more. That nothing answers is no problem of a key
    /// that is known.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let of = |(key, (peer, reference)): (&PublicKey, &(PeerName, SecretKeyRef))| {
            let unread = self.problems.get(reference)?;
            Some(Problem {
                peer: peer.clone(),
                reference: reference.clone(),
                unread: unread.clone(),
                is_known: self.admits(key),
            })
        };
        let all = self.wanted.iter().filter_map(of);
        let lasting = |problem: &Problem| !problem.is_known || matches!(problem.unread, Unread::Forbidden(_));
        let mut problems: Vec<Problem> = all.filter(lasting).collect();
        problems.sort_by(|one, other| one.peer.cmp(&other.peer));
        problems
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, reference, .. } = self;
        let (key, secret, cause) = (reference.key(), reference.name(), self.unread.cause());
        let meanwhile = if self.is_known {
            "goes on with the preshared key that this node has"
        } else {
            "is left out without its preshared key"
        };
        write!(
            f,
            "the Peer {peer} {meanwhile} ({key} in the Secret {secret}): {cause}"
        )
    }
}

#[cfg(test)]
mod tests;
