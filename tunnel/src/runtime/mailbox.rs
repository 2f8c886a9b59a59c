//! What shards hand over to each other: packets and datagrams that came to a thread which does not serve their peer.
//!
//! That is the exception: the kernel keeps a flow on the queue of the interface by which it is answered, and gives
//! datagrams to the socket of their peer's shard. What is handed over nevertheless, the first packets of a flow and flows of one
//! direction, is copied once, a super-packet as a whole. No sender waits: what finds no room is dropped, as the kernel does
//! with a full queue.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::{id::Addressee, offload::segment::ROOM, path::Path};

/// Bytes that may wait for one shard: sixteen super-packets.
const MOST_BYTES: usize = 1 << 20;
/// Packets and datagrams that may wait for one shard: as many as in the interface's queue.
const MOST: usize = 1000;

/// What waits in a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// What was read from the interface, with its virtio-net header, if there are such.
    Packet,
    /// An admitted datagram.
    Datagram { to: Addressee, source: Path, ecn: u8 },
}

/// The items that wait for a shard, with their bytes.
#[derive(Debug, Default)]
pub(super) struct Mail {
    items: Vec<(Item, usize)>,
    bytes: Vec<u8>,
}

impl Mail {
    /// Returns every item in order; behind the bytes of each there is [`ROOM`] more.
    pub(super) fn each(&mut self) -> impl Iterator<Item = (Item, &mut [u8], usize)> {
        let mut rest = &mut self.bytes[..];
        self.items.iter().map(move |(item, length)| {
            let (bytes, after) = std::mem::take(&mut rest).split_at_mut(length + ROOM);
            rest = after;
            (*item, bytes, *length)
        })
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.bytes.clear();
    }

    fn push(&mut self, item: Item, bytes: &[u8]) -> bool {
        let length = bytes.len();
        if self.items.len() == MOST || self.bytes.len() + length + ROOM > MOST_BYTES {
            return false;
        }
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len() + ROOM, 0);
        self.items.push((item, length));
        true
    }
}

/// What other shards hand over to one shard.
#[derive(Debug)]
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    /// Another shard wants the routes to be asked.
    unasked: AtomicBool,
    /// Readable when there is something to do for the shard.
    notifier: EventFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            mail: Mutex::default(),
            unasked: AtomicBool::new(false),
            notifier: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// Hands over one item; returns `false` when there is no room.
    pub(super) fn push(&self, item: Item, bytes: &[u8]) -> bool {
        let mut mail = self.mail();
        let first = mail.items.is_empty();
        let taken = mail.push(item, bytes);
        drop(mail);
        if taken && first {
            self.wake();
        }
        taken
    }

    /// Takes everything; `mail` is empty, and its memory is used for what comes next.
    pub(super) fn take(&self, mail: &mut Mail) {
        std::mem::swap(&mut *self.mail(), mail);
    }

    /// Lets the first thread, whose mailbox this is, know that the routes have to be asked for a peer.
    pub(super) fn report_unasked(&self) {
        self.unasked.store(true, Ordering::Release);
        self.wake();
    }

    /// Returns whether that was reported since the last call.
    pub(super) fn take_unasked(&self) -> bool {
        self.unasked.swap(false, Ordering::AcqRel)
    }

    /// Wakes the shard's thread.
    pub(super) fn wake(&self) {
        // It fails only when the counter is at its end: then it is readable.
        let _ = self.notifier.write(1);
    }

    /// Forgets that it was woken.
    pub(super) fn clear(&self) {
        let _ = self.notifier.read();
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifier.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(mailbox: &Mailbox, mail: &mut Mail) -> Vec<(Item, Vec<u8>)> {
        mailbox.take(mail);
        let items = mail
            .each()
            .map(|(item, bytes, length)| {
                assert_eq!(bytes.len(), length + ROOM);
                (item, bytes[..length].to_vec())
            })
            .collect();
        mail.clear();
        items
    }

    #[test]
    fn what_is_handed_over_arrives_in_order_and_wakes_once() {
        let (mailbox, mut mail) = (Mailbox::new().unwrap(), Mail::default());
        let datagram = Item::Datagram {
            to: Addressee::Index(7),
            source: std::net::SocketAddr::from(([192, 0, 2, 1], 5)).into(),
            ecn: 3,
        };
        for round in 0..3 {
            assert!(mailbox.notifier.read().is_err(), "silent when there is nothing");
            assert!(mailbox.push(Item::Packet, &[round; 100]));
            assert!(mailbox.push(datagram, b""));
            assert!(mailbox.push(Item::Packet, b"x"));
            assert_eq!(mailbox.notifier.read(), Ok(1));
            let want = [
                (Item::Packet, vec![round; 100]),
                (datagram, vec![]),
                (Item::Packet, vec![b'x']),
            ];
            assert_eq!(taken(&mailbox, &mut mail), want);
        }
    }

    #[test]
    fn what_waits_is_bounded_and_room_comes_again() {
        let (mailbox, mut mail) = (Mailbox::new().unwrap(), Mail::default());
        for (size, most) in [(65_535, 15..=16), (0, MOST..=MOST)] {
            let packet = vec![1; size];
            let count = (0..2 * MOST)
                .filter(|_| mailbox.push(Item::Packet, &packet))
                .count();
            assert!(most.contains(&count), "{count} of {size}");
            assert_eq!(taken(&mailbox, &mut mail).len(), count);
        }
        assert!(mail.bytes.capacity() <= 2 * MOST_BYTES);
    }
}
