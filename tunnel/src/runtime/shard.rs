//! What one thread carries: the packets of the peers of one shard, from the kernel to the kernel.

use std::{io, time::Instant};

use crate::{
    device::{Device, PADDING},
    offload::{
        segment::{ROOM, SegmentError, Segments},
        vnet::{self, Vnet},
    },
    path::Path,
    runtime::{
        mailbox::{Item, Mail, Mailbox},
        shard_io::{Queue, ShardIo},
    },
    tun::Tun,
    udp::{self, Arrival},
};

/// How many packets one source may bring before the others have their turn.
const BUDGET: usize = 256;
/// The largest packet or datagram there is.
const LARGEST: usize = 65_535;

/// A shard of a device with its side of the kernel.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) device: Device,
    pub(super) io: ShardIo,
    buffer: Vec<u8>,
    mail: Mail,
}

impl Shard {
    pub(super) fn new(device: Device, tun: Tun, queue: Queue) -> Self {
        Self {
            device,
            io: ShardIo::new(tun, queue),
            buffer: vec![0; vnet::LENGTH + LARGEST + ROOM.max(PADDING)],
            mail: Mail::default(),
        }
    }

    /// Sends what was gathered for the network, and does not count what could not be sent. Peers are not written to any more from addresses that turned out to be
    /// gone.
    pub(super) fn flush_network(&mut self, now: Instant) {
        self.io.flush_network();
        let gone = self.io.take_gone();
        if !gone.is_empty() {
            self.device.handle_lost(now, &|path| gone.has(path), &mut self.io);
            self.io.flush_network();
        }
        let Self { device, io, .. } = self;
        // What is for peers of other shards, the first thread sends at times.
        io.unsent
            .retain(|peer, bytes| !device.handle_unsent(now, *peer, *bytes));
    }

    /// Takes packets from the interface until it is empty or the network has to have its turn; returns `true` when more
    /// wait.
    pub(super) fn read_tun(&mut self, now: Instant, mailboxes: &[Mailbox]) -> bool {
        let header = self.io.tun.offloads().header();
        let mut left = BUDGET;
        while left > 0 {
            let length = match self.io.tun.read(&mut self.buffer[..header + LARGEST]) {
                Ok(Some(length)) => length,
                Ok(None) => return false,
                Err(error) => {
                    // Down or gone: inspection finds out which.
                    tracing::debug!(%error, "cannot read from the interface");
                    return false;
                }
            };
            let packet = self.buffer.get(header..length).unwrap_or_default();
            if let Some(other) = self.device.is_elsewhere(packet) {
                left -= 1;
                self.post(mailboxes, other, Item::Packet, 0..length);
                continue;
            }
            let count = carry(&mut self.device, &mut self.io, now, &mut self.buffer, length);
            left = left.saturating_sub(count);
        }
        true
    }

    /// Takes datagrams from a socket until it is empty or the interface has to have its turn.
    pub(super) fn read_network(&mut self, now: Instant, which: usize, mailboxes: &[Mailbox]) {
        let mut left = BUDGET;
        while left > 0 {
            left -= 1;
            let Some(socket) = self.io.sockets().nth(which) else {
                return;
            };
            match udp::receive(socket, &mut self.buffer) {
                Ok(arrival) => {
                    left = left.saturating_sub(self.take(now, arrival, mailboxes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error of an earlier send, reported here; the next call goes on.
                Err(error) => tracing::trace!(%error, "cannot receive"),
            }
        }
    }

    /// Takes what is in the buffer, and returns how many datagrams those are.
    fn take(&mut self, now: Instant, arrival: Arrival, mailboxes: &[Mailbox]) -> usize {
        let Arrival {
            source,
            length,
            segment,
            ecn,
            local,
            interface,
        } = arrival;
        let source = Path {
            local,
            interface,
            ..Path::from(source)
        };
        let size = segment.unwrap_or(length).max(1);
        for start in (0..length).step_by(size) {
            let datagram = start..length.min(start + size);
            let bytes = &mut self.buffer[datagram.clone()];
            let elsewhere = self.device.handle_datagram(now, source, ecn, bytes, &mut self.io);
            if let Some((shard, to)) = elsewhere {
                self.post(mailboxes, shard, Item::Datagram { to, source, ecn }, datagram);
            }
        }
        length.div_ceil(size)
    }

    /// Takes what other shards handed over. Whose a packet is may have changed since: it goes on to the shard that serves
    /// that peer.
    pub(super) fn take_mail(&mut self, now: Instant, mailbox: &Mailbox, mailboxes: &[Mailbox]) {
        mailbox.clear();
        mailbox.take(&mut self.mail);
        let header = self.io.tun.offloads().header();
        for (item, bytes, length) in self.mail.each() {
            match item {
                Item::Packet => {
                    let packet = bytes.get(header..length).unwrap_or_default();
                    if let Some(other) = self.device.is_elsewhere(packet) {
                        let taken = hand_over(mailboxes, other, item, &bytes[..length]);
                        self.io.lost.handed_over += u64::from(!taken);
                    } else {
                        carry(&mut self.device, &mut self.io, now, bytes, length);
                    }
                }
                Item::Datagram { to, source, ecn } => {
                    let datagram = &mut bytes[..length];
                    self.device
                        .handle_admitted(now, source, ecn, to, datagram, &mut self.io);
                }
            }
        }
        self.mail.clear();
    }

    fn post(&mut self, mailboxes: &[Mailbox], shard: usize, item: Item, place: std::ops::Range<usize>) {
        let taken = hand_over(mailboxes, shard, item, &self.buffer[place]);
        self.io.lost.handed_over += u64::from(!taken);
    }
}

/// Returns whether there was room.
fn hand_over(mailboxes: &[Mailbox], shard: usize, item: Item, bytes: &[u8]) -> bool {
    mailboxes
        .get(shard)
        .is_some_and(|mailbox| mailbox.push(item, bytes))
}

/// Cuts what came from the interface, and returns how many packets those are. There are [`ROOM`] more bytes behind it.
fn carry(device: &mut Device, io: &mut ShardIo, now: Instant, buffer: &mut [u8], length: usize) -> usize {
    let offloads = io.tun.offloads();
    let vnet = match buffer.first_chunk() {
        Some(header) if offloads.vnet => Vnet::read(header),
        _ => Ok(Vnet::PLAIN),
    };
    let header = offloads.header();
    let Some(packet) = buffer.get_mut(header..) else {
        device.handle_malformed();
        return 1;
    };
    let segments = vnet
        .map_err(|_| SegmentError)
        .and_then(|vnet| Segments::new(&vnet, packet, length.saturating_sub(header)));
    let Ok(mut segments) = segments else {
        device.handle_malformed();
        return 1;
    };
    let mut count = 0;
    while let Some((packet, length)) = segments.next_packet() {
        device.handle_packet(now, packet, length, io);
        count += 1;
    }
    count.max(1)
}
