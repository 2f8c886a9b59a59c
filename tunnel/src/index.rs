//! Receiver indices: what a message says instead of whom it is for (WireGuard whitepaper, section 5.4).
//!
//! Every handshake has one of its own, drawn at random as by the kernel's WireGuard: who sees the datagrams can tell neither
//! which sessions are of one peer nor how many peers there are, and who does not see them can guess none. Only one byte
//! is drawn from fewer values: the kernel picks the thread that serves the peer by it ([`shard`]).

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::id::PeerId;

/// Returns which of so many shards serves the peer that has this index. One byte decides, the lowest but one, for that is
/// what the kernel reads.
pub(crate) fn shard(index: u32, of: usize) -> usize {
    usize::from(index.to_le_bytes()[1]) % of
}

/// The indices that are in use in one shard, and whose they are.
#[derive(Clone)]
pub struct Indices {
    shard: usize,
    of: usize,
    owners: Arc<Mutex<Owners>>,
}

type Owners = HashMap<u32, PeerId, BuildHasherDefault<Unhashed>>;

/// Where a peer's indices come from.
#[derive(Clone)]
pub struct IndexSource {
    indices: Indices,
    id: PeerId,
}

/// An index in use; it is free again when this is dropped.
pub(crate) struct Index {
    value: u32,
    owners: Arc<Mutex<Owners>>,
}

impl Indices {
    /// Makes those of one shard of so many.
    pub(crate) fn new(shard: usize, of: usize) -> Self {
        Self {
            shard,
            of,
            owners: Arc::default(),
        }
    }

    /// Returns what draws for a peer.
    pub(crate) fn source(&self, id: PeerId) -> IndexSource {
        IndexSource {
            indices: self.clone(),
            id,
        }
    }

    /// Returns whose index this is.
    pub(crate) fn owner(&self, index: u32) -> Option<PeerId> {
        // A message of the cipher that hides nothing (`noise/null.rs`) is for the first peer.
        #[cfg(spanwire_null_cipher)]
        if index == 0 {
            return Some(PeerId(0));
        }
        locked(&self.owners).get(&index).copied()
    }
}

impl IndexSource {
    /// Draws one that is not in use.
    pub(crate) fn draw(&self) -> Index {
        self.draw_from(random)
    }

    fn draw_from(&self, mut random: impl FnMut() -> u32) -> Index {
        let Indices {
            shard: own,
            of,
            owners,
        } = &self.indices;
        let mut locked = locked(owners);
        loop {
            let value = random();
            if value != 0 && shard(value, *of) == *own && !locked.contains_key(&value) {
                locked.insert(value, self.id);
                return Index {
                    value,
                    owners: owners.clone(),
                };
            }
        }
    }
}

impl Index {
    pub(crate) fn value(&self) -> u32 {
        self.value
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        locked(&self.owners).remove(&self.value);
    }
}

impl fmt::Debug for Indices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Indices").finish_non_exhaustive()
    }
}

impl fmt::Debug for IndexSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexSource").finish_non_exhaustive()
    }
}

fn locked(owners: &Mutex<Owners>) -> MutexGuard<'_, Owners> {
    owners.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without random numbers from the kernel there are no keys either: boringtun ends there, too.
fn random() -> u32 {
    getrandom::u32().expect("the kernel has random numbers")
}

/// What is drawn at random needs no hash. No other number is ever kept, whatever is looked for.
#[derive(Default)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u32(&mut self, value: u32) {
        // The highest bits tell entries of one place apart.
        self.0 = u64::from(value) << 32 | u64::from(value);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_in_use_is_not_drawn_again_until_it_is_free() {
        let indices = Indices::new(0, 1);
        let (one, other) = (indices.source(PeerId(1)), indices.source(PeerId(2)));
        let drawn = |source: &IndexSource, values: &[u32]| {
            let mut values = values.iter().copied();
            source.draw_from(|| values.next().expect("one of them is free"))
        };
        let first = drawn(&one, &[7]);
        let second = drawn(&other, &[7, 0, 7, 9]);
        assert_eq!((first.value(), second.value()), (7, 9));
        let owners = [7, 9, 8].map(|index| indices.owner(index));
        assert_eq!(owners, [Some(PeerId(1)), Some(PeerId(2)), None]);
        drop(first);
        assert_eq!(indices.owner(7), None);
        assert_eq!(drawn(&other, &[7]).value(), 7);
    }

    #[test]
    fn every_shard_draws_those_that_come_to_it() {
        for of in 1..=16 {
            for own in 0..of {
                let source = Indices::new(own, of).source(PeerId(5));
                let drawn: Vec<_> = (0..20).map(|_| source.draw()).collect();
                assert!(drawn.iter().all(|index| shard(index.value(), of) == own));
            }
        }
    }

    #[test]
    fn every_bit_is_drawn() {
        let source = Indices::new(0, 1).source(PeerId(0));
        let drawn: Vec<_> = (0..1000).map(|_| source.draw()).collect();
        let (all, common) = drawn.iter().fold((0, u32::MAX), |(all, common), index| {
            (all | index.value(), common & index.value())
        });
        assert_eq!((all, common), (u32::MAX, 0));
    }
}
