//! How a device is split, so that several threads carry its packets without waiting for each other.
//!
//! Every shard has the same tables (who has which id, which addresses belong to whom), and the state of its own peers
//! alone. Which those are follows from a peer's id, which also stands in every message that the peer sends
//! ([`PeerId`]): the kernel can tell whose datagram it is.

use crate::id::PeerId;

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

    /// Returns which shard serves a peer. One byte of the id decides, for that is what the kernel reads.
    pub fn of(self, id: PeerId) -> usize {
        id.0 as usize % 256 % self.of
    }

    /// Returns which other shard serves a peer.
    pub fn other(self, id: PeerId) -> Option<usize> {
        Some(self.of(id)).filter(|shard| *shard != self.shard)
    }

    /// Returns the lowest free id of the shard that serves fewest peers; ids have 24 bits.
    pub(super) fn free_id<T>(self, taken: &[Option<T>]) -> Option<PeerId> {
        let id = |index: usize| u32::try_from(index).ok().filter(|id| *id < 1 << 24).map(PeerId);
        let mut peers = [0_usize; Self::MAX];
        for (index, _) in taken.iter().enumerate().filter(|(_, holder)| holder.is_some()) {
            peers[self.of(id(index)?)] += 1;
        }
        let fewest = (0..self.of).min_by_key(|shard| peers[*shard])?;
        let is_free = |index: &usize| taken.get(*index).is_none_or(Option::is_none);
        (0..)
            .filter(is_free)
            .map_while(id)
            .find(|id| self.of(*id) == fewest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(place: ShardIndex, taken: &mut Vec<Option<()>>) -> u32 {
        let PeerId(id) = place.free_id(taken).unwrap();
        let index = id as usize;
        taken.resize(taken.len().max(index + 1), None);
        taken[index] = Some(());
        id
    }

    #[test]
    fn the_whole_takes_the_lowest_free_id() {
        let mut taken = vec![Some(()), None, Some(())];
        let ids: Vec<u32> = (0..3).map(|_| add(ShardIndex::WHOLE, &mut taken)).collect();
        assert_eq!(ids, [1, 3, 4]);
        assert_eq!(ShardIndex::WHOLE.other(PeerId(77)), None);
    }

    #[test]
    fn peers_are_spread_evenly_whatever_was_removed() {
        for of in 1..=ShardIndex::MAX {
            let place = ShardIndex::all(of).last().unwrap();
            let mut taken = Vec::new();
            for _ in 0..1000 {
                add(place, &mut taken);
            }
            // All of the first shard go; as many come.
            let first: Vec<usize> = (0..taken.len())
                .filter(|index| place.of(PeerId(*index as u32)) == 0)
                .collect();
            for index in &first {
                taken[*index] = None;
            }
            for _ in &first {
                add(place, &mut taken);
            }
            let mut peers = vec![0; of];
            for (index, _) in taken.iter().enumerate().filter(|(_, holder)| holder.is_some()) {
                peers[place.of(PeerId(index as u32))] += 1;
            }
            assert!(
                peers.iter().max().unwrap() - peers.iter().min().unwrap() <= 1,
                "{peers:?}"
            );
        }
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
    fn there_is_no_id_beyond_24_bits() {
        let taken = vec![Some(()); 1 << 24];
        assert_eq!(ShardIndex::WHOLE.free_id(&taken), None);
    }
}
