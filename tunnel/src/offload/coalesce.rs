//! Joins packets into super-packets, as the kernel's GRO does it.
//!
//! Packets of one flow are joined while nothing but the sequence number tells them apart from one packet cut in pieces:
//! the same addresses, ports, IP header fields, acknowledgement, window and options; no flag but ACK, and PSH on the
//! last; all payloads but the last of one size. Packets of one flow never overtake each other; a packet that cannot be
//! joined lets those of its flow go first, and one of no flow lets all go first.
//!
//! The checksum of each joined packet is verified: the super-packet gets one by which the kernel takes its contents for
//! granted, and a packet that was damaged before it entered the tunnel must not become a good one here.

use crate::offload::{
    headers::{Headers, Transport, word},
    segment::sequence,
    vnet::{Gso, LENGTH, Vnet},
};

/// Flows that are gathered at a time: more than take turns in one batch from the network.
const FLOWS: usize = 8;
/// No IP packet is longer.
const LONGEST: usize = 65_535;
/// What the kernel's GRO joins at most by number.
const MOST: u16 = 64;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// What may be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joins {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams (Linux 6.2).
    pub udp: bool,
}

/// Packets on their way to the interface.
#[derive(Debug)]
pub struct Coalescer {
    joins: Joins,
    /// In the order in which they were begun.
    open: Vec<Gathered>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    /// For packets that are written alone.
    single: Vec<u8>,
}

/// Packets of one flow, joined so far.
#[derive(Debug)]
struct Gathered {
    /// A place for the virtio-net header, then the packet.
    buffer: Vec<u8>,
    headers: Headers,
    /// Bytes of payload of the first.
    size: usize,
    count: u16,
    /// Nothing may follow.
    closed: bool,
    /// The IPv4 identification counts up with the packets, as a cut super-packet's does.
    counts: bool,
}

impl Coalescer {
    /// Makes one that has gathered nothing yet.
    pub fn new(joins: Joins) -> Self {
        Self {
            joins,
            open: Vec::with_capacity(FLOWS),
            spare: Vec::with_capacity(FLOWS),
            single: Vec::new(),
        }
    }

    /// Takes a packet. What cannot wait is written: whole, with its virtio-net header.
    pub fn push(&mut self, packet: &[u8], write: &mut impl FnMut(&[u8])) {
        let Some(headers) = Headers::read(packet) else {
            self.flush(write);
            return self.write_alone(packet, write);
        };
        let place = self
            .open
            .iter()
            .position(|open| open.is_same_flow(packet, &headers));
        if let Some(place) = place {
            if self.open[place].takes(packet, &headers) {
                return self.open[place].append(packet);
            }
            let gathered = self.open.remove(place);
            self.finish(gathered, write);
        }
        if !self.begins(packet, &headers) {
            return self.write_alone(packet, write);
        }
        if self.open.len() == FLOWS {
            let oldest = self.open.remove(0);
            self.finish(oldest, write);
        }
        let mut buffer = self
            .spare
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(LENGTH + LONGEST));
        buffer.clear();
        buffer.extend_from_slice(&Vnet::PLAIN.write());
        buffer.extend_from_slice(packet);
        self.open.push(Gathered {
            buffer,
            headers,
            size: packet.len() - headers.total,
            count: 1,
            closed: is_last(packet, &headers),
            counts: true,
        });
    }

    /// Writes everything.
    pub fn flush(&mut self, write: &mut impl FnMut(&[u8])) {
        while !self.open.is_empty() {
            let oldest = self.open.remove(0);
            self.finish(oldest, write);
        }
    }

    fn finish(&mut self, mut gathered: Gathered, write: &mut impl FnMut(&[u8])) {
        if gathered.count > 1 {
            gathered.seal();
        }
        write(&gathered.buffer);
        self.spare.push(gathered.buffer);
    }

    fn write_alone(&mut self, packet: &[u8], write: &mut impl FnMut(&[u8])) {
        self.single.clear();
        self.single.extend_from_slice(&Vnet::PLAIN.write());
        self.single.extend_from_slice(packet);
        write(&self.single);
    }

    /// Returns whether others may be joined to this packet.
    fn begins(&self, packet: &[u8], headers: &Headers) -> bool {
        packet.len() > headers.total
            && match headers.transport {
                Transport::Tcp => self.joins.tcp && packet[headers.network + 13] & !PSH == ACK,
                // A datagram without a checksum stays without.
                Transport::Udp => self.joins.udp && word(packet, headers.network + 6) != 0,
            }
            && headers.is_checksum_right(packet)
    }
}

