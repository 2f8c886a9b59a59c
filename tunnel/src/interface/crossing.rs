//! From shard to shard: packets and datagrams that came to a thread which does not serve their peer.
//!
//! That is the exception: the kernel keeps a flow on the queue of the interface by which it is answered, and gives
//! datagrams to the socket of their peer's shard. What crosses nevertheless, the first packets of a flow and flows of one
//! direction, is copied once, a super-packet as a whole. No sender waits: what finds no room is dropped, as the kernel does
//! with a full queue.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::{device::Path, offload::segment::ROOM, peer::PeerId};

/// Bytes that may wait for one shard: sixteen super-packets.
const MOST_BYTES: usize = 1 << 20;
/// Packets and datagrams that may wait for one shard: as many as in the interface's queue.
const MOST: usize = 1000;

/// What one thing in a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What was read from the interface, with its virtio-net header, if there are such.
    Packet,
    /// An admitted datagram.
    Datagram {
        /// For or from whom.
        id: PeerId,
        source: Path,
        ecn: u8,
    },
}

/// What waits for a shard.
#[derive(Debug, Default)]
pub(super) struct Load {
    things: Vec<(Kind, usize)>,
    bytes: Vec<u8>,
}

impl Load {
    /// Everything in order; behind the bytes of each there is [`ROOM`] more.
    pub(super) fn each(&mut self) -> impl Iterator<Item = (Kind, &mut [u8], usize)> {
        let mut rest = &mut self.bytes[..];
        self.things.iter().map(move |(kind, length)| {
            let (bytes, after) = std::mem::take(&mut rest).split_at_mut(length + ROOM);
            rest = after;
            (*kind, bytes, *length)
        })
    }

    pub(super) fn clear(&mut self) {
        self.things.clear();
        self.bytes.clear();
    }

    fn push(&mut self, kind: Kind, bytes: &[u8]) -> bool {
        let length = bytes.len();
        if self.things.len() == MOST || self.bytes.len() + length + ROOM > MOST_BYTES {
            return false;
        }
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len() + ROOM, 0);
        self.things.push((kind, length));
        true
    }
}

/// What crosses to one shard.
#[derive(Debug)]
pub(super) struct Crossing {
    load: Mutex<Load>,
    /// Readable when there is something to do for the shard.
    bell: EventFd,
}

impl Crossing {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            load: Mutex::default(),
            bell: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// Hands over one thing; `false` when there is no room.
    pub(super) fn push(&self, kind: Kind, bytes: &[u8]) -> bool {
        let mut load = self.load();
        let first = load.things.is_empty();
        let taken = load.push(kind, bytes);
        drop(load);
        if taken && first {
            self.ring();
        }
        taken
    }

    /// Takes everything; `load` is empty, and its memory is used for what comes next.
    pub(super) fn take(&self, load: &mut Load) {
        std::mem::swap(&mut *self.load(), load);
    }

    /// Makes the shard look.
    pub(super) fn ring(&self) {
        // It fails only when the counter is at its end: then it is readable.
        let _ = self.bell.write(1);
    }

    /// The shard looks.
    pub(super) fn hush(&self) {
        let _ = self.bell.read();
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Crossing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(crossing: &Crossing, load: &mut Load) -> Vec<(Kind, Vec<u8>)> {
        crossing.take(load);
        let things = load
            .each()
            .map(|(kind, bytes, length)| {
                assert_eq!(bytes.len(), length + ROOM);
                (kind, bytes[..length].to_vec())
            })
            .collect();
        load.clear();
        things
    }

    #[test]
    fn what_crosses_arrives_in_order_and_rings_once() {
        let (crossing, mut load) = (Crossing::new().unwrap(), Load::default());
        let datagram = Kind::Datagram {
            id: PeerId(7),
            source: std::net::SocketAddr::from(([192, 0, 2, 1], 5)).into(),
            ecn: 3,
        };
        for round in 0..3 {
            assert!(crossing.bell.read().is_err(), "silent when there is nothing");
            assert!(crossing.push(Kind::Packet, &[round; 100]));
            assert!(crossing.push(datagram, b""));
            assert!(crossing.push(Kind::Packet, b"x"));
            assert_eq!(crossing.bell.read(), Ok(1));
            let want = [
                (Kind::Packet, vec![round; 100]),
                (datagram, vec![]),
                (Kind::Packet, vec![b'x']),
            ];
            assert_eq!(taken(&crossing, &mut load), want);
        }
    }

    #[test]
    fn what_waits_is_bounded_and_room_comes_again() {
        let (crossing, mut load) = (Crossing::new().unwrap(), Load::default());
        for (size, most) in [(65_535, 15..=16), (0, MOST..=MOST)] {
            let packet = vec![1; size];
            let count = (0..2 * MOST)
                .filter(|_| crossing.push(Kind::Packet, &packet))
                .count();
            assert!(most.contains(&count), "{count} of {size}");
            assert_eq!(taken(&crossing, &mut load).len(), count);
        }
        assert!(load.bytes.capacity() <= 2 * MOST_BYTES);
    }
}
