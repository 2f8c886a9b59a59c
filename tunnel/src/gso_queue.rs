//! Datagrams on their way out, gathered so that one call sends many.
//!
//! The kernel cuts a long buffer into datagrams of one size (`UDP_SEGMENT`), so datagrams of one size for one receiver
//! are written one behind the other; a shorter one may be the last. There is one batch at a time: a datagram that does
//! not fit lets the batch go first, so nothing overtakes anything.

use crate::{noise::SCRATCH, path::Path};

/// What one call may send: the payload of the longest UDP datagram over IPv4.
const LONGEST: usize = 65_507;
/// The number of datagrams that every kernel with `UDP_SEGMENT` cuts (`UDP_MAX_SEGMENTS`).
const MOST: usize = 64;

/// Datagrams of one size, the last perhaps shorter, for one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Who is to receive them, and from where.
    pub to: Path,
    /// The traffic class of their outer headers.
    pub tos: u8,
    /// The datagrams, one behind the other.
    pub datagrams: &'a [u8],
    /// The length of each but the last.
    pub size: usize,
}

impl<'a> Batch<'a> {
    /// Returns the datagrams one by one.
    pub fn each(&self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        self.datagrams.chunks(self.size.max(1))
    }
}

/// Gathers datagrams.
#[derive(Debug)]
pub struct GsoQueue {
    buffer: Vec<u8>,
    gathered: Option<Gathered>,
    used: usize,
    most: usize,
}

#[derive(Clone, Copy, Debug)]
struct Gathered {
    to: Path,
    tos: u8,
    size: usize,
    count: usize,
    /// A shorter one came: it is the last.
    closed: bool,
}

impl Default for GsoQueue {
    fn default() -> Self {
        Self {
            buffer: vec![0; LONGEST + SCRATCH],
            gathered: None,
            used: 0,
            most: MOST,
        }
    }
}

impl GsoQueue {
    /// Makes one that sends every datagram at once.
    pub fn unbatched() -> Self {
        Self {
            most: 1,
            ..Self::default()
        }
    }

    /// Returns where the next datagram is to be written: at least [`SCRATCH`] bytes.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..]
    }

    /// Takes the first `length` bytes of the room for a datagram.
    pub fn commit(&mut self, to: Path, tos: u8, length: usize, send: &mut impl FnMut(Batch<'_>)) {
        if let Some(gathered) = &mut self.gathered
            && gathered.takes(to, tos, length, self.used)
        {
            gathered.count += 1;
            gathered.closed = length < gathered.size || gathered.count == self.most;
            self.used += length;
            return;
        }
        let start = self.used;
        self.flush(send);
        self.buffer.copy_within(start..start + length, 0);
        self.used = length;
        self.gathered = Some(Gathered {
            to,
            tos,
            size: length,
            count: 1,
            closed: self.most == 1,
        });
        if self.most == 1 {
            self.flush(send);
        }
    }

    /// Lets everything go.
    pub fn flush(&mut self, send: &mut impl FnMut(Batch<'_>)) {
        if let Some(Gathered { to, tos, size, .. }) = self.gathered.take() {
            send(Batch {
                to,
                tos,
                datagrams: &self.buffer[..self.used],
                size,
            });
        }
        self.used = 0;
    }
}

impl Gathered {
    fn takes(&self, to: Path, tos: u8, length: usize, used: usize) -> bool {
        !self.closed && self.to == to && self.tos == tos && length <= self.size && used + length <= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// Sends datagrams of these lengths, numbered, and returns the lengths in each batch.
    fn batches(mut outbox: GsoQueue, datagrams: &[(u8, u8, usize)]) -> Vec<Vec<usize>> {
        let (mut sent, mut bytes) = (Vec::new(), Vec::new());
        let mut send = |batch: Batch<'_>| {
            sent.push(batch.each().map(<[u8]>::len).collect::<Vec<_>>());
            bytes.extend(batch.each().map(|datagram| {
                assert!(
                    datagram.iter().all(|byte| *byte == datagram[0]),
                    "pieces of two datagrams"
                );
                (datagram[0], batch.to.remote.port(), batch.tos)
            }));
        };
        for (number, (to, tos, length)) in (0u8..).zip(datagrams) {
            outbox.room()[..*length].fill(number);
            let to = SocketAddr::from(([192, 0, 2, 1], (*to).into()));
            outbox.commit(to.into(), *tos, *length, &mut send);
        }
        outbox.flush(&mut send);
        outbox.flush(&mut send);
        let want: Vec<(u8, u16, u8)> = (0u8..)
            .zip(datagrams)
            .map(|(number, (to, tos, _))| (number, (*to).into(), *tos))
            .collect();
        assert_eq!(bytes, want);
        sent
    }

    #[test]
    fn datagrams_of_one_size_for_one_receiver_go_together() {
        let datagrams = [(1, 0, 1452); 100];
        let sent = batches(GsoQueue::default(), &datagrams);
        assert_eq!(sent, [vec![1452; 45], vec![1452; 45], vec![1452; 10]]);
        let small = [(1, 0, 96); 100];
        assert_eq!(batches(GsoQueue::default(), &small), [vec![96; 64], vec![96; 36]]);
    }

    #[test]
    fn a_shorter_one_is_the_last_and_a_longer_one_the_first_of_the_next() {
        let datagrams = [(1, 0, 500), (1, 0, 500), (1, 0, 96), (1, 0, 96), (1, 0, 500)];
        let sent = batches(GsoQueue::default(), &datagrams);
        assert_eq!(sent, [vec![500, 500, 96], vec![96], vec![500]]);
    }

    #[test]
    fn another_receiver_or_congestion_mark_begins_another_batch() {
        let datagrams = [(1, 0, 500), (2, 0, 500), (2, 1, 500), (2, 1, 500)];
        let sent = batches(GsoQueue::default(), &datagrams);
        assert_eq!(sent, [vec![500], vec![500], vec![500, 500]]);
    }

    #[test]
    fn unbatched_each_goes_alone() {
        assert_eq!(batches(GsoQueue::unbatched(), &[(1, 0, 500); 3]), [[500]; 3]);
    }

    #[test]
    fn the_longest_datagram_has_room_behind_a_full_batch() {
        let datagrams = [[(1, 0, 1452); 44].as_slice(), &[(1, 0, 65_507)]].concat();
        assert_eq!(
            batches(GsoQueue::default(), &datagrams),
            [vec![1452; 44], vec![65_507]]
        );
    }
}