impl Gathered {
    fn packet(&self) -> &[u8] {
        &self.buffer[LENGTH..]
    }

    fn is_same_flow(&self, packet: &[u8], headers: &Headers) -> bool {
        let first = self.packet();
        let addresses = if headers.v6 { 8..40 } else { 12..20 };
        let ports = headers.network..headers.network + 4;
        self.headers.v6 == headers.v6
            && self.headers.transport == headers.transport
            && first[ports.clone()] == packet[ports]
            && first[addresses.clone()] == packet[addresses]
    }

    /// Returns whether a packet of this flow continues it. `headers` are the packet's.
    fn takes(&mut self, packet: &[u8], headers: &Headers) -> bool {
        let first = &self.buffer[LENGTH..];
        let payload = packet.len() - headers.total;
        if self.closed
            || *headers != self.headers
            || payload == 0
            || payload > self.size
            || first.len() + payload > LONGEST
            || self.count == MOST
        {
            return false;
        }
        let mut counts = self.counts;
        let same_network = if headers.v6 {
            // Traffic class and flow label; hop limit.
            first[..4] == packet[..4] && first[7] == packet[7]
        } else {
            let (id, here) = (word(first, 4) as u16, word(packet, 4) as u16);
            let counted = here == id.wrapping_add(self.count);
            // Where nothing may be fragmented, the identification says nothing (RFC 6864): kernels join what does not
            // count up as well, if it stays the same.
            let whole = first[6] & 0x40 != 0;
            let constant = whole && here == id && (self.count == 1 || !self.counts);
            counts = counted && self.counts;
            first[1] == packet[1] && first[6..9] == packet[6..9] && (counts || constant)
        };
        let at = headers.network;
        let same_transport = match headers.transport {
            Transport::Udp => word(packet, at + 6) != 0,
            Transport::Tcp => {
                let joined = (first.len() - headers.total) as u32;
                sequence(packet, at) == sequence(first, at).wrapping_add(joined)
                    // Acknowledgement and length; flags; window; urgent pointer and options.
                    && first[at + 8..at + 13] == packet[at + 8..at + 13]
                    && packet[at + 13] & !PSH == ACK
                    && first[at + 14..at + 16] == packet[at + 14..at + 16]
                    && first[at + 18..headers.total] == packet[at + 18..headers.total]
            }
        };
        let takes = same_network && same_transport && headers.is_checksum_right(packet);
        if takes {
            self.counts = counts;
        }
        takes
    }

    fn append(&mut self, packet: &[u8]) {
        let payload = &packet[self.headers.total..];
        self.buffer.extend_from_slice(payload);
        self.count += 1;
        if is_last(packet, &self.headers) {
            self.closed = true;
            let flags = LENGTH + self.headers.network + 13;
            self.buffer[flags] |= PSH;
        }
        self.closed |= payload.len() < self.size;
    }

    /// Makes the gathered packets one super-packet.
    fn seal(&mut self) {
        let headers = self.headers;
        let packet = &mut self.buffer[LENGTH..];
        let length = packet.len();
        headers.set_length(packet, length);
        let offset = headers.checksum_offset();
        let sum = headers.pseudo_sum(packet, length - headers.network);
        let at = headers.network + offset;
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let vnet = Vnet {
            gso: match (headers.transport, headers.v6) {
                (Transport::Tcp, false) => Gso::Tcp4,
                (Transport::Tcp, true) => Gso::Tcp6,
                (Transport::Udp, _) => Gso::Udp,
            },
            size: self.size as u16,
            checksum: Some((headers.network as u16, offset as u16)),
            headers: headers.total as u16,
        };
        self.buffer[..LENGTH].copy_from_slice(&vnet.write());
    }
}

/// Returns whether a packet ends its batch: its sender pushes.
fn is_last(packet: &[u8], headers: &Headers) -> bool {
    headers.transport == Transport::Tcp && packet[headers.network + 13] & PSH != 0
}
