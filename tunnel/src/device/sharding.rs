//! How a device is split, so that several threads carry its packets without waiting for each other.
//!
//! Every shard has the same tables (who has which id, which addresses belong to whom), and the state of its own peers
//! alone. Which those are follows from a peer's id, and from the receiver index in every message that the peer sends but
//! for initiations ([`crate::index`]): the kernel can tell where a datagram belongs.

use std::collections::BTreeSet;

use crate::{
    id::{Addressee, PeerId},
    index::{self, Indices},
};

/// Which shard of how many this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardIndex {
    shard: usize,
    of: usize,
}

impl ShardIndex {
    /// The only one.
    pub const WHOLE: Self = Self { shard: 0, of: 1 };

    /// Returns all shards of a device that is split in so many, at most [`Self::MAX`].
    pub fn all(of: usize) -> impl Iterator<Item = Self> {
        let of = of.clamp(1, Self::MAX);
        (0..of).map(move |shard| Self { shard, of })
    }

    /// More would gain little: the kernel's own work for a packet stays on its side.
    pub const MAX: usize = 16;

    /// Returns the number of this one among all.
    pub fn shard(self) -> usize {
        self.shard
    }

    /// Returns how many there are.
    pub(super) fn count(self) -> usize {
        self.of
    }

    /// Returns which shard serves a peer.
    pub fn of(self, id: PeerId) -> usize {
        id.0 as usize % self.of
    }

    /// Returns which other shard serves a peer.
    pub fn other(self, id: PeerId) -> Option<usize> {
        Some(self.of(id)).filter(|shard| *shard != self.shard)
    }

    /// Returns which other shard serves whom a datagram is for.
    pub(super) fn elsewhere(self, to: Addressee) -> Option<usize> {
        let shard = match to {
            Addressee::Peer(id) => self.of(id),
            Addressee::Index(index) => index::shard(index, self.of),
        };
        Some(shard).filter(|shard| *shard != self.shard)
    }

    /// Returns the receiver indices of its peers, of which none is in use.
    pub(super) fn indices(self) -> Indices {
        Indices::new(self.shard, self.of)
    }
}

/// Ids have 24 bits.
const END: u32 = 1 << 24;

/// Which ids are taken, by the shard that serves them. Taking and giving back cost the same however many there are.
#[derive(Debug)]
pub(super) struct Ids {
    of: usize,
    shards: [ShardIds; ShardIndex::MAX],
}

#[derive(Clone, Debug, Default)]
struct ShardIds {
    taken: usize,
    /// Below `next`, and free again.
    freed: BTreeSet<u32>,
    /// From here on none was ever taken.
    next: u32,
}

impl Ids {
    pub(super) fn new(index: ShardIndex) -> Self {
        Self {
            of: index.of,
            shards: Default::default(),
        }
    }

    /// Takes the lowest free id of the shard that serves fewest peers.
    pub(super) fn take(&mut self, index: ShardIndex) -> Option<PeerId> {
        let mut by_peers: Vec<usize> = (0..self.of).collect();
        by_peers.sort_by_key(|shard| self.shards[*shard].taken);
        let (shard, id) = by_peers
            .into_iter()
            .find_map(|shard| Some((shard, self.shards[shard].lowest(index, shard)?)))?;
        let ids = &mut self.shards[shard];
        if !ids.freed.remove(&id) {
            ids.next = id + 1;
        }
        ids.taken += 1;
        Some(PeerId(id))
    }

    /// Gives back an id that was taken.
    pub(super) fn give_back(&mut self, index: ShardIndex, id: PeerId) {
        let ids = &mut self.shards[index.of(id)];
        ids.taken -= 1;
        ids.freed.insert(id.0);
    }
}

impl ShardIds {
    fn lowest(&self, index: ShardIndex, shard: usize) -> Option<u32> {
        let freed = self.freed.first().copied();
        // One of a few in a row is of every shard.
        freed.or_else(|| (self.next..END).find(|id| index.of(PeerId(*id)) == shard))
    }
}

#[cfg(test)]
mod tests {
    use nix::time::{ClockId, clock_gettime};

    use super::*;

    #[test]
    fn the_whole_takes_the_lowest_free_id() {
        let mut ids = Ids::new(ShardIndex::WHOLE);
        let mut take = |freed: Option<u32>| {
            if let Some(id) = freed {
                ids.give_back(ShardIndex::WHOLE, PeerId(id));
            }
            ids.take(ShardIndex::WHOLE).unwrap().0
        };
        let taken = [None, None, None, Some(1), None, Some(0)].map(&mut take);
        assert_eq!(taken, [0, 1, 2, 1, 3, 0]);
        assert_eq!(ShardIndex::WHOLE.other(PeerId(77)), None);
    }

    #[test]
    fn peers_are_spread_evenly_whatever_was_removed() {
        for of in 1..=ShardIndex::MAX {
            let place = ShardIndex::all(of).last().unwrap();
            let mut ids = Ids::new(place);
            let mut taken: BTreeSet<u32> = (0..1000).map(|_| ids.take(place).unwrap().0).collect();
            assert_eq!(taken.len(), 1000);
            // All of the first shard go; as many come.
            let first: Vec<u32> = taken
                .iter()
                .copied()
                .filter(|id| place.of(PeerId(*id)) == 0)
                .collect();
            for id in &first {
                taken.remove(id);
                ids.give_back(place, PeerId(*id));
            }
            for _ in &first {
                assert!(taken.insert(ids.take(place).unwrap().0), "an id is taken twice");
            }
            let mut peers = vec![0; of];
            for id in &taken {
                peers[place.of(PeerId(*id))] += 1;
            }
            assert!(
                peers.iter().max().unwrap() - peers.iter().min().unwrap() <= 1,
                "{peers:?}"
            );
        }
    }

    #[test]
    fn an_id_costs_the_same_however_many_are_taken() {
        let place = ShardIndex::all(ShardIndex::MAX).next().unwrap();
        let mut ids = Ids::new(place);
        let used = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().tv_sec();
        let before = used();
        for _ in 0..300_000 {
            ids.take(place).unwrap();
        }
        // Looking through all of them each time takes minutes of a processor.
        assert!(used() - before < 10);
    }

    #[test]
    fn every_peer_is_served_by_one_shard_alone() {
        let places: Vec<ShardIndex> = ShardIndex::all(5).collect();
        for id in (0..2000).map(PeerId) {
            let own = places.iter().filter(|place| place.other(id).is_none());
            assert_eq!(
                own.map(|place| place.shard()).collect::<Vec<_>>(),
                [places[0].of(id)]
            );
        }
    }

    #[test]
    fn there_is_no_id_beyond_24_bits_but_one_that_is_free_again() {
        let place = ShardIndex::all(3).next().unwrap();
        let mut ids = Ids::new(place);
        let first = ids.take(place).unwrap();
        for shard in &mut ids.shards {
            shard.next = END;
        }
        assert_eq!(ids.take(place), None);
        ids.give_back(place, first);
        assert_eq!(ids.take(place), Some(first));
    }
}
